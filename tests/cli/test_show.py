import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from results_cases import RUN, diverged_file, image_file, sweep_file, unfinished_file

import gcref
from gcref.cli import cli
from gcref.cli.show import sparkline
from gcref.contents import describe
from gcref.trace_files import write_traces


def call(*args):
    return CliRunner().invoke(cli, ["show", *map(str, args)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    sweep_file(folder)
    image_file(folder)
    diverged_file(folder / "diverged.h5")
    net = gcref.mlp((3, 4, 2), seed=0)
    rng = np.random.default_rng(0)
    traces = net.traces(rng.standard_normal((30, 3)), rng.integers(2, size=30))[1]
    for name in ("traces.h5", "traces.npz"):
        write_traces(folder / name, traces)
    gcref.Sketches(8, seed=3).add(traces).save(folder / "sketches.npz")
    done = CliRunner().invoke(
        cli, ["cluster", str(folder / "traces.h5"), "--n-clusters", "4", "--out", str(folder / "labels.npz")]
    )
    assert done.exit_code == 0, done.output
    return folder


def test_an_image_run(folder):
    result = call(folder / "image.h5")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{folder / 'image.h5'}: image study, complete, ")
    assert "  command        gcref image --out image.h5" in lines
    assert "  trajectories   1, with 5 measuring points" in lines
    assert "  snapshots      3" in lines
    assert any("n_examples 60" in line for line in lines)
    assert any("width the model's own" in line for line in lines)
    with h5py.File(folder / "image.h5") as file:
        series = file["trajectories"][RUN.id]["variance/gc"][()]
    (row,) = (line.split() for line in lines if "variance gc" in line)
    assert row[3:6] == [f"{series[0]:.3g}", f"{series[-1]:.3g}", f"{series[2:].mean():.3g}"]
    assert len(row[2]) == 5


def test_a_sweep_has_a_group_for_each_learning_rate(folder):
    result = call(folder / "sweep.h5")
    lines = [line.strip() for line in result.stdout.splitlines()]
    rates = [lines.index("learning_rate 0.1"), lines.index("learning_rate 0.3")]
    for start in rates:
        names = [" ".join(lines[start + i].split("  ")[0].split()) for i in range(1, 6)]
        assert names == ["variance gc", "variance sgb", "noise scale", "train loss", "train accuracy"]
    assert "varying        learning_rate 0.1, 0.3" in lines
    assert "overparametrization 0.5, 1.0" in lines


def test_json_has_the_numbers(folder):
    result = call(folder / "sweep.h5", "--json")
    found = json.loads(result.stdout)
    assert found == describe(folder / "sweep.h5")
    assert (found["kind"], found["study"], found["complete"]) == ("results", "rf-sweep/1", True)
    assert (found["n_trajectories"], found["n_diverged"], found["n_snapshots"]) == (4, 0, 12)
    assert [group["learning_rate"] for group in found["groups"]] == [0.1, 0.3]
    with h5py.File(folder / "sweep.h5") as file:
        series = [
            group["variance/gc"][()] for group in file["trajectories"].values() if group.attrs["learning_rate"] == 0.3
        ]
    shown = found["groups"][1]["series"]["variance/gc"]
    assert len(series) == found["groups"][1]["n_trajectories"] == 2
    np.testing.assert_allclose(shown["course"], np.mean(series, axis=0), rtol=1e-14)
    assert shown["mean70"] == pytest.approx(np.mean(series, axis=0)[2:].mean(), rel=1e-14)


def test_what_diverged(folder):
    found = json.loads(call(folder / "diverged.h5", "--json").stdout)
    assert [group["series"]["variance/sgb"]["course"] for group in found["groups"]] == [[1, 2, None], [4, 8]]
    result = call(folder / "diverged.h5")
    assert "2, with 3 measuring points, 2 diverged" in result.stdout
    assert result.stdout.count("variance sgb") == 2


def test_an_unfinished_run(tmp_path):
    result = call(unfinished_file(tmp_path))
    assert result.exit_code == 0
    assert "image study, unfinished" in result.stdout
    assert "beware         it holds an unfinished run (1 trajectories)" in result.stdout
    (tmp_path / "part.h5").unlink()
    result = call(tmp_path / "part.h5")
    assert result.exit_code == 2
    assert "no such file; an unfinished run left 4 parts in" in result.stderr


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_without_a_name(name):
    result = call(name)
    assert result.exit_code == 2
    assert "is a folder" in result.stderr


@pytest.mark.parametrize("name", ["traces.h5", "traces.npz"])
def test_traces(folder, name):
    result = call(folder / name)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert "traces of gradients" in result.stdout
    assert ["examples", "30"] in lines
    assert ["parameters", "26"] in lines
    assert ["block", "1", "T", "1", "×", "I", "5", "×", "O", "2"] in lines
    assert json.loads(call(folder / name, "--json").stdout)["blocks"] == [[1, 4, 4], [1, 5, 2]]


def test_sketches_and_labels(folder):
    shown = call(folder / "sketches.npz").stdout
    assert "sketches of gradients" in shown
    assert "numbers each   8\n  seed           3" in shown
    found = json.loads(call(folder / "labels.npz", "--json").stdout)
    with np.load(folder / "labels.npz") as file:
        assert found["objective"] == file["objective"].tolist()
        assert found["sizes"]["largest"] == file["sizes"].max()
    assert (found["n_examples"], found["n_clusters"], found["method"]) == (30, 4, "sketched")
    assert "  clusters       4, of " in call(folder / "labels.npz").stdout


def test_damaged_files(folder, tmp_path):
    for name in ("sweep.h5", "labels.npz", "sketches.npz", "traces.npz"):
        whole = (folder / name).read_bytes()
        for kind, data in {"cut": whole[: len(whole) // 2], "empty": b"", "zeros": bytes(len(whole))}.items():
            path = tmp_path / f"{kind}-{name}"
            path.write_bytes(data)
            result = call(path)
            assert result.exit_code == 2, (kind, name)
            assert path.name in result.stderr
            assert "Traceback" not in result.output
    for path in (tmp_path, tmp_path / "absent.h5"):
        assert call(path).exit_code == 2
    np.savez(tmp_path / "labels.npz", labels=np.zeros(3))
    assert "does not hold the labels of clusters" in call(tmp_path / "labels.npz").stderr
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    assert "has no A0" in call(tmp_path / "other.npz").stderr


def test_a_file_does_not_speak_to_the_terminal(tmp_path):
    path = diverged_file(tmp_path / "results.h5")
    with h5py.File(path, "a") as file:
        file.attrs["command"] = "\x1b[2Jgcref"
        for group in file["trajectories"].values():
            for kind in ("variance", "normalized_variance"):
                group[f"{kind}/[bold]\x1b[2J"] = np.ones(len(group["iteration"]))
    result = call(path)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "[bold]\\x1b[2J" in result.stdout


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, None, 7]) == "▁ █"
    assert sparkline([0, 0, 7, 7], width=2) == "▁█"
    assert sparkline([-5, 99], low=0, high=10) == "▁█"
    assert sparkline([3, 3]) == sparkline([5], low=5, high=5) * 2
    assert sparkline([]) == ""
    assert len(sparkline(range(1000))) == 32


def test_an_encoding_without_blocks(monkeypatch):
    monkeypatch.setattr("sys.stdout", type("Stream", (), {"encoding": "ascii"}))
    assert sparkline([0, 7]) == "_#"
