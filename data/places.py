"""Where data sets are looked for, and what is said when they are not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
_IDX = "the four idx files (train-images-idx3-ubyte.gz and so on)"
_SOURCES = {
    "mnist": f"download {_IDX} from github.com/cvdfoundation/mnist (yann.lecun.com no longer has them)",
    "fashion-mnist": "run `apt install dataset-fashion-mnist`, or "
    f"download {_IDX} from github.com/zalandoresearch/fashion-mnist",
    "cifar10": "download the binary version, cifar-10-binary.tar.gz, from www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "download the binary version, cifar-100-binary.tar.gz, from www.cs.toronto.edu/~kriz/cifar.html",
    "imagefolder": "get images sorted into train/CLASS/ and val/CLASS/, such as ImageNet's from image-net.org",
}


class DataError(ValueError):
    """A data set that is missing or damaged; the message says in one sentence what was expected."""


def cache_home() -> Path:
    """Return the folder of what can be fetched or made again: $XDG_CACHE_HOME/gcref or ~/.cache/gcref."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gcref"


def find(name: str, data_dir: str | os.PathLike[str] | None, look: Callable[[Path], Found | None]) -> Found:
    """Return what `look` finds in the first folder in which it finds anything.

    Parameters
    ----------
    name : str
        The data set.
    data_dir : path or None
        If given, the only folder that is looked into, itself and its subfolder `name`. If not, that of the
        environment variable GCREF_DATA and then the standard places are.
    look : callable
        Given a folder, returns None if the data set is not in it.

    Raises
    ------
    DataError
        If it is in none of them, or data_dir or GCREF_DATA is not a folder.
    """
    folders = _folders(name, data_dir)
    for folder in folders:
        found = look(folder) if folder.is_dir() else None
        if found is not None:
            return found
    into = folders[-1] if data_dir is None else folders[0]
    raise DataError(
        f"{name} is not in {', '.join(map(str, folders))}: {_SOURCES[name]}, and put what you get into {into} or into "
        "a folder named by data_dir or by the environment variable GCREF_DATA"
    )


def _folders(name: str, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The folders a data set may be in, the likeliest first."""
    if data_dir is not None:
        return _with_subfolder(name, Path(data_dir), "data_dir")
    folders = []
    if os.environ.get("GCREF_DATA"):
        folders += _with_subfolder(name, Path(os.environ["GCREF_DATA"]), "the environment variable GCREF_DATA")
    if name in _DEBIAN:
        folders.append(_DEBIAN[name])
    return [*folders, cache_home() / name]


def _with_subfolder(name: str, folder: Path, origin: str) -> list[Path]:
    """A folder that somebody named and its subfolder for the data set, which comes first: it says what it holds."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DataError(f"{origin} is {str(folder)!r}, which is not a folder")
    return [folder / name, folder]
