"""The paper's figures of the random-features study (Figs. 4, 5, 8, 9), drawn from a results file's summary.

A summary is a structured array with a row for each trajectory and method (`REQUIRED_FIELDS`). Each point of
a figure is the mean over seeds, input dimensions and teachers; its error bar is one standard deviation
either way with divisor n, as in the paper. A diverged trajectory, one with a number that is not finite, is
left out of every method's points, and the figure says how many were.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gcref.data import reference
from gcref.panels import (
    FORMATS,
    Curve,
    Marks,
    Panel,
    Points,
    check_choice,
    draw,
    look,
    method_label,
    method_looks,
    methods_in_order,
    save,
)

__all__ = [
    "FORMATS",
    "REQUIRED_FIELDS",
    "Points",
    "aggregate",
    "draw_all",
    "drawings",
    "figure4",
    "figure5",
    "figure8",
    "figure9",
    "left_out",
    "panel",
    "undrawable",
]

SCHEMA = "rf-sweep/1"  # of the configuration of a file with such a summary
_MOST_ROWS, _MOST_CURVES = 100_000, 100  # more than can be told apart, and drawn in a minute
_STATISTICS = ("variance", "normalized_variance")
_AGGREGATES = ("mean70", "max70")
_NUMBERS = tuple(f"{s}_{a}" for s in _STATISTICS for a in _AGGREGATES)
REQUIRED_FIELDS = ("trajectory", "method", "learning_rate", "overparametrization", "duplicate_fraction", *_NUMBERS)


def aggregate(summary: NDArray[Any], statistic: str, aggregate: str, **filters: Any) -> Points:
    """Mean and spread over trajectories of one number of the summary, at each h_s/N.

    Parameters
    ----------
    summary : ndarray, structured, with the fields `REQUIRED_FIELDS`
        Strings may be bytes or str.
    statistic : {"variance", "normalized_variance"}
    aggregate : {"mean70", "max70"}
        Mean or maximum over the last 70 % of a trajectory's measurements.
    **filters
        Field names and the value a row must have, for example ``method="gc", learning_rate=0.01``.

    Returns
    -------
    Points
        ``x`` ascending; diverged trajectories are left out, and so is an ``x`` where nothing is left.

    Raises
    ------
    ValueError
        If the statistic, the aggregate or the name of a filter is unknown, or the summary lacks a field.
    """
    check_choice("statistic", statistic, _STATISTICS)
    check_choice("aggregate", aggregate, _AGGREGATES)
    _check_fields(summary)
    rows = summary[_matches(summary, filters) & ~_diverged(summary)]
    x, group = np.unique(rows["overparametrization"].astype(np.float64), return_inverse=True)
    values = rows[f"{statistic}_{aggregate}"].astype(np.float64)
    samples = [values[group == i] for i in range(len(x))]
    return Points(
        x,
        np.array([s.mean() for s in samples], dtype=np.float64),
        np.array([s.std() for s in samples], dtype=np.float64),
        np.array([s.size for s in samples], dtype=np.int64),
    )


def left_out(summary: NDArray[Any], **filters: Any) -> int:
    """Count the diverged trajectories among the rows that match the filters."""
    _check_fields(summary)
    rows = _matches(summary, filters) & _diverged(summary)
    return len(np.unique(_text(summary["trajectory"][rows])))


def figure4(summary: NDArray[Any], reference: NDArray[Any] | None = None) -> Figure:
    """Fig. 4: maximum variance against over-parametrization.

    Parameters
    ----------
    summary : ndarray, structured, with the fields `REQUIRED_FIELDS`
    reference : ndarray, structured, optional
        The paper's own points, from `gcref.data.reference()`; drawn where a curve of the figure has any.

    Returns
    -------
    matplotlib.figure.Figure
        (a) SG-B at every learning rate; (b), (c) all methods at the learning rates 0.01 and 0.1, or at other
        rates of the file, the largest first, where it lacks these.

    Raises
    ------
    ValueError
        If the summary lacks a field, has no row without duplicates, or has only diverged trajectories there.
    """
    return _rate_figure(summary, reference, "Fig. 4", "variance", "max70")


def figure5(summary: NDArray[Any], reference: NDArray[Any] | None = None) -> Figure:
    """Fig. 5: maximum normalized variance, with a line at 1; all else as in `figure4`."""
    return _rate_figure(summary, reference, "Fig. 5", "normalized_variance", "max70")


def figure9(summary: NDArray[Any], reference: NDArray[Any] | None = None) -> Figure:
    """Fig. 9: mean variance; parameters, panels and errors as in `figure4`."""
    return _rate_figure(summary, reference, "Fig. 9", "variance", "mean70")


def figure8(summary: NDArray[Any], reference: NDArray[Any] | None = None) -> Figure:
    """Fig. 8: maximum variance when 10, 50 and 90 % of the training set are duplicates.

    The learning rate is 0.01, or the largest with duplicates where the file lacks it; where it lacks one of
    the three shares, others of the file take its place, the largest first. All else as in `figure4`.
    """
    _check_drawable(summary, "Fig. 8")
    duplicated = summary[_matches(summary, {"duplicate_fraction": 0.0}, invert=True)]
    (rate,) = _choose(duplicated["learning_rate"], (0.01,), 1)
    at_rate = duplicated[_matches(duplicated, {"learning_rate": rate})]
    panels = [
        _method_panel(
            summary,
            reference,
            f"({letter}) {100 * share:g} % duplicates, learning rate {rate:g}",
            ("variance", "max70"),
            {"learning_rate": rate, "duplicate_fraction": share},
        )
        for letter, share in zip("abc", _choose(at_rate["duplicate_fraction"], (0.1, 0.5, 0.9), 3), strict=False)
    ]
    return _draw(panels, "Fig. 8", ("variance", "max70"))


_FIGURES: dict[str, Callable[..., Figure]] = {
    "Fig. 4": figure4, "Fig. 5": figure5, "Fig. 8": figure8, "Fig. 9": figure9,
}  # fmt: skip
KINDS = {  # of the numbers that a figure shows
    "4": ("variance", "max70"), "5": ("normalized_variance", "max70"), "8": ("variance", "max70"),
    "9": ("variance", "mean70"),
}  # fmt: skip


def panel(summary: NDArray[Any], name: str, rate: float | None, share: float, paper: bool = True) -> Figure:
    """Draw a panel of a figure alone, such as "4b".

    Parameters
    ----------
    summary : ndarray, structured, with the fields `REQUIRED_FIELDS`
    name : str
        The number of one of `KINDS` and a letter.
    rate : float, optional
        The learning rate of a panel with a curve for each method; None for one with a curve for each rate.
    share : float
        Of duplicates.
    paper : bool
        Whether to overlay the paper's own points.
    """
    kind, points = KINDS[name[:-1]], reference() if paper else None
    where: dict[str, Any] = {"duplicate_fraction": share} | ({} if rate is None else {"learning_rate": rate})
    rows = summary[_matches(summary, where)]
    if rate is None:
        return _draw([_rate_panel(rows, points, kind)], f"Fig. {name}", kind)
    what = f"{100 * share:g} % duplicates" if share else "every method"
    title = f"({name[-1]}) {what}, learning rate {rate:g}"
    return _draw([_method_panel(rows, points, title, kind, where)], f"Fig. {name}", kind)


def undrawable(summary: NDArray[Any]) -> dict[str, str]:
    """Name the figures this summary has no data for ("Fig. 8"), each with the reason in words."""
    _check_fields(summary)
    finite = ~_diverged(summary)
    reasons = {}
    for name in _FIGURES:
        duplicates = name == "Fig. 8"
        rows = _matches(summary, {"duplicate_fraction": 0.0}, invert=duplicates)
        kind = "with" if duplicates else "without"
        if not rows.any():
            reasons[name] = f"the file has no trajectory {kind} duplicates"
        elif not (rows & finite).any():
            reasons[name] = f"every trajectory {kind} duplicates diverged"
    return reasons


def drawings(summary: NDArray[Any], paper: bool = True) -> dict[str, Callable[[], Figure]]:
    """Name the figures this summary has data for, each with the function that draws it.

    Parameters
    ----------
    summary : ndarray, structured, with the fields `REQUIRED_FIELDS`
    paper : bool
        Whether to overlay the paper's own points.

    Returns
    -------
    dict
        ``"Fig. 4"`` and its like; what `gcref.panels.save` takes.

    Raises
    ------
    ValueError
        If the summary lacks a field.
    """
    reasons = undrawable(summary)
    points = reference() if paper else None
    return {name: partial(figure, summary, points) for name, figure in _FIGURES.items() if name not in reasons}


def draw_all(
    summary: NDArray[Any],
    out: Path,
    formats: Sequence[str] = ("png", "svg"),
    overwrite: bool = False,
    paper: bool = True,
) -> list[Path]:
    """Draw every figure the summary has data for; `undrawable` names the others.

    Parameters
    ----------
    summary : ndarray, structured, with the fields `REQUIRED_FIELDS`
    out, formats, overwrite
        As `gcref.panels.save`.
    paper : bool
        Whether to overlay the paper's own points.

    Returns
    -------
    list of Path
        The files written. The same summary gives the same bytes, whatever the user's matplotlib settings.

    Raises
    ------
    ValueError
        If the summary lacks a field or has data for no figure.
    ValueError, FileExistsError, FileNotFoundError, NotADirectoryError
        As `gcref.panels.save`.
    """
    found = drawings(summary, paper)
    if not found:
        raise ValueError(f"summary has data for no figure: {'; '.join(dict.fromkeys(undrawable(summary).values()))}")
    return save(found, out, formats, overwrite)


def _check_fields(summary: NDArray[Any]) -> None:
    """Refuse what is not a summary table."""
    have = getattr(getattr(summary, "dtype", None), "names", None) or ()
    missing = [name for name in REQUIRED_FIELDS if name not in have]
    if missing:
        raise ValueError(f"summary must be a structured array; it lacks the fields {', '.join(missing)}")
    if len(summary) > _MOST_ROWS:
        raise ValueError(f"summary has {len(summary)} rows; at most {_MOST_ROWS} can be drawn")
    for name in ("method", "learning_rate"):
        if (n := len(np.unique(summary[name]))) > _MOST_CURVES:
            raise ValueError(f"summary has {n} values of {name}; at most {_MOST_CURVES} can be drawn")


def _check_drawable(summary: NDArray[Any], name: str) -> None:
    reason = undrawable(summary).get(name)
    if reason is not None:
        raise ValueError(f"summary cannot give {name}: {reason}")


def _text(column: NDArray[Any]) -> NDArray[np.str_]:
    """Strings of a column, which HDF5 readers give as bytes or as str."""
    return np.array([s.decode() if isinstance(s, bytes) else str(s) for s in column], dtype=np.str_)


def _matches(rows: NDArray[Any], filters: dict[str, Any], invert: bool = False) -> NDArray[np.bool_]:
    """Rows whose fields have the values asked for (numbers up to rounding), or the other rows."""
    match = np.ones(len(rows), dtype=np.bool_)
    for name, value in filters.items():
        if name not in (rows.dtype.names or ()):
            raise ValueError(
                f"filters must name fields of the table ({', '.join(rows.dtype.names or ())}), got {name!r}"
            )
        if isinstance(value, str):
            match &= _text(rows[name]) == value
        else:
            match &= np.isclose(rows[name], value, rtol=1e-9, atol=0.0)
    return ~match if invert else match


def _diverged(summary: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows of trajectories with a number that is not finite, whichever method's row has it."""
    finite = np.all([np.isfinite(summary[name]) for name in _NUMBERS], axis=0)
    trajectory = _text(summary["trajectory"])
    return np.isin(trajectory, trajectory[~finite])


