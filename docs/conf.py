"""Settings of the documentation's site, which `make -C docs html` builds."""

import importlib.metadata
import re
from typing import Any

project = "ppp_jax"
author = "the authors of ppp_jax"
project_copyright = author
release = importlib.metadata.version("ppp_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
# README.md is the table of contents of those who read the repository; the site has index.md.
exclude_patterns = ["README.md"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks keep their outputs; `.ci/run notebooks` executes them
autosummary_generate = True
autodoc_typehints = "none"  # signatures have them, and texts describe arguments in words
toc_object_entries = False  # attributes of a class are read below it
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # texts describe attributes, too
default_role = "py:obj"  # names in docstrings are links where they are documented


def link_to_method(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Makes links of the sections of the method that docstrings name."""
    lines[:] = [re.sub(r"docs/method\.md (§\d+)", r":doc:`method \1 </method>`", k) for k in lines]


def setup(app: Any) -> None:
    """Registers what is done to docstrings."""
    app.connect("autodoc-process-docstring", link_to_method)


html_theme = "sphinx_book_theme"  # that of JAX, Flax and NumPyro
html_title = "ppp_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],  # one search field suffices, beside the contents
}
