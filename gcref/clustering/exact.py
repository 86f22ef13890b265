"""ExactClustering: clustering about exact cluster means, from gradients or their Gram matrix."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gcref.clustering.alternating import Points, Products, objective_from_products, stream
from gcref.clustering.base import Clusterer, check_choice
from gcref.clustering.passes import Passes, is_traces
from gcref.engine.trace import Trace, check_finite, concatenate, first_bad_row, per_example_gradients
from gcref.kernels import cpu

_MEMORY = 2 << 30  # bytes beyond which the smaller form is taken, whatever its operation count
_BLOCK = 1024  # rows of the Gram matrix made at once


class ExactClustering(Clusterer):
    """Cluster gradients about exact cluster means, so as to make Φ, the variance of Eq. 1, small.

    Φ = Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖² with C_k the mean of cluster k is N² times the trace of the covariance of
    the estimator that draws one example from each cluster (Prop. 3.1, Eq. 2).

    Parameters
    ----------
    n_clusters : int
        K.
    update : {"alternating", "exchange"}, default "alternating"
        "alternating" repeats A step and U step (Eq. 3, 4), which can raise Φ. "exchange" goes through the
        examples in random order and moves each to the cluster where Φ falls most, never raising it.
    sizes : {"sequential", "fixed"}, default "sequential"
        How an A step, a_i = argmin_k N_k ‖C_k − g_i‖², treats N_k: one example after another in random order,
        N_k + 1 counting those already assigned; or fixed at the sizes of the step before, which often
        collapses. Exchange has no use for it.
    n_iter : int, default 10
        Iterations, or the most sweeps: exchange stops after a sweep that moved no example, or fewer than 0.1
        %.
    seed : int, default 0
        Iteration t draws its random numbers from ``SeedSequence(seed, spawn_key=(t,))``, the initial labels
        at t = 0.
    warm_start : bool, default False
        Continue from the last fit and go on counting iterations: from its centres, or from its labels with
        exchange and wherever centres are only implied by the labels (the Gram form). A first fit starts from
        random labels of balanced clusters.
    form : {"auto", "explicit", "gram"}, default "auto"
        Work on the gradients (N, d) or on their inner products (N, N). "auto" takes the one of fewer
        operations that fits into 2 GiB.

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
    Exchange makes the best move of an example where it changes Φ by less than −1e-12 N Σ‖g_i‖², since
    rounding would move duplicates for ever, and no example leaves a cluster of one.

    Cost of an iteration: N d K in the explicit form, N² in the Gram form after N² d (from gradients) or N² T²
    (I + O) a block (from traces).

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
    ) -> None:
        self.n_clusters = n_clusters
        self.update = update
        self.sizes = sizes
        self.n_iter = n_iter
        self.seed = seed
        self.warm_start = warm_start
        self.form = form

    def fit(self, G: Any) -> "ExactClustering":
        """Cluster gradients.

        Parameters
        ----------
        G : array_like, shape (N, d), or traces
            The gradient of each example; or their traces: a list of Trace, a list of such lists (batches, in
            order), or a function without arguments that yields the batches, all of which are then held at
            once.

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
        bad = np.flatnonzero(~np.isfinite(points.sq_norms))
        if len(bad):
            raise ValueError(f"the squared norm of gradient {bad[0]} overflows; smaller gradients are expected")
        if self.update == "exchange":
            centers = self._exchange(points)
        else:
            centers = self._alternate(points, self._warm_centers(points), self.sizes)
        self.form_ = points.form
        self.centers_ = centers if points.form == "explicit" else None
        return self

    def _check_params(self) -> None:
        super()._check_params()
        check_choice("update", self.update, ("alternating", "exchange"))
        check_choice("sizes", self.sizes, ("sequential", "fixed"))
        check_choice("form", self.form, ("auto", "explicit", "gram"))

    def _points(self, G: Any) -> "ExactPoints":
        """Return the gradients in the form asked for, or the one of fewer operations."""
        if is_traces(G):
            traces = concatenate([batch for _, batch in Passes(G)])
            self._check_n_examples(traces[0].n_examples)
            check_finite(traces)
            costs = _trace_costs(traces, self.n_clusters, self.n_iter)
            if self._takes_gradients(costs):
                return ExplicitPoints(per_example_gradients(traces))
            return GramPoints(gram_matrix(traces))
        G = _read_gradients(G)
        self._check_n_examples(len(G))
        if self._takes_gradients(_array_costs(G.shape[0], G.shape[1], self.n_clusters, self.n_iter)):
            return ExplicitPoints(G)
        return GramPoints(_gram_of_array(G))

    def _takes_gradients(self, costs: dict[str, tuple[int, int]]) -> bool:
        """Tell whether to work on explicit gradients."""
        return (_cheaper(costs) if self.form == "auto" else self.form) == "explicit"

    def _warm_centers(self, points: "ExactPoints") -> np.ndarray | None:
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

    def _exchange(self, points: "ExactPoints") -> Any:
        """Sweep until (almost) nothing moves; return the final centres."""
        n_examples = len(points.sq_norms)
        labels = self._start_labels(n_examples)
        threshold = 1e-12 * n_examples * points.sq_norms.sum()
        best = labels
        objective: list[float] = []
        for t in self._iterations():
            order = stream(self.seed, t).permutation(n_examples)
            moved = points.sweep(order, labels, self.n_clusters, threshold)
            centers = points.centers(labels, self.n_clusters)
            phi, _ = points.objective(labels, centers)
            if not objective or phi < min(objective):
                best = labels.copy()
            objective.append(phi)
            if moved < max(1, 0.001 * n_examples):
                break
        self._learn(best, objective, labels)
        return centers


class ExactPoints(Points, Protocol):
    """Gradients with exact cluster means, which can also be exchanged."""

    @property
    def form(self) -> str:
        """Return what the gradients are given as, "explicit" or "gram"."""

    @property
    def n_parameters(self) -> int | None:
        """Return d, or None where it is not known."""

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Move examples, in `order`, to better clusters; change `labels` (N,), return the number moved."""


