"""What it costs that no crash can corrupt a file: ``python -m gcref.validation.benchmarks.durability``.

A sweep's trajectories, or an image run, are computed in this one process, and the clock is turned at every step that
`gcref.shards` does: packing numbers into HDF5, writing shards, flushing them to disk, checking and merging them. All
steps are shares of one run, so that a busy machine slows them alike.

The cost of durability is all of that but packing what the results file holds in the end, which any file would need once
(with its compression and digests; it is printed too). Packing checkpoints, which only a run that goes on needs, is
counted. Workers write side by side while merging waits for all of them, so of a run on W workers the cost is
(writing + flushing)/W + the rest. How long flushing takes is the disk's affair: ``--folder`` says where. Target: 3 %.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

from gcref import shards
from gcref.studies.grid import Sweep
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.studies.random_features import run_unit, units
from gcref.studies.sweep import run_sweep

TARGET = 0.03
OWN = ("compute", "pack")  # what a run without durability would do, too
AT_ONCE = (*OWN, "write", "flush")  # what workers do side by side
SWEEPS = {
    True: Sweep(overparametrization=(0.1, 0.5, 1.0, 2.0, 5.0, 10.0), input_dim=(100,), teacher_hidden=(100,)),
    False: Sweep(),
}
IMAGES = {
    True: ImageRun(
        dataset="digits", model="mlp", hidden=(64, 64), batch_size=32, iterations=2000, measure_every=100,
        refresh_every=500,
    ),
    # The paper's network and intervals on MNIST, on the digits that come along: 50 times fewer images to measure.
    False: ImageRun(dataset="digits", n_examples=1200, iterations=1000, refresh_every=1000),
}  # fmt: skip


class Clock:
    """Seconds spent in steps; an inner step's are not the outer one's."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._open = ["compute"]
        self._since = time.perf_counter()

    def turn(self) -> dict[str, float]:
        """Give the time since the last turn to the step that is open; return the seconds of each."""
        now = time.perf_counter()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now
        return dict(self._seconds)

    def timed(self, step: Callable[..., str], function: Callable) -> Callable:
        """Return the function, whose time is that of a step; `step` names it by the arguments."""

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            self.turn()
            self._open.append(step(*arguments, **options))
            try:
                return function(*arguments, **options)
            finally:
                self.turn()
                self._open.pop()

        return call


def _packing(name: str, attrs: dict, arrays: dict, lasting: bool = True) -> str:
    return "pack" if lasting else "pack checkpoints"


@contextmanager
def clocked() -> Iterator[Clock]:
    """Measure what `gcref.shards` does within the block."""
    clock = Clock()
    steps = {
        (shards, "shard_image"): _packing,
        (shards, "keep_shard"): lambda *_: "write",
        (shards, "finished"): lambda *_: "check",
        (shards, "merge"): lambda *_, **__: "merge",
        (shards, "claim"): lambda *_: "claim",
        (os, "fsync"): lambda *_: "flush",
    }
    with ExitStack() as stack:
        for (owner, name), step in steps.items():
            stack.enter_context(mock.patch.object(owner, name, clock.timed(step, getattr(owner, name))))
        yield clock


class _Here(Executor):
    """Does the work at once, in this process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Return a future that is done."""
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def sweep_seconds(sweep: Sweep, path: Path) -> dict[str, float]:
    """Run a sweep in this process; return the seconds of each step."""
    run_unit(sweep, units(sweep, sweep.specs())[-1][:1], None)  # compiled code is loaded before
    with clocked() as clock:
        run_sweep(sweep, path, n_workers=1, executor=_Here())
        return clock.turn()


def image_seconds(run: ImageRun, path: Path) -> dict[str, float]:
    """Run an image study; return the seconds of each step."""
    with clocked() as clock:
        run_image(run, path)
        return clock.turn()


def share(seconds: dict[str, float], n_workers: int = 1) -> float:
    """Return the share of a run on so many workers that durability takes."""
    waited = {step: number / (n_workers if step in AT_ONCE else 1) for step, number in seconds.items()}
    return sum(number for step, number in waited.items() if step not in OWN) / sum(waited.values())


def line(name: str, seconds: dict[str, float], n_workers: int) -> str:
    """Say in a line what a run took, and the share of durability."""
    steps = ", ".join(f"{step} {number:.3f}" for step, number in seconds.items())
    shares = ", ".join(f"{share(seconds, n):.2%} on {n}" for n in range(1, n_workers + 1))
    return f"{name}: {steps} s; durability: {shares} worker{'s' * (n_workers > 1)} (target {TARGET:.0%})"


def main() -> None:
    """Print a line a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small grid, a small network")
    parser.add_argument("--folder", help="where to make the files, and so on which disk; else the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(line("rf-sweep", sweep_seconds(SWEEPS[options.quick], Path(folder) / "sweep.h5"), 2), flush=True)
        print(line("image", image_seconds(IMAGES[options.quick], Path(folder) / "image.h5"), 1), flush=True)


if __name__ == "__main__":
    main()
