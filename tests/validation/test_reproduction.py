"""Plans of figures: the smallest runs, their names and costs; and the paper's points beside ours."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from gcref import store
from gcref.cli.rf_sweep import QUICK
from gcref.cli.toy import STILL, toy
from gcref.data import reference
from gcref.studies.grid import METHODS, Sweep
from gcref.studies.image_run import preset
from gcref.validation import expected, reproducing
from gcref.validation.paper_points import log_ratios
from gcref.validation.reproduction import FIGURES, NOT_QUICK, QUICK_GRID, in_words, plan, plans, seconds

# ---------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("figure", "sweep"),
    [
        ("4", Sweep()),
        ("9a", Sweep(methods=("sgb",))),
        ("4b", Sweep(learning_rate=(0.01,))),
        ("4c", Sweep(learning_rate=(0.1,))),
        ("8", Sweep(learning_rate=(0.01,), duplicate_fraction=(0.1, 0.5, 0.9))),
        ("8c", Sweep(learning_rate=(0.01,), duplicate_fraction=(0.9,))),
    ],
)
def test_a_figure_of_random_features_needs_a_part_of_the_grid(figure, sweep):
    (job,) = plan(figure).jobs
    assert job.config == sweep
    assert plan(figure).n_trajectories == len(sweep.specs())
    assert plan(figure).data_sets == []


def test_image_figures_are_table_2():
    assert [job.config for job in plan("3").jobs] == [preset(name, {}) for name in ("mnist", "cifar10", "imagenet")]
    assert plan("3").data_sets == ["mnist", "cifar10", "imagefolder"]
    changes = ({}, {"label_smoothing": 0.1}, {"corrupt_fraction": 0.1})
    assert [job.config for job in plan("6").jobs] == [preset("cifar10", changed) for changed in changes]
    assert [job.config.duplicate_fraction for job in plan("7").jobs] == [0, 0.5, 0, 0.5]


def test_one_name_is_one_configuration():
    jobs = [job for quick in (False, True) for p in plans(quick) for job in p.jobs]
    for one, other in combinations(jobs, 2):
        assert (one.name == other.name) is (one.config == other.config), (one.name, other.name)


def test_figures_of_the_same_runs_share_their_file():
    assert plan("4b").jobs == plan("5b").jobs == plan("9b").jobs
    assert plan("3b").jobs[0] == plan("6").jobs[0] == plan("7").jobs[0]


def test_the_quick_plans():
    assert [p.figure for p in plans(quick=True)] == [name for name in FIGURES if name not in NOT_QUICK]
    assert QUICK_GRID == QUICK
    for p in plans(quick=True):
        assert p.data_sets == []
        assert bool(p.left_out) is bool(p.jobs)
        assert seconds(p, 2) < 60 < 100 * 3600 * 24 * 30


@pytest.mark.parametrize(
    ("figure", "quick", "message"),
    [("2", False, "figure='2' is unknown; one of 1, 3, 3a"), ("3c", True, "figure='3c' has no quick form")],
)
def test_what_there_is_not(figure, quick, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(figure, quick)


def test_costs():
    whole, part = seconds(plan("4"), 2), seconds(plan("4b"), 2)
    assert part < whole < 150  # 105 s were measured
    assert seconds(plan("4"), 4) < whole
    assert seconds(plan("4"), 2, frozenset({"random-features"})) == seconds(plan("1"), 2)
    assert seconds(plan("3a"), 2) < seconds(plan("3b"), 2) < seconds(plan("6"), 2) < seconds(plan("3c"), 2)


@pytest.mark.parametrize(
    ("number", "words"),
    [(5.4, "about 5.4 s"), (89, "about 89 s"), (90, "about 1.5 min"), (6000, "about 1.7 h"), (4e5, "about 4.6 days")],
)
def test_in_words(number, words):
    assert in_words(number) == words


def test_the_still_is_that_of_gcref_toy():
    defaults = {option.name: option.default for option in toy.params}
    assert reproducing.STILL == STILL
    assert {name: defaults[name] for name in reproducing.TOY} == reproducing.TOY


# --------------------------------------------------------------------------------------------------------------- points


def summary(factor, rate=0.01, copies=0.0, aggregate="max70"):
    """A table whose means are the paper's points times `factor`, or 1 where there is none: two trajectories a point."""
    rows = []
    for method in METHODS:
        for x in Sweep().overparametrization:
            numbers = dict.fromkeys(("variance_mean70", "variance_max70", "nv_mean70", "nv_max70"), 1.0)
            for p in reference():
                if (p["method"], p["overparametrization"], p["learning_rate"], p["duplicate_fraction"]) == (
                    method, x, rate, copies,
                ):  # fmt: skip
                    kind = "variance" if p["statistic"] == "variance" else "nv"
                    numbers[f"{kind}_{p['aggregate']}"] = factor * p["value"]
            for seed, times in ((0, 0.5), (1, 1.5)):
                name = f"{x:g}-{seed}"
                values = [times * value for value in numbers.values()]
                rows.append((name, method, rate, x, 100, 6, 7, seed, copies, *values))
    return np.array(rows, store.SUMMARY_DTYPE)


