"""Run an image study into its results file, from a checkpoint if there is one (Figs. 3, 6 and 7 of the paper)."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import gcref
from gcref import shards, store
from gcref.atomic import lock
from gcref.studies.image_data import build, prepare
from gcref.studies.image_run import ImageRun
from gcref.studies.methods import check_memory
from gcref.studies.trajectory import Trajectory

Progress = Callable[[int, float], None]

CHECKPOINT = "checkpoint"  # the name of the shard that a run goes on from


def run_image(
    run: ImageRun,
    path: Path,
    data_dir: str | None = None,
    command: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> bool:
    """Train and measure, from the last checkpoint if there is one, and write the results file.

    Parameters
    ----------
    run : ImageRun
    path : Path
        The results file (see `gcref.store`), with one trajectory.
    data_dir : path, optional
        Where the data set's files are.
    command : str
        Recorded in the file.
    overwrite : bool
        Replace a file of another configuration.
    progress : callable, optional
        Called with the number of iterations done and the share of this call's work.
    executor : concurrent.futures.Executor, optional
        Whose workers sum the passes over the training set that measure, such as `gcref.executor.dask_pool`. They make
        the training set themselves, from `run` and `data_dir`.

    Returns
    -------
    bool
        False if the file was there, finished, and nothing was done.

    Raises
    ------
    gcref.data.DataError, ValueError
        If the data are missing, damaged or do not fit, or a method needs more memory than there is; nothing was
        touched.
    gcref.store.StoreError
        If the file cannot be written, belongs to something else, or its checkpoint is of other data.
    KeyboardInterrupt
        After what is measured has been written into an unfinished results file; the same call goes on from the
        last measuring point.
    """
    path = Path(os.path.realpath(path))
    with lock(path):
        if shards.check(path, run.to_json(), overwrite) == "finished":
            return not shards.claim(path, run.to_json())
        dataset = prepare(run, data_dir)
        net = build(run, dataset)
        check_memory(run.methods, len(dataset.train), net.n_parameters)
        if shards.claim(path, run.to_json(), overwrite):
            return False
        study = _Study(Trajectory(run, net, dataset, executor, data_dir), path, command)
        try:
            study.go(progress)
            study.finish()
        except KeyboardInterrupt:
            study.finish_in_part()
            raise
        return True


class _Study:
    """One run and its shards: a checkpoint, one a snapshot, and in the end the whole trajectory."""

    def __init__(self, trajectory: Trajectory, path: Path, command: str) -> None:
        self.trajectory, self.run, self.path, self.command = trajectory, trajectory.run, path, command
        self.parts = store.parts_of(path)
        run, dataset = trajectory.run, trajectory.data
        self.attrs: dict[str, Any] = _hyper_parameters(run) | {
            "n_train": len(dataset.train), "n_test": len(dataset.test), "n_classes": dataset.n_classes,
            "n_parameters": self.trajectory.net.n_parameters, "data_digest": dataset.digest,
        }  # fmt: skip
        self.seconds = 0.0
        self._since = time.perf_counter()
        self.begun = self._resume()

    def go(self, progress: Progress | None) -> None:
        """Train to the end, measuring, refreshing and writing checkpoints on the way."""
        trajectory, run = self.trajectory, self.run
        work = _Work(run, trajectory.iteration)
        if not self.begun:
            trajectory.refresh()
            work.measured(_seconds(self._measure))
        while trajectory.iteration < run.iterations and not trajectory.diverged:
            with np.errstate(over="ignore", invalid="ignore"):  # measuring sees what has diverged, and says so
                work.stepped(_seconds(trajectory.step))
                if trajectory.iteration in run.points:
                    work.measured(_seconds(self._measure))
            if progress is not None and (work.steps % 10 == 0 or work.steps in run.points):
                progress(trajectory.iteration, work.share())

    def _measure(self) -> None:
        """Measure, keep a snapshot, refresh, and write the checkpoint that a run goes on from."""
        trajectory, run = self.trajectory, self.run
        trajectory.measure()
        if trajectory.diverged:
            return
        if run.keeps_snapshot(trajectory.iteration):
            name = _snapshot_name(trajectory.iteration)
            shards.write_shard(self.parts, name, {}, trajectory.snapshot(), lasting=False)
        if trajectory.iteration and run.refreshes(trajectory.iteration):
            trajectory.refresh()
            if trajectory.diverged:
                return
        attrs = {"data_digest": self.attrs["data_digest"], "seconds": self._elapsed()}
        shards.write_shard(self.parts, CHECKPOINT, attrs, trajectory.state(), lasting=False)

    def _resume(self) -> bool:
        """Take up the checkpoint, if there is one; say so."""
        if not shards.finished(self.parts, [CHECKPOINT]):
            return False
        attrs, state = shards.read_shard(self.parts, CHECKPOINT)
        if attrs["data_digest"] != self.attrs["data_digest"]:
            raise store.StoreError(
                f"{self.parts} was begun with other data of {self.run.dataset}; restore those, or delete the folder to "
                "begin anew"
            )
        self.trajectory.restore(state)
        self.seconds = float(attrs["seconds"])
        snapshots = [i for i in self.run.points if i <= self.trajectory.iteration and self.run.keeps_snapshot(i)]
        there = shards.finished(self.parts, [_snapshot_name(i) for i in snapshots])
        if len(there) < len(snapshots):  # damaged: begin anew, since a snapshot cannot be made again from later
            self.trajectory = self.trajectory.anew(build(self.run, self.trajectory.data))
            self.seconds = 0.0
            return False
        return True

    def finish(self) -> None:
        """Write the results file and delete the shards."""
        self._write("diverged" if self.trajectory.diverged else "complete", keep_shards=False)

    def finish_in_part(self) -> None:
        """Write what is measured as an unfinished file, unless a finished one would be lost; keep the checkpoint."""
        if len(self.trajectory.arrays["iteration"]) and shards.may_hold_a_part(self.path, self.run.to_json()):
            self._write("unfinished", keep_shards=True)

    def _write(self, status: str, keep_shards: bool) -> None:
        arrays = dict(self.trajectory.arrays)
        # A checkpoint, and with it the series, may be ahead of the state that a Ctrl-C met.
        for iteration in arrays["iteration"].tolist():
            if self.run.keeps_snapshot(iteration) and shards.finished(self.parts, [_snapshot_name(iteration)]):
                _, snapshot = shards.read_shard(self.parts, _snapshot_name(iteration))
                arrays |= {f"snapshots/{iteration}/{name}": array for name, array in snapshot.items()}
        attrs = self.attrs | {"status": status, "seconds": self._elapsed()}
        shards.write_shard(self.parts, self.run.id, attrs, arrays)
        root = {
            "gcref_version": gcref.__version__, "command": self.command, "config": self.run.to_json(),
            "complete": status != "unfinished",
        }  # fmt: skip
        shards.merge(self.path, [self.run.id], root, lambda group: _summary_rows(self.run, group), keep_shards)

    def _elapsed(self) -> float:
        """Seconds of all calls so far."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds


