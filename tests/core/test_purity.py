"""The core needs the standard library and msgspec, and nothing else."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import watchly_core

ALLOWED = frozenset(sys.stdlib_module_names) | {"msgspec", "watchly_core"}
MODULES = sorted(path for root in watchly_core.__path__ for path in Path(root).rglob("*.py"))

_IMPORT_ALL = """
import sys
import msgspec
msgspec.defstruct("Any", ["field"])
before = set(sys.modules)
import importlib, pkgutil, watchly_core
for module in pkgutil.walk_packages(watchly_core.__path__, "watchly_core."):
    importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_the_core_loads_nothing_that_msgspec_does_not_load() -> None:
    # A process of its own: this one has loaded pytest and what its plugins need. msgspec itself takes
    # typing_extensions where it finds it, which is no doing of the core.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded = set(done.stdout.split())
    assert "watchly_core" in loaded
    assert loaded - ALLOWED == set()


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level names that a module imports anywhere, under TYPE_CHECKING and in functions too."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield module.partition(".")[0]
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module")):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_of_the_core_imports_another_distribution(path: Path) -> None:
    assert set(imported(ast.parse(path.read_text(encoding="utf-8")))) - ALLOWED == set()


def test_the_check_sees_every_way_to_import() -> None:
    source = (
        "import a.b\nfrom c.d import e\n"
        "def f():\n    import g\n    __import__('h')\n    importlib.import_module('i')"
    )
    assert set(imported(ast.parse(source))) == {
        "a", "c", "g", "__import__('h')", "importlib.import_module('i')"
    }  # fmt: skip


def test_every_module_was_looked_at() -> None:
    named = {module.name for module in pkgutil.walk_packages(watchly_core.__path__, "watchly_core.")}
    (root,) = map(Path, watchly_core.__path__)
    looked_at = {
        ".".join([root.name, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
        for path in MODULES
    }
    assert looked_at == named | {"watchly_core"}
    assert {"watchly_core.movies", "watchly_core.errors", "watchly_core.ports.people"} <= named


_LOADED: Final = """
import sys
{}
print(*sorted(name for name in sys.modules if name.partition(".")[0] not in {{"encodings", "msgspec"}}))
"""

#: What takes long to load, or does work when it is loaded.
_HEAVY: Final = frozenset({"asyncio", "importlib.resources", "ssl", "tempfile", "watchly_core.catalogue"})


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement`."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(statement)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import watchly_core",
        "from watchly_core import Movie, MovieDraft, MovieQuery, Actor",
        "from watchly_core.errors import WatchlyError",
    ],
)
def test_only_what_is_asked_for_is_loaded(statement: str) -> None:
    assert loaded_by(statement) & _HEAVY == set()


def test_use_cases_load_nothing_for_the_sake_of_passwords() -> None:
    loaded = loaded_by("from watchly_core import *")
    assert {"watchly_core.catalogue", "watchly_core.accounts", "watchly_core.sessions"} <= loaded
    assert "importlib.resources" not in loaded


def test_what_a_word_is_is_worked_out_once_a_text_is_searched_and_not_before() -> None:
    loaded_by(
        "from watchly_core import text\n"
        "assert text._word.cache_info().currsize == 0\n"
        "text.words('a'); assert text._word.cache_info().currsize == 1"
    )


def test_every_public_name_is_there_and_listed_once() -> None:
    assert sorted(set(watchly_core.__all__)) == watchly_core.__all__
    assert {name: getattr(watchly_core, name).__name__ for name in watchly_core.__all__} == {
        name: name for name in watchly_core.__all__
    }
    assert set(watchly_core.__all__) <= set(dir(watchly_core))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'watchly_core' has no attribute 'Movies'"):
        getattr(watchly_core, "Movies")  # noqa: B009 - type checkers know that it is not there
