import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import gcref
from gcref.clustering.exchange import VectorPoints, exchange, neighbours
from gcref.clustering.sketched import SketchedClustering, check_share
from gcref.clustering.sketches import Sketches, dim_for
from gcref.engine.trace import Trace, per_example_gradients
from gcref.kernels import cpu
from gcref.validation import naive_sketch

SETTINGS = settings(max_examples=60, deadline=None)


@SETTINGS
@given(
    st.integers(1, 5),
    st.integers(0, 7),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 3.0]),
    st.integers(0, 10**6),
    st.sampled_from(["float64", "float32"]),
)
def test_sweeps_under_drift_match_the_oracle(K, more, d, drift, seed, dtype):
    rng = np.random.default_rng(seed)
    N = K + more
    G = rng.standard_normal((N, d)).astype(dtype)
    start, order, threshold = rng.permutation(N) % K, rng.permutation(N), 1e-9
    points = VectorPoints(G.astype(float), 0.0)
    points._drift = drift
    want, got = start.copy(), start.copy()
    moved = naive_sketch.exchange_sweep(G, order, want, K, threshold, drift)
    assert points.sweep(order, got, K, threshold) == moved
    assert_array_equal(got, want)
    assert_allclose(points.objective_of(got, K), naive_sketch.objective(want, G, drift), rtol=1e-10, atol=1e-10)

    gram = G.astype(float) @ G.astype(float).T
    labels, sizes = start.copy(), np.bincount(start, minlength=K)
    e = np.bincount(start, weights=np.diagonal(gram), minlength=K)
    s_dot_g = np.ascontiguousarray(cpu.grouped_sums(gram, start, K).T)
    assert cpu.exchange_sweep_gram(gram, order, labels, sizes, e, s_dot_g, threshold, drift) == moved
    assert_array_equal(labels, want)


@SETTINGS
@given(st.integers(2, 6), st.integers(0, 7), st.integers(1, 3), st.sampled_from([0.0, 0.5]), st.integers(0, 10**6))
def test_sweeps_among_candidates_match_the_oracle(K, more, L, drift, seed):
    rng = np.random.default_rng(seed)
    N, L = K + more, min(L, K - 1)
    G, start, order = rng.standard_normal((N, 3)), rng.permutation(N) % K, rng.permutation(N)
    points = VectorPoints(G)
    sums = points.sums(start, K)
    near = neighbours(*sums, L)
    want, got = start.copy(), start.copy()
    moved = naive_sketch.exchange_sweep(G, order, want, K, 1e-9, drift, near)
    assert cpu.exchange_sweep_among(points._vectors, order, got, *sums, 1e-9, drift, near) == moved
    assert_array_equal(got, want)


def test_neighbours_are_where_a_clusters_mean_would_cost_least():
    rng = np.random.default_rng(0)
    G, labels = rng.standard_normal((30, 4)), rng.permutation(30) % 5
    near = neighbours(*VectorPoints(G).sums(labels, 5), 2)
    for a in range(5):
        mean = G[labels == a].mean(axis=0)
        costs = {}
        for b in range(5):
            members = np.vstack([G[labels == b], mean[None]])
            before = naive_sketch.objective(np.zeros(len(members) - 1, dtype=int), members[:-1], 0.0)
            costs[b] = naive_sketch.objective(np.zeros(len(members), dtype=int), members, 0.0) - before
        others = sorted((b for b in range(5) if b != a), key=costs.__getitem__)
        assert_array_equal(near[a], sorted(others[:2]))


def test_many_neighbours_are_the_nearest_of_many():
    rng = np.random.default_rng(0)
    for L in (1, 2, 7, 30, 38):
        sizes, e, s = rng.integers(1, 9, 40), rng.random(40), rng.standard_normal((40, 3))
        means = s / sizes[:, None]
        for a, near in enumerate(neighbours(sizes, e, s, L)):
            costs = sizes * ((means - means[a]) ** 2).sum(axis=1) + e - sizes * (means**2).sum(axis=1)
            order = [b for b in np.argsort(costs) if b != a]
            assert_array_equal(near, np.sort(order[:L]))


