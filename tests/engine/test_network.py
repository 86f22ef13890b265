"""Network against a forward and backward pass written for one example at a time."""

import copy
import pickle

import numpy as np
import pytest

import gcref
from gcref.engine import network as network_module
from gcref.engine.layers import Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network

SIZES = (7, 6, 5, 4)
N_PARAMETERS = 8 * 6 + 7 * 5 + 6 * 4


def batch(n_examples=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_examples, SIZES[0])), rng.integers(0, SIZES[-1], n_examples)


def naive_example(net, x, y, smoothing=0.0):
    """Loss and gradient of one example of an MLP, from its definition."""
    inputs, pre = [], []
    h = x
    for k, weight in enumerate(net.weights):
        inputs.append(np.append(h, 1.0))
        z = inputs[-1] @ weight
        pre.append(z)
        h = np.maximum(z, 0) if k < len(net.weights) - 1 else z
    p = np.exp(h) / np.exp(h).sum()
    target = np.full(len(p), smoothing / len(p))
    target[y] += 1 - smoothing
    delta, parts = p - target, []
    for k in reversed(range(len(net.weights))):
        parts.insert(0, np.outer(inputs[k], delta).ravel())
        if k > 0:
            delta = (net.weights[k][:-1] @ delta) * (pre[k - 1] > 0)
    return -float(target @ np.log(p)), np.concatenate(parts)


def naive(net, x, y, smoothing=0.0):
    pairs = [naive_example(net, x[i], y[i], smoothing) for i in range(len(x))]
    return np.array([loss for loss, _ in pairs]), np.array([g for _, g in pairs])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n_examples", [1, 9])
def test_losses_gradient_and_traces_equal_loops(n_examples, smoothing):
    net = gcref.mlp(SIZES, seed=3, label_smoothing=smoothing)
    x, y = batch(n_examples)
    losses, gradients = naive(net, x, y, smoothing)
    np.testing.assert_allclose(net.losses(x, y), losses, rtol=1e-10)
    loss, gradient = net.gradient(x, y)
    assert isinstance(loss, float)
    assert loss == pytest.approx(losses.mean(), rel=1e-10)
    np.testing.assert_allclose(gradient, gradients.mean(axis=0), rtol=1e-10, atol=1e-14)
    found, traces = net.traces(x, y)
    np.testing.assert_allclose(found, losses, rtol=1e-10)
    assert [(t.A.shape[2], t.D.shape[2]) for t in traces] == [block.shape for block in net.blocks]
    np.testing.assert_allclose(gcref.per_example_gradients(traces), gradients, rtol=1e-10, atol=1e-14)


def test_weights_none_is_the_mean_and_ones_the_sum():
    net = gcref.mlp(SIZES)
    x, y = batch()
    losses, gradients = naive(net, x, y)
    for w in (np.ones(9), np.random.default_rng(1).standard_normal(9)):
        loss, gradient = net.gradient(x, y, weights=w)
        assert loss == pytest.approx(w @ losses, rel=1e-10)
        np.testing.assert_allclose(gradient, w @ gradients, rtol=1e-10, atol=1e-13)
    total = net.gradient(x, y, weights=np.ones(9))[1]
    np.testing.assert_allclose(net.gradient(x, y)[1], total / 9, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_example_gives_zero(dtype):
    net = gcref.mlp(SIZES, dtype=dtype)
    x, y = np.empty((0, 7)), np.empty(0)
    assert net.losses(x, y).shape == (0,)
    loss, gradient = net.gradient(x, y)
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(N_PARAMETERS))
    losses, traces = net.traces(x, y)
    assert losses.shape == (0,)
    assert gcref.per_example_gradients(traces).shape == (0, N_PARAMETERS)


def test_float32_follows_float64():
    reference = gcref.mlp(SIZES, seed=2)
    net = gcref.mlp(SIZES, seed=2, dtype="float32")
    np.testing.assert_array_equal(net.theta, reference.theta.astype(np.float32))
    x, y = batch()
    for result in (
        net.theta,
        net.logits(x),
        net.losses(x, y),
        net.gradient(x, y)[1],
        net.traces(x, y)[1][0].A,
    ):
        assert result.dtype == np.float32
    scale = np.abs(reference.gradient(x, y)[1]).max()
    np.testing.assert_allclose(net.gradient(x, y)[1], reference.gradient(x, y)[1], atol=1e-6 * scale)


