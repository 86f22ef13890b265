import numpy as np
import pytest

from gcref.validation.tally import MOST_FAILURES, Check


def compared(stored, recomputed, floor=0.0, tolerance=1e-9):
    check = Check("name", "what", tolerance)
    check.compare("t", "variance/gc", list(range(len(stored))), stored, recomputed, floor)
    return check


@pytest.mark.parametrize(
    ("stored", "recomputed", "floor", "passes"),
    [
        (1.0, 1.0, 0.0, True),
        (1.0, 1.0 + 0.9e-9, 0.0, True),
        (1.0, 1.0 + 1.1e-9, 0.0, False),
        (-1.0, 1.0, 0.0, False),
        (1e-20, 0.0, 0.0, False),
        (1e-20, 0.0, 2e-20, True),
        (1.0 + 1e-7, 1.0, 2e-7, True),
        (1.0 + 3e-7, 1.0, 2e-7, False),
        (np.nan, np.nan, 0.0, True),
        (np.inf, np.inf, 0.0, True),
        (np.nan, 1.0, 1.0, False),
        (1.0, np.nan, 1.0, False),
        (np.inf, 1.0, 1.0, False),
    ],
)
def test_two_numbers(stored, recomputed, floor, passes):
    check = compared([stored], [recomputed], floor)
    assert check.passed is passes
    assert check.verdict == ("pass" if passes else "FAIL")
    assert (check.worst <= 1e-9) is passes


def test_what_fails_is_named_in_full():
    check = compared([1.0, 0.1, 3.0], [1.0, 0.2, 3.0])
    (failure,) = check.failures
    assert str(failure) == "t, iteration 1: variance/gc is 0.10000000000000001, expected 0.20000000000000001"
    assert check.n == 3
    check.expect(False, "t", None, "attribute status", "x" * 100, "complete")
    assert str(check.failures[1]) == f"t: attribute status is {'x' * 77}..., expected complete"


def test_verdicts():
    assert Check("", "").verdict == "nothing"
    assert Check("", "", None, n=1).verdict == "finding"
    assert Check("", "", 0.0, n=1).verdict == "pass"
    assert Check("", "", 0.0, n=1, n_failures=1).verdict == "FAIL"


def test_what_workers_found_adds_up():
    one, other = compared(np.zeros(15), np.ones(15)), compared(np.zeros(10), np.ones(10))
    other.worst = 7.0
    one.merge(other)
    assert (one.n, one.n_failures, len(one.failures), one.worst) == (25, 25, MOST_FAILURES, 7.0)
