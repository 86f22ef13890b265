"""Centres of any rank against dense SVDs of gradients written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import gcref
from gcref.clustering.base import NotFiniteError
from gcref.clustering.exact import ExactClustering
from gcref.clustering.low_rank import GradientClustering
from gcref.clustering.svd import best_of_rank
from gcref.engine import algebra, costs
from gcref.engine.convolution import Conv2d
from gcref.engine.trace import Trace, per_example_gradients
from gcref.validation import naive, naive_low_rank


def blocks_of(traces):
    return [(t.A, t.D) for t in traces]


def written_out(centers):
    return [np.einsum("ksi,kso->kio", c, d) for c, d in centers]


def draw(rng, N, shapes, dtype="float64"):
    return [
        Trace(rng.standard_normal((N, T, i)).astype(dtype), rng.standard_normal((N, T, o)).astype(dtype))
        for T, i, o in shapes
    ]


def approximations(M, rank, seed=0):
    """What `best_of_rank` makes of matrices (K, I, O)."""

    def product(vectors, transposed):
        (v,) = vectors
        return [None if v is None else v @ (M if transposed else M.transpose(0, 2, 1))]

    ((c, d),) = best_of_rank(product, [M.shape[1:]], len(M), rank, np.random.default_rng(seed))
    assert c.shape == (len(M), min(rank, *M.shape[1:]), M.shape[1])
    assert_allclose(c @ c.transpose(0, 2, 1) @ d, d, rtol=1e-12, atol=1e-13 * np.abs(d).max())
    return written_out([(c, d)])[0]


def excess(M, rank):
    """‖M − C‖² over that of the dense SVD, minus 1, for each matrix."""
    least = (np.linalg.svd(M, compute_uv=False)[:, rank:] ** 2).sum(axis=1)
    return ((M - approximations(M, rank)) ** 2).sum(axis=(1, 2)) / least - 1


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_the_excess_over_the_dense_svd_is_what_is_documented(rank):
    rng = np.random.default_rng(rank)
    found = excess(rng.standard_normal((3, 300, 200)), rank)
    assert (found > -1e-12).all()
    assert (found < 1e-2).all()
    Q, W = (np.linalg.qr(rng.standard_normal((3, n, 200)))[0] for n in (300, 200))
    found = excess((Q * np.arange(1, 201) ** -0.5) @ W.transpose(0, 2, 1), rank)
    assert (found > -1e-12).all()
    assert (found < 1e-3).all()


@pytest.mark.parametrize(("inputs", "outputs"), [(30, 7), (7, 30), (12, 12), (1, 9), (9, 1)])
def test_matrices_of_low_rank_and_centers_of_full_rank_are_exact(inputs, outputs):
    rng = np.random.default_rng(0)
    M = rng.standard_normal((5, inputs, outputs)) * 10.0 ** rng.integers(-8, 8, (5, 1, 1))
    scale = np.sqrt((M**2).sum(axis=(1, 2), keepdims=True))
    for rank in (min(inputs, outputs), 50):
        assert (np.abs(approximations(M, rank) - M) <= 1e-13 * scale).all()
    low = rng.standard_normal((5, inputs, 1)) @ rng.standard_normal((5, 1, outputs))
    low[3] = 0.0
    for rank in (1, 2, 3):
        assert_allclose(approximations(low, rank), low, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 5),
    st.integers(0, 15),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["sequential", "fixed"]),
    st.integers(0, 10**6),
)
def test_the_whole_run_matches_the_oracle(K, more, T, rank, sizes, seed):
    N, rng = K + more, np.random.default_rng(seed)
    traces = draw(rng, N, [(T, 5, 4), (1, 8, 9), (1, 1, 3)])
    est = GradientClustering(K, center="svd", rank=rank, sizes=sizes, n_iter=3, seed=seed).fit(traces)
    steps = naive_low_rank.Clustering(blocks_of(traces), K, "svd", rank, sizes, seed).run(3)
    floor = 1e-11 * N * (per_example_gradients(traces) ** 2).sum()
    assert_allclose(est.objective_, [phi for phi, _, _ in steps], rtol=1e-9, atol=floor)
    assert_array_equal(est.last_labels_, steps[-1][1])
    for got, want in zip(written_out(est.centers_), steps[-1][2], strict=True):
        assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("sizes", ["sequential", "fixed"])
def test_full_rank_is_exact_alternating(modes, T, sizes):
    traces = modes(N=90, seed=3, T=T)
    exact = ExactClustering(6, "alternating", sizes=sizes, n_iter=6, seed=1).fit(per_example_gradients(traces))
    est = GradientClustering(6, center="svd", rank=4, sizes=sizes, n_iter=6, seed=1).fit(traces)
    assert_array_equal(est.labels_, exact.labels_)
    assert_allclose(est.objective_, exact.objective_, rtol=1e-9)
    G = per_example_gradients(traces)
    means = np.concatenate([c.reshape(6, -1) for c in written_out(est.centers_)], axis=1)
    assert_allclose(means, [G[est.last_labels_ == k].mean(axis=0) for k in range(6)], atol=1e-12)


def test_each_rank_comes_nearer_and_phi_is_that_of_the_means_and_their_distance(modes):
    traces = modes(N=120, seed=2, T=6)
    G, away = per_example_gradients(traces), []
    for rank in (1, 2, 3, 4):
        est = GradientClustering(5, center="svd", rank=rank, n_iter=1).fit(traces)
        C = np.concatenate([c.reshape(5, -1) for c in written_out(est.centers_)], axis=1)
        means = np.array([G[est.labels_ == k].mean(axis=0) for k in range(5)])
        away.append(float(est.sizes_**2 @ ((C - means) ** 2).sum(axis=1)))
        assert_allclose(est.objective_[0], naive.objective(est.labels_, G) + away[-1], rtol=1e-10)
    assert away[0] > away[1] > away[2]
    assert away[2] < 1e-20 * est.objective_[0]  # min(I, O) is 3 and 2
    mean = GradientClustering(5, n_iter=1).fit(traces)
    assert_array_equal(mean.sizes_.sum(), 120)


def test_streamed_is_full_batch(modes, helpers):
    traces = modes(N=101, seed=4, T=3)
    expected = GradientClustering(9, center="svd", rank=2, n_iter=4).fit(traces)
    for lengths in ([50, 51], [1] * 101, [40, 0, 61]):
        batches = helpers.split(traces, lengths)
        for given_traces in (batches, lambda batches=batches: iter(batches)):
            est = GradientClustering(9, center="svd", rank=2, n_iter=4).fit(given_traces)
            assert_array_equal(est.labels_, expected.labels_)
            assert_allclose(est.objective_, expected.objective_, rtol=1e-9)


@pytest.mark.parametrize(("rank", "passes"), [(1, 2), (9, 2)])
def test_a_function_is_called_once_a_pass(rank, passes, modes, helpers):
    calls = []

    def batches():
        calls.append(1)
        yield from helpers.split(modes(), [30, 30])

    GradientClustering(4, center="svd", rank=rank, n_iter=3).fit(batches)
    assert len(calls) == 1 + (passes + 1) * 4  # of small blocks, one power step is all
    calls.clear()
    wide = draw(np.random.default_rng(0), 8, [(1, 40, 50)])
    GradientClustering(2, center="svd", n_iter=1).fit(lambda: calls.append(1) or [wide])
    assert len(calls) == 1 + (6 + 1) * 2


@pytest.mark.parametrize(("rank", "vectors"), [(1, [6, 4, 1]), (2, [8, 4, 1]), (4, [12, 4, 1]), (9, [20, 4, 1])])
def test_twice_the_rank_and_four_vectors_make_three_power_steps(rank, vectors):
    shapes, asked = [(30, 20), (4, 50), (7, 1)], []

    def product(V, transposed):
        asked.append([None if v is None else v.shape for v in V])
        rng = np.random.default_rng(len(asked))
        out = [shape[int(transposed)] for shape in shapes]
        return [None if v is None else rng.standard_normal((*v.shape[:2], n)) for v, n in zip(V, out, strict=True)]

    found = best_of_rank(product, shapes, 3, rank, np.random.default_rng(0))
    starts = [(3, n, shape[1]) for n, shape in zip(vectors, shapes, strict=True)]
    assert asked[0] == starts
    # A block whose vectors span it is done; the first goes on while 6, 12, 18 or 8, 16, … are fewer than 20.
    assert len(asked) == 6
    assert all(shapes_of[1:] == [None, None] for shapes_of in asked[2:])
    assert [shapes_of[0] is None for shapes_of in asked[2:]] == [
        n * (1 + step // 2) >= 20 for n in vectors[:1] for step in range(4)
    ]
    assert [c.shape[1] for c, _ in found] == [min(rank, 4 if i else 20, 50) if i < 2 else 1 for i in range(3)]


def test_a_run_restarted_from_stored_centers(modes):
    traces = modes(N=90, T=3)
    once = GradientClustering(7, center="svd", rank=2, n_iter=5).fit(traces)
    half = GradientClustering(7, center="svd", rank=2, n_iter=2).fit(traces)
    rest = GradientClustering(7, center="svd", rank=2, n_iter=3, warm_start=True)
    rest.centers_, rest.n_iter_ = [(c.copy(), d.copy()) for c, d in half.centers_], half.n_iter_
    assert_array_equal(rest.fit(traces).objective_, once.objective_[2:])
    with pytest.raises(ValueError, match="these traces need"):
        rest.set_params(rank=1).fit(traces)
    with pytest.raises(ValueError, match="these traces need"):
        rest.set_params(center="mean").fit(traces)


def test_distances_that_overflow_are_refused(modes):
    large = [Trace(t.A * np.float32(1e14), t.D * np.float32(1e14)) for t in modes(dtype="float32")]
    with pytest.raises(NotFiniteError, match="a distance from a gradient to a centre overflows"):
        GradientClustering(4, center="svd", n_iter=2).fit(large)


def test_float32_traces_stay_float32(modes):
    single = GradientClustering(6, center="svd", rank=2, n_iter=1).fit(modes(dtype="float32", T=4))
    double = GradientClustering(6, center="svd", rank=2, n_iter=1).fit(modes(T=4))
    assert all(c.dtype == d.dtype == np.float32 for c, d in single.centers_)
    assert_array_equal(single.labels_, double.labels_)
    assert_allclose(single.objective_, double.objective_, rtol=1e-3)


# ------------------------------------------------------------------------------------ products of summed gradients


def patches(dtype):
    """The trace of a convolution, and of a difference of two, which has two parts."""
    layer, found = Conv2d(2, 3, (2, 3), bias=True), []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((11, 5, 6, 2)).astype(dtype)
        out, cache = layer.forward(x, [np.zeros(layer.shapes[0], dtype)])
        found += layer.traces(rng.standard_normal(out.shape).astype(dtype), cache)
    return {"patches": found[0], "difference": found[0].minus(found[1])}


@pytest.mark.parametrize("form", ["Eq. 8", "Eq. 9"])
@pytest.mark.parametrize("kind", ["fully connected", "positions", "patches", "difference"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("transposed", [False, True])
def test_cluster_products_by_either_form(form, kind, dtype, transposed, monkeypatch):
    rng = np.random.default_rng(7)
    if kind in ("patches", "difference"):
        trace = patches(dtype)[kind]
    else:
        (trace,) = draw(rng, 11, [(1 if kind == "fully connected" else 4, 5, 3)], dtype)
    count = costs.Operations(0, 1) if form == "Eq. 8" else costs.Operations(1, 0)
    monkeypatch.setattr(costs, "inner_products", lambda *_: count)
    labels, width = rng.integers(0, 4, 11), trace.n_inputs if transposed else trace.n_outputs
    V = rng.standard_normal((4, 2, width))
    G = naive.per_example_gradients(trace.A, trace.D).reshape(11, trace.n_inputs, trace.n_outputs)
    want = naive_low_rank.add_cluster_products(G, labels, V, transposed)
    tolerance = 1e-13 if dtype == "float64" or kind == "fully connected" else 2e-6
    for most in (1 << 22, 300):
        monkeypatch.setattr(algebra, "_NUMBERS", most)
        out = np.ones(want.shape)
        algebra.add_cluster_products(trace, labels, V, out, transposed)
        assert_allclose(out - 1, want, atol=tolerance * np.abs(want).max() + 1e-15)


@pytest.mark.parametrize("form", ["Eq. 8", "Eq. 9"])
def test_inner_products_of_centers_of_any_rank(form, monkeypatch):
    rng, trace = np.random.default_rng(0), patches("float64")["difference"]
    count = costs.Operations(0, 1) if form == "Eq. 8" else costs.Operations(1, 0)
    monkeypatch.setattr(costs, "inner_products", lambda *_: count)
    c, d = rng.standard_normal((3, 4, trace.n_inputs)), rng.standard_normal((3, 4, trace.n_outputs))
    out = np.zeros((11, 4))
    algebra.add_inner_products(trace, list(zip(c, d, strict=True)), out)
    want = sum(naive.inner_products(trace.A, trace.D, *pair) for pair in zip(c, d, strict=True))
    assert_allclose(out, want, rtol=1e-11, atol=1e-12)


def test_a_convolutional_network_at_full_rank_is_exact_alternating():
    net = gcref.resnet8((6, 7, 2), 3, norm="batch", width=2, dtype="float64")
    rng = np.random.default_rng(0)
    _, traces = net.traces(rng.standard_normal((25, 6, 7, 2)), rng.integers(0, 3, 25))
    exact = ExactClustering(4, "alternating", n_iter=3).fit(per_example_gradients(traces))
    est = GradientClustering(4, center="svd", rank=80, n_iter=3).fit(traces)
    assert_array_equal(est.labels_, exact.labels_)
    assert_allclose(est.objective_, exact.objective_, rtol=1e-9)
    low = GradientClustering(4, center="svd", rank=2, n_iter=3).fit(traces)
    steps = naive_low_rank.Clustering(blocks_of(traces), 4, "svd", 2).run(3)
    assert_array_equal(low.last_labels_, steps[-1][1])
    assert_allclose(low.objective_, [phi for phi, _, _ in steps], rtol=1e-6)