def test_any_layout_and_number_type_of_x():
    net = gcref.mlp(SIZES)
    x, y = batch()
    expected = net.gradient(x, y)[1]
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
        np.testing.assert_allclose(net.gradient(same, list(y))[1], expected, rtol=1e-12, atol=1e-16)
    whole = np.round(3 * x).astype(int)
    np.testing.assert_array_equal(net.losses(whole, y), net.losses(whole.astype(float), y))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_and_labels_are_not_written_to(dtype):
    x, y = batch()
    x = x.astype(dtype)
    before = x.copy()
    for layers in ([Linear(7, 6), ReLU(), Linear(6, 4)], [ReLU(), ReLU(), Linear(7, 4)]):
        net = Network(layers, SoftmaxCrossEntropy(), dtype=dtype)
        theta = net.theta.copy()
        net.logits(x)
        net.losses(x, y)
        net.gradient(x, y)
        net.traces(x, y)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(net.theta, theta)


def test_traces_stay_what_they_were():
    net = gcref.mlp(SIZES)
    x, y = batch()
    _, traces = net.traces(x, y)
    before = gcref.per_example_gradients(traces)
    net.gradient(x, y)
    net.theta[:] = 0
    net.losses(x, y)
    np.testing.assert_array_equal(gcref.per_example_gradients(traces), before)


def test_gradient_builds_no_trace_and_no_input_gradient(monkeypatch):
    net = gcref.mlp(SIZES)
    asked = []
    backward = Linear.backward

    def recorded(self, dout, cache, weights, grads, need_dx):
        asked.append((self.n_in, need_dx))
        return backward(self, dout, cache, weights, grads, need_dx)

    def refuse(*args):
        raise AssertionError("gradient made a trace")

    monkeypatch.setattr(Linear, "backward", recorded)
    monkeypatch.setattr("gcref.engine.layers.Trace", refuse)
    net.gradient(*batch())
    assert asked == [(5, True), (6, True), (7, False)]
    with pytest.raises(AssertionError, match="made a trace"):
        net.traces(*batch())


def test_gradient_writes_into_out():
    net = gcref.mlp(SIZES)
    x, y = batch()
    out = np.full(N_PARAMETERS, np.nan)
    _, gradient = net.gradient(x, y, out=out)
    assert gradient is out
    np.testing.assert_array_equal(out, net.gradient(x, y)[1])
    for bad in (np.empty(3), np.empty(N_PARAMETERS, np.float32), np.empty(2 * N_PARAMETERS)[::2]):
        with pytest.raises(ValueError, match="out has shape"):
            net.gradient(x, y, out=bad)
    with pytest.raises(TypeError, match="out is a list; an array of float64 is expected"):
        net.gradient(x, y, out=[0.0] * N_PARAMETERS)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        net.gradient(x, y, out=out)


def test_weights_are_views_of_theta():
    net = gcref.mlp(SIZES)
    assert net.n_parameters == N_PARAMETERS == net.theta.size
    assert [(b.name, b.shape) for b in net.blocks] == [
        ("1.weight", (8, 6)),
        ("3.weight", (7, 5)),
        ("5.weight", (6, 4)),
    ]
    for block, weight in zip(net.blocks, net.weights, strict=True):
        assert np.shares_memory(weight, net.theta)
        np.testing.assert_array_equal(weight.ravel(), net.theta[block.slice])
    x, y = batch()
    buffer = net.theta
    step = 0.1 * net.gradient(x, y)[1]
    before = net.losses(x, y).mean()
    net.theta -= step
    assert net.theta is buffer
    assert net.losses(x, y).mean() < before
    net.weights[2][-1] = 5.0
    np.testing.assert_array_equal(net.theta[-4:], 5.0)


