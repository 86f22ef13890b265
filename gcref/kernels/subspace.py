"""Sums by cluster of which centres of low rank are made: of traces, and of gradients' products with a few vectors.

Arrays as in `gcref.kernels.cpu`; M_k = Σ_{i∈k} g_i is never formed.
"""

import numpy as np

from gcref.kernels import cpu, threads
from gcref.kernels.jit import fast_jit

_WORTHWHILE = 1 << 15  # multiplications; below it a thread's start costs more than it saves


def add_grouped_sums(pairs: list[tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> None:
    """`gcref.kernels.cpu.grouped_sums` of several arrays X (N, M), each added to its sums (K, M).

    An array is one thread's, which reads it from end to end: what this costs is memory, not arithmetic. Cost N M each.
    """
    order = np.argsort(labels, kind="stable")

    def task(first: int, last: int) -> None:
        for X, sums in pairs[first:last]:
            cpu._grouped_sums(X, labels, order, sums, 0, X.shape[1])

    threads.over(len(pairs), task, sum(X.size for X, _ in pairs) >= _WORTHWHILE)


def add_rank_one_products(blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], out: np.ndarray) -> None:
    """out_ik += Σ_l (A_i·c_k)(D_i·d_k), Eq. 5 of several blocks l at T = 1; out (N, K) float64.

    A block is A (N, I), D (N, O), c (K, I), d (K, O). A thread takes examples through all blocks, so that what it
    multiplies is still in its cache when it is added up. Cost N K Σ_l (I + O).
    """

    def task(first: int, last: int) -> None:
        for A, D, c, d in blocks:
            a, b = A[first:last] @ c.T, D[first:last] @ d.T
            cpu._add_position_products(a[:, None], b[:, None], out[first:last], 0, last - first)

    threads.run(threads.wide_ranges(len(out)), task)


def by_cluster(labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples cluster by cluster, in order, and where each cluster starts in them; (N,), (K + 1,)."""
    order = np.argsort(labels, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_clusters))])


@fast_jit
def _add_cluster_products(
    A: np.ndarray,
    D: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    V: np.ndarray,
    out: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Clusters first…last−1 of `add_cluster_products`."""
    for k in range(first, last):
        for j in range(starts[k], starts[k + 1]):
            a, d = A[order[j]], D[order[j]]
            for s in range(V.shape[1]):
                v, total = V[k, s], out[k, s]
                product = 0.0
                for u in range(d.shape[0]):
                    product += d[u] * v[u]
                for u in range(a.shape[0]):
                    total[u] += product * a[u]


def add_cluster_products(A: np.ndarray, D: np.ndarray, labels: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
    """out_ks += M_k V_ks = Σ_{i∈k} A_i (D_i·V_ks), T = 1; with A and D exchanged, M_kᵀ V_ks.

    A (N, I), D (N, O), labels (N,) in 0…K−1, V (K, b, O), out (K, b, I) float64. Cost N b (I + O). Each cluster is
    one thread's, and its examples are added up in order.
    """
    order, starts = by_cluster(labels, len(V))
    threads.over(
        len(V),
        lambda first, last: _add_cluster_products(A, D, order, starts, V, out, first, last),
        V.shape[1] * (A.size + D.size) >= _WORTHWHILE,
    )


@fast_jit
def _extend(U: np.ndarray, Y: np.ndarray, first: int, last: int) -> None:
    """Clusters first…last−1 of `extend`."""
    for k in range(first, last):
        for s in range(Y.shape[1]):
            y = Y[k, s]
            before, after = _normalized(y), 0.0
            for _ in range(4):
                if before > 0.0:
                    for other in range(U.shape[1]):
                        _without(y, U[k, other])
                    for other in range(s):
                        _without(y, Y[k, other])
                    after = _normalized(y)
                    if after > 0.5:
                        break
            if after <= 0.5:
                y[:] = 0.0


@fast_jit
def _without(y: np.ndarray, u: np.ndarray) -> None:
    """Take from y what is along the unit vector u."""
    along = 0.0
    for j in range(y.shape[0]):
        along += y[j] * u[j]
    for j in range(y.shape[0]):
        y[j] -= along * u[j]


@fast_jit
def _normalized(y: np.ndarray) -> float:
    """Give y the norm 1, unless it is 0; return what it was."""
    most = 0.0
    for j in range(y.shape[0]):
        most = max(most, abs(y[j]))
    total = 0.0
    for j in range(y.shape[0]):
        y[j] = y[j] / most if most > 0.0 else 0.0
        total += y[j] * y[j]
    norm = np.sqrt(total)
    for j in range(y.shape[0]):
        y[j] = y[j] / norm if most > 0.0 else 0.0
    return most * norm


def extend(U: np.ndarray, Y: np.ndarray) -> None:
    """Make the rows of Y orthonormal to one another and to those of U; 0 where one adds nothing to their span.

    U (K, m, I), rows orthonormal or 0; Y (K, b, I), changed in place. Gram and Schmidt's method, repeated until a row
    keeps half of its length: one that adds nothing but rounding may become any new direction. Cost K b (m + b) I.
    """
    threads.over(len(Y), lambda first, last: _extend(U, Y, first, last), Y.size >= _WORTHWHILE)
