"""Exchange moves: one example at a time to the cluster where Φ falls most, exactly.

A cluster of size n, e = Σ‖g‖² and s = Σg costs f(n, e, s) = n e − ‖s‖², and Φ = Σ_k f_k. With q = ‖g‖²:
    f(n+1, e+q, s+g) − f(n, e, s) =   n q + e − 2⟨s, g⟩      g joins
    f(n−1, e−q, s−g) − f(n, e, s) = −(n q + e − 2⟨s, g⟩)     g leaves
so that a move from a to b changes Φ by Δ = h_b − h_a, h = n q + e − 2⟨s, g⟩. If every gradient is expected to drift
by an independent error of squared norm τ², f = n (e + n τ²) − ‖s‖² adds ((n_b+1)² − n_b²) τ² − (n_a² − (n_a−1)²) τ².
"""

import numpy as np

from gcref.kernels.dot import dot
from gcref.kernels.jit import fast_jit, jit
from gcref.kernels.smallest import first_smallest


@jit
def join_cost(size: int, e: float, sg: float, q: float, drift: float) -> float:
    """What a gradient of squared norm q adds to a cluster's cost f: n q + e − 2⟨s, g⟩ + (2n + 1) τ²."""
    return size * q + e - 2.0 * sg + (2.0 * size + 1.0) * drift


@jit
def _best_move(
    a: int, sizes: np.ndarray, e: np.ndarray, sg: np.ndarray, q: float, drift: float, costs: np.ndarray
) -> tuple[int, float]:
    """Return the cluster b ≠ a best for a member of a, lowest index on ties, and the change Δ of Φ.

    costs (K,) is room for what each would cost.
    """
    for b in range(costs.shape[0]):
        costs[b] = join_cost(sizes[b], e[b], sg[b], q, drift)
    own, costs[a] = costs[a], np.inf
    best = first_smallest(costs)
    return (best, costs[best] - (own - 2.0 * drift)) if best != a else (a, np.inf)


_TRANSPOSED = 1 << 20  # numbers of s that may be held twice


@fast_jit
def _all_products(s_transposed: np.ndarray, g: np.ndarray, sg: np.ndarray) -> None:
    """⟨s_k, g⟩ of every k, from s (d, K); four rows at a time, so that the sums are written a quarter as often."""
    d = len(g)
    sg[:] = 0.0
    whole = d // 4 * 4
    for j in range(0, whole, 4):
        g0, g1, g2, g3 = np.float64(g[j]), np.float64(g[j + 1]), np.float64(g[j + 2]), np.float64(g[j + 3])
        s0, s1, s2, s3 = s_transposed[j], s_transposed[j + 1], s_transposed[j + 2], s_transposed[j + 3]
        for k in range(sg.shape[0]):
            sg[k] += (g0 * s0[k] + g1 * s1[k]) + (g2 * s2[k] + g3 * s3[k])
    for j in range(whole, d):
        row, number = s_transposed[j], np.float64(g[j])
        for k in range(sg.shape[0]):
            sg[k] += number * row[k]


@fast_jit
def exchange_sweep(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    threshold: float,
    drift: float = 0.0,
) -> int:
    """Move each example in turn to where Φ falls most, if by more than `threshold`; the number moved.

    Δ = n_b q + e_b − 2⟨s_b, g⟩ − n_a q − e_a + 2⟨s_a, g⟩ + 2 (n_b + 1 − n_a) τ² for g from cluster a to b, q = ‖g‖²,
    τ² = `drift`; nobody leaves a cluster of one. G (N, d), order: the examples to go through; labels (N,), sizes n
    (K,), e (K,) = Σ‖g‖² and s (K, d) = Σg are updated in place. Cost K d for each example.
    """
    K = len(s)
    sg, costs = np.zeros(K), np.zeros(K)
    twice = s.size <= _TRANSPOSED
    columns = s.T.copy() if twice else np.zeros((0, 0))
    moved = 0
    for i in order:
        a = labels[i]
        if sizes[a] > 1:
            q = dot(G[i], G[i])
            if twice:
                _all_products(columns, G[i], sg)
            else:
                for k in range(K):
                    sg[k] = dot(s[k], G[i])
            b, change = _best_move(a, sizes, e, sg, q, drift, costs)
            if change < -threshold:
                _move(G[i], i, a, b, labels, sizes, e, s, q)
                if twice:
                    for j in range(len(columns)):
                        columns[j, a], columns[j, b] = s[a, j], s[b, j]
                moved += 1
    return moved


@fast_jit
def _move(
    g: np.ndarray,
    i: int,
    a: int,
    b: int,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    q: float,
) -> None:
    """Let example i, with gradient g of squared norm q, go from cluster a to b."""
    _relabel(i, a, b, labels, sizes, e, q)
    for j in range(len(g)):
        s[a, j] -= g[j]
        s[b, j] += g[j]


@fast_jit
def exchange_sweep_among(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    threshold: float,
    drift: float,
    candidates: np.ndarray,
) -> int:
    """`exchange_sweep` that looks only at candidates (K, L), the clusters worth a look from each; the number moved.

    Cost L d for each example.
    """
    moved = 0
    for i in order:
        a = labels[i]
        if sizes[a] > 1:
            q = dot(G[i], G[i])
            best, best_cost = a, np.inf
            for b in candidates[a]:
                cost = join_cost(sizes[b], e[b], dot(s[b], G[i]), q, drift)
                if b != a and cost < best_cost:
                    best, best_cost = b, cost
            change = best_cost - join_cost(sizes[a], e[a], dot(s[a], G[i]), q, drift) + 2.0 * drift
            if change < -threshold:
                _move(G[i], i, a, best, labels, sizes, e, s, q)
                moved += 1
    return moved


@fast_jit
def join(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    drift: float,
) -> None:
    """Let new examples join, one after another, the cluster whose cost rises least, ties to the lowest index.

    As `exchange_sweep`, but that those in `order` have no cluster before. Cost K d for each of them.
    """
    for i in order:
        q = dot(G[i], G[i])
        best, best_cost = 0, np.inf
        for b in range(len(sizes)):
            cost = join_cost(sizes[b], e[b], dot(s[b], G[i]), q, drift)
            if cost < best_cost:
                best, best_cost = b, cost
        labels[i] = best
        sizes[best] += 1
        e[best] += q
        for j in range(s.shape[1]):
            s[best, j] += G[i, j]


@fast_jit
def exchange_sweep_gram(
    gram: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s_dot_g: np.ndarray,
    threshold: float,
    drift: float = 0.0,
) -> int:
    """`exchange_sweep` on the inner products alone; the number moved.

    gram (N, N) = ⟨g_i, g_j⟩, order (N,); labels (N,), sizes (K,), e (K,) and s_dot_g (N, K) = ⟨s_k, g_i⟩ are
    updated in place. Cost N K, and N for each example moved.
    """
    N = gram.shape[0]
    costs = np.zeros(len(sizes))
    moved = 0
    for i in order:
        a = labels[i]
        if sizes[a] > 1:
            q = gram[i, i]
            b, change = _best_move(a, sizes, e, s_dot_g[i], q, drift, costs)
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
