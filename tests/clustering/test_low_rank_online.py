"""Online U steps, partial A steps and chosen blocks, against a plain loop over gradients written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gcref.clustering import low_rank
from gcref.clustering.factored import FactoredPoints
from gcref.clustering.low_rank import GradientClustering
from gcref.engine.trace import Trace, per_example_gradients
from gcref.kernels import cpu
from gcref.validation import naive_low_rank


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5),
    st.integers(0, 15),
    st.sampled_from([("mean", 1), ("svd", 1), ("svd", 2)]),
    st.sampled_from(["sequential", "fixed"]),
    st.sampled_from([None, 1, 3, 5]),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.sampled_from([0.01, 0.5, 1.0]),
    st.integers(0, 10**6),
)
def test_the_whole_run_matches_the_oracle(K, more, center, sizes, batch_size, decay, a_share, seed):
    N, rng = K + more, np.random.default_rng(seed)
    batch_size = None if batch_size is None else min(batch_size, N)
    traces = [
        Trace(rng.standard_normal((N, T, i)), rng.standard_normal((N, T, o))) for T, i, o in ((3, 4, 3), (1, 5, 6))
    ]
    online = {} if batch_size is None else {"update": "online", "batch_size": batch_size, "decay": decay}
    est = GradientClustering(K, *center, sizes=sizes, n_iter=4, seed=seed, a_share=a_share, **online).fit(traces)
    blocks = [(t.A, t.D) for t in traces]
    steps = naive_low_rank.Clustering(blocks, K, *center, sizes, seed, batch_size, decay, a_share).run(4)
    floor = 1e-11 * N * (per_example_gradients(traces) ** 2).sum()
    assert_allclose(est.objective_, [phi for phi, _, _ in steps], rtol=1e-9, atol=floor)
    assert_array_equal(est.last_labels_, steps[-1][1])
    assert_array_equal(est.labels_, steps[int(np.argmin(est.objective_))][1])
    assert est.sizes_.min() >= 1
    for (c, d), want in zip(est.centers_, steps[-1][2], strict=True):
        got = np.einsum("ki,ko->kio", c, d) if center[0] == "mean" else np.einsum("ksi,kso->kio", c, d)
        assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("center", ["mean", "svd"])
def test_streamed_and_restarted_runs_are_the_same(modes, helpers, center):
    traces = modes(N=101, seed=4)
    params = {"center": center, "update": "online", "batch_size": 40, "decay": 0.5, "a_share": 0.3}
    once = GradientClustering(9, n_iter=6, **params).fit(traces)
    for lengths in ([50, 51], [1] * 101, [40, 0, 61]):
        batches = helpers.split(traces, lengths)
        est = GradientClustering(9, n_iter=6, **params).fit(lambda batches=batches: iter(batches))
        assert_array_equal(est.labels_, once.labels_)
        assert_allclose(est.objective_, once.objective_, rtol=1e-9)
    parts = GradientClustering(9, n_iter=3, warm_start=True, **params)
    history = np.concatenate([parts.fit(traces).objective_ for _ in range(2)])
    assert_array_equal(history, once.objective_)
    lost = GradientClustering(9, n_iter=3, warm_start=True, **params)
    lost.centers_, lost.n_iter_ = parts.centers_, 3
    with pytest.raises(ValueError, match="last_labels_, which is not there"):
        lost.fit(traces)


@pytest.mark.parametrize("center", ["mean", "svd"])
def test_a_mini_batch_of_all_without_decay_is_a_full_step(modes, center):
    traces = modes(N=60)
    full = GradientClustering(5, center=center, n_iter=4).fit(traces)
    online = GradientClustering(5, center=center, n_iter=4, update="online", batch_size=60, decay=0.0).fit(traces)
    assert_array_equal(online.labels_, full.labels_)
    assert_allclose(online.objective_, full.objective_, rtol=1e-10)


@pytest.mark.parametrize("center", ["mean", "svd"])
def test_a_cluster_without_a_member_in_the_mini_batch_keeps_its_center(modes, center):
    traces = modes(N=60)
    est = GradientClustering(6, center=center, n_iter=1, update="online", batch_size=1, warm_start=True).fit(traces)
    before = est.centers_
    est.fit(traces)
    for old, new in zip(before, est.centers_, strict=True):
        for factor, moved in zip(old, new, strict=True):
            kept = [np.array_equal(factor[k], moved[k]) for k in range(6)]
            assert kept.count(False) == 1


def test_nine_tenths_of_a_center_are_kept_by_default(modes):
    found, named, other = (
        GradientClustering(5, update="online", batch_size=20, decay=decay, n_iter=3).fit(modes())
        for decay in (None, 0.9, 0.0)
    )
    assert_array_equal(found.objective_, named.objective_)
    assert (found.objective_ != other.objective_).all()


def test_a_step_of_all_examples_or_of_hardly_any(modes):
    traces, seen = modes(N=60), []

    class Recording(FactoredPoints):
        def products(self, centers, examples=None):
            seen.append(None if examples is None else len(examples))
            return super().products(centers, examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(low_rank, "FactoredPoints", Recording)
        for a_share, n in ((1.0, None), (1, None), (0.999, 60), (0.5, 30), (0.508, 30), (0.509, 31), (1e-9, 1)):
            seen.clear()
            est = GradientClustering(3, n_iter=1, a_share=a_share).fit(traces)
            assert est.sizes_.min() > 0
            assert seen == ([None, None] if n is None else [n])  # Φ of all takes the products that the next step needs


@pytest.mark.parametrize("a_share", [0.1, 0.5])
def test_the_others_keep_their_labels(modes, a_share):
    traces = modes(N=100)
    est = GradientClustering(5, n_iter=1, a_share=a_share, warm_start=True).fit(traces)
    for _ in range(5):
        before = est.last_labels_
        est.fit(traces)
        assert (est.last_labels_ != before).sum() <= 100 * a_share


@pytest.mark.parametrize("center", ["mean", "svd"])
def test_rounding_makes_no_objective_negative(center):
    rng = np.random.default_rng(0)
    for _ in range(20):
        one = rng.standard_normal((2, 1, 5))
        traces = [
            Trace(np.repeat(factor[:1], 9, axis=0), np.repeat(factor[1:], 9, axis=0))
            for factor in (one[:, 0], one[::-1, 0])
        ]
        est = GradientClustering(2, center=center, a_share=0.5, n_iter=3).fit(traces)
        assert est.objective_.min() >= 0.0
        assert est.objective_.max() <= 1e-13 * 81 * (per_example_gradients(traces)[0] ** 2).sum()


def test_many_small_a_steps_come_as_far_as_whole_ones(modes):
    traces = modes(N=300, seed=1)
    whole = GradientClustering(10, n_iter=10).fit(traces)
    first = GradientClustering(10, n_iter=1, a_share=0.2).fit(traces)
    parts = GradientClustering(10, n_iter=50, a_share=0.2).fit(traces)
    assert parts.objective_.min() < 1.1 * whole.objective_.min()
    assert parts.objective_.min() < 0.5 * first.objective_.min()


@pytest.mark.parametrize("center", ["mean", "svd"])
@pytest.mark.parametrize("chosen", [(1,), [1, 0], np.array([0])])
def test_chosen_blocks_are_all_that_counts(modes, center, chosen):
    traces = modes(N=60)
    est = GradientClustering(5, center=center, n_iter=4, blocks=chosen).fit(traces)
    alone = GradientClustering(5, center=center, n_iter=4).fit([traces[block] for block in chosen])
    assert_array_equal(est.labels_, alone.labels_)
    assert_array_equal(est.objective_, alone.objective_)
    assert len(est.centers_) == len(chosen)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(0, 10**6))
def test_sequential_sizes_count_from_those_kept(N, K, seed):
    rng = np.random.default_rng(seed)
    G, C = rng.integers(-2, 3, (N, 3)).astype(float), rng.integers(-2, 3, (K, 3)).astype(float)
    products, order, kept = ((C**2).sum(1), G @ C.T, (G**2).sum(1)), rng.permutation(N), rng.integers(0, 5, K)
    got = cpu.a_step_sequential(*products, order, kept)
    assert_array_equal(got, naive_low_rank.a_step_sequential(*products, order, kept))
    none = np.zeros(K, dtype=np.int64)
    assert_array_equal(cpu.a_step_sequential(*products, order), cpu.a_step_sequential(*products, order, none))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"update": "often"}, ValueError, r"update='often'; expected one of 'full', 'online'"),
        ({"update": "online"}, ValueError, r"batch_size=None with update='online'"),
        ({"update": "online", "batch_size": 0}, ValueError, r"batch_size=0; an integer not below 1"),
        ({"update": "online", "batch_size": 61}, ValueError, r"batch_size=61 but there are only 60 examples"),
        ({"update": "online", "batch_size": 9, "decay": 1.0}, ValueError, r"decay=1.0; a number of at least 0 and"),
        ({"update": "online", "batch_size": 9, "decay": np.nan}, ValueError, r"decay=nan; a number"),
        ({"update": "online", "batch_size": 9, "decay": -1e-9}, ValueError, r"decay=-1e-09; a number"),
        ({"update": "online", "batch_size": 9, "decay": "0.5"}, ValueError, r"decay='0.5'; a number"),
        ({"batch_size": 9}, ValueError, r"batch_size=9 with update='full'"),
        ({"decay": 0.5}, ValueError, r"decay=0.5 with update='full'"),
        ({"a_share": 0.0}, ValueError, r"a_share=0.0; a number above 0 and at most 1"),
        ({"a_share": 1.5}, ValueError, r"a_share=1.5; a number"),
        ({"a_share": True}, ValueError, r"a_share=True; a number"),
        ({"a_share": None}, ValueError, r"a_share=None; a number"),
        ({"blocks": ()}, ValueError, r"blocks=\(\); a sequence of different integers"),
        ({"blocks": (0, 0)}, ValueError, r"blocks=\(0, 0\); a sequence of different"),
        ({"blocks": (-1,)}, ValueError, r"blocks=\(-1,\); a sequence"),
        ({"blocks": (0.0,)}, ValueError, r"blocks=\(0.0,\); a sequence"),
        ({"blocks": 1}, TypeError, r"blocks=1; a sequence"),
        ({"blocks": (0, 2)}, ValueError, r"blocks has 2 but the traces have only blocks 0 to 1"),
    ],
)
def test_nonsense_is_refused(modes, params, error, message):
    with pytest.raises(error, match=message):
        GradientClustering(3, **params).fit(modes())


def test_parameters_are_stored_and_cloned():
    params = {
        "update": "online",
        "batch_size": 8,
        "decay": 0.5,
        "a_share": 0.5,
        "blocks": (0,),
        "center": "svd",
        "rank": 2,
    }
    est = GradientClustering(3, **params)
    again = GradientClustering(**est.get_params())
    assert again.get_params() == est.get_params()
    assert est.get_params().items() >= params.items()
