"""The fused trajectory against the engine: same batches, same start, every number stored."""

import itertools

import numpy as np
import pytest

import gcref
from gcref.engine.layers import Linear
from gcref.engine.losses import Logistic, SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.studies import random_features as study
from gcref.studies import teacher
from gcref.studies.grid import Sweep


def tiny(**changes):
    """12 hidden features, N = 24, 40 steps."""
    return Sweep(
        **{
            "learning_rate": (0.3,),
            "overparametrization": (0.5,),
            "input_dim": (6,),
            "teacher_hidden": (7,),
            "seed": (3,),
            "batch_size": 4,
            "student_hidden": 12,
            "weight_decay": 0.01,
            "iterations": 40,
            "measure_every": 10,
            "refresh_every": 20,
            "snapshots": "all",
        }
        | changes
    )


class Engine:
    """The same trajectory by Network, SGD, variance and the estimators."""

    def __init__(self, sweep, spec, features, targets):
        softmax = sweep.head == "softmax"
        loss = SoftmaxCrossEntropy() if softmax else Logistic()
        self.net = Network([Linear(sweep.student_hidden, 2 if softmax else 1)], loss)
        self.net.theta = study.initial_theta(sweep, spec).ravel()
        self.ds = gcref.data.Dataset(features[:, :-1], targets.astype(np.int64))
        self.sgd = gcref.SGD(spec.learning_rate, weight_decay=sweep.weight_decay)
        size = sweep.batch_size
        clustering = gcref.GradientClustering(size, warm_start=True, n_iter=sweep.gc_iterations, seed=spec.seed)
        self.estimators = {
            "sgb": gcref.MiniBatch(size),
            "sg2b": gcref.MiniBatch(2 * size),
            "svrg": gcref.SVRG(size),
            "gc": gcref.Stratified(clustering),
        }

    def train(self, batches):
        for batch in batches:
            _, gradient = self.net.gradient(self.ds.x[batch], self.ds.y[batch])
            self.sgd.step(self.net.theta, gradient)

    def prepare(self):
        for estimator in self.estimators.values():
            estimator.prepare(self.net, self.ds)

    def measure(self):
        """The numbers of one measuring point, by their names in the file."""
        logits = self.net.logits(self.ds.x)
        predicted = logits.argmax(axis=1) if logits.shape[1] == 2 else logits[:, 0] > 0
        out = {
            "train_loss": self.net.losses(self.ds.x, self.ds.y).mean(),
            "train_accuracy": np.mean(predicted == self.ds.y),
        }
        for name, estimator in self.estimators.items():
            v = gcref.variance(estimator, self.net, self.ds)
            out[f"variance/{name}"], out[f"normalized_variance/{name}"] = v.average, v.normalized
            out["noise_scale"] = v.noise_scale
        return out


@pytest.mark.parametrize("head", ["softmax", "logistic"])
@pytest.mark.parametrize("student_init", ["unit", "uniform"])
@pytest.mark.parametrize("duplicates", [0.0, 0.5])
def test_every_number_is_the_engines(head, student_init, duplicates):
    sweep = tiny(head=head, student_init=student_init, duplicate_fraction=(duplicates,))
    ((spec, features, targets),) = study.datasets(sweep, sweep.specs())
    assert features.shape == (24, 13)
    attrs, arrays = study.run_trajectory(sweep, spec, features, targets)
    assert attrs["status"] == "complete"
    assert attrs["n_train"] == 24
    engine = Engine(sweep, spec, features, targets)
    batches = teacher.batch_order(spec.seed, 24, sweep.batch_size, sweep.iterations)
    for index, iteration in enumerate(range(0, 41, 10)):
        if iteration:
            engine.train(batches[iteration - 10 : iteration])
        else:
            engine.prepare()
        assert arrays["iteration"][index] == iteration
        for name, expected in engine.measure().items():
            np.testing.assert_allclose(arrays[name][index], expected, rtol=1e-9, atol=1e-15, err_msg=name)
        snapshot = f"snapshots/{iteration}/"
        np.testing.assert_allclose(arrays[snapshot + "theta"], engine.net.theta, rtol=1e-9, atol=1e-12)
        svrg_theta = engine.estimators["svrg"].theta_
        np.testing.assert_allclose(arrays[snapshot + "svrg_theta"], svrg_theta, rtol=1e-9, atol=1e-12)
        assert (arrays[snapshot + "labels/gc"] == engine.estimators["gc"].labels_).all()
        if iteration in (20,):
            engine.prepare()
    points = len(sweep.points)
    assert {len(a) for name, a in arrays.items() if not name.startswith("snapshots")} == {points}


