"""``gcref bench``: gcref and its peers timed side by side, beside the machine's limits."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcref.cli.common import WORDS, flatten, json_text, new_file, usage_errors

if TYPE_CHECKING:
    from gcref.validation.benchmarks.baseline import Baseline, Comparison
    from gcref.validation.benchmarks.suites import Report

SUITES = ("engine", "clustering", "variance", "rf", "table1", "scaling")
SHIPPED = "the one that comes with gcref"
STDOUT = "-"
PLOTTED = {"table1", "scaling"}


@click.command(short_help="Time gcref and its peers side by side.")
@click.option(
    "--suite", "suites", type=click.Choice([*SUITES, "all"]), multiple=True, default=("all",), show_default="all",
    help="What to time; may be repeated.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Smaller problems, fewer repetitions: minutes, and wider spreads.")
@click.option(
    "--peers", type=WORDS, multiple=True, metavar="LIST", show_default="all that are installed",
    help="Of torch, backpack, opacus, scikit-learn; or none.",
)  # fmt: skip
@click.option(
    "--json", "json_file", is_flag=False, flag_value=STDOUT, metavar="[FILE]",
    help="Write everything as JSON, too; without FILE to standard output, and the tables to standard error.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the plots of table1, scaling.")
@click.option(
    "--compare", is_flag=False, flag_value=SHIPPED, metavar="[FILE]",
    help=f"Show each ratio beside that of a baseline, and whether it is worse; without FILE {SHIPPED}.",
)  # fmt: skip
@click.option(
    "--write-baseline", type=click.Path(path_type=Path), metavar="FILE",
    help="Put the ratios of this run into a baseline; one that is there keeps its other rows.",
)  # fmt: skip
@click.option("--fail", is_flag=True, help="Exit code 1 if a row misses its target, or is worse than the baseline.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def bench(
    suites: tuple[str, ...],
    quick: bool,
    peers: tuple[tuple[str, ...], ...],
    json_file: str | None,
    out: Path | None,
    compare: str | None,
    write_baseline: Path | None,
    fail: bool,
    overwrite: bool,
) -> None:
    """Time gcref and its peers side by side on this machine, and print ratios with their spreads.

    First the machine's limits are measured: the rate of BLAS's matrix products and that of copying memory, on all
    threads. Then both sides of each row take turns in one process; what compiles is run before. The table has medians
    and quartiles, the ratio of ours to the peer's time in each turn, what is aimed at, and which fraction of the
    machine's limit we reach. Peers that are not installed are named and left out. Times mean little on a machine
    that is not otherwise idle. The exit code is 0, whatever the numbers, unless --fail is given.

    \b
    Suites:
      engine      gradients beside PyTorch's; per-example statistics beside a plain gradient, BackPACK, Opacus
      clustering  A steps beside scikit-learn's K-means; GC, exchange and sketches beside epochs and BLAS
      variance    exact variances of all four estimators, in epochs of training
      rf          gcref rf-sweep, and how long the first start takes, in seconds
      table1      Table 1 of the paper: measured exponents beside the predicted ones; Eq. 8 or 9?
      scaling     N to a million, K to 4,096, d to 10⁸, T to 1,024: time and memory
    All: half an hour or more; with --quick some minutes.

    \b
    Examples:
      gcref bench --quick
      gcref bench --suite engine --peers torch --json engine.json
      gcref bench --suite table1 --suite scaling --out plots
      gcref bench --quick --compare
      gcref bench --write-baseline baseline.json --overwrite
    """  # noqa: D301
    from gcref.validation.benchmarks import peers as known

    chosen = [s for s in SUITES if s in suites or "all" in suites]
    with usage_errors():
        asked = known.check_names(flatten(peers) or known.PEERS)
        before = _baseline(compare, quick)
        _check_files(None if json_file in (None, STDOUT) else Path(json_file), write_baseline, overwrite)
        if write_baseline is not None:
            _baseline(str(write_baseline) if write_baseline.exists() else None, quick)
        if out is not None:
            _check_folder(out, overwrite)
            if not PLOTTED & set(chosen):
                raise ValueError(f"--out {out} is for the plots of {' and '.join(sorted(PLOTTED))}; none is asked for")
    report, failure = _run(chosen, quick, asked)
    comparisons = _print(report, before, to_stderr=json_file == STDOUT)
    _write(report, json_file, out, None if failure else write_baseline, overwrite)
    if failure:
        raise click.ClickException(failure)
    worse = [c.key for c in comparisons if c.verdict == "worse"]
    if fail and (worse or any(row.verdict == "missed" for row in report.rows)):
        sys.exit(1)


def _baseline(compare: str | None, quick: bool) -> "Baseline | None":
    """Return the ratios to compare with, if that is asked for."""
    from gcref.validation.benchmarks import baseline

    if compare is None:
        return None
    return baseline.read(None if compare == SHIPPED else Path(compare), quick)


def _check_files(json_file: Path | None, baseline_file: Path | None, overwrite: bool) -> None:
    """Refuse files that could not, or must not, be written."""
    for flag, path in (("--json", json_file), ("--write-baseline", baseline_file)):
        if path is not None:
            new_file(path, overwrite, flag=flag)
    if json_file is not None and baseline_file is not None and json_file.resolve() == baseline_file.resolve():
        raise ValueError(f"--json and --write-baseline name one file, {json_file}; give two names")


def _check_folder(out: Path, overwrite: bool) -> None:
    """Refuse a folder that could not take the plots."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is not a folder")
    if not out.exists() and not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    if out.is_dir() and any(out.glob("*.png")) and not overwrite:
        raise ValueError(f"--out {out} already has plots; give another name, or --overwrite to replace them")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ValueError(f"--out {out} cannot be written")


