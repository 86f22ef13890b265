"""GradientClustering: the paper's efficient clustering, with centres of low rank a layer (Eq. 5, 6)."""

from typing import Any

import numpy as np

from gcref.clustering.alternating import Products, objective_from_products
from gcref.clustering.base import Clusterer, NotFiniteError, check_choice, check_integer
from gcref.clustering.passes import Passes
from gcref.engine.algebra import add_center_sums, inner_products, per_example_sq_norms
from gcref.kernels import cpu

Centers = list[tuple[np.ndarray, np.ndarray]]


class GradientClustering(Clusterer):
    """Cluster the gradients of a data set without forming one: centres C_k = c_k d_kᵀ a parameter block.

    Parameters
    ----------
    n_clusters : int
        K. The estimator built on the clusters takes one example from each.
    center : {"mean"}, default "mean"
        How a U step makes a centre: c_k is the mean of the inputs and d_k the mean of the output gradients of
        the cluster (Eq. 6). For a convolution c_k is the mean over the examples of the mean over positions,
        d_k that of the sum over positions. It is the exact cluster mean where inputs and output gradients are
        uncorrelated.
    rank : int, default 1
        The rank of a centre; "mean" centres have rank 1.
    sizes : {"sequential", "fixed"}, default "sequential"
        How an A step, a_i = argmin_k N_k ‖C_k − g_i‖² (Eq. 3), treats N_k: one example after another in
        random order, N_k + 1 counting those already assigned; or fixed at the sizes of the step before, which
        often collapses.
    n_iter : int, default 10
        Iterations of A step, empty-cluster rule and U step.
    seed : int, default 0
        Iteration t draws its random numbers from ``SeedSequence(seed, spawn_key=(t,))``, the initial labels
        at t = 0.
    warm_start : bool, default False
        Start from the centres of the last fit, `centers_`, and go on counting iterations. A first fit starts
        from the U step of random labels of balanced clusters.

    Attributes
    ----------
    labels_ : ndarray, shape (N,), int64
        The cluster of each example, those of the first minimum of `objective_`: an iteration can raise Φ.
    sizes_ : ndarray, shape (n_clusters,), int64
        N_k of `labels_`; no cluster is empty.
    objective_ : ndarray, shape (n_iter,), float64
        Φ = Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖² about the low-rank centres after each iteration of this fit.
    centers_ : list of (c, d), shapes (n_clusters, I) and (n_clusters, O)
        For each block, the centres after the *last* iteration, from which a warm start continues: in general
        not those of `labels_`.
    last_labels_ : ndarray, shape (N,), int64
        The labels after the last iteration.
    n_iter_ : int
        Iterations since the last cold start.

    Notes
    -----
    A run stopped and started again from a stored `centers_` and `n_iter_` (with ``sizes="fixed"`` also
    `last_labels_`) goes through the same numbers as one that was not.

    An iteration costs the cheaper of N T K (I + O) (Eq. 9) and N (T + K) I O (Eq. 8) a block for the A step
    (`Network.costs` prints both), and N T (I + O) for the U step; beside the traces it needs N (K + 2) numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from gcref import GradientClustering, Trace
    >>> A = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> GradientClustering(2).fit([Trace(A, np.ones((4, 1)))]).labels_
    array([0, 0, 1, 1])
    """

    centers_: Centers

    def __init__(
        self,
        n_clusters: int,
        center: str = "mean",
        rank: int = 1,
        sizes: str = "sequential",
        n_iter: int = 10,
        seed: int = 0,
        warm_start: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.center = center
        self.rank = rank
        self.sizes = sizes
        self.n_iter = n_iter
        self.seed = seed
        self.warm_start = warm_start

    def fit(self, traces: Any) -> "GradientClustering":
        """Cluster the examples of `traces`.

        Parameters
        ----------
        traces : list of Trace, list of such lists, or callable
            The traces of one pass; or batches, in order; or a function without arguments that yields the
            batches anew at each call, which bounds the memory: it is called once for the norms and once an A
            or U step.

        Returns
        -------
        GradientClustering
            Itself.

        Raises
        ------
        TypeError
            If `traces` is nothing of the kind.
        ValueError
            If a parameter makes no sense, there are fewer examples than clusters, the traces disagree in
            their examples or blocks, a number is not finite, or a warm start finds centres of another shape.
        """
        self._check_params()
        points = RankOnePoints(traces)
        self._check_n_examples(len(points.sq_norms))
        self.centers_ = self._alternate(points, self._warm_centers(points), self.sizes)
        return self

    def _check_params(self) -> None:
        super()._check_params()
        check_choice("center", self.center, ("mean",))
        check_integer("rank", self.rank, 1)
        check_choice("sizes", self.sizes, ("sequential", "fixed"))
        if self.center == "mean" and self.rank != 1:
            raise ValueError(f"rank={self.rank} with center='mean'; mean centres have rank 1")

    def _warm_centers(self, points: "RankOnePoints") -> Centers | None:
        """Return the centres that a warm start continues from, or None for a cold start."""
        if not self._iterations_done():
            return None
        found = [(c.shape, d.shape) for c, d in getattr(self, "centers_", [])]
        expected = [((self.n_clusters, i), (self.n_clusters, o)) for _, i, o in points.blocks]
        if found != expected:
            raise ValueError(
                f"warm_start=True continues from centres of shapes {found} but these traces need {expected}; "
                "set warm_start=False for a new start"
            )
        return self.centers_


class RankOnePoints:
    """Gradients given by their traces, with rank-1 mean centres (c, d) for each block.

    Every method is one pass over the traces that keeps nothing of a batch but its norms or products.
    """

    def __init__(self, traces: Any) -> None:
        self._passes = Passes(traces)
        norms = [per_example_sq_norms(batch) for _, batch in self._passes]
        self.sq_norms = np.concatenate(norms) if norms else np.zeros(0)
        self.blocks = self._passes.blocks
        bad = np.flatnonzero(~np.isfinite(self.sq_norms))
        if len(bad):
            raise NotFiniteError(f"the gradient of example {bad[0]} is not finite; its traces hold NaN or infinity")

    def centers(self, labels: np.ndarray, n_clusters: int) -> Centers:
        """Eq. 6, in the dtype of the traces."""
        sums = [(np.zeros((n_clusters, i)), np.zeros((n_clusters, o))) for _, i, o in self.blocks]
        dtypes: list[np.dtype] = []
        for rows, batch in self._passes:
            dtypes = [t.dtype for t in batch]
            for t, (a_sums, d_sums) in zip(batch, sums, strict=True):
                add_center_sums(t, labels[rows], a_sums, d_sums)
        sizes = np.bincount(labels, minlength=n_clusters)[:, None]
        return [
            ((a_sums / (sizes * T)).astype(dtype), (d_sums / sizes).astype(dtype))
            for (a_sums, d_sums), (T, _, _), dtype in zip(sums, self.blocks, dtypes, strict=True)
        ]

    def products(self, centers: Centers) -> Products:
        """Eq. 5 and 9."""
        cc = np.sum([cpu.sq_norms(c[:, None], d[:, None]) for c, d in centers], axis=0)
        cg = np.empty((len(self.sq_norms), len(cc)))
        # Transposed once for all batches, as BLAS likes them best.
        centers = [(np.asfortranarray(c), np.asfortranarray(d)) for c, d in centers]
        for rows, batch in self._passes:
            cg[rows] = sum(inner_products(t, c, d) for t, (c, d) in zip(batch, centers, strict=True))
        return cc, cg

    def objective(self, labels: np.ndarray, centers: Centers) -> tuple[float, Products]:
        """Φ about the low-rank centres, with the products, which the next A step needs too."""
        cc, cg = self.products(centers)
        return objective_from_products(labels, cc, cg, self.sq_norms), (cc, cg)
