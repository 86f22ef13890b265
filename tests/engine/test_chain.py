"""Chains and residual blocks: their branches written out, and what they must not write over."""

import pickle

import numpy as np
import pytest

import gcref
from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.chain import Chain, Residual
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d, Subsample

IMAGE = (4, 6, 2)


def conv(n_in=2, n_out=2, **further):
    return Conv2d(n_in, n_out, 3, padding=1, **further)


BLOCKS = {
    "identity": lambda: Residual([conv(), ReLU(), conv()]),
    "subsampled": lambda: Residual([conv(2, 3, stride=2), ReLU(), conv(3, 3)], [Subsample(2, 3)]),
    "projected": lambda: Residual([conv(2, 3, stride=2)], [Conv2d(2, 3, 1, stride=2, bias=False)]),
    "batch norm": lambda: Residual([conv(bias=False), BatchNorm2d(2)], [BatchNorm2d(2)]),
    "body ends in ReLU": lambda: Residual([conv(), ReLU()]),
    "body ends in ReLU, projected": lambda: Residual([conv(2, 3), ReLU()], [Conv2d(2, 3, 1)]),
    "body ends in pooling": lambda: Residual([conv(), ReLU(), MaxPool2d(3, 1, 1)], [AvgPool2d(3, 1, 1)]),
    "body ends in a chain that ends in ReLU": lambda: Residual([conv(), Chain([Chain([conv(), ReLU()])])]),
    "body ends in ReLU and Flatten": lambda: Residual([conv(), ReLU(), Flatten()], [Flatten()]),
    "shortcut ends in ReLU": lambda: Residual([conv(2, 3)], [Conv2d(2, 3, 1), ReLU()]),
    "shortcut ends in a chain that ends in ReLU": lambda: Residual([conv()], [Chain([conv(), ReLU()]), Chain([])]),
    "both end in ReLU": lambda: Residual([conv(), ReLU()], [conv(), ReLU()]),
    "body hands on what it is given": lambda: Residual([Flatten()], [Flatten(), Linear(48, 48)]),
    "block in block": lambda: Residual([Residual([conv(), ReLU(), conv()]), conv()]),
    "block in block, at the end": lambda: Residual([conv(), ReLU(), Residual([conv()])], [Residual([conv()])]),
    "chain in block": lambda: Residual([Chain([conv(), ReLU()]), Chain([conv()])], [Chain([conv()])]),
    "body without parameters": lambda: Residual([MaxPool2d(3, 1, 1)], [conv()]),
    "nothing to learn": lambda: Residual([AvgPool2d(3, 1, 1)]),
    "flat": lambda: Residual([conv(), Flatten(), Linear(48, 5)], [Flatten(), Linear(48, 5, bias=False)]),
}


def network(layers, in_shape=IMAGE, dtype="float64", seed=0):
    """Layers with a fully connected one above."""
    below = Chain([*layers, Flatten()])
    start = below.initialise(np.random.default_rng(0)) + below.initialise_running()
    n_features = below.forward(np.zeros((1, *in_shape)), start)[0].shape[1]
    return Network([*below.layers, Linear(n_features, 3)], SoftmaxCrossEntropy(), seed, dtype)


def within(name, dtype="float64"):
    """A block of which the input gradient counts, between convolutions and ReLUs."""
    return network([conv(), ReLU(), BLOCKS[name](), ReLU()], dtype=dtype)


def batch(n_examples=4, dtype="float64"):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n_examples, *IMAGE)).astype(dtype), rng.integers(0, 3, n_examples)


@pytest.mark.parametrize("name", BLOCKS)
def test_finite_differences(name):
    assert 0 < gcref.check_gradients(within(name), *batch(), n_coordinates=12) < 1e-6


@pytest.mark.parametrize("name", BLOCKS)
def test_finite_differences_where_the_block_comes_first(name):
    assert 0 < gcref.check_gradients(network([BLOCKS[name]()]), *batch(), n_coordinates=12) < 1e-6


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_the_sum_of_its_branches(name):
    block, x = BLOCKS[name](), batch()[0]
    weights = block.initialise(np.random.default_rng(0))
    running = [w + 0.5 for w in block.initialise_running()]
    n, r = len(block.body.shapes), len(block.body.running_shapes)
    body = block.body.forward(x, weights[:n] + running[:r])[0].copy()
    shortcut = block.shortcut.forward(x, weights[n:] + running[r:])[0]
    np.testing.assert_array_equal(block.forward(x, weights + running)[0], body + shortcut)


