"""How the site is built: ``nox -s docs``. Its root is the repository, so that pages can link to all of it."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "Watchly"
author = "The Watchly authors"
version = release = version_of("watchly")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.extensions.pages",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "examples/*/README.md",
    "deploy/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]

html_theme = "furo"
html_title = "Watchly"
html_static_path = ["site"]
html_extra_path = ["site/index.html"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False

# Links go by the anchors that GitHub makes of headings.
myst_heading_anchors = 4
highlight_language = "text"

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Nothing is fetched for a build, so what others document is not linked to; all own names have to be found.
_OTHERS: Final = (
    "asyncio", "collections", "contextlib", "datetime", "dependency_injector", "enum", "httpx",
    "hypothesis", "litestar", "msgspec", "pathlib", "psycopg", "threading",
)  # fmt: skip
nitpick_ignore_regex = [
    (r"py:\w+", rf"({'|'.join(_OTHERS)})\..+"),
    # The same, as modules name them that load them for type checkers alone, or when they are asked for.
    ("py:class", r"Litestar|Path|TestClient|timedelta|providers\.(Object|Singleton)"),
    # What makes it is public, and makes it (see tests/typing/test_api.py).
    ("py:class", r"watchly_core\.journey\.Journey"),
    # Bases of named tuples, which Sphinx cuts at their first comma.
    ("py:class", r"tuple\[(~watchly_core\.errors\.Fault|object)"),
    # Type variables.
    (r"py:(class|obj)", r"([\w.]+\.)?(T|T_contra|A_co|D|StoreT)"),
]
suppress_warnings = [
    "ref.python",  # there are two of each use case, and whoever names one means that of its module
    "misc.highlighting_failure",  # colours are nothing that a build should fail for
]
