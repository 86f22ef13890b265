"""Open a report in a real browser: ``python -m gcref.validation.browser report.html [--screenshots DIR]``.

Claim: at the widths of a phone and of a desk, light and dark, the page asks for nothing but itself, writes nothing to
the console, is no wider than the screen, has no text whose contrast is below 4.5 and no figure drawn so small that its
letters cannot be read; for a screen reader its headings are in order, every image, table, link and button has a name,
and every table heads of columns and rows; without scripts it says the same; with them every column of a table sorts.

Exit 0 if so, 1 if not, with a line for each fault; 2 if there is no Chromium or no page. Runtime: seconds.
"""

import argparse
import base64
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

from gcref.validation.chromium import BrowserError, Chromium

WIDTHS = {"phone": 390, "desk": 1280}
SCHEMES = ("light", "dark")
CONTRAST, SCALE = 4.5, 0.85  # WCAG's AA; pixels for a point of a figure, whose smallest letters have 8 points
_SAYS = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
_PSEUDO = {"↕", "↑", "↓"}  # what the style sheet adds to heads that sort

# Text of a lower contrast than asked for, as "ratio text", each once.
_FAINT = """(least => {
  const rgb = text => { const v = text.match(/[\\d.]+/g).map(Number); return v.length > 3 ? v : [...v, 1]; };
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color[3] === 1) return color;
    }
    return [255, 255, 255, 1];
  };
  const found = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("svg, script")) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least) found.add(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return [...found];
})"""
_SMALLEST = """Math.min(...[...document.querySelectorAll("svg[role=img]")].map(
  s => s.getBoundingClientRect().width / s.viewBox.baseVal.width))"""
# Click every head twice: the numbers must go up, then down, and no row may be lost.
_UNSORTED = """(() => {
  const wrong = [];
  for (const table of document.querySelectorAll("table.sorts")) {
    const rows = () => [...table.tBodies[0].rows], before = rows().map(r => r.textContent).sort().join();
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      for (const [word, sign] of [["ascending", 1], ["descending", -1]]) {
        head.querySelector("button").click();
        const v = rows().map(r => Number(r.cells[i].dataset.v)).filter(x => !Number.isNaN(x));
        const sorted = v.every((x, k) => k === 0 || sign * (x - v[k - 1]) >= 0);
        const told = table.querySelectorAll("[aria-sort]").length === 1 && head.getAttribute("aria-sort") === word;
        if (!sorted || !told || rows().map(r => r.textContent).sort().join() !== before)
          wrong.push(`${table.caption.textContent}: ${head.textContent} ${word}`);
      }
    });
  }
  return wrong;
})()"""


