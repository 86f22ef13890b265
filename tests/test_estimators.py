"""Estimators draw what they say, and are unbiased; their variance is the matter of test_variance."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import gcref
import gcref.estimators
from estimator_cases import ESTIMATORS, LABELS, SIZES
from gcref.data import Dataset
from gcref.engine.network import Network
from gcref.engine.trace import concatenate
from gcref.estimators import full_gradient
from gcref.validation import enumeration


class WrongWeights(gcref.Stratified):
    """A biased estimator: the clusters count alike, whatever their size."""

    def sample(self, net, ds, rng):
        chosen = [rng.choice(stratum.indices) for stratum in self.strata(ds)]
        return net.gradient(ds.x[chosen], ds.y[chosen])[1]


class ForgetfulSVRG(gcref.SVRG):
    """A biased estimator: the full gradient at the snapshot is not added back."""

    def sample(self, net, ds, rng):
        return super().sample(net, ds, rng) - self.gradient_


class FirstHalf(gcref.MiniBatch):
    """A biased estimator: half of the data set is never drawn."""

    def _draw(self, ds, rng):
        return rng.choice(len(ds.y) // 2, self.batch_size, replace=self.replacement)


def prepared(estimator, seed=0, n_examples=7):
    """A prepared estimator with a network that has moved since, and its data set."""
    net, ds = enumeration.problem(n_examples, SIZES, seed)
    assert estimator.prepare(net, ds) is estimator
    net.theta += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)
    return net, ds


def worst_z(estimator, net, ds, n_draws=2000):
    """Largest distance of the mean of draws from the full gradient, in standard errors, in 8 directions."""
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((net.n_parameters, 8))
    draws = np.array([estimator.sample(net, ds, rng) for _ in range(n_draws)]) @ directions
    exact = enumeration.gradients(net, ds.x, ds.y).mean(axis=0) @ directions
    return float(np.max(np.abs(draws.mean(axis=0) - exact) / draws.std(axis=0, ddof=1)) * np.sqrt(n_draws))


# ------------------------------------------------------------------------------------------- the distribution


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_sample_is_unbiased(make):
    estimator = make()
    net, ds = prepared(estimator)
    assert worst_z(estimator, net, ds) < 5


@pytest.mark.parametrize("make", [lambda: WrongWeights(LABELS), lambda: ForgetfulSVRG(2), lambda: FirstHalf(2)])
def test_a_biased_estimator_fails_that_check(make):
    estimator = make()
    net, ds = prepared(estimator)
    assert worst_z(estimator, net, ds) > 5


def p_value(estimator, net, ds, n_draws=3000):
    """Chi-square test that `sample` draws each enumerated estimate, and no other, as often as it should."""
    snapshot = net.copy()
    snapshot.theta = getattr(estimator, "theta_", net.theta)  # there is no batch norm
    every = (enumeration.gradients(at, ds.x, ds.y) for at in (net, snapshot))
    outcomes, weights = np.unique(enumeration.estimates(estimator, *every).round(10), axis=0, return_counts=True)
    counts = np.zeros(len(outcomes))
    rng = np.random.default_rng(2)
    for _ in range(n_draws):
        distances = np.abs(outcomes - estimator.sample(net, ds, rng)).max(axis=1)
        assert distances.min() < 1e-9
        counts[distances.argmin()] += 1
    return float(chisquare(counts, weights / weights.sum() * n_draws).pvalue)


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_sample_draws_every_batch_with_its_probability(make):
    estimator = make()
    net, ds = prepared(estimator)
    assert p_value(estimator, net, ds) > 1e-4


def test_a_draw_of_other_probabilities_fails_that_check():
    class Lazy(gcref.MiniBatch):
        def _draw(self, ds, rng):
            return np.sort(rng.permutation(len(ds.y) + 1)[: self.batch_size] % len(ds.y))

    estimator = Lazy(2, replacement=True)
    net, ds = prepared(estimator)
    assert p_value(estimator, net, ds) < 1e-4


IMAGE_MODELS = [enumeration.Model("", enumeration.pooled, enumeration.IMAGE), enumeration.resnet8("batch")]


@pytest.mark.parametrize("model", IMAGE_MODELS, ids=["pooled", "ResNet8 with batch norm"])
@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_a_sample_of_images_is_an_enumerated_estimate(model, make):
    estimator = make()
    net, ds = enumeration.draw(7, model, 0)
    estimator.prepare(net, ds)
    G_snapshot = enumeration.gradients(net, ds.x, ds.y)
    enumeration.move(net, ds, 0)  # also the running statistics, of which SVRG's snapshot keeps its own
    every = enumeration.estimates(estimator, enumeration.gradients(net, ds.x, ds.y), G_snapshot)
    rng = np.random.default_rng(0)
    found = {int(np.abs(every - estimator.sample(net, ds, rng)).max(axis=1).argmin()) for _ in range(20)}
    assert len(found) > 3
    for _ in range(10):
        assert np.abs(every - estimator.sample(net, ds, rng)).max(axis=1).min() <= 1e-14 * np.abs(every).max()


def test_sample_repeats_with_its_seed():
    for make in ESTIMATORS.values():
        estimator = make()
        net, ds = prepared(estimator)
        first, again, other = (estimator.sample(net, ds, np.random.default_rng(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert first.shape == net.theta.shape


# ----------------------------------------------------------------------------------------------------- strata


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0, 1, 2, 7, 10**15]), min_size=1, max_size=20))
def test_strata_hold_every_example_once(labels):
    ds = Dataset(np.ones((len(labels), 1)), np.zeros(len(labels), int))
    strata = gcref.Stratified(labels).strata(ds)
    assert len(strata) == len(set(labels))
    assert sorted(np.concatenate([s.indices for s in strata])) == list(range(len(labels)))
    for stratum in strata:
        assert len({labels[i] for i in stratum.indices}) == 1
        assert stratum.n_draws == 1


@pytest.mark.parametrize(
    ("batch_size", "replacement", "n_draws"),
    [(None, False, [1, 1, 1]), (1, False, [1, 1, 1]), (2, True, [1, 1, 1]), (3, False, [1, 1, 1]),
     (4, False, [1, 2, 1]), (6, False, [2, 3, 1]), (7, False, [2, 4, 1]), (9, True, [3, 5, 1])],
)  # fmt: skip
def test_further_draws_go_where_they_lower_the_variance_most(batch_size, replacement, n_draws):
    _, ds = enumeration.problem(7, SIZES, 0)
    strata = gcref.Stratified(LABELS, batch_size, replacement).strata(ds)
    assert [len(s.indices) for s in strata] == [2, 4, 1]
    assert [s.n_draws for s in strata] == n_draws
    assert {s.replacement for s in strata} == {replacement}


def test_a_cluster_found_empty_is_no_stratum():
    class Fitted:
        labels_ = 3 * LABELS

        def fit(self, batches):
            return self

    net, ds = prepared(estimator := gcref.Stratified(Fitted(), 2))
    assert len(estimator.strata(ds)) == 3
    assert estimator.sample(net, ds, np.random.default_rng(0)).shape == net.theta.shape


def test_mini_batch_is_one_stratum():
    net, ds = enumeration.problem(5, SIZES, 0)
    for estimator in (gcref.MiniBatch(3), gcref.SVRG(3, replacement=True).prepare(net, ds)):
        (stratum,) = estimator.strata(ds)
        assert stratum.indices.tolist() == [0, 1, 2, 3, 4]
        assert (stratum.n_draws, stratum.replacement) == (3, estimator.replacement)


# ---------------------------------------------------------------------------------------------------- prepare


def test_svrg_copies_theta_and_the_full_gradient():
    net, ds = enumeration.problem(6, SIZES, 0)
    before = net.theta.copy()
    svrg = gcref.SVRG(2).prepare(net, ds)
    expected = enumeration.gradients(net, ds.x, ds.y).mean(axis=0)
    net.theta += 1.0
    np.testing.assert_array_equal(svrg.theta_, before)
    np.testing.assert_allclose(svrg.gradient_, expected, rtol=1e-12, atol=1e-15)
    svrg.prepare(net, ds)
    np.testing.assert_array_equal(svrg.theta_, net.theta)


def test_svrg_takes_up_a_snapshot_made_before():
    model = IMAGE_MODELS[1]
    net, ds = enumeration.draw(6, model, 0)
    enumeration.move(net, ds, 0)
    svrg = gcref.SVRG(2).prepare(net, ds)
    kept = svrg.theta_.copy(), svrg.running_.copy(), svrg.gradient_.copy()
    enumeration.move(net, ds, 1)
    for array, before, now in zip((svrg.theta_, svrg.running_), kept, (net.theta, net.running), strict=False):
        np.testing.assert_array_equal(array, before)
        assert not np.array_equal(now, before)
    reference = model.build(5)
    reference.theta, reference.running[:] = kept[0], kept[1]
    again = gcref.SVRG(2).resume(reference, kept[2])
    np.testing.assert_array_equal(*(s.sample(net, ds, np.random.default_rng(0)) for s in (svrg, again)))
    assert gcref.variance(svrg, net, ds) == gcref.variance(again, net, ds)


def test_svrg_at_its_snapshot_is_exact():
    net, ds = enumeration.problem(6, SIZES, 0)
    svrg = gcref.SVRG(2).prepare(net, ds)
    np.testing.assert_array_equal(svrg.sample(net, ds, np.random.default_rng(0)), svrg.gradient_)


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("clusterer", [gcref.GradientClustering, gcref.ExactClustering])
def test_prepare_fits_the_clusterer_to_the_gradients_of_the_moment(monkeypatch, chunk, clusterer):
    monkeypatch.setattr(gcref.estimators, "CHUNK", chunk)
    net, ds = enumeration.problem(7, SIZES, 3)
    stratified = gcref.Stratified(clusterer(3, seed=1))
    for _ in range(2):
        stratified.prepare(net, ds)
        one_by_one = [net.traces(ds.x[i : i + 1], ds.y[i : i + 1])[1] for i in range(7)]
        expected = clusterer(3, seed=1).fit(concatenate(one_by_one)).labels_
        np.testing.assert_array_equal(stratified.labels_, expected)
        net.theta = net.theta[::-1].copy()


def test_given_labels_are_copied_and_stay():
    net, ds = enumeration.problem(7, SIZES, 0)
    labels = LABELS.copy()
    stratified = gcref.Stratified(labels).prepare(net, ds)
    labels[:] = 0
    np.testing.assert_array_equal(stratified.labels_, LABELS)
    with pytest.raises(ValueError, match="read-only"):
        stratified.labels_[0] = 1


def test_labels_of_other_frameworks_will_do():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return LABELS.astype(np.uint8)

    np.testing.assert_array_equal(gcref.Stratified(Tensor()).labels_, LABELS)
    np.testing.assert_array_equal(gcref.Stratified(LABELS.tolist()).labels_, LABELS)


# ---------------------------------------------------------------------------------------------- full gradient


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_full_gradient_is_the_mean(n_examples, seed):
    net, ds = enumeration.problem(n_examples, SIZES, seed)
    expected = enumeration.gradients(net, ds.x, ds.y).mean(axis=0)
    np.testing.assert_allclose(full_gradient(net, ds), expected, rtol=1e-10, atol=1e-15)


def test_full_gradient_works_through_the_data_in_chunks(monkeypatch):
    net, ds = enumeration.problem(7, SIZES, 0)
    whole = full_gradient(net, ds)
    lengths = record_lengths(monkeypatch, "gradient")
    monkeypatch.setattr(gcref.estimators, "CHUNK", 3)
    np.testing.assert_allclose(full_gradient(net, ds), whole, rtol=1e-12, atol=1e-16)
    assert lengths == [3, 3, 1]


def record_lengths(monkeypatch, method):
    """Have `Network.<method>` note how many examples it is given."""
    lengths, original = [], getattr(Network, method)

    def recording(self, x, *args, **kwargs):
        lengths.append(len(x))
        return original(self, x, *args, **kwargs)

    monkeypatch.setattr(Network, method, recording)
    return lengths


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_float32_stays_float32(make):
    net, ds = enumeration.problem(7, SIZES, 0)
    net = net.copy("float32")
    estimator = make().prepare(net, ds)
    assert estimator.sample(net, ds, np.random.default_rng(0)).dtype == np.float32
    assert full_gradient(net, ds).dtype == np.float32


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("make", [gcref.MiniBatch, gcref.SVRG, lambda size: gcref.Stratified([0, 1], size)])
@pytest.mark.parametrize("size", [0, -1, True, 2.5, 2.0, "2", [2]])
def test_batch_size_is_a_positive_integer(make, size):
    with pytest.raises(ValueError, match=r"batch_size=.*integer") as info:
        make(size)
    assert repr(size) in str(info.value)


@pytest.mark.parametrize("kind", [gcref.MiniBatch, gcref.SVRG])
def test_a_mini_batch_has_a_batch_size(kind):
    with pytest.raises(ValueError, match="batch_size=None; an integer not below 1"):
        kind(None)


def test_a_numpy_integer_is_an_integer():
    assert gcref.MiniBatch(np.int64(3)).batch_size == 3


def test_draws_without_replacement_fit_the_labels():
    with pytest.raises(ValueError, match="batch_size=8 but clustering gives labels of 7 examples; draw fewer, or use"):
        gcref.Stratified(LABELS, 8)
    net, ds = enumeration.problem(7, SIZES, 0)
    clusterer = gcref.ExactClustering(2)
    with pytest.raises(ValueError, match="batch_size=8 but clustering gives labels of 7 examples"):
        gcref.Stratified(clusterer, 8).prepare(net, ds)
    gcref.Stratified(LABELS, 8, replacement=True).sample(net, ds, np.random.default_rng(0))


def test_a_batch_without_replacement_fits_the_data_set():
    net, ds = enumeration.problem(5, SIZES, 0)
    rng = np.random.default_rng(0)
    for use in (lambda e: e.sample(net, ds, rng), lambda e: gcref.variance(e, net, ds)):
        with pytest.raises(ValueError, match="batch_size=6 but the data set has 5 examples"):
            use(gcref.MiniBatch(6))
        use(gcref.MiniBatch(6, replacement=True))
    with pytest.raises(ValueError, match="batch_size=6 but the data set has 5 examples"):
        gcref.SVRG(6).prepare(net, ds)


def test_nothing_is_drawn_from_an_empty_data_set():
    _, ds = enumeration.problem(5, SIZES, 0)
    empty = SimpleNamespace(x=ds.x[:0], y=ds.y[:0])
    for replacement in (False, True):
        with pytest.raises(ValueError, match="batch_size=1 but the data set has 0 examples"):
            gcref.MiniBatch(1, replacement).strata(empty)
    gcref.MiniBatch(5).strata(ds)


@pytest.mark.parametrize("estimator", [gcref.MiniBatch(2), gcref.Stratified([0, 1, 1])], ids=repr)
def test_there_is_one_input_a_label(estimator):
    net, ds = gcref.linear(2, 2), SimpleNamespace(x=np.ones((4, 2)), y=np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="ds has 4 inputs x but 3 labels y"):
        estimator.sample(net, ds, np.random.default_rng(0))
    with pytest.raises(ValueError, match="ds has 4 inputs x but 3 labels y"):
        gcref.variance(estimator, net, ds)


def test_only_fewer_draws_than_clusters_merge_any():
    assert gcref.MiniBatch(2).merging == gcref.SVRG(2).merging == 0.0
    assert [gcref.Stratified(LABELS, size).merging for size in (None, 3, 4)] == [0.0, 0.0, 0.0]
    assert [gcref.Stratified(LABELS, size).merging for size in (1, 2)] == [1.0, pytest.approx(1 / 3, rel=1e-15)]


def test_a_stratum_and_a_variance_stay_as_they_are():
    for record, name in (
        (gcref.estimators.Stratum(LABELS, 1, False), "n_draws"),
        (gcref.Variance(1, 1, 1, 0), "average"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 2)


@pytest.mark.parametrize("method", ["closed-form", "monte-carlo"])
@pytest.mark.parametrize("estimator", [gcref.SVRG(2), gcref.Stratified(gcref.GradientClustering(2))], ids=repr)
def test_what_must_be_prepared_says_so(estimator, method):
    net, ds = enumeration.problem(5, SIZES, 0)
    with pytest.raises(ValueError, match=r"call prepare\(net, ds\) first"):
        estimator.sample(net, ds, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"call prepare\(net, ds\) first"):
        gcref.variance(estimator, net, ds, method=method)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], r"clustering has shape \(2,\) and dtype float64; a vector of integer labels"),
        ([True, False], r"clustering has shape \(2,\) and dtype bool"),
        ([[0, 1]], r"clustering has shape \(1, 2\) and dtype int64"),
        ([], r"clustering has shape \(0,\)"),
        (3, r"clustering has shape \(\) and dtype int64"),
        (None, r"clustering has shape \(\) and dtype object"),
        ([0, 2, -1], "clustering has the label -1 at 2; labels start at 0"),
    ],
)
def test_labels_are_a_vector_of_integers(labels, message):
    with pytest.raises(ValueError, match=message):
        gcref.Stratified(labels)


@pytest.mark.parametrize("n_examples", [5, 6, 8])
def test_there_is_one_label_an_example(n_examples):
    net, ds = enumeration.problem(n_examples, SIZES, 0)
    for use in (
        lambda e: e.sample(net, ds, np.random.default_rng(0)),
        lambda e: gcref.variance(e, net, ds),
    ):
        with pytest.raises(ValueError, match=f"labels of 7 examples; the data set has {n_examples}"):
            use(gcref.Stratified(LABELS))


def test_repr_shows_what_was_asked_for():
    assert repr(gcref.MiniBatch(4)) == "MiniBatch(4, replacement=False)"
    assert repr(gcref.SVRG(4, replacement=True)) == "SVRG(4, replacement=True)"
    assert repr(gcref.Stratified([0, 1])) == "Stratified(labels of 2 examples)"
    assert repr(gcref.Stratified(gcref.GradientClustering(3))) == "Stratified(GradientClustering(n_clusters=3))"
    assert repr(gcref.Stratified([0, 1], 3, True)) == "Stratified(labels of 2 examples, batch_size=3, replacement=True)"
