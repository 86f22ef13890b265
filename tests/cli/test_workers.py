"""The options --dask and --scheduler."""

import sys

import numpy as np
import pytest
from click.testing import CliRunner

from gcref.cli import cli
from gcref.validation.kills import differences

SWEEP = [
    "rf-sweep", "--input-dim=6", "--teacher-hidden=7", "--ratio=0.5", "--seed=0", "--learning-rate=0.1",
    "--student-hidden=20", "--batch-size=4", "--iterations=40", "--measure-every=20", "--refresh-every=20",
]  # fmt: skip


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dask", "--scheduler=tcp://host:1"], "--scheduler tcp://host:1 and --dask exclude each other"),
        (["--workers=2", "--scheduler=tcp://host:1"], "--scheduler tcp://host:1 and --workers exclude each other"),
        (["--scheduler=nowhere"], "scheduler='nowhere' does not answer"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    pytest.importorskip("distributed")
    out = tmp_path / "results.h5"
    result = run(*SWEEP, "--out", out, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_work_to_share(tmp_path):
    np.savez(tmp_path / "traces.npz", A0=np.ones((4, 3)), D0=np.ones((4, 2)))
    result = run("cluster", tmp_path / "traces.npz", "--out", tmp_path / "l.npz", "--method=gc", "--dask")
    assert result.exit_code == 2
    assert "--dask has no meaning for --method gc" in result.output
    result = run("image", "--dataset=digits", "--method=monte-carlo", "--out", tmp_path / "i.h5", "--scheduler=x:1")
    assert result.exit_code == 2
    assert "--scheduler has no meaning for --method monte-carlo" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["traces.npz"]


def test_sketches_with_a_drift_are_shared_out_too(tmp_path):
    pytest.importorskip("distributed")
    np.savez(tmp_path / "traces.npz", A0=np.ones((4, 3)), D0=np.ones((4, 2)))
    flags = ("--n-clusters=2", "--method=sketched-drift0.1", "--scheduler=nowhere", "--out", tmp_path / "l.npz")
    result = run("cluster", tmp_path / "traces.npz", *flags)
    assert result.exit_code == 2
    assert "scheduler='nowhere' does not answer" in result.output


def test_without_dask(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    result = run(*SWEEP, "--out", tmp_path / "results.h5", "--dask")
    assert result.exit_code == 2
    assert 'Dask is not installed: pip install "gcref[distributed]"' in result.output


@pytest.mark.slow
def test_the_same_files(tmp_path):
    pytest.importorskip("distributed")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "traces.npz", A0=rng.standard_normal((50, 3)), D0=rng.standard_normal((50, 2)))
    for options in ([], ["--dask"]):
        name = "".join(options) or "here"
        assert run(*SWEEP, "--out", tmp_path / f"{name}.h5", *options).exit_code == 0
        out = tmp_path / f"{name}.npz"
        assert run("cluster", tmp_path / "traces.npz", "--n-clusters=5", "--out", out, *options).exit_code == 0
    assert differences(tmp_path / "here.h5", tmp_path / "--dask.h5") == []
    with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "--dask.npz") as far:
        assert all((here[name] == far[name]).all() for name in here)
