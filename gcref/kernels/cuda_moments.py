"""The twins of `gcref.kernels.moments` on a GPU, in float64 throughout.

Sums over examples are cut into parts that the shape alone fixes, whose sums are added up in order.
"""

from typing import Any

import numpy as np

from gcref.kernels.cuda_arrays import blocks_for, host, put, updated, zeros
from gcref.kernels.jit import cuda_jit, launch, numba_cuda

cuda = numba_cuda()

THREADS = 256
_BUSY = 1 << 17  # threads that keep a large GPU busy
_FEWEST = 64  # examples of a part
_FOLDERS = 1 << 14  # threads of `fold`, each with a sum of its own


def _n_parts(n_examples: int, n_outputs: int) -> int:
    """Return into how many parts a sum over examples is cut for each of its outputs."""
    return max(1, min(_BUSY // max(1, n_outputs), n_examples // _FEWEST))


@cuda_jit
def _second_moment(A, D, parts):  # type: ignore[no-untyped-def]
    """A thread a part and coordinate; parts (P, I, O)."""
    n, O = A.shape[0], D.shape[2]  # noqa: E741
    n_outputs, n_parts = A.shape[2] * O, parts.shape[0]
    for u in range(cuda.grid(1), parts.size, cuda.gridsize(1)):
        part, a, b = u // n_outputs, u % n_outputs // O, u % O
        total = 0.0
        for i in range(part * n // n_parts, (part + 1) * n // n_parts):
            gradient = 0.0
            for t in range(A.shape[1]):
                gradient += np.float64(A[i, t, a]) * np.float64(D[i, t, b])
            total += gradient * gradient
        parts[part, a, b] = total


def second_moment(A: np.ndarray, D: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Σ_i g_i∘g_i, coordinate by coordinate; (I, O).

    A (N, T, I), D (N, T, O); added to `out`, if there is one. Cost N T I O.
    """
    (N, _, I), O = A.shape, D.shape[2]  # noqa: E741
    total = np.zeros((I, O)) if out is None else out
    parts = zeros(_n_parts(N, I * O), I, O)
    launch(_second_moment, blocks_for(parts.size, THREADS), THREADS, put(A), put(D), parts)
    _add_parts(parts.reshape(parts.shape[0], I * O), total.reshape(I * O))
    return total


@cuda_jit
def _sum_parts(parts, out):  # type: ignore[no-untyped-def]
    """out_j += Σ_p parts_pj, in order: a thread a number."""
    for j in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        total = 0.0
        for p in range(parts.shape[0]):
            total += parts[p, j]
        out[j] += total


def _add_parts(parts: Any, out: Any) -> None:
    """Add the sums of all parts, parts (P, M) on the device, to out (M,)."""
    with updated(out) as (total,):
        launch(_sum_parts, blocks_for(parts.shape[1], THREADS), THREADS, parts, total)


@cuda_jit
def _add_moments(G, sums, squares):  # type: ignore[no-untyped-def]
    """A thread a part and column; sums and squares (P, M)."""
    n, M, n_parts = G.shape[0], G.shape[1], sums.shape[0]
    for u in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
        part, j = u // M, u % M
        total, squared = 0.0, 0.0
        for i in range(part * n // n_parts, (part + 1) * n // n_parts):
            value = np.float64(G[i, j])
            total += value
            squared += value * value
        sums[part, j] = total
        squares[part, j] = squared


def add_moments(G: np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
    """Add Σ_i g_i and Σ_i g_i∘g_i of gradients written out to total and squares, in float64.

    G (N, M), total and squares (M,). Cost N M.
    """
    N, M = G.shape
    n_parts = _n_parts(N, M)
    of_values, of_squares = zeros(n_parts, M), zeros(n_parts, M)
    launch(_add_moments, blocks_for(n_parts * M, THREADS), THREADS, put(G), of_values, of_squares)
    _add_parts(of_values, total)
    _add_parts(of_squares, squares)


@cuda_jit
def _fold(total, squares, n, share, cancelled, out, all_total, all_squares, sums):  # type: ignore[no-untyped-def]
    """A thread every so many coordinates; sums (threads, 3)."""
    for thread in range(cuda.grid(1), sums.shape[0], cuda.gridsize(1)):
        variance, second, n_cancelled = 0.0, 0.0, 0.0
        for j in range(thread, out.shape[0], sums.shape[0]):
            mean, square = total[j] / n, squares[j] / n
            one = square - mean * mean
            if one < 0.0:  # a NaN stays one
                one = 0.0
            if one < cancelled * square:
                n_cancelled += 1.0
            out[j] += share * one
            variance += share * one
            second += share * square
            all_total[j] += total[j]
            all_squares[j] += squares[j]
            total[j] = 0.0
            squares[j] = 0.0
        sums[thread, 0] = variance
        sums[thread, 1] = second
        sums[thread, 2] = n_cancelled


def fold(
    total: np.ndarray, squares: np.ndarray, n: int, share: float, cancelled: float,
    out: np.ndarray, all_total: np.ndarray, all_squares: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """End a stratum of n examples: out_j += share·max(0, E[g_j²] − E[g_j]²), its sums added to all and set to 0.

    All arrays (d,), float64. Returns Σ_j of what was added, Σ_j share·E[g_j²], which its rounding is relative
    to, and how many coordinates are left with less than `cancelled` of their E[g_j²]. Cost d.
    """
    sums = zeros(min(len(out), _FOLDERS), 3)
    with updated(total, squares, out, all_total, all_squares) as (t, sq, o, all_t, all_sq):
        launch(_fold, blocks_for(len(sums), THREADS), THREADS,
               t, sq, n, share, cancelled, o, all_t, all_sq, sums)  # fmt: skip
    return np.asarray(host(sums).sum(axis=0))
