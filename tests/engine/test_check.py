"""check_gradients passes on what is right and names what is not."""

import numpy as np
import pytest

import gcref
from gcref.engine.layers import Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.trace import Trace


def batch(n_examples=6):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_examples, 7)), rng.integers(0, 2, n_examples)


@pytest.mark.parametrize("n_examples", [1, 6])
@pytest.mark.parametrize(
    "net",
    [
        gcref.linear(7, 3),
        gcref.mlp((7, 6, 5, 4), label_smoothing=0.1),
        gcref.mlp((7, 6, 5, 4), dtype="float32"),
        gcref.random_features(7, 20),
        gcref.random_features(7, 20, head="logistic"),
        Network([Linear(7, 5, bias=False), ReLU(), Linear(5, 3)], SoftmaxCrossEntropy()),
    ],
    ids=repr,
)
def test_right_networks_pass(net, n_examples):
    before = net.theta.copy()
    worst = gcref.check_gradients(net, *batch(n_examples))
    assert 0 < worst < 1e-6
    np.testing.assert_array_equal(net.theta, before)


class LeakyGradient(ReLU):
    def backward(self, dout, cache, weights, grads, need_dx):
        return super().backward(dout, cache, weights, grads, need_dx) + 1e-4 * dout


class WrongBias(Linear):
    def backward(self, dout, cache, weights, grads, need_dx):
        dx = super().backward(dout, cache, weights, grads, need_dx)
        if grads is not None:
            grads[0][-1] = dout.mean(axis=0)
        return dx


class AveragedTrace(Linear):
    def traces(self, dout, cache):
        return super().traces(dout / len(dout), cache)


class ShuffledTrace(Linear):
    def traces(self, dout, cache):
        (trace,) = super().traces(dout, cache)
        return [Trace(trace.A[::-1], trace.D[::-1])]


class TransposedTrace(Linear):
    def traces(self, dout, cache):
        (trace,) = super().traces(dout, cache)
        return [Trace(trace.D, trace.A)]


class NoTrace(Linear):
    def traces(self, dout, cache):
        return []


@pytest.mark.parametrize(
    ("hidden", "activation", "message"),
    [
        (Linear, LeakyGradient, r"block 0.weight, coordinate \(\d, \d\): gradient\(\) is"),
        (WrongBias, ReLU, r"block 0.weight, coordinate \(7, \d\): gradient\(\) is"),
        (AveragedTrace, ReLU, r"block 0.weight, coordinate \(\d, \d\): Σ_i g_i / B of the traces is"),
        (ShuffledTrace, ReLU, r"block 0.weight, coordinate \(\d, \d\): Σ_i w_i g_i of the traces is"),
        (TransposedTrace, ReLU, r"block 0.weight has shape \(8, 5\) but its trace gives \(5, 8\)"),
        (NoTrace, ReLU, r"traces\(\) gives 1 traces for 2 blocks"),
    ],
)
def test_mistakes_are_named(hidden, activation, message):
    net = Network([hidden(7, 5), activation(), Linear(5, 3)], SoftmaxCrossEntropy())
    with pytest.raises(AssertionError, match=message):
        gcref.check_gradients(net, *batch())


def test_a_loss_divided_by_the_batch_size_is_named():
    class MeanLoss(SoftmaxCrossEntropy):
        def __call__(self, logits, y):
            losses, dlogits = super().__call__(logits, y)
            return losses, dlogits / len(y)

    net = Network([Linear(7, 3)], MeanLoss())
    with pytest.raises(AssertionError, match=r"gradient\(\) is"):
        gcref.check_gradients(net, *batch())


def test_arguments_are_checked():
    net, (x, y) = gcref.linear(7, 3), batch()
    with pytest.raises(ValueError, match="y is empty"):
        gcref.check_gradients(net, x[:0], y[:0])
    for name in ("n_coordinates", "step", "rtol"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            gcref.check_gradients(net, x, y, **{name: 0})
