"""The arithmetic of ``gcref bench``'s tables, on stub runs; no time is asserted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from gcref.validation.benchmarks import (
    alternating,
    baseline,
    clustering,
    limits,
    peers,
    rf,
    scaling,
    slopes,
    suites,
    table1,
    tables,
    workloads,
)
from gcref.validation.benchmarks.alternating import Pair, Quartiles
from gcref.validation.benchmarks.limits import Limits
from gcref.validation.benchmarks.rows import Row, Work, against_seconds

LIMITS = Limits({"float32": 100e9, "float64": 50e9}, 10e9, 2)


def quartiles(middle, spread=0.1):
    return Quartiles(middle - spread, middle, middle + spread)


def row(name="step", ratio=0.8, spread=0.05, target=1.0, **more):
    pair = Pair(quartiles(ratio, spread), quartiles(2.0), quartiles(2.0 / ratio))
    return Row("engine", name, "torch", pair, target, **more)


# -------------------------------------------------------------------------------------------------- who is timed


def test_sides_take_turns_and_each_begins_as_often():
    calls = []
    ours, theirs = iter([1.0, 2.0, 3.0, 4.0]), iter([2.0, 2.0, 2.0, 2.0])
    pair = alternating.alternate(
        lambda: calls.append("ours") or next(ours), lambda: calls.append("theirs") or next(theirs), 4
    )
    assert calls == ["ours", "theirs", "theirs", "ours"] * 2
    assert pair.ratio == alternating.quartiles([0.5, 1.0, 1.5, 2.0])
    assert pair.ours == (1.75, 2.5, 3.25)
    assert pair.theirs == (2.0, 2.0, 2.0)


def test_a_block_has_warm_runs_that_are_not_timed(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(alternating.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(alternating.time, "sleep", lambda _: None)

    def run():
        calls.append(1)
        now[0] += 100.0 if len(calls) <= 2 else 3.0 + len(calls) % 2

    assert alternating.block_time(run, 3, warm=2) == 4.0
    assert len(calls) == 5


def test_compare_runs_each_side_before_and_scales_theirs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(alternating.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(alternating.time, "sleep", lambda _: None)

    def taking(seconds):
        def run():
            now[0] += seconds

        return run

    pair = alternating.compare(taking(6.0), taking(1.5), 3, 2, times=2.0)
    assert pair.theirs.median == pytest.approx(3.0)
    assert pair.ratio == pytest.approx((2.0, 2.0, 2.0))


# ----------------------------------------------------------------------------------------- limits and operations


def test_the_limit_is_the_longer_of_operations_and_bytes():
    assert LIMITS.seconds(200e9, 10e9, "float32") == 2.0
    assert LIMITS.seconds(200e9, 10e9, "float64") == 4.0
    assert LIMITS.seconds(1e9, 30e9, "float32") == 3.0


def test_fraction_of_the_limit():
    assert row(work=Work(100e9, 0.0, "float64")).fraction(LIMITS) == 1.0
    assert row(work=Work(1e9, 10e9)).fraction(LIMITS) == 0.5
    assert row().fraction(LIMITS) is None


def test_limits_are_measured(monkeypatch):
    monkeypatch.setattr(limits, "_N", {True: 16})
    monkeypatch.setattr(limits, "_COPIED", {True: 1 << 12})
    monkeypatch.setattr(alternating, "PAUSE", 0.0)
    found = limits.measure(quick=True)
    assert set(found.gemm) == {"float32", "float64"}
    assert min(*found.gemm.values(), found.copy) > 0


def test_operations_of_the_mlp_by_hand():
    m = workloads.mlp()
    products = 785 * 1024 + 1025 * 1024 + 1025 * 10
    assert m.products == products
    assert m.center_products(128) == 128 * m.trace_numbers
    assert m.trace_numbers == 785 + 1024 + 1025 + 1024 + 1025 + 10
    assert workloads.gradient_work(m).flops == 2 * 128 * (3 * products - 785 * 1024)
    assert workloads.trace_work(m).flops == 2 * 128 * (2 * products - 785 * 1024)
    assert workloads.moments_work(m).flops == 2 * 128 * (4 * products - 785 * 1024)


def test_ours_is_what_the_names_say():
    m = workloads.model(workloads.gcref.mlp((5, 4, 10), dtype="float32"), (5,), 130)
    gradients = workloads.gcref.per_example_gradients(m.net.traces(m.x, m.y)[1]).astype(np.float64)
    assert workloads.norms(m)() == pytest.approx((gradients**2).sum(axis=1), rel=1e-5)
    assert workloads.moments(m)() == pytest.approx((gradients**2).sum(), rel=1e-5)
    assert sum(len(batch[0].A) for batch in workloads.anew(m)()) == 130
    workloads.matrix_products(list(workloads.anew(m)()), 3)()


# ------------------------------------------------------------------------------------------- verdicts and tables


@pytest.mark.parametrize(
    ("ratio", "target", "verdict"), [(0.9, 1.0, "met"), (1.0, 1.0, "met"), (1.1, 1.0, "missed"), (9, None, "")]
)
def test_verdicts(ratio, target, verdict):
    assert row(ratio=ratio, target=target).verdict == verdict


def test_seconds_that_are_allowed():
    pair = against_seconds(Quartiles(10.0, 12.0, 15.0), 20.0)
    assert pair == ((0.5, 0.6, 0.75), (10.0, 12.0, 15.0), (20.0, 20.0, 20.0))


def report(*found, suites_run=("engine",), **versions):
    out = suites.Report(list(suites_run), True, versions, LIMITS)
    for thing in found:
        out.take(thing)
    return out


def shown(made, capsys):
    for table in tables.tables(made):
        tables.show(table, to_stderr=False)
    return capsys.readouterr().out


def test_a_row_of_the_table(capsys):
    text = shown(report(row(work=Work(100e9, 5e6)), torch="2.0"), capsys)
    cells = text.splitlines()[-2].split()
    assert " ".join(cells[:3]) == "engine step torch"
    for part in ("2 [1.9, 2.1] s", "2.5 [2.4, 2.6] s", "0.800 [0.750, 0.850]", "met", "100", "50%"):
        assert part in text


def test_absolute_rows_name_the_seconds_that_are_allowed(capsys):
    start = Row("rf", "import gcref", "0.15 s", against_seconds(quartiles(0.12, 0.01), 0.15), 1.0, absolute=True)
    text = shown(report(start), capsys)
    assert "0.15 s" in text
    assert "its target" in text
    assert "0.800 [0.733, 0.867]" in text


def test_absent_peers_are_named():
    lines = list(tables.remarks(report(row(), torch="2.0", backpack=None, opacus=None)))
    assert "peers: torch 2.0" in lines
    assert "not installed, and left out: backpack, opacus (pip install backpack-for-pytorch opacus)" in lines


def test_what_is_not_measured_is_called_a_citation():
    lines = list(tables.remarks(report(suites_run=("clustering",))))
    assert [line for line in lines if line.startswith("cited, not measured here: ")]
    assert not any("cited" in line for line in tables.remarks(report(suites_run=("engine",))))


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 [2, 2] s"), (0.0125, "12.5 [12.5, 12.5] ms"), (2e-6, "2 [2, 2] µs")]
)
def test_units_of_seconds(seconds, text):
    assert tables.seconds(Quartiles(seconds, seconds, seconds)) == text


# ---------------------------------------------------------------------------------------------------- power laws


def test_exponents_of_power_laws():
    slope = slopes.Slope("table1", "U step", "T", (1, 2, 4), (3.0, 12.0, 48.0), "s", 2.0, "")
    assert slope.exponent == pytest.approx(2.0)
    assert slope.last == pytest.approx(2.0)
    assert slopes.fitted((1, 10, 100), (1.0, 1.0, 10.0)) == pytest.approx(0.5)


def test_rules_that_choose_a_form_are_judged_by_times():
    ratios = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    never = [False] * 6  # the paper's rule takes Eq. 9 everywhere
    found = slopes.crossover("table1", "g⊙g", "abcdef", ratios, ratios / 3.0, never)
    assert found.operations.wrong == 2  # at ratios of 1 and 2 Eq. 8 is the faster one
    assert found.operations.lost == pytest.approx((3.0 * 1.5) ** (1 / 6))
    assert found.paper.wrong == 4
    assert found.paper.lost == pytest.approx((12.0 * 6.0 * 3.0 * 1.5) ** (1 / 6))
    assert found.switch == pytest.approx(8.0**0.5)
    assert found.at_switch == (0, 1.0)


def test_the_switch_stays_at_equal_operations_where_nothing_is_gained():
    found = slopes.crossover("table1", "g⊙g", "abc", [0.5, 2.0, 4.0], [0.5, 2.0, 4.0], [True, False, True])
    assert (found.switch, found.operations, found.paper) == (1.0, (0, 1.0), (1, pytest.approx(4.0 ** (1 / 3))))


def test_forms_of_a_convolution_can_be_forced_and_agree():
    sizes = {"B": 3, "T": 16, "I": 18, "O": 5, "K": 4}
    for quantity in ("C⊙g", "g⊙g"):
        eq8, eq9 = (q for q in table1.CONV_ROWS if q.name.startswith(quantity))
        found = []
        for form in (eq8, eq9):
            with table1.forced(form.form):
                assert table1.costs.Operations(1, 2).choice == form.form
                found.append(form.run(table1.layer(sizes)))
        assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-3)
    assert table1.costs.Operations(1, 2).choice == "Eq. 8"


def test_predicted_exponents_are_those_of_table_1():
    by_name = {quantity.name: quantity for quantity in table1.CONV_ROWS}
    sizes = {"B": 2, "T": 16, "I": 18, "O": 5, "K": 4}
    assert by_name["C⊙g, Eq. 8"].count(sizes) == 2 * 20 * 18 * 5
    assert by_name["C⊙g, Eq. 9"].count(sizes) == 2 * 16 * 4 * 23
    assert by_name["g⊙g, Eq. 8"].count(sizes) == 2 * 16 * 18 * 5
    assert by_name["g⊙g, Eq. 9"].count(sizes) == 2 * 16 * 16 * 23
    assert by_name["C⊙C"].count(sizes) == 4 * 23
    assert by_name["back-prop"].count(sizes) == 2 * 16 * 18 * 5
    assert by_name["A step"].count(sizes) == 2 * 16 * 4 * 23 + 2 * 16 * 18 * 5 + 4 * 23
    assert [q.name for q in table1.fc_quantities()] == ["C⊙g", "C⊙C", "g⊙g", "back-prop", "A step", "U step"]


def test_every_row_of_table_1_runs():
    sizes = {"B": 3, "I": 18, "O": 5, "K": 4}
    for quantity in table1.fc_quantities():
        slope = table1.along("FC", quantity, {**sizes, "T": 1}, "K", (2, 4))
        assert (slope is None) == (quantity.name in ("g⊙g", "back-prop", "U step"))
    for quantity in table1.CONV_ROWS:
        quantity.run(table1.layer({**sizes, "T": 16}))


def test_the_papers_rule_for_eq_9():
    sizes = {"T": 16, "I": 18, "O": 17, "K": 20}
    assert table1.papers_eq9("g⊙g", sizes)
    assert not table1.papers_eq9("g⊙g", {**sizes, "T": 17})
    assert not table1.papers_eq9("C⊙g", sizes)  # K is not below min(I, O)
    assert not table1.papers_eq9("C⊙g", {**sizes, "K": 16})  # T is not below K
    assert table1.papers_eq9("C⊙g", {**sizes, "T": 9, "K": 16})


# --------------------------------------------------------------------------------------------------------- peers


def test_peers_by_name():
    assert peers.check_names(["scikit-learn", "torch", "torch"]) == ["torch", "scikit-learn"]
    assert peers.check_names(["none"]) == []
    with pytest.raises(ValueError, match="'tensorflow' is unknown; choose from torch, backpack, opacus, scikit-learn"):
        peers.check_names(["torch", "tensorflow"])


def test_a_peer_without_what_it_needs_is_absent(monkeypatch):
    def version(package):
        if package == "torch":
            raise peers.importlib.metadata.PackageNotFoundError
        return "1.2"

    monkeypatch.setattr(peers.importlib.metadata, "version", version)
    assert peers.versions(peers.PEERS) == {"torch": None, "backpack": None, "opacus": None, "scikit-learn": "1.2"}


# ------------------------------------------------------------------------------------------------------ baseline


def test_what_is_worse_than_a_baseline():
    before = {
        "engine: same / torch": Quartiles(0.78, 0.82, 0.9),
        "engine: slow / torch": Quartiles(0.3, 0.4, 0.5),
        "engine: fast / torch": Quartiles(1.3, 1.4, 1.5),
        "engine: lost / torch": Quartiles(1.0, 1.0, 1.0),
        "rf: other / torch": Quartiles(1.0, 1.0, 1.0),
    }
    found = baseline.compare([row("same"), row("slow"), row("fast"), row("extra")], before, ["engine"])
    assert {c.key.split()[1]: c.verdict for c in found} == {
        "same": "as before", "slow": "worse", "fast": "better", "extra": "new", "lost": "gone",
    }  # fmt: skip
    assert tables.summary(found).startswith(
        "beside the baseline: 1 as before, 1 worse, 1 better, 1 new, 1 gone; worse is"
    )


def test_spreads_that_touch_are_no_change():
    now = row(ratio=0.75, spread=0.25)
    (found,) = baseline.compare([now], {now.key: Quartiles(0.25, 0.375, 0.5)}, ["engine"])
    assert found == (now.key, (0.5, 0.75, 1.0), (0.25, 0.375, 0.5), "as before")


def test_a_baseline_keeps_ratios_and_no_seconds(tmp_path):
    path = tmp_path / "baseline.json"
    absolute = Row("rf", "start", "1 s", against_seconds(quartiles(0.5), 1.0), 1.0, absolute=True)
    path.write_text(baseline.updated(path, [row(), absolute], quick=False), encoding="utf-8")
    path.write_text(baseline.updated(path, [row("other", 0.5)], quick=True), encoding="utf-8")
    path.write_text(baseline.updated(path, [row("third")], quick=True), encoding="utf-8")
    assert baseline.read(path, quick=False) == {row().key: (0.75, 0.8, 0.85)}
    assert baseline.read(path, quick=True) == {
        "engine: other / torch": (0.45, 0.5, 0.55), "engine: third / torch": (0.75, 0.8, 0.85),
    }  # fmt: skip


def test_the_baseline_that_comes_along_can_be_read():
    for quick in (False, True):
        assert all(q.low <= q.median <= q.high for q in baseline.read(None, quick).values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not a JSON file"),
        ("[]", "is no baseline: its schema is not"),
        ('{"schema": "gcref-bench/1"}', "is no baseline: its schema is not"),
        ('{"schema": "gcref-bench-baseline/1", "full": {}}', "has no section 'quick'"),
        ('{"schema": "gcref-bench-baseline/1", "quick": {}, "full": {"a": [1, 2]}}', r"a is \[1, 2\]; three ratios"),
        ('{"schema": "gcref-bench-baseline/1", "quick": {}, "full": {"a": [1, 2, -1]}}', "three ratios above 0"),
    ],
)
def test_no_baseline(tmp_path, text, told):
    path = tmp_path / "baseline.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        baseline.read(path, quick=False)
    with pytest.raises(ValueError, match="cannot be read"):
        baseline.read(tmp_path / "none.json", quick=False)


# ---------------------------------------------------------------------------------------------- the suites' parts


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_suite_gives_rows(name):
    assert name == suites.suite(name).SUITE
    assert callable(suites.suite(name).rows)


def test_a_command_is_timed_and_a_failure_told(tmp_path):
    seconds, peak = rf.seconds_of([rf.sys.executable, "-c", "import time; time.sleep(0.15)"])
    assert seconds > 0.15
    assert peak >= 0
    with pytest.raises(ChildProcessError, match="exited with 1: KeyError: 'x'"):
        rf.seconds_of([rf.sys.executable, "-c", "{}['x']"])


@pytest.mark.parametrize("name", scaling.QUANTITIES)
def test_every_point_of_the_scaling_can_be_measured(name):
    quantity = scaling.QUANTITIES[name]
    assert set(quantity.axes) <= set(quantity.base)
    assert set(quantity.axes) == set(quantity.memory)
    seconds, memory = scaling.measure(name, quantity.small)
    assert seconds > 0
    assert memory >= 0


def test_points_of_the_scaling_come_from_processes_of_their_own(monkeypatch):
    seconds, memory = scaling._in_a_process("gradient", {"N": 16, "d": 200})
    assert seconds > 0
    assert memory >= 0
    with pytest.raises(ChildProcessError, match=r"gradient with {'N': 16} exited with 1: KeyError: 'd'"):
        scaling._in_a_process("gradient", {"N": 16})
    monkeypatch.setattr(scaling, "_in_a_process", lambda _, sizes: (2.0 * sizes["d"], 3 * sizes["d"] ** 2))
    found = list(scaling._along("gradient", scaling.QUANTITIES["gradient"], "d", (10, 100, 1000)))
    assert [(slope.unit, round(slope.exponent, 6), slope.predicted) for slope in found] == [("s", 1, 1), ("B", 2, 1)]
    monkeypatch.setattr(scaling, "_in_a_process", lambda _, sizes: (2.0 * sizes["d"], 0))
    found = list(scaling._along("gradient", scaling.QUANTITIES["gradient"], "d", (10, 100, 1000)))
    assert [slope.unit for slope in found] == ["s"]  # where memory is not measured


def test_sizes_that_a_machine_cannot_take_end_an_axis(monkeypatch):
    def measured(name, sizes):
        if sizes["d"] > most:
            raise ChildProcessError(f"{name} with {sizes} exited with 1: MemoryError")
        return 2.0 * sizes["d"], 0

    monkeypatch.setattr(scaling, "_in_a_process", measured)
    most = 100
    (found,) = scaling._along("gradient", scaling.QUANTITIES["gradient"], "d", (10, 100, 1000, 10_000))
    assert (found.sizes, found.values) == ((10, 100), (20.0, 200.0))
    assert found.fixed == "N = 128; not at 1,000: MemoryError"
    most = 10
    with pytest.raises(ChildProcessError, match="MemoryError"):
        next(scaling._along("gradient", scaling.QUANTITIES["gradient"], "d", (10, 100, 1000)))


def test_the_largest_sizes_are_those_that_are_promised():
    largest = dict.fromkeys("NKdT", 0)
    for quantity in scaling.QUANTITIES.values():
        for axis, values in quantity.axes.items():
            largest[axis] = max(largest.get(axis, 0), *values)
    assert {axis: largest[axis] for axis in "NKdT"} == {"N": 10**6, "K": 4096, "d": 10**8, "T": 1024}


def test_an_a_step_and_an_iteration_of_lloyds():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    G, C = rng.standard_normal((50, 6)), rng.standard_normal((4, 6))
    labels = clustering.a_step(G, C, rng)()
    assert labels.shape == (50,)
    assert set(labels) <= set(range(4))
    clustering.lloyd(G, C)()


def test_an_exchange_sweep_counts_as_many_operations_as_the_products_beside_it():
    seen = {}

    def compare(ours, theirs, *_, times):
        seen["times"] = times
        return row().pair

    found = clustering._exchange_sweep(SimpleNamespace(quick=True, compare=compare))
    assert found.work.flops == 2 * 6_000 * 128 * 64
    assert seen["times"] == pytest.approx(found.work.flops / (2 * 512**3))
    assert found.target == 4.0


def test_the_report_as_json():
    slope = slopes.Slope("scaling", "sweep", "N", (1, 2), (1.0, 2.0), "s", 1.0, "K = 3")
    made = report(
        row(note="so"), slope, slopes.crossover("table1", "g⊙g", "ab", [0.5, 2.0], [0.5, 2.0], [True, True]), torch=None
    )
    content = json.loads(json.dumps(made.as_json()))
    assert content["schema"] == "gcref-bench/1"
    assert content["peers"] == {"torch": None}
    assert content["limits"]["gemm_flops"]["float32"] == 100e9
    assert content["threads"]["peers"] == content["threads"]["gcref"]
    (found,) = content["rows"]
    assert found["ratio"] == {"low": 0.75, "median": 0.8, "high": pytest.approx(0.85)}
    assert (found["target"], found["verdict"], found["note"], found["flops"]) == (1.0, "met", "so", None)
    assert content["slopes"][0]["exponent"] == pytest.approx(1.0)
    assert content["crossovers"][0]["switch"] == pytest.approx(1.0)
    assert {"system", "processor", "python"} == set(content["machine"])
