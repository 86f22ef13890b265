"""Losses against their definitions, one example at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcref.engine.losses import Logistic, SoftmaxCrossEntropy


def naive_cross_entropy(logits, label, smoothing):
    exponentials = [math.exp(z) for z in logits]
    total = sum(exponentials)
    loss = 0.0
    for o, e in enumerate(exponentials):
        target = smoothing / len(logits) + (1 - smoothing if o == label else 0.0)
        loss -= target * math.log(e / total)
    return loss


def numeric_gradient(function, point, step=1e-5):
    gradient = np.zeros_like(point)
    for o in range(len(point)):
        shift = np.zeros_like(point)
        shift[o] = step
        gradient[o] = (function(point + shift) - function(point - shift)) / (2 * step)
    return gradient


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.7]))
def test_softmax_cross_entropy(seed, n_examples, n_classes, smoothing):
    rng = np.random.default_rng(seed)
    logits, y = 3 * rng.standard_normal((n_examples, n_classes)), rng.integers(0, n_classes, n_examples)
    losses, dlogits = SoftmaxCrossEntropy(smoothing)(logits, y)
    for i in range(n_examples):
        label = int(y[i])
        assert losses[i] == pytest.approx(naive_cross_entropy(logits[i], label, smoothing), rel=1e-10, abs=1e-12)
        numeric = numeric_gradient(lambda z, label=label: naive_cross_entropy(z, label, smoothing), logits[i])
        np.testing.assert_allclose(dlogits[i], numeric, atol=1e-8)


def test_smoothing_in_numbers():
    # Two classes at equal logits: the loss is log 2 whatever the target; its gradient is 1/2 − target.
    losses, dlogits = SoftmaxCrossEntropy(0.2)(np.zeros((1, 2)), np.array([1]))
    assert losses[0] == pytest.approx(math.log(2))
    np.testing.assert_allclose(dlogits, [[0.4, -0.4]])


@pytest.mark.parametrize("y", [0, 1])
def test_logistic(y):
    logits = np.array([[-30.0], [-1.3], [0.0], [0.4], [20.0]])
    losses, dlogits = Logistic()(logits, np.full(5, y))
    for i, s in enumerate(logits[:, 0]):
        probability = 1 / (1 + math.exp(-s))
        sign = 1 if y == 1 else -1
        assert losses[i] == pytest.approx(math.log1p(math.exp(-sign * s)), rel=1e-12)
        assert dlogits[i, 0] == pytest.approx(probability - y, rel=1e-7)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-8, 8), min_size=1, max_size=6), st.integers(0, 99))
def test_logistic_is_a_softmax_of_two_classes(scores, seed):
    y = np.random.default_rng(seed).integers(0, 2, len(scores))
    logits = np.array(scores)[:, None]
    losses, dlogits = Logistic()(logits, y)
    both, dboth = SoftmaxCrossEntropy()(np.hstack([np.zeros_like(logits), logits]), y)
    np.testing.assert_allclose(losses, both, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dlogits[:, 0], dboth[:, 1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits_stay_finite_and_keep_their_type(dtype):
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    losses, dlogits = SoftmaxCrossEntropy(0.1)(logits, np.array([0, 0]))
    assert losses.dtype == dlogits.dtype == dtype
    np.testing.assert_allclose(losses, [1e3, 1.9e4], rtol=1e-6)
    assert np.isfinite(dlogits).all()
    losses, dlogits = Logistic()(logits[:, :1], np.array([0, 0]))
    assert losses.dtype == dlogits.dtype == dtype
    np.testing.assert_array_equal(losses, np.array([1e4, 0], dtype))
    np.testing.assert_array_equal(dlogits, np.array([[1], [0]], dtype))


@pytest.mark.parametrize(("loss", "n_outputs"), [(SoftmaxCrossEntropy(), 3), (Logistic(), 1)])
def test_no_example(loss, n_outputs):
    losses, dlogits = loss(np.empty((0, n_outputs)), np.array([]))
    assert losses.shape == (0,)
    assert dlogits.shape == (0, n_outputs)


@pytest.mark.parametrize(("loss", "n_outputs", "top"), [(SoftmaxCrossEntropy(), 3, 2), (Logistic(), 1, 1)])
def test_labels_are_checked(loss, n_outputs, top):
    logits = np.zeros((2, n_outputs))
    for value in (-1, top + 1):
        with pytest.raises(ValueError, match=f"y has the value {value}; ints in 0…{top}"):
            loss(logits, np.array([0, value]))
    with pytest.raises(ValueError, match=f"y has dtype float64.*ints in 0…{top}"):
        loss(logits, np.array([0.0, 1.0]))


def test_logits_and_smoothing_are_checked():
    with pytest.raises(ValueError, match=r"logits has shape \(2, 3\); \(B, 1\)"):
        Logistic()(np.zeros((2, 3)), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"logits has shape \(2,\)"):
        SoftmaxCrossEntropy()(np.zeros(2), np.array([0, 1]))
    assert SoftmaxCrossEntropy(np.float32(0.25)).label_smoothing == 0.25
    for smoothing in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="label_smoothing is"):
            SoftmaxCrossEntropy(smoothing)
