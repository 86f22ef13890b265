"""The inner products of all gradients, from traces of which few are held at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gcref.clustering.base import NotFiniteError
from gcref.clustering.passes import Passes
from gcref.engine.costs import Operations
from gcref.engine.trace import Trace, first_bad_example
from gcref.kernels.device import here

_HELD = 1 << 28  # bytes of traces in a group of batches
_NUMBERS = 1 << 22  # of gradients or patches, formed at once
_ROWS = 256  # of products, made at once

Batch = Sequence[Trace]


def look_through(passes: Passes) -> np.dtype:
    """Go through the traces once, to learn their number and shapes; return the type of their gradients.

    Raises
    ------
    NotFiniteError
        Naming the block, A or D, and the first example concerned, if one of them holds NaN or infinity.
    """
    dtype = np.dtype(np.float32)
    for rows, batch in passes:
        dtype = np.result_type(dtype, *[trace.dtype for trace in batch])
        bad = first_bad_example(batch)
        if bad is not None:
            block, name, row = bad
            raise NotFiniteError(f"{name} of traces[{block}] has NaN or infinity at example {rows.start + row}")
    return dtype


def gram_matrix(traces: Any) -> np.ndarray:
    """Return ⟨g_i, g_j⟩, summed over the parameter blocks; each pair is computed once, in float64.

    Parameters
    ----------
    traces : list of Trace, list of such lists, callable, or Passes
        The traces of one pass; or batches, in order; or a function that yields the batches anew at each call. Batches
        are taken together in groups of 256 MiB (or one batch, where it is larger), and two groups are held at a time:
        the function is called once for each group, and once more to learn the number of examples.

    Returns
    -------
    ndarray, shape (N, N), float64

    Raises
    ------
    TypeError
        If `traces` is nothing of the kind.
    ValueError
        If the traces disagree in their examples or blocks, or a number is not finite.
    """
    passes = traces if isinstance(traces, Passes) else Passes(traces)
    if passes.n_examples is None:
        look_through(passes)
    N = passes.n_examples or 0
    total = np.zeros((N, N))
    first = 0
    while first < N:
        held: list[Batch] = []
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found on the diagonal
            for rows, group in _groups(passes, first):
                if not held:
                    held, held_rows = group, rows
                _add_products(held, group, total[held_rows, rows])
                del group  # before the next one is gathered
        first = held_rows.stop
    _mirror(total)
    return total


def center(gram: np.ndarray) -> None:
    """Make ⟨g_i, g_j⟩, (N, N), ⟨g_i − ḡ, g_j − ḡ⟩, in place."""
    if len(gram) == 0:
        return
    means = gram.mean(axis=0)
    means -= means.mean() / 2
    for rows in _slices(0, len(gram), _ROWS):
        gram[rows] -= means[rows, None] + means


def gram_operations(T: int, I: int, O: int, n: int, m: int) -> Operations:  # noqa: E741
    """Count the products of n with m gradients of a block.

    Eq. 8 forms the m gradients anew for each slice of the n; Eq. 9 forms none.
    """
    n_slices = -(-n // _step(I * O))
    return Operations((n + n_slices * m) * T * I * O + n * m * I * O, n * m * T * T * (I + O))


def _groups(passes: Passes, first: int) -> Iterator[tuple[slice, list[Batch]]]:
    """Yield the batches from example `first` on in groups, and the rows of each among all examples."""
    group: list[Batch] = []
    start, stop, size = first, first, 0
    for rows, batch in passes:
        if rows.start < first:
            continue
        more = sum(trace.nbytes for trace in batch)
        if size > 0 and size + more > _HELD:
            yield slice(start, stop), group
            group, start, size = [], stop, 0
        group.append(batch)
        stop, size = rows.stop, size + more
    yield slice(start, stop), group


def _add_products(held: list[Batch], group: list[Batch], out: np.ndarray) -> None:
    """Add ⟨g_i, g_j⟩ of the examples of two groups to out (n, m); of a group with itself, only those of i ≤ j."""
    for block in range(len(held[0])):
        first = _joined(held, block)
        second = first if group is held else _joined(group, block)
        if gram_operations(*first.shape, *out.shape).choice == "Eq. 8":
            _add_by_gradients(first, second, out)
        else:
            _add_by_positions(first, second, out)


def _joined(group: list[Batch], block: int) -> Trace:
    """Return one trace of a block with all examples of a group."""
    first, *others = [batch[block] for batch in group]
    return first.join(others) if others else first


def _double(trace: Trace, rows: slice) -> Trace:
    """Return the trace of a few examples in float64.

    In float32 a mean gradient that dwarfs the differences would leave nothing of Φ.
    """
    return trace.rows(rows).astype(np.dtype(np.float64))


def _add_by_gradients(first: Trace, second: Trace, out: np.ndarray) -> None:
    """Eq. 8: sum over the positions first."""
    step = _step(first.n_parameters)
    for rows in _slices(0, first.n_examples, step):
        G = _gradients(_double(first, rows))
        for columns in _slices(rows.start if second is first else 0, second.n_examples, step):
            H = G if second is first and columns == rows else _gradients(_double(second, columns))
            out[rows, columns] += G @ H.T


def _gradients(trace: Trace) -> np.ndarray:
    """g_i flattened, (n, I O)."""
    return trace.gradients().reshape(trace.n_examples, trace.n_parameters)


def _add_by_positions(first: Trace, second: Trace, out: np.ndarray) -> None:
    """Eq. 9: sum over the positions last."""
    T, I, O = first.shape  # noqa: E741
    step = _step(T * (I + O))
    for rows in _slices(0, first.n_examples, min(step, _ROWS)):
        part = _double(first, rows)
        A, D = part.A, part.D
        for columns in _slices(rows.start if second is first else 0, second.n_examples, step):
            other = _double(second, columns)
            out[rows, columns] += here.gram(A, D, other.A, other.D)


def _mirror(gram: np.ndarray) -> None:
    """Copy what is above the diagonal below it, in place."""
    for rows in _slices(0, len(gram), _ROWS):
        square = gram[rows, rows]
        gram[rows, rows] = np.triu(square) + np.triu(square, 1).T
        gram[rows.stop :, rows] = gram[rows, rows.stop :].T


def _step(numbers: int) -> int:
    """Return how many examples of so many numbers each are worked on at once."""
    return max(1, _NUMBERS // numbers)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """Cut start…stop−1 into slices of `step`."""
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))
