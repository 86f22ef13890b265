"""What a run found, as tables and lines of text."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gcref.kernels.threads import blas_threads, n_threads
from gcref.validation.benchmarks import peers
from gcref.validation.benchmarks.alternating import Quartiles
from gcref.validation.benchmarks.baseline import Comparison
from gcref.validation.benchmarks.rows import Row
from gcref.validation.benchmarks.slopes import Crossover, Slope
from gcref.validation.benchmarks.suites import Found, Report


def tables(report: Report) -> Iterator[Table]:
    """Yield the tables of a run."""
    if report.rows:
        yield _rows(report)
    if report.slopes:
        yield _slopes(report.slopes)
    if report.crossovers:
        yield _crossovers(report.crossovers)


def _table(title: str, left: Sequence[str], right: Sequence[str], last: Sequence[str] = ()) -> Table:
    """Make a table with columns set to the left, the right, and the left again."""
    table = Table(title=title, box=SIMPLE_HEAD)
    for names, justify in ((left, "left"), (right, "right"), (last, "left")):
        for name in names:
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def _rows(report: Report) -> Table:
    """Make the table of comparisons."""
    table = _table(
        f"gcref {'(quick) ' if report.quick else ''}beside its peers: medians, quartiles in brackets",
        ["suite", "what", "beside"],
        ["ours", "peer's", "ratio", "target"],
        ["verdict"],
    )
    for name in ("threads", "Gflop", "MB", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        fraction = row.fraction(report.limits)
        target = "" if row.target is None else f"{row.target:g}"
        theirs = row.peer if row.absolute else seconds(row.pair.theirs)
        threads = f"{n_threads()}/{n_threads()}"
        flops, n_bytes = (f"{n:.3g}" if n else "" for n in (row.work.flops / 1e9, row.work.n_bytes / 1e6))
        table.add_row(
            row.suite, row.name, "its target" if row.absolute else row.peer, seconds(row.pair.ours), theirs,
            spread(row.pair.ratio), target, row.verdict, "" if row.absolute else threads, flops, n_bytes,
            "" if fraction is None else f"{fraction:.0%}",
        )  # fmt: skip
    return table


def _slopes(slopes: Sequence[Slope]) -> Table:
    """Make the table of exponents."""
    table = _table(
        "exponents of fitted power laws",
        ["suite", "what", "along"],
        ["from", "to", "first", "last", "exponent", "at the end", "predicted"],
        ["elsewhere"],
    )
    for s in slopes:
        ends = [measured(s.values[0], s.unit), measured(s.values[-1], s.unit)]
        predicted = "" if s.predicted is None else f"{s.predicted:.2f}"
        table.add_row(
            s.suite, s.quantity, s.axis, f"{s.sizes[0]:,g}", f"{s.sizes[-1]:,g}", *ends, f"{s.exponent:.2f}",
            f"{s.last:.2f}", predicted, s.fixed,
        )  # fmt: skip
    return table


def _crossovers(crossovers: Sequence[Crossover]) -> Table:
    """Make the table of the choice between Eq. 8 and Eq. 9."""
    table = _table(
        "Eq. 8 or Eq. 9: shapes where a rule takes the slower one, and the mean factor it loses over all shapes",
        ["what"],
        ["shapes", "the paper's rule", "fewer operations", "Eq. 8 if its operations are below", "by that"],
    )
    for c in crossovers:
        rules = [f"{rule.wrong} ({rule.lost:.2f})" for rule in (c.paper, c.operations, c.at_switch)]
        table.add_row(c.quantity, f"{len(c.ratios)}", rules[0], rules[1], f"{c.switch:.2f} × Eq. 9's", rules[2])
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Make the table of a run beside its baseline."""
    table = _table("beside the baseline", ["row"], ["ratio", "baseline"], ["verdict"])
    for c in comparisons:
        now, before = ("" if q is None else spread(q) for q in (c.now, c.before))
        style = "bold red" if c.verdict == "worse" else None
        table.add_row(c.key, now, before, c.verdict, style=style)
    return table


def summary(comparisons: Sequence[Comparison]) -> str:
    """Say in a line how many rows are worse than their baseline."""
    verdicts = [c.verdict for c in comparisons]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    return f"beside the baseline: {counts or 'no row'}; worse is a ratio beyond both spreads"


def remarks(report: Report) -> Iterator[str]:
    """Yield what belongs under the tables: limits, threads, peers, notes, citations."""
    limits = report.limits
    rates = ", ".join(f"{rate / 1e9:.0f} Gflop/s in {dtype}" for dtype, rate in limits.gemm.items())
    yield f"limits: matrix products {rates}; copying {limits.copy / 1e9:.1f} GB/s, read and written"
    yield (
        f"threads: ours/peer's; gcref {n_threads()} (BLAS {blas_threads()}), each peer {n_threads()}; "
        "NUMBA_NUM_THREADS sets both"
    )
    if any((row.fraction(limits) or 0.0) > 1.0 for row in report.rows):
        yield "a fraction above 100 %: the machine was busier when its limits were measured"
    found = ", ".join(f"{name} {version}" for name, version in report.versions.items() if version)
    yield f"peers: {found or 'none'}"
    absent = [name for name, version in report.versions.items() if version is None]
    if absent:
        packages = " ".join(peers.PEERS[name][0] for name in absent)
        yield f"not installed, and left out: {', '.join(absent)} (pip install {packages})"
    for row in report.rows:
        if row.note:
            yield f"{row.name} beside {row.peer}: {row.note}"
    if "clustering" in report.suites:
        yield from peers.CITATIONS


def in_a_line(found: Found) -> str:
    """Say in a line what was found."""
    if isinstance(found, Row):
        verdict = f", target {found.target:g}: {found.verdict}" if found.target is not None else ""
        return f"{found.suite}: {found.name} beside {found.peer}: {spread(found.pair.ratio)}{verdict}"
    if isinstance(found, Slope):
        what = "seconds" if found.unit == "s" else "bytes"
        return f"{found.suite}: {found.quantity} along {found.axis}: exponent of {what} {found.exponent:.2f}"
    return f"{found.suite}: {found.quantity}: Eq. 8 pays below {found.switch:.2f} × Eq. 9's operations"


def spread(q: Quartiles) -> str:
    """Write a ratio with its quartiles."""
    return f"{q.median:.3f} [{q.low:.3f}, {q.high:.3f}]"


def seconds(q: Quartiles) -> str:
    """Write seconds with their quartiles, in a unit that fits."""
    unit, factor = ("s", 1.0) if q.median >= 1 else ("ms", 1e3) if q.median >= 1e-3 else ("µs", 1e6)
    return f"{factor * q.median:.4g} [{factor * q.low:.4g}, {factor * q.high:.4g}] {unit}"


def measured(value: float, unit: str) -> str:
    """Write seconds or bytes in a unit that fits."""
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def show(table: Table, to_stderr: bool) -> None:
    """Print a table with every column as wide as what it holds."""
    needed = Console(width=10**4).measure(table).maximum
    console = Console(stderr=to_stderr)
    console.width = max(console.width, needed)
    console.print(table)
