"""Where work runs: a pool of processes behind the interface of `concurrent.futures.Executor`."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

# Each of these is read once, when the library that obeys it is loaded.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def n_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def single_threaded_children() -> Iterator[None]:
    """Within the block, processes that are started see one thread for BLAS, OpenMP and Numba.

    One thread a worker keeps workers × threads within the cores, and a sum's rounding the same for any worker
    count.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
    """
    others = set(multiprocessing.active_children())
    with single_threaded_children():
        pool = ProcessPoolExecutor(
            n_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )
        try:
            with _interrupts_held():
                pool.submit(os.getpid)  # which starts all the workers
            yield pool
            pool.shutdown(wait=True)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
                process.join()  # so that nothing is written any more once this returns
            pool.shutdown(wait=False, cancel_futures=True)
            raise
