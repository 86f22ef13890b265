"""Suite ``clustering``: A steps beside scikit-learn's K-means; GC, exchange and sketches beside epochs and products.

An epoch is N/B plain gradients of the same network, B = 128, timed in turn. Traces of GC are float32. The A step is
that of `gcref.ExactClustering` with ``sizes="sequential"``: ‖C_k‖², the product G Cᵀ, a fresh random order, and the
sequential argmin of (N_k + 1)‖C_k − g_i‖²; the ‖g_i‖² are constants of a fit, and Lloyd's argmin needs none. Lloyd's is
scikit-learn's own iteration as `KMeans` calls it in its loop: distances, argmin, and the sums of which the new centres
come.
"""

from collections.abc import Callable, Iterator

import numpy as np

import gcref
from gcref.clustering.alternating import balanced_labels, stream
from gcref.clustering.exchange import VectorPoints
from gcref.clustering.points import ExplicitPoints
from gcref.engine.trace import Trace
from gcref.kernels import cpu
from gcref.kernels.threads import n_threads, product
from gcref.validation.benchmarks.alternating import Run, alternate, block_time, seconds_of
from gcref.validation.benchmarks.candidates import sketches
from gcref.validation.benchmarks.rows import Row, Work
from gcref.validation.benchmarks.workloads import (
    Model,
    Plan,
    anew,
    matrix_products,
    mlp,
    plain,
    resnet8,
    scaled,
    trace_work,
)

SUITE = "clustering"
N_CLUSTERS = 128
DIM = 64
EPOCH = "a plain epoch"


def rows(plan: Plan) -> Iterator[Row]:
    """Measure; one row after the other."""
    for dtype in ("float64", "float32"):
        yield from _a_steps(plan, dtype)
    yield _exchange_sweep(plan)
    m = mlp(6_400 if plan.quick else 25_600)
    kept = [list(batch) for batch in anew(m)()]
    yield _iteration(plan, "MLP, kept traces", m, kept, 0.125)
    yield _products(plan, m, kept)
    yield _sketch_pass(plan, "MLP", m, 1.25)
    yield _iteration(plan, "MLP, traces anew", m, anew(m), 1.3)
    del kept
    m = resnet8(1_280 if plan.quick else 6_400)
    yield _sketch_pass(plan, "ResNet8", m, None)
    yield _iteration(plan, "ResNet8, traces anew", m, anew(m), 2.5)


# ------------------------------------------------------------------------------------------------- the A step


def _a_steps(plan: Plan, dtype: str) -> Iterator[Row]:
    """Time a weighted A step on explicit vectors beside a Lloyd iteration and beside the bare product."""
    N, d = (2_000, 1_000) if plan.quick else (10_000, 1_000)
    rng = np.random.default_rng(0)
    G = rng.standard_normal((N, d)).astype(dtype)
    C = (0.1 * rng.standard_normal((N_CLUSTERS, d))).astype(dtype)
    name = f"weighted A step, N = {N:,}, d = {d:,}, K = {N_CLUSTERS}, {dtype}"
    work = Work(2.0 * N * N_CLUSTERS * d, float(G.nbytes + C.nbytes), dtype)
    ours = a_step(G, C, rng)
    if "scikit-learn" in plan.peers:
        pair = plan.compare(ours, lloyd(G, C), 12, 5)
        yield Row(SUITE, name, "scikit-learn", pair, 1.0 if dtype == "float64" else None, work)
    yield Row(SUITE, name, "its product alone", plan.compare(ours, lambda: product(G, C.T), 12, 5), None, work)


def a_step(G: np.ndarray, C: np.ndarray, rng: np.random.Generator) -> Run:
    """Assign G (N, d) to weighted centres C (K, d)."""
    points = ExplicitPoints(G)

    def run() -> np.ndarray:
        cc, cg = points.products(C)
        return cpu.a_step_sequential(cc, cg, points.sq_norms, rng.permutation(len(G)))

    return run


def lloyd(G: np.ndarray, C: np.ndarray) -> Run:
    """Run one iteration of scikit-learn's K-means on all threads, BLAS on one in each, as its own loop does."""
    from sklearn.cluster._k_means_lloyd import lloyd_iter_chunked_dense
    from threadpoolctl import threadpool_limits

    weights, new, sums = np.ones(len(G), G.dtype), np.zeros_like(C), np.zeros(len(C), G.dtype)
    labels, shift = np.full(len(G), -1, dtype=np.int32), np.zeros(len(C), G.dtype)
    threadpool_limits(1, user_api="blas")  # as `KMeans` sets it around its loop; in every command it is so anyhow

    def run() -> None:
        lloyd_iter_chunked_dense(G, weights, C, new, sums, labels, shift, n_threads(), update_centers=True)

    return run


