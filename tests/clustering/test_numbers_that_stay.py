"""Norms, Φ and labels where floats are at their worst, against rational arithmetic on the same traces."""

from itertools import chain

import exact_numbers as exact
import numpy as np
import pytest

import gcref
from gcref import Trace
from gcref.engine import costs

N, K = 14, 4
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
CLUSTERERS = {
    "mean": lambda k: gcref.GradientClustering(k, n_iter=3),
    "mean, fixed sizes": lambda k: gcref.GradientClustering(k, sizes="fixed", n_iter=3),
    "mean, online": lambda k: gcref.GradientClustering(k, update="online", batch_size=9, a_share=0.6, n_iter=3),
    "svd": lambda k: gcref.GradientClustering(k, center="svd", rank=2, n_iter=3),
    "sketched": lambda k: gcref.SketchedClustering(k, dim=24, check_dim=8),
    "sketched, drift": lambda k: gcref.SketchedClustering(k, dim=24, check_dim=8, drift=0.1, n_candidates=2),
    "alternating": lambda k: gcref.ExactClustering(k, form="explicit"),
    "alternating, fixed sizes": lambda k: gcref.ExactClustering(k, sizes="fixed", form="explicit"),
    "alternating, gram": lambda k: gcref.ExactClustering(k, form="gram"),
    "exchange": lambda k: gcref.ExactClustering(k, update="exchange", form="explicit"),
    "exchange, gram": lambda k: gcref.ExactClustering(k, update="exchange", form="gram"),
}
EVERY = pytest.mark.parametrize("name", CLUSTERERS)


