"""Traces in a file, from any framework: what a program with gradients of its own hands over to be clustered.

An HDF5 file or a NumPy .npz archive holds the same arrays at its top level, two for each parameter block 0, 1, ...:

================  =============================  ===================================================================
``A0, A1, ...``   ``(N, I)`` or ``(N, T, I)``    the block's input for each example and position; where the block
                                                 has a bias, the last input is 1
``D0, D1, ...``   ``(N, O)`` or ``(N, T, O)``    the gradient of each example's own loss with respect to the block's
                                                 output: nothing is divided by the batch size
================  =============================  ===================================================================

float32 or float64, of either byte order, in C order. Example i has the gradient Σ_t A_it D_itᵀ, T = 1 where there are
two dimensions. Arrays of other names are left alone. Nothing is ever unpickled, and no other file is read.
"""

import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import h5py
import numpy as np

from gcref import hdf5
from gcref.atomic import replacing, reserve, writing
from gcref.engine.trace import Array, Trace, check_traces, concatenate, first_bad_row

BATCH_BYTES = 1 << 26
MOST = hdf5.MOST  # bytes of one example
MOST_ROWS = 1 << 16  # examples in a batch: what is computed of each may be more than its traces
_CHUNK = 1 << 20  # bytes of the largest chunk written; HDF5 keeps one so small at hand, so that it is read once
_HEADER = 10_000  # bytes of a .npy header, NumPy's own limit
_NAME = re.compile(r"[AD](0|[1-9]\d{0,5})")

Blocks = list[tuple[int, int, int]]


class TraceFileError(ValueError):
    """A file that holds no traces, or not all of them; the message names file and array, and what was expected."""


class TraceFile:
    """The traces of a file, read in batches: a function without arguments that yields the batches anew at each call.

    Parameters
    ----------
    path : path
        An HDF5 file or .npz archive of the arrays A0, D0, A1, D1, ... (see the module).
    batch_bytes : int, default 64 MiB
        About the memory of a batch; up to four times as much where HDF5 chunks are large, so that each is read once,
        or a single example if that is larger, 256 MiB at most.

    Attributes
    ----------
    n_examples : int
        N.
    blocks : list of (T, I, O)
        The parameter blocks.
    nbytes : int
        The memory of all traces.

    Raises
    ------
    TraceFileError
        A ValueError, on creation, if the file cannot be read or its arrays do not fit; in a pass, if a number is not
        finite or the file has been damaged.

    Examples
    --------
    ::

        traces = TraceFile("traces.h5")
        labels = gcref.SketchedClustering(128).fit(traces).labels_
    """

    def __init__(self, path: str | Path, batch_bytes: int = BATCH_BYTES) -> None:
        self.path = Path(path)
        with _errors_told(self.path), _arrays_of(self.path) as arrays:
            self.n_examples, self.blocks = _check(arrays)
            self.nbytes = sum(array.nbytes for array in arrays.values())
            self._rows = _rows(arrays, batch_bytes)

    def __call__(self, piece: range | None = None) -> Iterator[list[Trace]]:
        """Yield the batches, in order: one Trace a block each; of one of the `pieces` only, if it is given."""
        with _errors_told(self.path), _arrays_of(self.path) as arrays:
            n_examples, blocks = _check(arrays)
            for start in range(0, n_examples, self._rows) if piece is None else [piece.start]:
                stop = min(start + self._rows, n_examples)
                names = [(f"A{block}", f"D{block}") for block in range(len(blocks))]
                yield [Trace(arrays[a].read(start, stop), arrays[d].read(start, stop)) for a, d in names]

    def pieces(self) -> list[range]:
        """Return the examples of each batch: pieces of a pass that workers can read, each for itself."""
        return [range(i, min(i + self._rows, self.n_examples)) for i in range(0, self.n_examples, self._rows)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}): {self.n_examples} examples, blocks (T, I, O) {self.blocks}"


