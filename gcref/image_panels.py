"""Panels of a figure of the image study: smoothed curves with a shaded deviation against the iterations of training.

Everything here takes numbers and draws them; which runs they come from is the business of `gcref.image_figures`.
"""

import textwrap
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gcref.panels import METHOD_LABELS

Series = NDArray[np.float64]

_FEW = 60  # measuring points, up to which each is drawn
_MOST_DECADES = 10  # below the noisiest method; a variance of rounding only must not stretch the log axis
_SHADE = 10.0  # on a log axis, a shade ends at this fraction of its curve, since mean − deviation may be negative
_MOST_RATIO = 2.5  # end of a linear axis: a Monte Carlo ratio can be of any size
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DROP: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1.0}
_REFRESH: dict[str, Any] = {"color": "0.6", "linestyle": "none", "marker": 3, "ms": 5}


class Curve(NamedTuple):
    """One method's curve: keywords of a line, the measured values and their rolling mean and deviation, shape (L,)."""

    label: str
    style: dict[str, Any]
    values: Series
    mean: Series
    std: Series


class Panel(NamedTuple):
    """One pair of axes.

    ``x`` are the iterations of all its curves, ``drops`` those at which the learning rate drops, ``refreshes`` those
    after which SVRG's snapshot and the clusters are new; ``remark`` says what is odd about the run, if anything is.
    """

    title: str
    x: NDArray[np.int64]
    curves: list[Curve]
    log: bool
    drops: list[int]
    refreshes: list[int]
    remark: str


