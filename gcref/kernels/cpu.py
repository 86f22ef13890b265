"""The arithmetic of gradient clustering on a CPU, one equation a function.

A weight's traces are ``A`` (N, T, I), its inputs, and ``D`` (N, T, O), the gradients of each example's own
loss with respect to its outputs; example i's gradient is the matrix g_i = Σ_t A_it D_itᵀ, shape (I, O), which
no function here but `second_moment` ever forms. What is one matrix product is plain NumPy; what is a loop is
compiled. Every function trusts its input. Products keep the dtype of their input; sums and results are
float64.
"""

import numpy as np

from gcref.kernels.jit import fast_jit, jit

_CHUNK = 1 << 20  # numbers held at once where a function works through the examples in chunks


# ------------------------------------------------------------------------------- inner products of gradients


@fast_jit
def _dot(x: np.ndarray, y: np.ndarray) -> float:
    """x·y of two vectors, added up in float64."""
    total = 0.0
    for u in range(x.shape[0]):
        total += np.float64(x[u]) * np.float64(y[u])
    return total


@fast_jit
def sq_norms(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """‖g_i‖² = Σ_{t,s} (A_it·A_is)(D_it·D_is), which is |A_i|²|D_i|² at T = 1; (N,).

    A (N, T, I), D (N, T, O). Cost N T² (I + O).
    """
    N, T, _ = A.shape
    out = np.zeros(N)
    for i in range(N):
        for t in range(T):
            out[i] += _dot(A[i, t], A[i, t]) * _dot(D[i, t], D[i, t])
            for s in range(t):
                out[i] += 2.0 * _dot(A[i, t], A[i, s]) * _dot(D[i, t], D[i, s])
    return out


def gram(A: np.ndarray, D: np.ndarray, A2: np.ndarray, D2: np.ndarray) -> np.ndarray:
    """⟨g_i, g'_j⟩ = Σ_{t,s} (A_it·A2_js)(D_it·D2_js), for every pair of examples; (N, M).

    A (N, T, I), D (N, T, O), A2 (M, S, I), D2 (M, S, O). Cost N M T S (I + O).
    """
    out = np.zeros((A.shape[0], A2.shape[0]))
    for t in range(A.shape[1]):
        for s in range(A2.shape[1]):
            out += (A[:, t] @ A2[:, s].T) * (D[:, t] @ D2[:, s].T)
    return out


def inner_products(A: np.ndarray, D: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """⟨c_k d_kᵀ, g_i⟩ = Σ_t (A_it·c_k)(D_it·d_k), Eq. 5 at T = 1, Eq. 9 beyond; (N, K).

    A (N, T, I), D (N, T, O), rank-1 centres c (K, I), d (K, O). Cost N T K (I + O).
    """
    out = np.zeros((A.shape[0], c.shape[0]))
    for t in range(A.shape[1]):
        out += (A[:, t] @ c.T) * (D[:, t] @ d.T)
    return out


def second_moment(A: np.ndarray, D: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Σ_i w_i g_i∘g_i, coordinate by coordinate; (I, O), with w_i = 1 where `weights` (N,) is None.

    T ≤ 2: Σ_{t,s} (A_t∘A_s)ᵀ(w D_t∘D_s), matrix products that form no gradient; beyond, the gradients of a
    few examples at a time. A (N, T, I), D (N, T, O). Cost N T min(T, 2) I O, all of it in float64.
    """
    N, T, I = A.shape  # noqa: E741
    O = D.shape[2]  # noqa: E741
    w = np.ones(N) if weights is None else np.asarray(weights, dtype=np.float64)
    out = np.zeros((I, O))
    step = max(1, _CHUNK // max(1, T * (I + O) if T <= 2 else T * (I + O) + I * O))
    for first in range(0, N, step):
        rows = slice(first, first + step)
        out += _chunk_second_moment(
            A[rows].astype(np.float64, copy=False), D[rows].astype(np.float64, copy=False), w[rows]
        )
    return out


def _chunk_second_moment(A: np.ndarray, D: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Σ_i w_i g_i∘g_i of a few examples in float64."""
    T = A.shape[1]
    if T > 2:
        gradients = A.transpose(0, 2, 1) @ D
        return np.tensordot(w, gradients * gradients, axes=1)
    total = np.zeros((A.shape[2], D.shape[2]))
    for t in range(T):
        for s in range(T):
            total += (A[:, t] * A[:, s]).T @ (w[:, None] * D[:, t] * D[:, s])
    return total


# --------------------------------------------------------------------------------------------------- U step


@fast_jit
def grouped_sums(X: np.ndarray, labels: np.ndarray, n_clusters: int) -> np.ndarray:
    """Σ_{i: a_i = k} X_i, the sum of the rows of each cluster; (K, M).

    X (N, M), labels (N,) in 0…K−1. Cost N M.
    """
    N, M = X.shape
    sums = np.zeros((n_clusters, M))
    for i in range(N):
        k = labels[i]
        for j in range(M):
            sums[k, j] += X[i, j]
    return sums


def center_sums(A: np.ndarray, D: np.ndarray, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """N_k c_k = Σ_{i∈k} (1/T) Σ_t A_it and N_k d_k = Σ_{i∈k} Σ_t D_it, what a U step adds up; (K, I), (K, O).

    Sums of batches add up to the sums of the whole. A (N, T, I), D (N, T, O). Cost N T (I + O).
    """
    T = A.shape[1]
    if T == 1:
        return grouped_sums(A[:, 0], labels, n_clusters), grouped_sums(D[:, 0], labels, n_clusters)
    c_sums = grouped_sums(A.sum(axis=1, dtype=np.float64), labels, n_clusters)
    return c_sums / T, grouped_sums(D.sum(axis=1, dtype=np.float64), labels, n_clusters)


def u_step(A: np.ndarray, D: np.ndarray, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 6, rank-1 mean centres: c_k = mean_{i∈k} (1/T) Σ_t A_it, d_k = mean_{i∈k} Σ_t D_it; (K, I), (K, O).

    A cluster without members, which the empty-cluster rule keeps from occurring, has the centre 0.
    A (N, T, I), D (N, T, O), labels (N,). Cost N T (I + O).
    """
    c_sums, d_sums = center_sums(A, D, labels, n_clusters)
    sizes = np.maximum(np.bincount(labels, minlength=n_clusters), 1)[:, None]
    return c_sums / sizes, d_sums / sizes


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
def a_step_sequential(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Eq. 3 one example after another: a_i = argmin_k (N_k + 1) ‖C_k − g_i‖², then N_{a_i} += 1; (N,) int64.

    N_k counts from zero. cc (K,) = ‖C_k‖², cg (N, K) = ⟨C_k, g_i⟩, gg (N,) = ‖g_i‖², order (N,) a permutation
    of the examples. Ties go to the lowest k. Cost N K.
    """
    N, K = cg.shape
    labels = np.zeros(N, dtype=np.int64)
    weights = np.ones(K)
    for i in order:
        best, best_cost = 0, np.inf
        for k in range(K):
            cost = weights[k] * sq_distance(cc[k], cg[i, k], gg[i])
            if cost < best_cost:
                best, best_cost = k, cost
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


# -------------------------------------------------------------------------------------------------- exchange
#
# A cluster of size n, e = Σ‖g‖² and s = Σg costs f(n, e, s) = n e − ‖s‖², and Φ = Σ_k f_k. With q = ‖g‖²:
#     f(n+1, e+q, s+g) − f(n, e, s) =   n q + e − 2⟨s, g⟩      g joins
#     f(n−1, e−q, s−g) − f(n, e, s) = −(n q + e − 2⟨s, g⟩)     g leaves
# so that a move from a to b changes Φ by Δ = h_b − h_a, h = n q + e − 2⟨s, g⟩.


@jit
def _best_move(a: int, sizes: np.ndarray, e: np.ndarray, sg: np.ndarray, q: float) -> tuple[int, float]:
    """Return the cluster b ≠ a best for a member of a, lowest index on ties, and the change Δ of Φ."""
    best, best_cost = a, np.inf
    for b in range(sizes.shape[0]):
        if b != a:
            cost = sizes[b] * q + e[b] - 2.0 * sg[b]
            if cost < best_cost:
                best, best_cost = b, cost
    return best, best_cost - (sizes[a] * q + e[a] - 2.0 * sg[a])


@fast_jit
def exchange_sweep(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    threshold: float,
) -> int:
    """Move each example in turn to where Φ falls most, if by more than `threshold`; the number moved.

    Δ = n_b q + e_b − 2⟨s_b, g⟩ − n_a q − e_a + 2⟨s_a, g⟩ for g from cluster a to b, q = ‖g‖²; nobody leaves a
    cluster of one. G (N, d), order (N,); labels (N,), sizes n (K,), e (K,) = Σ‖g‖² and s (K, d) = Σg are
    updated in place. Cost N K d.
    """
    K, d = s.shape
    sg = np.zeros(K)
    moved = 0
    for i in order:
        a = labels[i]
        if sizes[a] > 1:
            q = _dot(G[i], G[i])
            for k in range(K):
                sg[k] = _dot(s[k], G[i])
            b, change = _best_move(a, sizes, e, sg, q)
            if change < -threshold:
                _relabel(i, a, b, labels, sizes, e, q)
                for j in range(d):
                    s[a, j] -= G[i, j]
                    s[b, j] += G[i, j]
                moved += 1
    return moved


@fast_jit
def exchange_sweep_gram(
    gram: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s_dot_g: np.ndarray,
    threshold: float,
) -> int:
    """`exchange_sweep` on the inner products alone; the number moved.

    gram (N, N) = ⟨g_i, g_j⟩, order (N,); labels (N,), sizes (K,), e (K,) and s_dot_g (N, K) = ⟨s_k, g_i⟩ are
    updated in place. Cost N K, and N for each example moved.
    """
    N = gram.shape[0]
    moved = 0
    for i in order:
        a = labels[i]
        if sizes[a] > 1:
            q = gram[i, i]
            b, change = _best_move(a, sizes, e, s_dot_g[i], q)
            if change < -threshold:
                _relabel(i, a, b, labels, sizes, e, q)
                for j in range(N):
                    s_dot_g[j, a] -= gram[i, j]
                    s_dot_g[j, b] += gram[i, j]
                moved += 1
    return moved


@jit
def _relabel(i: int, a: int, b: int, labels: np.ndarray, sizes: np.ndarray, e: np.ndarray, q: float) -> None:
    """Write down that example i, of squared norm q, goes from cluster a to b."""
    labels[i] = b
    sizes[a] -= 1
    sizes[b] += 1
    e[a] -= q
    e[b] += q
