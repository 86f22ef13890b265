import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import gcref
from gcref.clustering.base import NotFiniteError
from gcref.clustering.sketches import Sketches, dim_for
from gcref.engine import costs
from gcref.engine.trace import Trace, per_example_gradients
from gcref.validation import enumeration, naive_sketch

SETTINGS = settings(max_examples=40, deadline=None)
N_SEEDS = 2000


def signs_of(sketches, traces):
    return [sketches._signs_of(block, trace) for block, trace in enumerate(traces)]


@st.composite
def blocks(draw):
    """Traces of one to three blocks, T from 1 to 6."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    N = draw(st.integers(1, 8))
    shapes = draw(st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=3))
    return [Trace(rng.standard_normal((N, T, I)), rng.standard_normal((N, T, O))) for T, I, O in shapes]  # noqa: E741


@SETTINGS
@given(blocks(), st.integers(1, 9), st.integers(0, 50))
def test_sketches_match_the_oracle(traces, dim, seed):
    sketches = Sketches(dim, seed).add(traces)
    want = naive_sketch.sketch([(t.A, t.D) for t in traces], signs_of(sketches, traces))
    assert_allclose(sketches.values, want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("dim", [1, 500])
def test_both_forms_are_taken_and_agree_with_the_gradients(dim):
    shape = 40, 3, 2
    rng = np.random.default_rng(0)
    trace = Trace(rng.standard_normal((5, 40, 3)), rng.standard_normal((5, 40, 2)))
    assert costs.sketch(*shape, 500).choice == "Eq. 8"
    assert costs.sketch(1, 30, 20, 4).choice == "Eq. 9"
    sketches = Sketches(dim).add([trace])
    (R, Q) = signs_of(sketches, [trace])[0]
    want = np.einsum("mi,nio,mo->nm", R, trace.gradients(), Q) / np.sqrt(dim)
    assert_allclose(sketches.values, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dim", [3, 200])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_convolutions_are_sketched_without_patches(norm, dim):
    model = enumeration.resnet8(norm)
    net, ds = enumeration.draw(6, model, 0)
    _, traces = net.traces(ds.x, ds.y)
    sketches = Sketches(dim, 3).add(traces)
    G, start, want = per_example_gradients(traces), 0, np.zeros((6, dim))
    for (R, Q), t in zip(signs_of(sketches, traces), traces, strict=True):
        g = G[:, start : start + t.n_parameters].reshape(6, t.n_inputs, t.n_outputs)
        want += np.einsum("mi,nio,mo->nm", R, g, Q) / np.sqrt(dim)
        start += t.n_parameters
    assert_allclose(sketches.values, want, rtol=1e-9, atol=1e-10 * np.abs(want).max())
    for t in traces:
        R = np.random.default_rng(0).standard_normal((dim, t.n_inputs))
        assert_allclose(t.projections(R), t.A @ R.T, rtol=1e-9, atol=1e-10)


def products_over_seeds(traces, dim, n_seeds):
    """⟨z_i, z_j⟩ for many seeds, (n_seeds, N, N)."""
    values = [Sketches(dim, seed).add(traces).values for seed in range(n_seeds)]
    return np.array([z @ z.T for z in values])


def draws_of_signs(kind):
    """Traces of a fully connected network of three blocks, or of a small convolutional one."""
    if kind == "fc":
        net = gcref.mlp((5, 4, 4, 3), seed=0, dtype="float64")
        rng = np.random.default_rng(0)
        return net.traces(rng.standard_normal((4, 5)), rng.integers(0, 3, 4))[1]
    net, ds = enumeration.draw(4, enumeration.Model("", enumeration.strided, enumeration.IMAGE), 0)
    return net.traces(ds.x, ds.y)[1]


@pytest.mark.parametrize("kind", ["fc", "conv"])
def test_inner_products_are_unbiased_and_their_spread_is_within_the_bound(kind):
    traces = draws_of_signs(kind)
    G = per_example_gradients(traces)
    exact = G @ G.T
    found = products_over_seeds(traces, 8, N_SEEDS)
    z = (found.mean(axis=0) - exact) / (found.std(axis=0, ddof=1) / np.sqrt(N_SEEDS))
    # 10 different pairs: the largest |z| of that many exceeds 4.5 once in 15,000 runs.
    assert np.abs(z).max() < 4.5
    norms = np.sqrt(np.diagonal(exact))
    assert (found.std(axis=0) <= 3 / np.sqrt(8) * np.outer(norms, norms)).all()


def test_the_error_falls_as_the_root_of_dim():
    traces = draws_of_signs("fc")
    spreads = [products_over_seeds(traces, dim, N_SEEDS).std(axis=0, ddof=1)[0, 1] for dim in (4, 16, 64)]
    ratios = np.array(spreads[:-1]) / spreads[1:]
    # A deviation from N draws of a distribution of kurtosis κ has the relative error √((κ − 1)/4N); κ < 20 here.
    assert (np.abs(np.log(ratios / 2)) < 5 * np.sqrt(2 * 19 / (4 * N_SEEDS))).all()


def test_batches_add_up_and_a_function_is_called_once(modes, helpers):
    traces = modes()
    whole = Sketches(7, 1).add(traces).values
    batches, calls = helpers.split(traces, [13, 20, 27]), []

    def anew():
        calls.append(1)
        return iter(batches)

    assert_allclose(Sketches(7, 1).add(anew).values, whole, rtol=1e-12, atol=1e-13)
    assert len(calls) == 1
    grown = Sketches(7, 1).add(batches[0]).add(batches[1:])
    assert_allclose(grown.values, whole, rtol=1e-12, atol=1e-13)
    assert len(grown) == 60


def test_refreshing_replaces_some(modes, helpers):
    old, new = modes(seed=0), modes(seed=1)
    rows = np.array([5, 3, 59])
    part = [Trace(t.A[rows], t.D[rows]) for t in new]
    refreshed = Sketches(6).add(old).refresh(part, rows).values
    want = Sketches(6).add(old).values
    want[rows] = Sketches(6).add(new).values[rows]
    assert_allclose(refreshed, want, rtol=1e-12, atol=1e-13)


def test_saved_sketches_come_back_and_can_be_added_to(modes, helpers, tmp_path):
    first, second = helpers.split(modes(), [40, 20])
    kept = Sketches(6, 9).add(first)
    kept.save(tmp_path / "z.npz")
    back = Sketches.load(tmp_path / "z.npz")
    assert_array_equal(back.values, kept.values)
    assert (back.seed, back.dim, back.blocks) == (9, 6, kept.blocks)
    assert_array_equal(back.add(second).values, kept.add(second).values)
    with pytest.raises(FileExistsError):
        kept.save(tmp_path / "z.npz")


def test_sketches_that_cannot_be_saved_leave_nothing_behind(tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"z\.npz cannot be written: No space left on device"):
        Sketches(6).save(tmp_path / "z.npz")
    assert list(tmp_path.iterdir()) == []


def test_float32_traces_are_sketched_in_float32_and_added_up_in_float64(modes):
    double, single = modes(), modes(dtype="float32")
    a, b = Sketches(32).add(double).values, Sketches(32).add(single).values
    assert a.dtype == b.dtype == np.float64
    assert 0 < np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_foreign_files_are_refused(tmp_path):
    def refused(match, **arrays):
        path = tmp_path / "bad.npz"
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=match):
            Sketches.load(path)

    good = {"sketches": np.ones((3, 2)), "blocks": np.ones((1, 3), dtype=np.int64), "seed": np.int64(0)}
    refused("does not hold sketches", sketches=np.ones((3, 2)))
    refused("other types or shapes", **good | {"sketches": np.ones(3)})
    refused("other types or shapes", **good | {"sketches": np.ones((3, 2), dtype=np.float32)})
    refused("other types or shapes", **good | {"blocks": np.ones((1, 2), dtype=np.int64)})
    refused("other types or shapes", **good | {"blocks": np.ones((1, 3))})
    refused("other types or shapes", **good | {"blocks": np.ones(3, dtype=np.int64)})
    refused("other types or shapes", **good | {"seed": np.array([0])})
    refused("other types or shapes", **good | {"seed": np.float64(0)})
    refused("example 0 is not finite", **good | {"sketches": np.full((3, 2), np.nan)})
    refused("does not hold sketches", **good | {"sketches": np.array([{}, {}], dtype=object)})
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="does not hold sketches"):
        Sketches.load(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        Sketches.load(tmp_path / "absent.npz")


def test_bad_arguments_are_named(modes):
    with pytest.raises(ValueError, match="dim=0"):
        Sketches(0)
    with pytest.raises(ValueError, match="seed=-1"):
        Sketches(3, -1)
    sketches = Sketches(3).add(modes())
    with pytest.raises(ValueError, match=r"blocks \(T, I, O\)"):
        sketches.add([Trace(np.ones((2, 3)), np.ones((2, 3)))])
    with pytest.raises(TypeError, match="traces is a"):
        sketches.add(np.ones((3, 2)))
    with pytest.raises(ValueError, match="holds no batch"):
        sketches.add(lambda: iter([]))
    bad = modes()
    bad[1].A[4] = np.inf
    with pytest.raises(NotFiniteError, match="example 64 is not finite"):
        sketches.add(bad)
    assert len(sketches) == 60
    one = [t.rows(slice(0, 1)) for t in modes()]
    for indices, match in (([60], r"60…60"), ([-1], "-1…-1"), ([[1]], "shape"), ([0.5], "dtype"), ([1, 1], "twice")):
        with pytest.raises(ValueError, match=match):
            sketches.refresh(one, indices)
    with pytest.raises(ValueError, match="1 examples but indices has 2"):
        sketches.refresh(one, [1, 2])


def test_what_is_not_finite_refreshes_nothing(modes):
    sketches = Sketches(3).add(modes())
    before, bad = sketches.values.copy(), [t.rows(slice(0, 2)) for t in modes(seed=1)]
    bad[0].A[1] = np.nan
    with pytest.raises(NotFiniteError, match="gradient of example 1 is not finite"):
        sketches.refresh(bad, [4, 5])
    assert_array_equal(sketches.values, before)


def test_no_example_can_be_refreshed(modes):
    sketches = Sketches(3).add(modes())
    before = sketches.values.copy()
    sketches.refresh([t.rows(slice(0, 0)) for t in modes()], np.zeros(0, np.int64))
    assert_array_equal(sketches.values, before)
    ends = [t.rows(slice(0, 2)) for t in modes(seed=1)]
    sketches.refresh(ends, [0, 59])
    assert (sketches.values != before).all(axis=1).nonzero()[0].tolist() == [0, 59]


def test_the_dimension_for_an_accuracy():
    assert dim_for(1.0) == 9
    assert dim_for(0.1) == 900
    assert dim_for(0.25) == 144


@pytest.mark.parametrize("block", [0, 1, 5])
def test_signs_are_those_of_their_stream_for_ever(block):
    # Sketches that were saved are added to by later versions.
    rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(0x516E, block)))
    R, Q = Sketches(4, 7)._signs_of(block, Trace(np.ones((2, 3)), np.ones((2, 5), np.float64)))
    assert_array_equal(R, np.where(rng.integers(0, 2, (4, 3), dtype=np.int8), 1, -1))
    assert_array_equal(Q, np.where(rng.integers(0, 2, (4, 5), dtype=np.int8), 1, -1))
    assert {-1, 1} == set(R.ravel()) | set(Q.ravel())


def test_sketches_show_what_they_are():
    assert repr(Sketches(3, 2)) == "Sketches(dim=3, seed=2): 0 examples"
    assert (Sketches(3).seed, Sketches(3).values.shape, Sketches(3).blocks) == (0, (0, 3), [])
    Sketches(1, 0)
