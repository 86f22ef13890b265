"""Kill runs and finish them: ``python -m gcref.validation.kills``, with ``--kills 200`` two hundred times.

A small sweep and a small image model are run once undisturbed, by the real command line. Then the same command is
struck at a random moment and given again: SIGKILL to the parent, or to one of a sweep's workers; SIGTERM; Ctrl-C
(SIGINT to the whole process group). Each time no worker survives, nothing half written has a final name, what was
finished is not computed again, and the finished file holds the same bytes in every data set as the undisturbed one.
Last, of a sweep, one worker against two. POSIX only.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from gcref import store
from gcref.studies.image import CHECKPOINT

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
COMMANDS = {
    ("rf-sweep", False): SWEEP, ("rf-sweep", True): SMALL_SWEEP, ("image", False): IMAGE, ("image", True): SMALL_IMAGE,
}  # fmt: skip
IGNORED = {"seconds", "command"}
GONE_WITHIN = 2.0  # seconds
EARLIER = 0.7  # of the moment, for a run that had ended by then


@dataclass
class Outcome:
    """One line of the table: what was done, what was seen, and what was wrong with it."""

    what: str
    seen: str = ""
    faults: list[str] = field(default_factory=list)
    lost: int = 0  # trajectories (of an image run: measuring points) that were finished, and computed again
    wrong: int = 0  # data sets and attributes that differ from the undisturbed run's
    unreadable: int = 0  # files under their final names that are not whole


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


def alive(group: int) -> dict[int, str]:
    """Return the processes of a process group that have not ended: their commands, by their ids."""
    columns = "pid=,pgid=,stat=,args="
    listing = subprocess.run(["ps", "-A", "-ww", "-o", columns], capture_output=True, text=True, check=True)
    rows = [line.split(None, 3) for line in listing.stdout.splitlines()]
    return {int(pid): args[0] for pid, pgid, state, *args in rows if int(pgid) == group and not state.startswith("Z")}


def _survivors(group: int) -> tuple[dict[int, str], float]:
    """Wait for the workers' end; return those that are still there after a while, and the seconds it took."""
    begin = time.monotonic()
    while (left := alive(group)) and time.monotonic() - begin < GONE_WITHIN:
        time.sleep(0.02)
    return left, time.monotonic() - begin


def half_files(folder: Path) -> list[str]:
    """Return files under their final names that are not whole."""
    shards = store.parts_of(folder / "results.h5").glob("*.h5")
    bad = [path.name for path in shards if not _is_whole_shard(path)]
    return bad + [path.name for path in folder.glob("*.h5") if not _is_whole(path)]


def _is_whole_shard(path: Path) -> bool:
    """Whether a shard is what was written: HDF5 with a group of its name, then the SHA-256 of name and bytes."""
    data = path.read_bytes()
    try:
        with h5py.File(path, "r") as file:
            return path.stem in file and hashlib.sha256(f"{path.stem}|".encode() + data[:-32]).digest() == data[-32:]
    except OSError:
        return False


def _is_whole(path: Path) -> bool:
    """Whether a results file holds the numbers that its digests vouch for."""
    try:
        with h5py.File(path, "r") as file:
            groups = file["trajectories"].values()
            whole = all(group.attrs["digest"] == store.digest(group) for group in groups)
            return whole and file.attrs["digest"] == store.root_digest(file)
    except Exception:  # damaged bytes can make HDF5 raise anything
        return False


# -------------------------------------------------------------------------------------------- what is finished


def kept(folder: Path, study: str) -> dict[str, float]:
    """Return what is finished, in the results file or as shards, while a run is on or after it.

    Of a sweep, its trajectories with the seconds that each took; of an image run, the iteration measured last.
    """
    results, out = folder / "results.h5", dict[str, float]()
    paths = [results]
    with suppress(FileNotFoundError):  # merged in between
        paths += store.parts_of(results).glob("*.h5")
    for path in paths:
        with suppress(OSError, KeyError, IndexError), h5py.File(path, "r") as file:
            groups = file["trajectories"] if path == results else file
            if study == "rf-sweep":
                out |= {name: float(group.attrs["seconds"]) for name, group in groups.items()}
            elif path == results:
                out["iteration"] = float(next(iter(groups.values()))["iteration"][-1])
            elif CHECKPOINT in groups:
                out["iteration"] = float(groups[CHECKPOINT]["iteration"][()])
    return out


