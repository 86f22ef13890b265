"""Ratios of an earlier run, never seconds, and whether a later one is worse by more than both spreads.

A baseline is a JSON file with two sections, of full runs and of quick ones, which differ in their problems; each has
for every row the three quartiles of the ratio. Rows beside a number of seconds depend on the machine and are left out.
"""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from gcref.validation.benchmarks.alternating import Quartiles
from gcref.validation.benchmarks.rows import Row

SCHEMA = "gcref-bench-baseline/1"
SECTIONS = {False: "full", True: "quick"}

Baseline = dict[str, Quartiles]


class Comparison(NamedTuple):
    """A row beside its baseline: "worse", "better" or "as before"; "new" or "gone" where only one of them has it."""

    key: str
    now: Quartiles | None
    before: Quartiles | None
    verdict: str


def compare(rows: Iterable[Row], before: Baseline, suites: Iterable[str]) -> list[Comparison]:
    """Compare a run's rows with a baseline's of the same suites.

    Worse: the lower quartile now lies above the upper quartile then. Better: the other way round.
    """
    now = ratios(rows)
    known = {key: value for key, value in before.items() if key.split(":")[0] in set(suites)}
    return [_compared(key, now.get(key), known.get(key)) for key in [*now, *(k for k in known if k not in now)]]


def _compared(key: str, now: Quartiles | None, before: Quartiles | None) -> Comparison:
    """Judge one row."""
    if now is None or before is None:
        return Comparison(key, now, before, "gone" if now is None else "new")
    if now.low > before.high:
        return Comparison(key, now, before, "worse")
    return Comparison(key, now, before, "better" if now.high < before.low else "as before")


def ratios(rows: Iterable[Row]) -> Baseline:
    """Return the ratios that a baseline keeps."""
    return {row.key: row.pair.ratio for row in rows if not row.absolute}


def read(path: Path | None, quick: bool) -> Baseline:
    """Read the section of a baseline; the one that comes with gcref if `path` is None.

    Raises
    ------
    ValueError
        If it cannot be read, or is no baseline.
    """
    name = "the baseline that comes with gcref" if path is None else str(path)
    section = _content(path, name)[SECTIONS[quick]]
    return {key: _quartiles(value, f"{name}: {key}") for key, value in section.items()}


def updated(path: Path, rows: Iterable[Row], quick: bool) -> str:
    """Return the text of a baseline: that of `path`, if there is one, with the rows of this run put into its section.

    Raises
    ------
    ValueError
        If there is a file that is no baseline.
    """
    content: dict[str, Any] = {"schema": SCHEMA, "full": {}, "quick": {}}
    if path.exists():
        content = _content(path, str(path))
    found = {key: [round(q, 4) for q in value] for key, value in ratios(rows).items()}
    content[SECTIONS[quick]] = {**content[SECTIONS[quick]], **found}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _content(path: Path | None, name: str) -> dict[str, Any]:
    """Return a baseline's JSON."""
    try:
        if path is None:
            text = files("gcref.validation.benchmarks").joinpath("baseline.json").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested too deeply
        raise ValueError(f"{name} is not a JSON file") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{name} is no baseline: its schema is not {SCHEMA!r}")
    for section in SECTIONS.values():
        if not isinstance(content.get(section), dict):
            raise ValueError(f"{name} has no section {section!r}")
    return content


def _quartiles(value: Any, name: str) -> Quartiles:
    """Read three numbers."""
    if not isinstance(value, list) or len(value) != 3 or not all(type(q) in (int, float) and q > 0 for q in value):
        raise ValueError(f"{name} is {value!r}; three ratios above 0 are expected")
    return Quartiles(*map(float, value))