def _choose(column: NDArray[Any], preferred: tuple[float, ...], count: int) -> list[float]:
    """At most `count` values of the column, ascending: the preferred ones it has, then its largest."""
    values = [float(v) for v in np.unique(column)]
    chosen = [v for v in values if np.isclose(v, preferred).any()]
    chosen += [v for v in reversed(values) if v not in chosen]
    return sorted(chosen[:count])


def _methods(rows: NDArray[Any]) -> list[str]:
    return methods_in_order(str(m) for m in _text(rows["method"]))


def _paper_marks(reference: NDArray[Any] | None, kind: tuple[str, str], filters: dict[str, Any]) -> Marks | None:
    """Pick the paper's points of one curve, if there are any."""
    if reference is None:
        return None
    rows = reference[_matches(reference, {"statistic": kind[0], "aggregate": kind[1], **filters})]
    rows = rows[np.argsort(rows["overparametrization"])]
    return Marks(rows["overparametrization"], rows["value"], rows["err_low"], rows["err_high"]) if len(rows) else None


def _curve(
    summary: NDArray[Any], reference: NDArray[Any] | None, kind: tuple[str, str], filters: dict[str, Any]
) -> tuple[Points, Marks | None]:
    """Gather our points and the paper's for one curve."""
    return aggregate(summary, *kind, **filters), _paper_marks(reference, kind, filters)


