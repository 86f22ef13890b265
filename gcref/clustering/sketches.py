"""Sketches of per-example gradients: a few numbers each, whose inner products are unbiased for the gradients'."""

import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcref.clustering.base import NotFiniteError, check_integer
from gcref.clustering.passes import Passes
from gcref.engine.algebra import add_sketch
from gcref.engine.trace import Trace, read_array
from gcref.executor import in_order, share

Blocks = list[tuple[int, int, int]]

_SIGNS = 0x516E  # the stream of the signs, apart from those of the iterations, which have one number
_FIELDS = {"sketches": 2, "blocks": 2, "seed": 0}  # of a file, and their dimensions


class Sketches:
    """Sketches z_i of the gradients of a data set, kept so that they can be added to, refreshed and saved.

    Each block l has random signs R_l (m, I) and Q_l (m, O), and each example

        z_i = m^(−1/2) Σ_l Σ_t (R_l A_it) ∘ (Q_l D_it),    E⟨z_i, z_j⟩ = ⟨g_i, g_j⟩.

    Parameters
    ----------
    dim : int
        m.
    seed : int, default 0
        Of the signs: sketches are comparable if dim, seed and the blocks' I and O are the same.

    Attributes
    ----------
    values : ndarray, shape (N, m), float64
        The sketches.
    blocks : list of (T, I, O)
        The parameter blocks of the gradients; empty before the first trace.

    Notes
    -----
    The m components are independent and √m z_ij = r_jᵀ g_i q_j is bilinear in the signs, so that E(√m z_ij)⁴ ≤
    9 ‖g_i‖⁴ and the standard deviation of ⟨z_i, z_j⟩ is at most 3 ‖g_i‖‖g_j‖/√m, whatever the layers.

    A block costs the cheaper of N T m (I + O) and N (T + m) I O multiplications (`gcref.engine.costs.sketch`).

    Examples
    --------
    >>> import numpy as np
    >>> from gcref import Sketches, Trace
    >>> traces = [Trace(np.ones((3, 4)), np.ones((3, 2)))]
    >>> Sketches(dim=16).add(traces).values.shape
    (3, 16)
    """

    values: NDArray[np.float64]

    def __init__(self, dim: int, seed: int = 0) -> None:
        check_integer("dim", dim, 1)
        check_integer("seed", seed, 0)
        self.dim, self.seed = int(dim), int(seed)
        self.blocks: Blocks = []
        self.values = np.zeros((0, self.dim))
        self._signs: dict[tuple[int, np.dtype], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim}, seed={self.seed}): {len(self)} examples"

    def add(self, traces: Any, executor: Executor | None = None) -> "Sketches":
        """Append the sketches of further examples, by one pass over their traces.

        Parameters
        ----------
        traces : list of Trace, list of such lists, or callable
            The traces of one pass; or batches, in order; or a function without arguments that yields the batches.
        executor : concurrent.futures.Executor, optional
            What makes the sketches of pieces of the pass, such as `gcref.executor.dask_pool`. `traces` then has
            ``pieces()``, which returns ranges of examples, and yields the batches of one of them when called with it,
            as a `gcref.trace_files.TraceFile` does. The numbers are the same to the last bit.

        Returns
        -------
        Sketches
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `traces` is nothing of the kind, of other blocks than those before, or not finite.
        """
        if executor is None:
            found = self._sketch(traces, len(self))
        else:
            found = self._sketch_elsewhere(traces, executor)
        self.values = np.concatenate([self.values, found]) if len(self) else found
        return self

    def refresh(self, traces: Any, indices: ArrayLike) -> "Sketches":
        """Put the sketches of `traces`, in order, in the place of those of the examples `indices`.

        Raises
        ------
        TypeError, ValueError
            As `add`; or if `indices` are not different examples, one for each of those of `traces`.
        """
        rows = read_indices(indices, len(self))
        found = self._sketch(traces, 0)
        if len(found) != len(rows):
            raise ValueError(f"traces has {len(found)} examples but indices has {len(rows)}")
        self.values[rows] = found
        return self

    def save(self, path: str | Path) -> None:
        """Write a NumPy .npz archive, whole or not at all: sketches (N, m) float64, blocks (L, 3), seed.

        Raises
        ------
        FileExistsError
            If there is such a file; none is overwritten.
        OSError
            If it cannot be written; nothing is left behind.
        """
        from gcref.atomic import replacing, writing  # which loads HDF5

        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists; it is not overwritten")
        with writing(path), replacing(path) as aside, open(aside, "wb") as file:
            np.savez(file, sketches=self.values, blocks=np.array(self.blocks, dtype=np.int64), seed=self.seed)

    @classmethod
    def load(cls, path: str | Path) -> "Sketches":
        """Read what `save` wrote; no pickled object is ever loaded.

        Raises
        ------
        ValueError
            If it is not such a file.
        """
        arrays = _read_sketches(path)
        values, blocks, seed = arrays["sketches"], arrays["blocks"], arrays["seed"]
        if values.dtype != np.float64 or blocks.dtype.kind != "i" or blocks.shape[1:] != (3,) or seed.dtype.kind != "i":
            raise ValueError(f"{path} holds arrays of other types or shapes than sketches have")
        sketches = cls(values.shape[1], int(seed))
        sketches.blocks = [tuple(block) for block in blocks.tolist()]
        _check_finite(values, 0)
        sketches.values = values
        return sketches

    def _sketch(self, traces: Any, before: int) -> NDArray[np.float64]:
        """Return the sketches of `traces`, (n, m); `before` examples come before them in messages."""
        passes = Passes(traces)
        found = []
        for _, batch in passes:
            _check_blocks(passes.blocks, self.blocks)
            found.append(self._of_batch(batch))
        if not found:
            raise ValueError("traces holds no batch; at least one example is needed")
        values = np.concatenate(found)
        _check_finite(values, before)
        self.blocks = passes.blocks
        return values

    def _sketch_elsewhere(self, traces: Any, executor: Executor) -> NDArray[np.float64]:
        """Return the sketches of `traces`, piece by piece from the workers of `executor`."""
        if not hasattr(traces, "pieces"):
            raise TypeError(f"traces is a {type(traces).__name__}; with an executor, one that has pieces() is expected")
        context = share(executor, (self.dim, self.seed, self.blocks, traces))
        pieces = traces.pieces()
        values = np.empty((sum(map(len, pieces)), self.dim))
        rows = iter(np.split(values, np.cumsum([len(piece) for piece in pieces])[:-1]))
        known = self.blocks
        for found, blocks in in_order(executor, _sketch_piece, context, pieces):
            _check_blocks(blocks, known)
            known = blocks
            next(rows)[:] = found
        self.blocks = known
        return values

    def _of_batch(self, batch: Sequence[Trace]) -> NDArray[np.float64]:
        """Return the sketches of one batch."""
        out = np.zeros((batch[0].n_examples, self.dim))
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is named once all blocks are added
            for block, trace in enumerate(batch):
                add_sketch(trace, *self._signs_of(block, trace), out)
        out *= self.dim**-0.5
        return out

    def _signs_of(self, block: int, trace: Trace) -> tuple[np.ndarray, np.ndarray]:
        """Return R (m, I) and Q (m, O) of a block, in the type of its trace."""
        key = block, trace.dtype
        if key not in self._signs:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(_SIGNS, block)))
            R, Q = (
                2 * rng.integers(0, 2, (self.dim, width), dtype=np.int8) - 1
                for width in (trace.n_inputs, trace.n_outputs)
            )
            self._signs[key] = R.astype(trace.dtype), Q.astype(trace.dtype)
        return self._signs[key]


