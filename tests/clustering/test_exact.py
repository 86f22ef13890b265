import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gcref.clustering import exact, points
from gcref.clustering.exact import ExactClustering
from gcref.clustering.points import ExplicitPoints, GramPoints
from gcref.engine.trace import Trace, per_example_gradients
from gcref.kernels import cpu
from gcref.validation import naive

FORMS = pytest.mark.parametrize("form", ["explicit", "gram"])
UPDATES = pytest.mark.parametrize("update", ["alternating", "exchange"])


@UPDATES
@FORMS
@pytest.mark.parametrize("sizes", ["sequential", "fixed"])
def test_the_objective_is_that_of_the_labels(modes, update, form, sizes):
    G = per_example_gradients(modes())
    est = ExactClustering(6, update, sizes=sizes, form=form, n_iter=5).fit(G)
    assert est.form_ == form
    phi = naive.objective(est.labels_, G)
    assert_allclose(est.objective_.min(), phi, rtol=1e-10)
    last = naive.objective(est.last_labels_, G)
    assert_allclose(est.objective_[-1], last, rtol=1e-10)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 5),
    st.integers(0, 25),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.sampled_from(["alternating", "exchange"]),
)
def test_gram_form_equals_explicit_form(K, more, d, seed, update):
    G = np.random.default_rng(seed).standard_normal((K + more, d))
    explicit, gram = (ExactClustering(K, update, seed=seed, form=f).fit(G) for f in ("explicit", "gram"))
    assert_array_equal(explicit.labels_, gram.labels_)
    assert_array_equal(explicit.last_labels_, gram.last_labels_)
    scale = 1e-12 * len(G) * (G**2).sum()
    assert_allclose(explicit.objective_, gram.objective_, rtol=1e-10, atol=scale)


@UPDATES
@FORMS
def test_traces_equal_their_gradients(modes, helpers, update, form):
    traces = modes(N=50)
    expected = ExactClustering(5, update).fit(per_example_gradients(traces))
    batches = helpers.split(traces, [20, 13, 17])
    for given_traces in (traces, batches, lambda: iter(batches)):
        est = ExactClustering(5, update, form=form).fit(given_traces)
        assert_array_equal(est.labels_, expected.labels_)
        assert_allclose(est.objective_, expected.objective_, rtol=1e-9)


@UPDATES
@FORMS
def test_one_gradient_many_times_costs_nothing(update, form):
    G = np.tile(100.0 + np.random.default_rng(0).standard_normal(30), (20, 1))
    est = ExactClustering(3, update, form=form).fit(G)
    scale = len(G) * (G**2).sum()
    assert est.objective_.max() <= (1e-28 if form == "explicit" else 1e-14) * scale
    assert est.sizes_.min() >= 1


@FORMS
def test_rounding_moves_no_duplicate(form):
    # Without the threshold, hundreds of these move in a sweep.
    rng = np.random.default_rng(1)
    G = np.tile(100.0 + rng.standard_normal(33), (1000, 1))
    est = ExactClustering(5, "exchange", form=form, warm_start=True)
    est.last_labels_, est.n_iter_ = np.minimum(rng.geometric(0.5, 1000) - 1, 4), 1
    before = est.last_labels_.copy()
    assert_array_equal(est.fit(G).labels_, before)
    assert est.n_iter_ == 2


@FORMS
def test_exchange_gives_every_group_of_duplicates_its_own_cluster(form):
    G = np.repeat(100.0 + np.random.default_rng(0).standard_normal((4, 30)), 5, axis=0)
    est = ExactClustering(4, "exchange", form=form, n_iter=20).fit(G)
    assert_array_equal(est.labels_, np.repeat(est.labels_[::5], 5))
    assert est.objective_[-1] <= (1e-28 if form == "explicit" else 1e-14) * len(G) * (G**2).sum()


