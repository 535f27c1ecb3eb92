"""Connections to PostgreSQL: opening them, and turning psycopg's errors into the core's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from math import inf
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec
import psycopg
from psycopg import AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import (
    DeadlockDetected,
    IdleInTransactionSessionTimeout,
    ReadOnlySqlTransaction,
    SerializationFailure,
    StatementCompletionUnknown,
    TransactionTimeout,
)
from psycopg.pq import Format
from psycopg.rows import AsyncRowFactory, TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from watchly_adapters.postgres.limits import Limits, allow_bulk, hold_to
from watchly_adapters.postgres.pipelines import (
    CONNECT_TIMEOUT,
    LEAVE,
    Overdue,
    OwnConnection,
    PipelinedConnection,
)
from watchly_adapters.postgres.watched import WatchedConnection, WatchedCursor
from watchly_adapters.watching import Watch
from watchly_core.errors import Contended, Misconfigured, Unavailable, Undone

T = TypeVar("T")

RowT_co = TypeVar("RowT_co", covariant=True)

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]
#: A connection whose rows may be of any kind.
HostConnection: TypeAlias = psycopg.AsyncConnection[object]
#: Runs a block inside a transaction on a connection.
Begin: TypeAlias = Callable[[PipelinedConnection], AbstractAsyncContextManager[object]]

#: Seconds for which a database that cannot be reached at start is asked again.
START_WAIT: Final = 30.0
_START_INTERVAL: Final = 0.5
#: Seconds for which a connection that was lost is tried to be replaced; then the next caller sees to it. As
#: psycopg doubles its pauses, after a long outage it would be a long one until it tried again.
_REPLACE_FOR: Final = 1.0
#: Seconds that the pool's own tasks get to end.
_CLOSE_TIMEOUT: Final = 1.0
#: Seconds to wait for a free connection, and how many callers may wait at once.
_ACQUIRE_TIMEOUT: Final = 5.0
_MAX_WAITING: Final = 1_000

#: What a server says that asking again will not change.
_FINAL: Final = (
    "authentication failed",
    "does not exist",
    "pg_hba.conf",
    "no password supplied",
    "is not permitted to log in",
    "permission denied for database",
    "unrecognized configuration parameter",
    "invalid port number",
    "invalid integer value",
    "invalid sslmode value",
)


#: What a failure means by the class of its SQLSTATE (PostgreSQL manual, appendix A).
_BY_CLASS: Final = {
    "25": "the transaction was ended by the server, or may only read there",
    "40": "the server gave the transaction up, for another one was in the way",
    "53": "the server is out of a resource",
    "54": "a limit of the server was passed",
    "55": "a lock could not be had in time",
    "57": "the statement was ended by the server",
    "58": "the server's disk or system failed",
}
#: Those that come of what the transaction itself did: it was undone, and another one fares better.
_UNDOING: Final = ("40", "54", "55")


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into the core's: the one place where that is done."""
    try:
        yield
    except (PoolTimeout, TooManyRequests) as error:
        raise Unavailable("database", "no connection became free in time") from error
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        # To psycopg these are none of the above: a session ended, and a server that is about to be replaced.
        IdleInTransactionSessionTimeout,
        TransactionTimeout,
        ReadOnlySqlTransaction,
        PoolClosed,
    ) as error:
        raise _failure(error)("database", _explain(error)) from error


def _failure(error: psycopg.Error | PoolClosed) -> type[Unavailable]:
    if isinstance(error, SerializationFailure | DeadlockDetected):
        return Contended
    if _class(error) in _UNDOING and not isinstance(error, StatementCompletionUnknown):
        return Undone
    return Unavailable


def _class(error: psycopg.Error | PoolClosed) -> str:
    return (getattr(error, "sqlstate", None) or "")[:2]


def _explain(error: psycopg.Error | PoolClosed) -> str:
    if isinstance(error, Overdue):
        return "the server gave no answer in time"
    return _BY_CLASS.get(_class(error), "the connection was lost or refused")


