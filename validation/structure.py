"""Is a results file of the random-features study whole: its digests, its contents, its summary."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gcref import store
from gcref.studies.grid import Spec, Sweep
from gcref.studies.methods import clustered
from gcref.studies.teacher import n_train
from gcref.validation.tally import Check

Array = NDArray[np.float64]
READ_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)
ROOT_ATTRIBUTES = {
    "schema": str, "gcref_version": str, "command": str, "config": str, "complete": np.bool_, "digest": str
}  # fmt: skip
STORED_AS: dict[type, type] = {str: str, int: np.int64, float: np.float64}
MEMBERS = ("summary", "trajectories")
STATISTICS = ("variance", "normalized_variance")


class _Absent:
    """What stands for a data set that is not there, or cannot be read."""

    def __repr__(self) -> str:
        return "missing or unreadable"


ABSENT = _Absent()


@dataclass(frozen=True)
class Snapshot:
    """What the numbers of one iteration depend on: theta (I, O), svrg_theta (I, O), labels (N,) by method."""

    theta: Array
    svrg_theta: Array | None
    labels: dict[str, NDArray[np.int32]]


@dataclass(frozen=True)
class Trajectory:
    """A trajectory as stored: series (L,) by name and snapshots by iteration."""

    spec: Spec
    n_train: int
    series: dict[str, Array]
    snapshots: dict[int, Snapshot]

    @property
    def n_measured(self) -> int:
        """How many measuring points come before the trajectory diverged."""
        return int(np.isfinite(self.series["train_loss"]).sum())


def series_names(sweep: Sweep) -> list[str]:
    """The data sets with one number a measuring point."""
    names = ["train_loss", "train_accuracy", "noise_scale"]
    return names + [f"{kind}/{method}" for kind in STATISTICS for method in sweep.methods]


# ---------------------------------------------------------------------------------------------------------------------
# Reading one trajectory


def read_trajectory(group: Any, sweep: Sweep, spec: Spec, check: Check) -> Trajectory | None:
    """Read a trajectory, counting into `check` whatever is not as the configuration says; None if it is no use."""
    failures = check.n_failures
    if not check.expect(isinstance(group, h5py.Group), spec.id, None, "group", type(group).__name__, "a group"):
        return None
    n = n_train(spec.overparametrization, sweep.student_hidden)
    _check_attributes(group, sweep, spec, check)
    points = np.array(sweep.points)
    iteration = _read(group, "iteration", points.shape, np.dtype(np.int64), spec, check)
    if iteration is not ABSENT:
        check.expect(np.array_equal(iteration, points), spec.id, None, "iteration", iteration, points)
    series = {name: _read(group, name, points.shape, np.dtype(np.float64), spec, check) for name in series_names(sweep)}
    if check.n_failures > failures:
        return None
    trajectory = Trajectory(spec, n, series, {})
    _check_status(group, trajectory, len(points), check)
    for point in expected_snapshots(sweep, trajectory.n_measured):
        snapshot = _read_snapshot(group, point, sweep, trajectory, check)
        if snapshot is not None:
            trajectory.snapshots[point] = snapshot
    _check_nothing_else(group, sweep, trajectory, check)
    return trajectory if check.n_failures == failures else None


def expected_snapshots(sweep: Sweep, n_measured: int) -> list[int]:
    """The iterations that have a snapshot: every refresh and the end, or every measuring point."""
    points = list(sweep.points)[:n_measured]
    return [p for p in points if sweep.snapshots == "all" or sweep.refreshes(p) or p == sweep.iterations]


def _check_attributes(group: h5py.Group, sweep: Sweep, spec: Spec, check: Check) -> None:
    """Compare the hyper-parameters with the configuration; there is nothing else."""
    expected = sweep.hyper_parameters(spec)
    found = dict(group.attrs)
    for name, value in expected.items():
        stored = found.pop(name, ABSENT)
        same = isinstance(stored, STORED_AS[type(value)]) and bool(stored == value)
        check.expect(same, spec.id, None, f"attribute {name}", stored, value)
    seconds = found.pop("seconds", ABSENT)
    valid = isinstance(seconds, np.float64) and bool(np.isfinite(seconds)) and seconds >= 0
    check.expect(valid, spec.id, None, "attribute seconds", seconds, "a time")
    for name in found.keys() - {"digest", "status"}:
        check.fail(spec.id, None, f"attribute {name}", found[name], "no such attribute")


def _check_status(group: h5py.Group, trajectory: Trajectory, n_points: int, check: Check) -> None:
    """Complete, and every number finite; or diverged, and every series NaN from the same point on."""
    measured, spec = trajectory.n_measured, trajectory.spec
    status = group.attrs.get("status", ABSENT)
    expected = "complete" if measured == n_points else "diverged"
    check.expect(isinstance(status, str) and status == expected, spec.id, None, "attribute status", status, expected)
    for name, values in trajectory.series.items():
        finite = ~np.isnan(values) if name == "noise_scale" else np.isfinite(values)  # infinite where ḡ is zero
        whole = bool(finite[:measured].all() and np.isnan(values[measured:]).all())
        what = f"finite for {measured} measurements, then NaN"
        check.expect(whole, spec.id, None, name, f"finite for {finite.sum()}", what)


def _read_snapshot(
    group: h5py.Group, point: int, sweep: Sweep, trajectory: Trajectory, check: Check
) -> Snapshot | None:
    """Read theta, svrg_theta and labels of one iteration; None if one of them is not as it should be."""
    failures, spec, n_clusters = check.n_failures, trajectory.spec, sweep.batch_size
    n_outputs = 2 if sweep.head == "softmax" else 1
    shape = (sweep.student_hidden + 1, n_outputs)
    found: dict[str, Any] = {}
    for name in snapshot_names(sweep):
        is_labels = name.startswith("labels")
        dtype, size = (np.int32, trajectory.n_train) if is_labels else (np.float64, shape[0] * n_outputs)
        values = _read(group, f"snapshots/{point}/{name}", (size,), np.dtype(dtype), spec, check, point)
        if values is ABSENT:
            continue
        if is_labels:
            used = np.array_equal(np.unique(values), np.arange(n_clusters))
            what = f"every one of 0…{n_clusters - 1} and nothing else"
            check.expect(used, spec.id, point, name, f"in {values.min()}…{values.max()}", what)
        else:
            finite = bool(np.isfinite(values).all())
            check.expect(finite, spec.id, point, name, "not finite everywhere", "finite numbers")
        found[name] = values if is_labels else values.reshape(shape)
    if check.n_failures > failures:
        return None
    labels = {method: found[f"labels/{method}"] for method in clustered(sweep.methods)}
    return Snapshot(found["theta"], found.get("svrg_theta"), labels)


def snapshot_names(sweep: Sweep) -> list[str]:
    """The data sets of a snapshot."""
    names = ["theta"]
    if "svrg" in sweep.methods:
        names.append("svrg_theta")
    return names + [f"labels/{method}" for method in clustered(sweep.methods)]


def _read(
    group: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    spec: Spec,
    check: Check,
    iteration: int | None = None,
) -> Any:
    """Read a data set of this shape and dtype, or count a failure and return ABSENT."""
    stored: Any
    try:
        item = group[name]
        # The shape is looked at before the numbers are read: a damaged one may claim any size.
        stored = (item.shape, item.dtype.str)
        values = item[()] if stored == (shape, dtype.str) else ABSENT
    except READ_ERRORS:
        stored = values = ABSENT
    check.expect(values is not ABSENT, spec.id, iteration, name, stored, (shape, dtype.str))
    return values


def _check_nothing_else(group: h5py.Group, sweep: Sweep, trajectory: Trajectory, check: Check) -> None:
    """No data set that the configuration does not ask for."""
    known = {"iteration", *series_names(sweep)}
    for point in expected_snapshots(sweep, trajectory.n_measured):
        known |= {f"snapshots/{point}/{name}" for name in snapshot_names(sweep)}
    check_nothing_beside(group, known, trajectory.spec.id, check)


def check_nothing_beside(group: h5py.Group, known: Collection[str], trajectory: str, check: Check) -> None:
    """Below a trajectory's group are the data sets `known` and the groups that they lie in, without attributes."""
    groups = {name.rsplit("/", k)[0] for name in known for k in range(1, name.count("/") + 1)}
    for name, item in members(group):
        expected = h5py.Dataset if name in known else h5py.Group if name in groups else None
        if expected is None or not isinstance(item, expected):
            check.fail(trajectory, None, name, type(item).__name__, "nothing of this name and kind")
        elif len(item.attrs):
            check.fail(trajectory, None, name, f"with attributes {', '.join(item.attrs)}", "none")


