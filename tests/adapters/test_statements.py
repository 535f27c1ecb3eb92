"""That every statement has a name: it begins with that of its module and of its constant."""

from __future__ import annotations

import ast
import asyncio
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import psycopg
import pytest
from psycopg import sql
from tests.legacy import until

from watchly_adapters import postgres
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.postgres.pipelines import Sending
from watchly_adapters.postgres.statements import Statement
from watchly_adapters.postgres.watched import name_of
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

#: What a statement begins with, with a name before it or without. SET, BEGIN and such need none.
STATEMENT: Final = re.compile(
    r"\s*(/\* \w|\(?(ANALYZE|COPY|CREATE|DELETE|DROP|INSERT|LOCK|SELECT|TRUNCATE|UPDATE|VALUES|WITH)\b)"
)
#: Statements only inside of others.
PARTS: Final = {"vocabulary.SELECT_UNKNOWN"}
#: What takes a statement.
TAKERS: Final = {"Query", "Sending", "Statement", "copy", "execute", "executemany"}


def modules() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(postgres.__path__)]
    return [postgres, *(importlib.import_module(f"{postgres.__name__}.{name}") for name in names)]


def tree(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text("utf-8"))


def text_of(value: object) -> str:
    """The text of a statement, or of a part of one; of what is none, an empty one."""
    if isinstance(value, Statement):
        return value.text
    if isinstance(value, sql.SQL):
        return value.as_string()
    found = value.statement if isinstance(value, Sending) else value
    found = found.decode(errors="replace") if isinstance(found, bytes) else found
    return found if isinstance(found, str) else ""


def statements() -> Iterator[tuple[str, str]]:
    """The texts of all statements that are constants, or of what they begin with, by their full names."""
    for module in modules():
        short = module.__name__.rpartition(".")[2]
        for node in tree(module).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, text = node.target.id, text_of(getattr(module, node.target.id, None))
                if STATEMENT.match(text) and f"{short}.{name}" not in PARTS:
                    yield f"{short}.{name}", text


def name_by_rule(constant: str) -> str:
    return constant.replace("._", ".").lower()


def test_every_statement_begins_with_the_name_of_its_constant() -> None:
    for constant, text in statements():
        assert re.match(rf"/\* {name_by_rule(constant)} \*/\s*\(?[A-Z]", text), constant


def test_names_are_those_of_one_statement_each() -> None:
    names = [name_by_rule(constant) for constant, _ in statements()]
    assert len(names) == len(set(names)) > 100
    assert {"movies.get", "queries.page", "positions.newest", "migrate.drop", "postgres.ping"} <= set(names)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__.rpartition(".")[2])
def test_no_statement_is_written_where_it_is_run(module: ModuleType) -> None:
    """It would have no constant to be named by."""
    for node in ast.walk(tree(module)):
        for inner in ast.walk(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            if isinstance(inner, ast.Call) and inner.args:
                taker = getattr(inner.func, "attr", getattr(inner.func, "id", None))
                first = inner.args[0]
                while isinstance(first, ast.BinOp):
                    first = first.left
                literal = isinstance(first, ast.JoinedStr | ast.Constant)
                assert not (taker in TAKERS and literal), f"{module.__name__}:{inner.lineno}"


def test_a_name_is_read_off_whatever_is_run() -> None:
    assert name_of("/* movies.get */ SELECT 1") == "movies.get"
    assert name_of(b"/* movies.get */\n    SELECT 1") == "movies.get"
    assert name_of(sql.SQL("/* movies.get */ SELECT {}").format(sql.Literal("a value"))) == "movies.get"
    assert name_of("BEGIN ISOLATION LEVEL READ COMMITTED") == "begin"
    assert name_of("") == "check"


@pytest.mark.parametrize("text", ["SELECT 'a value'", "a value", "$1", "--"])
def test_what_has_no_name_is_not_called_by_what_stands_in_it(text: str) -> None:
    assert name_of(text.encode()) == "unnamed"
    assert name_of(sql.SQL("{}").format(sql.Literal(text))) == "unnamed"


async def test_a_server_tells_the_name_of_what_runs(database_url: str, postgres: PostgresDatabase) -> None:
    async def running() -> bool:
        async with await psycopg.AsyncConnection.connect(database_url) as looking:
            asked = await looking.execute(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'watchly' AND wait_event_type = 'Lock'"
            )
            return [name_of(query.encode()) for (query,) in await asked.fetchall()] == ["queries.count"]

    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("LOCK TABLE movies")
        task = asyncio.create_task(postgres.queries.count(MovieQuery()))
        await until(running)
        await other.rollback()
    assert await task == 0
