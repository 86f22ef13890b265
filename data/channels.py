"""Mean and standard deviation of each channel, and inputs standardized by them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcref.data.dataset import Dataset
from gcref.data.images import ImageArray, per_channel

Array = NDArray[np.float64]
_CHUNK = 1 << 20  # elements turned into float64 in one go, 8 MB


def channel_statistics(x: NDArray | ImageArray) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel over all examples and positions.

    Parameters
    ----------
    x : ndarray or ImageArray, shape (N, features) or (N, H, W, C)
        The inputs; the last axis is the channel. Read in bounded memory.

    Returns
    -------
    mean, std : ndarray of float64, shape (C,)
        std = √(Σ (x − mean)² / n) over the n = N·H·W values of a channel; exactly 0 where a channel is constant.

    Raises
    ------
    ValueError
        If x has fewer than two axes or no examples.
    """
    if len(x.shape) < 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}; (N, features) or (N, H, W, C) with N > 0 is expected")
    if isinstance(x, ImageArray):
        return _statistics_of_bytes(x)
    n_channels = x.shape[-1]
    n = int(np.prod(x.shape[:-1]))
    # Sums of distances from one value: a constant channel then has the mean it should, to the last bit.
    origin = np.asarray(x[0], np.float64).reshape(-1, n_channels)[0]
    mean = origin + sum((values.reshape(-1, n_channels) - origin).sum(0) for _, values in _chunks(x)) / n
    squares = sum(((values.reshape(-1, n_channels) - mean) ** 2).sum(0) for _, values in _chunks(x))
    return mean, np.sqrt(squares / n)


def _statistics_of_bytes(x: ImageArray) -> tuple[Array, Array]:
    """`channel_statistics` from how often each of the 256 values of a channel occurs, in one pass."""
    counts = x.counts()
    share = counts / counts.sum(0)
    values = np.arange(256.0)[:, None] * x.scale + x.shift
    origin = np.take_along_axis(values, counts.argmax(0)[None], 0)[0]
    mean = origin + (share * (values - origin)).sum(0)
    return mean, np.sqrt((share * (values - mean) ** 2).sum(0))


def standardized(ds: Dataset, mean: ArrayLike | None = None, std: ArrayLike | None = None) -> Dataset:
    """Return the data set with (x − mean) / std as its inputs, channel by channel.

    Parameters
    ----------
    ds : Dataset
        Its last axis is the channel.
    mean, std : float or array_like, shape (C,), optional
        Those of `channel_statistics` of ds itself unless given; to treat a test set as its training set, give
        the training set's. A std of 0, a constant channel, counts as 1.

    Returns
    -------
    Dataset
        x is a float32 array, or, if ds.x is an ImageArray, an ImageArray of the same pixels. y is shared.

    Raises
    ------
    ValueError
        If mean or std is not finite or does not fit the channels, or std is negative.
    """
    if mean is None or std is None:
        own_mean, own_std = channel_statistics(ds.x)
        mean, std = own_mean if mean is None else mean, own_std if std is None else std
    centre = per_channel("mean", mean, ds.x.shape[-1])
    spread = per_channel("std", std, ds.x.shape[-1])
    if spread.min() < 0:
        raise ValueError(f"std is {spread.tolist()}; no less than 0 is expected")
    spread[spread == 0] = 1.0
    if isinstance(ds.x, ImageArray):
        return Dataset(ds.x.rescaled(1 / spread, -centre / spread), ds.y)
    out = np.empty(ds.x.shape, np.float32)
    for rows, values in _chunks(ds.x):
        out[rows] = (values - centre) / spread
    return Dataset(out, ds.y)


def _chunks(x: NDArray) -> Iterator[tuple[slice, Array]]:
    """Yield the rows of x in float64, a bounded number at a time."""
    step = max(1, _CHUNK // int(np.prod(x.shape[1:])))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        yield rows, np.asarray(x[rows], np.float64)
