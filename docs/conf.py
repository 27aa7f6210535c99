"""Configuration of the documentation."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE / "_ext"), str(_HERE.parent)]

import metriczoo  # noqa: E402

project = "metriczoo"
author = "metriczoo developers"
copyright = f"2026, {author}"
version = release = metriczoo.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "api_pages",
    "benchmark_results",
    "kept_results",
    "kit_checks",
]
exclude_patterns = ["_build", "_ext"]
templates_path: list[str] = []
html_theme = "furo"
html_title = f"metriczoo {release}"

api_package = "metriczoo"
default_role = "py:obj"  # `name` in a docstring is a link where such a name exists, and code elsewhere
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
maximum_signature_line_length = 100
napoleon_custom_sections = ["Relations"]
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

doctest_default_flags = doctest.ELLIPSIS
