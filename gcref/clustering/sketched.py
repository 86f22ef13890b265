"""SketchedClustering: exchange on sketches of the gradients, after one pass over the data."""

import copy
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gcref.clustering.alternating import Run
from gcref.clustering.base import Clusterer, check_integer, is_number, on_device
from gcref.clustering.exchange import VectorPoints, exchange
from gcref.clustering.sketches import Sketches, dim_for
from gcref.kernels.device import here


class SketchedClustering(Clusterer):
    """Cluster the gradients of a data set by exchange on a sketch of each, made in one pass.

    A sketch z_i has `dim` numbers, whatever the number of parameters, and E⟨z_i, z_j⟩ = ⟨g_i, g_j⟩ (`Sketches`).
    Sweeps then move one example at a time to the cluster where Φ of the sketches falls most, so that it never rises.

    Parameters
    ----------
    n_clusters : int
        K.
    dim : int, default 128
        m, the numbers of a sketch that the clusters are made from.
    drift : float, default 0
        τ², the squared norm of the independent error that each gradient is expected to drift by before it is drawn,
        as a share of the mean ‖z‖². It keeps clusters from growing huge: f = n (e + n τ²) − ‖s‖² for each.
    seed : int, default 0
        Of the signs of the sketches; sweep t draws its order from ``SeedSequence(seed, spawn_key=(t,))``, the
        initial labels at t = 0.
    n_iter : int, default 20
        The most sweeps: they end after one that moved no example, or fewer than 0.1 %.
    check_dim : int, default 32
        Further numbers of each sketch, which the clustering never sees, for `variance_`; 0 for none.
    accuracy : float, optional
        Choose m so that the standard deviation of each ⟨z_i, z_j⟩ is at most this share of ‖g_i‖‖g_j‖, which
        ⌈9/accuracy²⌉ numbers guarantee; `dim` then has no say.
    n_candidates : int, optional
        Look only at this many clusters for each example from the second sweep on, those nearest to its own. Faster
        for large K, with a slightly higher Φ. None: all.
    warm_start : bool, default False
        Continue from the last labels, on new sketches of the same number of examples, and go on counting sweeps.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the kernels of the clustering run; "auto" takes a GPU if there is one that works.

    Attributes
    ----------
    labels_ : ndarray, shape (N,), int64
        The cluster of each example, those of the minimum of `objective_`.
    sizes_ : ndarray, shape (n_clusters,), int64
        N_k of `labels_`; no cluster is empty.
    objective_ : ndarray, shape (sweeps,), float64
        Φ of the sketches after each sweep, drift included. It is not Φ of the gradients, which the labels,
        chosen to make this one small, know less of.
    variance_ : float
        An unbiased estimate of V of Eq. 1, averaged over the d parameters as `gcref.variance` does, with one draw
        from each cluster: from the `check_dim` numbers that the labels do not depend on. NaN without any.
    variance_error_ : float
        The standard error of `variance_`, from the spread of those numbers; NaN if there are fewer than two.
    sketches_ : Sketches
        Of all examples, ``dim + check_dim`` numbers each; `fit` takes them in place of traces.
    last_labels_ : ndarray, shape (N,), int64
        The labels after the last sweep.
    n_iter_ : int
        Sweeps since the last cold start.

    Notes
    -----
    The pass costs two thin products a block, N T m (I + O); a sweep N K m; memory N m numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from gcref import SketchedClustering, Trace
    >>> A = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> SketchedClustering(2).fit([Trace(A, np.ones((4, 1)))]).labels_
    array([0, 0, 1, 1])
    """

    sketches_: Sketches
    variance_: float
    variance_error_: float

    def __init__(
        self,
        n_clusters: int,
        dim: int = 128,
        drift: float = 0.0,
        seed: int = 0,
        n_iter: int = 20,
        check_dim: int = 32,
        accuracy: float | None = None,
        n_candidates: int | None = None,
        warm_start: bool = False,
        device: str = "cpu",
    ) -> None:
        self.n_clusters = n_clusters
        self.dim = dim
        self.drift = drift
        self.seed = seed
        self.n_iter = n_iter
        self.check_dim = check_dim
        self.accuracy = accuracy
        self.n_candidates = n_candidates
        self.warm_start = warm_start
        self.device = device

    @on_device
    def fit(self, traces: Any, executor: Executor | None = None) -> "SketchedClustering":
        """Cluster the examples of `traces`.

        Parameters
        ----------
        traces : list of Trace, list of such lists, callable, or Sketches
            The traces of one pass; or batches, in order; or a function without arguments that yields the batches,
            called once. Or sketches made before, of ``dim + check_dim`` numbers.
        executor : concurrent.futures.Executor, optional
            What makes the sketches, piece by piece; see `gcref.Sketches.add`. The sweeps are made here.

        Returns
        -------
        SketchedClustering
            Itself.

        Raises
        ------
        TypeError
            If `traces` is nothing of the kind.
        ValueError
            If a parameter makes no sense, there are fewer examples than clusters, the traces disagree in their
            examples or blocks, a number is not finite, or a warm start finds labels of other examples.
        """
        self._check_params()
        sketches = traces if isinstance(traces, Sketches) else self._new_sketches().add(traces, executor)
        self._check_sketches(sketches)
        start = self._start_labels(len(sketches))
        done = self._iterations_done()
        self._sweep(sketches, start, done)
        return self

    @on_device
    def partial_fit(self, traces: Any, indices: ArrayLike | None = None) -> "SketchedClustering":
        """Take in further examples, or new gradients of known ones, and sweep on from the present labels.

        Parameters
        ----------
        traces : list of Trace, list of such lists, or callable
            As for `fit`.
        indices : array_like of int, optional
            The examples whose sketches these replace. None: the examples are new, come after those known, and each
            first joins the cluster whose cost rises least.

        Returns
        -------
        SketchedClustering
            Itself. Without a fit before, `fit` is what it does.

        Raises
        ------
        TypeError, ValueError
            As `fit`; or if `indices` are not different known examples, one for each of `traces`.
        """
        self._check_params()
        if not hasattr(self, "sketches_"):
            if indices is not None:
                raise ValueError("indices refresh examples of a fit; call fit(traces) first")
            return self.fit(traces)
        self._check_sketches(self.sketches_)
        labels, known = self.last_labels_, len(self.sketches_)
        if len(self.sizes_) != self.n_clusters:
            raise ValueError(f"n_clusters={self.n_clusters} but the last fit has {len(self.sizes_)}; call fit")
        if indices is not None:
            sketches = self.sketches_.refresh(traces, indices)
        else:
            sketches = copy.copy(self.sketches_).add(traces)  # so that Ctrl-C leaves examples and labels of one number
            new = np.arange(known, len(sketches))
            labels = np.concatenate([labels, np.full(len(new), -1)])
            self._points(sketches).place(new, labels, self.n_clusters)
        self._sweep(sketches, labels, self.n_iter_)
        return self

    def _sweep(self, sketches: Sketches, labels: np.ndarray, done: int) -> None:
        """Exchange from `labels`, with `done` sweeps behind, and store what comes out."""
        iterations = range(done + 1, done + self.n_iter + 1)
        run: Run = exchange(self._points(sketches), labels, self.n_clusters, self.seed, iterations)
        self._learn(run.labels, run.objective, run.last_labels, done)
        self.sketches_ = sketches
        self.variance_, self.variance_error_ = self._check_variance(sketches)

    def _points(self, sketches: Sketches) -> VectorPoints:
        """Return the numbers that the clusters are made from."""
        shown = sketches.values[:, : self._dim]
        return VectorPoints(shown * np.sqrt(sketches.dim / self._dim), float(self.drift), self.n_candidates)

    def _check_variance(self, sketches: Sketches) -> tuple[float, float]:
        """Estimate V and its standard error from the numbers that the labels do not depend on."""
        hidden = sketches.values[:, self._dim :]
        n, m = hidden.shape
        if m == 0:
            return float("nan"), float("nan")
        hidden = (hidden - hidden.mean(axis=0)) * np.sqrt(sketches.dim)
        sums = here.grouped_sums(hidden, self.labels_, self.n_clusters)
        squares = here.grouped_sums(hidden**2, self.labels_, self.n_clusters)
        phi = self.sizes_ @ squares - (sums**2).sum(axis=0)
        variance = phi / (float(n) ** 2 * sum(i * o for _, i, o in sketches.blocks))
        error = variance.std(ddof=1) / np.sqrt(m) if m > 1 else float("nan")
        return float(variance.mean()), float(error)

    @property
    def _dim(self) -> int:
        """The numbers that the clusters are made from."""
        return dim_for(self.accuracy) if self.accuracy is not None else int(self.dim)

    def _new_sketches(self) -> Sketches:
        return Sketches(self._dim + int(self.check_dim), self.seed)

    def _check_sketches(self, sketches: Sketches) -> None:
        """Raise unless there are enough sketches of the right length."""
        if sketches.dim != self._dim + self.check_dim:
            raise ValueError(
                f"the sketches have {sketches.dim} numbers; dim={self._dim} and check_dim={self.check_dim} need "
                f"{self._dim + self.check_dim}"
            )
        self._check_n_examples(len(sketches))

    def _check_params(self) -> None:
        super()._check_params()
        check_integer("dim", self.dim, 1)
        check_integer("check_dim", self.check_dim, 0)
        check_share("drift", self.drift, 0.0, np.inf)
        if self.accuracy is not None:
            check_share("accuracy", self.accuracy, 1e-3, 3.0)
        if self.n_candidates is not None:
            check_integer("n_candidates", self.n_candidates, 1)


def check_share(name: str, value: Any, lowest: float, highest: float) -> None:
    """Raise unless `value` is a finite number in lowest…highest."""
    if not is_number(value) or not lowest <= float(value) <= highest or not np.isfinite(float(value)):
        bounds = f"not below {lowest:g}" if np.isinf(highest) else f"in {lowest:g}…{highest:g}"
        raise ValueError(f"{name}={value!r}; a finite number {bounds} is expected")
