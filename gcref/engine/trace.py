"""Trace, the one currency: what a weight hands over so that per-example gradients need not be formed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcref.kernels.threads import product

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The per-example gradients of one parameter block in factored form, g_i = Σ_t A_it D_itᵀ.

    Parameters
    ----------
    A : array_like, shape (B, T, I) or (B, I), float32 or float64
        The input of the block: I numbers for each example and position. Where the block has a bias, the
        trailing input is 1. Two dimensions are read as T = 1.
    D : array_like, shape (B, T, O) or (B, O), float32 or float64
        The gradient of each example's own loss with respect to the block's output: nothing is divided by the
        batch size.

    Raises
    ------
    TypeError
        If A or D does not hold float32 or float64 numbers.
    ValueError
        If A or D has neither two nor three dimensions, or no position or column, or if they differ in B or T.

    Notes
    -----
    The arrays are kept as they are, not copied; if their types differ, both become float64. Whether their numbers are
    finite is not looked at here: what clusters the gradients does.

    Examples
    --------
    >>> import numpy as np
    >>> trace = Trace(np.ones((5, 3)), np.ones((5, 2)))
    >>> trace
    Trace(B=5, T=1, I=3, O=2, float64)
    """

    A: Array
    D: Array

    def __init__(self, A: ArrayLike, D: ArrayLike) -> None:
        a, d = _three_dimensional(A, "A"), _three_dimensional(D, "D")
        _check_agreement(a, d)
        dtype = np.result_type(a, d)
        object.__setattr__(self, "A", a.astype(dtype, copy=False))
        object.__setattr__(self, "D", d.astype(dtype, copy=False))

    @property
    def n_examples(self) -> int:
        """B, the number of examples."""
        return self.A.shape[0]

    @property
    def n_positions(self) -> int:
        """T, the number of positions that share the parameters; 1 for a fully connected layer."""
        return self.A.shape[1]

    @property
    def n_inputs(self) -> int:
        """I, the inputs of the block, the bias's trailing 1 included."""
        return self.A.shape[2]

    @property
    def n_outputs(self) -> int:
        """O, the outputs of the block."""
        return self.D.shape[2]

    @property
    def n_parameters(self) -> int:
        """I·O, the number of parameters of the block."""
        return self.n_inputs * self.n_outputs

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, I, O), what the traces of different examples of a block have in common."""
        return self.n_positions, self.n_inputs, self.n_outputs

    @property
    def dtype(self) -> np.dtype:
        """The type of the numbers in A and D."""
        return self.A.dtype

    @property
    def nbytes(self) -> int:
        """The memory of A and D."""
        return self.A.nbytes + self.D.nbytes

    def arrays(self) -> list[tuple[str, Array]]:
        """Return the arrays that the trace is made of, by name."""
        return [("A", self.A), ("D", self.D)]

    def rows(self, examples: slice | NDArray[np.intp]) -> "Trace":
        """Return the trace of some of the examples."""
        return Trace(self.A[examples], self.D[examples])

    def astype(self, dtype: np.dtype) -> "Trace":
        """Return the trace in another type, itself where it has it."""
        return self if dtype == self.dtype else Trace(self.A.astype(dtype), self.D.astype(dtype))

    def gradients(self) -> Array:
        """Form g_i = Σ_t A_it D_itᵀ of every example, (B, I, O), in the type of the trace. Cost B T I O."""
        return np.matmul(self.A.transpose(0, 2, 1), self.D)

    def projections(self, R: Array) -> Array:
        """R A_it for every example and position, (B, T, m); R (m, I) in the type of the trace."""
        return product(self.A.reshape(-1, self.n_inputs), R.T).reshape(self.n_examples, self.n_positions, len(R))

    def position_sums(self) -> tuple[Array, Array]:
        """Σ_t A_it, (B, I), and Σ_t D_it, (B, O), of every example."""
        if self.n_positions == 1:
            return self.A[:, 0], self.D[:, 0]
        return self.A.sum(axis=1), self.D.sum(axis=1)

    def join(self, others: "Sequence[Trace]") -> "Trace":
        """Return one trace with the examples of this and the others."""
        traces = [self, *others]
        return Trace(np.concatenate([t.A for t in traces]), np.concatenate([t.D for t in traces]))

    def minus(self, reference: "Trace") -> "Trace":
        """Return the trace of g_i − g̃_i, of twice the positions: A (D − D̃)ᵀ + (A − Ã) D̃ᵀ."""
        A, D, A_ref, D_ref = self.A, self.D, reference.A, reference.D
        return Trace(np.concatenate([A, A - A_ref], axis=1), np.concatenate([D - D_ref, D_ref], axis=1))

    def __repr__(self) -> str:
        t, i, o = self.shape
        return f"{type(self).__name__}(B={self.n_examples}, T={t}, I={i}, O={o}, {self.dtype})"


def per_example_gradients(traces: Sequence[Trace]) -> Array:
    """Form every example's gradient explicitly, g_i = Σ_t A_it D_itᵀ.

    Parameters
    ----------
    traces : sequence of Trace
        One trace a parameter block, in the order of the parameters.

    Returns
    -------
    ndarray, shape (B, d)
        Row i is the gradient of example i's own loss: the blocks one after the other, each (I, O) in C order.
        The memory is B·d numbers; everything else in the package is there to avoid it.

    Raises
    ------
    ValueError
        If there is no trace, or the traces differ in the number of examples.
    """
    check_traces(traces)
    n_examples = traces[0].n_examples
    n_parameters = sum(trace.n_parameters for trace in traces)
    gradients = np.empty((n_examples, n_parameters), np.result_type(*[trace.dtype for trace in traces]))
    start = 0
    for trace in traces:
        stop = start + trace.n_parameters
        gradients[:, start:stop] = trace.gradients().reshape(n_examples, trace.n_parameters)
        start = stop
    return gradients


def difference(traces: Sequence[Trace], reference: Sequence[Trace]) -> list[Trace]:
    """Return traces whose per-example gradient is g_i − g̃_i, the control variate of SVRG.

    Parameters
    ----------
    traces, reference : sequence of Trace
        The traces of the same examples at two points θ and θ̃: block by block of the same shapes.

    Returns
    -------
    list of Trace
        Twice the positions: A Dᵀ − Ã D̃ᵀ = A (D − D̃)ᵀ + (A − Ã) D̃ᵀ, in which near θ̃ every term is small, so
        that norms and inner products of the difference suffer no cancellation.

    Raises
    ------
    ValueError
        If the two differ in the number of blocks or in a shape.
    """
    check_traces(traces)
    check_traces(reference, "reference")
    if len(traces) != len(reference):
        raise ValueError(f"traces has {len(traces)} blocks but reference has {len(reference)}")
    return [_difference(t, r, block) for block, (t, r) in enumerate(zip(traces, reference, strict=True))]


def _difference(trace: Trace, reference: Trace, block: int) -> Trace:
    """One block of `difference`."""
    if (trace.n_examples, *trace.shape) != (reference.n_examples, *reference.shape):
        raise ValueError(f"block {block} is {trace} in traces but {reference} in reference")
    return trace.minus(reference)


def concatenate(batches: Sequence[Sequence[Trace]]) -> list[Trace]:
    """Join the traces of several batches into those of one, examples in order.

    Parameters
    ----------
    batches : sequence of sequences of Trace
        For each batch, one trace a parameter block.

    Returns
    -------
    list of Trace
        One trace a block, with all examples.

    Raises
    ------
    ValueError
        If there is no batch, or the batches differ in their blocks.
    """
    _check_sequence("batches", batches, "a list of lists of Trace")
    if len(batches) == 0:
        raise ValueError("batches is empty; at least one list of traces is needed")
    for number, batch in enumerate(batches):
        check_traces(batch, f"batches[{number}]")
        if _block_shapes(batch) != _block_shapes(batches[0]):
            raise ValueError(
                f"batches[{number}] has blocks (T, I, O) {_block_shapes(batch)} but batches[0] has "
                f"{_block_shapes(batches[0])}"
            )
    if len(batches) == 1:
        return list(batches[0])
    blocks = zip(*batches, strict=True)
    return [first.join(others) for first, *others in blocks]


def check_traces(traces: Sequence[Trace], name: str = "traces") -> None:
    """Raise unless `traces` is a non-empty sequence of Trace with one number of examples.

    Raises
    ------
    TypeError
        If it is a single Trace, or holds something else.
    ValueError
        If it is empty, or two traces differ in the number of examples.
    """
    if isinstance(traces, Trace):
        raise TypeError(f"{name} is a single Trace; a list with one Trace a parameter block is expected")
    if is_losses_and_traces(traces):
        raise TypeError(f"{name} is the pair of losses and traces that Network.traces returns; its [1] is expected")
    _check_sequence(name, traces, "a list with one Trace a parameter block")
    if len(traces) == 0:
        raise ValueError(f"{name} is empty; one Trace a parameter block is expected")
    for block, trace in enumerate(traces):
        if not isinstance(trace, Trace):
            raise TypeError(f"{name}[{block}] is a {type(trace).__name__}; a Trace is expected")
        if trace.n_examples != traces[0].n_examples:
            raise ValueError(
                f"{name}[{block}] has {trace.n_examples} examples but {name}[0] has {traces[0].n_examples}"
            )


def is_losses_and_traces(value: object) -> bool:
    """Tell the whole of what `gcref.Network.traces` returns from a list of traces."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray)


