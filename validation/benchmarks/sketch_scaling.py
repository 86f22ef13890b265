"""How the time of an exchange sweep on sketches grows with N, K and m, and what a list of candidates saves.

Run ``python -m gcref.validation.benchmarks.sketch_scaling`` on a machine that is otherwise idle (some minutes, 3 GB).
Sketches are synthetic: 2,000 modes of random weight with heavy-tailed spread. A sweep costs O(N K m); each axis is
varied alone, and the exponent of a power law is fitted to the seconds of the second sweep (the first moves nearly
everything). Then, at N = 1 million and K = 1,024, full fits with and without ``n_candidates``: seconds and Φ.
"""

import sys
import time

import numpy as np

from gcref.clustering.alternating import balanced_labels, stream
from gcref.clustering.exchange import VectorPoints, exchange

BASE = {"N": 100_000, "K": 128, "m": 64}
AXES = {"N": (30_000, 100_000, 300_000, 1_000_000), "K": (32, 128, 512, 2048, 4096), "m": (16, 64, 256, 1024)}
LARGE = {"N": 1_000_000, "K": 1024, "m": 64}
CANDIDATES = (None, 256, 64, 16)


def sketches(N: int, m: int) -> np.ndarray:
    """Draw vectors around modes, with spreads over two orders of magnitude; (N, m) float32."""
    rng = np.random.default_rng(0)
    modes = 3.0 * rng.standard_normal((2000, m), dtype=np.float32)
    which = rng.choice(2000, N, p=rng.dirichlet(np.ones(2000)))
    z = rng.standard_normal((N, m), dtype=np.float32) * np.exp(rng.standard_normal((N, 1), dtype=np.float32))
    return np.asarray((z + modes[which]) / np.sqrt(m), dtype=np.float32)


def sweep_seconds(N: int, K: int, m: int) -> float:
    """Return the seconds of the second sweep."""
    points = VectorPoints(sketches(N, m))
    labels = balanced_labels(N, K, 0)
    seconds = []
    for t in (1, 2):
        start = time.perf_counter()
        points.sweep(stream(0, t).permutation(N), labels, K, 0.0)
        seconds.append(time.perf_counter() - start)
    return seconds[-1]


def along(axis: str) -> None:
    """Vary one of N, K and m; print seconds and the exponent."""
    seconds = [sweep_seconds(**BASE | {axis: value}) for value in AXES[axis]]
    exponent = np.polyfit(np.log(AXES[axis]), np.log(seconds), 1)[0]
    row = ", ".join(f"{value:,}: {s:.3f} s" for value, s in zip(AXES[axis], seconds, strict=True))
    print(f"{axis} ({row}): exponent {exponent:.2f}", flush=True)


def large() -> None:
    """Fit a million sketches, looking at all clusters or only at some."""
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


def main() -> int:
    """Print the exponents and the large fits."""
    sweep_seconds(1000, 8, 4)  # compiles
    print(f"seconds of a sweep; where not varied N = {BASE['N']:,}, K = {BASE['K']}, m = {BASE['m']}")
    for axis in AXES:
        along(axis)
    print(f"\nN = {LARGE['N']:,}, K = {LARGE['K']:,}, m = {LARGE['m']}")
    large()
    return 0


if __name__ == "__main__":
    sys.exit(main())
