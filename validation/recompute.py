"""Recompute all that is stored of one trajectory of the random-features study, from scratch."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.clustering.exact import ExactClustering
from gcref.studies import teacher
from gcref.studies.grid import Sweep
from gcref.studies.random_features import initial_theta
from gcref.validation import explicit, replay
from gcref.validation.clusterings import PlainClustering
from gcref.validation.explicit import Array
from gcref.validation.protocol import Drawn, State, compare
from gcref.validation.report import Gap
from gcref.validation.structure import Snapshot, Trajectory
from gcref.validation.tally import Check

Targets = NDArray[np.int8]
Labels = NDArray[np.int32]

LARGEST_EXACT = 1000  # examples for which the optimum gap is looked at
RTOL = 1e-9


class Found(NamedTuple):
    """What one worker found: checks by name, and the samples that findings are made of.

    `undecided`: Φ of stored labels over Φ of the plain clustering's, where rounding decides between them. `unknown`:
    the measuring points whose numbers cannot be recomputed.
    """

    checks: dict[str, Check]
    drawn: list[Drawn]
    gaps: list[Gap]
    undecided: list[float]
    unknown: list[str]


def new_checks() -> dict[str, Check]:
    """Make the checks that recompute, in the order of the table."""
    checks = [
        Check("snapshots", "every number at a snapshot, from explicit per-example gradients", RTOL),
        Check("svrg_theta", "SVRG's θ̃ is θ at the last refresh"),
        Check("replay: theta", "plain SGD arrives at every stored θ (relative to max |θ|)", RTOL),
        Check("replay: numbers", "every number at every measuring point, from Φᵀr and (Φ∘Φ)ᵀr²", RTOL),
        Check("objective", "Φ of the labels, from explicit gradients, is N²·d·V", RTOL),
        Check("labels", "a plain rank-1 clustering finds the same labels, wherever rounding does not decide"),
        Check("recomputation", "every trajectory could be recomputed"),
    ]
    return {check.name: check for check in checks}


class Recomputation:
    """One trajectory with its data.

    Parameters
    ----------
    sweep : Sweep
    trajectory : Trajectory
        As stored.
    features : ndarray, shape (N, I)
        The trailing 1 of the bias included.
    targets : ndarray, shape (N,), in {0, 1}
    found : Found
        What is found is added to it.
    """

    def __init__(self, sweep: Sweep, trajectory: Trajectory, features: Array, targets: Targets, found: Found):
        self.sweep, self.trajectory, self.found = sweep, trajectory, found
        self.features, self.targets = features, targets
        self.name = trajectory.spec.id
        self.points = list(sweep.points)[: trajectory.n_measured]
        self.norm = float(np.sqrt(np.square(features).sum(axis=1).max()))  # of the longest feature vector
        self.squares = replay.square_features(features)

    def run(self, sampled: bool) -> None:
        """Check everything; `sampled`, with the Monte Carlo and the optimum gap."""
        thetas, rounding = self._replay_theta()
        if not self.points:
            return
        for iteration, snapshot in self.trajectory.snapshots.items():
            self._check_snapshot(iteration, snapshot)
        self._check_series(thetas, rounding)
        if "gc" in self.sweep.methods:
            self._check_labels()
        if sampled:
            self.found.drawn.extend(self._monte_carlo())
            self.found.gaps.extend(self._optimum_gap())

    # -------------------------------------------------------------------------------------------------------- θ

    def _replay_theta(self) -> tuple[Array, Array]:
        """θ at every measuring point, (L, I, O), by SGD from the initial draw, and its rounding error's norm, (L,).

        Stored ones are compared and adopted, which keeps one rounding error from growing through all the steps that
        follow.
        """
        sweep, spec = self.sweep, self.trajectory.spec
        both = replay.with_shadow(initial_theta(sweep, spec))
        batches = teacher.batch_order(spec.seed, len(self.targets), sweep.batch_size, sweep.iterations)
        thetas: list[Array] = []
        rounding = np.zeros(len(self.points))
        for iteration in list(sweep.points)[: len(self.points) + 1]:
            if iteration:
                steps = batches[iteration - sweep.measure_every : iteration]
                both = replay.sgd(self.features, self.targets, both, steps, spec.learning_rate, sweep.weight_decay)
            if len(thetas) == len(self.points):
                self._check_divergence(iteration, both[0])
                break
            error = replay.rounding_of(both, sweep.measure_every)
            if not np.isfinite(error):
                self.found.unknown.append(f"{self.name}, iteration {iteration}")
            if iteration in self.trajectory.snapshots:
                stored = self.trajectory.snapshots[iteration].theta
                self._compare_theta(iteration, stored, both[0], error)
                both = replay.with_shadow(stored)
            else:
                rounding[len(thetas)] = error
                both = replay.nudge(both)
            thetas.append(both[0])
        return np.stack(thetas) if thetas else np.empty((0, *both[0].shape)), rounding

    def _check_divergence(self, iteration: int, theta: Array) -> None:
        """Where the numbers end, θ or the mean loss must have overflowed."""
        with np.errstate(over="ignore", invalid="ignore"):
            loss = explicit.outputs(self.features @ theta, self.targets).losses.mean()
        diverged = not (np.isfinite(theta).all() and np.isfinite(loss))
        check = self.found.checks["replay: theta"]
        check.expect(diverged, self.name, iteration, "status", "diverged", "finite numbers")

    def _compare_theta(self, iteration: int, stored: Array, theta: Array, error: float) -> None:
        """Compare every entry of a stored θ with the replayed one, relative to the largest."""
        if not np.isfinite(error):
            return
        # One step's own rounding: a weight decay of 1/rate forgets all that came before, the shadow's nudge too.
        own = self.trajectory.spec.learning_rate * self.norm * float(explicit.output_error(self.norm, _norm(theta)))
        scale = np.abs(theta).max()
        worst = np.abs(stored - theta).argmax()
        ours, theirs = (values.ravel()[worst] / scale for values in (theta, stored))
        # The tolerance is relative to max |θ|, which is 1 here, not to the entry.
        floor = RTOL * (1 - abs(ours)) + (error + own) / scale
        check = self.found.checks["replay: theta"]
        check.compare(self.name, "theta / max|θ|", [iteration], theirs, ours, floor)
        check.n += theta.size - 1

    # ---------------------------------------------------------------------------------------------- snapshots

    def _check_snapshot(self, iteration: int, snapshot: Snapshot) -> None:
        """All numbers of one iteration from gradients written out, and what the snapshot says of itself."""
        batch_size, n = self.sweep.batch_size, len(self.targets)
        out, D_svrg = self._outputs(snapshot)
        moments = explicit.moments(self.features, out.D, D_svrg, snapshot.labels, batch_size)
        norms = _norm(snapshot.theta)
        if snapshot.svrg_theta is not None:
            norms += _norm(snapshot.svrg_theta)
            self._check_svrg_theta(iteration, snapshot.svrg_theta)
        error = explicit.output_error(self.norm, norms)
        numbers = explicit.numbers(moments, n, np.tile(self.squares, out.D.shape[1]), error)
        fit = explicit.fit_numbers(out, self.targets, error)
        floors = numbers.floors | fit.floors
        for dataset, value in (numbers.values | fit.values).items():
            if dataset in self.trajectory.series:
                stored = self._stored(dataset, iteration)
                self.found.checks["snapshots"].compare(self.name, dataset, [iteration], stored, value, floors[dataset])
        if snapshot.labels is not None:
            phi = explicit.objective(self.features, out.D, snapshot.labels, batch_size)
            unit = n**2 * moments.mean.size
            stored, floor = self._stored("variance/gc", iteration) * unit, floors["variance/gc"] * unit
            self.found.checks["objective"].compare(self.name, "N²·d·variance/gc", [iteration], stored, phi, floor)

    def _check_svrg_theta(self, iteration: int, svrg_theta: Array) -> None:
        """θ̃ is θ at the last refresh, bit for bit."""
        refresh = self._refresh_before(iteration)
        origin = self.trajectory.snapshots[refresh].theta
        check = self.found.checks["svrg_theta"]
        same = np.array_equal(svrg_theta, origin)
        check.expect(same, self.name, iteration, "svrg_theta", "another", f"theta of {refresh}")
        check.n += origin.size - 1

    def _outputs(self, snapshot: Snapshot) -> tuple[explicit.Outputs, Array | None]:
        """Outputs at θ, and ∂ℓ/∂logits at SVRG's θ̃."""
        out = explicit.outputs(self.features @ snapshot.theta, self.targets)
        if snapshot.svrg_theta is None:
            return out, None
        return out, explicit.outputs(self.features @ snapshot.svrg_theta, self.targets).D

    def _stored(self, dataset: str, iteration: int) -> float:
        """One number of the file."""
        return float(self.trajectory.series[dataset][iteration // self.sweep.measure_every])

    def _refresh_before(self, iteration: int) -> int:
        """The refresh in force when `iteration` is measured: an earlier one, or that at 0."""
        return max(0, (iteration - 1) // self.sweep.refresh_every * self.sweep.refresh_every)

    # ------------------------------------------------------------------------------------------------- series

    def _check_series(self, thetas: Array, rounding: Array) -> None:
        """Every number of every measuring point, at the replayed θ."""
        methods, points = self.sweep.methods, self.points
        references = [self._refresh_before(p) // self.sweep.measure_every for p in points]
        labels, known_labels = self._labels_in_force()
        outputs = replay.all_outputs(self.features, self.targets, thetas)
        D = np.stack([out.D for out in outputs], axis=1)
        moments = replay.moments(
            self.features, D, references if "svrg" in methods else None, labels if "gc" in methods else None,
            self.sweep.batch_size,
        )  # fmt: skip
        norms = np.array([_norm(theta) for theta in thetas])
        from_theta = self.norm * (rounding + rounding[references])
        error = np.minimum(explicit.output_error(self.norm, norms + norms[references]) + from_theta, 1.0)
        numbers = explicit.numbers(moments, len(self.targets), np.tile(self.squares, D.shape[2]), error)
        fits = [explicit.fit_numbers(out, self.targets, e) for out, e in zip(outputs, error, strict=True)]
        values, floors = dict(numbers.values), dict(numbers.floors)
        for name in fits[0].values:
            values[name] = np.array([fit.values[name] for fit in fits])
            floors[name] = np.array([fit.floors[name] for fit in fits])
        for dataset, stored in self.trajectory.series.items():
            known = np.isfinite(from_theta) & (known_labels if dataset.endswith("/gc") else True)
            where = [point for point, is_known in zip(points, known, strict=True) if is_known]
            self.found.checks["replay: numbers"].compare(
                self.name, dataset, where, stored[: len(points)][known], values[dataset][known], floors[dataset][known]
            )

    def _labels_in_force(self) -> tuple[dict[int, Labels], NDArray[np.bool_]]:
        """GC's labels by the first measuring point at which they are in force, and at which points they are known.

        They are kept in the next snapshot, which a trajectory that diverged before it does not have; by that refresh it
        is so far gone that the plain clustering hangs on rounding.
        """
        labels: dict[int, Labels] = {}
        known = np.ones(len(self.points), dtype=np.bool_)
        for start, point in enumerate(self.points):
            refresh = self._refresh_before(point)
            if start and refresh == self._refresh_before(self.points[start - 1]):
                continue
            kept = self._labels_of(refresh)
            labels[start] = kept[0][1] if kept else np.zeros(len(self.targets), dtype=np.int32)
            if not kept and "gc" in self.sweep.methods:
                known[start:] = False
                self.found.unknown.extend(f"{self.name}, iteration {p}" for p in self.points[start:])
                break
        return labels, known

    # ------------------------------------------------------------------------------------------------- labels

    def _check_labels(self) -> None:
        """The labels of every refresh, by an independent clustering."""
        check, batch_size = self.found.checks["labels"], self.sweep.batch_size
        again = PlainClustering(batch_size, self.sweep.gc_iterations, self.trajectory.spec.seed)
        for refresh in filter(self.sweep.refreshes, self.trajectory.snapshots):
            theta = self.trajectory.snapshots[refresh].theta
            D = explicit.outputs(self.features @ theta, self.targets).D
            labels = again.fit(self.features, D, float(explicit.output_error(self.norm, _norm(theta))))
            stored = self._labels_of(refresh)
            for iteration, kept in stored[1:]:
                same = np.array_equal(kept, stored[0][1])
                check.expect(same, self.name, iteration, "labels/gc", "others", f"those of {stored[0][0]}")
            for iteration, kept in stored[:1]:
                differ = int(np.count_nonzero(kept != labels))
                if again.decided or differ == 0:
                    what = f"those of the {self.sweep.gc_iterations} iterations at {refresh}"
                    check.expect(differ == 0, self.name, iteration, "labels/gc", f"{differ} others", what)
                    check.n += len(labels) - 1
                else:
                    self.found.undecided.append(self._relative_objective(D, kept, labels.astype(np.int32)))

    def _labels_of(self, refresh: int) -> list[tuple[int, Labels]]:
        """The labels that were found at `refresh`, in every snapshot that keeps them."""
        snapshots = self.trajectory.snapshots.items()
        return [(p, s.labels) for p, s in snapshots if s.labels is not None and self._refresh_before(p) == refresh]

    def _relative_objective(self, D: Array, stored: Labels, plain: Labels) -> float:
        """Φ of stored labels over that of the plain clustering's."""
        phi = [explicit.objective(self.features, D, labels, self.sweep.batch_size) for labels in (stored, plain)]
        # Where both are nothing but rounding, as of clusters that are copies of one example, they are equal.
        norms = np.square(self.features).sum(axis=1) @ np.square(D).sum(axis=1)
        nothing = 1e3 * explicit.EPS * len(D) * norms
        return float((phi[0] + nothing) / (phi[1] + nothing)) if nothing else 1.0

    # ------------------------------------------------------------------------------------------------ samples

    def _monte_carlo(self) -> Iterable[Drawn]:
        """The paper's protocol at one snapshot, in turn early and late in training."""
        iterations = sorted(self.trajectory.snapshots)
        later = iterations[1:] or iterations
        iteration = later[len(self.targets) % len(later)]
        snapshot = self.trajectory.snapshots[iteration]
        out, D_svrg = self._outputs(snapshot)
        state = State(self.features, out.D, D_svrg, snapshot.labels, self.sweep.batch_size)
        stored = {name: self._stored(name, iteration) for name in self.trajectory.series}
        return compare(self.name, iteration, self.sweep.methods, state, stored)

    def _optimum_gap(self) -> Iterable[Gap]:
        """Φ of the last clustering against exact ones of the same gradients."""
        last = [p for p in self.trajectory.snapshots if self.sweep.refreshes(p)][-1]
        stored = self._labels_of(last)
        if not stored or len(self.targets) > LARGEST_EXACT:
            return []
        D = explicit.outputs(self.features @ self.trajectory.snapshots[last].theta, self.targets).D
        G, n_clusters = explicit.gradients(self.features, D), self.sweep.batch_size
        phi = explicit.objective(self.features, D, stored[0][1], n_clusters)
        exact = []
        for update, n_iter in (("alternating", 10), ("exchange", 50)):
            fit = ExactClustering(n_clusters, update=update, n_iter=n_iter, seed=self.trajectory.spec.seed).fit(G)
            exact.append(explicit.objective(self.features, D, fit.labels_.astype(np.int32), n_clusters))
        # Copies of a few examples can be told apart without any variance: a ratio to nothing says nothing.
        nothing = explicit.EPS * len(D) ** 2 * np.square(G).sum() / len(D)
        return [Gap(phi / exact[0], phi / exact[1])] if min(exact) > 1e3 * nothing else []


def _norm(theta: Array) -> float:
    """‖θ‖, infinite where its square is, as on the way to a divergence."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(theta))
