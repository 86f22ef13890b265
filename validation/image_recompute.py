"""Recompute all that is stored at the snapshots of an image study, from scratch."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gcref.engine.network import Network
from gcref.estimators import SVRG, Estimator, MiniBatch, Stratified
from gcref.studies.image_data import ImageData, build
from gcref.studies.image_run import ImageRun
from gcref.studies.methods import clustered
from gcref.studies.teacher import stream
from gcref.validation import image_moments
from gcref.validation.clusterings import balanced
from gcref.validation.explicit import Numbers
from gcref.validation.image_moments import Found
from gcref.validation.image_numbers import SLACK, Rounding, fit_numbers, outputs, variance_numbers
from gcref.validation.image_protocol import FAMILY, MOST_STEPS, Drawn, estimate, replay, z_scores
from gcref.validation.image_structure import Trajectory
from gcref.validation.tally import Check

Progress = Callable[[int, float], None]
Snapshot = dict[str, NDArray]

RTOL = {"float32": 1e-5, "float64": 1e-9}
RTOL_THETA = 1e-6  # what a rounding error can have grown to in some hundred steps
LARGEST = 10**9  # numbers in all gradients at one θ, beyond which they are not written out one by one


class Recomputation:
    """The trajectory with its data.

    Parameters
    ----------
    trajectory : Trajectory
        As stored.
    data : ImageData
        As loaded again.
    n_examples : int
        Random examples whose gradients are written out where those of all would take too long.
    """

    def __init__(self, trajectory: Trajectory, data: ImageData, n_examples: int) -> None:
        self.trajectory, self.run, self.data = trajectory, trajectory.run, data
        self.initial = build(self.run, data)
        self.n_examples = n_examples
        n = len(data.train)
        self.every_one = n <= n_examples or n * self.initial.n_parameters <= LARGEST
        self.eps = float(np.finfo(self.run.precision).eps)
        self.checks = new_checks(self.run, 0 if self.every_one else n_examples)
        self._origin: Snapshot = {}
        self._labels: tuple[int, Snapshot] = -1, {}
        self._drawn: list[Drawn] = []

    def go(self, progress: Progress | None = None) -> list[Check]:
        """Check everything; `progress` is called with the snapshots that are done and the share of the work."""
        iterations = self.trajectory.snapshots
        # On the way to a divergence numbers overflow; that is seen in what is compared, and no reason to warn.
        with np.errstate(over="ignore", invalid="ignore"):
            for place, iteration in enumerate(iterations):

                def so_far(share: float, place: int = place) -> None:
                    if progress is not None:
                        progress(place + int(share), (place + share) / len(iterations))

                snapshot = self.trajectory.read(iteration)
                self._check_origin(iteration, snapshot)
                self._check_numbers(iteration, snapshot, so_far)
            self._replay()
        n_points = len(self.trajectory.series["iteration"])
        if len(iterations) < n_points:
            self.checks[
                "snapshots"
            ].note = (
                f"{len(iterations)} of {n_points} measuring points have a snapshot; digests alone vouch for the others"
            )
        drawn = [z_scores(self.run, self._drawn)] if self.run.method == "monte-carlo" else []
        return [*self.checks.values(), *drawn]

    # -------------------------------------------------------------------------------------- where snapshots come from

    def _check_origin(self, iteration: int, snapshot: Snapshot) -> None:
        """θ at 0 is the initial draw, θ̃ is θ at the last refresh, and the labels are those found there."""
        if iteration == 0:
            self._same(iteration, "theta", snapshot, self.initial.theta, "the initial draw")
            self._same(iteration, "running", snapshot, self.initial.running, "the initial statistics")
            self._origin = snapshot
        refresh = max(0, (iteration - 1) // self.run.refresh_every * self.run.refresh_every)
        for name in ("theta", "running"):
            self._same(iteration, f"svrg_{name}", snapshot, self._origin.get(name), f"{name} of {refresh}")
        if self._labels[0] == refresh:
            for method, labels in self._labels[1].items():
                self._same(iteration, f"labels/{method}", snapshot, labels, "those of the snapshot before")
        self._labels = refresh, labels_of(snapshot)
        if self.run.refreshes(iteration):
            self._origin = snapshot

    def _same(self, iteration: int, name: str, snapshot: Snapshot, expected: NDArray | None, what: str) -> None:
        """Expect equality, bit for bit, of something that the snapshot may not have."""
        if name in snapshot:
            same = expected is not None and np.array_equal(snapshot[name], expected)
            self.checks["parameters"].expect(same, self.run.id, iteration, name, "another", what)
            self.checks["parameters"].n += snapshot[name].size - 1

    def _replay(self) -> None:
        """SGD from the initial parameters to the first snapshot after them."""
        check, later = self.checks["replay"], [i for i in self.trajectory.snapshots if i]
        if self.run.precision != "float64":
            check.note = "float32 rounds as the machine does, so digests alone vouch for the way from θ to θ"
        elif not later or later[0] > MOST_STEPS:
            check.note = f"no snapshot among the first {MOST_STEPS} steps"
        else:
            net, stored = self.initial.copy(), self.trajectory.read(later[0])
            replay(self.run, net, self.data, later[0])
            scale = np.abs(net.theta).max()
            check.compare(
                self.run.id, "theta / max |θ|", [later[0]], stored["theta"] / scale, net.theta / scale, RTOL_THETA
            )

    # ------------------------------------------------------------------------------------------------------- numbers

    def _check_numbers(self, iteration: int, snapshot: Snapshot, progress: image_moments.Progress) -> None:
        """All numbers of one iteration."""
        net, reference = self._networks(snapshot)
        found = self._gather(net, reference, snapshot, progress)
        out = outputs(net, self.data.train, self.run.label_smoothing)
        rounding = Rounding(self.eps, out, [block.slice for block in net.blocks])
        exact = variance_numbers(found, self.run.methods, self.run.batch_size, rounding)
        tested = outputs(net, self.data.test, self.run.label_smoothing)
        parts = [fit_numbers(out, "train", self.eps), fit_numbers(tested, "test", self.eps)]
        if self.run.method == "closed-form":
            parts.append(exact)
            self._check_objective(iteration, found, exact)
        else:
            parts.append(Numbers({"noise_scale": exact.values["noise_scale"]}, exact.floors))
            self._check_draws(iteration, snapshot, net, reference, found, exact)
        for numbers in parts:
            for name, value in numbers.values.items():
                self._compare("snapshots", iteration, name, value, numbers.floors[name])
        if "exchange" in self.run.methods and self.run.refreshes(iteration):
            self._check_exchange(iteration, net, found.clusterings["exchange"].phi, exact.floors["variance/exchange"])
        if not self.every_one:
            self._check_gradients(iteration, net)

    def _networks(self, snapshot: Snapshot) -> tuple[Network, Network | None]:
        """The network at θ, and at θ̃ if there is one, in float64."""
        net = self.initial.copy("float64")
        net.theta, net.running[:] = snapshot["theta"], snapshot.get("running", net.running)
        if "svrg_theta" not in snapshot:
            return net, None
        reference = net.copy()
        reference.theta, reference.running[:] = snapshot["svrg_theta"], snapshot.get("svrg_running", net.running)
        return net, reference

    def _gather(
        self, net: Network, reference: Network | None, snapshot: Snapshot, progress: image_moments.Progress
    ) -> Found:
        """The moments of all gradients."""
        make = image_moments.written_out if self.every_one else image_moments.by_closed_forms
        # Where there are no clusters, the examples are one.
        labels = labels_of(snapshot) or {"": np.zeros(len(self.data.train), np.int32)}
        everything: image_moments.Parts = []
        clusterings: dict[str, image_moments.Within] = {}
        for method, own in labels.items():

            def so_far(share: float, done: int = len(clusterings)) -> None:
                progress((done + share) / len(labels))

            # The moments of all examples are known from the first clustering.
            source, step = make(net, None if everything else reference, self.data.train)
            parts, clusterings[method] = image_moments.gather(source, step, own, net.n_parameters, so_far)
            everything = everything or parts
        return Found(everything[0], *(everything[1:] or (None, None)), clusterings=clusterings)

    def _compare(self, check: str, iteration: int, name: str, value: float, floor: float) -> None:
        """Compare one number with the stored one."""
        stored = self.trajectory.stored(name, iteration)
        self.checks[check].compare(self.run.id, name, [iteration], stored, value, floor)

    def _check_objective(self, iteration: int, found: Found, exact: Numbers) -> None:
        """Φ of the labels, uncentred, is N²·d·V."""
        unit = found.own.n**2 * len(found.own.mean)
        for method in clustered(self.run.methods):
            name, phi = f"variance/{method}", found.clusterings[method].phi
            stored, floor = self.trajectory.stored(name, iteration) * unit, exact.floors[name] * unit
            self.checks["objective"].compare(self.run.id, f"N²·d·{name}", [iteration], stored, phi, floor)

    def _check_exchange(self, iteration: int, net: Network, phi: float, floor: float) -> None:
        """Φ of the labels that exchange found at a refresh, at its gradients, is not above Φ of those it began with.

        `phi` is that of the snapshot's own labels: found here at 0, where balanced ones were the start; later those
        that it began with, and the next snapshot has the new ones.
        """
        later = [i for i in self.trajectory.snapshots if i > iteration]
        if iteration and not later:
            return
        size, n = self.run.batch_size, len(self.data.train)
        other = self.trajectory.read(later[0])["labels/exchange"] if iteration else balanced(n, size, self.run.seed)
        make = image_moments.written_out if self.every_one else image_moments.by_closed_forms
        source, step = make(net, None, self.data.train)
        _, within = image_moments.gather(source, step, other, net.n_parameters)
        before, after = (phi, within.phi) if iteration else (within.phi, phi)
        unit = n**2 * net.n_parameters
        highest = max(after, before)  # how far Φ fell is no matter
        self.checks["exchange: objective"].compare(
            self.run.id, "Φ of labels/exchange", [iteration], highest, before, 2 * floor * unit
        )

    def _check_gradients(self, iteration: int, net: Network) -> None:
        """The gradients that the sums are made of, of some examples, against those of each example alone."""
        check, train = self.checks["gradients"], self.data.train
        rng = stream(self.run.seed, "examples to validate", iteration)
        for i in rng.choice(len(train), self.n_examples, replace=False):
            rows = np.array([i])
            alone = image_moments.gradients(net, train, rows)[0]
            summed = image_moments.gradients_of_traces(net, train, rows)[0]
            scale = max(float(np.abs(alone).max()), np.finfo(np.float64).tiny)
            floor = RTOL["float64"] * scale
            check.compare(self.run.id, f"gradient of example {i}", [iteration], summed, alone, floor)
        share = 1 - FAMILY ** (1 / self.n_examples)
        check.note = f"what is wrong in {share:.2%} of the examples is missed with a probability of {FAMILY:g}"

    # --------------------------------------------------------------------------------------------------- Monte Carlo

    def _check_draws(
        self,
        iteration: int,
        snapshot: Snapshot,
        net: Network,
        reference: Network | None,
        found: Found,
        exact: Numbers,
    ) -> None:
        """The estimates of every method, from the same draws."""
        # What is left of numbers that are all the same is the rounding of their mean.
        nothing = (SLACK * np.finfo(np.float64).eps) ** 2
        for method, estimator in self._estimators(snapshot, reference, found).items():
            rng = stream(self.run.seed, f"estimates of {method}", iteration)
            again = estimate(lambda e=estimator, r=rng: e.sample(net, self.data.train, r), self.run.n_estimates)
            floor = exact.floors[f"variance/{method}"] + nothing * float(np.mean(found.own.square)) / found.own.n
            ratio_floor = exact.floors[f"normalized_variance/{method}"] + nothing
            self._compare("draws", iteration, f"variance/{method}", again.average, floor)
            self._compare("draws", iteration, f"normalized_variance/{method}", again.normalized, ratio_floor)
            self._compare("draws", iteration, f"standard_error/{method}", again.standard_error, floor)
            stored, error = (self.trajectory.stored(f"{k}/{method}", iteration) for k in ("variance", "standard_error"))
            self._drawn.append(Drawn(method, iteration, stored, error, float(exact.values[f"variance/{method}"])))

    def _estimators(self, snapshot: Snapshot, reference: Network | None, found: Found) -> dict[str, Estimator]:
        """The estimators that were in force, by method."""
        size = self.run.batch_size
        known: dict[str, Estimator] = {"sgb": MiniBatch(size), "sg2b": MiniBatch(2 * size)}
        if reference is not None and found.reference is not None:
            known["svrg"] = SVRG(size).resume(reference, found.reference.mean)
        known |= {method: Stratified(labels) for method, labels in labels_of(snapshot).items()}
        return {method: known[method] for method in self.run.methods}


def labels_of(snapshot: Snapshot) -> Snapshot:
    """Return the labels of a snapshot by method."""
    return {name.removeprefix("labels/"): a for name, a in snapshot.items() if name.startswith("labels/")}


def new_checks(run: ImageRun, n_examples: int) -> dict[str, Check]:
    """Make the checks, in the order of the table.

    Parameters
    ----------
    run : ImageRun
    n_examples : int
        Whose gradients are written out beside the sums over all; 0 if all are written out.
    """
    rtol = RTOL[run.precision]
    how = "sums over all examples" if n_examples else "explicit per-example gradients"
    checks = [
        Check("parameters", "θ at 0 is the initial draw, θ̃ is θ at the last refresh, labels last until the next"),
        Check("replay", "plain SGD arrives at the first θ (relative to max |θ|)", RTOL_THETA),
        Check("snapshots", f"every number at a snapshot, from {how} in float64", rtol),
    ]
    if run.method == "closed-form":
        checks.append(Check("objective", "Φ of the labels, from the same, is N²·d·V", rtol))
    else:
        checks.append(Check("draws", "every estimate at a snapshot, from the same draws in float64", rtol))
    if "exchange" in run.methods:
        what = "Φ of new labels is never above that of those before, at the refresh's gradients"
        checks.append(Check("exchange: objective", what, rtol))
    if n_examples:
        what = f"those of {n_examples} random examples in the sums, against plain backpropagation"
        checks.append(Check("gradients", what, RTOL["float64"]))
    return {check.name: check for check in checks}
