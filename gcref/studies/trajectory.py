"""One model on its way: SGD, and at each measuring point every estimator's variance (section 4.1 of the paper)."""

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcref.clustering.base import Clusterer, NotFiniteError
from gcref.clustering.sketched import SketchedClustering
from gcref.data import Augmentation
from gcref.engine.network import Network
from gcref.engine.optimizer import SGD, StepSchedule
from gcref.engine.trace import Trace
from gcref.estimators import SVRG, Data, Estimator, MiniBatch, Stratified, chunk_size, chunks
from gcref.studies.image_data import FarSet, ImageData
from gcref.studies.image_run import ImageRun
from gcref.studies.methods import clustered, clusterer
from gcref.studies.teacher import stream
from gcref.variance import Variance, monte_carlo, noise_scale, variances

Arrays = dict[str, NDArray]

SKETCH_PIECE = 1024  # examples that a worker sketches at a time; what it sends back is small
KEPT_BYTES = 3 << 29  # of traces that a clustering holds at once; beyond it, it computes them anew at each pass


class Trajectory:
    """A network in training, with all that its measurements depend on.

    Parameters
    ----------
    run : ImageRun
    net : Network
        At its initial parameters.
    data : ImageData
    executor : Executor, optional
        Whose workers sum the passes over the training set that measure, and sketch it.
    data_dir : path, optional
        Where workers find the data set's files.

    Attributes
    ----------
    iteration : int
        SGD steps done.
    arrays : dict
        The series measured so far, by their names in the file, each with one number a measuring point.
    diverged : bool
        Whether a number to be measured was not finite.
    """

    def __init__(
        self,
        run: ImageRun,
        net: Network,
        data: ImageData,
        executor: Executor | None = None,
        data_dir: str | None = None,
    ) -> None:
        self.run, self.net, self.data, self.executor = run, net, data, executor
        self._data_dir = data_dir
        self._train: Data = data.train if executor is None else FarSet(data, run, data_dir)
        self.optimizer = SGD(run.learning_rate, run.momentum, run.weight_decay)
        self.schedule = StepSchedule(run.learning_rate, run.milestones)
        self.augmentation = Augmentation() if run.augment else None
        self.iteration, self.diverged = 0, False
        self.svrg = SVRG(run.batch_size)
        self.clusterings: dict[str, Clusterer] = {
            name: clusterer(name, run.batch_size, run.gc_iterations, run.seed) for name in clustered(run.methods)
        }
        self.arrays: Arrays = {
            name: np.empty(0, np.int64 if name == "iteration" else np.float64) for name in _series(run)
        }
        self._gradient = np.empty(net.n_parameters, net.dtype)
        self._epoch, self._order = -1, np.empty(0, np.intp)

    def anew(self, net: Network) -> "Trajectory":
        """Return this trajectory at its beginning, with a network at its initial parameters."""
        return Trajectory(self.run, net, self.data, self.executor, self._data_dir)

    # ------------------------------------------------------------------------------------------------------ training

    def step(self) -> None:
        """Do one step of SGD; batch norm, where there is any, is in training mode."""
        rows = self._batch()
        x, y = self.data.train.x[rows], self.data.train.y[rows]
        if self.augmentation is not None:
            x = self.augmentation(x, stream(self.run.seed, "augmentation", self.iteration))
        self.net.gradient(x, y, out=self._gradient, training=True)
        self.optimizer.learning_rate = self.schedule(self.iteration)
        self.optimizer.step(self.net.theta, self._gradient)
        self.iteration += 1

    def _batch(self) -> NDArray[np.intp]:
        """Return the examples of the next step: shuffled epochs, an epoch's short last batch dropped."""
        n, size = len(self.data.train), self.run.batch_size
        epoch, place = divmod(self.iteration, n // size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, stream(self.run.seed, "batches", epoch).permutation(n)
        return self._order[place * size : (place + 1) * size]

    # ----------------------------------------------------------------------------------------------------- measuring

    def refresh(self) -> None:
        """Renew SVRG's snapshot and every clustering at the present parameters; say so if they have diverged."""
        if "svrg" in self.run.methods:
            self.svrg.prepare(self.net, self.data.train)
        if self.clusterings:
            far = Traces(self.net, self._train)
            traces = far.kept() if any(not self._sketches(c) for c in self.clusterings.values()) else far
            for clustering in self.clusterings.values():
                try:
                    if self._sketches(clustering):
                        clustering.fit(far, self.executor)  # type: ignore[call-arg]
                    else:
                        clustering.fit(traces)
                except NotFiniteError:  # squared norms of gradients overflow long before the gradients themselves
                    self.diverged = True

    def _sketches(self, clustering: Clusterer) -> bool:
        """Whether the workers, if there are any, make what this clustering needs."""
        return self.executor is not None and isinstance(clustering, SketchedClustering)

    def measure(self) -> None:
        """Add one number to every series; where one is not finite, only say so."""
        train_loss, train_accuracy = evaluate(self.net, self.data.train)
        if not (np.isfinite(train_loss) and np.isfinite(self.net.theta).all()):
            self.diverged = True
            return
        test_loss, test_accuracy = evaluate(self.net, self.data.test)
        found = self._variances()
        numbers: dict[str, float] = {
            "iteration": self.iteration, "learning_rate": self.schedule(self.iteration), "train_loss": train_loss,
            "train_accuracy": train_accuracy, "test_loss": test_loss, "test_accuracy": test_accuracy,
            "noise_scale": next(iter(found.values())).noise_scale,
        }  # fmt: skip
        for method, variance in found.items():
            numbers[f"variance/{method}"] = variance.average
            numbers[f"normalized_variance/{method}"] = variance.normalized
            numbers[f"standard_error/{method}"] = variance.standard_error
        # The noise scale is infinite where the full gradient is 0, which is no divergence.
        if not all(np.isfinite(number) for name, number in numbers.items() if name != "noise_scale"):
            self.diverged = True
            return
        # In one piece, so that an interrupt leaves series of one length.
        self.arrays = {
            name: np.append(series, series.dtype.type(numbers[name])) for name, series in self.arrays.items()
        }

    def estimators(self) -> dict[str, Estimator]:
        """Return the estimators in force, by name, in the order of the run."""
        B = self.run.batch_size
        known: dict[str, Estimator] = {"sgb": MiniBatch(B), "sg2b": MiniBatch(2 * B), "svrg": self.svrg}
        known |= {name: Stratified(clustering.labels_) for name, clustering in self.clusterings.items()}
        return {name: known[name] for name in self.run.methods}

    def _variances(self) -> dict[str, Variance]:
        """Measure every estimator, exactly or by the paper's protocol."""
        estimators, train = self.estimators(), self._train
        if self.run.method == "closed-form":
            return variances(estimators, self.net, train, self.executor)
        noise = noise_scale(self.net, train)
        return {
            name: monte_carlo(
                estimator, self.net, train, self.run.n_estimates,
                stream(self.run.seed, f"estimates of {name}", self.iteration), noise,
            )
            for name, estimator in estimators.items()
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- keeping

    def snapshot(self) -> Arrays:
        """Return everything that the numbers of this iteration depend on, by its names below ``snapshots/…``."""
        arrays: Arrays = {"theta": self.net.theta.copy(), "running": self.net.running.copy()}
        if "svrg" in self.run.methods:
            arrays |= {"svrg_theta": self.svrg.theta_, "svrg_running": self.svrg.running_}
        arrays |= {f"labels/{name}": c.labels_.astype(np.int32) for name, c in self.clusterings.items()}
        return {name: array for name, array in arrays.items() if array.size}

    def state(self) -> Arrays:
        """Return all that `restore` needs to go on from here with the same numbers."""
        velocity = self.optimizer.velocity
        arrays: Arrays = {"theta": self.net.theta, "running": self.net.running, "iteration": np.array(self.iteration)}
        arrays["velocity"] = np.zeros_like(self.net.theta) if velocity is None else velocity
        arrays |= {f"series/{name}": series for name, series in self.arrays.items()}
        if "svrg" in self.run.methods:
            arrays |= {f"svrg/{name}": getattr(self.svrg, f"{name}_") for name in ("theta", "gradient", "running")}
        for name, clustering in self.clusterings.items():
            arrays[f"clustering/{name}/n_iter"] = np.array(clustering.n_iter_)
            for which in ("labels", "last_labels"):
                arrays[f"clustering/{name}/{which}"] = getattr(clustering, f"{which}_")
            arrays |= {f"clustering/{name}/{key}": array for key, array in _centers(clustering).items()}
        return arrays

    def restore(self, state: Arrays) -> None:
        """Go back to where `state` was taken."""
        self.net.theta, self.net.running[:] = state["theta"], state["running"]
        self.iteration, self.optimizer.velocity = int(state["iteration"]), state["velocity"].copy()
        self.arrays = {name: state[f"series/{name}"] for name in self.arrays}
        if "svrg" in self.run.methods:
            reference = self.net.copy()
            reference.theta, reference.running[:] = state["svrg/theta"], state["svrg/running"]
            self.svrg.resume(reference, state["svrg/gradient"])
        for name, clustering in self.clusterings.items():
            stem = f"clustering/{name}"
            clustering.n_iter_ = int(state[f"{stem}/n_iter"])
            clustering.labels_, clustering.last_labels_ = state[f"{stem}/labels"], state[f"{stem}/last_labels"]
            kept = {key.removeprefix(f"{stem}/"): array for key, array in state.items() if key.startswith(f"{stem}/")}
            _put_centers(clustering, kept)


def _centers(clustering: Clusterer) -> Arrays:
    """Return the centres that a warm start continues from, by name; none where the labels are enough."""
    centers = getattr(clustering, "centers_", None)
    if centers is None:
        return {}
    if isinstance(centers, np.ndarray):
        return {"centers": centers}
    return {f"{block}/{which}": a for block, pair in enumerate(centers) for which, a in zip("cd", pair, strict=True)}


def _put_centers(clustering: Any, kept: Arrays) -> None:
    """Give a clusterer back what `_centers` returned."""
    if "centers" in kept:
        clustering.centers_ = kept["centers"]
    elif "0/c" in kept:
        n_blocks = sum(key.endswith("/c") for key in kept)
        clustering.centers_ = [(kept[f"{block}/c"], kept[f"{block}/d"]) for block in range(n_blocks)]


def evaluate(net: Network, ds: Data) -> tuple[float, float]:
    """Return the mean loss and the accuracy on a data set, summed in float64 batch by batch."""
    total, right, step = 0.0, 0, chunk_size(net, ds)
    for start in range(0, len(ds.y), step):
        y = ds.y[start : start + step]
        logits = net.logits(ds.x[start : start + step])
        total += float(net.loss(logits, y)[0].sum(dtype=np.float64))
        right += int(np.count_nonzero(logits.argmax(axis=1) == y))
    return total / len(ds.y), right / len(ds.y)


class Traces:
    """The traces of a data set, batch by batch, computed anew at each call."""

    def __init__(self, net: Network, ds: Data) -> None:
        self.net, self.ds = net, ds

    def __call__(self, piece: range | None = None) -> Iterator[list[Trace]]:
        """Yield the batches; of one of the `pieces` only, if it is given."""
        rows = range(len(self.ds.y)) if piece is None else piece
        return (traces for traces, _, _ in chunks(self.net, self.ds, np.array(rows)))

    def pieces(self) -> list[range]:
        """Cut the data set into pieces of whole batches."""
        n, step = len(self.ds.y), chunk_size(self.net, self.ds)
        size = step * max(1, SKETCH_PIECE // step)
        return [range(i, min(i + size, n)) for i in range(0, n, size)]

    def kept(self) -> Any:
        """Return the list of the batches, if it fits, or what computes them anew."""
        fits = len(self.ds.y) * self.net.trace_bytes(self.ds.x.shape[1:]) <= KEPT_BYTES
        return list(self()) if fits else self


def _series(run: ImageRun) -> list[str]:
    """Return the names of the series of a run, in the order of the file."""
    names = ["iteration", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "noise_scale"]
    kinds = ["variance", "normalized_variance"] + ["standard_error"] * (run.method == "monte-carlo")
    return names + [f"{kind}/{method}" for kind in kinds for method in run.methods]
