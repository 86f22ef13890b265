import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gcref.clustering.low_rank import GradientClustering
from gcref.engine.trace import Trace, per_example_gradients
from gcref.validation import naive


def naive_run(traces, K, sizes, n_iter, seed):
    """The whole algorithm once more, on explicit gradients and explicit rank-1 centres."""
    G = per_example_gradients(traces).astype(float)
    N = len(G)

    def stream(t):
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(t,)))

    def centers(labels):
        blocks = [naive.u_step(t.A, t.D, labels, K) for t in traces]
        return np.stack([np.concatenate([np.outer(c[k], d[k]).ravel() for c, d in blocks]) for k in range(K)])

    labels = stream(0).permutation(N) % K
    C, counts, history = centers(labels), np.bincount(labels, minlength=K), []
    for t in range(1, n_iter + 1):
        rng = stream(t)
        products = (C**2).sum(1), G @ C.T, (G**2).sum(1)
        if sizes == "sequential":
            labels = naive.a_step_sequential(*products, rng.permutation(N))
        else:
            labels = naive.a_step_fixed(*products, counts)
        counts = np.bincount(labels, minlength=K)
        for empty in [k for k in range(K) if counts[k] == 0]:
            costs = [counts[k] * naive.spread(G, C, labels)[k] if counts[k] >= 2 else 0.0 for k in range(K)]
            members = np.flatnonzero(labels == int(np.argmax(costs)))
            labels[rng.permutation(members)[: len(members) // 2]] = empty
            counts = np.bincount(labels, minlength=K)
        C = centers(labels)
        history.append((float(counts @ naive.spread(G, C, labels)), labels))
    return history


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 5),
    st.integers(0, 15),
    st.integers(1, 3),
    st.sampled_from(["sequential", "fixed"]),
    st.integers(0, 10**6),
)
def test_the_whole_run_matches_the_oracle(K, more, T, sizes, seed):
    rng = np.random.default_rng(seed)
    N = K + more
    traces = [
        Trace(rng.standard_normal((N, T, 3)), rng.standard_normal((N, T, 2))),
        Trace(np.asfortranarray(rng.standard_normal((N, 1, 2))), rng.standard_normal((N, 1, 4))),
    ]
    est = GradientClustering(K, sizes=sizes, n_iter=3, seed=seed).fit(traces)
    history = naive_run(traces, K, sizes, 3, seed)
    # Where g_i is its own centre, as with K = N, Φ is 0 but for rounding and its minimum anywhere.
    floor = 1e-11 * N * (per_example_gradients(traces) ** 2).sum()
    assert_allclose(est.objective_, [phi for phi, _ in history], rtol=1e-9, atol=floor)
    assert_array_equal(est.last_labels_, history[-1][1])
    assert_array_equal(est.labels_, history[int(np.argmin(est.objective_))][1])


@pytest.mark.parametrize("sizes", ["sequential", "fixed"])
def test_the_objective_is_about_the_low_rank_centers_of_the_labels(modes, helpers, sizes):
    traces = modes(N=80)
    est = GradientClustering(6, sizes=sizes, n_iter=6).fit(traces)
    assert_allclose(est.objective_.min(), helpers.low_rank_objective(est.labels_, traces, 6), rtol=1e-10)
    exact = naive.objective(est.labels_, per_example_gradients(traces))
    assert est.objective_.min() >= exact
    assert_allclose(est.objective_[-1], helpers.low_rank_objective(est.last_labels_, traces, 6), rtol=1e-10)
    for (c, d), t in zip(est.centers_, traces, strict=True):
        for got, want in zip((c, d), naive.u_step(t.A, t.D, est.last_labels_, 6), strict=True):
            assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_labels_do_not_depend_on_how_the_traces_are_handed_over(modes, helpers):
    traces = modes(N=101, seed=4)
    expected = GradientClustering(9, n_iter=5).fit(traces)
    for sizes in ([101], [50, 51], [1] * 101, [40, 0, 61]):
        batches = helpers.split(traces, sizes)
        for given_traces in (batches, tuple(batches), lambda batches=batches: (b for b in batches)):
            est = GradientClustering(9, n_iter=5).fit(given_traces)
            assert_array_equal(est.labels_, expected.labels_)
            assert_allclose(est.objective_, expected.objective_, rtol=1e-9)


def test_a_function_is_called_once_a_step(modes, helpers):
    calls = []

    def batches():
        calls.append(1)
        yield from helpers.split(modes(), [30, 30])

    est = GradientClustering(4, n_iter=3, warm_start=True).fit(batches)
    assert len(calls) == 1 + 2 + 2 * 3  # norms; first U and A step; then a U step and the next products
    calls.clear()
    est.fit(batches)
    assert len(calls) == 1 + 1 + 2 * 3


@pytest.mark.parametrize("sizes", ["sequential", "fixed"])
def test_a_warm_start_goes_on_as_one_long_run(modes, sizes):
    traces = modes(N=90, seed=5)
    once = GradientClustering(7, sizes=sizes, n_iter=6).fit(traces)
    parts = GradientClustering(7, sizes=sizes, n_iter=3, warm_start=True)
    history = np.concatenate([parts.fit(traces).objective_ for _ in range(2)])
    assert_array_equal(history, once.objective_)
    assert_array_equal(parts.last_labels_, once.last_labels_)
    assert parts.n_iter_ == 6


