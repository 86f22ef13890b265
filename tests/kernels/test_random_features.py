import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gcref.kernels import random_features as kernels
from gcref.validation import naive_random_features as naive

QUICK = settings(deadline=None, max_examples=30)
SIZES = st.integers(1, 9)


def problem(seed, n, n_inputs, scale=1.0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, n_inputs))
    targets = rng.integers(0, 2, n).astype(np.int8)
    return rng, features, targets, scale * rng.standard_normal(n_inputs)


@QUICK
@given(st.integers(0, 999), SIZES, SIZES, st.integers(0, 5), SIZES, st.floats(0, 2), st.floats(0, 0.5))
def test_sgd_steps(seed, n, n_inputs, n_steps, batch_size, learning_rate, weight_decay):
    rng, features, targets, w = problem(seed, n, n_inputs)
    # Drawn with replacement: a batch larger than N must repeat examples.
    batches = rng.integers(0, n, (n_steps, batch_size)).astype(np.int32)
    expected = w.copy()
    naive.sgd_steps(features, targets, expected, batches, learning_rate, weight_decay)
    kernels.sgd_steps(features, targets, w, batches, learning_rate, weight_decay)
    np.testing.assert_allclose(w, expected, rtol=1e-10, atol=1e-12)


def test_a_step_takes_every_residual_at_the_old_weights():
    features, targets = np.array([[1.0], [1.0]]), np.array([0, 0], dtype=np.int8)
    w = np.array([2.0])
    kernels.sgd_steps(features, targets, w, np.array([[0, 1]], dtype=np.int32), 1.0, 0.0)
    assert w[0] == pytest.approx(2.0 - 1.0 / (1.0 + np.exp(-2.0)), rel=1e-14)


@QUICK
@given(st.integers(0, 999), SIZES, SIZES, st.sampled_from([1.0, 30.0, 1e3, 1e300]))
@example(0, 3, 2, 0.0)
def test_residuals_and_losses(seed, n, n_inputs, scale):
    _, features, targets, w = problem(seed, n, n_inputs, scale)
    found, expected = np.empty((2, n)), np.empty((2, n))
    kernels.residuals_and_losses(features, targets, w, *found)
    naive.residuals_and_losses(features, targets, w, *expected)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("z", [0.0, 1e-12, 36.0, 40.0, 709.0, 750.0, 1e6])
def test_both_tails_keep_their_digits(z):
    features, targets = np.array([[z], [-z]]), np.array([1, 0], dtype=np.int8)
    residuals, losses = np.empty((2, 2))
    kernels.residuals_and_losses(features, targets, np.ones(1), residuals, losses)
    tail = np.exp(-z) / (1 + np.exp(-z))
    np.testing.assert_allclose(losses, np.log1p(np.exp(-z)), rtol=1e-14)
    np.testing.assert_allclose(residuals, [-tail, tail], rtol=1e-14)


@QUICK
@given(st.integers(0, 999), SIZES, SIZES, st.sampled_from([1, 2]), st.sampled_from([0, 1, 2]), st.integers(1, 4))
def test_moments(seed, n, n_inputs, n_residuals, n_clusterings, n_clusters):
    rng, features, _, _ = problem(seed, n, n_inputs)
    residuals = rng.standard_normal((n_residuals, n))
    labels = rng.integers(0, n_clusters, (n_clusterings, n))
    sizes = np.array([np.bincount(row, minlength=n_clusters) for row in labels], dtype=np.int64)
    sizes = sizes.reshape(n_clusterings, n_clusters)
    results = []
    for module in (kernels, naive):
        out = (
            np.zeros((n_residuals, n_inputs)),
            np.zeros((n_residuals, n_inputs)),
            np.zeros((n_clusterings, n_clusters, n_inputs)),
            np.zeros((n_clusterings, n_inputs)),
        )
        module.moments(features, residuals, labels, sizes, *out)
        results.append(out)
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_two_class_softmax_is_one_logit_at_twice_the_rate():
    rng, features, targets, _ = problem(3, 6, 4)
    W = rng.standard_normal((4, 2))
    w = W[:, 1] - W[:, 0]
    batches = rng.integers(0, 6, (7, 3)).astype(np.int32)
    eta, decay = 0.3, 0.01
    for batch in batches:
        z = features[batch] @ W
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        p[np.arange(3), targets[batch]] -= 1
        W -= eta * (features[batch].T @ p / 3 + decay * W)
    kernels.sgd_steps(features, targets, w, batches, 2 * eta, decay / 2)
    np.testing.assert_allclose(w, W[:, 1] - W[:, 0], rtol=1e-12)
