"""Panels of a figure of the random-features study: curves with error bars against the over-parametrization.

Everything here takes numbers and draws them; which rows of a results file they come from is the business of
`gcref.figures`. How a method looks, and how a figure is saved, is the same for the figures of every study.
"""

import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.style import context
from numpy.typing import NDArray

from gcref.atomic import replacing, writing

METHOD_LABELS = {"sgb": "SG-B", "sg2b": "SG-2B", "svrg": "SVRG", "gc": "GC"}
# Metadata that would carry the date, so that the same file gives the same bytes.
FORMATS: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}

# Okabe and Ito's palette; black and greys are the paper's points.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00")
_MORE_COLORS = ("#CC79A7", "#56B4E9", "#B8A900", "#7F3C8D", "#8C564B")
_MARKERS = ("o", "s", "^", "D", "P", "X", "p", "h", "*")
_DASHES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    (0, (1, 1.2)),
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (1, 3)),
    (0, (3, 1)),
    (0, (6, 3, 2, 3)),
)
_PAPER_COLOR = "0.35"
_DODGE = 0.016  # decades between neighbouring curves at one h_s/N
_MOST_DECADES = 10  # a variance of 0, or of rounding only, must not stretch the log axis


class Points(NamedTuple):
    """Mean and standard deviation (divisor n) of ``n`` trajectories at each ``x`` = h_s/N, all shape (P,)."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n: NDArray[np.int64]


class Marks(NamedTuple):
    """Points to draw and the two ends of their error bars, all shape (P,); NaN where an end is unknown."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Curve(NamedTuple):
    """A curve, how it looks (keywords of a line) and the paper's points for it, if there are any."""

    label: str
    style: dict[str, Any]
    points: Points
    paper: Marks | None

    def marks(self) -> Marks:
        """Mean, and mean minus and plus one standard deviation."""
        x, mean, std, _ = self.points
        return Marks(x, mean, mean - std, mean + std)


class Panel(NamedTuple):
    """One pair of axes; ``left_out`` counts the diverged trajectories that its points do without."""

    title: str
    curves: list[Curve]
    left_out: int


