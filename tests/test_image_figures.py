import itertools
import json
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from gcref.image_figures import (
    Run,
    default_window,
    drawings,
    figure3,
    figure6,
    figure7,
    read_run,
    rolling,
    undrawable,
)
from gcref.panels import METHOD_LABELS, save
from gcref.store import StoreError
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun

METHODS = tuple(METHOD_LABELS)
FIGURES = {"Fig. 3": figure3, "Fig. 6": figure6, "Fig. 7": figure7}


def make(name="a.h5", points=101, methods=METHODS, status="complete", change=None, **settings):
    """A run with known series: variance 1e-4 / (1 + place of the method), falling tenfold over the training."""
    config = json.loads(
        ImageRun(
            **{
                "dataset": "fashion-mnist",
                "iterations": (points - 1) * 100 or 100,
                "measure_every": 100,
                "refresh_every": 400 if points > 4 and points % 4 == 1 else (points - 1) * 100 or 100,
                **settings,
            }
        ).to_json()
    )
    falling = np.logspace(-4, -5, points)
    variance = {m: falling / (1 + i) for i, m in enumerate(methods)}
    normalized = {m: np.linspace(0.9, 0.5, points) / (1 + i) for i, m in enumerate(methods)}
    run = Run(Path(name), config, status, 100 * np.arange(points), variance, normalized)
    if change is not None:
        change(run)
    return run


def write(path, run):
    """Write a run as its file."""
    with h5py.File(path, "w") as file:
        file.attrs.update(schema="gcref/1", config=json.dumps(run.config), complete=run.status != "unfinished")
        file["summary"] = np.zeros(1)
        group = file.create_group("trajectories/x")
        group.attrs["status"] = run.status
        group["iteration"] = run.iteration
        for kind in ("variance", "normalized_variance"):
            for method, series in getattr(run, kind).items():
                group[f"{kind}/{method}"] = series
    return path


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption(figure):
    return figure.get_supxlabel().replace("\n", " ")


def curves(ax):
    """The smoothed curves of a panel, by colour."""
    return {
        to_hex(line.get_color()): line
        for line in ax.lines
        if line.get_marker() == "None" and line.get_linewidth() == 1.4
    }


COLORS = dict(zip(METHODS, ("#0072b2", "#e69f00", "#009e73", "#d55e00"), strict=True))


