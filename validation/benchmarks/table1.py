"""Suite ``table1``: Table 1 of the paper, measured: the time of each of its rows along I, O, T, K and B.

Each time is of the package's own functions, float32, one size varied and the others fixed; the exponent of a power law
stands beside that of the operations counted by Table 1 (`gcref.engine.costs`) at the same sizes. A convolution is
3 × 3 with padding on images of √T × √T, so that I = 9 times its input channels; its A and U steps read the image itself
and form no patches. Then, on a grid of convolutions, Eq. 8 and Eq. 9 are timed beside one another: which is faster, and
does the rule that chooses know?
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from unittest import mock

import numpy as np

from gcref.clustering.factored import sq_norms as center_sq_norms
from gcref.engine import algebra, costs
from gcref.engine.patch_trace import PatchTrace
from gcref.engine.trace import Trace
from gcref.kernels import convolution, cpu
from gcref.kernels.threads import product
from gcref.validation.benchmarks.alternating import Run, seconds_of
from gcref.validation.benchmarks.slopes import Crossover, Slope, crossover, fitted
from gcref.validation.benchmarks.workloads import Plan

SUITE = "table1"
Sizes = Mapping[str, int]

FC = {"B": 1024, "I": 512, "O": 512, "K": 64, "T": 1}
FC_AXES = {
    "B": (512, 1024, 2048, 4096),
    "I": (512, 1024, 2048, 4096),
    "O": (512, 1024, 2048, 4096),
    "K": (16, 64, 256, 1024),
}
CONV = {"B": 16, "I": 144, "O": 32, "K": 32, "T": 256}
CONV_AXES = {
    "B": (8, 16, 32, 64), "I": (36, 144, 576), "O": (8, 32, 128), "K": (8, 32, 128, 512), "T": (16, 64, 256, 1024),
}  # fmt: skip
GRID = {"T": (16, 64, 256, 1024), "I": (36, 144, 576), "O": (8, 32, 128), "K": (8, 32, 128), "B": (16,)}
QUICK_GRID = {"T": (16, 256), "I": (36, 144), "O": (8, 64), "K": (8, 64), "B": (4,)}
MOST = 4e9  # operations of the dearer form, beyond which a shape of the grid is left out


class Layer(NamedTuple):
    """A layer's traces for B examples, its weight, and K centres of rank 1."""

    trace: Trace
    x: np.ndarray
    dout: np.ndarray
    w: np.ndarray
    c: np.ndarray
    d: np.ndarray
    win: convolution.Window | None

    @property
    def n_clusters(self) -> int:
        """K."""
        return len(self.c)


class Quantity(NamedTuple):
    """A row of Table 1: how to run it, the operations it counts, and the form it is forced to take, if any."""

    name: str
    run: Callable[[Layer], object]
    count: Callable[[Sizes], int]
    form: str | None = None


def rows(plan: Plan) -> Iterator[Slope | Crossover]:
    """Measure; one exponent, or crossover, after the other."""
    for kind, quantities, base, axes in (("FC", fc_quantities(), FC, FC_AXES), ("conv", CONV_ROWS, CONV, CONV_AXES)):
        for quantity in quantities:
            for axis, values in axes.items():
                slope = along(kind, quantity, base, axis, values[:3] if plan.quick else values)
                if slope is not None:
                    yield slope
    grid = QUICK_GRID if plan.quick else GRID
    for name in ("C⊙g", "g⊙g"):
        yield choice(name, grid, plan.quick)


def along(kind: str, quantity: Quantity, base: Sizes, axis: str, values: tuple[int, ...]) -> Slope | None:
    """Vary one size; None if the operations do not depend on it."""
    points = [{**base, axis: value} for value in values]
    counts = [quantity.count(point) for point in points]
    if len(set(counts)) == 1:
        return None
    with forced(quantity.form):
        seconds = tuple(median_seconds(partial(quantity.run, layer(point))) for point in points)
    fixed = ", ".join(f"{k} = {v}" for k, v in base.items() if k != axis and not (k == "T" and v == 1))
    return Slope(SUITE, f"{kind} {quantity.name}", axis, values, seconds, "s", fitted(values, counts), fixed)


def median_seconds(run: Run, most: int = 15, budget: float = 0.25) -> float:
    """Return the median of up to `most` runs, or of as many as fit into some time, after two that do not count."""
    first = seconds_of(run)
    run()
    start, seconds = time.perf_counter(), list[float]()
    while len(seconds) < 3 or (len(seconds) < most and time.perf_counter() - start + first < budget):
        seconds.append(seconds_of(run))
    return float(np.median(seconds))


@contextmanager
def forced(form: str | None) -> Iterator[None]:
    """Let Eq. 8 or Eq. 9 be taken within the block, whatever they cost."""
    if form is None:
        yield
        return
    with mock.patch.object(costs.Operations, "choice", form):
        yield


# ------------------------------------------------------------------------------------------------- the layers


