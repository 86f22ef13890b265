"""Dataset: inputs and labels, checked once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcref.data.images import ImageArray, read_array

_CHUNK = 1 << 20  # elements looked at in one go


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A training set in memory, or images in a memory-mapped file.

    Parameters
    ----------
    x : array_like, shape (N, features) or (N, H, W, C), or ImageArray
        The inputs, finite. An ImageArray is kept as it is: none of it is read.
    y : array_like of int, shape (N,)
        The labels, 0 or more.

    Raises
    ------
    ValueError
        If x and y disagree in N, x is empty or holds NaN or infinity, or y holds a negative label.
    TypeError
        If x is not of real numbers or y not of integers.
    """

    x: NDArray | ImageArray
    y: NDArray

    def __init__(self, x: ArrayLike | ImageArray, y: ArrayLike) -> None:
        inputs = x if isinstance(x, ImageArray) else read_array("x", x)
        labels = read_array("y", y)
        if inputs.dtype.kind not in "fiub":
            raise TypeError(f"x has dtype {inputs.dtype}; real numbers are expected")
        if labels.dtype.kind not in "iub":
            raise TypeError(f"y has dtype {labels.dtype}; integer labels are expected")
        if inputs.ndim < 2 or len(inputs) == 0:
            raise ValueError(f"x has shape {inputs.shape}; (N, features) or (N, H, W, C) with N > 0 is expected")
        if labels.shape != (len(inputs),):
            raise ValueError(f"y has shape {labels.shape}; ({len(inputs)},), one label a row of x, is expected")
        if isinstance(inputs, np.ndarray):
            _check_finite(inputs)
        if labels.min() < 0:
            raise ValueError(f"y has the label {labels.min()} at {int(np.argmin(labels))}; labels start at 0")
        object.__setattr__(self, "x", inputs)
        object.__setattr__(self, "y", labels)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Dataset(N={len(self)}, x {self.x.shape[1:]} {self.x.dtype}, labels 0…{int(self.y.max())})"


def _check_finite(inputs: NDArray) -> None:
    """Raise at the first row that holds NaN or infinity."""
    step = max(1, _CHUNK // max(1, inputs[0].size))
    for start in range(0, len(inputs), step):
        chunk = inputs[start : start + step]
        finite = np.isfinite(chunk).all(axis=tuple(range(1, chunk.ndim)))
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(f"x has NaN or infinity at row {row}; finite numbers are expected")
