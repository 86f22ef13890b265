"""Sums of gradients and of their squares, coordinate by coordinate, and the variance that they give.

Arrays as in `gcref.kernels.cpu`; sums are float64.
"""

import numpy as np

from gcref.kernels import threads
from gcref.kernels.cpu import chunked
from gcref.kernels.elementwise import accumulate_scaled
from gcref.kernels.jit import fast_jit

_SAFE = 2.0**-12, 2.0**20  # what columns of A and D may reach without their squares' products leaving float32


def second_moment(A: np.ndarray, D: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Σ_i g_i∘g_i, coordinate by coordinate; (I, O).

    T ≤ 2: Σ_{t,s} (A_t∘A_s)ᵀ(D_t∘D_s), matrix products that form no gradient; beyond, the gradients of a
    few examples at a time. A (N, T, I), D (N, T, O); added to `out`, if there is one. Products of up to 256
    examples keep the dtype, their sum is float64. In float32, whose squares end at 1e-38 and 1e38, each column is
    first scaled by a power of two, which changes no digit. Cost N T min(T, 2) I O.
    """
    N, T, I = A.shape  # noqa: E741
    O = D.shape[2]  # noqa: E741
    total = np.zeros((I, O)) if out is None else out
    for rows in chunked(N, T * (I + O) if T <= 2 else T * (I + O) + I * O, 256):
        a, a_squared = _scaled(A[rows])
        d, d_squared = _scaled(D[rows])
        accumulate_scaled(total, _chunk_second_moment(a, d), a_squared, d_squared)
    return total


def _scaled(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide each column of X (N, T, M) by 2^e, above its largest number; the result, and 4^e (M,) in float64."""
    if X.dtype != np.float32:
        return X, np.ones(X.shape[2])
    largest = np.maximum(X.max(axis=(0, 1), initial=0.0), -X.min(axis=(0, 1), initial=0.0))
    if np.all((largest == 0.0) | ((largest > _SAFE[0]) & (largest < _SAFE[1]))):
        return X, np.ones(X.shape[2])
    exponents = np.frexp(largest)[1].clip(-126, 126)
    return X * np.ldexp(np.float32(1), -exponents), np.ldexp(1.0, 2 * exponents)


def _chunk_second_moment(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Σ_i g_i∘g_i of a few examples."""
    T = A.shape[1]
    if T > 2:
        return np.square(A.transpose(0, 2, 1) @ D).sum(axis=0)
    total = None
    for t in range(T):
        for s in range(t + 1):
            products = D[:, t] * D[:, s]
            found = threads.product((A[:, t] * A[:, s]).T, products if s == t else 2 * products)
            total = found if total is None else total + found
    return np.zeros((A.shape[2], D.shape[2]), A.dtype) if total is None else total


@fast_jit
def _add_moments(G: np.ndarray, total: np.ndarray, squares: np.ndarray, first: int, last: int) -> None:
    """Columns first…last−1 of `add_moments`."""
    sums, squared = total[first:last], squares[first:last]
    for i in range(G.shape[0]):
        g = G[i, first:last]
        for j in range(g.shape[0]):
            value = np.float64(g[j])
            sums[j] += value
            squared[j] += value * value


def add_moments(G: np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
    """Add Σ_i g_i and Σ_i g_i∘g_i of gradients written out to total and squares, in float64.

    G (N, M), total and squares (M,). Cost N M.
    """
    threads.over(G.shape[1], lambda first, last: _add_moments(G, total, squares, first, last), G.size >= 1 << 15)


@fast_jit
def _fold(total, squares, n, share, cancelled, out, all_total, all_squares):  # type: ignore[no-untyped-def]
    """A range of coordinates of `fold`."""
    variance, second, n_cancelled = 0.0, 0.0, 0
    for j in range(total.shape[0]):
        mean, square = total[j] / n, squares[j] / n
        one = max(square - mean * mean, 0.0)
        n_cancelled += one < cancelled * square
        out[j] += share * one
        variance += share * one
        second += share * square
        all_total[j] += total[j]
        all_squares[j] += squares[j]
        total[j] = 0.0
        squares[j] = 0.0
    return variance, second, n_cancelled


def fold(
    total: np.ndarray, squares: np.ndarray, n: int, share: float, cancelled: float,
    out: np.ndarray, all_total: np.ndarray, all_squares: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """End a stratum of n examples: out_j += share·max(0, E[g_j²] − E[g_j]²), its sums added to all and set to 0.

    All arrays (d,), float64. Returns Σ_j of what was added, Σ_j share·E[g_j²], which its rounding is relative
    to, and how many coordinates are left with less than `cancelled` of their E[g_j²]. Cost d.
    """

    def task(first: int, last: int, sums: np.ndarray) -> None:
        arrays = [a[first:last] for a in (total, squares, out, all_total, all_squares)]
        sums[:] = _fold(arrays[0], arrays[1], n, share, cancelled, *arrays[2:])

    return threads.summed(len(out), (3,), np.float64, task)
