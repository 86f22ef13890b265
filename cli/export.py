"""``gcref export``: results as tidy tables for pandas, R and xarray."""

from pathlib import Path

import click

from gcref.cli.common import new_file, usage_errors

ENDINGS = {".csv": "csv", ".parquet": "parquet", ".nc": "xarray"}


@click.command(short_help="Write results as tables for pandas, R or xarray.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="File for the table.")
@click.option(
    "--format", "form", type=click.Choice(list(ENDINGS.values())),
    show_default="what FILE ends in: .csv, .parquet, .nc",
    help="csv; parquet (needs pyarrow); or xarray, which is netCDF (needs xarray).",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
def export(results: Path, out: Path, form: str | None, overwrite: bool) -> None:
    """Write the series in RESULTS, a results file of either study, as a table; snapshots are left out.

    csv and parquet have a row for each trajectory, iteration and method, and the columns

    \b
      trajectory, status          its name in RESULTS; complete, diverged or unfinished
      learning_rate, seed, ...    hyper-parameters; h_s/N is overparametrization
      iteration, method           SGD steps done; sgb, sg2b, svrg, gc, ...
      variance                    averaged over the coordinates of the gradient
      normalized_variance         averaged over coordinates of V / (V + mean gradient squared)
      noise_scale                 tr(covariance of one gradient) / |mean gradient|^2; it and the
                                  rest are the same for every method, so take those of one
      train_loss, train_accuracy  and, of images, test_loss, test_accuracy and
                                  current_learning_rate

    What diverged is empty (NaN), or has no row. xarray has the same numbers over the dimensions trajectory,
    iteration and method, hyper-parameters being coordinates along trajectory. parquet and xarray carry the
    configuration along. They come with pip install "gcref[export]".

    \b
    Examples:
      gcref export results.h5 --out results.csv
      gcref export results.h5 --out results.parquet
      gcref export results.h5 --out results.nc --format xarray
    """  # noqa: D301
    form = form or _form(out)
    new_file(out, overwrite, results)
    from gcref import export as exporting
    from gcref.store import doubts
    from gcref.tables import read_results

    with usage_errors():
        exporting.needed(form)
        read = read_results(results)
        for doubt in doubts(results):
            click.echo(f"warning: {results} {doubt}", err=True)
    try:
        with usage_errors():
            shape = exporting.write(read, out, form)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    rows = f"{shape[0]:,} rows, {shape[1]} columns"
    cube = " × ".join(
        f"{n:,} {name}" for n, name in zip(shape, ("trajectories", "iterations", "methods"), strict=False)
    )
    click.echo(f"wrote {out} ({cube if form == 'xarray' else rows})")


def _form(out: Path) -> str:
    """Return the format that a name ends in."""
    if out.suffix.lower() not in ENDINGS:
        raise click.UsageError(f"--out {out}: a name that ends in {', '.join(ENDINGS)} is expected, or --format")
    return ENDINGS[out.suffix.lower()]
