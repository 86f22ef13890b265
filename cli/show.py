"""``gcref show``: what is inside a file, in the terminal or for machines."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from gcref.cli.common import json_text, print_whole, printable, usage_errors

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-:=+*#"  # the latter where an encoding has no blocks
WIDTH = 32  # of a sparkline
STUDIES = {"rf-sweep/1": "random-features study", "image/1": "image study"}
ZEROS = {"n_examples": "all", "n_test_examples": "all", "width": "the model's own"}  # what 0 stands for
DECADES = 10  # below the top, beyond which a sparkline of variances ends


@click.command(short_help="Show what is inside a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show what is inside FILE: results of a study, traces, sketches, or the labels of clusters.

    Of results, the configuration and, for each learning rate and share of duplicates, the course of every series
    over training, averaged over the trajectories: the variance of each method (all on one logarithmic scale), then
    loss, accuracy and noise scale (tr Σ / ‖ḡ‖², logarithmic), each on its own. An unfinished run is shown as far as it
    got. --json has the numbers, null where one is not finite.

    \b
    Examples:
      gcref show results.h5
      gcref show labels.npz
      gcref show results.h5 --json | python -m json.tool
    """  # noqa: D301
    from gcref.contents import describe

    with usage_errors():
        found = describe(file)
    if as_json:
        click.echo(json_text(found))
        return
    title, facts = {"results": _results, "traces": _traces, "sketches": _sketches, "labels": _labels}[found["kind"]](
        found
    )
    click.echo(printable(f"{file}: {title}, {_size(found['bytes'])}"))
    for name, value in facts:
        click.echo(printable(f"  {name:<14} {value}"))
    if found["kind"] == "results" and found["groups"]:
        _print_series(found)


Facts = tuple[str, list[tuple[str, Any]]]


def _results(found: dict[str, Any]) -> Facts:
    """Tell a results file's title and what is known of it."""
    state = "complete" if found["complete"] else "unfinished"
    config = {key: value for key, value in found["config"].items() if key not in ("schema", "methods")}
    lists = {key: value for key, value in config.items() if isinstance(value, list) and len(value) > 1}
    varying = lists if found["study"] == "rf-sweep/1" else {}
    lengths = [len(group["iteration"]) for group in found["groups"]]
    facts = [("written by", f"gcref {found['gcref_version']}")]
    facts += [("command", found["command"])] if found["command"] else []
    facts += [("beware", f"it {doubt}") for doubt in found["doubts"]]
    diverged = f", {found['n_diverged']:,} diverged" if found["n_diverged"] else ""
    facts += [
        ("trajectories", f"{found['n_trajectories']:,}, with {max(lengths, default=0):,} measuring points{diverged}")
    ]
    facts += [("snapshots", f"{found['n_snapshots']:,}")]
    facts += [("methods", ", ".join(found["methods"]))]
    facts += _titled("varying", [_setting(key, value) for key, value in varying.items()])
    facts += _titled("settings", _lines([_setting(key, value) for key, value in config.items() if key not in varying]))
    return f"{STUDIES[found['study']]}, {state}", facts


def _titled(title: str, lines: Iterable[str]) -> list[tuple[str, Any]]:
    """Put a title before the first of some lines."""
    return [("" if i else title, line) for i, line in enumerate(lines)]


def _setting(key: str, value: Any) -> str:
    """Write a setting; a list as its members, and a 0 that stands for something as that."""
    if value == 0 and key in ZEROS:
        return f"{key} {ZEROS[key]}"
    return f"{key} {', '.join(map(str, value)) or '-' if isinstance(value, list) else value}"


def _lines(words: Sequence[str], width: int = 96) -> Iterator[str]:
    """Put settings into lines, none of them broken."""
    line = ""
    for word in words:
        if line and len(line) + len(word) + 2 > width:
            yield line
            line = ""
        line += f"; {word}" if line else word
    if line:
        yield line


def _traces(found: dict[str, Any]) -> Facts:
    return "traces of gradients", [*_extent(found), ("parameters", f"{found['n_parameters']:,}"), *_blocks(found)]


def _sketches(found: dict[str, Any]) -> Facts:
    facts = [("numbers each", found["dim"]), ("seed", found["seed"])]
    return "sketches of gradients", [*_extent(found), *facts, *_blocks(found)]


