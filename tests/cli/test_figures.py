import numpy as np
import pytest
from click.testing import CliRunner

from gcref.cli.figures import figures
from gcref.store import SUMMARY_DTYPE


@pytest.fixture
def summary():
    rows = [
        (b"t", method, 0.01, x, 100, 100, 100, 0, 0.0, 1e-3, 2e-3, 0.3, 0.4)
        for method in (b"sgb", b"gc")
        for x in (1.0, 10.0)
    ]
    return np.array(rows, dtype=SUMMARY_DTYPE)


@pytest.fixture
def run(monkeypatch, summary):
    """Run the command on a stored summary."""
    monkeypatch.setattr("gcref.store.read_summary", lambda path: summary)
    monkeypatch.setattr("gcref.store.doubts", lambda path: [])
    return lambda *args: CliRunner().invoke(figures, ["results.h5", *map(str, args)])


def test_what_a_reader_should_know_of_the_file(run, monkeypatch, tmp_path):
    monkeypatch.setattr("gcref.store.doubts", lambda path: ["holds an unfinished run"])
    result = run("--out", tmp_path / "new", "--format", "svg")
    assert result.stderr.splitlines()[0] == "warning: results.h5 holds an unfinished run"


def test_one_line_a_file(run, tmp_path):
    result = run("--out", tmp_path / "new", "--format", "svg, PDF")
    assert result.exit_code == 0
    names = [f"figure{n}.{f}" for n in (4, 5, 9) for f in ("svg", "pdf")]
    assert result.stdout.splitlines() == [f"wrote {tmp_path / 'new' / name}" for name in names]
    assert result.stderr == "skipped Fig. 8: the file has no trajectory with duplicates\n"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(names)


def test_overwrite(run, tmp_path):
    (tmp_path / "figure4.png").write_text("mine")
    refused = run("--out", tmp_path, "--format", "png")
    assert refused.exit_code == 2
    assert "already has figure4.png; --overwrite replaces them" in refused.stderr
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]
    assert run("--out", tmp_path, "--format", "png", "--overwrite", "--no-paper").exit_code == 0
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "gif"), "formats must be one of png, svg, pdf, got 'gif'"),
        (("--format", ","), "--format needs at least one of png, svg, pdf"),
        (("--out", "/no/such/folder"), "does not exist"),
        ((), "Missing option '--out'"),
    ],
)
def test_usage_errors(run, tmp_path, args, message):
    out = () if "--out" in args or not args else ("--out", tmp_path / "new")
    result = run(*args, *out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_results_file(tmp_path):
    (tmp_path / "notes.h5").write_text("not HDF5")
    for name in ("notes.h5", "absent.h5"):
        result = CliRunner().invoke(figures, [str(tmp_path / name), "--out", str(tmp_path / "new")])
        assert result.exit_code == 2
        assert name in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "new").exists()


def test_help_has_examples():
    result = CliRunner().invoke(figures, ["--help"])
    assert result.exit_code == 0
    assert "gcref figures results.h5 --out figures --overwrite" in result.stdout