def test_the_identity_adds_the_input_itself():
    block, x = Residual([conv()]), batch()[0]
    zero = np.zeros((19, 2))
    np.testing.assert_array_equal(block.forward(x, [zero])[0], x)
    dout = np.random.default_rng(2).standard_normal(x.shape)
    np.testing.assert_array_equal(block.backward(dout, block.forward(x, [zero])[1], [zero], None, True), dout)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BLOCKS)
def test_neither_input_nor_traces_are_written_to(name, dtype):
    x, y = batch(dtype=dtype)
    before = x.copy()
    for net in (network([BLOCKS[name]()], dtype=dtype), within(name, dtype)):
        theta = net.theta.copy()
        logits, losses = net.logits(x), net.losses(x, y)
        gradient = net.gradient(x, y)[1]
        traced, traces = net.traces(x, y)
        gradients = gcref.per_example_gradients(traces)
        for found, expected in ((net.logits(x), logits), (net.losses(x, y), losses), (traced, losses)):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(net.gradient(x, y)[1], gradient)
        np.testing.assert_array_equal(gcref.per_example_gradients(traces), gradients)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(net.theta, theta)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "head",
    [
        [ReLU()],
        [ReLU(), conv()],
        [Flatten(), ReLU()],
        [Flatten(), Flatten(), ReLU()],
        [Chain([ReLU(), conv()])],
        [Chain([Chain([Flatten(), ReLU()])])],
        [MaxPool2d(1), ReLU()],
        [Subsample(1, 2), ReLU()],
        [AvgPool2d(1), ReLU(), conv()],
        [BatchNorm2d(2), ReLU()],
        [GlobalAvgPool(), ReLU()],
    ],
    ids=repr,
)
def test_no_first_layer_writes_over_the_callers_array(head, dtype):
    net, (x, y) = network(head, dtype=dtype), batch(dtype=dtype)
    before = x.copy()
    net.logits(x)
    net.losses(x, y)
    net.gradient(x, y)
    net.gradient(x, y, training=True)
    net.traces(x, y)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("layers", [[ReLU(), conv()], [BLOCKS["projected"]()], [Subsample(1, 2), ReLU()]], ids=repr)
