"""The variance in closed form, against definitions that share nothing with it."""

import importlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gcref
import gcref.estimators
from estimator_cases import ESTIMATORS, SIZES, prepared
from gcref.data import Dataset
from gcref.engine.layers import Layer, Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.trace import Trace
from gcref.validation import enumeration

MODULE = importlib.import_module("gcref.closed_form")


def explicit(net, ds):
    """Every example's gradient, (N, d), as the gradient of a batch of one."""
    return np.array([net.gradient(ds.x[i : i + 1], ds.y[i : i + 1])[1] for i in range(len(ds))], dtype=np.float64)


def coordinates(estimator, ds, G):
    """V_j of SG-B or of strata, (d,), from explicit gradients (N, d) less the mean of their stratum."""
    N, V = len(G), np.zeros(G.shape[1])
    for stratum in estimator.strata(ds):
        g = G[stratum.indices]
        n, b = len(g), stratum.n_draws
        factor = 1.0 if stratum.replacement else (n - b) / max(n - 1, 1)
        V += (n / N) ** 2 * factor / b * ((g - g.mean(axis=0)) ** 2).mean(axis=0)
    return V


def assert_is(found, V, G, rtol):
    """Compare with V_j (d,) and gradients (N, d)."""
    full = G.mean(axis=0)
    np.testing.assert_allclose(found.average, V.mean(), rtol=rtol)
    np.testing.assert_allclose(found.normalized, np.mean(V / (V + full**2)), rtol=rtol)
    np.testing.assert_allclose(found.noise_scale, ((G - full) ** 2).sum() / len(G) / (full**2).sum(), rtol=rtol)


# -------------------------------------------------------------------- closed form = enumeration of all draws

problems = st.builds(
    lambda n, sizes, seed, copies: (n, tuple(sizes), seed, min(copies, n - 1)),
    st.integers(1, 7),
    st.lists(st.integers(1, 4), min_size=2, max_size=3),
    st.integers(0, 10**6),
    st.integers(0, 5),
)


def assert_enumerated(estimator, drawn):
    """Compare an estimator with the enumeration of its draws, the network having moved since `prepare`."""
    n, sizes, seed, copies = drawn
    net, ds = enumeration.problem(n, sizes, seed, copies)
    G_snapshot = enumeration.gradients(net, ds.x, ds.y)
    estimator.prepare(net, ds)
    net.theta += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)
    # One class alone has no gradient, and a vanishing one would make the noise scale a ratio of roundings.
    G = enumeration.gradients(net, ds.x, ds.y)
    assume(np.linalg.norm(G.mean(axis=0)) > 1e-3 * np.sqrt((G**2).sum(axis=1).mean()))
    for name, deviation in enumeration.deviations(estimator, net, ds, G, G_snapshot).items():
        assert deviation <= enumeration.TOLERANCE, f"{name} of {estimator} is off by {deviation:.1e}"


@settings(deadline=None, max_examples=30)
@given(problems, st.integers(1, 3), st.booleans(), st.sampled_from([gcref.MiniBatch, gcref.SVRG]))
def test_mini_batches(drawn, batch_size, replacement, kind):
    assume(drawn[1][-1] > 1)
    assert_enumerated(kind(min(batch_size, drawn[0]), replacement=replacement), drawn)


@settings(deadline=None, max_examples=30)
@given(problems, st.data())
def test_given_labels(drawn, data):
    assume(drawn[1][-1] > 1)
    labels = data.draw(st.lists(st.sampled_from([0, 3, 10**12]), min_size=drawn[0], max_size=drawn[0]))
    assert_enumerated(gcref.Stratified(labels), drawn)


@settings(deadline=None, max_examples=30)
@given(problems, st.data(), st.booleans())
def test_any_number_of_draws_from_given_labels(drawn, data, replacement):
    assume(drawn[1][-1] > 1)
    labels = data.draw(st.lists(st.sampled_from([0, 3, 4, 10**12]), min_size=drawn[0], max_size=drawn[0]))
    batch_size = data.draw(st.integers(1, drawn[0]))
    assert_enumerated(gcref.Stratified(labels, batch_size, replacement), drawn)


@settings(deadline=None, max_examples=30)
@given(
    problems,
    st.integers(1, 3),
    st.sampled_from(
        [
            gcref.GradientClustering,
            gcref.ExactClustering,
            lambda K, seed: gcref.ExactClustering(K, update="exchange", seed=seed),
        ]
    ),
)
def test_clusterers(drawn, n_clusters, clusterer):
    assume(drawn[1][-1] > 1)
    assert_enumerated(gcref.Stratified(clusterer(min(n_clusters, drawn[0]), seed=drawn[2])), drawn)


# ------------------------------------------------------------------------------- parameters that are shared


