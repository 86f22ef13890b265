"""A file of images as it was written passes; changed anywhere, it fails, even where the digests were made to fit."""

import contextlib
import dataclasses
import json
import shutil
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from gcref import data, store
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.validation import image_moments, image_recompute, image_results

METHODS = ("sgb", "sg2b", "svrg", "gc")
KINDS = ("variance", "normalized_variance")
MLP = ImageRun(
    dataset="digits", model="mlp", hidden=(8,), n_examples=60, n_test_examples=30, batch_size=6, iterations=40,
    measure_every=10, refresh_every=20, gc_iterations=2, learning_rate=0.05, momentum=0.5, milestones=(15, 35),
)  # fmt: skip
RUNS = {
    "float32": MLP,
    "float64": dataclasses.replace(MLP, precision="float64"),
    "all snapshots": dataclasses.replace(MLP, precision="float64", snapshots="all", momentum=0.0),
    "no snapshots": dataclasses.replace(MLP, snapshots="none"),
    "monte-carlo": dataclasses.replace(MLP, method="monte-carlo", n_estimates=10),
    "monte-carlo float64": dataclasses.replace(MLP, method="monte-carlo", n_estimates=10, precision="float64"),
    "batch norm": dataclasses.replace(
        MLP, model="resnet8", hidden=ImageRun.hidden, width=2, norm="batch", iterations=20
    ),
    "residual float64": dataclasses.replace(MLP, model="resnet8", hidden=ImageRun.hidden, width=2, precision="float64"),
    "changed data": dataclasses.replace(
        MLP,
        model="cnn",
        hidden=ImageRun.hidden,
        width=1,
        label_smoothing=0.1,
        corrupt_fraction=0.2,
        duplicate_fraction=0.5,
    ),
    "some methods": dataclasses.replace(MLP, methods=("gc", "sg2b"), model="linear", hidden=ImageRun.hidden),
    "diverged": dataclasses.replace(MLP, learning_rate=1e30, milestones=()),
}
FEW = 5  # examples whose gradients are written out beside the sums


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The file of a run by its name in RUNS, made when it is first asked for."""
    made = {}

    def file_of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("images") / "results.h5"
            with np.errstate(over="ignore", invalid="ignore"):
                run_image(RUNS[name], made[name])
        return made[name]

    return file_of


@pytest.fixture
def copy_of(files, tmp_path):
    """A copy of a run's file to do with as one likes."""
    return lambda name: shutil.copy(files(name), tmp_path / "results.h5")


@pytest.fixture
def large(monkeypatch):
    """Let every file count as one whose gradients are too many numbers."""
    monkeypatch.setattr(image_recompute, "LARGEST", 0)


def checks_of(path, **options):
    return {check.name: check for check in image_results.validate(path, **options)}


def failing(path, **options):
    return {name for name, check in checks_of(path, **options).items() if not check.passed}


def reseal(path):
    """Make every digest fit what is there now, as a careful forger would."""
    with h5py.File(path, "a") as file:
        for group in file["trajectories"].values():
            group.attrs["digest"] = store.digest(group)
        file.attrs["digest"] = store.root_digest(file)


@contextlib.contextmanager
def changing(path):
    """The trajectory's group, open for a change that no digest tells."""
    with h5py.File(path, "a") as file:
        (group,) = file["trajectories"].values()
        yield group
    reseal(path)


# ---------------------------------------------------------------------------------------------------------------------
# What passes


@pytest.mark.parametrize("name", RUNS)
def test_a_file_as_it_was_written(files, name):
    checks = checks_of(files(name))
    assert {check.verdict for check in checks.values()} <= {"pass", "nothing"}
    run, n_snapshots = RUNS[name], checks["recomputation"].n
    assert n_snapshots == {"no snapshots": 0, "all snapshots": 5, "batch norm": 2, "diverged": 1}.get(name, 3)
    n_exact = 5 + 2 * len(run.methods) * (run.method == "closed-form")
    assert checks["snapshots"].n == n_snapshots * n_exact
    # Rounding alone is far from what is allowed.
    assert checks["snapshots"].worst < (1e-11 if run.precision == "float64" else 1e-6)


