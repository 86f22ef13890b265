"""Several estimators from the passes that they share, for networks of every kind."""

import copy
import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gcref
import gcref.estimators
from estimator_cases import MODELS, SEVERAL, N, explicit, full_gradient, magnitudes, prepare_several
from gcref.data import Dataset
from gcref.engine.network import Network
from gcref.engine.trace import Trace
from gcref.validation import enumeration

EVERY_MODEL = pytest.mark.parametrize("model", MODELS)
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


@functools.cache
def problem(model, dtype="float64"):
    """A network, a data set and prepared estimators."""
    net, ds = enumeration.draw(N, MODELS[model], 0)
    net, ds = net.copy(dtype), Dataset(ds.x.astype(dtype), ds.y)
    return net, ds, prepare_several(net, ds)


def bounds(estimator, net, ds):
    """How far average, normalized variance and noise scale can be off by rounding in the network's type."""
    # N examples and 10 pairs of positions in a sum; 4 layers of at most 12 terms, forward and backward.
    rounding = (N + 10 + 2 * 4 * 12) * np.finfo(net.dtype).eps
    own, plain = magnitudes(estimator, net, ds), magnitudes(gcref.MiniBatch(1), net, ds)
    V, ḡ = explicit(estimator, net, ds), full_gradient(net, ds)
    one = explicit(gcref.MiniBatch(1, replacement=True), net, ds).sum() / (ḡ @ ḡ)
    # |δV_j| ≤ 3 m eps E[…], |δḡ_j²| ≤ 2 m eps E[…]; a share V_j/(V_j + ḡ_j²) moves by at most 1.
    shares = np.divide(3 * own + 2 * plain, V + ḡ**2, out=np.zeros_like(V), where=plain > 0)
    normalized = np.minimum(2 * rounding * shares, 1.0).mean()
    return 3 * rounding * own.mean(), normalized, rounding * (3 + 2 * one) * plain.sum() / (ḡ @ ḡ)


def numbers(found):
    return np.array([found.average, found.normalized, found.noise_scale])


@EVERY_MODEL
@DTYPES
@pytest.mark.parametrize("name", SEVERAL)
def test_the_numbers_are_those_of_explicit_gradients(model, dtype, name):
    net, ds, estimators = problem(model, dtype)
    V, ḡ = explicit(estimators[name], net, ds), full_gradient(net, ds)
    noise = explicit(gcref.MiniBatch(1, replacement=True), net, ds).sum() / (ḡ @ ḡ)
    shares = np.divide(V, V + ḡ**2, out=np.zeros_like(V), where=V > 0)
    found = gcref.variances(estimators, net, ds)[name]
    deviations = np.abs(numbers(found) - [V.mean(), shares.mean(), noise])
    assert (deviations <= bounds(estimators[name], net, ds)).all()
    assert found.standard_error == 0
    alone = gcref.variances(estimators, net, ds, normalized=False)[name]
    deviations = np.abs(numbers(alone) - [V.mean(), np.nan, noise])
    assert (deviations <= bounds(estimators[name], net, ds))[[0, 2]].all()
    assert np.isnan(alone.normalized)


@DTYPES
@pytest.mark.parametrize("model", MODELS)
def test_an_average_that_cancels_is_centered(model, dtype):
    """Gradients that are nearly one: what is left of E‖g‖² − ‖ḡ‖² is rounding."""
    net, ds = enumeration.draw(N, MODELS[model], 0)
    net, x = net.copy(dtype), np.repeat(ds.x[:1], N, axis=0)
    x = (x + 1e-5 * np.random.default_rng(0).standard_normal(x.shape)).astype(dtype)
    ds = Dataset(x, np.repeat(ds.y[:1], N))
    estimators = {
        "SG-B": gcref.MiniBatch(3),
        "labels": gcref.Stratified(np.arange(N) % 4),
        "SVRG": gcref.SVRG(3).prepare(net, ds),
    }
    net.theta += (1e-4 * np.random.default_rng(1).standard_normal(net.n_parameters)).astype(dtype)
    whole, alone = (gcref.variances(estimators, net, ds, normalized=each) for each in (True, False))
    for name in estimators:
        assert whole[name].average > 0
        assert alone[name].average == pytest.approx(whole[name].average, rel=1e-9 if dtype == "float64" else 1e-4)


