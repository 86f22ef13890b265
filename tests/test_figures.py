import io
import itertools

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcref.data import reference
from gcref.figures import (
    REQUIRED_FIELDS,
    aggregate,
    draw_all,
    figure4,
    figure5,
    figure8,
    figure9,
    left_out,
    panel,
    undrawable,
)

GRID = (0.1, 0.5, 1, 1.5, 2, 2.5, 3, 5, 10)
LEVEL = {"sgb": 4.0, "sg2b": 2.0, "svrg": 1.0, "gc": 3.0, "exchange": 1.5, "sketched": 1.2}


def table_of(rows, text="S32"):
    kinds = {"trajectory": text, "method": text}
    return np.array(rows, dtype=[(name, kinds.get(name, "f8")) for name in REQUIRED_FIELDS])


def row(trajectory="a", method="sgb", rate=0.01, x=1.0, share=0.0, numbers=(1.0, 2.0, 0.3, 0.4)):
    return (trajectory, method, rate, x, share, *numbers)


def study(rates=(0.001, 0.01, 0.1), shares=(), grid=GRID, methods=("sgb", "sg2b", "svrg", "gc"), text="S32"):
    """A table with two trajectories a point, at 0.8 and 1.2 times a known level."""
    rows = []
    cases = [(rate, 0.0) for rate in rates] + [(0.01, share) for share in shares]
    for (rate, share), x, factor in itertools.product(cases, grid, (0.8, 1.2)):
        for method in methods:
            v = factor * 1e-3 * LEVEL[method] / (x * (1 + 10 * rate))
            nv = factor * 0.1 * LEVEL[method]
            rows.append(row(f"{rate}/{share}/{x}/{factor}", method, rate, x, share, (v, 2 * v, nv, 1.1 * nv)))
    return table_of(rows, text)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def caption(figure):
    return figure.get_supxlabel().replace("\n", " ")


def points(ax):
    """Drawn points, by marker and face colour."""
    return {
        (line.get_marker(), line.get_markerfacecolor() == "none"): np.array(line.get_xydata())
        for line in ax.lines
        if line.get_marker() not in ("None", "_", "v")
    }