def _run(suites: Sequence[str], quick: bool, asked: Sequence[str]) -> "tuple[Report, str]":
    """Measure, and say on standard error what was found as it is found; also why that ended early, if it did."""
    from gcref.validation.benchmarks.suites import run
    from gcref.validation.benchmarks.tables import in_a_line

    click.echo("measuring the machine's limits ...", err=True)
    report, measuring = run(suites, quick, asked)
    try:
        for found in measuring:
            click.echo(in_a_line(found), err=True)
    except (ArithmeticError, ChildProcessError) as error:  # both sides differ, or a process failed
        return report, f"ended early: {error}"
    return report, ""


def _print(report: "Report", before: "Baseline | None", to_stderr: bool) -> "list[Comparison]":
    """Print the tables; return how the rows compare with a baseline."""
    from gcref.validation.benchmarks import baseline, tables

    comparisons = [] if before is None else baseline.compare(report.rows, before, report.suites)
    for table in tables.tables(report):
        tables.show(table, to_stderr)
    for line in tables.remarks(report):
        click.echo(line, err=to_stderr)
    if before is not None:
        tables.show(tables.comparison_table(comparisons), to_stderr)
        click.echo(tables.summary(comparisons), err=to_stderr)
    return comparisons


def _write(
    report: "Report", json_file: str | None, out: Path | None, write_baseline: Path | None, overwrite: bool
) -> None:
    """Write what was asked for, each file whole or not at all."""
    from gcref.validation.benchmarks import baseline, plots

    try:
        if json_file == STDOUT:
            click.echo(json_text(report.as_json(), indent=1))
        elif json_file is not None:
            _write_text(Path(json_file), json_text(report.as_json(), indent=1) + "\n")
        if write_baseline is not None:
            _write_text(write_baseline, baseline.updated(write_baseline, report.rows, report.quick))
        if out is not None:
            for path in plots.save(report, out, overwrite):
                click.echo(f"wrote {path}", err=True)
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _write_text(path: Path, text: str) -> None:
    """Write a text file and say so."""
    from gcref.shards import replacing, writing

    with writing(path), replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}", err=True)