class Halved(gcref.SVRG):
    """Half of the control variate's differences."""

    def contribution(self, traces, x, y):
        return [Trace(t.A, t.D / 2) for t in super().contribution(traces, x, y)]


def test_the_mean_of_differences_is_taken_as_known_only_where_it_is():
    net, ds = enumeration.draw(N, MODELS["MLP"], 0)
    other = enumeration.draw(N, MODELS["MLP"], 5)[1]
    made = {"own": gcref.SVRG(3).prepare(net, ds), "other": gcref.SVRG(3).prepare(net, other)}
    made |= {"copied": copy.deepcopy(made["own"]), "halved": Halved(3).prepare(net, ds)}
    made["resumed"] = gcref.SVRG(3).resume(net.copy(), np.zeros(net.n_parameters))
    net.theta += 0.3 * np.random.default_rng(0).standard_normal(net.n_parameters)
    assert not gcref.SVRG(3).prepared_on(ds)
    assert [made[name].prepared_on(ds) for name in made] == [True, False, False, True, False]
    whole, alone = (gcref.variances(made, net, ds, normalized=each) for each in (True, False))
    for name in made:
        assert alone[name].average == pytest.approx(whole[name].average, rel=1e-9)


@DTYPES
@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6, 1e-8])
def test_small_differences_keep_their_variance(dtype, step):
    net, ds, _ = problem("MLP", dtype)
    net = net.copy(dtype)
    svrg = gcref.SVRG(3).prepare(net, ds)
    net.theta += (step * np.random.default_rng(0).standard_normal(net.n_parameters)).astype(dtype)
    whole, alone = (gcref.variances({"": svrg}, net, ds, normalized=each)[""] for each in (True, False))
    assert alone.average == pytest.approx(whole.average, rel=1e-8 if dtype == "float64" else 3e-3)


def test_duplicates_have_no_average_variance():
    net, ds = enumeration.draw(N, MODELS["MLP"], 0)
    ds = Dataset(np.repeat(ds.x[:1], N, axis=0), np.repeat(ds.y[:1], N))
    found = gcref.variances({"SG-B": gcref.MiniBatch(3)}, net, ds, normalized=False)["SG-B"]
    assert (found.average, found.noise_scale) == (0.0, 0.0)


# ------------------------------------------------------------------------------------- together as each one alone


@functools.cache
def alone(model, dtype, name):
    """What `variance` says of one estimator, and how far rounding can take it."""
    net, ds, estimators = problem(model, dtype)
    found = numbers(gcref.variance(estimators[name], net, ds))
    return found, np.array(bounds(estimators[name], net, ds)) if dtype == "float32" else 1e-12 * found


def assert_as_alone(found, model, dtype, names):
    assert list(found) == list(names)
    for name in names:
        expected, tolerance = alone(model, dtype, name)
        assert (np.abs(numbers(found[name]) - expected) <= tolerance).all(), name


@EVERY_MODEL
@DTYPES
@settings(deadline=None, max_examples=15)
@given(names=st.lists(st.sampled_from(list(SEVERAL)), unique=True))
def test_estimators_together_are_as_each_one_alone(model, dtype, names):
    net, ds, estimators = problem(model, dtype)
    found = gcref.variances({name: estimators[name] for name in names}, net, ds)
    assert_as_alone(found, model, dtype, names)


@pytest.mark.parametrize("first", ["labels", "uneven", "clusters", "SVRG"])
def test_any_order_of_several_strata(first):
    net, ds, estimators = problem("pooled")
    for rest in itertools.permutations({"labels", "uneven", "clusters", "SVRG"} - {first}):
        names = (first, *rest)
        assert_as_alone(gcref.variances({n: estimators[n] for n in names}, net, ds), "pooled", "float64", names)


def test_one_estimator_under_several_names():
    net, ds, estimators = problem("strided")
    for name in ("SG-B", "SVRG", "labels"):
        found = gcref.variances({"a": estimators[name], "b": estimators[name]}, net, ds)
        np.testing.assert_allclose(numbers(found["a"]), numbers(found["b"]), rtol=1e-12)