class ExplicitPoints:
    """Gradients (N, d); a centre is their mean, shape (d,)."""

    form = "explicit"

    def __init__(self, G: np.ndarray) -> None:
        self.G = G
        self.n_parameters = G.shape[1]
        self.sq_norms = _sq_norms(G)

    def centers(self, labels: np.ndarray, n_clusters: int) -> np.ndarray:
        """Eq. 4."""
        return cpu.grouped_sums(self.G, labels, n_clusters) / np.bincount(labels, minlength=n_clusters)[:, None]

    def products(self, centers: np.ndarray) -> Products:
        """One matrix product in the dtype of the gradients."""
        C = centers.astype(self.G.dtype, copy=False)
        return _sq_norms(C), self.G @ C.T

    def objective(self, labels: np.ndarray, centers: np.ndarray) -> tuple[float, None]:
        """Φ from the differences g_i − C_k, in which nothing cancels."""
        sizes = np.bincount(labels, minlength=len(centers))
        return float(sizes @ cpu.spread(self.G, centers, labels)), None

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Start from fresh sums, so that rounding does not pile up over the sweeps."""
        sizes = np.bincount(labels, minlength=n_clusters)
        e = np.bincount(labels, weights=self.sq_norms, minlength=n_clusters)
        s = cpu.grouped_sums(self.G, labels, n_clusters)
        return cpu.exchange_sweep(self.G, order, labels, sizes, e, s, threshold)


class GramPoints:
    """Gradients known by their inner products (N, N); a centre is implied by the labels of its cluster."""

    form = "gram"
    n_parameters = None

    def __init__(self, gram: np.ndarray) -> None:
        self.gram = gram
        self.sq_norms = gram.diagonal().copy()

    def centers(self, labels: np.ndarray, n_clusters: int) -> Products:
        """⟨C_k, C_k⟩ and ⟨C_k, g_i⟩ for the means C_k."""
        sizes = np.bincount(labels, minlength=n_clusters)
        cg = np.ascontiguousarray(cpu.grouped_sums(self.gram, labels, n_clusters).T) / sizes
        own = cg[np.arange(len(labels)), labels]
        return np.bincount(labels, weights=own, minlength=n_clusters) / sizes, cg

    def products(self, centers: Products) -> Products:
        """All that is known of a centre."""
        return centers

    def objective(self, labels: np.ndarray, centers: Products) -> tuple[float, Products]:
        """Φ from the products."""
        return objective_from_products(labels, *centers, self.sq_norms), centers

    def sweep(self, order: np.ndarray, labels: np.ndarray, n_clusters: int, threshold: float) -> int:
        """Start from fresh sums, so that rounding does not pile up over the sweeps."""
        sizes = np.bincount(labels, minlength=n_clusters)
        e = np.bincount(labels, weights=self.sq_norms, minlength=n_clusters)
        s_dot_g = np.ascontiguousarray(cpu.grouped_sums(self.gram, labels, n_clusters).T)
        return cpu.exchange_sweep_gram(self.gram, order, labels, sizes, e, s_dot_g, threshold)


def gram_matrix(traces: Sequence[Trace]) -> np.ndarray:
    """Return ⟨g_i, g_j⟩, shape (N, N), summed over the parameter blocks; each pair is computed once.

    Parameters
    ----------
    traces : sequence of Trace
        One trace a parameter block.
    """
    # In float32 a mean gradient that dwarfs the differences would leave nothing of Φ.
    blocks = [trace.astype(np.dtype(np.float64)) for trace in traces]
    total = np.zeros((traces[0].n_examples,) * 2)
    for trace in blocks:
        by_gradients, by_positions = _gram_operations(trace)
        if by_gradients < by_positions:
            G = trace.gradients().reshape(trace.n_examples, trace.n_parameters)
            total += G @ G.T
        else:
            _add_gram(trace.A, trace.D, total)
    return total


def _add_gram(A: np.ndarray, D: np.ndarray, total: np.ndarray) -> None:
    """Add the products of one block to total (N, N), from the traces (Eq. 9)."""
    N = len(A)
    for first in range(0, N, _BLOCK):
        rows, rest = slice(first, first + _BLOCK), slice(first, N)
        found = cpu.gram(A[rows], D[rows], A[rest], D[rest])
        total[rows, rest] += found
        below = slice(first + _BLOCK, N)
        total[below, rows] += found[:, _BLOCK:].T


def _gram_operations(trace: Trace) -> tuple[int, int]:
    """Multiplications of a block's Gram matrix from its gradients (Eq. 8) and from its traces (Eq. 9)."""
    N, (T, I, O) = trace.n_examples, trace.shape  # noqa: E741
    return N * T * I * O + N * N * I * O // 2, N * N * T * T * (I + O) // 2