def write_traces(path: str | Path, traces: Any) -> None:
    """Write traces to a file that `TraceFile` and ``gcref cluster`` read, whole or not at all.

    Parameters
    ----------
    path : path
        A new file: .h5 or .hdf5, which is written batch by batch, or .npz, for which all batches are joined in memory.
    traces : list of Trace, iterable of such lists, or callable
        The traces of one pass; or batches, in order, from a generator, too; or a function that yields the batches.

    Raises
    ------
    TypeError
        If `traces` is nothing of the kind.
    ValueError
        If the name ends in something else, or there are no examples, or the batches differ in their blocks, or, in
        HDF5, a later batch is float64 where the first is float32.
    FileExistsError
        If there is such a file; none is overwritten.
    OSError
        If it cannot be written, on a full disk say; nothing is left behind.
    """
    path = Path(path)
    if path.suffix not in {".h5", ".hdf5", ".npz"}:
        raise ValueError(f"path={str(path)!r}; a name that ends in .h5, .hdf5 or .npz is expected")
    if path.exists():
        raise FileExistsError(f"{path} exists; it is not overwritten")
    batches = _batches(traces)
    with writing(path), replacing(path) as aside:
        if path.suffix == ".npz":
            arrays = dict(_named(concatenate(list(batches))))
            with open(aside, "wb") as handle:
                np.savez(handle, **cast(dict[str, Any], arrays))
        else:
            with h5py.File(aside, "w") as file:
                _append(file, batches, aside)


def _batches(traces: Any) -> Iterator[Sequence[Trace]]:
    """Yield the batches of `traces`, none of them without examples."""
    if callable(traces):
        traces = traces()
    if isinstance(traces, Trace) or (isinstance(traces, (list, tuple)) and traces and isinstance(traces[0], Trace)):
        traces = [traces]
    if not isinstance(traces, Iterable):
        raise TypeError(f"traces is a {type(traces).__name__}; a list of Trace, or batches of them, are expected")
    filled = 0
    for number, batch in enumerate(cast(Iterable[Sequence[Trace]], traces)):
        check_traces(batch, f"batch {number} of traces")
        if batch[0].n_examples:
            filled += 1
            yield batch
    if not filled:
        raise ValueError("traces has no examples; at least one is expected")