def _labels(found: dict[str, Any]) -> Facts:
    sizes, objective = found["sizes"], found["objective"]
    facts = [
        *_extent(found),
        ("clusters", f"{found['n_clusters']:,}, of {sizes['smallest']:,} to {sizes['largest']:,} examples, "
                     f"median {sizes['median']:,g}"),
        ("method", f"{found['method']}, seed {found['seed']}, gcref {found['gcref_version']}"),
        ("objective", f"{_number(objective[0])} to {_number(objective[-1])}  {sparkline(objective)}"),
    ]  # fmt: skip
    return "labels of clusters", facts


def _extent(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return [("examples", f"{found['n_examples']:,}")]


def _blocks(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """Tell the shapes of the parameter blocks."""
    shapes = [f"T {t:,} × I {i:,} × O {o:,}" for t, i, o in found["blocks"]]
    return [(f"block {k}", shape) for k, shape in enumerate(shapes)]


def _print_series(found: dict[str, Any]) -> None:
    """Print a table of all series, group by group."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    groups = found["groups"]
    keys = [key for key in ("learning_rate", "duplicate_fraction") if len({group.get(key) for group in groups}) > 1]
    last = max(group["iteration"][-1] for group in groups if group["iteration"])
    table = Table(box=SIMPLE_HEAD)
    for name in ("series", f"iterations 0 to {last:,}"):
        table.add_column(name, no_wrap=True)
    for name in ("first", "last", "mean of the\nlast 70 %", "normalized"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        if keys:
            table.add_row(f"[bold]{', '.join(f'{key} {group[key]:g}' for key in keys)}")
        for row in _rows(group, found["methods"]):
            table.add_row(*(escape(printable(cell)) for cell in row))
        table.add_section()
    print_whole(table)


def _rows(group: dict[str, Any], methods: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a group's series: the methods' variances on one scale, then the others on their own."""
    series = group["series"]
    low, high = _ends([value for method in methods for value in _logs(series[f"variance/{method}"]["course"])])
    scale = max(low, high - DECADES), high
    for method in methods:
        shown = series[f"variance/{method}"]
        normalized = _number(series[f"normalized_variance/{method}"]["mean70"])
        yield f"variance {method}", sparkline(_logs(shown["course"]), *scale), *_numbers(shown), normalized
    for name, shown in series.items():
        if "/" not in name:
            values = _logs(shown["course"]) if name == "noise_scale" else shown["course"]
            yield name.replace("_", " "), sparkline(values), *_numbers(shown), ""


def _numbers(series: dict[str, Any]) -> tuple[str, str, str]:
    """Write the first and the last number of a series, and its mean."""
    course = series["course"]
    return (_number(course[0]), _number(course[-1]), _number(series["mean70"])) if course else ("-", "-", "-")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _logs(values: Sequence[float | None]) -> list[float | None]:
    """Take decimal logarithms, of what has one."""
    from math import log10

    return [log10(value) if value is not None and value > 0 else None for value in values]


def _ends(values: Sequence[float | None]) -> tuple[float, float]:
    """Return the least and the greatest of the numbers that are there."""
    there = [value for value in values if value is not None]
    return min(there, default=0.0), max(there, default=0.0)


def sparkline(
    values: Sequence[float | None], low: float | None = None, high: float | None = None, width: int = WIDTH
) -> str:
    """Draw numbers in a line of characters, each the mean of as many as fall to it.

    Parameters
    ----------
    values : sequence of float or None
        None is where there is no number, drawn as a space.
    low, high : float, optional
        The ends of the scale; by default those of the values.
    width : int
        The most characters.
    """
    low, high = (given if given is not None else end for given, end in zip((low, high), _ends(values), strict=True))
    marks = BLOCKS if _can_print(BLOCKS) else PLAIN
    n = min(width, len(values))
    line = ""
    for i in range(n):
        part = [v for v in values[i * len(values) // n : (i + 1) * len(values) // n] if v is not None]
        share = (sum(part) / len(part) - low) / (high - low) if part and high > low else 0.5
        line += marks[round(min(max(share, 0.0), 1.0) * (len(marks) - 1))] if part else " "
    return line


def _can_print(text: str) -> bool:
    """Tell whether standard output has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _size(n: int) -> str:
    """Write a number of bytes."""
    for unit, many in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= many:
            return f"{n / many:.1f} {unit}"
    return f"{n} bytes"
