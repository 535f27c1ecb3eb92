"""The tables made anew from the log: the newest event of each movie holds it as it is, or says it is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from psycopg.rows import args_row, scalar_row

from watchly_adapters.postgres.events import as_event
from watchly_adapters.postgres.images import PostgresImageLedger
from watchly_adapters.postgres.migrate import migrate, restore_table
from watchly_adapters.postgres.movies import COLUMNS, IDS, PostgresMovies, movie_cursor
from watchly_adapters.postgres.pool import START_WAIT, Connection, connect, cursor, translated
from watchly_core.errors import ImageNotFound, VersionConflict
from watchly_core.events import Event, MovieRemoved
from watchly_core.images import Image, ImageRecord, ImageState
from watchly_core.movies import Movie

_IDS: Final = """/* rebuild.ids */
    SELECT DISTINCT movie_id FROM events WHERE movie_id > %s ORDER BY movie_id LIMIT %s
"""
_NEWEST: Final = """/* rebuild.newest */
    SELECT DISTINCT ON (movie_id) kind, movie_id, version, at, actor, movie::text
    FROM events WHERE movie_id = ANY(%s) ORDER BY movie_id, version DESC
"""
_ROWS: Final = "/* rebuild.rows */ SELECT" + COLUMNS + "FROM movies WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
_COUNT: Final = """/* rebuild.count */
    SELECT count(*), count(*) FILTER (WHERE kind <> 'movie_removed')
    FROM (SELECT DISTINCT ON (movie_id) kind FROM events ORDER BY movie_id, version DESC) AS newest
"""
# A table that was emptied may have begun to count anew, and a table that was dropped has.
_RAISE_IDS: Final = (
    """/* rebuild.raise_ids */
    SELECT setval(ids, last) FROM (
        SELECT
    """
    + IDS
    + """
        AS ids, (SELECT max(movie_id) FROM events) AS last
    ) AS known
    WHERE last > coalesce(pg_sequence_last_value(ids), 0)
"""
)

#: Movies that are compared in one transaction.
_BATCH: Final = 500


class Comparison(msgspec.Struct, frozen=True):
    """What the log and the tables have in common.

    Attributes:
        movies: those of the log, those that are gone among them.
        missing: they are in the log, and not in the table.
        different: they are in both, and not the same.
        removed: they are in the table, and gone by the log.
    """

    movies: int = 0
    missing: int = 0
    different: int = 0
    removed: int = 0

    @property
    def agree(self) -> bool:
        """Whether both tell the same."""
        return not (self.missing or self.different or self.removed)


async def rebuild(url: str, *, apply: bool, wait: float = START_WAIT) -> Comparison:
    """Compare the table of movies with the log, and with `apply` make it what the log says.

    Others may read and write meanwhile. Before that the schema is brought up to date, and the log is told
    what other programs wrote, see `migrate`; a table that was dropped is made anew. Images come back to
    their movies as long as the image store has them.

    Args:
        url: a PostgreSQL URL or conninfo string.
        apply: whether to write.
        wait: seconds to try for while the server cannot be reached.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time, or was lost; what was done so far stays.
    """
    gone = await restore_table(url, apply=apply, wait=wait)
    if apply or not gone:
        await migrate(url, wait=wait)
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            if gone and not apply:
                row = await (await connection.execute(_COUNT)).fetchone()
                return Comparison(*row) if row else Comparison()
            found, last = Comparison(), 0
            brought_back: set[int] = set()
            while ids := await _ids(connection, last):
                try:
                    async with connection.transaction():
                        found = await _compare(connection, ids, found, apply=apply)
                except VersionConflict as conflict:
                    # Somebody did so when this would have: now it is there to be compared. If it is not,
                    # the table holds more to be unique than ids.
                    if conflict.id in brought_back:
                        raise
                    brought_back.add(conflict.id)
                else:
                    last = ids[-1]
            if apply:
                await connection.execute(_RAISE_IDS)
    return found


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
        told = _told(event)
        missing += told is not None and row is None
        removed += told is None and row is not None
        different += told is not None and row is not None and told != row
        if apply and told != row:
            await _restore(connection, event, row)
    return msgspec.structs.replace(
        found,
        movies=found.movies + len(events),
        missing=found.missing + missing,
        different=found.different + different,
        removed=found.removed + removed,
    )


def _told(event: Event) -> Movie | None:
    """The movie after the newest event of it; None if it is gone."""
    return None if isinstance(event, MovieRemoved) else event.movie


async def _restore(connection: Connection, event: Event, row: Movie | None) -> None:
    """Make `row`, which is held, what its newest event says."""
    movies, told = PostgresMovies(connection), _told(event)
    if told is None:
        await movies.remove(event.movie_id)
        return
    if row is None:
        await movies.restore(told)
    else:
        # Never removed: rows of other programs may go with it. Twice, for a row that keeps its version is
        # taken for another program's write.
        between = max(row.version, told.version) + 1
        await movies.replace(msgspec.structs.replace(told, version=between))
        await movies.replace(told)
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