def test_any_layout_of_x(layers):
    net, (x, y) = network(layers), batch()
    expected = net.gradient(x, y)[1]
    channels_first = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for same in (np.asfortranarray(x), channels_first, x[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_allclose(net.gradient(same, y)[1], expected, rtol=1e-12, atol=1e-15)
        found = gcref.per_example_gradients(net.traces(same, y)[1]).mean(axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_relu_takes_any_layout():
    x, dout = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 2))
    out, cache = ReLU().forward(np.asfortranarray(x), [])
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    np.testing.assert_array_equal(ReLU().backward(np.asfortranarray(dout), cache, [], None, True), dout * (x > 0))


@pytest.mark.parametrize("name", BLOCKS)
def test_float32_follows_float64(name):
    x, y = batch()
    expected = within(name).gradient(x, y)[1]
    net = within(name, "float32")
    for found in (net.gradient(x, y)[1], gcref.per_example_gradients(net.traces(x, y)[1]).mean(axis=0)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", BLOCKS)
def test_no_example(name):
    net = within(name)
    x, y = batch(0)
    loss, gradient = net.gradient(x, y)
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros(net.n_parameters))
    assert gcref.per_example_gradients(net.traces(x, y)[1]).shape == (0, net.n_parameters)


def test_a_chain_is_its_layers_in_order():
    def layers():
        return [conv(), BatchNorm2d(2), ReLU(), Residual([conv(), BatchNorm2d(2)])]

    flat, x, y = network(layers()), *batch()
    a, b, c, d = layers()
    nested = network([Chain([a, Chain([b, c])]), Chain([]), Chain([d])])
    assert nested.n_parameters == flat.n_parameters
    nested.theta = flat.theta
    for training in (False, True):
        loss, gradient = nested.gradient(x, y, training=training)
        expected_loss, expected = flat.gradient(x, y, training=training)
        assert loss == expected_loss
        np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(nested.running, flat.running)
    for found, expected in zip(nested.traces(x, y)[1], flat.traces(x, y)[1], strict=True):
        np.testing.assert_array_equal(found.gradients(), expected.gradients())
    assert [block.name for block in nested.blocks][:4] == [
        "0.0.weight",
        "0.1.0.scale",
        "0.1.0.shift",
        "2.0.body.0.weight",
    ]


def test_names_of_blocks():
    net = network([Residual([conv(2, 3), ReLU(), conv(3, 3)], [Conv2d(2, 3, 1, bias=False), BatchNorm2d(3)])])
    assert [(block.name, block.shape) for block in net.blocks] == [
        ("0.body.0.weight", (19, 3)),
        ("0.body.2.weight", (28, 3)),
        ("0.shortcut.0.weight", (2, 3)),
        ("0.shortcut.1.scale", (1, 3)),
        ("0.shortcut.1.shift", (1, 3)),
        ("2.weight", (73, 3)),
    ]


def test_a_block_starts_as_its_layers_do():
    net = network([Residual([conv(), ReLU(), conv()], [Conv2d(2, 2, 1)])])
    rng = np.random.default_rng(np.random.SeedSequence(0).spawn(3)[0])
    for layer, weight in zip((conv(), conv(), Conv2d(2, 2, 1)), net.weights, strict=False):
        np.testing.assert_array_equal(weight, layer.initialise(rng)[0])


def test_the_way_back_ends_at_the_first_layer_with_parameters(monkeypatch):
    net = network([MaxPool2d(1), Residual([Subsample(1, 2), AvgPool2d(1), conv()])])
    for layer in (MaxPool2d, Subsample, AvgPool2d):
        monkeypatch.setattr(layer, "backward", lambda *_: pytest.fail("went back further than needed"))
    net.gradient(*batch())
    net.traces(*batch())


def test_a_network_is_pickled_whole():
    net, (x, y) = within("batch norm"), batch()
    net.running += 0.25
    other = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(other.gradient(x, y)[1], net.gradient(x, y)[1])
    for found, expected in zip(other.traces(x, y)[1], net.traces(x, y)[1], strict=True):
        np.testing.assert_array_equal(found.gradients(), expected.gradients())
    other.theta += 1
    other.running += 1
    assert np.abs(other.logits(x) - net.logits(x)).max() > 1e-3
    assert repr(other) == repr(net)


def test_bad_blocks_are_refused():
    with pytest.raises(ValueError, match="body is empty; at least one layer is expected"):
        Residual([])
    with pytest.raises(ValueError, match=r"body begins with \[ReLU.*, which may write over what both branches need"):
        Residual([ReLU(), conv()])
    with pytest.raises(ValueError, match=r"shortcut begins with \[ReLU.*, which may write over"):
        Residual([conv()], [ReLU()])
    with pytest.raises(ValueError, match=r"body begins with \[Chain\("):
        Residual([Chain([ReLU(), conv()])])
    with pytest.raises(ValueError, match=r"body begins with \[Flatten\(\), ReLU"):
        Residual([Flatten(), ReLU(), Linear(48, 48)], [Flatten()])
    with pytest.raises(ValueError, match=r"shortcut begins with \[Flatten\(\), ReLU"):
        Residual([conv(), Flatten()], [Flatten(), ReLU()])


@pytest.mark.parametrize(
    ("block", "shapes"),
    [
        (Residual([conv(2, 3)]), r"body gives shape \(4, 4, 6, 3\) but shortcut \(4, 4, 6, 2\)"),
        (Residual([conv(stride=2)]), r"body gives shape \(4, 2, 3, 2\) but shortcut \(4, 4, 6, 2\)"),
        (Residual([conv(2, 1)], [Subsample(2, 2)]), r"body gives shape \(4, 4, 6, 1\) but shortcut \(4, 2, 3, 2\)"),
        (Residual([GlobalAvgPool()], [Flatten()]), r"body gives shape \(4, 2\) but shortcut \(4, 48\)"),
    ],
)
def test_branches_of_different_shapes_are_refused(block, shapes):
    weights = block.initialise(np.random.default_rng(0))
    for forward in (block.forward, block.forward_training):
        with pytest.raises(ValueError, match=f"{shapes}; Residual.* cannot add them"):
            forward(batch()[0], weights)


def test_repr_can_be_typed_in():
    for name, build in BLOCKS.items():
        assert eval(repr(build())).shapes == build().shapes, name
