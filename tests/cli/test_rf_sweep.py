import dataclasses
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from gcref import shards, store
from gcref.cli import cli
from gcref.cli.progress import TimeLeft
from gcref.cli.rf_sweep import QUICK, _print_summary, rf_sweep
from gcref.studies.grid import Sweep

TINY = (
    "--ratio=0.5,1", "--learning-rate=0.1", "--input-dim=6", "--teacher-hidden=7", "--seed=0", "--batch-size=4",
    "--student-hidden=12", "--iterations=40", "--measure-every=10", "--refresh-every=20", "--workers=1",
)  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(cli, ["rf-sweep", *map(str, arguments)])


def run(*arguments, **options):
    command = [sys.executable, "-m", "gcref.cli", "rf-sweep", *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=120, **options)


def listing(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in folder.rglob("*")}


@pytest.fixture
def asked(monkeypatch):
    """Instead of running, keep what the library was asked for."""
    calls = []

    def run_sweep(sweep, out, workers, command, overwrite, progress, executor):
        calls.append((sweep, out, workers, overwrite))
        return False

    monkeypatch.setattr("gcref.studies.sweep.run_sweep", run_sweep)
    return calls


# --------------------------------------------------------------------------------------------------------- options


def test_every_default_shown_is_the_librarys():
    shown = {option.name: option.show_default for option in rf_sweep.params}
    for field in dataclasses.fields(Sweep):
        if field.name in {"schema", "gc_iterations"}:
            assert field.name not in shown
            continue
        value = getattr(Sweep(), field.name)
        values = value if isinstance(value, tuple) else (value,)
        assert shown[field.name] == ",".join(v if isinstance(v, str) else f"{v:g}" for v in values), field.name


def test_without_options_the_library_decides(asked, tmp_path):
    out = tmp_path / "x.h5"
    assert invoke("--out", out).exit_code == 0
    assert asked[0][0] == Sweep()
    assert asked[0][1] == out
    assert asked[0][3] is False


def test_every_option_reaches_the_library(asked, tmp_path):
    given = {
        "learning_rate": (0.5, 0.25), "overparametrization": (1.0,), "input_dim": (7,), "teacher_hidden": (8, 9),
        "duplicate_fraction": (0.2,), "seed": (5,), "methods": ("gc", "sgb"), "batch_size": 3, "student_hidden": 60,
        "head": "logistic", "student_init": "unit", "weight_decay": 0.5, "iterations": 60, "measure_every": 20,
        "refresh_every": 40, "precision": "float64", "snapshots": "all",
    }  # fmt: skip
    flags = []
    for name, value in given.items():
        flag = {"duplicate_fraction": "--duplicates"}.get(name, "--" + name.replace("_", "-"))
        flags += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else value]
    result = invoke("--out", tmp_path / "x.h5", *flags, "--workers", 3, "--overwrite")
    assert result.exit_code == 0, result.output
    assert asked[0][0] == Sweep(**given)
    assert asked[0][2:] == (3, True)


def test_lists_by_commas_or_repeated(asked, tmp_path):
    invoke("--out", tmp_path / "x.h5", "--ratio", "1, 2", "--ratio=3", "--seed", "4", "--seed", "2")
    assert asked[0][0] == Sweep(overparametrization=(1, 2, 3), seed=(4, 2))


def test_quick_and_what_is_given_besides(asked, tmp_path):
    out = tmp_path / "x.h5"
    invoke("--quick", "--out", out)
    invoke("--quick", "--out", out, "--seed", 7, "--ratio", "1")
    assert asked[0][0] == Sweep(**QUICK)
    assert asked[1][0] == Sweep(**(QUICK | {"seed": (7,), "overparametrization": (1.0,)}))


FIGURE_8 = Sweep(duplicate_fraction=(0.1, 0.5, 0.9), learning_rate=(0.01,))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--duplicates", "--out", "x.h5"), FIGURE_8),
        (("--out", "x.h5", "--duplicates"), FIGURE_8),
        (("--duplicates", "--overwrite", "--out", "x.h5"), FIGURE_8),
        (
            ("--duplicates", "0.2,0.4", "--out", "x.h5"),
            Sweep(duplicate_fraction=(0.2, 0.4), learning_rate=(0.01,)),
        ),
        (("--duplicates=0.2", "--out", "x.h5"), Sweep(duplicate_fraction=(0.2,), learning_rate=(0.01,))),
        (
            ("--duplicates", "0.2", "--duplicates", "0.4", "--out=x.h5"),
            Sweep(duplicate_fraction=(0.2, 0.4), learning_rate=(0.01,)),
        ),
        (("--duplicates", "0", "--out", "x.h5"), Sweep()),
        (
            ("--duplicates", "--learning-rate", "0.1", "--out", "x.h5"),
            dataclasses.replace(FIGURE_8, learning_rate=(0.1,)),
        ),
        (("--duplicates", "--quick", "--out", "x.h5"), Sweep(**QUICK, duplicate_fraction=(0.1, 0.5, 0.9))),
    ],
)
def test_duplicates_with_and_without_a_list(asked, flags, expected):
    result = invoke(*flags)
    assert result.exit_code == 0, result.output
    assert asked[0][0] == expected


