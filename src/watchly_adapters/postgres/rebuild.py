"""The tables made anew from the log: the newest event of each movie holds it as it is, or says it is gone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
from psycopg.rows import args_row, scalar_row

from watchly_adapters.postgres.events import as_event
from watchly_adapters.postgres.images import PostgresImageLedger
from watchly_adapters.postgres.movies import COLUMNS, PostgresMovies, movie_cursor
from watchly_adapters.postgres.pool import START_WAIT, Connection, connect, cursor, translated
from watchly_core.errors import ImageNotFound, MovieNotFound
from watchly_core.events import Event, MovieRemoved
from watchly_core.images import Image, ImageRecord, ImageState
from watchly_core.movies import Movie

_IDS: Final = """
    SELECT DISTINCT movie_id FROM events WHERE movie_id > %s ORDER BY movie_id LIMIT %s
"""
_NEWEST: Final = """
    SELECT DISTINCT ON (movie_id) kind, movie_id, version, at, actor, movie::text
    FROM events WHERE movie_id = ANY(%s) ORDER BY movie_id, version DESC
"""
_ROWS: Final = "SELECT" + COLUMNS + "FROM movies WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
_UNKNOWN: Final = """
    SELECT count(*) FROM movies WHERE NOT EXISTS (SELECT FROM events WHERE movie_id = movies.id)
"""

#: Movies that are compared in one transaction.
_BATCH: Final = 500


class Comparison(msgspec.Struct, frozen=True):
    """What the log and the tables have in common.

    Attributes:
        movies: those of the log, those that are gone among them.
        missing: they are in the log, and not in the table.
        different: they are in both, and not the same.
        removed: they are in the table, and gone by the log.
        unknown: they are in the table, and the log has never heard of them; `reindex` tells it.
    """

    movies: int = 0
    missing: int = 0
    different: int = 0
    removed: int = 0
    unknown: int = 0

    @property
    def agree(self) -> bool:
        """Whether both tell the same."""
        return not (self.missing or self.different or self.removed or self.unknown)


async def rebuild(url: str, *, apply: bool, wait: float = START_WAIT) -> Comparison:
    """Compare the table of movies with the log, and with `apply` make it what the log says.

    Others may read and write meanwhile. What the log has never heard of stays as it is. Images come back
    to their movies as long as the image store has them.

    Args:
        url: a PostgreSQL URL or conninfo string.
        apply: whether to write.
        wait: seconds to try for while the server cannot be reached.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time, or was lost; what was done so far stays.
    """
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            found, last = Comparison(), 0
            while ids := await _ids(connection, last):
                async with connection.transaction():
                    found = await _compare(connection, ids, found, apply=apply)
                last = ids[-1]
            row = await (await connection.execute(_UNKNOWN)).fetchone()
    return msgspec.structs.replace(found, unknown=row[0] if row else 0)


async def _ids(connection: Connection, after: int) -> list[int]:
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_IDS, (after, _BATCH))
        return await asked.fetchall()


async def _compare(
    connection: Connection, ids: Sequence[int], found: Comparison, *, apply: bool
) -> Comparison:
    """Add what these movies come to; they are held, so that nobody changes them meanwhile."""
    async with movie_cursor(connection) as asked:
        await asked.execute(_ROWS, (ids,))
        rows = {movie.id: movie for movie in await asked.fetchall()}
    async with cursor(connection, args_row(as_event), binary=True) as asked_events:
        await asked_events.execute(_NEWEST, (ids,))
        events = await asked_events.fetchall()
    missing = different = removed = 0
    for event in events:
        row = rows.get(event.movie_id)
        told = None if isinstance(event, MovieRemoved) else event.movie
        missing += told is not None and row is None
        removed += told is None and row is not None
        different += told is not None and row is not None and told != row
        if apply and told != row:
            await _restore(connection, event, told)
    return msgspec.structs.replace(
        found,
        movies=found.movies + len(events),
        missing=found.missing + missing,
        different=found.different + different,
        removed=found.removed + removed,
    )


async def _restore(connection: Connection, event: Event, told: Movie | None) -> None:
    movies = PostgresMovies(connection)
    # Not replaced: a row that keeps its version is taken for another program's write.
    with suppress(MovieNotFound):
        await movies.remove(event.movie_id)
    if told is not None:
        await movies.restore(told)
        if told.image is not None:
            await _attach(PostgresImageLedger(connection), told.id, told.image)


async def _attach(ledger: PostgresImageLedger, movie_id: int, image: Image) -> None:
    try:
        record = await ledger.get(image.key)
    except ImageNotFound:
        await ledger.add(ImageRecord(image, ImageState.ATTACHED, movie_id, None))
        return
    if record.state in {ImageState.PENDING, ImageState.DISCARDED}:
        await ledger.replace(record.moved(ImageState.ATTACHED, due_at=None))