def _named(batch: Sequence[Trace]) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of a batch under their names in a file."""
    for block, trace in enumerate(batch):
        yield f"A{block}", np.ascontiguousarray(trace.A)
        yield f"D{block}", np.ascontiguousarray(trace.D)


def _append(file: h5py.File, batches: Iterator[Sequence[Trace]], path: Path) -> None:
    """Write batches to an empty file, one after the other."""
    first = next(batches)
    rows = max(1, _CHUNK // max(1, *(array[0].nbytes for _, array in _named(first))))
    for name, array in _named(first):
        shape = array.shape[1:]
        file.create_dataset(name, (0, *shape), array.dtype, maxshape=(None, *shape), chunks=(rows, *shape))
    for batch in chain([first], batches):
        if [t.shape for t in batch] != [t.shape for t in first]:
            raise ValueError(f"a batch has blocks {list(batch)}, but the first has {list(first)}")
        if not all(np.can_cast(t.dtype, f.dtype) for t, f in zip(batch, first, strict=True)):
            raise ValueError(f"a batch has blocks {list(batch)}, but the first has float32 in one: {list(first)}")
        # Whole chunks, and what HDF5 writes about them.
        reserve(path, sum(array.nbytes + _CHUNK + array[0].nbytes for _, array in _named(batch)) + _CHUNK)
        for name, array in _named(batch):
            dataset = file[name]
            dataset.resize(len(dataset) + len(array), axis=0)
            dataset[-len(array) :] = array
        file.flush()


# ------------------------------------------------------------------------------------------------- the arrays of a file


@dataclass(frozen=True)
class _Array:
    """An array in an open file, of which rows can be read, at least cost in order.

    Attributes
    ----------
    take : callable
        Gives the rows from the first number to the one before the second.
    chunk_rows : int
        How many rows are stored in pieces too large to keep, so that it pays to read them together.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    take: Callable[[int, int], np.ndarray]
    chunk_rows: int = 1

    @property
    def row_bytes(self) -> int:
        """The memory of one example."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The memory of all examples."""
        return self.shape[0] * self.row_bytes

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows; refuse those that are not finite."""
        rows = self.take(start, stop)
        bad = first_bad_row(rows)
        if bad is not None:
            raise TraceFileError(f"{self.name} has NaN or infinity at example {start + bad}")
        return rows


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    """Name the file in every complaint, and turn whatever its libraries raise on damaged ones into one sentence."""
    try:
        yield
    except (TraceFileError, hdf5.BrokenDownError) as error:
        raise TraceFileError(f"{path}: {error}") from None
    except PermissionError:
        raise TraceFileError(f"{path}: permission denied") from None
    except Exception as error:  # zipfile, NumPy and h5py fail in many ways on bytes that are not what they seem
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TraceFileError(f"{path}: cannot be read, it may be damaged: {reason}") from None


@contextmanager
def _arrays_of(path: Path) -> Iterator[dict[str, _Array]]:
    """Open a file and give its arrays A0, D0, ... by name; nothing but their headers has been read."""
    if not path.is_file():
        raise TraceFileError("is a folder; a file is expected" if path.is_dir() else "no such file")
    with open(path, "rb") as handle:  # the one that names the reason if it cannot be read
        handle.read(1)
    if h5py.is_hdf5(path):
        faults = hdf5.inspect(path)
        with h5py.File(path, "r") as file:
            yield _of_hdf5(file, faults)
    elif zipfile.is_zipfile(path):
        with ExitStack() as stack:
            yield _of_npz(stack.enter_context(zipfile.ZipFile(path)), stack)
    else:
        raise TraceFileError("is neither an HDF5 file nor an .npz archive, or it is cut short")


def _of_hdf5(file: h5py.File, faults: dict[str, str]) -> dict[str, _Array]:
    """Return the arrays of an HDF5 file, unless there are `faults` in one of them, or the file."""
    names = [name for name in file if _NAME.fullmatch(name)]
    if not names:
        raise _no_arrays(list(file))
    for name in ["", *names]:
        if name in faults:
            raise TraceFileError(f"{name} {faults[name]}".strip())
    return {name: _hdf5_array(file, name) for name in names}


def _hdf5_array(file: h5py.File, name: str) -> _Array:
    """Return an array of an HDF5 file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise TraceFileError(f"{name} is a link; an array in the file itself is expected")
    item = file[name]
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise TraceFileError(f"{name} is not an array; (N, T, columns) or (N, columns) is expected")
    _check_form(name, item.shape, item.dtype)
    large = item.chunks and math.prod(item.chunks) * item.dtype.itemsize > _CHUNK
    return _Array(name, item.shape, item.dtype, lambda start, stop: item[start:stop], item.chunks[0] if large else 1)


def _of_npz(archive: zipfile.ZipFile, stack: ExitStack) -> dict[str, _Array]:
    """Return the arrays of an .npz archive."""
    arrays: dict[str, _Array] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if _NAME.fullmatch(name) and name != info.filename:
            if name in arrays:
                raise TraceFileError(f"{name} is in the archive twice")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise TraceFileError(f"{name} is packed by another method than numpy.savez_compressed's")
            arrays[name] = _npz_array(name, stack.enter_context(archive.open(info)), info.file_size)
    if not arrays:
        raise _no_arrays([info.filename.removesuffix(".npy") for info in archive.infolist()])
    return arrays


