"""Run the random-features grid on a pool of workers, resumable at every trajectory."""

import os
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import h5py

import gcref
from gcref import shards, store
from gcref.executor import process_pool
from gcref.studies.grid import Spec, Sweep
from gcref.studies.random_features import costs, run_unit, summary_rows, units

Progress = Callable[[int, float], None]


def run_sweep(
    sweep: Sweep,
    path: Path,
    n_workers: int,
    command: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Run what is missing of `sweep` and write the results file.

    Parameters
    ----------
    sweep : Sweep
    path : Path
        The results file (see `gcref.store`).
    n_workers : int
        Processes, one thread each. The numbers do not depend on it.
    command : str
        Recorded in the file.
    overwrite : bool
        Replace a file of another configuration.
    progress : callable, optional
        Called every quarter of a second with the number of finished trajectories and the share of this call's
        work that is done.

    Returns
    -------
    bool
        False if the file was there, finished, and nothing was done.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be written or belongs to something else (see `gcref.shards.claim`).
    KeyboardInterrupt
        After what is finished has been merged into an unfinished results file, or left as shards beside a finished file
        that it would replace; the same call completes it.

    Notes
    -----
    The workers are spawned, so a script calls it under ``if __name__ == "__main__":``.
    """
    path = Path(os.path.realpath(path))  # the file that a link leads to, not the link
    with shards.lock(path):
        if shards.claim(path, sweep.to_json(), overwrite):
            return False
        _run_and_merge(sweep, path, n_workers, command, progress)
        return True


def _run_and_merge(sweep: Sweep, path: Path, n_workers: int, command: str, progress: Progress | None) -> None:
    """Run what has no shard, and merge; a Ctrl-C merges what there is, and leaves no merge half done."""
    specs, parts = sweep.specs(), store.parts_of(path)
    done = set(shards.finished(parts, [spec.id for spec in specs]))
    todo = [spec for spec in specs if spec.id not in done]
    try:
        _run(sweep, todo, path, n_workers, len(done), progress)
        _merge(sweep, path, command)
    except KeyboardInterrupt:
        there = shards.present(parts) if parts.is_dir() else set()
        # A part of the grid never takes the place of a finished file; its shards wait for the same command.
        if len(there) == len(specs) or (there and shards.may_hold_a_part(path, sweep.to_json())):
            _merge(sweep, path, command)
        raise


def _run(sweep: Sweep, todo: list[Spec], path: Path, n_workers: int, n_done: int, progress: Progress | None) -> None:
    """Run the trajectories `todo` on a pool and report how far it is."""
    work = units(sweep, todo)
    if not work:
        return
    parts = store.parts_of(path)
    share = costs(sweep, todo)
    total = sum(share.values())
    with process_pool(min(n_workers, len(work))) as pool:
        futures = [pool.submit(run_unit, sweep, unit, str(parts)) for unit in work]
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.25)
            for future in finished:
                future.result()
            if progress is not None:
                ready = shards.present(parts)
                fresh = [spec for spec in todo if spec.id in ready]
                progress(n_done + len(fresh), sum(share[spec] for spec in fresh) / total)


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
