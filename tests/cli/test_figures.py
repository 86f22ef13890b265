import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from gcref.cli.figures import figures
from gcref.store import SUMMARY_DTYPE


def write(path, config, summary=(), status="complete"):
    """A results file with a summary, or with one trajectory of an image run."""
    with h5py.File(path, "w") as file:
        file.attrs.update(schema="gcref/1", config=json.dumps(config), complete=status != "unfinished")
        file["summary"] = np.array(list(summary), dtype=SUMMARY_DTYPE)
        group = file.create_group("trajectories/x")
        group.attrs["status"] = status
        group["iteration"] = np.arange(4)
        for name in ("variance/sgb", "variance/gc", "normalized_variance/sgb", "normalized_variance/gc"):
            group[name] = np.full(4, 0.1)
    return path


def sweep(path, share=0.0):
    rows = [
        (b"t", method, 0.01, x, 100, 100, 100, 0, share, 1e-3, 2e-3, 0.3, 0.4)
        for method in (b"sgb", b"gc")
        for x in (1.0, 10.0)
    ]
    return write(path, {"schema": "rf-sweep/1"}, rows)


def image(path, status="complete", **settings):
    config = {
        "schema": "image/1", "dataset": "digits", "model": "mlp", "label_smoothing": 0.0, "corrupt_fraction": 0.0,
        "duplicate_fraction": 0.0, "milestones": [], "refresh_every": 2, "iterations": 3, "method": "closed-form",
        "n_estimates": 50,
    } | settings  # fmt: skip
    return write(path, config, status=status)


def call(*args):
    return CliRunner().invoke(figures, [str(arg) for arg in args])


@pytest.fixture
def results(tmp_path):
    return sweep(tmp_path / "results.h5")


@pytest.fixture
def new(tmp_path):
    return tmp_path / "new"


def test_what_a_reader_should_know_of_the_file(tmp_path, results, new):
    run = image(tmp_path / "run.h5", status="unfinished")
    result = call(results, run, "--out", new, "--format", "svg")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == f"warning: {run} holds an unfinished run (1 trajectories)"


def test_one_line_a_file(results, new):
    result = call(results, "--out", new, "--format", "svg, PDF")
    assert result.exit_code == 0
    names = [f"figure{n}.{f}" for n in (4, 5, 9) for f in ("svg", "pdf")]
    assert result.stdout.splitlines() == [f"wrote {new / name}" for name in names]
    assert result.stderr == "skipped Fig. 8: the file has no trajectory with duplicates\n"
    assert sorted(p.name for p in new.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("variants", "drawn", "skipped"),
    [
        ([{}], [3], ["Fig. 6: no run has label smoothing or corruption", "Fig. 7: no run has duplicates"]),
        ([{}, {"label_smoothing": 0.1}], [3, 6], ["Fig. 7: no run has duplicates"]),
        (
            [{"duplicate_fraction": 0.5}],
            [7],
            [
                "Fig. 3: every run has label smoothing, corruption or duplicates",
                "Fig. 6: no run has label smoothing or corruption",
            ],
        ),
    ],
)
def test_image_runs(tmp_path, new, variants, drawn, skipped):
    paths = [image(tmp_path / f"{i}.h5", **settings) for i, settings in enumerate(variants)]
    result = call(*paths, "--out", new, "--format", "png", "--window", 2)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"wrote {new / f'figure{n}.png'}" for n in drawn]
    assert result.stderr.splitlines() == [f"skipped {line}" for line in skipped]


def test_files_of_both_studies(tmp_path, new):
    paths = [image(tmp_path / "run.h5"), sweep(tmp_path / "results.h5", share=0.5)]
    result = call(*paths, "--out", new, "--format", "png")
    assert [line.rsplit("/")[-1] for line in result.stdout.splitlines()] == ["figure8.png", "figure3.png"]
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [f"skipped Fig. {n}" for n in (4, 5, 9, 6, 7)]


