"""docs/files.md names everything that the files hold, and nothing of a results file that is not there."""

import json
import re
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from results_cases import RUN, image_file, sweep_file, unfinished_file

import gcref
from gcref.cli import cli
from gcref.studies.grid import Sweep
from gcref.studies.image_run import ImageRun
from gcref.tables import HYPER_PARAMETERS, read_results, tidy
from gcref.trace_files import write_traces
from gcref.validation.benchmarks.alternating import Quartiles
from gcref.validation.benchmarks.baseline import updated
from gcref.validation.benchmarks.limits import Limits
from gcref.validation.benchmarks.rows import Row, against_seconds
from gcref.validation.benchmarks.slopes import Slope
from gcref.validation.benchmarks.suites import Report

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "files.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S))


@pytest.fixture(scope="module", params=[sweep_file, image_file])
def results(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("results"))


def test_every_array_of_a_results_file(results):
    text = SECTIONS["Results"]
    tree = text.split("```")[1]
    named = {name for line in tree.splitlines()[1:] for name in re.findall(r"[\w/<>]+", line.strip().split("  ")[0])}

    def generic(path):
        path = re.sub(r"snapshots/\d+", "snapshots/<iteration>", path)
        return re.sub(r"(variance|labels)/.*", r"\1/<method>", path).removeprefix("snapshots/<iteration>/")

    found = set()
    with h5py.File(results) as file:
        (group, *_) = file["trajectories"].values()
        group.visititems(lambda path, item: found.add(generic(path)) if isinstance(item, h5py.Dataset) else None)
        for name in [*file.attrs, *file["summary"].dtype.names]:
            assert f"`{name}`" in text, name
        for name in set(group.attrs) - {f.name for kind in (Sweep, ImageRun) for f in fields(kind)}:
            assert f"`{name}`" in text, name
        assert f"`{group.attrs['status']}`" in text
        assert f"`{file.attrs['schema']}`" in text
    assert found <= named
    assert {name for name in named - found if "/" not in name} <= {
        "summary", "test_loss", "test_accuracy", "learning_rate", "svrg_theta", "running", "svrg_running",
    }  # fmt: skip


def test_every_column_of_a_table(results):
    columns = tidy(read_results(results))
    for name in columns:
        assert f"`{name}`" in SECTIONS["Tables"], name
    for names in HYPER_PARAMETERS.values():
        assert all(f"`{name}`" in SECTIONS["Tables"] for name in names)


def test_every_part_of_an_unfinished_run(tmp_path):
    path = unfinished_file(tmp_path)
    for part in path.with_name("part.h5.parts").iterdir():
        name = re.sub(r"-\d+", "-<iteration>", part.name.replace(RUN.id, "<id>"))
        assert f"`results.h5.parts/{name}`" in SECTIONS["Parts of an unfinished run"], part.name


def test_every_array_of_the_archives(tmp_path):
    net = gcref.mlp((3, 4, 2), seed=0)
    rng = np.random.default_rng(0)
    traces = net.traces(rng.standard_normal((30, 3)), rng.integers(2, size=30))[1]
    write_traces(tmp_path / "traces.npz", traces)
    gcref.Sketches(8).add(traces).save(tmp_path / "sketches.npz")
    out = str(tmp_path / "labels.npz")
    CliRunner().invoke(cli, ["cluster", str(tmp_path / "traces.npz"), "--n-clusters", "4", "--out", out])
    for name, section in (("traces", "Traces"), ("sketches", "Sketches"), ("labels", "Labels of clusters")):
        with np.load(tmp_path / f"{name}.npz") as file:
            assert len(file.files) >= 3
            for array in file.files:
                assert f"`{array}`" in SECTIONS[section], array


def test_every_key_of_timings():
    text = SECTIONS["Timings"]
    rates = Limits({"float32": 1.0, "float64": 1.0}, 1.0, 1)
    report = Report([], False, {}, rates)
    row = Row("a", "b", "c", against_seconds(Quartiles(1.0, 1.0, 1.0), 1.0))
    slope = Slope("a", "b", "c", (1, 2), (1.0, 2.0), "s", None, "")
    written = json.loads(updated(Path("none.json"), [row], quick=False))
    for key in (*report.as_json(), *row.as_json(rates), *slope.as_json(), *Quartiles._fields, *written):
        assert f"`{key}`" in text, key
    for schema in (report.as_json()["schema"], written["schema"]):
        assert f"`{schema}`" in text


def test_every_section_is_in_the_list():
    listed = re.findall(r"\]\(#([\w-]+)\)", PAGE.split("\n## ")[0])
    assert listed == [name.lower().replace(" ", "-") for name in SECTIONS]
