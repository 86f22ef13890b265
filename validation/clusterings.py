"""The labels of rank-1 gradient clustering and of exchange again, one example after another.

The first is written from Eq. 2 to 6 of the paper, the second from Eq. 2 as Φ = Σ_k Σ_{i<j∈k} ‖g_i − g_j‖². The random
numbers are those that the clusterers' docstrings fix: ``SeedSequence(seed, spawn_key=(t,))``, t = 0 for the balanced
start labels and t = 1, 2, … for the iterations, which go on counting over the refreshes of a trajectory.

Two correct clusterings find the same labels unless a choice hangs on rounding: two clusters that cost the same, as
copies of one example make them do. From such a choice on, all labels may differ, so it is looked out for.
"""

import numpy as np
from numpy.typing import NDArray

from gcref.studies.methods import SWEEPS
from gcref.validation.explicit import EPS, SLACK, gradients

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Centers = tuple[Array, Array]


class PlainClustering:
    """Weighted clustering about centres c_k d_kᵀ, c_k and d_k the means of inputs and output gradients.

    Parameters
    ----------
    n_clusters, n_iter, seed : int
        As in `gcref.GradientClustering`.

    Attributes
    ----------
    decided : bool
        Whether no choice so far was within rounding of another.
    """

    def __init__(self, n_clusters: int, n_iter: int, seed: int):
        self.n_clusters, self.n_iter, self.seed = n_clusters, n_iter, seed
        self.centers: Centers | None = None
        self.t = 0
        self.decided = True

    def fit(self, A: Array, D: Array, error: float) -> Labels:
        """Cluster the gradients A_i D_iᵀ, from the last centres if there are any.

        Parameters
        ----------
        A : ndarray, shape (N, I)
        D : ndarray, shape (N, O)
        error : float
            Rounding of an entry of D, from `explicit.output_error`.

        Returns
        -------
        ndarray, shape (N,)
            The labels of the first of the lowest Φ.
        """
        features = np.square(A).sum(axis=1)
        norms = features * np.square(D).sum(axis=1)
        if self.centers is None:
            self.centers = self._means(A, D, balanced(len(A), self.n_clusters, self.seed))
        best, lowest = np.zeros(len(A), dtype=np.int64), np.inf
        distances, largest = self._distances(A, D, norms)
        for _ in range(self.n_iter):
            self.t += 1
            rng = stream(self.seed, self.t)
            rounding = SLACK * (
                4 * EPS * (norms + largest) + 2 * error * np.sqrt(features) * (np.sqrt(norms) + np.sqrt(largest))
            )
            labels, costs, weights = assign(distances, rng.permutation(len(A)))
            self.decided &= _clear(costs, weights * rounding)
            self.decided &= fill_empty(labels, distances, rounding, rng)
            self.centers = self._means(A, D, labels)
            distances, largest = self._distances(A, D, norms)
            phi = float(np.bincount(labels)[labels] @ distances[np.arange(len(A)), labels])
            self.decided &= abs(phi - lowest) > np.bincount(labels)[labels] @ rounding
            if phi < lowest:
                best, lowest = labels, phi
        return best

    def _means(self, A: Array, D: Array, labels: Labels) -> Centers:
        member = (labels == np.arange(self.n_clusters)[:, None]) / np.bincount(labels)[:, None]
        return member @ A, member @ D

    def _distances(self, A: Array, D: Array, norms: Array) -> tuple[Array, float]:
        """‖c_k d_kᵀ − A_i D_iᵀ‖², (N, K), at least 0, and the largest ‖c_k d_kᵀ‖²."""
        assert self.centers is not None
        c, d = self.centers
        centers = np.square(c).sum(axis=1) * np.square(d).sum(axis=1)
        products = (A @ c.T) * (D @ d.T)
        return np.maximum(norms[:, None] - 2 * products + centers, 0.0), float(centers.max())


