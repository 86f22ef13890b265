"""Traces against loops of outer products."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcref.engine.trace import (
    Trace,
    check_traces,
    concatenate,
    difference,
    first_bad_example,
    per_example_gradients,
)


def draw(seed, n_examples, blocks, dtype=np.float64):
    """Random traces, one for each (T, I, O)."""
    rng = np.random.default_rng(seed)
    return [
        Trace(
            rng.standard_normal((n_examples, t, i)).astype(dtype),
            rng.standard_normal((n_examples, t, o)).astype(dtype),
        )
        for t, i, o in blocks
    ]


def naive_gradients(traces):
    """One example and one position at a time."""
    rows = []
    for i in range(len(traces[0].A)):
        parts = []
        for trace in traces:
            total = np.zeros((trace.A.shape[2], trace.D.shape[2]))
            for t in range(trace.A.shape[1]):
                total += np.outer(trace.A[i, t], trace.D[i, t])
            parts.append(total.ravel())
        rows.append(np.concatenate(parts))
    return np.array(rows)


block = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 6), st.lists(block, min_size=1, max_size=3))
def test_per_example_gradients_equal_sums_of_outer_products(seed, n_examples, blocks):
    traces = draw(seed, n_examples, blocks)
    np.testing.assert_allclose(per_example_gradients(traces), naive_gradients(traces), rtol=1e-10, atol=1e-13)


def test_per_example_gradients_take_any_strides():
    rng = np.random.default_rng(0)
    A, D = rng.standard_normal((6, 2, 4)), rng.standard_normal((6, 2, 3))
    expected = naive_gradients([Trace(A, D)])
    for a, d in [
        (np.asfortranarray(A), np.asfortranarray(D)),
        (A.repeat(2, axis=0)[::2], D[..., ::-1][..., ::-1]),
    ]:
        np.testing.assert_allclose(per_example_gradients([Trace(a, d)]), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_preserved(dtype):
    traces = draw(0, 3, [(1, 4, 2), (2, 3, 5)], dtype)
    assert per_example_gradients(traces).dtype == dtype
    assert {t.A.dtype for t in difference(traces, traces)} == {np.dtype(dtype)}
    assert concatenate([traces, traces])[1].D.dtype == dtype


def test_mixed_dtypes_become_float64():
    trace = Trace(np.ones((2, 3), np.float32), np.ones((2, 4)))
    assert trace.A.dtype == trace.D.dtype == np.float64


def test_no_example_gives_no_row():
    assert per_example_gradients(draw(0, 0, [(1, 4, 2), (2, 3, 5)])).shape == (0, 23)


@pytest.mark.parametrize(
    ("A", "D", "name"), [((5, 0, 3), (5, 0, 2), "A"), ((5, 0), (5, 2), "A"), ((5, 3), (5, 0), "D")]
)
def test_a_trace_without_positions_or_columns_is_refused(A, D, name):
    with pytest.raises(ValueError, match=rf"{name} has shape .* at least one position and one column"):
        Trace(np.ones(A), np.ones(D))


def test_two_dimensions_are_one_position():
    A, D = np.ones((5, 3)), np.ones((5, 2))
    trace = Trace(A, D)
    assert trace.A.shape == (5, 1, 3)
    assert trace.D.shape == (5, 1, 2)
    assert (trace.n_examples, trace.n_positions, trace.n_parameters) == (5, 1, 6)
    assert np.shares_memory(trace.A, A)
    assert np.shares_memory(trace.D, D)


def test_trace_is_frozen():
    with pytest.raises(AttributeError):
        Trace(np.ones((5, 3)), np.ones((5, 2))).A = np.ones((5, 1, 3))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 5), st.lists(block, min_size=1, max_size=3))
def test_difference_is_the_difference_of_the_gradients(seed, n_examples, blocks):
    traces, reference = draw(seed, n_examples, blocks), draw(seed + 1000, n_examples, blocks)
    expected = naive_gradients(traces) - naive_gradients(reference)
    found = difference(traces, reference)
    assert [t.n_positions for t in found] == [2 * t.n_positions for t in traces]
    np.testing.assert_allclose(per_example_gradients(found), expected, rtol=1e-10, atol=1e-13)


def test_difference_does_not_cancel():
    (reference,) = draw(0, 4, [(2, 5, 3)])
    delta = 2.0**-40
    trace = Trace(reference.A + delta, reference.D)
    exact = np.zeros((4, 5, 3))
    for i in range(4):
        for t in range(2):
            exact[i] += np.outer(trace.A[i, t] - reference.A[i, t], reference.D[i, t])
    (found,) = difference([trace], [reference])
    terms = np.einsum("bti,bto->btio", found.A, found.D)
    np.testing.assert_allclose(terms.sum(axis=1), exact, rtol=1e-13)
    naive = per_example_gradients([trace]) - per_example_gradients([reference])
    assert np.abs(naive.reshape(exact.shape) / exact - 1).max() > 1e-6  # what subtracting would lose


def test_difference_checks_blocks_and_shapes():
    one, two = draw(0, 3, [(1, 4, 2)]), draw(0, 3, [(1, 4, 2), (1, 2, 2)])
    with pytest.raises(ValueError, match="traces has 2 blocks but reference has 1"):
        difference(two, one)
    with pytest.raises(ValueError, match=r"block 0 is Trace\(B=3.*but Trace\(B=4"):
        difference(one, draw(0, 4, [(1, 4, 2)]))


def test_concatenate_joins_examples_in_order():
    batches = [draw(seed, n, [(1, 4, 2), (3, 2, 5)]) for seed, n in enumerate((2, 1, 4))]
    joined = per_example_gradients(concatenate(batches))
    np.testing.assert_array_equal(joined, np.concatenate([per_example_gradients(b) for b in batches]))
    assert concatenate(batches[:1])[0] is batches[0][0]


def test_concatenate_checks_its_batches():
    with pytest.raises(ValueError, match="batches is empty"):
        concatenate([])
    with pytest.raises(ValueError, match=r"batches\[1\] has blocks \(T, I, O\) \[\(1, 4, 3\)\]"):
        concatenate([draw(0, 3, [(1, 4, 2)]), draw(0, 3, [(1, 4, 3)])])


@pytest.mark.parametrize(
    ("A_shape", "D_shape", "message"),
    [
        ((5, 3), (4, 2), "D has 4 rows but A has 5"),
        ((5, 3), (1, 2), "D has 1 rows but A has 5.*averaged gradient"),
        ((5, 3), (2,), r"D has shape \(2,\).*averaged gradient"),
        ((5, 2, 3), (5, 4, 2), "D has 4 positions but A has 2"),
        ((5, 2, 3), (5, 2), "D has 1 positions but A has 2"),
        ((5,), (5, 2), r"A has shape \(5,\)"),
        ((5, 3), (5, 2, 2, 2), r"D has shape \(5, 2, 2, 2\)"),
    ],
)
def test_shapes_are_checked(A_shape, D_shape, message):
    with pytest.raises(ValueError, match=message):
        Trace(np.ones(A_shape), np.ones(D_shape))


def test_a_foreign_byte_order_is_read():
    values = np.arange(6.0).reshape(3, 2)
    swapped = values.astype(values.dtype.newbyteorder("S"))
    trace = Trace(swapped, swapped)
    assert trace.dtype.isnative
    assert np.array_equal(trace.A[:, 0], values)


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.complex128, object])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match="A has dtype"):
        Trace(np.ones((5, 3), dtype), np.ones((5, 2)))
    with pytest.raises(TypeError, match="D has dtype"):
        Trace(np.ones((5, 3)), np.ones((5, 2), dtype))


def test_check_traces_names_what_is_wrong():
    good = draw(0, 3, [(1, 4, 2)])
    with pytest.raises(TypeError, match="a single Trace"):
        check_traces(good[0])
    with pytest.raises(TypeError, match=r"traces\[1\] is a ndarray"):
        check_traces([good[0], np.ones((3, 2))])
    with pytest.raises(ValueError, match="traces is empty"):
        per_example_gradients([])
    with pytest.raises(ValueError, match=r"traces\[1\] has 4 examples but traces\[0\] has 3"):
        per_example_gradients(good + draw(0, 4, [(1, 4, 2)]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(bad):
    traces = draw(0, 3, [(1, 4, 2), (2, 3, 3)])
    assert first_bad_example(traces) is None
    traces[1].D[2, 1, 0] = bad
    assert first_bad_example(traces) == (1, "D", 2)


def test_finite_numbers_whose_sum_overflows_are_finite():
    assert first_bad_example([Trace(np.full((4, 3), 3e38, np.float32), np.ones((4, 2), np.float32))]) is None
