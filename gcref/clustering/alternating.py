"""Weighted gradient clustering by alternating A and U steps (Eq. 2-4), whatever the centres are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from gcref.kernels.device import here

Products = tuple[np.ndarray, np.ndarray]
UStep = Callable[[np.ndarray, Any, int], Any]  # labels, the centres before or None, t → centres


class Points(Protocol):
    """The gradients of a data set as the alternation sees them.

    A centre may be explicit, of low rank or only implied; nothing outside looks into one.
    """

    sq_norms: np.ndarray

    def centers(self, labels: np.ndarray, n_clusters: int) -> Any:
        """U step: the centres of the clusters of `labels`."""

    def products(self, centers: Any) -> Products:
        """‖C_k‖², shape (K,), and ⟨C_k, g_i⟩, shape (N, K)."""

    def objective(self, labels: np.ndarray, centers: Any) -> tuple[float, Products | None]:
        """Φ of `labels` about `centers`, with the products of `centers` where they came up on the way."""


class PartialPoints(Points, Protocol):
    """Gradients of which an A step can look at some only."""

    def products(self, centers: Any, examples: np.ndarray | None = None) -> Products:
        """The products of `examples`, ascending, or of all."""

    def objective_alone(self, labels: np.ndarray, centers: Any) -> float:
        """Φ without the products of all examples with all centres."""


@dataclass
class Run:
    """What an alternation found: the best labels, the history of Φ, and where the next one continues."""

    labels: np.ndarray
    objective: list[float]
    last_labels: np.ndarray
    centers: Any


def alternate(
    points: Points,
    centers: Any,
    n_clusters: int,
    sizes: np.ndarray | None,
    seed: int,
    iterations: range,
    u_step: UStep | None = None,
    labels: np.ndarray | None = None,
    n_assigned: int | None = None,
) -> Run:
    """Repeat: A step, empty-cluster rule, U step, Φ.

    Parameters
    ----------
    points : Points
        The gradients.
    centers
        Where the first A step starts from.
    n_clusters : int
        K.
    sizes : ndarray, shape (K,), or None
        The N_k of the first A step, each later one taking those of the step before it; None treats the sizes
        sequentially.
    seed : int
        Iteration t draws from the stream (seed, t).
    iterations : range
        The numbers t of the iterations.
    u_step : callable, optional
        Makes centres of labels, the centres before, and t; `points.centers` by default, which needs labels only.
    labels : ndarray, shape (N,), optional
        What the examples that the first A step passes over are in.
    n_assigned : int, optional
        How many examples an A step looks at, drawn anew each time; then `points` are PartialPoints. All by default.

    Returns
    -------
    Run
        Its `labels` are those of the first minimum of Φ, since an iteration can raise Φ; `last_labels` and
        `centers` are those after the last iteration.
    """
    best = labels = np.zeros(0, dtype=np.int64) if labels is None else labels
    objective: list[float] = []
    products = None
    for t in iterations:
        rng = stream(seed, t)
        if n_assigned is None:
            products = points.products(centers) if products is None else products
            labels = _a_step(products, points.sq_norms, sizes, rng)
        else:
            labels = _partial_a_step(cast(PartialPoints, points), centers, labels, n_clusters, n_assigned, sizes, rng)
            if np.bincount(labels, minlength=n_clusters).min() == 0:
                products = points.products(centers)
        if products is not None:
            fill_empty_clusters(labels, *products, points.sq_norms, rng)
        if sizes is not None:
            sizes = np.bincount(labels, minlength=n_clusters)
        products = None  # N·K numbers, before as many are made anew
        centers = points.centers(labels, n_clusters) if u_step is None else u_step(labels, centers, t)
        if n_assigned is None:
            phi, products = points.objective(labels, centers)
        else:
            phi = cast(PartialPoints, points).objective_alone(labels, centers)
        if not objective or phi < min(objective):
            best = labels
        objective.append(phi)
    return Run(best, objective, labels, centers)


def _a_step(products: Products, gg: np.ndarray, sizes: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Assign every example, in a random order if the sizes are treated sequentially."""
    if sizes is None:
        return here.a_step_sequential(*products, gg, rng.permutation(len(gg)))
    return here.a_step_fixed(*products, gg, sizes)


def _partial_a_step(
    points: PartialPoints,
    centers: Any,
    labels: np.ndarray,
    n_clusters: int,
    n_assigned: int,
    sizes: np.ndarray | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Assign the first examples of a random order anew; the others keep their labels, and count from the start."""
    order = rng.permutation(len(labels))[:n_assigned]
    examples = np.sort(order)
    cc, cg = points.products(centers, examples)
    if sizes is None:
        kept = np.bincount(np.delete(labels, examples), minlength=n_clusters)
        places = np.searchsorted(examples, order)
        found = here.a_step_sequential(cc, cg, points.sq_norms[examples], places, kept)
    else:
        found = here.a_step_fixed(cc, cg, points.sq_norms[examples], sizes)
    labels = labels.copy()
    labels[examples] = found
    return labels


def stream(seed: int, iteration: int, *purpose: int) -> np.random.Generator:
    """Return the random numbers of one iteration, 1, 2, …; those of iteration 0 make the initial labels.

    A U step that needs some has streams of its own, by `purpose`.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(iteration, *purpose)))


def balanced_labels(n_examples: int, n_clusters: int, seed: int) -> np.ndarray:
    """Return random labels (N,) of clusters that differ by at most one in size."""
    return stream(seed, 0).permutation(n_examples) % n_clusters


def fill_empty_clusters(
    labels: np.ndarray, cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, rng: np.random.Generator
) -> None:
    """Give every empty cluster, lowest first, half of the costliest one; `labels` (N,) changes in place.

    The costliest cluster has the largest N_k Σ_{i∈k} ‖C_k − g_i‖² about the centres of the A step, ties to
    the lowest k; it is the largest cluster where all costs are 0, and has at least two members. A random
    ⌊N_k/2⌋ of them leave. cc (K,), cg (N, K) and gg (N,) are the products of the A step.
    """
    sizes = np.bincount(labels, minlength=len(cc))
    for empty in np.flatnonzero(sizes == 0):
        costs = sizes * here.spread_from_products(cc, cg, gg, labels)
        costs[sizes < 2] = 0.0
        donor = np.argmax(costs) if costs.any() else np.argmax(sizes)
        members = np.flatnonzero(labels == donor)
        labels[rng.permutation(members)[: len(members) // 2]] = empty
        sizes = np.bincount(labels, minlength=len(cc))


def objective_from_products(labels: np.ndarray, cc: np.ndarray, cg: np.ndarray, gg: np.ndarray) -> float:
    """Φ = Σ_k N_k Σ_{i∈k} (cc_k − 2 cg_ik + gg_i), Eq. 2."""
    sizes = np.bincount(labels, minlength=len(cc))
    return float(sizes @ here.spread_from_products(cc, cg, gg, labels))
