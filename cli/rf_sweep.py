"""``gcref rf-sweep``: the random-features study of the paper."""

import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcref.cli.common import (
    FLOATS,
    INTEGERS,
    METHODS_HELP,
    WORDS,
    command_line,
    flatten,
    print_whole,
    results_file,
    usage_errors,
)
from gcref.cli.progress import progress_on_stderr
from gcref.cli.stopping import stopped
from gcref.cli.workers import dask_cluster, dask_options, warnings_in_words

if TYPE_CHECKING:
    import numpy as np

# The small grid of --quick: all four estimators and all three learning rates, no 10,000-dimensional teacher.
QUICK = {
    "overparametrization": (0.1, 0.5, 1.0, 2.0, 5.0, 10.0),
    "input_dim": (100,),
    "teacher_hidden": (100,),
}
# The grid of a bare --duplicates: Fig. 8.
FIGURE_8 = "0.1,0.5,0.9"


def _axis(flag: str, kind: click.ParamType, default: str, text: str, *more: str) -> Callable:
    """Return an option for one axis of the grid: repeatable, or a comma list."""
    name = flag.strip("-").replace("-", "_")
    return click.option(flag, *more, name, type=kind, multiple=True, metavar="LIST", show_default=default, help=text)


@click.command(name="rf-sweep", short_help="Run the random-features study over a grid.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The results file (HDF5).")
@click.option("--quick", is_flag=True, help="A small grid: seconds instead of minutes.")
@_axis("--learning-rate", FLOATS, "0.001,0.01,0.1", "Learning rates.")
@_axis("--overparametrization", FLOATS, "0.1,0.5,1,1.5,2,2.5,3,5,10", "Ratios h_s/N; N = ⌊h_s/ratio⌋.", "--ratio")
@_axis("--input-dim", INTEGERS, "100,10000", "Dimensions of x.")
@_axis("--teacher-hidden", INTEGERS, "100,10000", "Hidden features of the teacher.")
@click.option(
    "--duplicates", "duplicate_fraction", type=FLOATS, multiple=True, is_flag=False, flag_value=FIGURE_8,
    metavar="[LIST]", show_default="0",
    help=f"Shares of the training set made of copies of 5 examples; without a list those of Fig. 8, {FIGURE_8}. The "
    "learning rate is then 0.01, unless it is given or --quick is.",
)  # fmt: skip
@_axis("--seed", INTEGERS, "0,1,2", "Seeds: data, teacher, student, batches and clustering all follow from it.")
@_axis("--methods", WORDS, "sgb,sg2b,svrg,gc", METHODS_HELP)
@click.option("--batch-size", type=int, show_default="10", help="Mini-batch size B, and the number of clusters.")
@click.option("--iterations", type=int, show_default="5000", help="SGD steps of a trajectory.")
@click.option("--measure-every", type=int, show_default="100", help="Steps between measurements.")
@click.option("--refresh-every", type=int, show_default="1000", help="Steps between SVRG snapshots and clusterings.")
@click.option("--student-hidden", type=int, show_default="1000", help="Random features of the student, h_s.")
@click.option("--weight-decay", type=float, show_default="0.0001", help="Weight decay.")
@click.option("--head", type=click.Choice(["softmax", "logistic"]), show_default="softmax", help="The student's loss.")
@click.option(
    "--student-init", type=click.Choice(["published", "unit", "uniform"]), show_default="published",
    help="Norms of the student's features and first weights: 1 (the paper's text), uniform in ±1/√fan-in, or "
    "as each published figure was run: uniform with duplicates (Fig. 8), else unit.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["float32", "float64"]), show_default="float32",
    help="Of the teacher's product (labels only); training and statistics are always float64.",
)  # fmt: skip
@click.option(
    "--snapshots", type=click.Choice(["refresh", "all"]), show_default="refresh",
    help="Keep theta and labels at each refresh, or at every measurement.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), show_default="all cores", help="Processes, one thread each.")
@dask_options
@click.option("--overwrite", is_flag=True, help="Begin anew over a finished file, or another configuration's.")
def rf_sweep(
    out: Path, quick: bool, workers: int | None, dask: bool, scheduler: str | None, overwrite: bool, **options: Any
) -> None:
    """Train random-features models over a grid and measure the variance of every estimator, exactly.

    Sections 4.2 and 4.3 of the paper. A run that is killed or stopped is finished by the same command, with
    the same numbers. LIST is a comma-separated list; every LIST option may also be repeated.

    \b
    Examples:
      gcref rf-sweep --out results.h5                  the paper's grid, 324 trajectories
      gcref rf-sweep --quick --out quick.h5            seconds
      gcref rf-sweep --duplicates --out dup.h5         Fig. 8
      gcref rf-sweep --learning-rate 0.01,0.03 --seed 0 --ratio 1 --ratio 5 --out mine.h5
      gcref rf-sweep --scheduler tcp://host:8786 --out results.h5       a Dask cluster
    """  # noqa: D301
    results_file(out)
    from gcref.studies.grid import Sweep

    with usage_errors():
        sweep = Sweep(**_settings(quick, options))
    _run(sweep, out, partial(dask_cluster, dask, scheduler, workers), command_line(), overwrite)


def _settings(quick: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return only what was asked for, --quick's grid and each option given; the library has the defaults."""
    given = {k: flatten(v) if isinstance(v, tuple) else v for k, v in options.items() if v not in (None, ())}
    if any(given.get("duplicate_fraction", ())) and "learning_rate" not in given and not quick:
        given["learning_rate"] = (0.01,)
    return (QUICK if quick else {}) | given


def _run(sweep: Any, out: Path, cluster: Callable, command: str, overwrite: bool) -> None:
    """Run, showing progress on stderr, and print the summary on stdout."""
    from concurrent.futures.process import BrokenProcessPool

    from gcref.cores import n_cores
    from gcref.store import StoreError, read_summary
    from gcref.studies.sweep import run_sweep

    start = time.monotonic()
    total = len(sweep.specs())
    again = "the same command finishes it"
    try:
        with progress_on_stderr(total) as progress, warnings_in_words(), cluster() as (executor, n_workers):
            ran = run_sweep(sweep, out, n_workers or n_cores(), command, overwrite, progress, executor)
    except StoreError as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        stopped(f"What is finished is kept; {again}.")
    except (BrokenProcessPool, MemoryError) as error:
        message = f"{str(error) or 'out of memory'}; finished trajectories are kept, {again}"
        raise click.ClickException(message) from None
    except OSError as error:
        raise click.ClickException(f"{error}; finished trajectories are kept, {again}") from None
    if not ran:
        click.echo(f"{out} is finished already: {total} trajectories, nothing to do.")
        return
    _print_summary(read_summary(out))
    seconds = time.monotonic() - start
    click.echo(f"{out}: {total} trajectories in {seconds:.0f} s. Next:")
    click.echo(f"  gcref figures {shlex.quote(str(out))} --out figures")


def _print_summary(summary: "np.ndarray") -> None:
    """Print each method's variance, averaged over seeds, inputs and teachers, point by point."""
    import numpy as np
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    methods = [name.decode() for name in dict.fromkeys(summary["method"])]
    table = Table(title="Average variance, mean over the last 70 % of the measurements", box=SIMPLE_HEAD)
    columns = ("learning\nrate", "duplicate\nfraction", "h_s/N", "N", *methods, "normalized\nsgb", "diverged")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    keys = summary[["learning_rate", "duplicate_fraction", "overparametrization", "n_train"]]
    for key in np.unique(keys):
        rows = summary[keys == key]
        finite = rows[np.isfinite(rows["variance_mean70"])]
        cells = [_mean(finite[finite["method"] == m.encode()]["variance_mean70"], "{:.2e}") for m in methods]
        first = finite[finite["method"] == summary["method"][0]]
        normalized = _mean(first["normalized_variance_mean70"], "{:.3f}")
        diverged = len({row["trajectory"] for row in rows}) - len({row["trajectory"] for row in finite})
        lr, dup, ratio, n = key.item()
        table.add_row(f"{lr:g}", f"{dup:g}", f"{ratio:g}", str(n), *cells, normalized, str(diverged or ""))
    print_whole(table)


def _mean(values: "np.ndarray", form: str) -> str:
    """Return the mean as text; of nothing, where everything diverged, a dash."""
    return form.format(values.mean()) if len(values) else "-"
