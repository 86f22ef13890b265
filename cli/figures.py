"""``gcref figures``: draw the paper's figures from results files."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FORMATS = ("png", "svg", "pdf")


@click.command(short_help="Draw the paper's figures from results files.")
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the figures.")
@click.option("--format", "formats", default="png,svg", show_default=True, metavar="LIST", help="Of png, svg, pdf.")
@click.option("--overwrite", is_flag=True, help="Replace figures that are already in DIR.")
@click.option("--paper/--no-paper", default=True, show_default=True, help="Overlay the paper's digitised points.")
@click.option(
    "--window",
    type=click.IntRange(min=1),
    show_default="a tenth of a run's",
    help="Measuring points over which Figs. 3, 6 and 7 are smoothed.",
)
def figures(
    results: tuple[Path, ...], out: Path, formats: str, overwrite: bool, paper: bool, window: int | None
) -> None:
    """Draw the paper's figures from RESULTS, files of the studies.

    Figs. 4, 5, 8 and 9 come from random-features files (rf-sweep), each from one of them, such as Fig. 8 from one with
    duplicates and the others from one without; Figs. 3, 6 and 7 from any number of image runs (image): a column of
    Fig. 3 for each plain run; Fig. 6 where there are runs with label smoothing or corruption, Fig. 7 where there are
    runs with duplicates, each beside those without of the same data set and model.

    A figure the files have no data for (Fig. 8, without duplicates) is skipped with a line that says why.
    DIR is made if its parent exists. LIST is a comma-separated list.

    \b
    Examples:
      gcref figures results.h5 --out figures
      gcref figures results.h5 --out figures --format pdf --no-paper
      gcref figures results.h5 --out figures --overwrite
      gcref figures results.h5 duplicates.h5 --out both
      gcref figures plain.h5 smooth.h5 corrupt.h5 duplicates.h5 --out figures --window 9
    """  # noqa: D301
    from gcref.panels import save
    from gcref.store import doubts

    names = _formats(formats)
    try:
        drawings, skipped = _plan(results, paper, window)
        warnings = [f"{path} {doubt}" for path in results for doubt in doubts(path)]
        if not drawings:
            raise ValueError(f"there is data for no figure: {'; '.join(dict.fromkeys(skipped.values()))}")
        paths = save(drawings, out, names, overwrite)
    except FileExistsError as error:
        raise click.UsageError(f"--out {error}; give another name, or --overwrite to replace them") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise click.UsageError(f"--out {out}: {error}") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    for name, reason in skipped.items():
        click.echo(f"skipped {name}: {reason}", err=True)
    for path in paths:
        click.echo(f"wrote {path}")


def _formats(text: str) -> list[str]:
    """Return the formats of a comma-separated list."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names or not set(names) <= set(FORMATS):
        raise click.UsageError(f"--format {text}: {', '.join(FORMATS)}, or several of them by commas, are expected")
    return names


def _plan(
    results: tuple[Path, ...], paper: bool, window: int | None
) -> tuple[dict[str, Callable[[], "Figure"]], dict[str, str]]:
    """Return the figures that the files have data for, with their drawing functions, and the others with the reason."""
    from gcref import figures, image_figures
    from gcref.figure_plan import check_schema, plan
    from gcref.store import read_config, read_summary

    twice = [path for path, n in Counter(path.resolve() for path in results).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    schemas = {path: read_config(path)["schema"] for path in results}
    for path, schema in schemas.items():
        check_schema(path, schema)
    summaries = {path: read_summary(path) for path in results if schemas[path] == figures.SCHEMA}
    runs = [image_figures.read_run(path) for path in results if schemas[path] == image_figures.SCHEMA]
    return plan(summaries, runs, paper, window)