def layer(sizes: Sizes) -> Layer:
    """Draw the inputs, output gradients, weights and centres of a layer; fully connected where T = 1."""
    B, T, I, O, K = (sizes[name] for name in "BTIOK")  # noqa: E741
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    c, d = np.asfortranarray(normal(K, I)), np.asfortranarray(normal(K, O))
    if T == 1:
        x, dout = normal(B, I), normal(B, O)
        return Layer(Trace(x, dout), x, dout, normal(I, O), c, d, None)
    side = math.isqrt(T)
    x, dout = normal(B, side, side, I // 9), normal(B, side, side, O)
    win = convolution.window((side, side, I // 9), (3, 3), (1, 1), (1, 1))
    return Layer(PatchTrace.of_layer(x, dout, win, False), x, dout, normal(I, O), c, d, win)


# ---------------------------------------------------------------------------------------- the rows of Table 1


def inner_products(layer: Layer) -> np.ndarray:
    """C ⊙ g."""
    out = np.zeros((layer.trace.n_examples, layer.n_clusters))
    algebra.add_inner_products(layer.trace, [(layer.c, layer.d)], out)
    return out


def centers(layer: Layer) -> np.ndarray:
    """C ⊙ C."""
    return center_sq_norms([(layer.c, layer.d)])


def back_propagate(layer: Layer) -> None:
    """Forward, the gradient of the inputs and that of the weights: three products."""
    if layer.win is None:
        product(layer.x, layer.w)
        product(layer.dout, layer.w.T)
        product(layer.x.T, layer.dout)
        return
    convolution.conv_forward(layer.x, layer.w, layer.win)
    convolution.conv_input_gradient(layer.dout, layer.w, layer.win)
    convolution.conv_weight_gradient(layer.x, layer.dout, layer.win)


def a_step(layer: Layer) -> np.ndarray:
    """C ⊙ g, C ⊙ C, g ⊙ g and the argmin."""
    gg = algebra.sq_norms(layer.trace)
    return cpu.a_step_sequential(centers(layer), inner_products(layer), gg, np.arange(len(gg)))


def u_step(layer: Layer) -> None:
    """Sum the inputs and the output gradients by cluster."""
    labels = np.arange(layer.trace.n_examples) % layer.n_clusters
    algebra.add_center_sums(layer.trace, labels, np.zeros(layer.c.shape), np.zeros(layer.d.shape))


def _of_shape(count: Callable[..., costs.Operations], form: int, *more: str) -> Callable[[Sizes], int]:
    """Count B times the operations that one example takes in a form: 8, 9, or that of fewer operations, 0."""

    def counted(s: Sizes) -> int:
        found = count(s["T"], s["I"], s["O"], *(s[name] for name in more))
        return s["B"] * (min(found) if form == 0 else found[form - 8])

    return counted


def _a_step_count(s: Sizes) -> int:
    products, norms = _of_shape(costs.inner_products, 0, "K"), _of_shape(costs.sq_norm, 0)
    return products(s) + norms(s) + s["K"] * (s["I"] + s["O"])


CENTERS = Quantity("C⊙C", centers, lambda s: s["K"] * (s["I"] + s["O"]))
BACK_PROP = Quantity("back-prop", back_propagate, lambda s: s["B"] * s["T"] * s["I"] * s["O"])
A_STEP = Quantity("A step", a_step, _a_step_count)
U_STEP = Quantity("U step", u_step, lambda s: s["B"] * s["T"] * (s["I"] + s["O"]))
CONV_ROWS = [
    *(Quantity(f"C⊙g, Eq. {form}", inner_products, _of_shape(costs.inner_products, form, "K"), f"Eq. {form}")
      for form in (8, 9)),
    CENTERS,
    *(Quantity(f"g⊙g, Eq. {form}", lambda layer: algebra.sq_norms(layer.trace), _of_shape(costs.sq_norm, form),
               f"Eq. {form}") for form in (8, 9)),
    BACK_PROP,
    A_STEP,
    U_STEP,
]  # fmt: skip


def fc_quantities() -> list[Quantity]:
    """Return the rows for fully connected layers, which know Eq. 9 only."""
    kept = [quantity for quantity in CONV_ROWS if quantity.form != "Eq. 8"]
    return [quantity._replace(name=quantity.name.replace(", Eq. 9", "")) for quantity in kept]


# ------------------------------------------------------------------------------------------------ Eq. 8 or Eq. 9


def choice(quantity: str, grid: Mapping[str, tuple[int, ...]], quick: bool) -> Crossover:
    """Time both forms of C⊙g or g⊙g on a grid of convolutions."""
    shapes, ratios, times, paper = [], [], [], []
    names = "TIOKB" if quantity == "C⊙g" else "TIOB"
    eq8, eq9 = (q for q in CONV_ROWS if q.name.startswith(quantity))
    for values in itertools.product(*(grid[name] for name in names)):
        sizes = {"K": 1, **dict(zip(names, values, strict=True))}
        counts = eq8.count(sizes), eq9.count(sizes)
        if max(counts) > MOST:
            continue
        made, seconds = layer(sizes), []
        for form in (eq8, eq9):
            with forced(form.form):
                seconds.append(median_seconds(partial(form.run, made), 3 if quick else 7))
        shapes.append(", ".join(f"{name} {sizes[name]}" for name in names[:-1]))
        ratios.append(counts[0] / counts[1])
        times.append(seconds[0] / seconds[1])
        paper.append(not papers_eq9(quantity, sizes))
    return crossover(SUITE, f"conv {quantity}", shapes, ratios, times, paper)


def papers_eq9(quantity: str, s: Sizes) -> bool:
    """Tell whether appendix B.2 calls Eq. 9 the more efficient one."""
    narrow = min(s["I"], s["O"])
    return s["T"] < narrow if quantity == "g⊙g" else min(s["T"], s["K"]) < s["K"] < narrow
