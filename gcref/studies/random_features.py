"""The random-features study (Figs. 4, 5, 8 and 9 of the paper): small trajectories, every variance exact."""

import time
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcref import shards
from gcref.clustering.exact import ExactClustering
from gcref.engine.layers import Linear
from gcref.engine.models import initialise_head
from gcref.engine.trace import Trace
from gcref.kernels.random_features import moments, residuals_and_losses, sgd_steps
from gcref.studies import teacher
from gcref.studies.grid import Spec, Sweep
from gcref.studies.methods import clustered, clusterer

Array = NDArray[np.float64]

# ---------------------------------------------------------------------------------------------------------------------
# One trajectory


def initial_theta(sweep: Sweep, spec: Spec) -> Array:
    """Draw the trained layer's start, (h_s + 1, O), the bias in the last row."""
    n_outputs = 2 if sweep.head == "softmax" else 1
    rng = teacher.stream(spec.seed, "student initialisation", spec.input_dim, sweep.student_hidden)
    if sweep.init_of(spec) == "unit":
        theta = initialise_head(rng, sweep.student_hidden, n_outputs)
    else:
        (theta,) = Linear(sweep.student_hidden, n_outputs).initialise(rng)
    return theta.astype(np.float64)


class _Student:
    """The trained layer as one vector w (softmax: w₁ − w₀), and the way back to the theta (I, O)."""

    def __init__(self, sweep: Sweep, spec: Spec):
        n_outputs = 2 if sweep.head == "softmax" else 1
        theta = initial_theta(sweep, spec)
        self.w: Array = theta[:, -1] - theta[:, 0] if n_outputs == 2 else theta[:, 0].copy()
        # The gradients of the two classes are opposite, so their sum feels nothing but the weight decay.
        self._sum: Array | None = theta.sum(axis=1) if n_outputs == 2 else None
        self._speed = float(n_outputs)
        self._weight_decay = sweep.weight_decay

    def train(self, features: Array, targets: NDArray[np.int8], batches: NDArray[np.int32], rate: float) -> None:
        """Run the SGD steps of `batches` at learning rate `rate`."""
        sgd_steps(features, targets, self.w, batches, rate * self._speed, self._weight_decay / self._speed)
        if self._sum is not None:
            with np.errstate(over="ignore", invalid="ignore"):  # a diverging run is recorded, not a warning
                self._sum *= np.power(1.0 - rate * self._weight_decay, float(len(batches)))

    def theta(self) -> Array:
        """Return the network's flat parameter vector, (I·O,), bias row last."""
        if self._sum is None:
            return self.w.copy()
        return np.stack([(self._sum - self.w) / 2, (self._sum + self.w) / 2], axis=1).ravel()

    def finite(self) -> bool:
        """Whether no parameter has overflowed."""
        return bool(np.isfinite(self.w).all() and (self._sum is None or np.isfinite(self._sum).all()))

    def output_gradients(self, residuals: Array) -> Array:
        """∂ℓ/∂output (N, O): (−r, r) for the softmax, (r) for the logistic head."""
        return np.stack([-residuals, residuals], axis=1) if self._sum is not None else residuals[:, None]

    def folded_gradients(self, features: Array, residuals: Array) -> Array:
        """Vectors (N, I) with the inner products of the gradients: the two classes' gradients are opposite."""
        return features * (np.sqrt(self._speed) * residuals)[:, None]