class TestAggregate:
    def test_mean_and_spread_by_hand(self):
        rows = [
            row("a", x=2.0, numbers=(1.0, 10.0, 0.1, 0.2)),
            row("b", x=2.0, numbers=(3.0, 20.0, 0.3, 0.6)),
            row("c", x=0.5, numbers=(7.0, 70.0, 0.7, 0.8)),
            row("a", "gc", x=2.0, numbers=(100.0, 100.0, 1.0, 1.0)),
            row("d", x=2.0, rate=0.1, numbers=(100.0, 100.0, 1.0, 1.0)),
            row("e", x=2.0, share=0.5, numbers=(100.0, 100.0, 1.0, 1.0)),
        ]
        filters = {"method": "sgb", "learning_rate": 0.01, "duplicate_fraction": 0}
        x, mean, std, n = aggregate(table_of(rows), "variance", "mean70", **filters)
        assert x.tolist() == [0.5, 2.0]
        assert mean.tolist() == [7.0, 2.0]
        assert std.tolist() == [0.0, 1.0]  # divisor n: √(((1 − 2)² + (3 − 2)²) / 2)
        assert n.tolist() == [1, 2]
        got = aggregate(table_of(rows), "normalized_variance", "max70", **filters)
        np.testing.assert_allclose(got.mean, [0.8, 0.4], rtol=1e-14)
        assert aggregate(table_of(rows), "variance", "max70", **filters).mean.tolist() == [70.0, 15.0]

    @pytest.mark.parametrize("text", ["S32", "U32", "O"])
    def test_strings_of_any_kind(self, text):
        got = aggregate(study(text=text), "variance", "mean70", method="gc", learning_rate=0.1)
        np.testing.assert_allclose(got.mean, 3e-3 / (np.array(GRID) * 2), rtol=1e-12)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("column", range(4))
    def test_a_diverged_trajectory_counts_for_no_method(self, bad, column):
        broken = [1.0, 2.0, 0.3, 0.4]
        broken[column] = bad
        rows = [row("a", "sgb"), row("a", "gc"), row("b", "sgb"), row("b", "gc", numbers=tuple(broken))]
        rows += [row("c", "sgb", x=5.0, numbers=(bad,) * 4)]
        for method in ("sgb", "gc"):
            got = aggregate(table_of(rows), "variance", "mean70", method=method)
            assert (got.x.tolist(), got.mean.tolist(), got.n.tolist()) == ([1.0], [1.0], [1])
        assert left_out(table_of(rows)) == 2
        assert left_out(table_of(rows), overparametrization=1.0) == 1
        assert left_out(table_of(rows[:2])) == 0

    def test_nothing_matches(self):
        got = aggregate(study(), "variance", "mean70", method="absent")
        assert [v.shape for v in got] == [(0,)] * 4

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(
            st.tuples(st.sampled_from(GRID), st.floats(0, 1e6), st.sampled_from(["sgb", "gc"])),
            min_size=1,
            max_size=40,
        )
    )
    def test_agrees_with_a_loop(self, samples):
        rows = [row(f"t{i}", m, x=x, numbers=(v, 0.0, 0.0, 0.0)) for i, (x, v, m) in enumerate(samples)]
        got = aggregate(table_of(rows), "variance", "mean70", method="gc")
        want = {}
        for x, v, m in samples:
            if m == "gc":
                want.setdefault(x, []).append(v)
        assert got.x.tolist() == sorted(want)
        for x, mean, std, n in zip(*got, strict=True):
            exact = sum(want[x]) / len(want[x])
            spread = (sum((v - exact) ** 2 for v in want[x]) / len(want[x])) ** 0.5
            assert n == len(want[x])
            assert mean == pytest.approx(exact, rel=1e-10, abs=1e-300)
            assert std == pytest.approx(spread, rel=1e-9, abs=1e-9 * exact)

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"statistic must be one of .*, got 'loss'"):
            aggregate(study(), "loss", "mean70")
        with pytest.raises(ValueError, match=r"aggregate must be one of .*, got 'median'"):
            aggregate(study(), "variance", "median")
        with pytest.raises(ValueError, match=r"filters must name fields .*, got 'colour'"):
            aggregate(study(), "variance", "mean70", colour=1)
        fields = [name for name in REQUIRED_FIELDS if name not in ("method", "duplicate_fraction")]
        with pytest.raises(ValueError, match="lacks the fields method, duplicate_fraction"):
            aggregate(study()[fields], "variance", "mean70")
        with pytest.raises(ValueError, match="structured array"):
            aggregate(np.zeros((3, 3)), "variance", "mean70")