@pytest.mark.parametrize(("figure", "copies"), [("4b", 0.0), ("9b", 0.0), ("5b", 0.0), ("8b", 0.5)])
def test_every_point_stands_beside_the_papers(figure, copies):
    found = expected.points(figure, summary(1.25, copies=copies))
    assert len(found) == 36
    assert [point.ratio for point in found] == pytest.approx([1.25] * 36)
    assert all(point.within and point.n_trajectories == 2 for point in found)


def test_the_ratios_are_those_of_paper_points():
    table = summary(3.0)
    here = [np.log10(point.ratio) for point in expected.points("4b", table) + expected.points("9b", table)]
    assert sorted(here) == pytest.approx(sorted(log_ratios(table)["log10_ratio"]))


@pytest.mark.parametrize(("factor", "within"), [(1.99, 36), (2.0, 0), (0.502, 36), (0.5, 0)])
def test_within_a_factor_of_2(factor, within):
    found = expected.points("4b", summary(factor))
    assert sum(point.within for point in found) == within
    text = expected.verdict("4b", found)
    assert f": {27 * within // 36} of 27 points of SG-B, SG-2B and GC, {9 * within // 36} of 9 points of SVRG" in text


def test_nothing_is_expected_of_raw_ratios():
    found = expected.points("5b", summary(1.0))
    assert "90%" in expected.verdict("4b", found)
    assert "90%" not in expected.verdict("5b", found)
    assert expected.verdict("5b", found).endswith("which can exceed 1; the exact ratio cannot.")


def test_where_the_paper_has_no_number():
    found = expected.points("4c", summary(1.0, rate=0.1))
    assert {point.paper for point in found} == {point.within for point in found} == {None}
    assert {point.ours for point in found} == {1.0}
    assert expected.verdict("4c", found) == "The paper gives no number for any of these points."


@pytest.mark.parametrize(
    ("figure", "expected_sections"),
    [
        ("4", {"4.2", "4.2, Fig. 4", "4.2, Fig. 4a", "4.2, Figs. 4b, 4c", "4.3"}),
        ("4a", {"4.2", "4.2, Fig. 4", "4.2, Fig. 4a"}),
        ("4b", {"4.2, Fig. 4", "4.2, Figs. 4b, 4c", "4.3"}),
        ("5b", {"4.2, Fig. 5", "4.2, Fig. 5a"}),
        ("9c", {"C, Fig. 9"}),
    ],
)
def test_the_sentences_of_a_figure(figure, expected_sections, monkeypatch):
    monkeypatch.setattr(expected, "read_summary", lambda path: summary(1.0))
    assert {claim.section for claim in expected.sentences(figure, Path("any.h5"))} == expected_sections


def test_the_sentences_on_duplicates(monkeypatch):
    monkeypatch.setattr(expected, "read_summary", lambda path: summary(1.0, copies=0.5))
    assert {claim.section for claim in expected.sentences("8b", Path("any.h5"))} == {"4.3, Fig. 8"}