def _check_sequence(name: str, value: object, expected: str) -> None:
    """Raise unless `value` is a sequence."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} is a {type(value).__name__}; {expected} is expected")


def first_bad_example(traces: Sequence[Trace]) -> tuple[int, str, int] | None:
    """Return the block, "A" or "D", and the example of the first NaN or infinity, or None."""
    for block, trace in enumerate(traces):
        for name, array in trace.arrays():
            row = first_bad_row(array)
            if row is not None:
                return block, name, row
    return None


def read_array(name: str, values: ArrayLike) -> NDArray:
    """Return `values` as an array; what NumPy makes none of, such as rows of different lengths, is named."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from None


def read_numbers(name: str, values: ArrayLike) -> NDArray:
    """Return `values` as an array of real numbers, of whatever type."""
    array = read_array(name, values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; real numbers are expected")
    return array


def first_bad_row(array: Array) -> int | None:
    """Return the index of the first row with NaN or infinity, or None.

    The usual case costs one sum and no temporary: a sum is finite only if every term is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return None
    bad = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    return int(np.argmax(bad)) if bad.any() else None  # finite terms alone may overflow the sum


def _block_shapes(traces: Sequence[Trace]) -> list[tuple[int, int, int]]:
    """(T, I, O) of each block."""
    return [t.shape for t in traces]


def _three_dimensional(values: ArrayLike, name: str) -> Array:
    """Read A or D: float32 or float64, two dimensions meaning T = 1."""
    array = read_array(name, values)
    native = array.dtype.newbyteorder("=")
    if native not in (np.float32, np.float64):
        raise TypeError(f"{name} has dtype {array.dtype}; float32 or float64 is expected")
    array = array.astype(native, copy=False)
    if array.ndim not in (2, 3):
        hint = _hint(name, array)
        raise ValueError(f"{name} has shape {array.shape}; (B, T, columns) or (B, columns) is expected{hint}")
    if 0 in array.shape[1:]:
        raise ValueError(f"{name} has shape {array.shape}; at least one position and one column are expected")
    return array[:, None, :] if array.ndim == 2 else array


def _hint(name: str, array: Array) -> str:
    """Name the likeliest mistake behind a D without one row an example."""
    averaged = name == "D" and (array.ndim < 2 or array.shape[0] == 1)
    return " (did you pass the averaged gradient?)" if averaged else ""


def _check_agreement(A: Array, D: Array) -> None:
    """Raise unless A and D have the same examples and positions."""
    if A.shape[0] != D.shape[0]:
        raise ValueError(
            f"D has {D.shape[0]} rows but A has {A.shape[0]}; both need one row per example{_hint('D', D)}"
        )
    if A.shape[1] != D.shape[1]:
        raise ValueError(f"D has {D.shape[1]} positions but A has {A.shape[1]}; both need one row per position")
