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
from gcref.kernels.tile import BYTES, HEIGHTS, tile_middle


@jit
def join_cost(size: float, e: float, sg: float, q: float, drift: float) -> float:
    """What a gradient of squared norm q adds to a cluster's cost f: n q + e − 2⟨s, g⟩ + (2n + 1) τ²."""
    return size * q + e - 2.0 * sg + (2.0 * size + 1.0) * drift


@jit
def _best_move(
    a: int, n: np.ndarray, e: np.ndarray, sg: np.ndarray, q: float, drift: float, costs: np.ndarray
) -> tuple[int, float]:
    """Return the cluster b ≠ a best for a member of a, lowest index on ties, and the change Δ of Φ.

    n (K,) sizes; costs (K,) is room for what each would cost.
    """
    for b in range(costs.shape[0]):
        costs[b] = join_cost(n[b], e[b], sg[b], q, drift)
    own, costs[a] = costs[a], np.inf
    best = first_smallest(costs)
    return (best, costs[best] - (own - 2.0 * drift)) if best != a else (a, np.inf)


_ROWS = HEIGHTS[1]  # examples whose products with s are found at once, so that s is read once for all of them
_WIDTH = BYTES // 8  # numbers of a row of a tile


@jit
def _fill_panels(s: np.ndarray, panels: np.ndarray, back: bool) -> None:
    """Copy s (K, d) to panels (⌈K/_WIDTH⌉, d, _WIDTH), in which a tile's row lies side by side, or `back`."""
    for k in range(s.shape[0]):
        panel, column = panels[k // _WIDTH], k % _WIDTH
        for j in range(s.shape[1]):
            if back:
                s[k, j] = panel[j, column]
            else:
                panel[j, column] = s[k, j]


@jit
def _products(g: np.ndarray, panels: np.ndarray, sg: np.ndarray) -> None:
    """⟨s_k, g_m⟩ of every k and a few m, sg (_ROWS, K), from g (_ROWS, d) and the panels of s. Cost _ROWS K d."""
    n_panels, d, _ = panels.shape
    a, b, c = g.reshape(-1), panels.reshape(-1), sg.reshape(-1)
    for p in range(n_panels):
        tile_middle(a, 0, d, 0, 1, b, p * d * _WIDTH, 0, _WIDTH, 1, d, c, p * _WIDTH, sg.shape[1], 1)


@fast_jit
def _mend(m: int, a: int, b: int, g: np.ndarray, n_rows: int, panels: np.ndarray, sg: np.ndarray) -> None:
    """Let s_a lose g_m and s_b win it, in the panels and in the products of those of the n_rows that are still to come.

    Cost d for each of them.
    """
    before, after = panels[a // _WIDTH], panels[b // _WIDTH]
    for j in range(g.shape[1]):
        before[j, a % _WIDTH] -= g[m, j]
        after[j, b % _WIDTH] += g[m, j]
    for later in range(m + 1, n_rows):
        shared = dot(g[m], g[later])
        sg[later, a] -= shared
        sg[later, b] += shared


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
    (K,), e (K,) = Σ‖g‖² and s (K, d) = Σg are updated in place. Cost K d for each example, in products of a few of
    them at once, which are mended where one of these moves.
    """
    K, d = s.shape
    panels = np.zeros((-(-K // _WIDTH), d, _WIDTH))
    _fill_panels(s, panels, False)
    g, sg, costs = np.zeros((_ROWS, d)), np.zeros((_ROWS, len(panels) * _WIDTH)), np.zeros(K)
    n = sizes.astype(np.float64)  # which no loop has to convert
    moved = 0
    for first in range(0, len(order), _ROWS):
        rows = order[first : first + _ROWS]
        for m in range(len(rows)):
            i = rows[m]
            for j in range(d):
                g[m, j] = G[i, j]
        _products(g, panels, sg)
        for m in range(len(rows)):
            a = labels[rows[m]]
            if sizes[a] > 1:
                q = dot(g[m], g[m])
                b, change = _best_move(a, n, e, sg[m], q, drift, costs)
                if change < -threshold:
                    _relabel(rows[m], a, b, labels, sizes, e, q)
                    n[a], n[b] = sizes[a], sizes[b]
                    _mend(m, a, b, g, len(rows), panels, sg)
                    moved += 1
    _fill_panels(s, panels, True)
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