class TestRolling:
    def test_by_hand(self):
        mean, std = rolling(np.array([0.0, 3.0, 6.0, 0.0]), 3)
        np.testing.assert_allclose(mean, [1.5, 3.0, 3.0, 3.0], rtol=1e-15)
        np.testing.assert_allclose(std, [1.5, np.sqrt(6.0), np.sqrt(6.0), 3.0], rtol=1e-15)
        mean, _ = rolling(np.array([0.0, 3.0, 6.0, 0.0]), 2)  # itself and the next one
        np.testing.assert_allclose(mean, [1.5, 4.5, 3.0, 0.0], rtol=1e-15)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, np.nan, np.inf]), max_size=30), st.integers(1, 40))
    def test_agrees_with_a_loop(self, values, window):
        mean, std = rolling(np.array(values), window)
        assert mean.shape == std.shape == (len(values),)
        for i, value in enumerate(values):
            if not np.isfinite(value):
                assert np.isnan(mean[i])
                assert np.isnan(std[i])
                continue
            near = []
            for j, other in enumerate(values):
                if -((window - 1) // 2) <= j - i <= window // 2 and np.isfinite(other):
                    near.append(other)
            want = sum(near) / len(near)
            spread = (sum((v - want) ** 2 for v in near) / len(near)) ** 0.5
            assert mean[i] == pytest.approx(want, rel=1e-12, abs=1e-300)
            assert std[i] == pytest.approx(spread, rel=1e-9, abs=1e-12 * max(near) + 1e-300)

    def test_a_window_of_one_changes_nothing(self):
        values = np.array([1e-7, 0.0, 3.0, np.nan])
        mean, std = rolling(values, 1)
        np.testing.assert_array_equal(mean, values)
        np.testing.assert_array_equal(std, [0.0, 0.0, 0.0, np.nan])

    def test_a_window_beyond_the_ends_is_everything(self):
        mean, std = rolling(np.arange(5.0), 99)
        np.testing.assert_array_equal(mean, 2.0)
        np.testing.assert_array_equal(std, np.sqrt(2.0))

    def test_what_overflows_is_no_warning(self):
        mean, std = rolling(np.array([1.0, 1e308, 1e308]), 3)
        assert np.isfinite(mean[0])
        assert not np.isfinite(std).any()

    @pytest.mark.parametrize("window", [0, -3, 2.5, "3", None])
    def test_bad_window(self, window):
        with pytest.raises(ValueError, match=rf"window={window!r} must be a number of measuring points, at least 1"):
            rolling(np.ones(3), window)
        if window is not None:
            with pytest.raises(ValueError, match="window="):
                figure3([make()], window)

    def test_default_window_is_odd_and_up_to_a_tenth(self):
        wanted = {1: 1, 9: 1, 20: 1, 29: 1, 30: 3, 49: 3, 50: 5, 101: 9, 161: 15}
        assert {points: default_window(points) for points in wanted} == wanted


class TestReadRun:
    def test_what_the_study_writes(self, tmp_path):
        run = ImageRun(
            dataset="digits", model="linear", n_examples=60, n_test_examples=20, batch_size=10, iterations=20,
            measure_every=10, refresh_every=10, gc_iterations=1, label_smoothing=0.1, milestones=(10,),
        )  # fmt: skip
        run_image(run, tmp_path / "a.h5")
        got = read_run(tmp_path / "a.h5")
        assert got.config == json.loads(run.to_json())
        assert (got.status, got.iteration.tolist()) == ("complete", [0, 10, 20])
        assert set(got.variance) == set(got.normalized_variance) == set(METHODS)
        with h5py.File(tmp_path / "a.h5") as file:
            np.testing.assert_array_equal(got.variance["gc"], file[f"trajectories/{run.id}/variance/gc"][()])
        assert got.variance["svrg"][0] == 0.0
        assert titles(figure6([got])) == ["(a) Digits, linear model\nlabel smoothing 0.1"]

    def test_round_trip(self, tmp_path):
        run = make(points=5, methods=("gc", "sketched"), status="unfinished")
        got = read_run(str(write(tmp_path / "b.h5", run)))
        assert (got.path, got.status, got.config) == (tmp_path / "b.h5", "unfinished", run.config)
        for kind in ("variance", "normalized_variance"):
            assert getattr(got, kind).keys() == getattr(run, kind).keys()
            for method, series in getattr(run, kind).items():
                np.testing.assert_array_equal(getattr(got, kind)[method], series)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda f: f.attrs.update(config="{"), "config must be a JSON object that names the study's schema"),
            (lambda f: f.attrs.update(config="[]"), r"config must be a JSON object .* got '\[\]'"),
            (lambda f: f.attrs.update(config="{}"), "config must be a JSON object"),
            (lambda f: f.attrs.pop("config"), "config must be a JSON object .* got None"),
            (
                lambda f: f.attrs.update(config='{"schema": "rf-sweep/1"}'),
                "of another study: config has schema 'rf-sweep/1', expected 'image/1'",
            ),
            (lambda f: f.attrs.update(config='{"schema": "image/1"}'), "config has no usable dataset, model"),
            (
                lambda f: f.attrs.update(config=f.attrs["config"].replace('y": 400', 'y": 0')),
                "config has no usable refresh_every",
            ),
            (lambda f: f.create_group("trajectories/y"), "must hold one trajectory, got 2"),
            (lambda f: f.pop("trajectories/x"), "must hold one trajectory, got 0"),
            (lambda f: f.pop("trajectories/x/iteration"), "is damaged"),
            (lambda f: f["trajectories/x"].attrs.pop("status"), "is damaged"),
            (lambda f: f.pop("trajectories/x/variance"), "is damaged"),
            (lambda f: f.create_group("trajectories/x/variance/z"), "is damaged"),
            (lambda f: f.pop("trajectories/x/variance/gc"), "must hold the same methods"),
            (lambda f: [f.pop(f"trajectories/x/{k}/{m}") for k in ("variance", "normalized_variance") for m in METHODS],
             "must hold the same methods, at least one"),
            (lambda f: _replace(f, "variance/gc", np.ones(3)), "series of gc must have a number for each iteration"),
            (lambda f: _replace(f, "variance/gc", np.ones((5, 1))), "series of gc"),
            (lambda f: _replace(f, "variance/gc", np.full(5, b"x")), "series of gc"),
            (lambda f: _replace(f, "iteration", np.array([0, 100, 100, 200, 300])), "increasing iterations"),
        ],
    )  # fmt: skip
    def test_bad_files(self, tmp_path, spoil, message):
        path = write(tmp_path / "bad.h5", make(points=5))
        with h5py.File(path, "a") as file:
            spoil(file)
        with pytest.raises(StoreError, match=message) as caught:
            read_run(path)
        assert "bad.h5" in str(caught.value)

    def test_no_measurement(self, tmp_path):
        empty = np.empty(0)
        run = replace(make(), iteration=empty, variance={"gc": empty}, normalized_variance={"gc": empty})
        with pytest.raises(StoreError, match="at least one measuring point"):
            read_run(write(tmp_path / "a.h5", run))
        with pytest.raises(StoreError, match="no such file"):
            read_run(tmp_path / "absent.h5")


