"""Elementwise work and channel statistics of layers, one pass over the memory, shared out to threads.

Every function trusts its input: C-contiguous arrays of one dtype, channels last. Loops run over slices from 0 on, since
an index that might be negative keeps a loop from being vectorised. Statistics are float64 sums over
ranges fixed by the shape, added up in order, so no number depends on the number of threads.
"""

import numpy as np

from gcref.kernels import memory, threads
from gcref.kernels.jit import fast_jit, jit

_WORTHWHILE = 1 << 15  # numbers; below it a thread's start costs more than it saves


def _over(x: np.ndarray, task: threads.Task) -> None:
    threads.over(x.size, task, x.size >= _WORTHWHILE)


@jit
def _relu(x, zero):  # type: ignore[no-untyped-def]
    for j in range(x.shape[0]):
        x[j] = zero if x[j] < zero else x[j]


def relu(x: np.ndarray) -> None:
    """Set x to max(x, 0), NaN kept. Cost the size of x."""
    flat = x.reshape(-1)
    _over(x, lambda first, last: _relu(flat[first:last], x.dtype.type(0)))


@jit
def _mask(dout, out, zero):  # type: ignore[no-untyped-def]
    for j in range(dout.shape[0]):
        dout[j] = dout[j] if out[j] > zero else zero


def mask(dout: np.ndarray, out: np.ndarray) -> None:
    """Set dout to 0 where out is not positive: the derivative of `relu`, 0 at 0. Cost the size of dout."""
    flat, flat_out = dout.reshape(-1), out.reshape(-1)
    _over(dout, lambda first, last: _mask(flat[first:last], flat_out[first:last], dout.dtype.type(0)))


@jit
def _add(x, y):  # type: ignore[no-untyped-def]
    for j in range(x.shape[0]):
        x[j] += y[j]


def add(x: np.ndarray, y: np.ndarray) -> None:
    """Add y to x. Cost the size of x."""
    flat, other = x.reshape(-1), y.reshape(-1)
    _over(x, lambda first, last: _add(flat[first:last], other[first:last]))


@jit
def _sgd_step(theta, velocity, gradient, learning_rate, momentum, weight_decay):  # type: ignore[no-untyped-def]
    for j in range(theta.shape[0]):
        # 0·∞ would keep one overflow for ever
        kept = momentum * velocity[j] if momentum else momentum
        decay = weight_decay * theta[j] if weight_decay else weight_decay
        velocity[j] = kept + gradient[j] + decay
        theta[j] -= learning_rate * velocity[j]


