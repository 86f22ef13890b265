"""Suite ``rf``: the main job as a user runs it, and how long gcref takes to start, beside the seconds that are allowed.

Every measurement is a process of its own. The sweep is run after ``gcref warmup``, into a folder that is deleted;
memory is the proportional set size of its process tree, read from /proc ten times a second (Linux; elsewhere it is not
measured). The first use is a sweep of one small trajectory, with an empty folder for compiled kernels, less the same
with all of them there.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gcref.validation.benchmarks.alternating import quartiles
from gcref.validation.benchmarks.rows import Row, against_seconds
from gcref.validation.benchmarks.workloads import Plan

SUITE = "rf"
GCREF = (sys.executable, "-m", "gcref.cli")
SMALLEST = (
    "--learning-rate", "0.01", "--ratio", "1", "--input-dim", "10", "--teacher-hidden", "10", "--seed", "0",
    "--iterations", "20", "--measure-every", "10", "--refresh-every", "20", "--student-hidden", "20",
)  # fmt: skip


def rows(plan: Plan) -> Iterator[Row]:
    """Measure; one row after the other."""
    times = 5 if plan.quick else 21
    inside = "import time; start = time.perf_counter(); import gcref; print(time.perf_counter() - start)"
    found = [float(_output([sys.executable, "-c", inside])) for _ in range(times + 1)][1:]
    yield _row("import gcref", found, 0.15)
    yield _row("gcref --help", [seconds_of([*GCREF, "--help"])[0] for _ in range(times + 1)][1:], 0.2)
    yield _first_use(1 if plan.quick else 3)
    yield _sweep(plan)


def _row(name: str, seconds: Sequence[float], allowed: float, note: str = "") -> Row:
    """Make a row of seconds beside those that are allowed."""
    pair = against_seconds(quartiles(seconds), allowed)
    return Row(SUITE, name, f"{allowed:g} s", pair, 1.0, absolute=True, note=note)


def _first_use(times: int) -> Row:
    """Time the first use after an installation, which compiles."""
    seconds = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            environment = {"NUMBA_CACHE_DIR": str(Path(folder) / "kernels")}
            cold, warm = (
                seconds_of([*GCREF, "rf-sweep", *SMALLEST, "--out", str(Path(folder) / name)], environment)[0]
                for name in ("cold.h5", "warm.h5")
            )
            seconds.append(cold - warm)
    return _row("first gcref rf-sweep, compiling", seconds, 20.0, f"then {warm:.1f} s for the same without")


def _sweep(plan: Plan) -> Row:
    """Time the main job, once."""
    grid, allowed = (["--quick"], 20.0) if plan.quick else ([], 120.0)
    subprocess.run([*GCREF, "warmup"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        found, peak = seconds_of([*GCREF, "rf-sweep", *grid, "--out", str(Path(folder) / "results.h5")])
    memory = f"peak memory of all processes {peak / 1e9:.2f} GB" if peak else "memory not measured"
    return _row(" ".join(["gcref rf-sweep", *grid]), [found], allowed, f"one run; {memory}")


# -------------------------------------------------------------------------------------------------- processes


def _output(command: Sequence[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def seconds_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, int]:
    """Run a command; return its seconds and the peak bytes of its process tree.

    Raises
    ------
    ChildProcessError
        If it fails; with the last line it wrote.
    """
    start, peak, looked = time.perf_counter(), 0, 0.0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, **(environment or {})}
        )
        with process:
            while process.poll() is None:
                if time.perf_counter() - looked > 0.1:
                    looked = time.perf_counter()
                    peak = max(peak, sum(proportional_set_size(pid) for pid in tree(process.pid)))
                time.sleep(0.002)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode("utf-8", "replace").strip().splitlines() or ["nothing was said"]
            raise ChildProcessError(f"{' '.join(command)} exited with {process.returncode}: {told[-1]}")
    return seconds, peak


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    out = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                out += tree(int(child))
    except OSError:  # it has ended in the meantime
        pass
    return out


def proportional_set_size(pid: int) -> int:
    """Return a process's bytes of memory, shared pages in proportion; 0 if it cannot be read."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0
