"""What the machine can do at most: BLAS's rate of matrix products and the rate of copying memory, on all threads."""

from typing import NamedTuple

import numpy as np

from gcref.kernels import threads
from gcref.validation.benchmarks.alternating import block_time

_N = {False: 1536, True: 512}  # rows and columns of a product; by --quick
_COPIED = {False: 1 << 28, True: 1 << 25}  # bytes copied by each thread, beyond any cache


class Limits(NamedTuple):
    """Rates that no program on this machine exceeds for long.

    ``gemm`` holds the multiplications and additions a second of BLAS's matrix product, by dtype; ``copy`` the bytes
    a second that are read and written when memory is copied, both counted.
    """

    gemm: dict[str, float]
    copy: float
    threads: int

    def seconds(self, flops: float, n_bytes: float, dtype: str) -> float:
        """Return the least time in which so many operations and bytes can be done: the longer of the two."""
        return max(flops / self.gemm[dtype], n_bytes / self.copy)


def measure(quick: bool = False) -> Limits:
    """Measure, by the median of some runs."""
    gemm = {dtype: _gemm(dtype, _N[quick]) for dtype in ("float32", "float64")}
    return Limits(gemm, _copy(_COPIED[quick]), threads.n_threads())


def _gemm(dtype: str, n: int) -> float:
    """Operations a second of products of n × n matrices, one in each thread, or shared out by BLAS itself."""
    rng = np.random.default_rng(0)
    hands = threads.n_threads() if threads.blas_threads() == 1 else 1
    a, b = (rng.standard_normal((hands, n, n)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)

    def multiply(first: int, last: int) -> None:
        for hand in range(first, last):
            np.matmul(a[hand], b[hand], out=out[hand])

    return 2.0 * hands * n**3 / block_time(lambda: threads.over(hands, multiply), 7)


def _copy(n_bytes: int) -> float:
    """Bytes a second that are read and written, each thread copying memory of its own."""
    hands = threads.n_threads()
    source, target = np.ones((hands, n_bytes), np.uint8), np.zeros((hands, n_bytes), np.uint8)

    def copy(first: int, last: int) -> None:
        np.copyto(target[first:last], source[first:last])

    return 2.0 * hands * n_bytes / block_time(lambda: threads.over(hands, copy), 7)
