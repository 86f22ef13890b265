"""The cores there are, and the variables that say how many threads libraries may use."""

import os
from collections.abc import Iterator
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
BLAS_VARIABLES = THREAD_VARIABLES[:-1]


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
