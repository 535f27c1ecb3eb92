"""The error tree is the one drawn, and every error says what is wrong."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import msgspec
import pytest

import watchly_core
from watchly_core import errors
from watchly_core.errors import (
    Fault,
    ImportRejected,
    Invalid,
    InvalidMovie,
    InvalidQuery,
    Misconfigured,
    MovieNotFound,
    Unavailable,
    VersionConflict,
    WatchlyError,
)
from watchly_core.imports import ImportReport, Rejection

Tree = dict[str, str | None]


def drawn() -> Tree:
    """Each class of the drawing in the docstring with its parent."""
    tree: Tree = {}
    path: list[tuple[int, str]] = []
    _, _, drawing = (errors.__doc__ or "").partition("::\n")
    for line in drawing.splitlines():
        bare = line.lstrip(" │├└─")
        if not bare or not line.startswith("    "):
            if path and line:
                break
            continue
        column, name = len(line) - len(bare), bare.split()[0]
        while path and path[-1][0] >= column:
            path.pop()
        assert name not in tree, f"{name} is drawn twice"
        tree[name] = path[-1][1] if path else None
        path.append((column, name))
    return tree


def real() -> Tree:
    """Each exception that the core defines, in whatever module, and may raise, with its parent."""
    tree: Tree = {}
    for module in pkgutil.walk_packages(watchly_core.__path__, "watchly_core."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if (
                not name.startswith("_")
                and inspect.isclass(value)
                and issubclass(value, BaseException)
                and value.__module__ == module.name
            ):
                (parent,) = value.__bases__
                tree[name] = parent.__name__ if parent.__module__.startswith("watchly_core") else None
    return tree


def test_the_drawn_tree_is_the_real_one() -> None:
    assert len(drawn()) > 10
    assert drawn() == real()
    assert [name for name, parent in real().items() if parent is None] == ["WatchlyError"]


def test_every_error_is_public() -> None:
    assert real().keys() <= set(errors.__all__)


def test_every_error_is_explained_by_its_docstring() -> None:
    for name in real():
        assert inspect.getdoc(getattr(errors, name)) != inspect.getdoc(Exception)
        assert vars(getattr(errors, name))["__doc__"]


TITLE = Fault("required", "is required", pointer="#/title")
YEAR = Fault("too_large", "must be at most 2200", pointer="#/release_year")
LIMIT = Fault("too_small", "must be at least 1", parameter="limit")
REPORT = ImportReport(0, (Rejection(3, (TITLE,)),), 12, dry_run=False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            InvalidMovie([TITLE, YEAR]),
            "invalid movie: title: is required; release_year: must be at most 2200",
        ),
        (InvalidQuery([LIMIT]), "invalid query: limit: must be at least 1"),
        (Invalid([Fault("malformed", "is not CSV", pointer="#")]), "invalid input: is not CSV"),
        (ImportRejected(REPORT), "nothing was added: rows that break rules: 12"),
        (MovieNotFound(7), "no movie has the id 7"),
        (VersionConflict(7, 2, 3), "movie 7 is at version 3, not 2"),
        (Unavailable("database", "connection refused"), "database: connection refused"),
        (Misconfigured("PORT: 70000 is no port"), "PORT: 70000 is no port"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_names_what_is_wrong(error: WatchlyError, said: str) -> None:
    assert str(error) == said


def test_errors_carry_what_a_caller_needs() -> None:
    assert InvalidMovie(fault for fault in [TITLE, YEAR]).faults == (TITLE, YEAR)
    assert ImportRejected(REPORT).report is REPORT
    assert MovieNotFound(7).movie_id == 7
    conflict = VersionConflict(7, 2, 3)
    assert (conflict.id, conflict.expected, conflict.current) == (7, 2, 3)
    assert (Unavailable("cache", "x").dependency, Unavailable("cache", "x").retry_after) == ("cache", 1)
    assert Unavailable("cache", "x", retry_after=5).retry_after == 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (TITLE, "title: is required"),
        (LIMIT, "limit: must be at least 1"),
        (Fault("x", "is not JSON", pointer="#"), "is not JSON"),
        (Fault("x", "is not JSON"), "is not JSON"),
        (Fault("x", "is unknown", pointer="#/a~1b"), "a~1b: is unknown"),
    ],
)
def test_a_fault_names_its_place_and_rule(fault: Fault, said: str) -> None:
    assert str(fault) == said


def test_a_fault_is_on_the_wire_as_api_md_shows_it() -> None:
    assert msgspec.json.decode(msgspec.json.encode(YEAR)) == {
        "pointer": "#/release_year",
        "code": "too_large",
        "detail": "must be at most 2200",
    }
    assert msgspec.json.decode(msgspec.json.encode(LIMIT)) == {
        "parameter": "limit",
        "code": "too_small",
        "detail": "must be at least 1",
    }
