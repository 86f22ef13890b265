"""``gcref bench`` on stub suites: what it prints, writes and refuses; nothing is timed."""

import json
import re

import pytest
from click.testing import CliRunner

from gcref.cli import cli
from gcref.cli.bench import SUITES
from gcref.validation.benchmarks import baseline, peers, suites
from gcref.validation.benchmarks.alternating import Pair, Quartiles
from gcref.validation.benchmarks.limits import Limits
from gcref.validation.benchmarks.rows import Row
from gcref.validation.benchmarks.slopes import Slope, crossover


def bench(*arguments):
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def row(name, ratio, suite="engine", target=1.0):
    middle = Quartiles(ratio - 0.05, ratio, ratio + 0.05)
    return Row(suite, name, "torch", Pair(middle, middle, Quartiles(1.0, 1.0, 1.0)), target)


FOUND = {
    "engine": [row("fast", 0.5), row("slow", 1.5)],
    "table1": [
        Slope("table1", "U step", "T", (1, 2, 4), (1.0, 2.0, 4.0), "s", 1.0, "K = 2"),
        crossover("table1", "g⊙g", "ab", [0.5, 2.0], [0.5, 2.0], [True, False]),
    ],
}


class Stub:
    def __init__(self, name):
        self.found = FOUND.get(name, [])
        self.plans = []

    def rows(self, plan):
        self.plans.append(plan)
        yield from self.found


@pytest.fixture
def stubs(monkeypatch):
    made = {name: Stub(name) for name in suites.SUITES}
    monkeypatch.setattr(suites, "suite", made.__getitem__)
    monkeypatch.setattr(suites.limits, "measure", lambda quick: Limits({"float32": 2e9, "float64": 1e9}, 1e9, 2))
    monkeypatch.setattr(peers, "_version", lambda packages: {"torch": "2.9", "scikit-learn": "1.9"}.get(packages[0]))
    return made


def test_the_suites_are_those_of_the_benchmarks():
    assert SUITES == suites.SUITES
    assert set(peers.PEERS) <= set(re.findall(r"[\w-]+", bench("--help").output))
    assert all(f"\n    {name} " in bench("--help").output for name in suites.SUITES)


def test_all_suites_are_run_and_shown(stubs):
    result = bench()
    assert result.exit_code == 0, result.output
    for name, stub in stubs.items():
        assert stub.plans == [(False, frozenset({"torch", "scikit-learn"}))], name
    for part in ("0.500 [0.450, 0.550]", "met", "missed", "exponents of fitted power laws", "Eq. 8 or Eq. 9"):
        assert part in result.stdout
    assert "not installed, and left out: backpack, opacus (pip install backpack-for-pytorch opacus)" in result.stdout
    assert "engine: fast beside torch: 0.500 [0.450, 0.550], target 1: met" in result.stderr


def test_one_suite_quickly_with_one_peer(stubs):
    result = bench("--suite", "engine", "--quick", "--peers", "torch")
    assert result.exit_code == 0, result.output
    assert stubs["engine"].plans == [(True, frozenset({"torch"}))]
    assert stubs["table1"].plans == []
    assert "left out" not in result.stdout


def test_without_peers(stubs):
    result = bench("--suite", "engine", "--peers", "none")
    assert stubs["engine"].plans == [(False, frozenset())]
    assert "peers: none" in result.stdout


def test_json_on_standard_output_is_alone_there(stubs):
    result = bench("--quick", "--json")
    content = json.loads(result.stdout)
    assert content["schema"] == "gcref-bench/1"
    assert content["quick"] is True
    assert [found["name"] for found in content["rows"]] == ["fast", "slow"]
    assert content["peers"] == {"torch": "2.9", "backpack": None, "opacus": None, "scikit-learn": "1.9"}
    assert "0.500 [0.450, 0.550]" in result.stderr


def test_json_has_no_word_for_infinity(stubs):
    stubs["engine"].found = [row("fast", float("inf"))]
    content = json.loads(bench("--suite", "engine", "--json").stdout, parse_constant=pytest.fail)
    assert content["rows"][0]["ratio"] == {"low": None, "median": None, "high": None}


def test_json_in_a_file(stubs, tmp_path):
    path = tmp_path / "bench.json"
    assert bench("--suite", "table1", "--json", path).exit_code == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["slopes"][0]["exponent"] == pytest.approx(1.0)
    assert content["crossovers"][0]["paper"] == {"wrong": 0, "lost": 1.0}
    refused = bench("--suite", "table1", "--json", path)
    assert refused.exit_code == 2
    assert f"--json {path} is already there; give another name, or --overwrite" in refused.stderr
    assert bench("--suite", "engine", "--json", path, "--overwrite").exit_code == 0
    assert json.loads(path.read_text(encoding="utf-8"))["suites"] == ["engine"]


