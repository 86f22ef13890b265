"""Convolution without a patch matrix: the rows of the patch matrix are read where they lie, overlapping, in the input.

Channels last. A patch is h·w·C numbers in the order (row, column, channel), and a weight is θ (h·w·C, O), so that
out_t = A_t θ with A_t the patch of position t. In a padded input, a patch's h rows are h runs of w·C numbers, and the
run of the next position begins stride·C further: a matrix product whose rows overlap (`gcref.kernels.tile`). Each
example is padded into a scratch of its own, which stays in the cache.

The disk cache of compiled kernels knows a kernel by its own file, so this line changes with the tile product's:
tile.py b9dc85678822

All arrays are C-contiguous and of one dtype; every function trusts its input. Examples are shared out to threads; no
number depends on how.
"""

from typing import NamedTuple

import numpy as np

from gcref.kernels import memory, threads
from gcref.kernels.jit import fast_jit, jit
from gcref.kernels.tile import BYTES, HEIGHTS, tile_high, tile_middle, tile_one

_HIGH, _MIDDLE = HEIGHTS[0], HEIGHTS[1]


class Window(NamedTuple):
    """Where the patches of a convolution lie: sizes of input, kernel and output, strides, and zeros around."""

    height: int
    width: int
    channels: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    top: int
    bottom: int
    left: int
    right: int
    out_h: int
    out_w: int

    @property
    def n_inputs(self) -> int:
        """I without the bias: the numbers of a patch."""
        return self.kernel_h * self.kernel_w * self.channels

    @property
    def n_positions(self) -> int:
        """T."""
        return self.out_h * self.out_w


