"""How the site is built: ``sphinx-build -W docs site``."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from dreamlake import __version__

project = "dreamlake"
author = "the dreamlake authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["README.md", "examples"]
html_theme = "furo"
html_title = f"dreamlake {version}"
myst_heading_anchors = 4
nitpicky = False
napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "py:obj"


def _name_what_is_outside(app: Any, page: str, source: list[str]) -> None:
    """Name files of the repository that are no pages, where a page links to them."""

    def named(link: re.Match[str]) -> str:
        text, target = link[1], posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link[2]))
        return link[0] if target.startswith("docs/") else f"{text} (`{target}`)"

    source[0] = re.sub(r"\[([^\]\n]+)\]\((\.\.?/[^)#\s]+)(?:#[^)\s]*)?\)", named, source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _name_what_is_outside)
