"""How time or memory grows along one axis: a power law fitted to measurements, and which of two forms to take when."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Slope(NamedTuple):
    """Seconds, or bytes, at several values of one size, all else fixed.

    ``quantity`` says what was measured, ``axis`` the size that changed, ``fixed`` the others; ``predicted`` is the
    exponent that theory gives, None if none.
    """

    suite: str
    quantity: str
    axis: str
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    unit: str
    predicted: float | None
    fixed: str

    @property
    def exponent(self) -> float:
        """The exponent of the power law through all points, by least squares of logarithms."""
        return fitted(self.sizes, self.values)

    @property
    def last(self) -> float:
        """The exponent between the two largest sizes, where what is constant counts least."""
        return fitted(self.sizes[-2:], self.values[-2:])

    def as_json(self) -> dict[str, Any]:
        """Return what a JSON file keeps."""
        return {**self._asdict(), "exponent": self.exponent, "last_exponent": self.last}


def fitted(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent of a power law."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


class Choice(NamedTuple):
    """How a rule that chooses between two forms fares: shapes where it takes the slower one, and what that costs.

    ``lost`` is the geometric mean, over all shapes, of the time of the form taken over that of the faster one.
    """

    wrong: int
    lost: float


class Crossover(NamedTuple):
    """Which of Eq. 8 and Eq. 9 is faster, shape by shape, and how three rules choose.

    ``ratios`` are operations of Eq. 8 over those of Eq. 9, ``times`` seconds of Eq. 8 over those of Eq. 9. The rules:
    the paper's; fewer operations; and Eq. 8 where its operations are less than ``switch`` times those of Eq. 9, the
    multiple that loses least on these shapes.
    """

    suite: str
    quantity: str
    shapes: tuple[str, ...]
    ratios: tuple[float, ...]
    times: tuple[float, ...]
    paper: Choice
    operations: Choice
    switch: float
    at_switch: Choice

    def as_json(self) -> dict[str, Any]:
        """Return what a JSON file keeps."""
        rules = {name: getattr(self, name)._asdict() for name in ("paper", "operations", "at_switch")}
        return {**self._asdict(), **rules}


def crossover(
    suite: str,
    quantity: str,
    shapes: Sequence[str],
    ratios: Sequence[float],
    times: Sequence[float],
    paper_eq8: Sequence[bool],
) -> Crossover:
    """Judge the rules by measured times; `paper_eq8` says where the paper's takes Eq. 8."""
    x, y = np.log(ratios), np.log(times)
    switch = _best_switch(x, y)
    return Crossover(
        suite, quantity, tuple(shapes), tuple(map(float, ratios)), tuple(map(float, times)), judged(paper_eq8, y),
        judged(x < 0, y), float(np.exp(switch)), judged(x < switch, y),
    )  # fmt: skip


def judged(takes_eq8: ArrayLike, y: NDArray[np.float64]) -> Choice:
    """Judge a rule by the logarithms of the times of Eq. 8 over those of Eq. 9."""
    wrong = np.asarray(takes_eq8) != (y < 0)
    return Choice(int(wrong.sum()), float(np.exp((np.abs(y) * wrong).mean())))


def _best_switch(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the threshold on x, halfway between two shapes, below which taking Eq. 8 loses least; 0 on ties."""
    inner = np.unique(x)
    between = (inner[1:] + inner[:-1]) / 2
    candidates = sorted([0.0, inner[0] - 1.0, *between, inner[-1] + 1.0], key=abs)
    return float(min(candidates, key=lambda threshold: round(judged(x < threshold, y).lost, 9)))
