"""Sketches and exchange under drift, written as plain loops: the oracle of `gcref.clustering.sketched`."""

import numpy as np

Block = tuple[np.ndarray, np.ndarray]


def sketch(blocks: list[Block], signs: list[Block]) -> np.ndarray:
    """z_ij = m^(−1/2) Σ_l r_ljᵀ g_li q_lj, (N, m).

    blocks: A (N, T, I) and D (N, T, O) of each block; signs: R (m, I) and Q (m, O).
    """
    N, m = len(blocks[0][0]), len(signs[0][0])
    z = np.zeros((N, m))
    for (A, D), (R, Q) in zip(blocks, signs, strict=True):
        for i in range(N):
            g = np.zeros((A.shape[2], D.shape[2]))
            for t in range(A.shape[1]):
                g += np.outer(A[i, t].astype(float), D[i, t].astype(float))
            for j in range(m):
                z[i, j] += R[j].astype(float) @ g @ Q[j].astype(float)
    return z / np.sqrt(m)


def objective(labels: np.ndarray, G: np.ndarray, drift: float) -> float:
    """Φ = Σ_k n_k Σ_{i∈k} ‖g_i − ḡ_k‖² + τ² Σ_k n_k², τ² = drift."""
    total = 0.0
    for k in np.unique(labels[labels >= 0]):
        members = G[labels == k].astype(float)
        n = len(members)
        for g in members:
            total += n * float(((g - members.mean(axis=0)) ** 2).sum())
        total += drift * n * n
    return total


def expected_objective(labels: np.ndarray, G: np.ndarray, drift: float, rng: np.random.Generator, n: int) -> np.ndarray:
    """Φ of `n` draws of gradients that drifted by independent errors of expected squared norm τ²."""
    N, d = G.shape
    scale = np.sqrt(drift / d)
    return np.array([objective(labels, G + scale * rng.standard_normal((N, d)), 0.0) for _ in range(n)])


def exchange_sweep(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    n_clusters: int,
    threshold: float,
    drift: float,
    candidates: np.ndarray | None = None,
) -> int:
    """Try every move, Φ from scratch; `labels` change in place, the number moved comes back."""
    moved = 0
    for i in order:
        a = labels[i]
        if np.sum(labels == a) == 1:
            continue
        before, best, change = objective(labels, G, drift), a, np.inf
        for b in range(n_clusters) if candidates is None else candidates[a]:
            trial = labels.copy()
            trial[i] = b
            if b != a and objective(trial, G, drift) - before < change:
                best, change = b, objective(trial, G, drift) - before
        if change < -threshold:
            labels[i] = best
            moved += 1
    return moved


def join(G: np.ndarray, order: np.ndarray, labels: np.ndarray, n_clusters: int, drift: float) -> None:
    """Give each example of `order`, whose label is −1, the label of least Φ; `labels` change in place."""
    for i in order:
        found = []
        for b in range(n_clusters):
            trial = labels.copy()
            trial[i] = b
            found.append(objective(trial, G, drift))
        labels[i] = int(np.argmin(found))


def variance_of_one_component(labels: np.ndarray, u: np.ndarray, n_parameters: int) -> float:
    """Return what one number u_i = rᵀ g_i q of each example says of V (Eq. 1): Φ of the u_i over N² d."""
    return objective(labels, u[:, None], 0.0) / (len(u) ** 2 * n_parameters)
