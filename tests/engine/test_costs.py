"""Operation counts by hand, and the same norms, products and moments whichever form is taken."""

import numpy as np
import pytest

import gcref
from gcref.engine import algebra, costs
from gcref.engine.convolution import Conv2d
from gcref.engine.costs import Costs, Operations
from gcref.engine.layers import Linear
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.patch_trace import PatchTrace
from gcref.engine.pooling import Flatten
from gcref.engine.trace import Trace
from gcref.kernels import convolution
from gcref.validation import naive

# ------------------------------------------------------------------------------------------------------- the counts


def network(dtype="float64"):
    """A convolution of T = 24, I = 28, O = 5, and a fully connected layer of I = 121, O = 10."""
    layers = [Conv2d(3, 5, 3, padding=1), Flatten(), Linear(120, 10)]
    return Network(layers, SoftmaxCrossEntropy(), dtype=dtype)


def test_table_1_by_hand():
    found = network().costs((4, 6, 3), n_clusters=7)
    assert found.names == ["0.weight", "2.weight"]
    assert found.shapes == [(24, 28, 5), (1, 121, 10)]
    assert found.n_clusters == 7
    assert found.backprop() == [24 * 28 * 5, 1210]
    # C⊙g: Eq. 8, (T + K) I O, or Eq. 9, T K (I + O); fully connected: K (I + O).
    assert found.inner_products() == [(31 * 140, 24 * 7 * 33), (8 * 1210, 7 * 131)]
    # g⊙g: Eq. 8, T I O, or Eq. 9, T² (I + O); fully connected: I + O.
    assert found.sq_norms() == [(24 * 140, 24 * 24 * 33), (1210, 131)]
    assert found.u_step() == [24 * 33, 131]
    assert [count.choice for count in found.inner_products()] == ["Eq. 8", "Eq. 9"]
    assert [count.choice for count in found.sq_norms()] == ["Eq. 8", "Eq. 9"]


def test_the_choice_turns_with_the_number_of_clusters_and_positions():
    # (20 + K)·600 against 20·K·50: equal at K = 30. T·600 against T²·50: equal at T = 12.
    assert [costs.inner_products(20, 30, 20, K).choice for K in (1, 29, 31, 1000)] == ["Eq. 9"] * 2 + ["Eq. 8"] * 2
    assert [costs.sq_norm(T, 30, 20).choice for T in (1, 2, 4, 5, 100)] == ["Eq. 9"] * 3 + ["Eq. 8"] * 2


def test_a_tie_goes_to_the_form_without_gradients():
    assert costs.sq_norm(2, 4, 4) == (32, 32)
    assert costs.sq_norm(2, 4, 4).choice == "Eq. 9"
    assert costs.sq_norm(4, 20, 20) == (1600, 640)  # 2.5 times as many
    assert costs.sq_norm(4, 20, 20).choice == "Eq. 9"
    assert costs.inner_products(20, 30, 20, 30) == (30000, 30000)
    assert costs.inner_products(20, 30, 20, 30).choice == "Eq. 9"
    assert Operations(7199, 7200).choice == "Eq. 8"


def test_the_table_is_printed():
    lines = str(network().costs((4, 6, 3), n_clusters=7)).splitlines()
    assert lines[0] == "multiplications for one example, K = 7"
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "block T I O back-prop C⊙g Eq. 8 Eq. 9 taken g⊙g Eq. 8 Eq. 9 taken U step",
        "0.weight 24 28 5 10,080 4,340 5,544 Eq. 8 3,360 19,008 Eq. 8 792",
        "2.weight 1 121 10 3,630 9,680 917 Eq. 9 1,210 131 Eq. 9 131",
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_costs_of_a_network_of_blocks():
    net = gcref.resnet8((8, 8, 3), 10, norm="batch", width=2)
    found = net.costs((8, 8, 3))
    assert found.n_clusters == 128
    assert len(found.shapes) == len(net.blocks) == len(str(found).splitlines()) - 2
    assert found.shapes[0] == (64, 27, 2)
    assert found.shapes[1] == (1, 1, 2)
    assert [shape[1:] for shape in found.shapes] == [block.shape for block in net.blocks]
    assert [shape[0] for shape in found.shapes if shape[1] > 2] == [64, 64, 64, 16, 16, 4, 4, 1]
    with pytest.raises(ValueError, match="x has shape"):
        net.costs((8, 8, 4))