def look(color: Any, index: int) -> dict[str, Any]:
    """Style a curve; the index picks marker and dashes, so that no curve rests on its colour alone."""
    return {
        "color": color,
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def method_label(name: str) -> str:
    """Return what a legend calls a method: "Sketched, drift 0.02" for ``sketched-drift0.02``."""
    if name in METHOD_LABELS:
        return METHOD_LABELS[name]
    what, _, detail = name.partition("-")
    words = "GC" if what == "gc" else what.capitalize()
    return f"{words}, {re.sub(r'(?<=[a-z])(?=[0-9])', ' ', detail)}" if detail else words


def methods_in_order(names: Iterable[str]) -> list[str]:
    """Put methods in order, each once: the paper's four in its own, then further ones by name."""
    present = set(names)
    return [m for m in METHOD_LABELS if m in present] + sorted(present - set(METHOD_LABELS))


def method_looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Style the paper's four methods, alike in every figure, and then the further ones among `methods`."""
    colors = dict(zip(METHOD_LABELS, _COLORS, strict=True))
    colors.update(zip([m for m in methods if m not in colors], itertools.cycle(_MORE_COLORS)))
    return {method: look(color, i) for i, (method, color) in enumerate(colors.items())}


def save(
    drawings: Mapping[str, Callable[[], Figure]],
    out: Path,
    formats: Sequence[str] = ("png", "svg"),
    overwrite: bool = False,
) -> list[Path]:
    """Draw figures and save them, each in every format.

    Parameters
    ----------
    drawings : mapping
        The figures' names, such as ``"Fig. 4"`` for ``figure4.png``, and the functions that draw them.
    out : Path
        The folder for the files; made if its parent exists.
    formats : sequence of {"png", "svg", "pdf"}
    overwrite : bool
        Whether files that are already there may be replaced.

    Returns
    -------
    list of Path
        The files written. The same figures give the same bytes, whatever the user's matplotlib settings.

    Raises
    ------
    ValueError
        If a format is unknown, or there is none.
    FileExistsError
        If a file is already there and `overwrite` is false; nothing is written then.
    FileNotFoundError, NotADirectoryError
        If the parent of `out` is missing, or `out` is a file.
    OSError
        If a file cannot be written; those that are there are whole.
    """
    if not formats:
        raise ValueError(f"formats must name at least one of {', '.join(FORMATS)}, got none")
    for name in formats:
        check_choice("formats", name, tuple(FORMATS))
    targets = {name: [out / f"figure{name.split()[-1]}.{f}" for f in dict.fromkeys(formats)] for name in drawings}
    _make_room([path for paths in targets.values() for path in paths], out, overwrite)
    with context(["default", {"svg.hashsalt": "gcref"}]):
        for name, paths in targets.items():
            figure = drawings[name]()
            for path in paths:
                form = path.suffix[1:]
                with writing(path), replacing(path) as aside:
                    figure.savefig(aside, dpi=150, format=form, metadata=FORMATS[form])
    return [path for paths in targets.values() for path in paths]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices of the argument `name` (ValueError)."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _make_room(paths: list[Path], out: Path, overwrite: bool) -> None:
    """Make the folder, unless that or a file in it stands in the way."""
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{out} already has {', '.join(there)}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is not a folder")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    with writing(out):
        out.mkdir(exist_ok=True)


def draw(panels: Sequence[Panel], heading: str, y_label: str, log: bool, note: str = "") -> Figure:
    """Draw panels side by side on a common y axis.

    Parameters
    ----------
    panels : sequence of Panel
    heading, y_label : str
    log : bool
        Log y axis; a linear one has a line at 1, the value a normalized variance cannot pass.
    note : str
        A further sentence for the note under the panels.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(4.5 * len(panels) + 0.6, 6.0), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    marks = [m for panel in panels for curve in panel.curves for m in (curve.marks(), curve.paper) if m is not None]
    limits = _log_limits(marks) if log else _linear_limits(marks)
    for ax, panel in zip(axes, panels, strict=True):
        ax.set_yscale("log" if log else "linear")
        ax.set_ylim(*limits)
        if not log:
            ax.axhline(1.0, color="black", linewidth=0.8)
        draw_panel(ax, panel)
    axes[0].set_ylabel(y_label)
    figure.suptitle(textwrap.fill(heading, 54 * len(panels)))
    below = any(np.any(c.marks().low < limits[0]) for panel in panels for c in panel.curves)
    text = textwrap.fill(_caption(panels, below, note), width=76 * len(panels))
    figure.supxlabel(text, fontsize=8, x=0.01, ha="left")
    return figure


def draw_panel(ax: Axes, panel: Panel) -> None:
    """Draw one panel on axes whose y scale and limits are set, with its legend underneath."""
    ax.set_xscale("log")
    for i, curve in enumerate(panel.curves):
        shift = (i - (len(panel.curves) - 1) / 2) * _DODGE
        if curve.paper is not None:
            _draw_paper(ax, _moved(curve.paper, shift + _DODGE / 2), curve.style["marker"])
        _draw_marks(ax, _moved(curve.marks(), shift), curve.style)
    _set_x_axis(ax, [curve.points.x for curve in panel.curves])
    if not any(curve.points.x.size for curve in panel.curves):
        ax.text(0.5, 0.5, "every trajectory diverged", transform=ax.transAxes, ha="center")
    ax.set_title(panel.title, fontsize=10)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    _add_legend(ax, panel.curves)


def _join(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.empty(0), *arrays])


def _moved(marks: Marks, decades: float) -> Marks:
    return marks._replace(x=marks.x * 10.0**decades)


def _draw_marks(ax: Axes, marks: Marks, style: dict[str, Any]) -> None:
    """Draw our points; below the axis they end in a triangle, large for a mean and small for a bar."""
    floor = ax.get_ylim()[0]
    below = marks.y < floor
    x, y, low, high = (value[~below] for value in marks)
    ax.plot(marks.x, np.maximum(marks.y, floor), color=style["color"], linestyle=style["linestyle"], linewidth=1.2)
    bars = np.stack([y - np.maximum(low, floor), high - y])
    ax.errorbar(x, y, yerr=bars, fmt=style["marker"], color=style["color"], ms=4.2, elinewidth=1.0, capsize=2.0)
    for where, size in ((marks.x[below], 9), (x[low < floor], 5)):
        if where.size:  # an empty line that is not clipped counts as a mark at (0, 0) in the layout
            end = np.full(where.shape, floor)
            ax.plot(
                where,
                end,
                linestyle="none",
                marker="v",
                ms=size,
                color=style["color"],
                clip_on=False,
                zorder=5,
            )


def _draw_paper(ax: Axes, marks: Marks, marker: str) -> None:
    """Draw the paper's points hollow; an end that is unknown gets no bar."""
    floor = ax.get_ylim()[0]
    low = np.where(np.isnan(marks.low), marks.y, np.maximum(marks.low, floor))
    high = np.where(np.isnan(marks.high), marks.y, marks.high)
    bars = np.stack([marks.y - low, high - marks.y])
    style: dict[str, Any] = {"ms": 6.5, "mfc": "none", "mew": 0.9, "elinewidth": 0.7, "ecolor": "0.45"}
    ax.errorbar(marks.x, marks.y, yerr=np.maximum(bars, 0.0), fmt=marker, color=_PAPER_COLOR, **style)


def _add_legend(ax: Axes, curves: Sequence[Curve]) -> None:
    if not curves:
        return
    handles = [Line2D([], [], ms=4.2, label=curve.label, **curve.style) for curve in curves]
    if any(curve.paper is not None for curve in curves):
        hollow: dict[str, Any] = {"mfc": "none", "ms": 6.5, "mew": 0.9, "color": _PAPER_COLOR}
        handles.append(Line2D([], [], linestyle="none", marker="o", label="paper (digitised)", **hollow))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "frameon": False}
    ax.legend(handles=handles, ncols=3, fontsize=9, handlelength=2.8, columnspacing=1.2, **place)


