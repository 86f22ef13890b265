"""``gcref image``: train an image model and measure the variance of every estimator (Figs. 3, 6 and 7)."""

import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from gcref.cli.common import (
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
from gcref.cli.workers import dask_cluster, dask_options, refuse_cluster, warnings_in_words

DATASETS = ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagefolder"]
MODELS = ["linear", "mlp", "cnn", "resnet8", "resnet20", "resnet32", "resnet18"]


def _number(flag: str, kind: type, default: str, text: str) -> Any:
    """Return an option for one number."""
    return click.option(flag, type=kind, show_default=default, help=text)


@click.command(name="image", short_help="Train an image model and measure every estimator.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The results file (HDF5).")
@click.option(
    "--preset", type=click.Choice(["mnist", "cifar10", "cifar100", "imagenet"]),
    help="A row of the paper's Table 2; every other option replaces one of its values.  [default: mnist, unless "
    "--dataset or --model is given]",
)  # fmt: skip
@click.option("--dataset", type=click.Choice(DATASETS), show_default="the preset's, else mnist", help="The data set.")
@click.option("--data-dir", type=click.Path(), help="Folder with its files; else $GCREF_DATA, then standard places.")
@click.option("--model", type=click.Choice(MODELS), show_default="the preset's, else mlp", help="The model.")
@click.option(
    "--hidden", type=INTEGERS, multiple=True, metavar="LIST", show_default="1024,1024", help="Hidden units of an mlp."
)
@_number("--width", int, "the model's own", "Channels of a convolutional model's first stage.")
@click.option(
    "--norm", type=click.Choice(["default", "none", "batch"]), show_default="default",
    help="Batch norm; by default only from resnet20 on. It is traced with running statistics.",
)  # fmt: skip
@_number(
    "--n-examples", int, "all", "Train on the first so many examples; of a folder, on so many spread over its classes."
)
@_number("--n-test-examples", int, "all", "Test on the first so many.")
@_number("--image-size", int, "64", "Rows and columns that images of a folder are cut to (preset imagenet: 224).")
@click.option("--skip-broken", is_flag=True, default=None, help="Leave out images of a folder that cannot be read.")
@_number("--label-smoothing", float, "0", "Share of the target spread over all classes (Fig. 6).")
@_number("--corrupt-fraction", float, "0", "Share of the training set whose labels are changed (Fig. 6: 0.1).")
@_number("--duplicate-fraction", float, "0", "Share of the training set made of copies of a few examples (Fig. 7).")
@_number("--n-originals", int, "5", "How many examples these are copies of.")
@click.option("--augment/--no-augment", default=None, help="Random crops and flips in training; never in measuring.")
@_number("--batch-size", int, "128", "Mini-batch size B, and the number of clusters.")
@_number("--learning-rate", float, "0.02", "Learning rate.")
@_number("--momentum", float, "0.5", "Momentum.")
@_number("--weight-decay", float, "0.0005", "Weight decay.")
@_number("--iterations", int, "50000", "SGD steps.")
@click.option(
    "--milestones", type=INTEGERS, multiple=True, metavar="LIST", show_default="the preset's",
    help="Iterations at which the learning rate drops to a tenth; presets but mnist: half and three quarters.",
)  # fmt: skip
@click.option(
    "--methods",
    type=WORDS,
    multiple=True,
    metavar="LIST",
    show_default="sgb,sg2b,svrg,gc",
    help=METHODS_HELP,
)
@click.option(
    "--method", type=click.Choice(["closed-form", "monte-carlo"]), show_default="closed-form",
    help="Exact variances over the whole training set, or the paper's protocol.",
)  # fmt: skip
@_number("--n-estimates", int, "50", "Gradient estimates of the paper's protocol (Estim T).")
@_number("--measure-every", int, "500", "Steps between measurements (Log T); divides the iterations.")
@_number("--refresh-every", int, "2000", "Steps between SVRG snapshots and clusterings (U).")
@_number("--gc-iterations", int, "10", "Iterations of a clustering (GC T).")
@_number("--seed", int, "0", "Seed: model, batches, augmentation, label noise and clustering all follow from it.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float64"]),
    show_default="float32",
    help="Of the network; sums are float64.",
)
@click.option(
    "--snapshots", type=click.Choice(["refresh", "all", "none"]), show_default="refresh",
    help="Keep parameters and labels at each refresh, at every measurement, or never.",
)  # fmt: skip
@dask_options
@click.option("--overwrite", is_flag=True, help="Begin anew over a finished file, or another configuration's.")
def image(
    out: Path,
    preset: str | None,
    data_dir: str | None,
    dask: bool,
    scheduler: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Train one image model by SGD and measure SG-B, SG-2B, SVRG and GC on its way, exactly.

    Section 4.1 of the paper. A run that is killed or stopped goes on, by the same command, from the last
    measurement, with the same numbers. With --dask or --scheduler, the passes that measure are summed by the
    workers, which find the data set's files where this machine has them; training stays here. LIST is a
    comma-separated list.

    \b
    Examples:
      gcref image --dataset digits --model cnn --iterations 1000 --out digits.h5
      gcref image --preset mnist --out mnist.h5                 Figs. 3a and 3d
      gcref image --preset mnist --dataset fashion-mnist --iterations 6000 --out fashion.h5
      gcref image --preset cifar10 --corrupt-fraction 0.1 --out corrupt.h5           Fig. 6
      gcref image --preset cifar10 --duplicate-fraction 0.5 --out duplicates.h5      Fig. 7
      gcref image --preset imagenet --data-dir imagenet --out imagenet.h5
      gcref figures mnist.h5 cifar10.h5 --out figures
    """  # noqa: D301
    results_file(out)
    from gcref.studies.image_run import ImageRun
    from gcref.studies.image_run import preset as of_preset

    given = {k: flatten(v) if isinstance(v, tuple) else v for k, v in options.items() if v not in (None, ())}
    with usage_errors():
        if preset is None and ("dataset" in given or "model" in given):
            run = ImageRun(**given)
        else:
            run = of_preset(preset or "mnist", given)
    _refuse_idle(given, run)
    if run.method != "closed-form":
        refuse_cluster(dask, scheduler, run.method)
    _run(run, out, data_dir, partial(dask_cluster, dask, scheduler), command_line(), overwrite)


def _refuse_idle(given: dict[str, Any], run: Any) -> None:
    """Refuse options that were given and that the run has no use for, though a preset may set them for others."""
    use = {
        "image_size": ("--dataset imagefolder", run.dataset == "imagefolder"),
        "skip_broken": ("--dataset imagefolder", run.dataset == "imagefolder"),
        "hidden": ("--model mlp", run.model == "mlp"),
        "n_originals": ("--duplicate-fraction", run.duplicate_fraction > 0),
        "n_estimates": ("--method monte-carlo", run.method == "monte-carlo"),
    }
    for name, (needed, there) in use.items():
        if name in given and not there:
            raise click.UsageError(f"--{name.replace('_', '-')} has no meaning without {needed}")


def _run(run: Any, out: Path, data_dir: str | None, cluster: Callable, command: str, overwrite: bool) -> None:
    """Run, showing progress on stderr, and print the last measurements on stdout."""
    from concurrent.futures.process import BrokenProcessPool

    from gcref.studies.image import run_image

    start = time.monotonic()
    again = "the same command goes on from the last measurement"
    try:
        bar = progress_on_stderr(run.iterations, "iterations")
        with bar as progress, warnings_in_words(), cluster() as (executor, _):
            ran = run_image(run, out, data_dir, command, overwrite, progress, executor)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        stopped(f"What is measured is kept; {again}.")
    except (BrokenProcessPool, MemoryError) as error:
        raise click.ClickException(f"{str(error) or 'out of memory'}; what is measured is kept, {again}") from None
    except OSError as error:
        raise click.ClickException(f"{error}; what is measured is kept, {again}") from None
    if not ran:
        click.echo(f"{out} is finished already: {run.id}, nothing to do.")
        return
    end = _print_table(out)
    click.echo(f"{out}: {end} in {time.monotonic() - start:.0f} s. Next:")
    click.echo(f"  gcref figures {shlex.quote(str(out))} --out figures")


def _print_table(out: Path) -> str:
    """Print loss, accuracy and variances at ten or so of the measuring points; say how far the run came."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from gcref.store import read_trajectory

    attrs, series = read_trajectory(out)
    methods = attrs["methods"].split(",")
    table = Table(title=f"{attrs['dataset']}, {attrs['model']}: average variance ({attrs['method']})", box=SIMPLE_HEAD)
    columns = ("iteration", "train\nloss", "train\naccuracy", "test\naccuracy", *methods, "normalized\n" + methods[0])
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    n = len(series["iteration"])
    for i in sorted({*range(0, n, max(1, n // 10)), n - 1} if n else ()):
        cells = [f"{series[f'variance/{m}'][i]:.2e}" for m in methods]
        table.add_row(
            str(series["iteration"][i]), f"{series['train_loss'][i]:#.5g}", f"{series['train_accuracy'][i]:.2%}",
            f"{series['test_accuracy'][i]:.2%}", *cells, f"{series[f'normalized_variance/{methods[0]}'][i]:.3f}",
        )  # fmt: skip
    print_whole(table)
    last = series["iteration"][-1] if n else 0
    return f"{last} iterations" if attrs["status"] == "complete" else f"it diverged after iteration {last}"