def test_counting_needs_no_traces():
    assert Costs(["a"], [(2, 3, 4)], 5).inner_products() == [(7 * 12, 10 * 7)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trace_bytes_are_those_of_one_example_without_patches(dtype):
    size = np.dtype(dtype).itemsize
    assert network(dtype).trace_bytes((4, 6, 3)) == size * (4 * 6 * 3 + 4 * 6 * 5 + 121 + 10)
    net = network(dtype)
    assert net.trace_bytes((4, 6, 3)) == net.trace_bytes([4, 6, 3])
    assert 5 * net.trace_bytes((4, 6, 3)) == sum(
        trace.nbytes for trace in net.traces(np.zeros((5, 4, 6, 3)), np.zeros(5, int))[1]
    )


# ------------------------------------------------------------------------------------------- norms, products, moments

KINDS = ("convolution", "no bias", "difference", "one position", "two positions", "arrays", "fully connected")


def draw(kind, dtype, n_examples=6, seed=0):
    """A trace: of a convolution, of a difference of two, or of anyone's arrays."""
    rng = np.random.default_rng(seed)
    if kind in ("arrays", "fully connected"):
        T = 5 if kind == "arrays" else 1
        return Trace(*(rng.standard_normal((n_examples, T, size)).astype(dtype) for size in (4, 3)))
    shape = {"one position": (2, 3, 2), "two positions": (2, 4, 2)}.get(kind, (5, 6, 2))
    layer = Conv2d(2, 3, (2, 3), bias=kind != "no bias")
    x = rng.standard_normal((n_examples, *shape)).astype(dtype)
    out, cache = layer.forward(x, [np.zeros(layer.shapes[0], dtype)])
    (trace,) = layer.traces(rng.standard_normal(out.shape).astype(dtype), cache)
    return trace.minus(draw("convolution", dtype, n_examples, seed + 1)) if kind == "difference" else trace


def inner_products(trace, c, d):
    """⟨c_k d_kᵀ, g_i⟩, (B, K)."""
    out = np.zeros((trace.n_examples, len(c)))
    algebra.add_inner_products(trace, [(c, d)], out)
    return out


def take(monkeypatch, form):
    """Let a form be the cheaper one, whatever the shape."""
    count = Operations(0, 1) if form == "Eq. 8" else Operations(1, 0)
    monkeypatch.setattr(costs, "sq_norm", lambda *_: count)
    monkeypatch.setattr(costs, "inner_products", lambda *_: count)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["Eq. 8", "Eq. 9"])
def test_squared_norms_by_either_form(kind, form, dtype, monkeypatch):
    trace = draw(kind, dtype)
    T, I, O = trace.shape  # noqa: E741
    want = naive.sq_norms(trace.A, trace.D)
    # S = Σ_t |A_t||D_t| bounds |g|, and a coordinate of it is off by T eps S, so ‖g‖² by 2 T eps ΣS² and the rounding
    # of the sum (Eq. 8); dot products of I and O numbers by I + O eps, and T² of them are added up (Eq. 9).
    bound = (2 * T + 2 if form == "Eq. 8" else I + O + T * T) + 2
    take(monkeypatch, form)
    found = algebra.sq_norms(trace)
    assert found.dtype == np.float64
    assert (np.abs(found - want) <= bound * np.finfo(dtype).eps * naive.sq_norms(abs(trace.A), abs(trace.D))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["Eq. 8", "Eq. 9"])