@pytest.mark.parametrize("name", ["float32", "all snapshots", "batch norm", "changed data", "monte-carlo float64"])
def test_a_large_file_as_it_was_written(files, large, name):
    checks = checks_of(files(name), n_examples=FEW)
    assert {check.verdict for check in checks.values()} <= {"pass", "nothing"}
    with h5py.File(files(name)) as file:
        (group,) = file["trajectories"].values()
        assert checks["gradients"].n == checks["recomputation"].n * FEW * group.attrs["n_parameters"]
    assert "84.15% of the examples" in checks["gradients"].note  # 1 − 1e-4^(1/5)
    assert checks["snapshots"].worst < (1e-11 if RUNS[name].precision == "float64" else 1e-6)


def test_as_many_examples_as_there_are_need_no_sums(files, large):
    assert "gradients" not in checks_of(files("float32"), n_examples=60)


def test_what_is_not_vouched_for_is_told(files):
    checks = checks_of(files("float32"))
    assert checks["snapshots"].note == "3 of 5 measuring points have a snapshot; digests alone vouch for the others"
    assert checks["replay"].verdict == "nothing"
    assert "float32" in checks["replay"].note
    assert checks_of(files("all snapshots"))["snapshots"].note == ""
    assert checks_of(files("float64"))["replay"].n == 610


def test_progress_goes_to_the_end(files):
    calls = []
    checks_of(files("float32"), progress=lambda *call: calls.append(call))
    assert calls[-1] == (3, 1.0)
    assert [share for _, share in calls] == sorted(share for _, share in calls)


def test_an_unfinished_run(tmp_path):
    def stop(done, share):
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_image(MLP, tmp_path / "results.h5", progress=stop)
    checks = checks_of(tmp_path / "results.h5")
    assert all(check.passed for check in checks.values())
    assert checks["contents"].note == "an unfinished run: 4 of 5 measuring points"
    assert checks["recomputation"].n == 2


# ---------------------------------------------------------------------------------------------------------------------
# Numbers that were changed


def nudge(group, name, index, factor):
    values = group[name][()]
    values[index] *= factor
    group[name][...] = values


def series_of(run):
    names = [f"{split}_{what}" for split in ("train", "test") for what in ("loss", "accuracy")]
    kinds = (*KINDS, "standard_error") if run.method == "monte-carlo" else KINDS
    return [*names, "noise_scale", *(f"{kind}/{method}" for kind in kinds for method in run.methods)]


def names_of_changed(path, name, factor, **options):
    """Change every number at the snapshot of 20, and return the names of those that are found and those changed."""
    with changing(path) as group:
        for series in series_of(RUNS[name]):
            nudge(group, series, 2, 1 - 1 / 60 if series.endswith("accuracy") else factor)
    checks = checks_of(path, **options).values()
    found = [failure for check in checks if check.name in ("snapshots", "draws") for failure in check.failures]
    assert {failure.iteration for failure in found} == {20}
    return {failure.dataset for failure in found}, set(series_of(RUNS[name]))


@pytest.mark.parametrize(
    ("name", "factor"), [("float32", 1 + 1e-3), ("float64", 1 + 1e-7), ("monte-carlo", 1 - 1e-3)], ids=lambda x: str(x)
)
def test_a_changed_number_is_found(copy_of, name, factor):
    found, changed = names_of_changed(copy_of(name), name, factor)
    assert found == changed


def test_a_changed_number_of_a_large_file_is_found(copy_of, large):
    found, changed = names_of_changed(copy_of("float32"), "float32", 1 + 1e-3, n_examples=FEW)
    assert found == changed


def test_gradients_that_are_not_those_of_the_examples_are_found(files, large, monkeypatch):
    right = image_moments._explicit
    monkeypatch.setattr(image_moments, "_explicit", lambda trace: right(trace) * (1 + 1e-6))
    assert failing(files("float32"), n_examples=FEW) == {"gradients"}


def test_without_new_digests_any_change_is_found(copy_of):
    path = copy_of("float32")
    with h5py.File(path, "a") as file:
        (group,) = file["trajectories"].values()
        nudge(group, "train_loss", 1, 1 + 1e-15)  # between snapshots
    assert failing(path) == {"digests"}


