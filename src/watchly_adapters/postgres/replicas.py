"""Reading from a streaming replica, which may be late, hang, die, come back, or be another server.

What a client wrote it can read at once, by its position: the replica is waited for briefly, and else the
primary answers. Whatever the replica fails at, the primary answers as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from copy import copy
from datetime import datetime
from typing import Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg.rows import args_row, scalar_row
from psycopg_pool import PoolTimeout, TooManyRequests

from watchly_adapters.postgres.limits import Limits
from watchly_adapters.postgres.pipelines import PipelinedConnection
from watchly_adapters.postgres.pool import Connection, Pool, connect, cursor, translated
from watchly_adapters.postgres.positions import read_position
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.watching import Watch
from watchly_core.errors import Misconfigured, Unavailable, WatchlyError
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import GenreCount, MovieQuery, Page
from watchly_core.tasks import cancelled

T = TypeVar("T")

# A server that is no replica at all may be the primary by another name.
_REPLAYED: Final = """/* replicas.replayed */
    SELECT CASE
        WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn()
    END::text
"""
# Replicas have the identifier of their primary, also when they were promoted and go ways of their own.
_SERVER: Final = """/* replicas.server */
    SELECT system_identifier, CASE WHEN NOT pg_is_in_recovery() THEN pg_postmaster_start_time() END
    FROM pg_control_system()
