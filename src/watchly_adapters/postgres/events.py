"""The event log in PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, LiteralString

import msgspec
import psycopg
from msgspec.structs import asdict
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.pool import Connection, HostConnection, cursor
from watchly_adapters.postgres.statements import Query, Statement, bigint
from watchly_core.errors import ChangesGone, Unavailable, VersionConflict
from watchly_core.events import (
    MAX_SEQ,
    Change,
    ChangeQuery,
    Changes,
    Event,
    ImageAttached,
    ImageDetached,
    MovieAdded,
    MovieRemoved,
    MovieRevised,
    kind,
)
from watchly_core.movies import Movie

_APPEND: Final = Statement("""/* events.append */
    INSERT INTO events (kind, movie_id, version, at, actor, movie, trace)
    VALUES (%s, %s, %s, %s, %s, %s::text::json, %s)
""")
_APPEND_SOME: Final = Statement("""/* events.append_some */
    INSERT INTO events (kind, movie_id, version, at, actor, movie, trace)
    SELECT kind, movie_id, version, at, actor, movie, trace
    FROM ROWS FROM (json_to_recordset(%s::text::json) AS (
        kind text, movie_id integer, version integer, at timestamptz, actor text, movie json,
        trace text
    )) WITH ORDINALITY
    ORDER BY ordinality
