import numpy as np
import pytest

from gcref.clustering.base import Clusterer, check_integer
from gcref.clustering.exact import ExactClustering
from gcref.clustering.low_rank import GradientClustering
from gcref.clustering.sketched import SketchedClustering
from gcref.engine.trace import Trace

BOTH = pytest.mark.parametrize("cls", [ExactClustering, GradientClustering])


def some_traces(N=8):
    rng = np.random.default_rng(0)
    return [Trace(rng.standard_normal((N, 3)), rng.standard_normal((N, 2)))]


@BOTH
def test_parameters_are_stored_as_given_and_can_be_set(cls):
    n_clusters = object()
    est = cls(n_clusters, seed=3)
    params = est.get_params()
    assert params["n_clusters"] is n_clusters
    assert params["seed"] == 3
    assert params["warm_start"] is False
    assert next(iter(params)) == "n_clusters"
    assert est.set_params(seed=5, n_clusters=2) is est
    assert est.get_params(deep=False) == params | {"seed": 5, "n_clusters": 2}
    with pytest.raises(ValueError, match=r"has no parameter 'k'; it has n_clusters"):
        est.set_params(seed=9, k=3)
    assert est.seed == 5


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(GradientClustering(8)) == "GradientClustering(n_clusters=8)"
    assert repr(ExactClustering(8, "exchange", seed=1)) == "ExactClustering(n_clusters=8, update='exchange', seed=1)"


@BOTH
def test_clone_gives_an_unfitted_copy(cls):
    base = pytest.importorskip("sklearn.base")
    est = cls(2, n_iter=3, seed=7).fit(some_traces())
    copy = base.clone(est)
    assert copy.get_params() == est.get_params()
    assert not hasattr(copy, "labels_")
    np.testing.assert_array_equal(copy.fit(some_traces()).labels_, est.labels_)


@BOTH
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_clusters": 0}, r"n_clusters=0; an integer not below 1"),
        ({"n_clusters": 2.0}, r"n_clusters=2.0; an integer"),
        ({"n_clusters": True}, r"n_clusters=True; an integer"),
        ({"n_clusters": "2"}, r"n_clusters='2'; an integer"),
        ({"n_clusters": 9}, r"n_clusters=9 but there are only 8 examples"),
        ({"n_iter": 0}, r"n_iter=0; an integer not below 1"),
        ({"seed": -1}, r"seed=-1; an integer not below 0"),
        ({"seed": None}, r"seed=None; an integer"),
        ({"sizes": "frozen"}, r"sizes='frozen'; expected one of 'sequential', 'fixed'"),
    ],
)
def test_bad_parameters_are_named(cls, params, message):
    with pytest.raises(ValueError, match=message):
        cls(**{"n_clusters": 2} | params).fit(some_traces())


@BOTH
def test_integers_of_numpy_are_integers(cls):
    est = cls(np.int64(2), n_iter=np.int32(2), seed=np.uint8(1)).fit(some_traces())
    assert est.sizes_.sum() == 8


@BOTH
def test_what_is_learnt(cls):
    est = cls(3, n_iter=4)
    assert est.fit(some_traces()) is est
    assert cls(3, n_iter=4).fit_predict(some_traces()).tolist() == est.labels_.tolist()
    assert est.labels_.dtype == est.sizes_.dtype == np.int64
    np.testing.assert_array_equal(est.sizes_, np.bincount(est.labels_, minlength=3))
    assert est.sizes_.min() > 0
    assert est.objective_.shape == (4,)
    assert est.objective_.dtype == np.float64
    assert est.n_iter_ == 4


@BOTH
@pytest.mark.parametrize("K", [1, 8])
def test_one_cluster_and_as_many_clusters_as_examples(cls, K):
    est = cls(K).fit(some_traces())
    np.testing.assert_array_equal(np.sort(est.sizes_), [8] if K == 1 else np.ones(8))


@BOTH
def test_same_seed_same_labels_and_other_seed_other_start(cls):
    traces = some_traces(40)
    first, again, other = (cls(4, n_iter=2, seed=s).fit(traces) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.objective_, again.objective_)
    assert (first.labels_ != other.labels_).any()


@BOTH
def test_warm_start_with_nothing_before_is_a_cold_start(cls):
    cold, warm = (cls(3, warm_start=w).fit(some_traces()) for w in (False, True))
    np.testing.assert_array_equal(cold.labels_, warm.labels_)


@BOTH
def test_a_cold_start_forgets_the_last_fit(cls):
    est = cls(3, n_iter=2).fit(some_traces())
    labels = est.labels_
    np.testing.assert_array_equal(est.fit(some_traces()).labels_, labels)
    assert est.n_iter_ == 2


EVERYONES = {"n_clusters": 3, "seed": 0, "warm_start": False, "device": "cpu"}
ONLINE = {"update": "full", "batch_size": None, "decay": None, "a_share": 1.0, "blocks": None}


@pytest.mark.parametrize(
    ("cls", "own"),
    [
        (ExactClustering, {"update": "alternating", "sizes": "sequential", "n_iter": 10, "form": "auto"}),
        (GradientClustering, {"center": "mean", "rank": 1, "sizes": "sequential", "n_iter": 10, **ONLINE}),
        (
            SketchedClustering,
            {"dim": 128, "drift": 0.0, "n_iter": 20, "check_dim": 32, "accuracy": None, "n_candidates": None},
        ),
    ],
)
def test_defaults_are_those_documented(cls, own):
    assert cls(3).get_params() == EVERYONES | own


def test_a_clusterer_fits():
    with pytest.raises(TypeError, match="abstract"):
        Clusterer()


def test_an_integer_at_the_bound_is_taken():
    check_integer("n", 5, 5)
    with pytest.raises(ValueError, match="n=4; an integer not below 5 is expected"):
        check_integer("n", 4, 5)
