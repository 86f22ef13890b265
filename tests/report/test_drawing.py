"""Figures for a page: one picture a panel, in the page's colours."""

import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from page_cases import image, sweep

from gcref import panels
from gcref.report import drawing, sources

DARK_PAGE = "#14171b"


def drawn(paths):
    functions, _ = sources.drawings(sources.read(paths))
    return drawing.draw(functions)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return drawn([sweep(folder / "results.h5"), image(folder / "run.h5")])


def test_words_are_taken_out_of_the_picture(figures):
    fig4, *_, fig3 = figures
    assert fig4.heading == "Fig. 4. Random features: average variance, maximum over the last 70 % of the measurements"
    assert fig4.note.startswith("Points: mean over seeds, input dimensions and teachers (1 trajectories a point)")
    assert fig3.heading == "Fig. 3. Image classification: average and normalized variance"
    assert "exact" in fig3.note
    assert [p.name for p in fig3.pictures] == ["Fig. 3 (a) Digits, MLP", "Fig. 3 (b) SG-B"]


def test_what_cannot_be_seen_is_said(figures):
    fig4, *_, fig3 = figures
    assert fig4.pictures[1].words == (
        "Across: over-parametrization h_s/N (student's hidden units / training set size). Up, logarithmic: average "
        "variance, maximum (per coordinate, squared gradient units). From left to right: SG-B, from 0.002 to 0.0002; "
        "SG-2B, from 0.001 to 0.0001; SVRG, from 0.0005 to 5e-05; GC, from 0.0012 to 0.00018; paper (digitised)."
    )
    top, bottom = (picture.words for picture in fig3.pictures)
    assert "From left to right: SG-B, from 0.0001 to 0.0001; SG-2B, from 5e-05 to 5e-05; GC, from 3.3e-05" in top
    assert bottom.startswith("Across: iteration. Up, linear: normalized variance (variance / second moment).")


def test_a_panel_has_the_legend_of_its_own_curves(figures):
    top, bottom = (picture.words.partition("From left to right: ")[2] for picture in figures[-1].pictures)
    assert [entry.split(",")[0] for entry in top.split("; ")] == ["SG-B", "SG-2B", "GC", "SVRG and GC refresh."]
    assert [entry.split(",")[0] for entry in bottom.split("; ")] == ["SG-B", "SVRG and GC refresh."]


def test_pictures_are_clean(figures):
    for figure in figures:
        for picture in figure.pictures:
            root = ET.fromstring(picture.svg)
            assert root.get("viewBox").split()[2] == "352.8"
            assert {e.tag for e in root.iter()} <= {
                "svg",
                "title",
                "desc",
                "g",
                "defs",
                "path",
                "use",
                "clipPath",
                "rect",
            }
            assert not re.search(r"#[0-9a-f]{6}|<!--", picture.svg)
            assert not [e for e in root.iter() if re.search(r"\.\d{3}", e.get("d", ""))]
            assert "DejaVu" not in picture.svg


def test_every_colour_is_known_to_the_page(figures):
    for figure in figures:
        used = {name for picture in figure.pictures for name in re.findall(r"var\(--c([0-9a-f]{6})\)", picture.svg)}
        assert {f"#{name}" for name in used} == figure.colors
        assert "#0072b2" in figure.colors


def test_the_users_settings_change_nothing(tmp_path):
    path = image(tmp_path / "run.h5")
    before = drawn([path])
    with matplotlib.rc_context({"axes.facecolor": "pink", "font.size": 30, "svg.fonttype": "none"}):
        assert drawn([path]) == before


def luminance(color):
    """The relative luminance as WCAG has it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


hexes = st.tuples(*[st.integers(0, 255)] * 3).map(lambda rgb: to_hex([v / 255 for v in rgb]))


class TestNight:
    @settings(max_examples=300, deadline=None)
    @given(hexes)
    def test_what_stands_out_by_day_does_so_by_night(self, color):
        if contrast(color, "#ffffff") >= 2:
            assert contrast(drawing.night(color), DARK_PAGE) >= 3

    def test_lines_of_the_background_stay_there(self):
        for grey in ("#e6e6e6", "#ffffff", "#f0f0f0"):
            assert contrast(drawing.night(grey), DARK_PAGE) < 1.6

    def test_bright_colours_stay_as_they_are(self):
        for color in ("#e69f00", "#56b4e9", "#009e73", "#d55e00"):
            assert drawing.night(color) == color

    def test_the_darkest_becomes_the_lightest(self):
        dark, middle = drawing.night("#003050"), drawing.night("#0072b2")
        assert luminance(dark) > luminance(middle)
        assert drawing.night("#000000") == "#e6e6e6"

    def test_methods_are_told_apart(self):
        looks = panels.method_looks([*panels.METHOD_LABELS, "exact", "exchange", "sketched", "sketched-drift0.02"])
        colors = [to_hex(look["color"]) for look in looks.values()]
        at_night = np.array([[int(drawing.night(c)[i : i + 2], 16) for i in (1, 3, 5)] for c in colors])
        distances = [np.abs(a - b).max() for i, a in enumerate(at_night) for b in at_night[:i]]
        assert min(distances) >= 40
