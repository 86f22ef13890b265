"""Is a results file of an image study whole: its digests, its contents, its summary."""

from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gcref import store
from gcref.studies.image_run import ImageRun
from gcref.studies.methods import clustered
from gcref.validation.structure import (
    ABSENT,
    READ_ERRORS,
    STATISTICS,
    check_digest,
    check_nothing_beside,
    check_root_members,
    members,
)
from gcref.validation.tally import Check

Layout = dict[str, tuple[tuple[int, ...], str]]

STORED_AS: dict[type, type] = {str: str, int: np.int64, float: np.float64, bool: np.bool_}
FLOAT64 = np.dtype(np.float64).str


@dataclass(frozen=True)
class Sizes:
    """What data and model are, by the names of the file's attributes, and how many running statistics there are."""

    n_train: int
    n_test: int
    n_classes: int
    n_parameters: int
    data_digest: str
    n_running: int


@dataclass(frozen=True)
class Trajectory:
    """The trajectory as stored: series (L,) by name, and the iterations that have a snapshot."""

    path: str
    run: ImageRun
    series: dict[str, NDArray]
    snapshots: list[int]

    def stored(self, dataset: str, iteration: int) -> float:
        """Return one number of a series."""
        return float(self.series[dataset][iteration // self.run.measure_every])

    def read(self, iteration: int) -> dict[str, NDArray]:
        """Return what the snapshot of an iteration holds, by its names in the file, which is opened for it."""
        with store.open_results(self.path) as file, store.readable(Path(self.path)):
            found = file["trajectories"][self.run.id][f"snapshots/{iteration}"]
            return {name: item[()] for name, item in members(found) if isinstance(item, h5py.Dataset)}


def series_layout(run: ImageRun, n_points: int) -> Layout:
    """Shape and type of every series."""
    names = ["learning_rate", "noise_scale"]
    names += [f"{split}_{what}" for split in ("train", "test") for what in ("loss", "accuracy")]
    kinds = [*STATISTICS, "standard_error"] if run.method == "monte-carlo" else STATISTICS
    names += [f"{kind}/{method}" for kind in kinds for method in run.methods]
    return {"iteration": ((n_points,), np.dtype(np.int64).str), **dict.fromkeys(names, ((n_points,), FLOAT64))}


def snapshot_layout(run: ImageRun, sizes: Sizes) -> Layout:
    """Shape and type of everything in a snapshot."""
    dtype = np.dtype(run.precision).str
    layout: Layout = {"theta": ((sizes.n_parameters,), dtype), "running": ((sizes.n_running,), dtype)}
    if "svrg" in run.methods:
        layout |= {f"svrg_{name}": kind for name, kind in layout.items()}
    for method in clustered(run.methods):
        layout[f"labels/{method}"] = ((sizes.n_train,), np.dtype(np.int32).str)
    return {name: kind for name, kind in layout.items() if kind[0] != (0,)}


# ---------------------------------------------------------------------------------------------------------------------
# The trajectory


def read_trajectory(group: Any, path: str, run: ImageRun, sizes: Sizes, check: Check) -> Trajectory | None:
    """Read the trajectory, counting into `check` whatever is not as it should be; None if it is no use."""
    failures = check.n_failures
    if not check.expect(isinstance(group, h5py.Group), run.id, None, "group", type(group).__name__, "a group"):
        return None
    _check_attributes(group, run, sizes, check)
    shape: tuple[int, ...] = getattr(group.get("iteration"), "shape", ())
    n_points = min(shape[0], len(run.points)) if len(shape) == 1 else 0
    layout = series_layout(run, n_points)
    series = {name: _read(group, name, kind, run, check) for name, kind in layout.items()}
    if check.n_failures > failures:
        return None
    _check_series(series, run, n_points, check)
    _check_status(group, run, n_points, check)
    trajectory = Trajectory(path, run, series, _snapshots(group, run, n_points))
    for iteration in trajectory.snapshots:
        for name, kind in snapshot_layout(run, sizes).items():
            layout[f"snapshots/{iteration}/{name}"] = kind
            _check_array(group, iteration, name, kind, run, check)
    check_nothing_beside(group, layout, run.id, check)
    return trajectory if check.n_failures == failures else None


def _snapshots(group: h5py.Group, run: ImageRun, n_points: int) -> list[int]:
    """The iterations that have a snapshot; a Ctrl-C can come between the last measurement and its snapshot."""
    kept = [point for point in run.points[:n_points] if run.keeps_snapshot(point)]
    unfinished = group.attrs.get("status") == "unfinished"
    if kept and unfinished and kept[-1] == run.points[n_points - 1] and f"snapshots/{kept[-1]}" not in group:
        kept.pop()
    return kept


def _check_attributes(group: h5py.Group, run: ImageRun, sizes: Sizes, check: Check) -> None:
    """Compare hyper-parameters with the configuration and sizes with the data; there is nothing else."""
    expected = asdict(run) | asdict(sizes)
    del expected["schema"], expected["n_running"], expected["data_digest"]
    found = dict(group.attrs)
    for name, value in expected.items():
        wanted = ",".join(map(str, value)) if isinstance(value, tuple) else value
        stored = found.pop(name, ABSENT)
        same = isinstance(stored, STORED_AS[type(wanted)]) and bool(stored == wanted)
        check.expect(same, run.id, None, f"attribute {name}", stored, wanted)
    seconds = found.pop("seconds", ABSENT)
    valid = isinstance(seconds, np.float64) and bool(np.isfinite(seconds)) and seconds >= 0
    check.expect(valid, run.id, None, "attribute seconds", seconds, "a time")
    for name in found.keys() - {"digest", "data_digest", "status"}:
        check.fail(run.id, None, f"attribute {name}", found[name], "no such attribute")


def _check_series(series: dict[str, NDArray], run: ImageRun, n_points: int, check: Check) -> None:
    """Iterations and learning rates are the configuration's, and all numbers finite."""
    points = np.array(run.points[:n_points], np.int64)
    same = np.array_equal(series["iteration"], points)
    check.expect(same, run.id, None, "iteration", series["iteration"], points)
    drops = [sum(point >= milestone for milestone in run.milestones) for point in points]
    rates = np.array([run.learning_rate * 0.1**n for n in drops])
    same = np.allclose(series["learning_rate"], rates, rtol=1e-14, atol=0)
    check.expect(same, run.id, None, "learning_rate", series["learning_rate"], rates)
    for name, values in series.items():
        # Infinite where ḡ is zero.
        finite = ~np.isnan(values) if name == "noise_scale" else np.isfinite(values)
        check.expect(bool(finite.all()), run.id, None, name, "not finite everywhere", "finite numbers")


def _check_status(group: h5py.Group, run: ImageRun, n_points: int, check: Check) -> None:
    """Complete with every measuring point; anything else with fewer."""
    status = group.attrs.get("status", ABSENT)
    expected = ("complete",) if n_points == len(run.points) else ("diverged", "unfinished")
    if n_points == len(run.points) and not group.file.attrs.get("complete", True):
        expected = ("unfinished",)  # a Ctrl-C came at the very end
    check.expect(status in expected, run.id, None, "attribute status", status, " or ".join(expected))
    complete = bool(group.file.attrs.get("complete", True))
    check.expect(complete == (status != "unfinished"), "/", None, "attribute complete", complete, f"as {status} has it")
    check.note = f"an unfinished run: {n_points} of {len(run.points)} measuring points" if not complete else ""


def _check_array(
    group: h5py.Group, iteration: int, name: str, kind: tuple[tuple[int, ...], str], run: ImageRun, check: Check
) -> None:
    """Parameters and running statistics are finite, and no cluster is empty."""
    values = _read(group, f"snapshots/{iteration}/{name}", kind, run, check, iteration)
    if values is ABSENT:
        return
    if name.startswith("labels"):
        used = np.array_equal(np.unique(values), np.arange(run.batch_size))
        what = f"every one of 0…{run.batch_size - 1} and nothing else"
        check.expect(used, run.id, iteration, name, f"in {values.min()}…{values.max()}", what)
    else:
        finite = bool(np.isfinite(values).all())
        check.expect(finite, run.id, iteration, name, "not finite everywhere", "finite numbers")


def _read(
    group: h5py.Group,
    name: str,
    kind: tuple[tuple[int, ...], str],
    run: ImageRun,
    check: Check,
    iteration: int | None = None,
) -> Any:
    """Read a data set of this shape and type, or count a failure and return ABSENT."""
    stored: Any
    try:
        item = group[name]
        # The shape is looked at before the numbers are read: a damaged one may claim any size.
        stored = (item.shape, item.dtype.str)
        values = item[()] if stored == kind else ABSENT
    except READ_ERRORS:
        stored = values = ABSENT
    check.expect(values is not ABSENT, run.id, iteration, name, stored, kind)
    return values


# ---------------------------------------------------------------------------------------------------------------------
# The whole file


def inspect_file(path: str, run: ImageRun, sizes: Sizes) -> tuple[Trajectory | None, list[Check]]:
    """Check all that needs no gradient.

    Parameters
    ----------
    path : str
    run : ImageRun
        The file's own configuration.
    sizes : Sizes
        Of data and model.

    Returns
    -------
    trajectory, checks
        The trajectory, if it is whole, so that its numbers can be recomputed, and the checks: data, digests,
        contents, ranges, SG-2B, summary.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read as a results file.
    """
    data = Check("data", "SHA-256 of the data set, loaded again")
    digests = Check("digests", "SHA-256 of the trajectory and of the whole file")
    contents = Check("contents", "attributes, data sets and status against configuration and data")
    ranges = Check("ranges", "variance ≥ 0, 0 ≤ normalized ≤ 1, and so on")
    ratio = Check("SG-2B", "its variance over SG-B's is (N−2B)/(2(N−B)) at every measuring point", 1e-12)
    summary = Check("summary", "mean and maximum over the last 70 %, from the series", 1e-12)
    with store.open_results(path) as file:
        group = _check_root(file, run, contents, digests)
        trajectory = read_trajectory(group, path, run, sizes, contents)
        found = ABSENT if group is None else group.attrs.get("data_digest", ABSENT)
        same = isinstance(found, str) and found == sizes.data_digest
        data.expect(same, run.id, None, "attribute data_digest", found, sizes.data_digest)
        if trajectory is not None:
            _check_ranges(trajectory, ranges)
            _check_ratio(trajectory, sizes.n_train, ratio)
            _check_summary(file, trajectory, sizes, summary)
    return trajectory, [data, digests, contents, ranges, ratio, summary]


def _check_root(file: h5py.File, run: ImageRun, contents: Check, digests: Check) -> Any:
    """Attributes, the table and the one trajectory, and nothing else; the digests. Return the trajectory's group."""
    check_root_members(file, contents)
    group = file["trajectories"]
    names = list(group) if isinstance(group, h5py.Group) else []
    own = names == [run.id] and isinstance(group.get(run.id, getlink=True), h5py.HardLink)
    contents.expect(own, "/", None, "trajectories", ", ".join(names), run.id)
    check_digest(file, "/", store.root_digest, digests)
    trajectory = group[run.id] if own else None
    if trajectory is not None:
        check_digest(trajectory, run.id, store.digest, digests)
    return trajectory


def _check_ranges(trajectory: Trajectory, ranges: Check) -> None:
    """Every series stays where its definition keeps it; the raw ratio of Monte Carlo may exceed 1."""
    bounded = ("train_accuracy", "test_accuracy") + ("normalized",) * (trajectory.run.method == "closed-form")
    for name, values in trajectory.series.items():
        highest = 1.0 if name.startswith(bounded) else np.inf
        ranges.n += len(values)
        # An average of numbers that round to 1 may exceed it by an ulp or two.
        for index in np.flatnonzero((values < 0) | (values > highest * (1 + 1e-12))):
            ranges.fail(trajectory.run.id, None, f"{name}[{index}]", values[index], f"in 0…{highest:g}")


def _check_ratio(trajectory: Trajectory, n: int, check: Check) -> None:
    """Of all that is measured between snapshots, SG-2B alone follows from something else that is stored."""
    run = trajectory.run
    if run.method != "closed-form" or not {"sgb", "sg2b"} <= set(run.methods) or n == run.batch_size:
        return
    expected = trajectory.series["variance/sgb"] * ((n - 2 * run.batch_size) / (2 * (n - run.batch_size)))
    check.compare(run.id, "variance/sg2b", trajectory.series["iteration"], trajectory.series["variance/sg2b"], expected)


def _check_summary(file: h5py.File, trajectory: Trajectory, sizes: Sizes, check: Check) -> None:
    """Compare the table, a row a method."""
    try:
        stored = file["summary"][()]
    except READ_ERRORS:
        stored = ABSENT
    run, table = trajectory.run, (store.SUMMARY_DTYPE, (len(trajectory.run.methods),))
    found = (getattr(stored, "dtype", None), getattr(stored, "shape", None))
    if not check.expect(found == table, "/summary", None, "type and shape", found, table):
        return
    for row, method in zip(stored, run.methods, strict=True):
        expected = np.array(_summary_row(trajectory, method, sizes), store.SUMMARY_DTYPE)
        for column in store.SUMMARY_DTYPE.names or ():
            label, ours, theirs = f"/summary, {method}", expected[column][()], row[column]
            if column.endswith("70"):
                check.compare(label, column, [None], theirs, ours)
            else:
                check.expect(bool(ours == theirs), label, None, column, theirs, ours)


def _summary_row(trajectory: Trajectory, method: str, sizes: Sizes) -> tuple:
    """The row of a method, by its definition; NaN where nothing was measured."""
    run = trajectory.run
    tails = [trajectory.series[f"{kind}/{method}"] for kind in STATISTICS]
    tails = [tail[ceil(0.3 * len(tail)) :] for tail in tails]
    numbers = [x for tail in tails for x in ((tail.sum() / len(tail), tail.max()) if len(tail) else (np.nan, np.nan))]
    return (
        run.id.encode(), method.encode(), run.learning_rate, sizes.n_parameters / sizes.n_train, sizes.n_train, 0, 0,
        run.seed, run.duplicate_fraction, *numbers,
    )  # fmt: skip
