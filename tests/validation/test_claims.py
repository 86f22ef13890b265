"""Sentences true, half true and false by construction, and tables that leave nothing to judge."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest

from gcref import store
from gcref.studies.grid import METHODS
from gcref.validation import section_4_2, section_4_3
from gcref.validation.verdicts import FAILS, HOLDS, PART, UNJUDGED, Table, geometric_mean, ratio, share, verdict

# -------------------------------------------------------------------- a table in which the paper is right

LOW, HIGH = 0.1, 10.0
RATIOS = (LOW, 0.5, 1.0, 2.0, 4.0, HIGH)
AXES = {
    "rate": (0.001, 0.01, 0.1), "x": RATIOS, "input_dim": (6,), "teacher": (7, 70), "seed": (0, 1),
    "copies": (0.0, 0.1, 0.5, 0.9),
}  # fmt: skip


def exponent(rate, x):
    """-log10 of the variance of SG-B."""
    grown, faster = np.log10(x) + 1, np.log10(rate) + 3
    return 3 + 1.5 * grown + faster * (0.1 + 0.5 * grown)


def as_the_paper_says(p):
    """The numbers of one trajectory and method."""
    single = 10 ** -exponent(p.rate, p.x)
    gc = 0.52 if 1 <= p.x <= 4 else 0.9
    if p.copies:
        gc = 0.5 / (1 + p.copies) / (1 + 0.01 * p.x)
    times = {"sgb": 1.0, "sg2b": 0.5, "svrg": 0.1 if p.x < 5 else 0.8, "gc": gc}
    p.mean, p.max = single * times[p.method], 2 * single * times[p.method]
    p.normalized_mean, p.normalized_max = 0.9, 1.2 + 0.3 * p.seed


def summary(*changes, **axes):
    rows = []
    axes = AXES | axes
    for values in itertools.product(*axes.values()):
        for method in axes.get("method", METHODS):
            p = SimpleNamespace(**dict(zip(axes, values, strict=True)), method=method)
            for change in (as_the_paper_says, *changes):
                change(p)
            name = "-".join(f"{value:g}" for value in values)
            rows.append(
                (name, method, p.rate, p.x, 100, p.input_dim, p.teacher, p.seed, p.copies,
                 p.mean, p.max, p.normalized_mean, p.normalized_max)
            )  # fmt: skip
    return np.array(rows, store.SUMMARY_DTYPE)


def judged(rows):
    """The claims on a table, by what they say, except the one that opens the file."""
    plain, copies = Table(rows[rows["duplicate_fraction"] == 0]), Table(rows[rows["duplicate_fraction"] > 0])
    found = [
        *section_4_2.axes_that_matter(plain),
        *section_4_2.overparametrized(plain),
        *section_4_2.learning_rates(plain),
        *section_4_2.normalized(plain),
        *section_4_3.clustering(plain),
        *section_4_3.duplicates(copies),
        *section_4_2.mean_and_max(plain),
    ]
    return {claim.says: claim for claim in found}


def the_one(found, says):
    (claim,) = [claim for text, claim in found.items() if says in text]
    return claim


def times(factor, **where):
    """Multiply the variances of some rows; a tuple names several values."""

    def change(p):
        if all(getattr(p, name) in (v if isinstance(v, tuple) else (v,)) for name, v in where.items()):
            p.mean, p.max = factor * p.mean, factor * p.max

    return change


def spread_of_logs():
    """The variance of log V between the points (rate, h_s/N)."""
    return np.var([exponent(rate, x) for rate in AXES["rate"] for x in RATIOS])


def by_seed(part):
    """Let the seed alone explain a share `part` of the whole spread of log V."""
    between = 2 * np.sqrt(spread_of_logs() * part / (1 - part))
    return lambda p: times(10 ** (between * p.seed))(p)


def gaps(order):
    """Give the h_s/N, ascending, gaps between learning rates that rank as `order`."""

    def change(p):
        p.mean = 10.0 ** -(2 + (order[RATIOS.index(p.x)] + 1) * (np.log10(p.rate) + 3))
        p.max = 2 * p.mean

    return change


def normalized(**values):
    def change(p):
        vars(p).update({name: value(p) if callable(value) else value for name, value in values.items()})

    return change


def maximum(noise):
    """Draw the maximum's exponent, given the mean's, from the seed."""

    def change(p):
        p.max = p.mean * 10 ** (noise * p.seed)

    return change


def correlation(noise):
    logs = [
        (np.log10(row["variance_mean70"]), np.log10(row["variance_mean70"]) + noise * row["seed"])
        for row in summary(copies=(0.0,))
    ]
    return np.corrcoef(np.transpose(logs))[0, 1]


def dip(inside, ends=(0.9, 0.9)):
    """Set GC over SG-B from 1 to 4, and at the ends."""

    def change(p):
        if p.method == "gc":
            value = {LOW: ends[0], HIGH: ends[1]}.get(p.x, inside)
            p.mean = value * 10 ** -exponent(p.rate, p.x)

    return change


def copies_gap(values):
    """Set SG-2B over GC by (share of duplicates, h_s/N)."""

    def change(p):
        if p.copies and p.method == "gc":
            p.mean = 0.5 * 10 ** -exponent(p.rate, p.x) / values(p.copies, p.x)

    return change


def test_where_the_paper_is_right_every_sentence_holds():
    found = judged(summary())
    assert len(found) == 19
    assert {claim.verdict for claim in found.values()} == {HOLDS}


AXES_MATTER, TEACHER = "only the learning rate and h_s/N", "teacher's hidden units"
LOWER, ALIKE, TINY, SVRG_GAIN = "variance is low in", "all methods are alike", "below 1e-5", "gain of SVRG"
ORDER, GROWS = "smaller for larger learning rates", "gap grows with over-parametrization"
SIMILAR, ABOVE_ONE, BARS = "similar normalized variance", "larger than one", "error bars"
BETWEEN, WORSE, BETTER = "between SG-B and SG-2B", "never worse than SG-B", "never better than SG-2B"
AS_GOOD, ROOM = "as good as SG-2B", "leaves it no room"
COPIES, KEPT, LOOK = "share of duplicates", "gap does not shrink", "plots of the mean"

CHANGES = [
    (by_seed(0.04), AXES_MATTER, HOLDS,
     "they explain 96.0% of the spread of log V (SG-B); teacher 0.0%, seed 4.0%"),
    (by_seed(0.1), AXES_MATTER, PART, "90.0% of the spread"),
    (by_seed(0.2), AXES_MATTER, FAILS, "seed 20.0%"),
    (times(1.2, teacher=70), TEACHER, HOLDS, "a factor of 1.20 between teachers of 7 and 70"),
    (times(1.3, teacher=7), TEACHER, FAILS, "a factor of 1.30 between"),
    (times(200, rate=0.001, x=HIGH), LOWER, PART, "lower than at 0.1 by a factor of 5 (rate 0.001)"),
    (times(1e6, x=HIGH), LOWER, FAILS, "0.01 (rate 0.01)"),
    (times(1 / 30, method="svrg", x=HIGH, rate=0.1), ALIKE, PART, "rate 0.1: max/min 10.00 → 37.50"),
    (times(1 / 30, method="svrg", x=HIGH), ALIKE, FAILS, "rate 0.01: max/min 10.00 → 37.50; rate 0.1"),
    (times(1000, x=HIGH, rate=0.01, method="gc"), TINY, PART, "largest rate 0.01: 0.00014; rate 0.1: 1.3e-08"),
    (times(1e5, x=HIGH, rate=0.001), TINY, HOLDS, "largest rate 0.01: 1.6e-07"),  # not in Figs. 4b and 4c
    (times(1e5, x=HIGH), TINY, FAILS, "rate 0.01: 0.016"),
    (times(1 / 2, method="svrg", x=HIGH, rate=0.01), SVRG_GAIN, PART, "rate 0.01: SG-B/SVRG 10.00 → 2.50"),
    (times(1 / 2, method="svrg", x=HIGH), SVRG_GAIN, FAILS, "rate 0.1: SG-B/SVRG 10.00 → 2.50"),
    (times(20, rate=0.1, x=(LOW, 0.5)), ORDER, PART, "at 4 of 6 ratios (not at 0.1, 0.5)"),
    (gaps([-2, -3, -4, -5, -6, -7]), ORDER, FAILS, "at 0 of 6 ratios (not at 0.1, 0.5, 1, 2, 4, 10)"),
    (gaps([0, 1, 2, 5, 4, 3]), GROWS, PART, "rate 0.001 over 0.1: 10^2.0 → 10^8.0, rank correlation with h_s/N 0.77"),
    (gaps([5, 4, 3, 2, 1, 0]), GROWS, FAILS, "10^12.0 → 10^2.0, rank correlation with h_s/N -1.00"),
    (normalized(normalized_mean=lambda p: 0.9 - 0.2 * (p.rate == 0.1)), SIMILAR, PART, "at most 0.20"),
    (normalized(normalized_mean=lambda p: 0.9 - 0.3 * (p.rate == 0.1)), SIMILAR, FAILS, "at most 0.30"),
    (normalized(normalized_mean=lambda p: 0.9 - 0.3 * (p.rate == 0.1) * (p.x > 5)), SIMILAR, HOLDS, "at most 0.00"),
    (normalized(normalized_max=lambda p: 0.9999976 if p.x < 5 else 2), ABOVE_ONE, FAILS, "value 0.9999976, since"),
    (normalized(normalized_mean=lambda p: 0.4 + p.rate), ABOVE_ONE, HOLDS, "above 1/2, at 0 of 15 points"),
    (normalized(normalized_max=lambda p: 0.5 + 0.1 * p.seed), BARS, FAILS, "standard deviation at most 0.050"),
    (times(1.2, method="gc", rate=0.1, x=LOW), BETWEEN, PART, "at 17 of 18 points"),
    (times(0.2, method="gc"), BETWEEN, FAILS, "at 0 of 18 points"),
    (times(1.2, method="gc", rate=0.1, x=(LOW, HIGH)), WORSE, PART, "worse in 11.1% of the trajectories"),
    (times(1.2, method="gc", rate=0.1, x=LOW, seed=1), WORSE, HOLDS, "worse in 2.8% of"),
    (times(4, method="gc"), WORSE, FAILS, "worse in 100.0% of"),
    (times(0.5, method="gc", rate=0.1, x=LOW, seed=1), BETTER, PART, "better in 2.8% of the trajectories"),
    (times(0.5, method="gc"), BETTER, FAILS, "better in 100.0% of"),
    (times(1.25, method="gc", x=2.0), AS_GOOD, PART, "GC/SG-2B 1.04 at 1, 1.30 at 2, 1.04 at 4"),
    (times(1.25, method="gc"), AS_GOOD, FAILS, "GC/SG-2B 1.30 at 1"),
    (dip(0.7, (0.9, 0.6)), ROOM, PART, "GC/SG-B 0.90 at 0.1, 0.70 at best from 1 to 4, 0.60 at 10"),
    (dip(0.7, (0.5, 0.6)), ROOM, FAILS, "0.70 at best from 1 to 4"),
    (copies_gap(lambda f, x: 2 - f), COPIES, FAILS, "SG-2B/GC 1.90 at 10%, 1.50 at 50%, 1.10 at 90%"),
    (copies_gap(lambda f, x: {0.1: 1, 0.5: 3, 0.9: 2}[f]), COPIES, FAILS, "1.00 at 10%, 3.00 at 50%, 2.00 at 90%"),
    (copies_gap(lambda f, x: {LOW: 5, 2.0: 3, HIGH: 4}.get(x, 9) * f), KEPT, PART,
     "at 90% duplicates SG-2B/GC 4.50 at 0.1, 2.70 at 2, 3.60 at 10"),
    (copies_gap(lambda f, x: 5 if x == LOW or f < 0.9 else 3), KEPT, FAILS, "5.00 at 0.1, 3.00 at 2, 3.00 at 10"),
    (maximum(2.0), LOOK, PART, f"correlation of the logarithms {correlation(2.0):.3f}; maximum over mean 10.00"),
    (maximum(5.0), LOOK, FAILS, f"correlation of the logarithms {correlation(5.0):.3f}; maximum over mean 316.23"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says", "expected", "measured"), CHANGES, ids=range(len(CHANGES)))
def test_a_change_turns_the_verdict_and_shows_in_the_number(change, says, expected, measured):
    claim = the_one(judged(summary(change)), says)
    assert measured in claim.measured
    assert claim.verdict == expected


def test_other_learning_rates_than_the_papers_are_judged_too():
    measured = the_one(judged(summary(rate=(0.001, 0.03))), SVRG_GAIN).measured
    assert measured == "rate 0.001: SG-B/SVRG 10.00 → 1.25; rate 0.03: SG-B/SVRG 10.00 → 1.25"


def test_every_sentence_has_been_made_to_fail():
    failing = {says for _, says, expected, _ in CHANGES if expected == FAILS}
    assert all(any(says in text for says in failing) for text in judged(summary()))


# ------------------------------------------------------------------------------- tables that cannot judge

BOTH_ENDS = [LOWER, ALIKE, TINY, SVRG_GAIN]
DUPLICATES = [COPIES, KEPT]
POOR = {
    "one rate": ({"rate": (0.01,)}, [ORDER, GROWS, SIMILAR]),
    "one ratio": ({"x": (2.0,)}, [*BOTH_ENDS, GROWS, ROOM, KEPT]),
    "one rate, one ratio": ({"rate": (0.01,), "x": (2.0,)},
                            [AXES_MATTER, *BOTH_ENDS, ORDER, GROWS, SIMILAR, ROOM, KEPT]),
    "one teacher": ({"teacher": (7,)}, [TEACHER]),
    "one trajectory a point": ({"teacher": (7,), "seed": (0,)}, [AXES_MATTER, TEACHER, BARS]),
    "one trajectory": ({name: values[:1] for name, values in AXES.items()},
                       [AXES_MATTER, TEACHER, *BOTH_ENDS, ORDER, GROWS, SIMILAR, BARS, AS_GOOD, ROOM, *DUPLICATES]),
    "under-parametrized": ({"x": (0.1, 0.5)}, [*BOTH_ENDS, AS_GOOD, ROOM]),
    "over-parametrized": ({"x": (6.0, 10.0)}, [SIMILAR, ABOVE_ONE, BARS, AS_GOOD, ROOM]),
    "nothing below 1": ({"x": (1.0, 2.0, 10.0)}, [ROOM]),
    "nothing above 4": ({"x": (0.1, 1.0, 4.0)}, [ROOM]),
    "no duplicates": ({"copies": (0.0,)}, DUPLICATES),
    "one share of duplicates": ({"copies": (0.0, 0.5)}, [COPIES]),
}  # fmt: skip


@pytest.mark.parametrize("poor", POOR.values(), ids=POOR)
def test_what_a_table_lacks_is_not_judged(poor):
    axes, expected = poor
    found = judged(summary(**axes))
    assert len(found) == 19
    unjudged = [claim for claim in found.values() if claim.verdict == UNJUDGED]
    assert {claim.says for claim in unjudged} == {the_one(found, says).says for says in expected}
    assert all(re.match("needs |no duplicates|GC/SG-2B needs", claim.measured) for claim in unjudged)
    assert not any(re.search(r"\bnan\b|\binf\b", claim.measured) for claim in found.values())


def test_only_axes_that_vary_are_said_to_explain_something():
    measured = the_one(judged(summary(by_seed(0.04), teacher=(7,), input_dim=(6, 60))), AXES_MATTER).measured
    assert measured == "they explain 96.0% of the spread of log V (SG-B); input dimension 0.0%, seed 4.0%"


def test_the_median_of_maximum_over_mean():
    def skewed(p):
        p.max = p.mean * (1, 2, 100)[p.seed]

    assert the_one(judged(summary(skewed, seed=(0, 1, 2))), LOOK).measured.endswith("maximum over mean 2.00")


def test_pairs_are_of_one_trajectory_in_whatever_order_the_rows_are():
    rows = summary(times(0.001, method="gc", rate=0.001))  # so that ranks do not pair them
    shuffled = np.random.default_rng(0).permutation(rows)
    assert judged(shuffled) == judged(rows)
    by_name = {(row["method"], row["trajectory"]): row["variance_mean70"] for row in rows}
    expected = [(by_name[b"gc", name], by_name[b"sgb", name]) for name in np.unique(rows["trajectory"])]
    np.testing.assert_array_equal(Table(shuffled).pairs("gc", "sgb"), expected)


def diverge(*methods, **where):
    def change(p):
        if p.method in methods and all(getattr(p, name) in values for name, values in where.items()):
            p.mean = p.max = p.normalized_mean = p.normalized_max = np.nan

    return change


@pytest.mark.parametrize("methods", [METHODS, ("svrg",)])
def test_diverged_trajectories_are_left_out_with_all_their_methods(methods):
    found = judged(summary(diverge(*methods, seed=[1]), times(100, seed=[1])))
    assert found == judged(summary(seed=(0,)))


def test_a_point_at_which_all_diverge_is_left_out():
    found = judged(summary(diverge(*METHODS, rate=[0.1], x=[LOW, HIGH]), diverge(*METHODS, copies=[0.9], x=[HIGH])))
    assert {claim.verdict for claim in found.values()} == {HOLDS}
    assert the_one(found, LOWER).measured.count("rate") == 2
    assert the_one(found, ORDER).measured == "at 4 of 4 ratios (not at none)"
    assert "at 16 of 16 points" in the_one(found, BETWEEN).measured
    assert the_one(found, KEPT).measured.endswith("at 4")
    assert not any("nan" in claim.measured for claim in found.values())


@pytest.mark.parametrize("where", [{"method": "sg2b"}, {"method": "gc"}, {"method": "svrg"}, {"x": HIGH}, {}])
def test_variances_of_exactly_zero_are_judged_without_a_warning(where):
    assert len(judged(summary(times(0.0, **where)))) == 19


def test_learning_rates_too_small_to_be_told_apart_by_a_tolerance():
    table = Table(summary(rate=(1e-9, 2e-9), copies=(0.0,)))
    assert len(table.select(learning_rate=2e-9)) == len(table.rows) / 2


def test_shares_verdicts_and_ratios():
    assert share([True, True, False, False]) == 0.5
    assert [verdict(value, 0.9, 0.5) for value in (0.9, 0.89, 0.5, 0.49)] == [HOLDS, PART, PART, FAILS]
    assert verdict(share([])) == UNJUDGED
    assert [ratio(3.0, 2.0), ratio(1.0, 0.0)] == [1.5, np.inf]
    assert geometric_mean([1.0, 100.0]) == pytest.approx(10.0)
    assert geometric_mean([0.0, 100.0]) == 0
