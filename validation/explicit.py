"""Every number of the random-features study from explicit per-example gradients, by their definitions.

Plain NumPy that shares nothing with the code that measured them: logits from θ (I, O), the gradient of every example
written out, and two passes over the gradients, the second about the means found in the first.

How far two correct computations in float64 may differ is derived here too. Sums of N terms in another order differ
by some √N·ε of the sum of the absolute terms; an output gradient r = p − y is known to a few ε(1 + ‖φ‖‖θ‖), because
p is a number near 1 and the logit a sum of products. Nothing else matters, and both are small beside the tolerance of
1e-9, except where a variance is (nearly) zero by cancellation: there they are the floor below which nothing is known.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHUNK = 128  # examples whose gradients exist at once: 2 MB at d = 2002
SLACK = 16.0  # a safety factor on the derived rounding errors
EPS = float(np.finfo(np.float64).eps)


class Outputs(NamedTuple):
    """What the last layer gives for N examples: D = ∂ℓ/∂logits (N, O), losses (N,), P(y = 1) (N,)."""

    D: Array
    losses: Array
    p: Array


class Moments(NamedTuple):
    """Coordinate-wise statistics of gradients, each of shape (…, d).

    `variances` holds V_j of each method, `seconds` the mean square of the gradients it cancels from; `mean` is ḡ,
    `single` the variance of one example's gradient (divisor N).
    """

    mean: Array
    single: Array
    variances: dict[str, Array]
    seconds: dict[str, Array]


def outputs(logits: Array, targets: NDArray[np.int8]) -> Outputs:
    """Softmax cross-entropy of two logits, or logistic loss of one.

    Parameters
    ----------
    logits : ndarray, shape (N, O)
    targets : ndarray, shape (N,), in {0, 1}
    """
    y = targets.astype(np.float64)
    # On the way to a divergence logits overflow; that is seen in the losses, and no reason to warn.
    with np.errstate(over="ignore", invalid="ignore"):
        if logits.shape[1] == 1:
            z = logits[:, 0]
            p = 1.0 / (1.0 + np.exp(-z))
            return Outputs((p - y)[:, None], np.logaddexp(0.0, z) - y * z, p)
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1)
        p = exponentials / total[:, None]
        losses = np.log(total) - shifted[np.arange(len(y)), targets]
        return Outputs(p - np.stack([1.0 - y, y], axis=1), losses, p[:, 1])


def gradients(A: Array, D: Array) -> Array:
    """g_i = A_i D_iᵀ written out, (N, d), one output's coordinates after another's."""
    G = np.empty((len(A), D.shape[1], A.shape[1]))
    for o in range(D.shape[1]):
        np.multiply(A, D[:, o : o + 1], out=G[:, o])
    return G.reshape(len(A), -1)


def chunks(n: int) -> Iterator[slice]:
    """Rows of N examples, a few at a time."""
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))


def cluster_means(A: Array, D: Array, labels: NDArray[np.int32], n_clusters: int) -> tuple[Array, NDArray[np.int64]]:
    """Mean gradient of every cluster (K, d), and the sizes (K,)."""
    sizes = np.bincount(labels, minlength=n_clusters)
    sums = np.zeros((n_clusters, A.shape[1] * D.shape[1]))
    for rows in chunks(len(A)):
        member = (labels[rows] == np.arange(n_clusters)[:, None]).astype(np.float64)
        sums += member @ gradients(A[rows], D[rows])
    return sums / np.maximum(sizes, 1)[:, None], sizes


def moments(
    A: Array,
    D: Array,
    D_svrg: Array | None,
    labels: dict[str, NDArray[np.int32]],
    batch_size: int,
) -> Moments:
    """Compute the coordinate-wise variance of every estimator from explicit gradients, in two passes.

    Parameters
    ----------
    A : ndarray, shape (N, I)
        The features.
    D, D_svrg : ndarray, shape (N, O)
        ∂ℓ/∂logits at θ and at SVRG's θ̃ (None: no SVRG).
    labels : dict of ndarray, shape (N,)
        The clusters of each method that has any, K = batch_size.
    batch_size : int
    """
    n = len(A)
    one_cluster = np.zeros(n, dtype=np.int32)
    mean = cluster_means(A, D, one_cluster, 1)[0][0]
    single, second = _spread(A, D, None, mean)
    single, second = single / n, second / n
    variances = {"sgb": mini_batch(single, n, batch_size), "sg2b": mini_batch(single, n, 2 * batch_size)}
    seconds = {"sgb": second, "sg2b": second}
    if D_svrg is not None:
        shift = mean - cluster_means(A, D_svrg, one_cluster, 1)[0][0]
        differences, second = _spread(A, D, D_svrg, shift)
        variances["svrg"], seconds["svrg"] = mini_batch(differences / n, n, batch_size), second / n
    for method, own in labels.items():
        means, sizes = cluster_means(A, D, own, batch_size)
        variances[method], seconds[method] = _within(A, D, own, means, sizes) / n**2, seconds["sgb"]
    return Moments(mean, single, variances, seconds)


def mini_batch(single: Array, n: int, batch_size: int) -> Array:
    """Variance of the mean of `batch_size` of N numbers of variance `single`, drawn without replacement."""
    return single / batch_size * (n - batch_size) / max(n - 1, 1)


def _spread(A: Array, D: Array, D_svrg: Array | None, center: Array) -> tuple[Array, Array]:
    """Σ_i (g_i − center)² and Σ_i g_i² by coordinate, of the gradients or their differences to SVRG's."""
    about, square = np.zeros((2, len(center)))
    for rows in chunks(len(A)):
        G = gradients(A[rows], D[rows])
        if D_svrg is not None:
            G -= gradients(A[rows], D_svrg[rows])
        square += np.square(G).sum(axis=0)
        about += np.square(G - center).sum(axis=0)
    return about, square


