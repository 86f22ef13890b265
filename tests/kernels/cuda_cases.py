"""The kernels of a GPU against their twins on the CPU: run in numba's simulator by test_cuda.py, in small blocks."""

import inspect

import numpy as np
import pytest
from numba import config
from numpy.testing import assert_array_equal

from gcref.kernels import cpu, cuda, cuda_arrays, cuda_kernels, cuda_moments, device, jit, moments, subspace

assert config.ENABLE_CUDASIM or jit.gpu_problem() == "", "set NUMBA_ENABLE_CUDASIM=1"

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def first_quick(name, first, *others):
    """Try one value by default, and the others, as the simulator takes seconds a kernel, only where slow tests run."""
    return pytest.mark.parametrize(name, [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)])


FLOAT32_FIRST = first_quick("dtype", "float32", "float64")


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Let tiles, lanes, parts and launches be several at small sizes, and the last ones incomplete."""
    if not config.ENABLE_CUDASIM:  # what is compiled keeps its sizes
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_kernels, "TILE", 2)
        patch.setattr(cuda_kernels, "THREADS", 4)
        patch.setattr(cuda_kernels, "LANES", 2)
        patch.setattr(cuda_moments, "THREADS", 4)
        patch.setattr(cuda_moments, "_BUSY", 30)
        patch.setattr(cuda_moments, "_FEWEST", 2)
        patch.setattr(cuda_moments, "_FOLDERS", 5)
        patch.setattr(cuda_arrays, "MOST_BLOCKS", 3)
        patch.setattr(cuda, "_STEPS", 3)
        patch.setattr(cuda, "_PARTS", 2)
        yield


def normal(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def assert_close(got, want, terms, magnitude, dtype):
    """Two sums of `terms` products, each rounded at most that often by half an eps of the sum of their sizes."""
    assert got.dtype == want.dtype == np.float64
    assert got.shape == want.shape
    assert (np.abs(got - want) <= terms * np.finfo(dtype).eps * magnitude).all()


def assert_twins(name, arrays, terms, dtype, module=cpu):
    """A function that returns sums of products agrees with its twin; its value at |arrays| is what rounding is of."""
    want, magnitude = getattr(module, name)(*arrays), getattr(module, name)(*map(np.abs, arrays))
    assert_close(getattr(cuda, name)(*arrays), want, terms, magnitude, dtype)


# ------------------------------------------------------------------------------------------ products and sketches


@FLOAT32_FIRST
@first_quick("T", 3, 1)
def test_products_from_traces(T, dtype):
    A, D, A2, D2 = normal(5, T, 3, dtype=dtype), normal(5, T, 2, dtype=dtype), normal(3, 2, 3), normal(3, 2, 2)
    A2, D2 = A2.astype(dtype), D2.astype(dtype)
    # Each of the products of positions is two sums, of I and of O terms; then they are multiplied and added up.
    assert_twins("gram", (A, D, A2, D2), 3 + 2 + 2 * T + 3, dtype)
    assert_twins("sq_norms", (A, D), 3 + 2 + T * T + 3, dtype)


@FLOAT32_FIRST
def test_norms_of_gradients(dtype):
    assert_twins("row_sq_norms", (normal(3, 15, dtype=dtype),), 15 + 2, "float64")


@FLOAT32_FIRST
@first_quick("T", 3, 1)
def test_sketches(T, dtype):
    a, b = normal(4, T, 3, dtype=dtype), normal(4, T, 3, seed=1, dtype=dtype)
    G, R, Q = normal(4, 3, 2, dtype=dtype), normal(3, 3, dtype=dtype), normal(3, 2, dtype=dtype)
    for name, arrays, terms in (
        ("add_position_products", (a, b), T + 2),
        ("add_gradient_sketch", (G, R, Q), 3 + 2 + 3),
    ):
        start = normal(4, 3, seed=2)
        got, want, magnitude = start.copy(), start.copy(), np.abs(start)
        getattr(cuda, name)(*arrays, got)
        getattr(cpu, name)(*arrays, want)
        getattr(cpu, name)(*map(np.abs, arrays), magnitude)
        assert_close(got, want, terms, magnitude, "float64" if name == "add_position_products" else dtype)


# --------------------------------------------------------------------------------------------------- clusters


@DTYPES
@pytest.mark.parametrize("layout", ["C", "F"])
def test_sums_by_cluster(dtype, layout):
    X, labels = np.asarray(normal(7, 5, dtype=dtype), order=layout), np.array([0, 3, 3, 0, 1, 3, 3])
    assert_array_equal(cuda.grouped_sums(X, labels, 4), cpu.grouped_sums(X, labels, 4))
    got, want = np.ones((4, 5)), np.ones((4, 5))
    assert cuda.grouped_sums(X, labels, 4, got) is got
    assert_array_equal(got, cpu.grouped_sums(X, labels, 4, want))

    D, V = normal(7, 3, dtype=dtype), normal(4, 2, 3)
    got, want, magnitude = (np.ones((4, 2, 5)) for _ in range(3))
    cuda.add_cluster_products(X, D, labels, V, got)
    subspace.add_cluster_products(X, D, labels, V, want)
    subspace.add_cluster_products(*map(np.abs, (X, D)), labels, np.abs(V), magnitude)
    assert_close(got, want, 4 + 3 + 2, magnitude, "float64")


def test_several_sums_by_cluster_at_once():
    labels = np.array([0, 2, 2, 0, 2])
    got, want = ([(normal(5, M), np.ones((3, M))) for M in (2, 3)] for _ in range(2))
    cuda.add_grouped_sums(got, labels)
    subspace.add_grouped_sums(want, labels)
    for (_, g), (_, w) in zip(got, want, strict=True):
        assert_array_equal(g, w)


def test_rank_one_products_of_several_blocks():
    blocks = [(normal(5, i), normal(5, o), normal(3, i), normal(3, o)) for i, o in ((4, 2), (1, 3))]
    got, want, magnitude = np.ones((5, 3)), np.ones((5, 3)), np.ones((5, 3))
    cuda.add_rank_one_products(blocks, got)
    subspace.add_rank_one_products(blocks, want)
    subspace.add_rank_one_products([tuple(map(np.abs, block)) for block in blocks], magnitude)
    assert_close(got, want, 4 + 3 + 2, magnitude, "float64")


def test_extend():
    U = np.linalg.qr(normal(2, 6, 2))[0].transpose(0, 2, 1).copy()
    U[0] = np.eye(2, 6)
    got = normal(2, 3, 6)
    got[0, 0] = 3.0 * U[0, 1]  # adds nothing, without rounding
    got[0, 1] *= 1e-200
    got[1, 1] = 0.0
    got[1, 2] = got[1, 0] + 1e-4 * got[1, 2]  # keeps little
    want = got.copy()
    cuda.extend(U, got)
    subspace.extend(U, want)
    # Four turns of sums of six; what little is kept of a row enlarges its first turn's rounding by 1e4 and a norm.
    enlarged = np.where(np.arange(6).reshape(2, 3, 1) == 5, 1e5, 10.0)
    assert (np.abs(got - want) <= 4 * 6 * np.finfo(float).eps * enlarged).all()
    rows = np.concatenate([U, got], axis=1)
    products = np.abs(rows @ rows.transpose(0, 2, 1) - [np.diag([1, 1, 0, 1, 1]), np.diag([1, 1, 1, 0, 1])])
    assert products.max() <= 4 * 6 * np.finfo(float).eps


def integers(N, K, d=3, seed=0, dtype="float64"):
    """Gradients and centres of small whole numbers: all sums are exact, and many costs are equal."""
    rng = np.random.default_rng([seed, N, K])
    return rng.integers(-2, 3, (N, d)).astype(dtype), rng.integers(-2, 3, (K, d)).astype(float), rng


@first_quick("K", 11, 4, 1)  # more than a block has threads, as many, and fewer
def test_a_steps_with_ties(K):
    G, C, rng = integers(8, K)
    products = (C**2).sum(1), G @ C.T, (G**2).sum(1)
    sizes, order = rng.integers(1, 5, K), rng.permutation(8)
    labels = cuda.a_step_fixed(*products, sizes)
    assert labels.dtype == np.int64
    assert_array_equal(labels, cpu.a_step_fixed(*products, sizes))
    kept = rng.integers(0, 3, K)
    for more in ((), (kept,), (kept.astype(float),)):
        assert_array_equal(
            cuda.a_step_sequential(*products, order, *more), cpu.a_step_sequential(*products, order, *more)
        )
    assert_array_equal(cuda.spread_from_products(*products, labels), cpu.spread_from_products(*products, labels))


def test_a_step_where_no_cost_is_finite_and_where_rounding_is_below_zero():
    nan = np.full((1, 3), np.nan)
    for arrays in (
        (np.ones(3), nan, np.ones(1), np.array([1, 2, 3])),
        (np.ones(2), np.array([[1.0, 1.0 + 1e-15]]), np.ones(1), np.array([1, 5])),
        (np.array([np.inf, 1.0, 1.0]), np.zeros((1, 3)), np.ones(1), np.array([1, 2, 1])),
    ):
        assert_array_equal(cuda.a_step_fixed(*arrays), cpu.a_step_fixed(*arrays))
        order = np.array([0])
        assert_array_equal(cuda.a_step_sequential(*arrays[:3], order), cpu.a_step_sequential(*arrays[:3], order))


@FLOAT32_FIRST
def test_spread(dtype):
    G, C, labels = normal(9, 3, dtype=dtype), normal(3, 3), np.array([0, 0, 2, 2, 2, 2, 2, 2, 0])
    # Every term is a square, so that the sum is its own magnitude; a difference is rounded by eps of its parts.
    size = np.array([(np.abs(G[labels == k]) + np.abs(C[k])).sum() for k in range(3)]) ** 2
    assert_close(cuda.spread(G, C, labels), cpu.spread(G, C, labels), 7 * 3 + 3, size, "float64")
    products = cpu.row_sq_norms(C), G.astype(float) @ C.T, cpu.row_sq_norms(G)
    want = cpu.spread_from_products(*products, labels)
    assert_close(cuda.spread_from_products(*products, labels), want, 7 + 4, size, "float64")


def test_spread_does_not_cancel():
    G = 1e8 + np.array([[0.0, 1.0], [0.0, -1.0], [3.0, 0.0]])
    labels, C = np.array([0, 0, 1]), 1e8 + np.array([[0.0, 0.0], [3.0, 0.0]])
    assert_array_equal(cuda.spread(G, C, labels), [2.0, 0.0])


# --------------------------------------------------------------------------------------------------- exchange


def state(G, labels, K):
    e = np.bincount(labels, weights=(G.astype(float) ** 2).sum(1), minlength=K)
    return labels.copy(), np.bincount(labels, minlength=K), e, cpu.grouped_sums(G, labels, K)


def both(name, G, before, *arguments):
    """Run a sweep on both devices from the same state; return whether both results are equal, and the states."""
    order, rest = arguments[0], arguments[1:]
    got, want = ([a.copy() for a in before] for _ in range(2))
    assert getattr(cuda, name)(G, order, *got, *rest) == getattr(cpu, name)(G, order, *want, *rest)
    return got, want


@FLOAT32_FIRST
@first_quick("K", 3, 1, 5)
@first_quick("drift", 0.25, 0.0)
def test_sweeps_of_whole_numbers_are_equal_to_the_last_bit(K, drift, dtype):
    G, _, rng = integers(9, K, dtype=dtype)
    order, labels = rng.permutation(9), rng.permutation(9) % K
    before = state(G, labels, K)
    near = np.stack([rng.permutation(K)[:2] for _ in range(K)])  # some name the cluster itself
    gram = G.astype(float) @ G.T.astype(float)
    s_dot_g = np.ascontiguousarray(G.astype(float) @ before[3].T)
    some = order[:5]
    labels_without = labels.copy()
    labels_without[some] = -1
    known = labels_without >= 0
    without = (labels_without, *state(G[known], labels[known], K)[1:])
    moved = 0
    for got, want in (
        both("exchange_sweep", G, before, order, 0.0, drift),
        both("exchange_sweep_among", G, before, order, 0.0, drift, near),
        both("exchange_sweep_gram", gram, (*before[:3], s_dot_g), order, 0.0, drift),
        both("join", G, without, some, drift),
    ):
        for g, w in zip(got, want, strict=True):
            assert_array_equal(g, w)
        moved += (want[0] != labels).sum()
    assert moved > 0 or K == 1


@pytest.mark.slow
@DTYPES
def test_sweeps_of_real_numbers(dtype):
    K, d = 4, 7
    G = normal(13, d, dtype=dtype)
    rng = np.random.default_rng(3)
    order, before = rng.permutation(13), state(G, rng.permutation(13) % K, K)
    near = np.array([[1, 2], [0, 3], [1, 3], [0, 1]])
    # A sum over at most 13 gradients, each added and taken away at most once: 26 terms of a size of |G| at most.
    norms = (G.astype(float) ** 2).sum(1)
    for name, more in (("exchange_sweep", ()), ("exchange_sweep_among", (near,))):
        got, want = both(name, G, before, order, 1e-9, 0.1, *more)
        assert (want[0] != before[0]).any()
        assert_array_equal(got[0], want[0])
        assert_array_equal(got[1], want[1])
        assert_close(got[2], want[2], 26 + d, norms.sum(), "float64")
        assert_close(got[3], want[3], 26, np.abs(G.astype(float)).sum(0), "float64")


def test_nobody_leaves_a_cluster_of_one():
    G = np.array([[0.0], [1.0], [50.0]])
    got, want = both("exchange_sweep", G, state(G, np.array([0, 1, 1]), 2), np.arange(3), 0.0)
    assert_array_equal(got[0], want[0])
    assert_array_equal(got[0], [0, 0, 1])


# ----------------------------------------------------------------------------------------------------- moments


@FLOAT32_FIRST
@pytest.mark.parametrize("T", [1, 3])
def test_second_moment(T, dtype):
    A, D = normal(9, T, 3, dtype=dtype), normal(9, T, 2, dtype=dtype)
    start = np.ones((3, 2))
    got = start.copy()
    assert cuda.second_moment(A, D, got) is got
    want = moments.second_moment(A, D, start.copy())
    magnitude = moments.second_moment(np.abs(A), np.abs(D), start.copy())
    assert_close(got, want, 9 + 2 * T + 5, magnitude, dtype)
    assert_close(cuda.second_moment(A, D), moments.second_moment(A, D), 9 + 2 * T + 5, magnitude, dtype)


@DTYPES
def test_moments_of_gradients(dtype):
    G = normal(9, 5, dtype=dtype)
    got, want = np.ones((2, 5)), np.ones((2, 5))
    cuda.add_moments(G, *got)
    moments.add_moments(G, *want)
    assert_close(got[0], want[0], 10, 1 + np.abs(G.astype(float)).sum(0), "float64")
    assert_close(got[1], want[1], 11, want[1], "float64")


def test_fold():
    G = np.random.default_rng(5).standard_normal((4, 13))
    G[:, :4] = G[0, :4]  # these have no variance
    before = [G.sum(0), (G**2).sum(0), 4, 0.25, 1e-6, *np.ones((3, 13))]
    got, want = ([np.copy(x) if isinstance(x, np.ndarray) else x for x in before] for _ in range(2))
    sums, want_sums = cuda.fold(*got), moments.fold(*want)
    # E[g²] and E[g]² are rounded twice each on either side, of the size of E[g²].
    eps = 4 * np.finfo(float).eps * (before[1] + 1)
    assert (np.abs(got[5] - want[5]) <= eps).all()
    assert (np.abs(sums - want_sums) <= 13 * eps.sum()).all()
    assert sums[2] == want_sums[2] == 4
    for place in (0, 1, 6, 7):
        assert_array_equal(got[place], want[place])


def test_fold_keeps_nan():
    total, squares = np.array([0.1 * 10, np.nan]), np.array([10 * (0.1 * 0.1) * (1 - 1e-15), 1.0])
    out, all_total, all_squares = np.zeros((3, 2))
    sums = cuda.fold(total, squares, 10, 1.0, 1e-6, out, all_total, all_squares)
    assert out[0] == 0.0
    assert sums[2] == 1
    assert np.isnan([out[1], all_total[1], sums[0]]).all()


# --------------------------------------------------------------------------------------------- arrays and grids


def test_arrays_on_the_device_are_taken_and_updated_there():
    G, _, rng = integers(9, 3)
    order, before = rng.permutation(9), state(G, rng.permutation(9) % 3, 3)
    on_host, on_device = [a.copy() for a in before], [cuda_arrays.put(a.copy()) for a in before]
    moved = cpu.exchange_sweep(G, order, *on_host, 0.0)
    assert cuda.exchange_sweep(cuda_arrays.put(G), cuda_arrays.put(order), *on_device, 0.0) == moved
    for g, w in zip(on_device, on_host, strict=True):
        assert_array_equal(g.copy_to_host(), w)
    labels = on_device[0]
    assert_array_equal(cuda.grouped_sums(cuda_arrays.put(G), labels, 3), cpu.grouped_sums(G, on_host[0], 3))


@pytest.mark.slow
def test_no_bit_depends_on_the_number_of_blocks(monkeypatch):
    A, D, labels = normal(9, 1, 5), normal(9, 1, 3), np.arange(9) % 2

    def everything():
        return [
            cuda.gram(A, D, A, D),
            cuda.second_moment(A, D),
            cuda.spread(A[:, 0], A[:2, 0], labels),
            cuda.fold(*normal(2, 9), 3, 1.0, 0.0, *normal(3, 9)),
        ]

    some = everything()
    monkeypatch.setattr(cuda_arrays, "MOST_BLOCKS", 1)
    for one, other in zip(everything(), some, strict=True):
        assert_array_equal(one, other)


def test_no_examples():
    A, D, none = np.zeros((0, 2, 3)), np.zeros((0, 2, 2)), np.zeros(0, dtype=np.int64)
    assert cuda.gram(A, D, A, D).shape == (0, 0)
    assert cuda.sq_norms(A, D).shape == (0,)
    assert_array_equal(cuda.second_moment(A, D), np.zeros((3, 2)))
    assert_array_equal(cuda.grouped_sums(A[:, 0], none, 2), np.zeros((2, 3)))
    assert cuda.a_step_fixed(np.ones(2), np.ones((0, 2)), np.ones(0), np.ones(2)).shape == (0,)
    assert cuda.exchange_sweep(A[:, 0], none, none.copy(), *(np.zeros(s) for s in (2, 2, (2, 3))), 0.0) == 0


def test_the_simulator_counts_as_a_device():
    assert device.resolve("auto") == "cuda"
    assert device.kernels("cuda") is device.moments("auto") is device.subspace("cuda") is cuda
    assert device.kernels("cpu") is cpu
    assert jit.gpu().startswith("none") is False


def test_every_twin_is_tried_here():
    text = inspect.getsource(inspect.getmodule(test_every_twin_is_tried_here))
    for name in set(cuda.__all__) - {"by_cluster", "chunked", "join_cost", "sq_distance"}:
        assert f"cuda.{name}(" in text or f'"{name}"' in text, name
