"""``gcref validate``: recompute the numbers of a results file."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcref.cli.common import json_text, wide_console
from gcref.cli.progress import progress_on_stderr
from gcref.cli.stopping import stopped

if TYPE_CHECKING:
    from gcref.validation.tally import Check

MOST_LINES = 20


@click.command(short_help="Recompute the numbers of a results file.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--workers", type=click.IntRange(min=1), show_default="all cores",
    help="Processes, one thread each, for a file of the random-features study.",
)  # fmt: skip
@click.option("--data-dir", type=click.Path(), help="Folder with the images; else $GCREF_DATA, then standard places.")
@click.option(
    "--examples", type=click.IntRange(min=1), show_default="500",
    help="Images whose gradients are written out where those of all would be too many numbers.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def validate(results: Path, workers: int | None, data_dir: str | None, examples: int | None, as_json: bool) -> None:
    """Recompute the numbers in RESULTS, a file of the random-features study or of an image study, from scratch.

    Data and models are made again from the stored configuration, the gradient of every example is written
    out, and variances, clusterings and SGD's own steps are computed by plain NumPy that, the random draws
    aside, shares nothing with the code that measured. Exit code 0: all is as it should be; 1: something is not.

    Of an image study, what was measured where a snapshot was kept is recomputed in float64, from a backward
    pass of each example alone. Where all gradients together are more than 10⁹ numbers, sums of squares over
    all examples take their place, and the gradients of --examples random ones vouch for these.

    \b
    Examples:
      gcref validate quick.h5
      gcref validate results.h5 --workers 1
      gcref validate cifar10.h5 --data-dir cifar --examples 1000
      gcref validate results.h5 --json > checks.json
    """  # noqa: D301
    start = time.monotonic()
    of_images = is_of_images(results)
    others = {"--workers": workers} if of_images else {"--data-dir": data_dir, "--examples": examples}
    for flag, value in others.items():
        if value is not None:
            kind = "an image study" if of_images else "the random-features study"
            raise click.UsageError(f"{flag}={value} has no meaning for {results}, a file of {kind}")
    checks, extent = recompute(results, workers, data_dir, examples)
    seconds = time.monotonic() - start
    failed = [check.name for check in checks if not check.passed]
    if as_json:
        found = {"path": str(results), "passed": not failed, "extent": extent, "seconds": round(seconds, 1)}
        click.echo(json_text(found | {"checks": [check.as_json() for check in checks]}))
    else:
        _print_table(checks)
        _print_failures(checks)
        verdict = f"FAIL in {', '.join(failed)}" if failed else "every check passed"
        n_checked = next(check.n for check in checks if check.name == "recomputation")
        click.echo(f"{results}: {verdict} ({n_checked} of {extent} recomputed, {seconds:.0f} s)")
    sys.exit(1 if failed else 0)


def is_of_images(results: Path) -> bool:
    """Say whether a results file is of an image study; one that cannot be read is a usage error."""
    from gcref.store import StoreError, read_config

    try:
        return read_config(results)["schema"].startswith("image/")
    except StoreError as error:
        raise click.UsageError(str(error)) from None


def recompute(
    results: Path, workers: int | None = None, data_dir: str | None = None, examples: int | None = None
) -> tuple[list["Check"], str]:
    """Check a file of either study by the options that are its own, and say what it is made of."""
    of_images = is_of_images(results)
    with _failures_told(results):
        return _images(results, data_dir, examples or 500) if of_images else _sweep(results, workers)


@contextmanager
def _failures_told(results: Path) -> Iterator[None]:
    """Say in one sentence why a file cannot be checked."""
    from concurrent.futures.process import BrokenProcessPool

    from gcref.data import DataError
    from gcref.store import StoreError

    try:
        yield
    except (StoreError, DataError) as error:
        raise click.UsageError(str(error)) from None
    except MemoryError:
        raise click.UsageError(f"{results} asks for more memory than there is") from None
    except KeyboardInterrupt:
        stopped(f"Nothing is known of {results}.")
    except BrokenProcessPool:
        raise click.ClickException("a worker died (out of memory?); fewer --workers need less") from None


def _sweep(results: Path, workers: int | None) -> tuple[list["Check"], str]:
    """Check a file of the random-features study, and say what it is made of."""
    from gcref.cores import n_cores
    from gcref.studies.sweep import config_of
    from gcref.validation.results import validate

    total = len(config_of(results).specs())
    with progress_on_stderr(total) as progress:
        return validate(results, workers or n_cores(), progress), f"{total} trajectories"


def _images(results: Path, data_dir: str | None, examples: int) -> tuple[list["Check"], str]:
    """Check a file of an image study, and say what it is made of."""
    from gcref.validation.image_results import config_of, validate

    run = config_of(results)
    total = sum(run.keeps_snapshot(point) for point in run.points)
    with progress_on_stderr(total, "snapshots") as progress:
        return validate(results, data_dir, examples, isolated=True, progress=progress), f"{total} snapshots"


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
