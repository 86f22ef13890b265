"""A row of the table: what was timed beside whom, what is aimed at, and how near the machine's limit it comes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from gcref.validation.benchmarks.alternating import Pair, Quartiles
from gcref.validation.benchmarks.limits import Limits


class Work(NamedTuple):
    """The operations (multiplications and additions) and bytes that a task cannot do without; 0: not counted."""

    flops: float = 0.0
    n_bytes: float = 0.0
    dtype: str = "float32"


UNCOUNTED = Work()


@dataclass(frozen=True)
class Row:
    """One comparison.

    Parameters
    ----------
    suite, name : str
    peer : str
        What ours is compared with, such as ``"torch"`` or ``"a plain epoch"``.
    pair : Pair
        Seconds of both sides and their ratio, in blocks.
    target : float or None
        The ratio that ours is to stay at or below.
    work : Work
    absolute : bool
        The peer is a number of seconds, so that the ratio depends on the machine; no baseline has it.
    note : str
    """

    suite: str
    name: str
    peer: str
    pair: Pair
    target: float | None = None
    work: Work = UNCOUNTED
    absolute: bool = False
    note: str = ""

    @property
    def key(self) -> str:
        """What names this row in a baseline."""
        return f"{self.suite}: {self.name} / {self.peer}"

    @property
    def verdict(self) -> str:
        """Whether the median ratio meets the target."""
        if self.target is None:
            return ""
        return "met" if self.pair.ratio.median <= self.target else "missed"

    def fraction(self, limits: Limits) -> float | None:
        """Return the least time the machine's limits allow over the median time; None if nothing was counted."""
        least = limits.seconds(*self.work)
        return least / self.pair.ours.median if least > 0 else None

    def as_json(self, limits: Limits) -> dict[str, Any]:
        """Return what a JSON file keeps of the row."""
        return {
            "suite": self.suite,
            "name": self.name,
            "peer": self.peer,
            "ratio": self.pair.ratio._asdict(),
            "seconds": self.pair.ours._asdict(),
            "peer_seconds": self.pair.theirs._asdict(),
            "target": self.target,
            "verdict": self.verdict or None,
            "absolute": self.absolute,
            "flops": self.work.flops or None,
            "bytes": self.work.n_bytes or None,
            "dtype": self.work.dtype,
            "fraction_of_limit": self.fraction(limits),
            "note": self.note or None,
        }


def against_seconds(found: Quartiles, allowed: float) -> Pair:
    """Compare seconds with a number of them that is allowed."""
    return Pair(Quartiles(*(q / allowed for q in found)), found, Quartiles(allowed, allowed, allowed))
