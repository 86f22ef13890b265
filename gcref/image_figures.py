"""The paper's figures of the image study (Figs. 3, 6, 7), drawn from results files of one run each.

A curve is the mean over a rolling window of measuring points, its shade one standard deviation (divisor n) either way,
as in section 4.1 of the paper. Two runs that a figure's titles would not tell apart are both drawn, and the titles then
say in which settings they differ; one configuration given twice is refused.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gcref.image_panels import Curve, Panel, Series, draw
from gcref.panels import method_label, method_looks, methods_in_order
from gcref.store import StoreError, open_results, read_config, readable

__all__ = ["Run", "default_window", "drawings", "figure3", "figure6", "figure7", "read_run", "rolling", "undrawable"]

SCHEMA = "image/1"
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "dataset": str, "model": str, "label_smoothing": (int, float), "corrupt_fraction": (int, float),
    "duplicate_fraction": (int, float), "milestones": list, "refresh_every": int, "iterations": int, "method": str,
    "n_estimates": int,
}  # fmt: skip
_NAMES = {
    "digits": "Digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100", "imagefolder": "Image folder", "linear": "linear model", "mlp": "MLP", "cnn": "CNN",
    "resnet8": "ResNet8", "resnet20": "ResNet20", "resnet32": "ResNet32", "resnet18": "ResNet18",
}  # fmt: skip
_KINDS = ("variance", "normalized_variance")
_MOST_POINTS, _MOST_CURVES = 100_000, 100  # more than can be told apart, and drawn in a minute
_MOST_SETTINGS = 2  # that fit a title
_NEVER_REFRESHED = {"sgb", "sg2b"}
_UNIT = "per coordinate, squared gradient units"


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the image study, as its file has it.

    Attributes
    ----------
    path : Path
    config : mapping
        The configuration, as in the file's JSON.
    status : str
        "complete", "diverged" or "unfinished".
    iteration : ndarray, shape (L,), int64
        The measuring points, increasing; at least one.
    variance, normalized_variance : dict of ndarray, shape (L,), float64
        By method.
    """

    path: Path
    config: Mapping[str, Any]
    status: str
    iteration: NDArray[np.int64]
    variance: Mapping[str, Series]
    normalized_variance: Mapping[str, Series]


def read_run(path: Path | str) -> Run:
    """Read a results file of the image study.

    Raises
    ------
    gcref.store.StoreError
        If it cannot be read, is of another study, or has no measurements that belong together.
    """
    path, config = Path(path), read_config(path)
    if config["schema"] != SCHEMA:
        raise StoreError(f"{path} is of another study: config has schema {config['schema']!r}, expected {SCHEMA!r}")
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(config.get(name), kind)]
    if not wrong and not all(isinstance(drop, int) for drop in config["milestones"]):
        wrong = ["milestones"]
    if wrong or config["refresh_every"] < 1:
        raise StoreError(f"{path}: config has no usable {', '.join(wrong) or 'refresh_every'}")
    with open_results(path) as file, readable(path):
        groups = list(file["trajectories"].values())
        if len(groups) == 1:
            status, iteration = str(groups[0].attrs["status"]), groups[0]["iteration"][()]
            variance, normalized = ({m: s[()] for m, s in groups[0][kind].items()} for kind in _KINDS)
    if len(groups) != 1:
        raise StoreError(f"{path} must hold one trajectory, got {len(groups)}")
    _check_series(path, iteration, variance, normalized)
    if int(iteration[-1]) // config["refresh_every"] > _MOST_POINTS:
        raise StoreError(f"{path}: config has refresh_every={config['refresh_every']}, too little to be drawn")
    return Run(path, config, status, iteration, variance, normalized)