class _Measurement:
    """What the estimators hold between refreshes, and their exact variance at the present weights."""

    def __init__(self, sweep: Sweep, spec: Spec, features: Array, targets: NDArray[np.int8]):
        self.sweep, self.features, self.targets = sweep, features, targets
        n = len(targets)
        self.residuals = np.empty(n)
        self.losses = np.empty(n)
        self.reference = np.zeros(n)  # SVRG's residuals at its snapshot
        self.svrg_theta: Array | None = None
        self.labels: dict[str, NDArray[np.int32]] = {}
        self.clusterings = {
            name: clusterer(name, sweep.batch_size, sweep.gc_iterations, spec.seed) for name in clustered(sweep.methods)
        }

    def forward(self, student: _Student) -> None:
        """Residuals and losses of every example at the student's weights."""
        residuals_and_losses(self.features, self.targets, student.w, self.residuals, self.losses)

    def finite(self) -> bool:
        """Whether the mean loss has not overflowed."""
        with np.errstate(over="ignore"):
            return bool(np.isfinite(self.losses.mean()))

    def refresh(self, student: _Student) -> None:
        """Renew SVRG's snapshot and every clustering from the last `forward`."""
        if "svrg" in self.sweep.methods:
            self.reference[:] = self.residuals
            self.svrg_theta = student.theta()
        D = student.output_gradients(self.residuals)
        traces = [Trace(self.features, D)]
        for name, clustering in self.clusterings.items():
            exact = isinstance(clustering, ExactClustering)
            gradients = student.folded_gradients(self.features, self.residuals) if exact else traces
            self.labels[name] = clustering.fit(gradients).labels_.astype(np.int32)

    def variances(self) -> dict[str, tuple[float, float]]:
        """Each method's (average, normalized) variance, and under "" the noise scale twice."""
        n, n_inputs = self.features.shape
        batch_size = self.sweep.batch_size
        rows = [self.residuals]
        if "svrg" in self.sweep.methods:
            rows.append(self.residuals - self.reference)
        labels = np.array(list(self.labels.values()), dtype=np.int64).reshape(len(self.labels), n)
        sizes = np.array([np.bincount(row, minlength=batch_size) for row in labels], dtype=np.int64)
        sums, squares = np.zeros((2, len(rows), n_inputs))
        group_sums = np.zeros((len(labels), batch_size, n_inputs))
        group_squares = np.zeros((len(labels), n_inputs))
        moments(
            self.features, np.stack(rows), labels, sizes.reshape(len(labels), batch_size),
            sums, squares, group_sums, group_squares,
        )  # fmt: skip
        mean = sums[0] / n
        one = np.maximum(squares / n - (sums / n) ** 2, 0.0)
        per_batch = (n - batch_size) / max(n - 1, 1) / batch_size
        per_double = (n - 2 * batch_size) / max(n - 1, 1) / (2 * batch_size)
        coordinates = {"sgb": one[0] * per_batch, "sg2b": one[0] * per_double}
        if "svrg" in self.sweep.methods:
            coordinates["svrg"] = one[1] * per_batch
        for i, name in enumerate(self.labels):
            within = np.maximum(group_squares[i] - np.einsum("kj,kj->j", group_sums[i], group_sums[i]), 0.0)
            coordinates[name] = within / n**2
        methods = [name for name in coordinates if name in self.sweep.methods]
        out = {m: (float(coordinates[m].mean()), _normalized(coordinates[m], mean)) for m in methods}
        noise = _noise_scale(float(one[0].sum()), float(mean @ mean))
        out[""] = (noise, noise)
        return out


def _noise_scale(trace: float, sq_norm: float) -> float:
    """Tr Σ / ‖ḡ‖², 0/0 = 0."""
    if sq_norm == 0:
        return 0.0 if trace == 0 else np.inf
    return trace / sq_norm


def _normalized(variance: Array, mean: Array) -> float:
    """Average over coordinates of V_j / (V_j + ḡ_j²), 0/0 = 0."""
    second = variance + mean**2
    return float(np.divide(variance, second, out=np.zeros_like(second), where=second > 0).mean())


