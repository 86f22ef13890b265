"""Recompute all that is stored of one trajectory of the random-features study, from scratch."""

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

LARGEST_EXACT = 1000  # examples for which the optimum gap is looked at
RTOL = 1e-9


class Found(NamedTuple):
    """What one worker found: checks by name, and the samples that findings are made of.

    `undecided`: Φ of stored labels over Φ of the plain clustering's, where rounding decides between them. `chaotic`:
    where SGD has magnified rounding until nothing is known of θ.
    """

    checks: dict[str, Check]
    drawn: list[Drawn]
    gaps: list[Gap]
    undecided: list[float]
    chaotic: list[str]


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


def check_trajectory(
    sweep: Sweep, trajectory: Trajectory, features: Array, targets: Targets, sampled: bool, found: Found
) -> None:
    """Recompute all that is stored of one trajectory, adding to `found`.

    Parameters
    ----------
    sampled : bool
        Whether to do the Monte Carlo and the optimum gap too.
    """
    n_points = trajectory.n_measured
    if n_points == 0:
        return
    thetas, rounding = _replay_theta(sweep, trajectory, features, targets, found)
    norm = float(np.sqrt(np.square(features).sum(axis=1).max()))
    squares = replay.square_features(features)
    for iteration, snapshot in trajectory.snapshots.items():
        _check_snapshot(sweep, trajectory, iteration, snapshot, features, targets, (norm, squares), found)
    _check_series(
        sweep, trajectory, thetas, rounding, features, targets, (norm, squares), found.checks["replay: numbers"]
    )
    if "gc" in sweep.methods:
        _check_labels(sweep, trajectory, features, targets, norm, found)
    if sampled:
        found.drawn.extend(_monte_carlo(sweep, trajectory, features, targets))
        found.gaps.extend(_optimum_gap(sweep, trajectory, features, targets))


def _replay_theta(
    sweep: Sweep, trajectory: Trajectory, features: Array, targets: Targets, found: Found
) -> tuple[Array, Array]:
    """θ at every measuring point, (L, I, O), by SGD from the initial draw, and the norm of its rounding error, (L,).

    Stored ones are compared and adopted, which keeps one rounding error from growing through all the steps that follow.
    """
    check = found.checks["replay: theta"]
    spec, n_points = trajectory.spec, trajectory.n_measured
    both = replay.with_shadow(initial_theta(sweep, spec))
    batches = teacher.batch_order(spec.seed, len(targets), sweep.batch_size, sweep.iterations)
    thetas: list[Array] = []
    rounding = np.zeros(n_points)
    for iteration in list(sweep.points)[: n_points + 1]:
        if iteration:
            steps = batches[iteration - sweep.measure_every : iteration]
            both = replay.sgd(features, targets, both, steps, spec.learning_rate, sweep.weight_decay)
        if len(thetas) == n_points:
            _check_divergence(trajectory, iteration, both[0], features, targets, check)
            break
        error = replay.rounding_of(both, sweep.measure_every)
        if not np.isfinite(error):
            found.chaotic.append(f"{spec.id}, iteration {iteration}")
        if iteration in trajectory.snapshots:
            stored = trajectory.snapshots[iteration].theta
            _compare_theta(trajectory, iteration, stored, both[0], error, check)
            both = replay.with_shadow(stored)
        else:
            rounding[len(thetas)] = error
            both = replay.nudge(both)
        thetas.append(both[0])
    return np.stack(thetas), rounding


def _check_divergence(
    trajectory: Trajectory, iteration: int, theta: Array, features: Array, targets: Targets, check: Check
) -> None:
    """Where the numbers end, θ or a loss must have overflowed."""
    losses = explicit.outputs(features @ theta, targets).losses
    diverged = not (np.isfinite(theta).all() and np.isfinite(losses).all())
    check.expect(diverged, trajectory.spec.id, iteration, "status", "diverged", "finite numbers")


def _compare_theta(
    trajectory: Trajectory, iteration: int, stored: Array, theta: Array, error: float, check: Check
) -> None:
    """Compare every entry of a stored θ with the replayed one, relative to the largest."""
    if not np.isfinite(error):
        return
    scale = np.abs(theta).max()
    worst = np.abs(stored - theta).argmax()
    ours, theirs = (values.ravel()[worst] / scale for values in (theta, stored))
    # The tolerance is relative to max |θ|, which is 1 here, not to the entry.
    floor = RTOL * (1 - abs(ours)) + error / scale
    check.compare(trajectory.spec.id, "theta / max|θ|", [iteration], theirs, ours, floor)
    check.n += theta.size - 1


