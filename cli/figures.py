"""``gcref figures``: draw the paper's figures from a results file."""

from pathlib import Path

import click


@click.command(short_help="Draw the paper's figures from a results file.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the figures.")
@click.option("--format", "formats", default="png,svg", show_default=True, help="png, svg, pdf; several by commas.")
@click.option("--overwrite", is_flag=True, help="Replace figures that are already in DIR.")
@click.option("--paper/--no-paper", default=True, show_default=True, help="Overlay the paper's digitised points.")
def figures(results: Path, out: Path, formats: str, overwrite: bool, paper: bool) -> None:
    """Draw Figs. 4, 5, 8 and 9 from the summary of RESULTS, a file of the random-features study.

    A figure the file has no data for (Fig. 8, without duplicates) is skipped with a line that says why.
    DIR is made if its parent exists.

    \b
    Examples:
      gcref figures results.h5 --out figures
      gcref figures results.h5 --out figures --format pdf --no-paper
      gcref figures results.h5 --out figures --overwrite
    """  # noqa: D301
    from gcref.figures import draw_all, undrawable
    from gcref.store import doubts, read_summary

    names = [name.strip().lower() for name in formats.split(",") if name.strip()]
    if not names:
        raise click.UsageError(f"--format needs at least one of png, svg, pdf, got {formats!r}")
    try:
        summary = read_summary(results)
        warnings = doubts(results)
        paths = draw_all(summary, out, names, overwrite, paper)
        skipped = undrawable(summary)
    except FileExistsError as error:
        raise click.UsageError(f"{error}; --overwrite replaces them") from error
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    for warning in warnings:
        click.echo(f"warning: {results} {warning}", err=True)
    for name, reason in skipped.items():
        click.echo(f"skipped {name}: {reason}", err=True)
    for path in paths:
        click.echo(f"wrote {path}")
