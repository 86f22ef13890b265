"""The results file (DESIGN section 4): one HDF5 file, built from shards so that no crash can corrupt it.

While a study runs, every finished trajectory is a small file of its own in the folder ``<results>.parts``: written
aside, flushed to disk and renamed, so a shard is either whole or absent. At the end (or at Ctrl-C) the shards are
merged, in the order of the grid, into the results file, which appears by the same rename. Every trajectory carries
the digest of its numbers and the file the digest of the whole, so that no number can change unnoticed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SCHEMA = "gcref/1"
NOT_DIGESTED = {"digest", "seconds"}  # an undisturbed and a resumed run differ in `seconds` alone

SUMMARY_DTYPE = np.dtype(
    [
        ("trajectory", "S96"),
        ("method", "S32"),
        ("learning_rate", "f8"),
        ("overparametrization", "f8"),
        ("n_train", "i8"),
        ("input_dim", "i8"),
        ("teacher_hidden", "i8"),
        ("seed", "i8"),
        ("duplicate_fraction", "f8"),
        ("variance_mean70", "f8"),
        ("variance_max70", "f8"),
        ("normalized_variance_mean70", "f8"),
        ("normalized_variance_max70", "f8"),
    ]
)


class StoreError(ValueError):
    """A file that cannot be read as a results file; the message says in one sentence why."""


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def parts_of(path: Path) -> Path:
    """The folder of the shards of the results file `path`."""
    return path.with_name(path.name + ".parts")


@contextmanager
def _replacing(path: Path, folder: Path | None = None) -> Iterator[h5py.File]:
    """Open a new HDF5 file, aside in `folder`, that takes the place of `path`, whole, if the block ends well."""
    aside = (folder or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        with h5py.File(aside, "w") as file:
            yield file
        with open(aside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
        _sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_shard(folder: Path, name: str, attrs: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write one trajectory as ``folder/name.h5``, whole or not at all.

    Parameters
    ----------
    folder : Path
        An existing folder.
    name : str
        The trajectory's id.
    attrs : dict
        Attributes of its group: numbers and strings.
    arrays : dict
        Data sets by their path inside the group, such as ``variance/gc``.
    """
    with _replacing(folder / f"{name}.h5") as file:
        group = file.create_group(name)
        for path, array in arrays.items():
            packed = array.size > 64
            group.create_dataset(
                path, data=array, shuffle=packed, compression="gzip" if packed else None, compression_opts=1 if packed else None
            )
        group.attrs.update(attrs)
        group.attrs["digest"] = digest(group)


def present(folder: Path) -> set[str]:
    """Names of the shards in `folder`, unread."""
    return {entry.name[:-3] for entry in os.scandir(folder) if entry.name.endswith(".h5")}


