"""Files of small sweeps, whole and spoilt, judged by the functions and by the command line."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from sweep_cases import run_here

from gcref import store
from gcref.data import reference
from gcref.studies.grid import Sweep
from gcref.validation import claims, section_4_2, section_4_3
from gcref.validation.verdicts import FAILS, HOLDS, UNJUDGED, Table

SMALL = {
    "learning_rate": (0.01,), "overparametrization": (0.5, 2.0, 6.0), "input_dim": (6,), "teacher_hidden": (7,),
    "seed": (0,), "duplicate_fraction": (0.0,), "batch_size": 4, "student_hidden": 60, "iterations": 40,
    "measure_every": 10, "refresh_every": 20,
}  # fmt: skip


def in_process(path: Path, **changes) -> Path:
    """Write the file of a small sweep, without a pool of workers."""
    return run_here(Sweep(**SMALL | changes), path)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "results.h5"
    more = {"learning_rate": (0.01, 0.1), "duplicate_fraction": (0.0, 0.2, 0.5)}
    return run_here(Sweep(**SMALL | more), path)


@pytest.fixture
def copy(real, tmp_path):
    return shutil.copy(real, tmp_path / "results.h5")


def main(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["claims", *map(str, arguments)])
    return claims.main()


def table(path, copies=False):
    summary = store.read_summary(path)
    return Table(summary[(summary["duplicate_fraction"] > 0) == copies])


def test_a_file_is_judged_by_its_summary(real):
    found = claims.judge(real)
    assert len(found) == 22
    assert len({claim.says for claim in found}) == 22
    assert found[0] == section_4_2.axes_that_matter(table(real))[0]
    assert set(section_4_3.clustering(table(real))) < set(found)
    assert set(section_4_3.duplicates(table(real, copies=True))) < set(found)
    assert [claim.verdict for claim in found[-2:]] == [UNJUDGED, UNJUDGED]


def test_duplicates_come_from_the_second_file_if_there_is_one(real, copy):
    with h5py.File(copy, "r+") as file:
        rows = file["summary"][()]
        rows["variance_mean70"][rows["method"] == b"gc"] /= 7
        file["summary"][()] = rows
    found = set(claims.judge(real, copy))
    assert set(section_4_3.clustering(table(real))) < found
    assert set(section_4_3.duplicates(table(copy, copies=True))) < found
    assert not set(section_4_3.duplicates(table(real, copies=True))) & found


def staleness(path):
    (claim,) = [claim for claim in claims.judge(path) if "stale" in claim.says]
    return claim


def test_staleness_is_measured_on_both_sides_of_a_refresh(real):
    fresh, stale = [], []
    with h5py.File(real) as file:
        for group in file["trajectories"].values():
            if group.attrs["overparametrization"] == 6 and group.attrs["duplicate_fraction"] == 0:
                gain = group["variance/svrg"][()] / group["variance/sgb"][()]
                fresh.append(np.log((gain[1] + gain[3]) / 2))
                stale.append(np.log((gain[2] + gain[4]) / 2))
    assert len(fresh) == 2
    numbers = re.findall(r"\d+\.\d+", staleness(real).measured)
    assert numbers == [f"{np.exp(np.mean(fresh)):.3f}", f"{np.exp(np.mean(stale)):.2f}"]


@pytest.mark.parametrize(("gains", "expected"), [((0, 0.5, 0.9), HOLDS), ((0, 0.5, 1.1), FAILS), ((0, 0, 0.5), FAILS)])
def test_staleness_by_construction(copy, gains, expected):
    with h5py.File(copy, "r+") as file:
        for group in file["trajectories"].values():
            group["variance/svrg"][()] = np.array([0, *gains[1:], *gains[1:]]) * group["variance/sgb"][()]
    claim = staleness(copy)
    assert claim.verdict == expected
    assert f"{gains[1]:.3f} at 10 steps from a refresh, {gains[2]:.2f} at the next" in claim.measured


def test_points_without_variance_tell_nothing_of_staleness(copy):
    with h5py.File(copy, "r+") as file:
        for group in file["trajectories"].values():
            group["variance/sgb"][()] = [1, 0, 1, 1, 0]
            group["variance/svrg"][()] = [0, 0, 0.9, 0.5, 0]
    assert "0.500 at 10 steps from a refresh, 0.90 at the next" in staleness(copy).measured


@pytest.mark.parametrize(
    "changes",
    [
        {"measure_every": 20},  # every measurement is a refresh
        {"refresh_every": 80},  # no snapshot grows old
        {"overparametrization": (0.5,)},
    ],
)
def test_staleness_that_was_not_measured(tmp_path, changes):
    claim = staleness(in_process(tmp_path / "results.h5", **changes))
    assert claim.verdict == UNJUDGED
    assert claim.measured.startswith("needs h_s/N above 1, and measurements")


@pytest.mark.parametrize(
    "changes",
    [
        {"overparametrization": (2.0,)},
        {"student_hidden": 48},  # N = 2 B, where SG-2B has no variance
        {"learning_rate": (0.1, 1e6), "weight_decay": 1.0, "iterations": 200, "measure_every": 20},
        {"learning_rate": (1e6, 1e7), "overparametrization": (2.0, 6.0), "iterations": 20},  # saturated
    ],
    ids=["one trajectory", "no SG-2B", "diverged", "steps too long"],
)
def test_an_unusual_file_is_judged(tmp_path, monkeypatch, capsys, changes):
    path = in_process(tmp_path / "results.h5", **changes)
    if max(changes.get("learning_rate", (0,))) == 1e6:
        assert np.isnan(store.read_summary(path)["variance_mean70"]).any()
    assert main(monkeypatch, path) == 1
    printed = capsys.readouterr().out
    assert printed.count(" rule: ") == 20
    assert not re.search(r"\bnan\b", printed)


# -------------------------------------------------------------------------------------- the command line


def test_exit_code_0_if_the_variances_are_the_papers(copy, monkeypatch, capsys):
    points = {
        (str(p["method"]), p["overparametrization"], str(p["aggregate"])): p["value"]
        for p in reference()
        if p["statistic"] == "variance" and p["duplicate_fraction"] == 0
    }
    with h5py.File(copy, "r+") as file:
        rows = file["summary"][()]
        rows["duplicate_fraction"][rows["duplicate_fraction"] == 0.5] = 0.4  # the paper has points at 0.5
        for row in rows:
            for aggregate in ("mean70", "max70"):
                key = (row["method"].decode(), row["overparametrization"], aggregate)
                row[f"variance_{aggregate}"] = points.get(key, row[f"variance_{aggregate}"])
        file["summary"][()] = rows
    assert main(monkeypatch, copy) == 0
    assert "\nPASS: 100.0% of SG-B, SG-2B, GC within 0.3" in capsys.readouterr().out


def test_exit_code_1_if_they_are_not_or_there_is_none_to_compare(real, tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, real) == 1
    assert "\nFAIL: 0.0% of" in capsys.readouterr().out
    other = in_process(tmp_path / "other.h5", learning_rate=(0.1,))
    assert main(monkeypatch, other) == 1
    assert "\nFAIL: no digitised point" in capsys.readouterr().out


def damaged(path):
    with h5py.File(path, "r+") as file:
        del file["trajectories"][next(name for name in file["trajectories"] if "ratio6-" in name)]
    return path


def text(path):
    path.write_text("text")
    return path


BAD = {
    "missing": (lambda path: path, "no such file"),
    "not HDF5": (text, "is not an HDF5 file"),
    "three methods": (lambda path: in_process(path, methods=("sgb", "svrg", "gc")),
                      "has no finished trajectory without duplicates of the methods sg2b"),
    "only duplicates": (lambda path: in_process(path, duplicate_fraction=(0.5,)),
                        "has no finished trajectory without duplicates of the methods gc, sg2b, sgb, svrg"),
    "all diverged": (lambda path: in_process(path, learning_rate=(1e6,), weight_decay=1.0, iterations=200),
                     "has no finished trajectory without duplicates of the methods gc, sg2b, sgb, svrg"),
    "damaged": (lambda path: damaged(in_process(path)), "cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_exit_code_2_names_the_file_and_what_is_wrong(bad, tmp_path, monkeypatch, capsys):
    make, message = bad
    path = make(tmp_path / "bad.h5")
    assert main(monkeypatch, path) == 2
    printed = capsys.readouterr().out
    assert printed.startswith(f"Error: {path}")
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("changes", [{}, {"methods": ("sgb",), "duplicate_fraction": (0.5,)}])
def test_exit_code_2_for_a_second_file_without_duplicates(real, tmp_path, monkeypatch, capsys, changes):
    second = in_process(tmp_path / "second.h5", **changes)
    assert main(monkeypatch, real, second) == 2
    assert capsys.readouterr().out.startswith(f"Error: {second} has no finished trajectory with duplicates of")


def test_the_markdown_table_is_well_formed(real, tmp_path, monkeypatch, capsys):
    poor = in_process(tmp_path / "poor.h5", overparametrization=(2.0,))
    everything = [*claims.judge(real), *claims.judge(poor)]
    lines = claims.as_markdown(everything).split("\n")
    assert lines[:2] == ["| Section | The paper says | Measured | Verdict |", "| --- | --- | --- | --- |"]
    assert len(lines) == 2 + len(everything)
    for line, claim in zip(lines[2:], everything, strict=True):
        first, *cells, last = line.split("|")
        assert first == last == ""
        assert [cell.strip() for cell in cells] == [claim.section, claim.says, claim.measured, f"**{claim.verdict}**"]
        assert all(cell.strip() for cell in cells)
    main(monkeypatch, poor, "--markdown")
    assert capsys.readouterr().out.startswith(claims.as_markdown(claims.judge(poor)) + "\n\n")