def _replace(file, name, array):
    del file[f"trajectories/x/{name}"]
    file[f"trajectories/x/{name}"] = array


PLAIN = make("plain.h5")
SMOOTH = make("smooth.h5", label_smoothing=0.1)
CORRUPT = make("corrupt.h5", corrupt_fraction=0.1)
TWICE = make("twice.h5", duplicate_fraction=0.5)


class TestWhichFigures:
    @pytest.mark.parametrize(
        ("runs", "names"),
        [
            ([PLAIN], ["Fig. 3"]),
            ([SMOOTH], ["Fig. 6"]),
            ([CORRUPT, PLAIN], ["Fig. 3", "Fig. 6"]),
            ([TWICE], ["Fig. 7"]),
            ([PLAIN, TWICE], ["Fig. 3", "Fig. 7"]),
            ([PLAIN, SMOOTH, CORRUPT, TWICE], ["Fig. 3", "Fig. 6", "Fig. 7"]),
            ([make(duplicate_fraction=0.5, corrupt_fraction=0.1)], ["Fig. 6", "Fig. 7"]),
        ],
    )
    def test_of_which_runs(self, runs, names):
        assert list(drawings(runs)) == names
        assert undrawable(runs).keys() == FIGURES.keys() - set(names)
        for name in undrawable(runs):
            with pytest.raises(ValueError, match=f"runs cannot give {name}: (no|every) run "):
                FIGURES[name](runs)

    def test_no_run_at_all(self):
        assert set(undrawable([])) == set(FIGURES)
        with pytest.raises(ValueError, match=r"cannot give Fig\. 3"):
            figure3([])

    @pytest.mark.parametrize("draw", [drawings, figure3, figure6, figure7])
    def test_one_configuration_twice(self, draw):
        with pytest.raises(ValueError, match=r"plain\.h5 and again\.h5 hold the same configuration"):
            draw([PLAIN, SMOOTH, TWICE, make("again.h5")])

    def test_columns_of_figure_3(self):
        runs = [PLAIN, SMOOTH, make("b.h5", dataset="cifar10", model="resnet8", milestones=(4000, 6000)), TWICE]
        figure = figure3(runs)
        assert titles(figure) == ["(a) Fashion-MNIST, MLP", "(b) CIFAR-10, ResNet8", "(c) SG-B", "(d) SG-B"]
        assert len(figure.axes) == 4

    def test_rows_of_figure_6(self):
        other = {"dataset": "cifar10", "model": "resnet8"}
        both = make("g.h5", label_smoothing=0.2, corrupt_fraction=0.05)
        alone = make("h.h5", dataset="mnist")
        figure = figure6([CORRUPT, make("e.h5", corrupt_fraction=0.1, **other), both, SMOOTH, PLAIN, alone, TWICE])
        assert titles(figure) == [
            "(a) Fashion-MNIST, MLP\nlabels as they are",
            "(b) Fashion-MNIST, MLP\nlabel smoothing 0.1",
            "(c) Fashion-MNIST, MLP\nlabel smoothing 0.2, 5 % of labels corrupt",
            "(d) Fashion-MNIST, MLP\n10 % of labels corrupt",
            "(e) CIFAR-10, ResNet8\n10 % of labels corrupt",
        ]
        assert [ax.axison for ax in figure.axes] == [True] * 5 + [False] * 3

    def test_rows_of_figure_7(self):
        noisy = make("n.h5", corrupt_fraction=0.1, duplicate_fraction=0.9)
        figure = figure7([TWICE, SMOOTH, make("f.h5", duplicate_fraction=0.25), PLAIN, noisy])
        assert titles(figure) == [
            "(a) Fashion-MNIST, MLP\nno duplicates",
            "(b) Fashion-MNIST, MLP\n25 % duplicates",
            "(c) Fashion-MNIST, MLP\n50 % duplicates",
            "(d) Fashion-MNIST, MLP\n10 % of labels corrupt, 90 % duplicates",
        ]

    def test_equal_titles_are_told_apart(self):
        figure = figure3([PLAIN, make("b.h5", seed=1, hidden=(8,)), make("c.h5", dataset="mnist")])
        assert titles(figure)[:3] == [
            "(a) Fashion-MNIST, MLP\nhidden 1024, 1024; seed 0",
            "(b) Fashion-MNIST, MLP\nhidden 8; seed 1",
            "(c) MNIST, MLP",
        ]
        figure = figure6([SMOOTH, make("x/b.h5", label_smoothing=0.1, seed=1, hidden=(8,), momentum=0.9)])
        assert titles(figure) == [
            "(a) Fashion-MNIST, MLP\nlabel smoothing 0.1\nsmooth.h5",
            "(b) Fashion-MNIST, MLP\nlabel smoothing 0.1\nx/b.h5",
        ]

    def test_what_else_differs_is_said(self):
        assert "differ in" not in caption(figure6([PLAIN, SMOOTH]))
        figure = figure6([PLAIN, make("b.h5", label_smoothing=0.1, learning_rate=0.5, seed=4)])
        assert "Runs of a row differ in learning rate, seed too." in caption(figure)


