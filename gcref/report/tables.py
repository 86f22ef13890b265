"""The summary tables of a report, from the summaries of results files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gcref.panels import method_label, methods_in_order
from gcref.report.sources import Source

MOST_ROWS = 2000  # that anybody scrolls through
_ABSENT = "–"
_DIVIDING = np.errstate(all="ignore")  # a variance can be exactly zero, and that of a bad file anything


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number it is sorted by; NaN where it is a text, or there is no number."""

    text: str
    value: float = float("nan")


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes
    ----------
    key : str
        Its id.
    caption, note : str
        What stands above and below it.
    columns : list of str
    rows : list of list of Cell
    n_heads : int
        Cells at the beginning of a row that say what it is of.
    """

    key: str
    caption: str
    note: str
    columns: list[str]
    rows: list[list[Cell]]
    n_heads: int


class _Sweep:
    """The numbers of a sweep by trajectory and method, those of diverged trajectories left out."""

    def __init__(self, summary: NDArray) -> None:
        names, first, row = np.unique(summary["trajectory"], return_index=True, return_inverse=True)
        found, column = np.unique(summary["method"], return_inverse=True)
        self.methods = methods_in_order(name.decode() for name in found)
        place = [self.methods.index(name.decode()) for name in found]
        shape = len(names), len(self.methods)
        self.variance, self.normalized = np.full(shape, np.nan), np.full(shape, np.nan)
        for kind, out in (("variance", self.variance), ("normalized_variance", self.normalized)):
            out[row, np.array(place, dtype=np.int64)[column]] = summary[f"{kind}_mean70"]
        axes = ("duplicate_fraction", "learning_rate", "overparametrization")
        self.axes = np.stack([summary[name][first] for name in axes], axis=1)
        whole = np.isfinite(self.variance).all(axis=1) & np.isfinite(self.normalized).all(axis=1)
        self.n_left_out = int(np.sum(~whole))
        self.variance, self.normalized, self.axes = self.variance[whole], self.normalized[whole], self.axes[whole]

    def over(self, method: str, base: str, rows: NDArray) -> NDArray[np.float64]:
        """Return the variance of a method over that of another, trajectory by trajectory."""
        one, other = (self.variance[rows, self.methods.index(name)] for name in (method, base))
        return one / other


@_DIVIDING
def sweep_tables(sources: Sequence[Source]) -> list[Table]:
    """Return the tables of each file of the random-features study, none if it has no trajectory to show."""
    found = []
    for number, source in enumerate(sources, 1):
        sweep = _Sweep(source.summary)
        if len(sweep.axes):
            for table in (_by_method(sweep), _by_point(sweep)):
                caption = f"{table.caption}: {source.label}" if len(sources) > 1 else table.caption
                found.append(replace(table, key=f"{table.key}-{number}", caption=caption))
    return found


@_DIVIDING
def overall(source: Source, method: str = "gc", base: str = "sgb") -> float | None:
    """Return the geometric mean, over trajectories without duplicates, of the variance of a method over another's."""
    sweep = _Sweep(source.summary)
    rows = sweep.axes[:, 0] == 0
    if not {method, base} <= set(sweep.methods) or not rows.any():
        return None
    return _geometric_mean(sweep.over(method, base, rows))


def _by_method(sweep: _Sweep) -> Table:
    """A row for each share of duplicates and method."""
    shares = np.unique(sweep.axes[:, 0])
    base, others = sweep.methods[0], [name for name in ("sgb", "sg2b") if name in sweep.methods]
    columns = ["Method", *(["Duplicates"] if len(shares) > 1 else []), "Trajectories"]
    columns += [f"V / V({method_label(base)})", "smallest", "largest"]
    columns += [f"below {method_label(name)}" for name in others] + ["Normalized variance"]
    rows = []
    for share in shares:
        here = sweep.axes[:, 0] == share
        for method in sweep.methods:
            ratio = sweep.over(method, base, here)
            cells = [_count(here.sum()), *(_ratio(v) for v in (_geometric_mean(ratio), ratio.min(), ratio.max()))]
            cells += [_percent(float(np.mean(sweep.over(method, name, here) < 1))) for name in others]
            cells.append(_ratio(sweep.normalized[here, sweep.methods.index(method)].mean(), 3))
            rows.append([Cell(method_label(method)), *([_percent(share)] if len(shares) > 1 else []), *cells])
    note = (
        f"V is the average variance of a coordinate, its mean over the last 70 % of the measurements. "
        f"V / V({method_label(base)}) is taken trajectory by trajectory: geometric mean, smallest and largest. "
        f"“Below” is the share of trajectories in which the method's V is smaller. {_left_out(sweep)}"
    )
    return Table("table-methods", "The methods, over all trajectories", note, columns, rows, 1)


