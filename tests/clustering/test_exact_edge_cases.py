"""What is at the edge of sense has a defined result or one clear error, whatever the update, the form and the input."""

import re
from math import comb

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gcref.clustering.base import NotFiniteError
from gcref.clustering.exact import ExactClustering
from gcref.engine.trace import Trace
from gcref.validation import naive_optimum

CASES = [
    (update, form, given_as)
    for update in ("alternating", "exchange", "enumeration")
    for form in ("explicit", "gram")
    for given_as in ("array", "traces", "function")
]
EVERYWHERE = pytest.mark.parametrize(("update", "form", "given_as"), CASES)


def fit(G, n_clusters, update, form, given_as, **params):
    """A clustering of the rows of G."""
    given = G
    if given_as != "array":
        G = np.asarray(G, dtype=float)
        batches = [[Trace(np.ones((1, 1)), row[None])] for row in G]
        given = [Trace(np.ones((len(G), 1)), G)] if given_as == "traces" else lambda: iter(batches)
    return ExactClustering(n_clusters, update, form=form, **params).fit(given)


def assert_sound(est, G, n_clusters):
    """No cluster is empty, and the objective is that of the labels."""
    assert est.labels_.shape == (len(G),)
    assert est.sizes_.shape == (n_clusters,)
    assert est.sizes_.min() >= 1
    assert_array_equal(np.bincount(est.labels_, minlength=n_clusters), est.sizes_)
    scale = len(G) * (np.asarray(G, dtype=float) ** 2).sum()
    assert_allclose(est.objective_.min(), naive_optimum.objective(est.labels_.tolist(), G), atol=1e-14 * scale)


@EVERYWHERE
def test_one_example(update, form, given_as):
    est = fit(np.array([[3.0, -1.0]]), 1, update, form, given_as)
    assert_array_equal(est.labels_, [0])
    assert_array_equal(est.objective_[-1], 0.0)


@EVERYWHERE
@pytest.mark.parametrize("value", [0.0, 0.1, 1e150])
@pytest.mark.parametrize("n_clusters", [1, 3, 7])
def test_gradients_that_are_all_equal(update, form, given_as, value, n_clusters):
    G = np.full((7, 3), value)
    est = fit(G, n_clusters, update, form, given_as)
    assert est.sizes_.min() >= 1
    assert_array_equal(np.bincount(est.labels_, minlength=n_clusters), est.sizes_)
    # A mean of equal numbers is off by an ulp or two; of products, their squares are.
    exact = value == 0.0
    assert est.objective_.max() <= (0.0 if exact else 1e-15 * 7 * (G**2).sum())


@EVERYWHERE
def test_one_cluster(update, form, given_as):
    G = np.random.default_rng(0).standard_normal((9, 4))
    est = fit(G, 1, update, form, given_as)
    assert_array_equal(est.labels_, np.zeros(9))
    assert_allclose(est.objective_[0], 81 * G.var(axis=0).sum(), rtol=1e-12)


@EVERYWHERE
def test_as_many_clusters_as_examples(update, form, given_as):
    G = np.random.default_rng(1).standard_normal((9, 4))
    est = fit(G, 9, update, form, given_as)
    assert_array_equal(np.sort(est.labels_), np.arange(9))
    assert est.objective_.max() <= 1e-14 * 9 * (G**2).sum()


@EVERYWHERE
def test_more_clusters_than_examples(update, form, given_as):
    with pytest.raises(ValueError, match=re.escape("n_clusters=6 but there are only 5 examples; every cluster needs")):
        fit(np.ones((5, 2)), 6, update, form, given_as)