def window(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Window:
    """Return the window of a kernel (h, w) on an input (H, W, C)."""
    H, W, C = shape
    out_h = (H + 2 * padding[0] - kernel[0]) // stride[0] + 1
    out_w = (W + 2 * padding[1] - kernel[1]) // stride[1] + 1
    return Window(H, W, C, *kernel, *stride, padding[0], padding[0], padding[1], padding[1], out_h, out_w)


_WORTHWHILE = 1 << 20  # multiplications; below it a thread's start costs more than it saves


def _over(examples: int, operations: int, task: threads.Task) -> None:
    """Share examples out to threads, if there is enough to do."""
    threads.over(examples, task, operations >= _WORTHWHILE)


# ------------------------------------------------------------------------------------------------ matrix products


@jit
def _block(a, a0, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0, cm, n_rows, fresh):  # type: ignore[no-untyped-def]
    """Tiles of one vector of columns, from the highest to the lowest."""
    m = 0
    while n_rows - m >= _HIGH:
        tile_high(a, a0 + m * am, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0 + m * cm, cm, fresh)
        m += _HIGH
    while n_rows - m >= _MIDDLE:
        tile_middle(a, a0 + m * am, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0 + m * cm, cm, fresh)
        m += _MIDDLE
    while n_rows - m >= 1:
        tile_one(a, a0 + m * am, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0 + m * cm, cm, fresh)
        m += 1


@jit
def _product(a, a0, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0, cm, n_rows, n_columns, edge, fresh):  # type: ignore[no-untyped-def]
    """c[c0 + m cm + o] (+)= Σ_pq a[a0 + m am + p ar1 + q ar2] b[b0 + p br1 + q br2 + o], m < n_rows, o < n_columns.

    Rows of b hold a whole number of vectors. `edge` (n_rows × a vector) takes the columns beyond the last whole
    vector of c. Cost 2 n_rows n_columns n1 n2.
    """
    step = BYTES // a.itemsize
    whole = n_columns // step * step
    for o in range(0, whole, step):
        _block(a, a0, am, ar1, ar2, b, b0 + o, br1, br2, n1, n2, c, c0 + o, cm, n_rows, fresh)
    if whole < n_columns:
        _block(a, a0, am, ar1, ar2, b, b0 + whole, br1, br2, n1, n2, edge, 0, step, n_rows, 1)
        for m in range(n_rows):
            for o in range(whole, n_columns):
                old = 0.0 if fresh else c[c0 + m * cm + o]
                c[c0 + m * cm + o] = old + edge[m * step + o - whole]


@jit
def _pad(x, x0, win, padded):  # type: ignore[no-untyped-def]
    """Copy one example into the middle of the padded scratch, whose rim stays 0."""
    row = win.width * win.channels
    wide = (win.left + win.width + win.right) * win.channels
    for y in range(win.height):
        here, there = x0 + y * row, (win.top + y) * wide + win.left * win.channels
        source, target = x[here : here + row], padded[there : there + row]
        for j in range(row):
            target[j] = source[j]


@jit
def _scratch(x, win):  # type: ignore[no-untyped-def]
    """Zeros for one padded example."""
    return np.zeros((win.top + win.height + win.bottom) * (win.left + win.width + win.right) * win.channels, x.dtype)


# ------------------------------------------------------------------------------------------------------- forward


@jit
def _correlate(x, w, bias, out, win, n_columns, origin, out0, out_row, out_step, out_example, first, last):  # type: ignore[no-untyped-def]
    """Write Σ_k A_tk w_k of examples first…last−1 to out, position (y, x) to out0 + y out_row + x out_step.

    `origin` is where in the padded input the first patch begins; `bias` has n_columns numbers, or none.
    """
    run = win.kernel_w * win.channels
    wide = (win.left + win.width + win.right) * win.channels
    columns = w.shape[1]
    flat = w.ravel()
    padded = _scratch(x, win)
    edge = np.zeros(win.out_w * (BYTES // x.itemsize), x.dtype)
    for i in range(first, last):
        _pad(x, i * win.height * win.width * win.channels, win, padded)
        for y in range(win.out_h):
            row = out0 + i * out_example + y * out_row
            if len(bias):
                for z in range(win.out_w):
                    pixel = out[row + z * out_step : row + z * out_step + n_columns]
                    for o in range(n_columns):
                        pixel[o] = bias[o]
            patch = (origin[0] + y * win.stride_h) * wide + origin[1] * win.channels
            _product(
                padded, patch, win.stride_w * win.channels, wide, 1,
                flat, 0, run * columns, columns, win.kernel_h, run,
                out, row, out_step, win.out_w, n_columns, edge, len(bias) == 0,
            )  # fmt: skip


def _whole_vectors(w: np.ndarray) -> np.ndarray:
    """Widen a matrix (R, O) with zeros to a whole number of vectors."""
    step = BYTES // w.itemsize
    columns = -(-w.shape[1] // step) * step
    if columns == w.shape[1] and w.flags.c_contiguous:
        return w
    out = np.zeros((w.shape[0], columns), w.dtype)
    out[:, : w.shape[1]] = w
    return out


def conv_forward(x: np.ndarray, w: np.ndarray, win: Window, bias: np.ndarray | None = None) -> np.ndarray:
    """out_it = A_it w + b, the convolution itself; (B, H', W', O).

    x (B, H, W, C), w (I, O), bias (O,). Cost B T I O.
    """
    B, O = len(x), w.shape[1]  # noqa: E741
    out = memory.empty((B, win.out_h, win.out_w, O), x.dtype)
    packed, flat_x, flat_out = _whole_vectors(w), x.reshape(-1), out.reshape(-1)
    b = np.empty(0, x.dtype) if bias is None else np.ascontiguousarray(bias)
    steps = win.out_w * O, O, win.n_positions * O
    _over(
        B,
        B * win.n_positions * w.size,
        lambda first, last: _correlate(flat_x, packed, b, flat_out, win, O, (0, 0), 0, *steps, first, last),
    )
    return out


# ---------------------------------------------------------------------------------------------------- input gradient


class _Phase(NamedTuple):
    """The part of an input gradient that falls on every stride-th row and column, as a stride-1 convolution of dout."""

    win: Window
    w: np.ndarray
    origin: tuple[int, int]
    first: tuple[int, int]


def _axis(n_in: int, n_out: int, padding: int, stride: int, phase: int) -> tuple[int, int, int, int]:
    """Return one axis of a phase: positions, zeros behind dout, the first position, the input index it falls on.

    Padded input index f + s q (phase f, stride s) is met by the taps f + s j of the kernel and the outputs q − j, so
    that its gradient is a correlation of dout, with taps − 1 zeros before it, with the taps in reverse, at q.
    """
    begin = max(0, -(-(padding - phase) // stride))
    end = (n_in - 1 + padding - phase) // stride + 1
    return max(0, end - begin), max(0, end - n_out), begin, phase + stride * begin - padding


def _phases(win: Window, w: np.ndarray) -> list[_Phase]:
    """Split an input gradient by the phase of the stride; input that no tap meets has no part."""
    O = w.shape[1]  # noqa: E741
    kernel = w.reshape(win.kernel_h, win.kernel_w, win.channels, O)
    phases = []
    for f_h in range(min(win.stride_h, win.kernel_h)):
        for f_w in range(min(win.stride_w, win.kernel_w)):
            taps = kernel[f_h :: win.stride_h, f_w :: win.stride_w]
            n_h, n_w = taps.shape[:2]
            rows, below, y, first_y = _axis(win.height, win.out_h, win.top, win.stride_h, f_h)
            columns, behind, x, first_x = _axis(win.width, win.out_w, win.left, win.stride_w, f_w)
            part = Window(
                win.out_h, win.out_w, O, n_h, n_w, 1, 1, n_h - 1, below, n_w - 1, behind, rows, columns
            )  # fmt: skip
            flipped = taps[::-1, ::-1].transpose(0, 1, 3, 2).reshape(n_h * n_w * O, win.channels)
            if rows and columns:
                phases.append(_Phase(part, _whole_vectors(flipped), (y, x), (first_y, first_x)))
    return phases


def conv_input_gradient(dout: np.ndarray, w: np.ndarray, win: Window) -> np.ndarray:
    """∂loss/∂x: each position's dout_t θᵀ, added up where its patch lies; (B, H, W, C).

    dout (B, H', W', O), w (I, O) without bias. One convolution of dout for each phase of the stride. Cost B T I O.
    """
    B, C = len(dout), win.channels
    phases = _phases(win, w)
    covered = sum(phase.win.n_positions for phase in phases) == win.height * win.width
    dx = (memory.empty if covered else memory.zeros)((B, win.height, win.width, C), dout.dtype)
    flat_dout, flat_dx = dout.reshape(-1), dx.reshape(-1)

    nothing = np.empty(0, dout.dtype)

    def task(first: int, last: int) -> None:
        for part, packed, origin, (y, x) in phases:
            steps = (y * win.width + x) * C, win.stride_h * win.width * C, win.stride_w * C, win.height * win.width * C
            _correlate(flat_dout, packed, nothing, flat_dx, part, C, origin, *steps, first, last)

    _over(B, B * win.n_positions * w.size, task)
    return dx


# -------------------------------------------------------------------------------------------------- weight gradient


@jit
def _wide_rows(dout, d0, n_rows, n_columns, wide):  # type: ignore[no-untyped-def]
    """Copy the rows of one example's dout into rows of a whole number of vectors."""
    step = wide.shape[0] // n_rows
    for t in range(n_rows):
        for o in range(n_columns):
            wide[t * step + o] = dout[d0 + t * n_columns + o]


@jit
def _one_gradient(padded, dout, d0, columns, win, out, out0, n_columns, edge, fresh):  # type: ignore[no-untyped-def]
    """Add Σ_t A_t dout_tᵀ of one example, padded, to out (I, O) at out0; rows of dout are `columns` long."""
    run = win.kernel_w * win.channels
    wide = (win.left + win.width + win.right) * win.channels
    for k in range(win.kernel_h):
        _product(
            padded, k * wide, 1, win.stride_h * wide, win.stride_w * win.channels,
            dout, d0, win.out_w * columns, columns, win.out_h, win.out_w,
            out, out0 + k * run * n_columns, n_columns, run, n_columns, edge, fresh,
        )  # fmt: skip


@jit
def _gradients(x, dout, out, win, n_columns, out_example, fresh, first, last):  # type: ignore[no-untyped-def]
    """Write, or add up, the gradients of examples first…last−1 to out, at out_example·i."""
    step = BYTES // x.itemsize
    columns = (n_columns + step - 1) // step * step
    n_positions = win.out_h * win.out_w
    padded = _scratch(x, win)
    edge = np.zeros(win.kernel_w * win.channels * step, x.dtype)
    wide = np.zeros(n_positions * columns if columns > n_columns else 1, x.dtype)
    for i in range(first, last):
        _pad(x, i * win.height * win.width * win.channels, win, padded)
        d0 = i * n_positions * n_columns
        if columns > n_columns:
            _wide_rows(dout, d0, n_positions, n_columns, wide)
            _one_gradient(padded, wide, 0, columns, win, out, i * out_example, n_columns, edge, fresh)
        else:
            _one_gradient(padded, dout, d0, columns, win, out, i * out_example, n_columns, edge, fresh)


def conv_weight_gradient(x: np.ndarray, dout: np.ndarray, win: Window) -> np.ndarray:
    """∂loss/∂θ = Σ_i Σ_t A_it dout_itᵀ without the bias's row, (I, O), summed as `threads.summed` does.

    x (B, H, W, C), dout (B, H', W', O). Cost B T I O.
    """
    B, O = len(x), dout.shape[3]  # noqa: E741
    flat_x, flat_dout = x.reshape(-1), dout.reshape(-1)

    def task(first: int, last: int, out: np.ndarray) -> None:
        _gradients(flat_x, flat_dout, out, win, O, 0, 0, first, last)

    return threads.summed(B, (win.n_inputs * O,), x.dtype, task).reshape(win.n_inputs, O)


def conv_gradients(x: np.ndarray, dout: np.ndarray, win: Window, out: np.ndarray, fresh: bool = True) -> None:
    """Write g_i = Σ_t A_it D_itᵀ of every example to out (B, I, O), or add it to what `out` holds.

    x (B, H, W, C), dout (B, H', W', O); `out` may hold further rows behind the I of a patch (the bias's). Cost B T I O.
    """
    if not out.flags.c_contiguous:  # reshape would copy, and the result be lost
        raise ValueError("out is not contiguous")
    flat_x, flat_dout, flat_out = x.reshape(-1), dout.reshape(-1), out.reshape(-1)
    _over(
        len(x),
        len(x) * win.n_positions * win.n_inputs * dout.shape[3],
        lambda first, last: _gradients(
            flat_x, flat_dout, flat_out, win, dout.shape[3], out.shape[1] * out.shape[2], int(fresh), first, last
        ),
    )


# ---------------------------------------------------------------------------------------------------------- patches


@jit
def _patches(x, out, win, first, last):  # type: ignore[no-untyped-def]
    """Examples first…last−1 of `patches`."""
    run = win.kernel_w * win.channels
    wide = (win.left + win.width + win.right) * win.channels
    padded = _scratch(x, win)
    place = first * win.out_h * win.out_w * win.kernel_h * run
    for i in range(first, last):
        _pad(x, i * win.height * win.width * win.channels, win, padded)
        for y in range(win.out_h):
            for z in range(win.out_w):
                for k in range(win.kernel_h):
                    here = (y * win.stride_h + k) * wide + z * win.stride_w * win.channels
                    source, target = padded[here : here + run], out[place : place + run]
                    for j in range(run):
                        target[j] = source[j]
                    place += run


def patches(x: np.ndarray, win: Window) -> np.ndarray:
    """Return the patch matrices A (B, T, I), what im2col is usually called; h·w times the memory of x.

    x (B, H, W, C).
    """
    out = np.empty((len(x), win.n_positions, win.n_inputs), x.dtype)
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    _over(len(x), out.size, lambda first, last: _patches(flat_x, flat_out, win, first, last))
    return out


@fast_jit
def _patch_sums(x, out, win, first, last):  # type: ignore[no-untyped-def]
    """Examples first…last−1 of `patch_sums`."""
    run = win.kernel_w * win.channels
    wide = (win.left + win.width + win.right) * win.channels
    padded = _scratch(x, win)
    for i in range(first, last):
        _pad(x, i * win.height * win.width * win.channels, win, padded)
        for k in range(win.kernel_h):
            start = (i * win.kernel_h + k) * run
            sums = out[start : start + run]
            for y in range(win.out_h):
                row = (y * win.stride_h + k) * wide
                for z in range(win.out_w):
                    here = row + z * win.stride_w * win.channels
                    patch = padded[here : here + run]
                    for j in range(run):
                        sums[j] += patch[j]


def patch_sums(x: np.ndarray, win: Window) -> np.ndarray:
    """Σ_t A_it, (B, I), from the input, no patch being formed. x (B, H, W, C). Cost B T I."""
    out = np.zeros((len(x), win.n_inputs), x.dtype)
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    operations = len(x) * win.n_positions * win.n_inputs
    _over(len(x), operations, lambda first, last: _patch_sums(flat_x, flat_out, win, first, last))
    return out
