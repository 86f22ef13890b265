"""What a list of candidates saves in an exchange on sketches, at N = 1 million and K = 1,024.

Run ``python -m gcref.validation.benchmarks.candidates`` on a machine that is otherwise idle (some minutes, 3 GB). Full
fits with and without ``n_candidates``: seconds and Φ. How a sweep grows with N, K and m: ``gcref bench --suite
scaling``.
"""

import sys
import time

import numpy as np

from gcref.clustering.alternating import balanced_labels
from gcref.clustering.exchange import VectorPoints, exchange

LARGE = {"N": 1_000_000, "K": 1024, "m": 64}
CANDIDATES = (None, 256, 64, 16)


def sketches(N: int, m: int) -> np.ndarray:
    """Draw vectors around 2,000 modes of random weight, spread over two orders of magnitude; (N, m) float32."""
    rng = np.random.default_rng(0)
    modes = 3.0 * rng.standard_normal((2000, m), dtype=np.float32)
    which = rng.choice(2000, N, p=rng.dirichlet(np.ones(2000)))
    z = rng.standard_normal((N, m), dtype=np.float32) * np.exp(rng.standard_normal((N, 1), dtype=np.float32))
    return np.asarray((z + modes[which]) / np.sqrt(m), dtype=np.float32)


def main() -> int:
    """Fit a million sketches, looking at all clusters or only at some; print a line each."""
    print("N = {N:,}, K = {K:,}, m = {m}".format(**LARGE))
    z = sketches(LARGE["N"], LARGE["m"])
    start_labels = balanced_labels(LARGE["N"], LARGE["K"], 0)
    first = 0.0
    for n_candidates in CANDIDATES:
        start = time.perf_counter()
        points = VectorPoints(z, n_candidates=n_candidates)
        run = exchange(points, start_labels, LARGE["K"], 0, range(1, 21))
        seconds, phi = time.perf_counter() - start, min(run.objective)
        first = first or phi
        what = "all clusters" if n_candidates is None else f"{n_candidates} candidates"
        print(f"{what}: {seconds:.1f} s, {len(run.objective)} sweeps, Φ {phi / first:.4f} of the first", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
