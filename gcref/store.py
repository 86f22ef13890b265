"""The results file (its layout is in the README): reading it, and the digests that vouch for its numbers.

Every trajectory carries the digest of its numbers and the file the digest of the whole, so that no number can change
unnoticed. `gcref.shards` writes it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gcref import hdf5

SCHEMA = "gcref/1"
LARGEST = 1 << 28  # bytes of a data set, unless the file itself is large
NOT_DIGESTED = {"digest", "seconds", "command"}  # equal numbers have equal digests, however they came about

SUMMARY_DTYPE = np.dtype(
    [
        ("trajectory", "S128"), ("method", "S32"), ("learning_rate", "f8"), ("overparametrization", "f8"),
        ("n_train", "i8"), ("input_dim", "i8"), ("teacher_hidden", "i8"), ("seed", "i8"), ("duplicate_fraction", "f8"),
        ("variance_mean70", "f8"), ("variance_max70", "f8"),
        ("normalized_variance_mean70", "f8"), ("normalized_variance_max70", "f8"),
    ]
)  # fmt: skip


class StoreError(ValueError):
    """A path that cannot be read, or written, as a results file; the message says in one sentence why."""


def parts_of(path: Path) -> Path:
    """Return the folder of the shards of the results file `path`."""
    return path.with_name(path.name + ".parts")


@contextmanager
def open_results(path: Path | str) -> Iterator[h5py.File]:
    """Open a results file for reading, after a process of its own has found nothing in it that could do harm.

    Raises
    ------
    StoreError
        If there is no such file, it is not HDF5 or cut short, has another schema, leads to other files, holds more than
        its bytes can stand for, or makes HDF5 crash.
    """
    path = Path(path)
    if not path.is_file():
        hint = ""
        if path.name and parts_of(path).is_dir():
            hint = "; an unfinished run left its parts beside it: run the same command again to finish it"
        raise StoreError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}{hint}")
    _check_harmless(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path} {_complaint(error)}") from None
    with file:
        with readable(path):
            found = file.attrs.get("schema")
            missing = [name for name in ("summary", "trajectories") if name not in file]
            group = "trajectories" in file and isinstance(file["trajectories"], h5py.Group)
        if found is None:
            raise StoreError(f"{path} is not a results file: it has no schema, where {SCHEMA!r} is expected")
        if not isinstance(found, str) or found != SCHEMA:
            shown = repr(found) if isinstance(found, str) else type(found).__name__
            raise StoreError(f"{path} has schema {shown:.60}; this version reads {SCHEMA!r}")
        if missing:
            raise StoreError(f"{path} has no /{missing[0]}: it was not written to its end")
        if not group:
            raise StoreError(f"{path} is damaged: /trajectories is not a group")
        yield file


def _check_harmless(path: Path) -> None:
    """Refuse a file that this process must not read."""
    try:
        faults = hdf5.inspect(path, max(LARGEST, 4 * path.stat().st_size))
    except hdf5.BrokenDownError as error:
        raise StoreError(f"{path} is damaged: it {error}") from None
    for name, reason in sorted(faults.items()):
        raise StoreError(f"{path}: {ascii(name) + ' ' if name else ''}{reason}")


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
def readable(path: Path) -> Iterator[None]:
    """Turn whatever HDF5 raises on damaged contents, within the block, into a StoreError that names `path`."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{path} is damaged: {reason}") from None


def read_summary(path: Path | str) -> np.ndarray:
    """Read the summary table, a structured array of `SUMMARY_DTYPE` with one row a trajectory and method.

    Raises
    ------
    StoreError
        As `open_results`, or if the table has other fields.
    """
    with open_results(path) as file, readable(Path(path)):
        summary = file["summary"][()]
    if not isinstance(summary, np.ndarray) or summary.dtype != SUMMARY_DTYPE or summary.ndim != 1:
        raise StoreError(f"{path}: /summary is not a table of the fields {', '.join(SUMMARY_DTYPE.names or ())}")
    with readable(Path(path)):
        for name in ("trajectory", "method"):
            np.char.decode(summary[name], "ascii")
    return summary


def read_trajectory(path: Path | str, name: str | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a trajectory's attributes and series, snapshots left out.

    Parameters
    ----------
    path : path
    name : str, optional
        The trajectory; not needed where the file has only one.

    Raises
    ------
    StoreError
        As `open_results`; if there is no such trajectory, or none is named and there are several.
    """
    with open_results(path) as file, readable(Path(path)):
        names = list(file["trajectories"])
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            which = "name one of them" if name is None else f"none of them is {name!r}"
            raise StoreError(f"{path} has {len(names)} trajectories; {which}")
        series: dict[str, np.ndarray] = {}

        def take(place: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset) and not place.startswith("snapshots/"):
                series[place] = np.asarray(item[()])

        group = file["trajectories"][name]
        group.visititems(take)
        return dict(group.attrs), series


def read_attrs(path: Path | str) -> dict[str, Any]:
    """Read the root attributes: schema, gcref_version, command, config, complete, digest.

    Raises
    ------
    StoreError
        As `open_results`; if config is there and no text, or complete neither true nor false.
    """
    with open_results(path) as file, readable(Path(path)):
        attrs = dict(file.attrs)
    for name, kind in (("config", str), ("complete", np.bool_)):
        if not isinstance(attrs.get(name, kind()), kind):
            raise StoreError(f"{path} is damaged: its attribute {name} is of type {type(attrs[name]).__name__}")
    return attrs


def read_config(path: Path | str) -> dict[str, Any]:
    """Read the configuration of the study a file is of; ``"schema"`` says which ("rf-sweep/1", "image/1").

    Raises
    ------
    StoreError
        As `open_results`, or if the configuration is not a JSON object with a schema.
    """
    text = read_attrs(path).get("config")
    try:
        config = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):  # no JSON, or a number of too many digits, or nested too deeply
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("schema"), str):
        raise StoreError(f"{path}: config must be a JSON object that names the study's schema, got {text!r:.60}")
    return config


def doubts(path: Path | str) -> list[str]:
    """Say what a reader should know of a results file before trusting its summary; usually nothing.

    Raises
    ------
    StoreError
        As `open_results`.
    """
    with open_results(path) as file, readable(Path(path)):
        out = []
        if not file.attrs.get("complete", True):
            out.append(f"holds an unfinished run ({len(file['trajectories'])} trajectories)")
        if "digest" in file.attrs and file.attrs["digest"] != root_digest(file):
            out.append("has changed since it was written; gcref validate says where")
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Digests


def _update(sha: Any, name: str, array: np.ndarray) -> None:
    """Add a named array to a hash: name, type, shape and bytes."""
    sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


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
