"""The variance by Monte Carlo, and what `gcref.variance` refuses."""

import pickle

import numpy as np
import pytest

import gcref
from estimator_cases import ESTIMATORS, prepared
from gcref.data import Dataset
from gcref.validation import enumeration

# ---------------------------------------------------------------------------------------------- Monte Carlo


def z_score(values, exact):
    """Distance of the mean of `values` from `exact`, in standard errors."""
    return abs(np.mean(values) - exact) / (np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_monte_carlo_is_unbiased(make):
    net, ds = prepared(estimator := make())
    T = 3
    found = [
        gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=T, rng=seed).average for seed in range(500)
    ]
    exact = gcref.variance(estimator, net, ds).average
    assert z_score(found, exact) < 5
    # Divided by T instead of T + 1 it is not.
    assert z_score(np.array(found) * (T + 1) / T, exact) > 5


@pytest.mark.parametrize(("batch_size", "others"), [(4, [3, 5]), (9, [8, 11]), (25, [20, 30])])
def test_draws_of_any_number_from_many_clusters_vary_as_the_closed_form_says(batch_size, others):
    labels = np.minimum(np.arange(60) // 3, np.arange(60) % 11)
    assert len(set(labels.tolist())) == 11
    net, ds = prepared(estimator := gcref.Stratified(labels, batch_size), n_examples=60)
    full = enumeration.gradients(net, ds.x, ds.y).mean(axis=0)
    rng = np.random.default_rng(0)
    squared = [((estimator.sample(net, ds, rng) - full) ** 2).mean() for _ in range(5000)]
    assert z_score(squared, gcref.variance(estimator, net, ds).average) < 5
    for other in others:
        assert z_score(squared, gcref.variance(gcref.Stratified(labels, other), net, ds).average) > 5


@pytest.mark.parametrize("name", ["SG-B", *(pytest.param(n, marks=pytest.mark.slow) for n in ("labels", "SVRG"))])
def test_the_standard_error_is_that_of_the_average(name):
    net, ds = prepared(estimator := ESTIMATORS[name]())
    T = 40
    found = [gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=T, rng=seed) for seed in range(300)]
    claimed = np.sqrt(np.mean([f.standard_error**2 for f in found]))
    seen = np.std([f.average for f in found], ddof=1)
    # A standard deviation of 300 is itself known to 4 %; the neglected error of the mean adds 1/T.
    assert 0.85 < seen / claimed < 1.15


def test_monte_carlo_follows_the_protocol():
    net, ds = prepared(estimator := gcref.MiniBatch(2))
    T, d = 5, net.n_parameters
    rng = np.random.default_rng(7)
    draws = np.array([estimator.sample(net, ds, rng) for _ in range(2 * T)])
    spread = (draws[T:] - draws[:T].mean(axis=0)) ** 2
    squares = (draws[T:] ** 2).sum(axis=0)
    ratio = [a / b if b > 0 else 0.0 for a, b in zip(spread.sum(axis=0), squares, strict=True)]
    found = gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=T, rng=np.random.default_rng(7))
    np.testing.assert_allclose(found.average, spread.sum() / ((T + 1) * d), rtol=1e-12)
    np.testing.assert_allclose(found.normalized, np.mean(ratio), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, np.std(spread.sum(axis=1) / d, ddof=1) / np.sqrt(T), rtol=1e-12)
    assert found == gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=T, rng=7)


def test_only_monte_carlo_exceeds_1():
    net = gcref.linear(3, 2)
    net.theta[:] = 0
    ds = Dataset(np.ones((6, 3)), np.array([0, 0, 0, 1, 1, 0]))
    estimator = gcref.MiniBatch(1)
    by_draws = [
        gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=2, rng=seed).normalized
        for seed in range(30)
    ]
    assert max(by_draws) > 1.5
    assert gcref.variance(estimator, net, ds).normalized <= 1


# ------------------------------------------------------------------------------------------------- the door


@pytest.mark.parametrize("method", ["exact", "closed_form", None, 3])
def test_an_unknown_method_is_named(method):
    net, ds = prepared(estimator := gcref.MiniBatch(2))
    with pytest.raises(ValueError, match=r"method=.*'closed-form', 'monte-carlo'") as info:
        gcref.variance(estimator, net, ds, method=method)
    assert repr(method) in str(info.value)


@pytest.mark.parametrize("number", [1, 0, -5, True, 2.5, None])
def test_n_estimates_is_an_integer_of_at_least_2(number):
    net, ds = prepared(estimator := gcref.MiniBatch(2))
    with pytest.raises(ValueError, match=r"n_estimates=.*integer") as info:
        gcref.variance(estimator, net, ds, method="monte-carlo", n_estimates=number)
    assert repr(number) in str(info.value)


def test_a_result_survives_pickle():
    found = gcref.Variance(1.0, 0.5, 2.0, 0.0)
    assert pickle.loads(pickle.dumps(found)) == found
