"""Writing the results file: one HDF5 file, built from shards so that no crash can corrupt it.

While a study runs, every finished trajectory is a small file of its own in the folder ``<results>.parts``: written
aside, flushed to disk and renamed, so a shard is either whole or absent. It ends in the SHA-256 of its name and bytes
(HDF5 does not mind), so that one damaged later is known without being opened. At the end (or at Ctrl-C) the shards are
merged, in the order of the grid, into the results file, which appears by the same rename.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gcref.atomic import replacing, writing
from gcref.store import (
    SCHEMA,
    SUMMARY_DTYPE,
    StoreError,
    digest,
    open_results,
    parts_of,
    read_attrs,
    root_digest,
)

CHECKSUM = 32  # bytes of a shard's end
PACKED = {"shuffle": True, "compression": "gzip", "compression_opts": 1}
NOTE = "config.json"  # in the folder of shards: the configuration they belong to


def shard_image(name: str, attrs: dict[str, Any], arrays: dict[str, np.ndarray], lasting: bool = True) -> bytes:
    """Return one trajectory as the bytes of a shard, which a worker without the results' folder can send.

    Parameters
    ----------
    name : str
        The trajectory's id.
    attrs : dict
        Attributes of its group: numbers and strings.
    arrays : dict
        Data sets by their path inside the group, such as ``variance/gc``.
    lasting : bool
        Whether it goes into the results file, compressed and with a digest; a checkpoint does not.
    """
    image = io.BytesIO()  # on a full disk HDF5 would bring the process down, where a plain write says so
    with h5py.File(image, "w") as file:
        group = file.create_group(name)
        for path, array in arrays.items():
            group.create_dataset(path, data=array, **(PACKED if lasting and array.size > 64 else {}))
        group.attrs.update(attrs)
        if lasting:
            group.attrs["digest"] = digest(group)
    return image.getvalue()


def keep_shard(folder: Path, name: str, image: bytes) -> None:
    """Write the bytes of a shard as ``folder/name.h5``, whole or not at all (then an OSError that names it)."""
    with writing(folder / f"{name}.h5"):
        _keep(folder, name, image)


def _keep(folder: Path, name: str, image: bytes) -> None:
    """Write the bytes of a shard, and the checksum they are known by."""
    with replacing(folder / f"{name}.h5") as aside, open(aside, "wb") as handle:
        handle.write(image)
        handle.write(_checksum(name, image))


def _checksum(name: str, image: bytes | memoryview) -> bytes:
    """Return what a shard ends in."""
    sha = hashlib.sha256(f"{name}|".encode())
    sha.update(image)
    return sha.digest()


def write_shard(
    folder: Path, name: str, attrs: dict[str, Any], arrays: dict[str, np.ndarray], lasting: bool = True
) -> None:
    """Write one trajectory into `folder`, which exists, as a shard (see `shard_image`)."""
    keep_shard(folder, name, shard_image(name, attrs, arrays, lasting))


def present(folder: Path) -> set[str]:
    """Return the names of the shards in `folder`, unread."""
    return {entry.name[:-3] for entry in os.scandir(folder) if entry.name.endswith(".h5")}


def read_shard(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read back what `write_shard` wrote, attributes and arrays; the shard must be there, whole (see `finished`)."""
    with h5py.File(folder / f"{name}.h5", "r") as file:
        return _contents(file[name])


def _contents(group: h5py.Group) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the attributes of a trajectory and its arrays."""
    arrays: dict[str, np.ndarray] = {}

    def take(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[path] = np.asarray(item[()])

    group.visititems(take)
    return dict(group.attrs), arrays


def finished(folder: Path, names: Sequence[str]) -> list[str]:
    """Return those of `names` with a whole shard in `folder`; a damaged one is deleted, so computed again."""
    good = []
    for name in filter(present(folder).__contains__, names):
        path = folder / f"{name}.h5"
        data = memoryview(path.read_bytes())
        if data[-CHECKSUM:] == _checksum(name, data[:-CHECKSUM]):
            good.append(name)
        else:
            path.unlink()
    return good


def merge(
    path: Path,
    names: Sequence[str],
    attrs: dict[str, Any],
    rows: Callable[[h5py.Group], list[tuple]],
    keep_shards: bool = False,
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
    keep_shards : bool
        Whether to keep all shards, so that a run can go on from them.

    Raises
    ------
    OSError
        If it cannot be written; the shards are kept.
    """
    parts = parts_of(path)
    image = io.BytesIO()  # as in `shard_image`
    with writing(path):
        with h5py.File(image, "w") as file:
            trajectories = file.create_group("trajectories", track_order=True)
            summary: list[tuple] = []
            for name in names:
                with h5py.File(parts / f"{name}.h5", "r") as shard:
                    shard.copy(shard[name], trajectories, name)
                summary += rows(trajectories[name])
            file["summary"] = np.array(summary, SUMMARY_DTYPE)
            file.attrs.update({"schema": SCHEMA, **attrs})
            file.attrs["digest"] = root_digest(file)
        with replacing(path, parts) as aside:
            aside.write_bytes(image.getbuffer())
    if not keep_shards:
        _discard(parts)