def _check_snapshot(
    sweep: Sweep,
    trajectory: Trajectory,
    iteration: int,
    snapshot: Snapshot,
    features: Array,
    targets: Targets,
    scale: tuple[float, Array],
    found: Found,
) -> None:
    """All numbers of one iteration from gradients written out, and what the snapshot says of itself."""
    name, index = trajectory.spec.id, iteration // sweep.measure_every
    out, D_svrg = _outputs(snapshot, features, targets)
    moments = explicit.moments(features, out.D, D_svrg, snapshot.labels, sweep.batch_size)
    norms = _norm(snapshot.theta)
    if snapshot.svrg_theta is not None:
        norms += _norm(snapshot.svrg_theta)
        origin = trajectory.snapshots[_reference(sweep, iteration)].theta
        same = np.array_equal(snapshot.svrg_theta, origin)
        check = found.checks["svrg_theta"]
        check.expect(same, name, iteration, "svrg_theta", "another", f"theta of {_reference(sweep, iteration)}")
        check.n += origin.size - 1
    error = explicit.output_error(scale[0], norms)
    square_features = np.tile(scale[1], out.D.shape[1])
    numbers = explicit.numbers(moments, len(targets), square_features, error)
    fit = explicit.fit_numbers(out, targets, error)
    floors = numbers.floors | fit.floors
    for dataset, value in (numbers.values | fit.values).items():
        if dataset in trajectory.series:
            stored = trajectory.series[dataset][index]
            found.checks["snapshots"].compare(name, dataset, [iteration], stored, value, floors[dataset])
    if snapshot.labels is not None:
        phi = explicit.objective(features, out.D, snapshot.labels, sweep.batch_size)
        unit = len(targets) ** 2 * moments.mean.size
        stored = trajectory.series["variance/gc"][index] * unit
        floor = floors["variance/gc"] * unit
        found.checks["objective"].compare(name, "N²·d·variance/gc", [iteration], stored, phi, floor)


def _outputs(snapshot: Snapshot, features: Array, targets: Targets) -> tuple[explicit.Outputs, Array | None]:
    """Outputs at θ, and ∂ℓ/∂logits at SVRG's θ̃."""
    out = explicit.outputs(features @ snapshot.theta, targets)
    if snapshot.svrg_theta is None:
        return out, None
    return out, explicit.outputs(features @ snapshot.svrg_theta, targets).D


