from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gcref.kernels import convolution, elementwise, threads
from gcref.validation import naive_elementwise as naive

SETTINGS = settings(deadline=None, max_examples=40)

cases = st.fixed_dictionaries(
    {
        "rows": st.integers(0, 30),
        "C": st.integers(1, 19),
        "dtype": st.sampled_from(["float64", "float32"]),
        "seed": st.integers(0, 10**6),
        "threaded": st.booleans(),
    }
)


@st.composite
def axes(draw):
    """One axis of a pooling: input, kernel, stride, padding of at most half the kernel."""
    kernel = draw(st.integers(1, 4))
    padding = draw(st.integers(0, kernel // 2))
    return draw(st.integers(max(1, kernel - 2 * padding), 7)), kernel, draw(st.integers(1, 3)), padding


def numbers(case, n, whole=False):
    """Draw n arrays (rows, C), of few whole numbers if `whole`, so that ties and zeros abound."""
    rng = np.random.default_rng(case["seed"])
    drawn = (rng.standard_normal((case["rows"], case["C"])) for _ in range(n))
    return [(np.round(2 * x) if whole else x).astype(case["dtype"]) for x in drawn]


def run(case, name, *arguments):
    """Call a kernel, on threads even where it is not worth their start if the case says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "_WORTHWHILE", 0 if case["threaded"] else 1 << 62)
        return getattr(elementwise, name)(*arguments)


def assert_sums(got, want, sizes, n_operations):
    """Equal but for a rounding each of n operations on numbers of these sizes."""
    assert got.shape == want.shape
    assert (np.abs(got - want) <= n_operations * np.finfo(got.dtype).eps * sizes).all()


# ----------------------------------------------------------------------------------------------------- in place


@SETTINGS
@given(cases, st.sampled_from(["relu", "mask", "add"]), st.booleans())
def test_in_place_kernels_do_as_the_oracles_do(case, name, whole):
    # Each number is rounded once at most, so that nothing but equality will do.
    arrays = numbers(case, 1 if name == "relu" else 2, whole)
    want = [array.copy() for array in arrays]
    getattr(naive, name)(*want)
    assert run(case, name, *arrays) is None
    for got, expected in zip(arrays, want, strict=True):
        assert got.dtype == case["dtype"]
        assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_a_number_stays_so(dtype):
    x = np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, -1e-45, 2.0], dtype)
    out = x.copy()
    elementwise.relu(out)
    assert_array_equal(out, np.array([np.nan, 0, np.inf, 0, 0, 0, 2], dtype))
    dout = np.array([1, 1, 1, 1, 1, 1, np.nan], dtype)
    elementwise.mask(dout, x)
    assert_array_equal(dout, np.array([0, 0, 1, 0, 0, 0, np.nan], dtype))


# -------------------------------------------------------------------------------------------------- by channel


@SETTINGS
@given(cases)
def test_affine_equals_the_oracle(case):
    (x,), (scale, shift) = numbers(case, 1), numbers(case | {"rows": 2, "seed": case["seed"] + 1}, 1)[0]
    got, sizes = run(case, "affine", x, scale, shift), naive.affine(abs(x), abs(scale), abs(shift))
    assert got.dtype == case["dtype"]
    assert_sums(got, naive.affine(x, scale, shift), sizes, 2)
    low = run(case, "affine", x, scale, shift, 0.0)
    assert low.dtype == case["dtype"]
    assert_sums(low, naive.affine(x, scale, shift, 0.0), sizes, 2)


@SETTINGS
@given(cases)
def test_two_term_affine_equals_the_oracle(case):
    dout, x = numbers(case, 2)
    by_channel = numbers(case | {"rows": 3, "seed": case["seed"] + 1}, 1)[0]
    got = run(case, "two_term_affine", dout, x, *by_channel)
    assert got.dtype == case["dtype"]
    sizes = naive.two_term_affine(abs(dout), abs(x), *abs(by_channel))
    assert_sums(got, naive.two_term_affine(dout, x, *by_channel), sizes, 3)
    gate = np.round(np.roll(x, 1))
    got = run(case, "two_term_affine", dout, x, *by_channel, gate)
    assert_sums(got, naive.two_term_affine(dout, x, *by_channel, gate), sizes, 3)


@SETTINGS
@given(cases)
def test_channel_sums_equal_the_oracle(case):
    x, y = numbers(case, 2)
    center = np.random.default_rng(case["seed"]).standard_normal(case["C"])
    got = elementwise.channel_sums(x, y, center)
    assert got.dtype == np.float64
    sizes = naive.channel_sums(abs(x), abs(y), -abs(center))
    assert_sums(got, naive.channel_sums(x, y, center), sizes, case["rows"] + 2)
    gate = np.round(np.roll(x, 1))
    assert_sums(
        elementwise.channel_sums(x, y, center, gate), naive.channel_sums(x, y, center, gate), sizes, case["rows"] + 2
    )


def test_channel_sums_of_float32_are_sums_in_float64():
    x = np.full((1 << 16, 3), 0.1, np.float32)
    total, squares = elementwise.channel_sums(x, x, np.zeros(3))
    exact = float(np.float32(0.1))
    # A float32 sum of these would be off by 1e-4.
    assert np.abs(total / (exact * len(x)) - 1).max() < len(x) * np.finfo(float).eps
    assert np.abs(squares / (exact**2 * len(x)) - 1).max() < len(x) * np.finfo(float).eps


def test_channel_sums_keep_what_lies_above_a_far_center():
    rng = np.random.default_rng(0)
    offsets = rng.integers(-8, 9, (500, 2)).astype(float)
    x = 2.0**40 + offsets
    _, products = elementwise.channel_sums(x, offsets, np.full(2, 2.0**40))
    assert_array_equal(products, (offsets**2).sum(axis=0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_number_depends_on_the_threads(dtype, monkeypatch):
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((3000, 17)).astype(dtype) for _ in range(2))
    by_channel = rng.standard_normal((3, 17)).astype(dtype)
    win = convolution.window((30, 20, 17), (3, 3), (2, 1), (1, 1))

    def results():
        out, where = elementwise.max_pool(x.reshape(5, 30, 20, 17), win)
        relu, masked, added = x.copy(), x.copy(), x.copy()
        elementwise.relu(relu)
        elementwise.mask(masked, y)
        elementwise.add(added, y)
        return (
            relu, masked, added,
            elementwise.affine(x, *by_channel[:2]), elementwise.affine(x, *by_channel[:2], 0.0),
            elementwise.two_term_affine(x, y, *by_channel), elementwise.two_term_affine(x, y, *by_channel, y),
            elementwise.channel_sums(x, y, by_channel[0].astype(float)),
            elementwise.channel_sums(x, y, by_channel[0].astype(float), y),
            out, where, elementwise.max_pool_gradient(out, where, (5, 30, 20, 17)),
        )  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        monkeypatch.setattr(threads, "n_threads", lambda: 1)
        alone = results()
        for hands in (2, 3, 5):
            monkeypatch.setattr(threads, "n_threads", lambda hands=hands: hands)
            for got, want in zip(results(), alone, strict=True):
                assert_array_equal(got, want)


# ----------------------------------------------------------------------------------------------------- pooling


@SETTINGS
@given(cases, st.integers(0, 3), axes(), axes(), st.booleans())
def test_max_pool_and_its_gradient_equal_the_oracles(case, B, rows, columns, whole):
    rng = np.random.default_rng(case["seed"])
    C, sizes = 1 + case["C"] % 5, list(zip(rows, columns, strict=True))
    win = convolution.window((*sizes[0], C), *sizes[1:])
    x = rng.standard_normal((B, *sizes[0], C)) - 3  # so that a zero of the padding would be the largest
    x = (np.round(x) if whole else x).astype(case["dtype"])
    out, where = run(case, "max_pool", x, win)
    want, want_where = naive.max_pool(x, win)
    assert out.dtype == case["dtype"]
    assert_array_equal(out, want)
    assert_array_equal(where, want_where)
    # Whole numbers, whose sums are exact in any order.
    dout = rng.integers(-9, 10, out.shape).astype(case["dtype"])
    dx = run(case, "max_pool_gradient", dout, where, x.shape)
    assert dx.dtype == case["dtype"]
    assert_array_equal(dx, naive.max_pool_gradient(dout, where, x.shape))


def test_a_window_of_minus_infinity_has_a_place():
    win = convolution.window((3, 3, 1), (2, 2), (1, 1), (1, 1))
    out, where = elementwise.max_pool(np.full((1, 3, 3, 1), -np.inf), win)
    assert (out == -np.inf).all()
    assert_array_equal(where, naive.max_pool(np.zeros((1, 3, 3, 1)), win)[1])


def test_max_pool_hands_nan_on():
    x = np.zeros((1, 2, 4, 1))
    x[0, 1, 0, 0] = np.nan
    out, where = elementwise.max_pool(x, convolution.window((2, 4, 1), (2, 2), (2, 2), (0, 0)))
    assert_array_equal(out.ravel(), [np.nan, 0.0])
    assert_array_equal(where.ravel(), [4, 2])


# ---------------------------------------------------------------------------------------------------- optimizer


@SETTINGS
@given(cases, st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 5e-4]))
def test_sgd_step_equals_its_definition(case, momentum, weight_decay):
    theta, velocity, gradient = (array.ravel() for array in numbers(case, 3))
    start, before = theta.astype(float), velocity.astype(float)
    run(case, "sgd_step", theta, velocity, gradient, 0.1, momentum, weight_decay)
    rates = [float(theta.dtype.type(rate)) for rate in (0.1, momentum, weight_decay)]
    want = rates[1] * before + gradient + rates[2] * start
    sizes = rates[1] * abs(before) + abs(gradient) + rates[2] * abs(start)
    assert_sums(velocity, want, sizes, 4)
    assert_sums(theta, start - rates[0] * want, abs(start) + rates[0] * sizes, 6)


# ------------------------------------------------------------------------------------------- positions and strides


@SETTINGS
@given(cases, st.integers(0, 5))
def test_position_sums(case, T):
    rng = np.random.default_rng(case["seed"])
    x = rng.standard_normal((case["rows"], T, case["C"])).astype(case["dtype"])
    assert_sums(run(case, "position_sums", x), naive.position_sums(x), naive.position_sums(np.abs(x)), T + 1)


@SETTINGS
@given(cases, st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 3))
def test_thinning_and_its_gradient(case, H, W, stride, more):
    rng = np.random.default_rng(case["seed"])
    x = rng.standard_normal((case["rows"], H, W, case["C"])).astype(case["dtype"])
    out = run(case, "thin", x, stride, case["C"] + more)
    assert_array_equal(out, naive.thin(x, stride, case["C"] + more))
    assert_array_equal(run(case, "spread", out, stride, x.shape), naive.spread(out, stride, x.shape))


@SETTINGS
@given(cases)
def test_sums_are_added_in_float64(case):
    (part,) = numbers(case, 1)
    got, want = np.arange(part.size) + 0.1, np.arange(part.size) + 0.1
    run(case, "accumulate", got, part.reshape(-1))
    naive.accumulate(want, part.reshape(-1))
    assert_array_equal(got, want)


@SETTINGS
@given(cases)
def test_sums_that_are_folded_move_on_and_leave_their_squares(case):
    total = numbers(case, 1)[0].reshape(-1).astype(np.float64)
    every, want_total, want_every = np.full(total.size, 0.5), total.copy(), np.full(total.size, 0.5)
    squared = run(case, "fold_total", total, every)
    assert squared == pytest.approx(naive.fold_total(want_total, want_every), rel=1e-12)
    assert_array_equal(total, 0.0)
    assert_array_equal(every, want_every)


@SETTINGS
@given(cases, st.integers(1, 40))
def test_scaled_sums_are_added_in_float64(case, n_columns):
    rng = np.random.default_rng(case["seed"])
    shape = case["rows"], n_columns
    part = rng.standard_normal(shape).astype(case["dtype"])
    rows, columns = np.ldexp(1.0, rng.integers(-250, 250, shape[0])), np.ldexp(1.0, rng.integers(-250, 250, shape[1]))
    got, want = np.full(shape, 0.1), np.full(shape, 0.1)
    run(case, "accumulate_scaled", got, part, rows, columns)
    naive.accumulate_scaled(want, part, rows, columns)
    # A product and its sum may be rounded once, fused, or twice.
    np.testing.assert_allclose(got, want, rtol=2 * np.finfo(np.float64).eps, atol=2 * np.finfo(np.float64).eps)
