"""The Gram matrix of traces: the same however they are handed over, and without holding them all."""

import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import gcref
from gcref.clustering import gram
from gcref.clustering.exact import ExactClustering
from gcref.clustering.gram import center, gram_matrix, gram_operations
from gcref.engine.costs import Operations
from gcref.engine.trace import Trace, per_example_gradients
from gcref.kernels import threads
from gcref.validation import enumeration

BOTH_EQUATIONS = [Operations(0, 1), Operations(1, 0)]


@pytest.fixture
def convolutional():
    """Traces of a small convolutional network, 12 examples."""
    net, ds = enumeration.draw(12, enumeration.Model("", enumeration.strided, enumeration.IMAGE), 0)
    return net.traces(ds.x, ds.y)[1]


def split(traces, *lengths):
    """The traces in batches of these lengths."""
    return [[t.rows(slice(a, b)) for t in traces] for a, b in pairwise(np.cumsum([0, *lengths]))]


def counted(batches):
    """A function that yields the batches and counts its calls."""

    def function():
        function.calls += 1
        return iter(batches)

    function.calls = 0
    return function


@pytest.mark.parametrize("equation", BOTH_EQUATIONS)
@pytest.mark.parametrize("held", [0, 2000, 1 << 28])
@pytest.mark.parametrize("lengths", [(23,), (1,) * 23, (7, 0, 9, 7), (0, 22, 1)])
def test_the_matrix_does_not_depend_on_batches_groups_or_slices(modes, monkeypatch, equation, held, lengths):
    traces = modes(N=23, T=3)
    G = per_example_gradients(traces)
    monkeypatch.setattr(gram, "gram_operations", lambda *shape: equation)
    monkeypatch.setattr(gram, "_HELD", held)
    batches = split(traces, *lengths)
    for numbers, rows in ((1, 2), (60, 3), (1 << 22, 256)):
        monkeypatch.setattr(gram, "_NUMBERS", numbers)
        monkeypatch.setattr(gram, "_ROWS", rows)
        for given_as in (batches, lambda: iter(batches)):
            got = gram_matrix(given_as)
            assert_allclose(got, G @ G.T, rtol=1e-12, atol=1e-12)
            assert_array_equal(got, got.T)


@pytest.mark.parametrize("equation", BOTH_EQUATIONS)
def test_convolutions_in_groups(convolutional, monkeypatch, equation):
    G = per_example_gradients(convolutional)
    monkeypatch.setattr(gram, "gram_operations", lambda *shape: equation)
    monkeypatch.setattr(gram, "_HELD", 1000)
    monkeypatch.setattr(gram, "_NUMBERS", 500)
    assert_allclose(gram_matrix(split(convolutional, 5, 4, 3)), G @ G.T, rtol=1e-11, atol=1e-14)


def test_float32_traces_give_float64_products(modes):
    traces = modes(dtype="float32")
    G = per_example_gradients([t.astype(np.dtype(np.float64)) for t in traces])
    got = gram_matrix(split(traces, 30, 30))
    assert got.dtype == np.float64
    assert_allclose(got, G @ G.T, rtol=1e-12, atol=1e-12)


def test_a_function_is_called_once_for_each_group_and_once_before(modes, monkeypatch):
    batches = split(modes(N=20), 5, 5, 5, 5)
    size = sum(t.nbytes for t in batches[0])
    for held, groups in ((0, 4), (size, 4), (2 * size, 2), (3 * size, 2), (4 * size, 1)):
        monkeypatch.setattr(gram, "_HELD", held)
        function = counted(batches)
        ExactClustering(3, form="gram").fit(function)
        assert function.calls == 1 + groups
    function = counted(batches)
    ExactClustering(3, form="explicit").fit(function)
    assert function.calls == 2