class TestFigures:
    @pytest.mark.parametrize(
        ("figure", "column", "log"),
        [
            (figure4, ("variance", "max70"), True),
            (figure5, ("normalized_variance", "max70"), False),
            (figure9, ("variance", "mean70"), True),
        ],
    )
    def test_three_panels_with_the_right_numbers(self, figure, column, log):
        summary = study()
        axes = figure(summary).axes
        assert [ax.get_title() for ax in axes] == [
            "(a) SG-B, every learning rate",
            "(b) every method, learning rate 0.01",
            "(c) every method, learning rate 0.1",
        ]
        assert legend(axes[0]) == ["rate 0.001", "rate 0.01", "rate 0.1"]
        assert legend(axes[1]) == legend(axes[2]) == ["SG-B", "SG-2B", "SVRG", "GC"]
        for ax, rate in zip(axes[1:], (0.01, 0.1), strict=True):
            drawn = points(ax)
            for method, marker in zip(("sgb", "sg2b", "svrg", "gc"), "os^D", strict=True):
                want = aggregate(summary, *column, method=method, learning_rate=rate)
                np.testing.assert_allclose(drawn[marker, False][:, 1], want.mean, rtol=1e-12)
                np.testing.assert_allclose(drawn[marker, False][:, 0], want.x, rtol=0.1)
        for ax in axes:
            assert ax.get_yscale() == ("log" if log else "linear")
            assert [label.get_text() for label in ax.get_xticklabels()] == [f"{x:g}" for x in GRID]
        assert "(2 trajectories a point)" in caption(figure(summary))

    def test_error_bars_are_one_standard_deviation(self):
        summary = study(grid=(1, 2))
        ax = figure9(summary).axes[1]
        (bars,) = ax.containers[0].lines[2]
        want = aggregate(summary, "variance", "mean70", method="sgb", learning_rate=0.01)
        for segment, mean, std in zip(bars.get_segments(), want.mean, want.std, strict=True):
            np.testing.assert_allclose(np.asarray(segment)[:, 1], [mean - std, mean + std], rtol=1e-12)

    def test_curves_stand_side_by_side(self):
        left = [xy[0, 0] for xy in points(figure4(study()).axes[1]).values()]
        assert left == sorted(left)
        assert len(set(left)) == 4

    def test_normalized_variance_has_a_line_at_one(self):
        for figure, there in ((figure5, True), (figure4, False)):
            for ax in figure(study()).axes:
                assert any(np.array_equal(line.get_ydata(), [1.0, 1.0]) for line in ax.lines) == there

    def test_other_rates_give_sensible_panels(self):
        titles = [ax.get_title() for ax in figure4(study(rates=(0.02, 0.05, 0.5))).axes]
        assert titles[1:] == ["(b) every method, learning rate 0.05", "(c) every method, learning rate 0.5"]
        titles = [ax.get_title() for ax in figure4(study(rates=(0.001, 0.01))).axes]
        assert titles[1:] == ["(b) every method, learning rate 0.001", "(c) every method, learning rate 0.01"]
        assert len(figure4(study(rates=(0.3,))).axes) == 2

    def test_further_methods_are_carried(self):
        figure = figure4(study(methods=("sketched", "gc", "sgb", "exchange")))
        assert legend(figure.axes[1]) == ["SG-B", "GC", "Exchange", "Sketched"]
        lines = [line for line in figure.axes[1].lines if line.get_linestyle() != "None"]
        assert len({line.get_color() for line in lines}) == 4
        assert figure4(study(methods=("gc",))).axes[0].get_title() == "(a) GC, every learning rate"

    def test_a_method_looks_the_same_without_its_neighbours(self):
        def look(figure):
            ax = figure.axes[1]
            handle = ax.get_legend().legend_handles[legend(ax).index("GC")]
            return handle.get_color(), handle.get_marker(), handle.get_linestyle()

        assert look(figure4(study(methods=("sgb", "gc")))) == look(figure4(study()))

    def test_duplicates(self):
        figure = figure8(study(shares=(0.1, 0.5, 0.9)), reference())
        assert [ax.get_title() for ax in figure.axes] == [
            "(a) 10 % duplicates, learning rate 0.01",
            "(b) 50 % duplicates, learning rate 0.01",
            "(c) 90 % duplicates, learning rate 0.01",
        ]
        assert ["paper (digitised)" in legend(ax) for ax in figure.axes] == [False, True, False]
        assert [ax.get_title()[:8] for ax in figure8(study(shares=(0.3,))).axes] == ["(a) 30 %"]

    def test_duplicates_stay_out_of_the_other_figures(self):
        with_, without = study(shares=(0.5,)), study()
        for figure in (figure4, figure5, figure9):
            for one, other in zip(figure(with_).axes, figure(without).axes, strict=True):
                a, b = points(one), points(other)
                assert a.keys() == b.keys()
                assert all(np.array_equal(a[key], b[key]) for key in a)

    def test_the_papers_points_lie_where_they_belong(self):
        ref = reference()
        figure = figure4(study(), ref)
        assert ["paper (digitised)" in legend(ax) for ax in figure.axes] == [True, True, False]
        want = ref[(ref["statistic"] == "variance") & (ref["aggregate"] == "max70") & (ref["duplicate_fraction"] == 0)]
        hollow = {marker: xy for (marker, empty), xy in points(figure.axes[1]).items() if empty}
        for method, marker in zip(("sgb", "sg2b", "svrg", "gc"), "os^D", strict=True):
            np.testing.assert_array_equal(hollow[marker][:, 1], want["value"][want["method"] == method])
        hollow = {marker: xy for (marker, empty), xy in points(figure.axes[0]).items() if empty}
        assert list(hollow) == ["s"]  # SG-B alone, in the marker of its rate 0.01
        np.testing.assert_array_equal(hollow["s"][:, 1], want["value"][want["method"] == "sgb"])
        assert "Hollow" in caption(figure)
        assert "Hollow" not in caption(figure4(study()))

    def test_monte_carlo_is_named_where_the_paper_exceeds_one(self):
        assert "Monte Carlo" in caption(figure5(study(), reference()))
        assert "Monte Carlo" not in caption(figure5(study()))

    def test_diverged_trajectories_are_counted(self):
        summary = study()
        assert "No trajectory was left out" in caption(figure4(summary))
        gone = np.char.startswith(summary["trajectory"], b"0.1/0.0/5/")
        summary["variance_max70"][gone] = np.inf
        figure = figure4(summary)
        assert "Left out as diverged: 2 in (a), 2 in (c)." in caption(figure)
        assert points(figure.axes[2])["o", False].shape == (8, 2)
        summary["variance_max70"][summary["learning_rate"] == 0.1] = np.nan
        figure = figure4(summary)
        assert [text.get_text() for text in figure.axes[2].texts] == ["every trajectory diverged"]

    def test_a_bar_that_reaches_zero_ends_in_a_triangle(self):
        rows = [row(f"{i}", m, numbers=(v,) * 4) for m in ("sgb", "gc") for i, v in enumerate((1e-4, 1e-4, 1e-2))]
        figure = figure4(table_of(rows))
        ax = figure.axes[1]
        triangles = [line for line in ax.lines if line.get_marker() == "v"]
        assert [line.get_ydata().tolist() for line in triangles] == [[ax.get_ylim()[0]]] * 2
        assert "lies below" in caption(figure)
        assert "lies below" not in caption(figure4(study()))

    def test_a_variance_of_zero_does_not_stretch_the_axis(self):
        rows = [row("a", x=1.0), row("b", x=5.0, numbers=(0.0,) * 4), row("c", x=10.0, numbers=(1e-30,) * 4)]
        ax = figure9(table_of(rows)).axes[1]
        assert 0.1 < ax.get_ylim()[0] < 1.0
        (triangles,) = [line for line in ax.lines if line.get_marker() == "v"]
        np.testing.assert_allclose(triangles.get_xdata(), [5.0, 10.0])
        figure9(table_of([row(numbers=(0.0,) * 4)]))

    def test_what_cannot_be_drawn(self):
        assert undrawable(study(shares=(0.5,))) == {}
        assert undrawable(study()) == {"Fig. 8": "the file has no trajectory with duplicates"}
        with pytest.raises(ValueError, match=r"cannot give Fig\. 8: the file has no trajectory with duplicates"):
            figure8(study())
        only = study(rates=(), shares=(0.5,))
        assert set(undrawable(only)) == {"Fig. 4", "Fig. 5", "Fig. 9"}
        with pytest.raises(ValueError, match=r"cannot give Fig\. 9: the file has no trajectory without duplicates"):
            figure9(only)
        lost = study()
        lost["normalized_variance_max70"] = np.nan
        assert undrawable(lost)["Fig. 4"] == "every trajectory without duplicates diverged"

    def test_a_dense_grid_has_no_overlapping_labels(self):
        figure = figure4(study(grid=tuple(np.linspace(1, 3, 41))))
        figure.savefig(io.BytesIO(), format="png")
        for ax in figure.axes:
            boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
            assert 3 <= len(boxes) < 41
            assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


