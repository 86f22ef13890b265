"""The results files that a report is made of, read and put in their place."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gcref import image_figures
from gcref.figure_plan import check_schema, plan
from gcref.image_figures import Run, read_run
from gcref.store import StoreError, doubts, open_results, read_attrs, read_config, read_summary, readable

LAST = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
_STATES = ("complete", "diverged")


@dataclass(frozen=True, eq=False)
class Source:
    """One results file.

    Attributes
    ----------
    path : Path
    label : str
        What the page calls it: the file's name, with its folder where another has the same.
    attrs, config : dict
        Its root attributes and its configuration.
    summary : ndarray
        As `gcref.store.read_summary` returns it.
    states : Counter
        How many trajectories are "complete", "diverged" or "other".
    seconds : float
        Time that the trajectories took, added up.
    n_examples : int
        Of an image run: the training set's size, 0 if it is not known.
    last : dict
        Of an image run: the last value of each of `LAST` that the file has.
    doubts : list of str
        What a reader should know before trusting it.
    run : Run or None
        Of an image run: its series.
    """

    path: Path
    label: str
    attrs: dict[str, Any]
    config: dict[str, Any]
    summary: np.ndarray
    states: Counter[str]
    seconds: float
    n_examples: int
    last: dict[str, float]
    doubts: list[str]
    run: Run | None

    @property
    def word(self) -> str:
        """Its name, without its folder, as a word of a command line."""
        name = self.path.name
        return shlex.quote(f"./{name}" if name.startswith("-") else name)

    @property
    def is_sweep(self) -> bool:
        """Whether it is of the random-features study."""
        return self.run is None


def read(paths: Sequence[Path]) -> list[Source]:
    """Read results files: those of the random-features study first, then image runs, each in the order given.

    Raises
    ------
    gcref.store.StoreError
        If a file cannot be read.
    ValueError
        If there is none, one is given twice, or one is of a study without figures.
    """
    if not paths:
        raise ValueError("paths must name at least one results file, got none")
    twice = [path for path, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    names = Counter(path.name for path in paths)
    labels = [path.name if names[path.name] == 1 else "/".join(path.resolve().parts[-2:]) for path in paths]
    sources = [_source(path, label) for path, label in zip(paths, labels, strict=True)]
    return sorted(sources, key=lambda source: not source.is_sweep)


def drawings(
    sources: Sequence[Source], paper: bool = True, window: int | None = None
) -> tuple[dict[str, Callable[[], Figure]], dict[str, str]]:
    """Return the figures that the files have data for, and why there are no others; see `gcref.figure_plan.plan`."""
    summaries = {source.path: source.summary for source in sources if source.is_sweep}
    return plan(summaries, [source.run for source in sources if source.run is not None], paper, window)


def _source(path: Path, label: str) -> Source:
    attrs, config = read_attrs(path), read_config(path)
    check_schema(path, config["schema"])
    states, seconds = _trajectories(path)
    run, n_examples = None, 0
    last: dict[str, float] = {}
    if config["schema"] == image_figures.SCHEMA:
        run = read_run(path)
        n_examples, last = _end_of_run(path)
    return Source(
        path, label, attrs, config, read_summary(path), states, seconds, n_examples, last, doubts(path), run
    )  # fmt: skip


def _trajectories(path: Path) -> tuple[Counter[str], float]:
    """Count the trajectories by their state, and add up the time they took."""
    states: Counter[str] = Counter()
    seconds = 0.0
    with open_results(path) as file, readable(path):
        for group in file["trajectories"].values():
            state = group.attrs.get("status")
            states[state if isinstance(state, str) and state in _STATES else "other"] += 1
            seconds += float(group.attrs.get("seconds", 0.0))
    return states, seconds


def _end_of_run(path: Path) -> tuple[int, dict[str, float]]:
    """Return the number of training examples of an image run, and the losses and accuracies it ended with."""
    with open_results(path) as file, readable(path):
        (group,) = file["trajectories"].values()
        n_examples = int(group.attrs.get("n_train", 0))
        series = {name: np.asarray(group[name][()]) for name in LAST if name in group}
    wrong = [name for name, values in series.items() if values.ndim != 1 or values.dtype.kind not in "fi"]
    if wrong:
        raise StoreError(f"{path}: the series of {wrong[0]} must have a number for each iteration")
    return n_examples, {name: float(values[-1]) for name, values in series.items() if values.size}
