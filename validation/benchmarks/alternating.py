"""Fair times of two sides in one process: they take turns in blocks, after a pause and untimed runs."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Run = Callable[[], object]


class Ratio(NamedTuple):
    """Quartiles of ours over theirs, block by block, and each side's median seconds."""

    low: float
    median: float
    high: float
    ours: float
    theirs: float

    def report(self, what: str, target: float) -> bool:
        """Print a line with the verdict; return it."""
        passed = self.median <= target
        print(
            f"{'PASS' if passed else 'FAIL'}: {what}: {self.median:.3f} (quartiles {self.low:.3f} and {self.high:.3f}; "
            f"{1e3 * self.ours:.2f} ms over {1e3 * self.theirs:.2f} ms), at most {target:g} is claimed"
        )
        return passed


def block_time(run: Run, runs: int) -> float:
    """Return the median seconds of a block of runs; before it the other side's waiting threads go to sleep."""
    time.sleep(0.2)
    seconds = []
    for number in range(runs + 2):
        start = time.perf_counter()
        run()
        if number >= 2:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def compare(ours: Run, theirs: Run, blocks: int = 24, runs: int = 12) -> Ratio:
    """Time two sides in turn."""
    pairs = np.array([(block_time(ours, runs), block_time(theirs, runs)) for _ in range(blocks)])
    low, median, high = np.percentile(pairs[:, 0] / pairs[:, 1], [25, 50, 75])
    return Ratio(low, median, high, *np.median(pairs, axis=0))