def _check_series(path: Path, iteration: NDArray, variance: dict[str, Series], normalized: dict[str, Series]) -> None:
    """Refuse series that cannot be drawn against the iterations."""
    if variance.keys() != normalized.keys() or not variance:
        raise StoreError(f"{path}: variance and normalized_variance must hold the same methods, at least one")
    for name, series in [("iteration", iteration), *variance.items(), *normalized.items()]:
        kinds = "i" if name == "iteration" and series.size else "fi"
        if series.ndim != 1 or series.dtype.kind not in kinds or series.shape != iteration.shape:
            raise StoreError(f"{path}: the series of {name} must have a number for each iteration")
    if not iteration.size or np.any(np.diff(iteration) <= 0):
        raise StoreError(f"{path} must hold at least one measuring point, and increasing iterations")
    if len(iteration) > _MOST_POINTS or len(variance) > _MOST_CURVES:
        raise StoreError(f"{path}: {len(variance)} series of {len(iteration)} points are too many to be drawn")


def default_window(points: int) -> int:
    """Return the window for a run of `points` measuring points: the largest odd number up to a tenth of them, or 1."""
    tenth = points // 10
    return max(1, tenth - 1 + tenth % 2)


def rolling(values: NDArray[Any], window: int) -> tuple[Series, Series]:
    """Mean and standard deviation (divisor n) in a window centred on each value.

    Parameters
    ----------
    values : ndarray, shape (L,)
    window : int
        Values it spans; an even one reaches one further to the right. At the ends it is cut off, and values that are
        not finite are left out.

    Returns
    -------
    mean, std : ndarray, shape (L,), float64
        NaN where the value itself is not finite.

    Raises
    ------
    ValueError
        If `window` is not an integer of at least 1.
    """
    if not isinstance(window, int | np.integer) or window < 1:
        raise ValueError(f"window={window!r} must be a number of measuring points, at least 1")
    values = np.asarray(values, dtype=np.float64)
    mean, std = np.full((2, *values.shape), np.nan)
    finite = np.isfinite(values)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows in a diverging run is drawn as a gap
        for i in np.flatnonzero(finite):
            near = slice(max(0, i - (window - 1) // 2), i + window // 2 + 1)
            part = values[near][finite[near]]
            mean[i], std[i] = part.mean(), part.std()
    return mean, std


def figure3(runs: Sequence[Run], window: int | None = None) -> Figure:
    """Fig. 3: variance of every method while a model trains, and below it SG-B's normalized variance.

    Parameters
    ----------
    runs : sequence of Run
        Each one without label smoothing, corruption and duplicates gets a column.
    window : int, optional
        Measuring points over which curves are smoothed; by default each run's `default_window`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no run belongs into the figure, two runs have one configuration, or `window` is below 1.
    """
    (plain,) = _rows(runs, "Fig. 3")
    looks = _looks(plain)
    titles = _tell_apart(plain, [_name(run) for run in plain])
    top = [_panel(run, "variance", looks, title, window) for run, title in zip(plain, titles, strict=True)]
    bottom = []
    for run in plain:
        method = methods_in_order(run.variance)[0]
        one, title = {method: looks[method]}, method_label(method)
        bottom.append(_panel(run, "normalized_variance", one, title, window)._replace(remark=""))
    labels = [f"average variance\n({_UNIT})", "normalized variance\n(variance / second moment)"]
    alone = " or ".join(dict.fromkeys(panel.curves[0].label for panel in bottom))
    note = f"{_note(plain, window)} Normalized variance: {alone} alone for clarity, as in the paper."
    heading = "Fig. 3. Image classification: average and normalized variance"
    return draw([top, bottom], heading, labels, [False, True], note)


def figure6(runs: Sequence[Run], window: int | None = None) -> Figure:
    """Fig. 6: what label smoothing and corrupted labels do to the variance, GC's fluctuations above all.

    A row for each data set and model (and share of duplicates) with such a run, on a common y axis; all else as in
    `figure3`.
    """
    return _variants(runs, "Fig. 6", "Image classification with label noise: average variance", window)


def figure7(runs: Sequence[Run], window: int | None = None) -> Figure:
    """Fig. 7: variance when a share of the training set is made of duplicates, beside the variance without.

    A row for each data set and model (and noise of its labels) with duplicates, on a common y axis; all else as in
    `figure3`.
    """
    return _variants(runs, "Fig. 7", "Image classification with duplicates: average variance", window)


def _variants(runs: Sequence[Run], name: str, heading: str, window: int | None) -> Figure:
    """Figs. 6 and 7: a row for each group of runs, a panel for each of its runs."""
    rows = _rows(runs, name)
    everyone = list(chain(*rows))
    looks = _looks(everyone)
    titles = iter(_tell_apart(everyone, [f"{_name(run)}\n{_variant(run, name)}" for run in everyone]))
    panels = [[_panel(run, "variance", looks, next(titles), window) for run in row] for row in rows]
    labels = [f"average variance\n({_UNIT})"] * len(rows)
    note = _note(everyone, window) + _other_differences(rows)
    return draw(panels, f"{name}. {heading}", labels, [True] * len(rows), note)


_FIGURES: dict[str, Callable[..., Figure]] = {"Fig. 3": figure3, "Fig. 6": figure6, "Fig. 7": figure7}
# What the panels of a row differ in, and what they share beside the data set and the model.
_NOISE, _SHARE = ("label_smoothing", "corrupt_fraction"), ("duplicate_fraction",)
_VARIED = {"Fig. 6": (_NOISE, _SHARE), "Fig. 7": (_SHARE, _NOISE)}


def undrawable(runs: Sequence[Run]) -> dict[str, str]:
    """Name the figures these runs give nothing for ("Fig. 7"), each with the reason in words."""
    reasons = {
        "Fig. 3": "every run has label smoothing, corruption or duplicates",
        "Fig. 6": "no run has label smoothing or corruption",
        "Fig. 7": "no run has duplicates",
    }
    return {name: reason for name, reason in reasons.items() if not _groups(runs, name)}


def drawings(runs: Sequence[Run], window: int | None = None) -> dict[str, Callable[[], Figure]]:
    """Name the figures these runs have data for, each with the function that draws it.

    Parameters
    ----------
    runs, window
        As `figure3`.

    Returns
    -------
    dict
        ``"Fig. 3"`` and its like; what `gcref.panels.save` takes.

    Raises
    ------
    ValueError
        If two runs have one configuration.
    """
    _check_distinct(runs)
    reasons = undrawable(runs)
    return {name: partial(figure, runs, window) for name, figure in _FIGURES.items() if name not in reasons}


# ----------------------------------------------------------------------------------------------- which run goes where


def _has(run: Run, fields: Sequence[str]) -> bool:
    return any(run.config[name] for name in fields)


def _groups(runs: Sequence[Run], name: str) -> list[list[Run]]:
    """Return the rows of a figure, each with its runs."""
    if name == "Fig. 3":
        plain = [run for run in runs if not _has(run, _NOISE + _SHARE)]
        return [plain] if plain else []
    varied, shared = _VARIED[name]
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.config[f] for f in ("dataset", "model", *shared)), []).append(run)
    rows = [group for group in groups.values() if any(_has(run, varied) for run in group)]
    return [sorted(row, key=lambda run: [run.config[f] for f in reversed(varied)]) for row in rows]


