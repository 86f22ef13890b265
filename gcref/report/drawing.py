"""Figures as inline SVG: a picture a panel, with a name and words for whoever cannot see it, and colours by name.

A page holds many pictures in one document, so ids are made unique, what matplotlib says of itself is dropped, and every
colour becomes a variable that the page's style sheet gives another value on a dark screen.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.style import context

# Inches: of a panel, which fits a phone's screen; of its axes, and what is to their left; of a line of text.
_WIDTH, _AXES, _LEFT, _LINE = 4.9, (3.88, 3.1), 0.92, 0.17
_LEGEND: dict[str, Any] = {"loc": "upper center", "frameon": False, "fontsize": 8, "handlelength": 2.8}
_LONG = 17  # characters of a label, up to which three of them fit side by side
_COLOR = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # a label may quote a file that nobody here wrote
_READABLE = 0.17  # luminance that stands out from a dark page
_PALE = 0.7  # luminance from which a grey is a line of the background
_LATEX = str.maketrans("", "", "$\\{}")


@dataclass(frozen=True)
class Picture:
    """One panel.

    Attributes
    ----------
    name : str
        The figure's and its title: "Fig. 4 (a) SG-B, every learning rate".
    words : str
        Axes and curves, for whoever cannot see it.
    svg : str
        An element for a page: text in it is escaped.
    """

    name: str
    words: str
    svg: str


@dataclass(frozen=True)
class Drawing:
    """One figure of the paper: its heading, its panels, what stands below them, and the colours it uses."""

    heading: str
    pictures: list[Picture]
    note: str
    colors: frozenset[str]


def draw(drawings: Mapping[str, Callable[[], Figure]]) -> list[Drawing]:
    """Draw figures for a page.

    Parameters
    ----------
    drawings : mapping
        What `gcref.figures.drawings` and `gcref.image_figures.drawings` return.

    Returns
    -------
    list of Drawing
        The same figures give the same bytes, whatever the user's matplotlib settings. Their ids are unique in a page
        that has no others beginning with ``fig``.
    """
    with context(["default", {"svg.hashsalt": "gcref", "svg.fonttype": "path"}]):
        return [
            _drawing(name, function(), f"fig{number}") for number, (name, function) in enumerate(drawings.items(), 1)
        ]


def night(color: str) -> str:
    """Return what takes the place of a colour, ``"#rrggbb"``, on a dark page.

    A pale grey, which is to be hardly seen, becomes a dark one. Any other colour is mixed with white, the more the
    darker it is, so that dark blue on white, which stands out most, does so too as pale blue on black.
    """
    rgb = np.array(to_rgb(color))
    luminance = float(_linear(rgb) @ [0.2126, 0.7152, 0.0722])
    if luminance > _PALE and np.ptp(rgb) < 0.05:
        return _hex(1.12 - rgb)
    white = 0.9 * max(0.0, 1.0 - luminance / _READABLE) ** 2
    return _hex((1.0 - white) * rgb + white)


def _hex(rgb: np.ndarray) -> str:
    return to_hex(tuple(rgb.tolist()))


def _linear(rgb: np.ndarray) -> np.ndarray:
    """Undo sRGB's gamma."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _drawing(figure_name: str, figure: Figure, key: str) -> Drawing:
    """Take a figure apart into its words and its panels."""
    titles = [figure.get_suptitle(), *(legend.get_title().get_text() for legend in figure.legends)]
    note = figure.get_supxlabel()
    figure.suptitle("")
    figure.supxlabel("")
    colors: set[str] = set()
    pictures = []
    for number, ax in enumerate(_alone(figure), 1):
        name, words = f"{figure_name} {_plain(ax.get_title())}", _words(ax)
        pictures.append(Picture(name, words, _svg(figure, f"{key}p{number}", name, words, colors)))
    return Drawing(_plain(next(filter(None, titles), figure_name)), pictures, _plain(note), frozenset(colors))


def _plain(text: str) -> str:
    """Return a text of matplotlib's on one line, its formulas without their signs."""
    return " ".join(text.translate(_LATEX).split())


# -------------------------------------------------------------------------------------------------- a panel at a time


def _alone(figure: Figure) -> Iterator[Axes]:
    """Show each panel by itself, with the labels and the legend that it shared with others; yield its axes."""
    axes = [ax for ax in figure.axes if ax.axison]
    entries = [_entries(ax, figure) for ax in axes]
    x_label = next(filter(None, (ax.get_xlabel() for ax in axes)), "")
    y_label = ""
    for ax in axes:
        y_label = ax.get_ylabel() or y_label
        ax.set(xlabel=ax.get_xlabel() or x_label, ylabel=y_label, visible=False)
        ax.tick_params(labelleft=True)
    for legend in list(figure.legends):
        legend.remove()
    _place(figure, axes, entries)
    for ax in axes:
        ax.set_visible(True)
        yield ax
        ax.set_visible(False)


