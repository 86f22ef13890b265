"""Where work runs: processes here, or Dask beyond one machine, behind `concurrent.futures.Executor`."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

from gcref.cores import THREAD_VARIABLES, n_cores, single_threaded_children

_ASKED = THREAD_VARIABLES[:2]  # of a Dask worker: those that its nanny sets, too
# What a Dask worker here runs first: Ctrl-C is for the process that started it.
LEAVE_CTRL_C = ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"]


class WorkerLostError(BrokenProcessPool):
    """A process of the pool ended in the middle of its work; says which, and by what."""


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back during the block, and for ever in processes that are started in it."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Wait for the parent's end, then end at once: a shard half written aside is never renamed into place."""
    parent.join()
    os._exit(1)


@contextmanager
def process_pool(n_workers: int) -> Iterator[Executor]:
    """Yield an executor of `n_workers` spawned processes of one thread each.

    On an error or Ctrl-C in the block the workers are killed at once; otherwise the block waits for its
    futures.

    Raises
    ------
    WorkerLostError
        If a worker was killed, for want of memory for example, or ended of itself.
    """
    others = set(multiprocessing.active_children())
    workers: set[multiprocessing.process.BaseProcess] = set()
    with single_threaded_children():
        pool = ProcessPoolExecutor(
            n_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )
        try:
            with _interrupts_held():
                for _ in range(n_workers):
                    pool.submit(os.getpid)  # each starts a worker
            workers = set(multiprocessing.active_children()) - others
            yield pool
            pool.shutdown(wait=True)
        except BaseException as error:
            end = _how_it_ended(workers) if isinstance(error, BrokenProcessPool) else ""
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
                process.join()  # so that nothing is written any more once this returns
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise WorkerLostError(end) from None
            raise


def _how_it_ended(workers: set[multiprocessing.process.BaseProcess]) -> str:
    """Say which worker ended first, and by which signal; the pool itself ends the others by SIGTERM."""
    end = time.monotonic() + 1.0  # a thread of the pool may have reaped a worker and not yet written that down
    while time.monotonic() < end:
        for worker in workers:
            code = worker.exitcode
            if code is not None and code not in (0, -signal.SIGTERM):
                reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                hint = ", most often for want of memory" if reason == "SIGKILL" else ""
                return f"the worker process {worker.pid} was ended by {reason}{hint}"
        time.sleep(0.01)
    return "a worker process ended in the middle of its work"


class DaskPool(Executor):
    """The workers of a Dask cluster.

    Attributes
    ----------
    n_workers : int
        How many there were at the start.
    """

    def __init__(self, client: Any, n_workers: int) -> None:
        self._client, self.n_workers = client, n_workers
        self._executor = client.get_executor(pure=False)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Have ``fn(*args, **kwargs)`` done by a worker."""
        return self._executor.submit(fn, *args, **kwargs)

    def share(self, value: Any) -> Any:
        """Send `value` to every worker; what is returned stands for it among the arguments of `submit`."""
        return self._client.scatter(value, broadcast=True, hash=False)


def share(executor: Executor | None, value: Any) -> Any:
    """Give the workers once what many pieces of work need, where the executor can; return what to submit for it."""
    return executor.share(value) if isinstance(executor, DaskPool) else value


def in_order(executor: Executor | None, fn: Callable, shared: Any, items: Sequence[Any]) -> Iterator[Any]:
    """Yield ``fn(shared, item)`` of each item, in order, with few results at a time waiting for their turn."""
    if executor is None:
        yield from (fn(shared, item) for item in items)
        return
    waiting: deque[Future] = deque()
    left = iter(items)
    try:
        while True:
            for item in islice(left, 2 * getattr(executor, "n_workers", n_cores()) - len(waiting)):
                waiting.append(executor.submit(fn, shared, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def dask_pool(scheduler: str | None = None, n_workers: int | None = None) -> Iterator[DaskPool]:
    """Yield an executor on a Dask cluster.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler, such as ``tcp://host:8786``; by default a cluster is started here, for the
        length of the block.
    n_workers : int, optional
        Workers of the cluster started here, one thread each; by default one a core.

    Raises
    ------
    ImportError
        If Dask is not installed.
    ValueError
        If the address leads nowhere, or to workers that cannot do the work: without gcref, with another version of
        it, or with several threads in BLAS, which would change a sum's rounding.

    Notes
    -----
    A worker that is lost, killed by its memory limit for example, has its work done by another: Dask tries a piece of
    work on up to four workers (its setting ``distributed.scheduler.allowed-failures``) before it gives up.
    """
    try:
        from dask.distributed import Client, KilledWorker, LocalCluster
    except ImportError:
        raise ImportError('Dask is not installed: pip install "gcref[distributed]"') from None
    with ExitStack() as stack:
        if scheduler is None:
            with single_threaded_children(), _interrupts_held():
                settings = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
                # Without one its HTTP server takes a fixed port, on all of the machine's addresses.
                private = {"dashboard_address": "127.0.0.1:0"}
                cluster = LocalCluster(
                    n_workers=n_workers or n_cores(), preload=LEAVE_CTRL_C, scheduler_kwargs=private, **settings
                )
                scheduler = stack.enter_context(cluster)
        client = stack.enter_context(_connected(Client, scheduler))
        try:
            yield DaskPool(client, _check_workers(client))
        except KilledWorker as error:
            last = error.last_worker.address
            raise WorkerLostError(f"the worker {last} and those before it were lost over one piece of work") from None
        except CancelledError:
            raise OSError(f"the scheduler {client.scheduler.address} was lost") from None


def _connected(Client: Any, scheduler: Any) -> Any:
    """Return a client of the scheduler, which nothing else in this process takes for its own."""
    try:
        return Client(scheduler, timeout=5, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler={scheduler!r} does not answer ({error}); expected one such as tcp://host:8786"
        ) from None


def _check_workers(client: Any) -> int:
    """Return how many workers the cluster has; refuse those on which the numbers could be others."""
    from gcref import __version__

    where = f"the scheduler {client.scheduler.address}"
    try:
        workers = client.run(describe_worker)
    except Exception as error:  # whatever hinders a worker to load this module
        raise ValueError(f"the workers of {where} cannot load gcref {__version__}: {error}") from None
    if not workers:
        raise ValueError(f"{where} has no workers; start some, then try again")
    for address, (version, threads) in workers.items():
        if version != __version__:
            raise ValueError(f"the worker {address} has gcref {version}; {__version__} is needed")
        if set(threads) != {"1"} or client.nthreads()[address] != 1:
            raise ValueError(
                f"the worker {address} may run several threads, which changes a sum's rounding; start it by "
                f"`dask worker --nthreads 1` with {' and '.join(_ASKED)} = 1"
            )
    return len(workers)


def describe_worker() -> tuple[str, list[str | None]]:
    """Return this process's version of gcref, and how many threads its environment allows BLAS."""
    from gcref import __version__

    return __version__, [os.environ.get(name) for name in _ASKED]