def test_traces_that_are_not_finite(modes):
    traces = modes()
    traces[1].D[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity at example 7"):
        ExactClustering(3).fit(traces)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 5),
    st.integers(0, 25),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_exchange_never_raises_the_objective_and_ends_in_a_local_optimum(K, more, d, repeat, seed, gram):
    rng = np.random.default_rng(seed)
    N = K + more
    G = rng.standard_normal((N, d))
    if repeat:
        G = G[rng.integers(0, N, N)]
    est = ExactClustering(K, "exchange", n_iter=60, seed=seed, form="gram" if gram else "explicit").fit(G)
    slack = 1e-12 * N * (G**2).sum()
    assert np.all(np.diff(est.objective_) <= slack)
    start = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).permutation(N) % K
    assert est.objective_[0] <= naive.objective(start, G) + slack
    assert est.n_iter_ < 60
    best = naive.objective(est.labels_, G)
    for i in range(N):
        for b in range(K):
            trial = est.labels_.copy()
            trial[i] = b
            assert len(set(trial.tolist())) < K or naive.objective(trial, G) >= best - 2 * slack


def test_exchange_stops_when_few_move(monkeypatch):
    moves = iter([500, 1, 0])
    G = np.random.default_rng(0).standard_normal((1001, 1))
    monkeypatch.setattr(cpu, "exchange_sweep", lambda *args: next(moves))
    assert ExactClustering(2, "exchange", form="explicit").fit(G).n_iter_ == 2
    moves = iter([500, 2, 0])
    assert ExactClustering(2, "exchange", form="explicit").fit(G).n_iter_ == 3
    moves = iter([500, 500, 500])
    assert ExactClustering(2, "exchange", form="explicit", n_iter=2).fit(G).n_iter_ == 2


def test_no_move_is_worth_less_than_rounding(monkeypatch):
    thresholds = []
    for name in ("exchange_sweep", "exchange_sweep_gram"):
        monkeypatch.setattr(cpu, name, lambda *args: thresholds.append(args[6]) or 0)
    G = np.array([[9.0, 0.0], [11.0, 0.0], [10.0, 2.0], [10.0, -2.0]])  # the mean is (10, 0)
    for form in ("explicit", "gram"):
        ExactClustering(2, "exchange", form=form).fit(G)
    ExactClustering(2, "exchange", form="gram").fit([Trace(np.ones((4, 1)), G)])
    # Of an array the deviations count, of traces the gradients, whose rounding their products have.
    assert_allclose(thresholds, [1e-12 * 4 * 10, 1e-12 * 4 * 10, 1e-12 * 4 * 410], rtol=1e-14)


def test_rounding_makes_no_norm_or_distance_negative():
    G = np.repeat(1e8 + np.random.default_rng(0).standard_normal((2, 7)), 10, axis=0)
    points = GramPoints(G @ G.T)
    assert points.sq_norms.min() >= 0.0
    assert_array_equal(points.gram.diagonal(), points.sq_norms)
    assert points.sq_distances().min() >= 0.0
    G += 1e-6 * np.random.default_rng(1).standard_normal(G.shape)  # distances that rounding drowns
    assert (GramPoints(G @ G.T).sq_distances() == 0.0).sum() > 20
    points = GramPoints(np.diag([1.0, 4.0, 9.0]))
    assert_allclose(points.sq_distances(), [[0, 5, 10], [5, 0, 13], [10, 13, 0]], atol=1e-14)
    assert_allclose(ExplicitPoints(np.diag([1.0, 2.0, 3.0])).sq_distances(), points.sq_distances(), atol=1e-14)


def test_sequential_sizes_beat_plain_sampling_and_exchange_beats_both(modes, helpers):
    for seed in range(3):
        G = per_example_gradients(modes(N=300, seed=seed))
        plain = helpers.sgb(G, 10)
        alternating = ExactClustering(10, seed=seed).fit(G).objective_.min()
        exchanged = ExactClustering(10, "exchange", seed=seed).fit(G).objective_.min()
        assert alternating < 0.5 * plain
        assert exchanged < 1.02 * alternating  # both are local minima


def test_fixed_sizes_can_raise_the_objective_but_the_best_is_kept(modes):
    G = per_example_gradients(modes(N=200, seed=1))
    est = ExactClustering(8, sizes="fixed", n_iter=12).fit(G)
    assert np.diff(est.objective_).max() > 0.01 * est.objective_.min()
    assert est.objective_[-1] > est.objective_.min()
    assert_allclose(naive.objective(est.labels_, G), est.objective_.min(), rtol=1e-10)


