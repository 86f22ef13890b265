"""Suite ``variance``: the exact variance of SG-B, SG-2B, SVRG and GC over the whole data set, in plain epochs.

An epoch is N/B plain gradients, B = 128, timed in turn; everything is float32. SVRG's snapshot and the clusters are
prepared before, and the parameters moved a little, as in training.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import gcref
from gcref.estimators import Estimator
from gcref.validation.benchmarks.alternating import alternate, block_time, seconds_of
from gcref.validation.benchmarks.rows import Row, Work
from gcref.validation.benchmarks.workloads import BATCH_SIZE, Model, Plan, mlp, plain, resnet8, scaled, trace_work

SUITE = "variance"
N_CLUSTERS = 128
AVERAGE: dict[str, Any] = {"normalized": False}


def rows(plan: Plan) -> Iterator[Row]:
    """Measure; one row after the other."""
    for name, m, target, normalized in (
        ("MLP", mlp(6_400 if plan.quick else 25_600), 2.2, 3.3),
        ("ResNet8", resnet8(1_280 if plan.quick else 6_400), 3.0, None),
    ):
        ds = f"{name}, N = {len(m.ds):,}"
        yield _row(plan, f"average variance of four estimators, {ds}", m, target, AVERAGE)
        yield _row(plan, f"average and normalized variance, {ds}", m, normalized, {})


def _row(plan: Plan, what: str, m: Model, target: float | None, options: dict[str, Any]) -> Row:
    """Time all four estimators at once."""
    estimators = prepared(m)
    gcref.variances(estimators, m.net, m.ds, **options)
    pair = alternate(
        lambda: seconds_of(lambda: gcref.variances(estimators, m.net, m.ds, **options)),
        lambda: m.batches * block_time(plain(m), 10),
        plan.blocks(5),
    )
    return Row(SUITE, what, "a plain epoch", pair, target, least_work(m, options is not AVERAGE))


def prepared(m: Model) -> dict[str, Estimator]:
    """Return the four estimators, SVRG's snapshot a little behind."""
    labels = np.random.default_rng(1).permutation(len(m.ds)) % N_CLUSTERS
    estimators: dict[str, Estimator] = {
        "sgb": gcref.MiniBatch(BATCH_SIZE),
        "sg2b": gcref.MiniBatch(2 * BATCH_SIZE),
        "svrg": gcref.SVRG(BATCH_SIZE).prepare(m.net, m.ds),
        "gc": gcref.Stratified(labels),
    }
    m.net.theta *= m.net.dtype.type(1.01)
    return estimators


def least_work(m: Model, normalized: bool) -> Work:
    """Count what no way around is known for: at θ and θ̃ the traces and Σ g_i, cluster by cluster at θ.

    With the normalized variance also Σ g_i∘g_i at θ, plain and weighted by the clusters' sizes, and at θ̃, and
    Σ g_i∘g̃_i. Counted as matrix products, which a convolution's second moments are not: none is counted there.
    """
    traces = scaled(trace_work(m), m.batches)
    more = 2 + (4 if normalized and m.x.ndim == 2 else 0)
    return Work(2 * traces.flops + 2.0 * len(m.ds) * more * m.products, 2 * traces.n_bytes)
