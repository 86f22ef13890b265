"""A sentence of the paper with its number and verdict, and the averages of a results file that judge it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOLDS, PART, FAILS, UNJUDGED = "holds", "holds in part", "does not hold", "cannot be judged"


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, judged.

    Attributes
    ----------
    section : str
        Where the paper says it.
    says : str
        What it says, in our words.
    measured : str
        The number of this file.
    rule : str
        When it counts as holding.
    verdict : str
        HOLDS, PART, FAILS or UNJUDGED.
    """

    section: str
    says: str
    measured: str
    rule: str
    verdict: str


class Table:
    """The summary of a file, and its averages as the figures show them.

    A trajectory with a number that is not finite has diverged, and is left out with all its methods.
    """

    def __init__(self, summary: np.ndarray):
        kinds = ("variance", "normalized_variance")
        numbers = [summary[f"{kind}_{aggregate}"] for kind in kinds for aggregate in ("mean70", "max70")]
        diverged = summary["trajectory"][~np.isfinite(numbers).all(axis=0)]
        self.rows = summary[~np.isin(summary["trajectory"], diverged)]

    def select(self, **where: str | float) -> np.ndarray:
        """Return the rows in which every named field has the value given."""
        keep = np.ones(len(self.rows), bool)
        for field, value in where.items():
            keep &= self.rows[field] == (value.encode() if isinstance(value, str) else value)
        return self.rows[keep]

    def mean(self, field: str = "variance_max70", **where: str | float) -> float:
        """Return the mean of a field over the trajectories that `where` leaves, of which there is one at least."""
        return float(self.select(**where)[field].mean())

    def values(self, field: str) -> list[float]:
        """Return the values an axis takes, ascending."""
        return [float(v) for v in np.unique(self.rows[field])]

    def points(self, axis: str = "learning_rate") -> list[tuple[float, float]]:
        """Return the pairs (value of an axis, h_s/N) that have a trajectory, ascending."""
        return sorted(set(self.rows[[axis, "overparametrization"]].tolist()))

    def pairs(self, one: str, other: str, field: str = "variance_mean70") -> np.ndarray:
        """Return a field of two methods trajectory by trajectory, (n, 2)."""
        first, second = (np.sort(self.select(method=m), order="trajectory") for m in (one, other))
        return np.stack([first[field], second[field]], axis=1)


def share(cases: Sequence[bool]) -> float:
    """Return the share of cases that are true; NaN if there are none."""
    return sum(cases) / len(cases) if cases else float("nan")


def verdict(share: float, holds: float = 1.0, part: float = 0.5) -> str:
    """Turn the share of cases in which a sentence is true into a verdict; NaN cannot be judged."""
    if np.isnan(share):
        return UNJUDGED
    return HOLDS if share >= holds else PART if share >= part else FAILS


def ratio(one: float, other: float) -> float:
    """Divide two variances, either of which may be exactly zero (SG-2B's is where N is twice the batch)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(one, other))


def log10(values: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the logarithm of variances; minus infinity where one is exactly zero."""
    with np.errstate(divide="ignore"):
        return np.log10(values)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of numbers of 0 or more."""
    return float(10 ** np.mean(log10(values)))