# ------------------------------------------------------------------------------------------------------- bad input

BAD = [
    (("--methods", "sgb,sgd"), ("methods", "sgd")),
    (("--methods", ""), ("methods", "''")),
    (("--learning-rate", "-0.1"), ("learning_rate", "-0.1")),
    (("--learning-rate", "0"), ("learning_rate", "0.0")),
    (("--learning-rate", "nan"), ("learning_rate", "nan")),
    (("--learning-rate", "inf"), ("learning_rate", "inf")),
    (("--learning-rate", ""), ("--learning-rate", "''")),
    (("--learning-rate", "0.1,,0.2"), ("--learning-rate", "0.1,,0.2")),
    (("--learning-rate", "fast"), ("--learning-rate", "fast")),
    (("--learning-rate", "0.1,0.10"), ("learning_rate", "0.1, 0.1")),
    (("--seed", "0", "--seed", "0"), ("seed", "0, 0")),
    (("--seed", "-1"), ("seed", "-1")),
    (("--seed", "0.5"), ("--seed", "0.5")),
    (("--seed", "9223372036854775808"), ("seed", "9223372036854775808")),
    (("--input-dim", "10000000000"), ("input_dim", "10000000000")),
    (("--iterations", "1000000000000"), ("iterations", "1000000000000")),
    (("--ratio", "0"), ("overparametrization", "0.0")),
    (("--ratio", "51"), ("overparametrization", "51")),
    (("--ratio", "2000"), ("overparametrization", "2000")),
    (("--input-dim", "0"), ("input_dim", "0")),
    (("--teacher-hidden", "-2"), ("teacher_hidden", "-2")),
    (("--duplicates", "1"), ("duplicate_fraction", "1.0")),
    (("--duplicates", "0.99"), ("duplicate_fraction", "0.99")),
    (("--duplicates", "some"), ("--duplicates", "some")),
    (("--batch-size", "0"), ("batch_size", "0")),
    (("--batch-size", "ten"), ("--batch-size", "ten")),
    (("--iterations", "-5"), ("iterations", "-5")),
    (("--measure-every", "7"), ("measure_every", "7")),
    (("--refresh-every", "150"), ("refresh_every", "150")),
    (("--weight-decay", "-1"), ("weight_decay", "-1")),
    (("--weight-decay", "nan"), ("weight_decay", "nan")),
    (("--head", "hinge"), ("--head", "hinge")),
    (("--precision", "float16"), ("--precision", "float16")),
    (("--snapshots", "no"), ("--snapshots", "no")),
    (("--workers", "0"), ("--workers", "0")),
    (("surplus",), ("surplus",)),
]


