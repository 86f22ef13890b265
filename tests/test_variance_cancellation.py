"""Where little is left of E[g²] − ḡ²: what is centred first, and what comes of it."""

import importlib

import numpy as np
import pytest

import gcref
from estimator_cases import MODELS, N, explicit, full_gradient, magnitudes, prepare_several
from gcref.data import Dataset
from gcref.engine.convolution import Conv2d
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import GlobalAvgPool
from gcref.validation import enumeration

MODULE = importlib.import_module("gcref.closed_form")
EVERY_MODEL = pytest.mark.parametrize("model", MODELS)
KINDS = ["SG-B", "SVRG", "labels", "fewer draws", "further draws"]


def nearly_equal(model, spread, dtype):
    """A problem where all gradients differ by about `spread` of their size."""
    net, ds = enumeration.draw(N, MODELS[model], 0)
    x = (ds.x[:1] + spread * ds.x).astype(dtype)
    net, ds = net.copy(dtype), Dataset(x, np.zeros(N, int))
    return net, ds, prepare_several(net, ds)


def count_centred(monkeypatch):
    """Have centred passes counted."""
    calls, original = [], MODULE._centered

    def recording(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(MODULE, "_centered", recording)
    return calls


def left(estimator, net, ds):
    """Σ_j V_j as a share of what Σ_j E[g_j²] is without ḡ, and that of its worst coordinate."""
    second = explicit_second(estimator, net, ds)
    V = explicit(estimator, net, ds)
    return V.sum() / second.sum(), np.min(V[second > 0] / second[second > 0])


def explicit_second(estimator, net, ds):
    """The same sum as V_j with E[g_j²] in place of the variance, (d,)."""
    return explicit(estimator, net, ds, lambda g: (g**2).mean(axis=0))


@EVERY_MODEL
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("dtype", "spread"), [("float32", 1e-3), ("float32", 1e-2), ("float64", 1e-6)])
def test_gradients_that_nearly_agree_are_centred_first(model, name, dtype, spread, monkeypatch):
    net, ds, estimators = nearly_equal(model, spread, dtype)
    estimator = estimators[name]
    assert left(estimator, net, ds)[0] < {"float32": 1e-3, "float64": 1e-6}[dtype]
    V, scale = explicit(estimator, net, ds), magnitudes(estimator, net, ds).sum()
    # g_i − ḡ is off by as many roundings, in float64, as a gradient has positions, relative to the gradient itself.
    rtol = 2 * (18 + 4) * np.finfo(np.float64).eps * np.sqrt(scale / (V.sum() * estimator.strata(ds)[0].n_draws))
    calls = count_centred(monkeypatch)
    found = gcref.variance(estimator, net, ds).average
    assert len(calls) >= len(estimator.strata(ds))
    assert abs(found / V.mean() - 1) <= rtol
    monkeypatch.setattr(MODULE, "CANCELLATION_FLOAT32", 0.0)
    monkeypatch.setattr(MODULE, "CANCELLATION", 0.0)
    calls.clear()
    assert abs(gcref.variance(estimator, net, ds).average / V.mean() - 1) > 100 * rtol
    assert not calls


@pytest.mark.parametrize("name", ["SG-B", "labels"])
@pytest.mark.parametrize(("spread", "centred"), [(0.025, False), (0.018, True)])
def test_float32_is_centred_where_less_than_a_thousandth_is_left(name, spread, centred, monkeypatch):
    net, ds, estimators = nearly_equal("pooled", spread, "float32")
    share = left(estimators[name], net, ds)[0]
    assert 5e-4 < share < 1e-3 if centred else 1e-3 < share < 2e-3
    calls = count_centred(monkeypatch)
    gcref.variance(estimators[name], net, ds)
    # All examples together, which the noise scale is of, may be centred although the strata are not.
    assert (len(estimators[name].strata(ds)[0].indices) in [moments.n for moments, _ in calls]) == centred


def test_a_coordinate_that_cancels_alone_is_centred_where_positions_share_it(monkeypatch):
    # A convolution whose outputs' mean is the logits, at θ = 0: g is the mean patch times ∓1/2. Within a class the
    # first channel varies much, the second little; across classes the gradients of the second cancel, so that its
    # V_j / (V_j + ḡ_j²) is far from 0 although V_j is 1e-10 of E[g_j²].
    rng = np.random.default_rng(0)
    net = Network([Conv2d(2, 2, (2, 1)), GlobalAvgPool()], SoftmaxCrossEntropy())
    net.theta[:] = 0
    x = np.stack([rng.standard_normal((40, 3, 2)), 1 + 1e-5 * rng.standard_normal((40, 3, 2))], axis=3)
    x[1::2, ..., 1] += 1e-5
    ds = Dataset(x, np.tile([0, 1], 20))
    classes = gcref.Stratified(ds.y)
    share, worst = left(classes, net, ds)
    assert share > 1e-3
    assert worst < 1e-6
    V, ḡ = explicit(classes, net, ds), full_gradient(net, ds)
    second = V[[2, 3, 6, 7]] / (V + ḡ**2)[[2, 3, 6, 7]]
    assert (second > 0.1).all()
    assert (second < 0.9).all()
    seen = V[:8] / (V + ḡ**2)[:8]  # the bias's gradients, ∓1/2, are the same within a class: V is 0
    calls = count_centred(monkeypatch)
    np.testing.assert_allclose(gcref.variance(classes, net, ds).normalized, seen.sum() / 10, rtol=1e-9)
    assert len(calls) >= 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_clusters_of_duplicated_images_have_no_variance(dtype):
    net, ds = enumeration.draw(3, MODELS["strided"], 1)
    net, x = net.copy(dtype), np.tile(ds.x, (8, 1, 1, 1)).astype(dtype)
    found = gcref.variance(gcref.Stratified(np.tile([5, 0, 2], 8)), net, Dataset(x, np.tile(ds.y, 8)))
    assert (found.average, found.normalized) == (0.0, 0.0)
