"""Gradients as clustering about exact means sees them: written out, or known by their inner products."""

from typing import Protocol

import numpy as np

from gcref.clustering.alternating import Points, Products, objective_from_products
from gcref.clustering.exchange import Exchangeable
from gcref.clustering.gram import center
from gcref.kernels.device import here
from gcref.kernels.threads import product


class ExactPoints(Points, Protocol):
    """Gradients with exact cluster means, which can also be exchanged or told apart one by one."""

    @property
    def form(self) -> str:
        """Return what the gradients are given as, "explicit" or "gram"."""

    @property
    def n_parameters(self) -> int | None:
        """Return d, or None where it is not known."""

    def exchangeable(self) -> Exchangeable:
        """Return the gradients as exchange sees them."""

    def sq_distances(self) -> np.ndarray:
        """‖g_i − g_j‖², (N, N)."""


_LARGE = 1e37  # a squared norm from which float32's products may overflow


class ExplicitPoints:
    """Gradients (N, d); a centre is their mean, shape (d,)."""

    form = "explicit"

    def __init__(self, G: np.ndarray) -> None:
        self.n_parameters = G.shape[1]
        self.sq_norms = here.row_sq_norms(G)
        self.G = G.astype(np.float64) if self.sq_norms.max(initial=0) > _LARGE else G

    def centers(self, labels: np.ndarray, n_clusters: int) -> np.ndarray:
        """Eq. 4."""
        return here.grouped_sums(self.G, labels, n_clusters) / np.bincount(labels, minlength=n_clusters)[:, None]

    def products(self, centers: np.ndarray) -> Products:
        """One matrix product in the dtype of the gradients."""
        C = centers.astype(self.G.dtype, copy=False)
        return here.row_sq_norms(C), product(self.G, C.T)

    def objective(self, labels: np.ndarray, centers: np.ndarray) -> tuple[float, None]:
        """Φ from the differences g_i − C_k, in which nothing cancels."""
        sizes = np.bincount(labels, minlength=len(centers))
        return float(sizes @ here.spread(self.G, centers, labels)), None

    def exchangeable(self) -> Exchangeable:
        """Exchange works on the deviations from the mean gradient."""
        return Deviations(self)

    def sq_distances(self) -> np.ndarray:
        """From the differences, in which nothing cancels; cost N² d."""
        G = self.G.astype(np.float64, copy=False)
        return np.array([here.row_sq_norms(G - g) for g in G])


class Deviations:
    """Gradients without what is common to all, which Φ does not know and which would cost the sweeps digits."""

    def __init__(self, points: ExplicitPoints) -> None:
        self._points = points
        mean = points.G.mean(axis=0, dtype=np.float64)
        self._deviations = np.subtract(points.G, mean, out=np.empty_like(points.G), casting="same_kind")
        self.sq_norms = here.row_sq_norms(self._deviations)

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Start from fresh sums, so that rounding does not pile up over the sweeps."""
        sizes = np.bincount(labels, minlength=n_clusters)
        e = np.bincount(labels, weights=self.sq_norms, minlength=n_clusters)
        s = here.grouped_sums(self._deviations, labels, n_clusters)
        return here.exchange_sweep(self._deviations, order, labels, sizes, e, s, threshold)

    def objective_of(self, labels: np.ndarray, n_clusters: int) -> float:
        """Φ of the gradients as they were given."""
        return self._points.objective(labels, self._points.centers(labels, n_clusters))[0]


class GramPoints:
    """Gradients known by their inner products; a centre is implied by the labels of its cluster.

    Parameters
    ----------
    gram : ndarray, shape (N, N), float64
        ⟨g_i, g_j⟩; centred in place, since Φ and all distances know nothing of the mean gradient.
    """

    form = "gram"
    n_parameters = None

    def __init__(self, gram: np.ndarray) -> None:
        self.gram = gram
        # The products are as exact as these were; no move is worth less than their rounding.
        self._least = 1e-12 * len(gram) * float(gram.diagonal().sum())
        center(gram)
        self.sq_norms = np.maximum(gram.diagonal(), 0.0)
        np.fill_diagonal(gram, self.sq_norms)

    def centers(self, labels: np.ndarray, n_clusters: int) -> Products:
        """⟨C_k, C_k⟩ and ⟨C_k, g_i⟩ for the means C_k."""
        sizes = np.bincount(labels, minlength=n_clusters)
        cg = np.ascontiguousarray(here.grouped_sums(self.gram, labels, n_clusters).T) / sizes
        own = cg[np.arange(len(labels)), labels]
        return np.bincount(labels, weights=own, minlength=n_clusters) / sizes, cg

    def products(self, centers: Products) -> Products:
        """All that is known of a centre."""
        return centers

    def objective(self, labels: np.ndarray, centers: Products) -> tuple[float, Products]:
        """Φ from the products."""
        return objective_from_products(labels, *centers, self.sq_norms), centers

    def exchangeable(self) -> Exchangeable:
        """Exchange works on the same products."""
        return self

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Start from fresh sums, so that rounding does not pile up over the sweeps."""
        sizes = np.bincount(labels, minlength=n_clusters)
        e = np.bincount(labels, weights=self.sq_norms, minlength=n_clusters)
        s_dot_g = np.ascontiguousarray(here.grouped_sums(self.gram, labels, n_clusters).T)
        return here.exchange_sweep_gram(self.gram, order, labels, sizes, e, s_dot_g, max(threshold, self._least))

    def objective_of(self, labels: np.ndarray, n_clusters: int) -> float:
        """Φ from the products."""
        return self.objective(labels, self.centers(labels, n_clusters))[0]

    def sq_distances(self) -> np.ndarray:
        """‖g_i‖² − 2⟨g_i, g_j⟩ + ‖g_j‖², where rounding below 0 counts as 0."""
        return np.maximum(self.sq_norms[:, None] - 2.0 * self.gram + self.sq_norms, 0.0)


def gram_of_array(G: np.ndarray) -> np.ndarray:
    """Return ⟨g_i − ḡ, g_j − ḡ⟩ of explicit gradients (N, d), in float64, so that ḡ cannot drown them in rounding."""
    centered = G - G.mean(axis=0, dtype=np.float64)
    return np.asarray(centered @ centered.T)


def first_overflow(sq_norms: np.ndarray) -> int | None:
    """Return the first example of whose squared norm (N,) Φ, of up to N² such, may overflow, or None."""
    most = np.finfo(np.float64).max / (4.0 * len(sq_norms) ** 2)
    bad = ~(sq_norms < most)
    return int(np.argmax(bad)) if bad.any() else None
