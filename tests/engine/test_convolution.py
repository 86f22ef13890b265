"""Convolutions against loops, and their gradients against finite differences."""

import numpy as np
import pytest

import gcref
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.patch_trace import PatchTrace
from gcref.engine.pooling import Flatten
from gcref.kernels import convolution
from gcref.validation import naive_convolution as naive

KINDS = {
    "plain": {"kernel": 3},
    "same": {"kernel": 3, "padding": 1},
    "strided": {"kernel": 3, "stride": 2, "padding": 1, "bias": False},
    "one by one": {"kernel": 1, "stride": 3},
    "not square": {"kernel": (2, 4), "stride": (3, 1), "padding": (0, 2)},
    "beyond the image": {"kernel": (6, 3), "padding": (2, 1), "bias": False},
    "whole image": {"kernel": (5, 7)},
}


def layer_and_window(kind, n_in=2, n_out=3):
    layer = Conv2d(n_in, n_out, **KINDS[kind])
    return layer, naive.window((5, 7, n_in), layer.kernel, layer.stride, layer.padding)


def draw(layer, n_examples=3, dtype="float64", seed=0):
    """An input and weights."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_examples, 5, 7, layer.n_in)).astype(dtype)
    return x, rng.standard_normal(layer.shapes[0]).astype(dtype)


def network(kind, dtype="float64", seed=0):
    """A convolution below, so that the input gradient counts, and a fully connected layer above."""
    layer, win = layer_and_window(kind)
    below = Conv2d(4, 2, (1, 3), padding=(0, 1))
    above = Linear(win[-2] * win[-1] * 3, 4)
    return Network([below, ReLU(), layer, ReLU(), Flatten(), above], SoftmaxCrossEntropy(), seed, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_equals_loops(kind, dtype):
    layer, win = layer_and_window(kind)
    x, theta = draw(layer, dtype=dtype)
    out, _ = layer.forward(x, [theta])
    assert out.dtype == dtype
    arguments = theta[: layer.fan_in], win, theta[-1] if layer.bias else None
    sizes = naive.conv_forward(abs(x), *(abs(a) if isinstance(a, np.ndarray) else a for a in arguments))
    gap = np.abs(out - naive.conv_forward(x, *arguments))
    assert (gap <= (layer.fan_in + 2) * np.finfo(dtype).eps * sizes).all()


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(kind):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3, 5, 7, 4)), rng.integers(0, 4, 3)
    assert 0 < gcref.check_gradients(network(kind), x, y, n_coordinates=20) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_float32_follows_float64(kind):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3, 5, 7, 4)), rng.integers(0, 4, 3)
    single, double = network(kind, "float32"), network(kind)
    np.testing.assert_array_equal(single.theta, double.theta.astype("float32"))
    expected = double.gradient(x, y)[1]
    losses, traces = single.traces(x, y)
    for found in (single.gradient(x, y)[1], gcref.per_example_gradients(traces).mean(axis=0)):
        assert found.dtype == losses.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_gradients_are_those_asked_for():
    layer, win = layer_and_window("strided")
    x, theta = draw(layer)
    out, cache = layer.forward(x, [theta])
    dout = np.random.default_rng(1).standard_normal(out.shape)
    grads = [np.full_like(theta, np.nan)]
    dx = layer.backward(dout, cache, [theta], grads, True)
    np.testing.assert_allclose(grads[0], naive.conv_weight_gradient(x, dout, win), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx, naive.conv_input_gradient(dout, theta, win), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(layer.backward(dout, cache, [theta], None, True), dx)
    again = [np.full_like(theta, np.nan)]
    assert layer.backward(dout, cache, [theta], again, False) is None
    np.testing.assert_array_equal(again[0], grads[0])


def test_no_gradient_forms_patches(monkeypatch):
    net = network("same")
    x, y = np.random.default_rng(0).standard_normal((3, 5, 7, 4)), np.array([0, 1, 2])
    monkeypatch.setattr(convolution, "patches", lambda *_: pytest.fail("patches were formed"))
    net.gradient(x, y)
    _, traces = net.traces(x, y)
    gcref.per_example_gradients(traces)
    assert isinstance(traces[0], PatchTrace)
    assert isinstance(traces[1], PatchTrace)


def test_any_layout_of_x():
    net = network("not square")
    x, y = np.random.default_rng(0).standard_normal((3, 5, 7, 4)), np.array([0, 1, 2])
    expected = net.gradient(x, y)[1]
    channels_first = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for same in (np.asfortranarray(x), channels_first, x[::-1].copy()[::-1], x.tolist()):
        np.testing.assert_allclose(net.gradient(same, y)[1], expected, rtol=1e-12, atol=1e-16)
        found = gcref.per_example_gradients(net.traces(same, y)[1]).mean(axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_input_is_not_written_to(dtype):
    net = network("same", dtype)
    x, y = np.random.default_rng(0).standard_normal((3, 5, 7, 4)).astype(dtype), np.array([0, 1, 2])
    before = x.copy()
    net.losses(x, y)
    net.gradient(x, y)
    traces = net.traces(x, y)[1]
    gradients = gcref.per_example_gradients(traces)
    net.gradient(x, y)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(gcref.per_example_gradients(traces), gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_no_example_gives_zero(kind):
    net = network(kind)
    x, y = np.empty((0, 5, 7, 4)), np.empty(0, int)
    loss, gradient = net.gradient(x, y)
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(net.n_parameters))
    losses, traces = net.traces(x, y)
    assert losses.shape == (0,)
    assert gcref.per_example_gradients(traces).shape == (0, net.n_parameters)
    assert [(t.A.shape[2], t.D.shape[2]) for t in traces] == [block.shape for block in net.blocks]


def test_blocks_are_named_and_the_bias_is_the_last_row():
    net = Network([Conv2d(2, 3, (2, 4)), Flatten(), Linear(3, 2, bias=False)], SoftmaxCrossEntropy())
    assert [(b.name, b.shape) for b in net.blocks] == [("0.weight", (17, 3)), ("2.weight", (3, 2))]
    assert Conv2d(2, 3, (2, 4), bias=False).shapes == ((16, 3),)
    net.weights[0][:-1] = 0
    net.weights[0][-1] = [1, 2, 3]
    np.testing.assert_allclose(net.logits(np.ones((1, 2, 4, 2))), [[1, 2, 3] @ net.weights[1]], rtol=1e-14)


def test_a_weight_row_is_a_row_a_column_and_a_channel():
    layer, weight = Conv2d(2, 1, (2, 3), bias=False), np.zeros((12, 1))
    for row, column, channel in np.ndindex(2, 3, 2):
        weight[:] = 0
        weight[(row * 3 + column) * 2 + channel] = 1
        x = np.random.default_rng(0).standard_normal((1, 2, 3, 2))
        assert layer.forward(x, [weight])[0].item() == x[0, row, column, channel]


def test_it_starts_uniform_within_one_over_root_fan_in():
    layer = Conv2d(20, 300, (5, 4))
    (theta,) = layer.initialise(np.random.default_rng(0))
    assert theta.shape == (401, 300)
    bound = 1 / np.sqrt(400)
    assert np.abs(theta).max() <= bound
    # Uniform: mean 0 with variance bound²/3, and mean square bound²/3 with variance 4 bound⁴/45.
    assert abs(theta.mean()) < 5 * bound / np.sqrt(3 * theta.size)
    assert abs((theta**2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / (45 * theta.size))
    assert abs((theta[-1] ** 2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / (45 * 300))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 70), r"x has shape \(3, 70\); Conv2d\(2, 3, 3\) expects \(B, H, W, C\)"),
        ((3, 5, 7), r"x has shape \(3, 5, 7\)"),
        ((3, 5, 7, 1, 2), r"x has shape \(3, 5, 7, 1, 2\)"),
        ((3, 5, 7, 4), r"x has shape \(3, 5, 7, 4\); Conv2d\(2, 3, 3\) expects \(B, H, W, 2\)"),
        ((3, 2, 7, 2), r"x has shape \(3, 2, 7, 2\).*at least as large as its kernel"),
        ((3, 5, 2, 2), r"x has shape \(3, 5, 2, 2\).*at least as large as its kernel"),
        ((3, 5, 0, 2), r"x has shape \(3, 5, 0, 2\).*at least as large as its kernel"),
    ],
)
def test_bad_shapes_are_named(shape, message):
    layer = Conv2d(2, 3, 3)
    with pytest.raises(ValueError, match=message):
        layer.forward(np.ones(shape), [np.ones(layer.shapes[0])])


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_an_image_smaller_than_the_kernel_is_refused_whatever_the_stride(stride):
    layer = Conv2d(1, 1, 4, stride=stride, padding=1, bias=False)
    assert layer.forward(np.ones((1, 2, 2, 1)), [np.ones((16, 1))])[0].item() == 4
    with pytest.raises(ValueError, match="at least as large as its kernel"):
        layer.forward(np.ones((1, 2, 1, 1)), [np.ones((16, 1))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, 3), "n_in is 0; an int of at least 1"),
        ((2, -1, 3), "n_out is -1; an int of at least 1"),
        ((2, 3.0, 3), "n_out is 3.0"),
        ((2, True, 3), "n_out is True"),
        ((2, 3, 0), "kernel is 0"),
        ((2, 3, (3, 0)), "kernel is 0"),
        ((2, 3, (3, 3, 3)), r"kernel is \(3, 3, 3\); an int or a pair of ints"),
        ((2, 3, "3"), "kernel is '3'"),
        ((2, 3, 3, 0), "stride is 0"),
        ((2, 3, 3, (1, 1.5)), "stride is 1.5"),
        ((2, 3, 3, 1, -1), "padding is -1; an int of at least 0"),
        ((2, 3, 3, 1, None), "padding is None"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conv2d(*arguments)


def test_repr_can_be_typed_in():
    for layer in (
        Conv2d(2, 3, 3),
        Conv2d(2, 3, (1, 3), 2, (0, 1), bias=False),
        Conv2d(np.int64(2), 3, 3, (2, 1)),
    ):
        again = eval(repr(layer))
        assert (again.kernel, again.stride, again.padding) == (layer.kernel, layer.stride, layer.padding)
        assert again.shapes == layer.shapes
