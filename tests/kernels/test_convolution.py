from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gcref.kernels import convolution, threads, tile
from gcref.validation import naive_convolution as naive

SETTINGS = settings(deadline=None, max_examples=50)
GUARD = 37  # numbers before and behind an array; odd, so that vectors lie askew


@st.composite
def axes(draw, most):
    """One axis of a convolution: input, kernel, stride, padding, with room for one position or more."""
    taps, padding = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    return draw(st.integers(max(1, taps - 2 * padding), most)), taps, draw(st.integers(1, 3)), padding


cases = st.fixed_dictionaries(
    {
        "B": st.integers(0, 4),
        "rows": axes(5),
        "columns": axes(12),
        "channels": st.tuples(st.integers(1, 4), st.integers(1, 20)) | st.tuples(st.integers(5, 20), st.integers(1, 4)),
        "dtype": st.sampled_from(["float64", "float32"]),
        "seed": st.integers(0, 10**6),
    }
)
# Several high tiles and vectors with a rest of each, in outputs, channels and patches.
WIDE = {"B": 1, "rows": (2, 2, 1, 0), "columns": (23, 3, 1, 1), "channels": (19, 37), "seed": 0}


def guarded(values, guard=np.nan):
    """Return an array in the middle of a larger one that holds nothing but `guard`, and that larger one."""
    whole = np.full(values.size + 2 * GUARD, guard, values.dtype)
    middle = whole[GUARD:-GUARD].reshape(values.shape)
    middle[...] = values
    return middle, whole


def problem(case):
    """Return x, w, dout, each among NaNs, and the window."""
    rng = np.random.default_rng(case["seed"])
    (H, h, stride_h, pad_h), (W, w, stride_w, pad_w), (C, outputs) = case["rows"], case["columns"], case["channels"]
    win = convolution.window((H, W, C), (h, w), (stride_h, stride_w), (pad_h, pad_w))
    shapes = (case["B"], H, W, C), (win.n_inputs, outputs), (case["B"], win.out_h, win.out_w, outputs)
    return *(guarded(rng.standard_normal(shape).astype(case["dtype"]))[0] for shape in shapes), win


def assert_sums(got, want, sizes, n_summands):
    """Equal but for rounding: n products summed in any order are off by at most n eps times the sum of their sizes."""
    assert got.shape == want.shape
    assert (np.abs(got - want) <= (n_summands + 1) * np.finfo(got.dtype).eps * sizes).all()


def assert_like_the_oracle(name, first, second, win, n_summands):
    got, oracle = getattr(convolution, name)(first, second, win), getattr(naive, name)
    assert got.dtype == first.dtype
    assert_sums(got, oracle(first, second, win), oracle(abs(first), abs(second), win), n_summands)


def results(x, w, dout, win):
    out = np.ones((len(x), win.n_inputs + 1, w.shape[1]), x.dtype)
    convolution.conv_gradients(x, dout, win, out, fresh=False)
    return (
        convolution.conv_forward(x, w, win),
        convolution.conv_forward(x, w, win, w[0]),
        convolution.conv_input_gradient(dout, w, win),
        out,
        convolution.conv_weight_gradient(x, dout, win),
    )


# ------------------------------------------------------------------------------------------------- within bounds


