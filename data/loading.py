"""Load a data set by its name.

``digits`` ships with the package: the 1797 images of the test part of "Optical Recognition of Handwritten Digits" by
E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits, licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). Each is 8 × 8 counts from 0 to 16, in the order of scikit-learn's
``load_digits``; ``digits.npz`` holds them as bytes, otherwise unchanged.
"""

import os
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcref.data.cifar import FORMATS, load_cifar, source
from gcref.data.dataset import Dataset
from gcref.data.idx import image_file, load_idx
from gcref.data.places import find

Pixels = NDArray[np.uint8]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagefolder")
SPLITS = ("train", "test")
_FOLDER_OPTIONS = ("size", "skip_broken")


def load(name: str, split: str = "train", data_dir: str | os.PathLike[str] | None = None, **options: Any) -> Dataset:
    """Load the training or test examples of a data set; nothing is ever downloaded, and no pickle is read.

    Parameters
    ----------
    name : {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagefolder"}
        ``digits`` (8 × 8 × 1) ships with the package; every fifth example, the 5th, 10th and so on, is a test
        example. ``mnist`` and ``fashion-mnist`` (28 × 28 × 1) are read from their idx files, plain or .gz;
        ``cifar10`` and ``cifar100`` (32 × 32 × 3, fine labels) from the archive of the binary version or its
        folder; ``imagefolder`` from ``train/CLASS/`` and ``val/CLASS/`` (or ``test/CLASS/``).
    split : {"train", "test"}
        Which examples.
    data_dir : path, optional
        The folder with the data set's own files, or with a subfolder `name` that has them. Otherwise the folder
        of the environment variable GCREF_DATA is looked into in the same way, then (fashion-mnist)
        /usr/share/datasets/fashion-mnist, then ~/.cache/gcref/`name`. ``digits`` needs none.
    **options
        For ``imagefolder`` only: ``size`` (64) and ``skip_broken`` (False), see
        `gcref.data.imagefolder.load_imagefolder`.

    Returns
    -------
    Dataset
        x : ndarray of float32, shape (N, H, W, C), from 0 to 1; ``imagefolder``: an ImageArray that reads as one.
        y : ndarray of int64, shape (N,).

    Raises
    ------
    DataError
        A ValueError, if the data set is not found or damaged; it says what to download from whom, or what is
        wrong with which file.
    ValueError
        If `name`, `split` or an option's value is none of the above.
    TypeError
        If the data set has no such option.

    Examples
    --------
    >>> import gcref
    >>> gcref.data.load("digits")
    Dataset(N=1438, x (8, 8, 1) float32, labels 0…9)
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"name is {name!r}; one of {', '.join(NAMES)} is expected")
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(f"split is {split!r}; {' or '.join(SPLITS)} is expected")
    unknown = sorted(set(options) - set(_FOLDER_OPTIONS if name == "imagefolder" else ()))
    if unknown:
        raise TypeError(f"{name} has no option {unknown[0]!r}; only imagefolder has {' and '.join(_FOLDER_OPTIONS)}")
    if name == "imagefolder":
        from gcref.data.imagefolder import has_images, load_imagefolder

        return load_imagefolder(find(name, data_dir, has_images), split, **options)
    if name == "digits":
        return _digits(split)
    if name in FORMATS:
        images, labels = load_cifar(name, split, find(name, data_dir, lambda folder: source(name, split, folder)))
        return Dataset(_in_unit_range(images, 255), labels)
    pixels, labels = load_idx(name, split, find(name, data_dir, lambda folder: image_file(folder, split)))
    return Dataset(_in_unit_range([pixels[..., None]], 255), labels)


def _digits(split: str) -> Dataset:
    """Read the shipped digits."""
    with (
        resources.files("gcref.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as data,
    ):
        images, labels = data["images"], data["labels"]
    test = np.arange(len(labels)) % 5 == 4
    chosen = test if split == "test" else ~test
    return Dataset(_in_unit_range([images[chosen, ..., None]], 16), labels[chosen].astype(np.int64))


def _in_unit_range(images: Sequence[Pixels], largest: int) -> NDArray[np.float32]:
    """Join arrays of bytes (n, H, W, C) into one of float32, divided by `largest`; each value is rounded once."""
    out = np.empty((sum(map(len, images)), *images[0].shape[1:]), np.float32)
    start = 0
    for part in images:
        rows = out[start : start + len(part)]
        np.divide(part, np.float32(largest), out=rows, dtype=np.float32)
        start += len(part)
    return out
