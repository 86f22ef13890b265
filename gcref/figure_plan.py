"""Which of the paper's figures some results files have data for, of both studies together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from numpy.typing import NDArray

from gcref import figures, image_figures
from gcref.image_figures import Run


def plan(
    summaries: Mapping[Path, NDArray], runs: Sequence[Run], paper: bool = True, window: int | None = None
) -> tuple[dict[str, Callable[[], Figure]], dict[str, str]]:
    """Return the figures that there are data for, with their drawing functions, and the others with the reason.

    Parameters
    ----------
    summaries : mapping
        Of files of the random-features study, as `gcref.figures.drawings` takes them; such as one without duplicates
        and one with.
    runs : sequence of Run
    paper : bool
        Whether to overlay the paper's own points.
    window : int, optional
        As `gcref.image_figures.figure3`.

    Raises
    ------
    ValueError
        If two files have data for the same figure of the random-features study, or hold the same image run; or as
        `gcref.figures.drawings` and `gcref.image_figures.drawings`.
    """
    found: dict[str, Callable[[], Figure]] = {}
    owner: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for path, summary in summaries.items():
        for name, function in figures.drawings(summary, paper).items():
            if name in found:
                raise ValueError(f"{owner[name]} and {path} both have data for {name}; give one of them")
            found[name], owner[name] = function, path
        skipped |= figures.undrawable(summary)
    if runs:
        found |= image_figures.drawings(runs, window)
        skipped |= image_figures.undrawable(runs)
    return found, {name: reason for name, reason in skipped.items() if name not in found}


def check_schema(path: Path, schema: str) -> None:
    """Refuse a file of a study that has no figures (ValueError)."""
    if schema not in (figures.SCHEMA, image_figures.SCHEMA):
        raise ValueError(f"{path} is of a study without figures: config has schema {schema!r:.60}")
