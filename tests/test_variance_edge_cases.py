"""The variance in closed form where the answer is known without a computation."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gcref
from estimator_cases import ESTIMATORS, LABELS, SIZES, prepared
from gcref.data import Dataset
from gcref.validation import enumeration


@pytest.mark.parametrize("make", [lambda: gcref.MiniBatch(1), lambda: gcref.SVRG(1), lambda: gcref.Stratified([3])])
def test_one_example_has_no_variance(make):
    net, ds = prepared(estimator := make(), n_examples=1)
    assert gcref.variance(estimator, net, ds) == gcref.Variance(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", [gcref.MiniBatch, gcref.SVRG])
def test_the_whole_data_set_has_no_variance(kind):
    net, ds = prepared(estimator := kind(7))
    found = gcref.variance(estimator, net, ds)
    assert (found.average, found.normalized) == (0.0, 0.0)
    assert found.noise_scale > 0


def test_clusters_of_one_have_no_variance():
    net, ds = prepared(estimator := gcref.Stratified(np.arange(7) * 2))
    found = gcref.variance(estimator, net, ds)
    assert (found.average, found.normalized) == (0.0, 0.0)


@pytest.mark.parametrize("copies", [2, 49, 257])
def test_clusters_of_duplicates_have_no_variance(copies):
    # The last of 257 is alone in its chunk, where matrix products may round otherwise than for its copies.
    net, ds = enumeration.problem(3, SIZES, 1)
    estimator = gcref.Stratified(np.tile([5, 0, 2], copies))
    found = gcref.variance(estimator, net, Dataset(np.tile(ds.x, (copies, 1)), np.tile(ds.y, copies)))
    assert (found.average, found.normalized) == (0.0, 0.0)


def test_clusters_of_duplicates_have_no_variance_where_the_full_gradient_vanishes():
    net = gcref.linear(3, 2)
    net.theta[:] = 0
    x = np.tile(np.random.default_rng(0).standard_normal(3), (98, 1))
    ds = Dataset(x, np.tile([0, 1], 49))
    found = gcref.variance(gcref.Stratified(ds.y), net, ds)
    assert (found.average, found.normalized) == (0.0, 0.0)
    assert found.noise_scale > 1e20
    assert gcref.variance(gcref.MiniBatch(2), net, ds).normalized == pytest.approx(1.0, rel=1e-12)


def assert_same(found, expected):
    np.testing.assert_allclose(list(vars(found).values()), list(vars(expected).values()), rtol=1e-12)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_one_cluster_is_a_mini_batch(batch_size, replacement):
    net, ds = prepared(estimator := gcref.Stratified(np.full(7, 3), batch_size, replacement))
    expected = gcref.variance(gcref.MiniBatch(batch_size, replacement), net, ds)
    assert_same(gcref.variance(estimator, net, ds), expected)


def test_one_draw_from_all_clusters_is_a_mini_batch_of_one():
    net, ds = prepared(estimator := gcref.Stratified(LABELS, 1))
    assert gcref.variance(estimator, net, ds) == gcref.variance(gcref.MiniBatch(1), net, ds)


@pytest.mark.parametrize("replacement", [False, True])
def test_a_draw_a_cluster_is_the_default(replacement):
    net, ds = prepared(estimator := gcref.Stratified(LABELS, 3, replacement))
    assert gcref.variance(estimator, net, ds) == gcref.variance(gcref.Stratified(LABELS), net, ds)


def test_all_examples_of_all_clusters_have_no_variance():
    net, ds = prepared(estimator := gcref.Stratified(LABELS, 7))
    found = gcref.variance(estimator, net, ds)
    assert (found.average, found.normalized) == (0.0, 0.0)


@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_fewer_draws_than_clusters_of_duplicates_vary_as_the_clusters_do(batch_size):
    # One example a cluster in place of its copies: the weights N_k/N, and nothing varies within.
    net, ds = enumeration.problem(5, SIZES, 1)
    copies = np.array([1, 4, 2, 2, 3])
    labels = np.repeat(np.arange(5), copies)
    found = gcref.variance(gcref.Stratified(labels, batch_size), net, Dataset(ds.x[labels], ds.y[labels]))
    means = enumeration.gradients(net, ds.x, ds.y)
    w = copies / copies.sum()
    full = w @ means
    groups = [5 // batch_size + (g < 5 % batch_size) for g in range(batch_size)]
    rho = (sum(n * n for n in groups) - 5) / 20
    V = rho * (w @ means**2 - full**2)
    np.testing.assert_allclose(found.average, V.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.normalized, (V / (V + full**2)).mean(), rtol=1e-12)


def test_svrg_at_its_snapshot_has_no_variance():
    net, ds = enumeration.problem(7, SIZES, 0)
    found = gcref.variance(gcref.SVRG(2).prepare(net, ds), net, ds)
    assert (found.average, found.normalized) == (0.0, 0.0)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 1000))
def test_scaling_with_the_batch_size(n, batch_size, seed):
    assume(batch_size <= n)
    net, ds = enumeration.problem(n, SIZES, seed)
    one = gcref.variance(gcref.MiniBatch(1), net, ds).average
    without = gcref.variance(gcref.MiniBatch(batch_size), net, ds).average
    drawn_again = gcref.variance(gcref.MiniBatch(batch_size, replacement=True), net, ds).average
    np.testing.assert_allclose(drawn_again, one / batch_size, rtol=1e-12)
    np.testing.assert_allclose(without, one / batch_size * (n - batch_size) / (n - 1), rtol=1e-12)


def test_the_noise_scale_is_the_same_for_every_estimator():
    scales = []
    for make in ESTIMATORS.values():
        net, ds = prepared(estimator := make())
        scales.append(gcref.variance(estimator, net, ds).noise_scale)
        by_draws = gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=2, rng=0)
        scales.append(by_draws.noise_scale)
    np.testing.assert_allclose(scales, scales[0], rtol=1e-12)


def test_parameters_that_are_not_finite_give_nan():
    net, ds = prepared(estimator := gcref.MiniBatch(2))
    net.theta[:] = np.nan
    for method in ("closed-form", "monte-carlo"):
        found = gcref.variance(estimator, net, ds, method=method)
        assert np.isnan([found.average, found.normalized, found.noise_scale]).all()
