"""What a pass over ImageNet's gradients costs on many workers: ``python -m gcref.validation.benchmarks.far_workers``.

Measured here, on one thread, with ResNet18 at 224 × 224 and 1,000 classes: the seconds an example takes to be sketched
and to be summed for the exact variance of SG-B, SG-2B and SVRG, and the bytes that travel: the network to each worker,
sketches or sums back from each piece. From them, for 1.28 million examples and 1,000 workers: bytes moved and seconds,
with a link of 10 Gbit/s at the process that hands out and merges. That process is taken to do one thing after the
other. One minute; docs/clusters.md quotes the table.
"""

import os
import pickle
import sys
import time
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

os.environ |= {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np

import gcref
from gcref import closed_form
from gcref.data import Dataset
from gcref.engine.network import Network
from gcref.estimators import SVRG
from gcref.studies.trajectory import SKETCH_PIECE, Traces

N = 1_281_167
N_WORKERS = 1_000
LINK = 10e9 / 8  # bytes a second
DIM = 96  # numbers of a sketch: 64 for the clusters, 32 for the estimate of the variance
SHOWN = 16  # examples measured


class Work(NamedTuple):
    """A pass over the data: what an example and a piece cost."""

    name: str
    seconds_an_example: float
    examples_a_piece: int
    bytes_out: int  # to each worker
    bytes_back: int  # from each piece
    seconds_of_merging: float  # a piece


def seconds(run: Callable[[], object]) -> float:
    """Return the best of three runs' seconds, after one that compiles."""
    run()
    found = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def sketching(net: Network, ds: Dataset) -> Work:
    """Measure one-pass sketches."""
    taken = seconds(lambda: gcref.Sketches(DIM).add(Traces(net, ds)))
    return Work("sketches, m = 96", taken / len(ds), SKETCH_PIECE, len(pickle.dumps(net)), 8 * DIM * SKETCH_PIECE, 0.0)


def exact(net: Network, ds: Dataset) -> Work:
    """Measure the sums of the exact variances of SG-B, SG-2B and SVRG."""
    svrg = SVRG(4).resume(net.copy(), np.zeros(net.n_parameters, net.dtype))
    estimators = {"sgb": gcref.MiniBatch(4), "sg2b": gcref.MiniBatch(8), "svrg": svrg}
    taken = seconds(lambda: gcref.variances(estimators, net, ds))
    sums, more = closed_form.Moments(net.n_parameters), closed_form.Moments(net.n_parameters)
    merging = 2 * seconds(lambda: sums.merge(more))
    back = 2 * 2 * 8 * net.n_parameters
    # What a pass does once, the end of the closed form, is a part of `taken`: with few examples, an upper bound.
    return Work("exact variances", taken / len(ds), closed_form.PIECE, 2 * len(pickle.dumps(net)), back, merging)


def plan(work: Work) -> list[str]:
    """Return a row of the table: what the pass costs on all workers."""
    n_pieces = ceil(N / work.examples_a_piece)
    rounds = ceil(n_pieces / N_WORKERS)
    busy = rounds * work.examples_a_piece * work.seconds_an_example
    out, back = N_WORKERS * work.bytes_out, n_pieces * work.bytes_back
    merging = n_pieces * work.seconds_of_merging
    whole = busy + (out + back) / LINK + merging
    alone = N * work.seconds_an_example
    return [
        work.name, f"{1e3 * work.seconds_an_example:.0f} ms", f"{n_pieces:,}", f"{out / 1e9:.1f} GB",
        f"{back / 1e9:.1f} GB", f"{busy:.0f} s", f"{(out + back) / LINK:.0f} s", f"{merging:.0f} s", f"{whole:.0f} s",
        f"{alone / 3600:.1f} h",
    ]  # fmt: skip


def main() -> int:
    """Run from the command line; return the exit code."""
    net = gcref.resnet18((224, 224, 3), 1000, seed=0, dtype="float32")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SHOWN, 224, 224, 3), dtype=np.float32)
    ds = Dataset(x, rng.integers(0, 1000, SHOWN))
    print(f"ResNet18, d = {net.n_parameters:,}; N = {N:,}; {N_WORKERS:,} workers of one thread")
    titles = "pass|an example|pieces|out|back|computing|moving|merging|together|one thread"
    print("| " + " | ".join(titles.split("|")) + " |")
    for work in (sketching(net, ds), exact(net, ds)):
        print("| " + " | ".join(plan(work)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