def _discard(parts: Path) -> None:
    """Delete a folder of shards: renamed first, so that a kill leaves it whole or gone."""
    shutil.rmtree(_trash(parts), ignore_errors=True)  # what an earlier kill left
    os.replace(parts, _trash(parts))
    shutil.rmtree(_trash(parts))


def _trash(parts: Path) -> Path:
    """Return the name under which a folder of shards is deleted."""
    return parts.with_name(f".{parts.name}.old")


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
    state, parts = check(path, config, overwrite), parts_of(path)
    try:
        if state == "finished":
            if _config_of(parts) == config:  # a kill came between the file's rename and this
                _discard(parts)
            shutil.rmtree(_trash(parts), ignore_errors=True)
            return True
        _claim_parts(parts, config)
        if state == "unfinished":
            _unpack(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None
    return False


def check(path: Path, config: str, overwrite: bool = False) -> str:
    """Refuse what `claim` would, touching nothing: for before the data are loaded.

    Returns
    -------
    str
        Whether the results file of `config` is "absent" (or to be replaced), "unfinished" or "finished".

    Raises
    ------
    StoreError
        As `claim`.
    """
    try:
        if not path.parent.is_dir():
            raise StoreError(f"{path}: the folder {path.parent} does not exist")
        if path.is_dir():
            raise StoreError(f"{path} is a folder; a file name is needed")
        state = _state(path, config, overwrite)
        if state != "finished":
            if not os.access(path.parent, os.W_OK):
                raise StoreError(f"{path} cannot be written: the folder {path.parent} is read-only")
            _check_parts(parts_of(path), config, overwrite)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    return state


def _state(path: Path, config: str, overwrite: bool) -> str:
    """Return what `check` does of the results file; raise if it is something else."""
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
        raise StoreError(f"{path} holds another configuration{_difference(attrs.get('config'), config)}; {advice}")
    return "finished"


def may_hold_a_part(path: Path, config: str) -> bool:
    """Say whether an unfinished file of `config` may be put at `path`: if nothing is there, or an earlier such file."""
    return not path.exists() or _state(path, config, overwrite=True) == "unfinished"


def _difference(found: Any, wanted: str) -> str:
    """Say how one configuration differs from another, in as many words as are useful."""
    try:
        there, asked = json.loads(found), json.loads(wanted)
        names = [name for name in asked if there.get(name) != asked[name]]
    except (TypeError, ValueError, AttributeError, RecursionError):
        return ""
    shown = [f"{name} {' '.join(str(there.get(name)).split())[:60]} instead of {asked[name]}" for name in names[:3]]
    return f" ({', '.join(shown)}{', ...' if len(names) > 3 else ''})" if names else ""


def _check_parts(parts: Path, config: str, overwrite: bool) -> None:
    """Refuse a folder of shards that is no such folder, or of another configuration."""
    found = _config_of(parts)
    if found == config or not parts.exists():
        return
    if found is None:
        raise StoreError(f"{parts} is in the way and not the parts of a run; move it, or give another name")
    if not overwrite:
        raise StoreError(
            f"{parts} holds an unfinished run of another configuration; finish it, delete it, or give --overwrite"
        )


def _claim_parts(parts: Path, config: str) -> None:
    """Make or take up the folder of shards of `config`."""
    if parts.exists():
        if _config_of(parts) == config:
            return
        _discard(parts)
    # Renamed into place with its note inside, so that no kill can leave a folder that nobody recognises.
    aside = parts.with_name(f".{parts.name}.new")
    try:
        aside.mkdir(exist_ok=True)
        (aside / NOTE).write_text(config, encoding="utf-8")
        os.replace(aside, parts)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise


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
            try:  # to read it, for HDF5's own way to copy is none that the file was inspected for
                whole = trajectories[name].attrs["digest"] == digest(trajectories[name])
                image = shard_image(name, *_contents(trajectories[name])) if whole else b""
            except MemoryError:
                raise
            except Exception:  # bytes damaged anywhere can make HDF5 raise anything
                whole = False
            if whole:  # else it is left out, and so computed again
                _keep(parts, name, image)
