"""Dataset: inputs and labels, checked once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A training set in memory.

    Parameters
    ----------
    x : array_like, shape (N, features) or (N, H, W, C)
        The inputs, finite.
    y : array_like of int, shape (N,)
        The labels, 0 or more.

    Raises
    ------
    ValueError
        If x and y disagree in N, x is empty or holds NaN or infinity, or y holds a negative label.
    TypeError
        If x is not of real numbers or y not of integers.
    """

    x: NDArray
    y: NDArray

    def __init__(self, x: ArrayLike, y: ArrayLike) -> None:
        inputs, labels = np.asarray(x), np.asarray(y)
        if inputs.dtype.kind not in "fiub":
            raise TypeError(f"x has dtype {inputs.dtype}; real numbers are expected")
        if labels.dtype.kind not in "iub":
            raise TypeError(f"y has dtype {labels.dtype}; integer labels are expected")
        if inputs.ndim < 2 or len(inputs) == 0:
            raise ValueError(f"x has shape {inputs.shape}; (N, features) or (N, H, W, C) with N > 0 is expected")
        if labels.shape != (len(inputs),):
            raise ValueError(f"y has shape {labels.shape}; ({len(inputs)},), one label a row of x, is expected")
        finite = np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
        if not finite.all():
            raise ValueError(f"x has NaN or infinity at row {int(np.argmin(finite))}; finite numbers are expected")
        if labels.min() < 0:
            raise ValueError(f"y has the label {labels.min()} at {int(np.argmin(labels))}; labels start at 0")
        object.__setattr__(self, "x", inputs)
        object.__setattr__(self, "y", labels)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Dataset(N={len(self)}, x {self.x.shape[1:]} {self.x.dtype}, labels 0…{int(self.y.max())})"
