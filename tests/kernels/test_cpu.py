from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gcref.kernels import cpu, threads
from gcref.kernels import moments as kernel_moments
from gcref.validation import naive

SETTINGS = settings(deadline=None, max_examples=25)

shapes = st.fixed_dictionaries(
    {
        "N": st.integers(0, 9),
        "T": st.integers(1, 4),
        "I": st.integers(1, 6),
        "O": st.integers(1, 5),
        "K": st.integers(1, 4),
        "seed": st.integers(0, 10**6),
        "dtype": st.sampled_from(["float64", "float32"]),
        "order": st.sampled_from("CF"),
    }
)


def traces(shape, rng, N=None):
    N = shape["N"] if N is None else N
    arrays = (rng.standard_normal((N, shape["T"], shape[x])) for x in "IO")
    return tuple(np.asarray(a, dtype=shape["dtype"], order=shape["order"]) for a in arrays)


def assert_matches(got, want, dtype, terms):
    """Equal but for rounding: a few eps of a product of standard normals for each of `terms` summands."""
    tolerance = 20.0 * terms * np.finfo(dtype).eps
    if dtype == "float64":
        tolerance = max(tolerance, 1e-13)
    scale = max(1.0, np.abs(want).max(initial=0.0))
    assert got.dtype == np.float64
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0.0) <= tolerance * scale


@SETTINGS
@given(shapes)
def test_products_of_gradients_match_the_oracles(shape):
    rng = np.random.default_rng(shape["seed"])
    A, D = traces(shape, rng)
    A2, D2 = traces(shape, rng, N=shape["N"] // 2)
    c, d = (traces(shape | {"T": 1}, rng, N=shape["K"])[i][:, 0] for i in (0, 1))
    terms, dtype = shape["T"] ** 2, shape["dtype"]
    # Pairs of at most two positions are added up in float64, more by matrix products in the dtype.
    of_norms = "float64" if shape["T"] <= 2 else dtype
    assert_matches(cpu.sq_norms(A, D), naive.sq_norms(A, D), of_norms, terms)
    G = np.matmul(A.transpose(0, 2, 1), D)
    flat = G.reshape(len(G), G.shape[1] * G.shape[2])
    assert_matches(cpu.row_sq_norms(flat), naive.row_sq_norms(flat), "float64", 1)
    of_gradients = np.zeros((len(G), len(c)))
    cpu.add_gradient_sketch(G, c, d, of_gradients)
    assert_matches(of_gradients, naive.inner_products_of_gradients(G, c, d), dtype, terms)
    assert_matches(of_gradients, naive.inner_products(A, D, c, d), dtype, terms)
    assert_matches(cpu.gram(A, D, A2, D2), naive.gram(A, D, A2, D2), dtype, terms)
    of_positions = np.zeros((len(A), len(c)))
    cpu.add_position_products(A @ c.T, D @ d.T, of_positions)
    assert_matches(of_positions, naive.inner_products(A, D, c, d), dtype, terms)


@SETTINGS
@given(shapes)
def test_second_moment_matches_the_oracle(shape):
    rng = np.random.default_rng(shape["seed"])
    A, D = traces(shape, rng)
    got, want = kernel_moments.second_moment(A, D), naive.second_moment(A, D)
    assert_matches(got, want, shape["dtype"], shape["T"] ** 2)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_second_moment_in_several_chunks(T, monkeypatch):
    rng = np.random.default_rng(T)
    A, D = rng.standard_normal((23, T, 4)), rng.standard_normal((23, T, 3))
    whole = kernel_moments.second_moment(A, D)
    monkeypatch.setattr(cpu, "_CHUNK", 100)
    assert_allclose(kernel_moments.second_moment(A, D), whole, rtol=1e-12)
    assert_allclose(whole, naive.second_moment(A, D), rtol=1e-12)


def test_inner_products_of_gradients_in_several_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    G, c, d = rng.standard_normal((23, 4, 3)), rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    want = naive.inner_products_of_gradients(G, c, d)
    monkeypatch.setattr(cpu, "_CHUNK", 100)  # six examples
    found = np.zeros((23, 5))
    cpu.add_gradient_sketch(G, c, d, found)
    assert_allclose(found, want, rtol=1e-12, atol=1e-13)


# ---------------------------------------------------------------------------------------------- moments of strata


@SETTINGS
@given(shapes, st.integers(0, 40))
def test_moments_are_added_in_float64(shape, M):
    # Sixteen bits a number, and few of them: all sums of squares are exact, in float64 and in no float32.
    rng = np.random.default_rng(shape["seed"])
    G = np.asarray(rng.integers(-(1 << 15), 1 << 15, (shape["N"], M)) * 2.0**-7, shape["dtype"], order=shape["order"])
    got, want = ((np.arange(M) + 0.5, np.arange(M) + 0.25) for _ in range(2))
    kernel_moments.add_moments(G, *got)
    naive.add_moments(G, *want)
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)