class Shared(Linear):
    """A fully connected layer at each of T positions, as a convolution is."""

    def forward(self, x, weights):
        return x @ weights[0][:-1] + weights[0][-1], x

    def backward(self, dout, cache, weights, grads, need_dx):
        if grads is not None:
            grads[0][:-1] = np.einsum("bti,bto->io", cache, dout)
            grads[0][-1] = dout.sum(axis=(0, 1))
        return dout @ weights[0][:-1].T if need_dx else None

    def traces(self, dout, cache):
        return [Trace(np.concatenate([cache, np.ones((*cache.shape[:2], 1))], axis=2), dout)]


class Sum(Layer):
    """The sum over positions."""

    def forward(self, x, weights):
        return x.sum(axis=1), x.shape[1]

    def backward(self, dout, cache, weights, grads, need_dx):
        return np.repeat(dout[:, None], cache, axis=1)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(2, 9),
    st.integers(1, 4),
    st.integers(0, 1000),
    st.sampled_from([1e-2, 1.0]),
    st.sampled_from([1, 4, 99]),
)
def test_shared_parameters(n, positions, seed, spread, chunk):
    rng = np.random.default_rng(seed)
    net = Network([Shared(2, 3), ReLU(), Shared(3, 4), ReLU(), Sum(), Linear(4, 3)], SoftmaxCrossEntropy(), seed)
    x = rng.standard_normal((positions, 2)) + spread * rng.standard_normal((n, positions, 2))
    ds = Dataset(x, rng.integers(0, 3, n))
    labels = rng.integers(0, 3, n)
    G = explicit(net, ds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcref.estimators, "CHUNK", chunk)
        for estimator in (gcref.MiniBatch(2), gcref.Stratified(labels)):
            found = gcref.variance(estimator, net, ds)
            V = coordinates(estimator, ds, G)
            np.testing.assert_allclose(found.average, V.mean(), rtol=1e-10, atol=1e-26)
        svrg = gcref.SVRG(2).prepare(net, ds)
        net.theta += 0.1 * rng.standard_normal(net.n_parameters)
        found = gcref.variance(svrg, net, ds)
    V = coordinates(gcref.MiniBatch(2), ds, explicit(net, ds) - G)
    np.testing.assert_allclose(found.average, V.mean(), rtol=1e-10, atol=1e-26)


# ----------------------------------------------------------------------------------------------- arithmetic


def nearly_equal(spread, n_examples=40, seed=0):
    """A softmax regression whose gradients differ by `spread` of their size, and its data set."""
    rng = np.random.default_rng(seed)
    x = 2 + rng.standard_normal(5) + spread * rng.standard_normal((n_examples, 5))
    return gcref.linear(5, 3, seed=seed), Dataset(x, np.zeros(n_examples, int))


@pytest.mark.parametrize("estimator", [gcref.MiniBatch(3), gcref.Stratified(np.arange(40) % 4)], ids=repr)
def test_cancellation(estimator):
    net, ds = nearly_equal(3e-6)
    G = explicit(net, ds)
    V = coordinates(estimator, ds, G)
    assert V.sum() < 1e-9 * (G**2).mean(axis=0).sum()
    # What is to be avoided: E[g²] − ḡ² has lost the digits.
    uncentred = sum(
        (len(s.indices) / 40) ** 2
        / s.n_draws
        * (1.0 if s.n_draws == 1 else 37 / 39)
        * ((G[s.indices] ** 2).mean(axis=0) - G[s.indices].mean(axis=0) ** 2).mean()
        for s in estimator.strata(ds)
    )
    assert abs(uncentred / V.mean() - 1) > 1e-6
    assert_is(gcref.variance(estimator, net, ds), V, G, rtol=1e-9)


def test_cancellation_in_a_coordinate_that_counts_for_little_in_the_sum():
    # Within a class the first feature varies much, the second little; across classes the gradients of the
    # second cancel, so that its share V_j / (V_j + ḡ_j²) is far from 0 although V_j is 1e-10 of E[g_j²].
    rng = np.random.default_rng(0)
    x = np.stack([rng.standard_normal(40), 1 + 1e-5 * rng.standard_normal(40)], axis=1)
    x[1::2, 1] += 2e-5
    ds = Dataset(x, np.tile([0, 1], 20))
    net = gcref.linear(2, 2)
    net.theta[:] = 0
    G = explicit(net, ds)
    labels = gcref.Stratified(ds.y)
    V, full = coordinates(labels, ds, G), G.mean(axis=0)
    assert 0.1 < V[2] / (V[2] + full[2] ** 2) < 0.9
    seen = V[:4] / (V[:4] + full[:4] ** 2)
    np.testing.assert_allclose(gcref.variance(labels, net, ds).normalized, seen.sum() / 6, rtol=1e-9)