# --------------------------------------------------------------------------------------------------- exchange


def _exchange_sweep(plan: Plan) -> Row:
    """Time a sweep on sketches, beside as many operations in matrix products; the second one, of fewer moves."""
    N = 6_000 if plan.quick else 60_000
    points = VectorPoints(sketches(N, DIM).astype(gcref.Sketches(1).values.dtype))
    labels = balanced_labels(N, N_CLUSTERS, 0)
    points.sweep(stream(0, 1).permutation(N), labels, N_CLUSTERS, 0.0)
    order, dtype = stream(0, 2).permutation(N), str(points._vectors.dtype)
    n = 512 if plan.quick else 1536
    a, b = np.random.default_rng(0).standard_normal((2, n, n)).astype(dtype)
    flops = 2.0 * N * N_CLUSTERS * DIM
    pair = plan.compare(
        lambda: points.sweep(order, labels.copy(), N_CLUSTERS, 0.0), lambda: product(a, b), 12, 3, 1,
        times=flops / (2.0 * n**3),
    )  # fmt: skip
    name = f"exchange sweep, N = {N:,}, K = {N_CLUSTERS}, m = {DIM}, {dtype}"
    work = Work(flops, float(points._vectors.nbytes), dtype)
    return Row(SUITE, name, "BLAS at its limit", pair, 4.0, work, note="4 is 25 % of the limit; a sweep is sequential")


# ----------------------------------------------------------------------------------------- gradient clustering


def _epoch(m: Model) -> Callable[[], float]:
    """Time an epoch's plain gradients, by some of them."""
    return lambda: m.batches * block_time(plain(m), 10)


def _fit_seconds(traces: object, n_iter: int) -> float:
    """Time a fit of rank-1 GC."""
    return seconds_of(lambda: gcref.GradientClustering(N_CLUSTERS, n_iter=n_iter).fit(traces))


def _iteration(plan: Plan, name: str, m: Model, traces: object, target: float) -> Row:
    """Time an iteration of GC, A and U step: a fit of five less a fit of one, over four."""
    _fit_seconds(traces, 1)
    pair = alternate(lambda: (_fit_seconds(traces, 5) - _fit_seconds(traces, 1)) / 4, _epoch(m), plan.blocks(5))
    n = len(m.ds)
    flops = 2.0 * n * m.center_products(N_CLUSTERS) + n * m.trace_numbers
    # Two passes over the traces, kept (here of fully connected layers) or computed anew.
    again = scaled(trace_work(m), 2 * m.batches)
    work = Work(flops + again.flops, again.n_bytes) if callable(traces) else Work(flops, 8.0 * n * m.trace_numbers)
    what = f"GC iteration, K = {N_CLUSTERS}, {name}, N = {n:,}"
    return Row(SUITE, what, EPOCH, pair, target, work)


def _products(plan: Plan, m: Model, kept: list[list[Trace]]) -> Row:
    """Time ten iterations of rank-1 GC beside the matrix products in them."""
    n_iter = 2 if plan.quick else 10
    alone = matrix_products(kept, N_CLUSTERS)
    pair = alternate(lambda: _fit_seconds(kept, n_iter), lambda: n_iter * block_time(alone, 2, 1), plan.blocks(5))
    numbers = len(m.ds) * m.trace_numbers
    what = f"{n_iter} iterations of rank-1 GC, MLP, kept traces, N = {len(m.ds):,}"
    work = Work(2.0 * n_iter * N_CLUSTERS * numbers, n_iter * 4.0 * numbers)
    return Row(SUITE, what, "their matrix products", pair, 1.25, work)


def _sketch_pass(plan: Plan, name: str, m: Model, target: float | None) -> Row:
    """Time a pass that computes traces and sketches them."""
    gcref.Sketches(DIM).add([next(anew(m)())])
    ours = anew(m)
    pair = alternate(lambda: seconds_of(lambda: gcref.Sketches(DIM).add(ours)), _epoch(m), plan.blocks(7))
    traces = scaled(trace_work(m), m.batches)
    flops = traces.flops + 2.0 * len(m.ds) * m.center_products(DIM)
    what = f"sketch pass, m = {DIM}, {name}, N = {len(m.ds):,}"
    return Row(SUITE, what, EPOCH, pair, target, Work(flops, traces.n_bytes))