def stratum(d, seed, exact):
    """Return what `fold` is given: sums over four examples and those of everything before, whole numbers or not."""
    rng = np.random.default_rng(seed)
    G = rng.integers(-9, 10, (4, d)) * 1.0 if exact else rng.standard_normal((4, d))
    G[:, : d // 3] = G[0, : d // 3]  # these have no variance
    before = [np.round(9 * rng.standard_normal(d)) for _ in range(3)]
    return [G.sum(axis=0), (G**2).sum(axis=0), 4, 0.25, 1e-6, *before]


@SETTINGS
@given(st.integers(0, 60), st.integers(0, 10**6))
def test_fold_is_its_oracle_exactly_where_every_number_is_exact(d, seed):
    got, want = stratum(d, seed, True), stratum(d, seed, True)
    assert_array_equal(kernel_moments.fold(*got), naive.fold(*want))
    for g, w in zip(got, want, strict=True):
        assert_array_equal(g, w)
    assert not got[0].any()
    assert not got[1].any()


@SETTINGS
@given(st.integers(0, 60), st.integers(0, 10**6))
def test_fold_matches_its_oracle(d, seed):
    got, want = stratum(d, seed, False), stratum(d, seed, False)
    squares = want[1].copy()
    sums, of_oracle = kernel_moments.fold(*got), naive.fold(*want)
    # E[g²] and E[g]² are rounded twice each, and the sum of `out` once: whole numbers there are of the order of 36.
    atol = 4 * np.finfo(np.float64).eps * (squares + 36)
    assert (np.abs(got[5] - want[5]) <= atol).all()
    assert np.abs(sums - of_oracle).max() <= atol.sum()
    assert sums[2] == of_oracle[2] == np.count_nonzero(squares[: d // 3])
    for g, w in zip(got[6:], want[6:], strict=True):
        assert_array_equal(g, w)


def test_fold_leaves_no_variance_below_zero_and_keeps_nan():
    # As rounding may leave them: ten times 0.1, and a mean square below the squared mean.
    total, squares = np.array([0.1 * 10, np.nan]), np.array([10 * (0.1 * 0.1) * (1 - 1e-15), 1.0])
    out, all_total, all_squares = np.zeros((3, 2))
    sums = kernel_moments.fold(total, squares, 10, 1.0, 1e-6, out, all_total, all_squares)
    assert out[0] == 0.0
    assert sums[2] == 1
    assert np.isnan([out[1], all_total[1], sums[0]]).all()


def sums_by_threads(M, dtype):
    """Everything that threads add up, over M columns."""
    rng = np.random.default_rng(M)
    G, labels = rng.standard_normal((97, M)).astype(dtype), rng.integers(0, 5, 97)
    moments = np.zeros((2, M))
    kernel_moments.add_moments(G, *moments)
    columns = [rng.standard_normal(M) for _ in range(3)]
    of_fold = kernel_moments.fold(*moments.copy(), 97, 0.3, 1.0, *columns)
    return [moments, cpu.grouped_sums(G, labels, 5), of_fold, *columns]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("M", [3, 337, 338, 1000, 1021])  # 97 × 338 numbers are the first to be worth a thread
def test_no_bit_depends_on_the_number_of_threads(M, dtype, monkeypatch):
    used = set()
    monkeypatch.setattr(threads, "n_threads", lambda: 1)
    alone = sums_by_threads(M, dtype)
    with ThreadPoolExecutor(3, initializer=lambda: used.add(True)) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        for n_threads in (2, 4):
            monkeypatch.setattr(threads, "n_threads", lambda n_threads=n_threads: n_threads)
            for got, want in zip(sums_by_threads(M, dtype), alone, strict=True):
                assert_array_equal(got, want)
    assert used


# --------------------------------------------------------------------------------------------------------- U step


@SETTINGS
@given(shapes)
def test_grouped_sums_match_the_oracle(shape):
    rng = np.random.default_rng(shape["seed"])
    X = traces(shape, rng)[0][:, 0]
    labels, K = rng.integers(0, shape["K"], shape["N"]), shape["K"]
    assert_matches(cpu.grouped_sums(X, labels, K), naive.grouped_sums(X.astype(float), labels, K), "float64", 10)
    onto = np.ones((K, shape["I"]))
    assert cpu.grouped_sums(X, labels, K, onto) is onto
    assert_matches(onto, naive.grouped_sums(X.astype(float), labels, K, np.ones_like(onto)), "float64", 10)


def test_float32_squares_are_summed_in_float64():
    A = np.full((1, 1, 1 << 20), 0.1, dtype=np.float32)
    D = np.full((1, 1, 1), 3.0, dtype=np.float32)
    exact = 9.0 * (1 << 20) * float(np.float32(0.1)) ** 2
    assert_allclose(cpu.sq_norms(A, D), [exact], rtol=1e-11)
    moment = kernel_moments.second_moment(
        np.full((1 << 16, 1, 1), 0.1, np.float32), np.ones((1 << 16, 1, 1), np.float32)
    )
    # Each product of 256 examples is float32; a float32 sum of all would be off by 1e-4.
    assert_allclose(moment, [[(1 << 16) * float(np.float32(0.1)) ** 2]], rtol=16 * np.finfo(np.float32).eps)


# --------------------------------------------------------------------------------------------------- A step


def distances(rng, N, K):
    """Products of integer gradients and centres, exact in float64 and rich in ties."""
    G, C = rng.integers(-2, 3, (N, 3)).astype(float), rng.integers(-2, 3, (K, 3)).astype(float)
    return (C**2).sum(1), G @ C.T, (G**2).sum(1)


@SETTINGS
@given(st.integers(0, 20), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from("CF"))
def test_a_steps_match_the_oracles(N, K, seed, layout):
    rng = np.random.default_rng(seed)
    cc, cg, gg = distances(rng, N, K)
    cg = np.asarray(cg, order=layout)
    sizes, order = rng.integers(1, 5, K), rng.permutation(N)
    fixed, sequential = cpu.a_step_fixed(cc, cg, gg, sizes), cpu.a_step_sequential(cc, cg, gg, order)
    assert fixed.dtype == sequential.dtype == np.int64
    assert_array_equal(fixed, naive.a_step_fixed(cc, cg, gg, sizes))
    assert_array_equal(sequential, naive.a_step_sequential(cc, cg, gg, order))
    assert_array_equal(cpu.spread_from_products(cc, cg, gg, fixed), naive.spread_from_products(cc, cg, gg, fixed))


def test_ties_go_to_the_lowest_cluster():
    cc, cg, gg = np.ones(3), np.zeros((4, 3)), np.ones(4)
    assert_array_equal(cpu.a_step_fixed(cc, cg, gg, np.array([2, 1, 1])), [1, 1, 1, 1])
    assert_array_equal(cpu.a_step_sequential(cc, cg, gg, np.array([3, 2, 1, 0])), [0, 2, 1, 0])


def test_a_distance_rounded_below_zero_counts_as_zero():
    # Cluster 0 is at distance 0, cluster 1 below it by rounding: a tie, not a win that N_k would enlarge.
    cc, gg = np.array([1.0, 1.0]), np.array([1.0])
    cg = np.array([[1.0, 1.0 + 1e-15]])
    assert cpu.sq_distance(1.0, 1.0 + 1e-15, 1.0) == 0.0
    assert_array_equal(cpu.a_step_fixed(cc, cg, gg, np.array([1, 5])), [0])
    assert_array_equal(cpu.a_step_sequential(cc, cg, gg, np.array([0])), [0])


def test_weighted_a_step_worked_by_hand():
    # Six points on a line, centres 0 and 10. In order, with the cost (N_k + 1)(C_k − g)²:
    #   0: 1·0   vs 1·100 → 0;   1: 2·1  vs 1·81 → 0;   2: 3·4 vs 1·64 → 0;   4: 4·16 = 64 vs 1·36 → 1;
    #   9: 4·81  vs 2·1   → 1;  10: 4·100 vs 3·0 → 1.   Unweighted, the point 4 would have gone to 0.
    g = np.array([[0.0], [1.0], [2.0], [4.0], [9.0], [10.0]])
    C = np.array([[0.0], [10.0]])
    products = (C**2).sum(1), g @ C.T, (g**2).sum(1)
    assert_array_equal(cpu.a_step_sequential(*products, np.arange(6)), [0, 0, 0, 1, 1, 1])
    # With sizes 1 and 4 held fixed: 4 costs 1·16 vs 4·36 → 0; 9 costs 1·81 vs 4·1 → 1.
    assert_array_equal(cpu.a_step_fixed(*products, np.array([1, 4])), [0, 0, 0, 0, 1, 1])
    # In reverse order cluster 1 fills first: 10, 9 → 1; 4: 1·16 vs 3·36 → 0; the rest → 0.
    assert_array_equal(cpu.a_step_sequential(*products, np.arange(6)[::-1]), [0, 0, 0, 0, 1, 1])


def test_spread_does_not_cancel():
    G = 1e8 + np.array([[0.0, 1.0], [0.0, -1.0], [3.0, 0.0]])
    labels, C = np.array([0, 0, 1]), 1e8 + np.array([[0.0, 0.0], [3.0, 0.0]])
    assert_array_equal(cpu.spread(G, C, labels), [2.0, 0.0])


@SETTINGS
@given(shapes)
def test_spread_matches_the_oracle(shape):
    rng = np.random.default_rng(shape["seed"])
    G, C = traces(shape | {"T": 1}, rng)[0][:, 0], rng.standard_normal((shape["K"], shape["I"]))
    labels = rng.integers(0, shape["K"], shape["N"])
    assert_matches(cpu.spread(G, C, labels), naive.spread(G, C, labels), "float64", shape["N"] + 1)


# ------------------------------------------------------------------------------------------------- exchange


def exchange_state(G, labels, K):
    e = np.bincount(labels, weights=(G.astype(float) ** 2).sum(1), minlength=K)
    return labels.copy(), np.bincount(labels, minlength=K), e, cpu.grouped_sums(G, labels, K)


@SETTINGS
@given(
    st.integers(1, 4),
    st.integers(0, 8),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from("CF"),
    st.sampled_from(["float64", "float32"]),
)
def test_exchange_sweeps_match_the_oracle(K, more, d, seed, layout, dtype):
    rng = np.random.default_rng(seed)
    N = K + more
    G = np.asarray(rng.standard_normal((N, d)), dtype=dtype, order=layout)
    start, order = rng.permutation(N) % K, rng.permutation(N)
    threshold = 1e-12 * N * (G.astype(float) ** 2).sum()
    want, got = exchange_state(G, start, K), exchange_state(G, start, K)
    moved = naive.exchange_sweep(G, order, *want, threshold)
    assert cpu.exchange_sweep(G, order, *got, threshold) == moved
    for g, w in zip(got, want, strict=True):
        assert_allclose(g, w, atol=1e-10)

    gram = G.astype(float) @ G.T.astype(float)
    labels, sizes, e, s = exchange_state(G, start, K)
    s_dot_g = np.asarray(G.astype(float) @ s.T, order="C")
    assert cpu.exchange_sweep_gram(gram, order, labels, sizes, e, s_dot_g, threshold) == moved
    assert_array_equal(labels, want[0])
    assert_array_equal(sizes, want[1])
    assert_allclose(e, want[2], atol=1e-10)
    assert_allclose(s_dot_g, G.astype(float) @ want[3].T, atol=1e-9)
    again = exchange_state(G, start, K)
    naive_gram = (again[0], again[1], again[2], np.zeros((N, K)))
    assert naive.exchange_sweep_gram(gram, order, *naive_gram, threshold) == moved
    assert_array_equal(naive_gram[0], labels)
    assert_allclose(naive_gram[3], s_dot_g, atol=1e-9)


def test_exchange_moves_nobody_among_duplicates_and_empties_no_cluster():
    G = np.full((6, 2), 0.1)
    labels, sizes, e, s = exchange_state(G, np.array([0, 0, 0, 0, 1, 2]), 3)
    assert cpu.exchange_sweep(G, np.arange(6), labels, sizes, e, s, 1e-12 * 6 * e.sum()) == 0
    apart = np.array([[0.0], [1.0], [50.0]])
    state = exchange_state(apart, np.array([0, 1, 1]), 2)
    assert cpu.exchange_sweep(apart, np.arange(3), *state, 0.0) == 1
    assert_array_equal(state[0], [0, 0, 1])
    assert cpu.exchange_sweep(apart, np.arange(3), *state, 0.0) == 0


def test_exchange_ties_go_to_the_lowest_cluster():
    # Example 4 gains the same from clusters 1 and 2, both exact copies of each other.
    G = np.array([[10.0], [10.0], [0.0], [0.0], [0.0]])
    state = exchange_state(G, np.array([0, 0, 1, 2, 0]), 3)
    assert cpu.exchange_sweep(G, np.array([4]), *state, 0.0) == 1
    assert state[0][4] == 1


def test_a_single_cluster_keeps_everybody():
    G = np.arange(4.0)[:, None]
    assert cpu.exchange_sweep(G, np.arange(4), *exchange_state(G, np.zeros(4, dtype=np.int64), 1), 0.0) == 0
