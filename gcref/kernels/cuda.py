"""The arithmetic of gradient clustering on a GPU: twins of the kernels of `cpu`, `moments` and `subspace`.

Names, arguments and results are those of the CPU, whose docstrings hold for both: NumPy arrays in, NumPy arrays out,
what is updated in place is. Arrays that are on the device already (numba's, or any with `__cuda_array_interface__`)
stay there; results are NumPy's all the same. All products and sums are float64, where the CPU's matrix products keep
the dtype of float32 input. Importing this needs no GPU and compiles nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gcref.kernels import cuda_kernels as code
from gcref.kernels import cuda_sums
from gcref.kernels.cpu import chunked
from gcref.kernels.cuda_arrays import blocks_for, host, put, updated, zeros
from gcref.kernels.cuda_kernels import join_cost, sq_distance
from gcref.kernels.cuda_moments import add_moments, fold, second_moment
from gcref.kernels.jit import launch
from gcref.kernels.subspace import by_cluster

__all__ = [
    "a_step_fixed",
    "a_step_sequential",
    "add_cluster_products",
    "add_gradient_sketch",
    "add_grouped_sums",
    "add_moments",
    "add_position_products",
    "add_rank_one_products",
    "by_cluster",
    "chunked",
    "exchange_sweep",
    "exchange_sweep_among",
    "exchange_sweep_gram",
    "extend",
    "fold",
    "gram",
    "grouped_sums",
    "join",
    "join_cost",
    "row_sq_norms",
    "second_moment",
    "spread",
    "spread_from_products",
    "sq_distance",
    "sq_norms",
]

_STEPS = 1 << 14  # examples of one launch of a sequential kernel: a GPU with a display ends those of seconds
_PARTS = 32  # of a cluster's sum, each a block's


def _in_blocks(kernel: Any, n_blocks: int, *arguments: Any) -> None:
    """Launch a kernel in which a block takes one of `n_blocks` things at a time."""
    launch(kernel, blocks_for(n_blocks, 1), code.THREADS, *arguments)


def _in_threads(kernel: Any, n_numbers: int, *arguments: Any) -> None:
    """Launch a kernel in which a thread takes one of `n_numbers` numbers at a time."""
    launch(kernel, blocks_for(n_numbers, code.THREADS), code.THREADS, *arguments)


def _in_turn(order: np.ndarray, run: Callable[[Any], None]) -> None:
    """Run a sequential kernel over `order`, some examples a launch."""
    examples = put(order)
    for first in range(0, len(order), _STEPS):
        run(examples[first : first + _STEPS])


def _n_tiles(n: int) -> int:
    """Return how many tiles n rows make."""
    return -(-n // code.TILE)


def _by_cluster(labels: np.ndarray, n_clusters: int) -> tuple[Any, Any]:
    """Return the examples cluster by cluster, in order, and where each cluster starts, (K + 1,), on the device."""
    order, starts = by_cluster(host(labels), n_clusters)
    return put(order), put(starts)


# ------------------------------------------------------------------------------- inner products of gradients


def sq_norms(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """‖g_i‖² = Σ_{t,s} (A_it·A_is)(D_it·D_is); (N,). A (N, T, I), D (N, T, O)."""
    N, T, _ = A.shape
    A, D = put(A), put(D)
    if T == 1:
        return row_sq_norms(A.reshape(N, A.shape[2])) * row_sq_norms(D.reshape(N, D.shape[2]))
    out = zeros(N)
    _in_blocks(code.sq_norms, N, A, D, out)
    return host(out)


def row_sq_norms(G: np.ndarray) -> np.ndarray:
    """‖g_i‖² of gradients written out; (N,). G (N, M)."""
    return host(_row_sq_norms(put(G)))


def _row_sq_norms(G: Any) -> Any:
    """`row_sq_norms` from device to device."""
    out = zeros(G.shape[0])
    _in_blocks(code.row_sq_norms, G.shape[0], G, out)
    return out


def gram(A: np.ndarray, D: np.ndarray, A2: np.ndarray, D2: np.ndarray) -> np.ndarray:
    """⟨g_i, g'_j⟩ for every pair; (N, M). A (N, T, I), D (N, T, O), A2 (M, S, I), D2 (M, S, O)."""
    out = zeros(A.shape[0], A2.shape[0])
    n_tiles = _n_tiles(A.shape[0]) * _n_tiles(A2.shape[0])
    _in_blocks(code.gram, n_tiles, put(A), put(D), put(A2), put(D2), out)
    return host(out)


