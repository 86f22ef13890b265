"""The closed form's rules where a number decides: what is cut off, and from which digit on."""

import importlib
import inspect
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import gcref
import gcref.estimators
from estimator_cases import SIZES
from gcref import closed_form
from gcref.data import Dataset
from gcref.engine.trace import Trace
from gcref.estimators import Stratum, chunk_size
from gcref.validation import enumeration

MODULE = importlib.import_module("gcref.variance")
EPS = np.finfo(np.float64).eps


def centred(*gradients):
    """The centred pass over gradients of one number."""
    traces = [Trace(np.ones((len(gradients), 1)), np.array(gradients)[:, None])]
    moments = closed_form.Moments(1)
    moments.add(traces)
    return closed_form._centered(moments, lambda: iter([traces]))


def test_sixteen_roundings_of_a_gradient_are_a_variance_and_fifteen_are_none():
    # 1 ± k eps are numbers, their mean is 1, and their squares add up to 2 in float64.
    for k in (16, 17, 1000):
        np.testing.assert_array_equal(centred(1 - k * EPS, 1 + k * EPS), (k * EPS) ** 2)
    for k in (1, 15):
        np.testing.assert_array_equal(centred(1 - k * EPS, 1 + k * EPS), 0.0)


def test_a_centred_pass_over_one_example_or_none():
    np.testing.assert_array_equal(centred(3.0), [0.0])
    np.testing.assert_array_equal(closed_form._centered(closed_form.Moments(2), list), [0.0, 0.0])
    np.testing.assert_allclose(centred(1.0, 2.0, 6.0), [14 / 3], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_differences_are_cut_off_at_sixteen_roundings_of_their_own_block(dtype):
    net = gcref.mlp((1, 1, 2), dtype=dtype)  # blocks of two and four parameters
    assert [block.slice for block in net.blocks] == [slice(0, 2), slice(2, 6)]
    least = (16 * float(np.finfo(dtype).eps)) ** 2
    second = np.array([1.0, 3.0, 0.0, 0.0, 0.0, 16.0])  # 2 and 4 on average
    out = np.array([2 * least, np.nextafter(2 * least, 0), 4 * least, np.nextafter(4 * least, 0), 2 * least, 1.0])
    found = closed_form.ClosedForm._without_rounding(SimpleNamespace(net=net), out, second)
    np.testing.assert_array_equal(found, [2 * least, 0, 4 * least, 0, 0, 1.0])


@pytest.mark.parametrize(
    ("dtype", "left", "cancelled", "expected"),
    [
        ("float64", (1.0, 1.0), 0.0, False),
        ("float64", (0.0, 1.0), 0.0, False),
        ("float64", (1.0, 1.0), 1.0, True),
        ("float32", (1e-3, 1.0), 5.0, False),
        ("float32", (np.nextafter(1e-3, 0), 1.0), 0.0, True),
        ("float32", (0.0, 0.0), 0.0, False),
    ],
)
def test_when_to_centre(dtype, left, cancelled, expected):
    holder = SimpleNamespace(net=SimpleNamespace(dtype=np.dtype(dtype)))
    assert closed_form.ClosedForm._cancels(holder, *left, cancelled) == expected


def test_what_a_stratum_counts():
    def share(size, n_draws, replacement=False, n=30):
        return closed_form.share_of(Stratum(np.arange(size), n_draws, replacement), size, n)

    assert share(1, 1) == share(1, 1, True) == share(1, 4, True) == 0.0
    assert share(6, 1) == share(6, 1, True) == (6 / 30) ** 2
    assert share(6, 4) == pytest.approx((6 / 30) ** 2 * (2 / 5) / 4, rel=1e-15)
    assert share(6, 4, True) == pytest.approx((6 / 30) ** 2 / 4, rel=1e-15)
    assert share(6, 6) == 0.0
    assert share(2, 1, n=2) == 1.0


def test_the_shares_of_coordinates():
    V, gradient = np.array([0.0, 3.0, 2.0, 0.0]), np.array([0.0, 1.0, 0.0, 5.0])
    assert MODULE._normalized(V, gradient) == (0 + 3 / 4 + 1 + 0) / 4
    assert MODULE._noise_scale(5.0, gradient) == 5 / 26
    assert MODULE._noise_scale(0.0, np.zeros(2)) == 0.0
    assert MODULE._noise_scale(1e-300, np.zeros(2)) == np.inf
    assert MODULE._noise_scale(0.0, gradient) == 0.0


def test_fifty_estimates_are_the_default():
    parameters = inspect.signature(gcref.variance).parameters
    assert parameters["n_estimates"].default == 50
    assert parameters["method"].default == "closed-form"
    net, ds = enumeration.problem(5, SIZES, 0)
    draws = []

    class Counted(gcref.MiniBatch):
        def sample(self, *args):
            draws.append(1)
            return super().sample(*args)

    gcref.variance(Counted(2), net, ds, "monte-carlo", rng=0)
    assert len(draws) == 2 * 50


def test_what_is_explicit_at_once_is_bounded(monkeypatch):
    # Blocks of 3 and of 7 parameters, 20 numbers at once: 6 and 2 examples of each.
    seen, original = [], closed_form.add_gradient_moments

    def recording(g, *sums):
        seen.append(g.shape)
        return original(g, *sums)

    monkeypatch.setattr(closed_form, "add_gradient_moments", recording)
    monkeypatch.setattr(closed_form, "_AT_ONCE", 20)
    rng = np.random.default_rng(0)
    traces = [Trace(np.ones((7, 1)), rng.standard_normal((7, d))) for d in (3, 7, 25)]
    G = gcref.per_example_gradients(traces)
    mean = G.mean(axis=0)
    found = closed_form._deviations(iter([traces]), mean)
    assert seen == [(6, 3), (1, 3), (2, 7), (2, 7), (2, 7), (1, 7), *[(1, 25)] * 7]
    np.testing.assert_allclose(found.squares, ((G - mean) ** 2).sum(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.total, np.zeros(35), atol=1e-14)
    assert found.n == 7


def test_how_many_examples_make_a_chunk():
    # Sums are made chunk by chunk, so that another number would change the last bits of results.
    assert chunk_size(gcref.mlp((5, 4, 3)), Dataset(np.zeros((1, 5)), np.zeros(1, int))) == 512
    net = gcref.mlp((40_000, 3), dtype="float64")
    one = net.trace_bytes((40_000,))
    ds = Dataset(np.zeros((1, 40_000)), np.zeros(1, int))
    assert 64 * 2**20 // one < 512
    assert chunk_size(net, ds) == 64 * 2**20 // one


@pytest.mark.parametrize(("bytes_of_one", "expected"), [(0, 100), (1, 100), (3, 33), (100, 1), (101, 1)])
def test_a_chunk_has_at_least_one_example(monkeypatch, bytes_of_one, expected):
    monkeypatch.setattr(gcref.estimators, "CHUNK", 1000)
    monkeypatch.setattr(gcref.estimators, "CHUNK_BYTES", 100)
    net = SimpleNamespace(trace_bytes=lambda shape: bytes_of_one)
    assert chunk_size(net, Dataset(np.zeros((1, 5)), np.zeros(1, int))) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([3, 4, 3, 10, 11, 2], ["3 4 3", "10", "10…", "1.", "2"]),
        ([3, 4, 2, 10, 2], ["3 4 2 10", "2"]),
        ([9, 1, 20, 5], ["9 1", "10…", "10.", "5"]),
        ([4, 12, 1, 1], ["4", "10…", "2.", "1 1"]),
        ([25], ["10…", "10…", "5."]),
        ([10], ["10."]),
        ([4], ["4."]),
        ([1, 1], ["1 1"]),
    ],
)
def test_a_pass_is_cut_into_pieces(monkeypatch, sizes, expected):
    monkeypatch.setattr(closed_form, "PIECE", 10)
    bounds = np.cumsum([0, *sizes])
    strata = [Stratum(np.arange(a, b), 2 + a, True) for a, b in itertools.pairwise(bounds)]
    plan = closed_form.pieces(strata)
    shown = [
        " ".join(str(len(s.indices)) for s in piece.strata) + ("" if piece.whole else "." if piece.ends else "…")
        for piece in plan
    ]
    assert shown == expected
    parts = [stratum for piece in plan for stratum in piece.strata]
    np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), np.arange(bounds[-1]))
    whose = np.searchsorted(bounds, [part.indices[0] for part in parts], side="right") - 1
    assert [(part.n_draws, part.replacement) for part in parts] == [(2 + bounds[k], True) for k in whose]


def test_a_piece_is_of_4096_examples():
    # Sums are merged piece by piece, so that another number would change the last bits of results.
    strata = [Stratum(np.arange(9000), 1, False)]
    assert [len(piece.strata[0].indices) for piece in closed_form.pieces(strata)] == [4096, 4096, 808]
