"""``gcref validate``: recompute the numbers of a results file."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcref.cli.common import wide_console
from gcref.cli.progress import progress_on_stderr

if TYPE_CHECKING:
    from gcref.validation.tally import Check

MOST_LINES = 20


@click.command(short_help="Recompute the numbers of a results file.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(min=1), show_default="all cores", help="Processes, one thread each.")
def validate(results: Path, workers: int | None) -> None:
    """Recompute every number in RESULTS, a file of the random-features study, from scratch.

    Data and models are drawn again from the stored configuration, the gradient of every example is written
    out, and variances, clusterings and SGD's own steps are computed by plain NumPy that, these draws aside,
    shares nothing with the code that measured. Exit code 0: all is as it should be; 1: something is not.

    \b
    Examples:
      gcref validate quick.h5
      gcref validate results.h5 --workers 1
    """  # noqa: D301
    from concurrent.futures.process import BrokenProcessPool

    from gcref.executor import n_cores
    from gcref.store import StoreError
    from gcref.studies.sweep import config_of
    from gcref.validation import results as recomputation

    start = time.monotonic()
    try:
        total = len(config_of(results).specs())
        with progress_on_stderr(total) as progress:
            checks = recomputation.validate(results, workers or n_cores(), progress)
    except StoreError as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nStopped: nothing is known of {results}.", err=True)
        sys.exit(130)
    except BrokenProcessPool:
        raise click.ClickException("a worker died (out of memory?); fewer --workers need less") from None
    _print_table(checks)
    _print_failures(checks)
    failed = [check.name for check in checks if not check.passed]
    verdict = f"FAIL in {', '.join(failed)}" if failed else "every check passed"
    n_checked = next(check.n for check in checks if check.name == "recomputation")
    seconds = time.monotonic() - start
    click.echo(f"{results}: {verdict} ({n_checked} of {total} trajectories recomputed, {seconds:.0f} s)")
    sys.exit(1 if failed else 0)


def _print_table(checks: Sequence["Check"]) -> None:
    """One row a check, then what was found beside the verdicts."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="What was checked", box=SIMPLE_HEAD)
    for column, justify in (("check", "left"), ("compared", "right"), ("worst", "right"), ("allowed", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("verdict", no_wrap=True)
    table.add_column("what it compares")
    for check in checks:
        exact = not check.tolerance
        worst, allowed = ("", "" if check.tolerance is None else "equal") if exact else _numbers(check)
        table.add_row(check.name, f"{check.n:,}", worst, allowed, check.verdict, check.what)
    wide_console(120).print(table)
    for check in checks:
        if check.note:
            click.echo(f"{check.name}: {check.note}")


def _numbers(check: "Check") -> tuple[str, str]:
    """The worst deviation and what is allowed, as text."""
    return f"{check.worst:.2g}", f"{check.tolerance:g}"


def _print_failures(checks: Sequence["Check"]) -> None:
    """The first failures of every check, a line each, shared out so that no check hides another."""
    failing = [check for check in checks if not check.passed]
    for check in failing:
        shown = check.failures[: max(MOST_LINES // len(failing), 1)]
        for failure in shown:
            click.echo(f"{check.name}: {failure}", err=True)
        if more := check.n_failures - len(shown):
            click.echo(f"{check.name}: ... and {more} more", err=True)
