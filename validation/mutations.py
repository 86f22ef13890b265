"""What is done to good files so that readers can be tried on bad ones: `gcref.validation.fuzz` reads what comes out.

Bytes are damaged as disks and networks do it, and as somebody would who knows the format: inside the compressed part of
a file, with its checksums made right again, and through the library that wrote it.
"""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Random = np.random.Generator

EXTREMES = (0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
HEAD = 4096  # bytes in which most formats say what is to come


# ------------------------------------------------------------------------------------------------------- any bytes


def _place(data: bytes, rng: Random) -> int:
    """Return a place in the data, every other time near the beginning."""
    return int(rng.integers(min(len(data), HEAD) if rng.random() < 0.5 else len(data)))


def flip(data: bytes, rng: Random) -> bytes:
    """Flip bits of up to 20 bytes, or set them to 0, 255 or anything."""
    out = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 4, 20]))):
        place = _place(data, rng)
        out[place] = int(rng.choice([0, 255, int(rng.integers(256)), out[place] ^ (1 << int(rng.integers(8)))]))
    return bytes(out)


def cut(data: bytes, rng: Random) -> bytes:
    """Cut the end off."""
    return data[: _place(data, rng)]


def number(data: bytes, rng: Random) -> bytes:
    """Write an extreme number of 2, 4 or 8 bytes somewhere."""
    size = int(rng.choice([2, 4, 8]))
    value = int(rng.choice(np.array(EXTREMES, np.uint64))) % 2 ** (8 * size)
    place = _place(data, rng)
    place -= place % int(rng.choice([1, size]))
    return data[:place] + value.to_bytes(size, "little" if rng.random() < 0.5 else "big") + data[place + size :]


def splice(data: bytes, rng: Random) -> bytes:
    """Put a piece of the data somewhere else: over what is there, or between."""
    start, place, size = _place(data, rng), _place(data, rng), int(rng.integers(1, 64))
    return data[:place] + data[start : start + size] + data[place + size * int(rng.integers(2)) :]


def extend(data: bytes, rng: Random) -> bytes:
    """Put something behind the end."""
    return data + rng.bytes(int(rng.integers(1, 2000)))


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (flip, flip, flip, number, number, cut, splice, extend)


def any_bytes(data: bytes, rng: Random) -> bytes:
    """Do one of these."""
    return BYTES[int(rng.integers(len(BYTES)))](data, rng) if data else data


# -------------------------------------------------------------------------------------- what is inside of containers


def within_gzip(data: bytes, rng: Random) -> bytes:
    """Damage what is compressed, and compress it again."""
    return gzip.compress(any_bytes(gzip.decompress(data), rng), mtime=0)


def within_zip(data: bytes, rng: Random) -> bytes:
    """Damage a member of a zip archive, its name or its array, and write all again with its checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    chosen, out = int(rng.integers(len(members))), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for place, (name, content, kind) in enumerate(members):
            if place == chosen:
                how = int(rng.integers(4))
                name = str(rng.choice(["../" + name, "/" + name, name + "\n", "A0.npy"])) if how == 0 else name
                content = _another_array(rng) if how == 1 else any_bytes(content, rng) if how > 1 else content
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return out.getvalue()


def within_png(data: bytes, rng: Random) -> bytes:
    """Damage the body of a chunk of a PNG picture, and make its checksum right again."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += size + 12
    chosen, out = int(rng.integers(len(chunks))), data[:8]
    for i, (kind, body) in enumerate(chunks):
        body = any_bytes(body, rng) if i == chosen else body
        out += len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    return out


