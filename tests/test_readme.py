"""What README promises is so."""

import contextlib
import io
import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from gcref.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_quick_start_is_two_blocks():
    quick_start = README.split("\n## Quick start\n")[1].split("\n## ")[0]
    assert len(blocks("sh", quick_start)) == len(blocks("sh")) == 2
    job, tests = blocks("sh")
    assert "gcref rf-sweep --quick --out quick.h5" in job
    assert tests.rstrip().endswith("/pytest --numprocesses logical")


def test_the_first_example_prints_what_it_says():
    example = blocks("python")[0]
    promised = re.search(r"# prints ([\d.]+)", example)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    assert printed.getvalue() == f"{promised}\n"


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_first_command_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, printed = re.search(r"^\$ gcref (toy .*)\n((?:.*\n)*?)\$ ", README, re.MULTILINE).groups()
    assert CliRunner().invoke(cli, shlex.split(command.replace(".gif", ".png"))).output == printed.replace(
        ".gif", ".png"
    )


def test_every_command_is_described():
    table = README.split("\n## The commands\n")[1].split("\n## ")[0]
    assert {name for name in cli.commands if f"`gcref {name}" in table} == set(cli.commands)
    for command, options in re.findall(r"`gcref ([\w-]+)([^`]*)`", table):
        known = {flag for option in cli.commands[command].params for flag in option.opts}
        assert set(re.findall(r"--[\w-]+", options)) <= known