def cursor(
    connection: HostConnection, row_factory: AsyncRowFactory[RowT_co], *, binary: bool = False
) -> AsyncCursor[RowT_co]:
    """A cursor of a plain kind, whatever kind and rows a host's connection is set to."""
    made: AsyncCursor[RowT_co]
    if isinstance(connection, WatchedConnection):
        made = WatchedCursor(connection, row_factory=row_factory)
    else:
        made = AsyncCursor(connection, row_factory=row_factory)
    made.format = Format.BINARY if binary else Format.TEXT
    return made


def address(url: str) -> str:
    """Where `url` points, without its password: fit for messages."""
    parts = conninfo_to_dict(url)
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = f":{parts['port']}" if "port" in parts else ""
    return f"{host}{port}/{parts.get('dbname') or parts.get('user') or ''}"


async def connect(
    url: str,
    *,
    wait: float = START_WAIT,
    variable: str = "DATABASE_URL",
    watch: Watch | None = None,
    limit: float = inf,
) -> Connection:
    """Open a connection in autocommit mode.

    A server that cannot be reached is asked again for `wait` seconds. `variable` is where `url` comes from.
    `watch` is told of what the connection runs. `limit`, if there is one, is that of a pipelined connection.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time.
    """
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise Misconfigured(
            f"{variable} is not a PostgreSQL URL; an example: postgresql://user:password@localhost/watchly"
        ) from None
    deadline = asyncio.get_running_loop().time() + wait
    kind = WatchedConnection if watch else OwnConnection if limit == inf else PipelinedConnection
    while True:
        try:
            connection = await kind.connect(url)
        except psycopg.OperationalError as error:
            reason = _reason(error)
            if any(phrase in reason for phrase in _FINAL):
                raise Misconfigured(f"{variable}: {address(url)} refuses the connection: {reason}") from error
            if asyncio.get_running_loop().time() + _START_INTERVAL > deadline:
                patience = f" within {wait:g} s" if wait else ""
                raise Unavailable(
                    "database", f"{address(url)} could not be reached{patience}: {reason}"
                ) from error
        else:
            if watch is not None and isinstance(connection, WatchedConnection):
                connection.watch = watch
            if isinstance(connection, PipelinedConnection):
                connection.limit = limit
            return connection
        await asyncio.sleep(_START_INTERVAL)


def _reason(error: psycopg.OperationalError) -> str:
    """What went wrong last, without libpq's hints, which follow on lines of their own."""
    hints = ("\t", "DETAIL:", "HINT:")
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(hints)]
    return lines[-1].strip() if lines else "no reason given"


class Reads(Protocol):
    """Runs reads on some connection: one of a pool, or that of a host."""

    async def read(self, read: Callable[[HostConnection], Awaitable[T]]) -> T:
        """What `read` gives; it may be asked twice.

        Raises:
            Unavailable: the database does not answer.
        """
        ...


class PoolFigures(msgspec.Struct, frozen=True):
    """How a pool is at the moment.

    Attributes:
        size: its connections, those that are lent among them.
        idle: those that wait to be lent.
        waiting: the callers who wait for one.
        refused: how many callers have been left without one so far: too many waited, or for too long.
    """

    size: int
    idle: int
    waiting: int
    refused: int


