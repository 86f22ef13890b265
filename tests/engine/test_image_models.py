"""The convolutional models: their shape, their gradients and their arguments."""

import pickle

import numpy as np
import pytest

import gcref
from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.chain import Chain, Residual
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear
from gcref.engine.pooling import Subsample

# Small enough for seconds, yet of odd sizes and of two columns where the rows are one.
SMALL = {
    "cnn": {"in_shape": (9, 8, 2), "width": 2},
    "cnn, batch": {"in_shape": (9, 8, 2), "width": 2, "norm": "batch"},
    "resnet8": {"in_shape": (7, 9, 2), "width": 2},
    "resnet8, batch": {"in_shape": (7, 9, 2), "width": 2, "norm": "batch"},
    "resnet20": {"in_shape": (7, 9, 2), "width": 2},
    "resnet20, None": {"in_shape": (7, 9, 2), "width": 2, "norm": None},
    "resnet32": {"in_shape": (7, 9, 2), "width": 2},
    "resnet18": {"in_shape": (18, 33, 2), "width": 2},
    "resnet18, None": {"in_shape": (18, 33, 2), "width": 2, "norm": None},
}


def small(name, **further):
    arguments = {"n_classes": 4, "dtype": "float64", **SMALL[name], **further}
    return getattr(gcref, name.split(",")[0])(**arguments)


def batch(net_name, n_examples=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_examples, *SMALL[net_name]["in_shape"])), rng.integers(0, 4, n_examples)


def moved(net, seed=0):
    """Take a network away from what batch norm starts at."""
    rng = np.random.default_rng(seed)
    net.theta += 0.05 * rng.standard_normal(net.n_parameters)
    net.running += rng.uniform(-0.3, 0.3, net.running.size)
    return net


def leaves(layer):
    """The layers that are made of no other."""
    if isinstance(layer, Chain):
        return [leaf for part in layer.layers for leaf in leaves(part)]
    if isinstance(layer, Residual):
        return leaves(layer.body) + leaves(layer.shortcut)
    return [layer]


def weight_layers(net):
    """The convolutions and fully connected layers, without projections in shortcuts."""
    chains = [part.body if isinstance(part, Residual) else part for part in net.layers]
    return [leaf for part in chains for leaf in leaves(part) if isinstance(leaf, (Conv2d, Linear))]


