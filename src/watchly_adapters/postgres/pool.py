"""Connections to PostgreSQL: opening them, and turning psycopg's errors into the core's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, TypeAlias, TypeVar

import msgspec
import psycopg
from psycopg import AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import IdleInTransactionSessionTimeout, ReadOnlySqlTransaction
from psycopg.pq import Format
from psycopg.rows import AsyncRowFactory, TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from watchly_adapters.postgres.pipelines import PipelinedConnection
from watchly_adapters.postgres.watched import WatchedConnection, WatchedCursor
from watchly_adapters.watching import Watch
from watchly_core.errors import Misconfigured, Unavailable, Undone

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
_CONNECT_TIMEOUT: Final = 5
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
    "40": "another transaction was in the way and this one was undone",
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
        ReadOnlySqlTransaction,
        PoolClosed,
    ) as error:
        failure = Undone if _class(error) in _UNDOING else Unavailable
        raise failure("database", _explain(error)) from error


def _class(error: psycopg.Error | PoolClosed) -> str:
    return (getattr(error, "sqlstate", None) or "")[:2]


def _explain(error: psycopg.Error | PoolClosed) -> str:
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
    url: str, *, wait: float = START_WAIT, variable: str = "DATABASE_URL", watch: Watch | None = None
) -> Connection:
    """Open a connection in autocommit mode.

    A server that cannot be reached is asked again for `wait` seconds. `variable` is where `url` comes from.
    `watch` is told of what the connection runs.

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
    kind = psycopg.AsyncConnection if watch is None else WatchedConnection
    while True:
        try:
            connection = await kind.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT,
                application_name="watchly",
                client_encoding="utf8",
            )
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
            return connection
        await asyncio.sleep(_START_INTERVAL)


def _reason(error: psycopg.OperationalError) -> str:
    """What went wrong last, without libpq's hints, which follow on lines of their own."""
    hints = ("\t", "DETAIL:", "HINT:")
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(hints)]
    return lines[-1].strip() if lines else "no reason given"


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
        watch: is told of the statements that its connections run.
        on_acquired: is told, each time that one is lent, how many seconds it was waited for.
    """

    def __init__(
        self,
        url: str,
        *,
        min_size: int = 2,
        max_size: int = 10,
        watch: Watch | None = None,
        on_acquired: Callable[[float], None] | None = None,
    ) -> None:
        self._watch, self._on_acquired = watch, on_acquired
        self._pool = AsyncConnectionPool(
            url,
            connection_class=PipelinedConnection if watch is None else WatchedConnection,
            open=False,
            min_size=min_size,
            max_size=max_size,
            max_waiting=_MAX_WAITING,
            timeout=_ACQUIRE_TIMEOUT,
            kwargs={
                "autocommit": True,
                "application_name": "watchly",
                "client_encoding": "utf8",
                "connect_timeout": _CONNECT_TIMEOUT,
            },
            configure=self._configure,
            name="watchly",
        )
        self._streams = asyncio.Semaphore(max(1, max_size // 2))

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
        await self._pool.close()

    @asynccontextmanager
    async def transaction(
        self, begin: Begin = PipelinedConnection.transacting
    ) -> AsyncIterator[PipelinedConnection]:
        """Lend a connection inside a transaction, which commits when the block ends normally.

        `begin` says how. A connection that turns out to have died when the transaction begins is replaced:
        nothing was sent.

        Raises:
            Unavailable: none is free in time, or it was lost on the way.
        """
        with translated():
            async with AsyncExitStack() as stack:
                try:
                    connection = await self._begin(stack, begin)
                except (PoolTimeout, TooManyRequests, PoolClosed):
                    raise
                except psycopg.OperationalError:
                    await self._pool.check()
                    connection = await self._begin(stack, begin)
                try:
                    yield connection
                except psycopg.OperationalError:
                    # Whatever cut this one has probably cut the idle ones as well.
                    if connection.broken:
                        await self._pool.check()
                    raise

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Connection]:
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
                yield connection
        finally:
            self._streams.release()

    async def _configure(self, connection: Connection) -> None:
        """Prepare a new connection."""
        if self._watch is not None and isinstance(connection, WatchedConnection):
            connection.watch = self._watch

    def _lend(self) -> AbstractAsyncContextManager[PipelinedConnection]:
        """Lend a connection, which may have died meanwhile."""
        return self._pool.connection() if self._on_acquired is None else self._lend_timed(self._on_acquired)

    @asynccontextmanager
    async def _lend_timed(self, on_acquired: Callable[[float], None]) -> AsyncIterator[PipelinedConnection]:
        began = time.perf_counter()
        async with self._pool.connection() as connection:
            on_acquired(time.perf_counter() - began)
            yield connection

    async def _begin(self, stack: AsyncExitStack, begin: Begin) -> PipelinedConnection:
        async with AsyncExitStack() as attempt:
            connection = await attempt.enter_async_context(self._lend())
            await attempt.enter_async_context(begin(connection))
            stack.push_async_exit(attempt.pop_all())
            return connection

    async def read(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        """What `read` gives, asked once more when its connection turns out to have died.

        Reading twice harms nothing, and a pool does not notice that its idle connections were cut.

        Raises:
            Unavailable: no connection is free in time, or the second one was lost as well.
        """
        with translated():
            async with self._lend() as connection:
                try:
                    return await read(connection)
                except psycopg.OperationalError:
                    if not connection.broken:
                        raise
            await self._pool.check()
            async with self._lend() as connection:
                return await read(connection)
