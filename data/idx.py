"""MNIST and Fashion-MNIST: the idx format, plain or compressed by gzip.

A file of images is four big-endian 32-bit numbers, 2051, N, H and W, and N·H·W bytes, row by row. A file of
labels is 2049, N and N bytes.
"""

import struct
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcref.data.places import DataError
from gcref.data.streams import opened, read_up_to

N_CLASSES = 10
IMAGES, LABELS = 0x0803, 0x0801  # unsigned bytes, three axes and one
_LARGEST, _MOST = 1 << 27, 1 << 20  # bytes, and images or labels; the real files have 47 million of 60 thousand
_STEMS = {"train": "train", "test": "t10k"}
# The two sets have the same file names, so a folder may be taken for the other one.
_FIRST_LABELS = {
    ("mnist", "train"): [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
    ("mnist", "test"): [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
    ("fashion-mnist", "train"): [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
    ("fashion-mnist", "test"): [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
}


def image_file(folder: Path, split: str) -> Path | None:
    """Return the split's file of images in a folder, under any of its usual names."""
    return _first_file(folder, f"{_STEMS[split]}-images", "idx3-ubyte")


def load_idx(name: str, split: str, images: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the pair of files of "mnist" or "fashion-mnist" that `images` belongs to.

    Returns
    -------
    pixels : ndarray of uint8, shape (N, H, W)
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    DataError
        If a file is missing or damaged, the two differ in N, a label is above 9, or the files are those of the
        other data set.
    """
    labels_file = _first_file(images.parent, f"{_STEMS[split]}-labels", "idx1-ubyte")
    if labels_file is None:
        raise DataError(f"{images.parent} has {images.name} but no {_STEMS[split]}-labels-idx1-ubyte[.gz]")
    pixels, labels = read_idx(images, IMAGES), read_idx(labels_file, LABELS)
    if len(pixels) != len(labels):
        raise DataError(f"{images} has {len(pixels)} images but {labels_file} has {len(labels)} labels")
    if labels.max() >= N_CLASSES:
        first = int(np.argmax(labels >= N_CLASSES))
        raise DataError(f"{labels_file} has the label {labels[first]} at {first}; 0 to {N_CLASSES - 1} is expected")
    for (other, of_split), first_labels in _FIRST_LABELS.items():
        if other != name and of_split == split and labels[: len(first_labels)].tolist() == first_labels:
            raise DataError(f"{labels_file} belongs to {other}, not to {name}")
    return pixels, labels.astype(np.int64)


def read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """Read an idx file of bytes.

    Parameters
    ----------
    path : Path
        The file, plain or compressed by gzip.
    magic : int
        `IMAGES` or `LABELS`; its last byte is the number of axes.

    Raises
    ------
    DataError
        If the file begins otherwise, declares an axis of 0, more than 2²⁷ bytes or 2²⁰ examples, or is not as long as
        it declares.
    """
    n_axes = magic & 0xFF
    with opened(path) as stream:
        header = bytes(read_up_to(stream, 4 + 4 * n_axes))
        _check_magic(path, header, magic)
        shape = struct.unpack(f">{n_axes}I", header[4:])
        if not 0 < prod(shape) <= _LARGEST or shape[0] > _MOST:
            raise DataError(
                f"{path} declares the shape {shape}; 1 to {_LARGEST} bytes are expected, of {_MOST} examples at most"
            )
        data = read_up_to(stream, prod(shape) + 1)
    if len(data) != prod(shape):
        found = f"only {len(data)}" if len(data) < prod(shape) else "more"
        raise DataError(f"{path} declares the shape {shape}, {prod(shape)} bytes, but holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _check_magic(path: Path, header: bytes, magic: int) -> None:
    """Raise unless a header is whole and begins with `magic`."""
    what = "images" if magic == IMAGES else "labels"
    if len(header) >= 4 and (found := int.from_bytes(header[:4], "big")) != magic:
        raise DataError(f"{path} begins with the number {found}; {magic}, that of an idx file of {what}, is expected")
    expected = 4 + 4 * (magic & 0xFF)
    if len(header) < expected:
        raise DataError(f"{path} has only {len(header)} bytes; an idx file of {what} has a header of {expected}")


def _first_file(folder: Path, stem: str, kind: str) -> Path | None:
    """Return the first file that exists of the usual names of an idx file."""
    names = (f"{stem}{mark}{kind}{suffix}" for mark in "-." for suffix in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)
