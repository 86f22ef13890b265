"""Every suite of ``gcref bench``, and what one run of it found."""

import importlib
import platform
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gcref import __version__
from gcref.kernels.threads import blas_threads, n_threads
from gcref.validation.benchmarks import limits, peers
from gcref.validation.benchmarks.rows import Row
from gcref.validation.benchmarks.slopes import Crossover, Slope
from gcref.validation.benchmarks.workloads import Plan

SUITES = ("engine", "clustering", "variance", "rf", "table1", "scaling")
SCHEMA = "gcref-bench/1"

Found: TypeAlias = "Row | Slope | Crossover"


@dataclass
class Report:
    """What a run found.

    Attributes
    ----------
    suites : list of str
    quick : bool
    versions : dict of str to (str or None)
        Of the peers that were asked for; None where one is not installed.
    limits : Limits
        Of the machine, measured first.
    rows, slopes, crossovers
        In the order in which they were found.
    """

    suites: list[str]
    quick: bool
    versions: dict[str, str | None]
    limits: limits.Limits
    rows: list[Row] = field(default_factory=list)
    slopes: list[Slope] = field(default_factory=list)
    crossovers: list[Crossover] = field(default_factory=list)

    def take(self, found: Found) -> None:
        """Take in one thing more."""
        kinds: list[tuple[type, list[Any]]] = [
            (Row, self.rows), (Slope, self.slopes), (Crossover, self.crossovers),
        ]  # fmt: skip
        next(kept for kind, kept in kinds if isinstance(found, kind)).append(found)

    def as_json(self) -> dict[str, Any]:
        """Return what a JSON file keeps."""
        return {
            "schema": SCHEMA,
            "gcref_version": __version__,
            "machine": machine(),
            "threads": {"gcref": n_threads(), "blas": blas_threads(), "peers": n_threads()},
            "suites": self.suites,
            "quick": self.quick,
            "peers": self.versions,
            "limits": {"gemm_flops": self.limits.gemm, "copy_bytes": self.limits.copy},
            "rows": [row.as_json(self.limits) for row in self.rows],
            "slopes": [slope.as_json() for slope in self.slopes],
            "crossovers": [crossover.as_json() for crossover in self.crossovers],
            "citations": list(peers.CITATIONS),
        }


def machine() -> dict[str, str]:
    """Return what the numbers were measured on."""
    return {"system": platform.platform(), "processor": _processor(), "python": platform.python_version()}


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


def run(suites: Sequence[str], quick: bool, asked: Sequence[str]) -> tuple[Report, Iterator[Found]]:
    """Measure the machine's limits, and give the report with an iterator that fills it, one thing after the other.

    Parameters
    ----------
    suites : sequence of str
        Of `SUITES`.
    quick : bool
        Smaller problems and fewer repetitions.
    asked : sequence of str
        The peers to time beside, of `peers.PEERS`; those that are not installed are left out.
    """
    versions = peers.versions(asked)
    report = Report(list(suites), quick, versions, limits.measure(quick))
    plan = Plan(quick, frozenset(name for name, version in versions.items() if version))
    return report, _found(report, plan)


def _found(report: Report, plan: Plan) -> Iterator[Found]:
    """Run the suites in turn."""
    for name in report.suites:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers, about their own future
            for found in suite(name).rows(plan):
                report.take(found)
                yield found


def suite(name: str) -> Any:
    """Return the module of a suite, which has ``rows(plan)``."""
    return importlib.import_module(f"gcref.validation.benchmarks.{name}")
