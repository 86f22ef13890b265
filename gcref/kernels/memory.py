"""Large arrays whose memory is used again.

Every gradient makes arrays of the same sizes. The C library gives large ones back to the system at once, and fetching
fresh pages for the next costs a ResNet a tenth of its gradient, so blocks that are no longer needed are kept for the
next array of their size. They begin at a cache line, so that no row of 16 channels lies across two.
"""

import math
import threading
import weakref

import numpy as np
from numpy.typing import DTypeLike

SMALLEST = 1 << 19  # bytes; below it the C library keeps memory itself
MOST = 1 << 29  # bytes that are kept
_LINE = 64  # bytes of a cache line

_free: dict[int, list[memoryview]] = {}
_lock = threading.Lock()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array as ``numpy.empty`` does; once neither it nor a view of it is held, its memory is used again."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes < SMALLEST:
        return np.empty(shape, dtype)
    with _lock:
        blocks = _free.get(n_bytes)
        block = blocks.pop() if blocks else None
    if block is None:
        block = _fresh(n_bytes)
    # Views of it hold this array, since what it is a view of is not an array.
    owner = np.frombuffer(block, dtype)
    weakref.finalize(owner, _keep, block).atexit = False
    return owner.reshape(shape)


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return `empty`, filled with zeros."""
    out = empty(shape, dtype)
    out.fill(0)
    return out


def empty_like(x: np.ndarray) -> np.ndarray:
    """Return `empty` of the shape and dtype of x, in C order."""
    return empty(x.shape, x.dtype)


def _fresh(n_bytes: int) -> memoryview:
    """Return new memory that begins at a cache line."""
    room = np.empty(n_bytes + _LINE, np.uint8)
    begin = -room.ctypes.data % _LINE
    return room[begin : begin + n_bytes].data


def _keep(block: memoryview) -> None:
    """Keep a block for the next array of its size; where that is too much, forget those of all sizes first."""
    if block.nbytes > MOST:
        return
    with _lock:
        if sum(len(blocks) * n_bytes for n_bytes, blocks in _free.items()) + block.nbytes > MOST:
            _free.clear()
        _free.setdefault(block.nbytes, []).append(block)
