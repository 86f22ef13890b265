"""What is inside a file that gcref wrote: results of either study, traces, sketches, or the labels of clusters."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcref.clustering.sketches import Sketches, read_archive
from gcref.store import StoreError, doubts, parts_of
from gcref.tables import KINDS, Results, Trajectory, course, group_by, read_results
from gcref.trace_files import TraceFile, TraceFileError

_LABELS = {  # dimensions, and kinds of type
    "labels": (1, "iu"), "sizes": (1, "iu"), "weights": (1, "f"), "objective": (1, "f"),
    "method": (0, "U"), "n_clusters": (0, "iu"), "seed": (0, "iu"), "gcref_version": (0, "U"),
}  # fmt: skip
_GROUPED = {"rf-sweep/1": ("learning_rate", "duplicate_fraction"), "image/1": ()}


def describe(path: Path | str) -> dict[str, Any]:
    """Say what is inside a file, in plain numbers, strings, lists and dictionaries that JSON can hold.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        ``path``, ``bytes``, and ``kind``: "results", "traces", "sketches" or "labels"; what else depends on the kind.
        Of results: study, complete, gcref_version, command, config, doubts (what a reader should know before trusting
        them), methods, n_trajectories, n_diverged, n_snapshots, and groups: for each learning rate and share of
        duplicates (a single group for images) n_trajectories and series, by name, each with ``course``, the mean
        over trajectories at each measuring point of ``iteration``, and ``mean70``, its mean over the last 70 % of
        these. What is not a finite number is None.

    Raises
    ------
    ValueError
        If there is no such file, or it is damaged or none of these. `gcref.store.StoreError` is one.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}{_hint(path)}")
    found = _of_archive(path) if zipfile.is_zipfile(path) else _of_hdf5(path)
    return finite({"path": str(path), "bytes": path.stat().st_size, **found})


def _hint(path: Path) -> str:
    """Say where the parts of an unfinished run are, if there are any."""
    if not path.name:  # such as the folder "."
        return ""
    parts = parts_of(path)
    n = len(list(parts.glob("*.h5")))
    return f"; an unfinished run left {n} parts in {parts}: the same command finishes it" if n else ""


def _of_hdf5(path: Path) -> dict[str, Any]:
    """Describe results, or traces."""
    try:
        results = read_results(path)
    except StoreError:
        try:
            return _of_traces(TraceFile(path))
        except TraceFileError:
            pass
        raise
    return _of_results(results)


def _of_archive(path: Path) -> dict[str, Any]:
    """Describe an .npz archive: labels, sketches or traces."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if "labels.npy" in names:
        return _of_labels(path)
    if "sketches.npy" in names:
        sketches = Sketches.load(path)
        n, dim = sketches.values.shape
        return {"kind": "sketches", "n_examples": n, "dim": dim, "seed": sketches.seed, "blocks": sketches.blocks}
    return _of_traces(TraceFile(path))


def _of_traces(traces: TraceFile) -> dict[str, Any]:
    blocks = [list(block) for block in traces.blocks]
    n_parameters = sum(i * o for _, i, o in traces.blocks)
    return {"kind": "traces", "n_examples": traces.n_examples, "n_parameters": n_parameters, "blocks": blocks}


def _of_labels(path: Path) -> dict[str, Any]:
    """Describe what ``gcref cluster`` writes."""
    arrays = read_archive(path, _LABELS, "the labels of clusters")
    if not _are_labels(arrays):
        raise ValueError(f"{path} holds arrays of other types or shapes than the labels of clusters have")
    sizes, objective = arrays["sizes"], arrays["objective"]
    return {
        "kind": "labels", "n_examples": len(arrays["labels"]), "n_clusters": len(sizes),
        **{name: arrays[name].item() for name in ("method", "seed", "gcref_version")},
        "sizes": {"smallest": int(sizes.min()), "median": float(np.median(sizes)), "largest": int(sizes.max())},
        "objective": objective.tolist(),
    }  # fmt: skip


def _are_labels(arrays: dict[str, Any]) -> bool:
    """Tell whether the arrays have the shapes and types of `_LABELS`; one that is damaged can be mere bytes."""
    return all(
        isinstance(arrays[name], np.ndarray)
        and arrays[name].ndim == ndim
        and arrays[name].dtype.kind in kinds
        and arrays[name].size
        for name, (ndim, kinds) in _LABELS.items()
    )


def _of_results(results: Results) -> dict[str, Any]:
    """Describe a results file."""
    trajectories = results.trajectories
    groups = group_by(results, _GROUPED[results.study])
    return {
        "kind": "results", "study": results.study, "complete": bool(results.attrs.get("complete", True)),
        "gcref_version": results.attrs.get("gcref_version"), "command": results.attrs.get("command"),
        "doubts": doubts(results.path), "config": results.config, "methods": results.methods,
        "n_trajectories": len(trajectories),
        "n_diverged": sum(t.attrs["status"] == "diverged" for t in trajectories),
        "n_snapshots": results.n_snapshots,
        "groups": [
            dict(zip(_GROUPED[results.study], key, strict=True)) | _of_group(group, results.methods)
            for key, group in groups.items()
        ],
    }  # fmt: skip


def _of_group(group: Sequence[Trajectory], methods: Sequence[str]) -> dict[str, Any]:
    """Average the series of trajectories that belong together; those that ended early count as far as they got."""
    longest = max(group, key=lambda t: len(t.iteration))
    length = len(longest.iteration)

    def average(series: list[np.ndarray]) -> dict[str, Any]:
        padded = [np.concatenate([s, np.full(length - len(s), np.nan)]) for s in series]
        values = course(padded)
        tail = values[math.ceil(0.3 * length) :]
        tail = tail[np.isfinite(tail)]
        return {"course": values.tolist(), "mean70": float(tail.mean()) if tail.size else None}

    series = {f"{kind}/{m}": average([t.by_method[kind][m] for t in group]) for kind in KINDS for m in methods}
    series |= {name: average([t.common[name] for t in group]) for name in longest.common}
    return {"n_trajectories": len(group), "iteration": longest.iteration.tolist(), "series": series}


def finite(value: Any) -> Any:
    """Replace what JSON has no word for, infinity and NaN, by None, and tuples by lists, in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