def test_assigning_theta_copies():
    net = gcref.mlp(SIZES)
    x, _ = batch()
    buffer, new = net.theta, np.arange(N_PARAMETERS) / 100
    net.theta = new
    assert net.theta is buffer
    expected = net.logits(x)
    new[:] = 0
    np.testing.assert_array_equal(net.logits(x), expected)
    np.testing.assert_array_equal(net.weights[0].ravel(), np.arange(48) / 100)
    net.theta = list(range(N_PARAMETERS))
    with pytest.raises(ValueError, match=r"theta has shape \(3,\); \(107,\) is expected"):
        net.theta = np.ones(3)
    with pytest.raises(TypeError, match="theta has dtype complex128; real numbers are expected"):
        net.theta = net.theta + 1j


@pytest.mark.parametrize("duplicate", [Network.copy, copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_duplicates_compute_the_same_and_are_whole(duplicate):
    net = gcref.mlp(SIZES, seed=5)
    x, y = batch()
    other = duplicate(net)
    np.testing.assert_array_equal(other.gradient(x, y)[1], net.gradient(x, y)[1])
    other.theta -= other.gradient(x, y)[1]
    np.testing.assert_array_equal(other.weights[1].ravel(), other.theta[other.blocks[1].slice])
    assert other.losses(x, y).mean() < np.log(4) * 1.2


@pytest.mark.parametrize("duplicate", [Network.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_duplicates_are_independent(duplicate):
    net = gcref.mlp(SIZES, seed=5)
    before = net.theta.copy()
    other = duplicate(net)
    other.theta += 1
    np.testing.assert_array_equal(net.theta, before)
    net.theta[:] = 0
    np.testing.assert_array_equal(other.theta, before + 1)


def test_copy_to_another_type():
    net = gcref.mlp(SIZES, dtype="float32").copy(dtype="float64")
    assert net.gradient(*batch())[1].dtype == np.float64


def test_seed_decides_the_start():
    first = gcref.mlp(SIZES, seed=1).theta
    np.testing.assert_array_equal(first, gcref.mlp(SIZES, seed=1).theta)
    assert (first != gcref.mlp(SIZES, seed=2).theta).all()


@pytest.mark.parametrize("method", ["losses", "gradient", "traces"])
def test_bad_input_is_named(method):
    net = gcref.mlp(SIZES)
    x, y = batch()
    call = getattr(net, method)
    holed, endless = x.copy(), x.copy()
    holed[4, 2], endless[5, 1] = np.nan, -np.inf
    wrong_label = y.copy()
    wrong_label[3] = 4
    for bad_x, bad_y, message in [
        (holed, y, "x has NaN at row 4"),
        (endless, y, "x has infinity at row 5"),
        (x[:, :5], y, r"x has shape \(9, 5\).*expects \(B, 7\)"),
        (x[0], y, r"x has shape \(7,\)"),
        (x, y[:-1], r"y has shape \(8,\); \(9,\)"),
        (x, y[:, None], r"y has shape \(9, 1\)"),
        (x, wrong_label, "y has the value 4; ints in 0…3"),
        (x, y.astype(float), "y has dtype float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(bad_x, bad_y)
    with pytest.raises(TypeError, match="x has dtype complex128"):
        call(x.astype(complex), y)


def test_bad_weights_are_named():
    net = gcref.mlp(SIZES)
    x, y = batch()
    with pytest.raises(ValueError, match=r"weights has shape \(3,\); \(9,\)"):
        net.gradient(x, y, weights=np.ones(3))
    with pytest.raises(ValueError, match="weights has nan at 2"):
        net.gradient(x, y, weights=np.array([1, 1, np.nan, 1, 1, 1, 1, 1, 1]))


def test_finite_numbers_whose_sum_overflows_are_accepted():
    net = Network([Linear(2, 2)], SoftmaxCrossEntropy(), dtype="float32")
    net.theta *= 1e-30
    assert np.isfinite(net.losses(np.full((4, 2), 3e38, np.float32), [0, 1, 0, 1])).all()


def test_finite_check_is_one_sum_when_all_is_well(monkeypatch):
    seen = []
    monkeypatch.setattr(network_module, "first_bad_row", lambda array: seen.append(array.shape))
    gcref.mlp(SIZES).losses(*batch())
    assert seen == [(9, 7)]


def test_bad_networks_are_named():
    with pytest.raises(ValueError, match="layers has no trainable parameters"):
        Network([ReLU()], SoftmaxCrossEntropy())
    with pytest.raises(ValueError, match="dtype is int64"):
        gcref.mlp(SIZES, dtype="int64")
