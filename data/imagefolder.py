"""A folder of images sorted by class, as ImageNet comes."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from gcref.data.dataset import Dataset
from gcref.data.decode import decode
from gcref.data.image_cache import BROKEN, Listing, cached
from gcref.data.images import ImageArray
from gcref.data.places import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
_SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test")}
_RECIPE = "gcref-images/1"  # to be changed whenever the same files would be decoded into other bytes
_LARGEST_SIZE = 4096


def has_images(folder: Path) -> Path | None:
    """Return the folder itself if the folder of a split is in it."""
    return folder if any((folder / name).is_dir() for names in _SPLIT_FOLDERS.values() for name in names) else None


def load_imagefolder(folder: Path, split: str, size: int = 64, skip_broken: bool = False) -> Dataset:
    """Load the images of ``folder/train/CLASS/`` or of ``folder/val/CLASS/`` (else ``folder/test/CLASS/``).

    Parameters
    ----------
    folder : Path
        The data set. Links in it are followed as long as they stay in it; one that leads out is an error.
    split : {"train", "test"}
        Which images. Their classes are the subfolders, labelled 0, 1, … in the order of their names.
    size : int
        The images' side in pixels: see `gcref.data.decode.decode`.
    skip_broken : bool
        Leave out images that cannot be decoded, with a warning that counts them; otherwise they are an error.

    Returns
    -------
    Dataset
        x : ImageArray, shape (N, size, size, 3), of memory-mapped bytes: see `gcref.data.image_cache.cached`.

    Raises
    ------
    DataError
        If there are no images, the splits differ in their classes, a link leads out of the folder, an image is
        broken (unless skipped), or the decoded images can be written nowhere.
    ValueError, TypeError
        If `size` or `skip_broken` is of no use.
    """
    _check_options(size, skip_broken)
    listing = _list_images(folder, split, int(size))
    pixels, labels = cached(folder, listing, int(size))
    whole = np.flatnonzero(labels != BROKEN)
    if len(whole) == len(labels):
        return Dataset(ImageArray(pixels), labels)
    broken = [listing.paths[row] for row in np.flatnonzero(labels == BROKEN)]
    if not skip_broken or not len(whole):
        _refuse(broken, size)
    warnings.warn(f"{len(broken)} broken images are left out, the first of them {broken[0]}", stacklevel=3)
    return Dataset(ImageArray(pixels, indices=whole), labels[whole])


def _check_options(size: int, skip_broken: bool) -> None:
    """Raise unless both are of their type, and size is sensible."""
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"size is {size!r}; an int is expected")
    if not 1 <= size <= _LARGEST_SIZE:
        raise ValueError(f"size is {size}; 1 to {_LARGEST_SIZE} pixels are expected")
    if not isinstance(skip_broken, bool):
        raise TypeError(f"skip_broken is {skip_broken!r}; True or False is expected")


def _refuse(broken: list[str], size: int) -> None:
    """Raise because of broken images, with what is wrong with the first."""
    try:
        decode(broken[0], size)
        reason = f"{broken[0]} could not be decoded"
    except DataError as error:
        reason = str(error)
    others = f" (and {len(broken) - 1} more are broken)" if len(broken) > 1 else ""
    raise DataError(f"{reason}{others}; skip_broken leaves such images out")


def _split_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split; raise if it is missing or the other split has other classes."""
    there = {}
    for which, names in _SPLIT_FOLDERS.items():
        there[which] = next((folder / name for name in names if (folder / name).is_dir()), None)
    chosen = there[split]
    if chosen is None:
        raise DataError(f"{folder} has no folder {' or '.join(_SPLIT_FOLDERS[split])}")
    train, test = there["train"], there["test"]
    if train is not None and test is not None:
        differing = sorted(set(_classes(folder, train)) ^ set(_classes(folder, test)))
        if differing:
            raise DataError(f"{train} and {test} differ in their classes: only one of them has {differing[0]!r}")
    return chosen


def _classes(root: Path, folder: Path) -> list[str]:
    """Return the names of a split's class folders, in order."""
    _check_inside(root, folder)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder} has no class folders; {folder.name}/CLASS/*.jpg and the like are expected")
    return names


def _list_images(root: Path, split: str, size: int) -> Listing:
    """List the images of a split, class by class, in the order of their names."""
    folder = _split_folder(root, split)
    digest = hashlib.sha256(f"{_RECIPE}|{split}|{size}".encode())
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(_classes(root, folder)):
        images = _images(root, folder / name)
        for entry in images:
            about = entry.stat()
            digest.update(os.fsencode(f"|{name}/{entry.name}|{about.st_size}|{about.st_mtime_ns}"))
        paths += [entry.path for entry in images]
        labels += [label] * len(images)
    return Listing(paths, np.array(labels, np.int64), f"{split}-{digest.hexdigest()[:32]}")


def _images(root: Path, folder: Path) -> "list[os.DirEntry[str]]":
    """Return the images of a class in the order of their names; raise if there are none or one is not to be read."""
    _check_inside(root, folder)
    with os.scandir(folder) as entries:
        images = sorted((e for e in entries if e.name.lower().endswith(SUFFIXES)), key=lambda e: e.name)
    if not images:
        raise DataError(f"{folder} has no images; files such as *{', *'.join(SUFFIXES[:3])} are expected")
    for entry in images:
        if entry.is_symlink():
            _check_inside(root, Path(entry.path))
        if not entry.is_file():
            raise DataError(f"{entry.path} is not a file")
    return images


def _check_inside(root: Path, path: Path) -> None:
    """Raise if a path, links followed, is outside the data set."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path} is a link that leads out of {root}; data_dir must hold the images themselves")