def _sketch_piece(context: tuple[int, int, Blocks, Any], piece: range) -> tuple[NDArray[np.float64], Blocks]:
    """Return the sketches of one piece of a pass, and the blocks of its traces."""
    dim, seed, blocks, traces = context
    sketches = Sketches(dim, seed)
    sketches.blocks = blocks
    return sketches._sketch(lambda: traces(piece), piece.start), sketches.blocks


def dim_for(accuracy: float) -> int:
    """Return the m with which the standard deviation of ⟨z_i, z_j⟩ is at most `accuracy` ‖g_i‖‖g_j‖: ⌈9/accuracy²⌉."""
    return int(np.ceil(9.0 / accuracy**2))


def read_indices(indices: ArrayLike, n_examples: int) -> NDArray[np.intp]:
    """Return `indices` as different examples of 0…n_examples−1."""
    rows = read_array("indices", indices)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"indices has shape {rows.shape} and dtype {rows.dtype}; a vector of integers is expected")
    if len(rows) and (rows.min() < 0 or rows.max() >= n_examples):
        raise ValueError(f"indices lie in {rows.min()}…{rows.max()}; 0…{n_examples - 1} is expected")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("indices names an example twice; each can be refreshed once")
    return rows.astype(np.intp)


def _check_blocks(blocks: Blocks, known: Blocks) -> None:
    """Raise if traces have other parameter blocks than those known before, if there were any."""
    if known and blocks != known:
        raise ValueError(f"traces has blocks (T, I, O) {blocks} but the sketches are of {known}")


def _check_finite(values: np.ndarray, before: int) -> None:
    """Raise if a sketch holds NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise NotFiniteError(
            f"the gradient of example {before + bad[0]} is not finite; its traces hold NaN or infinity"
        )


def read_archive(path: str | Path, names: Iterable[str], what: str) -> dict[str, np.ndarray]:
    """Return these arrays of a stranger's .npz archive; ValueError if it does not hold `what`."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is not a file")
    with Path(path).open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                if any(info.compress_type != zipfile.ZIP_STORED for info in archive.zip.infolist()):
                    raise ValueError("its arrays are compressed, so that they could be of any size")
                return {name: archive[name] for name in names}
        except Exception as error:  # zipfile and NumPy fail in many ways on bytes that are not what they seem
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} does not hold {what}: {reason}") from None


def _read_sketches(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a saved file."""
    arrays = read_archive(path, _FIELDS, "sketches")
    if any(getattr(arrays[name], "ndim", None) != ndim for name, ndim in _FIELDS.items()):
        raise ValueError(f"{path} holds arrays of other types or shapes than sketches have")
    return arrays
