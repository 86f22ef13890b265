"""Kill runs and finish them: ``python -m gcref.validation.kills``, or with ``--image`` those of an image model.

A small sweep, or a small image model, is run once undisturbed, by the real command line. Then the same command is
killed (SIGKILL to the parent) or stopped (Ctrl-C: SIGINT to the whole process group) at random moments, and given
again. Each time no worker survives, nothing half written has a final name, and the finished file holds the same bytes
in every data set as the undisturbed one. Last, of a sweep, one worker against two. POSIX only.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gcref import store

SWEEP = (
    "rf-sweep", "--input-dim=50", "--teacher-hidden=20,1100", "--ratio=0.5,1,2,5", "--learning-rate=0.01,0.1",
    "--seed=0,1", "--iterations=1500",
)  # fmt: skip
SMALL_SWEEP = (
    "rf-sweep", "--input-dim=10", "--teacher-hidden=20", "--ratio=1,2", "--seed=0,1", "--iterations=1000"
)  # fmt: skip
DIGITS = (
    "image", "--dataset=digits", "--n-examples=300", "--n-test-examples=50", "--batch-size=10", "--momentum=0.9",
    "--corrupt-fraction=0.1", "--duplicate-fraction=0.2", "--measure-every=20", "--refresh-every=100",
    "--gc-iterations=2",
)  # fmt: skip
IMAGE = (*DIGITS, "--model=cnn", "--norm=batch", "--width=4", "--iterations=600")
SMALL_IMAGE = (*DIGITS, "--model=mlp", "--hidden=16", "--iterations=600")
IGNORED = {"seconds", "command"}
GONE_WITHIN = 2.0  # seconds
EARLIER = 0.7  # of the moment, for a run that had ended by then


@dataclass
class Outcome:
    """One line of the table: what was done, what was seen, and what was wrong with it."""

    what: str
    seen: str = ""
    faults: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------- the comparison


def differences(first: Path, second: Path) -> list[str]:
    """Return where two results files differ: type, shape and bytes of every data set, and every attribute.

    Attributes named in `IGNORED`, the seconds a trajectory took and the command, may differ.
    """
    with h5py.File(first, "r") as a, h5py.File(second, "r") as b:
        contents = [_contents(file) for file in (a, b)]
    names = sorted(contents[0].keys() | contents[1].keys())
    return [name for name in names if contents[0].get(name) != contents[1].get(name)]


def _contents(file: h5py.File) -> dict[str, Any]:
    """Return every data set's type, shape and bytes, and every attribute's type and bytes, by name."""
    out: dict[str, Any] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        out[name] = "group"
        if isinstance(item, h5py.Dataset):
            array = item[()]
            out[name] = (array.dtype.descr, array.shape, array.tobytes())
        for key, value in item.attrs.items():
            if key not in IGNORED:
                out[f"{name}@{key}"] = (type(value).__name__, np.asarray(value).tobytes())

    visit("/", file)
    file.visititems(visit)
    return out


# -------------------------------------------------------------------------------------------- the processes


def start(folder: Path, command: Sequence[str], workers: int) -> subprocess.Popen:
    """Start the command that writes ``folder/results.h5``, in a process group of its own."""
    whole = [sys.executable, "-m", "gcref.cli", *command, "--out", "results.h5"]
    if command[0] == "rf-sweep":
        whole += [f"--workers={workers}"]
    folder.mkdir(exist_ok=True)
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(whole, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def finish(folder: Path, command: Sequence[str], workers: int) -> tuple[int, float]:
    """Run the command to its end; return exit code and seconds."""
    begin = time.monotonic()
    return start(folder, command, workers).wait(timeout=600), time.monotonic() - begin


def alive(group: int) -> list[int]:
    """Return the processes of a process group that have not ended, by their ids."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


def _survivors(group: int) -> tuple[list[int], float]:
    """Wait for the workers' end; return those that are still there after a while, and the seconds it took."""
    begin = time.monotonic()
    while (left := alive(group)) and time.monotonic() - begin < GONE_WITHIN:
        time.sleep(0.02)
    return left, time.monotonic() - begin


def half_files(folder: Path) -> list[str]:
    """Return files under their final names that are not whole."""
    bad = []
    results = folder / "results.h5"
    for path in [*store.parts_of(results).glob("*.h5"), *folder.glob("*.h5")]:
        try:
            with h5py.File(path, "r") as file:
                groups = file["trajectories"].values() if path == results else [file[path.stem]]
                whole = all(group.attrs["digest"] == store.digest(group) for group in groups)
                whole &= path != results or file.attrs["digest"] == store.root_digest(file)
        except Exception:  # as in the store: damaged bytes can make HDF5 raise anything
            whole = False
        if not whole:
            bad.append(path.name)
    return bad


# ----------------------------------------------------------------------------------------------- the rounds


