"""Peak memory and time of the exact variance of all four estimators of ResNet8 on 50,000 images of 32×32×3.

Run ``python -m gcref.validation.benchmarks.exact_variance`` (some five minutes) on a machine that is otherwise
idle. Everything is float32 on two threads; an epoch is N/B = 390 plain gradients of B = 128 in the same process.
The memory is this process's largest, with Python, the data set (0.6 GB) and the clusters' preparation. The exit
code is 0 if the claim holds, 1 otherwise.
"""

import os
import resource
import sys
import time

os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import numpy as np
from threadpoolctl import threadpool_limits

import gcref
from gcref.data import Dataset
from gcref.estimators import Estimator
from gcref.validation.benchmarks.alternating import block_time

N = 50_000
BATCH_SIZE = 128
TARGET = 2.0  # GB


def main() -> int:
    """Print the claim and the verdict; return 0 if it holds, 1 if not."""
    rng = np.random.default_rng(0)
    ds = Dataset(rng.standard_normal((N, 32, 32, 3), dtype=np.float32), rng.integers(0, 10, N))
    net = gcref.resnet8(dtype="float32")
    with threadpool_limits(2, user_api="blas"):
        epoch = block_time(lambda: net.gradient(ds.x[:BATCH_SIZE], ds.y[:BATCH_SIZE]), 10) * N / BATCH_SIZE
        start = time.perf_counter()
        clusters = gcref.Stratified(gcref.GradientClustering(BATCH_SIZE, n_iter=1)).prepare(net, ds)
        estimators: dict[str, Estimator] = {
            "SG-B": gcref.MiniBatch(BATCH_SIZE),
            "SG-2B": gcref.MiniBatch(2 * BATCH_SIZE),
            "SVRG": gcref.SVRG(BATCH_SIZE).prepare(net, ds),
            "GC": clusters,
        }
        prepared = time.perf_counter() - start
        net.theta *= 1.01
        start = time.perf_counter()
        found = gcref.variances(estimators, net, ds)
        measured = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    for name, variance in found.items():
        print(f"  {name:6s} average {variance.average:.3e}, normalized {variance.normalized:.3f}")
    print(f"  an epoch takes {epoch:.1f} s; snapshot and one GC iteration from scratch {prepared / epoch:.2f} epochs")
    passed = peak <= TARGET
    print(
        f"{'PASS' if passed else 'FAIL'}: all four estimators exactly in {measured / epoch:.2f} epochs, "
        f"peak memory {peak:.2f} GB, at most {TARGET:g} is claimed"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
