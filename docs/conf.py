"""Sphinx's settings: `sphinx-build -W -E -b html docs docs/_build/html` in the repository's root builds the site."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parent))
import gcref
import pages

project = "gcref"
author = "The gcref developers"
release = gcref.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes = False  # "mean" is a value
default_role = "py:obj"  # docstrings name what they speak of in single backticks
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
autodoc_typehints = "none"  # the docstrings say what an argument is, shapes included
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "gcref"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["gcref.css"]
html_show_sourcelink = False
html_show_copyright = False


def inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line as MathML, which browsers know: no script, nothing from a network."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own; a wide one can be scrolled."""
    self.body.append(
        f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>'
    )
    raise nodes.SkipNode


def fill(app: Sphinx, docname: str, content: list[str]) -> None:
    """Run a page's code, in its own folder, and put in what it takes from the code."""
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md":
        outputs = pages.run_apart(page, page.parent) if page in pages.executed() else None
        content[0] = pages.rendered(content[0], outputs)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of the formulas and of the pages."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("source-read", fill)
