"""The event log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from psycopg.rows import tuple_row

from watchly_adapters.postgres.pool import Connection, HostConnection, cursor
from watchly_core.events import (
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
_HISTORY: Final = """
    SELECT kind, movie_id, version, at, actor, movie::text
    FROM events WHERE movie_id = %s ORDER BY version DESC
"""

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
    """Satisfies `ports.EventLog` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def append(self, *events: Event) -> None:
        """See the port."""
        async with cursor(self._connection, tuple_row) as sink:
            if len(events) < _BULK:
                for event in events:
                    await sink.execute(_APPEND, _row(event))
                return
            async with sink.copy(_LOAD) as copy:
                for event in events:
                    await copy.write_row(_row(event))


async def read_history(connection: Connection, movie_id: int) -> Sequence[Event]:
    """The events of one movie, newest first."""
    cursor = await connection.execute(_HISTORY, (movie_id,), binary=True)
    return [_event(*row) for row in await cursor.fetchall()]


def _row(event: Event) -> tuple[str, int, int, str, str, str]:
    return (
        kind(event),
        event.movie_id,
        event.version,
        event.at.isoformat(),
        event.actor,
        _encode(event.movie).decode(),
    )


def _event(name: str, movie_id: int, version: int, at: datetime, actor: str, movie: str) -> Event:  # noqa: PLR0913, PLR0917 - a row
    return _KINDS[name](movie_id, version, at.astimezone(UTC), actor, _decode(movie))
