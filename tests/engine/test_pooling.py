"""Pooling, thinning and flattening against loops, and their gradients against finite differences."""

import numpy as np
import pytest

import gcref
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d, Subsample
from gcref.validation import naive_elementwise as naive

WINDOWS = {
    "plain": {"kernel": 2},
    "rest left over": {"kernel": (2, 3)},
    "overlapping": {"kernel": 3, "stride": 2, "padding": 1},
    "dense": {"kernel": (3, 2), "stride": 1, "padding": (1, 1)},
    "with gaps": {"kernel": (1, 2), "stride": (2, 3)},
}
IMAGES = (3, 5, 6, 2)


def draw(dtype="float64", shape=IMAGES):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def under(layer, shape=IMAGES):
    """For each output position, the rows and columns of the input under it."""
    (_, H, W, C), (p, q) = shape, layer.padding
    out_h = len(range(0, H + 2 * p - layer.kernel[0] + 1, layer.stride[0]))
    out_w = len(range(0, W + 2 * q - layer.kernel[1] + 1, layer.stride[1]))
    win = (H, W, C, *layer.kernel, *layer.stride, p, p, q, q, out_h, out_w)
    return win, {(y, z): naive.under(win, y, z) for y in range(out_h) for z in range(out_w)}


def network(layer, in_shape=IMAGES[1:]):
    """A convolution below, so that the input gradient counts, and a fully connected layer above."""
    below = [Conv2d(in_shape[2], 2, 3, padding=1), layer, Flatten()]
    n_features = Network(below, SoftmaxCrossEntropy()).logits(np.zeros((1, *in_shape))).shape[1]
    return Network([*below, Linear(n_features, 4)], SoftmaxCrossEntropy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool_takes_the_largest_under_each_window(window, dtype):
    layer, x = MaxPool2d(**WINDOWS[window]), draw(dtype) - 4  # zeros of the padding would be the largest
    out, _ = layer.forward(x, [])
    win, places = under(layer)
    assert out.shape == (3, win[-2], win[-1], 2)
    assert out.dtype == dtype
    for (y, z), found in places.items():
        np.testing.assert_array_equal(out[:, y, z], np.max([x[:, row, column] for row, column in found], axis=0))


def test_the_gradient_of_a_maximum_goes_to_the_first_of_equals():
    layer, x = MaxPool2d(2), np.array([[1.0, 7, 3, 3], [7, 0, 3, 3]]).reshape(1, 2, 4, 1)
    _, cache = layer.forward(x, [])
    dx = layer.backward(np.array([10.0, 20]).reshape(1, 1, 2, 1), cache, [], None, True)
    np.testing.assert_array_equal(dx[0, ..., 0], [[0, 10, 20, 0], [0, 0, 0, 0]])


def test_gradients_of_overlapping_maxima_add_up():
    layer, x = MaxPool2d(2, stride=1), np.array([[0.0, 0, 0], [0, 5, 0], [0, 0, 0]]).reshape(1, 3, 3, 1)
    _, cache = layer.forward(x, [])
    dx = layer.backward(np.arange(1.0, 5).reshape(1, 2, 2, 1), cache, [], None, True)
    np.testing.assert_array_equal(dx[0, ..., 0], [[0, 0, 0], [0, 10, 0], [0, 0, 0]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("window", WINDOWS)
def test_avg_pool_counts_the_zeros_of_the_padding(window, dtype):
    layer, x = AvgPool2d(**WINDOWS[window]), draw(dtype)
    out, _ = layer.forward(x, [])
    win, places = under(layer)
    assert out.shape == (3, win[-2], win[-1], 2)
    assert out.dtype == dtype
    n = layer.kernel[0] * layer.kernel[1]
    for (y, z), found in places.items():
        numbers = np.array([x[:, row, column].astype(float) for row, column in found])
        gap = np.abs(out[:, y, z] - numbers.sum(axis=0) / n)
        assert (gap <= (n + 1) * np.finfo(dtype).eps * abs(numbers).sum(axis=0) / n).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_global_avg_pool(dtype):
    x = draw(dtype)
    out, _ = GlobalAvgPool().forward(x, [])
    assert out.dtype == dtype
    for i, c in np.ndindex(3, 2):
        numbers = [float(x[i, row, column, c]) for row in range(5) for column in range(6)]
        assert abs(out[i, c] - sum(numbers) / 30) <= 31 * np.finfo(dtype).eps * sum(map(abs, numbers)) / 30


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_subsample_thins_and_adds_channels_of_zeros(stride):
    layer, x = Subsample(stride, 5), draw()
    out, cache = layer.forward(x, [])
    rows, columns = range(0, 5, stride), range(0, 6, stride)
    assert out.shape == (3, len(rows), len(columns), 5)
    dout = np.random.default_rng(1).standard_normal(out.shape)
    expected = np.zeros_like(x)
    for y, row in enumerate(rows):
        for z, column in enumerate(columns):
            np.testing.assert_array_equal(out[:, y, z, :2], x[:, row, column])
            np.testing.assert_array_equal(out[:, y, z, 2:], np.zeros((3, 3)))
            expected[:, row, column] = dout[:, y, z, :2]
    np.testing.assert_array_equal(layer.backward(dout, cache, [], None, True), expected)


def test_flatten_puts_channels_last_and_leaves_alone_what_is_flat():
    x = draw()
    out, cache = Flatten().forward(x, [])
    np.testing.assert_array_equal(out[1], [x[1, row, column, c] for row, column, c in np.ndindex(5, 6, 2)])
    np.testing.assert_array_equal(Flatten().backward(out, cache, [], None, True), x)
    assert Flatten().forward(out, [])[0] is out
    assert Flatten().forward(np.empty((0, 5, 6, 2)), [])[0].shape == (0, 60)


POOLS = {
    **{f"max, {name}": MaxPool2d(**window) for name, window in WINDOWS.items()},
    **{f"average, {name}": AvgPool2d(**window) for name, window in WINDOWS.items()},
    "global average": GlobalAvgPool(),
    "subsample": Subsample(2, 3),
}


@pytest.mark.parametrize("name", POOLS)
def test_finite_differences(name):
    x, y = draw(), np.array([0, 3, 1])
    assert 0 < gcref.check_gradients(network(POOLS[name]), x, y, n_coordinates=20) < 1e-6


@pytest.mark.parametrize("layer", [MaxPool2d(1), AvgPool2d(1), GlobalAvgPool(), Subsample(1, 2)], ids=repr)
def test_images_of_one_position(layer):
    x, y = draw(shape=(3, 1, 1, 2)), np.array([0, 3, 1])
    assert 0 < gcref.check_gradients(network(layer, (1, 1, 2)), x, y) < 1e-6
    out, cache = layer.forward(x, [])
    dx = layer.backward(out, cache, [], None, True)
    np.testing.assert_array_equal(dx, x)
    dx += 1  # as a layer below may
    np.testing.assert_array_equal(dx, x + 1)


@pytest.mark.parametrize("name", POOLS)
def test_input_is_read_in_any_layout_and_not_written_to(name):
    layer, x = POOLS[name], draw()
    before = x.copy()
    out, cache = layer.forward(x, [])
    dout = np.random.default_rng(1).standard_normal(out.shape)
    dx = layer.backward(dout.copy(), cache, [], None, True)
    np.testing.assert_array_equal(x, before)
    for same in (np.asfortranarray(x), np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)):
        again, cache = layer.forward(same, [])
        np.testing.assert_allclose(again, out, rtol=1e-14, atol=1e-15)
        found = layer.backward(np.asfortranarray(dout), cache, [], None, True)
        np.testing.assert_allclose(found, dx, rtol=1e-14, atol=1e-15)
    assert layer.backward(dout, cache, [], None, False) is None


@pytest.mark.parametrize("name", POOLS)
def test_no_example(name):
    layer = POOLS[name]
    out, cache = layer.forward(np.empty((0, *IMAGES[1:])), [])
    assert out.shape == (0, *layer.forward(draw(), [])[0].shape[1:])
    assert layer.backward(out, cache, [], None, True).shape == (0, *IMAGES[1:])


@pytest.mark.parametrize("name", POOLS)
def test_images_are_asked_for(name):
    for shape in ((3, 60), (3, 5, 6), (3, 5, 6, 2, 1)):
        with pytest.raises(ValueError, match=rf"x has shape \({str(shape)[1:-1]}\); .* expects \(B, H, W, C\)"):
            POOLS[name].forward(np.ones(shape), [])


@pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d])
def test_windows_are_checked(pool):
    with pytest.raises(ValueError, match=r"x has shape \(3, 1, 6, 2\); .* at least as large as its kernel"):
        pool(2).forward(np.ones((3, 1, 6, 2)), [])
    for arguments, message in [
        ((0,), "kernel is 0; an int of at least 1"),
        ((2.0,), "kernel is 2.0"),
        (((2, 2, 2),), r"kernel is \(2, 2, 2\)"),
        ((2, 0), "stride is 0"),
        ((2, (1, -1)), "stride is -1"),
        ((2, 2, -1), "padding is -1"),
        ((3, 2, 2), "padding is 2; at most half the kernel, 3, is expected"),
        (((4, 3), 2, 2), r"padding is 2; at most half the kernel, \(4, 3\), is expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            pool(*arguments)
    assert pool((4, 2), 1, (2, 1)).padding == (2, 1)
    assert pool((4, 2)).stride == (4, 2)


def test_subsample_is_checked():
    with pytest.raises(ValueError, match="stride is 0"):
        Subsample(0, 3)
    with pytest.raises(ValueError, match="n_out is 0"):
        Subsample(1, 0)
    with pytest.raises(ValueError, match=r"x has shape \(3, 5, 6, 2\); Subsample\(1, 1\) expects .* C at most 1"):
        Subsample(1, 1).forward(np.ones(IMAGES), [])


def test_repr_can_be_typed_in():
    for layer in POOLS.values():
        assert vars(eval(repr(layer))) == vars(layer)
