"""Tab completes, as the documentation says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gcref.cli import cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
SHELLS = sorted(set(re.findall(r"_GCREF_COMPLETE=(\w+)_source gcref", PAGE)))


def gcref(**environment):
    command = [sys.executable, "-m", "gcref.cli"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def completed(words, place):
    done = gcref(_GCREF_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(place))
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_commands_and_options():
    assert completed("gcref ", 1) == list(cli.list_commands(None))
    assert completed("gcref re", 1) == ["report", "reproduce"]
    assert set(completed("gcref image --pre", 2)) == {"--preset", "--precision"}
    assert completed("gcref image --preset ci", 3) == ["cifar10", "cifar100"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_that_is_told_of_has_a_script(shell):
    done = gcref(_GCREF_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert f"_GCREF_COMPLETE={shell}_complete" in done.stdout


def test_three_shells_are_told_of_and_one_in_the_help():
    assert SHELLS == ["bash", "fish", "zsh"]
    assert 'eval "$(_GCREF_COMPLETE=bash_source gcref)"' in cli.epilog


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_in_a_shell(tmp_path):
    """What the line of the documentation makes bash do when Tab is pressed."""
    program = tmp_path / "gcref"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gcref.cli "$@"\n')
    program.chmod(0o755)
    (line,) = re.findall(r"^echo '(eval .*bash_source.*)' >>", PAGE, re.MULTILINE)
    press = f'{line}\nCOMP_WORDS=(gcref val); COMP_CWORD=1; _gcref_completion gcref; echo "${{COMPREPLY[@]}}"'
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", press], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "validate\n"
