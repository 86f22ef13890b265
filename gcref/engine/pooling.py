"""Layers on images without parameters: pooling, thinning, flattening."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gcref.engine.convolution import Pair, pair, short, window_on
from gcref.engine.layers import Layer, at_least
from gcref.engine.trace import Array
from gcref.kernels import elementwise
from gcref.kernels.convolution import Window


class Flatten(Layer):
    """(B, …) → (B, features); what is flat already stays."""

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, tuple[int, ...]]:
        """Return x with one axis after the first; its shape is the cache."""
        return x.reshape(len(x), math.prod(x.shape[1:])) if x.ndim > 2 else x, x.shape

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Give dout the shape of the input."""
        return dout.reshape(cache) if need_dx else None


class _Pool(Layer):
    """What both kinds of pooling are given, and how they are written."""

    def __init__(self, kernel: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel = pair(kernel, "kernel", 1)
        self.stride = self.kernel if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ValueError(f"padding is {padding}; at most half the kernel, {kernel}, is expected")

    def __repr__(self) -> str:
        sizes = f"{short(self.kernel)}, stride={short(self.stride)}, padding={short(self.padding)}"
        return f"{type(self).__name__}({sizes})"


class MaxPool2d(_Pool):
    """The largest number under each window, by channel; the gradient goes to the first largest.

    Parameters
    ----------
    kernel, stride, padding : int or (int, int)
        Rows and columns; the stride is the kernel's size if not given. Padding is never the largest.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or the padding is more than half the kernel.
    """

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return the maxima; where they were is the cache."""
        win = window_on(self, x, self.kernel, self.stride, self.padding)
        out, where = elementwise.max_pool(np.ascontiguousarray(x), win)
        return out, (where, x.shape)

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Send each dout to where its maximum was."""
        where, shape = cache
        return elementwise.max_pool_gradient(np.ascontiguousarray(dout), where, shape) if need_dx else None


class AvgPool2d(_Pool):
    """The mean of each window, by channel; zeros of the padding count.

    Parameters
    ----------
    kernel, stride, padding : int or (int, int)
        As in `MaxPool2d`, and so are the errors.
    """

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return the means, (B, H', W', C)."""
        win = window_on(self, x, self.kernel, self.stride, self.padding)
        padded = np.pad(x, ((0, 0), (win.top, win.bottom), (win.left, win.right), (0, 0)))
        out = np.zeros((len(x), win.out_h, win.out_w, win.channels), x.dtype)
        for rows, columns in _taps(win):
            out += padded[:, rows, columns]
        out /= self.kernel[0] * self.kernel[1]
        return out, win

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Spread each dout evenly over its window."""
        if not need_dx:
            return None
        win = cache
        height, width = win.top + win.height + win.bottom, win.left + win.width + win.right
        padded = np.zeros((len(dout), height, width, win.channels), dout.dtype)
        share = dout / (self.kernel[0] * self.kernel[1])
        for rows, columns in _taps(win):
            padded[:, rows, columns] += share
        return np.ascontiguousarray(padded[:, win.top : win.top + win.height, win.left : win.left + win.width])


class GlobalAvgPool(Layer):
    """The mean over all positions, (B, H, W, C) → (B, C)."""

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, tuple[int, ...]]:
        """Return the means; the shape of x is the cache.

        Raises
        ------
        ValueError
            If x is not of shape (B, H, W, C).
        """
        if x.ndim != 4:
            raise ValueError(f"x has shape {x.shape}; {self!r} expects (B, H, W, C)")
        return elementwise.position_sums(x.reshape(len(x), x.shape[1] * x.shape[2], x.shape[3])) / (
            x.dtype.type(x.shape[1] * x.shape[2])
        ), x.shape

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Spread each dout evenly over the positions."""
        share = dout / (cache[1] * cache[2])
        return np.broadcast_to(share[:, None, None], cache).copy() if need_dx else None


class Subsample(Layer):
    """The parameter-free shortcut of the CIFAR ResNets: every stride-th row and column, further channels zero.

    Parameters
    ----------
    stride : int
    n_out : int
        Channels of the output; those beyond the input's are 0.

    Raises
    ------
    ValueError
        If one is not a positive integer.
    """

    def __init__(self, stride: int, n_out: int) -> None:
        self.stride, self.n_out = at_least(stride, "stride", 1), at_least(n_out, "n_out", 1)

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, tuple[int, ...]]:
        """Return the thinned input; its shape is the cache.

        Raises
        ------
        ValueError
            If x is not of shape (B, H, W, C) with at most n_out channels.
        """
        if x.ndim != 4 or x.shape[3] > self.n_out:
            raise ValueError(f"x has shape {x.shape}; {self!r} expects (B, H, W, C) with C at most {self.n_out}")
        return elementwise.thin(x, self.stride, self.n_out), x.shape

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Put dout back where it came from."""
        return elementwise.spread(dout, self.stride, cache) if need_dx else None

    def __repr__(self) -> str:
        return f"Subsample({self.stride}, {self.n_out})"


def _taps(win: Window) -> list[tuple[slice, slice]]:
    """Return, for each place in the kernel, the rows and columns of the padded input that it meets."""
    return [
        (
            slice(h, h + win.stride_h * (win.out_h - 1) + 1, win.stride_h),
            slice(w, w + win.stride_w * (win.out_w - 1) + 1, win.stride_w),
        )
        for h in range(win.kernel_h)
        for w in range(win.kernel_w)
    ]
