"""The first of the smallest numbers of a row, which every step of clustering looks for."""

import numpy as np

from gcref.kernels.jit import jit, min_jit


@min_jit
def _smallest(x: np.ndarray) -> float:
    low = np.inf
    for k in range(x.shape[0]):
        low = x[k] if x[k] < low else low
    return low


@jit
def first_smallest(x: np.ndarray) -> int:
    """Return the first index of the smallest number, 0 if there is none; in two loops, so that one is vectorised."""
    low = _smallest(x)
    for k in range(x.shape[0]):
        if x[k] == low:
            return k
    return 0
