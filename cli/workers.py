"""Options of the commands whose work can run on a Dask cluster, and what they tell of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from concurrent.futures import Executor


def dask_options(command: Callable) -> Callable:
    """Add ``--dask`` and ``--scheduler`` to a command."""
    here = click.option("--dask", is_flag=True, help="Run on a Dask cluster started on this machine.")
    far = click.option("--scheduler", metavar="ADDRESS", help="Run on the workers of this Dask scheduler.")
    return here(far(command))


def refuse_cluster(dask: bool, scheduler: str | None, method: str) -> None:
    """Refuse a cluster for a method whose work is not shared out; exit code 2."""
    if dask or scheduler is not None:
        raise click.UsageError(f"--{'dask' if dask else 'scheduler'} has no meaning for --method {method}")


@contextmanager
def dask_cluster(
    dask: bool, scheduler: str | None, n_workers: int | None = None
) -> "Iterator[tuple[Executor | None, int | None]]":
    """Yield the executor asked for and its number of workers; None and `n_workers` where Dask is not."""
    if not dask and scheduler is None:
        yield None, n_workers
        return
    if scheduler is not None and (dask or n_workers is not None):
        other = "--dask" if dask else "--workers"
        raise click.UsageError(f"--scheduler {scheduler} and {other} exclude each other: its workers are there already")
    from gcref.executor import dask_pool

    with ExitStack() as stack:
        try:
            found = stack.enter_context(dask_pool(scheduler, n_workers))
        except (ValueError, ImportError) as error:
            raise click.UsageError(str(error)) from None
        yield found, found.n_workers


@contextmanager
def warnings_in_words() -> Iterator[None]:
    """Show what the library warns of, such as a worker that was lost, without the line of code that says so."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)
        yield