def _norm(theta: Array) -> float:
    """‖θ‖, infinite where its square is, as on the way to a divergence."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(theta))


def _reference(sweep: Sweep, iteration: int) -> int:
    """The refresh in force when `iteration` is measured: an earlier one, or that at 0."""
    return max(0, (iteration - 1) // sweep.refresh_every * sweep.refresh_every)


def _check_series(
    sweep: Sweep,
    trajectory: Trajectory,
    thetas: Array,
    rounding: Array,
    features: Array,
    targets: Targets,
    scale: tuple[float, Array],
    check: Check,
) -> None:
    """Every number of every measuring point, at the replayed θ."""
    points = list(sweep.points)[: len(thetas)]
    references = [_reference(sweep, p) // sweep.measure_every for p in points]
    labels, n_known = _labels_in_force(sweep, trajectory)
    outputs = replay.all_outputs(features, targets, thetas)
    D = np.stack([out.D for out in outputs], axis=1)
    moments = replay.moments(
        features,
        D,
        references if "svrg" in sweep.methods else None,
        labels if "gc" in sweep.methods else None,
        sweep.batch_size,
    )
    norms = np.array([_norm(theta) for theta in thetas])
    from_theta = scale[0] * (rounding + rounding[references])
    error = np.minimum(explicit.output_error(scale[0], norms + norms[references]) + from_theta, 1.0)
    numbers = explicit.numbers(moments, len(targets), np.tile(scale[1], D.shape[2]), error)
    fits = [explicit.fit_numbers(out, targets, e) for out, e in zip(outputs, error, strict=True)]
    for dataset, stored in trajectory.series.items():
        known = np.isfinite(from_theta)
        if dataset.endswith("/gc"):
            known[n_known:] = False
        if dataset.startswith("train"):
            values = np.array([fit.values[dataset] for fit in fits])
            floor = np.array([fit.floors[dataset] for fit in fits])
        else:
            values, floor = numbers.values[dataset], numbers.floors[dataset]
        compared = [point for point, is_known in zip(points, known, strict=True) if is_known]
        stored = stored[: len(points)][known]
        check.compare(trajectory.spec.id, dataset, compared, stored, values[known], floor[known])


def _labels_in_force(sweep: Sweep, trajectory: Trajectory) -> tuple[dict[int, NDArray[np.int32]], int]:
    """GC's labels by the first measuring point at which they are in force, and how many points they cover.

    They are kept in the next snapshot, which a trajectory that diverged before it does not have.
    """
    labels: dict[int, NDArray[np.int32]] = {}
    for start, point in enumerate(list(sweep.points)[: trajectory.n_measured]):
        if start and _reference(sweep, point) == _reference(sweep, point - sweep.measure_every):
            continue
        later = [p for p in trajectory.snapshots if p >= point]
        if not later or trajectory.snapshots[min(later)].labels is None:
            labels[start] = np.zeros(trajectory.n_train, dtype=np.int32)
            return labels, start
        labels[start] = trajectory.snapshots[min(later)].labels
    return labels, trajectory.n_measured


def _check_labels(
    sweep: Sweep, trajectory: Trajectory, features: Array, targets: Targets, norm: float, found: Found
) -> None:
    """The labels of every refresh, by an independent clustering of the gradients at that refresh."""
    again = PlainClustering(sweep.batch_size, sweep.gc_iterations, trajectory.spec.seed)
    for refresh in filter(sweep.refreshes, trajectory.snapshots):
        theta = trajectory.snapshots[refresh].theta
        D = explicit.outputs(features @ theta, targets).D
        labels = again.fit(features, D, float(explicit.output_error(norm, _norm(theta))))
        stored = _labels_of(sweep, trajectory, refresh)
        if stored is None:
            return
        differ = int(np.count_nonzero(stored != labels))
        if again.decided or differ == 0:
            check = found.checks["labels"]
            what = f"those of the {sweep.gc_iterations} iterations"
            check.expect(differ == 0, trajectory.spec.id, refresh, "labels found", f"{differ} others", what)
            check.n += len(labels) - 1
        else:
            phi = [explicit.objective(features, D, x, sweep.batch_size) for x in (stored, labels)]
            # Where both are nothing but rounding, as of clusters that are copies of one example, they are equal.
            norms = np.square(features).sum(axis=1) @ np.square(D).sum(axis=1)
            nothing = 1e3 * explicit.EPS * len(features) * norms
            found.undecided.append((phi[0] + nothing) / (phi[1] + nothing))


def _labels_of(sweep: Sweep, trajectory: Trajectory, refresh: int) -> NDArray[np.int32] | None:
    """The labels that were found at `refresh`."""
    kept = [p for p in trajectory.snapshots if _reference(sweep, p) == refresh]
    return trajectory.snapshots[kept[0]].labels if kept else None


def _monte_carlo(sweep: Sweep, trajectory: Trajectory, features: Array, targets: Targets) -> list[Drawn]:
    """The paper's protocol at one snapshot, in turn early and late in training."""
    iterations = sorted(trajectory.snapshots)
    later = iterations[1:] or iterations
    iteration = later[len(targets) % len(later)]
    snapshot = trajectory.snapshots[iteration]
    out, D_svrg = _outputs(snapshot, features, targets)
    state = State(features, out.D, D_svrg, snapshot.labels, sweep.batch_size)
    index = iteration // sweep.measure_every
    stored = {name: float(series[index]) for name, series in trajectory.series.items()}
    return compare(trajectory.spec.id, iteration, sweep.methods, state, stored)


def _optimum_gap(sweep: Sweep, trajectory: Trajectory, features: Array, targets: Targets) -> list[Gap]:
    """Φ of the last clustering against exact ones of the same gradients."""
    refreshes = [p for p in trajectory.snapshots if sweep.refreshes(p)]
    labels = _labels_of(sweep, trajectory, refreshes[-1])
    if labels is None or len(labels) > LARGEST_EXACT:
        return []
    D = explicit.outputs(features @ trajectory.snapshots[refreshes[-1]].theta, targets).D
    G = explicit.gradients(features, D)
    phi = explicit.objective(features, D, labels, sweep.batch_size)
    exact = []
    for update, n_iter in (("alternating", 10), ("exchange", 50)):
        fit = ExactClustering(sweep.batch_size, update=update, n_iter=n_iter, seed=trajectory.spec.seed).fit(G)
        exact.append(explicit.objective(features, D, fit.labels_.astype(np.int32), sweep.batch_size))
    # Copies of a few examples can be told apart without any variance: a ratio to nothing says nothing.
    nothing = explicit.EPS * len(D) ** 2 * np.square(G).sum() / len(D)
    return [Gap(phi / exact[0], phi / exact[1])] if min(exact) > 1e3 * nothing else []
