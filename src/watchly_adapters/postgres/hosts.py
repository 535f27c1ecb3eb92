"""Writing and reading inside a transaction that a host has begun, on a psycopg connection of its own.

Each use case, and each read, is a savepoint: one that is refused, cancelled or fails leaves the host's
transaction as it was. Whether anything comes of it, the host's commit decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Self, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import TupleRow, tuple_row

from watchly_adapters.postgres.movies import GET, movie_cursor
from watchly_adapters.postgres.pool import HostConnection, cursor, translated
from watchly_adapters.postgres.positions import read_position
from watchly_adapters.postgres.queries import read_count, read_genres, read_page
from watchly_adapters.postgres.statements import bigint
from watchly_core.errors import Contended, MovieNotFound, Unjoinable

if TYPE_CHECKING:
    from watchly_core.events import Change, ChangeQuery, Changes
    from watchly_core.movies import Movie, MovieDraft
    from watchly_core.ports import MovieQueries
    from watchly_core.queries import GenreCount, MovieQuery, Page

T = TypeVar("T")

# psycopg begins a transaction with the first statement, where it is not told otherwise.
_BEGIN: Final = "/* hosts.begin */ SELECT 1"
_ISOLATION: Final = "/* hosts.isolation */ SELECT current_setting('transaction_isolation')"
#: At these a statement sees what was committed before it; PostgreSQL takes the one for the other.
_CURRENT: Final = ("read committed", "read uncommitted")

#: The turns on a connection, and the event loop in which they are waited for.
_turns: Final[
    WeakKeyDictionary[
        HostConnection | psycopg.Connection[object], tuple[asyncio.AbstractEventLoop, asyncio.Lock]
    ]
] = WeakKeyDictionary()


class Joined:
    """A host's transaction, of which parts are ours, one at a time, however many of these there are.

    Args:
        connection: the host's, which does nothing on it meanwhile.
    """

    def __init__(self, connection: HostConnection | psycopg.Connection[object]) -> None:
        self._host = connection
        self._connection: HostConnection = (
            connection if isinstance(connection, psycopg.AsyncConnection) else _Seen(connection)
        )

    @asynccontextmanager
    async def part(self) -> AsyncIterator[HostConnection]:
        """A savepoint around the block, which is undone alone when that is left by an exception.

        Raises:
            Unjoinable: the connection is in no transaction, or in no state to be used; nothing was done.
            Contended: another transaction was in the way of the host's, which has to begin anew.
            Undone: the block was undone for another reason.
            Unavailable: the connection was lost, and the host's transaction with it.
        """
        async with _turn(self._host):
            connection = self._connection
            if isinstance(connection, _Seen):
                connection.look()
            try:
                with translated():
                    _require_joinable(connection)
                    if connection.info.transaction_status == TransactionStatus.IDLE:
                        await cursor(connection, tuple_row).execute(_BEGIN)
                    async with connection.transaction():
                        yield connection
            except Contended as error:
                error.joined = True
                raise

    async def require_current(self) -> None:
        """See `ports.JoinedTransactions`."""
        async with self.part() as connection:
            asked = await cursor(connection, tuple_row).execute(_ISOLATION)
            (level,) = await asked.fetchone() or ("unknown",)
            if level not in _CURRENT:
                raise Unjoinable(
                    f"its isolation level is {level}, at which it does not see what it takes to attach"
                    " an image; begin the transaction at read committed"
                )

    async def read(self, read: Callable[[HostConnection], Awaitable[T]]) -> T:
        """See `pool.Reads`: it sees what the host's transaction has written."""
        async with self.part() as connection:
            return await read(connection)


def _turn(host: HostConnection | psycopg.Connection[object]) -> asyncio.Lock:
    """The turn on a connection; a synchronous host may have an event loop for each use case."""
    loop = asyncio.get_running_loop()
    known = _turns.get(host)
    if known is None or known[0] is not loop:
        known = _turns[host] = loop, asyncio.Lock()
    return known[1]


def _require_joinable(connection: HostConnection) -> None:
    """Refuse what would fail later, or succeed by half.

    Raises:
        Unjoinable: says why.
    """
    if connection.closed:
        return  # what is asked next says so
    info = connection.info
    if info.transaction_status == TransactionStatus.IDLE and connection.autocommit:
        raise Unjoinable("it is in no transaction; write inside `async with connection.transaction()`")
    if info.transaction_status == TransactionStatus.INERROR:
        raise Unjoinable("a statement of its transaction has failed, which has to be rolled back first")
    if info.pipeline_status != PipelineStatus.OFF:
        raise Unjoinable("it is in pipeline mode, where nobody knows what became of a statement")
    if info.encoding != "utf-8":
        raise Unjoinable(f"its client_encoding is {info.encoding}, which lacks letters that movies have")


class _Seen(psycopg.AsyncConnection[TupleRow]):
    """A synchronous connection as one whose answers the event loop waits for; it stays the host's."""

    def __init__(self, host: psycopg.Connection[object]) -> None:
        pgconn = host.pgconn
        handlers = pgconn.notice_handler, pgconn.notify_handler
        super().__init__(pgconn, tuple_row)
        pgconn.notice_handler, pgconn.notify_handler = handlers
        # Names that the host knows nothing of would be in the way of its own.
        self.prepare_threshold = None
        self._host = host

    def look(self) -> None:
        """Begin transactions as the host would at present, which may change its mind between two of them."""
        # The ways to say so ask for an event loop.
        host = self._host
        self._autocommit = host.autocommit
        self._isolation_level, self._read_only = host.isolation_level, host.read_only
        self._deferrable = host.deferrable

    def __del__(self, _: object = None, /) -> None:
        """It is the host's to close."""


class JoinedQueries:
    """Satisfies `ports.MovieQueries` inside a host's transaction.

    Movies, pages, counts and genres are as that has made them so far. Exports, histories and changes are of
    what is committed: what it has written gets its numbers after its commit.

    Args:
        joined: the host's transaction.
        committed: reads what is committed.
    """

    def __init__(self, joined: Joined, committed: MovieQueries) -> None:
        self._joined, self._committed = joined, committed

    def at(self, position: str) -> Self:
        """See the port; a host writes on the primary, which knows of every write."""
        read_position(position)
        return self

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        movie = await self._joined.read(lambda connection: _read_movie(connection, movie_id))
        if movie is None:
            raise MovieNotFound(movie_id)
        return movie

    async def find(self, query: MovieQuery) -> Page:
        """See the port."""
        return await self._joined.read(lambda connection: read_page(connection, query))

    async def count(self, query: MovieQuery) -> int:
        """See the port."""
        return await self._joined.read(lambda connection: read_count(connection, query))

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """See the port."""
        return await self._joined.read(lambda connection: read_genres(connection, query))

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """See the port."""
        return self._committed.export(query)

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """See the port."""
        return await self._committed.history(movie_id, before=before, limit=limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        """See the port."""
        return await self._committed.changes(query)

    async def last_change(self) -> int:
        """See the port."""
        return await self._committed.last_change()


async def _read_movie(connection: HostConnection, movie_id: int) -> Movie | None:
    async with movie_cursor(connection) as asked:
        await asked.execute(GET, (bigint(movie_id),))
        return await asked.fetchone()