@EVERYWHERE
def test_duplicated_rows(update, form, given_as):
    distinct = np.random.default_rng(2).standard_normal((3, 4))
    G = distinct[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]
    for n_clusters in (2, 3, 6):
        est = fit(G, n_clusters, update, form, given_as, n_iter=30)
        assert_sound(est, G, n_clusters)
    if update == "enumeration":  # which alone promises it
        found = fit(G, 3, update, form, given_as)
        assert_array_equal(found.labels_, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


@EVERYWHERE
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(update, form, given_as, bad):
    G = np.ones((5, 2))
    G[3, 1] = bad
    where = "G has NaN or infinity in row 3" if given_as == "array" else "NaN or infinity at example 3"
    with pytest.raises(ValueError, match=where):
        fit(G, 2, update, form, given_as)


@EVERYWHERE
def test_no_example_at_all(update, form, given_as):
    if given_as == "traces":
        given_as = "array"
    with pytest.raises(ValueError, match="n_clusters=1 but there are only 0 examples"):
        fit(np.ones((0, 2)), 1, update, form, given_as)


@pytest.mark.parametrize("update", ["alternating", "exchange", "enumeration"])
@pytest.mark.parametrize("form", ["explicit", "gram"])
def test_gradients_without_parameters(update, form):
    est = ExactClustering(2, update, form=form).fit(np.zeros((5, 0)))
    assert est.sizes_.min() >= 1
    assert est.objective_.max() == 0.0


# ------------------------------------------------------------------------------------------------- enumeration


@pytest.mark.parametrize("given_as", ["array", "traces", "function"])
def test_too_many_examples_to_enumerate(given_as):
    G = np.random.default_rng(0).standard_normal((13, 2))
    message = "update='enumeration' tries every partition of at most 12 examples, but there are 13; 'exchange'"
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(G, 2, "enumeration", "auto", given_as)
    assert fit(G[:12], 2, "enumeration", "auto", given_as).objective_.shape == (1,)


@pytest.mark.parametrize("form", ["explicit", "gram"])
@pytest.mark.parametrize("given_as", ["array", "traces", "function"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_enumeration_finds_the_optimum_of_the_oracle(form, given_as, dtype):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        N = int(rng.integers(2, 8))
        G = rng.standard_normal((N, 3)).astype(dtype).astype(float)
        for n_clusters in range(1, N + 1):
            est = fit(G, n_clusters, "enumeration", form, given_as)
            everything = naive_optimum.partitions(N, n_clusters)
            best = min(everything, key=lambda labels: naive_optimum.objective(labels, G))
            assert_array_equal(est.labels_, best)
            assert_array_equal(est.last_labels_, best)
            assert_sound(est, G, n_clusters)
            assert est.n_iter_ == 1


def test_more_clusters_never_raise_the_optimum():
    G = np.random.default_rng(5).standard_normal((12, 3))
    optima = [ExactClustering(K, "enumeration").fit(G).objective_[0] for K in range(1, 13)]
    assert np.all(np.diff(optima) < 0)
    assert optima[-1] == 0.0
    assert optima[0] == pytest.approx(144 * G.var(axis=0).sum(), rel=1e-13)


def test_the_optimum_of_points_in_general_position():
    # All distances are 1, so that Φ counts the pairs: the sizes are as even as they can be.
    G = np.eye(11) / np.sqrt(2)
    for K in range(1, 12):
        est = ExactClustering(K, "enumeration").fit(G)
        small, more = divmod(11, K)
        pairs = (K - more) * comb(small, 2) + more * comb(small + 1, 2)
        assert est.objective_[0] == pytest.approx(pairs, rel=1e-13, abs=1e-30)


def test_enumeration_has_centres_and_can_be_continued_by_exchange():
    G = np.random.default_rng(7).standard_normal((10, 2))
    est = ExactClustering(3, "enumeration", form="explicit", warm_start=True).fit(G)
    assert_allclose(est.centers_, [G[est.labels_ == k].mean(axis=0) for k in range(3)])
    best, labels = est.objective_[0], est.labels_
    est.set_params(update="exchange").fit(G)
    assert_array_equal(est.labels_, labels)  # nothing is left to be gained
    assert est.objective_[-1] == pytest.approx(best, rel=1e-13)
    assert est.n_iter_ == 2


def test_what_all_have_in_common_stops_no_exchange():
    # Eleven digits of the gradients are the same: neither threshold nor rounding may drown the rest.
    rng = np.random.default_rng(0)
    differences = np.round(rng.standard_normal((40, 3)), 3)
    G = 1e8 + 1e3 * differences
    for form in ("explicit", "gram"):
        est = ExactClustering(4, "exchange", form=form, n_iter=50).fit(G)
        alone = ExactClustering(4, "exchange", form=form, n_iter=50).fit(differences)
        assert_array_equal(est.labels_, alone.labels_)
        assert_allclose(est.objective_, 1e6 * alone.objective_, rtol=1e-9)


@pytest.mark.parametrize("form", ["explicit", "gram"])
def test_what_is_not_finite_is_told_from_other_mistakes(form):
    # A study takes it for a divergence, and goes on.
    A = np.ones((3, 2))
    for bad in (np.nan, 1e200):
        A[1] = bad
        for given in (A, [Trace(A, np.ones((3, 1)))]):
            with pytest.raises(NotFiniteError):
                ExactClustering(2, form=form).fit(given)
