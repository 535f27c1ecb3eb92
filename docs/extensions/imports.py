"""Who imports whom in Watchly, as grimp finds it in the code; what only type checkers read does not count."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Final

import grimp
from docs.extensions.drawings import dots, layers

PACKAGES: Final = ("watchly_core", "watchly_adapters", "watchly_http")
#: What starts an application for tests, and so knows more than other adapters do.
PLUGIN: Final = "watchly_adapters.testing.plugin"
TESTS: Final = "watchly_adapters.testing"
_ASSIGNMENTS: Final = Path(__file__).parents[2] / "tests/typing/assignments.py"


@cache
def found() -> grimp.ImportGraph:
    """All imports of the packages, those of libraries too."""
    return grimp.build_graph(
        *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def gathered(groups: Mapping[str, str]) -> dict[str, set[str]]:
    """Which group uses which other one: `groups` has each module's own."""
    graph: dict[str, set[str]] = {group: set() for group in sorted(set(groups.values()))}
    for module, group in groups.items():
        used = {
            groups[other] for other in found().find_modules_directly_imported_by(module) if other in groups
        }
        graph[group] |= used - {group}
    return graph


def packages() -> dict[str, set[str]]:
    """Which package uses which; the plugin of pytest, which starts what it tests, is one of its own."""
    return gathered(_packages())


def libraries() -> dict[str, set[str]]:
    """The libraries, beside Python's own, that the modules of each package import."""
    return _libraries(_packages())


def core() -> dict[str, set[str]]:
    """Which module of the core uses which; the ports are one."""
    return gathered({module: module.split(".")[1] for module in _modules("watchly_core.")})


def ports() -> dict[str, set[str]]:
    """Which part of the adapters satisfies which ports, as the type checkers are told."""
    tree = ast.parse(_ASSIGNMENTS.read_text(encoding="utf-8"))
    homes = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    graph: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple):
            roles = [name.id for name in ast.walk(node.annotation) if isinstance(name, ast.Name)]
            role = next((name for name in roles if homes.get(name) == "watchly_core.ports"), None)
            for adapter in node.value.elts:
                home = homes[adapter.id] if isinstance(adapter, ast.Name) else ""
                if role and home.startswith("watchly_adapters."):
                    graph.setdefault(home.split(".")[1], set()).add(role)
    return dict(sorted(graph.items()))


def draw_packages() -> str:
    """The packages, with the libraries that each uses."""
    details = {name: wrap(", ".join(sorted(used)), 60) for name, used in libraries().items()}
    return layers(packages(), "The packages of Watchly, and the libraries that each imports", details)


def draw_core() -> str:
    """All modules of the core, users before what they use, in one table."""
    graph = core()
    order: list[str] = []
    while len(order) < len(graph):
        free = [name for name in graph if name not in order and graph[name] <= set(order)]
        order += sorted(free)
    order.reverse()
    used = [name for name in order if any(name in others for others in graph.values())]
    return dots(
        {name: graph[name] for name in order if graph[name]}, used, "What each module of the core uses"
    )


def draw_some(*names: str) -> str:
    """These modules of the core, and what they use of each other."""
    graph = core()
    return layers({name: graph[name] & set(names) for name in names}, f"Who uses whom of {', '.join(names)}")


def draw_ports() -> str:
    """The adapters by the ports that they satisfy."""
    graph = ports()
    return dots(graph, sorted(set().union(*graph.values())), "The ports that each adapter satisfies")


def draw_libraries() -> str:
    """The parts of the adapters that need a library, each beside it."""
    parts = {
        module: module.split(".")[1]
        for module in _modules("watchly_adapters.")
        if not module.startswith(TESTS)
    }
    graph = {part: used - {"msgspec"} for part, used in _libraries(parts).items() if used - {"msgspec"}}
    return dots(
        graph, sorted(set().union(*graph.values())), "The libraries that parts of the adapters import"
    )


def _packages() -> dict[str, str]:
    return {module: PLUGIN if module == PLUGIN else module.partition(".")[0] for module in _modules(PACKAGES)}


def _libraries(groups: Mapping[str, str]) -> dict[str, set[str]]:
    own = {*sys.stdlib_module_names, *PACKAGES, "_typeshed"}
    used: dict[str, set[str]] = {group: set() for group in sorted(set(groups.values()))}
    for module, group in groups.items():
        used[group] |= found().find_modules_directly_imported_by(module)
    return {
        group: {name for name in names if name.partition(".")[0] not in own} for group, names in used.items()
    }


def _modules(beginnings: str | tuple[str, ...]) -> list[str]:
    return [module for module in sorted(found().modules) if module.startswith(beginnings)]