def finished(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of `names` that have a whole shard in `folder`; a damaged one is deleted, to be computed again."""
    there = present(folder)
    good = []
    for name in names:
        if name not in there:
            continue
        try:
            with h5py.File(folder / f"{name}.h5", "r") as file:
                whole = file[name].attrs["digest"] == digest(file[name])
        except (OSError, KeyError, RuntimeError):
            whole = False
        if whole:
            good.append(name)
        else:
            (folder / f"{name}.h5").unlink()
    return good


def merge(
    path: Path,
    names: Sequence[str],
    attrs: dict[str, Any],
    rows: Callable[[h5py.Group], list[tuple]],
) -> None:
    """Gather the shards `names`, in this order, into the results file `path`, and delete the shards.

    Parameters
    ----------
    path : Path
    names : sequence of str
    attrs : dict
        Root attributes: command, config, complete, gcref_version.
    rows : callable
        The summary rows of a trajectory's group.
    """
    parts = parts_of(path)
    with _replacing(path, parts) as file:
        trajectories = file.create_group("trajectories", track_order=True)
        summary: list[tuple] = []
        for name in names:
            with h5py.File(parts / f"{name}.h5", "r") as shard:
                shard.copy(shard[name], trajectories, name)
            summary += rows(trajectories[name])
        file["summary"] = np.array(summary, SUMMARY_DTYPE)
        file.attrs.update({"schema": SCHEMA, **attrs})
        file.attrs["digest"] = root_digest(file)
    shutil.rmtree(parts)


def claim(path: Path, config: str, overwrite: bool = False) -> bool:
    """Make ready to write the results file `path`; say whether it is there already, finished.

    Parameters
    ----------
    path : Path
    config : str
        JSON of all that determines the numbers.
    overwrite : bool
        Begin anew over a results file or parts of another configuration; parts of this one are still taken up.

    Returns
    -------
    bool
        True if `path` is the finished file of `config`: nothing is left to do. Otherwise the folder of shards exists
        and holds only shards of `config`.

    Raises
    ------
    ValueError
        If the folder is missing or cannot be written, or file or parts are something else; nothing was touched.
    """
    parts = parts_of(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file name is needed")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: the folder {path.parent} cannot be written")
    state = "absent" if overwrite or not path.exists() else _state(path, config)
    if state == "finished":
        shutil.rmtree(parts, ignore_errors=True)
        return True
    _claim_parts(parts, config, overwrite)
    if state == "unfinished":
        _unpack(path)
    return False


def _state(path: Path, config: str) -> str:
    """Whether the results file `path` of `config` is "finished" or "unfinished"; another file is a ValueError."""
    try:
        attrs = read_attrs(path)
    except StoreError as error:
        raise ValueError(f"{error}; give another name, or --overwrite to replace it") from None
    if attrs.get("config") != config:
        raise ValueError(f"{path} holds another configuration; give another name, or --overwrite to replace it")
    return "finished" if attrs.get("complete") else "unfinished"


def _claim_parts(parts: Path, config: str, overwrite: bool) -> None:
    """Make or take up the folder of shards of `config`."""
    note = parts / "config.json"
    if parts.exists():
        if note.is_file() and note.read_text(encoding="utf-8") == config:
            return
        if not overwrite:
            raise ValueError(
                f"{parts} holds an unfinished run of another configuration; finish it, delete it, or give --overwrite"
            )
        shutil.rmtree(parts)
    # Renamed into place with its note inside, so that no kill can leave a folder that nobody recognises.
    aside = parts.with_name(f".{parts.name}.{os.getpid()}.tmp")
    aside.mkdir()
    (aside / note.name).write_text(config, encoding="utf-8")
    os.replace(aside, parts)


def _unpack(path: Path) -> None:
    """Turn the trajectories of an unfinished results file back into shards, so that a run can go on."""
    parts = parts_of(path)
    with open_results(path) as file:
        for name, group in file["trajectories"].items():
            if not (parts / f"{name}.h5").exists():
                with _replacing(parts / f"{name}.h5") as shard:
                    file.copy(group, shard, name)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@contextmanager
def open_results(path: Path | str) -> Iterator[h5py.File]:
    """Open a results file for reading.

    Raises
    ------
    StoreError
        If there is no such file, it is not HDF5 or cut short, or it has another schema.
    """
    path = Path(path)
    if not path.is_file():
        hint = ""
        if parts_of(path).is_dir():
            hint = "; an unfinished run left its parts beside it: run the same command again to finish it"
        raise StoreError(f"{path}: no such file{hint}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        what = "is cut short" if "truncated" in str(error) else "is not an HDF5 file (or its beginning is damaged)"
        raise StoreError(f"{path} {what}") from None
    with file:
        found = file.attrs.get("schema")
        if found != SCHEMA:
            raise StoreError(f"{path} has schema {found!r}; this version reads {SCHEMA!r}")
        for name in ("summary", "trajectories"):
            if name not in file:
                raise StoreError(f"{path} has no /{name}: it was not written to its end")
        yield file


def read_summary(path: Path | str) -> np.ndarray:
    """Read the summary table, a structured array of `SUMMARY_DTYPE` with one row a trajectory and method.

    Raises
    ------
    StoreError
        As `open_results`, or if the table has other fields.
    """
    with open_results(path) as file:
        summary = file["summary"][()]
    if not isinstance(summary, np.ndarray) or summary.dtype.names != SUMMARY_DTYPE.names:
        raise StoreError(f"{path}: /summary does not have the fields {', '.join(SUMMARY_DTYPE.names or ())}")
    return summary


def read_attrs(path: Path | str) -> dict[str, Any]:
    """Read the root attributes: schema, gcref_version, command, config, complete, digest."""
    with open_results(path) as file:
        return dict(file.attrs)


# ---------------------------------------------------------------------------------------------------------------------
# Digests


def _update(sha: Any, name: str, array: np.ndarray) -> None:
    """Add a named array to a hash: name, type, shape and bytes."""
    sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
    sha.update(np.ascontiguousarray(array).tobytes())


def _attributes(group: h5py.Group) -> bytes:
    """The digested attributes of a group as one canonical text."""
    values = {k: v.item() if isinstance(v, np.generic) else v for k, v in group.attrs.items() if k not in NOT_DIGESTED}
    return json.dumps(values, sort_keys=True, default=repr).encode()


def digest(group: h5py.Group) -> str:
    """SHA-256 of everything under a trajectory's group, attributes too, `seconds` aside."""
    sha = hashlib.sha256(_attributes(group))
    names: list[str] = []
    group.visit(names.append)
    for name in sorted(names):
        if isinstance(group[name], h5py.Dataset):
            _update(sha, name, group[name][()])
    return sha.hexdigest()


def root_digest(file: h5py.File) -> str:
    """SHA-256 of the root's attributes, the summary, and every trajectory's name and stored digest."""
    sha = hashlib.sha256(_attributes(file))
    _update(sha, "summary", file["summary"][()])
    for name in sorted(file["trajectories"]):
        sha.update(f"{name}|{file['trajectories'][name].attrs.get('digest')}|".encode())
    return sha.hexdigest()