def _npz_array(name: str, stream: IO[bytes], file_size: int) -> _Array:
    """Return an array of an .npz archive, after the header of its file."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in headers:
        raise TraceFileError(f"{name} has a header of version {version}; (1, 0) or (2, 0) is expected")
    declared = int.from_bytes(stream.peek(4)[: 2 * version[0]], "little")  # type: ignore[attr-defined]
    if declared > _HEADER:  # before NumPy makes room for it
        raise TraceFileError(f"{name} has a header of {declared} bytes; at most {_HEADER} are expected")
    shape, fortran_order, dtype = headers[version](stream)
    _check_form(name, shape, dtype)
    if fortran_order:
        raise TraceFileError(f"{name} is in Fortran order; save numpy.ascontiguousarray({name})")
    begin = stream.tell()
    found, expected = file_size - begin, math.prod(shape) * dtype.itemsize
    if found != expected:
        raise TraceFileError(f"{name} has {found} bytes, but its shape {shape} needs {expected}")

    def take(start: int, stop: int) -> np.ndarray:
        rows = np.empty((stop - start, *shape[1:]), dtype)
        place = begin + start * math.prod(shape[1:]) * dtype.itemsize
        if stream.tell() != place:  # a piece of a pass; going there ends zipfile's check of the whole
            stream.seek(place)
        if stream.readinto(rows.reshape(-1).view(np.uint8)) < rows.nbytes:  # type: ignore[attr-defined]
            raise TraceFileError(f"{name} is cut short")
        return rows

    return _Array(name, shape, dtype, take)


# ----------------------------------------------------------------------------------------------------------- the checks


def _no_arrays(names: list[str]) -> TraceFileError:
    """Say what there is instead of traces."""
    found = ascii(names[:4])[1:-1] + (", ..." if len(names) > 4 else "") if names else "nothing"
    return TraceFileError(f"has no A0; arrays A0, D0, A1, D1, ... are expected, found {found}")


def _check_form(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise unless an array is of floats, has two or three dimensions and is not empty."""
    if dtype.hasobject:
        raise TraceFileError(f"{name} holds Python objects, which are not loaded; float32 or float64 is expected")
    if dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise TraceFileError(f"{name} has dtype {dtype}; float32 or float64 is expected")
    if len(shape) not in (2, 3):
        raise TraceFileError(f"{name} has shape {shape}; (N, T, columns) or (N, columns) is expected")
    if min(shape) < 1:
        raise TraceFileError(f"{name} has shape {shape}; at least one example, position and column are expected")


def _check(arrays: dict[str, _Array]) -> tuple[int, Blocks]:
    """Return N and (T, I, O) of each block; raise unless the arrays fit one another."""
    blocks = []
    for block in range(1 + max(int(name[1:]) for name in arrays)):
        A, D = _find(arrays, f"A{block}", f"D{block}"), _find(arrays, f"D{block}", f"A{block}")
        for array in (A, D):
            if array.shape[0] != arrays["A0"].shape[0]:
                raise TraceFileError(
                    f"{array.name} has {array.shape[0]} examples but A0 has {arrays['A0'].shape[0]}; one row an "
                    "example is expected"
                )
        (A_positions, n_inputs), (D_positions, n_outputs) = ((1, *array.shape[1:])[-2:] for array in (A, D))
        if A_positions != D_positions:
            raise TraceFileError(f"{D.name} has {D_positions} positions but {A.name} has {A_positions}")
        blocks.append((A_positions, n_inputs, n_outputs))
    return arrays["A0"].shape[0], blocks


def _find(arrays: dict[str, _Array], name: str, partner: str) -> _Array:
    """Return an array; say what a block needs if it is missing."""
    if name not in arrays:
        where = f"beside {partner}" if partner in arrays else f"though there is {max(arrays, key=lambda n: int(n[1:]))}"
        raise TraceFileError(
            f"{name} is missing {where}; blocks are numbered 0, 1, ... without gaps, an A and a D each"
        )
    return arrays[name]


def _rows(arrays: dict[str, _Array], batch_bytes: int) -> int:
    """Return how many examples a batch has: whole chunks, where that is possible."""
    each = sum(array.row_bytes for array in arrays.values())
    if each > MOST:
        raise TraceFileError(f"one example has {each} bytes in all arrays together; at most {MOST} are expected")
    chunk = max(array.chunk_rows for array in arrays.values())
    rows = min(max(1, batch_bytes // each, min(chunk, 4 * batch_bytes // each)), MOST_ROWS)
    return rows - rows % chunk if rows > chunk else rows
