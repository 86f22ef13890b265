"""Put a report together: what the template is given, and what no template should have to decide."""

import hashlib
import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

import gcref
from gcref.panels import method_label, methods_in_order
from gcref.report import tables
from gcref.report.drawing import Drawing, draw, night
from gcref.report.sources import Source, drawings, read

_MOST, _MOST_JSON = 400, 20_000  # characters of a value, and of a configuration, that a file gives; ours have fewer
_VERDICTS = {"holds": "good", "holds in part": "fair", "does not hold": "bad", "pass": "good", "FAIL": "bad"}
_MEANINGS = {"n_examples": "all", "n_test_examples": "all", "width": "the model's own", "milestones": "none"}
_FIRST = (
    "dataset", "model", "n_examples", "learning_rate", "overparametrization", "input_dim", "teacher_hidden", "seed",
    "duplicate_fraction", "label_smoothing", "corrupt_fraction", "batch_size", "iterations", "measure_every",
)  # fmt: skip
_METHODS = {
    "sgb": "a mini-batch of B examples, drawn without replacement",
    "sg2b": "a mini-batch of 2B examples",
    "svrg": "a mini-batch of gᵢ(θ) − gᵢ(θ̃), plus the full gradient at a snapshot θ̃",
    "gc": "one example from each of K = B clusters of similar gradients, weighted by the clusters' sizes",
    "exact": "the same with exact centres in place of the paper's of rank 1",
    "exchange": "the same with clusters made by moving one example at a time",
    "sketched": "the same with clusters made by exchange on sketches of the gradients",
}


@dataclass(frozen=True)
class Outcome:
    """What ``gcref validate`` found of a file: `gcref.validation.tally.Check` objects, and what the file is made of."""

    checks: Sequence[Any]
    extent: str

    @property
    def failed(self) -> list[str]:
        """Names of the checks that did not pass."""
        return [check.name for check in self.checks if not check.passed]

    @property
    def n_recomputed(self) -> int:
        """How many trajectories or snapshots were recomputed."""
        return next((check.n for check in self.checks if check.name == "recomputation"), 0)


@dataclass(frozen=True)
class Supplied:
    """What a report is given beside the files.

    Attributes
    ----------
    claims : sequence of `gcref.validation.verdicts.Claim`
    unjudged : str
        Why a file judges none, where it could.
    outcomes : mapping of Path to Outcome
        Of the files that were validated.
    environment : sequence of (str, str)
        What made the page: names and versions.
    command : str
        The command that makes it again.
    """

    claims: Sequence[Any] = ()
    unjudged: str = ""
    outcomes: Mapping[Path, Outcome] = field(default_factory=dict)
    environment: Sequence[tuple[str, str]] = ()
    command: str = ""


@dataclass(frozen=True)
class Study:
    """The files of one study: the settings that all of them have, and those in which they differ."""

    name: str
    sources: list[Source]
    common: list[tuple[str, str]]
    different: list[str]
    values: list[list[str]]


def plan(paths: Sequence[Path], paper: bool = True, window: int | None = None) -> list[Source]:
    """Read results files and refuse what `render` would, before there is anything to wait for; parameters as there."""
    sources = read(paths)
    drawings(sources, paper, window)
    return sources


def render(
    paths: Sequence[Path], supplied: Supplied | None = None, paper: bool = True, window: int | None = None
) -> str:
    """Return the report of results files as one page of HTML.

    Parameters
    ----------
    paths : sequence of Path
        Files of ``gcref rf-sweep`` and ``gcref image``.
    supplied : Supplied, optional
    paper : bool
        Whether to overlay the paper's own points in figures.
    window : int, optional
        As `gcref.image_figures.figure3`.

    Returns
    -------
    str
        The same files, on the same machine, give the same page: it has no date.

    Raises
    ------
    gcref.store.StoreError
        If a file cannot be read.
    ValueError
        If there is none, one is given twice or is of a study without figures, two have data for the same figure of the
        random-features study or hold the same image run, or `window` is below 1.
    """
    supplied = supplied or Supplied()
    sources = read(paths)
    functions, skipped = drawings(sources, paper, window)
    figures = draw(dict(sorted(functions.items())))
    sweeps, runs = ([s for s in sources if s.is_sweep == kind] for kind in (True, False))
    script = _text("page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        version=gcref.__version__, title=_title(sources), lead=_lead(sweeps, runs),
        facts=_facts(sweeps, runs, supplied), sources=sources, figures=figures, skipped=dict(sorted(skipped.items())),
        methods=_methods(sources), studies=[_study(some) for some in (sweeps, runs) if some],
        tables=[*(tables.sweep_tables(sweeps) if sweeps else ()), *(tables.run_tables(runs) if runs else ())],
        supplied=supplied, has_claims=bool(supplied.claims or supplied.unjudged),
        counts=Counter(claim.verdict for claim in supplied.claims),
        style=_text("page.css"), colors=_colors(figures), script=script,
        script_digest=f"sha256-{digest}",
    )  # fmt: skip


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters.update(verdict=lambda text: _VERDICTS.get(text, "open"), short=_short, json=_json, kind=_kind)
    return environment.from_string(_text("page.html.jinja"))


def _kind(table: tables.Table, column: int) -> str:
    """Say whether a column, whose head is aligned as its cells are, holds numbers."""
    return "number" if any(not math.isnan(row[column].value) for row in table.rows) else "text"


def _text(name: str) -> str:
    return files("gcref.report").joinpath(name).read_text(encoding="utf-8")


