"""The documentation: Markdown pages and the docstrings, one static site without a network."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lap_jax.version import VERSION  # noqa: E402

project = "lap_jax"
author = "the authors of lap_jax"
project_copyright = author
version = release = VERSION
html_title = f"lap_jax {VERSION}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f6f54", "color-brand-content": "#1f6f54"},
    "dark_css_variables": {"color-brand-primary": "#7fd1ae", "color-brand-content": "#7fd1ae"},
    "top_of_page_buttons": [],
}
pygments_style, pygments_dark_style = "friendly", "monokai"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "py:obj"  # names in single backticks in docstrings are links
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 70
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
copybutton_exclude = ".linenos, .gp, .go"
html_math_renderer = "mathml"


_SEVERAL = re.compile(r" +\w+, [\w, *]*\*\w+[\w, *]*:")
"""Arguments that are described together, one with stars among them."""


def _prepared(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Show as it is what a docstring sets apart: an indented block, or the stars of arguments."""
    if what == "property" and lines:  # what stands before a colon would be taken for its type
        lines[0] = lines[0].replace(": ", "; ")
    shown: list[str] = []
    for line in lines:
        if _SEVERAL.match(line):
            line = line.replace("*", r"\*")
        apart = line.startswith("    ") and shown and not shown[-1].strip()
        if apart and _last(shown)[:1] not in ("", " ", ":") and not _last(shown).endswith("::"):
            shown += ["::", ""]
        shown.append(line)
    lines[:] = shown


def _last(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "")


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    formula = latex2mathml.tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="formula">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Formulas become MathML, which browsers show by themselves."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("autodoc-process-docstring", _prepared, priority=400)
