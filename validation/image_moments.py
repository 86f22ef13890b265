"""Moments of the gradients of a network over its training set, cluster by cluster, in float64.

Two sources of them, which share the network's passes with the code that measured, and nothing else. `written_out` forms
the gradient of every example by plain backpropagation of that example alone. Where that would take too long,
`by_closed_forms` takes A and D of every layer and forms sums of squares by Σ_i g_i∘g_i = (A∘A)ᵀ(D∘D) at one position
and from Σ_t A_it D_itᵀ at several; the gradients of a few random examples written out then vouch for A and D.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.data import Dataset
from gcref.engine.network import Network
from gcref.engine.trace import Trace

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

NUMBERS = 1 << 22  # in one array of explicit gradients
PATCHES = 1 << 23  # numbers in A, D and explicit gradients of one layer
MOST_EXAMPLES = 1024  # whose A and D exist at once


@dataclass
class Moments:
    """Of n vectors (d,): their mean, Σ (g − mean)² and Σ g²."""

    n: int
    mean: Array
    about: Array
    square: Array

    @classmethod
    def of(cls, G: Array) -> "Moments":
        """Compute the moments of the rows of G, in two passes."""
        mean = G.mean(axis=0)
        return cls(len(G), mean, np.square(G - mean).sum(axis=0), np.square(G).sum(axis=0))

    @classmethod
    def of_sums(cls, n: int, total: Array, square: Array) -> "Moments":
        """Compute them from Σ g and Σ g²."""
        mean = total / n
        return cls(n, mean, np.maximum(square - n * mean**2, 0.0), square)

    @classmethod
    def none(cls, d: int) -> "Moments":
        """Return those of no vector."""
        return cls(0, *np.zeros((3, d)))

    def merge(self, other: "Moments") -> None:
        """Take in others (Chan, Golub and LeVeque, 1983), by which nothing cancels."""
        n = self.n + other.n
        step = other.mean - self.mean
        self.about += other.about + step**2 * (self.n * other.n / n)
        self.mean += step * (other.n / n)
        self.square += other.square
        self.n = n


class Within(NamedTuple):
    """What the numbers of one clustering come from.

    Attributes
    ----------
    within, weighted : ndarray, shape (d,)
        Σ_k N_k Σ_{i∈k} (g_i − ḡ_k)² and Σ_k N_k Σ_{i∈k} g_i².
    phi : float
        Σ_k (N_k Σ_{i∈k} ‖g_i‖² − ‖Σ_{i∈k} g_i‖²), Eq. 2 uncentred.
    square_sizes : int
        Σ_k N_k².
    """

    within: Array
    weighted: Array
    phi: float
    square_sizes: int


class Found(NamedTuple):
    """All that the numbers of one iteration come from.

    Attributes
    ----------
    own, reference, difference : Moments
        Of g_i(θ), and of g_i(θ̃) and g_i(θ) − g_i(θ̃), if there is a θ̃.
    clusterings : dict of Within
        By method.
    """

    own: Moments
    reference: Moments | None
    difference: Moments | None
    clusterings: dict[str, Within]


Parts = list[Moments]  # of g, or of g, g̃ and g − g̃
Source = Callable[[Rows], Parts]
Progress = Callable[[float], None]


def gather(
    source: Source, step: int, labels: NDArray, d: int, progress: Progress | None = None
) -> tuple[Parts, Within]:
    """Go through the examples cluster by cluster; return the moments of all, and those within the clusters.

    Parameters
    ----------
    source : callable
        Given rows, returns the moments of their gradients.
    step : int
        Rows to give it at once.
    labels : ndarray of int, shape (N,)
    d : int
    progress : callable, optional
        Called with the share of the examples that is done.
    """
    everything: Parts = []
    within, weighted, phi, square_sizes = np.zeros(d), np.zeros(d), 0.0, 0
    for rows in clusters(labels):
        cluster: Parts = []
        for start in range(0, len(rows), step):
            _merge(cluster, source(rows[start : start + step]), d)
        own, n = cluster[0], len(rows)
        within += n * own.about
        weighted += n * own.square
        phi += n * float(own.square.sum()) - n**2 * float(own.mean @ own.mean)
        square_sizes += n**2
        _merge(everything, cluster, d)
        if progress is not None:
            progress(everything[0].n / len(labels))
    return everything, Within(within, weighted, phi, square_sizes)


def clusters(labels: NDArray) -> Iterator[Rows]:
    """Yield the examples of each cluster that has any."""
    for k in np.unique(labels):
        yield np.flatnonzero(labels == k)


def _merge(into: Parts, parts: Parts, d: int) -> None:
    """Add moments to moments of which there may be none yet."""
    into += [Moments.none(d) for _ in parts[len(into) :]]
    for mine, theirs in zip(into, parts, strict=True):
        mine.merge(theirs)


# ---------------------------------------------------------------------------------------------------------------------
# Gradients written out


def written_out(net: Network, reference: Network | None, ds: Dataset) -> tuple[Source, int]:
    """Return the source that writes every gradient out, and how many rows to ask it for at once."""

    def source(rows: Rows) -> Parts:
        G = gradients(net, ds, rows)
        if reference is None:
            return [Moments.of(G)]
        G_ref = gradients(reference, ds, rows)
        return [Moments.of(G), Moments.of(G_ref), Moments.of(G - G_ref)]

    return source, max(1, NUMBERS // net.n_parameters)


def gradients(net: Network, ds: Dataset, rows: Rows) -> Array:
    """Compute g_i of some examples, (n, d), each by forward and backward pass of that example alone."""
    x, y = ds.x[rows], ds.y[rows]
    G = np.empty((len(rows), net.n_parameters))
    for i in range(len(rows)):
        net.gradient(x[i : i + 1], y[i : i + 1], out=G[i])
    return G


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms


def by_closed_forms(net: Network, reference: Network | None, ds: Dataset) -> tuple[Source, int]:
    """Return the source that sums squares of A and D, and how many rows to ask it for at once."""

    def source(rows: Rows) -> Parts:
        x, y = ds.x[rows], ds.y[rows]
        here = net.traces(x, y)[1]
        there: Sequence[Trace | None] = [None] * len(here) if reference is None else reference.traces(x, y)[1]
        blocks = [_sums(trace, other) for trace, other in zip(here, there, strict=True)]
        return [
            Moments.of_sums(
                len(rows), *(np.concatenate([block[part][which].ravel() for block in blocks]) for which in (0, 1))
            )
            for part in range(len(blocks[0]))
        ]

    return source, _rows_at_once(net, ds)


def _rows_at_once(net: Network, ds: Dataset) -> int:
    """How many examples' patches or gradients of the largest layer fit."""
    shapes = [trace.shape for trace in net.traces(ds.x[:1], ds.y[:1])[1]]
    largest = max(t * (i + o) + (i * o if t > 1 else 0) for t, i, o in shapes)
    return max(1, min(MOST_EXAMPLES, PATCHES // largest))


def _sums(trace: Trace, reference: Trace | None) -> list[tuple[Array, Array]]:
    """Σ g and Σ g∘g of one block, (I, O) each; with a reference, of g̃ and g − g̃ too."""
    if trace.n_positions > 1:
        G = _explicit(trace)
        if reference is None:
            return [_sums_of(G)]
        G_ref = _explicit(reference)
        return [_sums_of(G), _sums_of(G_ref), _sums_of(G - G_ref)]
    A, D = trace.A[:, 0], trace.D[:, 0]
    own = A.T @ D, np.square(A).T @ np.square(D)
    if reference is None:
        return [own]
    A_ref, D_ref = reference.A[:, 0], reference.D[:, 0]
    other = A_ref.T @ D_ref, np.square(A_ref).T @ np.square(D_ref)
    cross = (A * A_ref).T @ (D * D_ref)
    return [own, other, (own[0] - other[0], own[1] - 2 * cross + other[1])]


def _explicit(trace: Trace) -> Array:
    """Σ_t A_it D_itᵀ, (n, I, O)."""
    return np.matmul(trace.A.transpose(0, 2, 1), trace.D)


def _sums_of(G: Array) -> tuple[Array, Array]:
    """Σ_i G_i and Σ_i G_i∘G_i."""
    return G.sum(axis=0), np.square(G).sum(axis=0)


def gradients_of_traces(net: Network, ds: Dataset, rows: Rows) -> Array:
    """Return g_i of some examples, (n, d), from the same A and D as `by_closed_forms`."""
    traces = net.traces(ds.x[rows], ds.y[rows])[1]
    return np.concatenate([_explicit(trace).reshape(len(rows), -1) for trace in traces], axis=1)