def _another_array(rng: Random) -> bytes:
    """Return the bytes of a .npy file that nobody expects."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 3)}
    out = io.BytesIO()
    which = int(rng.integers(4))
    if which == 0:
        np.lib.format.write_array_header_1_0(out, header)
    else:
        arrays: list[Any] = [np.array(["text"]), np.full((3, 4), np.nan), np.array([{"an": "object"}], object)]
        np.lib.format.write_array(out, arrays[which - 1], allow_pickle=which == 3)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------- HDF5


def within_hdf5(data: bytes, rng: Random) -> bytes:
    """Change an object of an HDF5 file through HDF5, so that all is well with it but its meaning."""
    image = io.BytesIO(data)
    with h5py.File(image, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = str(rng.choice(sorted(names)))
        changes = [_attribute, _attribute, _array, _array, _elsewhere, _gone]
        changes[int(rng.integers(len(changes)))](file, name, rng)
    return image.getvalue()


def _values(rng: Random) -> Any:
    """Return a value that an attribute or a data set should not have."""
    values: list[Any] = [
        "text", "", "\x1b[31m", 'not {"JSON"', "[" * 5000, b"bytes", np.nan, -1, 2**63 - 1, 1.5, True,
        np.full((3, 3), np.nan), np.zeros(0), np.zeros((2, 0, 2)), np.arange(5), np.array([b"a", b"b"]),
        h5py.Empty("f8"), np.array([(1, 2.0)], "i4,f8"), np.float32(0.5), "../../outside", "nul\\0",
    ]  # fmt: skip
    return values[int(rng.integers(len(values)))]


def _attribute(file: h5py.File, name: str, rng: Random) -> None:
    """Give an attribute another value and type, or take it away."""
    item = file if rng.random() < 0.4 else file[name]
    keys = sorted(item.attrs) or ["note"]
    key = str(rng.choice(keys))
    if key in item.attrs and rng.random() < 0.2:
        del item.attrs[key]
    else:
        item.attrs[key] = _values(rng)


def _array(file: h5py.File, name: str, rng: Random) -> None:
    """Put another data set in the place of an object: other numbers, another shape or type, or only declared."""
    shape = getattr(file[name], "shape", None)
    del file[name]
    which = int(rng.integers(5))
    if which == 0:
        file.create_dataset(name, (2**40, 3), "f8", chunks=(1000, 3))
    elif which == 1:
        file.create_dataset(name, (2**40,), "f8")
    elif which == 2 and shape:
        file[name] = np.full(shape, rng.choice([np.nan, np.inf, -1.0, 1e308]))
    elif which == 3:
        file.create_dataset(name, data=["one", "two"], dtype=h5py.string_dtype())
    else:
        file[name] = _values(rng)


def _elsewhere(file: h5py.File, name: str, rng: Random) -> None:
    """Have an object lie in another file, or in another place of this one."""
    del file[name]
    which = int(rng.integers(4))
    if which == 0:
        file[name] = h5py.ExternalLink("outside/secret.h5", "secret")
    elif which == 1:
        file[name] = h5py.SoftLink(str(rng.choice(["/", "/summary", "/nowhere", f"/{name}"])))
    elif which == 2:
        file.create_dataset(name, (7,), "f8", external=[("outside/secret.h5", 0, 56)])
    else:
        layout = h5py.VirtualLayout((7,), "f8")
        layout[:] = h5py.VirtualSource("outside/secret.h5", "secret", (7,))
        file.create_virtual_dataset(name, layout)


def _gone(file: h5py.File, name: str, rng: Random) -> None:
    """Take an object away, or give it a name like a path's."""
    if rng.random() < 0.5:
        free = [new for new in ("..", "...", "x y", "A0", "A999999", "\x1b") if new not in file]
        file.move(name, str(rng.choice(free)))
    else:
        del file[name]


# --------------------------------------------------------------------------------------------------------- one file

WITHIN: dict[bytes, Callable[[bytes, Random], bytes]] = {
    b"\x89HDF": within_hdf5,
    b"\x1f\x8b": within_gzip,
    b"PK\x03\x04": within_zip,
    b"\x89PNG": within_png,
}


def mutate(path: Path, rng: Random) -> None:
    """Change a file, by its bytes or, where its format is known here, within."""
    data = path.read_bytes()
    inside = next((change for magic, change in WITHIN.items() if data.startswith(magic)), None)
    path.write_bytes(inside(data, rng) if inside is not None and rng.random() < 0.4 else any_bytes(data, rng))
