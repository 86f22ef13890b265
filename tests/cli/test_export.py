import sys

import pytest
from click.testing import CliRunner
from results_cases import diverged_file, unfinished_file

from gcref.cli import cli


def call(*args):
    return CliRunner().invoke(cli, ["export", *map(str, args)])


@pytest.fixture
def results(tmp_path):
    return diverged_file(tmp_path / "results.h5")


@pytest.mark.parametrize("args", [("--out", "t.csv"), ("--out", "t.CSV"), ("--out", "table", "--format", "csv")])
def test_the_whole_command(results, monkeypatch, args):
    monkeypatch.chdir(results.parent)
    result = call(results, *args)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {args[1]} (5 rows, 14 columns)\n"
    assert (results.parent / args[1]).read_text().startswith("trajectory,status,learning_rate,")


def test_netcdf(results, tmp_path):
    pytest.importorskip("xarray")
    result = call(results, "--out", tmp_path / "t.nc")
    assert result.stdout == f"wrote {tmp_path / 't.nc'} (2 trajectories × 3 iterations × 1 methods)\n"


def test_an_unfinished_file_is_exported_with_a_warning(tmp_path):
    result = call(unfinished_file(tmp_path), "--out", tmp_path / "t.csv")
    assert result.exit_code == 0
    assert result.stderr == f"warning: {tmp_path / 'part.h5'} holds an unfinished run (1 trajectories)\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--out", "t.xlsx"), "t.xlsx: a name that ends in .csv, .parquet, .nc is expected, or --format"),
        (("--out", "no/t.csv"), "the folder no does not exist"),
        (("--out", "results.h5", "--format", "csv", "--overwrite"), "is the file that is read"),
        (("--out", "t.parquet"), "parquet needs the package pyarrow: pip install 'gcref[export]'"),
        ((), "Missing option '--out'"),
    ],
)
def test_usage_errors(results, monkeypatch, args, message):
    monkeypatch.chdir(results.parent)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = call("results.h5", *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in results.parent.iterdir()] == ["results.h5"]


def test_what_is_no_results_file(tmp_path):
    (tmp_path / "notes.h5").write_text("not HDF5")
    for name in ("notes.h5", "absent.h5"):
        result = call(tmp_path / name, "--out", tmp_path / "t.csv")
        assert result.exit_code == 2
        assert name in result.stderr
        assert "Traceback" not in result.output
    assert not (tmp_path / "t.csv").exists()


def test_overwrite(results, tmp_path):
    out = tmp_path / "t.csv"
    out.write_text("mine")
    assert "is already there" in call(results, "--out", out).stderr
    assert out.read_text() == "mine"
    assert call(results, "--out", out, "--overwrite").exit_code == 0
    assert out.read_text() != "mine"
