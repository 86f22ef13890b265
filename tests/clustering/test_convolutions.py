"""Clustering where positions share parameters: traces of convolutional networks against plain loops."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gcref
import gcref.estimators
from gcref.clustering import gram
from gcref.clustering.exact import ExactClustering
from gcref.clustering.gram import gram_matrix, gram_operations
from gcref.clustering.low_rank import GradientClustering
from gcref.engine.costs import Operations
from gcref.engine.patch_trace import PatchTrace
from gcref.engine.trace import concatenate, difference, per_example_gradients
from gcref.validation import enumeration, naive, naive_convolution

N, K = 30, 4
MODELS = {
    "pooled": enumeration.Model("", enumeration.pooled, enumeration.IMAGE),
    "strided": enumeration.Model("", enumeration.strided, enumeration.IMAGE),
    "ResNet8": enumeration.resnet8(None),
    "ResNet8 with batch norm": enumeration.resnet8("batch"),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS)
SIZES = pytest.mark.parametrize("sizes", ["sequential", "fixed"])
UPDATES = pytest.mark.parametrize("update", ["alternating", "exchange"])


def problem(model, dtype="float64"):
    """A network that has moved a little, and a data set."""
    net, ds = enumeration.draw(N, MODELS[model], 0)
    enumeration.move(net, ds, 0)
    return net.copy(dtype), gcref.data.Dataset(ds.x.astype(dtype), ds.y)


def written_out(trace):
    """A (N, T, I) and D (N, T, O) of a trace, patches copied number by number."""
    if not isinstance(trace, PatchTrace):
        return trace.A, trace.D
    blocks = []
    for part in trace.parts:
        A = naive_convolution.patches(part.x, tuple(trace.win))
        if trace.bias:
            A = np.concatenate([A, np.full((*A.shape[:2], 1), part.one)], axis=2)
        blocks.append((A, part.dout.reshape(len(A), -1, part.dout.shape[3])))
    return tuple(np.concatenate(arrays, axis=1) for arrays in zip(*blocks, strict=True))


def split(traces, *lengths):
    """Cut the examples into batches."""
    return [[t.rows(slice(a, b)) for t in traces] for a, b in pairwise(np.cumsum([0, *lengths]))]


def assert_step_by_step(traces, sizes, seed, n_iter=4):
    """Compare each iteration with plain loops, from where the one before ended."""
    steps = naive.gradient_clustering([written_out(t) for t in traces], K, sizes, n_iter, seed)
    est = GradientClustering(K, sizes=sizes, n_iter=1, seed=seed, warm_start=True)
    for phi, labels, centers in steps:
        est.fit(traces)
        assert_array_equal(est.labels_, labels)
        assert_allclose(est.objective_, [phi], rtol=1e-10)
        for got, want in zip(est.centers_, centers, strict=True):
            for g, w in zip(got, want, strict=True):
                assert_allclose(g, w, rtol=1e-10, atol=1e-13)
    whole = GradientClustering(K, sizes=sizes, n_iter=n_iter, seed=seed).fit(traces)
    assert_allclose(whole.objective_, [phi for phi, _, _ in steps], rtol=1e-10)
    assert_array_equal(whole.labels_, steps[int(np.argmin(whole.objective_))][1])
    return steps


@EVERY_MODEL
def test_the_plain_loops_start_from_the_gradients_of_the_network(model):
    net, ds = problem(model)
    blocks = [written_out(t) for t in net.traces(ds.x, ds.y)[1]]
    assert any(A.shape[1] > 2 for A, _ in blocks)
    assert any(A.shape[1] <= 2 for A, _ in blocks)
    G = np.concatenate([naive.per_example_gradients(A, D) for A, D in blocks], axis=1)
    assert_allclose(G, enumeration.gradients(net, ds.x, ds.y), rtol=1e-11, atol=1e-15)


@EVERY_MODEL
@SIZES
@pytest.mark.parametrize("seed", [0, 1])
def test_every_step_is_that_of_plain_loops(model, sizes, seed):
    net, ds = problem(model)
    steps = assert_step_by_step(net.traces(ds.x, ds.y)[1], sizes, seed)
    assert len({tuple(labels) for _, labels, _ in steps}) > 1


@SIZES
def test_every_step_on_differences_is_that_of_plain_loops(sizes):
    # The traces of g_i − g̃_i have two sets of patches, the second with a 0 for the bias.
    net, ds = problem("strided")
    before = net.traces(ds.x, ds.y)[1]
    enumeration.move(net, ds, 1)
    assert_step_by_step(difference(net.traces(ds.x, ds.y)[1], before), sizes, 0)


@EVERY_MODEL
def test_labels_do_not_depend_on_how_the_traces_are_handed_over(model, monkeypatch):
    net, ds = problem(model)
    traces = net.traces(ds.x, ds.y)[1]
    expected = GradientClustering(K, n_iter=5).fit(traces)
    for lengths in ([N], [13, 17], [1] * N, [11, 0, 19]):
        batches = split(traces, *lengths)
        for given in (batches, lambda batches=batches: iter(batches), concatenate(batches)):
            est = GradientClustering(K, n_iter=5).fit(given)
            assert_array_equal(est.labels_, expected.labels_)
            assert_allclose(est.objective_, expected.objective_, rtol=1e-10)
    monkeypatch.setattr(gcref.estimators, "CHUNK", 7)
    stratified = gcref.Stratified(GradientClustering(K, n_iter=5)).prepare(net, ds)
    assert_array_equal(stratified.labels_, expected.labels_)
    assert_allclose(stratified.clustering.objective_, expected.objective_, rtol=1e-10)


# ------------------------------------------------------------------------------------------------ exact centres


@EVERY_MODEL
@UPDATES
def test_the_gram_form_equals_the_explicit_form(model, update):
    net, ds = problem(model)
    traces = net.traces(ds.x, ds.y)[1]
    G = enumeration.gradients(net, ds.x, ds.y)
    expected = ExactClustering(K, update, form="explicit").fit(G)
    for given in (traces, split(traces, 8, 22)):
        for form in ("explicit", "gram"):
            est = ExactClustering(K, update, form=form).fit(given)
            assert est.form_ == form
            assert_array_equal(est.labels_, expected.labels_)
            assert_allclose(est.objective_, expected.objective_, rtol=1e-10)
            assert_allclose(est.objective_.min(), naive.objective(est.labels_, G), rtol=1e-10)


@EVERY_MODEL
def test_inner_products_come_from_gradients_and_from_traces_whichever_is_cheaper(model, monkeypatch):
    net, ds = problem(model, "float32")
    traces = net.traces(ds.x, ds.y)[1]
    by_gradients = [gram_operations(*t.shape, N, N).choice == "Eq. 8" for t in traces]
    assert any(by_gradients)
    assert not all(by_gradients)
    blocks = [naive.per_example_gradients(*written_out(t)) for t in traces]
    want, scale = (np.concatenate([f(G) for G in blocks], axis=1) for f in (np.copy, np.abs))
    got = gram_matrix(traces)
    # Float32 traces, float64 sums.
    assert np.abs(got - want @ want.T).max() <= 1e-13 * (scale @ scale.T).max()
    for counts in (Operations(0, 1), Operations(1, 0)):
        monkeypatch.setattr(gram, "gram_operations", lambda *shape, counts=counts: counts)
        assert_allclose(gram_matrix(traces), got, rtol=1e-11, atol=1e-13 * got.max())


# ---------------------------------------------------------------------------------------------- Φ is the variance


def phi_of(labels, net, ds):
    """N² d V of Eq. 1 with strata `labels`."""
    return N**2 * net.n_parameters * gcref.variance(gcref.Stratified(labels), net, ds).average


@EVERY_MODEL
@UPDATES
def test_the_objective_about_exact_centres_is_the_variance(model, update):
    net, ds = problem(model)
    est = ExactClustering(K, update, n_iter=3).fit(net.traces(ds.x, ds.y)[1])
    assert_allclose(est.objective_.min(), phi_of(est.labels_, net, ds), rtol=1e-10)
    assert_allclose(est.objective_[-1], phi_of(est.last_labels_, net, ds), rtol=1e-10)


@EVERY_MODEL
def test_the_objective_about_other_centres_is_the_variance_and_their_distance(model):
    net, ds = problem(model)
    est = GradientClustering(K, n_iter=1).fit(net.traces(ds.x, ds.y)[1])
    G = enumeration.gradients(net, ds.x, ds.y)
    away = 0.0
    for k in range(K):
        center = np.concatenate([np.outer(c[k], d[k]).ravel() for c, d in est.centers_])
        away += est.sizes_[k] ** 2 * np.sum((center - G[est.labels_ == k].mean(axis=0)) ** 2)
    assert away > 0.01 * est.objective_[0]
    assert_allclose(est.objective_, [phi_of(est.labels_, net, ds) + away], rtol=1e-10)


def test_clusters_of_images_make_less_noise_than_none():
    # Copies of five images with a little noise on them, as many as there are clusters.
    rng = np.random.default_rng(0)
    net, ds = enumeration.draw(5, MODELS["strided"], 0)
    mode = np.arange(60) % 5
    ds = gcref.data.Dataset(ds.x[mode] + 0.01 * rng.standard_normal((60, *enumeration.IMAGE)), ds.y[mode])
    gc = gcref.Stratified(GradientClustering(5, seed=1)).prepare(net, ds)
    found = gcref.variances({"GC": gc, "SG-B": gcref.MiniBatch(5)}, net, ds)
    assert found["GC"].average < 0.2 * found["SG-B"].average


def test_float32_traces_give_float32_centres_near_those_of_float64():
    traces = {}
    for dtype in ("float32", "float64"):
        net, ds = problem("pooled", dtype)
        traces[dtype] = net.traces(ds.x, ds.y)[1]
    single, double = (GradientClustering(K, n_iter=1).fit(traces[dtype]) for dtype in traces)
    assert all(c.dtype == d.dtype == np.float32 for c, d in single.centers_)
    assert_array_equal(single.labels_, double.labels_)
    G = per_example_gradients(traces["float64"])
    # 20 positions, the traces themselves are off by as much, and Φ is a difference of squares.
    assert abs(single.objective_[0] - double.objective_[0]) <= 80 * np.finfo(np.float32).eps * N * (G**2).sum()