@pytest.mark.parametrize(("n_candidates", "sweeps"), [(None, "aaa"), (3, "acc"), (4, "aaa"), (9, "aaa")])
def test_the_first_sweep_looks_at_all_clusters_and_the_others_at_candidates(monkeypatch, n_candidates, sweeps):
    seen = []
    monkeypatch.setattr(cpu, "exchange_sweep", lambda *_: seen.append("a"))
    monkeypatch.setattr(
        cpu, "exchange_sweep_among", lambda *args: seen.append("c" if args[-1].shape == (4, 3) else "?")
    )
    points = VectorPoints(np.random.default_rng(0).standard_normal((12, 2)), n_candidates=n_candidates)
    for _ in range(3):
        points.sweep(np.arange(12), np.arange(12) % 4, 4, 0.0)
    assert "".join(seen) == sweeps


def test_drift_is_a_share_of_the_mean_squared_norm():
    G = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    points = VectorPoints(G, 0.5)
    assert_array_equal(points.sq_norms, [25.0, 1.0, 0.0, 2.0])
    # Two clusters of two: 2·(17 + 9)/… by hand: Σ‖g − c‖² is (9 + 9)/2 and (1 + 1)/2; and 3.5·(4 + 4) of drift.
    assert points.objective_of(np.array([0, 0, 1, 1]), 2) == pytest.approx(2 * 9 + 2 * 1 + 3.5 * 8, rel=1e-15)


def test_an_empty_cluster_costs_nothing():
    points = VectorPoints(np.array([[1.0], [3.0], [7.0], [7.0]]))
    assert points.objective_of(np.array([0, 0, 2, 2]), 3) == pytest.approx(4.0, rel=1e-15)


@SETTINGS
@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 4), st.sampled_from([0.0, 0.5]), st.integers(0, 10**6))
def test_new_examples_join_as_the_oracle_says(K, more, n_new, drift, seed):
    rng = np.random.default_rng(seed)
    known = K + more
    G = rng.standard_normal((known + n_new, 3))
    labels = np.concatenate([rng.permutation(known) % K, np.full(n_new, -1)])
    points = VectorPoints(G)
    points._drift = drift
    want, got, new = labels.copy(), labels.copy(), np.arange(known, known + n_new)
    naive_sketch.join(G, new, want, K, drift)
    points.place(new, got, K)
    assert_array_equal(got, want)


def test_drift_is_the_expected_objective_of_gradients_that_moved():
    rng = np.random.default_rng(0)
    G, labels, tau2, n = rng.standard_normal((12, 5)), np.arange(12) % 3, 0.7, 4000
    found = naive_sketch.expected_objective(labels, G, tau2, rng, n)
    # Of each cluster n_k (n_k − 1) τ² remains of n_k² τ²: the constant N τ² apart.
    want = naive_sketch.objective(labels, G, tau2) - len(G) * tau2
    assert abs(found.mean() - want) < 4 * found.std(ddof=1) / np.sqrt(n)


