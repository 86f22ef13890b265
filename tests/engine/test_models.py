"""Sizes, starts and arguments of the models."""

import numpy as np
import pytest

import gcref
from gcref.engine.models import initialise_head, unit_columns


def test_linear():
    net = gcref.linear(5, 3, seed=1)
    assert net.n_parameters == 18
    x = np.random.default_rng(0).standard_normal((4, 5))
    np.testing.assert_allclose(net.logits(x), x @ net.weights[0][:-1] + net.weights[0][-1], rtol=1e-12, atol=1e-15)
    assert np.abs(net.theta).max() <= 1 / np.sqrt(5)


def test_mlp_has_relu_between_its_layers_only():
    net = gcref.mlp((5, 4, 3), seed=1)
    assert [type(layer).__name__ for layer in net.layers] == ["Flatten", "Linear", "ReLU", "Linear"]
    x = np.random.default_rng(0).standard_normal((6, 5))
    first, second = net.weights
    hidden = np.maximum(x @ first[:-1] + first[-1], 0)
    np.testing.assert_allclose(net.logits(x), hidden @ second[:-1] + second[-1], rtol=1e-12, atol=1e-15)
    assert np.abs(first).max() <= 1 / np.sqrt(5)
    assert np.abs(second).max() <= 1 / np.sqrt(4)


def test_layers_draw_from_streams_of_their_own():
    # A wider second layer must not change what the first one draws.
    narrow, wide = gcref.mlp((5, 4, 3), seed=7), gcref.mlp((5, 4, 9), seed=7)
    np.testing.assert_array_equal(narrow.weights[0], wide.weights[0])


@pytest.mark.parametrize(("head", "n_outputs"), [("softmax", 2), ("logistic", 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_features(head, n_outputs, dtype):
    net = gcref.random_features(20, 50, head=head, seed=4, dtype=dtype)
    assert net.n_parameters == 51 * n_outputs
    features, weight = net.layers[0].features, net.weights[0]
    assert features.dtype == net.theta.dtype == np.dtype(dtype)
    np.testing.assert_allclose(np.linalg.norm(features, axis=0), np.ones(50), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(weight[:-1], axis=0), np.ones(n_outputs), rtol=1e-6)
    assert np.abs(weight[-1]).max() <= 1 / np.sqrt(50)
    x, y = np.random.default_rng(0).standard_normal((6, 20)), np.array([0, 1, 1, 0, 1, 0])
    hidden = np.maximum(x @ features, 0)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(net.logits(x), hidden @ weight[:-1] + weight[-1], rtol=tolerance, atol=tolerance)
    _, traces = net.traces(x, y)
    np.testing.assert_allclose(traces[0].A[:, 0, :-1], hidden, rtol=tolerance, atol=tolerance)
    gradients = gcref.per_example_gradients(traces)
    np.testing.assert_allclose(gradients.mean(axis=0), net.gradient(x, y)[1], rtol=tolerance, atol=tolerance)


def test_head_draws_weights_then_bias():
    found = initialise_head(np.random.default_rng(9), 6, 2)
    rng = np.random.default_rng(9)
    weights = rng.standard_normal((6, 2))
    for column in range(2):
        weights[:, column] /= np.sqrt(sum(w * w for w in weights[:, column]))
    bias = rng.uniform(-1 / np.sqrt(6), 1 / np.sqrt(6), 2)
    np.testing.assert_allclose(found[:-1], weights, rtol=1e-12)
    np.testing.assert_array_equal(found[-1], bias)


def test_random_features_and_head_have_streams_of_their_own():
    a, b = gcref.random_features(20, 50, seed=4), gcref.random_features(30, 50, seed=4)
    np.testing.assert_array_equal(a.theta, b.theta)
    expected = unit_columns(np.random.default_rng(np.random.SeedSequence(4).spawn(2)[0]), 20, 50)
    np.testing.assert_array_equal(a.layers[0].features, expected)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: gcref.mlp((5,)), ValueError, r"sizes is \(5,\)"),
        (lambda: gcref.mlp((5, 0, 3)), ValueError, r"sizes\[1\] is 0"),
        (lambda: gcref.mlp((5, 2.5, 3)), ValueError, r"sizes\[1\] is 2.5"),
        (lambda: gcref.mlp((5, True, 3)), ValueError, r"sizes\[1\] is True"),
        (lambda: gcref.mlp(5), TypeError, "sizes is 5"),
        (lambda: gcref.mlp((5, 3), seed=-1), ValueError, "seed is -1"),
        (lambda: gcref.random_features(3, 4, seed=-1), ValueError, "seed is -1"),
        (lambda: gcref.mlp((5, 3), seed="a"), ValueError, "seed is 'a'"),
        (lambda: gcref.linear(3, 2, label_smoothing="a"), ValueError, "label_smoothing is 'a'"),
        (lambda: gcref.linear(-1, 3), ValueError, "n_features is -1"),
        (lambda: gcref.linear(3, 0), ValueError, "n_classes is 0"),
        (lambda: gcref.linear(3, 2, label_smoothing=1.0), ValueError, "label_smoothing is 1.0"),
        (lambda: gcref.linear(3, 2, dtype="float16"), ValueError, "dtype is float16"),
        (lambda: gcref.random_features(3, 0), ValueError, "n_hidden is 0"),
        (lambda: gcref.random_features(3, 4, head="hinge"), ValueError, "head is 'hinge'"),
    ],
)
def test_arguments_are_checked(build, error, message):
    with pytest.raises(error, match=message):
        build()
