"""Whatever happens to an image run, its file is the same."""

import dataclasses
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

import gcref
from gcref import data, shards, store
from gcref.atomic import lock
from gcref.clustering.low_rank import GradientClustering
from gcref.data import Dataset
from gcref.estimators import SVRG, MiniBatch, Stratified
from gcref.studies import trajectory
from gcref.studies.image import run_image
from gcref.studies.image_data import build, prepare
from gcref.studies.image_run import ImageRun
from gcref.studies.trajectory import Trajectory
from gcref.validation.kills import differences, half_files

RUN = ImageRun(
    dataset="digits", model="mlp", hidden=(6,), n_examples=60, n_test_examples=20, batch_size=6, iterations=60,
    measure_every=15, refresh_every=30, gc_iterations=2, learning_rate=0.05, momentum=0.9, milestones=(20, 40),
    corrupt_fraction=0.1, duplicate_fraction=0.2, seed=1,
)  # fmt: skip
RUNS = {
    "mlp": RUN,
    "batch norm": dataclasses.replace(
        RUN, model="cnn", hidden=ImageRun.hidden, norm="batch", width=1, label_smoothing=0.1, snapshots="all"
    ),
    "monte-carlo": dataclasses.replace(RUN, method="monte-carlo", n_estimates=2, snapshots="none"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The file of a run that nobody disturbed, made when it is first asked for."""
    made = {}

    def file_of(run):
        if run not in made:
            made[run] = tmp_path_factory.mktemp("undisturbed") / "results.h5"
            assert run_image(run, made[run])
        return made[run]

    return file_of


def listing(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in folder.rglob("*")}


def raise_at(monkeypatch, owner, name, nth, error=KeyboardInterrupt):
    """Let the nth call of a function raise instead."""
    function, calls = getattr(owner, name), []

    def replaced(*arguments, **options):
        calls.append(name)
        if len(calls) == nth:
            raise error
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, replaced)
    return calls


def interrupt_at(iteration):
    """A progress callback that is a Ctrl-C."""

    def progress(done, share):
        if done == iteration:
            raise KeyboardInterrupt

    return progress


def check_part(path, whole):
    """A part is readable, says that it is one, and holds the first numbers of the whole."""
    assert half_files(path.parent) == []
    assert store.read_attrs(path)["complete"] == np.False_
    assert store.doubts(path) == ["holds an unfinished run (1 trajectories)"]
    attrs, series = store.read_trajectory(path)
    _, expected = store.read_trajectory(whole)
    assert attrs["status"] == "unfinished"
    n = len(series["iteration"])
    assert n > 0
    assert series.keys() == expected.keys()
    for name, numbers in series.items():
        assert numbers.tobytes() == expected[name][:n].tobytes(), name
    assert len(store.read_summary(path)) == 4
    return n


# ---------------------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize(
    ("name", "iteration"),
    [("mlp", 10), ("mlp", 15), ("mlp", 30), ("mlp", 60), ("batch norm", 50), ("monte-carlo", 20)],
)
def test_interrupted_and_continued(name, iteration, undisturbed, tmp_path):
    run = RUNS[name]
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(run, path, progress=interrupt_at(iteration))
    assert check_part(path, undisturbed(run)) == iteration // 15 + 1
    assert run_image(run, path)
    assert differences(undisturbed(run), path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["results.h5"]


PLACES = {
    "measuring the first time": (trajectory, "variances", 1),
    "measuring": (trajectory, "variances", 3),
    "refreshing": (Trajectory, "refresh", 2),
    "stepping": (Trajectory, "step", 29),
    "keeping a snapshot": (Trajectory, "snapshot", 2),
    "making the folder": (os, "replace", 1),
    "writing the trajectory": (shards, "write_shard", 9),
    "summing up": (shards, "root_digest", 1),
    "deleting the parts": (shards, "_discard", 1),
}
RARER = {
    "evaluating": (trajectory, "evaluate", 4),
    "refreshing the first time": (Trajectory, "refresh", 1),
    "clustering": (GradientClustering, "fit", 2),
    "keeping a state": (Trajectory, "state", 3),
    "merging": (shards, "merge", 1),
    # The folder, 3 snapshots, 5 checkpoints, the trajectory, the file, and the folder again.
    **{f"renaming, {n}": (os, "replace", n) for n in range(2, 13)},
}


@pytest.mark.parametrize(
    "place",
    [*PLACES.values(), *(pytest.param(place, marks=pytest.mark.slow) for place in RARER.values())],
    ids=[*PLACES, *RARER],
)
def test_interrupted_anywhere_and_continued(place, undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    undisturbed(RUN)
    with monkeypatch.context() as context:
        calls = raise_at(context, *place)
        with pytest.raises(KeyboardInterrupt):
            run_image(RUN, path)
        assert len(calls) >= place[2]
    if path.exists() and not store.read_attrs(path)["complete"]:
        check_part(path, undisturbed(RUN))
    run_image(RUN, path)
    assert differences(undisturbed(RUN), path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["results.h5"]


def test_an_interrupt_before_the_first_measurement_leaves_no_file(undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    with monkeypatch.context() as context:
        raise_at(context, trajectory, "variances", 1)
        with pytest.raises(KeyboardInterrupt):
            run_image(RUN, path)
    assert not path.exists()


def test_interrupted_again_and_again(undisturbed, tmp_path):
    path, seen = tmp_path / "results.h5", []
    for iteration in (10, 15, 20, 45, 50):
        with pytest.raises(KeyboardInterrupt):
            run_image(RUN, path, progress=interrupt_at(iteration))
        seen.append(check_part(path, undisturbed(RUN)))
    assert seen == [1, 2, 2, 4, 4]
    assert run_image(RUN, path)
    assert differences(undisturbed(RUN), path) == []


def test_a_second_interrupt_while_the_first_is_answered(undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    with monkeypatch.context() as context:
        raise_at(context, shards, "merge", 1)
        with pytest.raises(KeyboardInterrupt):
            run_image(RUN, path, progress=interrupt_at(20))
    assert not path.exists()
    assert run_image(RUN, path)
    assert differences(undisturbed(RUN), path) == []


def test_a_continued_run_does_not_begin_anew(tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(RUN, path, progress=interrupt_at(40))
    with h5py.File(path) as file:
        before = file["trajectories"][RUN.id].attrs["seconds"]
    steps = raise_at(monkeypatch, Trajectory, "step", None)
    measurements = raise_at(monkeypatch, Trajectory, "measure", None)
    calls = []
    assert run_image(RUN, path, progress=lambda *a: calls.append(a))
    assert (len(steps), len(measurements)) == (30, 2)  # from the measurement at 30
    assert [done for done, _ in calls] == [40, 45, 50, 60]
    assert calls[-1][1] == pytest.approx(1)
    with h5py.File(path) as file:
        assert file["trajectories"][RUN.id].attrs["seconds"] > before


def test_an_error_on_the_way_keeps_what_is_measured(undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    with monkeypatch.context() as context:
        raise_at(context, trajectory, "variances", 3, MemoryError)
        with pytest.raises(MemoryError):
            run_image(RUN, path)
    steps = raise_at(monkeypatch, Trajectory, "step", None)
    assert run_image(RUN, path)
    assert len(steps) == 45
    assert differences(undisturbed(RUN), path) == []


def test_a_part_whose_checkpoint_is_gone_begins_anew(undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(RUN, path, progress=interrupt_at(40))
    for shard in store.parts_of(path).iterdir():
        shard.unlink()
    store.parts_of(path).rmdir()
    assert run_image(RUN, path)
    assert differences(undisturbed(RUN), path) == []


# --------------------------------------------------------------------------------------------------------------- kills

KILL = """
import os, signal, sys
from pathlib import Path
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun

config, path, place, nth = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def at_iteration(done, share):
    if done == nth:
        kill()

replace, calls = os.replace, []

def replace_or_kill(*names):
    calls.append(names)
    if place == "before renaming" and len(calls) == nth:
        kill()
    replace(*names)
    if place == "after renaming" and len(calls) == nth:
        kill()

os.replace = replace_or_kill
run_image(ImageRun.from_json(config), path, progress=at_iteration if place == "at iteration" else None)
"""
posix = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")


def killed(run, path, place, nth):
    command = [sys.executable, "-c", KILL, run.to_json(), str(path), place, str(nth)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert half_files(path.parent) == []


@posix
def test_killed_twice_and_continued(undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    run = RUNS["batch norm"]
    killed(run, path, "at iteration", 20)
    killed(run, path, "at iteration", 50)
    assert not path.exists()
    steps = []
    assert run_image(run, path, progress=lambda *a: steps.append(a))
    assert steps[0][0] == 50
    assert differences(undisturbed(run), path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["results.h5"]


@posix
@pytest.mark.slow
@pytest.mark.parametrize("place", ["before renaming", "after renaming"])
def test_killed_at_every_rename_and_continued(place, undisturbed, tmp_path):
    for nth in range(1, 13):  # see RARER
        path = tmp_path / f"{nth}" / "results.h5"
        path.parent.mkdir()
        killed(RUN, path, place, nth)
        run_image(RUN, path)
        assert differences(undisturbed(RUN), path) == [], nth
        # What a kill leaves aside is a hidden file or folder, never one under a final name.
        assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["results.h5"], nth


@pytest.mark.parametrize(
    ("damage", "how"), [("checkpoint", "cut"), ("checkpoint", "empty"), ("snapshot", "cut"), ("snapshot", "gone")]
)
def test_damaged_parts_are_computed_again(damage, how, undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(RUN, path, progress=interrupt_at(40))
    shard = store.parts_of(path) / {"checkpoint": "checkpoint.h5", "snapshot": "snapshot-0.h5"}[damage]
    whole = shard.read_bytes()
    if how == "gone":
        shard.unlink()
    else:
        shard.write_bytes(whole[:-100] if how == "cut" else b"")
    assert run_image(RUN, path)
    assert differences(undisturbed(RUN), path) == []


# --------------------------------------------------------------------------------------------------- what is in the way


def test_a_finished_file_is_left_alone(undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    path.write_bytes(undisturbed(RUN).read_bytes())
    before = listing(tmp_path)
    raise_at(monkeypatch, data, "load", 1, AssertionError)  # not even the data are needed
    assert not run_image(RUN, path)
    assert listing(tmp_path) == before


def test_parts_that_a_kill_left_beside_a_finished_file_go(undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(RUN, path, progress=interrupt_at(40))
    path.write_bytes(undisturbed(RUN).read_bytes())
    assert not run_image(RUN, path)
    assert [p.name for p in tmp_path.iterdir()] == ["results.h5"]


def test_another_configuration_is_refused_and_nothing_touched(undisturbed, tmp_path):
    other = dataclasses.replace(RUN, learning_rate=0.5)
    path = tmp_path / "results.h5"
    path.write_bytes(undisturbed(RUN).read_bytes())
    before = listing(tmp_path)
    with pytest.raises(store.StoreError, match=r"another configuration \(learning_rate 0\.05 instead of 0\.5\)"):
        run_image(other, path)
    assert listing(tmp_path) == before


def test_a_checkpoint_of_another_configuration_is_refused_and_nothing_touched(undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(RUN, path, progress=interrupt_at(40))
    path.unlink()
    before = listing(tmp_path)
    with pytest.raises(store.StoreError, match="holds an unfinished run of another configuration"):
        run_image(dataclasses.replace(RUN, seed=2), path)
    assert listing(tmp_path) == before
    assert run_image(RUN, path)
    assert differences(undisturbed(RUN), path) == []


def test_overwriting_another_configuration(undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    path.write_bytes(undisturbed(RUNS["monte-carlo"]).read_bytes())
    assert run_image(RUN, path, overwrite=True)
    assert differences(undisturbed(RUN), path) == []


def test_overwriting_the_same_configuration_begins_anew(undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    path.write_bytes(undisturbed(RUN).read_bytes())
    steps = raise_at(monkeypatch, Trajectory, "step", None)
    assert run_image(RUN, path, overwrite=True)
    assert len(steps) == 60
    assert differences(undisturbed(RUN), path) == []


@pytest.mark.parametrize(
    ("there", "place"), [("mlp", (Trajectory, "step", 40)), ("monte-carlo", (shards, "root_digest", 1))]
)
def test_overwriting_never_loses_a_finished_file_to_a_part(there, place, undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    path.write_bytes(undisturbed(RUNS[there]).read_bytes())
    with monkeypatch.context() as context:
        raise_at(context, *place)
        with pytest.raises(KeyboardInterrupt):
            run_image(RUN, path, overwrite=True)
    assert path.read_bytes() == undisturbed(RUNS[there]).read_bytes()
    steps = raise_at(monkeypatch, Trajectory, "step", None)
    assert run_image(RUN, path, overwrite=True)
    assert len(steps) < 60
    assert differences(undisturbed(RUN), path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["results.h5"]


def test_two_runs_of_one_file(tmp_path):
    path = tmp_path / "results.h5"
    with lock(path):
        for overwrite in (False, True):
            with pytest.raises(store.StoreError, match="being written by another run"):
                run_image(RUN, path, overwrite=overwrite)
        assert [p.name for p in tmp_path.iterdir()] == [".results.h5.lock"]
    assert list(tmp_path.iterdir()) == []


def test_the_target_of_a_link_is_written(undisturbed, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.h5"
    link.symlink_to(tmp_path / "real" / "results.h5")
    assert run_image(RUN, link)
    assert link.is_symlink()
    assert differences(undisturbed(RUN), tmp_path / "real" / "results.h5") == []


# ----------------------------------------------------------------------------------------------------------- other data


@pytest.fixture
def changed(monkeypatch):
    """Let one pixel of the training set be another."""
    load = data.load

    def other(name, split, data_dir=None):
        found = load(name, split, data_dir)
        found.x[3, 4, 4, 0] += 0.25
        return found

    return lambda: monkeypatch.setattr(data, "load", other)


def test_a_checkpoint_of_other_data_is_refused_and_nothing_touched(changed, tmp_path):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(RUN, path, progress=interrupt_at(40))
    before = listing(tmp_path)
    changed()
    with pytest.raises(store.StoreError, match="was begun with other data of digits"):
        run_image(RUN, path)
    assert listing(tmp_path) == before


def test_the_files_digest_tells_data_apart(changed, undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    changed()
    assert run_image(RUN, path)
    found = differences(undisturbed(RUN), path)
    assert f"trajectories/{RUN.id}@data_digest" in found
    assert f"trajectories/{RUN.id}/train_loss" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"n_examples": 5000}, "has only 1438"), ({"batch_size": 31}, "N=60 training examples, fewer than the 62")],
)
def test_what_does_not_fit_the_data_leaves_nothing(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_image(dataclasses.replace(RUN, **changes), tmp_path / "results.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_fit_the_images_leaves_nothing(tmp_path, monkeypatch):
    small = Dataset(np.random.default_rng(0).random((80, 3, 3, 1), np.float32), np.arange(80) % 4)
    monkeypatch.setattr(data, "load", lambda *_: small)
    with pytest.raises(ValueError, match=r"in_shape\[0\] is 3"):
        run_image(dataclasses.replace(RUN, model="cnn", hidden=ImageRun.hidden, width=1), tmp_path / "results.h5")
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- divergence

WILD = dataclasses.replace(RUN, learning_rate=1e6, milestones=())


def test_a_diverged_run_ends_as_one(tmp_path):
    path = tmp_path / "results.h5"
    assert run_image(WILD, path)
    attrs, series = store.read_trajectory(path)
    assert attrs["status"] == "diverged"
    assert 1 <= len(series["iteration"]) < 5
    assert all(np.isfinite(numbers).all() for numbers in series.values())
    assert len({len(numbers) for numbers in series.values()}) == 1
    assert store.read_attrs(path)["complete"]
    assert store.doubts(path) == []
    assert len(store.read_summary(path)) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["results.h5"]
    before = listing(tmp_path)
    assert not run_image(WILD, path)
    assert listing(tmp_path) == before


def test_a_diverging_run_interrupted_and_continued(undisturbed, tmp_path):
    path = tmp_path / "results.h5"
    with pytest.raises(KeyboardInterrupt):
        run_image(WILD, path, progress=interrupt_at(10))
    assert run_image(WILD, path)
    assert differences(undisturbed(WILD), path) == []


# At the first of these rates it is the loss that overflows first, at the second the norms of the gradients that are
# clustered; the variance, of which float32 keeps the range, does not before them.
@pytest.mark.parametrize(("rate", "n_points"), [(200.0, 3), (300.0, 3), (500.0, 3)])
def test_whatever_overflows_first_ends_a_run_and_no_number_of_it_is_kept(rate, n_points, tmp_path):
    path = tmp_path / "results.h5"
    run = dataclasses.replace(
        WILD, model="resnet8", hidden=ImageRun.hidden, width=2, learning_rate=rate, weight_decay=0.0, iterations=4,
        measure_every=1, refresh_every=1, n_examples=24, gc_iterations=1,
    )  # fmt: skip
    assert run_image(run, path)
    attrs, series = store.read_trajectory(path)
    assert attrs["status"] == "diverged"
    assert series["iteration"].tolist() == list(range(n_points))
    assert all(np.isfinite(numbers).all() for numbers in series.values())


# ------------------------------------------------------------------------------------------------------------- contents


@pytest.mark.parametrize("name", RUNS)
def test_what_a_file_holds(name, undisturbed):
    run, path = RUNS[name], undisturbed(RUNS[name])
    root = store.read_attrs(path)
    assert ImageRun.from_json(root["config"]) == run
    assert store.read_config(path)["schema"] == "image/1"
    assert root["complete"]
    attrs, series = store.read_trajectory(path, run.id)
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        if field.name != "schema":
            assert attrs[field.name] == (",".join(map(str, value)) if isinstance(value, tuple) else value)
    net = build(run, prepare(run))
    assert (attrs["n_train"], attrs["n_test"], attrs["n_classes"]) == (60, 20, 10)
    assert attrs["n_parameters"] == net.n_parameters
    assert attrs["status"] == "complete"
    assert attrs["data_digest"] == prepare(run).digest
    assert series["iteration"].tolist() == [0, 15, 30, 45, 60]
    assert series["iteration"].dtype == np.int64
    np.testing.assert_allclose(series["learning_rate"], [0.05, 0.05, 0.005, 0.0005, 0.0005], rtol=1e-12)
    kinds = ["variance", "normalized_variance"] + ["standard_error"] * (name == "monte-carlo")
    plain = {
        "iteration", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "noise_scale",
    }  # fmt: skip
    assert set(series) == plain | {f"{kind}/{m}" for kind in kinds for m in ("sgb", "sg2b", "svrg", "gc")}
    with h5py.File(path) as file:
        snapshots = file["trajectories"][run.id].get("snapshots", {})
        expected = {"mlp": [0, 30, 60], "batch norm": [0, 15, 30, 45, 60], "monte-carlo": []}[name]
        assert sorted(map(int, snapshots)) == expected


def test_the_summary_is_of_the_last_seventy_percent(undisturbed):
    summary = store.read_summary(undisturbed(RUN))
    attrs, series = store.read_trajectory(undisturbed(RUN))
    assert summary["method"].tolist() == [b"sgb", b"sg2b", b"svrg", b"gc"]
    for row in summary:
        for kind in ("variance", "normalized_variance"):
            tail = series[f"{kind}/{row['method'].decode()}"][2:]  # of five numbers the first 1.5, rounded up, go
            assert row[f"{kind}_mean70"] == tail.mean()
            assert row[f"{kind}_max70"] == tail.max()
        assert row["trajectory"].decode() == RUN.id
        assert row["overparametrization"] == attrs["n_parameters"] / 60
        assert (row["learning_rate"], row["n_train"], row["seed"], row["duplicate_fraction"]) == (0.05, 60, 1, 0.2)


def test_a_snapshot_is_enough_to_measure_again(undisturbed):
    run = RUNS["batch norm"]
    _, series = store.read_trajectory(undisturbed(run))
    dataset = prepare(run)
    net, reference = build(run, dataset), build(run, dataset)
    with h5py.File(undisturbed(run)) as file:
        for i, iteration in enumerate((0, 15, 30, 45, 60)):
            kept = file["trajectories"][run.id]["snapshots"][str(iteration)]
            net.theta, net.running[:] = kept["theta"][()], kept["running"][()]
            reference.theta, reference.running[:] = kept["svrg_theta"][()], kept["svrg_running"][()]
            # At 0 the snapshot is made before measuring, at 30 after it.
            made_at = {0: 0, 15: 0, 30: 0, 45: 30, 60: 30}[iteration]
            assert kept["svrg_theta"][()].tobytes() == file[f"{kept.parent.name}/{made_at}/theta"][()].tobytes()
            alone = {
                "sgb": MiniBatch(6), "sg2b": MiniBatch(12), "gc": Stratified(kept["labels/gc"][()]),
                "svrg": SVRG(6).prepare(reference, dataset.train),
            }  # fmt: skip
            for name, estimator in alone.items():
                found = gcref.variance(estimator, net, dataset.train)
                np.testing.assert_allclose(series[f"variance/{name}"][i], found.average, rtol=1e-6, atol=1e-15)


def test_progress_counts_up_to_the_end(tmp_path):
    calls = []
    assert run_image(RUN, tmp_path / "results.h5", progress=lambda *a: calls.append(a))
    assert [done for done, _ in calls] == [10, 15, 20, 30, 40, 45, 50, 60]
    assert all(0 < share <= 1 for _, share in calls)
    assert calls[-1][1] == pytest.approx(1)
