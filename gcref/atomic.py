"""Files that are whole or absent, and one run at a time for each."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gcref.store import StoreError

if sys.platform != "win32":
    import fcntl


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other runs off the results file `path` during the block; a kill frees it.

    Raises
    ------
    StoreError
        If another run holds it.
    """
    if sys.platform == "win32":
        yield
        return
    name = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that cannot be written is the business of `claim`
            handle = stack.enter_context(open(name, "ab"))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = os.path.samestat(os.fstat(handle.fileno()), os.stat(name))
            except (BlockingIOError, FileNotFoundError):  # or the other run ended, and deleted it, just now
                held = False
            if not held:
                raise StoreError(f"{path} is being written by another run")
            stack.callback(name.unlink, missing_ok=True)
        yield


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a name aside, in `folder`, for a file which replaces `path`, whole, if the block ends well."""
    aside = (folder or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield aside
        with open(aside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
        _sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an OSError in the block say in one sentence that `path` cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from None


def reserve(path: Path, n_bytes: int) -> None:
    """Raise OSError unless `n_bytes` more fit beside `path`, before HDF5 writes them: on a full disk it can crash."""
    if not hasattr(os, "posix_fallocate"):
        return
    probe = path.with_name(f"{path.name}.room")
    try:
        with open(probe, "wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot tell
            raise
    finally:
        probe.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
