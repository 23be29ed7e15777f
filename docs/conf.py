"""How Sphinx builds the documentation: offline, every warning an error (`make docs`)."""

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "lacscope"
author = "the lacscope authors"
copyright = "the lacscope authors, MIT licence"
release = version = installed("lacscope")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_copybutton",
    "committed_figures",
    "mathml",
    "outside_links",
]
exclude_patterns = ["_extensions"]
templates_path: list[str] = []

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # drawn by the browser itself: no script, no font

autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = f"lacscope {release}"
html_static_path = ["_static"]
html_css_files = ["lacscope.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "lacscope"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_nav_level": 1,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "get_started": [], "void_maps": [], "glossary": [], "changelog": []}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", _one_argument_a_line)


def _one_argument_a_line(
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """A signature that Sphinx can read, and so break: a dataclass shows ``<factory>`` for a default that it makes."""
    if signature is None:
        return None
    return signature.replace("<factory>", "...").replace("~typing.", "").replace("~collections.abc.", ""), returns
