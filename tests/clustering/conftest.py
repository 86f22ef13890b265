from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from gcref.engine.trace import Trace, per_example_gradients
from gcref.validation import naive


def _modes(N=60, seed=0, dtype="float64", T=2):
    """Traces of two blocks (a T-position and a fully connected one) around five modes."""
    rng = np.random.default_rng(seed)
    mode = rng.integers(0, 5, N)
    blocks = []
    for positions, inputs, outputs in ((T, 4, 3), (1, 5, 2)):
        A = rng.standard_normal((5, positions, inputs))[mode] + 0.1 * rng.standard_normal((N, positions, inputs))
        D = rng.standard_normal((5, positions, outputs))[mode] + 0.1 * rng.standard_normal((N, positions, outputs))
        blocks.append(Trace(A.astype(dtype), D.astype(dtype)))
    return blocks


@pytest.fixture
def modes():
    """Makes traces whose gradients lie around five modes."""
    return _modes


@pytest.fixture
def helpers():
    """Small shared functions of the tests."""

    def split(traces, sizes):
        edges = np.cumsum([0, *sizes])
        return [[Trace(t.A[a:b], t.D[a:b]) for t in traces] for a, b in pairwise(edges)]

    def sgb(G, K):
        """N² tr Cov of SG-B, with replacement, at B = K: what Φ is compared with."""
        return len(G) ** 2 * ((G - G.mean(0)) ** 2).sum() / len(G) / K

    def low_rank_objective(labels, traces, K):
        """Φ about Eq. 6's centres, gradient by gradient."""
        G = per_example_gradients(traces)
        centers = []
        for t in traces:
            c, d = naive.u_step(t.A, t.D, labels, K)
            centers.append(np.stack([np.outer(x, y).ravel() for x, y in zip(c, d, strict=True)]))
        return float(np.bincount(labels, minlength=K) @ naive.spread(G, np.concatenate(centers, 1), labels))

    return SimpleNamespace(split=split, sgb=sgb, low_rank_objective=low_rank_objective)