""")
_LOAD: Final = "/* events.load */ COPY events (kind, movie_id, version, at, actor, movie, trace) FROM STDIN"
_LOAD_UNTRACED: Final = (
    "/* events.load_untraced */ COPY events (kind, movie_id, version, at, actor, movie) FROM STDIN"
)
_COLUMNS: Final = " kind, movie_id, version, at, actor, movie::text, trace "
_HISTORY: Final = (
    "/* events.history */ SELECT seq,"
    + _COLUMNS
    + "FROM events WHERE movie_id = %s AND version < %s ORDER BY version DESC LIMIT %s"
)
_CHANGES: Final[LiteralString] = (
    "/* events.changes */ SELECT seq," + _COLUMNS + "FROM events WHERE seq > %s AND seq <= %s "
)
_OF_MOVIE: Final[LiteralString] = "AND movie_id = %s "
_OF_KINDS: Final[LiteralString] = "AND kind = ANY(%s) "
_IN_ORDER: Final[LiteralString] = "ORDER BY seq LIMIT %s"
_LAST: Final = "/* events.last */ SELECT last_seq FROM change_log"
# The timeline is another one after each recovery, from the moment on at which the server can be written to;
# the table is another one after a restore. Files that were put back as they once were have both as they were,
# but the server was stopped for that.
_IDENTITY: Final = """/* events.identity */
    SELECT system_identifier::text
        || '-' || CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
        || '-' || (SELECT oid FROM pg_database WHERE datname = current_database())
        || '-' || 'change_log'::regclass::oid
        || '-' || (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
    FROM pg_control_system()
"""
_HORIZON: Final = "/* events.horizon */ SELECT horizon FROM change_log"
_PRUNE: Final = """/* events.prune */
    WITH old AS MATERIALIZED (
        SELECT id FROM events
        WHERE seq IS NOT NULL AND at < %s AND EXISTS (
            SELECT FROM events newer WHERE newer.movie_id = events.movie_id AND newer.version > events.version
        )
        ORDER BY seq LIMIT %s
    ), pruned AS (
        DELETE FROM events USING old WHERE events.id = old.id RETURNING events.seq
    ), noted AS (
        UPDATE change_log SET horizon = greatest(horizon, (SELECT max(seq) FROM pruned))
        WHERE EXISTS (SELECT FROM pruned)
    )
    SELECT count(*) FROM pruned
"""

#: How a server names the movie and the version that an event has already, in whatever language.
_TAKEN: Final = re.compile(r"\)=\((\d+), (\d+)\)")

#: Events that are appended at once by a statement, at most; more are loaded in bulk.
_FEW: Final = 100

_KINDS: Final[dict[str, type[Event]]] = {
    "movie_added": MovieAdded,
    "movie_revised": MovieRevised,
    "movie_removed": MovieRemoved,
    "image_attached": ImageAttached,
    "image_detached": ImageDetached,
}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Movie).decode


def as_event(  # noqa: PLR0913, PLR0917 - a row
    name: str, movie_id: int, version: int, at: datetime, actor: str, movie: str, trace: str | None = None
) -> Event:
    """A row of the log as an event."""
    return _KINDS[name](movie_id, version, at.astimezone(UTC), actor, _decode(movie), trace)


_GET: Final = Query(
    "/* events.get */ SELECT" + _COLUMNS + "FROM events WHERE movie_id = %s::bigint AND version = %s::bigint",
    as_event,
    binary=True,
)
_NEWEST: Final = Query(
    "/* events.newest */ SELECT"
    + _COLUMNS
    + "FROM events WHERE movie_id = %s::bigint ORDER BY version DESC LIMIT 1",
    as_event,
    binary=True,
)


class PostgresEvents:
    """Satisfies `ports.EventLog` on a connection that is inside a transaction.

    Attributes:
        appended: whether anything was, so that it has to be numbered after the commit.
    """

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection
        self.appended: bool = False

    async def append(self, *events: Event) -> None:
        """See the port."""
        if not events:
            return
        self.appended = True
        if len(events) == 1:
            await _APPEND.later(self._connection, _row(events[0]), partial(_refused, events[0]))
            return
        if len(events) <= _FEW:
            rows = _encode([{"kind": kind(event), **asdict(event)} for event in events]).decode()
            await _APPEND_SOME.later(self._connection, (rows,), partial(_refused, events[0]))
            return
        await load_events(self._connection, events)

    async def get(self, movie_id: int, version: int) -> Event | None:
        """See the port."""
        return await _GET.row(self._connection, (bigint(movie_id), bigint(version)))

    async def newest(self, movie_id: int) -> Event | None:
        """See the port."""
        return await _NEWEST.row(self._connection, (bigint(movie_id),))

    async def prune(self, before: datetime, limit: int) -> int:
        """See the port."""
        async with cursor(self._connection, scalar_row) as asked:
            await asked.execute(_PRUNE, (before, limit))
            return int(await asked.fetchone() or 0)


async def load_events(connection: HostConnection, events: Sequence[Event], *, traced: bool = True) -> None:
    """Append events in bulk; their traces only with `traced`, which needs the column for them.

    Raises:
        VersionConflict: see `ports.EventLog.append`.
    """
    try:
        async with cursor(connection, tuple_row).copy(_LOAD if traced else _LOAD_UNTRACED) as copy:
            for event in events:
                row = _row(event)
                await copy.write_row(row if traced else row[:-1])
    except UniqueViolation as error:
        raise _refused(events[0], error) from None


async def read_history(
    connection: Connection, movie_id: int, before: int | None, limit: int | None
) -> Sequence[Change]:
    """The changes of one movie, newest first; all of them have their numbers."""
    async with cursor(connection, args_row(_change), binary=True) as asked:
        await asked.execute(_HISTORY, (movie_id, MAX_SEQ if before is None else before, limit))
        return await asked.fetchall()


async def read_last(connection: Connection) -> int:
    """The last number that was given."""
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_LAST)
        last: int | None = await asked.fetchone()
        return last or 0


async def read_identity(connection: Connection) -> str:
    """What tells this log from all others.

    Raises:
        Unavailable: the server is a replica, which has none of its own.
    """
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_IDENTITY)
        identity: str | None = await asked.fetchone()
    if identity is None:
        raise Unavailable("database", "it is a replica")
    return identity


async def read_changes(connection: Connection, query: ChangeQuery) -> Changes:
    """The next changes of all movies that have their numbers.

    Raises:
        ChangesGone: some of them were pruned.
    """
    last = await read_last(connection)
    statement = _CHANGES
    parameters: list[int | list[str]] = [query.after, last]
    if query.movie_id is not None:
        statement += _OF_MOVIE
        parameters.append(query.movie_id)
    if query.kinds:
        statement += _OF_KINDS
        parameters.append(sorted(query.kinds))
    async with cursor(connection, args_row(_change), binary=True) as asked:
        await asked.execute(statement + _IN_ORDER, (*parameters, query.limit))
        found = await asked.fetchall()
    # Last, for what is pruned between two statements is missing in the second.
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_HORIZON)
        horizon: int = await asked.fetchone() or 0
    if query.after < horizon:
        raise ChangesGone(horizon)
    return Changes(tuple(found), found[-1].seq if len(found) == query.limit else max(query.after, last))


def _refused(event: Event, error: psycopg.Error) -> Exception:
    """What an error of the server means, of events of which `event` was the first."""
    if not isinstance(error, UniqueViolation):
        return error
    taken = _TAKEN.search(error.diag.message_detail or "")
    movie_id, version = map(int, taken.groups()) if taken else (event.movie_id, event.version)
    return VersionConflict(movie_id, version - 1, version)


def _row(event: Event) -> tuple[str, int, int, str, str, str, str | None]:
    return (
        kind(event),
        event.movie_id,
        event.version,
        event.at.isoformat(),
        event.actor,
        _encode(event.movie).decode(),
        event.trace,
    )


def _change(  # noqa: PLR0913, PLR0917 - a row
    seq: int,
    name: str,
    movie_id: int,
    version: int,
    at: datetime,
    actor: str,
    movie: str,
    trace: str | None,
) -> Change:
    return Change(seq, as_event(name, movie_id, version, at, actor, movie, trace))