def _method_panel(
    summary: NDArray[Any], reference: NDArray[Any] | None, title: str, kind: tuple[str, str], filters: dict[str, Any]
) -> Panel:
    """One curve a method; a method keeps its colour, marker and dashes in every panel."""
    curves = []
    for method, style in method_looks(_methods(summary)).items():
        points, paper = _curve(summary, reference, kind, {**filters, "method": method})
        if points.x.size:
            curves.append(Curve(method_label(method), style, points, paper))
    return Panel(title, curves, left_out(summary, **filters))


def _rate_panel(summary: NDArray[Any], reference: NDArray[Any] | None, kind: tuple[str, str]) -> Panel:
    """One curve a learning rate, pale to dark: SG-B's, or the first method's if the file has no SG-B."""
    method = _methods(summary)[0]
    filters = {"duplicate_fraction": 0.0, "method": method}
    rates = np.unique(summary["learning_rate"])
    pale, dark = np.array(to_rgb("#8EC6EA")), np.array(to_rgb("#003050"))
    curves = []
    for i, (rate, pallor) in enumerate(zip(rates, np.linspace(0.0, 1.0, len(rates))[::-1], strict=True)):
        color = tuple(pallor * pale + (1.0 - pallor) * dark)
        points, paper = _curve(summary, reference, kind, {**filters, "learning_rate": float(rate)})
        curves.append(Curve(f"rate {rate:g}", look(color, i), points, paper))
    return Panel(f"(a) {method_label(method)}, every learning rate", curves, left_out(summary, **filters))


