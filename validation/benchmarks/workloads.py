"""What is timed: networks with a batch and a data set, the operations they cost, and gcref's runs on them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

import gcref
from gcref.data import Dataset
from gcref.engine.algebra import add_moments
from gcref.engine.network import Network
from gcref.engine.trace import Trace
from gcref.estimators import chunks
from gcref.kernels.threads import product
from gcref.validation.benchmarks.alternating import Pair, Run, compare
from gcref.validation.benchmarks.rows import Work

BATCH_SIZE = 128


class Plan(NamedTuple):
    """How thoroughly to measure, and beside which peers (see `peers.PEERS`)."""

    quick: bool
    peers: frozenset[str]

    def compare(self, ours: Run, theirs: Run, blocks: int, runs: int, warm: int = 2, times: float = 1.0) -> Pair:
        """Time two sides in turn; fewer times if it is to be quick."""
        if self.quick:
            blocks, runs, warm = min(blocks, 3), min(runs, 2), min(warm, 1)
        return compare(ours, theirs, blocks, runs, warm, times)

    def blocks(self, full: int) -> int:
        """Return how many blocks to measure."""
        return min(full, 2) if self.quick else full


class Model(NamedTuple):
    """A network, a batch, and a data set of N examples."""

    net: Network
    x: np.ndarray
    y: np.ndarray
    ds: Dataset

    @property
    def batches(self) -> float:
        """Plain gradients in an epoch."""
        return len(self.ds) / BATCH_SIZE

    @property
    def products(self) -> float:
        """Σ_l T I O: multiplications and additions, halved, of one of an example's three products."""
        return float(sum(self.net.costs(self.x.shape[1:]).backprop()))

    @property
    def first(self) -> float:
        """T I O of the first block, whose inputs need no gradient."""
        return float(self.net.costs(self.x.shape[1:]).backprop()[0])

    @property
    def trace_numbers(self) -> float:
        """Σ_l T (I + O): the numbers in an example's traces, patches written out."""
        return float(sum(self.net.costs(self.x.shape[1:]).u_step()))

    def center_products(self, n_clusters: int) -> float:
        """Multiplications of C ⊙ g with K centres and one example, by the form of fewer, Eq. 8 or 9; as of a sketch."""
        return float(sum(min(found) for found in self.net.costs(self.x.shape[1:], n_clusters).inner_products()))


def model(net: Network, shape: tuple[int, ...], n_examples: int) -> Model:
    """Draw inputs and labels."""
    rng = np.random.default_rng(0)
    n = max(n_examples, BATCH_SIZE)
    ds = Dataset(rng.standard_normal((n, *shape), dtype=np.float32), rng.integers(0, 10, n))
    return Model(net, ds.x[:BATCH_SIZE], ds.y[:BATCH_SIZE], ds)


def mlp(n_examples: int = BATCH_SIZE) -> Model:
    """Make the paper's MLP on MNIST, float32."""
    return model(gcref.mlp((784, 1024, 1024, 10), dtype="float32"), (784,), n_examples)


def resnet8(n_examples: int = BATCH_SIZE) -> Model:
    """Make the paper's network on CIFAR-10, float32."""
    return model(gcref.resnet8(dtype="float32"), (32, 32, 3), n_examples)


def resnet32(n_examples: int = BATCH_SIZE) -> Model:
    """Make the paper's network on CIFAR-100 with batch norm, float32, 10 classes."""
    return model(gcref.resnet32(dtype="float32"), (32, 32, 3), n_examples)


# ------------------------------------------------------------------------------------------------- gcref's runs


def plain(m: Model) -> Run:
    """Compute a plain gradient of one batch, of which an epoch has N/B."""
    return lambda: m.net.gradient(m.x, m.y, training=True)


def norms(m: Model) -> Run:
    """Per-example squared norms of all layers."""
    return lambda: gcref.per_example_sq_norms(m.net.traces(m.x, m.y)[1])


def moments(m: Model) -> Callable[[], float]:
    """Σ g_i and Σ g_i∘g_i of one batch, which give its mean gradient and its variance by coordinate; its trace."""
    total, squares = np.zeros(m.net.n_parameters), np.zeros(m.net.n_parameters)

    def run() -> float:
        squares.fill(0.0)
        for block, trace in zip(m.net.blocks, m.net.traces(m.x, m.y)[1], strict=True):
            add_moments(trace, total[block.slice], squares[block.slice])
        return float(squares.sum())

    return run


def anew(m: Model) -> Callable[[], Iterator[list[Trace]]]:
    """Compute the traces of the data set, batch by batch, at each call."""
    return lambda: (traces for traces, _, _ in chunks(m.net, m.ds, np.arange(len(m.ds))))


def matrix_products(kept: Sequence[Sequence[Trace]], n_clusters: int) -> Run:
    """Multiply the traces of fully connected layers by as many centres, block by block, and nothing else."""
    ones = [[np.asfortranarray(np.ones((n_clusters, n), t.dtype)) for n in (t.n_inputs, t.n_outputs)] for t in kept[0]]

    def run() -> None:
        for batch in kept:
            for trace, (c, d) in zip(batch, ones, strict=True):
                product(trace.A[:, 0], c.T)
                product(trace.D[:, 0], d.T)

    return run


# ---------------------------------------------------------------------------- operations and bytes of one batch


def gradient_work(m: Model) -> Work:
    """Forward, gradients of weights and of inputs; parameters and inputs are read, the gradient is written."""
    flops = 2.0 * BATCH_SIZE * (3 * m.products - m.first)
    return Work(flops, 4.0 * (2 * m.net.n_parameters + m.x.size))


def trace_work(m: Model) -> Work:
    """Forward and gradients of inputs; what is read at least."""
    flops = 2.0 * BATCH_SIZE * (2 * m.products - m.first)
    return Work(flops, 4.0 * (m.net.n_parameters + m.x.size))


def moments_work(m: Model) -> Work:
    """The traces, and two more products a block; both sums are read and written in float64."""
    traces = trace_work(m)
    return Work(traces.flops + 2.0 * BATCH_SIZE * 2 * m.products, traces.n_bytes + 32.0 * m.net.n_parameters)


def scaled(work: Work, times: float) -> Work:
    """Return the work of doing something so many times."""
    return Work(times * work.flops, times * work.n_bytes, work.dtype)
