"""Monte Carlo by the paper's protocol, with draws of our own, against a variance in closed form.

T = 10 independent estimates give a mean, T more the squared deviations about it. Repeated many times, the average
variance so found must scatter about the closed form; the normalized variance need not, and the paper's exceeds 1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.validation import explicit
from gcref.validation.explicit import Array

N_ESTIMATES = 10  # the random-features figures' T
N_REPETITIONS = 200


class Drawn(NamedTuple):
    """One estimator at one snapshot: the closed form beside what the repetitions gave.

    Attributes
    ----------
    average, normalized : float
        Of the closed form.
    mean, error : float
        Mean of the repetitions' average variance and its standard error; 0 where there is nothing but rounding.
    raw : ndarray, shape (R,)
        The paper's normalized variance, one a repetition.
    """

    trajectory: str
    iteration: int
    method: str
    average: float
    normalized: float
    mean: float
    error: float
    raw: Array

    @property
    def z(self) -> float:
        """Deviation of the mean from the closed form, in standard errors."""
        return (self.mean - self.average) / self.error


class State(NamedTuple):
    """What an estimator draws from: features (N, I), D and D_svrg (N, O), labels (N,) by method, and B = K."""

    features: Array
    D: Array
    D_svrg: Array | None
    labels: dict[str, NDArray[np.int32]]
    batch_size: int


def draw(method: str, state: State, n: int, rng: np.random.Generator) -> Array:
    """Draw `n` independent gradient estimates, (n, d)."""
    if method in state.labels:
        return _stratified(state, state.labels[method], n, rng)
    size = state.batch_size * (2 if method == "sg2b" else 1)
    examples = np.stack([rng.choice(len(state.D), size, replace=False) for _ in range(n)])
    weights = np.full(examples.shape, 1 / size)
    estimate = _combine(state.features, state.D, examples, weights)
    if method == "svrg":
        assert state.D_svrg is not None
        estimate -= _combine(state.features, state.D_svrg, examples, weights)
        estimate += (state.D_svrg.T @ state.features / len(state.D)).ravel()
    return estimate


def _stratified(state: State, labels: NDArray[np.int32], n: int, rng: np.random.Generator) -> Array:
    """One example from each cluster, weighted by the cluster's share of the data."""
    sizes = np.bincount(labels, minlength=state.batch_size)
    by_cluster = np.argsort(labels, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    examples = by_cluster[first + np.floor(rng.random((n, len(sizes))) * sizes).astype(np.int64)]
    weights = np.broadcast_to(sizes / len(state.D), examples.shape)
    return _combine(state.features, state.D, examples, weights)


def _combine(features: Array, D: Array, examples: NDArray[np.int64], weights: Array) -> Array:
    """Σ_b w_b g_b of each row of examples (n, B); (n, d), in the order of `explicit.gradients`."""
    scaled = D[examples] * weights[:, :, None]
    return np.matmul(scaled.transpose(0, 2, 1), features[examples]).reshape(len(examples), -1)


def measure(method: str, state: State, rng: np.random.Generator) -> tuple[Array, Array]:
    """Average and raw normalized variance of every repetition, both (R,)."""
    averages, raw = np.empty((2, N_REPETITIONS))
    for repetition in range(N_REPETITIONS):
        estimates = draw(method, state, 2 * N_ESTIMATES, rng)
        deviations = estimates[N_ESTIMATES:] - estimates[:N_ESTIMATES].mean(axis=0)
        squares = np.square(deviations).sum(axis=0)
        second = np.square(estimates[N_ESTIMATES:]).sum(axis=0)
        averages[repetition] = squares.sum() / ((N_ESTIMATES + 1) * len(squares))
        with np.errstate(over="ignore"):  # ten draws in which a coordinate all but vanishes
            raw[repetition] = np.divide(squares, second, out=np.zeros_like(second), where=second > 0).mean()
    return averages, raw


def compare(
    trajectory: str, iteration: int, methods: tuple[str, ...], state: State, stored: dict[str, float]
) -> list[Drawn]:
    """Measure every method at one snapshot.

    Parameters
    ----------
    stored : dict
        The file's numbers at this iteration, by data set.
    """
    # Below the second, an output that saturates has lost its last digit.
    floor = explicit.EPS * float(np.square(state.D).sum(axis=1).mean()) + explicit.SLACK * explicit.EPS**2
    out = []
    for index, method in enumerate(methods):
        seed = [iteration, index, *trajectory.encode()]
        averages, raw = measure(method, state, np.random.default_rng(seed))
        average = stored[f"variance/{method}"]
        # A variance of (nearly) zero, as SVRG's at its own snapshot, leaves nothing to do statistics on.
        nothing = max(average, float(averages.max())) <= floor
        error = 0.0 if nothing else float(averages.std(ddof=1)) / np.sqrt(N_REPETITIONS)
        normalized = stored[f"normalized_variance/{method}"]
        out.append(Drawn(trajectory, iteration, method, average, normalized, float(averages.mean()), error, raw))
    return out
