"""A catalogue in PostgreSQL 14 or later, by raw SQL over psycopg."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self

import psycopg

from watchly_adapters.databases import EVERYTHING, Kept
from watchly_adapters.postgres.api_keys import PostgresApiKeys
from watchly_adapters.postgres.backlogs import PostgresBacklogs
from watchly_adapters.postgres.events import PostgresEvents, read_identity
from watchly_adapters.postgres.hosts import Joined, JoinedQueries
from watchly_adapters.postgres.images import PostgresImageLedger
from watchly_adapters.postgres.limits import Limits, allow_bulk
from watchly_adapters.postgres.migrate import migrate
from watchly_adapters.postgres.movies import PostgresMovies
from watchly_adapters.postgres.numbering import Listening, Numbering, number
from watchly_adapters.postgres.people import PostgresPeopleQueries
from watchly_adapters.postgres.pipelines import PipelinedConnection
from watchly_adapters.postgres.pool import HostConnection, Pool, PoolFigures
from watchly_adapters.postgres.positions import Positions
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.postgres.receipts import PostgresReceipts
from watchly_adapters.postgres.relays import PostgresRelayLedger
from watchly_adapters.postgres.replicas import Replica, ReplicaQueries
from watchly_adapters.postgres.sessions import PostgresSessions
from watchly_adapters.postgres.signing_keys import PostgresSigningKeys
from watchly_adapters.postgres.statements import Statement
from watchly_adapters.postgres.throttles import PostgresThrottles
from watchly_adapters.postgres.turns import turn
from watchly_adapters.postgres.users import PostgresUsers
from watchly_adapters.watching import Watch
from watchly_core.errors import Unavailable
from watchly_core.ports import MovieQueries

__all__ = [
    "HostConnection",
    "JoinedDatabase",
    "Limits",
    "PoolFigures",
    "PostgresDatabase",
    "PostgresTransaction",
    "migrate",
]

#: The names of the pools.
_PRIMARY: Final = "primary"
_REPLICA: Final = "replica"

_PING: Final = "/* postgres.ping */ SELECT 1"
_HURRY: Final = Statement("SET LOCAL lock_timeout = '100ms'")


class PostgresDatabase:
    """The movies, events, image records and people of a catalogue in PostgreSQL.

    An asynchronous context manager: it holds a pool of connections while it is entered. The schema has
    to be there, see `migrate`.

    Args:
        url: a PostgreSQL URL or conninfo string.
        max_size: connections at most.
        replica_url: that of a streaming replica of it; it need not be reachable.
        limits: see the attribute.
        watch: is told of each statement that is run, as a step of the kind ``statement``. Statements that
            travel together are one step; so is each fetch of an export, and a load of rows by COPY. Waiting
            for notifications is none.
        on_acquired: is told, each time that a connection is lent, the name of its pool (see `pools`), and how
            many seconds it was waited for.

    Attributes:
        keeps: everything.
        limits: how long the server may take; imports and exports may take longer.
        queries: satisfies `ports.MovieQueries`.
        reads: satisfies `ports.MovieQueries` as well, and leaves to the replica what may be a little old.
        transactions: satisfies `ports.Transactions`.
        people: satisfies `ports.PeopleQueries`.
        signal: satisfies `ports.ChangeSignal`.
        backlogs: satisfies `ports.Backlogs`.
    """

    keeps: frozenset[Kept] = EVERYTHING
    for_one_process: bool = False

    def __init__(  # noqa: PLR0913 - each with its name
        self,
        url: str,
        *,
        max_size: int = 10,
        replica_url: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        watch: Watch | None = None,
        on_acquired: Callable[[str, float], None] | None = None,
    ) -> None:
        of_primary = None if on_acquired is None else partial(on_acquired, _PRIMARY)
        of_replica = None if on_acquired is None else partial(on_acquired, _REPLICA)
        self.limits: Final = limits
        self._pool = Pool(url, max_size=max_size, limits=limits, watch=watch, on_acquired=of_primary)
        self.queries: PostgresMovieQueries = PostgresMovieQueries(self._pool)
        self._numbering = Numbering(self._pool)
        self._positions = Positions()
        self.transactions: PostgresTransactions = PostgresTransactions(
            self._pool, self._numbering.kick, self._positions
        )
        self.people: PostgresPeopleQueries = PostgresPeopleQueries(self._pool)
        self.signal: Listening = Listening(url, watch)
        self.backlogs: PostgresBacklogs = PostgresBacklogs(self._pool)
        self.reads: MovieQueries = self.queries
        self._replica: Replica | None = None
        if replica_url is not None:
            self._replica = Replica(
                replica_url,
                self._pool,
                max_size=max_size,
                limits=limits,
                watch=watch,
                on_acquired=of_replica,
            )
            self.reads = ReplicaQueries(self._replica, self.queries)

    async def __aenter__(self) -> Self:
        """Open the pool."""
        await self._pool.open()
        self._numbering.start()
        if self._replica is not None:
            self._replica.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        if self._replica is not None:
            await self._replica.stop()
        await self.signal.stop()
        await self._numbering.stop()
        await self.queries.close()
        await self._pool.close()

    @property
    def position(self) -> str | None:
        """See `ports.MovieQueries.at`: the newest position that a transaction of this object has reached."""
        return self._positions.newest

    @property
    def replica_answers(self) -> bool | None:
        """Whether the replica answers at present; None if there is none."""
        return None if self._replica is None else self._replica.pool is not None

    @property
    def pools(self) -> Mapping[str, PoolFigures]:
        """How the pools of connections are at the moment: `primary`, and `replica` while that answers."""
        replica = None if self._replica is None else self._replica.pool
        found = {_PRIMARY: self._pool.figures}
        return found if replica is None else found | {_REPLICA: replica.figures}

    def joined(self, connection: HostConnection | psycopg.Connection[object]) -> JoinedDatabase:
        """The catalogue on a connection of a host's, inside the transaction that the host has begun there.

        Nothing is done until it is used; one is made for each transaction, or one for the connection. What
        has to last whatever the host does (notes of images that are sent, attempts that are counted) is done
        in transactions of this database, and histories and exports are read by it: these need it entered.

        Args:
            connection: of this database's server and tables, whatever its rows, cursors and isolation are. It
                may be used by nobody else while a use case awaits: what the host did meanwhile would be
                undone with one that is refused. Use cases take turns on it.
        """
        return JoinedDatabase(connection, self)

    async def committed(self) -> str:
        """Look after what a host has just committed: have its events numbered now; a position that sees it.

        Without this they are numbered within a second, or by the next reader of the log. The position is for
        `ports.MovieQueries.at`, and clients know it as Watchly-Position.

        Raises:
            Unavailable: the database does not answer; what was committed is.
        """
        await number(self._pool)
        # It does nothing, after what the host did.
        async with self.transactions():
            pass
        if self.position is None:
            raise Unavailable("database", "it tells no position")
        return self.position

    async def identity(self) -> str:
        """The name of this catalogue: another one when the server is promoted, restarted, or put back.

        Raises:
            Unavailable: the database does not answer.
        """
        return await self._pool.read(read_identity)

    async def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            Unavailable: it gives none.
        """
        await self._pool.read(lambda connection: connection.execute(_PING))

    def alone(self, task: str) -> AbstractAsyncContextManager[bool]:
        """Whether nobody else is at `task`, on this database, until the block ends; it holds a connection.

        The block is cancelled when that connection is lost, for somebody else may have the next turn then.

        Raises:
            Unavailable: the database does not answer, or the turn was lost.
        """
        return turn(self._pool, task)


