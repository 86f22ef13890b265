"""Files whose methods include further clusterings: every number and label of theirs is checked too."""

import dataclasses
import shutil

import h5py
import numpy as np
import pytest
from sweep_cases import run_here

from gcref import store
from gcref.clustering.exact import ExactClustering
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.validation import image_recompute, image_results, recompute, results
from gcref.validation.clusterings import PlainExchange

FURTHER = ("exact", "exchange", "sketched", "sketched-drift0.02", "gc-rank4")
METHODS = ("svrg", *FURTHER, "gc")
KINDS = ("variance", "normalized_variance")
ID = "lr0.1-ratio0.5-in6-teacher7-dup0-seed0"
IMAGE = ImageRun(
    dataset="digits", model="mlp", hidden=(8,), n_examples=60, n_test_examples=30, batch_size=6, iterations=40,
    measure_every=10, refresh_every=20, gc_iterations=2, learning_rate=0.05, precision="float64",
    methods=("svrg", *FURTHER, "gc"),
)  # fmt: skip
IMAGES = {
    "closed-form": IMAGE,
    "monte-carlo": dataclasses.replace(IMAGE, method="monte-carlo", n_estimates=10),
    "float32": dataclasses.replace(IMAGE, precision="float32", methods=FURTHER),
}


@pytest.fixture(scope="module")
def sweeps(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("further") / "results.h5"
    run_here(dataclasses.replace(tiny, methods=METHODS), path)
    return path


@pytest.fixture(scope="module", params=IMAGES)
def image(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("further") / "results.h5"
    run_image(IMAGES[request.param], path)
    return path


def checks_of(module, path, **options):
    return {check.name: check for check in module.validate(path, **options)}


def failing(module, path, **options):
    return {name for name, check in checks_of(module, path, **options).items() if not check.passed}


def changed(path, folder, change, identity=None):
    """A copy of a file in which `change` was done to a trajectory, with digests that fit."""
    copy = shutil.copy(path, folder / "changed.h5")
    with h5py.File(copy, "a") as file:
        group = file["trajectories"][identity or next(iter(file["trajectories"]))]
        change(group)
        group.attrs["digest"] = store.digest(group)
        file.attrs["digest"] = store.root_digest(file)
    return copy


def nudge(group, name, index):
    values = group[name][()]
    values[index] *= 1 + 1e-3
    group[name][...] = values


def shift_labels(group, point):
    """Give one example of every further clustering the next cluster, where it leaves none empty."""
    for labels in (group[f"snapshots/{point}/labels/{method}"] for method in FURTHER):
        values = labels[()]
        sizes = np.bincount(values)
        moved = np.flatnonzero(sizes[values] > 1)[0]
        values[moved] = (values[moved] + 1) % len(sizes)
        labels[...] = values


def places(check):
    """Data set and iteration of everything that failed; a check keeps the first 20."""
    assert check.n_failures <= 20
    return {(failure.dataset, failure.iteration) for failure in check.failures}


@pytest.fixture
def unsampled(monkeypatch):
    monkeypatch.setattr(results, "sample", lambda specs: set())


# ---------------------------------------------------------------------------------------------------------------------
# Random features


def test_a_sweep_as_it_was_written(sweeps):
    checks = checks_of(results, sweeps)
    assert {check.verdict for check in checks.values()} == {"pass", "finding"}
    # 4 trajectories of 5 points, 3 numbers and 2 of each method; snapshots at 0, 20 and 40.
    assert checks["replay: numbers"].n == 4 * 5 * (3 + 2 * 7)
    assert checks["snapshots"].n == 4 * 3 * (3 + 2 * 7)
    assert checks["objective"].n == 4 * 3 * 6
    assert checks["further labels"].n == 4 * 5  # those of 20 are once more those of 0
    assert checks["exchange: objective"].n == 4 * 2
    assert checks["exchange: labels"].n == 2 * 2 * (60 + 30)
    assert checks["exchange: objective"].worst == 0
    assert checks["objectives"].n == 4 * 2 * 5
    assert all(f"{method} " in checks["objectives"].note for method in set(METHODS) - {"svrg", "exchange"})


def test_workers_find_the_same(sweeps, unsampled):
    alone, together = (results.validate(sweeps, n_workers) for n_workers in (0, 2))
    assert [dataclasses.astuple(check) for check in alone] == [dataclasses.astuple(check) for check in together]


@pytest.mark.parametrize("methods", [("exchange",), ("sketched", "sg2b"), ("exact", "gc-rank4", "svrg")])
def test_sweeps_of_some_methods(tiny, tmp_path, unsampled, methods):
    path = tmp_path / "results.h5"
    run_here(dataclasses.replace(tiny, methods=methods), path)
    checks = checks_of(results, path)
    assert all(check.passed for check in checks.values())
    assert ("exchange: labels" in checks) == ("exchange" in methods)
    assert ("objectives" in checks) == ("exact" in methods)


def test_changed_numbers_of_a_sweep_are_found(sweeps, tmp_path, unsampled):
    def change(group):
        for method in FURTHER:
            nudge(group, f"variance/{method}", 3)
            nudge(group, f"normalized_variance/{method}", 4)

    checks = checks_of(results, changed(sweeps, tmp_path, change, ID))
    averages, ratios = ({(f"{kind}/{m}", at) for m in FURTHER} for kind, at in zip(KINDS, (30, 40), strict=True))
    assert places(checks["snapshots"]) == ratios
    assert places(checks["replay: numbers"]) == averages | ratios


def test_changed_labels_of_a_sweep_are_found(sweeps, tmp_path, unsampled):
    checks = checks_of(results, changed(sweeps, tmp_path, lambda group: shift_labels(group, 40), ID))
    assert places(checks["snapshots"]) >= {(f"variance/{m}", 40) for m in FURTHER}
    assert places(checks["objective"]) == {(f"N²·d·variance/{m}", 40) for m in FURTHER}
    assert places(checks["exchange: labels"]) == {("labels/exchange", 40)}
    assert checks["labels"].passed
    checks = checks_of(results, changed(sweeps, tmp_path, lambda group: shift_labels(group, 20), ID))
    assert places(checks["further labels"]) == {(f"labels/{m}", 20) for m in FURTHER}


def test_labels_of_exchange_that_are_no_better_are_found(sweeps, tmp_path, unsampled, monkeypatch):
    monkeypatch.setattr(recompute, "LARGEST_EXACT", 0)

    def shuffle(group):
        labels = group["snapshots/40/labels/exchange"]
        labels[...] = np.random.default_rng(0).permutation(labels[()])

    found = failing(results, changed(sweeps, tmp_path, shuffle, ID))
    assert "exchange: objective" in found
    assert "exchange: labels" not in found


CONTENTS = {
    "an empty cluster": lambda g: g["snapshots/20/labels/sketched"].write_direct(np.zeros(60, np.int32)),
    "a label too large": lambda g: g["snapshots/20/labels/exact"].write_direct(np.full(60, 17, np.int32)),
    "no labels": lambda g: g.__delitem__("snapshots/20/labels/gc-rank4"),
    "labels of another method": lambda g: g.move("snapshots/0/labels/exact", "snapshots/0/labels/exacter"),
    "no variance": lambda g: g.__delitem__("variance/exchange"),
}


@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS)
def test_changed_contents_of_a_sweep_are_found(sweeps, tmp_path, unsampled, change):
    assert "contents" in failing(results, changed(sweeps, tmp_path, change, ID))


def test_what_a_diverging_sweep_hides_is_told(tiny, tmp_path, unsampled):
    path = tmp_path / "results.h5"
    protocol = {"weight_decay": 1.0, "iterations": 400, "measure_every": 20, "refresh_every": 200}
    run_here(dataclasses.replace(tiny, learning_rate=(9.0,), methods=METHODS, **protocol), path)
    checks = checks_of(results, path)
    assert all(check.passed for check in checks.values())
    assert "the numbers cannot be recomputed" in checks["replay: numbers"].note


# ---------------------------------------------------------------------------------------------------------------------
# Exchange, plainly


def test_plain_exchange_is_that_of_the_clusterer():
    rng = np.random.default_rng(0)
    A, D = rng.standard_normal((80, 12)), rng.standard_normal((80, 2))
    plain = PlainExchange(5, 3)
    theirs = {form: ExactClustering(5, "exchange", n_iter=20, seed=3, warm_start=True, form=form) for form in
              ("explicit", "gram")}  # fmt: skip
    for _ in range(3):
        labels = plain.fit(A, D, 1e-15)
        G = np.einsum("ni,no->noi", A, D).reshape(80, -1)
        assert all(np.array_equal(fit.fit(G).labels_, labels) for fit in theirs.values())
        D = D + 0.5 * rng.standard_normal(D.shape)
    assert plain.decided
    assert plain.t == theirs["gram"].n_iter_ > 3


def test_plain_exchange_knows_what_rounding_decides():
    rng = np.random.default_rng(0)
    A, D = rng.standard_normal((9, 4)), rng.standard_normal((9, 1))
    copies = PlainExchange(3, 0)
    copies.fit(np.tile(A[:1], (9, 1)), np.tile(D[:1], (9, 1)), 1e-15)
    assert not copies.decided
    vague = PlainExchange(3, 0)
    vague.fit(A, D, 0.1)
    assert not vague.decided
    assert np.array_equal(np.unique(vague.labels), np.arange(3))


# ---------------------------------------------------------------------------------------------------------------------
# Images


def test_an_image_run_as_it_was_written(image):
    checks = checks_of(image_results, image)
    run = image_results.config_of(image)
    assert {check.verdict for check in checks.values()} <= {"pass", "nothing"}
    if run.method == "closed-form":
        assert checks["snapshots"].n == 3 * (5 + 2 * len(run.methods))
        assert checks["objective"].n == 3 * len(set(run.methods) - {"svrg"})
    else:
        assert checks["draws"].n == 3 * 3 * len(run.methods)
    assert checks["exchange: objective"].n == 2  # refreshes
    assert checks["exchange: objective"].worst == 0


def test_a_large_image_run_as_it_was_written(image, monkeypatch):
    monkeypatch.setattr(image_recompute, "LARGEST", 0)
    checks = checks_of(image_results, image, n_examples=5)
    assert "gradients" in checks
    assert checks["exchange: objective"].n == 2
    assert {check.verdict for check in checks.values()} <= {"pass", "nothing"}


def test_changed_numbers_of_an_image_run_are_found(image, tmp_path):
    run = image_results.config_of(image)
    names = {f"{kind}/{method}" for kind in KINDS for method in run.methods}

    def change(group):
        for name in names:
            nudge(group, name, 2)

    checks = checks_of(image_results, changed(image, tmp_path, change))
    row = checks["snapshots" if run.method == "closed-form" else "draws"]
    assert places(row) == {(name, 20) for name in names}


def test_changed_labels_of_an_image_run_are_found(image, tmp_path):
    row = "snapshots" if image_results.config_of(image).method == "closed-form" else "draws"
    checks = checks_of(image_results, changed(image, tmp_path, lambda group: shift_labels(group, 20)))
    assert places(checks["parameters"]) == {(f"labels/{m}", 20) for m in FURTHER}
    assert places(checks[row]) >= {(f"variance/{m}", 20) for m in FURTHER}


@pytest.mark.parametrize(("first", "refresh"), [(0, 0), (40, 20)])
def test_labels_of_exchange_of_an_image_run_that_are_no_better_are_found(image, tmp_path, first, refresh):
    def shuffle(group):
        for point in (0, 20) if first == 0 else (40,):
            labels = group[f"snapshots/{point}/labels/exchange"]
            labels[...] = np.random.default_rng(first).permutation(labels[()])

    checks = checks_of(image_results, changed(image, tmp_path, shuffle))
    assert places(checks["exchange: objective"]) == {("Φ of labels/exchange", refresh)}


def test_an_empty_cluster_of_an_image_run_is_found(image, tmp_path):
    def change(group):
        group["snapshots/20/labels/sketched"][...] = 0

    assert {"contents", "recomputation"} <= failing(image_results, changed(image, tmp_path, change))
