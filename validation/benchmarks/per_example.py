"""What per-example statistics cost over a plain gradient: norms, moments by coordinate, clustering, exact variance.

Run ``python -m gcref.validation.benchmarks.per_example`` (some five minutes) on a machine that is otherwise idle.
Everything is float32, B = 128, on two threads, in one process, in turn with plain gradients of the same network; an
epoch is N/B of these. The exit code is 0 if all claims hold, 1 otherwise.
"""

import os
import sys
import time
from typing import NamedTuple

os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import numpy as np
from threadpoolctl import threadpool_limits

import gcref
from gcref.data import Dataset
from gcref.engine.algebra import add_moments
from gcref.engine.network import Network
from gcref.estimators import Estimator, chunks
from gcref.validation.benchmarks.alternating import Run, block_time, compare

BATCH_SIZE = 128
N_CLUSTERS = 128


class Model(NamedTuple):
    """A network, a batch, and a data set of N examples."""

    net: Network
    x: np.ndarray
    y: np.ndarray
    ds: Dataset


def model(net: Network, shape: tuple[int, ...], n_examples: int) -> Model:
    """Draw inputs and labels."""
    rng = np.random.default_rng(0)
    ds = Dataset(rng.standard_normal((n_examples, *shape), dtype=np.float32), rng.integers(0, 10, n_examples))
    return Model(net, ds.x[:BATCH_SIZE], ds.y[:BATCH_SIZE], ds)


def plain(m: Model) -> Run:
    """A plain gradient of one batch."""
    return lambda: m.net.gradient(m.x, m.y)


def norms(m: Model) -> Run:
    """Per-example squared norms of all layers."""
    return lambda: gcref.per_example_sq_norms(m.net.traces(m.x, m.y)[1])


def moments(m: Model) -> Run:
    """Σ g_i and Σ g_i∘g_i of one batch, which give its mean gradient and its variance by coordinate."""
    total, squares = np.zeros(m.net.n_parameters), np.zeros(m.net.n_parameters)

    def run() -> None:
        for block, trace in zip(m.net.blocks, m.net.traces(m.x, m.y)[1], strict=True):
            add_moments(trace, total[block.slice], squares[block.slice])

    return run


def epochs_of_an_iteration(m: Model, keep: bool) -> float:
    """Epochs that one iteration (A and U step) of GC takes, traces kept or computed anew at each pass."""

    def anew():  # type: ignore[no-untyped-def]
        return (traces for traces, _, _ in chunks(m.net, m.ds, np.arange(len(m.ds))))

    traces = list(anew()) if keep else anew
    ratios = []
    for _ in range(3):
        epoch = block_time(plain(m), 10) * len(m.ds) / BATCH_SIZE
        seconds = [_seconds(lambda n=n: gcref.GradientClustering(N_CLUSTERS, n_iter=n).fit(traces)) for n in (1, 5)]
        ratios.append((seconds[1] - seconds[0]) / 4 / epoch)
    return float(np.median(ratios))


def epochs_of_all_variances(m: Model) -> float:
    """Epochs that the exact average and normalized variance of all four estimators take."""
    labels = np.random.default_rng(1).permutation(len(m.ds)) % N_CLUSTERS
    estimators: dict[str, Estimator] = {
        "sgb": gcref.MiniBatch(BATCH_SIZE),
        "sg2b": gcref.MiniBatch(2 * BATCH_SIZE),
        "svrg": gcref.SVRG(BATCH_SIZE).prepare(m.net, m.ds),
        "gc": gcref.Stratified(labels),
    }
    m.net.theta *= 1.01
    epoch = block_time(plain(m), 10) * len(m.ds) / BATCH_SIZE
    return _seconds(lambda: gcref.variances(estimators, m.net, m.ds)) / epoch


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def say(what: str, found: float, target: float) -> bool:
    """Print a line with the verdict; return it."""
    print(f"{'PASS' if found <= target else 'FAIL'}: {what}: {found:.3f} epochs, at most {target:g} is claimed")
    return found <= target


def main() -> int:
    """Print the claims and verdicts; return 0 if they hold, 1 if not."""
    mlp = model(gcref.mlp((784, 1024, 1024, 10), dtype="float32"), (784,), 12800)
    resnet = model(gcref.resnet8(dtype="float32"), (32, 32, 3), 6400)
    with threadpool_limits(2, user_api="blas"):
        verdicts = [
            compare(norms(mlp), plain(mlp)).report("MLP, norms over a plain gradient", 1.15),
            compare(norms(resnet), plain(resnet), 8, 5).report("ResNet8, norms over a plain gradient", 1.5),
            compare(moments(mlp), plain(mlp)).report("MLP, mean and variance by coordinate", 1.6),
            say("MLP, a GC iteration on kept traces", epochs_of_an_iteration(mlp, keep=True), 0.14),
            say("MLP, a GC iteration, traces anew", epochs_of_an_iteration(mlp, keep=False), 1.3),
            say("ResNet8, a GC iteration, traces anew", epochs_of_an_iteration(resnet, keep=False), 2.5),
        ]
        for name, m in (("MLP", mlp), ("ResNet8", resnet)):
            print(f"{name}, exact variance of all four estimators: {epochs_of_all_variances(m):.2f} epochs")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
