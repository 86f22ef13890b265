"""``gcref cluster``: cluster the gradients of anybody's model, from a file of traces."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcref.cli.common import new_file, usage_errors, wide_console
from gcref.cli.workers import dask_cluster, dask_options, refuse_cluster

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import numpy as np

    from gcref.clustering.base import Clusterer
    from gcref.engine.trace import Trace
    from gcref.trace_files import TraceFile

    Batches = Iterator[list[Trace]]

KEPT = 1 << 30  # bytes of traces that methods of several passes keep in memory, rather than read them again
CHECK_DIM = 32  # numbers a gradient from which the variance is estimated; SketchedClustering has as many
METHODS = "sketched, gc, gc-rankR, exchange, exact"


@click.command(short_help="Cluster the gradients of any model, from a file of traces.")
@click.argument("traces", type=click.Path(path_type=Path))
@click.option("--n-clusters", type=click.IntRange(min=1), default=128, show_default=True, help="Clusters, K.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.npz", help="File for the labels.")
@click.option("--method", default="sketched", show_default=True, help=f"One of {METHODS}; R a whole number.")
@click.option(
    "--dim", type=click.IntRange(min=1), show_default="128", help="Numbers of a sketch; only of method sketched."
)
@click.option(
    "--drift", type=click.FloatRange(min=0), show_default="0",
    help="Share of the mean squared gradient that each is expected to drift by; only of method sketched.",
)  # fmt: skip
@click.option(
    "--n-iter", type=click.IntRange(min=1), show_default="10 iterations; 20 sweeps of sketched and exchange",
    help="The most iterations or sweeps.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True,
    help="Seed of the sketches and of the first clusters.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", show_default=True,
    help="Where the kernels run; auto takes a GPU if there is one.",
)  # fmt: skip
@dask_options
@click.option("--overwrite", is_flag=True, help="Replace FILE.npz if it is there.")
def cluster(
    traces: Path,
    n_clusters: int,
    out: Path,
    method: str,
    dim: int | None,
    drift: float | None,
    n_iter: int | None,
    seed: int,
    device: str,
    dask: bool,
    scheduler: str | None,
    overwrite: bool,
) -> None:
    """Cluster the per-example gradients in TRACES, so that one draw from each cluster has little variance.

    TRACES is an HDF5 file or an .npz archive, written by any framework. Its arrays, float32 or float64, two for
    each parameter block 0, 1, ... of N examples and T positions (none for a fully connected layer):

    \b
      A0, A1, ...  (N, T, I) or (N, I)  the block's input; the last one 1 where there is a bias
      D0, D1, ...  (N, T, O) or (N, O)  the gradient of each example's own loss with respect
                                        to the block's output, not divided by the batch size

    Example i has the gradient Σ_t A_it D_itᵀ. A convolution's A are its patches (torch.nn.functional.unfold).

    Methods: sketched, exchange on a sketch of each gradient, of one pass, is fast for any N and number of
    parameters; gc is the paper's, gc-rankR with centres of rank R a block; exchange and exact (alternating) work
    on all gradients or all N² inner products, for small N. TRACES is read in batches and need not fit into
    memory; methods of several passes keep it there up to 1 GiB. With --dask or --scheduler, the workers read TRACES,
    where they find it under the same name, and sketch it piece by piece.

    FILE.npz holds labels (N,), sizes (K,), weights (N,) = N_k/N of each example's cluster (what its gradient
    counts, if one is drawn from each), objective (the method's own after each iteration), method, n_clusters,
    seed and gcref_version. The labels serve gcref.StratifiedBatchSampler and gcref.Stratified.

    \b
    Examples:
      gcref cluster traces.h5 --n-clusters 128 --out labels.npz
      gcref cluster traces.npz --n-clusters 64 --dim 256 --drift 0.02 --out labels.npz --overwrite
      gcref cluster traces.h5 --method gc-rank4 --n-iter 5 --out rank4.npz
      gcref cluster /shared/traces.h5 --scheduler tcp://host:8786 --out labels.npz
    """  # noqa: D301
    from gcref.kernels.device import resolve
    from gcref.studies.methods import check_memory, clusterer
    from gcref.trace_files import TraceFile

    start = time.monotonic()
    if out.suffix != ".npz":
        raise click.UsageError(f"--out {out}: the name of a file of labels ends in .npz")
    new_file(out, overwrite, traces)
    if not method.startswith("sketched"):
        refuse_cluster(dask, scheduler, method)
    with usage_errors():
        fit = _clusterer(clusterer, method, n_clusters, n_iter, seed, {"dim": dim, "drift": drift})
        fit.set_params(device=_device(resolve, device))
        source = TraceFile(traces)
        if n_clusters > source.n_examples:
            raise ValueError(f"--n-clusters {n_clusters} but {traces} has only {source.n_examples} examples")
        check_memory([method], source.n_examples, sum(i * o for _, i, o in source.blocks))
    with _progress(source) as read, dask_cluster(dask, scheduler) as (executor, _), usage_errors():
        share = _fit(fit, read, source, executor)
    _write(out, fit, method)
    _print_table(fit, source, method, share, time.monotonic() - start)
    click.echo(f"wrote {out}")


def _device(resolve: Callable[[str], str], device: str) -> str:
    """Return the device that is there for `device`."""
    try:
        return resolve(device)
    except RuntimeError as error:
        raise click.UsageError(f"--device cuda: {error}") from None


def _clusterer(
    named: Callable[..., "Clusterer"], method: str, n_clusters: int, n_iter: int | None, seed: int, own: dict[str, Any]
) -> "Clusterer":
    """Return the clusterer of a method; `own` are the options of sketched, None where they are not given."""
    try:
        fit = named(method, n_clusters, n_iter or 10, seed)
    except ValueError:
        raise ValueError(f"--method {method!r} is unknown; choose from {METHODS}, R a whole number") from None
    if n_iter:
        fit.set_params(n_iter=n_iter)
    given = {name: value for name, value in own.items() if value is not None}
    if not math.isfinite(given.get("drift", 0)):
        raise ValueError(f"--drift {given['drift']}: a finite number is expected")
    for name, value in given.items():
        if name not in fit.get_params() or (name == "drift" and method != "sketched"):
            raise ValueError(f"--{name} {value} has no meaning for --method {method}")
    sketched = {"check_dim": CHECK_DIM} if "check_dim" in fit.get_params() else {}
    return fit.set_params(warm_start=False, **given, **sketched)


def _fit(
    fit: "Clusterer", read: Callable[[], "Batches"], source: "TraceFile", executor: "Executor | None"
) -> tuple[float, float]:
    """Cluster; return the variance of one draw a cluster as a share of that of as many plain draws, and its error."""
    from gcref.clustering.sketched import SketchedClustering
    from gcref.clustering.sketches import Sketches
    from gcref.trace_files import TraceFile

    if isinstance(fit, SketchedClustering):
        fit.fit(read) if executor is None else fit.fit(TraceFile(source.path.resolve()), executor)
        return _variance_share(fit, fit.sketches_.values[:, -CHECK_DIM:])
    passes = list(read()) if source.nbytes <= KEPT else read
    fit.fit(passes)
    return _variance_share(fit, Sketches(CHECK_DIM, fit.seed).add(passes).values)


def _variance_share(fit: "Clusterer", values: "np.ndarray") -> tuple[float, float]:
    """Estimate V of Eq. 1 over V of SG-B, B = K, and the standard error, from sketches the labels do not depend on.

    Each number of a sketch gives an unbiased estimate of Φ and of that of one cluster.
    """
    import numpy as np

    largest = np.abs(values).max()
    values = values - values.mean(axis=0)
    scale = np.abs(values).max()
    if scale <= 1e-12 * largest:  # nothing but rounding
        return float("nan"), float("nan")
    values /= scale
    sums = np.zeros((fit.n_clusters, values.shape[1]))
    squares = np.zeros_like(sums)
    np.add.at(sums, fit.labels_, values)
    np.add.at(squares, fit.labels_, values**2)
    phi = np.maximum(fit.sizes_[:, None] * squares - sums**2, 0).sum(axis=0)  # each term is at least 0
    plain = len(values) * squares.sum(axis=0) / fit.n_clusters
    share = phi.sum() / plain.sum()
    return float(share), float((phi - share * plain).std(ddof=1) / (plain.mean() * np.sqrt(len(plain))))


@contextmanager
def _progress(source: "TraceFile") -> Iterator[Callable[[], "Batches"]]:
    """Give a function that reads the traces and says so, with the time elapsed on a terminal."""
    import sys

    if sys.stderr is None or not sys.stderr.isatty():
        click.echo(f"clustering {source.n_examples} examples ...", err=True)
        yield source
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, passes = bar.add_task("starting", total=None), 0

        def read() -> "Batches":
            nonlocal passes
            passes += 1
            done = 0
            for batch in source():
                bar.update(task, description=f"pass {passes} over the traces: {done / source.n_examples:.0%}")
                yield batch
                done += batch[0].n_examples
            bar.update(task, description=f"clustering {source.n_examples} examples")

        yield read


def _write(out: Path, fit: "Clusterer", method: str) -> None:
    """Write what was learnt, whole or not at all."""
    import numpy as np

    from gcref import __version__
    from gcref.atomic import replacing

    arrays = {
        "labels": fit.labels_.astype(np.int64),
        "sizes": fit.sizes_.astype(np.int64),
        "weights": fit.sizes_[fit.labels_] / len(fit.labels_),
        "objective": fit.objective_,
        "method": np.array(method),
        "n_clusters": np.array(fit.n_clusters),
        "seed": np.array(fit.seed),
        "gcref_version": np.array(__version__),
    }
    try:
        with replacing(out) as aside, open(aside, "wb") as handle:
            np.savez(handle, **arrays)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror or error}") from None


def _print_table(
    fit: "Clusterer", source: "TraceFile", method: str, share: tuple[float, float], seconds: float
) -> None:
    """Say what was found."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="What was found", box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    d = sum(i * o for _, i, o in source.blocks)
    sizes, objective = sorted(fit.sizes_.tolist()), fit.objective_
    table.add_row("examples", f"{source.n_examples:,}")
    table.add_row("parameters", f"{d:,} in {_counted(len(source.blocks), 'block')}")
    table.add_row("clusters", f"{len(sizes):,}, of {sizes[0]:,} to {sizes[-1]:,} examples, median {_median(sizes):,}")
    table.add_row("method", f"{method}, {_counted(len(objective), 'iteration')}, {seconds:.1f} s")
    table.add_row("objective", f"{objective[0]:.6g} after the first iteration, {objective.min():.6g} at best")
    of_plain = f"{share[0]:.3g} ± {share[1]:.1g} of that of plain mini-batches of {len(sizes)} (estimated)"
    table.add_row("variance", of_plain if share[0] == share[0] else "none: all gradients are equal")
    wide_console(100).print(table)


def _counted(n: int, thing: str) -> str:
    """Write how many there are of something."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _median(sizes: list[int]) -> int:
    """Return the lower median of a sorted list."""
    return sizes[(len(sizes) - 1) // 2]
