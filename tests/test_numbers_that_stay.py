"""The variance where floats are at their worst, against rational arithmetic on the same traces.

Bounds count roundings: a sum of n terms is off by n eps of the sum of their magnitudes, a difference of sums by that of
both. Where V is less than 1e-6 of E[g²] (float32: 1e-3, over all coordinates) it is centred first and loses nothing.
"""

import exact_numbers as exact
import numpy as np
import pytest

import gcref
from gcref.data import Dataset
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import GlobalAvgPool

N = 21
SIZES = (1, 2, 3, 4, 11)  # N_k from 1 on
LABELS = np.repeat(np.arange(5), SIZES)
ESTIMATORS = {
    "SG-B": lambda: gcref.MiniBatch(4),
    "SG-B, replacement": lambda: gcref.MiniBatch(3, replacement=True),
    "SG-N": lambda: gcref.MiniBatch(N),
    "one cluster": lambda: gcref.Stratified(np.zeros(N, int)),
    "clusters": lambda: gcref.Stratified(LABELS),
    "clusters, further draws": lambda: gcref.Stratified(LABELS, 9),
    "N clusters": lambda: gcref.Stratified(np.arange(N)),
}
EVERY = pytest.mark.parametrize("name", ESTIMATORS)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def dense(dtype):
    """Softmax of x W at W = 0, so that g is ±x/2 and exact."""
    net = Network([Linear(3, 2, bias=False)], SoftmaxCrossEntropy(), dtype=dtype)
    net.theta[:] = 0
    return net, (3,)


def convolution(dtype):
    """The same of a convolution at four positions, averaged over them: g is the sum of ±A_t/8."""
    net = Network([Conv2d(1, 2, (2, 2), bias=False), GlobalAvgPool()], SoftmaxCrossEntropy(), dtype=dtype)
    net.theta[:] = 0
    return net, (3, 3, 1)


MODELS = pytest.mark.parametrize("model", [dense, convolution])


def problem(model, dtype, spread=1.0, seed=0, one_class=False):
    """A network, and inputs that differ by about `spread` of their size."""
    rng = np.random.default_rng(seed)
    net, shape = model(dtype)
    x = rng.standard_normal((N, *shape)) if spread == 1.0 else 1.0 + spread * rng.standard_normal((N, *shape))
    y = np.zeros(N, int) if one_class else rng.integers(0, 2, N)
    return net, Dataset(x.astype(dtype), y)


def expected(estimator, net, ds):
    """V_j, the same with E[g_j²], and ḡ_j, in rational numbers."""
    rows = exact.gradients(estimator.contribution(net.traces(ds.x, ds.y)[1], ds.x, ds.y))
    full = exact.mean(exact.gradients(net.traces(ds.x, ds.y)[1]))
    return *exact.variance(rows, estimator.strata(ds)), full


def assert_variance(found, net, numbers, centred=False, formed=0):
    """Both numbers to their roundings: of E[g²], or, where it is centred first in float64, of V itself.

    `formed`: the roundings of g itself, which are relative to g and not to g − ḡ.
    """
    V, second, full = ([float(value) for value in vector] for vector in numbers)
    own = exact.EPS[str(net.dtype)]
    eps = exact.EPS["float64"] if centred else own
    roundings = N + len(SIZES) + len(V) + 8
    off = roundings * eps * np.array(V if centred else second)
    off += 2 * formed * eps * np.sqrt(np.multiply(V, second)) + (formed * eps) ** 2 * np.array(second)
    assert abs(found.average - np.mean(V)) <= off.mean() + len(V) * exact.EPS["float64"] * np.mean(V)
    total = np.add(V, np.square(full))
    seen = total > 0
    shares = np.divide(V, total, out=np.zeros(len(V)), where=seen)
    # V/(V + ḡ²) moves by what V does, as a share of the sum, and by twice what ḡ does, whose sum keeps the dtype.
    bound = np.divide(off, total, out=np.zeros(len(V)), where=seen) + 2 * roundings * own * shares
    assert abs(found.normalized - shares.mean()) <= bound.mean()


# ------------------------------------------------------------------------------------------ near interpolation


@EVERY
@MODELS
@pytest.mark.parametrize(("dtype", "spread", "digits"), [("float64", 1e-6, 11), ("float32", 1e-3, 5)])
def test_where_second_moment_and_mean_agree_to_many_digits_all_digits_of_v_are_right(
    name, model, dtype, spread, digits
):
    net, ds = problem(model, dtype, spread, one_class=True)
    rows = exact.gradients(net.traces(ds.x, ds.y)[1])
    second = sum(exact.sq_norms(rows)) / N
    assert 0 < second - exact.sq_norms([exact.mean(rows)])[0] < 10.0**-digits * float(second)
    estimator = ESTIMATORS[name]()
    found = gcref.variance(estimator, net, ds)
    # g − ḡ is exact, as the two are within a factor of 2; the convolution's g is a sum of four.
    formed = 0 if model is dense else 4
    assert_variance(found, net, expected(estimator, net, ds), centred=True, formed=formed)


@EVERY
@MODELS
@DTYPES
@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_where_little_cancels_v_is_off_by_roundings_of_the_second_moment(name, model, dtype, spread):
    net, ds = problem(model, dtype, spread)
    estimator = ESTIMATORS[name]()
    assert_variance(gcref.variance(estimator, net, ds), net, expected(estimator, net, ds))


