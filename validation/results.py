"""Recompute every number of a results file of the random-features study from scratch.

Features and labels are generated again by the study's own code and the file is read by the store's; everything else,
from the logits to the clusterings, is plain NumPy in `gcref.validation` that shares nothing with the code that
measured. ``gcref validate`` prints the table.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py

from gcref import store
from gcref.executor import process_pool
from gcref.studies.grid import Spec, Sweep
from gcref.studies.random_features import datasets
from gcref.studies.sweep import config_of
from gcref.validation import report
from gcref.validation.recompute import Found, Recomputation
from gcref.validation.structure import READ_ERRORS, Trajectory, inspect_file, read_trajectory
from gcref.validation.tally import Check

Progress = Callable[[int, float], None]

CHEAP_INPUTS = 1000  # dimensions


def sample(specs: Sequence[Spec]) -> set[Spec]:
    """Choose one trajectory of each seed, input, size and share of duplicates, in turn over rates and teachers."""
    groups: dict[tuple[float, ...], list[Spec]] = {}
    for spec in specs:
        key = (spec.seed, spec.input_dim, spec.overparametrization, spec.duplicate_fraction)
        groups.setdefault(key, []).append(spec)
    return {group[place % len(group)] for place, group in enumerate(groups.values())}


def split(specs: Sequence[Spec]) -> list[list[Spec]]:
    """Split the work by (seed, input_dim), what is long first; inputs cheap to draw again also by learning rate."""
    groups: dict[tuple[float, ...], list[Spec]] = {}
    for spec in specs:
        cheap = spec.input_dim <= CHEAP_INPUTS
        key = (spec.input_dim, spec.seed, spec.learning_rate if cheap else 0.0)
        groups.setdefault(key, []).append(spec)
    return [groups[key] for key in sorted(groups, reverse=True)]


def check_unit(path: str, sweep: Sweep, specs: Sequence[Spec], sampled: set[Spec], done: str | None = None) -> Found:
    """Check trajectories of one (seed, input_dim), adding a line to the file `done` after each."""
    found = Found.nothing(sweep.methods)
    failed = found.checks["recomputation"]
    try:
        for spec, features, targets in datasets(sweep, specs):
            try:
                trajectory = _load(path, sweep, spec)
                Recomputation(sweep, trajectory, features, targets, found).run(spec in sampled)
            except (*READ_ERRORS, ArithmeticError, IndexError) as error:
                failed.fail(spec.id, None, "trajectory", f"{type(error).__name__}: {error}", "recomputable")
            failed.n += 1
            if done is not None:
                with open(done, "a", encoding="utf-8") as lines:
                    lines.write(f"{spec.id}\n")
    except (MemoryError, ValueError) as error:
        failed.fail(specs[0].id, None, "data", f"{type(error).__name__}: {error}", "what can be generated")
    return found


def _load(path: str, sweep: Sweep, spec: Spec) -> Trajectory:
    """Read one trajectory that `inspect_file` has found whole."""
    with h5py.File(path, "r") as file:
        trajectory = read_trajectory(file["trajectories"][spec.id], sweep, spec, Check("", ""))
    if trajectory is None:
        raise ValueError("the file changed while it was checked")
    return trajectory


def validate(path: Path | str, n_workers: int = 0, progress: Progress | None = None) -> list[Check]:
    """Check a results file of the random-features study and recompute its numbers.

    Parameters
    ----------
    path : path
    n_workers : int
        Processes, one thread each; 0 does the work in this process.
    progress : callable, optional
        Called now and then with the number of trajectories that are done and the share of the work.

    Returns
    -------
    list of Check
        The file holds what it should if every one of them ``passed``.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read as a results file of such a study.
    """
    try:
        sweep = config_of(path)
        specs, checks = _inspect(path, sweep, n_workers)
    except store.StoreError:
        raise
    except READ_ERRORS as error:
        raise store.StoreError(f"{path} cannot be read: {error}") from None
    found = _run(str(path), sweep, specs, n_workers, progress)
    merged = Found.nothing(sweep.methods)
    for part in found:
        merged.merge(part)
    for method, row in (("gc", "labels"), ("exchange", "exchange: labels")):
        if row in merged.checks:
            merged.checks[row].note = report.undecided([ratio for name, ratio in merged.undecided if name == method])
    merged.checks["replay: numbers"].note = report.unknown(merged.unknown)
    findings = [report.optimum_gap(merged.gaps), *report.objectives(sweep.methods, merged.beside)]
    return [*checks, *merged.checks.values(), *report.monte_carlo(merged.drawn), *findings]


def _inspect(path: Path | str, sweep: Sweep, n_workers: int) -> tuple[list[Spec], list[Check]]:
    """Look at the file in a process of its own if there are any, as damage can bring HDF5 itself down."""
    if n_workers == 0:
        return inspect_file(path, sweep)
    try:
        with process_pool(1) as pool:
            return pool.submit(inspect_file, path, sweep).result()
    except BrokenProcessPool:
        raise store.StoreError(f"{path} is damaged: HDF5 broke down while reading it") from None


def _run(path: str, sweep: Sweep, specs: list[Spec], n_workers: int, progress: Progress | None) -> list[Found]:
    """Check all units here or on a pool, and report how far it is."""
    work, sampled = split(specs), sample(specs)
    if n_workers == 0 or not work:
        return [check_unit(path, sweep, unit, sampled) for unit in work]
    with TemporaryDirectory() as folder, process_pool(min(n_workers, len(work))) as pool:
        lines = [str(Path(folder) / str(place)) for place in range(len(work))]
        futures = [
            pool.submit(check_unit, path, sweep, unit, sampled & set(unit), line)
            for unit, line in zip(work, lines, strict=True)
        ]
        _watch(futures, lines, specs, progress)
        return [future.result() for future in futures]


def _watch(futures: Sequence[Future[Found]], lines: list[str], specs: list[Spec], progress: Progress | None) -> None:
    """Report progress until all futures are done; an exception in one ends the waiting."""
    # Seconds a trajectory, for small N the SGD steps, for large N the gradients.
    cost = {spec.id: 0.3 + 2e-4 * 1000 / spec.overparametrization for spec in specs}
    total = sum(cost.values())
    pending: set[Future[Found]] = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=0.5)
        for future in finished:
            future.result()
        if progress is not None:
            done = [name for line in lines if Path(line).exists() for name in Path(line).read_text().split()]
            progress(len(done), sum(cost.get(name, 0.0) for name in done) / total)
