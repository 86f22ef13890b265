"""Results files as tables: the series of every trajectory read at once, and put into the tidy form of data frames.

The tidy table has a row for each trajectory, iteration and method, and these columns:

=======================================  =============================================================================
``trajectory``, ``status``               its name in the file; "complete", "diverged" or "unfinished"
hyper-parameters                         random features: learning_rate, overparametrization (h_s/N), n_train,
                                         input_dim, teacher_hidden, duplicate_fraction, seed. Images: dataset, model,
                                         learning_rate, batch_size, label_smoothing, corrupt_fraction,
                                         duplicate_fraction, n_train, n_parameters, seed
``iteration``, ``method``                SGD steps done; the estimator
``variance``                             averaged over the coordinates of the gradient, in its squared units
``normalized_variance``                  averaged over coordinates of V/(V + ḡ²)
``noise_scale``                          tr Σ/‖ḡ‖², the same for every method of a trajectory and iteration, as are the
                                         series that follow
``train_loss``, ``train_accuracy``       and, of images, test_loss, test_accuracy
``current_learning_rate``                of images: after the drops so far
=======================================  =============================================================================

What diverged is NaN, or, of images, has no row. Snapshots, and what is the same in a whole file (its ``config``), are
not in the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from gcref.store import StoreError, open_results, read_attrs, read_config, readable

KINDS = ("variance", "normalized_variance")
HYPER_PARAMETERS = {
    "rf-sweep/1": (
        "learning_rate", "overparametrization", "n_train", "input_dim", "teacher_hidden", "duplicate_fraction", "seed",
    ),
    "image/1": (
        "dataset", "model", "learning_rate", "batch_size", "label_smoothing", "corrupt_fraction", "duplicate_fraction",
        "n_train", "n_parameters", "seed",
    ),
}  # fmt: skip
_ROOT = {"schema": str, "gcref_version": str, "command": str, "config": str, "complete": bool, "digest": str}
_COMMON = ("noise_scale", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")
_RENAMED = {"learning_rate": "current_learning_rate"}  # the hyper-parameter has the name already

Vector = NDArray[Any]


class Trajectory(NamedTuple):
    """What a file has of one trajectory, but for its snapshots.

    Attributes
    ----------
    name : str
    attrs : dict
        Plain numbers, strings and truth values.
    iteration : ndarray, shape (L,), int64
    common : dict of ndarray, shape (L,), float64
        Series that are the same for every method, by the names of the columns.
    by_method : dict of dict of ndarray, shape (L,), float64
        "variance" and "normalized_variance", each by method.
    """

    name: str
    attrs: dict[str, Any]
    iteration: NDArray[np.int64]
    common: dict[str, NDArray[np.float64]]
    by_method: dict[str, dict[str, NDArray[np.float64]]]


@dataclass(frozen=True, eq=False)
class Results:
    """A results file of either study.

    Attributes
    ----------
    path : Path
    attrs : dict
        The file's own: schema, gcref_version, command, config, complete, digest.
    config : dict
        The study's configuration; ``config["schema"]`` names the study.
    trajectories : list of Trajectory
        In the order of the file; all with the same methods and common series.
    n_snapshots : int
        Of all trajectories together.
    """

    path: Path
    attrs: dict[str, Any]
    config: dict[str, Any]
    trajectories: list[Trajectory]
    n_snapshots: int

    @property
    def study(self) -> str:
        """The schema of the study, such as "rf-sweep/1"."""
        return str(self.config["schema"])

    @property
    def methods(self) -> list[str]:
        """The methods measured, in the configuration's order where it has one."""
        there = list(self.trajectories[0].by_method[KINDS[0]]) if self.trajectories else []
        asked = self.config.get("methods")
        order = {m: i for i, m in enumerate(asked)} if isinstance(asked, list) and _all_strings(asked) else {}
        return sorted(there, key=lambda m: (order.get(m, len(order)), m))


def read_results(path: Path | str) -> Results:
    """Read a results file, its snapshots left out.

    Raises
    ------
    gcref.store.StoreError
        If it cannot be read or is damaged, of an unknown study, or its trajectories do not go together.
    """
    path = Path(path)
    config, attrs = (
        read_config(path),
        {name: _plain(value) for name, value in read_attrs(path).items() if name in _ROOT},
    )
    wrong = [name for name, value in attrs.items() if not isinstance(value, _ROOT[name])]
    if wrong:
        raise StoreError(f"{path} is damaged: its attribute {wrong[0]} is of type {type(attrs[wrong[0]]).__name__}")
    study = config["schema"]
    if study not in HYPER_PARAMETERS:
        raise StoreError(f"{path}: config has schema {study!r}; {' or '.join(HYPER_PARAMETERS)} is expected")
    trajectories, n_snapshots = [], 0
    with open_results(path) as file, readable(path):
        for name, group in file["trajectories"].items():
            trajectories.append(_read(name, group))
            n_snapshots += len(group["snapshots"]) if "snapshots" in group else 0
    for trajectory in trajectories:
        _check(path, trajectory, trajectories[0], HYPER_PARAMETERS[study])
    return Results(path, attrs, config, trajectories, n_snapshots)


def _read(name: str, group: h5py.Group) -> Trajectory:
    """Read the series of a trajectory."""
    common = {_RENAMED.get(s, s): group[s][()] for s in _COMMON if s in group}
    by_method = {kind: {method: series[()] for method, series in group[kind].items()} for kind in KINDS}
    attrs = {key: _plain(value) for key, value in group.attrs.items()}
    return Trajectory(name, attrs, group["iteration"][()], common, by_method)