def _printable(value: Any) -> Any:
    """Write out characters that are not to be seen but do something, such as turning the direction of what follows."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # the page's own, marked as safe
        return value
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)


def _short(value: Any, absent: str = "not recorded", most: int = _MOST) -> str:
    """Return a value of a file as text of bounded length."""
    if not isinstance(value, str) or not value:
        return absent
    return value if len(value) <= most else value[:most] + " …"


def _colors(drawn: Sequence[Drawing]) -> list[tuple[str, str, str]]:
    """Return the name of each colour of the figures, and what it is by day and by night."""
    return [(color[1:], color, night(color)) for color in sorted(frozenset().union(*(d.colors for d in drawn)))]


# ------------------------------------------------------------------------------------------------------- in words


def _title(sources: Sequence[Source]) -> str:
    names = ", ".join(source.label for source in sources)
    return names if len(sources) <= 4 else f"{sources[0].label} and {len(sources) - 1} more files"


def _lead(sweeps: Sequence[Source], runs: Sequence[Source]) -> str:
    """Say in a sentence or two what was measured."""
    told = []
    if sweeps:
        n = sum(sum(source.states.values()) for source in sweeps)
        told.append(
            f"{n:,} training {'trajectory' if n == 1 else 'trajectories'} of random-features models, and at each "
            "measuring point the variance of every gradient estimator in closed form, over the whole training set."
        )
    if runs:
        exact = all(source.config["method"] == "closed-form" for source in runs)
        how = "in closed form on the whole training set" if exact else "as each run's configuration says"
        what = "One image model" if len(runs) == 1 else f"{len(runs)} image models"
        told.append(f"{what} trained by SGD, the variance of every gradient estimator measured {how} along the way.")
    return " ".join(told)


def _facts(sweeps: Sequence[Source], runs: Sequence[Source], supplied: Supplied) -> list[tuple[str, str]]:
    """Return the few numbers to begin with, each with what it is."""
    facts = []
    if sweeps:
        states = sum((source.states for source in sweeps), Counter())
        facts.append((f"{sum(states.values()):,}", "trajectories"))
        ratio = next((r for r in map(tables.overall, sweeps) if r is not None), None)
        if ratio is not None:
            facts.append((f"{ratio:.2f}", "variance of GC over SG-B's without duplicates, geometric mean"))
    if runs:
        facts.append((f"{len(runs)}", "image run" if len(runs) == 1 else "image runs"))
        found = [ratio for source in runs for ratio in _gc_over_sgb(source)]
        if found:
            low, high = f"{min(found):.2f}", f"{max(found):.2f}"
            facts.append(
                (low if low == high else f"{low} to {high}", "variance of GC over SG-B's, last 70 % of training")
            )
    if supplied.claims:
        held = sum(claim.verdict.startswith("holds") for claim in supplied.claims)
        judged = sum(claim.verdict in ("holds", "holds in part", "does not hold") for claim in supplied.claims)
        facts.append((f"{held} of {judged}", "judged claims hold, wholly or in part"))
    if supplied.outcomes:
        good = not any(outcome.failed for outcome in supplied.outcomes.values())
        facts.append(("every check passed" if good else "a check failed", "validation from scratch"))
    return facts


def _gc_over_sgb(source: Source) -> list[float]:
    found = {row["method"]: float(row["variance_mean70"]) for row in source.summary}
    one, other = found.get(b"gc"), found.get(b"sgb")
    return [one / other] if one is not None and other else []


def _study(sources: list[Source]) -> Study:
    """Sort the settings of some files into those they share and the others."""
    configs = [source.config for source in sources]
    keys = [key for key in sorted({key for config in configs for key in config}) if key not in ("schema", "methods")]
    keys.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    same = [key for key in keys if all(config.get(key) == configs[0].get(key) for config in configs[1:])]
    rest = [key for key in keys if key not in same]
    return Study(
        "Random features" if sources[0].is_sweep else "Images",
        sources,
        [(_label(key), _setting(key, configs[0][key])) for key in same],
        [_label(key) for key in rest],
        [[_setting(key, config[key]) if key in config else "–" for key in rest] for config in configs],
    )


def _methods(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Return the estimators that the files measure, each with what it is."""
    names = methods_in_order(name for source in sources for name in _names(source.config.get("methods")))
    return [(method_label(name), _METHODS.get(name) or _further(name)) for name in names]


def _names(value: Any) -> list[str]:
    return [name[:32] for name in value[:100] if isinstance(name, str)] if isinstance(value, list) else []


def _further(name: str) -> str:
    """Describe a method whose name carries a number."""
    what, _, detail = name.partition("-")
    if what == "gc" and detail.startswith("rank"):
        return f"the same with centres of rank {detail[4:]}"
    if what == "sketched" and detail.startswith("drift"):
        return f"clusters on sketches, made to age better by a drift of {detail[5:]}"
    return "an estimator that this version does not describe"


def _label(key: str) -> str:
    words = {"overparametrization": "over-parametrization hₛ/N", "n_examples": "training examples"}
    return words.get(key, key.replace("_", " "))[:_MOST]


def _setting(key: str, value: Any) -> str:
    """Write a value of a configuration as a reader would."""
    if key in _MEANINGS and value in (0, []):
        return _MEANINGS[key]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return _short(", ".join(_setting("", item) for item in value[:100]), "none")
    if isinstance(value, float):
        return f"{value:g}"
    return _short(str(value) if isinstance(value, int | str) else json.dumps(value), "none")


def _json(config: Mapping[str, Any]) -> str:
    return _short(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False), most=_MOST_JSON)
