"""Run the random-features grid on a pool of workers, resumable at every trajectory."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import h5py

import gcref
from gcref import shards, store
from gcref.atomic import lock
from gcref.executor import process_pool
from gcref.studies.grid import Spec, Sweep
from gcref.studies.random_features import costs, run_unit, summary_rows, units

Progress = Callable[[int, float], None]
FAR_UNITS = 8  # pieces of work for each worker of a cluster: what a lost one costs, against what pieces share


def run_sweep(
    sweep: Sweep,
    path: Path,
    n_workers: int,
    command: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> bool:
    """Run what is missing of `sweep` and write the results file.

    Parameters
    ----------
    sweep : Sweep
    path : Path
        The results file (see `gcref.store`).
    n_workers : int
        Processes, one thread each, or workers of `executor`. The numbers do not depend on it.
    command : str
        Recorded in the file.
    overwrite : bool
        Replace a file of another configuration.
    progress : callable, optional
        Called every quarter of a second with the number of finished trajectories and the share of this call's
        work that is done.
    executor : concurrent.futures.Executor, optional
        Where to run in place of processes here, such as `gcref.executor.dask_pool`'s. It gets configurations and
        gives back shards; the folder of the results file need not be in its reach.

    Returns
    -------
    bool
        False if the file was there, finished, and nothing was done.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be written or belongs to something else (see `gcref.shards.claim`).
    gcref.executor.WorkerLostError
        If the last worker was killed, for want of memory for example; before, a warning says that the run goes on
        with one worker fewer.
    KeyboardInterrupt
        After what is finished has been merged into an unfinished results file, or left as shards beside a finished file
        that it would replace; the same call completes it.

    Notes
    -----
    The workers are spawned, so a script calls it under ``if __name__ == "__main__":``.
    """
    path = Path(os.path.realpath(path))  # the file that a link leads to, not the link
    with lock(path):
        if shards.claim(path, sweep.to_json(), overwrite):
            return False
        _run_and_merge(_Run(sweep, path, progress), command, n_workers, executor)
        return True


def _run_and_merge(run: "_Run", command: str, n_workers: int, executor: Executor | None) -> None:
    """Run what has no shard, and merge; a Ctrl-C merges what there is, and leaves no merge half done."""
    sweep, path, parts = run.sweep, run.path, run.parts
    specs = sweep.specs()
    try:
        if executor is None:
            run.here(n_workers)
        else:
            run.on(executor, FAR_UNITS * n_workers, far=True)
        _merge(sweep, path, command)
    except KeyboardInterrupt:
        there = shards.present(parts) if parts.is_dir() else set()
        # A part of the grid never takes the place of a finished file; its shards wait for the same command.
        if len(there) == len(specs) or (there and shards.may_hold_a_part(path, sweep.to_json())):
            _merge(sweep, path, command)
        raise


class _Run:
    """The trajectories of a sweep that have no shard yet, and what runs them."""

    def __init__(self, sweep: Sweep, path: Path, progress: Progress | None) -> None:
        self.sweep, self.path, self.parts, self.progress = sweep, path, store.parts_of(path), progress
        self.done = set(shards.finished(self.parts, [spec.id for spec in sweep.specs()]))
        self.share = costs(sweep, [spec for spec in sweep.specs() if spec.id not in self.done])

    def here(self, n_workers: int) -> None:
        """Run on processes here; go on with one fewer whenever one is lost."""
        while todo := self._todo():
            n_workers = min(n_workers, len(todo))
            try:
                with process_pool(n_workers) as pool:
                    self.on(pool, n_workers, far=False)
            except (BrokenProcessPool, MemoryError) as lost:
                n_workers -= 1
                if n_workers == 0:
                    raise
                reason = str(lost) or "a worker process ran out of memory"
                left = f"{n_workers} worker{'s' if n_workers > 1 else ''}"
                warnings.warn(f"{reason}; the run goes on with {left}", RuntimeWarning, stacklevel=2)

    def on(self, pool: Executor, n_units: int, far: bool) -> None:
        """Run on `pool`, whose workers write the shards themselves or, `far` away, send them back."""
        work = units(self.sweep, self._todo(), n_units)
        pending = {pool.submit(run_unit, self.sweep, unit, None if far else str(self.parts)) for unit in work}
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.25)
                for future in finished:
                    for name, image in future.result():
                        shards.keep_shard(self.parts, name, image)
                self._report()
        finally:
            for future in pending if far else ():  # a pool here ends its own
                future.cancel()

    def _todo(self) -> list[Spec]:
        """Return the trajectories without a shard."""
        there = shards.present(self.parts)
        return [spec for spec in self.share if spec.id not in there]

    def _report(self) -> None:
        """Tell how much is done, of everything and of this run's work."""
        if self.progress is not None:
            there = shards.present(self.parts)
            fresh = [spec for spec in self.share if spec.id in there]
            self.progress(
                len(self.done) + len(fresh), sum(self.share[spec] for spec in fresh) / sum(self.share.values())
            )


def _merge(sweep: Sweep, path: Path, command: str) -> None:
    """Merge the shards there are, in the order of the grid."""
    by_id = {spec.id: spec for spec in sweep.specs()}
    names = shards.finished(store.parts_of(path), list(by_id))

    def rows(group: h5py.Group) -> list[tuple]:
        name = group.name.rsplit("/", 1)[-1]
        series = [
            "iteration",
            *(f"{kind}/{m}" for kind in ("variance", "normalized_variance") for m in sweep.methods),
        ]
        arrays = {path: group[path][()] for path in series}
        return summary_rows(by_id[name], int(group.attrs["n_train"]), arrays, sweep.methods)

    attrs = {
        "gcref_version": gcref.__version__,
        "command": command,
        "config": sweep.to_json(),
        "complete": len(names) == len(by_id),
    }
    shards.merge(path, names, attrs, rows)


def config_of(path: Path | str) -> Sweep:
    """Read the configuration of a results file.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read or its configuration is not that of a sweep.
    """
    text = store.read_attrs(path).get("config", "")
    try:
        return Sweep.from_json(text)
    except ValueError as error:
        raise store.StoreError(f"{path}: {error}") from None