@pytest.mark.parametrize("drift", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_rises_and_is_that_of_the_labels(modes, drift, seed):
    fit = SketchedClustering(6, dim=16, drift=drift, seed=seed).fit(modes(seed=seed))
    assert (np.diff(fit.objective_) <= 1e-12 * fit.objective_[:-1]).all()
    z = fit.sketches_.values[:, :16] * np.sqrt(48 / 16)
    tau2 = drift * (z**2).sum() / len(z)
    assert_allclose(fit.objective_.min(), naive_sketch.objective(fit.labels_, z, tau2), rtol=1e-10)
    assert_array_equal(fit.sizes_, np.bincount(fit.labels_))
    assert fit.sizes_.min() >= 1
    assert fit.labels_.dtype == np.int64


def test_drift_keeps_clusters_from_growing_huge(modes):
    traces = modes(N=300)
    sizes = [SketchedClustering(6, drift=drift).fit(traces).sizes_.max() for drift in (0.0, 10.0)]
    assert sizes[0] > sizes[1] == 50


def test_modes_are_found(modes):
    mode = np.random.default_rng(0).integers(0, 5, 60)
    labels = SketchedClustering(5, seed=0).fit(modes()).labels_
    G = per_example_gradients(modes())
    within = sum(len(set(mode[labels == k])) for k in range(5))
    phi = naive_sketch.objective(labels, G, 0.0)
    assert within <= 7
    assert phi < 0.2 * naive_sketch.objective(np.arange(60) % 5, G, 0.0)


def test_the_estimate_of_the_variance_is_unbiased_and_knows_its_error(modes):
    traces = modes(N=40)
    G = per_example_gradients(traces)
    n_seeds, z, optimism = 300, [], []
    for seed in range(n_seeds):
        fit = SketchedClustering(8, dim=8, check_dim=64, seed=seed).fit(traces)
        exact = naive_sketch.objective(fit.labels_, G, 0.0) / (40**2 * G.shape[1])
        z.append((fit.variance_ - exact) / exact)
        optimism.append(fit.objective_.min() / (40**2 * G.shape[1]) / exact)
    z = np.array(z)
    assert abs(z.mean()) < 4 * z.std(ddof=1) / np.sqrt(n_seeds)
    # Φ of the sketches that the labels were chosen by is too small, by far more than chance.
    assert np.mean(optimism) < 1 - 4 * np.std(optimism, ddof=1) / np.sqrt(n_seeds)


def test_the_error_of_the_estimate_is_the_spread_over_seeds(modes):
    traces = modes(N=40)
    fits = [SketchedClustering(8, dim=8, check_dim=128, seed=seed).fit(traces) for seed in range(200)]
    G = per_example_gradients(traces)
    exact = np.array([naive_sketch.objective(f.labels_, G, 0.0) / (40**2 * G.shape[1]) for f in fits])
    z = (np.array([f.variance_ for f in fits]) - exact) / np.array([f.variance_error_ for f in fits])
    # The mean of 200 squares of z, each 1 on average with a deviation of some √2 to 2.
    assert abs((z**2).mean() - 1) < 4 * 2 / np.sqrt(200)


def test_the_estimate_is_the_oracles(modes):
    traces = modes(N=20)
    fit = SketchedClustering(3, dim=4, check_dim=3).fit(traces)
    hidden = fit.sketches_.values[:, 4:] * np.sqrt(7)
    d = sum(t.n_parameters for t in traces)
    each = [naive_sketch.variance_of_one_component(fit.labels_, u, d) for u in hidden.T]
    assert_allclose(fit.variance_, np.mean(each), rtol=1e-10)
    assert_allclose(fit.variance_error_, np.std(each, ddof=1) / np.sqrt(3), rtol=1e-10)


def test_without_check_numbers_there_is_no_estimate(modes):
    fit = SketchedClustering(3, check_dim=0).fit(modes())
    assert np.isnan(fit.variance_)
    assert np.isnan(SketchedClustering(3, check_dim=1).fit(modes()).variance_error_)


def test_streams_and_lists_give_the_same_fit(modes, helpers):
    traces = modes()
    batches = helpers.split(traces, [10, 30, 20])
    whole = SketchedClustering(5).fit(traces)
    for arrangement in (batches, lambda: iter(batches)):
        fit = SketchedClustering(5).fit(arrangement)
        assert_array_equal(fit.labels_, whole.labels_)
        assert_allclose(fit.objective_, whole.objective_, rtol=1e-12)


def test_kept_sketches_are_clustered_again(modes):
    first = SketchedClustering(5, dim=20, check_dim=4).fit(modes())
    again = SketchedClustering(5, dim=20, check_dim=4).fit(first.sketches_)
    assert_array_equal(again.labels_, first.labels_)
    other = SketchedClustering(9, dim=20, check_dim=4, drift=0.1).fit(first.sketches_)
    assert len(other.sizes_) == 9
    with pytest.raises(ValueError, match="the sketches have 24 numbers; dim=8"):
        SketchedClustering(5, dim=8).fit(first.sketches_)


def test_a_warm_start_goes_on_where_the_last_fit_ended(modes):
    traces = modes(N=200)
    whole = SketchedClustering(8, n_iter=4).fit(traces)
    step = SketchedClustering(8, n_iter=1, warm_start=True)
    history = [step.fit(traces).objective_[0] for _ in range(len(whole.objective_))]
    assert_allclose(history, whole.objective_, rtol=1e-12)
    assert_array_equal(step.last_labels_, whole.last_labels_)
    assert step.n_iter_ == whole.n_iter_


def test_partial_fit_takes_in_new_examples(modes, helpers):
    traces = modes(N=90)
    first, second = helpers.split(traces, [60, 30])
    fit = SketchedClustering(5, seed=2).partial_fit(first)
    before, n_iter = fit.labels_.copy(), fit.n_iter_
    fit.partial_fit(second)
    assert len(fit.labels_) == 90
    assert fit.n_iter_ > n_iter
    whole = Sketches(128 + 32, 2).add(traces)
    assert_allclose(fit.sketches_.values, whole.values, rtol=1e-12, atol=1e-13)
    labels = np.concatenate([before, np.full(30, -1)])
    points = VectorPoints(whole.values[:, :128] * np.sqrt(160 / 128))
    points.place(np.arange(60, 90), labels, 5)
    want = exchange(points, labels, 5, 2, range(n_iter + 1, n_iter + 21))
    assert_array_equal(fit.labels_, want.labels)


def test_a_partial_fit_that_is_interrupted_can_be_made_again(modes, helpers, monkeypatch):
    first, second = helpers.split(modes(), [40, 20])
    fit = SketchedClustering(4, dim=8).fit(first)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_sweep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit.partial_fit(second)
    assert len(fit.partial_fit(second).labels_) == len(fit.sketches_) == 60


def test_partial_fit_refreshes_some(modes):
    old, new = modes(seed=0), modes(seed=1)
    fit = SketchedClustering(5).fit(old)
    rows = np.arange(30)
    fit.partial_fit([t.rows(slice(0, 30)) for t in new], indices=rows)
    mixed = [Trace(np.concatenate([n.A[:30], o.A[30:]]), np.concatenate([n.D[:30], o.D[30:]]))
             for n, o in zip(new, old, strict=True)]  # fmt: skip
    assert_allclose(fit.sketches_.values, Sketches(160).add(mixed).values, rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="call fit"):
        SketchedClustering(5).partial_fit(old, indices=[0])


@pytest.mark.parametrize("n_clusters", [4, 6])
def test_partial_fit_goes_on_with_as_many_clusters(modes, n_clusters):
    fit = SketchedClustering(5).fit(modes())
    with pytest.raises(ValueError, match=f"n_clusters={n_clusters} but the last fit has 5; call fit"):
        fit.set_params(n_clusters=n_clusters).partial_fit(modes(seed=1))
    assert len(fit.sketches_) == 60


def test_the_accuracy_sets_the_dimension(modes):
    fit = SketchedClustering(3, accuracy=0.5).fit(modes())
    assert fit.sketches_.dim == dim_for(0.5) + 32 == 68


def test_candidates_cost_little_of_the_objective(modes):
    traces = modes(N=400)
    full, few = (SketchedClustering(20, n_candidates=n).fit(traces) for n in (None, 5))
    assert (np.diff(few.objective_) <= 1e-12 * few.objective_[:-1]).all()
    assert few.objective_.min() < 1.25 * full.objective_.min()
    assert_array_equal(SketchedClustering(20, n_candidates=20).fit(traces).labels_, full.labels_)


@pytest.mark.parametrize(
    ("kind", "K"),
    [("equal", 3), ("zero", 3), ("duplicates", 4), ("modes", 1), ("modes", 12)],
)
def test_degenerate_gradients(kind, K):
    rng = np.random.default_rng(0)
    A, D = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    if kind == "equal":
        A, D = np.tile(A[:1], (12, 1)), np.tile(D[:1], (12, 1))
    if kind == "zero":
        A, D = np.zeros_like(A), np.zeros_like(D)
    if kind == "duplicates":
        A, D = np.tile(A[:4], (3, 1)), np.tile(D[:4], (3, 1))
    fit = SketchedClustering(K).fit([Trace(A, D)])
    assert fit.sizes_.min() >= 1
    assert fit.sizes_.sum() == 12
    assert np.isfinite(fit.objective_).all()
    if kind in ("equal", "zero", "duplicates") or K == 12:
        assert fit.objective_[-1] <= 1e-20
        assert fit.variance_ <= 1e-20
    if K == 12:
        assert_array_equal(np.sort(fit.labels_), np.arange(12))


def test_one_example():
    fit = SketchedClustering(1).fit([Trace(np.ones((1, 2)), np.ones((1, 3)))])
    assert_array_equal(fit.labels_, [0])
    assert fit.objective_[0] == 0
    assert fit.variance_ == 0


def test_bad_arguments_are_named(modes):
    for params, match in (
        ({"dim": 0}, "dim=0"),
        ({"dim": 2.5}, "dim=2.5"),
        ({"drift": -0.1}, "drift=-0.1; a finite number not below 0"),
        ({"drift": float("nan")}, "drift=nan"),
        ({"drift": True}, "drift=True"),
        ({"check_dim": -1}, "check_dim=-1"),
        ({"accuracy": 0.0}, "accuracy=0.0; a finite number in 0.001…3"),
        ({"n_candidates": 0}, "n_candidates=0"),
        ({"n_iter": 0}, "n_iter=0"),
        ({"n_clusters": 61}, "n_clusters=61 but there are only 60"),
    ):
        with pytest.raises(ValueError, match=match):
            SketchedClustering(**{"n_clusters": 5, **params}).fit(modes())
    bad = modes()
    bad[0].D[7, 1] = np.nan
    with pytest.raises(ValueError, match="example 7 is not finite"):
        SketchedClustering(5).fit(bad)


def test_bounds_are_in_bounds():
    for value in (1, 1.0, 3, np.float32(2.0)):
        check_share("share", value, 1.0, 3.0)
    check_share("share", 1e300, 0.0, np.inf)
    for value in (np.nextafter(1.0, 0), np.nextafter(3.0, 4), np.nan, None, True):
        with pytest.raises(ValueError, match=r"share=.*; a finite number in 1…3 is expected"):
            check_share("share", value, 1.0, 3.0)
    with pytest.raises(ValueError, match=r"share=inf; a finite number not below 0 is expected"):
        check_share("share", np.inf, 0.0, np.inf)
    SketchedClustering(1, dim=1, check_dim=0, drift=0, n_candidates=1, n_iter=1).fit(
        [Trace(np.ones((2, 1)), np.ones((2, 1)))]
    )


def test_it_serves_the_estimator():
    net = gcref.mlp((6, 8, 3), seed=0, dtype="float64")
    rng = np.random.default_rng(0)
    ds = gcref.data.Dataset(rng.standard_normal((60, 6)), rng.integers(0, 3, 60))
    estimator = gcref.Stratified(gcref.SketchedClustering(10, dim=64)).prepare(net, ds)
    found = gcref.variance(estimator, net, ds).average
    assert found < gcref.variance(gcref.MiniBatch(10), net, ds).average
    fit = estimator.clustering
    assert abs(fit.variance_ - found) < 5 * fit.variance_error_


def test_clone_and_repr():
    sklearn_base = pytest.importorskip("sklearn.base")
    fit = SketchedClustering(5, drift=0.1)
    assert sklearn_base.clone(fit).get_params() == fit.get_params()
    assert repr(fit) == "SketchedClustering(n_clusters=5, drift=0.1)"
