"""Oracles of the convolution kernels: seven nested loops, and a tap of the kernel that falls beside the input skipped.

Names and arguments are those of `gcref.kernels.convolution`; nothing is shared with it. A window is the tuple of its
thirteen numbers, in the order in which `window` returns them. Arithmetic is float64 throughout.
"""

import numpy as np


def window(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, ...]:
    """H, W, C, kernel height and width, strides, zeros above, below, left and right, and the positions that fit."""
    fits = [0, 0]
    for axis in range(2):
        first = -padding[axis]
        while first + kernel[axis] <= shape[axis] + padding[axis]:
            fits[axis] += 1
            first += stride[axis]
    return (*shape, *kernel, *stride, padding[0], padding[0], padding[1], padding[1], *fits)


def taps(win: tuple[int, ...]) -> list[tuple[int, int, int, int, int]]:
    """Every output row and column, with every tap k of the kernel there and the input row and column it falls on."""
    height, width, _, kernel_h, kernel_w, stride_h, stride_w, top, _, left, _, out_h, out_w = win
    found = []
    for y in range(out_h):
        for x in range(out_w):
            for k_h in range(kernel_h):
                for k_w in range(kernel_w):
                    row, column = y * stride_h + k_h - top, x * stride_w + k_w - left
                    if 0 <= row < height and 0 <= column < width:
                        found.append((y, x, k_h * kernel_w + k_w, row, column))
    return found


def conv_forward(x: np.ndarray, w: np.ndarray, win: tuple[int, ...], bias: np.ndarray | None = None) -> np.ndarray:
    """out_it = A_it w + b; x (B, H, W, C), w (h w C, O), bias (O,), result (B, H', W', O)."""
    x, w = x.astype(float), w.astype(float)
    out = np.zeros((len(x), *win[-2:], w.shape[1]))
    if bias is not None:
        for o in range(w.shape[1]):
            out[:, :, :, o] = bias[o]
    for i in range(len(x)):
        for t_h, t_w, k, row, column in taps(win):
            for c in range(x.shape[3]):
                for o in range(w.shape[1]):
                    out[i, t_h, t_w, o] += x[i, row, column, c] * w[k * x.shape[3] + c, o]
    return out


def conv_input_gradient(dout: np.ndarray, w: np.ndarray, win: tuple[int, ...]) -> np.ndarray:
    """∂loss/∂x from ∂loss/∂out; dout (B, H', W', O), w (h w C, O), result (B, H, W, C)."""
    dout, w = dout.astype(float), w.astype(float)
    dx = np.zeros((len(dout), *win[:3]))
    for i in range(len(dout)):
        for t_h, t_w, k, row, column in taps(win):
            for c in range(win[2]):
                for o in range(w.shape[1]):
                    dx[i, row, column, c] += dout[i, t_h, t_w, o] * w[k * win[2] + c, o]
    return dx


def conv_gradients(x: np.ndarray, dout: np.ndarray, win: tuple[int, ...], out: np.ndarray, fresh: bool = True) -> None:
    """Write g_i = Σ_t A_it D_itᵀ to the first h w C rows of out (B, ≥ h w C, O), or add it to them."""
    x, dout = x.astype(float), dout.astype(float)
    if fresh:
        out[:, : win[3] * win[4] * win[2]] = 0.0
    for i in range(len(x)):
        for t_h, t_w, k, row, column in taps(win):
            for c in range(x.shape[3]):
                for o in range(dout.shape[3]):
                    out[i, k * x.shape[3] + c, o] += x[i, row, column, c] * dout[i, t_h, t_w, o]


def conv_weight_gradient(x: np.ndarray, dout: np.ndarray, win: tuple[int, ...]) -> np.ndarray:
    """∂loss/∂θ = Σ_i g_i, (h w C, O)."""
    each = np.zeros((len(x), win[3] * win[4] * win[2], dout.shape[3]))
    conv_gradients(x, dout, win, each)
    total = np.zeros(each.shape[1:])
    for g in each:
        total += g
    return total


def patches(x: np.ndarray, win: tuple[int, ...]) -> np.ndarray:
    """A (B, T, h w C), zeros where a patch lies beside the input."""
    out_h, out_w = win[-2:]
    A = np.zeros((len(x), out_h * out_w, win[3] * win[4] * win[2]))
    for i in range(len(x)):
        for t_h, t_w, k, row, column in taps(win):
            for c in range(x.shape[3]):
                A[i, t_h * out_w + t_w, k * x.shape[3] + c] = x[i, row, column, c]
    return A


def patch_sums(x: np.ndarray, win: tuple[int, ...]) -> np.ndarray:
    """Σ_t A_it, (B, h w C)."""
    total = np.zeros((len(x), win[3] * win[4] * win[2]))
    for i, A_i in enumerate(patches(x, win)):
        for A_it in A_i:
            total[i] += A_it
    return total