def sgd_step(
    theta: np.ndarray,
    velocity: np.ndarray,
    gradient: np.ndarray,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Set v to μv + (g + λθ), then θ ← θ − ηv, in place; all (d,). Cost d, in one pass over the memory."""
    rates = [theta.dtype.type(rate) for rate in (learning_rate, momentum, weight_decay)]

    def task(first: int, last: int) -> None:
        _sgd_step(theta[first:last], velocity[first:last], gradient[first:last], *rates)

    _over(theta, task)


@jit
def _affine(x, scale, shift, low, out, first, last):  # type: ignore[no-untyped-def]
    C = scale.shape[0]
    for r in range(first, last):
        row, result = x[r * C : (r + 1) * C], out[r * C : (r + 1) * C]
        for c in range(C):
            value = row[c] * scale[c] + shift[c]
            result[c] = low if value < low else value


def affine(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, low: float = -np.inf) -> np.ndarray:
    """max(x·scale + shift, low) by channel, NaN kept; x (…, C), scale and shift (C,). Cost the size of x."""
    out = memory.empty_like(x)
    flat, flat_out = x.reshape(-1), out.reshape(-1)
    rows, low = x.size // max(1, len(scale)), x.dtype.type(low)
    threads.over(
        rows, lambda first, last: _affine(flat, scale, shift, low, flat_out, first, last), x.size >= _WORTHWHILE
    )
    return out


@jit
def _row(x, r, n_columns):  # type: ignore[no-untyped-def]
    return x[r * n_columns : (r + 1) * n_columns]


@fast_jit
def _sums(x, y, center, out, first, last):  # type: ignore[no-untyped-def]
    """out[0, c] += Σ_r y_rc and out[1, c] += Σ_r y_rc (x_rc − center_c), in float64.

    Four rows at a time: a sum that is written to memory after each row would have to wait for the one before.
    """
    C = center.shape[0]
    total, product = out[0], out[1]
    whole = first + (last - first) // 4 * 4
    for r in range(first, whole, 4):
        v0, v1, v2, v3 = _row(y, r, C), _row(y, r + 1, C), _row(y, r + 2, C), _row(y, r + 3, C)
        x0, x1, x2, x3 = _row(x, r, C), _row(x, r + 1, C), _row(x, r + 2, C), _row(x, r + 3, C)
        for c in range(C):
            a0, a1, a2, a3 = np.float64(v0[c]), np.float64(v1[c]), np.float64(v2[c]), np.float64(v3[c])
            b0, b1, b2, b3 = np.float64(x0[c]), np.float64(x1[c]), np.float64(x2[c]), np.float64(x3[c])
            total[c] += (a0 + a1) + (a2 + a3)
            product[c] += (a0 * (b0 - center[c]) + a1 * (b1 - center[c])) + (
                a2 * (b2 - center[c]) + a3 * (b3 - center[c])
            )
    for r in range(whole, last):
        row, value = _row(x, r, C), _row(y, r, C)
        for c in range(C):
            total[c] += np.float64(value[c])
            product[c] += np.float64(value[c]) * (np.float64(row[c]) - center[c])


@fast_jit
def _gated_sums(x, y, gate, center, out, first, last):  # type: ignore[no-untyped-def]
    """The same of y where gate is positive, two rows at a time."""
    C = center.shape[0]
    total, product = out[0], out[1]
    whole = first + (last - first) // 2 * 2
    for r in range(first, whole, 2):
        v0, v1, x0, x1 = _row(y, r, C), _row(y, r + 1, C), _row(x, r, C), _row(x, r + 1, C)
        g0, g1 = _row(gate, r, C), _row(gate, r + 1, C)
        for c in range(C):
            a0 = np.float64(v0[c]) if g0[c] > 0 else 0.0
            a1 = np.float64(v1[c]) if g1[c] > 0 else 0.0
            total[c] += a0 + a1
            product[c] += a0 * (np.float64(x0[c]) - center[c]) + a1 * (np.float64(x1[c]) - center[c])
    for r in range(whole, last):
        row, value, open_ = _row(x, r, C), _row(y, r, C), _row(gate, r, C)
        for c in range(C):
            a = np.float64(value[c]) if open_[c] > 0 else 0.0
            total[c] += a
            product[c] += a * (np.float64(row[c]) - center[c])


def channel_sums(x: np.ndarray, y: np.ndarray, center: np.ndarray, gate: np.ndarray | None = None) -> np.ndarray:
    """Σ y and Σ y∘(x − center) by channel, (2, C) in float64, of y where `gate`, if there is one, is positive.

    x, y, gate (…, C), center (C,). Cost the size of x.
    """
    C = len(center)
    flat, other = x.reshape(-1), y.reshape(-1)
    open_ = None if gate is None else gate.reshape(-1)

    def task(first: int, last: int, out: np.ndarray) -> None:
        if open_ is None:
            _sums(flat, other, center, out, first, last)
        else:
            _gated_sums(flat, other, open_, center, out, first, last)

    return threads.summed(x.size // max(1, C), (2, C), np.float64, task)


@jit
def _two_term_affine(dout, x, factor, slope, offset, out, first, last):  # type: ignore[no-untyped-def]
    C = factor.shape[0]
    for r in range(first, last):
        rows = slice(r * C, (r + 1) * C)
        row, own, result = dout[rows], x[rows], out[rows]
        for c in range(C):
            result[c] = row[c] * factor[c] + own[c] * slope[c] + offset[c]


@jit
def _gated_two_term_affine(dout, x, gate, factor, slope, offset, out, first, last):  # type: ignore[no-untyped-def]
    C = factor.shape[0]
    for r in range(first, last):
        rows = slice(r * C, (r + 1) * C)
        row, own, result, open_ = dout[rows], x[rows], out[rows], gate[rows]
        for c in range(C):
            rest = own[c] * slope[c] + offset[c]
            result[c] = row[c] * factor[c] + rest if open_[c] > 0 else rest


def two_term_affine(
    dout: np.ndarray,
    x: np.ndarray,
    factor: np.ndarray,
    slope: np.ndarray,
    offset: np.ndarray,
    gate: np.ndarray | None = None,
) -> np.ndarray:
    """dout·factor + x·slope + offset by channel, of dout where `gate`, if there is one, is positive.

    dout, x, gate (…, C), the rest (C,). Cost the size of x.
    """
    out = memory.empty_like(dout)
    flat, other, flat_out = dout.reshape(-1), x.reshape(-1), out.reshape(-1)
    open_ = None if gate is None else gate.reshape(-1)

    def task(first: int, last: int) -> None:
        if open_ is None:
            _two_term_affine(flat, other, factor, slope, offset, flat_out, first, last)
        else:
            _gated_two_term_affine(flat, other, open_, factor, slope, offset, flat_out, first, last)

    threads.over(dout.size // max(1, len(factor)), task, dout.size >= _WORTHWHILE)
    return out


@fast_jit
def _position_sums(x, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        sums = out[i]
        for t in range(x.shape[1]):
            row = x[i, t]
            for c in range(row.shape[0]):
                sums[c] += row[c]


def position_sums(x: np.ndarray) -> np.ndarray:
    """Σ_t x_it of x (B, T, C), (B, C), in the dtype. Cost the size of x."""
    out = np.zeros((x.shape[0], x.shape[2]), x.dtype)
    threads.over(len(x), lambda first, last: _position_sums(x, out, first, last), x.size >= _WORTHWHILE)
    return out


@jit
def _thin(x, stride, out, first, last):  # type: ignore[no-untyped-def]
    C = x.shape[3]
    for i in range(first, last):
        for y in range(out.shape[1]):
            for z in range(out.shape[2]):
                source, target = x[i, y * stride, z * stride], out[i, y, z]
                for c in range(C):
                    target[c] = source[c]


def thin(x: np.ndarray, stride: int, n_channels: int) -> np.ndarray:
    """Every stride-th row and column of x (B, H, W, C), with zeros up to n_channels. Cost the size of the result."""
    shape = (len(x), -(-x.shape[1] // stride), -(-x.shape[2] // stride), n_channels)
    out = memory.zeros(shape, x.dtype)
    threads.over(len(x), lambda first, last: _thin(x, stride, out, first, last), out.size >= _WORTHWHILE)
    return out


@jit
def _spread(dout, stride, dx, first, last):  # type: ignore[no-untyped-def]
    C = dx.shape[3]
    for i in range(first, last):
        for y in range(dout.shape[1]):
            for z in range(dout.shape[2]):
                source, target = dout[i, y, z], dx[i, y * stride, z * stride]
                for c in range(C):
                    target[c] = source[c]


def spread(dout: np.ndarray, stride: int, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `thin`: dout back where it came from, 0 elsewhere; `shape` (B, H, W, C). Cost its size."""
    dx = memory.zeros(shape, dout.dtype)
    threads.over(len(dx), lambda first, last: _spread(dout, stride, dx, first, last), dx.size >= _WORTHWHILE)
    return dx


@fast_jit
def _accumulate(total, part):  # type: ignore[no-untyped-def]
    for j in range(total.shape[0]):
        total[j] += part[j]


def accumulate(total: np.ndarray, part: np.ndarray) -> None:
    """Add part to total (d,), which is float64 whatever the dtype of part. Cost d."""
    _over(total, lambda first, last: _accumulate(total[first:last], part[first:last]))


@fast_jit
def _fold_total(total, all_total):  # type: ignore[no-untyped-def]
    """A range of coordinates of `fold_total`."""
    squared = 0.0
    for j in range(total.shape[0]):
        squared += total[j] * total[j]
        all_total[j] += total[j]
        total[j] = 0.0
    return squared


def fold_total(total: np.ndarray, all_total: np.ndarray) -> float:
    """Add total to all_total, set it to 0, and return ‖total‖² as it was; both (d,), float64. Cost d."""

    def task(first: int, last: int, squared: np.ndarray) -> None:
        squared[0] = _fold_total(total[first:last], all_total[first:last])

    return float(threads.summed(len(total), (1,), np.float64, task)[0])


@fast_jit
def _accumulate_scaled(total, part, rows, columns, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        sums, more, scale = total[i], part[i], rows[i]
        for j in range(sums.shape[0]):
            sums[j] += np.float64(more[j]) * (scale * columns[j])


def accumulate_scaled(total: np.ndarray, part: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Add part_ij rows_i columns_j to total (I, O); all but part float64. Cost I O."""
    threads.over(
        len(total),
        lambda first, last: _accumulate_scaled(total, part, rows, columns, first, last),
        total.size >= _WORTHWHILE,
    )


# ----------------------------------------------------------------------------------------------------------- pooling


@jit
def _max_pool(x, win, out, where, first, last):  # type: ignore[no-untyped-def]
    H, W, C = win.height, win.width, win.channels
    for i in range(first, last):
        for y in range(win.out_h):
            for z in range(win.out_w):
                for c in range(C):
                    best, place = x.dtype.type(-np.inf), -1
                    for k_h in range(win.kernel_h):
                        row = y * win.stride_h + k_h - win.top
                        for k_w in range(win.kernel_w):
                            column = z * win.stride_w + k_w - win.left
                            if 0 <= row < H and 0 <= column < W:
                                here = ((i * H + row) * W + column) * C + c
                                if place < 0 or x[here] > best or x[here] != x[here]:
                                    best, place = x[here], here
                    there = ((i * win.out_h + y) * win.out_w + z) * C + c
                    out[there], where[there] = best, place


def max_pool(x: np.ndarray, win) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    """Largest number under each window, the first one on ties, and its flat index in x; both (B, H', W', C).

    x (B, H, W, C); what the padding adds is never the largest. Cost B T h w C.
    """
    shape = (len(x), win.out_h, win.out_w, win.channels)
    out, where = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    flat, flat_out, flat_where = x.reshape(-1), out.reshape(-1), where.reshape(-1)
    threads.over(
        len(x),
        lambda first, last: _max_pool(flat, win, flat_out, flat_where, first, last),
        x.size >= _WORTHWHILE,
    )
    return out, where


@jit
def _max_pool_gradient(dout, where, dx, first, last):  # type: ignore[no-untyped-def]
    for j in range(first, last):
        dx[where[j]] += dout[j]


def max_pool_gradient(dout: np.ndarray, where: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Each dout added to where its window's largest number was; `shape` (B, H, W, C). Cost the size of both."""
    dx = memory.zeros(shape, dout.dtype)
    flat, flat_where, flat_dx = dout.reshape(-1), where.reshape(-1), dx.reshape(-1)
    size = dout.size // max(1, len(dout))
    threads.over(
        len(dout),
        lambda first, last: _max_pool_gradient(flat, flat_where, flat_dx, first * size, last * size),
        dout.size >= _WORTHWHILE,
    )
    return dx
