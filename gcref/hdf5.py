"""What an HDF5 file made by somebody else may hold, found out in a process of its own before this one reads it.

The HDF5 library is written in C: bytes damaged anywhere in a file can crash it or keep it busy for ever, a few can
unpack to any number, and a file can have parts of others read in its place. `inspect` sends a process ahead, with
limits on its memory and time, that looks at all there is. If it does not come back, nor would this one.
"""

import atexit
import errno
import json
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py

from gcref.cores import THREAD_VARIABLES

if sys.platform != "win32":
    import resource

MOST = 1 << 28  # bytes of one chunk, which can only be read whole
_MEMORY = 3 << 28  # bytes that the process sent ahead may have beside what it needs to start
_SECONDS, _BYTES_A_SECOND = 5, 1 << 18  # of processor time: some for a start, and more for a larger file
_EXPANSION = 1100  # bytes that a byte can stand for: deflate reaches 1032
_SMALL = 1 << 24  # bytes, up to which numbers are read to see whether they can be
_ATTRIBUTE = 1 << 20  # bytes of an attribute; ours have some hundred
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}
_CHECKSUM = 4  # bytes that fletcher32 adds


class BrokenDownError(ValueError):
    """HDF5 crashed on a file, or would have needed more memory or time than any whole file does."""


def inspect(path: Path | str, most: int | None = None) -> dict[str, str]:
    """Say what of an HDF5 file is not to be read, by the name of the object, "" being the whole file.

    Parameters
    ----------
    path : path
        It is opened in a process of its own; a result is kept as long as the file's size and time do not change.
    most : int, optional
        The most bytes that a data set may have, for whoever reads it whole.

    Returns
    -------
    dict
        Links to other files, numbers that lie in them, objects of variable length, numbers that are only declared, that
        are packed by other filters than gzip, shuffle and fletcher32 or unpack to more than they should, and names like
        paths. What is merely damaged is not among them: reading it is an error of h5py.

    Raises
    ------
    BrokenDownError
        A ValueError; its message is the predicate of a sentence: "makes HDF5 crash".
    """
    path = os.path.realpath(path)
    about = os.stat(path)
    return _inspect(path, most or sys.maxsize, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _inspect(path: str, most: int, *state: int) -> dict[str, str]:
    """Have a process look at a file; `state` is that of the file, so that a changed one is looked at again."""
    used = bool(_waiting)
    inspector = _waiting.pop() if used else _Inspector()
    try:
        found = inspector.ask(path, most)
    except BaseException:
        inspector.end()
        raise
    if found is not None:
        _waiting.append(inspector)
        if isinstance(found, str):
            raise BrokenDownError(found)
        return found
    code = inspector.end()
    if code == -_CPU_SIGNAL:
        raise BrokenDownError("keeps HDF5 busy without an end")
    if code == -_KILL_SIGNAL:  # the file is innocent
        raise OSError(errno.ENOMEM, "the process that inspects HDF5 files was killed; out of memory?", path)
    if used:  # what an earlier file did to the process may have come out only now
        return _inspect(path, most, *state)
    raise BrokenDownError("makes HDF5 crash")


class _Inspector:
    """The process sent ahead. It looks at one file after the other until one brings it down, or its parent ends."""

    def __init__(self) -> None:
        # The modules come from where this process has them, never from the folder that happens to be the current one.
        code = f"import sys; sys.path[:] = {sys.path!r}; from gcref.hdf5 import _main; _main()"
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {"HDF5_PLUGIN_PRELOAD": "::"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        if self._answer() is None:
            raise OSError(errno.ECHILD, f"the process that inspects HDF5 files ended at its start, with {self.end()}")

    def ask(self, path: str, most: int) -> Any:
        """Return the faults of a file, or what is to be said of it as a whole; None if the process is no more."""
        try:
            self._process.stdin.write(json.dumps([path, most]).encode() + b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            return None
        return self._answer()

    def end(self) -> int:
        """End the process, if it has not ended; return its exit code."""
        self._process.stdout.close()  # type: ignore[union-attr]
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        return json.loads(line) if line.endswith(b"\n") else None


_waiting: list[_Inspector] = []  # at most one, unless several threads read
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)  # two processes must not talk to one


@atexit.register
def _end_all() -> None:
    for inspector in _waiting:
        inspector.end()


# ------------------------------------------------------------------------------------------- in the process sent ahead

_CPU_SIGNAL, _KILL_SIGNAL = 24, 9  # SIGXCPU, SIGKILL


def _main() -> None:
    """Answer each line, a path and the most bytes a data set may have, with one line."""
    _limit_memory()
    print("true", flush=True)
    for line in sys.stdin:
        path, most = json.loads(line)
        _limit_time(os.stat(path).st_size)
        try:
            answer: Any = _faults(path, most)
        except MemoryError:
            answer = "makes HDF5 need too much memory"
        print(json.dumps(answer), flush=True)


def _faults(path: str, most: int) -> dict[str, str]:
    """Return what is not to be read of a file."""
    size = os.stat(path).st_size
    faults: dict[str, str] = {}
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):  # so it will be for whoever asked
        return {}
    with file:
        total = sum(_look(name, item, most, faults) for name, item in _members(file, faults))
    if total > _SMALL + _EXPANSION * size:
        faults[""] = f"declares {total} bytes in a file of {size}"
    return faults


def _limit_memory() -> None:
    """Bound the memory, where the system can; a crash leaves no image of it behind."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY)
    if sys.platform != "win32":
        _limit(resource.RLIMIT_CORE, 0)


def _limit_time(size: int) -> None:
    """Bound the processor time from here on: an endless loop is ended by the system."""
    if sys.platform != "win32":
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _limit(resource.RLIMIT_CPU, int(used) + _SECONDS + size // _BYTES_A_SECOND)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _members(group: h5py.Group, faults: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield each object below a group once, itself too, and note what leads elsewhere."""
    seen, waiting = set(), [("", group)]
    while waiting:
        place, item = waiting.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield place, item
        if isinstance(item, h5py.Group):
            waiting += _children(place, item, faults)


def _children(place: str, group: h5py.Group, faults: dict[str, str]) -> list[tuple[str, Any]]:
    """Return what lies directly in a group."""
    found = []
    try:
        for name in group:
            path = f"{place}/{name}".lstrip("/")
            if "/" in name or name in ("", ".", ".."):
                faults[path] = "has a name like a path"
                continue
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.HardLink):
                found.append((path, group[name]))
            elif not isinstance(link, h5py.SoftLink):
                faults[path] = "is a link to another file"
    except MemoryError:
        raise
    except Exception:  # damaged: reading it will be the same error
        pass
    return found


