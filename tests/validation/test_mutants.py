"""Mutation testing, tried on a package of one function."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

pytest.importorskip("cosmic_ray")

from gcref.validation import mutants, mutants_run
from gcref.validation.mutants import Mutant, Result, mutants_of, report, sample, wilson

SUMS = '''"""A module."""
from typing import Protocol


class Shape(Protocol):
    sides: int = 4


def total(numbers: "list[int] | None", /, start: int = 0, most: int = 100) -> int | None:
    """Add numbers up to 100."""
    for number in numbers:
        start += number
    if start > most:
        raise ValueError(f"at most {50 + 50} is expected")
    return start


def unused(x):
    return x + 1
'''
TESTS = """import pytest
from small.sums import total


def test_total():
    assert total([1, 2]) == 3
    assert total([1, 2], 4) == 7


def test_bound():
    with pytest.raises(ValueError):
        total([101])
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A package, its tests, and the root of both."""
    for name, text in (("small/__init__.py", ""), ("small/sums.py", SUMS), ("tests/test_sums.py", TESTS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    return tmp_path


def test_mutants_are_of_what_runs(small):
    found = {(m.line, m.operator) for m in mutants_of("small/sums.py")}
    assert {line for line, _ in found} == {9, 11, 13, 19}
    assert {(9, "core/NumberReplacer"), (11, "core/ZeroIterationForLoop"), (13, "core/AddNot")} <= found
    assert {operator for line, operator in found if line == 9} == {"core/NumberReplacer"}
    assert (13, "core/ReplaceComparisonOperator_Gt_GtE") in found
    assert (19, "core/ReplaceBinaryOperator_Add_Sub") in found
    assert not {operator for _, operator in found if operator.endswith(("BitOr", "_Is", "LShift"))}


def test_a_mutant_is_one_change(small):
    changes = {
        mutants.difference(SUMS, mutants.mutated(SUMS, m.operator, m.occurrence)) for m in mutants_of("small/sums.py")
    }
    assert {
        "for number in []:",
        "if not start > most:",
        "if start >= most:",
        "return x ** 1",
        "return x + 2",
    } <= changes
    assert mutants.difference("a\nb\nc\n", "a\nc\n") == ""


def a_mutant(module="small/sums.py", line=13, number=0):
    return Mutant(module, "core/AddNot", number, line, "if start > most:")


def test_a_sample_is_drawn_from_every_module_in_proportion():
    everything = [a_mutant(name, number=i) for name, n in (("a", 60), ("b", 30), ("c", 1)) for i in range(n)]
    drawn = sample(everything, 9, 3)
    assert Counter(m.module for m in drawn) == {"a": 6, "b": 3, "c": 1}
    assert Counter(m.module for m in drawn[:6]) == {"a": 3, "b": 2, "c": 1}
    assert len(set(drawn)) == 10
    assert drawn == sample(everything, 9, 3) != sample(everything, 9, 4)
    assert set(drawn) < set(sample(everything, 30, 3))
    assert set(sample(everything, 1000, 0)) == set(everything)


def test_the_interval_of_a_share():
    # Newcombe (1998): 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(10, 10)[1] == pytest.approx(1.0, rel=1e-12)


def test_results_are_kept_and_reported(tmp_path):
    results = [Result(a_mutant(), "if not start > most:", ""), Result(a_mutant(number=1), "é", "test_total")]
    assert mutants.read(tmp_path / "none") == []
    for result, mode in zip(results, "wa", strict=True):
        mutants.write(tmp_path / "found", [result], mode)
    assert mutants.read(tmp_path / "found") == results
    lines = report(results, {"small/sums.py": 20}).splitlines()
    assert (
        lines[1].split()
        == lines[2].replace("all", "small/sums.py").split()
        == ["small/sums.py", "20", "2", "1", "50.0%"]
    )
    assert lines[-3:] == [
        "survived: small/sums.py:13 core/AddNot 0",
        "  - if start > most:",
        "  + if not start > most:",
    ]


def test_the_statement_at_a_line():
    tree = ast.parse(
        "def f(\n    a,\n):\n    for i in (\n        1,\n    ):\n        g(\n            i,\n        )\n    return 1\n"
    )
    spans = [mutants_run.statement(tree, line) for line in range(1, 11)]
    assert spans == [(1, 1), (2, 2), (3, 3), *[(4, 6)] * 3, *[(7, 9)] * 3, (10, 10)]


def test_what_becomes_of_a_process():
    assert mutants_run.in_child(list, 60) == []
    assert mutants_run.in_child(lambda: ["one", "two"], 60) == ["one"]
    assert mutants_run.in_child(lambda: 1 // 0, 60) == ["no report"]
    assert mutants_run.in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), 60) == ["SIGKILL"]
    assert mutants_run.in_child(lambda: bytearray(mutants_run.MEMORY + 1), 60) == ["no report"]
    assert mutants_run.in_child(lambda: time.sleep(60), 1) == ["SIGALRM"]


def run(small, *arguments):
    """Mutation testing of the small package in a process of its own."""
    program = (
        "import sys, pathlib; from gcref.validation import mutants, mutants_run\n"
        f"mutants.ROOT = mutants_run.ROOT = pathlib.Path({str(small)!r})\n"
        "mutants.MODULES, mutants.TESTS = ('small/sums.py',), ('tests/test_*.py',)\n"
        f"sys.path.insert(0, {str(small)!r}); sys.exit(mutants.main({list(arguments)!r}))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=small)


@pytest.mark.slow
def test_a_whole_run(small):
    done = run(small, "found", "--sample", "1000", "--least", "1")
    assert done.returncode == 1, done.stderr
    found = {result.changed: result.killer for result in mutants.read(small / "found")}
    either = {"tests/test_sums.py::test_total", "tests/test_sums.py::test_bound"}  # whichever was quicker
    assert {found["for number in []:"], found["if start < most:"]} <= either
    assert found["if start == most:"] == "tests/test_sums.py::test_bound"
    assert found["if start >= most:"] == found["return x - 1"] == ""  # a bound not tried, a function not called
    # What is left after an interruption is done, and nothing else; a new test is seen by --again.
    lines = (small / "found").read_text().splitlines(keepends=True)
    (small / "found").write_text("".join(lines[:-1]))
    assert run(small, "found", "--sample", "1000", "--least", "0.1").returncode == 0
    assert (small / "found").read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    assert len(mutants.read(small / "found")) == len(lines)
    with (small / "tests/test_sums.py").open("a") as file:
        file.write("\n\ndef test_most():\n    assert total([100]) == 100\n")
    run(small, "found", "--sample", "1000", "--again")
    again = {result.changed: result.killer for result in mutants.read(small / "found")}
    caught = {changed: killer for changed, killer in again.items() if killer != found[changed]}
    assert len(caught) == 2  # a bound of 99, too
    assert caught["if start >= most:"] == "tests/test_sums.py::test_most"
    assert len(again) == len(found)


def test_tests_must_pass_without_a_mutation(small):
    (small / "tests/test_sums.py").write_text("def test_nothing():\n    assert False\n")
    done = run(small, "found")
    assert "the tests fail without a mutation: tests/test_sums.py::test_nothing" in done.stderr
    assert mutants.read(small / "found") == []
