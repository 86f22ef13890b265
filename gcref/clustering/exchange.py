"""Exchange: moving one example at a time to where Φ falls most, so that it never rises."""

from typing import Protocol

import numpy as np

from gcref.clustering.alternating import Run, stream
from gcref.kernels.device import here
from gcref.kernels.threads import product

STILL = 0.001  # a sweep that moves less than this share of the examples is the last


class Exchangeable(Protocol):
    """The gradients of a data set as exchange sees them."""

    sq_norms: np.ndarray

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Move examples, in `order`, to better clusters; change `labels` (N,), return the number moved."""

    def objective_of(self, labels: np.ndarray, n_clusters: int) -> float:
        """Φ of `labels`."""


def exchange(points: Exchangeable, labels: np.ndarray, n_clusters: int, seed: int, iterations: range) -> Run:
    """Sweep until (almost) nothing moves.

    Parameters
    ----------
    points : Exchangeable
        The gradients.
    labels : ndarray, shape (N,), int64
        Where to start from; not changed.
    n_clusters : int
        K; none of the clusters is empty.
    seed : int
        Sweep t goes through the examples in an order of the stream (seed, t).
    iterations : range
        The numbers t of the sweeps.

    Returns
    -------
    Run
        Without centres. Its `labels` are those of the first minimum of Φ, which rounding alone keeps from being
        the last.
    """
    n_examples = len(labels)
    labels = labels.copy()
    # Below this, rounding would move duplicates for ever.
    threshold = 1e-12 * n_examples * float(points.sq_norms.sum())
    best, objective = labels.copy(), list[float]()
    for t in iterations:
        order = stream(seed, t).permutation(n_examples)
        moved = points.sweep(order, labels, n_clusters, threshold)
        phi = points.objective_of(labels, n_clusters)
        if not objective or phi < min(objective):
            best = labels.copy()
        objective.append(phi)
        if moved < max(1, STILL * n_examples):
            break
    return Run(best, objective, labels, None)


class VectorPoints:
    """Gradients, or sketches of them, as vectors (N, d) that are expected to drift.

    Parameters
    ----------
    vectors : ndarray, shape (N, d), float32 or float64
    drift : float
        τ² as a share of the mean squared norm: f = n (e + n τ²) − ‖s‖².
    n_candidates : int, optional
        How many clusters to look at for each example once the first sweep is done: those to which its own cluster's
        mean would be cheapest to move. None: all.
    """

    def __init__(self, vectors: np.ndarray, drift: float = 0.0, n_candidates: int | None = None) -> None:
        self.sq_norms = here.row_sq_norms(vectors)
        self.n_candidates = n_candidates
        self._drift = drift * float(self.sq_norms.mean())
        # Φ knows differences only, and what all have in common would cost digits.
        self._vectors = vectors - vectors.mean(axis=0)
        self._own = here.row_sq_norms(self._vectors)
        self._swept = False

    def sums(self, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sizes n (K,), e (K,) = Σ‖g‖² and s (K, d) = Σg of the centred vectors that have a label ≥ 0."""
        known = labels >= 0
        vectors, own = (self._vectors, self._own) if known.all() else (self._vectors[known], self._own[known])
        labels = labels[known]
        sizes = np.bincount(labels, minlength=n_clusters)
        e = np.bincount(labels, weights=own, minlength=n_clusters)
        return sizes, e, here.grouped_sums(vectors, labels, n_clusters)

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Start from fresh sums, so that rounding does not pile up over the sweeps."""
        sums = self.sums(labels, n_clusters)
        if self.n_candidates is None or self.n_candidates >= n_clusters or not self._swept:
            self._swept = True
            return here.exchange_sweep(self._vectors, order, labels, *sums, threshold, self._drift)
        near = neighbours(*sums, self.n_candidates)
        return here.exchange_sweep_among(self._vectors, order, labels, *sums, threshold, self._drift, near)

    def objective_of(self, labels: np.ndarray, n_clusters: int) -> float:
        """Φ from the differences, in which nothing cancels, with drift."""
        sizes, _, s = self.sums(labels, n_clusters)
        spread = here.spread(self._vectors, s / np.maximum(sizes, 1)[:, None], labels)
        return float(sizes @ spread + self._drift * (sizes.astype(float) ** 2).sum())

    def place(self, order: np.ndarray, labels: np.ndarray, n_clusters: int) -> None:
        """Give the examples `order`, whose labels are −1, the labels of the clusters where they cost least."""
        here.join(self._vectors, order, labels, *self.sums(labels, n_clusters), self._drift)


def neighbours(sizes: np.ndarray, e: np.ndarray, s: np.ndarray, n_candidates: int) -> np.ndarray:
    """Return for each cluster the `n_candidates` others that its mean would join at the least cost, (K, L).

    n_b ‖c_a − c_b‖² + (e_b − n_b ‖c_b‖²), what `join_cost` is for g = c_a. Cost K² d.
    """
    means = s / sizes[:, None]
    norms = np.einsum("kd,kd->k", means, means)
    # join_cost at g = c_a: n_b ‖c_a‖² + e_b − 2 ⟨s_b, c_a⟩
    cost = norms[:, None] * sizes + e - 2.0 * product(means, s.T)
    np.fill_diagonal(cost, np.inf)
    near = np.argpartition(cost, n_candidates - 1, axis=1)[:, :n_candidates]
    return np.sort(near, axis=1)