def test_the_centred_pass_agrees_where_nothing_cancels(monkeypatch):
    for make in ESTIMATORS.values():
        net, ds = prepared(estimator := make())
        expected = gcref.variance(estimator, net, ds)
        with monkeypatch.context() as patch:
            patch.setattr(MODULE, "CANCELLATION", 2.0)
            patch.setattr(MODULE, "_AT_ONCE", 40)
            found = gcref.variance(estimator, net, ds)
        np.testing.assert_allclose(list(vars(found).values()), list(vars(expected).values()), rtol=1e-11)


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_the_chunk_size_changes_nothing(monkeypatch, make):
    net, ds = prepared(estimator := make())
    expected = gcref.variance(estimator, net, ds)
    lengths, original = [], Network.traces

    def recording(self, x, y):
        lengths.append(len(x))
        return original(self, x, y)

    monkeypatch.setattr(Network, "traces", recording)
    for chunk in (1, 3):
        monkeypatch.setattr(gcref.estimators, "CHUNK", chunk)
        lengths.clear()
        found = gcref.variance(estimator, net, ds)
        np.testing.assert_allclose(list(vars(found).values()), list(vars(expected).values()), rtol=1e-11)
        assert max(lengths) == chunk


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_float32(make):
    estimator = make()
    net, ds = enumeration.problem(7, SIZES, 5)
    single = net.copy("float32")
    ds = Dataset(ds.x.astype(np.float32), ds.y)
    estimator.prepare(single, ds)
    single.theta += np.random.default_rng(5).standard_normal(net.n_parameters).astype(np.float32)
    double = single.copy("float64")
    in_double = estimator
    if isinstance(estimator, gcref.SVRG):
        snapshot = single.copy("float64")
        snapshot.theta = estimator.theta_
        in_double = type(estimator)(estimator.batch_size, estimator.replacement).prepare(snapshot, ds)
    found, exact = gcref.variance(estimator, single, ds), gcref.variance(in_double, double, ds)
    # √V is a norm of the gradients, so it moves by no more than their error does: eps for each of the 9 terms
    # that forward and backward pass add up, relative to the largest gradient; SVRG has two of them.
    G = explicit(double, ds)
    error = 2 * 9 * np.finfo(np.float32).eps * np.sqrt((G**2).sum(axis=1).max() / G.shape[1])
    assert abs(np.sqrt(found.average) - np.sqrt(exact.average)) <= error
    assert found.average != exact.average
    assert abs(found.normalized - exact.normalized) <= 1e-4
    assert isinstance(found.average, float)


@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_sums_are_float64_where_traces_are_float32(spread):
    rng = np.random.default_rng(0)
    net = gcref.linear(5, 3, dtype="float32")
    x = (3 + spread * rng.standard_normal((200, 5))).astype(np.float32)
    ds = Dataset(x, rng.integers(0, 3 if spread == 1 else 1, 200))
    (trace,) = net.traces(ds.x, ds.y)[1]
    G = gcref.per_example_gradients([Trace(trace.A.astype(float), trace.D.astype(float))])
    estimator = gcref.MiniBatch(3)
    # A product of up to 256 terms is off by √256 eps or so.
    rtol = 16 * np.finfo(np.float32).eps
    assert_is(gcref.variance(estimator, net, ds), coordinates(estimator, ds, G), G, rtol=rtol)


@pytest.mark.parametrize("cancels", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_memory_is_a_few_vectors(cancels):
    rng = np.random.default_rng(0)
    N, K = 2400, 600
    net = gcref.mlp((100, 100, 10))
    x = rng.standard_normal(100) + (1e-5 if cancels else 1.0) * rng.standard_normal((N, 100))
    ds = Dataset(x, np.zeros(N, int) if cancels else rng.integers(0, 10, N))
    estimators = [
        gcref.MiniBatch(10),
        gcref.SVRG(10).prepare(net.copy(), ds),
        gcref.Stratified(np.arange(N) % K),
        gcref.Stratified(np.arange(N) % K, 50),
    ]
    assert N * net.n_parameters * 8 > 200e6
    assert K * net.n_parameters * 8 > 50e6
    net.theta += 1e-3
    for estimator in estimators:
        tracemalloc.start()
        try:
            gcref.variance(estimator, net, ds)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 40e6, f"{estimator} took {peak / 1e6:.0f} MB"


@settings(deadline=None, max_examples=30)
@given(problems, st.sampled_from(["MiniBatch", "SVRG", "Stratified"]))
def test_the_closed_form_is_at_most_1(drawn, kind):
    n, sizes, seed, copies = drawn
    net, ds = enumeration.problem(n, sizes, seed, copies)
    labels = np.random.default_rng(seed).integers(0, 3, n)
    estimator = gcref.Stratified(labels) if kind == "Stratified" else getattr(gcref, kind)(1)
    estimator.prepare(net, ds)
    net.theta *= 1.5
    found = gcref.variance(estimator, net, ds)
    assert 0 <= found.normalized <= 1
    assert found.average >= 0
    assert found.standard_error == 0
