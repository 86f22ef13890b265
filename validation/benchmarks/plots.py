"""The plots of a run's power laws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gcref.shards import replacing, writing
from gcref.validation.benchmarks.slopes import Slope
from gcref.validation.benchmarks.suites import Report

COLUMNS = 5
# Okabe and Ito's palette, which the colour-blind can tell apart; each colour has a marker of its own.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F3C8D", "#000000")
MARKERS = "os^DvPXh"


def save(report: Report, out: Path, overwrite: bool = False) -> list[Path]:
    """Draw a plot for each suite that has slopes, ``table1.png`` and ``scaling.png``, into the folder `out`.

    Raises
    ------
    FileExistsError
        If one is there and `overwrite` is false.
    OSError
        If one cannot be written.
    """
    paths = []
    with writing(out):
        out.mkdir(exist_ok=True)
    for suite in dict.fromkeys(slope.suite for slope in report.slopes):
        path = out / f"{suite}.png"
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is already there")
        with context("default"):
            figure = draw([slope for slope in report.slopes if slope.suite == suite])
            with writing(path), replacing(path) as aside:
                figure.savefig(aside, dpi=110, format="png")
        paths.append(path)
    return paths


def draw(slopes: Sequence[Slope]) -> Figure:
    """Draw a row of panels for each kind of measurement, and a panel for each axis along which it was taken."""
    kinds = list(dict.fromkeys(_kind(slope) for slope in slopes))
    figure = Figure(figsize=(4.1 * COLUMNS, 5.2 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), COLUMNS, squeeze=False)
    for kind, row in zip(kinds, axes, strict=True):
        shown = [slope for slope in slopes if _kind(slope) == kind]
        names = list(dict.fromkeys(slope.quantity for slope in shown))
        panels = list(dict.fromkeys(slope.axis for slope in shown))
        for ax, axis in zip(row, panels, strict=False):
            _panel(ax, [slope for slope in shown if slope.axis == axis], names)
        for ax in row[len(panels) :]:
            ax.set_axis_off()
        row[0].set_ylabel(f"{kind}".strip())
    figure.suptitle("Points: measured; lines: fitted, with their exponents; dotted: predicted, through the last point")
    return figure


def _kind(slope: Slope) -> str:
    """What stands in one row of panels."""
    what = "seconds" if slope.unit == "s" else "bytes"
    layer = slope.quantity.split()[0]
    return f"{what}, {layer} layers" if layer in ("FC", "conv") else what


def _panel(ax: Axes, slopes: Sequence[Slope], names: Sequence[str]) -> None:
    """Draw the power laws along one axis; a quantity looks the same in every panel of its row."""
    for slope in slopes:
        number = names.index(slope.quantity)
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        x, y = np.array(slope.sizes), np.array(slope.values)
        predicted = "" if slope.predicted is None else f" (predicted {slope.predicted:.2f})"
        ax.plot(x, y, marker, color=color, ms=5, label=f"{slope.quantity}: {slope.exponent:.2f}{predicted}")
        middle = np.exp(np.log(x).mean()), np.exp(np.log(y).mean())
        ax.plot(x, middle[1] * (x / middle[0]) ** slope.exponent, color=color, lw=1)
        if slope.predicted is not None:
            ax.plot(x, y[-1] * (x / x[-1]) ** slope.predicted, ":", color=color, lw=1.2)
    ax.set(xscale="log", yscale="log", xlabel=slopes[0].axis)
    ax.xaxis.set_major_locator(FixedLocator(sorted({size for slope in slopes for size in slope.sizes})))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,g}" if size < 1e4 else f"{size:.0e}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
