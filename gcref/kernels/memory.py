"""Large arrays whose memory is used again.

Every gradient makes arrays of the same sizes. The C library gives large ones back to the system at once, and fetching
fresh pages for the next costs a ResNet a tenth of its gradient, so blocks that are no longer needed are kept for the
next array of their size. They begin at a cache line, so that no row of 16 channels lies across two.
"""

import math
import threading
import weakref
from collections import deque

import numpy as np
from numpy.typing import DTypeLike

SMALLEST = 1 << 19  # bytes; below it the C library keeps memory itself
MOST = 1 << 30  # bytes of all blocks, lent or not; beyond it arrays are NumPy's own
_LINE = 64  # bytes of a cache line


class _Loan(weakref.ref):
    """An array and the block that it lies in."""

    __slots__ = ("block",)
    block: memoryview


class _Store:
    """All blocks: `lent` ones, those given `back` by arrays that are gone, and `free` ones by their size.

    A Ctrl-C between two lines loses a block at worst, which then counts as lent.
    """

    def __init__(self) -> None:
        self.lent: dict[int, _Loan] = {}
        self.back: deque[_Loan] = deque()
        self.free: dict[int, list[memoryview]] = {}
        self.n_bytes = 0
        self.lock = threading.Lock()

    def block(self, n_bytes: int) -> memoryview | None:
        """Return a block that is free, or a new one if there is room for it."""
        while self.back:
            loan = self.back.popleft()
            if self.lent.pop(id(loan), None) is not None:
                self.free.setdefault(loan.block.nbytes, []).append(loan.block)
        if self.free.get(n_bytes):
            return self.free[n_bytes].pop()
        if self.n_bytes + n_bytes > MOST >= n_bytes:
            gone = sum(size * len(blocks) for size, blocks in self.free.items())
            self.free.clear()
            self.n_bytes -= gone
        if self.n_bytes + n_bytes > MOST:
            return None
        block = _fresh(n_bytes)
        self.n_bytes += n_bytes
        return block

    def lend(self, block: memoryview, dtype: DTypeLike) -> np.ndarray:
        """Return an array on a block, which comes back when neither the array nor a view of it is held."""
        array = np.frombuffer(block, dtype)  # its views hold it, since what it is a view of itself is no array
        # No Python may run when it is gone: a KeyboardInterrupt would be lost in there, and a lock might be held.
        loan = _Loan(array, self.back.append)
        loan.block = block
        self.lent[id(loan)] = loan
        return array


_store = _Store()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array as ``numpy.empty`` does; once neither it nor a view of it is held, its memory is used again."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    # Nobody waits for the lock: it may be this thread's own, in a signal's handler, or one that a fork has left behind.
    if n_bytes >= SMALLEST and _store.lock.acquire(blocking=False):
        try:
            block = _store.block(n_bytes)
            if block is not None:
                return _store.lend(block, dtype).reshape(shape)
        finally:
            _store.lock.release()
    return np.empty(shape, dtype)


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