def _plain(value: Any) -> Any:
    """Return a number, string or truth value of Python for one of NumPy."""
    return value.item() if isinstance(value, np.generic) else value


def _check(path: Path, trajectory: Trajectory, first: Trajectory, needed: Sequence[str]) -> None:
    """Refuse a trajectory that does not fit into a table, or not beside the first."""
    name, attrs, iteration, common, by_method = trajectory
    missing = [key for key in (*needed, "status") if not isinstance(attrs.get(key), int | float | str)]
    missing += [key for key in needed if key not in missing and type(attrs[key]) is not type(first.attrs.get(key))]
    if missing or not isinstance(attrs["status"], str):
        raise StoreError(f"{path}: trajectory {name} has no usable attribute {', '.join(missing) or 'status'}")
    series = {"iteration": iteration, **common, **{f"{k}/{m}": s for k in KINDS for m, s in by_method[k].items()}}
    for what, values in series.items():
        kinds = "iu" if what == "iteration" else "fiu"
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in kinds:
            raise StoreError(f"{path}: {what} of trajectory {name} must be a series of numbers")
        if values.shape != iteration.shape:
            raise StoreError(f"{path}: {what} of trajectory {name} has {len(values)} numbers, not {len(iteration)}")
    same = common.keys() == first.common.keys() and all(
        by_method[kind].keys() == first.by_method[KINDS[0]].keys() for kind in KINDS
    )
    if not same:
        raise StoreError(f"{path}: trajectory {name} has other series than {first.name}")


def tidy(results: Results) -> dict[str, Vector]:
    """Return the tidy table: its columns, by name, in order (see the module).

    Parameters
    ----------
    results : Results

    Returns
    -------
    dict of ndarray, shape (rows,)
        Text is of NumPy's own type; ``pandas.DataFrame(tidy(results))`` takes it as it is.
    """
    parts = [_rows(t, results.methods, HYPER_PARAMETERS[results.study]) for t in results.trajectories]
    if not parts:
        raise StoreError(f"{results.path} has no trajectory yet")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(trajectory: Trajectory, methods: Sequence[str], hyper_parameters: Sequence[str]) -> dict[str, Vector]:
    """Return the rows of one trajectory, method by method within an iteration."""
    length, n_methods = len(trajectory.iteration), len(methods)
    constant = {"trajectory": trajectory.name, "status": trajectory.attrs["status"]}
    constant |= {name: trajectory.attrs[name] for name in hyper_parameters}
    columns = {name: np.full(length * n_methods, value) for name, value in constant.items()}
    columns["iteration"] = np.repeat(trajectory.iteration.astype(np.int64), n_methods)
    columns["method"] = np.tile(np.array(methods), length)
    for kind in KINDS:
        series = trajectory.by_method[kind]
        columns[kind] = np.stack([series[m].astype(np.float64) for m in methods], axis=1).ravel()
    for name, values in trajectory.common.items():
        columns[name] = np.repeat(values.astype(np.float64), n_methods)
    return columns


def cube(results: Results) -> tuple[dict[str, tuple[tuple[str, ...], Vector]], dict[str, tuple[str, Vector]]]:
    """Return the same numbers as arrays over named dimensions, for xarray.

    Returns
    -------
    variables : dict
        By name, dimensions and values: those of `KINDS` over trajectory, iteration and method, the other series over
        trajectory and iteration. Where a trajectory ended early there is NaN.
    coordinates : dict
        By name, dimension and values: trajectory, iteration, method, and along trajectory status and hyper-parameters.
    """
    trajectories, methods = results.trajectories, results.methods
    if not trajectories:
        raise StoreError(f"{results.path} has no trajectory yet")
    iteration = np.unique(np.concatenate([t.iteration for t in trajectories])).astype(np.int64)
    places = [np.searchsorted(iteration, t.iteration) for t in trajectories]

    def spread(series: Sequence[Vector]) -> Vector:
        out = np.full((len(trajectories), len(iteration)), np.nan)
        for row, place, values in zip(out, places, series, strict=True):
            row[place] = values
        return out

    variables: dict[str, tuple[tuple[str, ...], Vector]] = {
        kind: (
            ("trajectory", "iteration", "method"),
            np.stack([spread([t.by_method[kind][m] for t in trajectories]) for m in methods], axis=2),
        )
        for kind in KINDS
    }
    for name in trajectories[0].common:
        variables[name] = ("trajectory", "iteration"), spread([t.common[name] for t in trajectories])
    along = {
        name: np.array([t.attrs[name] for t in trajectories]) for name in (*HYPER_PARAMETERS[results.study], "status")
    }
    coordinates: dict[str, tuple[str, Vector]] = {
        "trajectory": ("trajectory", np.array([t.name for t in trajectories])),
        "iteration": ("iteration", iteration),
        "method": ("method", np.array(methods)),
        **{name: ("trajectory", values) for name, values in along.items()},
    }
    return variables, coordinates


def _all_strings(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def course(series: Sequence[Vector]) -> Vector:
    """Average series of one length over the finite ones at each point; NaN where there is none."""
    stacked = np.array(series, dtype=np.float64)
    finite = np.isfinite(stacked)
    total = np.where(finite, stacked, 0).sum(axis=0)
    count = finite.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def group_by(results: Results, names: Sequence[str]) -> Mapping[tuple[Any, ...], list[Trajectory]]:
    """Group trajectories by the values of hyper-parameters, in the order in which these come."""
    groups: dict[tuple[Any, ...], list[Trajectory]] = {}
    for trajectory in results.trajectories:
        groups.setdefault(tuple(trajectory.attrs[name] for name in names), []).append(trajectory)
    return groups
