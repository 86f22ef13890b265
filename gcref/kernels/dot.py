"""The inner product that other kernels are made of."""

import numpy as np

from gcref.kernels.jit import fast_jit


@fast_jit
def dot(x: np.ndarray, y: np.ndarray) -> float:
    """x·y of two vectors, added up in float64."""
    total = 0.0
    for u in range(x.shape[0]):
        total += np.float64(x[u]) * np.float64(y[u])
    return total
