"""A file as it was written passes; changed anywhere, it fails, even where the digests were made to fit."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from sweep_cases import run_here

from gcref import store
from gcref.validation import results as recomputation

ID = "lr0.1-ratio0.5-in6-teacher7-dup0-seed0"
KINDS = ("variance", "normalized_variance")
METHODS = ("sgb", "sg2b", "svrg", "gc")


def failing(path):
    return {check.name for check in recomputation.validate(path) if not check.passed}


def reseal(file):
    """Make every digest fit what is there now, as a careful forger would."""
    for group in file["trajectories"].values():
        group.attrs["digest"] = store.digest(group)
    file.attrs["digest"] = store.root_digest(file)


@pytest.fixture
def unsampled(monkeypatch):
    """Leave out the statistics: they take the time, and a changed number is found without them."""
    monkeypatch.setattr(recomputation, "sample", lambda specs: set())


# ---------------------------------------------------------------------------------------------------------------------
# What passes


def test_a_file_as_it_was_written(pristine):
    checks = {check.name: check for check in recomputation.validate(pristine)}
    assert {check.verdict for check in checks.values()} == {"pass", "finding"}
    # 4 trajectories of 5 points, 11 series each; snapshots at 0, 20 and 40.
    assert checks["replay: numbers"].n == 4 * 5 * 11
    assert checks["snapshots"].n == 4 * 3 * 11
    assert checks["labels"].n == 2 * 2 * (60 + 30) + 4  # and those of 20 once more, of the same refresh
    assert checks["replay: numbers"].worst < 1e-12
    assert "sgb" in checks["normalized at T = 10"].note


def test_workers_find_the_same(pristine):
    calls = []
    alone = recomputation.validate(pristine)
    together = recomputation.validate(pristine, 2, lambda *call: calls.append(call))
    assert [dataclasses.astuple(check) for check in alone] == [dataclasses.astuple(check) for check in together]
    assert calls[-1] == (4, pytest.approx(1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "logistic"},
        {"methods": ("sgb",)},
        {"methods": ("gc", "svrg")},
        {"snapshots": "all", "student_init": "uniform"},
        {"precision": "float64", "weight_decay": 0.0},
        {"learning_rate": (1e6,), "weight_decay": 1.0, "iterations": 400, "measure_every": 20},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_protocols(tiny, tmp_path, changes):
    path = tmp_path / "results.h5"
    run_here(dataclasses.replace(tiny, **changes), path)
    if "iterations" in changes:
        with h5py.File(path) as file:
            assert {group.attrs["status"] for group in file["trajectories"].values()} == {"diverged"}
    assert failing(path) == set()


def test_chaos_is_told_and_not_blamed(tiny, tmp_path, unsampled):
    path = tmp_path / "results.h5"
    chaotic = {"learning_rate": (30.0,), "iterations": 4000, "measure_every": 500, "refresh_every": 2000}
    run_here(dataclasses.replace(tiny, **chaotic), path)
    checks = {check.name: check for check in recomputation.validate(path)}
    assert all(check.passed for check in checks.values())
    assert "the numbers cannot be recomputed" in checks["replay: numbers"].note
    assert checks["snapshots"].n == 4 * 3 * 11


def test_an_unfinished_run(results):
    with h5py.File(results, "a") as file:
        del file[f"trajectories/{ID}"]
        kept = file["summary"][()][file["summary"]["trajectory"] != ID.encode()]
        del file["summary"]
        file["summary"] = kept
        file.attrs["complete"] = False
        reseal(file)
    checks = {check.name: check for check in recomputation.validate(results)}
    assert all(check.passed for check in checks.values())
    assert checks["contents"].note == "an unfinished run: 3 of 4 trajectories"


# ---------------------------------------------------------------------------------------------------------------------
# What fails


def nudge(group, name, index, factor=1 + 1e-6):
    values = group[name][()]
    values[index] *= factor
    group[name][...] = values


def move_label(group, point):
    labels = group[f"snapshots/{point}/labels/gc"][()]
    labels[3] = (labels[3] + 1) % 4
    group[f"snapshots/{point}/labels/gc"][...] = labels


def swap_clusters(group, point):
    """Give two clusters each other's name, which no variance can tell."""
    labels = group[f"snapshots/{point}/labels/gc"][()]
    group[f"snapshots/{point}/labels/gc"][...] = np.choose(labels, [1, 0, 2, 3])


