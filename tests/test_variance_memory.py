"""The memory of variances and of a fit does not grow with the gradients of a data set."""

import importlib
import tracemalloc

import numpy as np
import pytest

import gcref
import gcref.estimators
from gcref.data import Dataset
from gcref.kernels import threads
from gcref.validation import enumeration

MODULE = importlib.import_module("gcref.closed_form")


def peak(run):
    """Bytes that `run` holds at most beyond what is there before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(measure, n, monkeypatch):
    """Numbers of eight bytes by which the peak grows with each further example, from n to 4n, and its uncertainty."""
    monkeypatch.setattr(gcref.estimators, "CHUNK", 64)
    monkeypatch.setattr(threads, "n_threads", lambda: 1)  # so that no peaks of several threads meet
    net, peaks = enumeration.strided(0).copy("float32"), []
    for size in (n, n, 4 * n):  # the first compiles and caches
        rng = np.random.default_rng(0)
        x = rng.standard_normal((size, *enumeration.IMAGE)).astype(np.float32)
        peaks.append(peak(measure(net, Dataset(x, rng.integers(0, 3, size)))))
    python_objects = 1 << 17
    return (peaks[2] - peaks[1]) / (3 * n) / 8, python_objects / (3 * n) / 8


# For comparison: the traces of an example are a hundred numbers, its gradient 50, a copy of its image 20.


@pytest.mark.parametrize("cancels", [False, True])
def test_memory_of_variances_is_flat_in_n(cancels, monkeypatch):
    monkeypatch.setattr(MODULE, "CANCELLATION_FLOAT32", 2.0 if cancels else 0.0)

    def measure(net, ds):
        labels = np.arange(len(ds)) % 3
        estimators = {"SG-B": gcref.MiniBatch(4), "SVRG": gcref.SVRG(4), "GC": gcref.Stratified(labels)}
        estimators |= {"GC, another": gcref.Stratified(labels[::-1])}
        for estimator in estimators.values():
            estimator.prepare(net, ds)
        net.theta += 0.01
        return lambda: gcref.variances(estimators, net, ds)

    # Indices: one vector for each mini-batch, one for the data set, one for a centred pass.
    found, uncertain = growth(measure, 800, monkeypatch)
    assert found <= 4 + uncertain


def test_memory_of_a_fit_is_products_and_labels(monkeypatch):
    n_clusters = 24

    def measure(net, ds):
        stratified = gcref.Stratified(gcref.GradientClustering(n_clusters, n_iter=1))
        return lambda: stratified.prepare(net, ds)

    # One set of products, norms, an order, indices, and the labels of the start, of the best and of this iteration.
    found, uncertain = growth(measure, 1500, monkeypatch)
    assert n_clusters <= found <= n_clusters + 6 + uncertain
