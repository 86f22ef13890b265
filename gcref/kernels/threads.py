"""Threads for kernels that release the GIL: who does which examples never changes a number.

A task is given a range of examples. Either every example's result is its own, or the ranges are fixed by the number
of examples alone and their results are added up in order.
"""

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np

from gcref.cores import n_cores
from gcref.kernels import memory

Task = Callable[[int, int], object]

N_PARTS = 8  # ranges of a sum over examples
_WIDE = 256  # columns of a part of a product, at least, where there are so many: BLAS packs the other factor for each
_MOST_PARTS = 32  # of a product: threads beyond them have nothing to do
_WORTHWHILE = 1 << 21  # multiplications of a product from which threads gain anything


@cache
def n_threads() -> int:
    """Return the number of threads: NUMBA_NUM_THREADS where it is set, else the cores this process may use."""
    asked = os.environ.get("NUMBA_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return n_cores()


class InEffect(NamedTuple):
    """Threads of BLAS and of the kernels in one process, which never run at once: no kernel calls BLAS in a thread."""

    blas: int
    kernels: int


def in_effect() -> InEffect:
    """Return how many threads this process uses, BLAS by its own account."""
    return InEffect(blas_threads(), n_threads())


def blas_threads() -> int:
    """Ask NumPy's OpenBLAS; of another BLAS return what its variables say, else that it takes every core."""
    ask = _openblas()
    if ask is not None:
        return int(ask())
    asked = [os.environ.get(name, "") for name in ("MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")]
    return next((int(number) for number in asked if number.isdecimal() and int(number) > 0), n_cores())


@cache
def _openblas() -> Callable[[], int] | None:
    """Return what NumPy's OpenBLAS tells its number of threads by; None where NumPy has another BLAS."""
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # which finds what it is linked with, too
    names = [f"{a}openblas_get_num_threads{b}" for a, b in itertools.product(("scipy_", ""), ("64_", ""))]
    return next((getattr(library, name) for name in names if hasattr(library, name)), None)


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads beside the calling one, started when first needed."""
    return ThreadPoolExecutor(n_threads() - 1, thread_name_prefix="gcref")


if hasattr(os, "register_at_fork"):  # a forked child has no threads but its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


def ranges(n: int, n_parts: int) -> list[tuple[int, int]]:
    """Cut 0…n−1 into at most `n_parts` ranges (start, stop) of nearly equal length."""
    n_parts = max(1, min(n_parts, n))
    return [(n * part // n_parts, n * (part + 1) // n_parts) for part in range(n_parts)]


def wide_ranges(n: int) -> list[tuple[int, int]]:
    """Cut the rows or columns of a product into ranges that BLAS is fast on and that stay in a core's cache."""
    return ranges(n, min(_MOST_PARTS, max(2, n // _WIDE)))


def over(n: int, task: Task, worthwhile: bool = True) -> None:
    """Run ``task(start, stop)`` over 0…n−1 on all threads, in one range each; not `worthwhile`: in this thread."""
    run(ranges(n, n_threads() if worthwhile else 1), task)


def summed(
    n: int, shape: tuple[int, ...], dtype: np.dtype | type, task: Callable[[int, int, np.ndarray], object]
) -> np.ndarray:
    """Return the sum over 0…n−1 of what ``task(start, stop, out)`` adds to `out`, zeros of this shape.

    The ranges depend on n alone and their sums are added up in order, so that the result does not depend on the
    number of threads.
    """
    parts = ranges(n, N_PARTS)
    sums = np.zeros((len(parts), *shape), dtype)
    place = {start: part for part, (start, _) in enumerate(parts)}
    run(parts, lambda first, last: task(first, last, sums[place[first]]))
    return np.asarray(sums.sum(axis=0))


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the matrix product a b; a (M, L), b (L, N), out (M, N). Cost L M N.

    Where BLAS has one thread, as in every command, the threads here share out ranges of columns, or of rows, that the
    shapes alone fix. Where it has more it shares out the work itself, and then L decides by how much the rounding
    depends on how many they are.
    """
    (M, L), N = a.shape, b.shape[1]
    if blas_threads() != 1 or L * M * N < _WORTHWHILE:
        return np.matmul(a, b, out=out)
    found = memory.empty((M, N), np.result_type(a, b)) if out is None else out
    if N >= M:
        run(wide_ranges(N), lambda first, last: np.matmul(a, b[:, first:last], out=found[:, first:last]))
    else:
        run(wide_ranges(M), lambda first, last: np.matmul(a[first:last], b, out=found[first:last]))
    return found


def run(parts: list[tuple[int, int]], task: Task) -> None:
    """Run ``task(start, stop)`` for each range, the ranges dealt out to the threads in turn.

    A task must not run tasks itself: it would wait for threads that wait for it.
    """
    hands = min(n_threads(), len(parts))
    if hands <= 1:
        for start, stop in parts:
            task(start, stop)
        return

    def share(hand: int) -> None:
        for start, stop in parts[hand::hands]:
            task(start, stop)

    futures = [_pool().submit(share, hand) for hand in range(1, hands)]
    try:
        share(0)
    finally:
        for future in futures:
            future.exception()  # wait, so that nothing is written once this returns
    for future in futures:
        future.result()