class _Work:
    """The share of a call's work that is done, by the seconds that steps and measuring points have taken so far."""

    def __init__(self, run: ImageRun, begin: int) -> None:
        self.run = run
        self.steps, self.points = begin, 0
        self.begin = begin
        self.of_steps, self.of_points = 0.0, 0.0

    def stepped(self, seconds: float) -> None:
        """Count a step."""
        self.steps += 1
        self.of_steps += seconds

    def measured(self, seconds: float) -> None:
        """Count a measuring point."""
        self.points += 1
        self.of_points += seconds

    def share(self) -> float:
        """Return the share."""
        done = self.of_steps + self.of_points
        a_step = self.of_steps / max(1, self.steps - self.begin)
        points_left = (self.run.iterations - self.steps) // self.run.measure_every
        left = (self.run.iterations - self.steps) * a_step + points_left * self.of_points / max(1, self.points)
        return done / (done + left) if done else 0.0


def _seconds(task: Callable[[], None]) -> float:
    """Do something and return the seconds it took."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _snapshot_name(iteration: int) -> str:
    return f"snapshot-{iteration}"


def _hyper_parameters(run: ImageRun) -> dict[str, Any]:
    """Return the configuration as attributes of the trajectory's group."""
    values = {name: value for name, value in asdict(run).items() if name != "schema"}
    return {name: ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in values.items()}


def _summary_rows(run: ImageRun, group: h5py.Group) -> list[tuple]:
    """One row a method: mean and maximum over the last 70 % of the measurements, d/N as over-parametrization."""
    n, d = int(group.attrs["n_train"]), int(group.attrs["n_parameters"])
    rows = []
    for method in run.methods:
        series = [group[f"{kind}/{method}"][()] for kind in ("variance", "normalized_variance")]
        tails = [numbers[ceil(0.3 * len(numbers)) :] for numbers in series]
        numbers = [float(statistic(tail)) if len(tail) else np.nan for tail in tails for statistic in (np.mean, np.max)]
        rows.append((run.id, method, run.learning_rate, d / n, n, 0, 0, run.seed, run.duplicate_fraction, *numbers))
    return rows
