"""Suite ``scaling``: how time and memory grow with N to a million, K to 4,096, d to 10⁸, and T to 1,024.

Every point is a process of its own, ``python -m gcref.validation.benchmarks.scaling QUANTITY NAME=SIZE ...``, which
runs the task on a small problem first, so that nothing is compiled, and prints seconds and bytes: the peak of resident
memory during the task above what was resident before it, data included (Linux; elsewhere memory is not measured). The
memory of what is given (the data set, the parameters) is not counted, that of what is made is.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gcref
from gcref.clustering.alternating import balanced_labels, stream
from gcref.clustering.exchange import VectorPoints
from gcref.data import Dataset
from gcref.engine import costs
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import GlobalAvgPool
from gcref.estimators import Estimator
from gcref.validation.benchmarks.alternating import Run, seconds_of
from gcref.validation.benchmarks.candidates import sketches
from gcref.validation.benchmarks.slopes import Slope, fitted
from gcref.validation.benchmarks.workloads import Model, Plan, anew

SUITE = "scaling"
Sizes = Mapping[str, int]
CHANNELS = 16


class Quantity(NamedTuple):
    """A task: how it is made for sizes, the sizes where they do not vary, how each varies, and a small problem.

    ``memory`` has the exponents that the bytes should have along each axis, None where a bound on what is held at once
    cuts the law off; those of the time are 1, or what `time` says.
    """

    prepare: Callable[[Sizes], Run]
    base: Sizes
    axes: Mapping[str, tuple[int, ...]]
    small: Sizes
    memory: Mapping[str, float | None]
    time: Callable[[Sizes], float] | None = None


def rows(plan: Plan) -> Iterator[Slope]:
    """Measure; one exponent after the other."""
    for name, quantity in QUANTITIES.items():
        for axis, values in quantity.axes.items():
            yield from _along(name, quantity, axis, values[:2] if plan.quick else values)


def _along(name: str, quantity: Quantity, axis: str, values: tuple[int, ...]) -> Iterator[Slope]:
    """Vary one size; give the exponents of seconds and of bytes."""
    fixed = ", ".join(f"{k} = {v:,}" for k, v in quantity.base.items() if k != axis)
    points, found = [{**quantity.base, axis: value} for value in values], []
    for point in points:
        try:
            found.append(_in_a_process(name, point))
        except ChildProcessError as error:
            if len(found) < 2:
                raise
            fixed = "; ".join(filter(None, (fixed, f"not at {point[axis]:,}: {str(error).split(': ')[-1]}")))
            points, values = points[: len(found)], values[: len(found)]
            break
    predicted = 1.0 if quantity.time is None else fitted(values, [quantity.time(point) for point in points])
    seconds, memory = zip(*found, strict=True)
    yield Slope(SUITE, name, axis, values, seconds, "s", predicted, fixed)
    if all(memory):
        yield Slope(SUITE, name, axis, values, memory, "B", quantity.memory[axis], fixed)


def _in_a_process(name: str, sizes: Sizes) -> tuple[float, int]:
    """Measure a point elsewhere.

    Raises
    ------
    ChildProcessError
        If that process fails; with its last words.
    """
    command = [sys.executable, "-m", __name__, name, *(f"{key}={value}" for key, value in sizes.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["nothing was said"]
        raise ChildProcessError(f"{name} with {dict(sizes)} exited with {done.returncode}: {told[-1]}")
    seconds, memory = json.loads(done.stdout)
    return float(seconds), int(memory)


def measure(name: str, sizes: Sizes) -> tuple[float, int]:
    """Return the seconds that a task takes, and the bytes it takes beside what it is given; 0 where unknown."""
    quantity = QUANTITIES[name]
    quantity.prepare(quantity.small)()
    run = quantity.prepare(sizes)
    gc.collect()
    before = _reset_peak()
    start = time.perf_counter()
    kept = run()
    seconds = [time.perf_counter() - start]
    peak = _status("VmHWM")
    del kept
    while len(seconds) < 7 and sum(seconds) < 0.5:
        seconds.append(seconds_of(run))
    return float(np.median(seconds)), max(peak - before, 1) if before else 0


def _reset_peak() -> int:
    """Let the system count the peak of this process's memory anew; return its present bytes, 0 where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return 0
    return _status("VmRSS")


