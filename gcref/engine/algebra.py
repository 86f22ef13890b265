"""Norms, inner products and moments of per-example gradients, each by the form of fewer operations (Eq. 8 or 9)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gcref.engine import costs
from gcref.engine.trace import Array, Trace, check_traces
from gcref.kernels import cpu, moments
from gcref.kernels.elementwise import accumulate

_NUMBERS = 1 << 22  # of patches or gradients, held at once


def per_example_sq_norms(traces: Sequence[Trace]) -> NDArray[np.float64]:
    """Return ‖g_i‖² of every example over all blocks, without its gradient where that is cheaper.

    Parameters
    ----------
    traces : sequence of Trace
        One trace a parameter block.

    Returns
    -------
    ndarray, shape (B,), float64

    Raises
    ------
    ValueError
        If there is no trace, or the traces differ in the number of examples.
    """
    check_traces(traces)
    return np.asarray(sum(sq_norms(trace) for trace in traces))


def sq_norms(trace: Trace) -> NDArray[np.float64]:
    """Return ‖g_i‖² of one block, (B,): by Eq. 9, Σ_ts (A_t·A_s)(D_t·D_s), or of the gradient itself (Eq. 8)."""
    out = np.empty(trace.n_examples)
    by_gradients = costs.sq_norm(*trace.shape).choice == "Eq. 8"
    for rows in _chunks(trace, by_gradients):
        part = trace.rows(rows)
        if by_gradients:
            out[rows] = cpu.row_sq_norms(part.gradients().reshape(part.n_examples, part.n_parameters))
        else:
            out[rows] = cpu.sq_norms(part.A, part.D)
    return out


def inner_products(trace: Trace, c: Array, d: Array) -> NDArray[np.float64]:
    """Return ⟨c_k d_kᵀ, g_i⟩ of one block, (B, K), by Eq. 8 or Eq. 9; c (K, I), d (K, O)."""
    out = np.empty((trace.n_examples, len(c)))
    by_gradients = costs.inner_products(*trace.shape, len(c)).choice == "Eq. 8"
    for rows in _chunks(trace, by_gradients):
        part = trace.rows(rows)
        if by_gradients:
            out[rows] = cpu.inner_products_of_gradients(part.gradients(), c, d)
        else:
            out[rows] = cpu.inner_products(part.A, part.D, c, d)
    return out


def add_center_sums(trace: Trace, labels: NDArray, a_sums: NDArray, d_sums: NDArray) -> None:
    """Add Σ_{i∈k} Σ_t A_it to a_sums (K, I) and Σ_{i∈k} Σ_t D_it to d_sums (K, O), of which Eq. 6 makes centres."""
    a, d = trace.position_sums()
    cpu.grouped_sums(a, labels, len(a_sums), a_sums)
    cpu.grouped_sums(d, labels, len(d_sums), d_sums)


def add_moments(trace: Trace, total: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
    """Add Σ_i g_i and Σ_i g_i∘g_i of one block to total and squares, (I·O,) each.

    T ≤ 2: matrix products, AᵀD and (A∘A)ᵀ(D∘D), in the type of the trace; beyond, gradients of a few examples at a
    time, added up in float64.
    """
    if trace.n_positions <= 2:
        A, D = trace.A, trace.D
        n = trace.n_examples * trace.n_positions
        product = A.reshape(n, trace.n_inputs).T @ D.reshape(n, trace.n_outputs)
        accumulate(total, product.reshape(-1))
        moments.second_moment(A, D, out=squares.reshape(trace.n_inputs, trace.n_outputs))
        return
    for rows in _chunks(trace, True):
        part = trace.rows(rows)
        moments.add_moments(part.gradients().reshape(part.n_examples, part.n_parameters), total, squares)


def _chunks(trace: Trace, by_gradients: bool) -> Iterator[slice]:
    """Cut the examples so that gradients, or patches, of a bounded number are held at once."""
    T, I, O = trace.shape  # noqa: E741
    if T == 1 and not by_gradients:
        return iter([slice(0, trace.n_examples)])
    step = max(1, _NUMBERS // (I * O if by_gradients else T * (I + O)))
    return (slice(first, first + step) for first in range(0, trace.n_examples, step))
