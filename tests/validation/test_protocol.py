"""The Monte Carlo of ``gcref validate`` draws what it should, agrees with the closed form, and can disagree."""

import numpy as np
import pytest

from gcref.validation import explicit, report
from gcref.validation.protocol import Drawn, State, compare, draw
from gcref.validation.report import Gap

METHODS = ("sgb", "sg2b", "svrg", "gc")
BATCH_SIZE = 4


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(BATCH_SIZE), (1, 2, 7, 20)).astype(np.int32)
    D, D_svrg = rng.standard_normal((2, 30, 2))
    return State(rng.standard_normal((30, 5)), D, D_svrg, {"gc": labels}, BATCH_SIZE)


@pytest.fixture(scope="module")
def drawn(state):
    """Every method at twenty snapshots, beside what a file would hold."""
    moments = explicit.moments(state.features, state.D, state.D_svrg, state.labels, state.batch_size)
    stored = {f"variance/{m}": float(v.mean()) for m, v in moments.variances.items()}
    stored |= {f"normalized_variance/{m}": 0.5 for m in METHODS}
    return [d for i in range(20) for d in compare(f"t{i}", 100, METHODS, state, stored)]


@pytest.mark.parametrize("method", METHODS)
def test_every_estimate_is_unbiased(state, method):
    estimates = draw(method, state, 20_000, np.random.default_rng(1))
    full = explicit.gradients(state.features, state.D).mean(axis=0)
    z = (estimates.mean(axis=0) - full) / (estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates)))
    assert estimates.shape == (20_000, 10)
    assert np.abs(z).max() < 4.5  # ten coordinates: a chance of 7e-5


def test_one_example_from_each_cluster():
    alone = State(np.eye(3), np.ones((3, 1)), None, {"gc": np.arange(3, dtype=np.int32)}, 3)
    assert np.allclose(draw("gc", alone, 5, np.random.default_rng(0)), 1 / 3)


def test_it_agrees_with_the_closed_form_and_not_with_another(drawn):
    assert all(check.passed for check in report.monte_carlo(drawn))
    wrong = [d._replace(average=1.03 * d.average) for d in drawn]
    assert [check.passed for check in report.monte_carlo(wrong)] == [False, True, True]


def test_one_wrong_number_is_the_largest_deviation(drawn):
    wrong = [*drawn[:5], drawn[5]._replace(average=2 * drawn[5].average), *drawn[6:]]
    pooled, largest, _ = report.monte_carlo(wrong)
    assert pooled.passed
    (failure,) = largest.failures
    assert (failure.trajectory, failure.iteration, failure.dataset) == ("t1", 100, "variance/sg2b")


def test_nothing_to_do_statistics_on(state):
    fresh = state._replace(D_svrg=state.D)
    (svrg,) = compare("t", 0, ("svrg",), fresh, {"variance/svrg": 0.0, "normalized_variance/svrg": 0.0})
    assert svrg.error == 0.0
    assert [check.verdict for check in report.monte_carlo([svrg])] == ["nothing"] * 3


def test_findings_in_words():
    raw = np.array([0.5] * 35 + [1.5] * 35)
    closed = Drawn("t", 0, "gc", 1.0, 0.9, 1.0, 0.1, raw)
    note = report.raw_normalized([closed, closed._replace(normalized=0.7, method="sgb")]).note
    assert note == "gc 0.900 → 1.000, 1 (50%), sgb 0.700 → 1.000, 1 (50%)"
    assert (
        report.optimum_gap([Gap(1.0, 1.5), Gap(1.2, 2.5)]).note == "alternating 1.100 (1.200), exchange 2.000 (2.500)"
    )
    assert report.optimum_gap([]).verdict == "nothing"
    assert report.undecided([]) == report.unknown([]) == ""
    assert report.undecided([1.0, 1.1, 0.9]).endswith("median 1.000, 90 % from 0.910 to 1.090")
    assert report.unknown(["t, iteration 100", "u"]).startswith("at 2 measuring points (first t, iteration 100)")