def test_the_comparison_can_fail():
    sweep = tiny()
    ((spec, features, targets),) = study.datasets(sweep, sweep.specs())
    _, arrays = study.run_trajectory(sweep, spec, features, targets)
    engine = Engine(sweep, spec, features, targets)
    engine.prepare()
    other = engine.measure()
    engine.net.theta *= 1 + 1e-8
    wrong = engine.measure()
    assert arrays["variance/sgb"][0] == pytest.approx(other["variance/sgb"], rel=1e-12)
    assert arrays["variance/sgb"][0] != pytest.approx(wrong["variance/sgb"], rel=1e-9)


def test_snapshots_at_refreshes_and_at_the_end_are_those_of_all():
    sweep = tiny()
    ((spec, features, targets),) = study.datasets(sweep, sweep.specs())
    _, everything = study.run_trajectory(sweep, spec, features, targets)
    _, arrays = study.run_trajectory(tiny(snapshots="refresh"), spec, features, targets)
    kept = {name.split("/")[1] for name in arrays if name.startswith("snapshots")}
    assert kept == {"0", "20", "40"}
    assert all(np.array_equal(arrays[name], everything[name]) for name in arrays)
    # Those in force at 20 are those of 0; those at 40 were made at 20.
    assert np.array_equal(arrays["snapshots/20/svrg_theta"], arrays["snapshots/0/theta"])
    assert np.array_equal(arrays["snapshots/20/labels/gc"], arrays["snapshots/0/labels/gc"])
    assert np.array_equal(arrays["snapshots/40/svrg_theta"], arrays["snapshots/20/theta"])


@pytest.mark.parametrize(
    "methods", [("sgb",), ("gc",), ("svrg",), ("gc", "sgb"), ("svrg", "sg2b"), ("gc", "svrg", "sg2b", "sgb")]
)
def test_a_method_does_not_depend_on_the_others(methods):
    ((spec, features, targets),) = study.datasets(tiny(), tiny().specs())
    _, full = study.run_trajectory(tiny(), spec, features, targets)
    _, arrays = study.run_trajectory(tiny(methods=methods), spec, features, targets)
    measured = {name.split("/")[1] for name in arrays if "variance/" in name}
    assert measured == set(methods)
    assert all(np.array_equal(arrays[name], full[name]) for name in arrays)
    for name in ("svrg_theta", "labels/gc"):
        assert (f"snapshots/0/{name}" in arrays) == (name[:4].strip("_") in methods or name[7:] in methods)


# ------------------------------------------------------------------------------------------------ the data sets


def test_a_data_set_does_not_depend_on_the_grid():
    grid = tiny(
        learning_rate=(0.1, 0.3),
        overparametrization=(0.5, 1.0, 0.1),
        teacher_hidden=(7, 3),
        duplicate_fraction=(0.5, 0.0),
    )
    seen = 0
    for spec, features, targets in study.datasets(grid, grid.specs()):
        ((_, alone, labels),) = study.datasets(grid, [spec])
        assert features.tobytes() == alone.tobytes()
        assert targets.tobytes() == labels.tobytes()
        assert set(targets.tolist()) == {0, 1}
        seen += 1
    assert seen == len(grid.specs())


