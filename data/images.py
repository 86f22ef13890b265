"""ImageArray: images kept as bytes, turned into numbers as they are asked for."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_CHUNK = 1 << 20  # bytes looked at in one go


class ImageArray:
    """Images of one byte a channel that read as float32, value = pixel · scale + shift.

    Stands in for an array of shape (N, H, W, C) that would not fit the memory: `pixels` may be a memory-mapped
    file, and only the examples asked for are read.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (P, H, W, C)
        The images. They are not copied.
    scale, shift : float or array_like, shape (C,)
        Finite; by default pixel values 0…255 become 0…1.
    indices : array_like of int, shape (N,), optional
        The rows of `pixels` that the array consists of, in order, perhaps repeatedly; by default each row once.

    Attributes
    ----------
    shape : tuple of int
        (N, H, W, C).
    dtype : float32
        The type of what indexing returns.

    Raises
    ------
    TypeError
        If `pixels` is not an array of uint8, or `indices` not of integers.
    ValueError
        If `pixels` has not four axes, `scale` or `shift` is not finite or fits no channels, or an index is
        outside `pixels`.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        scale: ArrayLike = 1 / 255,
        shift: ArrayLike = 0.0,
        indices: ArrayLike | None = None,
    ) -> None:
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise TypeError(f"pixels is {_kind(pixels)}; an array of uint8 is expected")
        if pixels.ndim != 4:
            raise ValueError(f"pixels has shape {pixels.shape}; (P, H, W, C) is expected")
        self.pixels = pixels.view(np.ndarray)
        self.scale = per_channel("scale", scale, pixels.shape[3])
        self.shift = per_channel("shift", shift, pixels.shape[3])
        self.indices = None if indices is None else _checked_indices(indices, len(pixels))
        self.shape = (len(pixels) if self.indices is None else len(self.indices), *pixels.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Return example `key` (an int), shape (H, W, C), or the examples of a slice or an array of int."""
        chosen = self.pixels[self._rows(key)]
        # Image rows of W·C numbers are long enough for the loop inside to be fast; C numbers are not.
        width, n_channels = self.shape[2:]
        out = chosen.astype(np.float32).reshape(*chosen.shape[:-2], width * n_channels)
        out *= np.tile(self.scale.astype(np.float32), width)
        out += np.tile(self.shift.astype(np.float32), width)
        return out.reshape(chosen.shape)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("an ImageArray holds bytes: its float values cannot be had without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"ImageArray(shape {self.shape}, {self.dtype} from uint8)"

    def select(self, key: Any) -> "ImageArray":
        """Return the examples of a slice or an array of int as an ImageArray of the same pixels; none is read."""
        rows = self._rows(key)
        if isinstance(rows, slice):
            return ImageArray(self.pixels[rows], self.scale, self.shift)
        return ImageArray(self.pixels, self.scale, self.shift, rows)

    def rescaled(self, factor: ArrayLike, offset: ArrayLike) -> "ImageArray":
        """Return the array of value · factor + offset, each a number or shape (C,); none is read."""
        factor, offset = np.asarray(factor, np.float64), np.asarray(offset, np.float64)
        return ImageArray(self.pixels, self.scale * factor, self.shift * factor + offset, self.indices)

    def counts(self) -> NDArray[np.int64]:
        """How often each byte 0…255 occurs in each channel, shape (256, C); one pass in bounded memory."""
        out = np.zeros((256, self.shape[3]), np.int64)
        step = max(1, _CHUNK // max(1, self.pixels[:1].size))
        for start in range(0, len(self), step):
            chunk = self.pixels[self._rows(slice(start, start + step))]
            for channel in range(self.shape[3]):
                out[:, channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
        return out

    def _rows(self, key: Any) -> Any:
        """The rows of `pixels` that `key` asks for."""
        if not isinstance(key, slice):
            key = _checked_key(key)
        return key if self.indices is None else self.indices[key]


def _kind(value: Any) -> str:
    """Name the type of a value, and of its elements."""
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"of type {type(value).__name__}"


def read_array(name: str, value: ArrayLike) -> NDArray:
    """Return `value` as an array; what NumPy makes none of, such as rows of different lengths, is named."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from None


def per_channel(name: str, value: ArrayLike, n_channels: int) -> NDArray[np.float64]:
    """Return `value` in float64, shape (C,); raise unless it is one finite number, or one a channel."""
    array = read_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is {value!r}; a number or shape ({n_channels},) of numbers is expected")
    array = array.astype(np.float64)
    if array.shape not in ((), (n_channels,)):
        raise ValueError(f"{name} has shape {array.shape}; a number or shape ({n_channels},) is expected")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is {array.tolist()}; finite numbers are expected")
    return np.broadcast_to(array, (n_channels,)).copy()


def _checked_indices(indices: ArrayLike, n_rows: int) -> NDArray[np.intp]:
    """Return `indices` as an array; raise unless each is the index of a row."""
    rows = read_array("indices", indices)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"indices is {_kind(rows)}; integers are expected")
    if rows.ndim != 1:
        raise ValueError(f"indices has shape {rows.shape}; (N,) is expected")
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < n_rows:
        raise ValueError(f"indices go from {rows.min()} to {rows.max()}; 0 to {n_rows - 1} is expected")
    return rows.astype(np.intp, copy=False)


def _checked_key(key: Any) -> NDArray:
    """Return an int or an array of int as an array; raise at any other key."""
    array = np.asarray(key, np.intp) if isinstance(key, list) and not key else np.asarray(key)
    if isinstance(key, tuple) or array.dtype.kind not in "iu":
        raise TypeError(f"an ImageArray is indexed by an int, a slice or an array of int, not by {_kind(key)}")
    return array
