"""Our numbers of a figure of random features beside the paper's, and the sentences that belong to the figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcref.data import reference
from gcref.figures import KINDS, aggregate
from gcref.store import read_summary
from gcref.validation import section_4_2, section_4_3
from gcref.validation.paper_points import JUDGED, SHARE, TOLERANCE
from gcref.validation.verdicts import Claim, Table


class Point(NamedTuple):
    """A point of a figure.

    Attributes
    ----------
    method : str
    learning_rate, duplicate_fraction, overparametrization : float
    n_trajectories : int
        That ours is the mean of.
    ours : float
    paper : float or None
        What was read off the paper's figure; None where it gives no number.
    """

    method: str
    learning_rate: float
    duplicate_fraction: float
    overparametrization: float
    n_trajectories: int
    ours: float
    paper: float | None

    @property
    def ratio(self) -> float | None:
        """Ours over the paper's."""
        return None if self.paper is None else self.ours / self.paper

    @property
    def within(self) -> bool | None:
        """Whether the two are within a factor of 2, 0.3 in log10."""
        if self.ratio is None:
            return None
        return self.ratio > 0 and abs(float(np.log10(self.ratio))) <= TOLERANCE


def points(figure: str, summary: np.ndarray) -> list[Point]:
    """Put every point of a figure beside the paper's.

    Parameters
    ----------
    figure : str
        A figure of random features or a panel of one, such as "4b".
    summary : ndarray
        As `gcref.store.read_summary` returns it, of the figure's own trajectories.
    """
    kind = KINDS[figure[0]]
    paper = reference()
    paper = paper[(paper["statistic"] == kind[0]) & (paper["aggregate"] == kind[1])]
    curves = dict.fromkeys(summary[["method", "learning_rate", "duplicate_fraction"]].tolist())
    found = []
    for name, rate, copies in sorted(curves, key=lambda curve: (curve[2], curve[1])):
        method = name.decode()
        ours = aggregate(summary, *kind, method=method, learning_rate=rate, duplicate_fraction=copies)
        for x, mean, n in zip(ours.x.tolist(), ours.mean.tolist(), ours.n.tolist(), strict=True):
            same = paper["method"] == method
            for field, value in (("learning_rate", rate), ("duplicate_fraction", copies), ("overparametrization", x)):
                same &= np.isclose(paper[field], value)
            value = float(paper["value"][same][0]) if same.any() else None
            found.append(Point(method, rate, copies, x, n, mean, value))
    return found


def verdict(figure: str, found: Sequence[Point]) -> str:
    """Say in a few sentences how many points of a figure are where the paper has them."""
    known = [point for point in found if point.paper is not None]
    if not known:
        return "The paper gives no number for any of these points."
    words = []
    for name, chosen in (("SG-B, SG-2B and GC", True), ("SVRG", False)):
        here = [point.within for point in known if (point.method in JUDGED) is chosen]
        words += [f"{sum(map(bool, here))} of {len(here)} points of {name}"] if here else []
    text = f"Within a factor of 2 of the paper (0.3 in log10): {', '.join(words)}"
    if KINDS[figure[0]][0] == "normalized_variance":
        text += ". The paper's are raw Monte Carlo ratios (10 draws), which can exceed 1; the exact ratio cannot."
    else:
        text += f"; {SHARE:.0%} of SG-B, SG-2B and GC are expected."
    if len(known) < len(found):
        text += f" For the other {len(found) - len(known)} points no number is given."
    return text


def sentences(figure: str, path: Path) -> list[Claim]:
    """Judge what sections 4.2 and 4.3 and appendix C say of a figure of random features.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read.
    """
    summary = read_summary(path)
    table = Table(summary)
    number, letter = figure[0], figure[1:]
    if not len(table.rows):
        return []
    if number == "8":
        return section_4_3.duplicates(table)
    if number == "5":
        return section_4_2.normalized(table)
    if number == "9":
        return section_4_2.mean_and_max(table)
    of_rates = [*section_4_2.axes_that_matter(table), *section_4_2.learning_rates(table)]
    if letter == "a":
        return of_rates
    of_methods = [*section_4_2.overparametrized(table), *section_4_3.clustering(table)]
    return of_methods if letter else of_rates + of_methods
