"""Which form ExactClustering takes: the operations and bytes that it weighs, worked by hand."""

import numpy as np
import pytest

from gcref.clustering import exact
from gcref.clustering.exact import ExactClustering
from gcref.clustering.points import first_overflow
from gcref.engine.trace import Trace, per_example_gradients

# Seven examples of 27 parameters, in two blocks of (T, I, O) = (2, 3, 5) and (1, 4, 3).
FORMING = 7 * (2 * 15 + 12)
# Eq. 8 of the first, 14·30 + 49·15 = 1155 (Eq. 9: 49·4·8 = 1568); Eq. 9 of the second, 49·7 = 343. Half of each.
MULTIPLYING = 577 + 171
PAIRS = 661  # half of 49·27


def two_blocks(dtype="float64"):
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 5), (1, 4, 3))
    return [
        Trace(rng.standard_normal((7, t, i)).astype(dtype), rng.standard_normal((7, t, o)).astype(dtype))
        for t, i, o in shapes
    ]


@pytest.fixture
def weighed(monkeypatch):
    """What a fit has chosen between; it is made to take explicit gradients."""
    seen = []
    monkeypatch.setattr(exact, "_cheaper", lambda costs: seen.append(costs) or "explicit")
    return seen


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float64", 8)])
@pytest.mark.parametrize("update", ["alternating", "exchange"])
def test_traces_are_weighed(weighed, update, dtype, size):
    # Three iterations with two clusters: 3·7·27·2 operations on gradients, 2·3·49 on products.
    est = ExactClustering(2, update, n_iter=3).fit(two_blocks(dtype))
    assert est.form_ == "explicit"
    assert weighed == [{"explicit": (size * 7 * 27, FORMING + 1134), "gram": (8 * 49, MULTIPLYING + 294)}]


def test_traces_are_weighed_for_enumeration(weighed):
    ExactClustering(2, "enumeration", n_iter=3).fit(two_blocks())
    assert weighed == [{"explicit": (8 * 7 * 27, FORMING + PAIRS), "gram": (8 * 49, MULTIPLYING)}]


def test_arrays_are_weighed(weighed):
    G = per_example_gradients(two_blocks())
    ExactClustering(2, n_iter=3).fit(G)
    ExactClustering(2, "exchange", n_iter=3).fit(G)
    ExactClustering(2, "enumeration", n_iter=3).fit(G)
    gram = 8 * 7 * (7 + 27)
    steps = {"explicit": (0, 1134), "gram": (gram, PAIRS + 294)}
    assert weighed == [steps, steps, {"explicit": (0, PAIRS), "gram": (gram, PAIRS)}]


def test_a_form_that_is_asked_for_is_not_weighed(weighed):
    for form in ("explicit", "gram"):
        for given in (two_blocks(), per_example_gradients(two_blocks())):
            assert ExactClustering(2, form=form).fit(given).form_ == form
    assert weighed == []


def test_the_smaller_form_is_taken_where_neither_fits():
    assert exact._MEMORY == 2 * 1024**3
    for bytes_of in ((exact._MEMORY, 0), (0, exact._MEMORY)):
        costs = dict(zip(("explicit", "gram"), zip(bytes_of, (5, 4), strict=True), strict=True))
        assert exact._cheaper(costs) == "gram"
    assert exact._cheaper({"explicit": (exact._MEMORY, 5), "gram": (exact._MEMORY + 1, 4)}) == "explicit"
    assert exact._cheaper({"explicit": (exact._MEMORY + 1, 5), "gram": (exact._MEMORY, 6)}) == "gram"
    assert exact._cheaper({"explicit": (exact._MEMORY + 1, 5), "gram": (exact._MEMORY + 2, 4)}) == "explicit"
    assert exact._cheaper({"explicit": (0, 4), "gram": (0, 4)}) == "explicit"


@pytest.mark.parametrize(("numbers", "at_once"), [(3 * 27, 3), (3 * 27 + 26, 3), (26, 1), (1 << 22, 7)])
def test_gradients_are_formed_a_few_at_a_time(monkeypatch, numbers, at_once):
    lengths = []

    def recording(traces):
        lengths.append(traces[0].n_examples)
        return per_example_gradients(traces)

    monkeypatch.setattr(exact, "_CHUNK", numbers)
    monkeypatch.setattr(exact, "per_example_gradients", recording)
    est = ExactClustering(2, form="explicit").fit(two_blocks())
    alone = ExactClustering(2, form="explicit").fit(per_example_gradients(two_blocks()))
    np.testing.assert_array_equal(est.centers_, alone.centers_)
    assert lengths == [at_once] * (7 // at_once) + [7 % at_once] * (7 % at_once > 0)


def test_a_norm_overflows_from_a_quarter_of_the_largest_number_over_the_number_of_pairs():
    most = np.finfo(np.float64).max / 36
    below = np.nextafter(most, 0)
    assert first_overflow(np.array([below, below, below])) is None
    assert first_overflow(np.array([0.0, below, most])) == 2
    assert first_overflow(np.array([0.0, np.nan, most])) == 1