def _look(name: str, item: Any, most: int, faults: dict[str, str]) -> int:
    """Note what is wrong with an object; return the bytes that its numbers have."""
    try:
        _look_at_attributes(name, item, faults)
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            return 0
        reason = _reason(item, most)
        if reason is not None:
            faults[name] = reason
            return 0
        if item.nbytes <= _SMALL:
            item[()]
        return item.nbytes
    except MemoryError:
        raise
    except Exception:  # damaged: reading it will be the same error
        return 0


def _look_at_attributes(name: str, item: Any, faults: dict[str, str]) -> None:
    """Read the attributes, unless one is too large to be one."""
    for key in item.attrs:
        size = item.attrs.get_id(key).get_storage_size()
        if size > _ATTRIBUTE:
            faults[name] = f"has an attribute of {size} bytes"
        else:
            item.attrs[key]


def _reason(item: h5py.Dataset, most: int) -> str | None:
    """Say why a data set is not to be read, if it is not."""
    if item.is_virtual or item.external:
        return "lies in other files"
    if item.dtype.hasobject:
        return "holds Python objects, which are not loaded"
    if item.nbytes > most:
        return f"has {item.nbytes} bytes, more than the {most} that are expected at most"
    return _reason_of_size(item) or _reason_of_filters(item)


def _reason_of_size(item: h5py.Dataset) -> str | None:
    """Say so if some of the numbers are only declared: HDF5 would make them up, and never run out of them."""
    if item.chunks is None:
        found, expected, unit = item.id.get_storage_size(), math.prod(item.shape) * item.dtype.itemsize, "bytes"
    else:
        if math.prod(item.chunks) * item.dtype.itemsize > MOST:
            return f"has chunks {item.chunks} of more than {MOST >> 20} MiB; smaller ones are expected"
        counts = [-(-n // each) for n, each in zip(item.shape, item.chunks, strict=True)]
        found, expected, unit = item.id.get_num_chunks(), math.prod(counts), "chunks"
    if found != expected:
        return f"has {found} {unit}, but its shape {item.shape} needs {expected}"
    return None


def _reason_of_filters(item: h5py.Dataset) -> str | None:
    """Say so if a data set is packed by filters not known here, or a chunk unpacks to more than there is room for."""
    properties = item.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if not set(filters) <= _FILTERS.keys() or len(set(filters)) < len(filters):
        return f"is packed by other filters than {', '.join(_FILTERS.values())}"
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return None
    whole = math.prod(item.chunks) * item.dtype.itemsize
    for number in range(item.id.get_num_chunks()):
        mask, packed = item.id.read_direct_chunk(item.id.get_chunk_info(number).chunk_offset)
        if not _unpacks(packed, [f for i, f in enumerate(filters) if not mask >> i & 1], whole):
            return f"has a chunk that unpacks to other than its {whole} bytes"
    return None


def _unpacks(packed: bytes, filters: list[int], whole: int) -> bool:
    """Whether a chunk unpacks to what it should, or not at all, because it is damaged."""
    place = filters.index(h5py.h5z.FILTER_DEFLATE) if h5py.h5z.FILTER_DEFLATE in filters else None
    if place is None:
        return True
    if h5py.h5z.FILTER_FLETCHER32 in filters[place:]:
        packed = packed[:-_CHECKSUM]
    expected = whole + _CHECKSUM * (h5py.h5z.FILTER_FLETCHER32 in filters[:place])
    stream = zlib.decompressobj()
    try:
        unpacked = len(stream.decompress(packed, expected + 1))
    except zlib.error:
        return True
    return unpacked == expected or (unpacked < expected and not stream.eof)
