"""Sphinx configuration."""

from importlib.metadata import version as installed_version

project = "depthwise"
author = "the depthwise contributors"
copyright = f"2025, {author}"
version = release = installed_version("depthwise")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the NumPy docstrings state the types

html_theme = "furo"
html_title = f"depthwise {release}"
