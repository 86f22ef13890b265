"""Try every reader on bad files: ``python -m gcref.validation.fuzz``, with ``--reader`` one of them.

Good files of each format are made, then each is changed in hundreds of ways (`gcref.validation.mutations`), the same
ones for a seed, and read in processes of their own. A reader may read what it can (as it was, or with other numbers)
or raise the error that it documents, in one line. Anything else is a fault: another exception, a crash, no end, more
than 1 GB of memory, anything written or changed outside the folder of the file.
"""

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gcref.validation.fuzz_readers import READERS
from gcref.validation.mutations import mutate

if sys.platform != "win32":
    import resource

FINE = ("as it was", "other numbers", "refused")
FAULTS = ("exception", "crash", "hang", "memory", "outside")
MOST_MEMORY = 10**9  # bytes, of a process
SECONDS = 120.0  # without an answer, on a machine that may be busy
COMMAND = [sys.executable, "-m", "gcref.validation.fuzz"]
CONTENT = b"nobody's business"  # of the file beside


@dataclass
class Tally:
    """One line of the table."""

    reader: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    megabytes: int = 0
    seconds: float = 0.0

    def add(self, case: int, outcome: str, detail: str = "") -> None:
        """Count a file."""
        self.counts[outcome] += 1
        if outcome not in FINE:
            self.faults.append(f"{self.reader}, file {case}: {outcome}: {detail}")


# ------------------------------------------------------------------------------------------------ in a child process


def read_all(reader: str, seed: int, cases: Sequence[int], folder: Path) -> Iterator[tuple[int, str, str, int]]:
    """Make each bad file and read it; yield its number, the outcome, the reason and the peak of the memory in MB."""
    make, read, errors = READERS[reader]
    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir()
        make(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    case_folder = folder / "case"
    expected = _fresh(read, whole, case_folder)
    for case in cases:
        shutil.rmtree(case_folder, ignore_errors=True)
        shutil.copytree(whole, case_folder)
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(reader.encode()), case)))
        mutate(case_folder / files[int(rng.integers(len(files)))], rng)
        try:
            outcome, detail = ("as it was" if read(case_folder) == expected else "other numbers"), ""
        except errors as error:
            one_line = "\n" not in str(error).strip() and bool(str(error))
            outcome, detail = ("refused" if one_line else "exception"), repr(str(error))[:300]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome, detail = "exception", f"{type(error).__name__}: {error!s:.200} ({where.filename}:{where.lineno})"
        yield case, outcome, detail, _peak()


def _fresh(read: Callable[[Path], str], whole: Path, case_folder: Path) -> str:
    """Read a copy of the good files."""
    shutil.rmtree(case_folder, ignore_errors=True)
    shutil.copytree(whole, case_folder)
    return read(case_folder)


def _peak() -> int:
    """Return the most memory that this process has had, in MB."""
    if sys.platform == "win32":
        return 0
    if sys.platform == "linux":  # ru_maxrss would count what the parent had when it made this process
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) * 1024 // 10**6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) // 10**6


def child(arguments: Sequence[str]) -> None:
    """Print a line of JSON a file; the arguments are the reader, the seed, the first and the last file, the folder."""
    seed, first, last = map(int, arguments[1:4])
    if sys.platform == "linux":  # the machine must outlive a fault
        resource.setrlimit(resource.RLIMIT_DATA, (4 * MOST_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    for found in read_all(arguments[0], seed, range(first, last), Path(arguments[4])):
        print(json.dumps(found), flush=True)


# --------------------------------------------------------------------------------------------------- in the parent


def fuzz(reader: str, n_files: int, seed: int, folder: Path, seconds: float = SECONDS) -> Tally:
    """Try a reader on bad files.

    Parameters
    ----------
    reader : str
        One of `READERS`.
    n_files : int
    seed : int
        Of what is done to the files.
    folder : Path
        An empty folder, where all of it happens.
    seconds : float
        How long a file may take.
    """
    begin, tally = time.monotonic(), Tally(reader)
    beside = folder / "outside"
    beside.mkdir()
    (beside / "secret.h5").write_bytes(CONTENT)
    (folder / "cache").mkdir()
    while (done := tally.counts.total()) < n_files:
        _run_child(tally, ["--child", reader, str(seed), str(done), str(n_files), "."], folder, seconds)
    changed = [(path.name, path.read_bytes()) for path in beside.iterdir()] != [("secret.h5", CONTENT)]
    more = sorted({path.name for path in folder.iterdir()} - {"outside", "cache", "case", "whole"})
    if changed or more:
        tally.add(n_files, "outside", f"written or changed: {', '.join(more) or 'outside/secret.h5'}")
    tally.seconds = time.monotonic() - begin
    return tally


def _run_child(tally: Tally, arguments: list[str], folder: Path, seconds: float) -> None:
    """Run a child until it ends, has taken too much, or does not answer any more."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    first = tally.counts.total()
    with (
        open(folder / "cache" / "stderr", "wb") as errors,
        subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors
        ) as child,
    ):
        assert child.stdout is not None
        while True:
            if not select.select([child.stdout], [], [], seconds)[0]:
                child.kill()
                tally.add(tally.counts.total(), "hang", f"no answer for {seconds:g} s")
                return
            line = child.stdout.readline()
            if not line:
                break
            case, outcome, detail, megabytes = json.loads(line)
            tally.megabytes = max(tally.megabytes, megabytes)
            if megabytes > MOST_MEMORY // 10**6:
                child.kill()
                tally.add(case, "memory", f"{megabytes} MB; {outcome} {detail}")
                return
            tally.add(case, outcome, detail)
    if child.returncode:
        said = (folder / "cache" / "stderr").read_text(errors="replace").strip()
        if tally.counts.total() == first and child.returncode > 0:
            raise RuntimeError(f"the process that reads files ended at its start: {said}")
        tally.add(tally.counts.total(), "crash", f"exit code {child.returncode}: {said[-300:]}")


# --------------------------------------------------------------------------------------------------- the command line


def table(tallies: Sequence[Tally]) -> str:
    """Return the table."""
    columns = ["files", *FINE, *FAULTS, "peak MB", "seconds"]
    lines = [f"{'reader':<16}" + "".join(f"{name:>14}" for name in columns)]
    for tally in tallies:
        numbers = [tally.counts.total(), *(tally.counts[name] for name in FINE + FAULTS), tally.megabytes]
        lines.append(f"{tally.reader:<16}" + "".join(f"{n:>14,}" for n in numbers) + f"{tally.seconds:>14.0f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code, 0 if there was no fault."""
    parser = argparse.ArgumentParser(prog="python -m gcref.validation.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--reader", choices=list(READERS), action="append", help="one of the readers (default: all)")
    parser.add_argument("--files", type=int, default=500, help="bad files for each (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done to them (default 0)")
    options = parser.parse_args(argv)
    tallies = []
    for reader in options.reader or list(READERS):
        with tempfile.TemporaryDirectory() as folder:
            tallies.append(fuzz(reader, options.files, options.seed, Path(folder)))
        print(table(tallies[-1:]), flush=True)
    faults = [fault for tally in tallies for fault in tally.faults]
    print(f"\nseed {options.seed}\n{table(tallies)}")
    print("\n".join(faults[:50]))
    print(f"{'FAIL' if faults else 'PASS'}: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        sys.exit(main())
