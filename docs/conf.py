"""The documentation site: ``sphinx-build -W -c docs . build/site`` from the root of a clone.

The root of the clone is the source folder, so that a link from page to page is the same on the site
and on GitHub. Notebooks are shown with the outputs that they store.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

import gru_xp

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

project = "gru_xp"
author = "the authors of gru_xp"
version = release = gru_xp.__version__
html_title = f"gru_xp {version}"

root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "backends/**.md",
    "docs/**",
    "notebooks/*.ipynb",
]
exclude_patterns = ["**.ipynb_checkpoints"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

default_role = "py:obj"
autosummary_generate = False
autodoc_typehints = "none"  # the docstrings have them, with shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "logo": {"text": html_title},
    "header_links_before_dropdown": 7,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_sidebars: dict[str, list[str]] = {  # none where there is nothing below a page
    page: [] for page in ("README", "docs/index", "docs/equations", "docs/support")
}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_extra_path = ["_redirect"]
html_static_path = ["_static", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

_converter = LatexToMathML(fancy_error=False)


def _mathml(latex: str, node: nodes.Node, *, block: bool) -> str:
    try:
        return _converter.convert_with_local_state(latex, displaystyle=block)
    except LatexError as error:
        logging.getLogger(__name__).warning("%s: %s", latex, error, location=node)
        return ""


def _visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), node, block=False))
    raise nodes.SkipNode


def _visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    mathml = _mathml(node.astext(), node, block=True)
    translator.body.append(f'<div class="math-block">{mathml}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Render formulas as MathML, which browsers draw themselves: no script, nothing to load."""
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
