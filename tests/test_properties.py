"""What holds for any input of the public functions; the tests beside each module compare them with oracles."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gcref
from estimator_cases import MODELS
from gcref.engine.losses import Logistic, SoftmaxCrossEntropy
from gcref.engine.trace import Trace, concatenate, difference
from gcref.sampling import allocate
from gcref.validation import enumeration

SETTINGS = settings(deadline=None, max_examples=15)
EPS = np.finfo(np.float64).eps
seeds = st.integers(0, 2**32 - 1)
models = st.sampled_from(sorted(MODELS))


@st.composite
def problems(draw, lowest=1):
    """A network, a data set, and labels of its examples in no order and with gaps."""
    n, seed = draw(st.integers(lowest, 12)), draw(seeds)
    net, ds = enumeration.draw(n, MODELS[draw(models)], seed, n_copies=draw(st.integers(0, n // 2)))
    labels = 3 * np.random.default_rng(seed).integers(0, draw(st.integers(1, n)), n) + 1
    return net, ds, labels


def rounding(net, ds, terms=0):
    """What rounding may make of a variance of one draw: as many eps of E[g²], added up position by position."""
    traces = net.traces(ds.x, ds.y)[1]
    magnitude = gcref.per_example_gradients([Trace(abs(t.A), abs(t.D)) for t in traces])
    positions = max(t.n_positions for t in traces)
    return (2 * len(ds) + 2 * positions + net.n_parameters + terms + 16) * EPS * float((magnitude**2).mean())


def reordered(ds, order):
    """The examples in another order."""
    return gcref.data.Dataset(ds.x[order], ds.y[order])


# ---------------------------------------------------------------------------------------------------- variance


@SETTINGS
@given(problems(), st.integers(1, 14), st.booleans())
def test_a_variance_is_a_variance(problem, batch_size, replacement):
    net, ds, labels = problem
    batch_size = batch_size if replacement else min(batch_size, len(ds))
    estimators = {
        "SG-B": gcref.MiniBatch(batch_size, replacement),
        "SVRG": gcref.SVRG(batch_size, replacement).prepare(net, ds),
        "strata": gcref.Stratified(labels, batch_size, replacement),
    }
    net.theta *= 1.1
    found = gcref.variances(estimators, net, ds)
    assert found.keys() == estimators.keys()
    for v in found.values():
        assert v.average >= 0
        assert 0 <= v.normalized <= 1
        assert v.noise_scale == found["SG-B"].noise_scale >= 0
        assert v.standard_error == 0


@SETTINGS
@given(problems())
def test_as_many_clusters_as_examples_have_none_and_one_is_a_mini_batch_of_one(problem):
    net, ds, _ = problem
    every = gcref.variance(gcref.Stratified(np.arange(len(ds))), net, ds)
    assert (every.average, every.normalized) == (0.0, 0.0)
    one = gcref.variance(gcref.Stratified(np.full(len(ds), 7)), net, ds)
    assert one == gcref.variance(gcref.MiniBatch(1), net, ds)


@SETTINGS
@given(problems(), seeds)
def test_neither_the_order_of_examples_nor_the_names_of_clusters_matter(problem, seed):
    net, ds, labels = problem
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ds))
    names = 2 * rng.permutation(labels.max() + 1)
    one = gcref.variance(gcref.Stratified(labels), net, ds)
    moved = gcref.variance(gcref.Stratified(labels[order]), net, reordered(ds, order))
    renamed = gcref.variance(gcref.Stratified(names[labels]), net, ds)
    same_order = gcref.variance(gcref.Stratified(5 * labels + 2), net, ds)
    assert same_order == one
    assert abs(moved.average - one.average) <= 2 * rounding(net, ds)
    assert abs(renamed.average - one.average) <= 2 * rounding(net, ds)


@SETTINGS
@given(problems(lowest=2), seeds)
def test_splitting_a_cluster_never_adds_variance(problem, seed):
    net, ds, labels = problem
    finer = 2 * labels + np.random.default_rng(seed).integers(0, 2, len(ds))
    coarse, fine = (gcref.variance(gcref.Stratified(part), net, ds).average for part in (labels, finer))
    assert fine <= coarse + 2 * rounding(net, ds)


@SETTINGS
@given(problems())
def test_variances_add_over_blocks_and_are_those_of_phi(problem):
    # Φ = N² d V of Eq. 1, from norms that add over blocks.
    net, ds, labels = problem
    traces = net.traces(ds.x, ds.y)[1]
    norms = gcref.per_example_sq_norms(traces)
    np.testing.assert_array_equal(norms, sum(gcref.per_example_sq_norms([trace]) for trace in traces))
    G = gcref.per_example_gradients(traces)
    phi = 0.0
    for k in np.unique(labels):
        own = G[labels == k]
        phi += len(own) * np.sum((own - own.mean(axis=0)) ** 2)
    found = gcref.variance(gcref.Stratified(labels), net, ds)
    assert abs(found.average - phi / (len(ds) ** 2 * net.n_parameters)) <= 2 * rounding(net, ds)


@SETTINGS
@given(problems(lowest=2), seeds)
def test_a_draw_is_a_weighted_sum_of_gradients(problem, seed):
    net, ds, labels = problem
    G = gcref.per_example_gradients(net.traces(ds.x, ds.y)[1])
    low, high = G.min(axis=0), G.max(axis=0)
    slack = np.sqrt(rounding(net, ds) / EPS * net.n_parameters) * EPS
    for estimator in (gcref.MiniBatch(2), gcref.Stratified(labels), gcref.Stratified(labels, 1)):
        draw = estimator.sample(net, ds, np.random.default_rng(seed))
        np.testing.assert_array_equal(draw, estimator.sample(net, ds, np.random.default_rng(seed)))
        assert (low - slack <= draw).all()  # weights are at least 0 and sum to 1
        assert (draw <= high + slack).all()


# ------------------------------------------------------------------------------------------------- clusterings


CLUSTERERS = {
    "mean": lambda **p: gcref.GradientClustering(n_iter=3, **p),
    "svd": lambda **p: gcref.GradientClustering(center="svd", rank=2, n_iter=2, **p),
    "fixed": lambda **p: gcref.GradientClustering(sizes="fixed", n_iter=3, **p),
    "sketched": lambda **p: gcref.SketchedClustering(dim=8, check_dim=2, **p),
    "alternating": lambda **p: gcref.ExactClustering(n_iter=3, **p),
    "exchange": lambda **p: gcref.ExactClustering(update="exchange", form="explicit", **p),
    "gram": lambda **p: gcref.ExactClustering(update="exchange", form="gram", **p),
}


@pytest.mark.parametrize("name", CLUSTERERS)
@SETTINGS
@given(problems(), st.data(), st.integers(0, 5))
def test_a_clustering_is_a_partition(name, problem, data, seed):
    net, ds, _ = problem
    k = data.draw(st.integers(1, len(ds)))
    traces = net.traces(ds.x, ds.y)[1]
    fit, again = (CLUSTERERS[name](n_clusters=k, seed=seed).fit(traces) for _ in range(2))
    assert np.unique(fit.labels_).tolist() == list(range(k))
    np.testing.assert_array_equal(fit.sizes_, np.bincount(fit.labels_))
    np.testing.assert_array_equal(again.labels_, fit.labels_)
    np.testing.assert_array_equal(again.objective_, fit.objective_)
    assert (fit.objective_ >= 0).all()
    assert len(fit.objective_) == fit.n_iter_
    if name in ("sketched", "exchange", "gram"):  # Φ never rises; what rounding does is below what counts as a move
        least = 1e-12 * len(ds) * max(gcref.per_example_sq_norms(traces).sum(), fit.objective_.max())
        assert (np.diff(fit.objective_) <= least).all()


@SETTINGS
@given(problems(lowest=2), st.data())
def test_sketches_are_added_in_order_and_refreshed_in_place(problem, data):
    net, ds, _ = problem
    traces = net.traces(ds.x, ds.y)[1]
    cut = data.draw(st.integers(1, len(ds) - 1))
    parts = [[t.rows(rows) for t in traces] for rows in (slice(0, cut), slice(cut, None))]
    whole = gcref.Sketches(6).add(traces).values
    added = gcref.Sketches(6).add(parts[0]).add(parts[1])
    batches = gcref.Sketches(6).add(parts)
    np.testing.assert_array_equal(batches.values, added.values)
    size = max(t.n_positions * (t.n_inputs + t.n_outputs) for t in traces) + len(traces)
    largest = sum(abs(t.A).sum(axis=2).max() * abs(t.D).sum(axis=2).max() * t.n_positions for t in traces)
    np.testing.assert_allclose(added.values, whole, rtol=0, atol=size * EPS * largest)
    added.refresh(parts[1], np.arange(len(ds) - cut))
    np.testing.assert_array_equal(added.values[: len(ds) - cut], gcref.Sketches(6).add(parts[1]).values)


# ---------------------------------------------------------------------------------------------------- sampling


@SETTINGS
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 60))
def test_draws_are_dealt_out_completely_and_to_the_larger_first(sizes, batch_size):
    found = allocate(np.array(sizes), batch_size)
    assert found.sum() == max(batch_size, len(sizes))
    assert found.min() >= 1
    order = np.argsort(sizes, kind="stable")[::-1]
    drawn, members = found[order], np.array(sizes)[order]
    assert (np.diff(drawn)[np.diff(members) < 0] <= 0).all()
    if batch_size <= sum(sizes):
        assert (found <= sizes).all()


@SETTINGS
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.data(), st.integers(0, 5), st.booleans())
def test_batches_of_a_sampler(labels, data, seed, replacement):
    batch_size = data.draw(st.none() | st.integers(1, len(labels)))
    sampler, again = (
        gcref.StratifiedBatchSampler(labels, batch_size, seed, n_batches=3, replacement=replacement) for _ in range(2)
    )
    batches = list(sampler)
    assert batches == list(again)
    assert (len(batches), sampler.epoch) == (3, 1)
    for batch in batches:
        weights = sampler.weights(batch)
        assert len(batch) == sampler.batch_size == (batch_size or len(set(labels)))
        assert all(0 <= i < len(labels) for i in batch)
        assert replacement or len(set(batch)) == len(batch)
        assert (weights > 0).all()
        assert abs(weights.sum() - 1) <= (len(batch) + 1) * EPS
        np.testing.assert_array_equal(sampler.weights(pickle.loads(pickle.dumps(batch))), weights)


# ------------------------------------------------------------------------------------------ networks and traces


@SETTINGS
@given(problems(lowest=2), st.data())
def test_traces_can_be_cut_joined_and_subtracted(problem, data):
    net, ds, _ = problem
    traces = net.traces(ds.x, ds.y)[1]
    cut = data.draw(st.integers(1, len(ds) - 1))
    parts = [[t.rows(rows) for t in traces] for rows in (slice(0, cut), slice(cut, None))]
    for trace, joined in zip(traces, concatenate(parts), strict=True):
        np.testing.assert_array_equal(joined.A, trace.A)
        np.testing.assert_array_equal(joined.D, trace.D)
    np.testing.assert_array_equal(gcref.per_example_sq_norms(difference(traces, traces)), 0.0)


@SETTINGS
@given(problems(), seeds)
def test_a_gradient_is_the_weighted_sum_of_its_examples(problem, seed):
    net, ds, _ = problem
    weights = np.random.default_rng(seed).standard_normal(len(ds))
    losses, traces = net.traces(ds.x, ds.y)
    loss, gradient = net.gradient(ds.x, ds.y, weights)
    np.testing.assert_array_equal(losses, net.losses(ds.x, ds.y))
    np.testing.assert_allclose(loss, losses @ weights, rtol=0, atol=(len(ds) + 2) * EPS * (abs(losses) @ abs(weights)))
    magnitude = gcref.per_example_gradients([Trace(abs(t.A), abs(t.D)) for t in traces])
    slack = 40 * (len(ds) + 24) * EPS * (abs(weights) @ magnitude).max()  # D goes through several layers first
    assert abs(gradient - weights @ gcref.per_example_gradients(traces)).max() <= slack


FACTORIES = {
    "linear": lambda **p: gcref.linear(5, 3, **p),
    "mlp": lambda **p: gcref.mlp((5, 4, 3), **p),
    "random_features": lambda **p: gcref.random_features(5, 7, **p),
    "cnn": lambda **p: gcref.cnn((8, 8, 2), 3, width=2, **p),
    "resnet8": lambda **p: gcref.resnet8((8, 8, 2), 3, width=2, **p),
    "resnet20": lambda **p: gcref.resnet20((8, 8, 2), 3, width=2, **p),
    "resnet32": lambda **p: gcref.resnet32((8, 8, 2), 3, width=1, **p),
    "resnet18": lambda **p: gcref.resnet18((32, 32, 2), 3, width=1, **p),
}


@pytest.mark.parametrize("name", FACTORIES)
@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_a_model_follows_from_its_seed(name, seed):
    make = FACTORIES[name]
    net = make(seed=seed, dtype="float64")
    np.testing.assert_array_equal(make(seed=seed, dtype="float64").theta, net.theta)
    np.testing.assert_array_equal(make(seed=seed, dtype="float32").theta, net.theta.astype(np.float32))
    assert not np.array_equal(make(seed=seed + 1, dtype="float64").theta, net.theta)
    assert net.n_parameters == len(net.theta) == sum(i * o for i, o in (block.shape for block in net.blocks))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net)).theta, net.theta)


@SETTINGS
@given(st.integers(1, 6), st.integers(2, 5), seeds, st.integers(-8, 8))
def test_losses_know_differences_of_logits_only(n, n_classes, seed, shift):
    rng = np.random.default_rng(seed)
    logits, y = np.round(4 * rng.standard_normal((n, n_classes)) * 64) / 64, rng.integers(0, n_classes, n)
    losses, D = SoftmaxCrossEntropy()(logits, y)
    moved = SoftmaxCrossEntropy()(logits + shift, y)  # which is exact
    np.testing.assert_array_equal(moved[0], losses)
    np.testing.assert_array_equal(moved[1], D)
    assert (losses >= 0).all()
    assert (abs(D.sum(axis=1)) <= (n_classes + 2) * EPS).all()
    own, other = Logistic()(logits[:, :1], y % 2), Logistic()(-logits[:, :1], 1 - y % 2)
    np.testing.assert_array_equal(own[0], other[0])
    np.testing.assert_array_equal(own[1], -other[1])


@SETTINGS
@given(st.lists(st.integers(0, 50), unique=True, max_size=4), st.floats(0, 1), st.floats(0, 10), st.integers(0, 60))
def test_a_schedule_counts_its_milestones(milestones, factor, rate, iteration):
    schedule = gcref.StepSchedule(rate, sorted(milestones), factor)
    passed = sum(iteration >= m for m in milestones)
    assert schedule(iteration) == rate * factor**passed
    assert schedule(iteration + 1) <= schedule(iteration)


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 1000))
def test_every_perceptron_passes_the_check_of_gradients(sizes, seed):
    rng = np.random.default_rng(seed)
    net = gcref.mlp(sizes, seed=seed)
    x, y = rng.standard_normal((3, sizes[0])), rng.integers(0, sizes[-1], 3)
    before = net.theta.copy()
    assert gcref.check_gradients(net, x, y, n_coordinates=3, rtol=1e-5) <= 1e-5
    np.testing.assert_array_equal(net.theta, before)
