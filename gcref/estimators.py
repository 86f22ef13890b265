"""Estimators of the full gradient: SG-B, SVRG and Gradient Clustering's stratified sampling (Eq. 1).

All are unbiased, and all are one thing to `gcref.variance`: strata of examples, from each of which some are
drawn, and a gradient that example i contributes when it is drawn. `gcref.sampling` makes the draws from clusters.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcref.engine.network import Network
from gcref.engine.trace import Array, Trace, difference
from gcref.sampling import Strata, check_batch_size

CHUNK = 512  # examples whose traces are in memory at once, at most
CHUNK_BYTES = 1 << 26  # of them; what passes through the network beside takes two to three times that


class Data(Protocol):
    """A data set as estimators see it: inputs x, (N, …), and labels y, (N,)."""

    @property
    def x(self) -> NDArray:
        """The inputs."""

    @property
    def y(self) -> NDArray:
        """The labels."""


@dataclass(frozen=True)
class Stratum:
    """Examples among which an estimator draws.

    Attributes
    ----------
    indices : ndarray of int, shape (N_k,)
        The examples.
    n_draws : int
        How many of them make one estimate.
    replacement : bool
        Whether an example can be drawn twice.
    """

    indices: NDArray[np.intp]
    n_draws: int
    replacement: bool


class Estimator(Protocol):
    """What `gcref.variance` asks of an estimator of the mean gradient.

    `plain` says whether a drawn example contributes its gradient g_i(θ) itself.
    """

    plain: bool

    @property
    def merging(self) -> float:
        """The probability ρ that two given strata are merged before one example is drawn from both; mostly 0."""

    def prepare(self, net: Network, ds: Data) -> "Estimator":
        """Take in the network's present parameters and the data set."""

    def sample(self, net: Network, ds: Data, rng: np.random.Generator) -> Array:
        """Draw one estimate of the full gradient, shape (d,)."""

    def strata(self, ds: Data) -> list[Stratum]:
        """Return the strata, which together hold every example once."""

    def contribution(self, traces: list[Trace], x: NDArray, y: NDArray) -> list[Trace]:
        """Return traces of what each of the examples x, y contributes when drawn, given those of g_i(θ)."""


class MiniBatch:
    """SG-B: the mean gradient of a mini-batch.

    Parameters
    ----------
    batch_size : int
        B.
    replacement : bool, default False
        Whether the examples of a batch are drawn independently. Without replacement, as in a shuffled epoch,
        the variance is (N − B)/(N − 1) times that with.

    Raises
    ------
    ValueError
        If batch_size is not a positive integer; when used, if it exceeds N without replacement.
    """

    plain = True
    merging = 0.0

    def __init__(self, batch_size: int, replacement: bool = False) -> None:
        self.batch_size = check_batch_size(batch_size)
        self.replacement = bool(replacement)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.batch_size}, replacement={self.replacement})"

    def prepare(self, net: Network, ds: Data) -> "MiniBatch":
        """Do nothing: a mini-batch depends on nothing but the present. Returns self."""
        return self

    def sample(self, net: Network, ds: Data, rng: np.random.Generator) -> Array:
        """Draw a mini-batch and return its mean gradient, shape (d,).

        Raises
        ------
        ValueError
            If batch_size exceeds N without replacement.
        """
        batch = self._draw(ds, rng)
        return net.gradient(ds.x[batch], ds.y[batch])[1]

    def strata(self, ds: Data) -> list[Stratum]:
        """Return one stratum, the data set, with B draws."""
        self._check(ds)
        return [Stratum(np.arange(len(ds.y)), self.batch_size, self.replacement)]

    def contribution(self, traces: list[Trace], x: NDArray, y: NDArray) -> list[Trace]:
        """Return the traces of g_i(θ) as they are."""
        return traces

    def _draw(self, ds: Data, rng: np.random.Generator) -> NDArray[np.intp]:
        """Draw the examples of one batch."""
        self._check(ds)
        return rng.choice(len(ds.y), self.batch_size, replace=self.replacement)

    def _check(self, ds: Data) -> None:
        """Refuse a batch larger than the data set without replacement."""
        n = n_examples(ds)
        if n == 0 or (not self.replacement and self.batch_size > n):
            raise ValueError(
                f"batch_size={self.batch_size} but the data set has {n} examples; draw fewer, or use replacement=True"
            )


