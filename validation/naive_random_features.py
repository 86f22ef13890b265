"""Oracles of the fused random-features kernels: one example at a time, gradients written out in full.

Names and arguments are those of `gcref.kernels.random_features`; nothing is shared with it. A gradient here
is that of the two-class softmax's difference w = w₁ − w₀, or of one logit: g_i = (σ(φ_i·w) − y_i) φ_i.
"""

import math

import numpy as np


def sigmoid(z: float) -> float:
    """σ(z), through the hyperbolic tangent, which does not overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * z)) if z > -30.0 else math.exp(z)


def sgd_steps(
    features: np.ndarray,
    targets: np.ndarray,
    w: np.ndarray,
    batches: np.ndarray,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Step w ← w − η (mean of the batch's gradients + λ w), in place; features (N, I), batches (S, B)."""
    for batch in batches:
        gradient = np.zeros_like(w)
        for i in batch:
            gradient += (sigmoid(float(features[i] @ w)) - targets[i]) * features[i]
        w[:] = w - learning_rate * (gradient / len(batch) + weight_decay * w)


def residuals_and_losses(
    features: np.ndarray, targets: np.ndarray, w: np.ndarray, residuals: np.ndarray, losses: np.ndarray
) -> None:
    """Write σ(z_i) − y_i and −log of the probability of the right class, z_i = φ_i·w."""
    for i in range(len(targets)):
        z = float(features[i] @ w)
        residuals[i] = sigmoid(z) - targets[i]
        losses[i] = np.logaddexp(0.0, -z) if targets[i] == 1 else np.logaddexp(0.0, z)


def moments(
    features: np.ndarray,
    residuals: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    sums: np.ndarray,
    squares: np.ndarray,
    group_sums: np.ndarray,
    group_squares: np.ndarray,
) -> None:
    """Add up gradients and their squares, of everything and of each cluster; shapes as in the kernel."""
    for m in range(len(residuals)):
        for g in np.diag(residuals[m]) @ features:
            sums[m] += g
            squares[m] += np.diag(np.outer(g, g))
    for ell in range(len(labels)):
        for i, k in enumerate(labels[ell]):
            g = residuals[0, i] * features[i]
            group_sums[ell, k] += g
            group_squares[ell] += sizes[ell, k] * np.diag(np.outer(g, g))
