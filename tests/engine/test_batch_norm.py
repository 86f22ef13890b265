"""Batch norm by its formula, in evaluation and in training mode, and who moves the running statistics."""

import copy
import pickle

import numpy as np
import pytest

import gcref
from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.chain import Chain, Residual
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Layer, Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import Flatten

REFUSAL = "none has a gradient of its own"


def network(dtype="float64", seed=0, momentum=0.1):
    """Batch norm at the top level and in both branches of a residual block, away from what it starts at."""
    shortcut = [Conv2d(3, 4, 1, bias=False), BatchNorm2d(4)]
    layers = [
        Conv2d(2, 3, 3, padding=1, bias=False), BatchNorm2d(3, momentum=momentum), ReLU(),
        Residual([Conv2d(3, 4, 3, padding=1, bias=False), BatchNorm2d(4)], shortcut),
        Flatten(), Linear(48, 3),
    ]  # fmt: skip
    net, rng = Network(layers, SoftmaxCrossEntropy(), seed, dtype), np.random.default_rng(seed)
    net.theta += 0.2 * rng.standard_normal(net.n_parameters)
    net.running += rng.uniform(-0.5, 0.5, net.running.size)
    return net


def batch(n_examples=5, dtype="float64"):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n_examples, 3, 4, 2)).astype(dtype), rng.integers(0, 3, n_examples)