class SVRG(MiniBatch):
    """SVRG (Johnson and Zhang, 2013): a mini-batch of g_i(θ) − g_i(θ̃), plus the full gradient at θ̃.

    Parameters
    ----------
    batch_size : int
        B.
    replacement : bool, default False
        As in `MiniBatch`.

    Attributes
    ----------
    theta_ : ndarray, shape (d,)
        θ̃, a copy of the parameters when `prepare` was called.
    gradient_ : ndarray, shape (d,)
        The full gradient at θ̃.
    running_ : ndarray
        Batch norm's running statistics at that moment, which g_i(θ̃) is computed with.

    Raises
    ------
    ValueError
        As `MiniBatch`; and when used before `prepare`.
    """

    plain = False
    theta_: Array
    gradient_: Array
    running_: Array
    _prepared_on: Callable[[], object] | None = None

    def prepare(self, net: Network, ds: Data) -> "SVRG":
        """Copy θ and the full gradient there, by one pass over the data. Returns self."""
        self._check(ds)
        self.resume(net.copy(), full_gradient(net, ds))
        with suppress(TypeError):  # not every object can be referred to weakly
            self._prepared_on = weakref.ref(ds)
        return self

    def prepared_on(self, ds: Data) -> bool:
        """Tell whether `gradient_` is known to be that of these data: not after `resume`, or in a copy."""
        return self._prepared_on is not None and self._prepared_on() is ds

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared_on": None}

    def resume(self, reference: Network, gradient: Array) -> "SVRG":
        """Take up a snapshot made before: the network as it was, and the full gradient there. Returns self."""
        self._reference, self._prepared_on = reference, None
        self.theta_, self.gradient_, self.running_ = reference.theta, gradient, reference.running
        return self

    def sample(self, net: Network, ds: Data, rng: np.random.Generator) -> Array:
        """Draw a mini-batch; return its mean of g_i(θ) − g_i(θ̃) plus the full gradient at θ̃, shape (d,)."""
        self._check_prepared()
        batch = self._draw(ds, rng)
        x, y = ds.x[batch], ds.y[batch]
        return net.gradient(x, y)[1] - self._reference.gradient(x, y)[1] + self.gradient_

    def strata(self, ds: Data) -> list[Stratum]:
        """Return one stratum, the data set, with B draws."""
        self._check_prepared()
        return super().strata(ds)

    def contribution(self, traces: list[Trace], x: NDArray, y: NDArray) -> list[Trace]:
        """Return traces of g_i(θ) − g_i(θ̃)."""
        self._check_prepared()
        return difference(traces, self._reference.traces(x, y)[1])

    def _check_prepared(self) -> None:
        """Refuse to work without a snapshot."""
        if not hasattr(self, "theta_"):
            raise ValueError("SVRG has no snapshot yet; call prepare(net, ds) first")