class TestDrawAll:
    def test_files(self, tmp_path):
        out = tmp_path / "new"
        paths = draw_all(study(grid=(1, 10)), out)
        assert [p.name for p in paths] == [f"figure{n}.{f}" for n in (4, 5, 9) for f in ("png", "svg")]
        assert sorted(out.iterdir()) == sorted(paths)
        assert all(p.stat().st_size > 1000 for p in paths)

    def test_the_same_bytes_each_time_whatever_the_settings(self, tmp_path):
        summary = study(grid=(1, 10), rates=(), shares=(0.5,))
        formats = ("png", "svg", "pdf")
        first = draw_all(summary, tmp_path / "a", formats)
        with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other", "axes.facecolor": "red"}):
            second = draw_all(summary, tmp_path / "b", formats)
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes(), one.name

    def test_nothing_is_replaced_unasked(self, tmp_path):
        summary = study(grid=(1,), rates=(), shares=(0.5,))
        (tmp_path / "figure8.png").write_text("mine")
        with pytest.raises(FileExistsError, match=r"already has figure8\.png"):
            draw_all(summary, tmp_path, ("png",))
        assert [p.name for p in tmp_path.iterdir()] == ["figure8.png"]
        assert (tmp_path / "figure8.png").read_text() == "mine"
        draw_all(summary, tmp_path, ("png",), overwrite=True)
        assert (tmp_path / "figure8.png").read_bytes().startswith(b"\x89PNG")

    def test_the_papers_points_can_be_left_out(self, tmp_path):
        summary = study(grid=(1,), rates=(), shares=(0.5,))
        with_ = draw_all(summary, tmp_path / "a", ("png",))
        without = draw_all(summary, tmp_path / "b", ("png",), paper=False)
        assert with_[0].read_bytes() != without[0].read_bytes()

    def test_bad_input(self, tmp_path):
        summary = study(grid=(1,))
        with pytest.raises(ValueError, match="formats must be one of png, svg, pdf, got 'gif'"):
            draw_all(summary, tmp_path, ("png", "gif"))
        with pytest.raises(ValueError, match="formats must name at least one"):
            draw_all(summary, tmp_path, ())
        with pytest.raises(FileNotFoundError, match="does not exist"):
            draw_all(summary, tmp_path / "no" / "where", ("png",))
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError, match="not a folder"):
            draw_all(summary, tmp_path / "file", ("png",))
        with pytest.raises(ValueError, match="data for no figure: the file has no trajectory without"):
            draw_all(summary[:0], tmp_path, ("png",))
        assert [p.name for p in tmp_path.iterdir()] == ["file"]