def test_inner_products_by_either_form(kind, form, dtype, monkeypatch):
    trace, rng = draw(kind, dtype), np.random.default_rng(9)
    T, I, O = trace.shape  # noqa: E741
    c, d = rng.standard_normal((4, I)).astype(dtype), rng.standard_normal((4, O)).astype(dtype)
    want = naive.inner_products(trace.A, trace.D, c, d)
    sizes = naive.inner_products(abs(trace.A), abs(trace.D), abs(c), abs(d))
    take(monkeypatch, form)
    found = inner_products(trace, c, d)
    assert found.dtype == np.float64
    # Sums over T positions, I inputs and O outputs, one after the other, whichever comes first.
    assert (np.abs(found - want) <= (T + I + O + 2) * np.finfo(dtype).eps * sizes).all()


@pytest.mark.parametrize("form", ["Eq. 8", "Eq. 9"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_fewer_operations_is_taken(kind, form, monkeypatch):
    trace = draw(kind, "float64")
    c, d = np.ones((2, trace.n_inputs)), np.ones((2, trace.n_outputs))
    take(monkeypatch, form)
    formed = []
    for each in (Trace, PatchTrace):
        gradients = each.gradients
        monkeypatch.setattr(each, "gradients", lambda self, g=gradients: formed.append(len(self.D)) or g(self))
    algebra.sq_norms(trace)
    inner_products(trace, c, d)
    assert formed == ([6, 6] if form == "Eq. 8" else [])


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_trace(kind, monkeypatch):
    trace, asked = draw(kind, "float64"), []
    for name in ("sq_norm", "inner_products"):
        count = getattr(costs, name)
        monkeypatch.setattr(costs, name, lambda *a, f=count: asked.append(a) or f(*a))
    algebra.sq_norms(trace)
    inner_products(trace, np.ones((2, trace.n_inputs)), np.ones((2, trace.n_outputs)))
    assert asked == [trace.shape, (*trace.shape, 2)]


@pytest.mark.parametrize("form", ["Eq. 8", "Eq. 9"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 400])
def test_nothing_depends_on_how_the_examples_are_cut(kind, form, most, monkeypatch):
    trace = draw(kind, "float64", 7)
    c, d = np.ones((2, trace.n_inputs)), np.ones((2, trace.n_outputs))
    take(monkeypatch, form)

    def results():
        total, squares = np.zeros((2, trace.n_parameters))
        algebra.add_moments(trace, total, squares)
        return algebra.sq_norms(trace), inner_products(trace, c, d), total, squares

    whole = results()
    monkeypatch.setattr(algebra, "_NUMBERS", most)
    for found, expected in zip(results(), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_few_patches_or_gradients_are_held_at_once(monkeypatch):
    trace = draw("convolution", "float64", 7)
    monkeypatch.setattr(algebra, "_NUMBERS", 2 * 16 * (13 + 3))  # two examples' A and D, or thirteen gradients
    held = []
    patches, gradients = convolution.patches, PatchTrace.gradients
    monkeypatch.setattr(convolution, "patches", lambda x, win: held.append(len(x)) or patches(x, win))
    monkeypatch.setattr(PatchTrace, "gradients", lambda self: held.append(self.n_examples) or gradients(self))
    take(monkeypatch, "Eq. 9")
    algebra.sq_norms(trace)
    assert held == [2, 2, 2, 1]
    monkeypatch.setattr(algebra, "_NUMBERS", 3 * 39)
    algebra.add_moments(trace, np.zeros(39), np.zeros(39))
    assert held[4:] == [3, 3, 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_added_to_what_is_there(kind, dtype):
    trace = draw(kind, dtype)
    A, D, T, B = trace.A, trace.D, trace.n_positions, trace.n_examples
    total, squares = np.random.default_rng(0).uniform(1, 2, (2, trace.n_parameters))
    before = total.copy(), squares.copy()
    algebra.add_moments(trace, total, squares)
    G, sizes = naive.per_example_gradients(A, D), naive.per_example_gradients(abs(A), abs(D))
    eps = np.finfo(dtype).eps
    # A gradient is off by T + 1 eps, its square by twice that and a rounding, and B are added up, in the type of the
    # trace where T ≤ 2; what was there is rounded once, in float64.
    assert (np.abs(total - before[0] - G.sum(axis=0)) <= (T + B + 1) * eps * sizes.sum(axis=0) + 1e-15).all()
    bound = (2 * T + B + 3) * eps * (sizes**2).sum(axis=0) + 1e-15
    assert (np.abs(squares - before[1] - (G**2).sum(axis=0)) <= bound * (1 + before[1])).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_center_sums_are_added_to_what_is_there(kind, dtype):
    trace, labels = draw(kind, dtype), np.array([2, 0, 0, 3, 2, 2])
    sums = np.zeros((4, trace.n_inputs)), np.full((4, trace.n_outputs), 0.5)
    algebra.add_center_sums(trace, labels, *sums)
    for found, start, terms in zip(sums, (0, 0.5), (trace.A, trace.D), strict=True):
        want = start + naive.grouped_sums(terms.sum(axis=1, dtype=float), labels, 4)
        sizes = 1 + naive.grouped_sums(abs(terms).sum(axis=1, dtype=float), labels, 4)
        assert (np.abs(found - want) <= (trace.n_positions + 6) * np.finfo(dtype).eps * sizes).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_example(kind):
    trace = draw(kind, "float64", 0)
    for form in ("Eq. 8", "Eq. 9"):
        with pytest.MonkeyPatch.context() as patch:
            take(patch, form)
            assert algebra.sq_norms(trace).shape == (0,)
            products = inner_products(trace, np.ones((2, trace.n_inputs)), np.ones((2, trace.n_outputs)))
            assert products.shape == (0, 2)
    total, squares = np.ones((2, trace.n_parameters))
    algebra.add_moments(trace, total, squares)
    np.testing.assert_array_equal([total, squares], np.ones((2, trace.n_parameters)))
    sums = np.ones((2, trace.n_inputs)), np.ones((2, trace.n_outputs))
    algebra.add_center_sums(trace, np.zeros(0, int), *sums)
    assert all((each == 1).all() for each in sums)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_norms_of_whole_gradients(dtype, norm):
    net = gcref.resnet8((6, 7, 2), 3, norm=norm, width=2, dtype=dtype)
    rng = np.random.default_rng(0)
    _, traces = net.traces(rng.standard_normal((5, 6, 7, 2)), rng.integers(0, 3, 5))
    found = algebra.per_example_sq_norms(traces)
    assert found.dtype == np.float64
    G = gcref.per_example_gradients(traces).astype(float)
    sizes = sum(naive.sq_norms(abs(t.A), abs(t.D)) for t in traces)
    worst = max(2 * t.n_positions + t.n_inputs + t.n_outputs + t.n_positions**2 for t in traces)
    assert (np.abs(found - (G**2).sum(axis=1)) <= worst * np.finfo(dtype).eps * sizes).all()
    np.testing.assert_allclose(found, sum(algebra.sq_norms(trace) for trace in traces), rtol=1e-13)


def test_norms_ask_for_traces_of_the_same_examples():
    with pytest.raises(ValueError, match="traces is empty"):
        algebra.per_example_sq_norms([])
    with pytest.raises(TypeError, match="a single Trace"):
        algebra.per_example_sq_norms(draw("arrays", "float64"))
    with pytest.raises(ValueError, match=r"traces\[1\] has 3 examples but traces\[0\] has 6"):
        algebra.per_example_sq_norms([draw("arrays", "float64"), draw("convolution", "float64", 3)])
