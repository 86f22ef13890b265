import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from results_cases import RUN
from sweep_cases import run_here

from gcref.cli import cli
from gcref.studies.grid import Sweep
from gcref.validation import reproducing, reproduction
from gcref.validation.reproduction import FIGURES, Job, Plan, plan

TINY = Sweep(
    learning_rate=(0.01,), overparametrization=(0.5, 1.0), input_dim=(6,), teacher_hidden=(7,), seed=(0,), batch_size=4,
    student_hidden=12, iterations=40, measure_every=10, refresh_every=20,
)  # fmt: skip


def call(*args):
    return CliRunner().invoke(cli, ["reproduce", *map(str, args)])


@pytest.fixture
def small(monkeypatch):
    """Let Fig. 4b be of a grid of two trajectories, and Fig. 3a of one small run, both run in this process."""
    jobs = {"4b": Job("tiny", TINY), "3a": Job("digits", RUN)}
    monkeypatch.setattr(reproduction, "plan", lambda name, quick: Plan(name, FIGURES[name], (jobs[name],)))
    done = []

    def run_sweep(sweep, path, n_workers, command, overwrite, progress):
        done.append(path)
        run_here(sweep, path)

    monkeypatch.setattr("gcref.validation.reproducing.run_sweep", run_sweep)
    return done


def test_the_list():
    result = call("--list", "--workers", 2)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.split()[:1] and line.split()[0] in FIGURES]
    assert [row[0] for row in rows] == list(FIGURES)
    assert rows[list(FIGURES).index("4b")][-5:] == ["108", "about", "73", "s", "none"]
    assert rows[list(FIGURES).index("7")][-2:] == ["cifar10,", "cifar100"]
    assert "on 2 cores" in result.stdout


def test_the_list_of_the_quick_ones_for_machines():
    result = call("--list", "--quick", "--json", "--workers", 4)
    found = {entry["figure"]: entry for entry in json.loads(result.stdout)}
    assert set(found) == set(FIGURES) - {"3c"}
    assert found["8b"]["trajectories"] == 18
    assert found["8b"]["cores"] == 4
    assert "1.5, 2.5 and 3" in found["8b"]["left_out"]
    assert found["6"]["data_sets"] == []


def test_figure_1(tmp_path):
    result = call("--figure", 1, "--out", tmp_path / "here")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("HOLDS: ") == 6
    assert "1 trajectory, about 5 s on " in result.stdout
    assert "The paper gives no number for this figure" in result.stdout
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"figure1.png", "figure1.svg"}


def test_a_figure_of_random_features(tmp_path, small):
    result = call("--figure", "4B", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1] == f"  results   {tmp_path}/tiny.h5"
    assert lines[2].startswith("  cost      2 trajectories, about ")
    rows = [line.split() for line in lines if line.strip().startswith(("SG-", "SVRG", "GC"))]
    assert [row[0] for row in rows] == ["SG-B"] * 2 + ["SG-2B"] * 2 + ["SVRG"] * 2 + ["GC"] * 2
    assert all(row[-1] in ("yes", "no") for row in rows)
    assert "of 6 points of SG-B, SG-2B and GC" in result.stdout
    assert lines[-2:] == [f"wrote {tmp_path}/figure4b.png", f"wrote {tmp_path}/figure4b.svg"]
    assert (tmp_path / "figure4b.svg").read_text().startswith("<?xml")


