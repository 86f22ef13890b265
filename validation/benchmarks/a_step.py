"""How long the weighted A step takes, against one Lloyd iteration of scikit-learn on the same vectors.

Run ``python -m gcref.validation.benchmarks.a_step``; needs scikit-learn, takes well under a minute. It times,
in one process and in turns, on N = 10,000 vectors of d = 1,000 numbers and K = 128 centres:

weighted A step
    ‖C_k‖², the product G Cᵀ, a fresh random order, and the sequential argmin of (N_k + 1)‖C_k − g_i‖². The
    ‖g_i‖² are given: they are constants of a fit, and Lloyd's argmin needs none.
Lloyd iteration
    scikit-learn's own ``lloyd_iter_chunked_dense``, as ``KMeans`` calls it in its loop: distances, argmin,
    and the sums from which the new centres come, on all its threads and BLAS on one (set outside the clock).
Lloyd labels only
    the same with ``update_centers=False``: its A step alone.
matrix product
    G Cᵀ and nothing else, which no A step made of one product can beat.

Expected: the ratio of the weighted A step to a Lloyd iteration is at most 1.2 in float64, and the program
fails (exit 1) if it is not. On a busy machine, the ratio means little.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from gcref.kernels import cpu

N, D, K = 10_000, 1_000, 128
REPEATS = 41
TARGET = 1.2


def main() -> int:
    """Time every candidate in float64 and float32, print the table, and return the exit status."""
    print(f"N = {N}, d = {D}, K = {K}; milliseconds, {REPEATS} runs each, in turns")
    ratio = _report("float64")
    _report("float32")
    passed = ratio <= TARGET
    print(f"{'PASS' if passed else 'FAIL'}: float64 ratio {ratio:.2f}, expected at most {TARGET}")
    return 0 if passed else 1


def _report(dtype: str) -> float:
    """Print medians and quartiles for one dtype; return weighted A step over Lloyd iteration."""
    rng = np.random.default_rng(0)
    G = rng.standard_normal((N, D)).astype(dtype)
    C = (0.1 * rng.standard_normal((K, D))).astype(dtype)
    candidates = {
        "weighted A step": _weighted_a_step(G, C, rng),
        "Lloyd iteration": _lloyd(G, C, update_centers=True),
        "Lloyd labels only": _lloyd(G, C, update_centers=False),
        "matrix product": lambda: G @ C.T,
    }
    times = _time_in_turns(list(candidates.values()))
    print(f"\n{dtype:18s}    median  quartiles")
    for name, column in zip(candidates, times.T, strict=True):
        low, median, high = np.percentile(1e3 * column, [25, 50, 75])
        print(f"{name:18s}  {median:8.2f}  {low:.2f} to {high:.2f}")
    ours, lloyd, labels_only, product = np.median(times, axis=0)
    paired = np.percentile(times[:, 0] / times[:, 1], [25, 75])
    print(f"weighted A step / Lloyd iteration    {ours / lloyd:.2f}", end="  ")
    print(f"(run by run, quartiles {paired[0]:.2f} to {paired[1]:.2f})")
    print(f"weighted A step / Lloyd labels only  {ours / labels_only:.2f}")
    print(f"weighted A step / matrix product     {ours / product:.2f}")
    return float(ours / lloyd)


def _weighted_a_step(G: np.ndarray, C: np.ndarray, rng: np.random.Generator) -> Callable[[], object]:
    """Return the A step of ExactClustering with sizes="sequential"."""
    ones = np.ones((K, 1, 1))
    gg = cpu.sq_norms(G[:, None], np.ones((N, 1, 1)))
    return lambda: cpu.a_step_sequential(cpu.sq_norms(C[:, None], ones), G @ C.T, gg, rng.permutation(N))


def _lloyd(G: np.ndarray, C: np.ndarray, update_centers: bool) -> Callable[[], object]:
    """Return one iteration of scikit-learn's K-means, called as its own loop calls it."""
    from sklearn.cluster._k_means_lloyd import lloyd_iter_chunked_dense
    from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
    from threadpoolctl import ThreadpoolController

    weights, new, sums = np.ones(N, G.dtype), np.zeros_like(C), np.zeros(K, G.dtype)
    labels, shift = np.full(N, -1, dtype=np.int32), np.zeros(K, G.dtype)
    n_threads = _openmp_effective_n_threads()
    controller = ThreadpoolController()

    def iterate() -> None:
        with controller.limit(limits=1, user_api="blas"):
            start = time.perf_counter()
            lloyd_iter_chunked_dense(G, weights, C, new, sums, labels, shift, n_threads, update_centers=update_centers)
            iterate.seconds = time.perf_counter() - start  # type: ignore[attr-defined]

    return iterate


def _time_in_turns(functions: list[Callable[[], object]]) -> np.ndarray:
    """Return seconds (REPEATS, number of functions), after one unmeasured round that compiles."""
    times = np.empty((REPEATS + 1, len(functions)))
    for row in times:
        for column, function in enumerate(functions):
            start = time.perf_counter()
            function()
            row[column] = getattr(function, "seconds", time.perf_counter() - start)
    return times[1:]


if __name__ == "__main__":
    sys.exit(main())