def test_plots(stubs, tmp_path):
    result = bench("--suite", "table1", "--out", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "plots" / "table1.png").read_bytes().startswith(b"\x89PNG")
    refused = bench("--suite", "table1", "--out", tmp_path / "plots")
    assert refused.exit_code == 2
    assert "already has plots" in refused.stderr
    assert bench("--suite", "table1", "--out", tmp_path / "plots", "--overwrite").exit_code == 0


def test_a_baseline_is_written_and_compared_with(stubs, tmp_path):
    path = tmp_path / "baseline.json"
    assert bench("--write-baseline", path).exit_code == 0
    assert json.loads(path.read_text(encoding="utf-8"))["full"] == {
        "engine: fast / torch": [0.45, 0.5, 0.55], "engine: slow / torch": [1.45, 1.5, 1.55],
    }  # fmt: skip
    same = bench("--compare", path, "--suite", "engine")
    assert same.exit_code == 0
    assert "beside the baseline: 2 as before; worse is a ratio beyond both spreads" in same.stdout
    stubs["engine"].found = [row("fast", 0.7), row("slow", 1.2)]
    changed = bench("--compare", path)
    assert changed.exit_code == 0  # a report, not a gate
    assert re.search(r"engine: fast / torch +0.700 \[0.650, 0.750\] +0.500 \[0.450, 0.550\] +worse", changed.stdout)
    assert "1 worse, 1 better" in changed.stdout


def test_fail_makes_it_a_gate(stubs, tmp_path):
    assert bench("--suite", "engine", "--fail").exit_code == 1  # "slow" misses its target
    stubs["engine"].found = [row("fast", 0.5)]
    assert bench("--suite", "engine", "--fail").exit_code == 0
    path = tmp_path / "baseline.json"
    path.write_text(baseline.updated(path, [row("fast", 0.3)], quick=False), encoding="utf-8")
    assert bench("--suite", "engine", "--compare", path, "--fail").exit_code == 1
    assert bench("--suite", "engine", "--compare", path).exit_code == 0


def test_the_shipped_baseline_is_the_default(stubs):
    result = bench("--quick", "--compare", "--suite", "engine")
    assert result.exit_code == 0, result.output
    assert "2 new" in result.stdout


def test_results_that_differ_end_with_a_sentence(stubs, tmp_path):
    def differ(plan):
        yield row("fast", 0.5)
        raise ArithmeticError("the loss differs from the peer's by a relative 1e-01; at most 1e-05 is allowed")

    stubs["engine"].rows = differ
    path = tmp_path / "baseline.json"
    result = bench("--suite", "engine", "--write-baseline", path)
    assert result.exit_code == 1
    assert "Error: ended early: the loss differs" in result.stderr
    assert "0.500 [0.450, 0.550]" in result.stdout  # what was found before is shown
    assert not path.exists()


def test_a_process_that_fails_ends_with_a_sentence(stubs):
    def fail(plan):
        raise ChildProcessError("gradient with {'d': 4} exited with 1: MemoryError")

    stubs["scaling"].rows = fail
    result = bench("--suite", "scaling")
    assert result.exit_code == 1
    assert "Error: ended early: gradient with {'d': 4} exited with 1: MemoryError" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--suite", "gpu"], "'gpu' is not one of"),
        (
            ["--peers", "torch,jax"],
            "peers: 'jax' is unknown; choose from torch, backpack, opacus, scikit-learn, or none",
        ),
        (["--json", "{tmp}"], "is a folder; a file name is needed"),
        (["--json", "{tmp}/none/a.json"], "the folder {tmp}/none does not exist"),
        (["--write-baseline", "{tmp}/none/a.json"], "the folder {tmp}/none does not exist"),
        (["--write-baseline", "{tmp}/broken.json", "--overwrite"], "broken.json is not a JSON file"),
        (["--write-baseline", "{tmp}/broken.json"], "--write-baseline {tmp}/broken.json is already there"),
        (["--compare", "{tmp}/broken.json"], "broken.json is not a JSON file"),
        (["--compare", "{tmp}/none.json"], "none.json cannot be read: No such file or directory"),
        (["--compare", "{tmp}/deep.json"], "deep.json is not a JSON file"),
        (["--json", "{tmp}/a.json", "--write-baseline", "{tmp}/x/../a.json"], "name one file, {tmp}/a.json; give two"),
        (["--out", "{tmp}/plots", "--suite", "rf"], "--out {tmp}/plots is for the plots of scaling and table1"),
        (["--out", "{tmp}/broken.json"], "--out {tmp}/broken.json is not a folder"),
        (["--out", "{tmp}/none/plots"], "the folder {tmp}/none does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_timed(stubs, tmp_path, arguments, told):
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    (tmp_path / "x").mkdir()
    result = bench(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert told.format(tmp=tmp_path) in " ".join(result.stderr.split())
    assert all(stub.plans == [] for stub in stubs.values())
    assert (tmp_path / "broken.json").read_text(encoding="utf-8") == "{"
