"""Batch norm: the one layer in which the examples of a batch can share something."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcref.engine.layers import Layer, at_least
from gcref.engine.trace import Array, Trace
from gcref.kernels import elementwise


class BatchNorm2d(Layer):
    """Batch norm by channel, out = γ x̂ + β, or max(γ x̂ + β, 0).

    Parameters
    ----------
    n_channels : int
    epsilon : float
        Added to the variance.
    momentum : float
        The share of a batch's statistics in the new running ones.
    relu : bool
        Whether max(·, 0) follows, which costs nothing more than batch norm alone.

    Raises
    ------
    ValueError
        If n_channels is not a positive integer, epsilon not above 0 and finite, or momentum not from 0 to 1.
    TypeError
        If one of the latter is no number.

    Notes
    -----
    In training mode x̂ = (x − batch mean)/√(batch variance + ε), and the running statistics take in the batch's (the
    variance with divisor n − 1). Otherwise x̂ = (x − running mean)/√(running variance + ε), which makes an example's
    gradient its own: in training mode examples share their statistics, and there is none.

    The blocks γ and β, (1, C) each, have traces with I = T = 1, A = 1, and D = Σ_t D_t ∘ x̂_t and Σ_t D_t. They start at
    1 and 0, the running mean and variance at 0 and 1.
    """

    batch_statistics = True

    def __init__(self, n_channels: int, epsilon: float = 1e-5, momentum: float = 0.1, relu: bool = False) -> None:
        self.n_channels = at_least(n_channels, "n_channels", 1)
        self.epsilon = _number(epsilon, "epsilon", np.finfo(float).tiny, np.finfo(float).max, "a finite number above 0")
        self.momentum = _number(momentum, "momentum", 0.0, 1.0, "a number from 0 to 1")
        self.relu = relu
        self.keeps_output = relu
        self.shapes = ((1, n_channels), (1, n_channels))
        self.running_shapes = (n_channels, n_channels)

    @property
    def block_names(self) -> tuple[str, ...]:
        """γ and β."""
        return ("scale", "shift")

    def initialise(self, rng: np.random.Generator) -> list[Array]:
        """Return ones and zeros."""
        return [np.ones(self.shapes[0]), np.zeros(self.shapes[1])]

    def initialise_running(self) -> list[Array]:
        """Return zeros and ones."""
        return [np.zeros(self.n_channels), np.ones(self.n_channels)]

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return γ x̂ + β with the running statistics.

        Raises
        ------
        ValueError
            If x is not of shape (B, H, W, C).
        """
        return self._forward(x, weights, training=False)

    def forward_training(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return γ x̂ + β with the batch's statistics, and take them into the running ones.

        Raises
        ------
        ValueError
            If x is not of shape (B, H, W, C), or has fewer than two numbers a channel.
        """
        return self._forward(x, weights, training=True)

    def _forward(self, x: Array, weights: Sequence[Array], training: bool) -> tuple[Array, Any]:
        if x.ndim != 4 or x.shape[3] != self.n_channels:
            raise ValueError(f"x has shape {x.shape}; {self!r} expects (B, H, W, {self.n_channels})")
        scale, shift, running_mean, running_variance = weights
        x = np.ascontiguousarray(x)
        if training:
            mean, variance = self._batch_statistics(x, running_mean, running_variance)
        else:
            mean, variance = running_mean.astype(np.float64), running_variance.astype(np.float64)
        inverse = 1.0 / np.sqrt(variance + self.epsilon)
        factor = scale[0] * inverse
        low = 0.0 if self.relu else -np.inf
        out = elementwise.affine(x, factor.astype(x.dtype), (shift[0] - factor * mean).astype(x.dtype), low)
        return out, (x, mean, inverse, training, out if self.relu else None)

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Write ∂loss/∂γ = Σ dout x̂ and ∂loss/∂β = Σ dout; return ∂loss/∂x, through the batch statistics if used."""
        x, mean, inverse, training, gate = cache
        dout = np.ascontiguousarray(dout)
        factor = weights[0][0] * inverse
        if grads is not None or training:
            total, against = elementwise.channel_sums(x, dout, mean, gate)
            against = against * inverse  # Σ dout x̂
        if grads is not None:
            grads[0][0], grads[1][0] = against, total
        if not need_dx:
            return None
        if not training:
            nothing = np.zeros(self.n_channels, x.dtype)
            return elementwise.two_term_affine(dout, dout, factor.astype(x.dtype), nothing, nothing, gate)
        n = x.size // self.n_channels
        slope = -factor * inverse * against / n
        offset = -factor * total / n - slope * mean
        factor, slope, offset = (v.astype(x.dtype) for v in (factor, slope, offset))
        return elementwise.two_term_affine(dout, x, factor, slope, offset, gate)

    def traces(self, dout: Array, cache: Any) -> list[Trace]:
        """Return the traces of γ and β.

        Raises
        ------
        ValueError
            In training mode, where an example has no gradient of its own.
        """
        x, mean, inverse, training, gate = cache
        if training:
            raise ValueError("batch norm in training mode ties the examples of a batch: none has a gradient of its own")
        if gate is not None:
            dout = dout.copy()
            elementwise.mask(dout, gate)
        x_hat = elementwise.affine(x, inverse.astype(x.dtype), (-inverse * mean).astype(x.dtype))
        ones = np.ones((len(x), 1, 1), x.dtype)
        scale = np.einsum("bhwc,bhwc->bc", dout, x_hat)
        return [Trace(ones, scale), Trace(ones, dout.sum(axis=(1, 2)))]

    def _batch_statistics(self, x: Array, running_mean: Array, running_variance: Array) -> tuple[Array, Array]:
        """Return the batch's mean and variance (C,), and move the running ones towards them, in place."""
        n = x.size // self.n_channels
        if n < 2:
            raise ValueError(f"x has shape {x.shape}; batch statistics need at least two numbers a channel")
        # Σ x and Σ x (x − c) in one pass, in float64, where c may be any number near the mean.
        center = running_mean.astype(np.float64)
        mean, about = elementwise.channel_sums(x, x, center) / n
        variance = np.maximum(about - mean * (mean - center), 0.0)
        running_mean += self.momentum * (mean - running_mean)
        running_variance += self.momentum * (variance * n / (n - 1) - running_variance)
        return mean, variance

    def __repr__(self) -> str:
        return f"BatchNorm2d({self.n_channels}{', relu=True' if self.relu else ''})"


def _number(value: float, name: str, low: float, high: float, expected: str) -> float:
    """Read a number from `low` to `high`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; {expected} is expected") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {value}; {expected} is expected")
    return number
