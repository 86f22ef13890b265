"""A model on its way, against plain loops, against each estimator alone, and against itself."""

import dataclasses
import zlib

import numpy as np
import pytest

import gcref
from gcref import shards
from gcref.clustering.low_rank import GradientClustering
from gcref.data import Augmentation, Dataset
from gcref.estimators import SVRG, MiniBatch, Stratified
from gcref.studies import trajectory as module
from gcref.studies.image_data import ImageData, build, prepare
from gcref.studies.image_run import ImageRun
from gcref.studies.trajectory import Trajectory, evaluate

RUN = ImageRun(
    dataset="digits", model="mlp", hidden=(8,), n_examples=64, n_test_examples=20, batch_size=6, iterations=30,
    measure_every=10, refresh_every=20, gc_iterations=3, learning_rate=0.05, momentum=0.9, weight_decay=0.01,
    milestones=(7, 15), seed=3, precision="float64",
)  # fmt: skip
NORMED = dataclasses.replace(RUN, model="cnn", hidden=ImageRun.hidden, norm="batch", width=1, precision="float32")


def begin(run):
    data = prepare(run)
    return Trajectory(run, build(run, data), data)


def go(trajectory, n_steps):
    for _ in range(n_steps):
        trajectory.step()
    return trajectory


def rng_of(seed, purpose, *keys):
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *keys)))


def assert_same(first, second):
    """Two dicts of arrays are alike to the last bit."""
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert (array.dtype, array.shape, array.tobytes()) == (
            second[name].dtype, second[name].shape, second[name].tobytes(),
        ), name  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ training


