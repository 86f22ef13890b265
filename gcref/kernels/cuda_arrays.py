"""Arrays on a GPU: there, back, and how many threads go through them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gcref.kernels.jit import numba_cuda

cuda = numba_cuda()

MOST_BLOCKS = 1 << 13  # of one launch, whose threads stride over what is more; no number depends on it


def put(x: Any) -> Any:
    """Return an array on the device: x itself if it is there, a copy of a NumPy array otherwise."""
    if hasattr(x, "copy_to_host"):
        return x
    if hasattr(x, "__cuda_array_interface__"):
        return cuda.as_cuda_array(x)
    return cuda.to_device(np.ascontiguousarray(x))


def zeros(*shape: int, dtype: type = np.float64) -> Any:
    """Return zeros on the device."""
    return put(np.zeros(shape, dtype))


def host(x: Any) -> np.ndarray:
    """Return an array as NumPy's."""
    return x if isinstance(x, np.ndarray) else np.asarray(put(x).copy_to_host())


@contextmanager
def updated(*arrays: Any) -> Iterator[list[Any]]:
    """Lend arrays on the device, and write what became of them back to those that are NumPy's."""
    copies = [put(array) for array in arrays]
    yield copies
    for array, copy in zip(arrays, copies, strict=True):
        if isinstance(array, np.ndarray):
            array[...] = host(copy)


def blocks_for(n: int, n_threads: int) -> int:
    """Return how many blocks of `n_threads` threads go through n numbers."""
    return min(MOST_BLOCKS, -(-n // n_threads))
