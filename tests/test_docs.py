"""The documentation: its code runs, what it quotes is there, nothing public is left out, and the site builds."""

import ast
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import gcref
from gcref.cli import cli
from gcref.engine.layers import Linear

DOCS = Path(__file__).resolve().parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("gcref_docs_pages", DOCS / "pages.py")
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

WRITTEN = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
EXECUTED = pages.executed()
QUOTED = sorted(
    {
        name
        for page in WRITTEN
        for name in re.findall(r"^```\{source\} *(\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
)
SITE = ("sphinx", "myst_parser", "numpydoc", "furo")
MISSING = [name for name in SITE if importlib.util.find_spec(name) is None]
needs_sphinx = pytest.mark.skipif(bool(MISSING), reason=f"pip install gcref[docs] is needed: no {', '.join(MISSING)}")


def of(page):
    return page.relative_to(DOCS).as_posix()


def write(folder, text):
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


# ---------------------------------------------------------------------------------------------- what the pages hold


def test_the_pages_that_are_run_are_the_tutorial_and_how_to_extend():
    names = {of(page) for page in EXECUTED}
    assert names >= {"index.md", "extending.md"}
    assert len([name for name in names if name.startswith("tutorial/")]) == 4


@pytest.mark.parametrize("page", EXECUTED, ids=of)
def test_code_and_text_fit_the_page(page):
    code = {line for _, block in pages.code_of(page) for line in block.splitlines()}
    assert [line for line in code if len(line) > 92] == []
    prose = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > 120] == []


def test_what_is_added_takes_ten_to_fifteen_lines():
    code = "\n".join(block for _, block in pages.code_of(DOCS / "extending.md"))
    added = [node for node in ast.parse(code).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    assert [node.name for node in added] == ["Scale", "TakeAll", "NormSlices", "width_study"]
    for node in added:
        docstring, lines = node.body[0].lineno, code.splitlines()[node.lineno - 1 : node.end_lineno]
        n = sum(bool(line.strip()) for line in lines) - (node.body[0].end_lineno - docstring + 1)
        assert n <= 15, f"{node.name} takes {n} lines"


@pytest.mark.parametrize("page", EXECUTED, ids=of)
def test_a_page_draws_the_figures_that_it_shows_and_describes_them(page):
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", page.read_text(encoding="utf-8"))
    drawn = re.findall(r'savefig\("([^"]*)"\)', "".join(code for _, code in pages.code_of(page)))
    assert sorted(path for _, path in shown) == sorted(drawn)
    assert all(len(words) > 40 for words, _ in shown)


@pytest.mark.parametrize("page", WRITTEN, ids=of)
def test_no_accent_has_a_subscript_of_its_own(page):
    """docutils would write it below the letter; `\\hat g{}_t` has it beside."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"\\(?:bar|hat|tilde|overline) ?(?:\{[^}]*\}|\\?\w+?)[_^]", text) == []


def test_every_public_name_is_in_the_reference():
    reference = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst"))
    listed = set(re.findall(r"^\.\. auto\w+:: (\w+)$", reference, re.MULTILINE))
    assert listed == set(gcref.__all__) - {"__version__", "data"} | set(gcref.data.__all__)


def test_every_command_is_shown_with_its_own_help():
    shown = dict(pages.command_help())
    assert set(shown) == {"gcref", *(f"gcref {name}" for name in cli.commands)}
    assert "Usage: gcref cluster [OPTIONS] TRACES" in shown["gcref cluster"]
    assert all("-h, --help" in text for text in shown.values())
    assert "{commands}" in (DOCS / "command-line.md").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------- quoted source


def test_something_is_quoted():
    assert len(QUOTED) > 8


@pytest.mark.parametrize("name", QUOTED)
def test_what_is_quoted_is_there(name):
    where, code = pages.source(name)
    assert where == "/".join(name.split(".")[: where.count("/") + 1]) + ".py"
    assert re.search(rf"^(def|class) {name.rsplit('.', 1)[-1]}\b", code, re.MULTILINE)
    compile(code, where, "exec")


def test_a_quotation_is_the_source_itself():
    assert pages.source("gcref.engine.layers.Linear.traces")[1] == textwrap.dedent(inspect.getsource(Linear.traces))
    assert pages.source("gcref.kernels.cpu.a_step_fixed")[1].startswith("@jit\ndef a_step_fixed(")


@pytest.mark.parametrize("name", ["gcref.kernels.cpu.a_step", "gcref.engine.layers.Linear.sideways", "gcrof.cpu.dot"])
def test_what_is_not_there_cannot_be_quoted(name):
    with pytest.raises(pages.PageError, match=name.rsplit(".", 1)[-1] + "|gcrof.cpu.dot is in no module"):
        pages.source(name)


# ------------------------------------------------------------------------------------------------------ running pages


def test_a_page_is_shown_with_what_its_code_prints(tmp_path):
    page = write(
        tmp_path, "Text\n\n```python\nx = 2\n```\n\n```python\nprint(x + 1)\n```\n\n```{source} gcref.cores.x\n```\n"
    )
    outputs = pages.run_apart(page, tmp_path)
    assert outputs == ["", "3\n"]
    text = page.read_text(encoding="utf-8").split("```{source}")[0]
    shown = pages.rendered(text, outputs)
    assert shown.count("```{code-block} text") == 1
    assert "print(x + 1)\n```\n\n```{code-block} text\n:class: output\n\n3\n```" in shown
    assert pages.rendered(text, None) == text


def test_a_page_that_fails_names_its_line(tmp_path):
    page = write(tmp_path, "# Title\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(pages.PageError, match=r'(?s)page\.md", line 8.*AssertionError'):
        pages.run_apart(page, tmp_path)


def test_a_page_that_warns_fails(tmp_path):
    page = write(tmp_path, '```python\nimport warnings\n\nwarnings.warn("old")\n```\n')
    with pytest.raises(pages.PageError, match="UserWarning: old"):
        pages.run_apart(page, tmp_path)


def test_a_page_has_a_limit(tmp_path):
    page = write(tmp_path, "```python\nwhile True:\n    pass\n```\n")
    with pytest.raises(pages.PageError, match=r"page\.md takes longer than 0\.5 s"):
        pages.run_apart(page, tmp_path, seconds=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=of)
def test_the_code_of_a_page_runs(page, tmp_path):
    outputs = pages.run_apart(page, tmp_path)
    assert len(outputs) == len(pages.code_of(page))
    assert any(outputs)
    for figure in re.findall(r"\]\((figures/[^)]*)\)", page.read_text(encoding="utf-8")):
        assert (tmp_path / figure).stat().st_size > 1000


# ------------------------------------------------------------------------------------------------------------ the site


@needs_sphinx
@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "figures"))
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-E", "-b", "html", "docs", "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    for page in WRITTEN:
        html = (site / page.relative_to(DOCS)).with_suffix(".html").read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', html) == []
        assert html.count("<math") >= page.read_text(encoding="utf-8").count("\n$$\n") // 2
        assert "{source}" not in html
    lesson = (site / "tutorial/2-weighted-clustering.html").read_text(encoding="utf-8")
    assert "15 pairs: mean 1.000, variance 6.533" in lesson
    assert 'src="../_images/six.svg"' in lesson
    assert (site / "_images/six.svg").exists()
    assert 'id="gcref.variance"' in (site / "api/variance.html").read_text(encoding="utf-8")