def run_trajectory(
    sweep: Sweep, spec: Spec, features: Array, targets: NDArray[np.int8]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train one student by plain SGD and measure every estimator along the way.

    Parameters
    ----------
    sweep, spec : Sweep, Spec
    features : ndarray, shape (N, I), float64
        The trailing 1 of the bias included.
    targets : ndarray, shape (N,), int8, in {0, 1}

    Returns
    -------
    attrs, arrays : dict, dict
        The attributes and data sets of the trajectory's group in the file (see `gcref.store`). From the point
        where a trajectory diverges its series hold NaN.
    """
    start = time.perf_counter()
    student = _Student(sweep, spec)
    measurement = _Measurement(sweep, spec, features, targets)
    batches = teacher.batch_order(spec.seed, len(targets), sweep.batch_size, sweep.iterations)
    names = ["train_loss", "train_accuracy", "noise_scale"]
    names += [f"{kind}/{m}" for kind in ("variance", "normalized_variance") for m in sweep.methods]
    arrays: dict[str, np.ndarray] = {"iteration": np.array(sweep.points)}
    arrays |= {name: np.full(len(sweep.points), np.nan) for name in names}
    status = "complete"
    for index, iteration in enumerate(sweep.points):
        if iteration:
            steps = batches[iteration - sweep.measure_every : iteration]
            student.train(features, targets, steps, spec.learning_rate)
        measurement.forward(student)
        if not (student.finite() and measurement.finite()):
            status = "diverged"
            break
        if iteration == 0:
            measurement.refresh(student)
        _record(arrays, index, measurement)
        if sweep.snapshots == "all" or sweep.refreshes(iteration) or iteration == sweep.iterations:
            arrays |= _snapshot(iteration, student, measurement)
        if iteration and sweep.refreshes(iteration):
            measurement.refresh(student)
    seconds = time.perf_counter() - start
    return sweep.hyper_parameters(spec) | {"status": status, "seconds": seconds}, arrays


def _record(arrays: dict[str, np.ndarray], index: int, measurement: _Measurement) -> None:
    """Write one measuring point into the series."""
    variances = measurement.variances()
    arrays["train_loss"][index] = measurement.losses.mean()
    predicted = measurement.residuals + measurement.targets > 0.5
    arrays["train_accuracy"][index] = np.mean(predicted == measurement.targets)
    arrays["noise_scale"][index] = variances.pop("")[0]
    for method, (average, normalized) in variances.items():
        arrays[f"variance/{method}"][index] = average
        arrays[f"normalized_variance/{method}"][index] = normalized


def _snapshot(iteration: int, student: _Student, measurement: _Measurement) -> dict[str, np.ndarray]:
    """Everything that the numbers measured at `iteration` depend on."""
    group = f"snapshots/{iteration}"
    arrays: dict[str, np.ndarray] = {f"{group}/theta": student.theta()}
    if measurement.svrg_theta is not None:
        arrays[f"{group}/svrg_theta"] = measurement.svrg_theta
    arrays |= {f"{group}/labels/{name}": labels for name, labels in measurement.labels.items()}
    return arrays


# ---------------------------------------------------------------------------------------------------------------------
# Many trajectories


def datasets(sweep: Sweep, specs: Sequence[Spec]) -> Iterator[tuple[Spec, Array, NDArray[np.int8]]]:
    """Yield each spec with its features (N, I) and labels (N,), sharing what can be shared.

    `specs` must agree in seed and input_dim. The teacher's outputs are computed once a teacher, the student's
    features once a way to start, for the largest N.
    """
    seed, input_dim = specs[0].seed, specs[0].input_dim
    sizes = {spec: teacher.n_train(spec.overparametrization, sweep.student_hidden) for spec in specs}
    x = teacher.draw_inputs(seed, input_dim, max(sizes.values()))
    outputs: dict[int, Array] = {}
    features: dict[str, Array] = {}
    for spec in _in_order(sweep, specs):
        init = sweep.init_of(spec)
        if init not in features:
            features = {init: teacher.student_features(seed, x, sweep.student_hidden, init)}
        if spec.teacher_hidden not in outputs:
            f = teacher.teacher_outputs(seed, x, spec.teacher_hidden, sweep.precision)
            outputs[spec.teacher_hidden] = f
        n = sizes[spec]
        rows = teacher.duplicated_rows(n, spec.duplicate_fraction)
        targets = teacher.labels_of(outputs[spec.teacher_hidden][:n])[rows]
        yield spec, features[init][:n] if spec.duplicate_fraction == 0 else features[init][rows], targets


def _in_order(sweep: Sweep, specs: Iterable[Spec]) -> list[Spec]:
    """Sort specs so that those that share something costly follow one another."""
    return sorted(specs, key=lambda s: (s.seed, s.input_dim, sweep.init_of(s), s.teacher_hidden))


def run_unit(sweep: Sweep, specs: Sequence[Spec], parts: str | None) -> list[tuple[str, bytes]]:
    """Run the trajectories of one (seed, input_dim).

    Each becomes a shard in the folder `parts`; where that is None, being out of reach, names and shards are returned.
    """
    kept = []
    for spec, features, targets in datasets(sweep, specs):
        image = shards.shard_image(spec.id, *run_trajectory(sweep, spec, features, targets))
        if parts is None:
            kept.append((spec.id, image))
        else:
            shards.keep_shard(Path(parts), spec.id, image)
    return kept


def units(sweep: Sweep, specs: Iterable[Spec], n_units: int = 1) -> list[list[Spec]]:
    """Group specs that share inputs, the costliest group first, so that workers end together.

    There are at least `n_units` groups, where there are as many specs: the costliest group is cut in two until it
    is so, though what was shared is then computed twice.
    """
    groups: dict[tuple[int, int], list[Spec]] = {}
    for spec in specs:
        groups.setdefault((spec.seed, spec.input_dim), []).append(spec)
    found = [(sum(costs(sweep, group).values()), group) for group in groups.values()]
    while len(found) < min(n_units, sum(map(len, groups.values()))):
        costliest = max((pair for pair in found if len(pair[1]) > 1), key=itemgetter(0))
        found.remove(costliest)
        group = _in_order(sweep, costliest[1])
        halves = group[: len(group) // 2], group[len(group) // 2 :]
        found += [(sum(costs(sweep, half).values()), half) for half in halves]
    return [group for _, group in sorted(found, key=itemgetter(0), reverse=True)]


def costs(sweep: Sweep, specs: Sequence[Spec]) -> dict[Spec, float]:
    """Estimate the seconds of each trajectory on one core; shared work falls to the first that needs it.

    The constants are those of one core of a 2020s server; only their ratios matter.
    """
    n_inputs = sweep.student_hidden + 1
    sizes = {spec: teacher.n_train(spec.overparametrization, sweep.student_hidden) for spec in specs}
    largest: dict[tuple[int, int], int] = {}
    for spec, n in sizes.items():
        unit = (spec.seed, spec.input_dim)
        largest[unit] = max(n, largest.get(unit, teacher.BLOCK_ROWS))
    out: dict[Spec, float] = {}
    paid: set[tuple] = set()
    for spec in _in_order(sweep, specs):
        steps = 8e-10 * sweep.iterations * sweep.batch_size * n_inputs
        out[spec] = 0.05 + steps + 2.5e-9 * len(sweep.points) * sizes[spec] * n_inputs
        unit = (spec.seed, spec.input_dim)
        numbers = largest[unit] * spec.input_dim
        shared: dict[tuple, float] = {
            (*unit, "inputs"): 9e-9 * numbers,
            (*unit, "features", sweep.init_of(spec)): 4.6e-11 * numbers * sweep.student_hidden,
            (*unit, "teacher", spec.teacher_hidden): 2.3e-11 * numbers * spec.teacher_hidden,
        }
        out[spec] += sum(seconds for key, seconds in shared.items() if key not in paid)
        paid |= shared.keys()
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The summary


def summary_rows(spec: Spec, n_examples: int, arrays: dict[str, np.ndarray], methods: Sequence[str]) -> list[tuple]:
    """One row of the summary table a method: mean and maximum over the last 70 % of the measurements."""
    first = ceil(0.3 * len(arrays["iteration"]))
    rows = []
    for method in methods:
        tails = [arrays[f"{kind}/{method}"][first:] for kind in ("variance", "normalized_variance")]
        numbers = [float(statistic(tail)) for tail in tails for statistic in (np.mean, np.max)]
        rows.append(
            (spec.id, method, spec.learning_rate, spec.overparametrization, n_examples, spec.input_dim,
             spec.teacher_hidden, spec.seed, spec.duplicate_fraction, *numbers)
        )  # fmt: skip
    return rows
