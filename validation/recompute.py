"""Recompute all that is stored of one trajectory of the random-features study, from scratch."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.clustering.exact import ExactClustering
from gcref.studies import teacher
from gcref.studies.grid import Sweep
from gcref.studies.methods import clustered
from gcref.studies.random_features import initial_theta
from gcref.validation import explicit, replay, report
from gcref.validation.clusterings import PlainClustering, PlainExchange, balanced
from gcref.validation.explicit import Array
from gcref.validation.protocol import Drawn, State, compare
from gcref.validation.report import Gap
from gcref.validation.structure import Snapshot, Trajectory
from gcref.validation.tally import Check

Targets = NDArray[np.int8]
Labels = NDArray[np.int32]

LARGEST_EXACT = 1000  # examples for which the optimum gap is looked at, and exchange done again
RTOL = 1e-9


class Found(NamedTuple):
    """What one worker found: checks by name, and the samples that findings are made of.

    `undecided`: by method, Φ of stored labels over Φ of the plain clustering's, where rounding decides between them.
    `unknown`: the measuring points whose numbers cannot be recomputed. `beside`: by method, Φ of its labels over that
    of the reference's at the gradients of a refresh.
    """

    checks: dict[str, Check]
    drawn: list[Drawn]
    gaps: list[Gap]
    undecided: list[tuple[str, float]]
    unknown: list[str]
    beside: list[tuple[str, float]]

    @classmethod
    def nothing(cls, methods: Sequence[str]) -> "Found":
        """Return what is found of the trajectories of a sweep before any is looked at."""
        return cls(new_checks(methods), [], [], [], [], [])

    def merge(self, other: "Found") -> None:
        """Add what another worker found."""
        for name, check in other.checks.items():
            self.checks[name].merge(check)
        self.drawn.extend(other.drawn)
        self.gaps.extend(other.gaps)
        self.undecided.extend(other.undecided)
        self.unknown.extend(other.unknown)
        self.beside.extend(other.beside)


def new_checks(methods: Sequence[str]) -> dict[str, Check]:
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
    if set(clustered(methods)) - {"gc"}:
        checks.insert(-1, Check("further labels", "those of other clusterings last until the next refresh"))
    if "exchange" in methods:
        what = "at a refresh Φ of the new labels is at most that of those before (at 0, of balanced ones)"
        checks.insert(-1, Check("exchange: objective", what, RTOL))
        what = f"where N ≤ {LARGEST_EXACT}, plain exchange finds the same, wherever rounding does not decide"
        checks.insert(-1, Check("exchange: labels", what))
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
        self.clustered = clustered(sweep.methods)
        # Of the labels of a snapshot, Φ there, and what rounding can do to it.
        self.objectives: dict[tuple[int, str], tuple[float, float]] = {}

    def run(self, sampled: bool) -> None:
        """Check everything; `sampled`, with the Monte Carlo and the optimum gap."""
        thetas, rounding = self._replay_theta()
        if not self.points:
            return
        for iteration, snapshot in self.trajectory.snapshots.items():
            self._check_snapshot(iteration, snapshot)
        self._check_series(thetas, rounding)
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
        unit = n**2 * moments.mean.size
        for method, labels in snapshot.labels.items():
            name = f"variance/{method}"
            phi = explicit.objective(self.features, out.D, labels, batch_size)
            stored, floor = self._stored(name, iteration) * unit, float(floors[name]) * unit
            self.found.checks["objective"].compare(self.name, f"N²·d·{name}", [iteration], stored, phi, floor)
            self.objectives[iteration, method] = phi, floor

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
            self.features, D, references if "svrg" in methods else None, labels, self.sweep.batch_size
        )
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
            known = np.isfinite(from_theta) & (known_labels if dataset.split("/")[-1] in self.clustered else True)
            where = [point for point, is_known in zip(points, known, strict=True) if is_known]
            self.found.checks["replay: numbers"].compare(
                self.name, dataset, where, stored[: len(points)][known], values[dataset][known], floors[dataset][known]
            )

    def _labels_in_force(self) -> tuple[dict[int, dict[str, Labels]], NDArray[np.bool_]]:
        """Labels by the first measuring point at which they are in force, and at which points they are known.

        They are kept in the next snapshot, which a trajectory that diverged before it does not have; by that refresh it
        is so far gone that the plain clustering hangs on rounding.
        """
        labels: dict[int, dict[str, Labels]] = {}
        known = np.ones(len(self.points), dtype=np.bool_)
        for start, point in enumerate(self.points):
            refresh = self._refresh_before(point)
            if start and refresh == self._refresh_before(self.points[start - 1]):
                continue
            kept = self._labels_of(refresh)
            anything = np.zeros(len(self.targets), dtype=np.int32)
            labels[start] = kept[0][1] if kept else dict.fromkeys(self.clustered, anything)
            if not kept and self.clustered:
                known[start:] = False
                self.found.unknown.extend(f"{self.name}, iteration {p}" for p in self.points[start:])
                break
        return labels, known

    # ------------------------------------------------------------------------------------------------- labels

    def _check_labels(self) -> None:
        """The labels of every refresh last until the next, and are those of independent clusterings."""
        again = self._plain_clusterings()
        for refresh in filter(self.sweep.refreshes, self.trajectory.snapshots):
            stored = self._labels_of(refresh)
            if not stored:
                break
            self._check_lasting(stored)
            iteration, labels = stored[0]
            theta = self.trajectory.snapshots[refresh].theta
            D = explicit.outputs(self.features @ theta, self.targets).D
            error = float(explicit.output_error(self.norm, _norm(theta)))
            for method, clustering in again.items():
                plain = clustering.fit(self.features, D, error).astype(np.int32)
                if clustering.decided or np.array_equal(labels[method], plain):
                    self._expect_same(refresh, iteration, method, labels[method], plain)
                else:
                    self.found.undecided.append((method, self._relative_objective(D, labels[method], plain)))
            if "further labels" in self.found.checks:
                self._check_objectives(refresh, iteration, D, labels)

    def _plain_clusterings(self) -> dict[str, PlainClustering | PlainExchange]:
        """The independent clusterings, by the method that they check."""
        size, seed = self.sweep.batch_size, self.trajectory.spec.seed
        known: dict[str, PlainClustering | PlainExchange] = {
            "gc": PlainClustering(size, self.sweep.gc_iterations, seed)
        }
        if len(self.targets) <= LARGEST_EXACT:
            known["exchange"] = PlainExchange(size, seed)
        return {method: known[method] for method in self.clustered if method in known}

    def _check_lasting(self, stored: list[tuple[int, dict[str, Labels]]]) -> None:
        """The labels of one refresh are the same in every snapshot."""
        first, labels = stored[0]
        for method in self.clustered:
            check = self.found.checks["labels" if method == "gc" else "further labels"]
            for iteration, later in stored[1:]:
                same = np.array_equal(later[method], labels[method])
                check.expect(same, self.name, iteration, f"labels/{method}", "others", f"those of {first}")

    def _expect_same(self, refresh: int, iteration: int, method: str, kept: Labels, plain: Labels) -> None:
        """Stored labels are those of the plain clustering."""
        check = self.found.checks["labels" if method == "gc" else f"{method}: labels"]
        differ = int(np.count_nonzero(kept != plain))
        what = f"those of the plain clustering at {refresh}"
        check.expect(differ == 0, self.name, iteration, f"labels/{method}", f"{differ} others", what)
        check.n += len(kept) - 1

    def _check_objectives(self, refresh: int, iteration: int, D: Array, labels: dict[str, Labels]) -> None:
        """Φ of new labels at the refresh's gradients: that of exchange never above the last, the others' beside it."""
        n_clusters, reference = self.sweep.batch_size, report.reference(self.clustered)
        phi = {method: explicit.objective(self.features, D, own, n_clusters) for method, own in labels.items()}
        before, floor = self.objectives[refresh, reference]
        # Φ that is nothing but rounding, as of clusters that are copies of one example, is no measure.
        if phi[reference] > 1e3 * floor:
            others = [method for method in self.clustered if method != reference]
            self.found.beside.extend((method, phi[method] / phi[reference]) for method in others)
        if "exchange" in labels:
            if refresh == 0:
                start = balanced(len(D), n_clusters, self.trajectory.spec.seed).astype(np.int32)
                before = explicit.objective(self.features, D, start, n_clusters)
            highest = max(phi["exchange"], before)  # how far Φ fell is no matter
            check = self.found.checks["exchange: objective"]
            check.compare(self.name, "Φ of labels/exchange", [iteration], highest, before, 2 * floor)

    def _labels_of(self, refresh: int) -> list[tuple[int, dict[str, Labels]]]:
        """The labels that were found at `refresh`, in every snapshot that keeps them."""
        snapshots = self.trajectory.snapshots.items()
        return [(p, s.labels) for p, s in snapshots if s.labels and self._refresh_before(p) == refresh]

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
        if "gc" not in self.clustered or not stored or len(self.targets) > LARGEST_EXACT:
            return []
        D = explicit.outputs(self.features @ self.trajectory.snapshots[last].theta, self.targets).D
        G, n_clusters = explicit.gradients(self.features, D), self.sweep.batch_size
        phi = explicit.objective(self.features, D, stored[0][1]["gc"], n_clusters)
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
