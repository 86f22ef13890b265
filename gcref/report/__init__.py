"""A report: one page of HTML that shows what results files hold, to be read, printed or sent as it is.

The page loads nothing, from this machine or any other, and needs no script to be read; its only script sorts tables.
Whatever comes from a file is text: Jinja2 escapes it, and a policy in the page's head forbids all else.
"""

import os
from pathlib import Path

from gcref.atomic import replacing, writing
from gcref.report.page import Outcome, Supplied, plan, render
from gcref.report.sources import Source

__all__ = ["Outcome", "Source", "Supplied", "check", "plan", "render", "save"]

SUFFIXES = (".html", ".htm")


def check(out: Path, overwrite: bool = False) -> None:
    """Refuse a name that a page cannot be written under, before there is a page.

    Raises
    ------
    ValueError
        If nobody would know it as a page.
    FileExistsError
        If it is there already and `overwrite` is false, or is a folder.
    FileNotFoundError
        If its folder is missing.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out={out} must end in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    if out.is_dir():
        raise FileExistsError(f"{out} is a folder; a file name is needed")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already")


def save(html: str, out: Path, overwrite: bool = False) -> None:
    """Write a page as the file `out`, whole or not at all.

    Raises
    ------
    ValueError, FileExistsError, FileNotFoundError
        As `check`.
    OSError
        If it cannot be written; what was there is still there then.
    """
    check(out, overwrite)
    path = Path(os.path.realpath(out))  # the file that a link leads to, not the link
    with writing(out), replacing(path) as aside:
        aside.write_text(html, encoding="utf-8")