def members(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Everything below a group by name; what is only linked to from here is yielded as its link."""
    for name in group:
        link = group.get(name, getlink=True)
        item = group[name] if isinstance(link, h5py.HardLink) else link
        yield prefix + name, item
        # A hard link can lead back up; no name of ours is deeper than snapshots/<iteration>/labels/<method>.
        if isinstance(item, h5py.Group) and prefix.count("/") < 4:
            yield from members(item, f"{prefix}{name}/")


# ---------------------------------------------------------------------------------------------------------------------
# The whole file


def inspect_file(path: Path | str, sweep: Sweep) -> tuple[list[Spec], list[Check]]:
    """Check all that needs no gradient.

    Parameters
    ----------
    path : path
    sweep : Sweep
        The file's own configuration.

    Returns
    -------
    specs, checks
        The trajectories that are whole, so that their numbers can be recomputed, and the checks: digests, contents,
        ranges, summary.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read as a results file.
    """
    digests = Check("digests", "SHA-256 of every trajectory and of the whole file")
    contents = Check("contents", "trajectories, attributes, data sets and statuses against the configuration")
    ranges = Check("ranges", "variance ≥ 0, 0 ≤ normalized ≤ 1, and so on")
    summary = Check("summary", "mean and maximum over the last 70 %, from the series", 1e-12)
    good: list[Trajectory] = []
    with store.open_results(path) as file:
        _check_root(file, sweep, contents, digests)
        for spec, group in _groups(file, sweep):
            check_digest(group, spec.id, store.digest, digests)
            trajectory = read_trajectory(group, sweep, spec, contents)
            if trajectory is None:
                continue
            _check_ranges(trajectory, ranges)
            good.append(trajectory)
        _check_summary(file, sweep, good, summary)
    return [trajectory.spec for trajectory in good], [digests, contents, ranges, summary]


def _groups(file: h5py.File, sweep: Sweep) -> Iterator[tuple[Spec, Any]]:
    """The trajectories that are there, in the order of the grid."""
    for spec in sweep.specs():
        try:
            group = file["trajectories"][spec.id]
        except READ_ERRORS:
            continue
        yield spec, group


def _check_root(file: h5py.File, sweep: Sweep, contents: Check, digests: Check) -> None:
    """Attributes, the table and the trajectories, and nothing else; the digest of the whole."""
    check_root_members(file, contents)
    _check_trajectory_names(file, sweep, contents)
    check_digest(file, "/", store.root_digest, digests)


def check_root_members(file: h5py.File, contents: Check) -> None:
    """The root has its attributes, the table and the trajectories, and nothing else."""
    for name, kind in ROOT_ATTRIBUTES.items():
        value = file.attrs.get(name, ABSENT)
        contents.expect(isinstance(value, kind), "/", None, f"attribute {name}", value, f"a {kind.__name__}")
    for name in file.attrs.keys() - ROOT_ATTRIBUTES.keys():
        contents.fail("/", None, f"attribute {name}", file.attrs[name], "no such attribute")
    for name in file:
        own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        contents.expect(own and name in MEMBERS, "/", None, name, "there", "nothing but summary and trajectories")
        if own and name in MEMBERS and len(file[name].attrs):
            contents.fail(f"/{name}", None, "attributes", ", ".join(file[name].attrs), "none")


def _check_trajectory_names(file: h5py.File, sweep: Sweep, contents: Check) -> None:
    """The trajectories are the configuration's; some may be missing if the run was stopped."""
    group = file["trajectories"]
    there = set(group) if isinstance(group, h5py.Group) else set()
    wanted = {spec.id for spec in sweep.specs()}
    for name in sorted(there):
        own = isinstance(group.get(name, getlink=True), h5py.HardLink)
        contents.expect(own and name in wanted, name, None, "group", "there", "a trajectory of the configuration")
    missing = sorted(wanted - there)
    complete = bool(file.attrs.get("complete", True))
    contents.note = f"an unfinished run: {len(there)} of {len(wanted)} trajectories" if missing else ""
    for name in missing if complete else []:
        contents.fail(name, None, "group", "missing", "there, as the file calls itself complete")
    if not complete and not missing:
        contents.fail("/", None, "attribute complete", False, "True, as every trajectory is there")


def check_digest(item: Any, name: str, digest: Callable[[Any], str], digests: Check) -> None:
    """The numbers of a file or a group are those that were written."""
    try:
        stored, found = item.attrs.get("digest", ABSENT), digest(item)
    except READ_ERRORS as error:
        stored, found = ABSENT, f"unreadable ({error})"
    digests.expect(isinstance(stored, str) and stored == found, name, None, "attribute digest", stored, found)


def _check_ranges(trajectory: Trajectory, ranges: Check) -> None:
    """Every series stays where its definition keeps it."""
    spec, measured = trajectory.spec, trajectory.n_measured
    for name, values in trajectory.series.items():
        highest = 1.0 if name.startswith("normalized") or name == "train_accuracy" else np.inf
        ranges.n += measured
        # An average of numbers that round to 1 may exceed it by an ulp or two.
        for index in np.flatnonzero((values < 0) | (values > highest * (1 + 1e-12))):
            ranges.fail(spec.id, None, f"{name}[{index}]", values[index], f"in 0…{highest:g}")


def _summary_row(trajectory: Trajectory, method: str) -> tuple:
    """The row of a trajectory and method, by its definition."""
    spec = trajectory.spec
    tails = [trajectory.series[f"{kind}/{method}"] for kind in STATISTICS]
    tails = [tail[ceil(0.3 * len(tail)) :] for tail in tails]
    numbers = [number for tail in tails for number in (tail.sum() / len(tail), tail.max())]
    return (
        spec.id.encode(), method.encode(), spec.learning_rate, spec.overparametrization, trajectory.n_train,
        spec.input_dim, spec.teacher_hidden, spec.seed, spec.duplicate_fraction, *numbers,
    )  # fmt: skip


def _check_summary(file: h5py.File, sweep: Sweep, good: list[Trajectory], check: Check) -> None:
    """Compare the table, a row for each trajectory there and method, in the order of the grid."""
    try:
        stored = file["summary"][()]
    except READ_ERRORS:
        stored = ABSENT
    dtype, shape = getattr(stored, "dtype", None), getattr(stored, "shape", ())
    table = dtype == store.SUMMARY_DTYPE and len(shape) == 1
    if not check.expect(table, "/summary", None, "type", (dtype, shape), ("the summary's fields", "one dimension")):
        return
    names = [(spec.id, method) for spec, _ in _groups(file, sweep) for method in sweep.methods]
    found = list(zip(stored["trajectory"].astype(str), stored["method"].astype(str), strict=True))
    if not check.expect(found == names, "/summary", None, "rows", f"{len(found)} rows", f"{len(names)}, in order"):
        return
    rows = [_summary_row(trajectory, method) for trajectory in good for method in sweep.methods]
    expected = np.array(rows, store.SUMMARY_DTYPE)
    kept = {trajectory.spec.id for trajectory in good}
    stored = stored[[name in kept for name, _ in names]]
    labels = [f"/summary, {name}, {method}" for name, method in names if name in kept]
    for column in store.SUMMARY_DTYPE.names or ():
        for label, ours, theirs in zip(labels, expected[column], stored[column], strict=True):
            if column.endswith("70"):
                check.compare(label, column, [None], theirs, ours)
            else:
                check.expect(bool(ours == theirs), label, None, column, theirs, ours)
