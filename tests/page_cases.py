"""Results files for tests of the report, and a reader of the pages made of them."""

import json
from html.parser import HTMLParser

import h5py
import numpy as np

from gcref.store import SUMMARY_DTYPE
from gcref.studies.grid import Sweep
from gcref.studies.image_run import ImageRun

VOID = {"meta", "link", "br", "img", "input", "hr", "base", "col", "source"}


def row(trajectory, method, rate=0.01, ratio=1.0, share=0.0, numbers=(1e-3, 2e-3, 0.3, 0.4)):
    """A row of the summary."""
    return (trajectory.encode(), method.encode(), rate, ratio, 100, 100, 100, 0, share, *numbers)


def write(path, config, rows, trajectories, **attrs):
    """A results file: `trajectories` are name → (attributes, series)."""
    with h5py.File(path, "w") as file:
        root = {"schema": "gcref/1", "gcref_version": "0.1.0", "command": "gcref …", "complete": True, "digest": "ab12"}
        file.attrs.update(root | {"config": json.dumps(config)} | attrs)
        file["summary"] = np.array(rows, dtype=SUMMARY_DTYPE)
        file.create_group("trajectories")
        for name, (about, series) in trajectories.items():
            group = file.create_group(f"trajectories/{name}")
            group.attrs.update(about)
            for place, values in series.items():
                group[place] = values
    return path


def sweep(path, rows=None, states=("complete",), config=None, **attrs):
    """A file of the random-features study: at each of two h_s/N one trajectory, GC at 0.6 and 0.9 of SG-B."""
    if rows is None:
        rows = [
            row(f"t{x}", method, ratio=x, numbers=(factor * 1e-3 / x, factor * 2e-3 / x, 0.3, 0.4))
            for x, gc in ((1.0, 0.6), (10.0, 0.9))
            for method, factor in (("sgb", 1.0), ("sg2b", 0.5), ("svrg", 0.25), ("gc", gc))
        ]
    trajectories = {f"t{i}": ({"status": state, "seconds": 30.0}, {}) for i, state in enumerate(states)}
    config = json.loads(Sweep().to_json()) | (config or {})
    return write(path, config, rows, trajectories, **attrs)


def image(path, status="complete", methods=("sgb", "sg2b", "gc"), points=5, **settings):
    """A file of an image run whose k-th method has the variance 1e-4 / (k + 1)."""
    run = ImageRun(
        dataset="digits",
        iterations=10 * (points - 1),
        measure_every=10,
        refresh_every=10 * (points - 1),
        methods=methods,
    )
    config = json.loads(run.to_json()) | settings
    series = {"iteration": 10 * np.arange(points), "train_loss": np.linspace(2.0, 0.25, points)}
    series |= {"test_accuracy": np.linspace(0.1, 0.875, points)}
    rows = []
    for k, method in enumerate(methods):
        series[f"variance/{method}"] = np.full(points, 1e-4 / (k + 1))
        series[f"normalized_variance/{method}"] = np.full(points, 0.5)
        rows.append(row("x", method, numbers=(1e-4 / (k + 1), 2e-4 / (k + 1), 0.5, 0.5)))
    about = {"status": status, "seconds": 90.0, "n_train": 1438}
    return write(path, config, rows, {"x": (about, series)}, complete=status != "unfinished")


class Element:
    """An element of a page."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, attributes, parent, []

    def __getitem__(self, name):
        return self.attributes.get(name)

    def below(self):
        """Every element in it, in order."""
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.below()

    def all(self, *tags):
        return [element for element in self.below() if element.tag in tags]

    def one(self, tag, **attributes):
        (found,) = [e for e in self.all(tag) if all(e[name] == value for name, value in attributes.items())]
        return found

    @property
    def text(self):
        raw = "".join(self.strings())
        return raw if self.tag == "pre" else " ".join(raw.split())

    def strings(self):
        for child in self.children:
            yield from (child,) if isinstance(child, str) else child.strings()


class Page(HTMLParser):
    """The tree of a page; a tag that is not closed where it should be is an error."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.root = self._here = Element("", {}, None)
        self.feed(html)
        self.close()
        assert self._here is self.root, f"{self._here.tag} is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        element = Element(tag, dict(attrs), self._here)
        self._here.children.append(element)
        if tag not in VOID:
            self._here = element

    def handle_startendtag(self, tag, attrs):
        self._here.children.append(Element(tag, dict(attrs), self._here))

    def handle_endtag(self, tag):
        assert tag == self._here.tag, f"{self._here.tag} is closed by {tag}"
        self._here = self._here.parent

    def handle_data(self, data):
        self._here.children.append(data)


def table(page, caption):
    """The rows of a table as text, its heads first."""
    (found,) = [t for t in page.root.all("table") if t.one("caption").text == caption]
    return [[cell.text for cell in r.all("th", "td")] for r in found.all("tr")]
