"""GradientClustering: the paper's efficient clustering, with centres of low rank a layer (Eq. 5, 6)."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from gcref.clustering.base import Clusterer, check_choice, check_integer, is_number, on_device
from gcref.clustering.centers import CenterStep
from gcref.clustering.factored import Centers, FactoredPoints


class GradientClustering(Clusterer):
    """Cluster the gradients of a data set without forming one: centres C_k = Σ_s c_ks d_ksᵀ a parameter block.

    Parameters
    ----------
    n_clusters : int
        K. The estimator built on the clusters takes one example from each.
    center : {"mean", "svd"}, default "mean"
        How a U step makes a centre. "mean": c_k is the mean of the inputs and d_k the mean of the output gradients
        of the cluster (Eq. 6). For a convolution c_k is the mean over the examples of the mean over positions,
        d_k that of the sum over positions. It is the exact cluster mean where inputs and output gradients are
        uncorrelated. "svd": the best approximation of the cluster's mean gradient of rank r, block by block
        (section 3.2), by power iteration whose products never form that mean.
    rank : int, default 1
        The rank r of a centre; "mean" centres have rank 1. A block of min(I, O) ≤ r has the exact cluster mean for
        its centre.
    sizes : {"sequential", "fixed"}, default "sequential"
        How an A step, a_i = argmin_k N_k ‖C_k − g_i‖² (Eq. 3), treats N_k: one example after another in
        random order, N_k + 1 counting those already assigned; or fixed at the sizes of the step before, which
        often collapses.
    n_iter : int, default 10
        Iterations of A step, empty-cluster rule and U step.
    seed : int, default 0
        Iteration t draws its random numbers from ``SeedSequence(seed, spawn_key=(t,))``, the initial labels
        at t = 0; an "svd" U step from ``spawn_key=(t, 1)``, a mini-batch from ``(t, 2)``.
    warm_start : bool, default False
        Start from the centres of the last fit, `centers_`, and go on counting iterations. A first fit starts
        from the U step of random labels of balanced clusters.
    update : {"full", "online"}, default "full"
        What a U step looks at: all examples, or a mini-batch drawn anew in each iteration (section 3.2 and
        appendix B.2). Online, the centres are exponential averages of the means of a cluster's members in the
        mini-batch, of their inputs and output gradients each with "mean" centres and of the gradients with "svd";
        a cluster without a member in it keeps its centre. The U step before the first iteration is a full one.
    batch_size : int, optional
        Examples of the mini-batch; needed by, and only by, ``update="online"``.
    decay : float, optional
        The share of a centre, in [0, 1), that an online U step keeps; 0.9 by default.
    a_share : float, default 1.0
        The share of the examples, in (0, 1], drawn anew, that an A step assigns anew; the others keep their labels
        (section 3.2: "processing only a portion of data"). "sequential" sizes count those from the start.
    blocks : sequence of int, optional
        The parameter blocks, by their place in the traces, whose gradients are clustered (appendix B.2: "on a subset
        of the layers"); all by default. Norms, centres and Φ know nothing of the others.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the kernels of the clustering run; "auto" takes a GPU if there is one that works.

    Attributes
    ----------
    labels_ : ndarray, shape (N,), int64
        The cluster of each example, those of the first minimum of `objective_`: an iteration can raise Φ.
    sizes_ : ndarray, shape (n_clusters,), int64
        N_k of `labels_`; no cluster is empty.
    objective_ : ndarray, shape (n_iter,), float64
        Φ = Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖² about the low-rank centres after each iteration of this fit. It is the Φ
        of exact centres and Σ_k N_k² ‖C_k − ḡ_k‖².
    centers_ : list of (c, d)
        For each block that counts, the centres after the *last* iteration, from which a warm start continues: in
        general not those of `labels_`. "mean": shapes (n_clusters, I) and (n_clusters, O); "svd":
        (n_clusters, r, I), orthonormal rows as a rule, and (n_clusters, r, O), r at most min(I, O).
    last_labels_ : ndarray, shape (N,), int64
        The labels after the last iteration.
    n_iter_ : int
        Iterations since the last cold start.

    Notes
    -----
    A run stopped and started again from a stored `centers_` and `n_iter_` (with ``sizes="fixed"`` or ``a_share < 1``
    also `last_labels_`) goes through the same numbers as one that was not.

    An iteration costs the cheaper of N T K r (I + O) (Eq. 9) and N (T + K r) I O (Eq. 8) a block for the A step
    (`Network.costs` prints both for r = 1), and N T (I + O) for the U step of "mean" centres; beside the traces it
    needs N (K + 2) numbers. An A step on a share of the examples costs that share, and Φ then N T r (I + O).

    A U step of "svd" centres makes three power steps from 2r + 4 random vectors a cluster, of two passes each: six
    passes over the data, each the cheaper of 2 N T b (I + O) and N (T + b) I O, b = min(2r + 4, I, O), and K b 3
    (I + O) numbers, where a mean gradient a cluster would need K I O. `gcref.clustering.svd` says how near the best
    approximation that comes. One power step, and no error, suffices where b = min(I, O) in every block.

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
        update: str = "full",
        batch_size: int | None = None,
        decay: float | None = None,
        a_share: float = 1.0,
        blocks: Sequence[int] | None = None,
        device: str = "cpu",
    ) -> None:
        self.n_clusters = n_clusters
        self.center = center
        self.rank = rank
        self.sizes = sizes
        self.n_iter = n_iter
        self.seed = seed
        self.warm_start = warm_start
        self.update = update
        self.batch_size = batch_size
        self.decay = decay
        self.a_share = a_share
        self.blocks = blocks
        self.device = device

    @on_device
    def fit(self, traces: Any) -> "GradientClustering":
        """Cluster the examples of `traces`.

        Parameters
        ----------
        traces : list of Trace, list of such lists, or callable
            The traces of one pass; or batches, in order; or a function without arguments that yields the
            batches anew at each call, which bounds the memory: it is called once for the norms, once an A step,
            once a U step of "mean" centres and up to six times one of "svd" centres, once more for Φ if
            ``a_share < 1``.

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
        points = FactoredPoints(traces, self.blocks)
        n_examples = len(points.sq_norms)
        self._check_n_examples(n_examples)
        if self.batch_size is not None and self.batch_size > n_examples:
            raise ValueError(f"batch_size={self.batch_size} but there are only {n_examples} examples")
        u_step = CenterStep(
            points,
            self.n_clusters,
            self.center,
            self.rank,
            self.seed,
            self.batch_size,
            0.9 if self.decay is None else self.decay,
        )
        n_assigned = None if self.a_share == 1.0 else max(1, round(self.a_share * n_examples))
        self.centers_ = self._alternate(points, self._warm_centers(points), self.sizes, u_step, n_assigned)
        return self

    def _check_params(self) -> None:
        super()._check_params()
        check_choice("center", self.center, ("mean", "svd"))
        check_integer("rank", self.rank, 1)
        check_choice("sizes", self.sizes, ("sequential", "fixed"))
        if self.center == "mean" and self.rank != 1:
            raise ValueError(f"rank={self.rank} with center='mean'; mean centres have rank 1")
        self._check_update()
        if not is_number(self.a_share) or not 0.0 < self.a_share <= 1.0:
            raise ValueError(f"a_share={self.a_share!r}; a number above 0 and at most 1 is expected")
        if self.blocks is not None:
            _check_blocks(self.blocks)

    def _check_update(self) -> None:
        """Raise unless `update`, `batch_size` and `decay` make sense together."""
        check_choice("update", self.update, ("full", "online"))
        if self.update == "full":
            for name, value in (("batch_size", self.batch_size), ("decay", self.decay)):
                if value is not None:
                    raise ValueError(f"{name}={value!r} with update='full'; only update='online' has mini-batches")
            return
        if self.batch_size is None:
            raise ValueError("batch_size=None with update='online'; the size of its mini-batches is needed")
        check_integer("batch_size", self.batch_size, 1)
        if self.decay is not None and (not is_number(self.decay) or not 0.0 <= self.decay < 1.0):
            raise ValueError(f"decay={self.decay!r}; a number of at least 0 and below 1 is expected")

    def _warm_centers(self, points: FactoredPoints) -> Centers | None:
        """Return the centres that a warm start continues from, or None for a cold start."""
        if not self._iterations_done():
            return None
        found = [(c.shape, d.shape) for c, d in getattr(self, "centers_", [])]
        expected = [(self._shape(i, o, i), self._shape(i, o, o)) for i, o in points.shapes]
        if found != expected:
            raise ValueError(
                f"warm_start=True continues from centres of shapes {found} but these traces need {expected}; "
                "set warm_start=False for a new start"
            )
        return self.centers_

    def _shape(self, inputs: int, outputs: int, width: int) -> tuple[int, ...]:
        """Return the shape of one factor of the centres of a block (I, O)."""
        if self.center == "mean":
            return self.n_clusters, width
        return self.n_clusters, min(self.rank, inputs, outputs), width


def _check_blocks(blocks: Any) -> None:
    """Raise unless `blocks` is a sequence of different numbers from 0 on."""
    expected = "a sequence of different integers from 0 on, at least one, is expected"
    try:
        found = list(blocks)
    except TypeError:
        raise TypeError(f"blocks={blocks!r}; {expected}") from None
    integers = all(isinstance(block, Integral) and not isinstance(block, bool) for block in found)
    if not integers or not found or min(found) < 0 or len(set(found)) < len(found):
        raise ValueError(f"blocks={blocks!r}; {expected}")