def test_a_sweep_without_and_one_with_duplicates(tmp_path, results, new):
    result = call(sweep(tmp_path / "copies.h5", share=0.5), results, "--out", new, "--format", "png")
    assert result.exit_code == 0, result.output
    assert {path.name for path in new.iterdir()} == {f"figure{n}.png" for n in (4, 5, 8, 9)}
    assert result.stderr == ""


def test_the_window_changes_the_picture(tmp_path):
    run = image(tmp_path / "run.h5")
    with h5py.File(run, "a") as file:
        file["trajectories/x/variance/gc"][2] = 0.01
    pictures = []
    for window in ((), ("--window", 1), ("--window", 3)):
        call(run, "--out", tmp_path / "new", "--format", "png", "--overwrite", *window)
        pictures.append((tmp_path / "new" / "figure3.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[1] != pictures[2]


def test_overwrite(tmp_path, results, new):
    run = image(tmp_path / "run.h5")
    new.mkdir()
    for name in ("figure4.png", "figure3.png"):  # the first and the last to be drawn
        (new / name).write_text("mine")
        refused = call(results, run, "--out", new, "--format", "png")
        assert refused.exit_code == 2
        assert f"--out {new} already has {name}; give another name, or --overwrite to replace them" in refused.stderr
        assert [p.read_text() for p in new.iterdir()] == ["mine"]
        (new / name).unlink()
    (new / "figure4.png").write_text("mine")
    assert call(results, run, "--out", new, "--format", "png", "--overwrite", "--no-paper").exit_code == 0
    assert len(list(new.iterdir())) == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "gif"), "--format gif: png, svg, pdf, or several of them by commas, are expected"),
        (("--format", "png,gif"), "--format png,gif: png, svg, pdf, or several"),
        (("--format", ","), "--format ,: png, svg, pdf, or several of them by commas, are expected"),
        (("--window", "0"), "0 is not in the range x>=1"),
        (("--window", "2.5"), "'2.5' is not a valid integer"),
        (("--out", "/no/such/folder"), "--out /no/such/folder: the folder /no/such does not exist"),
        ((), "Missing option '--out'"),
    ],
)
def test_usage_errors(results, new, args, message):
    out = () if "--out" in args or not args else ("--out", new)
    result = call(results, *args, *out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not new.exists()


def test_files_that_do_not_go_together(tmp_path, results, new):
    run, again = image(tmp_path / "run.h5"), image(tmp_path / "again.h5")
    second = sweep(tmp_path / "second.h5")
    other = write(tmp_path / "toy.h5", {"schema": "toy/1"})
    empty = write(tmp_path / "empty.h5", {"schema": "rf-sweep/1"})
    for paths, message in (
        ((results, second), f"{results} and {second} both have data for Fig. 4; give one of them"),
        ((results, run, results), f"{results} is given twice"),
        ((run, results, again), f"{run} and {again} hold the same configuration; give one of them"),
        ((run, tmp_path / "x" / ".." / "run.h5"), f"{run} is given twice"),
        ((run, other), f"{other} is of a study without figures: config has schema 'toy/1'"),
        ((empty,), "there is data for no figure: the file has no trajectory without duplicates; the file has no"),
        ((), "Missing argument 'RESULTS...'"),
    ):
        result = call(*paths, "--out", new)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not new.exists()


def test_a_file_that_is_no_results_file(tmp_path, results, new):
    (tmp_path / "notes.h5").write_text("not HDF5")
    write(tmp_path / "list.h5", [])
    image(tmp_path / "wrong.h5", milestones=None)
    for name in ("notes.h5", "absent.h5", "list.h5", "wrong.h5"):
        result = call(results, tmp_path / name, "--out", new)
        assert result.exit_code == 2
        assert name in result.stderr
        assert "Traceback" not in result.stderr
    assert not new.exists()


def test_help_has_examples():
    result = CliRunner().invoke(figures, ["--help"])
    assert result.exit_code == 0
    assert "gcref figures results.h5 --out figures --overwrite" in result.stdout