def test_the_form_is_chosen_before_any_gradient_is_made(modes, monkeypatch):
    # Ten examples of 3,000 parameters, and 300 of 4: which is which is known by the shapes.
    rng = np.random.default_rng(0)
    few, many = [Trace(np.ones((10, 50)), rng.standard_normal((10, 60)))], [Trace(np.ones((300, 2)), np.ones((300, 2)))]
    chosen = []
    for form, name in (("gram", "gram_matrix"), ("explicit", "_gradients")):
        stop = SimpleNamespace(error=InterruptedError(form))

        def found(*args, stop=stop):
            raise stop.error

        monkeypatch.setattr(f"gcref.clustering.exact.{name}", found)
    for traces in (few, many):
        with pytest.raises(InterruptedError) as stopped:
            ExactClustering(3).fit(lambda traces=traces: [traces])
        chosen.append(str(stopped.value))
    assert chosen == ["gram", "explicit"]


@pytest.mark.parametrize(
    ("shape", "n", "m", "expected"),
    [
        ((1, 5, 7), 3, 4, Operations((3 + 4) * 35 + 12 * 35, 12 * 12)),
        ((2, 5, 7), 3, 4, Operations((3 + 4) * 70 + 12 * 35, 12 * 4 * 12)),
        ((3, 5, 7), 3, 4, Operations((3 + 4) * 105 + 12 * 35, 12 * 9 * 12)),
    ],
)
def test_operations_worked_by_hand(shape, n, m, expected):
    assert gram_operations(*shape, n, m) == expected


def test_gradients_are_formed_anew_for_each_slice(monkeypatch):
    monkeypatch.setattr(gram, "_NUMBERS", 70)  # two gradients of 35 numbers at once, so two slices of three examples
    assert gram_operations(2, 5, 7, 3, 4).eq8 == (3 + 2 * 4) * 70 + 12 * 35


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [([64] * 9, [4, 4, 1]), ([65] * 4, [3, 1]), ([1, 255, 1], [2, 1]), ([300, 1], [1, 1]), ([0, 256, 1], [2, 1])],
)
def test_groups_are_of_256_mebibytes(sizes, groups):
    batches = [(slice(i, i + 1), [SimpleNamespace(nbytes=size << 20)]) for i, size in enumerate(sizes)]
    found = list(gram._groups(batches, 0))
    assert [len(group) for _, group in found] == groups
    edges = np.cumsum([0, *groups])
    assert [(rows.start, rows.stop) for rows, _ in found] == list(pairwise(edges))


def sizes_of_products(monkeypatch, equation, numbers, rows):
    """How many examples of a block of (T, I, O) = (2, 5, 7) are multiplied with how many at a time."""
    rng, seen = np.random.default_rng(0), []
    traces = [Trace(rng.standard_normal((9, 2, 5)), rng.standard_normal((9, 2, 7)))]
    G, original = per_example_gradients(traces), gram._slices

    def recording(start, stop, step):
        seen.append(step)
        return original(start, stop, step)

    monkeypatch.setattr(gram, "gram_operations", lambda *shape: equation)
    monkeypatch.setattr(gram, "_NUMBERS", numbers)
    monkeypatch.setattr(gram, "_ROWS", rows)
    monkeypatch.setattr(gram, "_slices", recording)
    assert_allclose(gram_matrix(traces), G @ G.T, rtol=1e-12, atol=1e-12)
    return seen[:2]


@pytest.mark.parametrize(("numbers", "rows", "steps"), [(4 * 35, 2, [4, 4]), (4 * 35 - 1, 9, [3, 3]), (34, 9, [1, 1])])
def test_few_gradients_are_formed_at_once(monkeypatch, numbers, rows, steps):
    assert sizes_of_products(monkeypatch, Operations(0, 1), numbers, rows) == steps


@pytest.mark.parametrize(("numbers", "rows", "steps"), [(4 * 24, 2, [2, 4]), (4 * 24 - 1, 9, [3, 3]), (23, 9, [1, 1])])
def test_few_patches_are_formed_at_once(monkeypatch, numbers, rows, steps):
    assert sizes_of_products(monkeypatch, Operations(1, 0), numbers, rows) == steps


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_centring(N, d, seed):
    G = 3.0 + np.random.default_rng(seed).standard_normal((N, d))
    got = G @ G.T
    center(got)
    deviations = G - G.mean(axis=0) if N else G
    assert_allclose(got, deviations @ deviations.T, atol=1e-13 * max(1, (G**2).sum()))
    assert_array_equal(got, got.T)