def computed_again(log: str, iteration: float) -> int:
    """Return 1 if an image run, as its log tells, went on from before its last measurement; else 0."""
    first = re.search(r"^(\d+) of \d+ iterations", log, re.MULTILINE)
    return int(first is not None and int(first[1]) <= iteration)


# ----------------------------------------------------------------------------------------------- the rounds


class Blow(NamedTuple):
    """What is done to a run: whom it strikes, and how the run should then end."""

    name: str
    strike: Callable[[int], None]
    codes: tuple[int, ...]
    after_a_shard: bool = False  # so that there is something to be put together


def _kill_a_worker(group: int) -> None:
    """Kill the worker that was started last; wait for the first, if need be."""
    while group in (there := alive(group)):
        workers = [pid for pid, args in there.items() if "spawn_main" in args]
        if workers:
            with suppress(ProcessLookupError):
                os.kill(max(workers), signal.SIGKILL)
            return


PARENT = Blow("SIGKILL", lambda pid: os.kill(pid, signal.SIGKILL), (-signal.SIGKILL,))
WORKER = Blow("SIGKILL to a worker", _kill_a_worker, (0, 1))
END = Blow("SIGTERM", lambda pid: os.kill(pid, signal.SIGTERM), (143,))
CTRL_C = Blow("Ctrl-C", lambda pid: os.killpg(pid, signal.SIGINT), (130,), after_a_shard=True)


