"""The toy of Fig. 1: a linear classifier of two separable classes in the plane, and the clusters of its gradients.

Gradient descent on the whole training set; at every step the gradients are clustered anew, and each cluster's mean
gradient and the exact variance of a plain mini-batch and of Eq. 1 are taken down.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gcref.clustering.base import check_integer, is_number
from gcref.clustering.exact import ExactClustering
from gcref.data import Dataset
from gcref.engine.layers import Linear
from gcref.engine.losses import Logistic
from gcref.engine.network import Network
from gcref.engine.trace import Array, per_example_gradients
from gcref.estimators import Estimator, MiniBatch, Stratified
from gcref.variance import variances

Labels = NDArray[np.int64]

CENTRE, MARGIN = 2.0, 0.3  # distances of a class's centre, and of its nearest point at least, from the line between
MOST = {"n_points": 10_000, "n_steps": 1000, "noise": 100.0, "learning_rate": 1000.0}  # more than a picture shows
_STARTS = 8  # random labels that each step's clustering is tried from
_STEADY = 0.98  # a new clustering must have at most this share of the old one's Φ, or pictures would flicker


@dataclass(frozen=True, eq=False)
class Toy:
    """What happened in S steps of gradient descent: one row for the start, and one after each step.

    Attributes
    ----------
    x : ndarray, shape (N, 2)
        The points.
    y : ndarray of int, shape (N,)
        Their classes, 0 and 1.
    learning_rate : float
        η, of gradient descent on the mean loss.
    theta : ndarray, shape (S + 1, 3)
        w₁, w₂ and b; the boundary is the line w·x + b = 0.
    labels : ndarray of int, shape (S + 1, N)
        The cluster of each point, 0 to K − 1. A cluster keeps its number from step to step; in the end 0 has the
        smallest mean gradient, and K − 1 the largest.
    centers : ndarray, shape (S + 1, K, 3)
        The mean gradient of each cluster, C_k.
    loss : ndarray, shape (S + 1,)
        The mean logistic loss.
    variance : dict of ndarray, shape (S + 1,)
        "sgb" (a mini-batch of K, without replacement) and "gc" (Eq. 1): exact, averaged over the three coordinates.
    """

    x: Array
    y: Labels
    learning_rate: float
    theta: Array
    labels: Labels
    centers: Array
    loss: Array
    variance: dict[str, Array]

    @property
    def n_steps(self) -> int:
        """S."""
        return len(self.theta) - 1

    @property
    def n_clusters(self) -> int:
        """K, also the size of the mini-batch."""
        return self.centers.shape[1]

    def predicted(self, step: int) -> Array:
        """Return θ after a step along each cluster's mean gradient alone, θ − η C_k; shape (K, 3)."""
        return self.theta[step] - self.learning_rate * self.centers[step]


def separable(n_points: int, noise: float, seed: int = 0) -> Dataset:
    """Draw two classes that a line through the origin separates.

    Parameters
    ----------
    n_points : int
        N, at least 2; half of them, or one more, are of class 1.
    noise : float
        Standard deviation of a class about its centre, which is 2u or −2u, with u a random direction of length 1. A
        point less than 0.3 on its own side of the line u·x = 0 is drawn again.
    seed : int

    Returns
    -------
    Dataset
        x of shape (N, 2), y of 0 and 1.

    Raises
    ------
    ValueError
        If an argument is out of its range (see `MOST`).
    """
    _check_integer("n_points", n_points, 2)
    _check_number("noise", noise)
    check_integer("seed", seed, 0)
    rng = np.random.default_rng(_seeds(seed)[0])
    angle = rng.uniform(0, 2 * np.pi)
    u = np.array([np.cos(angle), np.sin(angle)])
    y = rng.permutation(np.arange(n_points) % 2 == 0).astype(np.int64)
    side = 2.0 * y - 1
    x = np.empty((n_points, 2))
    again = np.arange(n_points)
    while again.size:
        x[again] = CENTRE * side[again, None] * u + noise * rng.standard_normal((again.size, 2))
        again = again[side[again] * (x[again] @ u) < MARGIN]
    return Dataset(x, y)


