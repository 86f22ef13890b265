"""What several commands need: lists of numbers, JSON, and errors that end in exit code 2."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table


class ListOf(click.ParamType):
    """A comma-separated list of values of one type; the option may also be repeated."""

    def __init__(self, convert: type, name: str):
        self.convert_one, self.name = convert, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        """Split at commas and convert each part."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        try:
            return tuple(self.convert_one(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self.name}", param, ctx)


METHODS_HELP = (
    "Estimators to measure: sgb, sg2b, svrg, gc; and gc-rankR (centres of rank R), exact (exact centres), exchange, "
    "sketched, sketched-driftX (exchange on sketches, with drift X)."
)

FLOATS = ListOf(float, "numbers")
INTEGERS = ListOf(int, "integers")
WORDS = ListOf(str, "names")


def printable(text: str) -> str:
    """Write out control characters, such as those that tell a terminal what to do, but for line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def flatten(values: tuple[tuple, ...]) -> tuple:
    """Join the lists of a repeated option."""
    return tuple(value for group in values for value in group)


def json_text(value: Any, indent: int | None = None) -> str:
    """Write lists and dictionaries as JSON, with null where a number is not finite: JSON has no word for it."""
    import json

    from gcref.contents import finite

    return json.dumps(finite(value), allow_nan=False, indent=indent)


def results_file(out: "Path") -> None:
    """Refuse the name of a results file that nobody would know as one; exit code 2."""
    if out.suffix not in {".h5", ".hdf5"}:
        raise click.UsageError(f"--out {out}: the name of a results file ends in .h5 or .hdf5")


def new_file(out: "Path", overwrite: bool, source: "Path | None" = None, flag: str = "--out") -> None:
    """Refuse a file that could not, or must not, be written; exit code 2. `source` is the one that is read."""
    import os

    if not out.parent.is_dir():
        raise click.UsageError(f"{flag} {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise click.UsageError(f"{flag} {out} is a folder; a file name is needed")
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise click.UsageError(f"{flag} {out} is the file that is read; give another name")
    if out.exists() and not overwrite:
        raise click.UsageError(f"{flag} {out} is already there; give another name, or --overwrite to replace it")
    if not os.access(out.parent, os.W_OK):
        raise click.UsageError(f"{flag} {out}: the folder {out.parent} cannot be written")


def command_line() -> str:
    """Return the command as it was given, for the file that it writes."""
    # A name that is no Unicode (a stray byte) would be refused by the file, at the very end.
    return shlex.join(["gcref", *sys.argv[1:]]).encode("utf-8", "backslashreplace").decode()


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError of the library into click's usage error: one sentence, exit code 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def wide_console(width: int) -> "Console":
    """Return a console of at least `width` columns: a table whose numbers are cut off is worse than wrapped lines."""
    import shutil

    from rich.console import Console

    size = shutil.get_terminal_size()
    return Console(width=max(size.columns, width), height=size.lines)


def print_whole(table: "Table") -> None:
    """Print a table with every column as wide as what it holds, however many there are."""
    needed = wide_console(10**4).measure(table).maximum
    wide_console(needed).print(table)
