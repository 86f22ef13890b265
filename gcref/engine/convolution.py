"""The convolution layer, and how layers read their windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcref.engine.layers import Layer, at_least
from gcref.engine.patch_trace import PatchTrace
from gcref.engine.trace import Array, Trace
from gcref.kernels import convolution, elementwise

Pair = int | tuple[int, int]


class Conv2d(Layer):
    """A convolution (cross-correlation), out_t = A_t W + b with A_t the patch at position t.

    Parameters
    ----------
    n_in, n_out : int
        Channels of the input and the output.
    kernel, stride, padding : int or (int, int)
        Rows and columns; the padding is of zeros, on both sides.
    bias : bool
        Whether there is a bias b.

    Raises
    ------
    ValueError
        If a size is not a positive integer (a padding: not below 0).

    Notes
    -----
    The one parameter block is θ of shape (I, O): I = h·w·n_in in the order (row, column, channel), and the bias as last
    row. Its trace has T = H'·W' positions, A the patches with a trailing 1, formed only when ``.A`` is read.
    Weights and bias start uniform in ±1/√(h·w·n_in).
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: Pair, stride: Pair = 1, padding: Pair = 0, bias: bool = True
    ) -> None:
        self.n_in = at_least(n_in, "n_in", 1)
        self.n_out = at_least(n_out, "n_out", 1)
        self.kernel, self.stride = pair(kernel, "kernel", 1), pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.bias = bias
        self.fan_in = self.kernel[0] * self.kernel[1] * n_in
        self.shapes = ((self.fan_in + int(bias), n_out),)

    def initialise(self, rng: np.random.Generator) -> list[Array]:
        """Draw θ uniformly in ±1/√(h·w·n_in)."""
        bound = 1.0 / np.sqrt(self.fan_in)
        return [rng.uniform(-bound, bound, self.shapes[0])]

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return the convolution, (B, H', W', n_out); x and its window are the cache.

        Raises
        ------
        ValueError
            If x is not of shape (B, H, W, n_in), or smaller than the kernel.
        """
        win = window_on(self, x, self.kernel, self.stride, self.padding)
        if x.shape[3] != self.n_in:
            raise ValueError(f"x has shape {x.shape}; {self!r} expects (B, H, W, {self.n_in})")
        x = np.ascontiguousarray(x)
        (theta,) = weights
        out = convolution.conv_forward(x, theta[: self.fan_in], win, theta[-1] if self.bias else None)
        return out, (x, win)

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Write ∂loss/∂W = Σ_it A_it dout_itᵀ and ∂loss/∂b = Σ_it dout_it; return ∂loss/∂x."""
        (theta,), (x, win) = weights, cache
        dout = np.ascontiguousarray(dout)
        if grads is not None:
            grads[0][: self.fan_in] = convolution.conv_weight_gradient(x, dout, win)
            if self.bias:
                zero = np.zeros(self.n_out)
                grads[0][-1] = elementwise.channel_sums(dout, dout, zero)[0]
        return convolution.conv_input_gradient(dout, theta[: self.fan_in], win) if need_dx else None

    def traces(self, dout: Array, cache: Any) -> list[Trace]:
        """Return A = (patches, 1) and D = dout, the patches not yet formed."""
        x, win = cache
        return [PatchTrace.of_layer(x, np.ascontiguousarray(dout), win, self.bias)]

    def __repr__(self) -> str:
        further = "".join(
            f", {name}={short(value)}"
            for name, value, usual in (("stride", self.stride, (1, 1)), ("padding", self.padding, (0, 0)))
            if value != usual
        )
        bias = "" if self.bias else ", bias=False"
        return f"Conv2d({self.n_in}, {self.n_out}, {short(self.kernel)}{further}{bias})"


def window_on(layer: Layer, x: Array, kernel: tuple, stride: tuple, padding: tuple) -> convolution.Window:
    """Return the window of a layer on x; raise unless x is an image at least as large as the kernel."""
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}; {layer!r} expects (B, H, W, C)")
    win = convolution.window(x.shape[1:], kernel, stride, padding)
    if win.out_h < 1 or win.out_w < 1:
        raise ValueError(f"x has shape {x.shape}; {layer!r} needs images at least as large as its kernel")
    return win


def pair(value: Pair, name: str, lowest: int) -> tuple[int, int]:
    """Read one size for both directions, or a pair."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} is {value!r}; an int or a pair of ints is expected")
    return at_least(pair[0], name, lowest), at_least(pair[1], name, lowest)


def short(pair: tuple[int, int]) -> str:
    """Write a pair as one number where both are the same."""
    return str(pair[0]) if pair[0] == pair[1] else str(pair)