class TestPanelsAlone:
    @pytest.mark.parametrize(
        ("name", "rate", "share", "whole", "place"),
        [
            ("4a", None, 0.0, figure4, 0), ("4b", 0.01, 0.0, figure4, 1), ("4c", 0.1, 0.0, figure4, 2),
            ("5b", 0.01, 0.0, figure5, 1), ("8c", 0.01, 0.9, figure8, 2), ("9a", None, 0.0, figure9, 0),
        ],
    )  # fmt: skip
    def test_a_panel_is_that_of_its_figure(self, name, rate, share, whole, place):
        table = study(shares=(0.1, 0.5, 0.9))
        (alone,) = panel(table, name, rate, share, paper=False).axes
        there = whole(table).axes[place]
        assert alone.get_title() == there.get_title()
        assert legend(alone) == legend(there)
        shown, expected = points(alone), points(there)
        assert shown.keys() == expected.keys()
        assert all(np.array_equal(shown[key], expected[key]) for key in shown)

    def test_its_own_trajectories_are_enough(self):
        table = study()
        part = table[table["learning_rate"] == 0.1]
        (alone,), (there,) = (panel(rows, "4c", 0.1, 0.0).axes for rows in (part, table))
        assert points(alone).keys() == points(there).keys()
        assert "paper (digitised)" not in legend(alone)  # the paper has points at 0.01 only
        assert "paper (digitised)" in legend(panel(table, "4b", 0.01, 0.0).axes[0])

    def test_its_heading_fits(self):
        figure = panel(study(), "9b", 0.01, 0.0)
        figure.draw_without_rendering()
        heading = figure._suptitle
        assert heading.get_text().startswith("Fig. 9b. Random features: average variance, mean over")
        assert heading.get_window_extent().width < figure.bbox.width