@pytest.mark.parametrize("held", [0, 1 << 28])
def test_what_is_not_finite_is_named_by_its_place_among_all(modes, monkeypatch, held):
    monkeypatch.setattr(gram, "_HELD", held)
    traces = modes(N=20)
    traces[1].D[13, 0, 1] = np.inf
    for form in ("explicit", "gram"):
        with pytest.raises(ValueError, match=r"D of traces\[1\] has NaN or infinity at example 13"):
            ExactClustering(3, form=form).fit(split(traces, 6, 6, 8))


def test_passes_that_change_their_length_are_refused(modes, monkeypatch):
    monkeypatch.setattr(gram, "_HELD", 0)
    traces = modes(N=20)
    passes = iter([split(traces, 10, 10), split(traces, 10, 5)])
    with pytest.raises(ValueError, match="traces yielded 15 examples in this pass but 20 in the first"):
        ExactClustering(3, form="gram").fit(lambda: next(passes))


# ------------------------------------------------------------------------------------------------------- memory


def peak(run):
    """Bytes that `run` holds at most beyond what is there before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["gram", "explicit"])
def test_not_all_traces_are_held_at_once(monkeypatch, form):
    # 600 examples of 4,000 numbers as traces, 19 MB, in 30 batches made anew, of which two are a group.
    monkeypatch.setattr(threads, "n_threads", lambda: 1)
    N, batch, slices = 600, 8 * 20 * 4 * 1000, 300_000
    monkeypatch.setattr(gram, "_HELD", 2 * batch)
    monkeypatch.setattr(gram, "_NUMBERS", slices // 8)
    monkeypatch.setattr(gram, "_ROWS", 20)
    monkeypatch.setattr("gcref.clustering.exact._CHUNK", slices // 8)

    def batches(n_examples=N):
        for start in range(0, n_examples, 20):
            rng = np.random.default_rng(start)
            yield [Trace(rng.standard_normal((20, 4, 996)), rng.standard_normal((20, 4, 4)))]

    ExactClustering(5, "exchange", form=form).fit(lambda: batches(20))  # compiles
    found = peak(lambda: ExactClustering(5, "exchange", n_iter=3, form=form).fit(batches))
    if form == "gram":
        # N² numbers; two groups, each layer of them joined, and the batch under way; a few slices.
        assert found < 8 * N * N + 2 * (2 + 2) * batch + batch + 4 * slices
    else:
        # The gradients and their deviations; a batch and its slices.
        assert found < 2 * 8 * N * 996 * 4 + 2 * batch + 2 * slices


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLP", "ResNet8"])
def test_two_thousand_gradients_of_networks(name):
    # In the Gram form, without the 30 GB that the gradients of the MLP would take in float64.
    rng, N = np.random.default_rng(0), 2000
    if name == "MLP":
        net, shape = gcref.mlp((784, 1024, 1024, 10), seed=0, dtype="float32"), (784,)
    else:
        net, shape = gcref.resnet8(in_shape=(32, 32, 3), n_classes=10, norm=None, seed=0, dtype="float32"), (32, 32, 3)
    x, y = rng.standard_normal((N, *shape)).astype(np.float32), rng.integers(0, 10, N)

    def batches(n=N):
        return (net.traces(x[i : i + 100], y[i : i + 100])[1] for i in range(0, n, 100))

    fits = []
    run = lambda: fits.append(ExactClustering(64, "exchange", n_iter=30, form="gram").fit(batches))  # noqa: E731
    found = peak(run)
    # As above; the slices are of 32 MiB.
    assert found < 8 * N * N + 4 * (256 << 20) + 4 * (32 << 20)
    est = fits[0]
    assert np.all(np.diff(est.objective_) <= 0)
    variance = gcref.variance(gcref.Stratified(est.labels_), net, gcref.data.Dataset(x, y)).average
    assert_allclose(est.objective_.min(), N**2 * net.n_parameters * variance, rtol=1e-4)