def test_duplicates_copy_inputs_and_labels_and_keep_the_originals():
    sweep = tiny(duplicate_fraction=(0.0, 0.5), student_init="unit")
    (plain, x, y), (doubled, xd, yd) = sorted(
        study.datasets(sweep, sweep.specs()), key=lambda item: item[0].duplicate_fraction
    )
    assert (plain.duplicate_fraction, doubled.duplicate_fraction) == (0.0, 0.5)
    rows = [*range(12), 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert np.array_equal(xd, x[rows])
    # Labels are those of all N points before any was replaced.
    assert np.array_equal(yd, y[rows])


def test_trajectories_of_a_grid_share_a_batch_order_whatever_the_rate():
    sweep = tiny(learning_rate=(1e-9, 2e-9))
    first, second = (study.run_trajectory(sweep, *item)[1] for item in study.datasets(sweep, sweep.specs()))
    np.testing.assert_allclose(first["train_loss"], second["train_loss"], rtol=1e-6)
    assert not np.array_equal(first["train_loss"], second["train_loss"])


# ---------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("head", ["softmax", "logistic"])
@pytest.mark.parametrize(
    # (1 − ηλ)^measure_every: 1e600 overflows a float by itself, the others after a while.
    ("rate", "decay", "every", "first_nan"),
    [(1e6, 1.0, 100, 1), (1e6, 1.0, 10, 6), (3e3, 1.0, 40, 3), (1e3, 0.03, 10, 21)],
)
def test_divergence_is_recorded_and_not_fatal(head, rate, decay, every, first_nan):
    sweep = tiny(
        head=head,
        learning_rate=(rate,),
        weight_decay=decay,
        iterations=400,
        measure_every=every,
        refresh_every=200,
    )
    ((spec, features, targets),) = study.datasets(sweep, sweep.specs())
    attrs, arrays = study.run_trajectory(sweep, spec, features, targets)
    assert attrs["status"] == "diverged"
    for name in ("train_loss", "variance/gc", "normalized_variance/svrg", "noise_scale"):
        finite = np.isfinite(arrays[name])
        assert finite[:first_nan].all()
        assert np.isnan(arrays[name][first_nan:]).all()
    rows = study.summary_rows(spec, len(targets), arrays, sweep.methods)
    assert np.isnan([row[9:] for row in rows]).all()
    thetas = [a for name, a in arrays.items() if name.endswith("theta")]
    assert np.isfinite(np.concatenate(thetas)).all()


# ------------------------------------------------------------------------------------------ units, costs, summary


def test_units_hold_every_trajectory_once_the_costliest_first():
    sweep = tiny(learning_rate=(0.1, 0.3), seed=(0, 1), input_dim=(6, 600), teacher_hidden=(7, 70))
    groups = study.units(sweep, sweep.specs())
    assert sorted(map(repr, itertools.chain(*groups))) == sorted(map(repr, sweep.specs()))
    assert [len({(s.seed, s.input_dim) for s in group}) for group in groups] == [1] * 4
    assert [group[0].input_dim for group in groups] == [600, 600, 6, 6]


def test_shared_work_is_paid_by_the_trajectory_that_runs_first():
    sweep = Sweep(learning_rate=(0.01, 0.1), overparametrization=(1.0,), seed=(0,), input_dim=(10000,))
    specs = sweep.specs()
    share = study.costs(sweep, specs)
    order = [spec for group in study.units(sweep, specs) for spec in study._in_order(sweep, group)]
    assert set(share) == set(specs)
    for small, large in zip(order[::2], order[1::2], strict=True):
        assert share[small] > share[large] > 0
    assert share[order[2]] > 2  # 10,000 teacher features, 10,000 inputs, 1,000 rows


def test_summary_is_mean_and_maximum_of_the_last_seventy_per_cent():
    sweep = tiny()
    spec = sweep.specs()[0]
    series = np.arange(51.0)
    arrays = {"iteration": np.arange(51)}
    for m in sweep.methods:
        arrays |= {f"variance/{m}": series, f"normalized_variance/{m}": series[::-1]}
    for row, method in zip(study.summary_rows(spec, 24, arrays, sweep.methods), sweep.methods, strict=True):
        assert row[:4] == (spec.id, method, 0.3, 0.5)
        assert row[4:9] == (24, 6, 7, 3, 0.0)
        # ⌈0.3·51⌉ = 16: points 16 to 50
        assert row[9:] == (33.0, 50.0, 17.0, 34.0)
