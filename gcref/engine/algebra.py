"""Norms, inner products and moments of per-example gradients, each by the form of fewer operations (Eq. 8 or 9)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gcref.engine import costs
from gcref.engine.trace import Array, Trace, check_traces
from gcref.kernels import moments
from gcref.kernels.device import here
from gcref.kernels.elementwise import accumulate
from gcref.kernels.threads import blas_threads, product

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
            out[rows] = here.row_sq_norms(part.gradients().reshape(part.n_examples, part.n_parameters))
        else:
            out[rows] = here.sq_norms(part.A, part.D)
    return np.maximum(out, 0.0)  # Eq. 9's terms may cancel and leave less than nothing


def add_all_inner_products(
    traces: Sequence[Trace], factors: Sequence[Sequence[tuple[Array, Array]]], out: NDArray[np.float64]
) -> None:
    """`add_inner_products` of every block."""
    if all(trace.n_positions == 1 for trace in traces) and blas_threads() == 1:
        blocks = [(t.A[:, 0], t.D[:, 0], *pair) for t, pairs in zip(traces, factors, strict=True) for pair in pairs]
        here.add_rank_one_products(blocks, out)
        return
    for trace, pairs in zip(traces, factors, strict=True):
        add_inner_products(trace, pairs, out)


def add_inner_products(trace: Trace, factors: Sequence[tuple[Array, Array]], out: NDArray[np.float64]) -> None:
    """Add ⟨C_k, g_i⟩ of one block to out (B, K), by Eq. 8 or Eq. 9, for centres C_k = Σ_s c_ks d_ksᵀ.

    `factors` holds c_s (K, I) and d_s (K, O) for each s; where their columns are contiguous, BLAS is fastest.
    """
    K = out.shape[1]
    by_gradients = costs.inner_products(*trace.shape, K * len(factors)).choice == "Eq. 8"
    for rows in _chunks(trace, by_gradients, K):
        part = trace.rows(rows)
        gradients = part.gradients() if by_gradients else None
        D = part.D
        for c, d in factors:
            if gradients is None:
                here.add_position_products(part.projections(c), _projections(D, d), out[rows])
            else:
                here.add_gradient_sketch(gradients, c, d, out[rows])


def add_cluster_products(
    trace: Trace, labels: NDArray, V: NDArray[np.float64], out: NDArray[np.float64], transposed: bool = False
) -> None:
    """Add M_k V_ks to out (K, b, I), with M_k = Σ_{i∈k} g_i of one block, by Eq. 8 or Eq. 9; V (K, b, O).

    `transposed`: M_kᵀ V_ks, V (K, b, I) and out (K, b, O). At T = 1 all in float64; beyond, products of one example
    keep the type of the trace. No M_k is formed.
    """
    if trace.n_positions == 1:
        factors = trace.A[:, 0], trace.D[:, 0]
        left, right = factors[::-1] if transposed else factors
        here.add_cluster_products(left, right, labels, V, out)
        return
    by_gradients = costs.inner_products(*trace.shape, V.shape[1]).choice == "Eq. 8"
    V, sums = V.astype(trace.dtype, copy=False), out.reshape(len(out), -1)
    for rows in _chunks(trace, by_gradients):
        found = _example_products(trace.rows(rows), V[labels[rows]], by_gradients, transposed)
        here.grouped_sums(found.reshape(len(found), -1), labels[rows], len(V), sums)


def _example_products(part: Trace, V: Array, by_gradients: bool, transposed: bool) -> Array:
    """g_i V_is, (B, b, I), or g_iᵀ V_is, (B, b, O); V (B, b, ·) differs from example to example."""
    if by_gradients:
        G = part.gradients()
        return np.matmul(V, G if transposed else G.transpose(0, 2, 1))
    left, right = (part.D, part.A) if transposed else (part.A, part.D)
    return np.matmul(np.matmul(V, right.transpose(0, 2, 1)), left)


def add_center_sums(trace: Trace, labels: NDArray, a_sums: NDArray, d_sums: NDArray) -> None:
    """Add Σ_{i∈k} Σ_t A_it to a_sums (K, I) and Σ_{i∈k} Σ_t D_it to d_sums (K, O), of which Eq. 6 makes centres."""
    add_all_center_sums([trace], labels, [(a_sums, d_sums)])


def add_all_center_sums(
    traces: Sequence[Trace], labels: NDArray, sums: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> None:
    """`add_center_sums` of every block."""
    pairs = zip(traces, sums, strict=True)
    here.add_grouped_sums(
        [pair for trace, out in pairs for pair in zip(trace.position_sums(), out, strict=True)], labels
    )


def add_sketch(trace: Trace, R: Array, Q: Array, out: NDArray[np.float64]) -> None:
    """Add r_jᵀ g_i q_j of one block to out (B, m), by Eq. 8 or Eq. 9; signs R (m, I) and Q (m, O)."""
    by_gradients = costs.sketch(*trace.shape, len(R)).choice == "Eq. 8"
    for rows in _chunks(trace, by_gradients):
        part = trace.rows(rows)
        if by_gradients:
            here.add_gradient_sketch(part.gradients(), R, Q, out[rows])
        else:
            here.add_position_products(part.projections(R), _projections(part.D, Q), out[rows])


def _projections(D: Array, Q: Array) -> Array:
    """Q D_it, (B, T, m), by one matrix product instead of one an example; Q (m, O)."""
    return product(D.reshape(-1, D.shape[2]), Q.T).reshape(*D.shape[:2], len(Q))


def add_moments(trace: Trace, total: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
    """Add Σ_i g_i and Σ_i g_i∘g_i of one block to total and squares, (I·O,) each.

    T ≤ 2: matrix products, AᵀD and (A∘A)ᵀ(D∘D), in the type of the trace; beyond, gradients of a few examples at a
    time, added up in float64.
    """
    if trace.n_positions <= 2:
        A, D = _without_zeros(trace.A, trace.D)
        n = len(A) * A.shape[1]
        sums = product(A.reshape(n, trace.n_inputs).T, D.reshape(n, trace.n_outputs))
        accumulate(total, sums.reshape(-1))
        moments.second_moment(A, D, out=squares.reshape(trace.n_inputs, trace.n_outputs))
        return
    for rows in _chunks(trace, True):
        part = trace.rows(rows)
        moments.add_moments(part.gradients().reshape(part.n_examples, part.n_parameters), total, squares)


def add_total(trace: Trace, total: NDArray[np.float64]) -> float:
    """Add Σ_i g_i of one block to total, (I·O,), and return Σ_i ‖g_i‖²; the products as in `add_moments`."""
    if trace.n_positions <= 2:
        A, D = _without_zeros(trace.A, trace.D)
        n = len(A) * A.shape[1]
        accumulate(total, product(A.reshape(n, trace.n_inputs).T, D.reshape(n, trace.n_outputs)).reshape(-1))
        return float(here.sq_norms(A, D).sum())
    squares = np.zeros(trace.n_parameters)
    add_moments(trace, total, squares)
    return float(squares.sum())


def _without_zeros(A: Array, D: Array) -> tuple[Array, Array]:
    """Leave out the second position if its A is 0, as where SVRG's difference has A − Ã of the data themselves."""
    return (A, D) if A.shape[1] < 2 or A[:, 1].any() else (A[:, :1], D[:, :1])


def _chunks(trace: Trace, by_gradients: bool, most: int = 0) -> Iterator[slice]:
    """Cut the examples so that gradients, or patches, or `most` numbers each, of a bounded number are held at once."""
    T, I, O = trace.shape  # noqa: E741
    numbers = I * O if by_gradients else T * max(I + O if T > 1 else 1, most)
    step = max(1, _NUMBERS // numbers)
    return (slice(first, first + step) for first in range(0, trace.n_examples, step))
