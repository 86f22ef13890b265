"""Decoded images in a file of their own, made once and memory-mapped ever after."""

import multiprocessing
import os
import shutil
import signal
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.cores import n_cores
from gcref.data.decode import N_CHANNELS, decode_into
from gcref.data.places import DataError, cache_home

BROKEN = -1  # in the cache, the label of an image that cannot be decoded
_TASK = 64  # images a worker is handed at once
_FEW = 512  # images that are decoded sooner than workers would start


class Listing(NamedTuple):
    """Images in files: their paths, their labels (N,), and a name that changes with all that the pixels depend on."""

    paths: list[str]
    labels: NDArray[np.int64]
    name: str


def cached(root: Path, listing: Listing, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return decoded images and their labels; decode them first unless that has been done before.

    Parameters
    ----------
    root : Path
        The data set. The cache is ``root/.gcref-cache/NAME/``, or ~/.cache/gcref/decoded/NAME/ if that cannot be
        written: ``pixels.npy``, of N·size²·3 bytes, and ``labels.npy``.
    listing : Listing
        The N images.
    size : int
        The images' side in pixels.

    Returns
    -------
    pixels : ndarray of uint8, shape (N, size, size, 3), memory-mapped
    labels : ndarray of int64, shape (N,)
        `BROKEN` where an image could not be decoded.

    Raises
    ------
    DataError
        If the cache is damaged, or can be written nowhere.
    OSError
        If the system cannot read an image.
    RuntimeError
        If a process that decodes images dies.

    Notes
    -----
    The folder is written under another name, ``part-…``, and renamed when it is whole. What a killed run leaves
    under such a name may be deleted. Many images are decoded by a process a core; as with everything that starts
    processes, a script then needs ``if __name__ == "__main__":``.
    """
    homes = [root / ".gcref-cache", cache_home() / "decoded"]
    if homes[0].is_symlink():  # a data set decides about no other folder
        del homes[0]
    there = next((home / listing.name for home in homes if (home / listing.name).is_dir()), None)
    return _read(there or _make(homes, listing, size), listing, size)


def _make(homes: Sequence[Path], listing: Listing, size: int) -> Path:
    """Decode a listing into a new cache, complete or not there at all."""
    part = _new_folder(homes)
    cache = part.with_name(listing.name)
    try:
        _fill(part, listing, size)
        try:
            part.rename(cache)
        except OSError:
            if not cache.is_dir():  # otherwise another process was faster
                raise
        return cache
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _new_folder(homes: Sequence[Path]) -> Path:
    """Make a folder of its own in the first of `homes` that can be written."""
    for home in homes:
        try:
            part = home / f"part-{uuid.uuid4().hex}"
            part.mkdir(parents=True)
            return part
        except OSError as error:
            reason = error.strerror
    raise DataError(f"the decoded images cannot be written into {' or '.join(map(str, homes))}: {reason}")


def _fill(part: Path, listing: Listing, size: int) -> None:
    """Decode a listing into a folder."""
    pixels = part / "pixels.npy"
    _allocate(pixels, (len(listing.paths), size, size, N_CHANNELS))
    labels = listing.labels.copy()
    for rows in _decode_all(pixels, listing.paths, size):
        labels[rows] = BROKEN
    np.save(part / "labels.npy", labels, allow_pickle=False)
    for file in part.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make a .npy file of uint8 that has its room on the disk: a memory map that finds none is a crash."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as file:
        n_bytes = path.stat().st_size
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            raise DataError(f"{path.parent.parent} has no room for {n_bytes} bytes: {error.strerror}") from None


def _decode_all(pixels: Path, paths: list[str], size: int) -> Iterator[list[int]]:
    """Decode images into rows of a file, in this process or in others, and yield the rows of broken ones."""
    starts = range(0, len(paths), _TASK)
    parts = [paths[start : start + _TASK] for start in starts]
    tasks = ([pixels] * len(starts), starts, parts, [size] * len(starts))
    if len(paths) <= _FEW:
        yield from map(decode_into, *tasks)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(n_cores(), len(starts)), context, _ignore_interrupts) as pool:
            yield from pool.map(decode_into, *tasks)
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that decodes images died: either the memory ran out, or the script that loads them lacks "
            '`if __name__ == "__main__":`'
        ) from None


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(cache: Path, listing: Listing, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Memory-map the pixels of a cache and read its labels; raise if they are not those of the listing."""
    shape = (len(listing.paths), size, size, N_CHANNELS)
    files = [cache / "pixels.npy", cache / "labels.npy"]
    try:
        if any(file.is_symlink() or not file.is_file() for file in files):
            raise ValueError("a link, or no file")
        pixels = np.load(cache / "pixels.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(cache / "labels.npy", allow_pickle=False)
        whole = pixels.shape == shape and pixels.dtype == np.uint8 and labels.shape == listing.labels.shape
        whole = whole and bool(np.all((labels == listing.labels) | (labels == BROKEN)))
    except (OSError, ValueError, EOFError, MemoryError):
        whole = False
    if not whole:
        raise DataError(f"{cache} is damaged; delete it, and it will be made again")
    return pixels, labels.astype(np.int64)
