"""Transactions that are begun anew: how often, and that none of the core's is forgotten."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Final

import pytest

import watchly_core
from watchly_core.contention import TRIES, repeated
from watchly_core.errors import Contended, Unavailable, Undone

#: Those that are not begun anew by themselves, and why.
_APART: Final = {
    "Writes._together": "what is undone is written apart, and each of that is begun anew",
    "Catalogue.add_many": "its rows can be read once",
}


class Work:
    """Something that fails as often as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.begun = 0

    @repeated
    async def done(self, what: str) -> str:
        """Return it, at last."""
        self.begun += 1
        if self._errors:
            raise self._errors.pop(0)
        return what


def contended(times: int) -> Sequence[Exception]:
    return [Contended("database", "another one was in the way") for _ in range(times)]


def test_what_was_in_the_way_of_another_is_done_at_last() -> None:
    work = Work(*contended(TRIES - 1))
    assert asyncio.run(work.done("well")) == "well"
    assert work.begun == TRIES == 3


def test_it_is_given_up_at_last() -> None:
    work = Work(*contended(TRIES + 1))
    with pytest.raises(Contended):
        asyncio.run(work.done("well"))
    assert work.begun == TRIES


@pytest.mark.parametrize("error", [Unavailable("database", "lost"), Undone("database", "late"), ValueError()])
def test_nothing_else_is_begun_anew(error: Exception) -> None:
    """Of what was lost nobody knows whether it was done; and a lock that was waited for is no nearer."""
    work = Work(error)
    with pytest.raises(type(error)):
        asyncio.run(work.done("well"))
    assert work.begun == 1


def test_a_part_of_a_transaction_that_is_a_hosts_is_not_begun_anew() -> None:
    (error,) = contended(1)
    assert isinstance(error, Contended)
    error.joined = True
    work = Work(error)
    with pytest.raises(Contended):
        asyncio.run(work.done("well"))
    assert work.begun == 1


def test_it_is_watched_as_one_call() -> None:
    assert iscoroutinefunction(Work.done)
    assert Work.done.__name__ == "done"


def test_every_transaction_of_the_core_is_begun_anew_or_says_why_not() -> None:
    found = dict(transactions())
    assert len(found) > 40
    assert {name for name, is_repeated in found.items() if not is_repeated} == _APART.keys()


def test_none_that_is_begun_anew_holds_another_one_that_is() -> None:
    """It would be tried three times as often."""
    nested = []
    for tree in trees():
        methods = {function.name for _, function in functions(tree) if is_repeated(function)}
        for name, function in functions(tree):
            calls = {
                node.func.attr
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "self"
            }
            if is_repeated(function) and calls & methods:
                nested.append(name)
    assert nested == []


def transactions() -> Iterator[tuple[str, bool]]:
    """The functions that begin a transaction, and whether they are begun anew."""
    for tree in trees():
        for name, function in functions(tree):
            begun = [
                item.context_expr.func
                for node in ast.walk(function)
                if isinstance(node, ast.AsyncWith)
                for item in node.items
                if isinstance(item.context_expr, ast.Call)
            ]
            if any(ast.unparse(called).endswith("transactions") for called in begun):
                yield name, is_repeated(function)


def trees() -> Iterator[ast.Module]:
    for path in sorted(Path(watchly_core.__path__[0]).glob("*.py")):
        yield ast.parse(path.read_text())


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AsyncFunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.AsyncFunctionDef):
                    yield f"{node.name}.{member.name}", member


def is_repeated(function: ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "repeated" for decorator in function.decorator_list)
