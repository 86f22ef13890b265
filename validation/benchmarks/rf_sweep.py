"""The main job, timed as a user runs it: seconds and the peak memory of all its processes together.

``python -m gcref.validation.benchmarks.rf_sweep [--quick]`` runs ``gcref rf-sweep`` into a folder that is
deleted afterwards, after ``gcref warmup``. Memory is the proportional set size of the process tree, read from
/proc ten times a second (Linux; elsewhere it is not measured). Targets: the default grid in at most 150 s on
two cores and 3 GB, ``--quick`` in at most 20 s.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_SECONDS = {False: 150.0, True: 20.0}
TARGET_BYTES = 3e9


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


def run(command: list[str]) -> tuple[float, int]:
    """Run a command; return its seconds and the peak bytes of its process tree."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(proportional_set_size(pid) for pid in tree(process.pid)))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    return time.perf_counter() - start, peak


def main() -> None:
    """Print one line: command, seconds, target, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small grid")
    quick = parser.parse_args().quick
    gcref = [sys.executable, "-m", "gcref.cli"]
    subprocess.run([*gcref, "warmup"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["rf-sweep", *(["--quick"] if quick else []), "--out", str(Path(folder) / "results.h5")]
        seconds, peak = run([*gcref, *arguments])
    print(
        f"gcref {' '.join(arguments[:-1])} …: {seconds:.1f} s (target {TARGET_SECONDS[quick]:.0f} s), "
        f"peak memory of all processes {peak / 1e9:.2f} GB (target {TARGET_BYTES / 1e9:.0f} GB)"
    )


if __name__ == "__main__":
    main()
