"""``gcref report``: one page that shows what results files hold."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcref.cli.common import usage_errors
from gcref.cli.validate import is_of_images, recompute

if TYPE_CHECKING:
    from gcref.report import Outcome, Source
    from gcref.validation.verdicts import Claim


@click.command(short_help="Put results on one page, to be read or sent.")
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The page, named .html.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
@click.option("--paper/--no-paper", default=True, show_default=True, help="Overlay the paper's digitised points.")
@click.option(
    "--window", type=click.IntRange(min=1), show_default="a tenth of a run's",
    help="Measuring points over which Figs. 3, 6 and 7 are smoothed.",
)  # fmt: skip
@click.option(
    "--validate", "validating", is_flag=True, help="Recompute the numbers, as gcref validate, and say how it went."
)
@click.option(
    "--workers", type=click.IntRange(min=1), show_default="all cores",
    help="With --validate: processes for a file of the random-features study.",
)  # fmt: skip
@click.option("--data-dir", type=click.Path(), help="With --validate: folder with the images, as for gcref validate.")
def report(
    results: tuple[Path, ...], out: Path, overwrite: bool, paper: bool, window: int | None, validating: bool,
    workers: int | None, data_dir: str | None,
) -> None:  # fmt: skip
    """Write what RESULTS hold as one page of HTML: configuration, figures, tables, the paper's claims with verdicts,
    validation's outcome, environment, and how to reproduce it all.

    The page is complete in itself: it loads nothing, and needs no script (with one, its tables sort). RESULTS are files
    of rf-sweep, such as one without and one with duplicates, and any number of image runs. Nothing in the page says
    where the files lay, unless the command that made them did.

    --validate takes as long as gcref validate. Exit code 1: a check failed; the page is written and says which.

    \b
    Examples:
      gcref report quick.h5 --out quick.html
      gcref report results.h5 duplicates.h5 --out study.html --validate
      gcref report plain.h5 smooth.h5 corrupt.h5 --out images.html --overwrite
    """  # noqa: D205, D301
    for flag, value in (("--workers", workers), ("--data-dir", data_dir)):
        if value is not None and not validating:
            raise click.UsageError(f"{flag}={value} has no meaning without --validate")
    with _refusals():
        from gcref.report import Supplied, check, plan, render, save

        check(out, overwrite)
        if out.exists() and any(path.exists() and out.samefile(path) for path in results):
            raise ValueError(f"--out {out} is a file that is read; give another name")
        sources = plan(results, paper, window)
    _refuse_idle(sources, workers, data_dir)
    for source in sources:
        for doubt in source.doubts:
            click.echo(f"warning: {source.path} {doubt}", err=True)
    claims, unjudged = _claims(sources)
    outcomes = _outcomes(results, workers, data_dir) if validating else {}
    supplied = Supplied(claims, unjudged, outcomes, _environment(), _again(sources, out, paper, window, validating))
    with _refusals():
        save(render(results, supplied, paper, window), out, overwrite)
    click.echo(f"wrote {out}")
    failed = [f"{path}: FAIL in {', '.join(outcome.failed)}" for path, outcome in outcomes.items() if outcome.failed]
    for line in failed:
        click.echo(line, err=True)
    sys.exit(1 if failed else 0)


def _refuse_idle(sources: Sequence["Source"], workers: int | None, data_dir: str | None) -> None:
    """Refuse options of validation that no file is concerned with."""
    kinds = {source.is_sweep for source in sources}
    for flag, value, is_sweep in (("--workers", workers, True), ("--data-dir", data_dir, False)):
        if value is not None and is_sweep not in kinds:
            kind = "of the random-features study" if is_sweep else "of an image study"
            raise click.UsageError(f"{flag}={value} has no meaning: no file is {kind}")


@contextmanager
def _refusals() -> Iterator[None]:
    """Say in one sentence why there is no page."""
    try:
        with usage_errors():
            yield
    except FileExistsError as error:
        advice = "; --overwrite replaces it" if str(error).endswith("already") else ""
        raise click.UsageError(f"--out {error}{advice}") from None
    except FileNotFoundError as error:
        raise click.UsageError(f"--out: {error}") from None
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _claims(sources: Sequence["Source"]) -> tuple[list["Claim"], str]:
    """Judge the paper's sentences by the files of both studies; say why a file judges nothing."""
    from gcref.validation import image_claims

    claims, why = _sweep_claims(sources)
    of_images, more = image_claims.judge({source.path: source.label for source in sources if not source.is_sweep})
    return [*claims, *of_images], "; ".join(filter(None, [why, *more]))


def _sweep_claims(sources: Sequence["Source"]) -> tuple[list["Claim"], str]:
    """Judge what is said of the random-features study; say why, if it cannot be judged."""
    from gcref.validation.claims import judge

    sweeps = [source for source in sources if source.is_sweep]
    plain = [source for source in sweeps if (source.summary["duplicate_fraction"] == 0).any()]
    copies = [source for source in sweeps if source not in plain]
    if not plain:
        return [], "there is no trajectory without duplicates" if sweeps else ""
    try:
        return judge(plain[0].path, copies[0].path if copies else None), ""
    except ValueError as error:
        text = str(error)
        for source in sweeps:
            text = text.replace(str(source.path), source.label)
        return [], text


def _outcomes(results: Sequence[Path], workers: int | None, data_dir: str | None) -> dict[Path, "Outcome"]:
    """Validate each file."""
    from gcref.report import Outcome

    found = {}
    for path in results:
        click.echo(f"validating {path} ...", err=True)
        options = {"data_dir": data_dir} if is_of_images(path) else {"workers": workers}
        found[path] = Outcome(*recompute(path, **options))
    return found


def _environment() -> list[tuple[str, str]]:
    """Return what makes the page here: versions, cores and BLAS."""
    from gcref.cli.info import blas, versions
    from gcref.cores import n_cores

    found = {name: text for name, text in versions() if text}
    found["python"], _, found["system"] = found["python"].partition(" on ")
    return [*found.items(), ("cores", str(n_cores())), ("BLAS", blas())]


def _again(sources: Sequence["Source"], out: Path, paper: bool, window: int | None, validating: bool) -> str:
    """Return the command that makes the page again, without the folders that files were in."""
    words = ["gcref report", *(source.word for source in sources), "--out", shlex.quote(out.name)]
    words += [] if paper else ["--no-paper"]
    words += [] if window is None else ["--window", str(window)]
    return " ".join(words + (["--validate"] if validating else []))
