"""Layers one by one: forward by loops, backward by finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcref.engine.layers import Linear, RandomFeatures, ReLU
from gcref.engine.trace import per_example_gradients


def numeric_gradient(function, array, step=1e-6):
    """Central differences of a scalar function along every entry of an array."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        start = array[index]
        array[index] = start + step
        above = function()
        array[index] = start - step
        gradient[index] = (above - function()) / (2 * step)
        array[index] = start
    return gradient


def assert_backward(layer, x, weights, seed=0):
    """The upstream gradient is random, so that no symmetry hides a mistake."""
    dout = np.random.default_rng(seed).standard_normal(layer.forward(x.copy(), weights)[0].shape)

    def value():
        return float(np.sum(dout * layer.forward(x.copy(), weights)[0]))

    _, cache = layer.forward(x.copy(), weights)
    grads = [np.full_like(w, np.nan) for w in weights]
    traces = layer.traces(dout.copy(), cache)
    dx = layer.backward(dout.copy(), cache, weights, grads, True)
    np.testing.assert_allclose(dx, numeric_gradient(value, x), rtol=1e-7, atol=1e-7)
    for weight, grad, trace in zip(weights, grads, traces, strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(value, weight), rtol=1e-7, atol=1e-7)
        summed = per_example_gradients([trace]).sum(axis=0).reshape(grad.shape)
        np.testing.assert_allclose(summed, grad, rtol=1e-10, atol=1e-13)
    assert layer.backward(dout.copy(), cache, weights, None, False) is None


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_linear(seed, n_examples, n_in, n_out, bias):
    rng = np.random.default_rng(seed)
    layer = Linear(n_in, n_out, bias=bias)
    x, theta = rng.standard_normal((n_examples, n_in)), rng.standard_normal(layer.shapes[0])
    out, _ = layer.forward(x, [theta])
    for i in range(n_examples):
        for o in range(n_out):
            expected = sum(x[i, j] * theta[j, o] for j in range(n_in)) + (theta[n_in, o] if bias else 0.0)
            assert out[i, o] == pytest.approx(expected, rel=1e-10, abs=1e-13)
    assert_backward(layer, x, [theta], seed)


def test_linear_trace_ends_in_one_only_with_a_bias():
    x, dout = np.arange(6.0).reshape(2, 3), np.ones((2, 4))
    (with_bias,) = Linear(3, 4).traces(dout, x)
    np.testing.assert_array_equal(with_bias.A[:, 0], [[0, 1, 2, 1], [3, 4, 5, 1]])
    (without,) = Linear(3, 4, bias=False).traces(dout, x)
    np.testing.assert_array_equal(without.A[:, 0], x)


def test_linear_starts_uniform_within_one_over_root_fan_in():
    (theta,) = Linear(400, 300).initialise(np.random.default_rng(0))
    assert theta.shape == (401, 300)
    bound = 1 / np.sqrt(400)
    assert np.abs(theta).max() <= bound
    n = theta.size
    # Uniform: mean 0 with variance bound²/3, and mean square bound²/3 with variance 4 bound⁴/45.
    assert abs(theta.mean()) < 5 * bound / np.sqrt(3 * n)
    assert abs((theta**2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / (45 * n))
    assert abs((theta[-1] ** 2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / (45 * 300))


def test_relu():
    x = np.random.default_rng(0).standard_normal((4, 5))
    out, _ = ReLU().forward(x.copy(), [])
    for index in np.ndindex(x.shape):
        assert out[index] == (x[index] if x[index] > 0 else 0)
    assert_backward(ReLU(), x, [])


def test_relu_has_derivative_zero_at_zero():
    out, cache = ReLU().forward(np.zeros((1, 2)), [])
    np.testing.assert_array_equal(ReLU().backward(np.ones((1, 2)), cache, [], [], True), [[0, 0]])
    assert (out == 0).all()


def test_random_features():
    rng = np.random.default_rng(0)
    x, features = rng.standard_normal((4, 3)), rng.standard_normal((3, 6))
    layer = RandomFeatures(features)
    out, cache = layer.forward(x, [])
    for i in range(4):
        for h in range(6):
            expected = max(sum(x[i, j] * features[j, h] for j in range(3)), 0.0)
            assert out[i, h] == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert layer.forward(x.astype(np.float32), [])[0].dtype == np.float32
    assert layer.backward(out, cache, [], None, False) is None
    with pytest.raises(ValueError, match="before every trained layer"):
        layer.backward(out, cache, [], None, True)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\); Linear\(3, 5\) expects \(B, 3\)"):
        Linear(3, 5).forward(np.ones((2, 4)), [np.ones((4, 5))])
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\); RandomFeatures\(3, 5\) expects \(B, 3\)"):
        RandomFeatures(np.ones((3, 5))).forward(np.ones((2, 4)), [])
    with pytest.raises(ValueError, match=r"features has shape \(3,\)"):
        RandomFeatures(np.ones(3))
    for n_in, n_out, message in ((0, 3, "n_in is 0"), (3, 2.5, "n_out is 2.5")):
        with pytest.raises(ValueError, match=f"{message}; an int of at least 1 is expected"):
            Linear(n_in, n_out)