class PlainExchange:
    """Clustering by moves of one example to where Φ falls most, each looked for among all squared distances.

    Parameters
    ----------
    n_clusters, seed : int
        As in `gcref.ExactClustering`.

    Attributes
    ----------
    decided : bool
        Whether no choice so far was within rounding of another.
    """

    def __init__(self, n_clusters: int, seed: int):
        self.n_clusters, self.seed = n_clusters, seed
        self.labels: Labels | None = None
        self.t = 0
        self.decided = True

    def fit(self, A: Array, D: Array, error: float) -> Labels:
        """Cluster the gradients A_i D_iᵀ, from the last labels if there are any; parameters as in `PlainClustering`."""
        n = len(A)
        if self.labels is None:
            self.labels = balanced(n, self.n_clusters, self.seed)
        G = gradients(A, D)
        largest, feature = np.square(G).sum(axis=1).max(), np.sqrt(np.square(A).sum(axis=1).max())
        distances = _square_distances(G - G.mean(axis=0))
        # Of one squared distance: products of centred gradients, and what rounding has done to D.
        rounding = SLACK * (8 * EPS * largest + 4 * error * feature * np.sqrt(largest))
        threshold = 1e-12 * distances.sum() / 2  # N Σ‖g − ḡ‖², summed over the pairs
        for _ in range(SWEEPS):
            self.t += 1
            order = stream(self.seed, self.t).permutation(n)
            n_moved = sum(self._move(i, self.labels, distances[i], threshold, rounding) for i in order)
            if n_moved < max(1, 0.001 * n):
                break
        return self.labels.copy()

    def _move(self, i: int, labels: Labels, distances: Array, threshold: float, rounding: float) -> bool:
        """Move an example if Φ falls by more than the threshold; no cluster loses its last."""
        sizes = np.bincount(labels, minlength=self.n_clusters)
        own = labels[i]
        if sizes[own] == 1 or self.n_clusters == 1:
            return False
        # What the example adds to Φ in each cluster.
        costs = np.bincount(labels, weights=distances, minlength=self.n_clusters)
        gains = costs[own] - costs - threshold
        gains[own] = -np.inf
        first, *others = np.sort(gains)[::-1]
        margin = rounding * sizes.max()
        self.decided &= abs(first) > margin and not (first > 0 and others and first - others[0] <= margin)
        if first > 0:
            labels[i] = gains.argmax()
        return bool(first > 0)


def _square_distances(G: Array) -> Array:
    """‖g_i − g_j‖², (N, N), at least 0."""
    products = G @ G.T
    norms = products.diagonal()
    distances = np.maximum(norms[:, None] + norms - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def stream(seed: int, t: int) -> np.random.Generator:
    """Return the random numbers of iteration t."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(t,)))


def balanced(n: int, n_clusters: int, seed: int) -> Labels:
    """Return the labels that a first clustering of N examples starts from."""
    return stream(seed, 0).permutation(n) % n_clusters


def assign(distances: Array, order: NDArray[np.int64]) -> tuple[Labels, Array, Array]:
    """a_i = argmin_k (N_k + 1) ‖C_k − g_i‖² for one example after another, N_k counted from zero.

    Returns
    -------
    labels, costs, weights : ndarray
        (N,), the (N, K) costs that each example chose from, and the largest N_k + 1 among them, (N,).
    """
    labels, largest = np.empty(len(distances), dtype=np.int64), np.empty(len(distances))
    costs = np.empty_like(distances)
    weights = np.ones(distances.shape[1])
    for i in order:
        np.multiply(weights, distances[i], out=costs[i])
        labels[i] = k = costs[i].argmin()
        largest[i] = weights.max()
        weights[k] += 1.0
    return labels, costs, largest


def fill_empty(labels: Labels, distances: Array, rounding: Array, rng: np.random.Generator) -> bool:
    """Each empty cluster takes a random half of the cluster with the largest N_k Σ_{i∈k} ‖C_k − g_i‖².

    Returns whether every such cluster was the largest by more than rounding.
    """
    n_clusters, decided = distances.shape[1], True
    for empty in np.flatnonzero(np.bincount(labels, minlength=n_clusters) == 0):
        # A moved example is judged by its distance to the centre of the cluster it is now in.
        own = distances[np.arange(len(labels)), labels]
        sizes = np.bincount(labels, minlength=n_clusters)
        costs = sizes.astype(np.float64) * np.bincount(labels, weights=own, minlength=n_clusters)
        costs[sizes < 2] = 0.0
        decided &= _clear(-costs[None], np.array([sizes.max() * rounding.sum()], dtype=np.float64))
        donor = costs.argmax() if costs.any() else sizes.argmax()
        members = np.flatnonzero(labels == donor)
        labels[rng.permutation(members)[: len(members) // 2]] = empty
    return decided


def _clear(costs: Array, rounding: Array) -> bool:
    """Whether the lowest cost of every row (N, K) is below the next by more than its rounding (N,)."""
    if costs.shape[1] < 2:
        return True
    lowest = np.partition(costs, 1, axis=1)
    return bool(np.all(lowest[:, 1] - lowest[:, 0] > rounding))
