"""The plots of a run's power laws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.style import context

from gcref.shards import replacing, writing
from gcref.validation.benchmarks.slopes import Slope
from gcref.validation.benchmarks.suites import Report


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
    suites = dict.fromkeys(slope.suite for slope in report.slopes)
    out.mkdir(exist_ok=True)
    for suite in suites:
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
    """Draw a panel for each axis and unit: measured points, the fitted law, and the predicted one dotted."""
    panels = list(dict.fromkeys((slope.axis, slope.unit) for slope in slopes))
    columns = min(len(panels), 3)
    n_rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.4 * columns, 4.6 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for ax, (axis, unit) in zip(axes, panels, strict=False):
        shown = [slope for slope in slopes if (slope.axis, slope.unit) == (axis, unit)]
        for number, slope in enumerate(shown):
            _draw_slope(ax, slope, f"C{number % 10}", "o^sDvPX"[(number // 10 + number) % 7])
        ax.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds" if unit == "s" else "bytes")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7, framealpha=0.6)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle("Measured (points), fitted (lines), predicted from the last point (dotted)")
    return figure


def _draw_slope(ax, slope: Slope, color: str, marker: str) -> None:  # type: ignore[no-untyped-def]
    """Draw one power law."""
    x, y = np.array(slope.sizes), np.array(slope.values)
    predicted = "" if slope.predicted is None else f" ({slope.predicted:g} predicted)"
    ax.plot(x, y, marker, color=color, ms=4, label=f"{slope.quantity}: {slope.exponent:.2f}{predicted}")
    centre = np.exp(np.log(x).mean()), np.exp(np.log(y).mean())
    ax.plot(x, centre[1] * (x / centre[0]) ** slope.exponent, color=color, lw=1)
    if slope.predicted is not None:
        ax.plot(x, y[-1] * (x / x[-1]) ** slope.predicted, ":", color=color, lw=1)