def elsewhere(group, name):
    """Move a data set to another file, and link to it."""
    with h5py.File(group.file.filename + ".other", "w") as other:
        other["x"] = group[name][()]
    del group[name]
    group[name] = h5py.ExternalLink(group.file.filename + ".other", "x")


TAMPERED = {
    **{f"variance/{m}": (lambda g, m=m: nudge(g, f"variance/{m}", 3), {"replay: numbers"}) for m in METHODS},
    **{
        f"normalized_variance/{m}": (lambda g, m=m: nudge(g, f"normalized_variance/{m}", 4), {"snapshots"})
        for m in METHODS
    },
    "noise_scale": (lambda g: nudge(g, "noise_scale", 0), {"snapshots", "replay: numbers"}),
    "train_loss": (lambda g: nudge(g, "train_loss", 1), {"replay: numbers"}),
    "train_accuracy": (lambda g: nudge(g, "train_accuracy", 2, 1 - 1 / 60), {"snapshots"}),
    "iteration": (lambda g: g["iteration"].write_direct(np.array([0, 10, 21, 30, 40])), {"contents"}),
    "theta": (lambda g: nudge(g, "snapshots/20/theta", 5), {"replay: theta"}),
    "last theta": (lambda g: nudge(g, "snapshots/40/theta", 61), {"replay: theta"}),
    "svrg_theta": (lambda g: nudge(g, "snapshots/40/svrg_theta", 0, 1 + 1e-15), {"svrg_theta"}),
    "label": (lambda g: move_label(g, 0), {"labels", "snapshots", "objective"}),
    "last label": (lambda g: move_label(g, 40), {"labels", "snapshots"}),
    "nan": (lambda g: nudge(g, "variance/gc", 1, np.nan), {"contents"}),
    "negative": (lambda g: nudge(g, "variance/gc", 1, -1.0), {"ranges", "replay: numbers"}),
    "above 1": (lambda g: nudge(g, "normalized_variance/gc", 1, 5.0), {"ranges", "replay: numbers"}),
    "learning_rate": (lambda g: g.attrs.modify("learning_rate", 0.2), {"contents"}),
    "n_train": (lambda g: g.attrs.modify("n_train", 61), {"contents"}),
    "n_train as a float": (lambda g: g.attrs.__setitem__("n_train", 60.0), {"contents"}),
    "student_init": (lambda g: g.attrs.modify("student_init", "uniform"), {"contents"}),
    "status": (lambda g: g.attrs.modify("status", "diverged"), {"contents"}),
    "seconds": (lambda g: g.attrs.modify("seconds", -1.0), {"contents"}),
    "another attribute": (lambda g: g.attrs.create("note", "hello"), {"contents"}),
    "another data set": (lambda g: g.create_dataset("more", data=[1.0]), {"contents"}),
    "an attribute of a data set": (lambda g: g["variance/gc"].attrs.create("unit", "m"), {"contents"}),
    "an empty group": (lambda g: g.create_group("snapshots/30"), {"contents"}),
    "a soft link": (lambda g: g.__setitem__("more", h5py.SoftLink("/summary")), {"contents"}),
    "a second name": (lambda g: g.__setitem__("variance/again", g["variance/gc"]), {"contents"}),
    "a way back up": (lambda g: g.__setitem__("snapshots/up", g), {"contents"}),
    "seconds in float32": (lambda g: g.attrs.__setitem__("seconds", np.float32(1.0)), {"contents"}),
    "renamed clusters": (lambda g: swap_clusters(g, 20), {"labels"}),
    "no variance": (lambda g: g.__delitem__("variance/gc"), {"contents"}),
    "no labels": (lambda g: g.__delitem__("snapshots/20/labels/gc"), {"contents"}),
    "no snapshot": (lambda g: g.__delitem__("snapshots/20"), {"contents"}),
}


UNSEALED = ("seconds", "seconds in float32", "a soft link", "a way back up")