def _set_x_axis(ax: Axes, grids: Sequence[NDArray[np.float64]]) -> None:
    """Ticks at the grid's own values, labelled where there is room."""
    ax.set_xlabel("over-parametrization $h_s/N$\n(student's hidden units / training set size)", fontsize=9)
    x = np.unique(_join(grids))
    if x.size:
        ax.set_xlim(x[0] / 1.25, x[-1] * 1.25)
    ax.set_xticks(x, _sparse_labels(x))
    ax.set_xticks([], minor=True)
    ax.tick_params(axis="x", labelsize=8)


def _sparse_labels(x: NDArray[np.float64]) -> list[str]:
    """Labels of the ticks, empty where one would touch the last one to its left."""
    if not x.size:
        return []
    width = 0.009 * np.log10(1.25**2 * x[-1] / x[0])  # about half a character at this size, in decades
    labels: list[str] = []
    edge = -np.inf
    for value in x:
        text = f"{value:g}"
        half = width * len(text)
        fits = np.log10(value) - half >= edge
        labels.append(text if fits else "")
        edge = np.log10(value) + half if fits else edge
    return labels


def _log_limits(marks: Sequence[Marks]) -> tuple[float, float]:
    """Limits that show every positive mean within ten decades of the top; low ends count within one more."""
    means = _join([m.y for m in marks])
    ends = _join([value for m in marks for value in (m.low, m.high)])
    if not np.any(means > 0):
        return 0.1, 1.0
    top = max(np.nanmax(ends), means.max()) * 1.6
    bottom = top * 10.0**-_MOST_DECADES
    lowest = means[means > bottom].min()
    low_ends = ends[ends > lowest / 10.0]
    return max(bottom, min(lowest, low_ends.min(initial=lowest)) / 1.6), top


def _linear_limits(marks: Sequence[Marks]) -> tuple[float, float]:
    """Limits around every end and the line at 1; a ratio has nothing to show far below its lowest end."""
    ends = _join([value for m in marks for value in (m.low, m.y, m.high)])
    low, high = np.nanmin(ends, initial=1.0), np.nanmax(ends, initial=1.0)
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin


def _caption(panels: Sequence[Panel], below: bool, note: str) -> str:
    """Say what a point, a bar and a triangle are, and what was left out."""
    n = sorted({int(n) for panel in panels for curve in panel.curves for n in curve.points.n} or {0})
    count = f"{n[0]} to {n[-1]}" if len(n) > 1 else f"{n[0]}"
    text = [
        f"Points: mean over seeds, input dimensions and teachers ({count} trajectories a point); "
        "bars: one standard deviation either way (divisor n). Curves are moved sideways a little."
    ]
    lost = [f"{panel.left_out} in {panel.title[:3]}" for panel in panels if panel.left_out]
    text.append(f"Left out as diverged: {', '.join(lost)}." if lost else "No trajectory was left out as diverged.")
    if any(curve.paper is not None for panel in panels for curve in panel.curves):
        text.append("Hollow grey marks are the paper's, in the shape of the curve they belong to.")
    if below:
        text.append("A triangle on the axis: the mean (large) or the lower end of its bar (small) lies below.")
    return " ".join([*text, note]).strip()