class Pool:
    """A pool of connections in autocommit mode, with errors translated.

    Args:
        url: a PostgreSQL URL or conninfo string.
        min_size: connections kept open.
        max_size: connections at most.
        limits: how long the server may take.
        watch: is told of the statements that its connections run.
        on_acquired: is told, each time that one is lent, how many seconds it was waited for.
    """

    def __init__(  # noqa: PLR0913 - each with its name
        self,
        url: str,
        *,
        min_size: int = 2,
        max_size: int = 10,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        watch: Watch | None = None,
        on_acquired: Callable[[float], None] | None = None,
    ) -> None:
        self._limits, self._watch, self._on_acquired = limits, watch, on_acquired
        self._pool = AsyncConnectionPool(
            url,
            connection_class=PipelinedConnection if watch is None else WatchedConnection,
            open=False,
            min_size=min_size,
            max_size=max_size,
            max_waiting=_MAX_WAITING,
            timeout=_ACQUIRE_TIMEOUT,
            reconnect_timeout=_REPLACE_FOR,
            reconnect_failed=self._try_again,
            configure=self._configure,
            name="watchly",
        )
        self._streams = asyncio.Semaphore(max(1, max_size // 2))
        #: When a connection was lost last: whatever cut it has probably cut the others as well.
        self._doubted = 0.0

    @property
    def max_waiting(self) -> int:
        """Callers that may wait for a connection at once."""
        return self._pool.max_waiting

    @property
    def figures(self) -> PoolFigures:
        """How it is at the moment."""
        # What has not happened yet is not in there.
        found = self._pool.get_stats()
        names = ("pool_size", "pool_available", "requests_waiting", "requests_errors")
        return PoolFigures(*(found.get(name, 0) for name in names))

    @property
    def patience(self) -> float:
        """Seconds that a caller waits for one."""
        return self._pool.timeout

    async def open(self) -> None:
        """Start connecting; connections that fail are tried again in the background."""
        await self._pool.open()

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close(_CLOSE_TIMEOUT)

    @asynccontextmanager
    async def transaction(
        self, begin: Begin = PipelinedConnection.transacting
    ) -> AsyncIterator[PipelinedConnection]:
        """Lend a connection inside a transaction, which commits when the block ends normally.

        `begin` says how.

        Raises:
            Contended: another transaction was in the way; this one was undone.
            Undone: it was undone for another reason.
            Unavailable: no connection is free in time, or it was lost on the way.
        """
        with translated():
            async with self._lend() as connection, begin(connection):
                yield connection

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[PipelinedConnection]:
        """Lend a connection as `transaction` does, for as long as somebody takes what it gives.

        At most half of the connections are lent so: slow readers must not keep everybody else waiting.

        Raises:
            Unavailable: as there, or too many streams are under way.
        """
        try:
            async with asyncio.timeout(_ACQUIRE_TIMEOUT):
                await self._streams.acquire()
        except TimeoutError:
            raise Unavailable("database", "too many exports are under way") from None
        try:
            async with self.transaction() as connection:
                await allow_bulk(connection)
                yield connection
        finally:
            self._streams.release()

    async def read(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        """What `read` gives, asked once more when its connection turns out to have died.

        Reading twice harms nothing. Both together take no longer than one that gets no answer, which is not
        asked again.

        Raises:
            Unavailable: no connection is free in time, or the second one was lost as well.
        """
        with translated():
            began = time.monotonic()
            async with self._lend() as connection:
                try:
                    return await read(connection)
                except psycopg.OperationalError as error:
                    if not connection.broken or isinstance(error, Overdue):
                        raise
            async with self._lend() as connection:
                connection.limit = max(LEAVE, connection.limit - (time.monotonic() - began))
                return await read(connection)

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[PipelinedConnection]:
        """Lend a connection, which was alive a moment ago."""
        connection = await self._take()
        try:
            yield connection
        finally:
            if connection.broken:
                self._doubted = time.monotonic()
            await self._give_back(connection)

    async def _take(self) -> PipelinedConnection:
        began = time.monotonic()
        while True:
            connection = await self._pool.getconn(began + self._pool.timeout - time.monotonic())
            try:
                await connection.look(self._doubted)
            except BaseException as error:
                await self._give_back(connection)
                if not isinstance(error, psycopg.OperationalError):
                    raise
            else:
                break
        connection.limit = self._limits.answer
        if self._on_acquired is not None:
            self._on_acquired(time.monotonic() - began)
        return connection

    async def _give_back(self, connection: PipelinedConnection) -> None:
        # Whoever asks it before it is lent again only wants to know whether it is alive.
        connection.limit = LEAVE
        await self._pool.putconn(connection)

    async def _configure(self, connection: PipelinedConnection) -> None:
        """Prepare a new connection."""
        connection.limit = CONNECT_TIMEOUT
        await hold_to(self._limits, connection)
        connection.limit = LEAVE
        if self._watch is not None and isinstance(connection, WatchedConnection):
            connection.watch = self._watch

    async def _try_again(self, pool: AsyncConnectionPool[PipelinedConnection]) -> None:
        """A connection could not be replaced: go on for as long as somebody waits for one."""
        if pool.get_stats().get("requests_waiting"):
            await pool.check()  # which has it grow
