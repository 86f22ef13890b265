"""Oracles of the elementwise kernels and of max pooling, one number at a time.

Names and arguments are those of `gcref.kernels.elementwise`; nothing is shared with it. Where a kernel works in place,
so does its oracle. A window is the tuple of its thirteen numbers: H, W, C, kernel height and width, strides, zeros
above, below, left and right, and output rows and columns. Arithmetic is float64 throughout.
"""

import math

import numpy as np

# ----------------------------------------------------------------------------------------------------- in place


def relu(x: np.ndarray) -> None:
    """Set each number of x to max(x, 0)."""
    for j in np.ndindex(x.shape):
        if x[j] < 0:
            x[j] = 0


def mask(dout: np.ndarray, out: np.ndarray) -> None:
    """Set dout to 0 where out is not positive."""
    for j in np.ndindex(dout.shape):
        if not out[j] > 0:
            dout[j] = 0


def add(x: np.ndarray, y: np.ndarray) -> None:
    """Add y to x."""
    for j in np.ndindex(x.shape):
        x[j] = float(x[j]) + float(y[j])


# -------------------------------------------------------------------------------------------------- by channel


def affine(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, low: float = -math.inf) -> np.ndarray:
    """x·scale + shift, no less than low; x (…, C), scale and shift (C,)."""
    out = np.zeros(x.shape)
    for j in np.ndindex(x.shape):
        out[j] = max(float(x[j]) * float(scale[j[-1]]) + float(shift[j[-1]]), low)
    return out


def channel_sums(x: np.ndarray, y: np.ndarray, center: np.ndarray, gate: np.ndarray | None = None) -> np.ndarray:
    """Σ y and Σ y (x − center) of each channel, (2, C), where gate > 0; x, y, gate (…, C), center (C,)."""
    values: list[list[float]] = [[] for _ in center]
    products: list[list[float]] = [[] for _ in center]
    for j in np.ndindex(x.shape):
        if gate is None or gate[j] > 0:
            values[j[-1]].append(float(y[j]))
            products[j[-1]].append(float(y[j]) * (float(x[j]) - float(center[j[-1]])))
    return np.array([[math.fsum(v) for v in values], [math.fsum(p) for p in products]])


def two_term_affine(
    dout: np.ndarray,
    x: np.ndarray,
    factor: np.ndarray,
    slope: np.ndarray,
    offset: np.ndarray,
    gate: np.ndarray | None = None,
) -> np.ndarray:
    """dout·factor + x·slope + offset, dout only where gate > 0; dout, x, gate (…, C), the others (C,)."""
    out = np.zeros(x.shape)
    for j in np.ndindex(x.shape):
        c = j[-1]
        d = float(dout[j]) if gate is None or gate[j] > 0 else 0.0
        out[j] = d * float(factor[c]) + float(x[j]) * float(slope[c]) + float(offset[c])
    return out


# ----------------------------------------------------------------------------------------------------- pooling


def under(win: tuple[int, ...], y: int, z: int) -> list[tuple[int, int]]:
    """Rows and columns of the input under the window of output (y, z), in order; what lies beside it left out."""
    height, width, _, kernel_h, kernel_w, stride_h, stride_w, top, _, left, _, _, _ = win
    return [
        (row, column)
        for row in range(y * stride_h - top, y * stride_h - top + kernel_h)
        for column in range(z * stride_w - left, z * stride_w - left + kernel_w)
        if 0 <= row < height and 0 <= column < width
    ]


def max_pool(x: np.ndarray, win: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Largest number under each window, the first on ties, and its flat index in x; (B, H', W', C)."""
    out = np.zeros((len(x), win[-2], win[-1], win[2]))
    where = np.zeros(out.shape, np.int64)
    for i, y, z, c in np.ndindex(out.shape):
        numbers = [float(x[i, row, column, c]) for row, column in under(win, y, z)]
        best = numbers.index(max(numbers))
        row, column = under(win, y, z)[best]
        out[i, y, z, c] = numbers[best]
        where[i, y, z, c] = np.ravel_multi_index((i, row, column, c), x.shape)
    return out, where


def max_pool_gradient(dout: np.ndarray, where: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Each number of dout added to where its largest number was; `shape` (B, H, W, C)."""
    dx = np.zeros(shape)
    for j in np.ndindex(dout.shape):
        dx[np.unravel_index(where[j], shape)] += float(dout[j])
    return dx


# ------------------------------------------------------------------------------------------- positions and strides


def position_sums(x: np.ndarray) -> np.ndarray:
    """Σ_t x_it, (B, C)."""
    out = np.zeros((x.shape[0], x.shape[2]))
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            out[i] += x[i, t]
    return out


def thin(x: np.ndarray, stride: int, n_channels: int) -> np.ndarray:
    """Every stride-th row and column, with zeros up to n_channels."""
    out = np.zeros((len(x), -(-x.shape[1] // stride), -(-x.shape[2] // stride), n_channels), x.dtype)
    for y in range(out.shape[1]):
        for z in range(out.shape[2]):
            out[:, y, z, : x.shape[3]] = x[:, y * stride, z * stride]
    return out


def spread(dout: np.ndarray, stride: int, shape: tuple[int, ...]) -> np.ndarray:
    """Each dout to where `thin` took its number from."""
    dx = np.zeros(shape, dout.dtype)
    for y in range(dout.shape[1]):
        for z in range(dout.shape[2]):
            dx[:, y * stride, z * stride] = dout[:, y, z, : shape[3]]
    return dx


def accumulate(total: np.ndarray, part: np.ndarray) -> None:
    """Add part to total."""
    for j in range(len(total)):
        total[j] += float(part[j])


def fold_total(total: np.ndarray, all_total: np.ndarray) -> float:
    """Add total to all_total, set it to 0, and return the sum of its squares."""
    squared = 0.0
    for j in range(len(total)):
        squared += total[j] * total[j]
        all_total[j] += total[j]
        total[j] = 0.0
    return squared


def accumulate_scaled(total: np.ndarray, part: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Add part_ij rows_i columns_j to total."""
    for i in range(len(total)):
        for j in range(total.shape[1]):
            total[i, j] += float(part[i, j]) * float(rows[i]) * float(columns[j])