# ----------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", SMALL)
def test_finite_differences(name):
    net = moved(small(name))
    assert 0 < gcref.check_gradients(net, *batch(name, 2), n_coordinates=1) < 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_float32_follows_float64(name):
    x, y = batch(name)
    net, reference = (moved(small(name, dtype=dtype)) for dtype in ("float32", "float64"))
    assert net.theta.dtype == net.running.dtype == net.losses(x, y).dtype == np.float32
    expected = reference.gradient(x, y)[1]
    for found in (net.gradient(x, y)[1], gcref.per_example_gradients(net.traces(x, y)[1]).mean(axis=0)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", SMALL)
def test_no_example(name):
    net = small(name)
    x, y = batch(name, 0)
    assert net.logits(x).shape == (0, 4)
    np.testing.assert_array_equal(net.gradient(x, y)[1], np.zeros(net.n_parameters))
    assert gcref.per_example_gradients(net.traces(x, y)[1]).shape == (0, net.n_parameters)


@pytest.mark.parametrize("model", ["cnn", "resnet8", "resnet20", "resnet32", "resnet18"])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_the_smallest_images(model, norm):
    shape = (4, 4, 1) if model == "cnn" else (1, 1, 1)
    net = moved(getattr(gcref, model)(shape, 3, norm=norm, width=2, dtype="float64"))
    x, y, w = np.random.default_rng(3).standard_normal((3, *shape)), np.array([2, 0, 1]), np.array([0.5, 1, 2])
    loss, gradient = net.gradient(x, y, weights=w)
    losses, traces = net.traces(x, y)
    assert loss == pytest.approx(w @ losses, rel=1e-12)
    np.testing.assert_allclose(w @ gcref.per_example_gradients(traces), gradient, rtol=1e-10, atol=1e-13)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_copies_and_pickles_compute_the_same(name):
    net = moved(small(name))
    x, y = batch(name)
    for other in (net.copy(), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other.gradient(x, y)[1], net.gradient(x, y)[1])
        np.testing.assert_array_equal(other.running, net.running)
        assert [block.name for block in other.blocks] == [block.name for block in net.blocks]
    theta, running, other = net.theta.copy(), net.running.copy(), net.copy()
    other.theta -= other.gradient(x, y, training=True)[1]
    np.testing.assert_array_equal(net.theta, theta)
    np.testing.assert_array_equal(net.running, running)


@pytest.mark.parametrize("name", SMALL)
def test_steps_of_training_lower_the_loss(name):
    net = small(name)
    x, y = batch(name, 8)
    optimizer = gcref.SGD(0.05, momentum=0.9)
    before = net.gradient(x, y, training=True)[0]
    for _ in range(20):
        optimizer.step(net.theta, net.gradient(x, y, training=True)[1])
    assert net.gradient(x, y, training=True)[0] < before


# ----------------------------------------------------------------------------------------------------- the shape


@pytest.mark.parametrize(
    ("model", "n_layers", "n_parameters"),
    [
        ("resnet8", 8, 75_050),
        ("resnet20", 20, 269_722),
        ("resnet32", 32, 464_154),
        ("resnet18", 18, 11_689_512),
    ],
)
def test_sizes_known_from_elsewhere(model, n_layers, n_parameters):
    # He et al. (2016) give 0.27 and 0.46 million for 20 and 32 layers, torchvision the exact number for 18.
    net = getattr(gcref, model)()
    assert net.n_parameters == n_parameters
    assert len(weight_layers(net)) == n_layers
    assert net.dtype == np.float32


def test_the_cnn_by_hand():
    net = gcref.cnn()
    assert [(b.name, b.shape) for b in net.blocks] == [
        ("0.weight", (5 * 5 + 1, 32)),
        ("3.weight", (5 * 5 * 32 + 1, 64)),
        ("7.weight", (7 * 7 * 64 + 1, 512)),
        ("9.weight", (512 + 1, 10)),
    ]
    normed = gcref.cnn((12, 9, 3), 7, norm="batch", width=4)
    assert [(b.name, b.shape) for b in normed.blocks] == [
        ("0.weight", (75, 4)),
        ("1.scale", (1, 4)),
        ("1.shift", (1, 4)),
        ("3.weight", (100, 8)),
        ("4.scale", (1, 8)),
        ("4.shift", (1, 8)),
        ("7.weight", (3 * 2 * 8 + 1, 64)),
        ("9.weight", (65, 7)),
    ]


def test_resnet8_by_hand():
    net = gcref.resnet8((32, 32, 3), 10, dtype="float64")
    assert [(b.name, b.shape) for b in net.blocks] == [
        ("0.weight", (28, 16)),
        ("2.body.0.weight", (145, 16)),
        ("2.body.2.weight", (145, 16)),
        ("4.body.0.weight", (145, 32)),
        ("4.body.2.weight", (289, 32)),
        ("6.body.0.weight", (289, 64)),
        ("6.body.2.weight", (577, 64)),
        ("9.weight", (65, 10)),
    ]
    positions = [trace.n_positions for trace in net.traces(np.zeros((1, 32, 32, 3)), [0])[1]]
    assert positions == [1024, 1024, 1024, 256, 256, 64, 64, 1]
    assert [layer for layer in leaves(net.chain) if isinstance(layer, Subsample)] == [
        net.layers[4].shortcut.layers[0],
        net.layers[6].shortcut.layers[0],
    ]


def test_resnet18_by_hand():
    net = gcref.resnet18((64, 64, 3), 10, width=4)
    traces = net.traces(np.zeros((1, 64, 64, 3)), [0])[1]
    convolutions = [
        (block.name, *trace.shape[:2])
        for block, trace in zip(net.blocks, traces, strict=True)
        if trace.n_inputs > 1 and trace.n_positions > 1
    ]
    assert convolutions[0] == ("0.weight", 32 * 32, 147)
    assert [c for c in convolutions if "shortcut" in c[0]] == [
        ("7.shortcut.0.weight", 64, 4), ("11.shortcut.0.weight", 16, 8), ("15.shortcut.0.weight", 4, 16),
    ]  # fmt: skip
    assert [T for name, T, _ in convolutions if "body" in name] == [256] * 4 + [64] * 4 + [16] * 4 + [4] * 4
    assert net.blocks[-1].shape == (33, 10)


@pytest.mark.parametrize("model", ["resnet20", "resnet32", "resnet18"])
def test_deep_models_have_batch_norm_unless_told(model):
    build = getattr(gcref, model)
    for norm, bias in (("batch", False), (None, True)):
        net = build((8, 8, 3), 10, norm=norm, width=2)
        assert any(isinstance(leaf, BatchNorm2d) for leaf in leaves(net.chain)) != bias
        assert {leaf.bias for leaf in leaves(net.chain) if isinstance(leaf, Conv2d)} == {bias}
    assert build((8, 8, 3), 10, width=2).running.size
    for model_without in (gcref.cnn, gcref.resnet8):
        assert not model_without((8, 8, 3), 10, width=2).running.size


@pytest.mark.parametrize("name", SMALL)
def test_it_starts_within_one_over_root_fan_in(name):
    net = small(name)
    sizes = {leaf.shapes[0]: leaf for leaf in leaves(net.chain) if isinstance(leaf, (Conv2d, Linear))}
    for block, weight in zip(net.blocks, net.weights, strict=True):
        if block.name.endswith("scale"):
            np.testing.assert_array_equal(weight, 1)
        elif block.name.endswith("shift"):
            np.testing.assert_array_equal(weight, 0)
        else:
            bound = 1 / np.sqrt(block.shape[0] - sizes[block.shape].bias)
            assert 0.8 * bound < np.abs(weight).max() <= bound


def test_seeds_and_label_smoothing():
    for name in SMALL:
        first = small(name, seed=1)
        np.testing.assert_array_equal(first.theta, small(name, seed=1).theta)
        assert (first.weights[0] != small(name, seed=2).weights[0]).all()
        assert small(name, label_smoothing=0.2).loss.label_smoothing == 0.2


# --------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize("model", ["cnn", "resnet8", "resnet20", "resnet32", "resnet18"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_shape": (32, 32)}, r"in_shape is \(32, 32\); \(rows, columns, channels\) is expected"),
        ({"in_shape": 784}, "in_shape is 784"),
        ({"in_shape": (32, 0, 3)}, r"in_shape\[1\] is 0; an int of at least [14]"),
        ({"in_shape": (32, 32, 0)}, r"in_shape\[2\] is 0; an int of at least 1"),
        ({"in_shape": (32.0, 32, 3)}, r"in_shape\[0\] is 32.0"),
        ({"n_classes": 0}, "n_classes is 0"),
        ({"n_classes": 2.5}, "n_classes is 2.5"),
        ({"norm": "layer"}, "norm is 'layer'; None or 'batch' is expected"),
        ({"norm": True}, "norm is True"),
        ({"width": 0}, "width is 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"dtype": "float16"}, "dtype is float16"),
    ],
)
def test_arguments_are_checked(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(gcref, model)(**{"width": 2, **arguments})


def test_a_cnn_needs_four_rows_and_columns():
    assert gcref.cnn((4, 5, 1), width=1).blocks[2].shape == (1 * 1 * 2 + 1, 16)
    with pytest.raises(ValueError, match=r"in_shape\[0\] is 3; an int of at least 4"):
        gcref.cnn((3, 5, 1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("method", ["losses", "gradient", "traces"])
def test_bad_images_are_named(name, method):
    net = small(name)
    x, y = batch(name)
    call = getattr(net, method)
    for bad, message in [
        (x[..., :1], r"x has shape .*1\); Conv2d\(2, .*expects \(B, H, W, 2\)"),
        (x[..., 0], r"x has shape .*; Conv2d.* expects \(B, H, W, C\)"),
        (x.reshape(4, -1), r"x has shape .*; Conv2d.* expects \(B, H, W, C\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(bad, y)
    holed = x.copy()
    holed[2, 0, 1, 1] = np.nan
    with pytest.raises(ValueError, match="x has NaN at row 2"):
        call(holed, y)
