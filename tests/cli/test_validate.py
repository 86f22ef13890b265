import json
import shutil

import h5py
import pytest
from click.testing import CliRunner
from sweep_cases import run_here

from gcref.cli import cli
from gcref.studies.grid import Sweep
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun


def invoke(*arguments):
    return CliRunner().invoke(cli, ["validate", *map(str, arguments)])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "x.h5"
    sweep = Sweep(
        learning_rate=(0.1,), overparametrization=(0.5, 1.0), input_dim=(6,), teacher_hidden=(7,), seed=(0,),
        batch_size=4, student_hidden=12, iterations=40, measure_every=10, refresh_every=20,
    )  # fmt: skip
    run_here(sweep, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "x.h5"
    run = ImageRun(
        dataset="digits", hidden=(4,), n_examples=40, n_test_examples=20, batch_size=4, iterations=20,
        measure_every=10, refresh_every=20, gc_iterations=1,
    )  # fmt: skip
    run_image(run, path)
    return path


def rows_of(result):
    return {line.split("  ")[1].strip() for line in result.stdout.splitlines() if " pass " in line}


def test_a_good_file(results):
    before = results.read_bytes()
    result = invoke(results, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert {"digests", "snapshots", "replay: numbers", "labels", "Monte Carlo: pooled"} <= rows_of(result)
    assert "FAIL" not in result.stdout
    assert "normalized at T = 10: sgb 0." in result.stdout
    assert "optimum gap: alternating" in result.stdout
    assert f"{results}: every check passed (2 of 2 trajectories recomputed" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("2 of 2 trajectories, 100% of this run's work")
    assert results.read_bytes() == before


def test_the_checks_as_json(results, images, tmp_path):
    result = invoke(images, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["path"], found["passed"], found["extent"]) == (str(images), True, "2 snapshots")
    checks = {check["name"]: check for check in found["checks"]}
    assert {check["verdict"] for check in checks.values()} <= {"pass", "nothing", "finding"}
    assert checks["snapshots"]["compared"] > 0
    assert checks["snapshots"]["worst"] <= checks["snapshots"]["allowed"]
    path = tmp_path / "changed.h5"
    path.write_bytes(images.read_bytes())
    with h5py.File(path, "a") as file:
        next(iter(file["trajectories"].values()))["variance/gc"][0] *= 1.5
    result = invoke(path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    failed = [check for check in found["checks"] if check["verdict"] == "FAIL"]
    assert not found["passed"]
    assert all(check["n_failures"] == len(check["failures"]) for check in failed)
    assert any("iteration 0: variance/gc is " in line for check in failed for line in check["failures"])


def test_a_changed_file(results, tmp_path):
    path = tmp_path / "changed.h5"
    path.write_bytes(results.read_bytes())
    with h5py.File(path, "a") as file:
        for group in file["trajectories"].values():
            for series in [*group["variance"].values(), *group["normalized_variance"].values()]:
                series[...] = series[()] * 0.99
    result = invoke(path)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("0 of", "1 of", "2 of"))]
    assert 10 < len(lines) <= 20 + 8  # a line more for each check that has more failures than are shown
    assert any(": variance/" in line and " is 0.0" in line and ", expected 0.0" in line for line in lines)
    assert any(line.endswith(" more") for line in lines)
    assert "FAIL in digests, summary, snapshots, replay: numbers, objective" in result.stdout


@pytest.mark.parametrize("kind", ["missing", "folder", "not HDF5", "cut short", "another schema", "no config"])
def test_what_cannot_be_read_is_a_usage_error(results, tmp_path, kind):
    path = tmp_path / "x.h5"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(results.read_bytes())
    if kind == "not HDF5":
        path.write_text("hello")
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind in {"another schema", "no config"}:
        with h5py.File(path, "a") as file:
            if kind == "another schema":
                file.attrs["schema"] = "gcref/9"
            else:
                del file.attrs["config"]
    result = invoke(path)
    assert result.exit_code == 2
    message = result.stderr.split("Error: ")[1]
    assert str(path) in message
    assert "Traceback" not in result.output
    expected = {"missing": "no such file", "folder": "is a folder", "not HDF5": "not an HDF5 file",
                "cut short": "cut short", "another schema": "'gcref/9'", "no config": "config"}  # fmt: skip
    assert expected[kind] in message


def test_workers_must_be_positive(results):
    assert invoke(results, "--workers", 0).exit_code == 2


# ---------------------------------------------------------------------------------------------------------------------
# Image studies


def test_a_good_file_of_images(images):
    before = images.read_bytes()
    result = invoke(images, "--examples", 10)
    assert result.exit_code == 0, result.output
    assert {"data", "digests", "contents", "SG-2B", "summary", "parameters", "snapshots", "objective"} <= rows_of(
        result
    )
    assert "snapshots: 2 of 3 measuring points have a snapshot" in result.stdout
    assert f"{images}: every check passed (2 of 2 snapshots recomputed" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("2 of 2 snapshots, 100% of this run's work")
    assert images.read_bytes() == before


def test_a_changed_file_of_images(images, tmp_path):
    path = shutil.copy(images, tmp_path / "changed.h5")
    with h5py.File(path, "a") as file:
        for group in file["trajectories"].values():
            group["variance/gc"][...] = group["variance/gc"][()] * 1.001
    result = invoke(path)
    assert result.exit_code == 1
    assert "FAIL in digests, summary, snapshots, objective (2 of 2 snapshots recomputed" in result.stdout
    assert "iteration 20: variance/gc is " in result.stderr


def reconfigured(images, tmp_path, **changes):
    """A copy of the file with another configuration."""
    path = shutil.copy(images, tmp_path / "changed.h5")
    with h5py.File(path, "a") as file:
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | changes)
    return path


def test_missing_images_are_a_usage_error(images, tmp_path):
    path = reconfigured(images, tmp_path, dataset="cifar10")
    result = invoke(path, "--data-dir", tmp_path)
    assert result.exit_code == 2
    assert "cifar-10-binary.tar.gz" in result.stderr
    assert "Traceback" not in result.output


def test_a_damaged_configuration_of_images_is_a_usage_error(images, tmp_path):
    result = invoke(reconfigured(images, tmp_path, batch_size=0))
    assert result.exit_code == 2
    assert "batch_size=0" in result.stderr


def test_options_belong_to_a_study(images, results):
    for path, option, value in (
        (images, "--workers", 1),
        (results, "--examples", 10),
        (results, "--data-dir", "."),
    ):
        result = invoke(path, option, value)
        assert result.exit_code == 2
        assert f"{option}={value} has no meaning" in result.stderr
    assert invoke(images, "--examples", 0).exit_code == 2