@FORMS
@pytest.mark.parametrize("sizes", ["sequential", "fixed"])
def test_a_warm_start_goes_on_as_one_long_run(modes, form, sizes):
    G = per_example_gradients(modes(N=120, seed=2))
    once = ExactClustering(7, sizes=sizes, n_iter=6, form=form).fit(G)
    parts = ExactClustering(7, sizes=sizes, n_iter=2, form=form, warm_start=True)
    history = np.concatenate([parts.fit(G).objective_ for _ in range(3)])
    assert_array_equal(history, once.objective_)
    assert_array_equal(parts.last_labels_, once.last_labels_)
    assert parts.n_iter_ == 6


@FORMS
def test_a_warm_exchange_goes_on_as_one_long_run(form):
    G = np.random.default_rng(3).standard_normal((400, 10))
    once = ExactClustering(20, "exchange", n_iter=6, form=form).fit(G)
    assert once.n_iter_ == 6
    parts = ExactClustering(20, "exchange", n_iter=3, form=form, warm_start=True)
    history = np.concatenate([parts.fit(G).objective_ for _ in range(2)])
    assert_allclose(history, once.objective_, rtol=1e-10)
    assert_array_equal(parts.labels_, once.labels_)


def test_a_run_restarted_from_stored_centers(modes):
    G = per_example_gradients(modes(N=80))
    once = ExactClustering(5, n_iter=4, form="explicit").fit(G)
    half = ExactClustering(5, n_iter=2, form="explicit").fit(G)
    rest = ExactClustering(5, n_iter=2, form="explicit", warm_start=True)
    rest.centers_, rest.n_iter_ = half.centers_.copy(), half.n_iter_
    assert_array_equal(rest.fit(G).objective_, once.objective_[2:])
    assert_array_equal(rest.last_labels_, once.last_labels_)


def test_centers_follow_the_gradients_of_the_last_iteration(modes):
    G = per_example_gradients(modes())
    est = ExactClustering(4, form="explicit", n_iter=3).fit(G)
    means = [G[est.last_labels_ == k].mean(axis=0) for k in range(4)]
    assert_allclose(est.centers_, means)
    assert ExactClustering(4, form="gram").fit(G).centers_ is None


def test_warm_starts_that_do_not_fit():
    G = np.random.default_rng(0).standard_normal((12, 4))
    est = ExactClustering(3, form="explicit", warm_start=True).fit(G)
    with pytest.raises(ValueError, match=re.escape("centers_ of shape (3, 4) but this fit needs (3, 3)")):
        est.fit(G[:, :3])
    est.set_params(n_clusters=4)
    with pytest.raises(ValueError, match=re.escape("this fit needs (4, 4)")):
        est.fit(G)
    est.set_params(n_clusters=3).fit(G[:8])
    est = ExactClustering(3, "exchange", warm_start=True).fit(G)
    with pytest.raises(ValueError, match="12 examples in 3 clusters, but this fit has 11 examples"):
        est.fit(G[:11])
    with pytest.raises(ValueError, match="n_clusters=4; set warm_start=False"):
        est.set_params(n_clusters=4).fit(G)


def test_float32_gradients_give_a_float64_objective(modes):
    G = per_example_gradients(modes())
    est = ExactClustering(5, "exchange", form="explicit").fit(G.astype(np.float32))
    double = ExactClustering(5, "exchange", form="explicit").fit(G)
    assert est.objective_.dtype == np.float64
    assert_allclose(est.objective_[-1], double.objective_[-1], rtol=1e-4)
    ExactClustering(5, form="explicit").fit(np.asfortranarray(G.astype(np.float32)))


@pytest.mark.parametrize("common", [0.0, 100.0, 1e4])
def test_what_all_gradients_share_does_not_drown_the_objective(common):
    rng = np.random.default_rng(3)
    G = (rng.standard_normal((60, 200)) + common).astype(np.float32)
    traces = [Trace(np.ones((60, 1), np.float32), G)]
    exact = G.astype(np.float64)
    for given_as, rtol in ((G, 1e-10), (traces, 1e-16 * common**2 * 200 + 1e-10)):
        est = ExactClustering(5, "exchange", form="gram").fit(given_as)
        means = np.stack([exact[est.labels_ == k].mean(axis=0) for k in range(5)])
        phi = (est.sizes_[est.labels_] * ((exact - means[est.labels_]) ** 2).sum(axis=1)).sum()
        assert est.objective_.min() == pytest.approx(phi, rel=rtol)


