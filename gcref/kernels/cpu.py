"""The arithmetic of gradient clustering on a CPU, one equation a function.

A weight's traces are ``A`` (N, T, I), its inputs, and ``D`` (N, T, O), the gradients of each example's own
loss with respect to its outputs; example i's gradient is the matrix g_i = Σ_t A_it D_itᵀ, shape (I, O). What is one
matrix product is plain NumPy; what is a loop is compiled. Every function trusts its input. Products keep the dtype of
their input; sums and results are float64.
"""

from collections.abc import Iterator

import numpy as np

from gcref.kernels import threads
from gcref.kernels.dot import dot
from gcref.kernels.jit import fast_jit, jit
from gcref.kernels.moves import exchange_sweep, exchange_sweep_among, exchange_sweep_gram, join, join_cost
from gcref.kernels.smallest import first_smallest
from gcref.kernels.threads import product

__all__ = [
    "a_step_fixed",
    "a_step_sequential",
    "add_gradient_sketch",
    "add_position_products",
    "chunked",
    "exchange_sweep",
    "exchange_sweep_among",
    "exchange_sweep_gram",
    "gram",
    "grouped_sums",
    "join",
    "join_cost",
    "row_sq_norms",
    "spread",
    "spread_from_products",
    "sq_distance",
    "sq_norms",
]

_IN_CACHE = 1 << 15  # numbers of sums that a core's second cache holds
_CHUNK = 1 << 20  # numbers held at once where a function works through the examples in chunks