def _status(key: str) -> int:
    """Return a number of bytes that Linux knows of this process; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


# -------------------------------------------------------------------------------------------------- the tasks


def _sweep(s: Sizes) -> Run:
    """Prepare the first sweep of an exchange on sketches, from random labels, with the vectors that it keeps."""
    z = sketches(s["N"], s["m"]).astype(gcref.Sketches(1).values.dtype)
    labels, order = balanced_labels(s["N"], s["K"], 0), stream(0, 1).permutation(s["N"])

    def run() -> VectorPoints:
        points = VectorPoints(z)
        points.sweep(order, labels, s["K"], 0.0)
        return points

    return run


def _dense(s: Sizes) -> Model:
    """Make an MLP of two hidden layers with about d parameters, 10 classes, float32."""
    width = max(2, isqrt(s["d"] // 2))
    net = gcref.mlp((width, width, width, 10), dtype="float32")
    rng = np.random.default_rng(0)
    ds = Dataset(rng.standard_normal((s["N"], width), dtype=np.float32), rng.integers(0, 10, s["N"]))
    return Model(net, ds.x[:128], ds.y[:128], ds)


def _images(s: Sizes) -> Model:
    """Make a convolution 16 → 16, 3 × 3, on images of T pixels, global mean pool and a linear layer, float32."""
    layers = [Conv2d(CHANNELS, CHANNELS, 3, padding=1), GlobalAvgPool(), Linear(CHANNELS, 10)]
    net = Network(layers, SoftmaxCrossEntropy(), dtype="float32")
    rng, side = np.random.default_rng(0), isqrt(s["T"])
    x = rng.standard_normal((s["N"], side, side, CHANNELS), dtype=np.float32)
    ds = Dataset(x, rng.integers(0, 10, s["N"]))
    return Model(net, ds.x[:128], ds.y[:128], ds)


def _gradient(s: Sizes) -> Run:
    """Prepare a plain gradient of all examples at once."""
    m = _dense(s)
    return lambda: m.net.gradient(m.ds.x, m.ds.y)


def _sketch_pass(s: Sizes) -> Run:
    """Prepare a pass that makes sketches of 64 numbers."""
    m = _dense(s)
    return lambda: gcref.Sketches(64).add(anew(m))


def _clusters(m: Model, s: Sizes) -> Run:
    """Prepare a fit of rank-1 GC, one iteration from a cold start, traces computed anew at each pass."""
    return lambda: gcref.GradientClustering(s["K"], n_iter=1).fit(anew(m))


def _variance(m: Model) -> Run:
    """Prepare the exact variance of SG-B."""
    estimators: dict[str, Estimator] = {"sgb": gcref.MiniBatch(min(128, len(m.ds)))}
    return lambda: gcref.variances(estimators, m.net, m.ds)


def _norms(s: Sizes) -> Run:
    """Prepare per-example squared norms of a convolution, traces given."""
    m = _images(s)
    traces = m.net.traces(m.ds.x, m.ds.y)[1]
    return lambda: gcref.per_example_sq_norms(traces)


# ------------------------------------------------------- multiplications, up to what all sizes have in common


def _sketch_operations(s: Sizes) -> float:
    """A forward and a backward pass to the traces, and sketches of 64 numbers."""
    width = isqrt(s["d"] // 2)
    return float(s["N"] * (3 * width**2 + 64 * 5 * width))


def _cluster_operations(s: Sizes) -> float:
    """Five such passes (norms, two U steps, the A step, Φ), and twice the products with all centres."""
    width = isqrt(s["d"] // 2)
    return float(s["N"] * (5 * 3 * width**2 + 2 * s["K"] * 5 * width))


def _image_cluster_operations(s: Sizes) -> float:
    """The same for one convolution, whose input needs no gradient."""
    products = min(costs.inner_products(s["T"], 9 * CHANNELS + 1, CHANNELS, s["K"]))
    return float(5 * s["T"] * 9 * CHANNELS**2 + 2 * products)


def _norm_operations(s: Sizes) -> float:
    """‖g_i‖² by the form of fewer."""
    return float(min(costs.sq_norm(s["T"], 9 * CHANNELS + 1, CHANNELS)))


SMALL_D = {"N": 64, "d": 500, "K": 4}
SMALL_T = {"N": 32, "T": 16, "K": 4}
TO_A_MILLION = (10_000, 100_000, 1_000_000)
TO_1E8 = (10**4, 10**5, 10**6, 10**7, 10**8)
TO_1024 = (16, 64, 256, 1024)
QUANTITIES = {
    "exchange sweep": Quantity(
        _sweep, {"N": 100_000, "K": 128, "m": 64},
        {"N": (10_000, 100_000, 1_000_000), "K": (32, 128, 512, 2048, 4096), "m": (16, 64, 256, 1024)},
        {"N": 200, "K": 4, "m": 4}, {"N": 1.0, "K": 0.0, "m": 1.0},
    ),
    "sketch pass, m = 64": Quantity(
        _sketch_pass, {"N": 2_000, "d": 10**4}, {"N": TO_A_MILLION, "d": TO_1E8}, SMALL_D, {"N": 1.0, "d": None},
        _sketch_operations,
    ),
    "fit of rank-1 GC, one iteration": Quantity(
        lambda s: _clusters(_dense(s), s), {"N": 20_000, "K": 128, "d": 10**4},
        {"N": TO_A_MILLION, "K": (32, 128, 512, 2048, 4096)}, SMALL_D, {"N": 1.0, "K": 1.0},
        _cluster_operations,
    ),
    "exact variance of SG-B": Quantity(
        lambda s: _variance(_dense(s)), {"N": 512, "d": 10**4}, {"N": TO_A_MILLION, "d": TO_1E8}, SMALL_D,
        {"N": 0.0, "d": 1.0},
    ),
    "gradient": Quantity(_gradient, {"N": 128, "d": 10**6}, {"d": TO_1E8}, SMALL_D, {"d": 1.0}),
    "norms of a convolution": Quantity(
        _norms, {"N": 512, "T": 256}, {"T": TO_1024}, SMALL_T, {"T": 0.0}, _norm_operations
    ),
    "fit of GC to a convolution": Quantity(
        lambda s: _clusters(_images(s), s), {"N": 1_024, "K": 64, "T": 256}, {"T": TO_1024}, SMALL_T, {"T": None},
        _image_cluster_operations,
    ),
    "exact variance of a convolution": Quantity(
        lambda s: _variance(_images(s)), {"N": 1_024, "T": 256}, {"T": TO_1024}, SMALL_T, {"T": None}
    ),
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure one point; print its seconds and bytes as JSON."""
    name, *sizes = arguments
    print(json.dumps(measure(name, {key: int(value) for key, value in (pair.split("=") for pair in sizes)})))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
