"""A trajectory of the random-features study again: plain SGD on θ (I, O), and every number at every measuring point.

The steps are the textbook's, two columns of θ and all, where the study moves one vector; the numbers come from matrix
products over all measuring points at once (r = ∂ℓ/∂logits, g_i = φ_i r_iᵀ, so Σ_i g_i = Φᵀr and Σ_i g_i∘g_i =
(Φ∘Φ)ᵀ(r∘r)). Gradients written out, by `gcref.validation.explicit`, check the same numbers at the snapshots.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gcref.validation import explicit
from gcref.validation.explicit import Array, Moments

SHADOW = 1e-12  # large beside rounding, small beside θ
BLOCK = 500  # rows whose squared features, or whose cluster's features, exist at once


def sgd(
    features: Array,
    targets: NDArray[np.int8],
    thetas: Array,
    batches: NDArray[np.int32],
    learning_rate: float,
    weight_decay: float,
) -> Array:
    """Take one step θ ← θ − η (Φ_Bᵀ D_B / B + λ θ) a row of `batches`, from S starts; returns new ones (S, I, O)."""
    thetas = thetas.copy()
    n_starts, _, n_outputs = thetas.shape
    # A trajectory that diverges is stored as one that does: no reason to warn of it.
    with np.errstate(over="ignore", invalid="ignore"):
        for batch in batches:
            phi = features[batch]
            logits = phi @ thetas
            D = explicit.outputs(logits.reshape(-1, n_outputs), np.tile(targets[batch], n_starts)).D
            thetas -= learning_rate * (phi.T @ D.reshape(logits.shape) / len(batch) + weight_decay * thetas)
    return thetas


def with_shadow(theta: Array) -> Array:
    """Return θ and a shadow of it, moved by `nudge`; (2, I, O)."""
    return nudge(np.stack([theta, theta]))


def nudge(thetas: Array) -> Array:
    """Move every entry of the shadow by `SHADOW` of its size to one side, as rounding goes on to do."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=thetas[0].shape)
    return thetas + np.stack([np.zeros_like(signs), SHADOW * signs * thetas[0]])


def rounding_of(thetas: Array, n_steps: int) -> float:
    """‖·‖ of what rounding can have done to θ, by what became of its shadow, nudged every `n_steps`.

    At the edge of stability SGD magnifies a difference, of rounding too, by up to 1e8 before it settles. Infinite where
    the shadow has gone its own way: nothing is known of a chaotic θ.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        moved, size = float(np.linalg.norm(thetas[1] - thetas[0])), float(np.linalg.norm(thetas[0]))
    if not moved < 0.01 * size:
        return np.inf
    return explicit.SLACK * np.sqrt(n_steps) * explicit.EPS / SHADOW * moved


def all_outputs(features: Array, targets: NDArray[np.int8], thetas: Array) -> list[explicit.Outputs]:
    """Outputs of every example at every θ; thetas (L, I, O)."""
    n_points, n_inputs, n_outputs = thetas.shape
    logits = features @ thetas.transpose(1, 0, 2).reshape(n_inputs, n_points * n_outputs)
    logits = logits.reshape(len(features), n_points, n_outputs)
    return [explicit.outputs(logits[:, point], targets) for point in range(n_points)]


def moments(
    features: Array,
    D: Array,
    reference: Sequence[int] | None,
    labels: dict[int, dict[str, NDArray[np.int32]]],
    batch_size: int,
) -> Moments:
    """Compute the variance of every estimator at every measuring point.

    Parameters
    ----------
    features : ndarray, shape (N, I)
    D : ndarray, shape (N, L, O)
        ∂ℓ/∂logits at the L points.
    reference : sequence of int, length L, or None
        The point at which SVRG's snapshot in force was taken.
    labels : dict of dict of ndarray, shape (N,)
        The labels in force of each method that has any, by the first point at which they are.
    batch_size : int

    Returns
    -------
    Moments
        Of shape (L, d), a coordinate's O outputs one after another.
    """
    n = len(features)
    mean, second = (total / n for total in _sums(features, D))
    single = np.maximum(second - mean**2, 0.0)
    sgb, sg2b = (explicit.mini_batch(single, n, b) for b in (batch_size, 2 * batch_size))
    variances, seconds = {"sgb": sgb, "sg2b": sg2b}, {"sgb": second, "sg2b": second}
    if reference is not None:
        shift, square = (total / n for total in _sums(features, D - D[:, list(reference)]))
        variances["svrg"] = explicit.mini_batch(np.maximum(square - shift**2, 0.0), n, batch_size)
        seconds["svrg"] = square
    spans = list(pairwise([*sorted(labels), D.shape[1]]))
    for method in labels[0]:
        parts = [_within(features, D[:, first:last], labels[first][method], batch_size) for first, last in spans]
        variances[method], seconds[method] = np.concatenate(parts) / n**2, second
    return Moments(mean, single, variances, seconds)


def square_features(features: Array) -> Array:
    """Mean of each squared feature, (I,)."""
    return sum((np.square(features[rows]).sum(axis=0) for rows in _blocks(len(features))), np.zeros(1)) / len(features)


def _sums(features: Array, D: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Σ_i g_i and Σ_i w_i g_i∘g_i at every point, both (L, d)."""
    n_points, n_outputs = D.shape[1:]
    flat = D.reshape(len(D), n_points * n_outputs)
    total, square = np.zeros((2, features.shape[1], flat.shape[1]))
    for rows in _blocks(len(features)):
        D2 = np.square(flat[rows])
        if weights is not None:
            D2 *= weights[rows, None]
        total += features[rows].T @ flat[rows]
        square += np.square(features[rows]).T @ D2
    return _by_point(total, n_points), _by_point(square, n_points)


def _by_point(moment: Array, n_points: int) -> Array:
    """(I, L·O) → (L, O·I), the order of coordinates of `explicit.gradients`."""
    n_inputs = len(moment)
    return moment.reshape(n_inputs, n_points, -1).transpose(1, 2, 0).reshape(n_points, -1)


def _within(features: Array, D: Array, labels: NDArray[np.int32], n_clusters: int) -> Array:
    """Σ_k (N_k Σ_{i∈k} g_i∘g_i − (Σ_{i∈k} g_i)²), (L, d)."""
    sizes = np.bincount(labels, minlength=n_clusters).astype(np.float64)
    n_points = D.shape[1]
    flat = D.reshape(len(D), -1)
    _, out = _sums(features, D, sizes[labels])
    for k in range(n_clusters):
        members = np.flatnonzero(labels == k)
        total = np.zeros((features.shape[1], flat.shape[1]))
        for rows in _blocks(len(members)):
            total += features[members[rows]].T @ flat[members[rows]]
        out -= _by_point(total, n_points) ** 2
    return np.maximum(out, 0.0)


def _blocks(n: int) -> Iterator[slice]:
    """Rows, some at a time."""
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))
