"""The core needs the standard library and msgspec, and nothing else."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