@pytest.mark.parametrize("size", [1e200, 1e154])
@FORMS
def test_gradients_whose_norms_overflow_are_refused(form, size):
    # 1e154² is finite, but not N² times it.
    G = np.array([[1.0], [2.0], [size], [3.0]])
    for given_as in (G, [Trace(np.ones((4, 1)), G)]):
        with pytest.raises(ValueError, match="squared norm of gradient 2 overflows"):
            ExactClustering(2, form=form).fit(given_as)


def test_the_form_is_chosen_by_operations_and_memory(modes, monkeypatch):
    tall, wide = (
        np.random.default_rng(0).standard_normal((200, 2)),
        np.ones((10, 3000)) * np.arange(10.0)[:, None],
    )
    assert ExactClustering(3).fit(tall).form_ == "explicit"
    assert ExactClustering(3, n_iter=10).fit(wide).form_ == "gram"
    assert ExactClustering(2).fit(modes(N=10, T=1)).form_ in ("explicit", "gram")
    monkeypatch.setattr(exact, "_MEMORY", 100)
    assert ExactClustering(3).fit(wide).form_ == "explicit"
    costs = {"explicit": (300, 1), "gram": (200, 5)}
    assert exact._cheaper(costs) == "gram"
    monkeypatch.setattr(exact, "_MEMORY", 300)
    assert exact._cheaper(costs) == "explicit"


@pytest.mark.parametrize(
    ("params", "G", "error", "message"),
    [
        (
            {"update": "swap"},
            np.ones((4, 2)),
            ValueError,
            "update='swap'; expected one of 'alternating', 'exchange', 'enumeration'",
        ),
        ({"form": "sparse"}, np.ones((4, 2)), ValueError, "form='sparse'; expected one of"),
        ({}, np.ones(4), ValueError, "G has shape (4,); (N, d), one gradient a row, or traces are expected"),
        ({}, np.array([["a", "b"]] * 4), TypeError, "G has dtype <U1; real numbers"),
        ({}, np.ones((4, 2)) * 1j, TypeError, "G has dtype complex128"),
        ({}, np.array([[1.0], [np.nan], [1.0]]), ValueError, "G has NaN or infinity in row 1"),
        ({"form": "gram"}, np.array([[1.0], [np.inf], [1.0]]), ValueError, "G has NaN or infinity in row 1"),
    ],
)
def test_bad_input_is_named(params, G, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ExactClustering(2, **params).fit(G)


def test_a_warm_start_takes_labels_where_the_form_has_no_centers(modes):
    G = per_example_gradients(modes(N=80))
    once = ExactClustering(5, n_iter=4, form="gram").fit(G)
    est = ExactClustering(5, n_iter=2, form="explicit", warm_start=True).fit(G)
    est.set_params(form="gram").fit(G)
    assert_allclose(est.objective_, once.objective_[2:], rtol=1e-10)
    assert_array_equal(est.last_labels_, once.last_labels_)
    assert est.centers_ is None


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int32, bool])
def test_other_numbers_become_float64(dtype):
    G = np.array([[0, 0], [0, 1], [1, 0]], dtype=dtype)
    assert ExactClustering(2, form="explicit").fit(G).centers_.dtype == np.float64


@pytest.mark.parametrize(("G", "dtype"), [([[3, 4], [0, 1]], "float32"), ([[3, 4], [5, 1]], "float64")])
def test_float32_is_left_only_where_its_products_may_overflow(monkeypatch, G, dtype):
    assert points._LARGE == 1e37
    monkeypatch.setattr(points, "_LARGE", 25.0)
    assert ExplicitPoints(np.array(G, np.float32)).G.dtype == dtype


def test_integers_and_lists_are_gradients_too():
    G = [[0, 0], [0, 1], [9, 9], [9, 8]]
    est = ExactClustering(2, "exchange").fit(G)
    assert est.objective_[-1] == pytest.approx(2.0)
