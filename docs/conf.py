"""Settings of Sphinx; `make docs` builds the pages with them."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "mdn"
author = "The mdn authors"
copyright = "The mdn authors, Apache License 2.0"
version = release = installed_version("mdn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_mock_imports = ["optuna", "pandas", "sbi", "skpro"]  # extras, not installed for the docs
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field named in "Attributes:" is then described once, not twice

html_theme = "furo"
html_title = f"mdn {release}"
html_copy_source = False
html_show_sourcelink = False


def _skip_elsewhere(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    """Leaves out what is described elsewhere: fields of tuples and scikit-learn's own methods."""
    requests = name.startswith("set_") and name.endswith("_request")
    return True if requests or type(member).__name__ == "_tuplegetter" else None


def _escape(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escapes shapes such as (*, D), which would be emphasis, and initials (list markers)."""
    for i, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [re.sub(r"(?<=\()\*(?=[,)])", r"\\*", part) for part in parts[::2]]
        lines[i] = re.sub(r"^(\s*[A-Z])\. (?=[A-Z])", r"\1\\. ", "``".join(parts))


def setup(app: Sphinx) -> None:
    """Connects the hooks above."""
    app.connect("autodoc-skip-member", _skip_elsewhere)
    app.connect("autodoc-process-docstring", _escape)
