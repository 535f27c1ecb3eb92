"""A catalogue in PostgreSQL 14 or later, by raw SQL over psycopg."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from watchly_adapters.postgres.events import PostgresEvents
from watchly_adapters.postgres.images import PostgresImageLedger
from watchly_adapters.postgres.migrate import migrate
from watchly_adapters.postgres.movies import PostgresMovies
from watchly_adapters.postgres.numbering import Listening, Numbering
from watchly_adapters.postgres.pool import HostConnection, Pool
from watchly_adapters.postgres.queries import PostgresMovieQueries

__all__ = ["PostgresDatabase", "PostgresTransaction", "migrate"]

_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"


class PostgresDatabase:
    """The movies, events and image records of a catalogue in PostgreSQL.

    An asynchronous context manager: it holds a pool of connections while it is entered. The schema has
    to be there, see `migrate`.

    Args:
        url: a PostgreSQL URL or conninfo string.
        max_size: connections at most.

    Attributes:
        queries: satisfies `ports.MovieQueries`.
        transactions: satisfies `ports.Transactions`.
        signal: satisfies `ports.ChangeSignal`.
    """

    def __init__(self, url: str, *, max_size: int = 10) -> None:
        self._pool = Pool(url, max_size=max_size)
        self.queries = PostgresMovieQueries(self._pool)
        self._numbering = Numbering(self._pool)
        self.transactions = PostgresTransactions(self._pool, self._numbering.kick)
        self.signal = Listening(url)

    async def __aenter__(self) -> Self:
        """Open the pool."""
        await self._pool.open()
        self._numbering.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        await self.signal.stop()
        await self._numbering.stop()
        await self._pool.close()

    async def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            Unavailable: it gives none.
        """
        await self._pool.read(lambda connection: connection.execute("SELECT 1"))

    @asynccontextmanager
    async def alone(self, task: str) -> AsyncIterator[bool]:
        """Whether nobody else is at `task`, on this database, until the block ends; it holds a connection.

        Raises:
            Unavailable: the database does not answer.
        """
        # A lock of the transaction: one of the session would not survive a pooler in front of the server.
        async with self._pool.transaction() as connection:
            cursor = await connection.execute(_TRY_LOCK, (f"watchly.{task}",))
            yield await cursor.fetchone() == (True,)


class PostgresTransactions:
    """Satisfies `ports.Transactions`.

    Args:
        pool: connections.
        on_appended: called after each commit of events.
    """

    def __init__(self, pool: Pool, on_appended: Callable[[], None] = lambda: None) -> None:
        self._pool, self._on_appended = pool, on_appended

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[PostgresTransaction]:
        """See the port."""
        async with self._pool.transaction() as connection:
            tx = PostgresTransaction(connection, remembers=True)
            yield tx
            await tx.movies.tell_planner()
        if tx.events.appended:
            self._on_appended()


class PostgresTransaction:
    """Satisfies `ports.Transaction` on any connection that is inside a transaction, a host's own as well.

    Args:
        connection: the connection.
        remembers: whether nobody undoes a part of this transaction, so that bulk loads may go by what
            they have done before.
    """

    def __init__(self, connection: HostConnection, *, remembers: bool = False) -> None:
        self.movies = PostgresMovies(connection, remembers=remembers)
        self.events = PostgresEvents(connection)
        self.images = PostgresImageLedger(connection)