def train(ds: Dataset, n_clusters: int = 4, learning_rate: float = 0.5, n_steps: int = 30, seed: int = 0) -> Toy:
    """Train a logistic classifier by gradient descent from small random parameters, and cluster at every step.

    Parameters
    ----------
    ds : Dataset
        Points x, (N, 2), of classes 0 and 1.
    n_clusters : int
        K, at most N.
    learning_rate : float
        η > 0, constant.
    n_steps : int
        S, at least 0.
    seed : int
        Of the initial parameters and the clusterings.

    Returns
    -------
    Toy

    Raises
    ------
    ValueError
        If an argument is out of its range (see `MOST`), or there are fewer points than clusters.
    """
    _check_integer("n_steps", n_steps, 0)
    _check_number("learning_rate", learning_rate)
    check_integer("n_clusters", n_clusters, 1)
    if n_clusters > len(ds):
        raise ValueError(f"n_clusters={n_clusters}, but there are only n_points={len(ds)}")
    net = Network([Linear(2, 1)], Logistic(), _seeds(seed)[1])
    starts, rows, labels = _seeds(seed)[2], [], None
    for step in range(n_steps + 1):
        if step:
            net.theta -= learning_rate * net.gradient(ds.x, ds.y)[1]
        gradients = per_example_gradients(net.traces(ds.x, ds.y)[1])
        labels = _cluster(gradients, n_clusters, starts, labels)
        rows.append((net.theta.copy(), labels, _means(gradients, labels, n_clusters), *_measure(net, ds, labels)))
    theta, taken, centers, loss, sgb, gc = (np.array(column) for column in zip(*rows, strict=True))
    order = np.argsort(np.linalg.norm(centers[-1], axis=1), kind="stable")
    variance = {"sgb": sgb, "gc": gc}
    return Toy(ds.x, ds.y, float(learning_rate), theta, np.argsort(order)[taken], centers[:, order], loss, variance)


def match(labels: Labels, before: Labels, n_clusters: int) -> Labels:
    """Number clusters so that as many points as possible keep the number they had; all of shape (N,)."""
    shared = np.zeros((n_clusters, n_clusters), dtype=np.int64)
    np.add.at(shared, (labels, before), 1)
    new, old = linear_sum_assignment(shared, maximize=True)
    return old[np.argsort(new)][labels]


def _cluster(gradients: Array, n_clusters: int, seeds: list[int], before: Labels | None) -> Labels:
    """Return the best of several clusterings by exchange, or the last step's moved on, if that is about as good."""
    fits = [ExactClustering(n_clusters, "exchange", n_iter=50, seed=seed) for seed in seeds]
    best = min((fit.fit(gradients) for fit in fits), key=lambda fit: float(fit.objective_.min()))
    if before is None:
        return best.labels_
    steady = ExactClustering(n_clusters, "exchange", n_iter=50, seed=seeds[0], warm_start=True)
    steady.last_labels_, steady.n_iter_ = before, 1
    steady.fit(gradients)
    if best.objective_.min() < _STEADY * steady.objective_.min():
        return match(best.labels_, before, n_clusters)
    return match(steady.labels_, before, n_clusters)


def _means(gradients: Array, labels: Labels, n_clusters: int) -> Array:
    """Return C_k, (K, 3); no cluster is empty."""
    return np.array([gradients[labels == k].mean(axis=0) for k in range(n_clusters)])


def _measure(net: Network, ds: Dataset, labels: Labels) -> tuple[float, float, float]:
    """Return the mean loss and the variance of SG-K and of Eq. 1."""
    estimators: dict[str, Estimator] = {"sgb": MiniBatch(int(labels.max()) + 1), "gc": Stratified(labels)}
    found = variances(estimators, net, ds)
    return float(net.losses(ds.x, ds.y).mean()), found["sgb"].average, found["gc"].average


def _seeds(seed: int) -> tuple[np.random.SeedSequence, int, list[int]]:
    """Return the seeds of the points, of the initial parameters, and of each start of a clustering."""
    points, parameters, starts = np.random.SeedSequence(seed).spawn(3)
    return points, int(parameters.generate_state(1)[0]), starts.generate_state(_STARTS).tolist()


def _check_integer(name: str, value: int, lowest: int) -> None:
    """Raise unless `value` is an integer in its range."""
    check_integer(name, value, lowest)
    if value > MOST[name]:
        raise ValueError(f"{name}={value}; at most {MOST[name]} is expected")


def _check_number(name: str, value: float) -> None:
    """Raise unless `value` is a number in its range."""
    if not is_number(value) or not 0 < value <= MOST[name]:
        raise ValueError(f"{name}={value!r}; a number above 0 and at most {MOST[name]:g} is expected")
