"""CIFAR-10 and CIFAR-100: the binary version, out of the archive as it is downloaded or out of its folder.

A record is the label (CIFAR-100: the coarse one, then the fine one, which is read here), a byte each, and 3072
bytes of pixels: the red plane, the green and the blue, each 32 × 32, row by row.
"""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gcref.data.places import DataError
from gcref.data.streams import Frugal, opened, read_up_to, readable

Records = NDArray[np.uint8]

SIDE, N_CHANNELS = 32, 3
_PIXELS = SIDE * SIDE * N_CHANNELS


class Format(NamedTuple):
    """How one of the two data sets comes."""

    archive: str
    folder: str
    files: dict[str, list[str]]
    n_label_bytes: int
    n_classes: int
    n_records: int  # of a file, at most


FORMATS = {
    "cifar10": Format(
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        n_label_bytes=1,
        n_classes=10,
        n_records=10_000,
    ),
    "cifar100": Format(
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        n_label_bytes=2,
        n_classes=100,
        n_records=50_000,
    ),
}


def source(name: str, split: str, folder: Path) -> Path | None:
    """Return where a folder has a data set: its folder of binary files, itself, or the archive."""
    form = FORMATS[name]
    for place in (folder / form.folder, folder):
        if any((place / file).is_file() for file in form.files[split]):
            return place
    archive = folder / form.archive
    return archive if archive.is_file() else None


def load_cifar(name: str, split: str, place: Path) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """Read the files of "cifar10" or "cifar100" from what `source` returned.

    Returns
    -------
    pixels : list of ndarray of uint8, shape (n, 32, 32, 3)
        One a file, views that are channels-last only in name: the bytes stay as they were read.
    labels : ndarray of int64, shape (N,)

    Raises
    ------
    DataError
        If a file is missing, is not a whole number of records, or holds a label out of range.
    """
    form = FORMATS[name]
    read = _read_folder if place.is_dir() else _read_archive
    images, labels = [], []
    for file, records in read(place, form, form.files[split]).items():
        label = records[:, form.n_label_bytes - 1]
        if label.max() >= form.n_classes:
            first = int(np.argmax(label >= form.n_classes))
            raise DataError(f"{file} has the label {label[first]} at {first}; 0 to {form.n_classes - 1} is expected")
        planes = records[:, form.n_label_bytes :].reshape(-1, N_CHANNELS, SIDE, SIDE)
        images.append(planes.transpose(0, 2, 3, 1))
        labels.append(label.astype(np.int64))
    return images, np.concatenate(labels)


def _read_folder(folder: Path, form: Format, names: Sequence[str]) -> dict[str, Records]:
    """Read files of a folder, in order."""
    out = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{folder} has no {name}; {', '.join(names)} is expected")
        with readable(path), path.open("rb") as file:
            out[str(path)] = _records(str(path), path.stat().st_size, file, form)
    return out


def _read_archive(archive: Path, form: Format, names: Sequence[str]) -> dict[str, Records]:
    """Read members of an archive by name, in order of `names`; nothing is written anywhere."""
    found: dict[str, Records] = {}
    with opened(archive) as stream, tarfile.open(fileobj=cast(IO[bytes], Frugal(stream)), mode="r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./").removeprefix(f"{form.folder}/")
            file = tar.extractfile(member) if member.isreg() and name in names else None
            if file is not None:
                found[name] = _records(f"{archive}:{member.name}", member.size, file, form)
            if len(found) == len(names):
                break
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{archive} has no file {form.folder}/{missing[0]}")
    return {f"{archive}:{form.folder}/{name}": found[name] for name in names}


def _records(name: str, size: int, file: IO[bytes], form: Format) -> Records:
    """Read a file of `size` bytes, one record a row; the size is judged before anything is read."""
    record = form.n_label_bytes + _PIXELS
    if not 0 < size <= record * form.n_records or size % record:
        raise DataError(
            f"{name} has {size} bytes; a multiple of {record}, the size of a record, is expected, "
            f"at most {form.n_records} of them"
        )
    data = read_up_to(file, size)
    if len(data) < size:
        raise DataError(f"{name} is cut short: {len(data)} bytes of {size}")
    return np.frombuffer(data, np.uint8).reshape(-1, record)