def _rows(runs: Sequence[Run], name: str) -> list[list[Run]]:
    _check_distinct(runs)
    rows = _groups(runs, name)
    if not rows:
        raise ValueError(f"runs cannot give {name}: {undrawable(runs)[name]}")
    return rows


def _check_distinct(runs: Sequence[Run]) -> None:
    for one, other in combinations(runs, 2):
        if one.config == other.config:
            raise ValueError(f"{one.path} and {other.path} hold the same configuration; give one of them")


def _name(run: Run) -> str:
    return ", ".join(_NAMES.get(run.config[f], run.config[f]) for f in ("dataset", "model"))


def _variant(run: Run, name: str) -> str:
    """Say in words what was done to the labels and the examples."""
    smoothing, corrupt, share = (run.config[f] for f in _NOISE + _SHARE)
    words = [f"label smoothing {smoothing:g}"] if smoothing else []
    words += [f"{100 * corrupt:g} % of labels corrupt"] if corrupt else []
    words += [f"{100 * share:g} % duplicates"] if share else []
    return ", ".join(words) or {"Fig. 6": "labels as they are", "Fig. 7": "no duplicates"}[name]


def _tell_apart(runs: Sequence[Run], titles: list[str]) -> list[str]:
    """Add to titles that are equal the settings in which their runs differ, or the files' names if these are many."""
    out = []
    for run, title in zip(runs, titles, strict=True):
        twins = [other.config for other, same in zip(runs, titles, strict=True) if same == title]
        fields = [f for f in run.config if any(twin.get(f) != run.config[f] for twin in twins)]
        words = "; ".join(f"{f.replace('_', ' ')} {_value(run.config[f])}" for f in fields)
        if len(fields) > _MOST_SETTINGS:
            words = "/".join(run.path.parts[-2:])
        out.append("\n".join([title, *textwrap.wrap(words, 44)]))
    return out