def test_sg2b_is_known_between_snapshots(copy_of):
    path = copy_of("float32")
    with changing(path) as group:
        nudge(group, "variance/sg2b", 3, 1 + 1e-6)
    assert failing(path) == {"SG-2B", "summary"}


def move_label(group, *points):
    for point in points:
        labels = group[f"snapshots/{point}/labels/gc"][()]
        moved = np.flatnonzero(np.bincount(labels)[labels] > 1)[0]
        labels[moved] = (labels[moved] + 1) % 6
        group[f"snapshots/{point}/labels/gc"][...] = labels


def add(group, name, index, step):
    values = group[name][()]
    values[index] += step
    group[name][...] = values


SNAPSHOTS = {
    "label": (lambda g: move_label(g, 0), {"parameters", "snapshots", "objective"}),
    "labels from one refresh to the next": (lambda g: move_label(g, 0, 20), {"snapshots", "objective"}),
    "last label": (lambda g: move_label(g, 40), {"snapshots", "objective"}),
    "first theta": (lambda g: add(g, "snapshots/0/theta", 5, 1e-6), {"parameters"}),
    "theta": (lambda g: add(g, "snapshots/20/theta", 5, 1e-6), {"parameters"}),
    "last theta": (lambda g: add(g, "snapshots/40/theta", 530, 0.01), {"snapshots"}),
    "svrg_theta": (lambda g: add(g, "snapshots/40/svrg_theta", 530, 1e-7), {"parameters"}),
    "theta and the svrg_theta it becomes": (
        lambda g: [add(g, f"snapshots/{name}", 530, 0.01) for name in ("20/theta", "40/svrg_theta")],
        {"snapshots"},
    ),
}


@pytest.mark.parametrize(("change", "found_by"), SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_a_change_in_a_snapshot_is_found(copy_of, change, found_by):
    path = copy_of("float32")
    with changing(path) as group:
        change(group)
    assert found_by <= failing(path)


def test_a_change_of_theta_is_found_by_sgd(copy_of):
    path = copy_of("float64")
    with changing(path) as group:
        for name in ("20/theta", "40/svrg_theta"):
            add(group, f"snapshots/{name}", 530, 1e-5)
    assert {"replay", "snapshots"} <= failing(path)


@pytest.mark.parametrize("name", ["running", "svrg_running"])
def test_running_statistics_are_checked(copy_of, name):
    path = copy_of("batch norm")
    with changing(path) as group:
        add(group, f"snapshots/20/{name}", 0, 0.01)
    assert ("snapshots" if name == "running" else "parameters") in failing(path)


# ---------------------------------------------------------------------------------------------------------------------
# Contents that were changed

CONTENTS = {
    "iteration": lambda g: g["iteration"].write_direct(np.array([0, 10, 21, 30, 40])),
    "learning rate": lambda g: nudge(g, "learning_rate", 1, 2.0),
    "nan": lambda g: nudge(g, "variance/gc", 1, np.nan),
    "an attribute": lambda g: g.attrs.modify("momentum", 0.4),
    "a flag": lambda g: g.attrs.__setitem__("augment", 0),
    "n_train": lambda g: g.attrs.modify("n_train", 61),
    "status": lambda g: g.attrs.modify("status", "diverged"),
    "seconds": lambda g: g.attrs.modify("seconds", -1.0),
    "another attribute": lambda g: g.attrs.create("note", "hello"),
    "an attribute of a data set": lambda g: g["variance/gc"].attrs.create("unit", "m"),
    "an attribute of the root": lambda g: g.file.attrs.create("note", "hello"),
    "unfinished": lambda g: g.file.attrs.__setitem__("complete", False),
    "another group": lambda g: g.file.create_group("more"),
    "another trajectory": lambda g: g.parent.create_group("more"),
    "another data set": lambda g: g.create_dataset("more", data=[1.0]),
    "another snapshot": lambda g: g.create_group("snapshots/10"),
    "a soft link": lambda g: g.__setitem__("more", h5py.SoftLink("/summary")),
    "no series": lambda g: g.__delitem__("variance/gc"),
    "no iterations": lambda g: g.__delitem__("iteration"),
    "no snapshot": lambda g: g.__delitem__("snapshots/20"),
    "no labels": lambda g: g.__delitem__("snapshots/20/labels/gc"),
    "an empty cluster": lambda g: nudge(g, "snapshots/20/labels/gc", slice(None), 0),
    "theta not finite": lambda g: nudge(g, "snapshots/20/theta", 0, np.inf),
}  # fmt: skip


@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS)
def test_changed_contents_are_found(copy_of, change):
    path = copy_of("float32")
    with changing(path) as group:
        change(group)
    assert {"contents", "recomputation"} <= failing(path)