def _rate_figure(
    summary: NDArray[Any], reference: NDArray[Any] | None, name: str, statistic: str, aggregate: str
) -> Figure:
    """Figs. 4, 5 and 9: one method at every learning rate, then every method at two of them."""
    _check_drawable(summary, name)
    kind = (statistic, aggregate)
    plain = summary[_matches(summary, {"duplicate_fraction": 0.0})]
    panels = [_rate_panel(plain, reference, kind)]
    for letter, rate in zip("bc", _choose(plain["learning_rate"], (0.01, 0.1), 2), strict=False):
        filters = {"learning_rate": rate, "duplicate_fraction": 0.0}
        title = f"({letter}) every method, learning rate {rate:g}"
        panels.append(_method_panel(plain, reference, title, kind, filters))
    return _draw(panels, name, kind)


def _draw(panels: list[Panel], name: str, kind: tuple[str, str]) -> Figure:
    """Put the words to the panels."""
    statistic, aggregate = kind
    which = {"mean70": "mean", "max70": "maximum"}[aggregate]
    normalized = statistic == "normalized_variance"
    quantity = "normalized variance" if normalized else "average variance"
    unit = "variance / second moment, no unit" if normalized else "per coordinate, squared gradient units"
    note = ""
    if normalized and any(curve.paper is not None for panel in panels for curve in panel.curves):
        note = "The paper's are raw Monte Carlo ratios (10 draws), which can exceed 1; the exact ratio cannot."
    heading = f"{name}. Random features: {quantity}, {which} over the last 70 % of the measurements"
    return draw(panels, heading, f"{quantity}, {which}\n({unit})", not normalized, note)
