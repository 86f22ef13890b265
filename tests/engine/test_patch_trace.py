"""Traces of convolutions against patches and gradients built one at a time."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcref.engine.convolution import Conv2d
from gcref.engine.patch_trace import PatchTrace
from gcref.engine.trace import Trace, check_traces, concatenate, difference, first_bad_example, per_example_gradients
from gcref.kernels import convolution
from gcref.validation import naive, naive_convolution

SETTINGS = settings(deadline=None, max_examples=40)


@st.composite
def axes(draw):
    """One axis of a convolution: input, kernel, stride, padding."""
    taps, padding = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    return draw(st.integers(max(1, taps - 2 * padding), 6)), taps, draw(st.integers(1, 3)), padding


cases = st.fixed_dictionaries(
    {
        "rows": axes(),
        "columns": axes(),
        "C": st.integers(1, 3),
        "O": st.integers(1, 4),
        "bias": st.booleans(),
        "dtype": st.sampled_from(["float64", "float32"]),
        "seed": st.integers(0, 10**6),
    }
)
CASE = {"rows": (4, 3, 2, 1), "columns": (5, 2, 1, 0), "C": 2, "O": 3, "bias": True, "dtype": "float64", "seed": 0}


def problem(case, n_examples=3, seed=0):
    """Return an input, output gradients, the layer's trace of them and the oracle's window."""
    rng = np.random.default_rng([case["seed"], seed])
    (H, h, stride_h, pad_h), (W, w, stride_w, pad_w) = case["rows"], case["columns"]
    layer = Conv2d(case["C"], case["O"], (h, w), (stride_h, stride_w), (pad_h, pad_w), case["bias"])
    x = rng.standard_normal((n_examples, H, W, case["C"])).astype(case["dtype"])
    out, cache = layer.forward(x, [np.zeros(layer.shapes[0], x.dtype)])
    dout = rng.standard_normal(out.shape).astype(case["dtype"])
    (trace,) = layer.traces(dout, cache)
    return x, dout, trace, naive_convolution.window(x.shape[1:], layer.kernel, layer.stride, layer.padding)


def explicit(case, n_examples=3, seed=0):
    """Return the trace, and A and D one position at a time."""
    x, dout, trace, win = problem(case, n_examples, seed)
    A = naive_convolution.patches(x, win)
    if case["bias"]:
        A = np.concatenate([A, np.ones((*A.shape[:2], 1))], axis=2)
    D = np.zeros((n_examples, win[-2] * win[-1], case["O"]))
    for i, y, z in np.ndindex(dout.shape[:3]):
        D[i, y * win[-1] + z] = dout[i, y, z]
    return trace, A, D


def assert_gradients(trace, want, sizes):
    """Equal but for rounding: T products summed in any order are off by T + 1 eps times the sum of their sizes."""
    gap = np.abs(trace.gradients() - want.reshape(want.shape[0], *trace.shape[1:]))
    assert (gap <= (trace.n_positions + 1) * np.finfo(trace.dtype).eps * sizes.reshape(gap.shape)).all()


# ---------------------------------------------------------------------------------------------- what it stands for


@SETTINGS
@given(cases, st.integers(0, 4))
def test_a_and_d_are_patches_and_output_gradients(case, n_examples):
    trace, A, D = explicit(case, n_examples)
    assert isinstance(trace, PatchTrace)
    assert trace.A.dtype == trace.D.dtype == trace.dtype == case["dtype"]
    np.testing.assert_array_equal(trace.A, A)
    np.testing.assert_array_equal(trace.D, D)
    assert trace.shape == (A.shape[1], A.shape[2], case["O"])
    assert trace.n_examples == n_examples
    assert trace.n_parameters == A.shape[2] * case["O"]
    check_traces([trace])
    assert first_bad_example([trace]) is None


@SETTINGS
@given(cases, st.integers(0, 4))
def test_gradients_are_sums_of_outer_products(case, n_examples):
    trace, A, D = explicit(case, n_examples)
    want, sizes = naive.per_example_gradients(A, D), naive.per_example_gradients(abs(A), abs(D))
    assert trace.gradients().dtype == case["dtype"]
    assert_gradients(trace, want, sizes)
    np.testing.assert_array_equal(per_example_gradients([trace]), trace.gradients().reshape(want.shape))


@SETTINGS
@given(cases, st.integers(0, 4))
def test_position_sums(case, n_examples):
    trace, A, D = explicit(case, n_examples)
    for found, terms in zip(trace.position_sums(), (A, D), strict=True):
        assert found.dtype == case["dtype"]
        assert found.shape == (n_examples, terms.shape[2])
        bound = (trace.n_positions + 1) * np.finfo(case["dtype"]).eps * abs(terms).sum(axis=1)
        assert (np.abs(found - terms.sum(axis=1)) <= bound).all()


# ------------------------------------------------------------------------------------------------- other traces of it


@SETTINGS
@given(cases)
def test_minus_is_the_difference_of_the_gradients(case):
    (trace, A, D), (reference, A_ref, D_ref) = explicit(case), explicit(case, seed=1)
    (found,) = difference([trace], [reference])
    assert isinstance(found, PatchTrace)
    assert found.n_positions == 2 * trace.n_positions
    want = naive.per_example_gradients(A, D) - naive.per_example_gradients(A_ref, D_ref)
    sizes = naive.per_example_gradients(abs(A) + abs(A_ref), abs(D) + abs(D_ref))
    # Two differences and one product more than in `assert_gradients`, and twice the positions.
    assert_gradients(found, want, 2 * sizes)
    eps = np.finfo(case["dtype"]).eps
    np.testing.assert_allclose(found.A, np.concatenate([A, A - A_ref], axis=1), rtol=eps, atol=0)
    np.testing.assert_allclose(found.D, np.concatenate([D - D_ref, D_ref], axis=1), rtol=eps, atol=0)
    if case["bias"]:
        T = trace.n_positions
        np.testing.assert_array_equal(found.A[:, :T, -1], np.ones((3, T)))
        np.testing.assert_array_equal(found.A[:, T:, -1], np.zeros((3, T)))


def test_what_comes_of_a_difference():
    (trace, A, D), (reference, A_ref, D_ref) = explicit(CASE), explicit(CASE, seed=1)
    found, T = trace.minus(reference), trace.n_positions
    assert repr(found) == f"PatchTrace(B=3, T={2 * T}, I=13, O=3, float64)"
    assert found.nbytes == 2 * trace.nbytes
    want = naive.per_example_gradients(A, D) - naive.per_example_gradients(A_ref, D_ref)
    np.testing.assert_allclose(per_example_gradients([found.rows(slice(1, 3))]), want[1:], rtol=1e-11, atol=1e-12)
    joined = concatenate([[found.rows(slice(0, 1))], [found.rows(slice(1, 3))]])
    np.testing.assert_array_equal(per_example_gradients(joined), per_example_gradients([found]))
    a, d = found.position_sums()
    np.testing.assert_allclose(a, found.A.sum(axis=1), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(d, found.D.sum(axis=1), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(a[:, -1], np.full(3, T))
    single = found.astype(np.dtype("float32"))
    np.testing.assert_array_equal(single.A, found.A.astype("float32"))
    assert_gradients(single, want, 4 * naive.per_example_gradients(abs(A) + abs(A_ref), abs(D) + abs(D_ref)))


def test_a_difference_of_differences():
    sides = [explicit(CASE, seed=seed) for seed in range(4)]
    found = sides[0][0].minus(sides[1][0]).minus(sides[2][0].minus(sides[3][0]))
    assert found.n_positions == 4 * sides[0][0].n_positions
    g = [naive.per_example_gradients(A, D) for _, A, D in sides]
    np.testing.assert_allclose(per_example_gradients([found]), g[0] - g[1] - (g[2] - g[3]), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found.gradients(), Trace(found.A, found.D).gradients(), rtol=1e-10, atol=1e-11)


def test_a_difference_does_not_cancel():
    x, dout, reference, _ = problem(CASE | {"bias": False})
    delta = 2.0**-40
    moved = PatchTrace.of_layer(x + delta, dout, reference.win, False)
    found = moved.minus(reference).gradients()
    step = PatchTrace.of_layer((x + delta) - x, dout, reference.win, False).gradients()
    np.testing.assert_array_equal(found, step)
    assert np.abs((moved.gradients() - reference.gradients()) / step - 1).max() > 1e-6  # what subtracting would lose


def test_minus_arrays_of_anyone():
    (trace, A, D), (_, A_ref, D_ref) = explicit(CASE), explicit(CASE, seed=1)
    want = naive.per_example_gradients(A, D) - naive.per_example_gradients(A_ref, D_ref)
    for one, other in ((trace, Trace(A_ref, D_ref)), (Trace(A, D), explicit(CASE, seed=1)[0])):
        (found,) = difference([one], [other])
        np.testing.assert_allclose(per_example_gradients([found]), want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 5), slice(2, 2), slice(None, None, 2), slice(None, None, -1)])
def test_rows(rows):
    trace, A, D = explicit(CASE, 5)
    part = trace.rows(rows)
    assert isinstance(part, PatchTrace)
    assert part.shape == trace.shape
    np.testing.assert_array_equal(part.A, A[rows])
    np.testing.assert_array_equal(part.D, D[rows])
    np.testing.assert_array_equal(part.gradients(), trace.gradients()[rows])
    for found, whole in zip(part.position_sums(), trace.position_sums(), strict=True):
        np.testing.assert_array_equal(found, whole[rows])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_astype(dtype):
    trace, _, _ = explicit(CASE | {"dtype": dtype})
    for other in ("float32", "float64"):
        found = trace.astype(np.dtype(other))
        assert found.dtype == found.A.dtype == found.D.dtype == found.gradients().dtype == other
        assert all(sums.dtype == other for sums in found.position_sums())
        np.testing.assert_array_equal(found.A, trace.A.astype(other))
        np.testing.assert_array_equal(found.D, trace.D.astype(other))
    assert trace.astype(np.dtype(dtype)) is trace


def test_join():
    pieces = [explicit(CASE, n, seed=n) for n in (2, 0, 1, 4)]
    (joined,) = concatenate([[trace] for trace, _, _ in pieces])
    assert isinstance(joined, PatchTrace)
    assert joined.n_examples == 7
    np.testing.assert_array_equal(joined.A, np.concatenate([A for _, A, _ in pieces]))
    np.testing.assert_array_equal(joined.D, np.concatenate([D for _, _, D in pieces]))
    gradients = np.concatenate([trace.gradients() for trace, _, _ in pieces])
    np.testing.assert_array_equal(joined.gradients(), gradients)
    assert concatenate([[pieces[0][0]]])[0] is pieces[0][0]
    with pytest.raises(ValueError, match=r"batches\[1\] has blocks"):
        concatenate([[pieces[0][0]], [explicit(CASE | {"bias": False})[0]]])


# ----------------------------------------------------------------------------------------------------- what it holds


def test_patches_are_formed_only_where_they_are_read(monkeypatch):
    trace, reference = explicit(CASE)[0], explicit(CASE, seed=1)[0]
    formed = []
    patches = convolution.patches
    monkeypatch.setattr(convolution, "patches", lambda x, win: formed.append(len(x)) or patches(x, win))
    for each in (trace, trace.minus(reference)):
        each.gradients()
        each.position_sums()
        each.rows(slice(0, 1)).astype(np.dtype("float32")).join([each.astype(np.dtype("float32"))])
        first_bad_example([each])
        repr(each), each.nbytes, each.shape, each.D, each.n_parameters
    assert formed == []
    _ = trace.A
    assert formed == [3]


def test_it_holds_the_input_and_the_output_gradients_themselves():
    x, dout, trace, _ = problem(CASE)
    assert repr(trace) == "PatchTrace(B=3, T=8, I=13, O=3, float64)"
    assert trace.nbytes == x.nbytes + dout.nbytes
    assert [name for name, _ in trace.arrays()] == ["A", "D"]
    for (_, held), given_ in zip(trace.arrays(), (x, dout), strict=True):
        assert np.shares_memory(held, given_)
    with pytest.raises(AttributeError):
        trace.A = trace.A
    with pytest.raises(AttributeError):
        trace.D = trace.D


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_found(bad):
    x, dout, trace, _ = problem(CASE)
    other = explicit(CASE)[0]
    x[1, 2, 3, 0] = bad
    assert first_bad_example([other, trace]) == (1, "A", 1)
    x[1, 2, 3, 0], dout[2, 0, 1, 0] = 0, bad
    assert first_bad_example([trace, other]) == (0, "D", 2)


def test_it_travels_to_another_process():
    trace = explicit(CASE)[0].minus(explicit(CASE, seed=1)[0])
    again = pickle.loads(pickle.dumps(trace))
    np.testing.assert_array_equal(again.gradients(), trace.gradients())
    np.testing.assert_array_equal(again.A, trace.A)