@pytest.mark.parametrize(("series", "factor"), [("variance/gc", -1.0), ("normalized_variance/sgb", 5.0)])
def test_numbers_that_cannot_be_are_found(copy_of, series, factor):
    path = copy_of("float32")
    with changing(path) as group:
        nudge(group, series, 3, factor)
    assert {"ranges", "summary"} <= failing(path)


@pytest.mark.parametrize("column", ["n_train", "overparametrization", "variance_mean70", "normalized_variance_max70"])
def test_a_change_in_the_summary_is_found(copy_of, column):
    path = copy_of("float32")
    with h5py.File(path, "a") as file:
        table = file["summary"][()]
        table[column][2] *= 1 + 1e-6 if table.dtype[column].kind == "f" else 2
        file["summary"][...] = table
    assert failing(path) == {"digests", "summary"}
    reseal(path)
    assert failing(path) == {"summary"}


@pytest.mark.parametrize(
    ("field", "value", "found_by"),
    [
        ("seed", 1, "contents"),  # the trajectory's name
        ("batch_size", 7, "contents"),
        ("iterations", 60, "contents"),
        ("n_test_examples", 31, "data"),
        ("label_smoothing", 0.1, "contents"),
        ("weight_decay", 1e-3, "replay"),
        ("momentum", 0.6, "replay"),
        ("gc_iterations", 3, None),  # the labels could have been found by any number of iterations
    ],
)
def test_a_change_in_the_configuration_is_found(copy_of, field, value, found_by):
    path = copy_of("float64")
    with h5py.File(path, "a") as file:
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | {field: value}, sort_keys=True)
    assert failing(path) >= {"digests", "contents"}
    with changing(path) as group:
        group.attrs[field] = value
        group.attrs["n_test"] = 31 if field == "n_test_examples" else group.attrs["n_test"]
    assert failing(path) >= ({found_by} if found_by else set())


def test_other_data_are_told(files, monkeypatch):
    path, load = files("float32"), data.load

    def other(name, split, data_dir, **options):
        there = load(name, split, data_dir, **options)
        return data.Dataset(1 - there.x, there.y)

    monkeypatch.setattr(data, "load", other)
    assert failing(path) == {"data", "recomputation"}


def test_data_that_do_not_fit_are_told(files, monkeypatch):
    path, load = files("float32"), data.load
    monkeypatch.setattr(data, "load", lambda *a, **k: data.subset(load(*a, **k), 50))
    (check,) = image_results.validate(path)
    assert "n_examples=60" in str(check.failures[0])


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be read


def test_missing_data_are_an_error(copy_of, monkeypatch, tmp_path):
    path = copy_of("float32")
    with h5py.File(path, "a") as file:
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | {"dataset": "cifar10"}, sort_keys=True)
    with pytest.raises(data.DataError, match="cifar-10-binary"):
        image_results.validate(path, str(tmp_path))


@pytest.mark.parametrize("change", [{"schema": "image/2"}, {"batch_size": 0}, {"extra": 1}])
def test_another_configuration_is_refused(copy_of, change):
    path = copy_of("float32")
    with h5py.File(path, "a") as file:
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | change)
    with pytest.raises(store.StoreError, match=r"results\.h5"):
        image_results.validate(path)


def test_a_crash_of_hdf5_is_told_in_one_sentence(files, monkeypatch):
    @contextlib.contextmanager
    def crashing_pool(n_workers):
        future = Future()
        future.set_exception(BrokenProcessPool())
        yield SimpleNamespace(submit=lambda *_: future)

    monkeypatch.setattr(image_results, "process_pool", crashing_pool)
    with pytest.raises(store.StoreError, match="HDF5 broke down"):
        image_results.validate(files("float32"), isolated=True)
