"""Every dependency has its reason in CONTRIBUTING, and a lower bound that CI can install."""

import re
import subprocess
import sys
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| Dependency | For |\n| --- | --- |\n")[1]
ROWS = [line.split("|")[1:3] for line in TABLE.split("\n\n")[0].splitlines()]


def declared(extra):
    """Names of the dependencies of an extra, or of gcref itself."""
    found = [requirement.partition(";") for requirement in requires("gcref")]
    return {
        re.match(r"[\w-]+", name)[0].lower()
        for name, _, marker in found
        if (f'extra == "{extra}"' in marker if extra else not marker)
    }


def explained(extra):
    """Names in the table's rows of an extra, or of gcref itself."""
    own = [
        re.sub(r"`.*?`:?", "", names)
        for names, _ in ROWS
        if (f"`gcref[{extra}]`" in names if extra else "`" not in names)
    ]
    return {name.strip().lower() for names in own for name in names.split(",")}


@pytest.mark.parametrize("extra", ["", *metadata("gcref").get_all("Provides-Extra")])
def test_every_dependency_and_no_other_has_its_reason(extra):
    assert explained(extra) == declared(extra)
    assert all(reason.strip() for _, reason in ROWS)


def test_lower_bounds_are_read_and_not_written_twice():
    done = subprocess.run([sys.executable, ROOT / ".ci/lower_bounds"], capture_output=True, text=True, check=True)
    found = dict(line.split("==") for line in done.stdout.splitlines())
    assert set(found) == set().union(*map(declared, ["", *metadata("gcref").get_all("Provides-Extra")]))
    bounds = dict(
        re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    )
    del bounds["setuptools"]
    assert found == bounds