def _by_point(sweep: _Sweep) -> Table:
    """A row for each learning rate, h_s/N and share of duplicates."""
    points = np.unique(sweep.axes, axis=0)
    with_shares = len(np.unique(points[:, 0])) > 1
    base = sweep.methods[0]
    columns = [*(["Duplicates"] if with_shares else []), "Learning rate", "hₛ/N", "n"]
    columns += [
        f"V({method_label(base)})",
        *(f"{method_label(name)} / {method_label(base)}" for name in sweep.methods[1:]),
    ]
    rows = []
    for point in points[:MOST_ROWS]:
        here = (sweep.axes == point).all(axis=1)
        cells = [*([_percent(point[0])] if with_shares else []), _number(point[1]), _number(point[2])]
        cells += [_count(here.sum()), _variance(sweep.variance[here, 0].mean())]
        rows.append(cells + [_ratio(_geometric_mean(sweep.over(name, base, here))) for name in sweep.methods[1:]])
    note = (
        f"n: trajectories. V({method_label(base)}): their mean, in squared gradient units. The "
        "columns after it are geometric means of ratios of variances, as above; below 1 is less noise. "
        f"{_cut(len(points))}"
    )
    return Table(
        "table-points", "By learning rate and over-parametrization", note.strip(), columns, rows, 2 + with_shares
    )


@_DIVIDING
def run_tables(sources: Sequence[Source]) -> list[Table]:
    """Return the tables of image runs."""
    return [_runs(sources), _by_run(sources)]


def _runs(sources: Sequence[Source]) -> Table:
    """A row for each run."""
    columns = ["Run", "Examples", "Iterations", "Status"]
    columns += ["Training loss", "Test loss", "Training accuracy", "Test accuracy", "Minutes"]
    rows = []
    for source in sources:
        assert source.run is not None
        last = {name: source.last.get(name, float("nan")) for name in ("train_loss", "test_loss")}
        accuracy = [source.last.get(name, float("nan")) for name in ("train_accuracy", "test_accuracy")]
        cells = [Cell(source.label), _count(source.n_examples), _count(source.run.iteration[-1])]
        cells += [Cell(source.run.status[:40]), *(_ratio(value, 3) for value in last.values())]
        rows.append([*cells, *map(_percent, accuracy), _number(round(source.seconds / 60, 1))])
    note = "Losses and accuracies are those at the end of training; minutes are of the machine that ran it."
    return Table("table-runs", "The runs", note, columns, rows, 1)


def _by_run(sources: Sequence[Source]) -> Table:
    """A row for each run and method."""
    columns = ["Run", "Method", "V, mean", "V, largest", "V / V(SG-B)", "Normalized, mean", "Normalized, largest"]
    rows = []
    for source in sources:
        found = {row["method"].decode(): row for row in source.summary}
        for method in methods_in_order(found)[:MOST_ROWS]:
            row = found[method]
            ratio = row["variance_mean70"] / found["sgb"]["variance_mean70"] if "sgb" in found else np.nan
            cells = [_variance(row[f"variance_{which}70"]) for which in ("mean", "max")] + [_ratio(ratio)]
            cells += [_ratio(row[f"normalized_variance_{which}70"], 3) for which in ("mean", "max")]
            rows.append([Cell(source.label), Cell(method_label(method)), *cells])
    note = (
        "V is the average variance of a coordinate, in squared gradient units; normalized: by its second moment. Means "
        "and largest values over the last 70 % of the measurements. V / V(SG-B) divides the means. "
    )
    return Table(
        "table-variance", "Variance by run and method", (note + _cut(len(rows))).strip(), columns, rows[:MOST_ROWS], 2
    )


# ------------------------------------------------------------------------------------------------- numbers as text


def _geometric_mean(values: NDArray[np.float64]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _count(value: int) -> Cell:
    return Cell(f"{int(value):,}" if value else _ABSENT, float(value))


def _number(value: float) -> Cell:
    return Cell(f"{value:g}", float(value))


def _variance(value: float) -> Cell:
    return Cell(f"{value:.2e}", float(value)) if np.isfinite(value) else Cell(_ABSENT)


def _ratio(value: float, decimals: int = 2) -> Cell:
    """Write a ratio with decimals, unless these would hide what it is."""
    if not np.isfinite(value):
        return Cell(_ABSENT)
    small = 0 < value < 10.0**-decimals or value >= 1e4
    return Cell(f"{value:.1e}" if small else f"{value:.{decimals}f}", float(value))


def _percent(value: float) -> Cell:
    return Cell(f"{100 * value:.3g} %", float(value)) if np.isfinite(value) else Cell(_ABSENT)


def _left_out(sweep: _Sweep) -> str:
    n = sweep.n_left_out
    return f"{n:,} diverged or incomplete {'trajectory is' if n == 1 else 'trajectories are'} left out." if n else ""


def _cut(n_rows: int) -> str:
    return f"The first {MOST_ROWS:,} of {n_rows:,} rows." if n_rows > MOST_ROWS else ""