class JoinedDatabase:
    """A catalogue inside a host's transaction, see `PostgresDatabase.joined`.

    Each use case is a savepoint there: one that is refused leaves the host's transaction as it was. None is
    begun anew: `Contended` reaches the host. Sign-ins and the keys that sign tokens belong on `database`.

    Raises:
        Unjoinable: whatever is used, the connection is in no transaction that has not failed, or in pipeline
            mode, or speaks another encoding than UTF-8, or is to attach an image at a stricter isolation
            level than READ COMMITTED; nothing was written.

    Attributes:
        transactions: satisfies `ports.JoinedTransactions`.
        queries: satisfies `ports.MovieQueries`: `get`, `find`, `count` and `genres` see what the host's
            transaction has written; `export`, `history`, `changes` and `last_change` what is committed.
        people: satisfies `ports.PeopleQueries`, and sees what the transaction has written.
    """

    def __init__(
        self, connection: HostConnection | psycopg.Connection[object], database: PostgresDatabase
    ) -> None:
        joined = Joined(connection)
        self.transactions: PostgresJoinedTransactions = PostgresJoinedTransactions(
            joined, database.transactions
        )
        self.queries: JoinedQueries = JoinedQueries(joined, database.queries)
        self.people: PostgresPeopleQueries = PostgresPeopleQueries(joined)


class PostgresJoinedTransactions:
    """Satisfies `ports.JoinedTransactions`.

    Args:
        joined: the host's transaction.
        own: transactions of the same database.
    """

    def __init__(self, joined: Joined, own: PostgresTransactions) -> None:
        self._joined = joined
        self.own: PostgresTransactions = own

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[PostgresTransaction]:
        """See the port."""
        async with self._joined.part() as connection:
            yield PostgresTransaction(connection)

    async def require_current(self) -> None:
        """See the port."""
        await self._joined.require_current()


class PostgresTransactions:
    """Satisfies `ports.Transactions`.

    Args:
        pool: connections.
        on_appended: called after each commit of events.
        positions: told where each transaction has got.
    """

    def __init__(
        self,
        pool: Pool,
        on_appended: Callable[[], None] = lambda: None,
        positions: Positions | None = None,
    ) -> None:
        self._pool, self._on_appended = pool, on_appended
        self._positions = positions or Positions()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[PostgresTransaction]:
        """See the port."""
        async with self._pool.transaction(self._positions.transaction) as connection:
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
        self._connection = connection
        self.movies: PostgresMovies = PostgresMovies(connection, remembers=remembers)
        self.events: PostgresEvents = PostgresEvents(connection)
        self.images: PostgresImageLedger = PostgresImageLedger(connection)
        self.receipts: PostgresReceipts = PostgresReceipts(connection)
        self.relays: PostgresRelayLedger = PostgresRelayLedger(connection)
        self.users: PostgresUsers = PostgresUsers(connection)
        self.sessions: PostgresSessions = PostgresSessions(connection)
        self.api_keys: PostgresApiKeys = PostgresApiKeys(connection)
        self.signing_keys: PostgresSigningKeys = PostgresSigningKeys(connection)
        self.throttles: PostgresThrottles = PostgresThrottles(connection)

    async def hurry(self) -> None:
        """See the port."""
        # How long a host's own statements wait is the host's affair.
        if isinstance(self._connection, PipelinedConnection):
            await _HURRY.later(self._connection)

    async def take_time(self) -> None:
        """See the port."""
        if isinstance(self._connection, PipelinedConnection):
            await allow_bulk(self._connection)