def checked_tile(n_rows):
    """Return a tile product that looks at every index before it uses it."""

    def product(a, a0, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0, cm, fresh):
        assert a.dtype == b.dtype == c.dtype
        m, p, q, o = np.ix_(range(n_rows), range(n1), range(n2), range(tile.BYTES // c.itemsize))
        of_a, of_b, of_c = a0 + m * am + p * ar1 + q * ar2, b0 + p * br1 + q * br2 + o, c0 + m * cm + o
        for array, index in ((a, of_a), (b, of_b), (c, of_c)):
            assert index.min(initial=0) >= 0
            assert index.max(initial=0) < array.size
        c[of_c] = (a[of_a] * b[of_b]).sum(axis=(1, 2), keepdims=True) + (0.0 if fresh else c[of_c])

    return product


@SETTINGS
@given(cases)
def test_every_vector_lies_within_its_array(case):
    # First in this file, so that an array is not overrun before it is said. Numbers are whole and their sums exact.
    *arrays, win = problem(case)
    arrays = [np.round(4 * array) for array in arrays]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in vars(convolution).copy().items():
            patch.setattr(convolution, name, getattr(value, "py_func", value))
        for name, n_rows in zip(("tile_high", "tile_middle", "tile_one"), tile.HEIGHTS, strict=True):
            patch.setattr(convolution, name, checked_tile(n_rows))
        checked = results(*arrays, win)
    for got, want in zip(results(*arrays, win), checked, strict=True):
        assert_array_equal(got, want)


# ------------------------------------------------------------------------------------------------- the oracles


@SETTINGS
@given(axes(9), axes(9), st.integers(1, 3))
def test_a_window_has_the_positions_that_fit(rows, columns, C):
    arguments = (rows[0], columns[0], C), *zip(rows[1:], columns[1:], strict=True)
    win = convolution.window(*arguments)
    assert tuple(win) == naive.window(*arguments)
    assert win.n_positions == win.out_h * win.out_w > 0
    assert win.n_inputs == rows[1] * columns[1] * C


@SETTINGS
@given(cases)
def test_forward_matches_the_oracle(case):
    x, w, _, win = problem(case)
    assert_like_the_oracle("conv_forward", x, w, win, win.n_inputs)


@SETTINGS
@given(cases)
def test_forward_with_a_bias_matches_the_oracle(case):
    x, w, _, win = problem(case)
    bias, _ = guarded(np.random.default_rng(1).standard_normal(w.shape[1]).astype(x.dtype))
    want, sizes = naive.conv_forward(x, w, win, bias), naive.conv_forward(abs(x), abs(w), win, abs(bias))
    assert_sums(convolution.conv_forward(x, w, win, bias), want, sizes, win.n_inputs + 1)


@SETTINGS
@given(cases)
def test_input_gradient_matches_the_oracle(case):
    _, w, dout, win = problem(case)
    assert_like_the_oracle("conv_input_gradient", dout, w, win, win.kernel_h * win.kernel_w * w.shape[1])


@SETTINGS
@given(cases)
def test_weight_gradient_matches_the_oracle(case):
    x, _, dout, win = problem(case)
    assert_like_the_oracle("conv_weight_gradient", x, dout, win, len(x) * win.n_positions)


@SETTINGS
@given(cases, st.booleans(), st.integers(0, 2))
def test_gradients_match_the_oracle_and_touch_nothing_else(case, fresh, more_rows):
    x, _, dout, win = problem(case)
    shape = (len(x), win.n_inputs + more_rows, dout.shape[3])
    out, whole = guarded(np.random.default_rng(1).standard_normal(shape).astype(x.dtype), guard=7.0)
    before, sizes = out.astype(float), abs(out.astype(float))
    convolution.conv_gradients(x, dout, win, out, fresh)
    want = before.copy()
    naive.conv_gradients(x, dout, win, want, fresh)
    naive.conv_gradients(abs(x), abs(dout), win, sizes, fresh)
    assert_sums(out[:, : win.n_inputs], want[:, : win.n_inputs], sizes[:, : win.n_inputs], win.n_positions + 1)
    assert_array_equal(out[:, win.n_inputs :], before[:, win.n_inputs :])
    assert_array_equal(np.concatenate([whole[:GUARD], whole[-GUARD:]]), 7.0)


@SETTINGS
@given(cases)
def test_patches_and_their_sums_match_the_oracles(case):
    x, _, _, win = problem(case)
    A, sums = convolution.patches(x, win), convolution.patch_sums(x, win)
    assert A.dtype == sums.dtype == x.dtype
    assert_array_equal(A, naive.patches(x, win))
    assert_sums(sums, naive.patch_sums(x, win), naive.patch_sums(abs(x), win), win.n_positions)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_many_channels_and_outputs_match_the_oracles(dtype):
    x, w, dout, win = problem(WIDE | {"dtype": dtype})
    assert_like_the_oracle("conv_forward", x, w, win, win.n_inputs)
    assert_like_the_oracle("conv_input_gradient", dout, w, win, 6 * 37)
    assert_like_the_oracle("conv_weight_gradient", x, dout, win, win.n_positions)


def test_a_convolution_worked_by_hand():
    # Kernel (2, 1) with stride (1, 2) on 3 × 3: positions at columns 0 and 2, rows 0 and 1; column 1 is met by no tap.
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    w = np.array([[1.0], [10.0]])
    win = convolution.window((3, 3, 1), (2, 1), (1, 2), (0, 0))
    assert_array_equal(convolution.conv_forward(x, w, win)[0, :, :, 0], [[41.0, 63.0], [74.0, 96.0]])
    dout = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2, 1)
    dx = convolution.conv_input_gradient(dout, w, win)[0, :, :, 0]
    assert_array_equal(dx, [[1.0, 0.0, 2.0], [10.0 + 3.0, 0.0, 20.0 + 4.0], [30.0, 0.0, 40.0]])
    # θ's first row meets 1, 3, 4, 6 and the second 4, 6, 7, 9.
    assert_array_equal(convolution.conv_weight_gradient(x, dout, win), [[1 + 6 + 12 + 24], [4 + 12 + 21 + 36]])


# ------------------------------------------------------------------------------------ who does which examples


@pytest.mark.parametrize("B", [0, 1, 3, 21])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_bit_depends_on_the_number_of_threads(dtype, B, monkeypatch):
    case = {"B": B, "rows": (9, 3, 2, 1), "columns": (11, 2, 1, 1), "channels": (3, 19), "seed": B, "dtype": dtype}
    arguments = problem(case)
    monkeypatch.setattr(threads, "n_threads", lambda: 1)
    alone = results(*arguments)
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        for n_threads in (2, 4):
            monkeypatch.setattr(threads, "n_threads", lambda n_threads=n_threads: n_threads)
            for got, want in zip(results(*arguments), alone, strict=True):
                assert_array_equal(got, want)


def test_no_bit_of_an_example_depends_on_its_neighbours():
    x, w, dout, win = problem(WIDE | {"B": 3, "dtype": "float32"})
    together = results(x, w, dout, win)[:4]
    for i in range(3):
        for got, want in zip(results(x[i : i + 1], w, dout[i : i + 1], win), together, strict=False):
            assert_array_equal(got[0], want[i])


# ------------------------------------------------------------------------------------------------------ the tile


def caller(product):
    """Compile a caller of a tile product; not cached, for the cache does not see a change of the product."""
    return numba.njit(lambda a, a0, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0, cm, fresh: product(
        a, a0, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0, cm, fresh
    ))  # fmt: skip


TILES = [
    (caller(product), n_rows)
    for product, n_rows in zip((tile.tile_high, tile.tile_middle, tile.tile_one), tile.HEIGHTS, strict=True)
]
strides = st.fixed_dictionaries(
    {name: st.integers(0, 5) for name in ("a0", "am", "ar1", "ar2", "b0", "br1", "c0")}
    | {"br2": st.integers(0, 40), "more": st.integers(0, 3), "n1": st.integers(0, 3), "n2": st.integers(0, 4)}
)


@SETTINGS
@given(st.sampled_from(TILES), strides, st.sampled_from(["float64", "float32"]), st.booleans(), st.integers(0, 999))
def test_a_tile_is_the_sum_it_stands_for(tile_and_rows, s, dtype, fresh, seed):
    product, M = tile_and_rows
    step = tile.BYTES // np.dtype(dtype).itemsize
    cm = step + s["more"]
    n1, n2 = s["n1"], s["n2"]
    last = max(0, n1 - 1), max(0, n2 - 1)
    rng = np.random.default_rng(seed)
    sizes = (
        s["a0"] + (M - 1) * s["am"] + last[0] * s["ar1"] + last[1] * s["ar2"] + 1,
        s["b0"] + last[0] * s["br1"] + last[1] * s["br2"] + step,
        s["c0"] + (M - 1) * cm + step,
    )
    a, b, before = (rng.standard_normal(size).astype(dtype) for size in sizes)
    (a, _), (b, _), (c, whole) = guarded(a), guarded(b), guarded(before, guard=7.0)
    product(a, s["a0"], s["am"], s["ar1"], s["ar2"], b, s["b0"], s["br1"], s["br2"], n1, n2, c, s["c0"], cm, int(fresh))
    want, size = before.astype(float), np.zeros(len(c))
    for m in range(M):
        for o in range(step):
            place = s["c0"] + m * cm + o
            terms = [] if fresh else [want[place]]
            for p in range(n1):
                for q in range(n2):
                    number = float(a[s["a0"] + m * s["am"] + p * s["ar1"] + q * s["ar2"]])
                    terms.append(number * float(b[s["b0"] + p * s["br1"] + q * s["br2"] + o]))
            want[place], size[place] = sum(terms), sum(map(abs, terms))
    assert_sums(c, want, size, n1 * n2 + 1)
    assert_array_equal(np.concatenate([whole[:GUARD], whole[-GUARD:]]), 7.0)