def test_a_run_restarted_from_stored_centers(modes):
    traces = modes(N=90)
    once = GradientClustering(7, n_iter=5).fit(traces)
    half = GradientClustering(7, n_iter=2).fit(traces)
    rest = GradientClustering(7, n_iter=3, warm_start=True)
    rest.centers_, rest.n_iter_ = [(c.copy(), d.copy()) for c, d in half.centers_], half.n_iter_
    assert_array_equal(rest.fit(traces).objective_, once.objective_[2:])
    rest = GradientClustering(7, sizes="fixed", n_iter=3, warm_start=True)
    rest.centers_, rest.n_iter_ = half.centers_, half.n_iter_
    with pytest.raises(ValueError, match="last_labels_, which is not there"):
        rest.fit(traces)


def test_a_warm_start_follows_moving_gradients(modes):
    before, after = modes(N=90, seed=6), modes(N=90, seed=7)
    est = GradientClustering(5, warm_start=True).fit(before)
    centers = est.centers_
    cold = GradientClustering(5).fit(after)
    est.fit(after)
    assert est.n_iter_ == 20
    assert (est.objective_[0] != cold.objective_[0]) or (est.labels_ != cold.labels_).any()
    assert not np.array_equal(centers[0][0], est.centers_[0][0])


def test_warm_centers_that_do_not_fit(modes):
    est = GradientClustering(5, warm_start=True).fit(modes())
    with pytest.raises(ValueError, match="these traces need"):
        est.fit(modes()[:1])
    with pytest.raises(ValueError, match="these traces need"):
        est.set_params(n_clusters=6).fit(modes())


def test_uncorrelated_factors_make_the_centers_exact():
    # Within each mode A is constant, so mean(A) mean(D)ᵀ = mean(A Dᵀ).
    rng = np.random.default_rng(0)
    A = np.repeat(np.eye(3) * 5, 10, axis=0)
    traces = [Trace(A, 1.0 + 0.1 * rng.standard_normal((30, 2)))]
    est = GradientClustering(3).fit(traces)
    G = per_example_gradients(traces)
    assert_array_equal(est.sizes_, [10, 10, 10])
    assert_allclose(est.objective_.min(), naive.objective(est.labels_, G), rtol=1e-9)


def test_duplicates_cost_nothing():
    one = np.random.default_rng(0).standard_normal((2, 1, 7))
    traces = [Trace(np.repeat(one[0][None], 30, axis=0), np.repeat(one[1][None], 30, axis=0))]
    est = GradientClustering(4).fit(traces)
    scale = 30**2 * (one[0] ** 2).sum() * (one[1] ** 2).sum()
    assert est.objective_.max() <= 1e-13 * scale
    assert est.sizes_.min() >= 1


def test_sequential_sizes_beat_plain_sampling(modes, helpers):
    for seed in range(3):
        traces = modes(N=300, seed=seed)
        G = per_example_gradients(traces)
        est = GradientClustering(10, seed=seed).fit(traces)
        assert naive.objective(est.labels_, G) < 0.5 * helpers.sgb(G, 10)


def test_fixed_sizes_can_raise_the_objective_but_the_best_is_kept(modes, helpers):
    traces = modes(N=200, seed=1)
    est = GradientClustering(8, sizes="fixed", n_iter=12).fit(traces)
    assert est.objective_[-1] > est.objective_.min()
    assert_allclose(est.objective_.min(), helpers.low_rank_objective(est.labels_, traces, 8), rtol=1e-10)


def test_float32_traces_stay_float32_and_agree_with_float64(modes):
    single = GradientClustering(6, n_iter=1).fit(modes(dtype="float32"))
    double = GradientClustering(6, n_iter=1).fit(modes())
    assert all(c.dtype == d.dtype == np.float32 for c, d in single.centers_)
    assert single.objective_.dtype == np.float64
    assert (single.labels_ == double.labels_).mean() > 0.9
    assert_allclose(single.objective_, double.objective_, rtol=0.05)


def test_one_batch_of_float64_makes_the_centers_float64(modes, helpers):
    first, second = helpers.split(modes(), [30, 30])
    narrow = [trace.astype(np.dtype(np.float32)) for trace in first]
    for batches in ([narrow, second], [second, narrow]):
        fit = GradientClustering(6, n_iter=1).fit(batches)
        assert all(c.dtype == d.dtype == np.float64 for c, d in fit.centers_)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"center": "median"}, r"center='median'; expected one of 'mean', 'svd'"),
        ({"center": 3}, r"center=3; expected one of 'mean', 'svd'"),
        ({"rank": 2}, r"rank=2 with center='mean'; mean centres have rank 1"),
        ({"rank": 0}, r"rank=0; an integer not below 1"),
        ({"rank": 1.0}, r"rank=1.0; an integer"),
    ],
)
def test_centers_that_are_not_available(modes, params, message):
    with pytest.raises(ValueError, match=message):
        GradientClustering(3, **params).fit(modes())


def test_nothing_of_the_size_of_the_traces_is_copied():
    import tracemalloc

    rng = np.random.default_rng(0)
    traces = [Trace(rng.standard_normal((3000, 400)), rng.standard_normal((3000, 2)))]
    est = GradientClustering(5, n_iter=2).fit(traces)
    tracemalloc.start()
    est.fit(traces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * traces[0].A.nbytes