def killed(folder: Path, reference: Path, command: Sequence[str], moment: float) -> Outcome:
    """Kill the parent after `moment` seconds, look around, finish, compare."""
    process = start(folder, command, workers=2)
    time.sleep(moment)
    workers = len(alive(process.pid)) - 1
    process.kill()
    code = process.wait()
    if code == 0:  # it was quicker than the undisturbed one
        shutil.rmtree(folder)
        return killed(folder, reference, command, EARLIER * moment)
    left, seconds = _survivors(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    out = Outcome(f"SIGKILL at {moment:.2f} s")
    shards = len(list(store.parts_of(folder / "results.h5").glob("*.h5")))
    out.seen = f"{shards} shards kept, {max(workers, 0)} children gone in {seconds:.2f} s"
    out.faults += [f"had ended before, exit code {code}"] if code != -signal.SIGKILL else []
    out.faults += [f"{len(left)} children outlived it"] if left else []
    out.faults += [f"half written: {name}" for name in half_files(folder)]
    return _finish_and_compare(out, folder, reference, command)


def stopped(folder: Path, reference: Path, command: Sequence[str], moment: float) -> Outcome:
    """Press Ctrl-C after `moment` seconds, and not before the first shard, look around, finish, compare."""
    process = start(folder, command, workers=2)
    time.sleep(moment)
    while process.poll() is None and not any(store.parts_of(folder / "results.h5").glob("*.h5")):
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    code = process.wait(timeout=60)
    if code == 0:  # it was quicker than the undisturbed one
        shutil.rmtree(folder)
        return stopped(folder, reference, command, EARLIER * moment)
    left, _ = _survivors(process.pid)
    out = Outcome(f"Ctrl-C at {moment:.2f} s")
    out.faults += [f"exit code {code} instead of 130"] if code != 130 else []
    out.faults += [f"{len(left)} children outlived it"] if left else []
    out.faults += [f"half written: {name}" for name in half_files(folder)]
    out.faults += ["a traceback"] if "Traceback" in (folder / "log.txt").read_text() else []
    try:
        rows = store.read_summary(folder / "results.h5")
        out.seen = f"results.h5 readable, {len(np.unique(rows['trajectory']))} trajectories"
    except store.StoreError as error:
        out.faults.append(str(error))
    return _finish_and_compare(out, folder, reference, command)


def _finish_and_compare(
    out: Outcome, folder: Path, reference: Path, command: Sequence[str], workers: int = 2
) -> Outcome:
    """Give the same command (again), and hold the file against the undisturbed one."""
    code, seconds = finish(folder, command, workers)
    out.seen += f"{'; ' if out.seen else ''}finished in {seconds:.1f} s"
    if code:
        out.faults.append(f"finishing it: exit code {code}")
        return out
    found = differences(reference, folder / "results.h5")
    out.faults += [f"{len(found)} differences, first {found[0]}"] if found else []
    beside = sorted(p.name for p in folder.iterdir() if p.name not in {"results.h5", "log.txt"})
    out.faults += [f"left beside it: {', '.join(beside)}"] if beside else []
    return out


def run(folder: Path, command: Sequence[str], n_kills: int, n_stops: int, seed: int) -> list[Outcome]:
    """Run everything in `folder`; return a line for each round."""
    rng = random.Random(seed)
    code, duration = finish(folder / "undisturbed", command, workers=2)
    reference = folder / "undisturbed" / "results.h5"
    out = Outcome("undisturbed", f"{duration:.1f} s", [f"exit code {code}"] if code else [])
    if code:
        return [out]
    bytes_before = reference.read_bytes()
    out.faults += ["again: exit code not 0"] if finish(folder / "undisturbed", command, workers=2)[0] else []
    out.faults += ["again: the file changed"] if reference.read_bytes() != bytes_before else []
    outcomes = [out]
    for i in range(n_kills):
        outcomes.append(killed(folder / f"kill{i}", reference, command, duration * rng.uniform(0.15, 0.9)))
    for i in range(n_stops):
        outcomes.append(stopped(folder / f"stop{i}", reference, command, duration * rng.uniform(0.45, 0.85)))
    if command[0] == "rf-sweep":
        outcomes.append(_finish_and_compare(Outcome("1 worker"), folder / "alone", reference, command, workers=1))
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code, 0 if every round passed."""
    parser = argparse.ArgumentParser(prog="python -m gcref.validation.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=5, help="rounds with SIGKILL (default 5)")
    parser.add_argument("--stops", type=int, default=2, help="rounds with Ctrl-C (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--image", action="store_true", help="an image model instead of a sweep")
    parser.add_argument("--small", action="store_true", help="a smaller one")
    options = parser.parse_args(argv)
    print(f"seed of the moments: {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        whole, small = (IMAGE, SMALL_IMAGE) if options.image else (SWEEP, SMALL_SWEEP)
        outcomes = run(Path(folder), small if options.small else whole, options.kills, options.stops, options.seed)
    for outcome in outcomes:
        verdict = f"FAIL: {'; '.join(outcome.faults)}" if outcome.faults else "PASS"
        print(f"{outcome.what:<24} {outcome.seen:<70} {verdict}")
    failed = sum(bool(outcome.faults) for outcome in outcomes)
    print(f"{'FAIL' if failed else 'PASS'}: {len(outcomes) - failed} of {len(outcomes)} rounds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