"""

#: Seconds for which the replica is waited for, and before it is asked again, at first and at last.
_WAIT: Final = 0.25
_FIRST_PAUSE: Final = 0.004
_LAST_PAUSE: Final = 0.05
#: Seconds that a read waits for a connection to the replica.
_ACQUIRE_TIMEOUT: Final = 1.0
#: Seconds between looks at the replica, and after which one without an answer has failed.
_LOOK: Final = 1.0
_PATIENCE: Final = 2.0
#: Seconds for which a replica that has failed is left alone.
_REST: Final = 2.0


class _Behind(Unavailable):
    """The replica has not got to a position in time."""


class ReplicaQueries:
    """Satisfies `ports.MovieQueries` by a replica, and by the primary whenever that cannot answer.

    The history of a movie and the changes of all are always the primary's: it alone can number what was
    committed.

    Args:
        replica: the replica.
        primary: the queries of the primary.
        place: how far in the log the replica has to be.
    """

    def __init__(self, replica: Replica, primary: PostgresMovieQueries, place: int = 0) -> None:
        self._replica, self._primary, self._place = replica, primary, place

    def at(self, position: str) -> ReplicaQueries:
        """See the port."""
        place = max(self._place, read_position(position))
        return ReplicaQueries(self._replica, self._primary, place)

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        return await self._ask(lambda queries: queries.get(movie_id))

    async def find(self, query: MovieQuery) -> Page:
        """See the port."""
        return await self._ask(lambda queries: queries.find(query))

    async def count(self, query: MovieQuery) -> int:
        """See the port."""
        return await self._ask(lambda queries: queries.count(query))

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """See the port."""
        return await self._ask(lambda queries: queries.genres(query))

    async def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """See the port; what a replica has begun nobody else can finish."""
        batches: AsyncGenerator[Sequence[MovieDraft], None] | None = None

        async def begin(queries: PostgresMovieQueries) -> Sequence[MovieDraft] | None:
            nonlocal batches
            batches = queries.export(query)
            return await anext(batches, None)

        first = await self._ask(begin)
        if batches is None or first is None:
            return
        async with aclosing(batches):
            yield first
            async for batch in batches:
                yield batch

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """See the port."""
        return await self._primary.history(movie_id, before=before, limit=limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        """See the port."""
        return await self._primary.changes(query)

    async def last_change(self) -> int:
        """See the port."""
        return await self._primary.last_change()

    async def _ask(self, ask: Callable[[PostgresMovieQueries], Awaitable[T]]) -> T:
        pool = self._replica.pool
        if pool is not None:
            try:
                return await ask(pool.queries(self._place))
            except (Unavailable, psycopg.Error) as error:
                self._replica.failed(pool, error)
        return await ask(self._primary)


class Replica:
    """Looks after a replica in the background, so that no read ever waits for one that is not there.

    Args:
        url: a PostgreSQL URL or conninfo string.
        primary: connections to the server that it follows.
        max_size: connections at most, that of the look-out among them.
        limits: see `Pool`.
        watch: see there.
        on_acquired: see there.

    Attributes:
        pool: connections to it, while it is fit to be read from.
    """

    def __init__(  # noqa: PLR0913 - each with its name
        self,
        url: str,
        primary: Pool,
        *,
        max_size: int,
        limits: Limits,
        watch: Watch | None = None,
        on_acquired: Callable[[float], None] | None = None,
    ) -> None:
        self.pool: ReplicaPool | None = None
        self._url, self._primary, self._max_size = url, primary, max_size
        self._limits, self._watch, self._on_acquired = limits, watch, on_acquired
        self._failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            await cancelled(self._task)

    def failed(self, pool: ReplicaPool, error: Unavailable | psycopg.Error) -> None:
        """Learn of a read that failed on one of its connections."""
        if pool is self.pool and not _may_answer_others(error):
            self.pool = None
            self._failed.set()

    async def _run(self) -> None:
        while True:
            # Why, `watchly doctor` says.
            with suppress(WatchlyError, psycopg.Error):
                await self._serve()
            await asyncio.sleep(_REST)

    async def _serve(self) -> None:
        """Let it be read from for as long as it is fit for that."""
        async with await connect(
            self._url, wait=0, variable="READ_DATABASE_URL", watch=self._watch, limit=_PATIENCE
        ) as connection:
            primary = await primary_of(self._primary)
            await require_replica(connection, primary)
            pool = ReplicaPool(
                self._url,
                max_size=self._max_size - 1,
                limits=self._limits,
                watch=self._watch,
                on_acquired=self._on_acquired,
            )
            await pool.open()
            try:
                self._failed.clear()
                self.pool = pool
                while not await self._has_failed():
                    await require_replica(connection, primary)
            finally:
                self.pool = None
                pool.cut()
                await pool.queries(0).close()
                await pool.close()

    async def _has_failed(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                return await self._failed.wait()
        return False


class ReplicaPool(Pool):
    """Connections to a replica, each of which is asked only when it has got to a place in the log.

    What they are lent for is tried once: the primary comes next.

    Args:
        url: a PostgreSQL URL or conninfo string.
        max_size: connections at most.
        limits: see `Pool`.
        watch: see there.
        on_acquired: see there.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int,
        limits: Limits,
        watch: Watch | None = None,
        on_acquired: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(
            url, min_size=1, max_size=max_size, limits=limits, watch=watch, on_acquired=on_acquired
        )
        self._pool.timeout = _ACQUIRE_TIMEOUT
        self._place = 0
        self._queries = PostgresMovieQueries(self)
        # For each of them, because behind one address there may be several replicas.
        self._reached: WeakKeyDictionary[PipelinedConnection, int] = WeakKeyDictionary()
        self._connections: WeakSet[PipelinedConnection] = WeakSet()

    def queries(self, place: int) -> PostgresMovieQueries:
        """Queries on these connections, for who wants this place to be reached.

        Those who want none are answered together.
        """
        if not place:
            return self._queries
        pool = copy(self)
        pool._place = place  # noqa: SLF001 - one of us
        return PostgresMovieQueries(pool)

    def cut(self) -> None:
        """Cut every connection: what waits for an answer fails at once."""
        for connection in self._connections:
            connection.cut()

    async def read(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        """What `read` gives.

        Raises:
            Unavailable: no connection is free, or it was lost, or the place is not reached in time.
        """
        async with self._caught_up(self._lent) as connection:
            return await read(connection)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[PipelinedConnection]:
        """Lend a connection inside a transaction, as that of any pool does.

        Raises:
            Unavailable: as `read` does, or too many streams are under way.
        """
        async with self._caught_up(super().stream) as connection:
            yield connection

    async def _configure(self, connection: PipelinedConnection) -> None:
        await super()._configure(connection)
        self._connections.add(connection)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[PipelinedConnection]:
        with translated():
            async with self._lend() as connection:
                yield connection

    @asynccontextmanager
    async def _caught_up(
        self, lend: Callable[[], AbstractAsyncContextManager[PipelinedConnection]]
    ) -> AsyncIterator[PipelinedConnection]:
        now = asyncio.get_running_loop().time
        deadline, pause = now() + _WAIT, _FIRST_PAUSE
        while True:
            async with lend() as connection:
                if await self._has_caught_up(connection):
                    yield connection
                    return
            # Without the connection, which others can use meanwhile.
            if now() + pause > deadline:
                raise _Behind("replica", "it is late")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    async def _has_caught_up(self, connection: PipelinedConnection) -> bool:
        if self._place > self._reached.get(connection, 0):
            self._reached[connection] = await _replayed(connection)
        return self._place <= self._reached.get(connection, 0)


class Server(NamedTuple):
    """Which server it is: its cluster, and, unless it is a replica, when it was started."""

    system: int
    started: datetime | None


async def primary_of(pool: Pool) -> Server:
    """The server behind `pool`, as what follows it has to know it.

    Raises:
        Unavailable: it does not answer.
    """
    return await pool.read(_server)


async def require_replica(connection: Connection, primary: Server) -> None:
    """Refuse a server that does not follow the primary, and is not the primary by another name.

    Raises:
        Misconfigured: it is another one.
        Unavailable: it does not answer.
    """
    with translated():
        server = await _server(connection)
    if server.system != primary.system:
        raise Misconfigured("READ_DATABASE_URL: this server is no replica of the one of DATABASE_URL")
    if server.started is not None and server.started != primary.started:
        raise Misconfigured("READ_DATABASE_URL: this server was a replica once, and has been promoted")


async def bytes_behind(url: str, primary_url: str) -> int:
    """How many bytes of the primary's log a replica has not replayed yet.

    Raises:
        Misconfigured: one of the URLs is none, or leads to a server that refuses it or does not belong there.
        Unavailable: one of them does not answer.
    """
    async with (
        await connect(primary_url, wait=0) as primary,
        await connect(url, wait=0, variable="READ_DATABASE_URL") as replica,
    ):
        with translated():
            await require_replica(replica, await _server(primary))
            newest = await _replayed(primary)
            return max(0, newest - await _replayed(replica))


async def _server(connection: Connection) -> Server:
    async with cursor(connection, args_row(Server)) as asked:
        await asked.execute(_SERVER)
        found = await asked.fetchone()
    return found or Server(0, None)


async def _replayed(connection: Connection) -> int:
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_REPLAYED)
        text: str | None = await asked.fetchone()
    return 0 if text is None else read_position(text)


def _may_answer_others(error: Unavailable | psycopg.Error) -> bool:
    """Whether a replica that failed a read so may be asked for others: it is late or busy, not ill."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    if cause is None or isinstance(cause, PoolTimeout | TooManyRequests):
        return True
    # What it replays was in the way of the read, or the read was cancelled for it.
    state: str = getattr(cause, "sqlstate", None) or ""
    return state.startswith("40") or state == "57014"