class TestNumbersDrawn:
    def test_the_rolling_mean_and_its_deviation(self):
        rng = np.random.default_rng(0)
        run = make(
            change=lambda run: [np.multiply(v, rng.uniform(0.7, 1.3, 101), out=v) for v in run.variance.values()]
        )
        figure = figure3([run], window=7)
        ax = figure.axes[0]
        assert ax.get_yscale() == "log"
        for method, shade in zip(METHODS, ax.collections, strict=True):
            mean, std = rolling(run.variance[method], 7)
            line = curves(ax)[COLORS[method]]
            np.testing.assert_array_equal(line.get_xdata(), run.iteration)
            np.testing.assert_array_equal(line.get_ydata(), mean)
            corners = shade.get_paths()[0].vertices
            for end in (mean - std, mean + std):
                assert all(
                    np.isclose(corners, point, rtol=1e-12).all(axis=1).any()
                    for point in zip(run.iteration, end, strict=True)
                )
        assert "rolling window of 7 measuring points" in caption(figure)

    def test_the_default_window_is_each_runs_own(self):
        figure = figure3([PLAIN, make("b.h5", points=31, dataset="mnist")])
        for ax, run in zip(figure.axes, (PLAIN, make("b.h5", points=31)), strict=False):
            mean, _ = rolling(run.variance["gc"], {101: 9, 31: 3}[run.iteration.size])
            np.testing.assert_array_equal(curves(ax)[COLORS["gc"]].get_ydata(), mean)
        assert "rolling window of 3 to 9 measuring points" in caption(figure)

    def test_the_normalized_variance_of_one_method(self):
        lower = figure3([PLAIN], window=1).axes[1]
        assert list(curves(lower)) == [COLORS["sgb"]]
        np.testing.assert_array_equal(curves(lower)[COLORS["sgb"]].get_ydata(), PLAIN.normalized_variance["sgb"])
        assert any(np.array_equal(line.get_ydata(), [1.0, 1.0]) for line in lower.lines)
        assert lower.get_yscale() == "linear"
        assert "Normalized variance: SG-B alone for clarity, as in the paper." in caption(figure3([PLAIN]))
        figure = figure3([make(methods=("new", "gc"))])
        assert titles(figure) == ["(a) Fashion-MNIST, MLP", "(b) GC"]
        assert "Normalized variance: GC alone" in caption(figure)

    def test_few_points_are_drawn_one_by_one_and_many_are_not(self):
        def dots(figure):
            return [line for line in figure.axes[0].lines if line.get_marker() in [*"os^D"]]

        few = make(points=21)
        assert len(dots(figure3([few], window=5))) == 4
        np.testing.assert_array_equal(dots(figure3([few], window=5))[3].get_ydata(), few.variance["gc"])
        assert dots(figure3([PLAIN])) == []
        markers = [[line.get_marker() for line in f.legends[0].get_lines()[:4]] for f in map(figure3, ([few], [PLAIN]))]
        assert markers == [[*"os^D"], [""] * 4]
        assert "not smoothed" in caption(figure3([few]))

    def test_drops_and_refreshes(self):
        run = make(refresh_every=5000, milestones=(4000, 6000, 20000))
        figure = figure3([run])
        for ax in figure.axes:
            assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [4000, 6000]
            (ticks,) = [line for line in ax.lines if line.get_marker() == 3]
            assert list(ticks.get_xdata()) == [0, 5000]
        assert legend(figure) == ["SG-B", "SG-2B", "SVRG", "GC", "learning rate drops", "SVRG and GC refresh"]
        assert legend(figure3([make(methods=("sgb", "sg2b"))])) == ["SG-B", "SG-2B"]

    def test_an_unfinished_run_ends_where_it_ends(self):
        run = make(points=41, status="unfinished", iterations=10000, refresh_every=1000, milestones=(2000, 6000))
        figure = figure3([PLAIN, run])
        ax = figure.axes[1]
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [2000]
        assert [line.get_xdata()[-1] for line in ax.lines if line.get_marker() == 3] == [4000]
        assert "(b) unfinished, 4000 of 10000 iterations." in caption(figure)
        assert caption(figure).count("unfinished") == 1
        assert "(a) diverged after iteration 10000." in caption(figure3([make(status="diverged")]))

    def test_monte_carlo_is_named(self):
        assert "its variances exact" in caption(figure3([PLAIN]))
        figure = figure6([PLAIN, make("b.h5", label_smoothing=0.1, method="monte-carlo", n_estimates=10)])
        assert "exact" not in caption(figure)
        assert "(b) Monte Carlo of 10 draws." in caption(figure)

    def test_a_method_looks_the_same_everywhere(self):
        further = make("b.h5", methods=("zeta", "alpha", "gc"), label_smoothing=0.1)
        figure = figure6([make(methods=("gc", "zeta")), further])
        assert legend(figure) == ["GC", "Alpha", "Zeta", "SVRG and GC refresh"]
        first, second = (curves(ax) for ax in figure.axes)
        assert set(first) < set(second)
        assert COLORS["gc"] in first
        assert len({str(line._dash_pattern) for line in second.values()}) == 3

    def test_common_axes(self):
        low = make(
            "b.h5", label_smoothing=0.1, change=lambda r: [np.multiply(v, 1e-3, out=v) for v in r.variance.values()]
        )
        limits = [ax.get_ylim() for ax in figure6([PLAIN, low]).axes]
        assert limits[0] == limits[1]
        assert limits[0][0] < low.variance["gc"].min()
        assert limits[0][1] > PLAIN.variance["sgb"].max()
        plain = replace(low, config=PLAIN.config | {"dataset": "mnist"})
        figure = figure3([PLAIN, plain])
        assert figure.axes[0].get_ylim()[0] > 100 * figure.axes[1].get_ylim()[0]
        assert figure.axes[2].get_ylim() == figure.axes[3].get_ylim()