@pytest.mark.parametrize(("flags", "named"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_values_are_named_and_nothing_is_made(tmp_path, flags, named):
    result = invoke("--out", tmp_path / "x.h5", *flags)
    assert result.exit_code == 2
    message = result.stderr.split("Error: ")[1]
    assert all(text in message for text in named), message
    assert "Traceback" not in result.output
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x", "x.txt", "x.h5.gz", ".h5", "x.H5.csv"])
def test_another_suffix_is_refused(tmp_path, name):
    result = invoke("--out", tmp_path / name)
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert name in result.stderr
    assert os.listdir(tmp_path) == []


def test_out_is_needed():
    result = invoke("--quick")
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_a_missing_folder_is_refused(tmp_path):
    result = invoke("--quick", "--out", tmp_path / "nowhere" / "x.h5")
    assert result.exit_code == 2
    assert "nowhere does not exist" in " ".join(result.stderr.split())
    assert os.listdir(tmp_path) == []


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "x.h5").mkdir()
    result = invoke("--quick", "--out", tmp_path / "x.h5")
    assert result.exit_code == 2
    assert "is a folder" in result.stderr
    assert os.listdir(tmp_path / "x.h5") == []


@pytest.mark.parametrize("kind", ["not HDF5", "another configuration", "cut short"])
def test_another_file_is_refused_and_not_touched(tmp_path, kind):
    out = tmp_path / "x.h5"
    if kind == "not HDF5":
        out.write_text("hello")
    else:
        shards.claim(out, "{}")
        attrs = {"gcref_version": "0", "command": "", "config": "{}", "complete": True}
        shards.merge(out, [], attrs, lambda group: [])
        if kind == "cut short":
            out.write_bytes(out.read_bytes()[:-50])
    before = listing(tmp_path)
    result = invoke("--quick", "--out", out)
    assert result.exit_code == 2
    assert {"not HDF5": "not an HDF5 file"}.get(kind, kind) in result.stderr
    assert "--overwrite" in result.stderr
    assert listing(tmp_path) == before


# -------------------------------------------------------------------------------------------------------- real runs


def test_a_run_and_the_same_command_again(tmp_path):
    first = run("--out", "x.h5", *TINY, cwd=tmp_path, capture_output=True)
    assert first.returncode == 0, first.stderr
    # Piped, progress is plain lines on stderr; the summary is on stdout.
    lines = first.stderr.splitlines()
    assert lines[0].startswith("0 of 2 trajectories, 0% of this run's work")
    assert lines[-1].startswith("2 of 2 trajectories, 100% of this run's work")
    assert "\x1b" not in first.stdout + first.stderr
    assert "x.h5: 2 trajectories in" in first.stdout
    assert first.stdout.endswith("  gcref figures x.h5 --out figures\n")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file.attrs["command"].startswith("gcref rf-sweep --out x.h5 ")
        assert len(file["trajectories"]) == 2
    before = listing(tmp_path)
    again = run("--out", "x.h5", *TINY, cwd=tmp_path, capture_output=True)
    assert again.returncode == 0
    assert "x.h5 is finished already: 2 trajectories, nothing to do." in again.stdout
    assert listing(tmp_path) == before
    other = run("--out", "x.h5", *TINY, "--weight-decay=0", cwd=tmp_path, capture_output=True)
    assert other.returncode == 2
    assert "another configuration (weight_decay 0.0001 instead of 0.0)" in " ".join(other.stderr.split())
    assert listing(tmp_path) == before
    replaced = run("--out", "x.h5", *TINY, "--weight-decay=0", "--overwrite", cwd=tmp_path, capture_output=True)
    assert replaced.returncode == 0
    assert '"weight_decay": 0.0' in store.read_attrs(tmp_path / "x.h5")["config"]
    assert os.listdir(tmp_path) == ["x.h5"]


def test_what_diverged_is_counted(tmp_path):
    flags = ("--learning-rate=0.1,1e6", "--weight-decay=1", "--iterations=200", "--measure-every=100")
    arguments = [f for f in TINY if f.split("=")[0] not in {g.split("=")[0] for g in flags}]
    arguments = [f.replace("--refresh-every=20", "--refresh-every=100") for f in arguments]
    result = run("--out", tmp_path / "x.h5", *arguments, *flags, capture_output=True)
    assert result.returncode == 0, result.stderr
    row = next(line for line in result.stdout.splitlines() if "1e+06" in line)
    assert row.split()[4:] == ["-"] * 5 + ["1"]
    summary = store.read_summary(tmp_path / "x.h5")
    assert np.isnan(summary["variance_mean70"]).sum() == 8


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gcref.cli", "rf-sweep", "--out", str(tmp_path / "x.h5"), *TINY]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    assert process.stdout is not None
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says EIO where the terminal's other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    process.stdout.close()
    text = shown.decode()
    assert "2 of 2 trajectories" in text
    assert "━" in text
    assert "\x1b[" in text
    assert " s left" in text


def test_every_column_of_the_summary_is_whole_however_many_methods_there_are(capsys):
    methods = ["sgb", "sg2b", "svrg", "gc", "gc-rank4", "exact", "exchange", "sketched", "sketched-drift0.125"]
    summary = np.zeros(len(methods), store.SUMMARY_DTYPE)
    summary["method"], summary["variance_mean70"] = methods, 1.5e-100 * np.arange(1, 1 + len(methods))
    summary["learning_rate"], summary["n_train"] = 0.001, 10000
    _print_summary(summary)
    shown = capsys.readouterr().out
    assert all(f" {method} " in shown for method in methods)
    row = shown.splitlines()[-2].split()
    assert row[:4] == ["0.001", "0", "0", "10000"]
    assert row[4:-1] == [f"{1.5e-100 * (1 + i):.2e}" for i in range(len(methods))]


# --------------------------------------------------------------------------------------------------- the time left


def test_time_left_is_guessed_at_a_trajectory_and_counts_down(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    left = TimeLeft()
    now[0] += 5
    assert left(0.0) == "time left unknown yet"
    now[0] += 5
    assert left(0.25) == "about 30 s left"
    now[0] += 10
    assert left(0.25) == "about 20 s left"
    now[0] += 80
    assert left(0.25) == "about 0 s left"
    assert left(0.5) == "about 2 min left"
    assert left(1.0) == "about 0 s left"