def test_for_machines_and_once_more(tmp_path, small):
    first = call("--figure", "4b", "--out", tmp_path, "--json")
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found["figure"] == "4b"
    assert found["finished"] == []
    assert len(found["points"]) == 8
    for point in found["points"]:
        assert point["ratio"] == point["ours"] / point["paper"]
        assert point["within_a_factor_of_2"] is (0.5 < point["ratio"] < 2)
    assert {"says", "measured", "rule", "verdict"} <= set(found["sentences"][0])
    assert "  cost      2 trajectories" in first.stderr

    refused = call("--figure", "4b", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "already has figure4b.png, figure4b.svg" in " ".join(refused.stderr.split())

    (tmp_path / "figure4b.png").write_text("mine")
    again = call("--figure", "4b", "--out", tmp_path, "--json", "--overwrite")
    assert json.loads(again.stdout)["points"] == found["points"]
    assert json.loads(again.stdout)["finished"] == ["tiny"]
    assert small == [tmp_path / "tiny.h5"]  # a finished file is not run again, not even with --overwrite
    assert (tmp_path / "figure4b.png").read_bytes()[1:4] == b"PNG"


def test_results_of_another_configuration(tmp_path, small):
    (tmp_path / "tiny.h5").write_bytes(b"something else")
    result = call("--figure", "4b", "--out", tmp_path)
    assert result.exit_code == 2
    assert "tiny.h5" in result.stderr
    assert (tmp_path / "tiny.h5").read_bytes() == b"something else"
    assert small == []


def test_an_image_figure(tmp_path, small):
    result = call("--figure", "3a", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "no number for these curves" in result.stdout
    row = next(line.split() for line in result.stdout.splitlines() if line.strip().startswith("digits "))
    assert row[1] == "60"
    assert "the variance of SG-2B is always half of SG-B's (4.1, Fig. 3)\n  measured  0.444 to 0.444" in result.stdout
    assert (tmp_path / "figure3a.png").stat().st_size > 10_000
    machine = json.loads(call("--figure", "3a", "--out", tmp_path, "--json", "--overwrite").stdout)
    assert set(machine["measured"][0]["variance"]) == {"sgb", "sg2b", "svrg", "gc"}


def test_data_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GCREF_DATA", raising=False)
    for figure, name in (("3a", "mnist"), ("7", "cifar10"), ("3c", "imagefolder")):
        result = call("--figure", figure, "--out", tmp_path / "out")
        assert result.exit_code == 2
        message = " ".join(result.stderr.split("Error: ")[1].split())
        assert message.startswith(f"{name} is not in {tmp_path}/cache/gcref/{name}: ")
        assert "download" in message or "get images" in message
    assert not list(tmp_path.iterdir())


def test_images_in_a_folder_are_not_decoded_to_see_that_they_are_there(tmp_path):
    for place in ("train/ant", "val/ant"):
        (tmp_path / "images" / place).mkdir(parents=True)
        (tmp_path / "images" / place / "a.png").write_bytes(b"no picture")
    assert reproducing.check(plan("3c"), tmp_path / "out", str(tmp_path / "images")) == frozenset()
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"train", "val"}


def test_both_splits_are_looked_at_before_anything_is_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("gcref.data.load", lambda name, split, data_dir: asked.append((name, split)))
    reproducing.check(plan("7"), tmp_path / "out")
    assert asked == [(name, split) for name in ("cifar10", "cifar100") for split in ("train", "test")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give --figure NAME or --list"),
        (("--figure", "4", "--list"), "give --figure NAME or --list, not both"),
        (("--figure", "2"), "figure='2' is unknown; one of 1, 3, 3a"),
        (("--figure", "3c", "--quick"), "figure='3c' has no quick form"),
        (("--figure", "1", "--out", "/no/such"), "--out /no/such: the folder /no does not exist"),
        (("--figure", "1", "--out", "file"), "--out file is not a folder"),
        (("--figure", "1", "--workers", "2"), "--workers=2 has no meaning for Fig. 1, which needs no random features"),
        (("--figure", "3a", "--workers", "2"), "--workers=2 has no meaning for Fig. 3a, which needs no random"),
        (("--figure", "4b", "--data-dir", "x"), "--data-dir=x has no meaning for Fig. 4b, which needs no data files"),
        (
            ("--figure", "6", "--quick", "--data-dir", "x"),
            "--data-dir=x has no meaning for Fig. 6, which needs no data",
        ),
    ],
)
def test_usage_errors(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    result = call(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Stopped. What is finished is kept; the same command finishes it."),
        (OSError("no space"), 1, "no space; what is finished is kept, the same command finishes it"),
        (MemoryError(), 1, "out of memory; what is finished is kept"),
    ],
)
def test_what_stops_it(tmp_path, small, monkeypatch, failure, code, words):
    def fail(*_):
        raise failure

    monkeypatch.setattr("gcref.validation.reproducing.run_sweep", fail)
    result = call("--figure", "4b", "--out", tmp_path)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_a_quick_figure_as_a_user_runs_it(tmp_path):
    """A grid on worker processes, named apart from the paper's."""
    command = [sys.executable, "-m", "gcref.cli", "reproduce", "--figure", "8b", "--quick", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == [plan("8b", quick=True).jobs[0].name]
    known = [point["within_a_factor_of_2"] for point in found["points"] if point["paper"] is not None]
    assert len(known) == 24
    assert {path.name for path in (tmp_path / "reproduced").iterdir()} == {
        "quick-random-features-duplicates-0.5.h5", "figure8b-quick.png", "figure8b-quick.svg",
    }  # fmt: skip
