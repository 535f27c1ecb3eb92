"""The event log in PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, LiteralString

import msgspec
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.pool import Connection, HostConnection, cursor
from watchly_core.errors import ChangesGone, VersionConflict
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

_APPEND: Final = """
    INSERT INTO events (kind, movie_id, version, at, actor, movie)
    VALUES (%s, %s, %s, %s, %s, %s::text::json)
"""
_LOAD: Final = "COPY events (kind, movie_id, version, at, actor, movie) FROM STDIN"
_COLUMNS: Final = " kind, movie_id, version, at, actor, movie::text "
_GET: Final = "SELECT" + _COLUMNS + "FROM events WHERE movie_id = %s AND version = %s"
_NEWEST: Final = "SELECT" + _COLUMNS + "FROM events WHERE movie_id = %s ORDER BY version DESC LIMIT 1"
_HISTORY: Final = (
    "SELECT seq,"
    + _COLUMNS
    + "FROM events WHERE movie_id = %s AND version < %s ORDER BY version DESC LIMIT %s"
)
_CHANGES: Final[LiteralString] = "SELECT seq," + _COLUMNS + "FROM events WHERE seq > %s AND seq <= %s "
_OF_MOVIE: Final[LiteralString] = "AND movie_id = %s "
_OF_KINDS: Final[LiteralString] = "AND kind = ANY(%s) "
_IN_ORDER: Final[LiteralString] = "ORDER BY seq LIMIT %s"
_LAST: Final = "SELECT last_seq FROM change_log"
_HORIZON: Final = "SELECT horizon FROM change_log"
_PRUNE: Final = """
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

#: From this many on, COPY is cheaper than statements.
_BULK: Final = 20

_KINDS: Final[dict[str, type[Event]]] = {
    "movie_added": MovieAdded,
    "movie_revised": MovieRevised,
    "movie_removed": MovieRemoved,
    "image_attached": ImageAttached,
    "image_detached": ImageDetached,
}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Movie).decode


class PostgresEvents:
    """Satisfies `ports.EventLog` on a connection that is inside a transaction.

    Attributes:
        appended: whether anything was, so that it has to be numbered after the commit.
    """

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection
        self.appended = False

    async def append(self, *events: Event) -> None:
        """See the port."""
        self.appended = True
        try:
            async with cursor(self._connection, tuple_row) as sink:
                if len(events) < _BULK:
                    for event in events:
                        await sink.execute(_APPEND, _row(event))
                    return
                async with sink.copy(_LOAD) as copy:
                    for event in events:
                        await copy.write_row(_row(event))
        except UniqueViolation as error:
            taken = _TAKEN.search(error.diag.message_detail or "")
            movie_id, version = map(int, taken.groups()) if taken else (events[0].movie_id, events[0].version)
            raise VersionConflict(movie_id, version - 1, version) from None

    async def get(self, movie_id: int, version: int) -> Event | None:
        """See the port."""
        return await self._find(_GET, movie_id, version)

    async def newest(self, movie_id: int) -> Event | None:
        """See the port."""
        return await self._find(_NEWEST, movie_id)

    async def prune(self, before: datetime, limit: int) -> int:
        """See the port."""
        async with cursor(self._connection, scalar_row) as asked:
            await asked.execute(_PRUNE, (before, limit))
            return int(await asked.fetchone() or 0)

    async def _find(self, statement: LiteralString, *parameters: int) -> Event | None:
        async with cursor(self._connection, args_row(as_event), binary=True) as asked:
            await asked.execute(statement, parameters)
            return await asked.fetchone()


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


def _row(event: Event) -> tuple[str, int, int, str, str, str]:
    return (
        kind(event),
        event.movie_id,
        event.version,
        event.at.isoformat(),
        event.actor,
        _encode(event.movie).decode(),
    )


def _change(  # noqa: PLR0913, PLR0917 - a row
    seq: int, name: str, movie_id: int, version: int, at: datetime, actor: str, movie: str
) -> Change:
    return Change(seq, as_event(name, movie_id, version, at, actor, movie))


def as_event(name: str, movie_id: int, version: int, at: datetime, actor: str, movie: str) -> Event:  # noqa: PLR0913, PLR0917 - a row
    """A row of the log as an event."""
    return _KINDS[name](movie_id, version, at.astimezone(UTC), actor, _decode(movie))
