"""The estimators that several test modules go through, small problems for them, and their plain definition."""

import numpy as np

import gcref
from gcref.engine.trace import Trace, per_example_gradients
from gcref.estimators import chunks
from gcref.validation import enumeration

SIZES = (3, 4, 3)
LABELS = np.array([4, 0, 4, 4, 0, 9, 4])
ESTIMATORS = {
    "SG-B": lambda: gcref.MiniBatch(2),
    "SG-B, replacement": lambda: gcref.MiniBatch(2, replacement=True),
    "SVRG": lambda: gcref.SVRG(2),
    "SVRG, replacement": lambda: gcref.SVRG(3, replacement=True),
    "labels": lambda: gcref.Stratified(LABELS),
    "labels, B < K": lambda: gcref.Stratified(LABELS, 2),
    "labels, B > K": lambda: gcref.Stratified(LABELS, 5),
    "labels, B > K, replacement": lambda: gcref.Stratified(LABELS, 6, replacement=True),
    "GradientClustering": lambda: gcref.Stratified(gcref.GradientClustering(3)),
    "ExactClustering": lambda: gcref.Stratified(gcref.ExactClustering(2)),
}


def prepared(estimator, seed=0, n_examples=7):
    """A network that has moved since the estimator was prepared, and its data set."""
    net, ds = enumeration.problem(n_examples, SIZES, seed)
    estimator.prepare(net, ds)
    net.theta += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)
    return net, ds


# ---------------------------------------------------------------------------------- several estimators at a time

N = 24
MODELS = {
    "MLP": enumeration.mlp(3, 4, 3),
    "pooled": enumeration.Model("", enumeration.pooled, enumeration.IMAGE),
    "strided": enumeration.Model("", enumeration.strided, enumeration.IMAGE),
}
SEVERAL = {
    "SG-B": lambda: gcref.MiniBatch(3),
    "SG-2B": lambda: gcref.MiniBatch(6, replacement=True),
    "SVRG": lambda: gcref.SVRG(3),
    "SVRG, replacement": lambda: gcref.SVRG(2, replacement=True),
    "labels": lambda: gcref.Stratified(np.arange(N) % 4),
    "uneven": lambda: gcref.Stratified(np.minimum(np.arange(N), 7)),
    "clusters": lambda: gcref.Stratified(gcref.GradientClustering(3)),
    "fewer draws": lambda: gcref.Stratified(np.arange(N) % 5, 3),
    "further draws": lambda: gcref.Stratified(np.minimum(np.arange(N), 3), 9),
    "clusters, further draws": lambda: gcref.Stratified(gcref.GradientClustering(3), 11, replacement=True),
    "one stratum": lambda: gcref.Stratified(np.full(N, 5)),
}


def prepare_several(net, ds):
    """Every estimator, prepared, and moved away from; the second SVRG has a snapshot of its own."""
    estimators = {name: make() for name, make in SEVERAL.items()}
    estimators["SVRG, replacement"].prepare(net, ds)
    enumeration.move(net, ds, 1)
    for name in estimators.keys() - {"SVRG, replacement"}:
        estimators[name].prepare(net, ds)
    enumeration.move(net, ds, 2)
    return estimators


# --------------------------------------------------------------------------------- what explicit gradients say


def contributions(estimator, net, ds, indices):
    """Traces in float64 of what the examples contribute, as a pass over `indices` makes them in the network's type."""
    for traces, x, y in chunks(net, ds, indices):
        yield [trace.astype(np.dtype(np.float64)) for trace in estimator.contribution(traces, x, y)]


def variance_of(g):
    """The variance (divisor n) of each coordinate of gradients (n, d)."""
    return ((g - g.mean(axis=0)) ** 2).mean(axis=0)


def explicit(estimator, net, ds, moment=variance_of):
    """V_j (d,) from gradients less the mean of their stratum, averaged over all dealings where strata are merged."""
    strata = estimator.strata(ds)
    parts = [
        np.concatenate([per_example_gradients(t) for t in contributions(estimator, net, ds, stratum.indices)])
        for stratum in strata
    ]
    if isinstance(estimator, gcref.Stratified) and estimator.batch_size and estimator.batch_size < len(strata):
        dealt = enumeration.dealings([(k,) for k in range(len(strata))], estimator.batch_size)
    else:
        dealt = [[(k,) for k in range(len(strata))]]
    V = np.zeros(net.n_parameters)
    for group in (group for groups in dealt for group in groups):
        g = np.concatenate([parts[k] for k in group])
        size, first = len(g), strata[group[0]]
        finite = 1.0 if first.replacement else (size - first.n_draws) / max(size - 1, 1)
        V += (size / len(ds)) ** 2 * finite / first.n_draws * moment(g) / len(dealt)
    return V


def magnitudes(estimator, net, ds):
    """E[(Σ_t |A_t||D_t|)²], (d,): rounding of sums of m terms moves E[g²], and ḡ² too, by 2m eps of it at most."""
    (traces,) = contributions(estimator, net, ds, np.arange(len(ds)))
    return (per_example_gradients([Trace(abs(t.A), abs(t.D)) for t in traces]) ** 2).mean(axis=0)


def full_gradient(net, ds):
    """The mean of explicit gradients, (d,)."""
    (traces,) = contributions(gcref.MiniBatch(1), net, ds, np.arange(len(ds)))
    return per_example_gradients(traces).mean(axis=0)