def disturbed(folder: Path, reference: Path, command: Sequence[str], moment: float, blow: Blow) -> Outcome:
    """Strike after `moment` seconds, look around, finish, compare."""
    process = start(folder, command, workers=2)
    time.sleep(moment)
    while blow.after_a_shard and process.poll() is None and not _shards(folder):
        time.sleep(0.02)
    ended_before = process.poll() is not None
    before, children = kept(folder, command[0]), max(len(alive(process.pid)) - 1, 0)
    if not ended_before:
        blow.strike(process.pid)
    code = process.wait(timeout=120)
    if code == 0 and (ended_before or blow is not WORKER):  # it was quicker than the undisturbed one
        shutil.rmtree(folder)
        return disturbed(folder, reference, command, EARLIER * moment, blow)
    out = Outcome(f"{blow.name} at {moment:.2f} s")
    left, seconds = _survivors(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    out.faults += _wrong_end(folder, blow, code)
    out.faults += [f"{len(left)} children outlived it"] if left else []
    bad = half_files(folder)
    out.faults += [f"half written: {name}" for name in bad]
    out.unreadable = len(bad)
    after = kept(folder, command[0])
    _count_lost(out, sum(after.get(name, -1.0) < number for name, number in before.items()))
    found = f"iteration {after.get('iteration', -1):.0f}" if command[0] == "image" else f"{len(after)} trajectories"
    out.seen = f"{found} kept, {children} children gone in {seconds:.2f} s"
    return _finish_and_compare(out, folder, reference, command, after=after)


def _shards(folder: Path) -> int:
    """Return how many shards lie beside the results file."""
    return len(list(store.parts_of(folder / "results.h5").glob("*.h5")))


def _wrong_end(folder: Path, blow: Blow, code: int) -> list[str]:
    """Say what is wrong with how a run ended that was struck."""
    log = (folder / "log.txt").read_text().strip()
    made = {path.name for path in folder.iterdir()} - {"log.txt"}
    if code == -signal.SIGTERM and blow is END and made <= {"results.h5"}:  # Python itself was starting, or ending
        return []
    faults = [] if code in blow.codes else [f"exit code {code} instead of {' or '.join(map(str, blow.codes))}"]
    if faults and log:
        faults.append(log.splitlines()[-1])
    return faults + (["a traceback"] if "Traceback" in log else [])


def _count_lost(out: Outcome, lost: int) -> None:
    """Count what was finished and is no longer there."""
    out.lost += lost
    out.faults += [f"{lost} finished ones lost"] if lost else []


def _finish_and_compare(
    out: Outcome,
    folder: Path,
    reference: Path,
    command: Sequence[str],
    workers: int = 2,
    after: dict[str, float] | None = None,
) -> Outcome:
    """Give the same command (again), and hold the file against the undisturbed one and what was `kept` before."""
    log = folder / "log.txt"
    told = len(log.read_text()) if log.exists() else 0
    code, seconds = finish(folder, command, workers)
    out.seen += f"{'; ' if out.seen else ''}finished in {seconds:.1f} s"
    if code:
        out.faults.append(f"finishing it: exit code {code}")
        return out
    found = differences(reference, folder / "results.h5")
    out.wrong = len(found)
    out.faults += [f"{len(found)} differences, first {found[0]}"] if found else []
    if command[0] == "image":
        _count_lost(out, computed_again(log.read_text()[told:], (after or {}).get("iteration", -1)))
    else:
        now = kept(folder, command[0])
        _count_lost(out, sum(now.get(name) != seconds for name, seconds in (after or {}).items()))
    beside = sorted(p.name for p in folder.iterdir() if p.name not in {"results.h5", "log.txt"})
    out.faults += [f"left beside it: {', '.join(beside)}"] if beside else []
    return out


def run(folder: Path, command: Sequence[str], n_kills: int, n_stops: int, seed: int) -> Iterator[Outcome]:
    """Run everything in `folder`; yield a line for each round."""
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    code, duration = finish(folder / "undisturbed", command, workers=2)
    reference = folder / "undisturbed" / "results.h5"
    out = Outcome("undisturbed", f"{duration:.1f} s", [f"exit code {code}"] if code else [])
    if code:
        yield out
        return
    bytes_before = reference.read_bytes()
    out.faults += ["again: exit code not 0"] if finish(folder / "undisturbed", command, workers=2)[0] else []
    out.faults += ["again: the file changed"] if reference.read_bytes() != bytes_before else []
    yield out
    kinds = (PARENT, WORKER, END) if command[0] == "rf-sweep" else (PARENT, END)
    for i in range(n_kills):
        blow, moment = rng.choice(kinds), duration * rng.uniform(0.1, 0.95)
        yield disturbed(folder / f"kill{i}", reference, command, moment, blow)
    for i in range(n_stops):
        yield disturbed(folder / f"stop{i}", reference, command, duration * rng.uniform(0.1, 0.85), CTRL_C)
    if command[0] == "rf-sweep":
        yield _finish_and_compare(Outcome("1 worker"), folder / "alone", reference, command, workers=1)


def tally(outcomes: Sequence[Outcome]) -> str:
    """Say in a line how often runs were struck, and what that did to their files."""
    struck = [outcome for outcome in outcomes if " at " in outcome.what]
    kinds = Counter(outcome.what.split(" at ")[0] for outcome in struck)
    names = ", ".join(f"{count} × {name}" for name, count in sorted(kinds.items()))
    lost, wrong, unreadable = (sum(getattr(o, name) for o in outcomes) for name in ("lost", "wrong", "unreadable"))
    return (
        f"{len(struck)} times struck ({names}): trajectories lost beyond those in work {lost}, wrong numbers {wrong}, "
        f"unreadable files {unreadable}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code, 0 if every round passed."""
    parser = argparse.ArgumentParser(prog="python -m gcref.validation.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10, help="rounds with SIGKILL or SIGTERM (default 10)")
    parser.add_argument("--stops", type=int, default=4, help="rounds with Ctrl-C (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--study", choices=["rf-sweep", "image", "both"], default="both", help="half each, if both")
    parser.add_argument("--small", action="store_true", help="smaller ones")
    options = parser.parse_args(argv)
    print(f"seed of the moments: {options.seed}")
    studies = ["rf-sweep", "image"] if options.study == "both" else [options.study]
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for i, study in enumerate(studies):
            kills, stops = (len(range(i, n, len(studies))) for n in (options.kills, options.stops))
            for outcome in run(Path(folder) / study, COMMANDS[study, options.small], kills, stops, options.seed + i):
                outcomes.append(outcome)
                verdict = f"FAIL: {'; '.join(outcome.faults)}" if outcome.faults else "PASS"
                print(f"{study:<9} {outcome.what:<30} {outcome.seen:<70} {verdict}", flush=True)
    failed = sum(bool(outcome.faults) for outcome in outcomes)
    print(tally(outcomes))
    print(f"{'FAIL' if failed else 'PASS'}: {len(outcomes) - failed} of {len(outcomes)} rounds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