def put(method, where, value, kind="variance"):
    def change(run):
        getattr(run, kind)[method][where] = value

    return change


class TestAwkwardNumbers:
    def test_a_variance_of_zero_is_a_gap(self):
        figure = figure3([make(change=put("svrg", [0, 40], 0.0))], window=1)
        line = curves(figure.axes[0])[COLORS["svrg"]]
        assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [0, 40]
        assert figure.axes[0].get_ylim()[0] > 1e-7
        assert "A gap: a variance of 0" in caption(figure)
        assert "A gap" not in caption(figure3([PLAIN]))
        smoothed = curves(figure3([make(change=put("svrg", 0, 0.0))], window=3).axes[0])[COLORS["svrg"]]
        assert smoothed.get_ydata()[0] == pytest.approx(PLAIN.variance["svrg"][1] / 2, rel=1e-14)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_numbers_that_are_not_finite_are_a_gap(self, bad):
        figure = figure3([make(change=put("gc", slice(10, 20), bad))], window=3)
        gap = np.isnan(curves(figure.axes[0])[COLORS["gc"]].get_ydata())
        assert np.flatnonzero(gap).tolist() == list(range(10, 20))
        assert np.isfinite(figure.axes[0].get_ylim()).all()
        assert "A gap" in caption(figure)

    def test_rounding_does_not_stretch_the_axis(self):
        assert figure3([make(change=put("svrg", 3, 1e-40))], window=1).axes[0].get_ylim()[0] > 1e-7
        assert figure3([make(change=put("svrg", 3, 1e-12))], window=1).axes[0].get_ylim()[0] < 1e-12

    def test_a_diverging_run_is_seen_from_its_start(self):
        def explode(run):
            for series in run.variance.values():
                series *= np.logspace(0, 60, 101)

        low, high = figure3([make(change=explode, status="diverged")]).axes[0].get_ylim()
        assert low < 1e-4
        assert high > 1e54

    def test_a_shade_ends_a_decade_below_its_curve(self):
        run = make(change=put("gc", 50, 1e-2))  # mean − deviation is negative around it
        figure = figure3([run], window=9)
        mean, std = rolling(run.variance["gc"], 9)
        assert (mean - std)[50] < 0
        corners = figure.axes[0].collections[3].get_paths()[0].vertices
        assert np.isclose(corners, (5000, mean[50] / 10), rtol=1e-12).all(axis=1).any()
        assert (corners[:, 1] > 0).all()
        assert "a decade below" in caption(figure)
        assert "a decade below" not in caption(figure3([PLAIN]))

    def test_monte_carlo_ratios_do_not_stretch_the_axis(self):
        figure = figure3([make(method="monte-carlo", change=put("sgb", 7, 2e5, "normalized_variance"))], window=1)
        assert 2.5 <= figure.axes[1].get_ylim()[1] < 3
        assert "Cut off at 2.5" in caption(figure)
        figure = figure3([make(method="monte-carlo", change=put("sgb", 7, 1.4, "normalized_variance"))], window=1)
        assert 1.4 < figure.axes[1].get_ylim()[1] < 1.6
        assert "Cut off" not in caption(figure)

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_nothing_to_see(self, value):
        def blank(run):
            for method in METHODS:
                run.variance[method][:] = run.normalized_variance[method][:] = value

        figure = figure3([make(change=blank)])
        assert [text.get_text() for text in figure.axes[0].texts] == ["no variance above 0"]
        figure.draw_without_rendering()

    def test_a_single_measuring_point(self):
        figure = figure3([make(points=1)])
        figure.draw_without_rendering()
        (dot, *_) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert dot.get_xydata() == pytest.approx(np.array([[0.0, 1e-4]]), rel=1e-12)

    def test_an_iteration_axis_has_room_for_its_labels(self):
        figure = figure3([make(points=801, dataset="cifar10", model="resnet8"), PLAIN])
        figure.draw_without_rendering()
        for ax in figure.axes:
            left, right = ax.get_xlim()
            shown = [t for t in ax.get_xticklabels() if left <= t.get_position()[0] <= right]
            boxes = [t.get_window_extent() for t in shown]
            assert len(boxes) >= 3
            assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))

    @pytest.mark.parametrize("columns", [1, 3])
    def test_words_keep_off_one_another(self, columns):
        runs = [make(f"{i}.h5", dataset=d, milestones=(50,)) for i, d in enumerate(("mnist", "cifar10", "digits"))]
        figure = figure3(runs[:columns])
        figure.draw_without_rendering()
        heading = figure.legends[0].get_window_extent()
        below = figure._supxlabel.get_window_extent()
        for ax in figure.axes:
            assert ax.title.get_window_extent().y1 <= heading.y0
            assert ax.get_tightbbox().y0 >= below.y1
        assert heading.x0 >= 0
        assert heading.x1 <= figure.bbox.x1
        assert below.x1 <= figure.bbox.x1


class TestSaved:
    def test_the_same_bytes_each_time_whatever_the_settings(self, tmp_path):
        runs, formats = [TWICE], ("png", "svg", "pdf")
        first = save(drawings(runs), tmp_path / "a", formats)
        with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other", "axes.facecolor": "red"}):
            second = save(drawings(runs), tmp_path / "b", formats)
        assert [p.name for p in first] == [f"figure7.{f}" for f in formats]
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes(), one.name

    def test_the_window_reaches_the_figure(self):
        for name, draw in drawings([PLAIN, SMOOTH, TWICE], window=7).items():
            figure = draw()
            assert "rolling window of 7 measuring points" in caption(figure), name
            mean, _ = rolling(PLAIN.variance["gc"], 7)
            np.testing.assert_array_equal(curves(figure.axes[0])[COLORS["gc"]].get_ydata(), mean)
