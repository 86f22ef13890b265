"""The report in a real browser, and pages with faults that the check must find."""

import os
import re

import pytest
from page_cases import image, row, sweep

from gcref import report
from gcref.report import Outcome, Supplied
from gcref.validation import browser, chromium
from gcref.validation.tally import Check
from gcref.validation.verdicts import FAILS, HOLDS, Claim

pytestmark = pytest.mark.skipif(chromium.find() is None or os.name != "posix", reason="there is no Chromium")

GOOD = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<link rel=icon href=data:,><title>t</title><style>th button::after { content: "↕"; }</style>
<header><nav aria-label=Contents><a href="#x">x</a></nav></header><main><h1 id=x>One</h1><h2>Two</h2>
<svg role=img viewBox="0 0 100 50" width=200 aria-labelledby=n aria-describedby=d><title id=n>n</title>
<desc id=d>d</desc></svg>
<table class=sorts><caption>c</caption><thead><tr><th scope=col>h</th><th scope=col>v</th></tr></thead>
<tbody><tr><th scope=row>a</th><td data-v=1>1</td></tr><tr><th scope=row>b</th><td data-v=2>2</td></tr></tbody></table>
</main><footer>end</footer><script>SCRIPT</script></html>"""


@pytest.fixture(scope="module")
def script():
    return report.page._text("page.js")


@pytest.fixture(scope="module")
def chrome():
    with chromium.Chromium() as found:
        yield found


@pytest.fixture
def faults_of(chrome, tmp_path):
    """What is wrong with a page that is given as text."""

    def look(html):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        return browser.faults(chrome, path)

    return look


@pytest.mark.slow
def test_a_report(chrome, tmp_path):
    check = Check("labels", "what labels are", 1e-6, n=5)
    check.fail("t", 0, "x", 1.0, 2.0)
    rows = [row(f"t{x}", m, ratio=x) for x in (1.0, 2.0, 10.0) for m in ("sgb", "sg2b", "svrg", "gc", "exchange")]
    paths = [sweep(tmp_path / "results.h5", rows), image(tmp_path / "a.h5"), image(tmp_path / "b.h5", seed=1)]
    claims = [Claim("4.2", f"a sentence {i} " * 9, "a number " * 9, "a rule", v) for i, v in enumerate((HOLDS, FAILS))]
    supplied = Supplied(claims, "", {paths[0]: Outcome([check], "2 trajectories")}, [("numpy", "2.0")], "gcref report")
    report.save(report.render(paths, supplied), tmp_path / "report.html")
    pictures = tmp_path / "pictures"
    assert browser.faults(chrome, tmp_path / "report.html", pictures) == []
    names = ["desk-dark.png", "desk-light.png", "phone-dark.png", "phone-light.png"]
    assert sorted(p.name for p in pictures.iterdir()) == names
    assert len({p.read_bytes() for p in pictures.iterdir()}) == 4


def test_a_good_page(faults_of, script):
    assert faults_of(GOOD.replace("SCRIPT", script)) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<h2>Two", "<p><img src='other.png' alt=y title=z><h2>Two", "it asks for file:///.*/other.png"),
        ("SCRIPT", "console.log(1); SCRIPT", "console: .*'value': 1"),
        ("SCRIPT", "SCRIPT; throw 1", "console: .*Uncaught"),
        ("<h2>Two", "<pre>%s</pre><h2>Two" % ("x" * 300), "phone, light: the page is [0-9]+ pixels wide"),
        ("<h2>Two", "<p style='color:#999'>faint<h2>Two", r"desk, light: contrast 2\.85 faint"),
        ("width=200", "width=50", r"a figure is drawn at 0\.50 pixels a point"),
        ("<h2>Two</h2>", "<h3>Two</h3>", r"headings are of levels \[1, 3\]"),
        ("<footer>end</footer>", "end", "there are 0 landmarks contentinfo"),
        ("<h2>Two", "<p><a href='#x'></a><h2>Two", "a link has no name"),
        ("aria-labelledby=n aria-describedby=d><title id=n>n</title>\n", ">", "a image has no name"),
        ("<desc id=d>d</desc>", "", "n has no description"),
        ("<th scope=col>h</th><th scope=col>v</th>", "<td>h</td><td>v</td>", "c has no columnheader"),
        ("SCRIPT", "SCRIPT; document.body.append('more')", "without scripts: 'more' is missing or new"),
    ],
)  # fmt: skip
def test_faults_are_found(faults_of, script, old, new, message):
    assert old in GOOD
    found = faults_of(GOOD.replace(old, new).replace("SCRIPT", script))
    assert re.search(message, "\n".join(found))


def test_a_script_that_does_not_sort(faults_of, script):
    broken = script.replace("rows.sort(", "rows.map(")
    assert broken != script
    found = faults_of(GOOD.replace("SCRIPT", broken))
    assert any(fault.startswith("not sorted: c: v") for fault in found)


def main(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["browser", *map(str, arguments)])
    return browser.main()


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys, script):
    page = tmp_path / "page.html"
    page.write_text(GOOD.replace("SCRIPT", script), encoding="utf-8")
    assert main(monkeypatch, page) == 0
    assert capsys.readouterr().out == f"PASS: {page} on 4 screens, 0 faults\n"
    page.write_text(GOOD.replace("<h2>", "<h4>").replace("SCRIPT", script), encoding="utf-8")
    assert main(monkeypatch, page) == 1
    assert "FAIL" in capsys.readouterr().out
    assert main(monkeypatch, tmp_path / "none.html") == 2
    monkeypatch.setenv("PATH", "")
    assert main(monkeypatch, page) == 2
    assert "there is no browser" in capsys.readouterr().out