def plain_gradient(weights, x, y, smoothing=0.0):
    """The mean gradient of a perceptron, layer by layer; the bias is a weight's last row."""
    a, inputs = x.reshape(len(x), -1).astype(np.float64), []
    for i, w in enumerate(weights):
        inputs.append(a)
        z = a @ w[:-1] + w[-1]
        a = np.maximum(z, 0) if i < len(weights) - 1 else z
    p = np.exp(a - a.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    n_classes = p.shape[1]
    dz = (p - (smoothing / n_classes + (1 - smoothing) * np.eye(n_classes)[y])) / len(x)
    gradients = []
    for w, a in zip(weights[::-1], inputs[::-1], strict=True):
        gradients.insert(0, np.vstack([a.T @ dz, dz.sum(axis=0)]))
        dz = (dz @ w[:-1].T) * (a > 0)
    return gradients


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.2}, {"momentum": 0.0, "weight_decay": 0.0}])
def test_steps_are_those_of_a_plain_loop(changes):
    run = dataclasses.replace(RUN, **changes)
    trajectory = begin(run)
    train = trajectory.data.train
    weights = [w.copy() for w in trajectory.net.weights]
    velocity = [np.zeros_like(w) for w in weights]
    for iteration in range(25):  # two whole epochs of 10 batches, in each of which 4 examples are left over
        epoch, place = divmod(iteration, 10)
        batch = rng_of(3, "batches", epoch).permutation(64)[6 * place : 6 * place + 6]
        rate = 0.05 * (1 if iteration < 7 else 0.1 if iteration < 15 else 0.01)
        for w, v, g in zip(
            weights, velocity, plain_gradient(weights, train.x[batch], train.y[batch], run.label_smoothing), strict=True
        ):
            v[...] = run.momentum * v + g + run.weight_decay * w
            w -= rate * v
        trajectory.step()
        assert trajectory.iteration == iteration + 1
        for found, expected in zip(trajectory.net.weights, weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_the_learning_rate_of_a_point_is_that_of_its_next_step():
    trajectory = begin(dataclasses.replace(RUN, milestones=(10, 20), methods=("sgb",)))
    for _ in range(3):
        trajectory.measure()
        go(trajectory, 10)
    np.testing.assert_allclose(trajectory.arrays["learning_rate"], [0.05, 0.005, 0.0005], rtol=1e-15)


@pytest.mark.parametrize("n", [12, 17])
def test_an_epoch_shows_no_example_twice(n):
    trajectory = begin(dataclasses.replace(RUN, n_examples=n))
    per_epoch = n // 6
    for epoch in range(3):
        seen = []
        for _ in range(per_epoch):
            seen += trajectory._batch().tolist()
            trajectory.iteration += 1
        assert len(set(seen)) == 6 * per_epoch, epoch


# -------------------------------------------------------------------------------------------------------- augmentation


def pictures(augment, **changes):
    """A trajectory on pictures that can be cropped."""
    rng = np.random.default_rng(5)
    train, test = (Dataset(rng.standard_normal((n, 6, 7, 3)).astype(np.float32), np.arange(n) % 4) for n in (40, 12))
    run = dataclasses.replace(RUN, dataset="cifar10", n_examples=0, n_test_examples=0, augment=augment, **changes)
    data = ImageData(train, test, 4, "")
    return Trajectory(run, build(run, data), data)


def test_augmented_steps_are_those_of_a_plain_loop():
    trajectory = pictures(True)
    net, train = trajectory.net.copy(), trajectory.data.train
    velocity = 0.0
    for iteration in range(14):
        epoch, place = divmod(iteration, 6)
        batch = rng_of(3, "batches", epoch).permutation(40)[6 * place : 6 * place + 6]
        x = Augmentation(padding=4, flip=True)(train.x[batch], rng_of(3, "augmentation", iteration))
        velocity = 0.9 * velocity + net.gradient(x, train.y[batch])[1] + 0.01 * net.theta
        net.theta -= (0.05 if iteration < 7 else 0.005) * velocity
        trajectory.step()
        np.testing.assert_allclose(trajectory.net.theta, net.theta, rtol=1e-12, atol=1e-14)


def test_augmentation_leaves_the_batches_as_they_are(monkeypatch):
    seen = {}
    for augment in (False, True):
        trajectory = pictures(augment)
        gradient, seen[augment] = trajectory.net.gradient, []

        def spy(x, y, *arguments, gradient=gradient, found=seen[augment], **options):
            found.append((x, y))
            return gradient(x, y, *arguments, **options)

        monkeypatch.setattr(trajectory.net, "gradient", spy)
        go(trajectory, 20)
    for (x, y), (augmented_x, augmented_y) in zip(seen[False], seen[True], strict=True):
        np.testing.assert_array_equal(y, augmented_y)
        assert x.shape == augmented_x.shape
        assert (x != augmented_x).any()


@pytest.mark.parametrize("method", ["closed-form", "monte-carlo"])
def test_augmentation_is_never_measured(method):
    series = []
    for augment in (False, True):
        # Without a step that moves θ, whatever augmentation changed would show.
        trajectory = pictures(augment, learning_rate=0.0, method=method, n_estimates=3)
        trajectory.refresh()
        for _ in range(2):
            trajectory.measure()
            go(trajectory, 10)
        series.append(trajectory.arrays)
    assert_same(*series)


# ----------------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("method", ["closed-form", "monte-carlo"])
@pytest.mark.parametrize("run", [RUN, NORMED], ids=["mlp", "batch norm"])
def test_measuring_and_refreshing_change_nothing(run, method):
    run = dataclasses.replace(run, method=method, n_estimates=2)
    plain, measured = begin(run), begin(run)
    measured.refresh()
    for _ in range(3):
        before = measured.net.theta.tobytes(), measured.net.running.tobytes()
        measured.measure()
        measured.refresh()
        assert (measured.net.theta.tobytes(), measured.net.running.tobytes()) == before
        for trajectory in (plain, measured):
            go(trajectory, 4)
        assert plain.net.theta.tobytes() == measured.net.theta.tobytes()
        assert plain.net.running.tobytes() == measured.net.running.tobytes()
        assert plain.optimizer.velocity.tobytes() == measured.optimizer.velocity.tobytes()


def test_training_moves_the_running_statistics_and_measuring_uses_them():
    trajectory = begin(NORMED)
    start = trajectory.net.running.copy()
    go(trajectory, 5)
    assert (trajectory.net.running != start).all()
    trajectory.refresh()
    trajectory.measure()
    loss = trajectory.arrays["train_loss"][-1]
    trajectory.net.running[:] = start
    assert abs(evaluate(trajectory.net, trajectory.data.train)[0] - loss) > 1e-3


def test_series_are_those_of_each_estimator_alone():
    """SVRG's snapshot and GC's clusters are made at 0 before measuring, and later after it."""
    trajectory = begin(RUN)
    train = trajectory.data.train
    gc = GradientClustering(n_clusters=6, n_iter=3, seed=3, warm_start=True)
    alone = {"sgb": MiniBatch(6), "sg2b": MiniBatch(12), "svrg": SVRG(6), "gc": Stratified(gc)}
    trajectory.refresh()
    for estimator in alone.values():
        estimator.prepare(trajectory.net.copy(), train)
    for i, iteration in enumerate((0, 10, 20, 30)):
        trajectory.measure()
        for name, estimator in alone.items():
            found = gcref.variance(estimator, trajectory.net, train)
            if name == "svrg" and iteration == 0:  # at its own snapshot, exactly
                assert found.average == trajectory.arrays["variance/svrg"][0] == 0
            for kind, number in (("variance", found.average), ("normalized_variance", found.normalized)):
                np.testing.assert_allclose(trajectory.arrays[f"{kind}/{name}"][i], number, rtol=1e-9, atol=1e-25)
            np.testing.assert_allclose(trajectory.arrays["noise_scale"][i], found.noise_scale, rtol=1e-10)
        if iteration == 20:
            trajectory.refresh()
            for estimator in alone.values():
                estimator.prepare(trajectory.net.copy(), train)
        np.testing.assert_array_equal(trajectory.estimators()["gc"].labels_, alone["gc"].labels_)
        go(trajectory, 10)
    assert trajectory.arrays["iteration"].tolist() == [0, 10, 20, 30]


def test_losses_and_accuracies_are_those_of_all_examples():
    trajectory = begin(RUN)
    go(trajectory, 10)
    trajectory.refresh()
    trajectory.measure()
    for split, data in (("train", trajectory.data.train), ("test", trajectory.data.test)):
        logits = trajectory.net.logits(data.x)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss = -log_p[np.arange(len(data)), data.y].mean()
        np.testing.assert_allclose(trajectory.arrays[f"{split}_loss"], [loss], rtol=1e-12)
        assert trajectory.arrays[f"{split}_accuracy"][0] == (logits.argmax(axis=1) == data.y).mean()


def measured(run, n_points=3):
    trajectory = begin(run)
    trajectory.refresh()
    for _ in range(n_points):
        trajectory.measure()
        go(trajectory, 10)
    return trajectory.arrays


@pytest.mark.parametrize("methods", [("sgb",), ("svrg",), ("gc", "sg2b"), ("gc", "svrg", "sg2b", "sgb")])
def test_a_series_is_the_same_whatever_else_is_measured(methods):
    everything, some = measured(RUN), measured(dataclasses.replace(RUN, methods=methods))
    assert set(some) < set(everything) or len(methods) == 4
    for name, series in some.items():
        if "variance" in name or name == "noise_scale":  # summed in another order
            np.testing.assert_allclose(series, everything[name], rtol=1e-10, atol=1e-25)
        else:
            np.testing.assert_array_equal(series, everything[name])


def test_by_monte_carlo_to_the_last_bit():
    run = dataclasses.replace(RUN, method="monte-carlo", n_estimates=4)
    everything, some = measured(run), measured(dataclasses.replace(run, methods=("gc", "sgb")))
    assert_same(some, {name: everything[name] for name in some})


def test_monte_carlo_is_the_librarys_with_a_stream_a_method_and_point():
    run = dataclasses.replace(RUN, method="monte-carlo", n_estimates=5, learning_rate=0.0)
    found = measured(run)
    assert_same(found, measured(run))
    trajectory = begin(run)
    trajectory.refresh()
    for name, estimator in trajectory.estimators().items():
        for i in range(3):
            expected = gcref.variance(
                estimator, trajectory.net, trajectory.data.train, "monte-carlo", 5,
                rng_of(3, f"estimates of {name}", 10 * i),
            )  # fmt: skip
            assert found[f"variance/{name}"][i] == expected.average
            assert found[f"normalized_variance/{name}"][i] == expected.normalized
            assert found[f"standard_error/{name}"][i] == expected.standard_error
            assert found["noise_scale"][i] == expected.noise_scale
        if name != "svrg":  # at its snapshot nothing is drawn that differs
            assert len(set(found[f"variance/{name}"])) == 3


def test_standard_errors_are_of_monte_carlo_alone():
    assert not any("standard_error" in name for name in begin(RUN).arrays)
    names = set(begin(dataclasses.replace(RUN, method="monte-carlo")).arrays)
    assert {name for name in names if "error" in name} == {f"standard_error/{m}" for m in RUN.methods}


def test_traces_that_are_kept_and_traces_computed_anew_give_the_same_clusters(monkeypatch):
    kept, anew = begin(NORMED), begin(NORMED)
    kept.refresh()
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    anew.refresh()
    assert_same(kept.state(), anew.state())
    assert not isinstance(module.Traces(anew.net, anew.data.train).kept(), list)


def test_evaluating_in_pieces(monkeypatch):
    trajectory = begin(RUN)
    whole = evaluate(trajectory.net, trajectory.data.train)
    monkeypatch.setattr(module, "chunk_size", lambda *_: 7)
    pieces = evaluate(trajectory.net, trajectory.data.train)
    assert pieces[1] == whole[1]
    np.testing.assert_allclose(pieces[0], whole[0], rtol=1e-14)


# ---------------------------------------------------------------------------------------------------------- divergence


def test_a_loss_that_is_not_finite_ends_it():
    trajectory = begin(RUN)
    trajectory.refresh()
    trajectory.measure()
    before = dict(trajectory.arrays)
    trajectory.net.theta[5] = np.nan
    trajectory.measure()
    assert trajectory.diverged
    assert_same(trajectory.arrays, before)


def test_gradients_that_overflow_where_the_loss_does_not_end_it():
    trajectory = begin(dataclasses.replace(RUN, hidden=(8, 8), precision="float64", methods=("sgb", "svrg")))
    trajectory.refresh()
    trajectory.net.theta *= 1e90
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isfinite(evaluate(trajectory.net, trajectory.data.train)[0])
        trajectory.measure()
    assert trajectory.diverged
    assert all(len(series) == 0 for series in trajectory.arrays.values())


def test_gradients_that_cannot_be_clustered_end_it():
    trajectory = begin(RUN)
    trajectory.refresh()
    trajectory.net.theta[5] = np.nan
    trajectory.refresh()
    assert trajectory.diverged


# ------------------------------------------------------------------------------------------------------------- keeping


def through_a_file(state, folder):
    """What a run that was killed finds again."""
    shards.write_shard(folder, "checkpoint", {}, state, lasting=False)
    return shards.read_shard(folder, "checkpoint")[1]


def on(trajectory):
    """Go on as a study does, to the end."""
    while trajectory.iteration < trajectory.run.iterations:
        trajectory.step()
        if trajectory.iteration in trajectory.run.points:
            trajectory.measure()
            if trajectory.run.refreshes(trajectory.iteration):
                trajectory.refresh()
    return trajectory.state() | trajectory.snapshot()


CASES = {
    "mlp": RUN,
    "batch norm": NORMED,
    "monte-carlo": dataclasses.replace(RUN, method="monte-carlo", n_estimates=2, precision="float32"),
    "no momentum": dataclasses.replace(RUN, momentum=0.0),
    **{name: dataclasses.replace(RUN, methods=(name,)) for name in ("sgb", "svrg", "gc")},
}


@pytest.mark.parametrize("n_steps", [0, 7, 20])
@pytest.mark.parametrize("run", CASES.values(), ids=CASES)
def test_a_restored_trajectory_goes_on_to_the_same_bits(run, n_steps, tmp_path):
    first = begin(run)
    first.refresh()
    first.measure()
    while first.iteration < n_steps:
        first.step()
        if first.iteration in run.points:
            first.measure()
            if run.refreshes(first.iteration):
                first.refresh()
    state = through_a_file(first.state(), tmp_path)
    expected = on(first)
    second = begin(run)
    second.restore(state)
    assert second.iteration == n_steps
    assert_same(through_a_file(second.state(), tmp_path), state)
    assert_same(on(second), expected)
    # And back again, from where the other one ended.
    first.restore(through_a_file(state, tmp_path))
    assert_same(on(first), expected)


def test_a_state_and_a_snapshot_hold_what_numbers_depend_on():
    trajectory = begin(NORMED)
    trajectory.refresh()
    go(trajectory, 3)
    names = {"theta", "running", "velocity", "iteration", "svrg/theta", "svrg/gradient", "svrg/running"}
    names |= {f"clustering/gc/{name}" for name in ("n_iter", "labels", "last_labels")}
    names |= {f"clustering/gc/{i}/{side}" for i in range(len(trajectory.net.blocks)) for side in "cd"}
    names |= {f"series/{name}" for name in trajectory.arrays}
    assert set(trajectory.state()) == names
    snapshot = trajectory.snapshot()
    assert set(snapshot) == {"theta", "running", "svrg_theta", "svrg_running", "labels/gc"}
    kept = {name: array.copy() for name, array in snapshot.items()}
    go(trajectory, 3)
    trajectory.refresh()
    assert_same(snapshot, kept)
    assert set(begin(dataclasses.replace(RUN, methods=("sgb",))).snapshot()) == {"theta"}