@pytest.mark.parametrize(("change", "found_by"), TAMPERED.values(), ids=TAMPERED)
def test_a_change_in_a_trajectory_is_found(results, unsampled, change, found_by):
    with h5py.File(results, "a") as file:
        change(file["trajectories"][ID])
    naive = failing(results)
    with h5py.File(results, "a") as file:
        reseal(file)
    forged = failing(results)
    assert found_by <= forged
    assert "digests" not in forged
    # The time that a run took is no result, and a link no number, so no digest covers them.
    assert ("digests" in naive) == (change not in [TAMPERED[name][0] for name in UNSEALED])


ROOT = {
    "an attribute": lambda f: f.attrs.create("note", "hello"),
    "another type of attribute": lambda f: f.attrs.__setitem__("command", [1.0, 2.0]),
    "no version": lambda f: f.attrs.__delitem__("gcref_version"),
    "complete, but not so": lambda f: f.attrs.__setitem__("complete", False),
    "an attribute of the table": lambda f: f["summary"].attrs.create("note", "hello"),
    "an attribute of the trajectories": lambda f: f["trajectories"].attrs.create("note", "hello"),
    "another group": lambda f: f.create_group("more"),
    "another data set": lambda f: f.create_dataset("more", data=[1.0]),
    "another trajectory": lambda f: f["trajectories"].create_group("more"),
    "a trajectory elsewhere": lambda f: (
        f.move(f"trajectories/{ID}", "hidden"), f["trajectories"].__setitem__(ID, h5py.SoftLink("/hidden")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", ROOT.values(), ids=ROOT)
def test_a_change_of_the_whole_is_found(results, unsampled, change):
    with h5py.File(results, "a") as file:
        change(file)
        reseal(file)
    assert failing(results) == {"contents"}


def forge_divergence(group):
    """Make a trajectory one that diverged before anything could be measured."""
    for name in ["train_loss", "train_accuracy", "noise_scale", *(f"{k}/{m}" for k in KINDS for m in METHODS)]:
        group[name][...] = np.nan
    del group["snapshots"]
    group.attrs["status"] = "diverged"


def test_a_trajectory_cannot_be_forged_away(results, unsampled):
    with h5py.File(results, "a") as file:
        forge_divergence(file[f"trajectories/{ID}"])
        table = file["summary"][()]
        for column in table.dtype.names[-4:]:
            table[column][table["trajectory"] == ID.encode()] = np.nan
        file["summary"][...] = table
        reseal(file)
    assert failing(results) == {"replay: theta"}


@pytest.mark.parametrize("learning_rate", [9.0, 1e6])
def test_what_a_diverging_trajectory_hides_is_told(tiny, tmp_path, unsampled, learning_rate):
    path = tmp_path / "results.h5"
    protocol = {"weight_decay": 1.0, "iterations": 400, "measure_every": 20, "refresh_every": 200}
    run_here(dataclasses.replace(tiny, learning_rate=(learning_rate,), **protocol), path)
    with h5py.File(path) as file:
        assert {group.attrs["status"] for group in file["trajectories"].values()} == {"diverged"}
    checks = {check.name: check for check in recomputation.validate(path)}
    assert all(check.passed for check in checks.values())
    assert "the numbers cannot be recomputed" in checks["replay: numbers"].note


@pytest.mark.parametrize("column", ["learning_rate", "n_train", "variance_mean70", "normalized_variance_max70"])
def test_a_change_in_the_summary_is_found(results, unsampled, column):
    with h5py.File(results, "a") as file:
        table = file["summary"][()]
        table[column][7] *= 1 + 1e-6 if table.dtype[column].kind == "f" else 2
        file["summary"][...] = table
    assert failing(results) == {"digests", "summary"}
    with h5py.File(results, "a") as file:
        reseal(file)
    assert failing(results) == {"summary"}


@pytest.mark.parametrize(
    ("field", "value", "found_by"),
    [
        ("weight_decay", 1e-3, "replay: theta"),
        ("precision", "float64", None),  # the labels are the same, so there is nothing more to find
        ("gc_iterations", 2, "labels"),
        ("seed", [1], "contents"),
        ("student_init", "unit", "replay: theta"),
        ("batch_size", 5, "contents"),
        ("iterations", 80, "contents"),
    ],
)
def test_a_change_in_the_configuration_is_found(results, unsampled, field, value, found_by):
    with h5py.File(results, "a") as file:
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | {field: value}, sort_keys=True)
    assert failing(results) >= {"digests", "contents"}
    with h5py.File(results, "a") as file:
        for group in file["trajectories"].values():
            group.attrs[field] = value if np.isscalar(value) else value[0]
        reseal(file)
    assert failing(results) >= ({found_by} if found_by else set())


def test_any_bit_of_any_data_set(results, unsampled):
    rng = np.random.default_rng(0)
    names = []
    with h5py.File(results) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    copy = results.with_name("copy.h5")
    for name in rng.choice(names, 25, replace=False):
        shutil.copy(results, copy)
        with h5py.File(copy, "a") as file:
            values = file[name][()]
            raw = values.view(np.uint8).reshape(-1)
            raw[rng.integers(raw.size)] ^= 1 << rng.integers(8)
            file[name][...] = values
        assert "digests" in failing(copy), name


def test_failures_are_named_and_all_are_counted(results, unsampled):
    with h5py.File(results, "a") as file:
        for group in file["trajectories"].values():
            nudge(group, "variance/gc", slice(None), 1.01)
            nudge(group, "noise_scale", slice(None), 1.01)
    check = next(c for c in recomputation.validate(results) if c.name == "replay: numbers")
    assert check.n_failures == 2 * 4 * 5
    assert len(check.failures) == 20
    assert check.worst == pytest.approx(0.01, rel=1e-2)  # the rounding allowed for takes a little off
    with h5py.File(results) as file:
        for failure in check.failures:
            stored = file[f"trajectories/{failure.trajectory}/{failure.dataset}"][failure.iteration // 10]
            assert failure.stored == f"{stored:.17g}"
            assert float(failure.expected) == pytest.approx(stored / 1.01)


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be read


FUZZ = """
import sys
from gcref import store
from gcref.validation import results
results.sample = lambda specs: set()
for path in sys.argv[1:]:
    try:
        checks = results.validate(path)
        print("PASS" if all(check.passed for check in checks) else "FAIL", flush=True)
    except store.StoreError:
        print("StoreError", flush=True)
"""


def test_damaged_bytes_are_refused_or_fail(pristine, tmp_path):
    rng = np.random.default_rng(1)
    whole = pristine.read_bytes()
    paths = []
    for number in range(25):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=20):
            damaged[at] ^= 0xFF
        paths.append(tmp_path / f"{number}.h5")
        paths[-1].write_bytes(damaged)
    outcomes = []
    while len(outcomes) < len(paths):
        command = [sys.executable, "-c", FUZZ, *map(str, paths[len(outcomes) :])]
        done = subprocess.run(command, capture_output=True, text=True)
        outcomes += done.stdout.split()
        if done.returncode < 0:  # some releases of HDF5 crash on damaged files
            outcomes.append("crash")
        else:
            assert done.returncode == 0, done.stderr
    assert set(outcomes) <= {"FAIL", "StoreError", "crash"}
    assert {"FAIL", "StoreError"} <= set(outcomes)


def test_a_crash_of_hdf5_is_told_in_one_sentence(results, monkeypatch):
    @contextlib.contextmanager
    def crashing_pool(n_workers):
        future = Future()
        future.set_exception(BrokenProcessPool())
        yield SimpleNamespace(submit=lambda *_: future)

    monkeypatch.setattr(recomputation, "process_pool", crashing_pool)
    with pytest.raises(store.StoreError, match="HDF5 broke down"):
        recomputation.validate(results, 1)


def test_numbers_in_another_file_are_refused(results):
    with h5py.File(results, "a") as file:
        elsewhere(file[f"trajectories/{ID}"], "variance/gc")
        reseal(file)
    with pytest.raises(store.StoreError, match=r"variance/gc' is a link to another file$"):
        recomputation.validate(results)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "images/1"}', "not JSON"])
def test_another_configuration_is_refused(results, text):
    with h5py.File(results, "a") as file:
        file.attrs["config"] = text
    with pytest.raises(store.StoreError, match=r"results\.h5"):
        recomputation.validate(results)
