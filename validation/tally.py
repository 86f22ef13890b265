"""One check of a results file: how many numbers were compared, how far the worst is off, and which ones fail."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MOST_FAILURES = 20


@dataclass(frozen=True)
class Failure:
    """One number, label, attribute or data set that is not what it should be."""

    trajectory: str
    iteration: int | None
    dataset: str
    stored: str
    expected: str

    def __str__(self) -> str:
        where = self.trajectory + ("" if self.iteration is None else f", iteration {self.iteration}")
        return f"{where}: {self.dataset} is {self.stored}, expected {self.expected}"


@dataclass
class Check:
    """A row of the table of ``gcref validate``.

    Attributes
    ----------
    name, what : str
    tolerance : float or None
        Of the relative deviation; 0 for an exact comparison, None for a finding, which has no verdict.
    n : int
        Numbers compared.
    worst : float
        The largest relative deviation (of an exact comparison: meaningless).
    failures : list of Failure
        The first `MOST_FAILURES` of `n_failures`.
    note : str
        What was found beside the verdict.
    """

    name: str
    what: str
    tolerance: float | None = 0.0
    n: int = 0
    worst: float = 0.0
    n_failures: int = 0
    failures: list[Failure] = field(default_factory=list)
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.n_failures == 0

    @property
    def verdict(self) -> str:
        """One of "pass", "FAIL", "finding" and, where there was nothing to compare, "nothing"."""
        if not self.passed:
            return "FAIL"
        if self.n == 0:
            return "nothing"
        return "finding" if self.tolerance is None else "pass"

    def as_json(self) -> dict[str, Any]:
        """Return everything but the comparison's working, for ``--json``."""
        return {
            "name": self.name, "what": self.what, "verdict": self.verdict, "compared": self.n, "worst": self.worst,
            "allowed": self.tolerance, "note": self.note, "n_failures": self.n_failures,
            "failures": [str(failure) for failure in self.failures],
        }  # fmt: skip

    def fail(self, trajectory: str, iteration: int | None, dataset: str, stored: Any, expected: Any) -> None:
        """Count a failure, and keep it if there are not too many yet."""
        self.n_failures += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(Failure(trajectory, iteration, dataset, _text(stored), _text(expected)))

    def expect(
        self, holds: bool, trajectory: str, iteration: int | None, dataset: str, stored: Any, expected: Any
    ) -> bool:
        """Count one exact comparison; return `holds`."""
        self.n += 1
        if not holds:
            self.fail(trajectory, iteration, dataset, stored, expected)
        return holds

    def compare(
        self,
        trajectory: str,
        dataset: str,
        iterations: Sequence[int | None],
        stored: ArrayLike,
        recomputed: ArrayLike,
        floor: ArrayLike = 0.0,
    ) -> None:
        """Compare numbers: |stored − recomputed| ≤ tolerance·|recomputed| + floor, NaN equal to NaN.

        Parameters
        ----------
        trajectory, dataset : str
        iterations : sequence, length L
            Of each number; a single one stands for all.
        stored, recomputed : array_like, shape (L,)
        floor : array_like, shape () or (L,)
            What rounding alone can do to a number, where it is not small beside the tolerance.
        """
        stored, recomputed = np.atleast_1d(stored), np.atleast_1d(recomputed)
        deviation = _deviation(stored, recomputed, np.asarray(floor, dtype=np.float64), self.tolerance or 0.0)
        self.n += deviation.size
        self.worst = max(self.worst, float(deviation.max(initial=0.0)))
        for index in np.flatnonzero(deviation > (self.tolerance or 0.0)).tolist():
            iteration = iterations[index if len(iterations) > 1 else 0]
            self.fail(trajectory, iteration, dataset, stored[index], recomputed[index])

    def merge(self, other: "Check") -> None:
        """Add what another process found."""
        self.n += other.n
        self.worst = max(self.worst, other.worst)
        self.n_failures += other.n_failures
        self.failures = (self.failures + other.failures)[:MOST_FAILURES]


def _deviation(stored: np.ndarray, recomputed: np.ndarray, floor: np.ndarray, tolerance: float) -> np.ndarray:
    """The deviation that exceeds `tolerance` exactly where |stored − recomputed| > tolerance·|recomputed| + floor."""
    with np.errstate(all="ignore"):
        scale = np.abs(recomputed) + (floor / tolerance if tolerance else 0.0)
        deviation = np.abs(stored - recomputed) / scale
    same = (stored == recomputed) | (np.isnan(stored) & np.isnan(recomputed))
    # A NaN or an infinity that should not be there has no finite deviation.
    return np.where(same, 0.0, np.where(np.isnan(deviation), np.inf, deviation))


def _text(value: Any) -> str:
    """Numbers in full, anything else short."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.17g}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
