import re
import shutil

import h5py
import pytest
from click.testing import CliRunner
from page_cases import Page, image, row, sweep, table
from sweep_cases import run_here

from gcref.cli import cli
from gcref.cores import n_cores
from gcref.studies.grid import Sweep
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.validation import claims


def call(*arguments):
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


def section(out, name):
    return Page(out.read_text(encoding="utf-8")).root.one("section", id=name).text


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Draw no figures, which takes most of the time."""
    monkeypatch.setattr("gcref.report.page.draw", lambda drawings: [])


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """A small sweep without duplicates, and one with."""
    folder = tmp_path_factory.mktemp("sweeps")
    small = {
        "learning_rate": (0.1,), "overparametrization": (0.5, 2.0), "input_dim": (6,), "teacher_hidden": (7,),
        "seed": (0,), "batch_size": 4, "student_hidden": 24, "iterations": 40, "measure_every": 10, "refresh_every": 20,
    }  # fmt: skip
    plain = run_here(Sweep(**small), folder / "plain.h5")
    return plain, run_here(Sweep(**small, duplicate_fraction=(0.1, 0.3)), folder / "copies.h5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "digits.h5"
    run_image(
        ImageRun(
            dataset="digits", model="linear", n_examples=40, n_test_examples=20, batch_size=4, iterations=20,
            measure_every=10, refresh_every=20, gc_iterations=1,
        ),
        path,
    )  # fmt: skip
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "report.html"


def test_both_studies_on_one_page(sweeps, run, out, monkeypatch):
    monkeypatch.undo()  # draw
    before = [path.read_bytes() for path in (*sweeps, run)]
    result = call(*sweeps, run, "--out", out, "--no-paper", "--window", 3)
    assert result.exit_code == 0, result.output
    assert result.output == f"wrote {out}\n"
    page = Page(out.read_text(encoding="utf-8"))
    assert [h.text[:6] for h in page.root.one("section", id="figures").all("h3")] == [
        "Fig. 3", "Fig. 4", "Fig. 5", "Fig. 8", "Fig. 9",
    ]  # fmt: skip
    assert "hollow grey marks" not in out.read_text(encoding="utf-8").lower()
    rows = table(page, "The sentences, judged")[1:]
    assert rows == [
        [c.says, c.section, " ".join(c.measured.split()), c.rule or "–", c.verdict] for c in claims.judge(*sweeps)
    ]
    environment = section(out, "environment")
    assert f"cores{n_cores()}" in environment.replace(" ", "")
    assert re.search(r"jinja2\s*3\.", environment)
    again = "gcref report plain.h5 copies.h5 digits.h5 --out report.html --no-paper --window 3"
    assert again in section(out, "reproduce")
    assert [path.read_bytes() for path in (*sweeps, run)] == before


@pytest.mark.slow
def test_the_outcome_of_validation(sweeps, run, out):
    result = call(run, sweeps[0], "--out", out, "--validate", "--workers", 1)
    assert result.exit_code == 0, result.output
    text = section(out, "validation")
    assert "plain.h5pass Every check passed (2 of 2 trajectories recomputed" in text
    assert "digits.h5pass Every check passed (2 of 2 snapshots recomputed" in text
    assert "Monte Carlo: pooled" in text
    assert "--out report.html --validate" in section(out, "reproduce")


def test_a_number_that_was_changed(run, out, tmp_path):
    path = shutil.copy(run, tmp_path / "changed.h5")
    with h5py.File(path, "a") as file:
        next(iter(file["trajectories"].values()))["variance/gc"][0] *= 1.5
    result = call(path, "--out", out, "--validate")
    assert result.exit_code == 1
    assert result.stdout == f"wrote {out}\n"
    assert f"{path}: FAIL in " in result.stderr.splitlines()[-1]
    text = section(out, "validation")
    assert "FAIL Not as it should be: " in text
    assert "iteration 0: variance/gc is " in text


def test_a_file_that_cannot_be_judged(tmp_path, out):
    path = sweep(tmp_path / "r.h5", [row("t", "sgb"), row("t", "gc")])
    assert call(path, "--out", out).exit_code == 0
    assert "Not judged: r.h5 has no finished trajectory without duplicates of the methods sg2b, svrg." in section(
        out, "claims"
    )
    copies = sweep(tmp_path / "c.h5", [row("t", "sgb", share=0.5)])
    assert call(copies, "--out", out, "--overwrite").exit_code == 0
    assert "Not judged: there is no trajectory without duplicates." in section(out, "claims")


def test_image_runs_judge_what_is_said_of_images(tmp_path, out):
    methods = ("svrg", "sgb", "sg2b", "gc")
    plain = image(tmp_path / "plain.h5", methods=methods, dataset="mnist")
    copies = image(tmp_path / "copies.h5", methods=methods, dataset="mnist", duplicate_fraction=0.5)
    short = image(tmp_path / "short.h5", methods=methods, dataset="mnist", points=3, seed=1)
    assert call(plain, copies, short, "--out", out).exit_code == 0
    rows = table(Page(out.read_text(encoding="utf-8")), "The sentences, judged")[1:]
    assert {row[1] for row in rows} == {"4.1, Fig. 3", "4.1, Fig. 3a", "4.1, Fig. 3d", "4.3, Fig. 7"}
    assert all(row[2].startswith("plain.h5 (mnist, mlp): ") for row in rows)
    assert "Not judged: short.h5 has 2 measuring points after the start" in section(out, "claims")


def test_a_doubtful_file_is_told_of(tmp_path, out):
    path = image(tmp_path / "run.h5", status="unfinished")
    result = call(path, "--out", out)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == f"warning: {path} holds an unfinished run (1 trajectories)"


def test_nothing_is_overwritten_unasked(tmp_path, out):
    path = image(tmp_path / "run.h5")
    out.write_text("mine")
    result = call(path, "--out", out)
    assert result.exit_code == 2
    assert f"--out {out} is there already; --overwrite replaces it" in result.stderr
    assert out.read_text() == "mine"
    assert call(path, "--out", out, "--overwrite").exit_code == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("page.h5", "must end in .html or .htm"),
        ("no/page.html", "does not exist"),
        ("folder.html", "is a folder; a file name is needed\n"),
    ],
)
def test_names_that_are_refused(tmp_path, name, message):
    (tmp_path / "folder.html").mkdir()
    result = call(image(tmp_path / "run.h5"), "--out", tmp_path / name, "--overwrite")
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "run.h5"]


def test_a_file_that_is_read_is_not_replaced(tmp_path):
    path = image(tmp_path / "run.html")
    before = path.read_bytes()
    result = call(path, "--out", tmp_path / "run.html", "--overwrite")
    assert result.exit_code == 2
    assert "run.html is a file that is read; give another name" in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [("--workers", 2), ("--data-dir", "x")])
def test_options_of_validation_need_it(tmp_path, out, options):
    result = call(image(tmp_path / "run.h5"), "--out", out, *options)
    assert result.exit_code == 2
    assert f"{options[0]}={options[1]} has no meaning without --validate" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("make", "option", "kind"),
    [(image, ("--workers", 2), "of the random-features study"), (sweep, ("--data-dir", "x"), "of an image study")],
)
def test_options_of_validation_need_a_file_of_their_study(tmp_path, out, make, option, kind):
    result = call(make(tmp_path / "file.h5"), "--out", out, "--validate", *option)
    assert result.exit_code == 2
    assert f"{option[0]}={option[1]} has no meaning: no file is {kind}" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["none.h5"], "none.h5: no such file"),
        (["text.h5"], "text.h5 is not an HDF5 file"),
        (["run.h5", "run.h5"], "run.h5 is given twice"),
        (["a.h5", "b.h5"], "both have data for Fig. 4"),
        ([], "Missing argument 'RESULTS...'"),
    ],
)
def test_files_that_are_refused(tmp_path, out, files, message):
    (tmp_path / "text.h5").write_text("text")
    image(tmp_path / "run.h5")
    for name in "ab":
        sweep(tmp_path / f"{name}.h5")
    result = call(*(tmp_path / name for name in files), "--out", out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not out.exists()


def test_a_full_disk_leaves_what_was_there(tmp_path, out, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    path = image(tmp_path / "run.h5")
    out.write_text("mine")
    monkeypatch.setattr("gcref.atomic.os.fsync", full)
    result = call(path, "--out", out, "--overwrite")
    assert result.exit_code == 1
    assert f"{out} cannot be written: No space left on device" in result.stderr
    assert out.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "run.h5"]