def draw(
    rows: Sequence[Sequence[Panel]], heading: str, y_labels: Sequence[str], common: Sequence[bool], note: str
) -> Figure:
    """Draw rows of panels over one legend.

    Parameters
    ----------
    rows : sequence of sequences of Panel
        The panels of a row are all logarithmic or all linear; a linear one has a line at 1.
    heading : str
    y_labels : sequence of str
        One a row.
    common : sequence of bool
        Whether a row's panels share the limits of their y axes.
    note : str
        What stands under the panels, before remarks on single ones.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max(len(row) for row in rows)
    width, height = max(3.4 * columns + 0.4, 4.8), 2.8 * len(rows) + 1.7
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    letters = (letter * n for n in range(1, 1000) for letter in _LETTERS)
    lettered = [[(panel, next(letters)) for panel in row] for row in rows]
    for i, (axes, row) in enumerate(zip(grid, lettered, strict=True)):
        _draw_row(axes, row, common[i])
        axes[0].set_ylabel(y_labels[i], fontsize=9)
        below = len(rows[i + 1]) if i + 1 < len(rows) else 0
        for ax in axes[below : len(row)]:
            ax.set_xlabel("iteration", fontsize=9)
    everything = list(chain(*rows))
    _add_legend(figure, everything, textwrap.fill(heading, int(11 * width)))
    remarks = [f"({letter}) {panel.remark}." for panel, letter in chain(*lettered) if panel.remark]
    text = textwrap.fill(" ".join([note, *_hidden(everything), *remarks]), int(15.5 * width))
    figure.supxlabel(text, fontsize=8, x=0.01, ha="left")
    return figure


def _draw_row(axes: NDArray[Any], row: Sequence[tuple[Panel, str]], common: bool) -> None:
    """Draw panels with their letters side by side; the axes left over stay empty."""
    everything = [panel for panel, _ in row]
    for ax, (panel, letter) in zip(axes, row, strict=False):
        _draw_panel(ax, panel, *_limits(everything if common else [panel]))
        ax.set_title(f"({letter}) {panel.title}", fontsize=9)
    for ax in axes[1:] if common else ():
        ax.tick_params(labelleft=False)
    for ax in axes[len(row) :]:
        ax.set_axis_off()


def _draw_panel(ax: Axes, panel: Panel, low: float, high: float) -> None:
    ax.set_yscale("log" if panel.log else "linear")
    ax.set_ylim(low, high)
    margin = 0.02 * float(panel.x[-1] - panel.x[0]) or 0.5
    ax.set_xlim(panel.x[0] - margin, panel.x[-1] + margin)
    if not panel.log:
        ax.axhline(1.0, color="black", linewidth=0.8)
    for drop in panel.drops:
        ax.axvline(drop, **_DROP)
    ax.plot(panel.refreshes, np.ones(len(panel.refreshes)), transform=ax.get_xaxis_transform(), **_REFRESH)
    for curve in panel.curves:
        _draw_curve(ax, panel, curve)
    if not any(np.isfinite(_drawable(curve.mean, panel.log)).any() for curve in panel.curves):
        ax.text(0.5, 0.5, "no variance above 0", transform=ax.transAxes, ha="center", fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1))
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def _draw_curve(ax: Axes, panel: Panel, curve: Curve) -> None:
    """Draw the mean and its shade, and the measured values where they are few; where there is nothing, a gap."""
    mean, values = (_drawable(series, panel.log) for series in (curve.mean, curve.values))
    color, marker, dashes = (curve.style[key] for key in ("color", "marker", "linestyle"))
    ax.fill_between(panel.x, *_shade(curve, panel.log), color=color, alpha=0.18, linewidth=0)
    ax.plot(panel.x, mean, color=color, linestyle=dashes, linewidth=1.4)
    if panel.x.size <= _FEW:
        ax.plot(panel.x, values, color=color, linestyle="none", marker=marker, ms=3, mew=0, alpha=0.5)


def _drawable(series: Series, log: bool) -> Series:
    """Return the series with NaN where it has no place on the axis."""
    return np.where(np.isfinite(series) & (series > 0 if log else True), series, np.nan)


def _shade(curve: Curve, log: bool) -> tuple[Series, Series]:
    """Return both ends of the shade."""
    mean = _drawable(curve.mean, log)
    low = np.maximum(mean - curve.std, mean / _SHADE) if log else mean - curve.std
    return low, mean + curve.std


def _hidden(panels: Sequence[Panel]) -> list[str]:
    """Say what the axes cannot show, if there is anything."""
    log = [curve for panel in panels if panel.log for curve in panel.curves]
    ratios = [curve for panel in panels if not panel.log for curve in panel.curves]
    text = []
    if any(np.any(curve.std > (1 - 1 / _SHADE) * curve.mean) for curve in log):
        text.append("No shade reaches further down than a decade below its curve.")
    if any(np.isnan(_drawable(curve.mean, log=True)).any() for curve in log):
        text.append("A gap: a variance of 0, or one that is not finite.")
    if any(np.any(curve.mean + curve.std > _MOST_RATIO) for curve in ratios):
        text.append(f"Cut off at {_MOST_RATIO:g}: a Monte Carlo ratio can be of any size, an exact one is at most 1.")
    return text


def _add_legend(figure: Figure, panels: Sequence[Panel], heading: str) -> None:
    """Put the legend above the panels, under the heading: its title, since a suptitle would lie on top of it."""
    few = any(panel.x.size <= _FEW for panel in panels)
    styles = {curve.label: curve.style | ({} if few else {"marker": ""}) for p in panels for curve in p.curves}
    ours = list(METHOD_LABELS.values())
    labels = sorted(styles, key=lambda label: (ours.index(label) if label in ours else len(ours), label))
    handles = [Line2D([], [], label=label, ms=3, linewidth=1.4, **styles[label]) for label in labels]
    if any(panel.drops for panel in panels):
        handles.append(Line2D([], [], label="learning rate drops", **_DROP))
    if any(panel.refreshes for panel in panels):
        handles.append(Line2D([], [], label="SVRG and GC refresh", **_REFRESH | {"marker": "|", "ms": 7}))
    columns = 3 if figure.get_figwidth() < 6 else 6
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "frameon": False, "handlelength": 2.8}
    legend = figure.legend(handles=handles, title=heading, fontsize=8, title_fontsize=11, **place)
    legend.get_title().set_multialignment("center")


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Limits that show the curves of all panels and their shades."""
    log = panels[0].log
    means = [np.stack([_drawable(curve.mean, log) for curve in panel.curves]) for panel in panels]
    ends = np.concatenate([end for panel in panels for curve in panel.curves for end in _shade(curve, log)])
    ends = ends[np.isfinite(ends)]
    if log:
        return _log_limits(means, ends)
    low, high = max(ends.min(initial=1.0), 0.0), min(ends.max(initial=1.0), _MOST_RATIO)
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin


def _log_limits(means: Sequence[Series], ends: Series) -> tuple[float, float]:
    """Show every mean within ten decades of the noisiest method's lowest, with its shade."""
    noisiest = np.concatenate([np.fmax.reduce(mean, axis=0) for mean in means])
    if not np.any(np.isfinite(noisiest)):
        return 0.1, 1.0
    floor = np.nanmin(noisiest) * 10.0**-_MOST_DECADES
    lowest = min(float(mean[mean > floor].min(initial=np.inf)) for mean in means)
    return float(ends[ends >= lowest / _SHADE].min()) / 1.6, float(ends.max()) * 1.6