class Stratified:
    """Gradient Clustering's estimator (Eq. 1): examples from each cluster, weighted by the cluster's size.

    Parameters
    ----------
    clustering : clusterer or array_like of int, shape (N,)
        A clusterer, which `prepare` fits to the traces of the data set, batch by batch; or labels from
        anywhere, such as classes or another framework's clusters.
    batch_size : int, optional
        B; by default K, the number of clusters, one example from each. If larger, the further draws go where they
        lower Σ_k N_k²/n_k the most. If smaller, the clusters are dealt at random into B groups for each estimate, and
        one example is drawn from each group (Rao, Hartley and Cochran, 1962); see `gcref.sampling.Strata`.
    replacement : bool, default False
        Whether several examples of a cluster are drawn independently.

    Attributes
    ----------
    labels_ : ndarray of int, shape (N,)
        A read-only copy of the labels in force.

    Raises
    ------
    ValueError
        If the labels are not a vector of integers of at least 0, or batch_size is not a positive integer, or exceeds
        N without replacement; when used, if there are not N labels or nothing has been fitted. Labels that no
        example has are no stratum.
    TypeError
        If clustering is a class, or a mapping, such as the open file of ``gcref cluster``, whose "labels" are meant.
    """

    plain = True

    def __init__(self, clustering: Any, batch_size: int | None = None, replacement: bool = False) -> None:
        self.batch_size = None if batch_size is None else check_batch_size(batch_size)
        self.replacement = bool(replacement)
        if isinstance(clustering, type):
            raise TypeError(f"clustering is the class {clustering.__name__}; an instance of it, or labels, is expected")
        self.clustering = clustering if hasattr(clustering, "fit") else None
        if self.clustering is None:
            self._take(clustering)

    def __repr__(self) -> str:
        inside = self.clustering if self.clustering is not None else f"labels of {len(self.labels_)} examples"
        size = "" if self.batch_size is None else f", batch_size={self.batch_size}"
        return f"Stratified({inside}{size}{', replacement=True' if self.replacement else ''})"

    @property
    def labels_(self) -> NDArray[np.intp]:
        """The labels in force, shape (N,)."""
        return self._strata.labels

    @property
    def merging(self) -> float:
        """The probability that two given clusters share a group: 0 unless there are fewer draws than clusters."""
        return self._strata.merging

    def prepare(self, net: Network, ds: Data) -> "Stratified":
        """Fit the clusterer to the gradients at the present parameters; given labels stay. Returns self."""
        if self.clustering is not None:
            everything = np.arange(n_examples(ds))
            fitted = self.clustering.fit(lambda: (traces for traces, _, _ in chunks(net, ds, everything)))
            self._take(fitted.labels_)
        return self

    def sample(self, net: Network, ds: Data, rng: np.random.Generator) -> Array:
        """Draw B examples and return the sum of their gradients, (d,), each with the weight N_k / (N n_k) or N_g / N.

        N_k is the size of its cluster and n_k the draws from it; where B < K, N_g is the size of its group.
        """
        self._check(ds)
        chosen, weights = self._strata.draw(rng)
        return net.gradient(ds.x[chosen], ds.y[chosen], weights)[1]

    def strata(self, ds: Data) -> list[Stratum]:
        """Return one stratum a cluster, with its n_k draws; 1 where B < K."""
        self._check(ds)
        pairs = zip(self._strata.groups, self._strata.n_draws.tolist(), strict=True)
        return [Stratum(group, n_draws, self.replacement) for group, n_draws in pairs]

    def contribution(self, traces: list[Trace], x: NDArray, y: NDArray) -> list[Trace]:
        """Return the traces of g_i(θ) as they are."""
        return traces

    def _take(self, labels: ArrayLike) -> None:
        """Check and keep labels, and group the examples by them once, since every draw needs the groups."""
        self._strata = Strata("clustering", labels, self.batch_size, self.replacement)

    def _check(self, ds: Data) -> None:
        """Refuse to work without labels of these examples."""
        if not hasattr(self, "_strata"):
            raise ValueError("Stratified has no labels yet; call prepare(net, ds) first")
        if len(self.labels_) != n_examples(ds):
            raise ValueError(f"clustering gives labels of {len(self.labels_)} examples; the data set has {len(ds.y)}")


def n_examples(ds: Data) -> int:
    """Return N; raise a ValueError unless there is one input for each label."""
    if len(ds.x) != len(ds.y):
        raise ValueError(f"ds has {len(ds.x)} inputs x but {len(ds.y)} labels y; one of each is expected an example")
    return len(ds.y)


def chunks(net: Network, ds: Data, indices: NDArray[np.intp]) -> Iterator[tuple[list[Trace], NDArray, NDArray]]:
    """Yield the traces of g_i(θ), inputs and labels of `indices`, in order, a bounded number at a time."""
    step = chunk_size(net, ds)
    for start in range(0, len(indices), step):
        rows = indices[start : start + step]
        x, y = ds.x[rows], ds.y[rows]
        yield net.traces(x, y)[1], x, y


def chunk_size(net: Network, ds: Data) -> int:
    """Return how many examples' traces to hold at once; it depends on shapes alone, so that sums do, too."""
    return max(1, min(CHUNK, CHUNK_BYTES // max(1, net.trace_bytes(ds.x.shape[1:]))))


def full_gradient(net: Network, ds: Data) -> Array:
    """Return the gradient of the mean loss over the data set, (d,), summed in float64 batch by batch."""
    n, step = len(ds.y), chunk_size(net, ds)
    total = np.zeros(net.n_parameters)
    for start in range(0, n, step):
        x, y = ds.x[start : start + step], ds.y[start : start + step]
        total += net.gradient(x, y, np.full(len(y), 1.0 / n))[1]
    return total.astype(net.dtype)
