"""Summary tables, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from page_cases import image, row, sweep

from gcref.report import sources, tables


def made_of(path):
    return tables.sweep_tables(sources.read([path]))


def text(table):
    return [[cell.text for cell in line] for line in table.rows]


def numbers(*variances):
    """Rows of trajectories, each with the variances of SG-B, SG-2B and GC."""
    return [
        row(name, method, rate, ratio, share, (v, 2 * v, n, n))
        for name, rate, ratio, share, values in variances
        for method, (v, n) in zip(("sgb", "sg2b", "gc"), values, strict=True)
    ]


GOOD = numbers(
    ("a", 0.01, 1.0, 0.0, [(4.0, 0.9), (2.0, 0.8), (1.0, 0.7)]),
    ("b", 0.01, 1.0, 0.0, [(2.0, 0.9), (1.0, 0.8), (2.0, 0.9)]),
    ("c", 0.1, 1.0, 0.0, [(1.0, 0.9), (0.5, 0.8), (16.0, 0.95)]),
)


class TestByMethod:
    def test_by_hand(self, tmp_path):
        table, _ = made_of(sweep(tmp_path / "r.h5", GOOD))
        assert table.columns == [
            "Method", "Trajectories", "V / V(SG-B)", "smallest", "largest", "below SG-B", "below SG-2B",
            "Normalized variance",
        ]  # fmt: skip
        assert text(table) == [
            ["SG-B", "3", "1.00", "1.00", "1.00", "0 %", "0 %", "0.900"],
            ["SG-2B", "3", "0.50", "0.50", "0.50", "100 %", "0 %", "0.800"],
            ["GC", "3", "1.59", "0.25", "16.00", "33.3 %", "33.3 %", "0.850"],  # (1/4 · 1 · 16)^(1/3)
        ]
        assert table.rows[2][2].value == pytest.approx(4 ** (1 / 3), rel=1e-14)
        assert "left out" not in table.note

    def test_a_row_for_each_share_of_duplicates(self, tmp_path):
        rows = [*GOOD, *numbers(("d", 0.01, 1.0, 0.5, [(1.0, 0.9), (0.5, 0.8), (0.25, 0.7)]))]
        table, _ = made_of(sweep(tmp_path / "r.h5", rows))
        assert table.columns[:3] == ["Method", "Duplicates", "Trajectories"]
        assert [line[:4] for line in text(table)][2::3] == [["GC", "0 %", "3", "1.59"], ["GC", "50 %", "1", "0.25"]]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_diverged_trajectory_counts_for_no_method(self, tmp_path, bad):
        rows = [*GOOD, *numbers(("d", 0.01, 1.0, 0.0, [(9.0, 0.1), (bad, 0.1), (9.0, 0.1)]))]
        whole, _ = made_of(sweep(tmp_path / "a.h5", GOOD))
        table, _ = made_of(sweep(tmp_path / "b.h5", rows))
        assert text(table) == text(whole)
        assert table.note.endswith("1 diverged or incomplete trajectory is left out.")

    def test_a_trajectory_without_one_of_the_methods_is_left_out(self, tmp_path):
        table, _ = made_of(sweep(tmp_path / "a.h5", [*GOOD, row("d", "gc"), row("e", "sgb")]))
        assert [line[1] for line in text(table)] == ["3"] * 3
        assert table.note.endswith("2 diverged or incomplete trajectories are left out.")

    def test_order_of_the_rows_does_not_matter(self, tmp_path):
        rng = np.random.default_rng(0)
        mixed = [GOOD[i] for i in rng.permutation(len(GOOD))]
        one, other = made_of(sweep(tmp_path / "a.h5", GOOD)), made_of(sweep(tmp_path / "b.h5", mixed))
        assert [text(t) for t in one] == [text(t) for t in other]

    def test_another_method_is_the_base_where_there_is_no_sgb(self, tmp_path):
        rows = [r for r in GOOD if r[1] != b"sgb"]
        table, points = made_of(sweep(tmp_path / "r.h5", rows))
        assert table.columns[2:6] == ["V / V(SG-2B)", "smallest", "largest", "below SG-2B"]
        assert points.columns[-1] == "GC / SG-2B"

    def test_a_variance_of_exactly_zero(self, tmp_path):
        rows = numbers(("a", 0.01, 1.0, 0.0, [(4.0, 0.9), (0.0, 0.0), (1.0, 0.7)]))
        table, points = made_of(sweep(tmp_path / "r.h5", rows))
        assert text(table)[1][2:] == ["0.00", "0.00", "0.00", "100 %", "0 %", "0.000"]
        assert text(points) == [["0.01", "1", "1", "4.00e+00", "0.00", "0.25"]]

    def test_numbers_of_any_size(self, tmp_path):
        rows = numbers(*((name, 0.01, 1.0, 0.0, [(1e308, 1.0), (1e-308, 1.0), (0.0, 1.0)]) for name in "ab"))
        found = made_of(sweep(tmp_path / "r.h5", rows))  # a warning would be an error
        assert text(found[0])[1][2:5] == ["0.00", "0.00", "0.00"]


class TestByPoint:
    def test_by_hand(self, tmp_path):
        _, table = made_of(sweep(tmp_path / "r.h5", GOOD))
        assert table.columns == ["Learning rate", "hₛ/N", "n", "V(SG-B)", "SG-2B / SG-B", "GC / SG-B"]
        assert text(table) == [
            ["0.01", "1", "2", "3.00e+00", "0.50", "0.50"],  # (4 + 2)/2; √(1/4 · 1)
            ["0.1", "1", "1", "1.00e+00", "0.50", "16.00"],
        ]
        assert table.n_heads == 2

    def test_shares_of_duplicates_come_first(self, tmp_path):
        rows = [*GOOD, *numbers(("d", 0.01, 1.0, 0.5, [(1.0, 0.9), (0.5, 0.8), (0.25, 0.7)]))]
        _, table = made_of(sweep(tmp_path / "r.h5", rows))
        assert [line[0] for line in text(table)] == ["0 %", "0 %", "50 %"]
        assert table.n_heads == 3

    def test_no_more_rows_than_anybody_reads(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tables, "MOST_ROWS", 1)
        _, table = made_of(sweep(tmp_path / "r.h5", GOOD))
        assert len(table.rows) == 1
        assert table.note.endswith("The first 1 of 2 rows.")


def test_tables_of_several_files_say_whose_they_are(tmp_path):
    plain, copies = sweep(tmp_path / "a.h5", GOOD), sweep(tmp_path / "b.h5", [row("d", "sgb", share=0.5)])
    found = tables.sweep_tables(sources.read([plain, copies]))
    assert [t.caption.partition(": ")[2] for t in found] == ["a.h5", "a.h5", "b.h5", "b.h5"]
    assert len({t.key for t in found}) == 4
    assert all("left out" not in t.note for t in found)  # though the files have other methods


def test_overall(tmp_path):
    (source,) = sources.read([sweep(tmp_path / "a.h5", GOOD)])
    assert tables.overall(source) == pytest.approx(4 ** (1 / 3), rel=1e-14)
    (source,) = sources.read([sweep(tmp_path / "b.h5", [row("d", "sgb", share=0.5), row("d", "gc", share=0.5)])])
    assert tables.overall(source) is None
    (source,) = sources.read([sweep(tmp_path / "c.h5", [row("d", "sgb")])])
    assert tables.overall(source) is None


class TestRuns:
    def test_by_hand(self, tmp_path):
        runs, variances = tables.run_tables(sources.read([image(tmp_path / "r.h5")]))
        assert text(runs) == [["r.h5", "1,438", "40", "complete", "0.250", "–", "–", "87.5 %", "1.5"]]
        assert text(variances) == [
            ["r.h5", "SG-B", "1.00e-04", "2.00e-04", "1.00", "0.500", "0.500"],
            ["r.h5", "SG-2B", "5.00e-05", "1.00e-04", "0.50", "0.500", "0.500"],
            ["r.h5", "GC", "3.33e-05", "6.67e-05", "0.33", "0.500", "0.500"],
        ]

    def test_no_ratio_without_sgb(self, tmp_path):
        _, variances = tables.run_tables(sources.read([image(tmp_path / "r.h5", methods=("gc",))]))
        assert [cell.text for cell in variances.rows[0]][4] == "–"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.50"), (0.0, "0.00"), (0.004, "4.0e-03"), (12345.0, "1.2e+04"), (math.nan, "–"), (math.inf, "–")],
)
def test_a_ratio_is_never_rounded_away(value, shown):
    assert tables._ratio(value).text == shown
