"""The results file (its layout is in the README): one HDF5 file, built from shards so that no crash can corrupt it.

While a study runs, every finished trajectory is a small file of its own in the folder ``<results>.parts``:
written aside, flushed to disk and renamed, so a shard is either whole or absent. At the end (or at Ctrl-C)
the shards are merged, in the order of the grid, into the results file, which appears by the same rename.
Every trajectory carries the digest of its numbers and the file the digest of the whole, so that no number can
change unnoticed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SCHEMA = "gcref/1"
NOTE = "config.json"  # in the folder of shards: the configuration they belong to
NOT_DIGESTED = {"digest", "seconds", "command"}  # equal numbers have equal digests, however they came about

SUMMARY_DTYPE = np.dtype(
    [
        ("trajectory", "S128"),
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
    """A path that cannot be read, or written, as a results file; the message says in one sentence why."""


# -----------------------------------------------------------------------------------------------------------
# Writing


def parts_of(path: Path) -> Path:
    """Return the folder of the shards of the results file `path`."""
    return path.with_name(path.name + ".parts")


@contextmanager
def _replacing(path: Path, folder: Path | None = None) -> Iterator[h5py.File]:
    """Open a new HDF5 file, aside in `folder`, which replaces `path`, whole, if the block ends well."""
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
            packing = {"shuffle": True, "compression": "gzip", "compression_opts": 1} if array.size > 64 else {}
            group.create_dataset(path, data=array, **packing)
        group.attrs.update(attrs)
        group.attrs["digest"] = digest(group)


def present(folder: Path) -> set[str]:
    """Return the names of the shards in `folder`, unread."""
    return {entry.name[:-3] for entry in os.scandir(folder) if entry.name.endswith(".h5")}


def finished(folder: Path, names: Sequence[str]) -> list[str]:
    """Return those of `names` with a whole shard in `folder`; a damaged one is deleted, so computed again."""
    there = present(folder)
    good = []
    for name in names:
        if name not in there:
            continue
        try:
            with h5py.File(folder / f"{name}.h5", "r") as file:
                whole = file[name].attrs["digest"] == digest(file[name])
        except Exception:  # bytes damaged anywhere can make HDF5 raise anything; the answer is always the same
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
    _discard(parts)


def _discard(parts: Path) -> None:
    """Delete a folder of shards: renamed first, so that a kill leaves it whole or gone."""
    trash = parts.with_name(f".{parts.name}.old")
    shutil.rmtree(trash, ignore_errors=True)  # what an earlier kill left
    os.replace(parts, trash)
    shutil.rmtree(trash)


def claim(path: Path, config: str, overwrite: bool = False) -> bool:
    """Make ready to write the results file `path`; say whether it is there already, finished.

    Parameters
    ----------
    path : Path
    config : str
        JSON of all that determines the numbers.
    overwrite : bool
        Begin anew over a finished results file, or a file or parts of another configuration. What an
        interrupted run of this configuration left is taken up all the same.

    Returns
    -------
    bool
        True if `path` is the finished file of `config`: nothing is left to do. Otherwise the folder of shards
        exists and holds only shards of `config`.

    Raises
    ------
    StoreError
        If the folder is missing or cannot be written, or file or parts are something else; nothing was
        touched.
    """
    parts = parts_of(path)
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise StoreError(f"{path} is a folder; a file name is needed")
    state = _state(path, config, overwrite)
    if state == "finished":
        if _config_of(parts) == config:  # a kill came between the file's rename and this
            _discard(parts)
        return True
    _claim_parts(parts, config, overwrite)
    if state == "unfinished":
        _unpack(path)
    return False


def _state(path: Path, config: str, overwrite: bool) -> str:
    """Whether the results file of `config` is "absent" (or to be replaced), "unfinished" or "finished"."""
    if not path.exists():
        return "absent"
    advice = "give another name, or --overwrite to replace it"
    try:
        attrs = read_attrs(path)
    except StoreError as error:
        if overwrite:
            return "absent"
        raise StoreError(f"{error}; {advice}") from None
    same = attrs.get("config") == config
    if same and not attrs.get("complete"):
        return "unfinished"
    if overwrite:
        return "absent"
    if not same:
        raise StoreError(f"{path} holds another configuration; {advice}")
    return "finished"


def _claim_parts(parts: Path, config: str, overwrite: bool) -> None:
    """Make or take up the folder of shards of `config`."""
    if parts.exists():
        found = _config_of(parts)
        if found == config:
            return
        if found is None:
            raise StoreError(f"{parts} is in the way and not the parts of a run; move it, or give another name")
        if not overwrite:
            raise StoreError(
                f"{parts} holds an unfinished run of another configuration; finish it, delete it, or give --overwrite"
            )
        _discard(parts)
    # Renamed into place with its note inside, so that no kill can leave a folder that nobody recognises.
    aside = parts.with_name(f".{parts.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(exist_ok=True)
        (aside / NOTE).write_text(config, encoding="utf-8")
        os.replace(aside, parts)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StoreError(f"{parts.parent} cannot be written: {error.strerror or error}") from None


def _config_of(parts: Path) -> str | None:
    """Return the configuration that the folder of shards belongs to; None if it is no such folder."""
    note = parts / NOTE
    return note.read_text(encoding="utf-8") if note.is_file() else None


def _unpack(path: Path) -> None:
    """Turn the trajectories of an unfinished results file back into shards, so that a run can go on."""
    parts = parts_of(path)
    with open_results(path) as file:
        trajectories = file["trajectories"]
        for name in set(trajectories) - present(parts):
            # A damaged trajectory is left out, and so computed again.
            with suppress(RuntimeError, KeyError), _replacing(parts / f"{name}.h5") as shard:
                trajectories.copy(name, shard)


# -----------------------------------------------------------------------------------------------------------
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
        if path.name and parts_of(path).is_dir():
            hint = "; an unfinished run left its parts beside it: run the same command again to finish it"
        raise StoreError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}{hint}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path} {_complaint(error)}") from None
    with file:
        with _readable(path):
            found = file.attrs.get("schema")
            missing = [name for name in ("summary", "trajectories") if name not in file]
        if not isinstance(found, str) or found != SCHEMA:
            raise StoreError(f"{path} has schema {found!r}; this version reads {SCHEMA!r}")
        if missing:
            raise StoreError(f"{path} has no /{missing[0]}: it was not written to its end")
        yield file


def _complaint(error: OSError) -> str:
    """Say what is wrong with a file that HDF5 cannot open."""
    text = str(error)
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    if "unable to lock" in text:
        return "is being written by another process"
    if "truncated" in text or "eof" in text:
        return "is cut short"
    return "is not an HDF5 file (or its beginning is damaged)"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever HDF5 raises on damaged contents into a StoreError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def read_summary(path: Path | str) -> np.ndarray:
    """Read the summary table, a structured array of `SUMMARY_DTYPE` with one row a trajectory and method.

    Raises
    ------
    StoreError
        As `open_results`, or if the table has other fields.
    """
    with open_results(path) as file, _readable(Path(path)):
        summary = file["summary"][()]
    if not isinstance(summary, np.ndarray) or summary.dtype.names != SUMMARY_DTYPE.names:
        raise StoreError(f"{path}: /summary does not have the fields {', '.join(SUMMARY_DTYPE.names or ())}")
    return summary


def read_attrs(path: Path | str) -> dict[str, Any]:
    """Read the root attributes: schema, gcref_version, command, config, complete, digest."""
    with open_results(path) as file, _readable(Path(path)):
        return dict(file.attrs)


# -----------------------------------------------------------------------------------------------------------
# Digests


def _update(sha: Any, name: str, array: np.ndarray) -> None:
    """Add a named array to a hash: name, type, shape and bytes."""
    sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
    sha.update(np.ascontiguousarray(array).tobytes())


def _attributes(group: h5py.Group | h5py.Dataset) -> bytes:
    """Return the digested attributes of an object as one canonical text."""
    values = {k: v.item() if isinstance(v, np.generic) else v for k, v in group.attrs.items() if k not in NOT_DIGESTED}
    return json.dumps(values, sort_keys=True, default=repr).encode()


def digest(group: h5py.Group) -> str:
    """SHA-256 of everything under a trajectory's group, attributes too, `seconds` aside."""
    sha = hashlib.sha256(_attributes(group))
    names: list[str] = []
    group.visit(names.append)
    for name in sorted(names):
        item = group[name]
        if isinstance(item, h5py.Dataset):
            _update(sha, name, item[()])
        else:
            sha.update(f"{name}|".encode())
        sha.update(_attributes(item))
    return sha.hexdigest()


def root_digest(file: h5py.File) -> str:
    """SHA-256 of the root's attributes, the summary, and every trajectory's name and stored digest."""
    sha = hashlib.sha256(_attributes(file))
    _update(sha, "summary", file["summary"][()])
    for name in sorted(file["trajectories"]):
        sha.update(f"{name}|{file['trajectories'][name].attrs.get('digest')}|".encode())
    return sha.hexdigest()
