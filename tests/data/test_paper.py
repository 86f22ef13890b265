import numpy as np
import pytest

from gcref.data import reference

GRID = [0.1, 0.5, 1, 1.5, 2, 2.5, 3, 5, 10]


@pytest.fixture(scope="module")
def table():
    return reference()


def pick(table, statistic, aggregate, method, share, x):
    rows = table[
        (table["statistic"] == statistic)
        & (table["aggregate"] == aggregate)
        & (table["method"] == method)
        & (table["duplicate_fraction"] == share)
        & (table["overparametrization"] == x)
    ]
    (row,) = rows
    return row


def test_every_curve_has_every_ratio_once(table):
    assert table.shape == (216,)
    assert set(table["method"].tolist()) == {"sgb", "sg2b", "svrg", "gc"}
    assert set(table["learning_rate"].tolist()) == {0.01}
    for statistic, share in (("variance", 0.0), ("variance", 0.5), ("normalized_variance", 0.0)):
        for aggregate in ("mean70", "max70"):
            for method in ("sgb", "sg2b", "svrg", "gc"):
                for x in GRID:
                    assert pick(table, statistic, aggregate, method, share, x)["value"] > 0


def test_numbers_land_in_their_fields(table):
    row = pick(table, "variance", "mean70", "svrg", 0.0, 10)
    assert row["figure_cell"] == 31
    assert row["value"] == 4.61e-07
    assert (row["err_low"], row["err_high"], row["read_halfwidth"]) == (2.449e-07, 6.77e-07, 0.0160)


def test_an_end_outside_the_papers_axis_is_nan(table):
    row = pick(table, "normalized_variance", "max70", "sgb", 0.0, 0.1)
    assert row["err_low"] == 0.8377
    assert np.isnan(row["err_high"])


def test_known_ends_enclose_the_value(table):
    low, high, value = table["err_low"], table["err_high"], table["value"]
    assert np.all(np.isnan(low) | (low <= value))
    assert np.all(np.isnan(high) | (high >= value))


def test_the_papers_orders_hold(table):
    for x in GRID:
        sgb = pick(table, "variance", "mean70", "sgb", 0.0, x)["value"]
        assert 0.4 < pick(table, "variance", "mean70", "sg2b", 0.0, x)["value"] / sgb < 0.6
        assert pick(table, "variance", "mean70", "gc", 0.0, x)["value"] < sgb