def count_passes(monkeypatch):
    """Have the examples of each network pass counted."""
    seen, original = [], Network.traces

    def recording(self, x, y):
        seen.append(len(x))
        return original(self, x, y)

    monkeypatch.setattr(Network, "traces", recording)
    return seen


@pytest.mark.parametrize(
    ("names", "n_passes"),
    [
        (["SG-B", "SG-2B", "one stratum"], 1),
        (["SG-B", "SG-2B", "labels"], 1),
        (["SVRG", "SG-B", "labels"], 2),
        (["SVRG", "SVRG, replacement", "labels"], 3),
        (["labels", "clusters", "SG-B"], 2),
        (["SG-B", "fewer draws"], 1),
        (["labels", "fewer draws", "further draws"], 3),
    ],
)
def test_passes_are_shared(names, n_passes, monkeypatch):
    net, ds, estimators = problem("pooled", "float32")  # where a pair of equal numbers starts no second pass
    net.trace_bytes(ds.x.shape[1:])
    seen = count_passes(monkeypatch)
    gcref.variances({name: estimators[name] for name in names}, net, ds)
    assert sum(seen) == n_passes * N


@pytest.mark.parametrize(("batch_size", "replacement"), [(None, False), (N, True), (N + 3, True)])
def test_clusters_of_one_start_no_second_pass(batch_size, replacement, monkeypatch):
    net, ds, _ = problem("pooled")
    net.trace_bytes(ds.x.shape[1:])
    seen = count_passes(monkeypatch)
    found = gcref.variance(gcref.Stratified(np.arange(N), batch_size, replacement), net, ds)
    assert (found.average, found.normalized) == (0.0, 0.0)
    assert sum(seen) == N


def test_no_estimator_has_no_variance():
    net, ds, _ = problem("MLP")
    assert gcref.variances({}, net, ds) == {}


@pytest.mark.parametrize("method", ["closed-form", "monte-carlo"])
def test_arguments_of_another_kind_are_named(method):
    net, ds, estimators = problem("MLP")
    sg = estimators["SG-B"]
    for arguments, message in (
        ((sg, net, (ds.x, ds.y)), r"ds is a tuple; a data set, such as gcref.data.Dataset\(x, y\), is expected"),
        ((sg, net, ds.x), "ds is a ndarray; a data set"),
        ((net, sg, ds), "estimator is a Network; an estimator, such as MiniBatch, is expected"),
        ((sg, sg, ds), "net is a MiniBatch; a Network is expected"),
        ((gcref.MiniBatch, net, ds), "estimator is the class MiniBatch; an instance is expected"),
    ):
        with pytest.raises(TypeError, match=message):
            gcref.variance(*arguments, method=method)
    with pytest.raises(TypeError, match="estimators is a list; a mapping of names to estimators is expected"):
        gcref.variances([sg], net, ds)
    with pytest.raises(TypeError, match=r"estimators\['a'\] is a int; an estimator"):
        gcref.variances({"a": 1}, net, ds)
    with pytest.raises(TypeError, match="clustering is the class GradientClustering; an instance of it, or labels"):
        gcref.Stratified(gcref.GradientClustering)


def test_every_estimator_is_checked_before_the_first_pass(monkeypatch):
    net, ds, estimators = problem("MLP")
    monkeypatch.setattr(Network, "traces", None)
    with pytest.raises(ValueError, match="batch_size=25 but the data set has 24 examples"):
        gcref.variances({"fits": estimators["SG-B"], "does not": gcref.MiniBatch(N + 1)}, net, ds)
    with pytest.raises(ValueError, match="labels of 2 examples; the data set has 24"):
        gcref.variances({"fits": estimators["labels"], "does not": gcref.Stratified([0, 1])}, net, ds)


@EVERY_MODEL
@pytest.mark.parametrize("chunk", [1, 5, 7])
def test_the_chunk_size_changes_nothing(model, chunk, monkeypatch):
    net, ds, estimators = problem(model)
    expected = {name: alone(model, "float64", name) for name in estimators}
    net.trace_bytes(ds.x.shape[1:])
    monkeypatch.setattr(gcref.estimators, "CHUNK", chunk)
    seen = count_passes(monkeypatch)
    found = gcref.variances(estimators, net, ds)
    assert max(seen) == chunk
    assert found.keys() == expected.keys()
    assert_as_alone(found, model, "float64", estimators)
