"""The closed form is summed in pieces, and whoever sums them, the numbers are the same."""

import itertools
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gcref
from gcref import closed_form, cores, executor
from gcref.data import Dataset
from gcref.estimators import Stratum


def problem(n, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    net = gcref.mlp((5, 4, 3), seed=1, dtype=dtype)
    ds = Dataset(rng.normal(size=(n, 5)).astype(dtype), rng.integers(0, 3, n))
    estimators = {
        "gc": gcref.Stratified(
            np.minimum(rng.integers(0, 9, n), 4)
        ),  # the last cluster is as large as the others together
        "sgb": gcref.MiniBatch(6),
        "other": gcref.Stratified(rng.integers(0, 3, n), batch_size=2),
        "svrg": gcref.SVRG(6).prepare(net, ds),
    }
    net.theta = net.theta * 1.5
    return estimators, net, ds


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 30))
def test_pieces_hold_every_example_once_in_order(sizes, piece):
    bounds = np.cumsum([0, *sizes])
    strata = [Stratum(np.arange(a, b), 1, False) for a, b in itertools.pairwise(bounds)]
    before, closed_form.PIECE = closed_form.PIECE, piece
    try:
        plan = closed_form.pieces(strata)
    finally:
        closed_form.PIECE = before
    found = np.concatenate([s.indices for p in plan for s in p.strata])
    np.testing.assert_array_equal(found, np.arange(bounds[-1]))
    for part in plan:
        n = sum(len(s.indices) for s in part.strata)
        assert n <= (2 * piece - 1 if part.whole else piece)
        assert part.whole or len(part.strata) == 1
    ends = [p.strata[0].indices[-1] + 1 for p in plan if not p.whole and p.ends]
    assert set(ends) <= set(bounds.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 60), st.integers(1, 70), st.sampled_from(["float32", "float64"]), st.integers(0, 100))
def test_any_piece_size_gives_the_same_variance(n, piece, dtype, seed):
    args = problem(n, dtype, seed)
    whole = gcref.variances(*args)
    before, closed_form.PIECE = closed_form.PIECE, piece
    try:
        cut = gcref.variances(*args)
    finally:
        closed_form.PIECE = before
    rtol = 1e-10 if dtype == "float64" else 1e-5
    for name in whole:
        np.testing.assert_allclose(cut[name].average, whole[name].average, rtol=rtol)
        np.testing.assert_allclose(cut[name].normalized, whole[name].normalized, rtol=rtol)
        np.testing.assert_allclose(cut[name].noise_scale, whole[name].noise_scale, rtol=rtol)


class Backwards(Executor):
    """Does nothing until a result is asked for, and then the newest first."""

    n_workers = 3

    def __init__(self):
        self.waiting, self.most, self.n_done = [], 0, 0

    def submit(self, fn, /, *args, **kwargs):
        future = _Lazy(self, fn, args)
        self.waiting.append(future)
        self.most = max(self.most, len(self.waiting))
        return future

    def run(self):
        while self.waiting:
            future = self.waiting.pop()
            future.set_result(future.fn(*future.args))
            self.n_done += 1


class _Lazy(Future):
    def __init__(self, owner, fn, args):
        super().__init__()
        self.owner, self.fn, self.args = owner, fn, args

    def result(self, timeout=None):
        self.owner.run()
        return super().result(timeout)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_the_same_whoever_sums(monkeypatch, dtype):
    monkeypatch.setattr(closed_form, "PIECE", 16)
    args = problem(200, dtype)
    alone = gcref.variances(*args)
    backwards = Backwards()
    with ThreadPoolExecutor(2) as pool:
        assert gcref.variances(*args, executor=pool) == alone
    assert gcref.variances(*args, executor=backwards) == alone
    assert backwards.n_done > 20
    assert backwards.most <= 2 * backwards.n_workers
    estimators, net, ds = args
    one = estimators["svrg"]
    assert gcref.variance(one, net, ds, executor=backwards) == gcref.variance(one, net, ds)


def test_an_error_in_a_piece_comes_through_and_the_others_are_given_up():
    class Pool(Backwards):
        def run(self):
            self.waiting[0].set_exception(ZeroDivisionError())
            self.waiting.clear()

    pool = Pool()
    with pytest.raises(ZeroDivisionError):
        list(executor.in_order(pool, divmod, 1, range(100)))


@pytest.mark.slow
def test_dask_gives_the_same_bits(monkeypatch):
    pytest.importorskip("distributed")
    args = problem(20_000)
    with cores.single_threaded_children(), executor.dask_pool(n_workers=2) as pool:
        found = gcref.variances(*args, executor=pool)
    assert found == gcref.variances(*args)
