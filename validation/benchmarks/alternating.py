"""Fair times of two sides in one process: they take turns in blocks, after a pause and untimed runs."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Run = Callable[[], object]
Seconds = Callable[[], float]

PAUSE = 0.2  # seconds in which the other side's waiting threads go to sleep


class Quartiles(NamedTuple):
    """The middle of several measurements, and where half of them lie."""

    low: float
    median: float
    high: float


class Pair(NamedTuple):
    """Quartiles of ours over theirs, block by block, and of each side's seconds."""

    ratio: Quartiles
    ours: Quartiles
    theirs: Quartiles


def quartiles(values: Sequence[float] | np.ndarray) -> Quartiles:
    """Return the three quartiles."""
    return Quartiles(*(float(q) for q in np.percentile(values, [25, 50, 75])))


def seconds_of(run: Run) -> float:
    """Time one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def block_time(run: Run, runs: int, warm: int = 2) -> float:
    """Return the median seconds of a block of runs, after a pause and `warm` untimed ones."""
    time.sleep(PAUSE)
    for _ in range(warm):
        run()
    return float(np.median([seconds_of(run) for _ in range(runs)]))


def alternate(ours: Seconds, theirs: Seconds, blocks: int) -> Pair:
    """Let two sides, which time themselves, take turns; which of them begins changes from block to block."""
    pairs = np.empty((blocks, 2))
    for number in range(blocks):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            pairs[number, side] = (ours, theirs)[side]()
    return Pair(quartiles(pairs[:, 0] / pairs[:, 1]), quartiles(pairs[:, 0]), quartiles(pairs[:, 1]))


def compare(ours: Run, theirs: Run, blocks: int = 24, runs: int = 12, warm: int = 2, times: float = 1.0) -> Pair:
    """Time two sides in turn, each first run once, which compiles; theirs counts `times`, as in an epoch of batches."""
    ours()
    theirs()
    return alternate(lambda: block_time(ours, runs, warm), lambda: times * block_time(theirs, max(runs, 2), 2), blocks)