def _within(A: Array, D: Array, labels: NDArray[np.int32], means: Array, sizes: NDArray[np.int64]) -> Array:
    """Σ_k N_k Σ_{i∈k} (g_i − ḡ_k)² by coordinate (Eq. 1 times N²)."""
    out = np.zeros(means.shape[1])
    for rows in chunks(len(A)):
        G = gradients(A[rows], D[rows])
        G -= means[labels[rows]]
        out += sizes[labels[rows]].astype(np.float64) @ np.square(G)
    return out


def objective(A: Array, D: Array, labels: NDArray[np.int32], n_clusters: int) -> float:
    """Φ = Σ_k (N_k Σ_{i∈k} ‖g_i‖² − ‖Σ_{i∈k} g_i‖²), the uncentred form of Eq. 2."""
    means, sizes = cluster_means(A, D, labels, n_clusters)
    norms = np.concatenate([np.square(gradients(A[rows], D[rows])).sum(axis=1) for rows in chunks(len(A))])
    e = np.bincount(labels, weights=norms, minlength=n_clusters)
    return float(sizes @ e - sizes**2 @ np.square(means).sum(axis=1))


# ---------------------------------------------------------------------------------------------------------------------
# From moments to the numbers in the file, and their rounding


class Numbers(NamedTuple):
    """Numbers by the name of their data set, and what rounding can do to each, both of shape (…)."""

    values: dict[str, Array]
    floors: dict[str, Array]


def output_error(norm_features: float, norm_theta: Array | float) -> Array:
    """Rounding of an entry of D: a few ε(1 + ‖φ‖‖θ‖), and never more than D itself, which is at most 1."""
    return np.minimum(4 * EPS * (1 + norm_features * np.asarray(norm_theta)), 1.0)


def numbers(found: Moments, n: int, square_features: Array, error: Array) -> Numbers:
    """Average and normalized variance of every method, and the noise scale.

    Parameters
    ----------
    found : Moments
        Of shape (…, d).
    n : int
        N.
    square_features : ndarray, shape (d,)
        Mean of the squared feature behind each coordinate.
    error : ndarray, shape (…)
        Rounding of an output gradient, from `output_error`.
    """
    values, floors = {}, {}
    from_outputs = error[..., None] ** 2 * square_features  # mean squared rounding error of a gradient's coordinate
    relative = SLACK * np.sqrt(n) * EPS
    mean_error = relative * np.sqrt(found.seconds["sgb"]) + np.sqrt(from_outputs)
    for method, variance in found.variances.items():
        second = found.seconds[method]
        # (√s + δ)² − s = 2√s·δ + δ², for the outputs; a sum of N squares in another order, for the rest.
        variance_error = relative * second + 2 * np.sqrt(second * from_outputs) + from_outputs
        values[f"variance/{method}"] = variance.mean(axis=-1)
        floors[f"variance/{method}"] = variance_error.mean(axis=-1)
        total = variance + found.mean**2
        total_error = variance_error + 2 * np.abs(found.mean) * mean_error
        values[f"normalized_variance/{method}"] = _ratio(variance, total).mean(axis=-1)
        # Nothing is known of a coordinate that is nothing but rounding: its ratio may be anything from 0 to 1.
        known = _ratio(total_error, np.where(total_error < total, total, 0.0))
        floors[f"normalized_variance/{method}"] = np.where(total_error < total, known, total_error > 0).mean(axis=-1)
    square_mean = np.square(found.mean).sum(axis=-1)
    trace = found.single.sum(axis=-1)
    values["noise_scale"] = np.where((square_mean == 0) & (trace > 0), np.inf, _ratio(trace, square_mean))
    shift = 2 * _ratio(np.linalg.norm(mean_error, axis=-1), np.sqrt(square_mean))
    floors["noise_scale"] = values["noise_scale"] * shift + _ratio(
        floors.get("variance/sgb", np.asarray(0.0)) * found.mean.shape[-1], square_mean
    )
    return Numbers(values, floors)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Numerator / denominator with x/0 = 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def fit_numbers(out: Outputs, targets: NDArray[np.int8], error: Array | float) -> Numbers:
    """Training loss and accuracy; an example on the boundary to within rounding may count either way."""
    values = {
        "train_loss": np.asarray(out.losses.mean()),
        "train_accuracy": np.asarray(np.mean((out.p > 0.5) == targets)),
    }
    undecided = np.mean(np.abs(out.p - 0.5) <= SLACK * np.asarray(error))
    return Numbers(values, {"train_loss": SLACK * np.asarray(error), "train_accuracy": np.asarray(undecided)})