def _place(figure: Figure, axes: Sequence[Axes], entries: Sequence[list[tuple[Any, str]]]) -> None:
    """Give the axes of all panels the same place on the figure, and each its legend below."""
    columns = 2 if any(len(label) > _LONG for found in entries for _, label in found) else 3
    n_lines = max((-(-len(found) // columns) for found in entries), default=0)
    above = 0.1 + _LINE * max((1 + ax.get_title().count("\n") for ax in axes), default=0)
    labels = 0.33 + _LINE * max((1 + ax.get_xlabel().count("\n") for ax in axes), default=0)
    width, height = _AXES
    below = labels + 0.1 + _LINE * n_lines
    whole = above + height + below
    figure.set_layout_engine("none")
    figure.set_size_inches(_WIDTH, whole)
    for ax, found in zip(axes, entries, strict=True):
        ax.set_position((_LEFT / _WIDTH, below / whole, width / _WIDTH, height / whole))
        if found:
            anchor = (0.5 - _LEFT / (4 * width), -labels / height)
            ax.legend(*zip(*found, strict=True), bbox_to_anchor=anchor, ncols=columns, **_LEGEND)


def _entries(ax: Axes, figure: Figure) -> list[tuple[Any, str]]:
    """Return the handles that are a panel's, each with its label, from its own legend and from those of the figure."""
    own = ax.get_legend()
    found = _of_legend(own) if own is not None else []
    return found + [entry for legend in figure.legends for entry in _of_legend(legend) if _is_of(ax, entry[0])]


def _of_legend(legend: Legend) -> list[tuple[Any, str]]:
    """Return a legend's handles, which are lines, each with its label."""
    return [(handle, text.get_text()) for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)]


def _is_of(ax: Axes, handle: Any) -> bool:
    """Whether a panel has what an entry of the legend stands for."""
    return any(to_hex(line.get_color()) == to_hex(handle.get_color()) for line in ax.lines if np.size(line.get_xdata()))


def _words(ax: Axes) -> str:
    """Say in words what a panel shows: its axes, and where each curve begins and ends."""
    legend = ax.get_legend()
    if legend is None:
        return _axis(ax)
    curves = {
        to_hex(line.get_color()): line for line in ax.lines if line.get_transform() == ax.transData and _joined(line)
    }
    told = []
    for handle, label in _of_legend(legend):
        line = curves.get(to_hex(handle.get_color())) if _joined(handle) else None
        y = np.empty(0) if line is None else np.asarray(line.get_ydata(), dtype=np.float64)
        y = y[np.isfinite(y)]
        told.append(f"{label}, from {y[0]:.2g} to {y[-1]:.2g}" if y.size else label)
    return f"{_axis(ax)} From left to right: {_plain('; '.join(told))}."


def _joined(line: Any) -> bool:
    return line.get_linestyle() != "None"


def _axis(ax: Axes) -> str:
    scale = "logarithmic" if ax.get_yscale() == "log" else "linear"
    return f"Across: {_plain(ax.get_xlabel())}. Up, {scale}: {_plain(ax.get_ylabel())}."


# ---------------------------------------------------------------------------------------------------------- clean SVG


def _svg(figure: Figure, key: str, name: str, words: str, colors: set[str]) -> str:
    """Save the panel that is visible as an element for a page, and note its colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(_NO_XML.sub("", file.getvalue()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)
    _rename(root, key)
    for element in root.iter():
        _shorten(element)
        if "style" in element.attrib:
            colors |= {color for _, color in _COLOR.findall(element.attrib["style"])}
            element.set(
                "style", _COLOR.sub(lambda found: f"{found[1]}:var(--c{found[2][1:]})", element.attrib["style"])
            )
    root.attrib = {
        "viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{key}-name",
        "aria-describedby": f"{key}-words", "fill": "currentColor", "stroke-linejoin": "round",
    }  # fmt: skip
    for place, (tag, text) in enumerate((("title", name), ("desc", words))):
        child = ET.Element(tag, id=f"{key}-{'name' if tag == 'title' else 'words'}")
        child.text = _NO_XML.sub("", text)
        root.insert(place, child)
    return ET.tostring(root, encoding="unicode")


def _rename(root: ET.Element, key: str) -> None:
    """Keep those ids only that are referred to, in a form that no other picture has."""
    used = [element.get("href", "").lstrip("#") for element in root.iter()]
    used += [target for element in root.iter() for target in _REFERENCE.findall(" ".join(element.attrib.values()))]
    names = {old: f"{key}-{number}" for number, old in enumerate(dict.fromkeys(filter(None, used)))}
    for element in root.iter():
        new = names.get(element.attrib.pop("id", ""))
        if new:
            element.set("id", new)
        for attribute, value in element.attrib.items():
            if attribute == "href":
                element.set("href", f"#{names[value.lstrip('#')]}")
            elif "url(#" in value:
                element.set(attribute, _REFERENCE.sub(lambda found: f"url(#{names[found[1]]})", value))


def _shorten(element: ET.Element) -> None:
    """Write coordinates with two decimals, a hundredth of a point."""
    if element.text is not None and not element.text.strip():
        element.text = None
    for attribute in {"d", "x", "y"} & element.attrib.keys():
        element.set(attribute, " ".join(_DECIMALS.sub(r"\1", element.attrib[attribute]).split()))
