"""Bytes out of files that may be compressed, cut short or lying about their size."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from gcref.data.places import DataError

_PIECE = 1 << 20
_FURTHEST = 1 << 30  # bytes into an archive; the real ones have 186 million
_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever is raised by reading a damaged or forbidden file into a DataError that names it."""
    try:
        yield
    except EOFError:
        raise DataError(f"{path} is cut short: its compressed data end too early") from None
    except (OSError, zlib.error, tarfile.TarError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read: {reason}") from None


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if its contents are gzip, whatever its name is."""
    with readable(path), path.open("rb") as file:
        compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if not compressed:
            yield file
        else:
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast(IO[bytes], stream)


class Frugal:
    """A stream that is never read in large pieces or far into, whatever an archive's headers declare.

    Parameters
    ----------
    stream : binary stream
        One that can be told to seek.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, which must not be many; raise a tarfile.TarError if they are."""
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError(f"a header declares {size} bytes")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, which must not be far; raise a tarfile.TarError if it is."""
        if whence == 0 and offset > _FURTHEST:
            raise tarfile.ReadError(f"a file is said to end at byte {offset}")
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self.stream.tell()


def read_up_to(stream: IO[bytes], limit: int) -> bytearray:
    """Read `limit` bytes, or fewer where the stream ends before; memory grows only with what is really there."""
    data = bytearray()
    while len(data) < limit:
        piece = stream.read(min(_PIECE, limit - len(data)))
        if not piece:
            break
        data += piece
    return data