def chunked(N: int, numbers: int, most: int = 1 << 62) -> Iterator[slice]:
    """Cut N examples of `numbers` numbers each into slices of at most _CHUNK numbers, or `most` examples."""
    step = max(1, min(most, _CHUNK // max(1, numbers)))
    return (slice(first, first + step) for first in range(0, N, step))


# ------------------------------------------------------------------------------- inner products of gradients


def sq_norms(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """‖g_i‖² = Σ_{t,s} (A_it·A_is)(D_it·D_is), Eq. 9's form, which is |A_i|²|D_i|² at T = 1; (N,).

    A (N, T, I), D (N, T, O). Cost N T² (I + O).
    """
    N, T, _ = A.shape
    if T <= 2:
        return _sq_norms(A, D)
    out = np.empty(N)
    for rows in chunked(N, T * T):
        # The positions' products may cancel, and their squares leave float32's range.
        a, d = A[rows].astype(np.float64, copy=False), D[rows].astype(np.float64, copy=False)
        out[rows] = ((a @ a.transpose(0, 2, 1)) * (d @ d.transpose(0, 2, 1))).sum(axis=(1, 2))
    return out


@fast_jit
def _sq_norms(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """The same pair by pair."""
    N, T, _ = A.shape
    out = np.zeros(N)
    for i in range(N):
        for t in range(T):
            out[i] += dot(A[i, t], A[i, t]) * dot(D[i, t], D[i, t])
            for s in range(t):
                out[i] += 2.0 * dot(A[i, t], A[i, s]) * dot(D[i, t], D[i, s])
    return out


@fast_jit
def row_sq_norms(G: np.ndarray) -> np.ndarray:
    """‖g_i‖² of gradients written out, Eq. 8's form; (N,). G (N, M). Cost N M."""
    out = np.empty(G.shape[0])
    for i in range(G.shape[0]):
        out[i] = dot(G[i], G[i])
    return out


def gram(A: np.ndarray, D: np.ndarray, A2: np.ndarray, D2: np.ndarray) -> np.ndarray:
    """⟨g_i, g'_j⟩ = Σ_{t,s} (A_it·A2_js)(D_it·D2_js), for every pair of examples; (N, M).

    A (N, T, I), D (N, T, O), A2 (M, S, I), D2 (M, S, O). Cost N M T S (I + O).
    """
    out = np.zeros((A.shape[0], A2.shape[0]))
    for t in range(A.shape[1]):
        for s in range(A2.shape[1]):
            out += product(A[:, t], A2[:, s].T) * product(D[:, t], D2[:, s].T)
    return out


# ----------------------------------------------------------------------------------- centres and sketches


@fast_jit
def _add_position_products(a: np.ndarray, b: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    """Examples first…last−1 of `add_position_products`."""
    for i in range(first, last):
        for t in range(a.shape[1]):
            for j in range(a.shape[2]):
                out[i, j] += np.float64(a[i, t, j]) * np.float64(b[i, t, j])


def add_position_products(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out_i += Σ_t a_it ∘ b_it: Eq. 9, ⟨r_j q_jᵀ, g_i⟩ = Σ_t (r_j·A_it)(q_j·D_it), if a = R A_it, b = Q D_it.

    The rows of R and Q are the factors of m centres of rank 1, or the signs of a sketch. a, b (N, T, m), out (N, m)
    float64. Cost N T m, after N T m (I + O) for a and b.
    """
    threads.over(len(out), lambda first, last: _add_position_products(a, b, out, first, last), a.size >= 1 << 15)


def add_gradient_sketch(G: np.ndarray, R: np.ndarray, Q: np.ndarray, out: np.ndarray) -> None:
    """out_ij += r_jᵀ g_i q_j = ⟨r_j q_jᵀ, g_i⟩, the same of gradients written out: Eq. 8.

    G (N, I, O), R (m, I), Q (m, O), out (N, m) float64. Cost N m I O.
    """
    for rows in chunked(len(G), len(R) * G.shape[2]):
        _add_dots(R @ G[rows], Q, out[rows])


@fast_jit
def _add_dots(P: np.ndarray, Q: np.ndarray, out: np.ndarray) -> None:
    """out_ij += P_ij·Q_j of the rows P_ij = r_jᵀ g_i."""
    for i in range(P.shape[0]):
        for j in range(P.shape[1]):
            out[i, j] += dot(P[i, j], Q[j])


# ------------------------------------------------------------------------------------------ sums by cluster


@fast_jit
def _grouped_sums(
    X: np.ndarray, labels: np.ndarray, order: np.ndarray, sums: np.ndarray, first: int, last: int
) -> None:
    """Columns first…last−1 of `grouped_sums`, the rows of a cluster one after the other, in twos."""
    i = 0
    while i < len(order):
        k = labels[order[i]]
        row, total = X[order[i], first:last], sums[k, first:last]
        i += 1
        if i < len(order) and labels[order[i]] == k:
            other = X[order[i], first:last]
            i += 1
            for j in range(row.shape[0]):
                total[j] += np.float64(row[j]) + np.float64(other[j])
        else:
            for j in range(row.shape[0]):
                total[j] += row[j]


def grouped_sums(X: np.ndarray, labels: np.ndarray, n_clusters: int, out: np.ndarray | None = None) -> np.ndarray:
    """Σ_{i: a_i = k} X_i, the sum of the rows of each cluster, in float64; (K, M).

    X (N, M), labels (N,) in 0…K−1; added to `out`, if there is one. Cost N M.
    """
    sums = np.zeros((n_clusters, X.shape[1])) if out is None else out
    in_cache = sums.size <= _IN_CACHE
    # Otherwise by cluster, so that a cluster's sum stays in the cache while its rows pass.
    order = np.arange(len(labels)) if in_cache else np.argsort(labels, kind="stable")
    threads.over(X.shape[1], lambda first, last: _grouped_sums(X, labels, order, sums, first, last), X.size >= 1 << 15)
    return sums


# --------------------------------------------------------------------------------------------------- A step


@jit
def sq_distance(cc: float, cg: float, gg: float) -> float:
    """‖C − g‖² = ‖C‖² − 2⟨C, g⟩ + ‖g‖², where rounding below 0 counts as 0."""
    distance = cc - 2.0 * cg + gg
    return 0.0 if distance < 0.0 else distance


@jit
def a_step_fixed(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Eq. 3 with the sizes held fixed: a_i = argmin_k N_k ‖C_k − g_i‖², ties to the lowest k; (N,) int64.

    cc (K,) = ‖C_k‖², cg (N, K) = ⟨C_k, g_i⟩, gg (N,) = ‖g_i‖², sizes (K,) = N_k. Cost N K.
    """
    N, K = cg.shape
    labels = np.zeros(N, dtype=np.int64)
    for i in range(N):
        best, best_cost = 0, np.inf
        for k in range(K):
            cost = sizes[k] * sq_distance(cc[k], cg[i, k], gg[i])
            if cost < best_cost:
                best, best_cost = k, cost
        labels[i] = best
    return labels


@jit
def a_step_sequential(
    cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, order: np.ndarray, kept: np.ndarray | None = None
) -> np.ndarray:
    """Eq. 3 one example after another: a_i = argmin_k (N_k + 1) ‖C_k − g_i‖², then N_{a_i} += 1; (N,) int64.

    N_k counts from zero, or from `kept` (K,), the members that are not assigned anew. cc (K,) = ‖C_k‖², cg (N, K) =
    ⟨C_k, g_i⟩, gg (N,) = ‖g_i‖², order (N,) a permutation of the examples. Ties go to the lowest k. Cost N K.
    """
    N, K = cg.shape
    labels = np.zeros(N, dtype=np.int64)
    weights = np.ones(K)
    if kept is not None:
        weights += kept
    costs = np.empty(K)
    for i in order:
        row = cg[i]
        for k in range(K):
            costs[k] = weights[k] * sq_distance(cc[k], row[k], gg[i])
        best = first_smallest(costs)
        labels[i] = best
        weights[best] += 1.0
    return labels


# ------------------------------------------------------------------------------------------- the objective Φ


@jit
def spread_from_products(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ_{i∈k} ‖C_k − g_i‖² from the products of an A step; (K,). Φ = Σ_k N_k times it (Eq. 2).

    cc (K,) = ‖C_k‖², cg (N, K) = ⟨C_k, g_i⟩, gg (N,) = ‖g_i‖², labels (N,). Cost N.
    """
    out = np.zeros(cc.shape[0])
    for i in range(labels.shape[0]):
        k = labels[i]
        out[k] += sq_distance(cc[k], cg[i, k], gg[i])
    return out


@fast_jit
def spread(G: np.ndarray, C: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ_{i∈k} ‖C_k − g_i‖² from the differences themselves, so that nothing cancels; (K,).

    G (N, d) gradients, C (K, d) centres, labels (N,). Cost N d.
    """
    N, d = G.shape
    out = np.zeros(C.shape[0])
    for i in range(N):
        k = labels[i]
        total = 0.0
        for j in range(d):
            difference = np.float64(G[i, j]) - C[k, j]
            total += difference * difference
        out[k] += total
    return out