def parts(dtype="float64"):
    """An input of channels far apart, γ and β, running mean and variance."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((4, 3, 5, 2)) * [1, 3] + [2, -50]).astype(dtype)
    weights = [np.array([[1.5, -2]]), np.array([[0.5, 4]]), np.array([1.8, -48]), np.array([0.7, 11])]
    return x, [weight.astype(dtype) for weight in weights]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_the_formula(dtype, training):
    layer, (x, weights) = BatchNorm2d(2, epsilon=1e-3), parts(dtype)
    scale, shift, mean, variance = (weight.astype(float).ravel() for weight in weights)
    out, _ = (layer.forward_training if training else layer.forward)(x, weights)
    assert out.dtype == dtype
    for c in range(2):
        values = [float(value) for value in x[..., c].ravel()]
        if training:
            mean[c] = sum(values) / 60
            variance[c] = sum((value - mean[c]) ** 2 for value in values) / 60
        deviation = np.sqrt(variance[c] + 1e-3)
        for index in np.ndindex(4, 3, 5):
            value = float(x[index][c])
            expected = scale[c] * (value - mean[c]) / deviation + shift[c]
            size = abs(scale[c]) * (abs(value) + abs(mean[c])) / deviation + abs(shift[c])
            # Rounding of factor, offset and the two operations; the statistics are off by a rounding of 60 sums.
            n_operations = 4 if dtype == "float32" or not training else 64
            assert abs(out[index][c] - expected) <= n_operations * np.finfo(dtype).eps * size


def test_running_statistics_take_in_a_share_of_the_unbiased_ones():
    layer, (x, weights) = BatchNorm2d(2, momentum=0.3), parts()
    before = [weight.copy() for weight in weights]
    layer.forward_training(x, weights)
    np.testing.assert_array_equal(weights[0], before[0])
    np.testing.assert_array_equal(weights[1], before[1])
    columns = x.reshape(60, 2)
    np.testing.assert_allclose(weights[2], 0.7 * before[2] + 0.3 * columns.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(weights[3], 0.7 * before[3] + 0.3 * columns.var(axis=0, ddof=1), rtol=1e-12)


def test_statistics_of_float32_are_float64_sums():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((16, 20, 20, 3)) + 4000).astype("float32")
    running = [np.zeros(3, "float32"), np.zeros(3, "float32")]
    BatchNorm2d(3, momentum=1.0).forward_training(
        x, [np.ones((1, 3), "float32"), np.zeros((1, 3), "float32"), *running]
    )
    exact = x.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(running[0], exact.mean(axis=0), rtol=2 * np.finfo("float32").eps)
    np.testing.assert_allclose(running[1], exact.var(axis=0, ddof=1), rtol=2 * np.finfo("float32").eps)


# -------------------------------------------------------------------------------------------------- gradients


def test_finite_differences_with_running_statistics():
    net = network()
    assert 0 < gcref.check_gradients(net, *batch(), n_coordinates=10) < 1e-6


def test_finite_differences_in_training_mode():
    net, (x, y) = network(), batch()
    weights = np.random.default_rng(3).uniform(0.5, 1.5, len(x))
    gradient = net.copy().gradient(x, y, weights=weights, training=True)[1]

    def loss(theta):
        other = net.copy()
        other.theta = theta
        return other.gradient(x, y, weights=weights, training=True)[0]

    rng, step = np.random.default_rng(4), 1e-6
    for block in net.blocks:
        scale = np.abs(gradient[block.slice]).max()
        for coordinate in rng.choice(np.arange(net.n_parameters)[block.slice], 4):
            direction = np.zeros(net.n_parameters)
            direction[coordinate] = step
            slope = (loss(net.theta + direction) - loss(net.theta - direction)) / (2 * step)
            assert abs(slope - gradient[coordinate]) <= 1e-6 * scale, block.name


def test_float32_follows_float64():
    single, double = network("float32"), network()
    x, y = batch()
    for training in (False, True):
        expected = double.copy().gradient(x, y, training=training)[1]
        found = single.copy().gradient(x, y, training=training)[1]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_channel_of_equal_numbers_has_no_gradient_in_training():
    layer = BatchNorm2d(2)
    x = np.ones((3, 2, 2, 2))
    x[..., 1] = np.random.default_rng(0).standard_normal((3, 2, 2))
    weights = [np.array([[2.0, 2]]), np.array([[0.5, 0.5]]), np.zeros(2), np.ones(2)]
    out, cache = layer.forward_training(x, weights)
    np.testing.assert_array_equal(out[..., 0], np.full((3, 2, 2), 0.5))
    grads, dout = [np.empty((1, 2)), np.empty((1, 2))], np.random.default_rng(1).standard_normal(x.shape)
    dx = layer.backward(dout, cache, weights, grads, True)
    assert grads[0][0, 0] == 0
    np.testing.assert_allclose(dx.sum(axis=(0, 1, 2)), [0, 0], atol=1e-10)  # a shift of the input changes nothing


def test_an_example_is_its_own_outside_training():
    net, (x, y) = network(), batch()
    alone = [net.traces(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    losses, traces = net.traces(x, y)
    np.testing.assert_allclose(losses, [found[0] for found, _ in alone], rtol=1e-13)
    gradients = np.concatenate([gcref.per_example_gradients(found) for _, found in alone])
    np.testing.assert_allclose(gcref.per_example_gradients(traces), gradients, rtol=1e-11, atol=1e-13)


def test_traces_of_scale_and_shift_are_sums_over_positions():
    layer, (x, weights) = BatchNorm2d(2), parts()
    out, cache = layer.forward(x, weights)
    dout = np.random.default_rng(0).standard_normal(out.shape)
    scale, shift = layer.traces(dout, cache)
    assert scale.shape == shift.shape == (1, 1, 2)
    np.testing.assert_array_equal(scale.A, np.ones((4, 1, 1)))
    x_hat = (x - weights[2]) / np.sqrt(weights[3] + 1e-5)
    np.testing.assert_allclose(scale.D[:, 0], (dout * x_hat).sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(shift.D[:, 0], dout.sum(axis=(1, 2)), rtol=1e-12)


def test_traces_are_refused_in_training():
    net, (x, y) = network(), batch()
    before = net.running.copy()
    with pytest.raises(ValueError, match=f"training=True, but batch norm .* {REFUSAL}"):
        net.traces(x, y, training=True)
    np.testing.assert_array_equal(net.running, before)
    layer, (x, weights) = BatchNorm2d(2), parts()
    _, cache = layer.forward_training(x, weights)
    with pytest.raises(ValueError, match=REFUSAL):
        layer.traces(x, cache)


@pytest.mark.parametrize("branches", [([BatchNorm2d(2)],), ([Conv2d(2, 2, 1)], [BatchNorm2d(2)])], ids=repr)
def test_traces_are_refused_in_training_wherever_the_batch_norm_is(branches):
    net = Network([Residual([Residual(*branches)]), Flatten(), Linear(24, 3)], SoftmaxCrossEntropy())
    net.traces(*batch())
    with pytest.raises(ValueError, match=REFUSAL):
        net.traces(*batch(), training=True)


def test_without_batch_norm_training_changes_nothing():
    net = gcref.resnet8((8, 8, 2), 3, width=2, dtype="float64")
    x, y = np.random.default_rng(0).standard_normal((4, 8, 8, 2)), np.array([0, 1, 2, 0])
    np.testing.assert_array_equal(net.gradient(x, y, training=True)[1], net.gradient(x, y)[1])
    found, expected = net.traces(x, y, training=True)[1], net.traces(x, y)[1]
    np.testing.assert_array_equal(gcref.per_example_gradients(found), gcref.per_example_gradients(expected))
    assert net.running.shape == (0,)


# --------------------------------------------------------------------------------------- the running statistics


def test_only_a_gradient_in_training_moves_the_running_statistics():
    net, (x, y) = network(), batch()
    running = net.running
    before, theta = running.copy(), net.theta.copy()
    net.logits(x)
    net.losses(x, y)
    net.gradient(x, y)
    net.traces(x, y)
    net.costs((3, 4, 2))
    net.trace_bytes((3, 4, 2))
    gcref.check_gradients(net, x, y, n_coordinates=1)
    np.testing.assert_array_equal(net.running, before)
    net.gradient(x, y, training=True)
    assert net.running is running
    assert (running != before).all()
    np.testing.assert_array_equal(net.theta, theta)


def test_the_layers_take_their_own_running_statistics():
    net, (x, y) = network(momentum=1.0), batch()
    net.gradient(x, y, training=True)
    first = net.weights[0]
    hidden = Conv2d(2, 3, 3, padding=1, bias=False).forward(x, [first])[0].reshape(-1, 3)
    np.testing.assert_allclose(net.running[:3], hidden.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(net.running[3:6], hidden.var(axis=0, ddof=1), rtol=1e-11)
    # Each of the other layers in turn: moving its statistics alone changes what the network says.
    logits = net.logits(x)
    for part in range(0, net.running.size, 4):
        moved = net.copy()
        moved.running[part : part + 4] += 0.5
        assert np.abs(moved.logits(x) - logits).max() > 1e-3


@pytest.mark.parametrize("duplicate", [Network.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_duplicates_have_running_statistics_of_their_own(duplicate):
    net, (x, y) = network(), batch()
    other = duplicate(net)
    np.testing.assert_array_equal(other.logits(x), net.logits(x))
    before, logits = net.running.copy(), net.logits(x)
    found = other.gradient(x, y, training=True)[1]
    np.testing.assert_array_equal(net.running, before)
    np.testing.assert_array_equal(net.logits(x), logits)
    assert np.abs(other.logits(x) - logits).max() > 1e-3  # its layers see what moved
    np.testing.assert_array_equal(found, net.gradient(x, y, training=True)[1])
    np.testing.assert_array_equal(other.running, net.running)
    moved = other.running.copy()
    net.running[:] = 1
    np.testing.assert_array_equal(other.running, moved)


def test_a_copy_in_another_type_takes_the_running_statistics_along():
    net = network()
    other = net.copy(dtype="float32")
    assert other.running.dtype == np.float32
    np.testing.assert_array_equal(other.running, net.running.astype("float32"))
    x, y = batch()
    other.gradient(x, y, training=True)
    assert (other.running != net.running.astype("float32")).all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (batch()[0], np.full(len(batch()[1]), 9), "y has the value 9"),
        (batch()[0], np.full(len(batch()[1]), -1), "y has the value -1"),
        (batch()[0], np.full(len(batch()[1]), 0.5), "y has dtype float64"),
        (np.ones((4, 9, 9, 2)), np.zeros(4, int), "x has shape"),  # which the last layer sees, after every batch norm
    ],
)
def test_what_is_refused_moves_nothing(x, y, message):
    net = network()
    before, theta = net.running.copy(), net.theta.copy()
    with pytest.raises(ValueError, match=message):
        net.gradient(x, y, training=True)
    np.testing.assert_array_equal(net.running, before)
    np.testing.assert_array_equal(net.theta, theta)


# ----------------------------------------------------------------------------------------------------- the rest


def test_names_and_start():
    net = Network([BatchNorm2d(3), Flatten(), Linear(6, 2)], SoftmaxCrossEntropy())
    assert [(b.name, b.shape) for b in net.blocks] == [("0.scale", (1, 3)), ("0.shift", (1, 3)), ("2.weight", (7, 2))]
    np.testing.assert_array_equal(net.theta[:6], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(net.running, [0, 0, 0, 1, 1, 1])
    assert [b.name for b in network().blocks] == [
        "0.weight", "1.scale", "1.shift",
        "3.body.0.weight", "3.body.1.scale", "3.body.1.shift",
        "3.shortcut.0.weight", "3.shortcut.1.scale", "3.shortcut.1.shift", "5.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
def test_the_input_is_not_written_to(training):
    for layers in ([BatchNorm2d(2), ReLU()], [BatchNorm2d(2), BatchNorm2d(2)]):
        net = Network([*layers, Flatten(), Linear(24, 3)], SoftmaxCrossEntropy())
        x, y = batch()
        before = x.copy()
        net.gradient(x, y, training=training)
        np.testing.assert_array_equal(x, before)


def test_any_layout_of_x():
    net, (x, y) = network(), batch()
    for training in (False, True):
        expected = net.copy().gradient(x, y, training=training)[1]
        found = net.copy().gradient(np.asfortranarray(x), y, training=training)[1]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_no_example():
    net = network()
    x, y = np.empty((0, 3, 4, 2)), np.empty(0, int)
    np.testing.assert_array_equal(net.gradient(x, y)[1], np.zeros(net.n_parameters))
    assert gcref.per_example_gradients(net.traces(x, y)[1]).shape == (0, net.n_parameters)
    before = net.running.copy()
    with pytest.raises(ValueError, match="batch statistics need at least two numbers a channel"):
        net.gradient(x, y, training=True)
    np.testing.assert_array_equal(net.running, before)


def test_bad_input_is_named():
    layer, (_, weights) = BatchNorm2d(2), parts()
    for shape in ((4, 2), (4, 3, 2), (4, 3, 5, 3), (4, 3, 5, 1, 2)):
        for forward in (layer.forward, layer.forward_training):
            with pytest.raises(ValueError, match=rf"x has shape \({str(shape)[1:-1]}\); BatchNorm2d\(2\) expects"):
                forward(np.ones(shape), weights)
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 1, 2\); batch statistics need at least two numbers"):
        layer.forward_training(np.ones((1, 1, 1, 2)), weights)
    assert layer.forward(np.ones((1, 1, 1, 2)), weights)[0].shape == (1, 1, 1, 2)
    for bad in (0, 2.5, "3", True):
        with pytest.raises(ValueError, match=f"n_channels is {bad!r}; an int of at least 1"):
            BatchNorm2d(bad)
    for name, values in (("epsilon", (0.0, -1e-5, np.inf, np.nan)), ("momentum", (-0.1, 1.5, np.nan))):
        for value in values:
            with pytest.raises(ValueError, match=f"{name} is {value}; a .*number .* is expected"):
                BatchNorm2d(2, **{name: value})
        with pytest.raises(TypeError, match=f"{name} is 'x'; a .*number .* is expected"):
            BatchNorm2d(2, **{name: "x"})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [False, True])
def test_a_relu_in_the_same_pass_is_a_relu_behind(dtype, training):
    nets = []
    for layers in ([BatchNorm2d(3), ReLU()], [BatchNorm2d(3, relu=True)]):
        further = [Conv2d(3, 4, 3, padding=1), Flatten(), Linear(48, 3)]
        net = Network([Conv2d(2, 3, 3, padding=1, bias=False), *layers, *further], SoftmaxCrossEntropy(), 0, dtype)
        net.theta[:] = 0.3 * np.random.default_rng(0).standard_normal(net.n_parameters)
        net.running += np.random.default_rng(1).uniform(-0.5, 0.5, net.running.size).astype(dtype)
        nets.append(net)
    x, y = batch(7, dtype)
    (loss, gradient), (own_loss, own_gradient) = (net.gradient(x, y, training=training) for net in nets)
    assert own_loss == loss
    atol = 64 * np.finfo(dtype).eps * np.abs(gradient).max()
    np.testing.assert_allclose(own_gradient, gradient, rtol=0, atol=atol)
    traces, own_traces = (net.traces(x, y)[1] for net in nets)
    for trace, own in zip(traces, own_traces, strict=True):
        np.testing.assert_allclose(own.gradients(), trace.gradients(), rtol=0, atol=64 * np.finfo(dtype).eps)
    assert repr(nets[1].layers[1]) == "BatchNorm2d(3, relu=True)"


def test_a_relu_in_the_same_pass_has_the_gradient_of_differences():
    layers = [Conv2d(2, 3, 3, padding=1), BatchNorm2d(3, relu=True), Flatten(), Linear(36, 3)]
    gcref.check_gradients(Network(layers, SoftmaxCrossEntropy()), *batch())


class Doubled(Layer):
    """Writes over what it is given."""

    overwrites_input = True

    def forward(self, x, weights):
        x *= 2
        return x, None

    def backward(self, dout, cache, weights, grads, need_dx):
        dout *= 2
        return dout


def test_nobody_writes_over_an_output_that_is_kept():
    normed = [Conv2d(2, 2, 3, padding=1), BatchNorm2d(2, relu=True)]
    for layers in ([*normed, Doubled()], [Residual(normed)], [*normed, Chain([Flatten(), Doubled()])]):
        gcref.check_gradients(Network([*layers, Flatten(), Linear(24, 3)], SoftmaxCrossEntropy()), *batch())