@DTYPES
def test_clusters_far_apart_and_narrow_within(dtype):
    # Between clusters a thousand times what is within; of one to eleven examples.
    net, ds = problem(dense, "float64", seed=3)
    x = (100.0 * (1 + LABELS[:, None]) * np.array([1, -1, 2]) + 0.1 * ds.x).astype(dtype)
    net, ds = net.copy(dtype), Dataset(x, LABELS % 2)
    estimator = gcref.Stratified(LABELS)
    found = gcref.variance(estimator, net, ds)
    # A share of about 1e-6 is left, with which float64 keeps ten digits as it is.
    assert_variance(found, net, expected(estimator, net, ds), centred=dtype == "float32")
    assert gcref.variance(gcref.MiniBatch(5), net, ds).average > 1e5 * found.average


@DTYPES
def test_svrg_close_to_its_snapshot(dtype):
    rng = np.random.default_rng(5)
    net = gcref.mlp((3, 4, 2), seed=1, dtype=dtype)
    ds = Dataset(rng.standard_normal((N, 3)).astype(dtype), rng.integers(0, 2, N))
    estimator = gcref.SVRG(3).prepare(net, ds)
    net.theta += (100 * exact.EPS[dtype] * rng.standard_normal(net.n_parameters)).astype(dtype)
    V = expected(estimator, net, ds)[0]
    found = gcref.variance(estimator, net, ds)
    assert found.average > 0
    # Two positions, of which each product and the sum are rounded, and N as above; Σ_t |A_t D_t| is their magnitude.
    traces = estimator.contribution(net.traces(ds.x, ds.y)[1], ds.x, ds.y)
    magnitude = exact.gradients([gcref.Trace(abs(t.A), abs(t.D)) for t in traces])
    _, second = exact.variance(magnitude, estimator.strata(ds))
    assert abs(found.average - float(sum(V) / len(V))) <= (2 * N + 12) * exact.EPS[dtype] * float(sum(second) / len(V))


# ------------------------------------------------------------------------------------- the ends of the range


@EVERY
@MODELS
@pytest.mark.parametrize("exponent", [-110, -90, -70, 62, 90, 120])
def test_gradients_whose_squares_leave_float32_have_the_same_variance(name, model, exponent):
    # Of 2^k times the inputs it is 4^k times as much, without another rounding.
    net, ds = problem(model, "float32")
    estimator = ESTIMATORS[name]()
    scaled = Dataset(np.ldexp(ds.x, exponent), ds.y)
    found = gcref.variance(estimator, net, scaled)
    one = gcref.variance(estimator, net, ds)
    assert (found.average, found.normalized) == (np.ldexp(one.average, 2 * exponent), one.normalized)
    assert found.noise_scale == one.noise_scale
    assert_variance(found, net, expected(estimator, net, scaled))


@EVERY
@MODELS
@pytest.mark.parametrize("exponent", [-480, -300, -1, 1, 300, 480])
def test_powers_of_two_change_no_digit_in_float64(name, model, exponent):
    net, ds = problem(model, "float64")
    estimator = ESTIMATORS[name]()
    one = gcref.variance(estimator, net, ds)
    found = gcref.variance(estimator, net, Dataset(np.ldexp(ds.x, exponent), ds.y))
    assert (found.average, found.normalized) == (np.ldexp(one.average, 2 * exponent), one.normalized)
    assert found.noise_scale == one.noise_scale


@pytest.mark.parametrize("exponent", [-520, -530, -545, -1000, -1074])
def test_squares_that_are_denormal_are_off_by_units_of_the_smallest_number(exponent):
    net, ds = problem(dense, "float64")
    ds = Dataset(np.ldexp(ds.x, exponent), ds.y)
    estimator = ESTIMATORS["clusters"]()
    V, _, _ = expected(estimator, net, ds)
    found = gcref.variance(estimator, net, ds)
    # Each of N squares, their quotient by N, the mean's square and each share are off by one unit at most.
    assert abs(exact.rational(found.average) - sum(V) / len(V)) <= (2 * N + len(SIZES) + 2) * exact.rational(2.0**-1074)
    assert 0.0 <= found.normalized <= 1.0


@DTYPES
def test_an_overflow_is_no_number(dtype):
    net, ds = problem(dense, dtype)
    huge = float(np.finfo(dtype).max) if dtype == "float64" else 0.0
    net.theta[:] = 0 if dtype == "float64" else np.inf
    ds = Dataset(np.where(huge, np.sign(ds.x) * huge, ds.x).astype(dtype), ds.y)
    with np.errstate(over="ignore", invalid="ignore"):
        found = gcref.variance(gcref.MiniBatch(2), net, ds)
    assert not np.isfinite(found.average)


@DTYPES
@pytest.mark.parametrize("gap", [20.0, 40.0, 60.0, 80.0])
def test_logits_far_apart(dtype, gap):
    # Of an example that the model is sure of, e^−gap of its gradient is left, in one coordinate at least.
    rng = np.random.default_rng(2)
    net = gcref.linear(3, 3, dtype=dtype)
    net.theta[:] = 0
    net.weights[0][-1] = [gap, 0.0, gap / 2]
    ds = Dataset(rng.standard_normal((N, 3)).astype(dtype), np.zeros(N, int))
    estimator = ESTIMATORS["clusters"]()
    numbers = expected(estimator, net, ds)
    assert 0 < float(max(numbers[0][1:9:3])) < np.exp(-2 * gap)
    # Each coordinate keeps its digits relative to itself, however large the others are.
    assert_variance(gcref.variance(estimator, net, ds), net, numbers)