class Tree:
    """What a screen reader is told of a page: the nodes of the accessibility tree that are not ignored, in order."""

    def __init__(self, nodes: list[dict[str, Any]]):
        self._by_id = {node["nodeId"]: node for node in nodes}
        self.nodes = [node for node in self._below(nodes[0]) if not node["ignored"]]

    def _below(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        children = (self._by_id[child] for child in node.get("childIds", ()) if child in self._by_id)
        return [node, *itertools.chain.from_iterable(map(self._below, children))]

    def of(self, *roles: str, below: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the nodes of some roles, in the whole page or below one node."""
        nodes = self.nodes if below is None else self._below(below)
        return [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]

    def texts(self) -> Counter[str]:
        """Return everything that is said, without what a style sheet adds to heads that sort."""
        return Counter(text for node in self.of("StaticText") if (text := name(node).strip()) not in _PSEUDO)


def name(node: dict[str, Any]) -> str:
    """Return what a node of the tree is called."""
    return node.get("name", {}).get("value", "")


def faults_of_tree(tree: Tree) -> list[str]:
    """Say what is wrong with a page for whoever hears it."""
    levels = [
        next(p["value"]["value"] for p in node["properties"] if p["name"] == "level") for node in tree.of("heading")
    ]
    out = []
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in itertools.pairwise(levels)):
        out.append(f"headings are of levels {levels}")
    for role in ("main", "banner", "contentinfo", "navigation"):
        if (n := len(tree.of(role))) != 1:
            out.append(f"there are {n} landmarks {role}")
    for node in tree.of("image", "img", "table", "link", "button", "heading", "region"):
        if not name(node).strip():
            out.append(f"a {node['role']['value']} has no name")
    for node in tree.of("image", "img"):
        if node.get("description", {}).get("value", "").strip() in ("", name(node)):
            out.append(f"{name(node)} has no description")
    for table in tree.of("table"):
        out += [
            f"{name(table)} has no {role}" for role in ("columnheader", "rowheader") if not tree.of(role, below=table)
        ]
    return out


def _size(browser: Chromium, width: int, height: int = 900) -> None:
    phone = width < 600
    browser.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)


def _picture(browser: Chromium, width: int) -> bytes:
    """Return the whole page as PNG: on a screen as high as it, since what is beyond a screen may not be painted."""
    _size(browser, width, browser.value("document.documentElement.scrollHeight"))
    return base64.b64decode(browser.tell("Page.captureScreenshot", format="png")["data"])


def _open(browser: Chromium, url: str, width: int, scheme: str) -> None:
    """Show a page on a screen of some width that prefers light or dark."""
    _size(browser, width)
    browser.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.tell("Page.navigate", url=url)
    browser.wait("Page.loadEventFired")


def _tree(browser: Chromium) -> Tree:
    return Tree(browser.tell("Accessibility.getFullAXTree")["nodes"])


def _faults_here(browser: Chromium, width: int) -> list[str]:
    """Say what is wrong with the page as it is shown."""
    wide = browser.value("document.documentElement.scrollWidth")
    out = [f"the page is {wide} pixels wide on a screen of {width}"] if wide > width else []
    out += [f"contrast {text}" for text in browser.value(f"{_FAINT}({CONTRAST})")]
    scale = browser.value(_SMALLEST)
    if scale is not None and scale < SCALE:
        out.append(f"a figure is drawn at {scale:.2f} pixels a point")
    return out + faults_of_tree(_tree(browser))


def _faults_of_events(browser: Chromium, url: str) -> list[str]:
    """Say what the page asked for, and wrote to the console, that it should not have."""
    out = []
    for event in browser.events:
        if event["method"] == "Network.requestWillBeSent":
            asked = event["params"]["request"]["url"]
            if asked.partition("#")[0] != url and not asked.startswith("data:"):
                out.append(f"it asks for {asked:.200}")
        elif event["method"] in _SAYS:
            out.append(f"console: {event['params']}")
    return list(dict.fromkeys(out))


def faults(browser: Chromium, path: Path, screenshots: Path | None = None) -> list[str]:
    """Open a page on four screens and say what is wrong with it; see the module's claim.

    Parameters
    ----------
    browser : Chromium
    path : Path
    screenshots : Path, optional
        A folder for pictures of the whole page, one a screen; it is made if its parent exists.

    Raises
    ------
    gcref.validation.chromium.BrowserError
        If it breaks down.
    """
    url, out = path.resolve().as_uri(), []
    if screenshots is not None:
        screenshots.mkdir(exist_ok=True)
    for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
        browser.tell(f"{domain}.enable")
    browser.tell("Emulation.setScriptExecutionDisabled", value=False)
    browser.events.clear()
    for (place, width), scheme in itertools.product(WIDTHS.items(), SCHEMES):
        _open(browser, url, width, scheme)
        out += [f"{place}, {scheme}: {fault}" for fault in _faults_here(browser, width)]
        if screenshots is not None:
            (screenshots / f"{place}-{scheme}.png").write_bytes(_picture(browser, width))
    said = _tree(browser).texts()
    out += [f"not sorted: {text}" for text in browser.value(_UNSORTED)]
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    _open(browser, url, WIDTHS["desk"], "light")
    silent = _tree(browser).texts()
    out += [f"without scripts: {text!r} is missing or new" for text in (said - silent) | (silent - said)]
    return out + _faults_of_events(browser, url)


def main() -> int:
    """Print what is wrong with a page; return the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("page", type=Path, help="a page of gcref report")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="folder for pictures of it")
    options = parser.parse_args()
    if not options.page.is_file():
        print(f"Error: {options.page} is no file")
        return 2
    try:
        with Chromium() as browser:
            found = faults(browser, options.page, options.screenshots)
    except (BrowserError, OSError) as error:
        print(f"Error: {error}")
        return 2
    for fault in found:
        print(fault)
    print(f"{'FAIL' if found else 'PASS'}: {options.page} on {len(WIDTHS) * len(SCHEMES)} screens, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
