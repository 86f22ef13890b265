"""ExactClustering: clustering about exact cluster means, from gradients or their Gram matrix."""

from typing import Any

import numpy as np

from gcref.clustering.base import Clusterer, NotFiniteError, check_choice, on_device
from gcref.clustering.exchange import exchange
from gcref.clustering.gram import gram_matrix, gram_operations, look_through
from gcref.clustering.passes import Passes, is_traces
from gcref.clustering.points import ExactPoints, ExplicitPoints, GramPoints, first_overflow, gram_of_array
from gcref.engine.trace import first_bad_row, per_example_gradients, read_array
from gcref.kernels.enumerate import best_partition

_MEMORY = 2 << 30  # bytes beyond which the smaller form is taken, whatever its operation count
_CHUNK = 1 << 22  # numbers of gradients formed at once, before they find their place
MOST = 12  # examples of which every partition is tried: 12 have 4 million

FormCosts = dict[str, tuple[int, int]]  # of "explicit" and "gram": bytes, operations


class ExactClustering(Clusterer):
    """Cluster gradients about exact cluster means, so as to make Φ, the variance of Eq. 1, small.

    Φ = Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖² with C_k the mean of cluster k is N² times the trace of the covariance of
    the estimator that draws one example from each cluster (Prop. 3.1, Eq. 2).

    Parameters
    ----------
    n_clusters : int
        K.
    update : {"alternating", "exchange", "enumeration"}, default "alternating"
        "alternating" repeats A step and U step (Eq. 3, 4), which can raise Φ. "exchange" goes through the
        examples in random order and moves each to the cluster where Φ falls most, never raising it.
        "enumeration" finds the true minimum over all partitions into n_clusters clusters, of at most 12 examples.
    sizes : {"sequential", "fixed"}, default "sequential"
        How an A step, a_i = argmin_k N_k ‖C_k − g_i‖², treats N_k: one example after another in random order,
        N_k + 1 counting those already assigned; or fixed at the sizes of the step before, which often
        collapses. Only "alternating" has a use for it.
    n_iter : int, default 10
        Iterations, or the most sweeps: exchange stops after a sweep that moved no example, or fewer than 0.1
        %. Enumeration is one.
    seed : int, default 0
        Iteration t draws its random numbers from ``SeedSequence(seed, spawn_key=(t,))``, the initial labels
        at t = 0.
    warm_start : bool, default False
        Continue from the last fit and go on counting iterations: from its centres, or from its labels with
        exchange and wherever centres are only implied by the labels (the Gram form). A first fit starts from
        random labels of balanced clusters.
    form : {"auto", "explicit", "gram"}, default "auto"
        Work on the gradients (N, d) or on their inner products (N, N). "auto" takes the one of fewer
        operations that fits into 2 GiB, by the shapes alone.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the kernels of the clustering run; "auto" takes a GPU if there is one that works.

    Attributes
    ----------
    labels_ : ndarray, shape (N,), int64
        The cluster of each example, those of the first minimum of `objective_`.
    sizes_ : ndarray, shape (n_clusters,), int64
        N_k of `labels_`; no cluster is empty.
    objective_ : ndarray, shape (iterations,), float64
        Φ about the exact cluster means after each iteration or sweep of this fit.
    form_ : {"explicit", "gram"}
        What this fit worked on.
    centers_ : ndarray, shape (n_clusters, d), or None
        The cluster means after the *last* iteration, from which a warm start continues: in general not those
        of `labels_`. None in the Gram form.
    last_labels_ : ndarray, shape (N,), int64
        The labels after the last iteration.
    n_iter_ : int
        Iterations since the last cold start.

    Notes
    -----
    Exchange makes the best move of an example where it changes Φ by less than −1e-12 N Σ‖g_i − ḡ‖² (Gram form of
    traces: −1e-12 N Σ‖g_i‖²), since rounding would move duplicates for ever, and no example leaves a cluster of one.
    No partition into at most n_clusters clusters is better than the best into exactly so many: splitting a cluster
    never raises Φ. Of several minima enumeration takes the one first in the alphabet of labels, numbered as they come.

    Cost of an iteration: N d K in the explicit form, N² in the Gram form after N² d (from gradients) or, a block, the
    lesser of N² T² (I + O)/2 (Eq. 9) and N T I O + N² I O/2 (Eq. 8, from traces). Memory: N d numbers
    (twice that for exchange), or N² and two groups of batches of 256 MiB each, or a batch where it is larger, with a
    copy of one layer of them. Products of traces are float64 and centred once summed: a mean gradient m times as
    large as the differences leaves 16 − 2 log₁₀ m digits of Φ. Gradients given as an array are centred first.

    Examples
    --------
    >>> import numpy as np
    >>> from gcref import ExactClustering
    >>> G = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> fit = ExactClustering(2, update="exchange").fit(G)
    >>> fit.labels_, fit.objective_.round(6)
    (array([1, 1, 0, 0]), array([0.02, 0.02]))
    """

    centers_: np.ndarray | None
    form_: str

    def __init__(
        self,
        n_clusters: int,
        update: str = "alternating",
        sizes: str = "sequential",
        n_iter: int = 10,
        seed: int = 0,
        warm_start: bool = False,
        form: str = "auto",
        device: str = "cpu",
    ) -> None:
        self.n_clusters = n_clusters
        self.update = update
        self.sizes = sizes
        self.n_iter = n_iter
        self.seed = seed
        self.warm_start = warm_start
        self.form = form
        self.device = device

    @on_device
    def fit(self, G: Any) -> "ExactClustering":
        """Cluster gradients.

        Parameters
        ----------
        G : array_like, shape (N, d), or traces
            The gradient of each example; or their traces: a list of Trace, a list of such lists (batches, in
            order), or a function without arguments that yields the batches anew at each call. It is called once to
            learn the number of examples, and then once, in the explicit form, or once for each 256 MiB of traces,
            in the Gram form.

        Returns
        -------
        ExactClustering
            Itself.

        Raises
        ------
        TypeError
            If G is neither an array nor traces.
        ValueError
            If a parameter makes no sense, there are fewer examples than clusters, G is not two-dimensional, a
            number is not finite, the traces disagree, or a warm start finds labels or centres of another
            shape.
        """
        self._check_params()
        points = self._points(G)
        if self.update == "alternating":
            centers = self._alternate(points, self._warm_centers(points), self.sizes)
        elif self.update == "exchange":
            centers = self._exchange(points)
        else:
            centers = self._enumerate(points)
        self.form_ = points.form
        self.centers_ = centers if points.form == "explicit" else None
        return self

    def _check_params(self) -> None:
        super()._check_params()
        check_choice("update", self.update, ("alternating", "exchange", "enumeration"))
        check_choice("sizes", self.sizes, ("sequential", "fixed"))
        check_choice("form", self.form, ("auto", "explicit", "gram"))

    def _check_n_examples(self, n_examples: int) -> None:
        super()._check_n_examples(n_examples)
        if self.update == "enumeration" and n_examples > MOST:
            raise ValueError(
                f"update='enumeration' tries every partition of at most {MOST} examples, but there are {n_examples}; "
                "'exchange' takes any number"
            )

    def _points(self, G: Any) -> ExactPoints:
        """Return the gradients in the form asked for, or the one of fewer operations."""
        return self._points_of_traces(Passes(G)) if is_traces(G) else self._points_of_array(_read_gradients(G))

    def _points_of_traces(self, traces: Passes) -> ExactPoints:
        """Choose by the shapes, before any gradient or product is made."""
        dtype = look_through(traces)
        N = traces.n_examples or 0
        self._check_n_examples(N)
        d = sum(i * o for _, i, o in traces.blocks)
        forming = sum(N * t * i * o for t, i, o in traces.blocks)
        multiplying = sum(min(gram_operations(*shape, N, N)) // 2 for shape in traces.blocks)
        costs = {"explicit": (dtype.itemsize * N * d, forming), "gram": (8 * N * N, multiplying)}
        if self._takes_gradients(costs, N, d):
            points = ExplicitPoints(_gradients(traces, dtype))
            _check_norms(points.sq_norms)
            return points
        gram = gram_matrix(traces)
        _check_norms(gram.diagonal())
        return GramPoints(gram)

    def _points_of_array(self, G: np.ndarray) -> ExactPoints:
        """Norms come first: what overflows is known before any product is made."""
        N, d = G.shape
        self._check_n_examples(N)
        points = ExplicitPoints(G)
        _check_norms(points.sq_norms)
        costs = {"explicit": (0, 0), "gram": (8 * N * (N + d), N * N * d // 2)}
        return points if self._takes_gradients(costs, N, d) else GramPoints(gram_of_array(G))

    def _takes_gradients(self, costs: FormCosts, N: int, d: int) -> bool:
        """Tell whether to work on explicit gradients, given each form's bytes and operations until it is there."""
        if self.form != "auto":
            return self.form == "explicit"
        steps = {
            "alternating": (self.n_iter * N * d * self.n_clusters, 2 * self.n_iter * N * N),
            "exchange": (self.n_iter * N * d * self.n_clusters, 2 * self.n_iter * N * N),
            "enumeration": (N * N * d // 2, 0),
        }[self.update]
        totals = {form: (costs[form][0], costs[form][1] + more) for form, more in zip(costs, steps, strict=True)}
        return _cheaper(totals) == "explicit"

    def _warm_centers(self, points: ExactPoints) -> np.ndarray | None:
        """Return the centres that a warm start continues from, or None if it starts from labels."""
        centers = getattr(self, "centers_", None) if self._iterations_done() else None
        if centers is None or points.form == "gram":
            return None
        expected = (self.n_clusters, points.n_parameters)
        if centers.shape != expected:
            raise ValueError(
                f"warm_start=True continues from centers_ of shape {centers.shape} but this fit needs "
                f"{expected}; set warm_start=False for a new start"
            )
        return centers

    def _exchange(self, points: ExactPoints) -> Any:
        """Sweep until (almost) nothing moves; return the final centres."""
        start = self._start_labels(len(points.sq_norms))
        run = exchange(points.exchangeable(), start, self.n_clusters, self.seed, self._iterations())
        self._learn(run.labels, run.objective, run.last_labels)
        return points.centers(run.last_labels, self.n_clusters)

    def _enumerate(self, points: ExactPoints) -> Any:
        """Try every partition; return the centres of the best."""
        labels = best_partition(points.sq_distances(), self.n_clusters)
        centers = points.centers(labels, self.n_clusters)
        phi, _ = points.objective(labels, centers)
        self._learn(labels, [phi], labels)
        return centers


def _gradients(traces: Passes, dtype: np.dtype) -> np.ndarray:
    """Form all gradients, (N, d), a few at a time."""
    d = sum(i * o for _, i, o in traces.blocks)
    G = np.empty((traces.n_examples or 0, d), dtype)
    step = max(1, _CHUNK // d)
    for rows, batch in traces:
        out = G[rows]
        for first in range(0, len(out), step):
            few = slice(first, first + step)
            out[few] = per_example_gradients([trace.rows(few) for trace in batch])
    return G


def _check_norms(sq_norms: np.ndarray) -> None:
    """Raise if Φ may overflow."""
    bad = first_overflow(sq_norms)
    if bad is not None:
        raise NotFiniteError(f"the squared norm of gradient {bad} overflows; smaller gradients are expected")


def _read_gradients(G: Any) -> np.ndarray:
    """Return G as a two-dimensional array of float32 or float64."""
    array = read_array("G", G)
    if array.ndim != 2:
        raise ValueError(f"G has shape {array.shape}; (N, d), one gradient a row, or traces are expected")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"G has dtype {array.dtype}; real numbers or traces are expected")
    array = array if array.dtype == np.float32 else array.astype(np.float64, copy=False)
    bad = first_bad_row(array)
    if bad is not None:
        raise NotFiniteError(f"G has NaN or infinity in row {bad}")
    return array


def _cheaper(costs: FormCosts) -> str:
    """Return the form of fewer operations among those that fit into memory, or else the smaller one."""
    fitting = [form for form, (memory, _) in costs.items() if memory <= _MEMORY]
    if fitting:
        return min(fitting, key=lambda form: costs[form][1])
    return min(costs, key=lambda form: costs[form][0])