def _value(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


# ------------------------------------------------------------------------------------------------------- numbers drawn


def _looks(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Style the methods of all runs, so that one looks the same in every panel."""
    methods = methods_in_order(chain(*(run.variance for run in runs)))
    looks = method_looks(methods)
    return {method: looks[method] for method in methods}


def _panel(run: Run, kind: str, looks: Mapping[str, dict[str, Any]], title: str, window: int | None) -> Panel:
    """Gather one run's curves, and when its learning rate dropped and its snapshot and clusters were renewed."""
    series, width = getattr(run, kind), _width(run, window)
    curves = [
        Curve(method_label(method), style, series[method], *rolling(series[method], width))
        for method, style in looks.items()
        if method in series
    ]
    last, every = int(run.iteration[-1]), run.config["refresh_every"]
    refreshes = (
        range(0, min(last + 1, run.config["iterations"]), every) if run.variance.keys() - _NEVER_REFRESHED else []
    )
    drops = [drop for drop in run.config["milestones"] if drop <= last]
    return Panel(title, run.iteration, curves, kind == "variance", drops, list(refreshes), _remark(run))


def _remark(run: Run) -> str:
    """Say what sets a run apart from one that was measured exactly and to its end."""
    last, whole = int(run.iteration[-1]), run.config["iterations"]
    words = [f"Monte Carlo of {run.config['n_estimates']} draws"] if run.config["method"] != "closed-form" else []
    words += [f"diverged after iteration {last}"] if run.status == "diverged" else []
    words += [f"unfinished, {last} of {whole} iterations"] if run.status == "unfinished" else []
    return "; ".join(words)


def _width(run: Run, window: int | None) -> int:
    return default_window(run.iteration.size) if window is None else window


def _note(runs: Sequence[Run], window: int | None) -> str:
    """Say what a curve and its shade are."""
    exact = [run.config["method"] == "closed-form" for run in runs]
    text = "One run a panel" + (", its variances exact." if all(exact) else ".")
    widths = [_width(run, window) for run in runs]
    if max(widths) == 1:
        return f"{text} Curves join the measuring points, not smoothed."
    points = " to ".join(str(width) for width in sorted({min(widths), max(widths)}))
    return f"{text} Curves: mean over a rolling window of {points} measuring points; shade: one standard deviation."


def _other_differences(rows: Sequence[Sequence[Run]]) -> str:
    """Name the settings, beside those in titles and remarks, in which runs on a common axis differ."""
    known = {"dataset", "model", "n_originals", "method", "n_estimates", *_NOISE, *_SHARE}
    pairs = [(row[0].config, run.config) for row in rows for run in row]
    names = sorted({f for one, other in pairs for f in one.keys() | other.keys() if one.get(f) != other.get(f)} - known)
    return f" Runs of a row differ in {', '.join(names).replace('_', ' ')} too." if names else ""