def traces(dtype, shapes=((1, 5, 3), (3, 4, 2), (4, 30, 40)), seed=0, n=N):
    """Blocks (T, I, O): of one position, and where norms are by gradients and by positions."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    return [Trace(draw(n, t, i), draw(n, t, o)) for t, i, o in shapes]


# -------------------------------------------------------------------------------------------------------- norms


def norms_and_bound(trace):
    """‖g_i‖² of a block, and what rounding may make of it: as many roundings as sums have terms."""
    T, I, O = trace.shape  # noqa: E741
    by_gradients = costs.sq_norm(T, I, O).choice == "Eq. 8"
    eps = exact.EPS[str(trace.dtype)] if by_gradients else exact.EPS["float64"]
    roundings = (2 * T if by_gradients else I + O + T * T) + 4
    magnitude = exact.sq_norms(exact.gradients([Trace(abs(trace.A), abs(trace.D))]))
    # Products of norms bound the sums of |A_t·A_s||D_t·D_s|.
    by_position = np.linalg.norm(trace.A, axis=2) * np.linalg.norm(trace.D, axis=2)
    largest = np.maximum([float(m) for m in magnitude], by_position.astype(float).sum(axis=1) ** 2)
    accumulated = (I * O + 4) * exact.EPS["float64"]
    return exact.sq_norms(exact.gradients([trace])), (roundings * eps + accumulated) * largest


@DTYPES
@pytest.mark.parametrize("shape", [(1, 7, 5), (2, 9, 8), (3, 4, 2), (4, 30, 40), (9, 3, 2)])
@pytest.mark.parametrize("cancelling", [False, True])
def test_norms_are_right_to_roundings_and_never_negative(dtype, shape, cancelling):
    (trace,) = traces(dtype, [shape], seed=sum(shape), n=6)
    if cancelling and shape[0] > 1:  # the same input at every position, and gradients that sum to 0 but for rounding
        D = trace.D - trace.D.mean(axis=1, keepdims=True)
        trace = Trace(np.repeat(trace.A[:, :1], shape[0], axis=1), D)
    want, bound = norms_and_bound(trace)
    found = gcref.per_example_sq_norms([trace])
    assert (found >= 0).all()
    assert (abs(found - [float(w) for w in want]) <= bound).all()


@pytest.mark.parametrize("shape", [(1, 7, 5), (2, 9, 8), (4, 30, 40)])
@pytest.mark.parametrize("exponent", [-110, -70, 90, 120])
def test_norms_of_float32_may_leave_float32(shape, exponent):
    (trace,) = traces("float32", [shape], n=6)
    scaled = Trace(trace.A, np.ldexp(trace.D, exponent))
    found, one = gcref.per_example_sq_norms([scaled]), gcref.per_example_sq_norms([trace])
    np.testing.assert_array_equal(found, np.ldexp(one, 2 * exponent))


# ------------------------------------------------------------------------------------------------------------ Φ


@DTYPES
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("k", [1, K, N])
@pytest.mark.parametrize("name", ["alternating", "alternating, gram", "exchange", "exchange, gram"])
def test_phi_of_exact_clusterings(name, k, offset, dtype):
    rng = np.random.default_rng(1)
    G = (offset + rng.standard_normal((N, 6))).astype(dtype)
    fit = CLUSTERERS[name](k).fit(G)
    rows = exact.rational(G)
    want = float(exact.objective(rows, fit.labels_.tolist()))
    # The mean of all, subtracted first (gram), or a cluster's, is off by N roundings of its size, in float64, which
    # is as much of a difference of one that size; the sums have N d terms.
    eps, size, d = exact.EPS["float64"], offset + np.abs(G).max(), 6
    shift = N * eps * size * np.sqrt(d)
    bound = (N + d + 8) * eps * max(want, N * N * 6.0 if "gram" in name else 0.0) + 2 * N * shift * np.sqrt(want * d)
    assert abs(fit.objective_.min() - want) <= bound + (N * shift) ** 2
    assert np.bincount(fit.labels_, minlength=k).min() >= 1


@DTYPES
@pytest.mark.parametrize("k", [1, K, N])
@pytest.mark.parametrize("name", ["mean", "mean, fixed sizes", "svd"])
def test_phi_about_centres_of_low_rank(name, k, dtype):
    blocks = traces(dtype, [(1, 5, 3), (3, 4, 2)])
    fit = CLUSTERERS[name](k).set_params(n_iter=1).fit(blocks)
    centers = [list(chain(*(_center(c[j], d[j]) for c, d in fit.centers_))) for j in range(k)]
    want = exact.objective(exact.gradients(blocks), fit.labels_.tolist(), centers)
    # ‖C‖² − 2⟨C, g⟩ + ‖g‖² of all blocks: products over I, O, T and r, in the type of the traces, of these magnitudes.
    norms = exact.sq_norms(exact.gradients([Trace(abs(t.A), abs(t.D)) for t in blocks]))
    own = exact.sq_norms(centers)
    magnitude = sum(fit.sizes_[j] * float(norm + own[j]) for norm, j in zip(norms, fit.labels_.tolist(), strict=True))
    roundings = 5 + 3 + 3 + 2 + 8
    assert abs(fit.objective_[0] - float(want)) <= 2 * roundings * exact.EPS[dtype] * magnitude


def _center(c, d):
    """Σ_s c_s d_sᵀ of one cluster, in C order, in rational numbers."""
    c, d = exact.rational(np.atleast_2d(c)), exact.rational(np.atleast_2d(d))
    return [sum(c[s][i] * d[s][o] for s in range(len(c))) for i in range(len(c[0])) for o in range(len(d[0]))]


@pytest.mark.parametrize("k", [1, K, N])
def test_phi_of_sketches(k):
    fit = CLUSTERERS["sketched"](k).fit(traces("float64"))
    shown = fit.sketches_.values[:, :24] * np.sqrt(32 / 24)
    want = float(exact.objective(exact.rational(shown), fit.labels_.tolist()))
    eps, size = exact.EPS["float64"], np.abs(shown).max() * np.sqrt(24)
    bound = (N + 24 + 8) * eps * want + 4 * N * N * eps * size * np.sqrt(want) + (N * N * eps * size) ** 2
    assert abs(fit.objective_.min() - want) <= bound


# ------------------------------------------------------------------------------------------------------- scaling


@EVERY
@pytest.mark.parametrize(("dtype", "a", "b"), [("float64", -200, 150), ("float32", -30, 25), ("float32", 20, -30)])
def test_powers_of_two_change_no_label_and_scale_phi_exactly(name, dtype, a, b):
    blocks = traces(dtype)
    scaled = [Trace(np.ldexp(t.A, a), np.ldexp(t.D, b)) for t in blocks]
    one, found = (CLUSTERERS[name](K).fit(part) for part in (blocks, scaled))
    np.testing.assert_array_equal(found.labels_, one.labels_)
    np.testing.assert_array_equal(found.objective_, np.ldexp(one.objective_, 2 * (a + b)))
    if hasattr(one, "variance_"):
        assert found.variance_ == np.ldexp(one.variance_, 2 * (a + b))


@EVERY
def test_gradients_that_vanish_are_clustered_all_the_same(name):
    blocks = [Trace(t.A, np.zeros_like(t.D)) for t in traces("float64")]
    fit = CLUSTERERS[name](K).fit(blocks)
    assert fit.sizes_.sum() == N
    assert fit.sizes_.min() >= 1
    np.testing.assert_array_equal(fit.objective_, 0.0)


@EVERY
def test_denormal_gradients_are_clustered_without_a_word(name):
    blocks = [Trace(np.ldexp(t.A, -530), np.ldexp(t.D, -530)) for t in traces("float64")]
    fit = CLUSTERERS[name](K).fit(blocks)
    assert (fit.sizes_.sum(), fit.sizes_.min() >= 1) == (N, True)
    assert (fit.objective_ >= 0).all()


@EVERY
@pytest.mark.parametrize("k", [1, N])
def test_one_cluster_and_as_many_as_examples(name, k):
    fit = CLUSTERERS[name](k).fit(traces("float64"))
    assert np.unique(fit.labels_).tolist() == list(range(k))


@pytest.mark.parametrize("update", ["alternating", "exchange"])
@pytest.mark.parametrize("exponent", [64, 80, 100])
def test_gradients_whose_products_leave_float32_are_clustered_as_in_float64(update, exponent):
    G = np.random.default_rng(0).standard_normal((60, 7)).astype(np.float32)
    one = gcref.ExactClustering(5, update, form="explicit").fit(G.astype(np.float64))
    large = gcref.ExactClustering(5, update, form="explicit").fit(np.ldexp(G, exponent))
    np.testing.assert_array_equal(large.labels_, one.labels_)
    np.testing.assert_array_equal(large.objective_, np.ldexp(one.objective_, 2 * exponent))