def _gram_of_array(G: np.ndarray) -> np.ndarray:
    """Return ⟨g_i − ḡ, g_j − ḡ⟩ of explicit gradients (N, d), in float64.

    Φ and all distances are those of the g_i, and what is common to all gradients cannot drown them in rounding.
    """
    centered = G - G.mean(axis=0, dtype=np.float64)
    return np.asarray(centered @ centered.T)


def _sq_norms(G: np.ndarray) -> np.ndarray:
    """Return ‖g_i‖² of the rows of G (N, d)."""
    return cpu.row_sq_norms(G)


def _read_gradients(G: Any) -> np.ndarray:
    """Return G as a two-dimensional array of float32 or float64."""
    array = np.asarray(G)
    if array.ndim != 2:
        raise ValueError(f"G has shape {array.shape}; (N, d), one gradient a row, or traces are expected")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"G has dtype {array.dtype}; real numbers or traces are expected")
    array = array if array.dtype == np.float32 else array.astype(np.float64, copy=False)
    bad = first_bad_row(array)
    if bad is not None:
        raise ValueError(f"G has NaN or infinity in row {bad}")
    return array


def _array_costs(N: int, d: int, K: int, n_iter: int) -> dict[str, tuple[int, int]]:
    """Return each form's bytes beside the input and its operations, given gradients (N, d)."""
    return {
        "explicit": (0, n_iter * N * d * K),
        "gram": (8 * N * (N + d), N * N * d // 2 + 2 * n_iter * N * N),
    }


def _trace_costs(traces: Sequence[Trace], K: int, n_iter: int) -> dict[str, tuple[int, int]]:
    """Return each form's bytes beside the input and its operations, given traces."""
    N = traces[0].n_examples
    d = sum(t.n_parameters for t in traces)
    form_gradients = sum(N * t.n_positions * t.n_parameters for t in traces)
    form_gram = sum(min(_gram_operations(t)) for t in traces)
    return {
        "explicit": (traces[0].dtype.itemsize * N * d, form_gradients + n_iter * N * d * K),
        "gram": (8 * N * N, form_gram + 2 * n_iter * N * N),
    }


def _cheaper(costs: dict[str, tuple[int, int]]) -> str:
    """Return the form of fewer operations among those that fit into memory, or else the smaller one."""
    fitting = [form for form, (memory, _) in costs.items() if memory <= _MEMORY]
    if fitting:
        return min(fitting, key=lambda form: costs[form][1])
    return min(costs, key=lambda form: costs[form][0])