def add_rank_one_products(blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], out: np.ndarray) -> None:
    """out_ik += Σ_l (A_i·c_k)(D_i·d_k) over blocks A (N, I), D (N, O), c (K, I), d (K, O); out (N, K) float64."""
    for A, D, c, d in blocks:
        out += gram(A[:, None], D[:, None], c[:, None], d[:, None])


# ----------------------------------------------------------------------------------- centres and sketches


def add_position_products(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out_i += Σ_t a_it ∘ b_it. a, b (N, T, m), out (N, m) float64."""
    with updated(out) as (total,):
        _in_threads(cuda_sums.add_position_products, total.size, put(a), put(b), total)


def add_gradient_sketch(G: np.ndarray, R: np.ndarray, Q: np.ndarray, out: np.ndarray) -> None:
    """out_ij += r_jᵀ g_i q_j. G (N, I, O), R (m, I), Q (m, O), out (N, m) float64."""
    with updated(out) as (total,):
        _in_blocks(code.add_bilinear, len(out) * _n_tiles(out.shape[1]), put(G), put(R), put(Q), total)


# ------------------------------------------------------------------------------------------ sums by cluster


def grouped_sums(X: np.ndarray, labels: np.ndarray, n_clusters: int, out: np.ndarray | None = None) -> np.ndarray:
    """Σ_{i: a_i = k} X_i in float64, in the order of the examples; (K, M). X (N, M); added to `out`, if given."""
    sums = np.zeros((n_clusters, X.shape[1])) if out is None else out
    with updated(sums) as (total,):
        _in_threads(cuda_sums.grouped_sums, total.size, put(X), *_by_cluster(labels, n_clusters), total)
    return sums


def add_grouped_sums(pairs: list[tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> None:
    """`grouped_sums` of several arrays X (N, M), each added to its sums (K, M)."""
    for X, sums in pairs:
        grouped_sums(X, labels, len(sums), sums)


def add_cluster_products(A: np.ndarray, D: np.ndarray, labels: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
    """out_ks += Σ_{i∈k} A_i (D_i·V_ks). A (N, I), D (N, O), labels (N,), V (K, b, O), out (K, b, I) float64."""
    products = zeros(D.shape[0], V.shape[1])
    _in_threads(cuda_sums.cluster_products, products.size, put(D), put(labels), put(V), products)
    members = _by_cluster(labels, V.shape[0])
    with updated(out) as (total,):
        _in_threads(cuda_sums.add_weighted_sums, total.size, put(A), products, *members, total)


def extend(U: np.ndarray, Y: np.ndarray) -> None:
    """Make the rows of Y orthonormal to one another and to those of U; 0 where one adds nothing.

    U (K, m, I), rows orthonormal or 0; Y (K, b, I), changed in place.
    """
    with updated(Y) as (rows,):
        _in_blocks(code.extend, rows.shape[0], put(U), rows)


# --------------------------------------------------------------------------------------------------- A step


def a_step_fixed(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """a_i = argmin_k N_k ‖C_k − g_i‖²; (N,) int64. cc (K,), cg (N, K), gg (N,), sizes (K,)."""
    labels = zeros(cg.shape[0], dtype=np.int64)
    _in_blocks(code.a_step_fixed, cg.shape[0], put(cc), put(cg), put(gg), put(sizes), labels)
    return host(labels)


def a_step_sequential(
    cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, order: np.ndarray, kept: np.ndarray | None = None
) -> np.ndarray:
    """a_i = argmin_k (N_k + 1) ‖C_k − g_i‖², then N_{a_i} += 1, one example after another; (N,) int64.

    cc (K,), cg (N, K), gg (N,), order (N,), kept (K,).
    """
    labels = zeros(cg.shape[0], dtype=np.int64)
    weights = put(np.ones(cg.shape[1]) + (0.0 if kept is None else host(kept)))
    products = put(cc), put(cg), put(gg)
    _in_turn(order, lambda some: _in_blocks(code.a_step_sequential, 1, *products, some, weights, labels))
    return host(labels)


# ------------------------------------------------------------------------------------------- the objective Φ


def spread_from_products(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ_{i∈k} ‖C_k − g_i‖² from the products of an A step; (K,). cc (K,), cg (N, K), gg (N,), labels (N,)."""
    K = cc.shape[0]
    parts = zeros(K, _PARTS)
    _in_blocks(code.spread_from_products, parts.size, put(cc), put(cg), put(gg), *_by_cluster(labels, K), parts)
    return np.asarray(host(parts).sum(axis=1))


def spread(G: np.ndarray, C: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ_{i∈k} ‖C_k − g_i‖² from the differences; (K,). G (N, d), C (K, d), labels (N,)."""
    parts = zeros(C.shape[0], _PARTS)
    _in_blocks(code.spread, parts.size, put(G), put(C), *_by_cluster(labels, C.shape[0]), parts)
    return np.asarray(host(parts).sum(axis=1))


# -------------------------------------------------------------------------------------------------- exchange


def exchange_sweep(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    threshold: float,
    drift: float = 0.0,
) -> int:
    """Move each example in turn to where Φ falls most, if by more than `threshold`; the number moved.

    G (N, d), order: the examples to go through; labels (N,), sizes (K,), e (K,) and s (K, d) are updated in place.
    """
    everyone = np.empty((len(sizes), 0), dtype=np.int64)
    return exchange_sweep_among(G, order, labels, sizes, e, s, threshold, drift, everyone)


def exchange_sweep_among(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    threshold: float,
    drift: float,
    candidates: np.ndarray,
) -> int:
    """`exchange_sweep` that looks only at candidates (K, L), the clusters worth a look from each; the number moved."""
    G, near = put(G), put(candidates)
    q, moved = _row_sq_norms(G), zeros(1, dtype=np.int64)
    rates = float(threshold), float(drift)
    with updated(labels, sizes, e, s) as state:
        _in_turn(order, lambda some: _in_blocks(code.exchange_sweep, 1, G, q, some, *state, *rates, near, moved))
    return int(host(moved)[0])


def join(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    drift: float,
) -> None:
    """Let new examples join, one after another, the cluster whose cost rises least, ties to the lowest index."""
    G, everyone = put(G), put(np.empty((len(sizes), 0), dtype=np.int64))
    q = _row_sq_norms(G)
    with updated(labels, sizes, e, s) as state:
        _in_turn(order, lambda some: _in_blocks(code.join, 1, G, q, some, *state, float(drift), everyone))


def exchange_sweep_gram(
    gram: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s_dot_g: np.ndarray,
    threshold: float,
    drift: float = 0.0,
) -> int:
    """`exchange_sweep` on the inner products alone; the number moved.

    gram (N, N), order (N,); labels (N,), sizes (K,), e (K,) and s_dot_g (N, K) are updated in place.
    """
    products, moved = put(gram), zeros(1, dtype=np.int64)
    rates = float(threshold), float(drift)
    with updated(labels, sizes, e, s_dot_g) as state:
        _in_turn(order, lambda some: _in_blocks(code.exchange_sweep_gram, 1, products, some, *state, *rates, moved))
    return int(host(moved)[0])
