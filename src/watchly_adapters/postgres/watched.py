"""Connections of which somebody is told what statements they run, and the names of those.

Every statement begins with its name in a comment, which is that of its module and of its constant: what
`movies.py` calls `_GET_LOCKED` begins with ``/* movies.get_locked */``. One that is put together for each
query is named by the constant that it begins with. So the names stand as well where a server tells of
statements: in `pg_stat_activity` and `pg_stat_statements`, and in what `auto_explain` logs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Final, LiteralString, Self, TypeAlias, TypeVar

from psycopg import AsyncCopy, AsyncCursor, AsyncServerCursor, sql
from psycopg.abc import Params, Query
from psycopg.copy import AsyncWriter
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import AsyncRowFactory, TupleRow, tuple_row

from watchly_adapters.postgres.pipelines import PipelinedConnection, Sending
from watchly_adapters.watching import Kind, Watch

Row_co = TypeVar("Row_co", covariant=True)

_Query: TypeAlias = LiteralString | bytes | sql.SQL | sql.Composed

_OPENING: Final = "/* "
_START: Final = len(_OPENING)
#: The names of those that need none of their own, by their first words; a pool asks for nothing as a check.
_PLAIN: Final = {
    "": "check",
    "BEGIN": "begin",
    "COMMIT": "commit",
    "ROLLBACK": "rollback",
    "SET": "set",
    "LISTEN": "listen",
}
_UNNAMED: Final = "unnamed"


def name_of(query: Query) -> str:
    """The name of a statement; it is one of few, whatever the statement is."""
    if isinstance(query, str):
        return _read_name(query)
    if isinstance(query, bytes):
        return _read_name(query.decode())
    # What is put together has constant texts between its values, and begins with one.
    first = next(iter(query), None) if isinstance(query, sql.Composed) else query
    return _read_name(first.as_string()) if isinstance(first, sql.SQL) else _UNNAMED


def _read_name(text: str) -> str:
    if text.startswith(_OPENING):
        return text[_START : text.index(" ", _START)]
    return _PLAIN.get(text.partition(" ")[0], _UNNAMED)


class _Nobody:
    def step(self, kind: Kind, name: str) -> AbstractContextManager[object]:  # noqa: ARG002 - nobody asks
        return nullcontext()


class WatchedConnection(PipelinedConnection):
    """A connection on which each round trip that sends statements is a step.

    Attributes:
        watch: is told of the steps, once it is set.
    """

    watch: Watch = _Nobody()

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[TupleRow] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.cursor_factory: type[AsyncCursor[TupleRow]] = WatchedCursor[TupleRow]
        self.server_cursor_factory: type[AsyncServerCursor[TupleRow]] = WatchedServerCursor[TupleRow]

    async def step(self, name: str) -> AbstractContextManager[object]:
        """The step that a statement is; what is held back is sent before, in one of its own."""
        if self._held:
            await self.exchange()
        return self.watch.step("statement", name)

    async def _exchange(self, asked: Sequence[Sending], riding: Sequence[Sending] = ()) -> Sequence[PGresult]:
        with self.watch.step("statement", _name_of_all([*self._held, *asked] or riding)):
            return await super()._exchange(asked, riding)


def _name_of_all(sent: Sequence[Sending]) -> str:
    """The name of what travels together: that of the last one that has its own, else of the last."""
    last = ""
    for sending in reversed(sent):
        name = name_of(sending.statement)
        if "." in name:
            return name
        last = last or name
    return last


class WatchedCursor(AsyncCursor[Row_co]):
    """A cursor of which each call that waits for the server is a step; loading rows by COPY is one."""

    def __init__(self, connection: WatchedConnection, *, row_factory: AsyncRowFactory[Row_co]) -> None:
        super().__init__(connection, row_factory=row_factory)
        self._watched = connection

    async def execute(  # type: ignore[override]  # without templates, which not every psycopg knows
        self,
        query: _Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """See psycopg."""
        with await self._watched.step(name_of(query)):
            return await super().execute(query, params, prepare=prepare, binary=binary)

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """See psycopg."""
        with await self._watched.step(name_of(query)):
            await super().executemany(query, params_seq, returning=returning)

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, *, writer: AsyncWriter | None = None
    ) -> AsyncIterator[AsyncCopy]:
        """See psycopg."""
        with await self._watched.step(name_of(statement)):
            async with super().copy(statement, params, writer=writer) as copy:
                yield copy


class WatchedServerCursor(AsyncServerCursor[Row_co]):
    """A cursor of the server: its declaration is a step, and so is each fetch, under the same name."""

    def __init__(
        self,
        connection: WatchedConnection,
        name: str,
        *,
        row_factory: AsyncRowFactory[Row_co],
        scrollable: bool | None = None,
        withhold: bool = False,
    ) -> None:
        super().__init__(connection, name, row_factory=row_factory, scrollable=scrollable, withhold=withhold)
        self._watched = connection
        self._statement = _UNNAMED

    async def execute(
        self, query: Query, params: Params | None = None, *, binary: bool | None = None, **kwargs: object
    ) -> Self:
        """See psycopg."""
        self._statement = name_of(query)
        with await self._watched.step(self._statement):
            return await super().execute(query, params, binary=binary, **kwargs)

    async def fetchmany(self, size: int = 0) -> list[Row_co]:
        """See psycopg."""
        with await self._watched.step(self._statement):
            return await super().fetchmany(size)
