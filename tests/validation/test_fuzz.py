import re
import sys

import numpy as np
import pytest

from gcref.validation import fuzz, mutations
from gcref.validation.fuzz_readers import READERS, Reader

# Answers as the process that reads does, until something happens at file 1.
STUB = """
import json, os, sys, time
for case in range(int(sys.argv[4]), int(sys.argv[5])):
    megabytes = 50
    if case == 1:
        {fault}
    print(json.dumps([case, "refused", "", megabytes]), flush=True)
"""
FAULTS = {
    "crash": ("os.kill(os.getpid(), 11)", "exit code -11"),
    "hang": ("time.sleep(60)", "no answer for 2 s"),
    "memory": ("megabytes = 1001", "1001 MB"),
    "outside": ("open('outside/new', 'w').close()", "outside/secret.h5"),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_stands_a_few_bad_files(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    n = 3 if reader.startswith("validate") else 8
    found = list(fuzz.read_all(reader, 0, range(n), tmp_path))
    assert [case for case, *_ in found] == list(range(n))
    assert {outcome for _, outcome, _, _ in found} <= set(fuzz.FINE), found


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_stands_bad_files(reader, tmp_path):
    tally = fuzz.fuzz(reader, 30, 1, tmp_path)
    assert tally.faults == []
    assert tally.counts.total() == 30
    assert tally.counts["refused"] > 5


@pytest.mark.parametrize("name", FAULTS)
def test_what_befalls_the_process_that_reads_is_found(name, tmp_path, monkeypatch):
    fault, message = FAULTS[name]
    stub = tmp_path / "stub.py"
    stub.write_text(STUB.format(fault=fault))
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(fuzz, "COMMAND", [sys.executable, str(stub)])
    tally = fuzz.fuzz("bad", 3, 0, tmp_path / "work", seconds=2.0)
    (found,) = tally.faults
    assert re.search(f"{name}: .*{message}", found)
    assert tally.counts["refused"] == (3 if name == "outside" else 2)
    assert fuzz.table([tally]).count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("two\nlines"), ValueError("")])
def test_errors_that_are_none_of_the_readers_are_found(error, tmp_path, monkeypatch):
    answers = iter(["whole", "whole", "other", error, ValueError("refused")])

    def read(folder):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    bad = Reader(lambda folder: (folder / "a").write_bytes(bytes(100)), read, (ValueError,))
    monkeypatch.setitem(READERS, "bad", bad)
    found = [outcome for _, outcome, _, _ in fuzz.read_all("bad", 0, range(4), tmp_path)]
    assert found == ["as it was", "other numbers", "exception", "refused"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak includes the parent's")
def test_memory_is_that_of_the_process_that_reads(tmp_path):
    ballast = np.ones(fuzz.MOST_MEMORY // 8 + 1)  # in this process
    tally = fuzz.fuzz("idx", 2, 0, tmp_path)
    assert 10 < tally.megabytes < ballast.nbytes // 10**6
    assert tally.faults == []


def test_the_same_seed_makes_the_same_file(tmp_path):
    READERS["traces npz"].make(tmp_path)
    path = tmp_path / "packed.npz"
    whole, made = path.read_bytes(), []
    for seed in (0, 0, 1, 2, 3):
        path.write_bytes(whole)
        mutations.mutate(path, np.random.default_rng(seed))
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert len(set(made)) == 4
