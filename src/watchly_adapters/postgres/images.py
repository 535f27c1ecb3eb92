"""The ledger of images in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from psycopg import AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_adapters.postgres.statements import Query, bigint
from watchly_core.errors import IllegalTransition, ImageNotFound
from watchly_core.images import Image, ImageRecord, ImageState

_COLUMNS: Final = " key, width, height, format, bytes, state, movie_id, due_at, attempts, open_until "
_ADD: Final = (
    "/* images.add */ INSERT INTO images (" + _COLUMNS + ") VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_GET: Final = "/* images.get */ SELECT" + _COLUMNS + "FROM images WHERE key = %s FOR UPDATE"
_DUE: Final = (
    "/* images.due */ SELECT"
    + _COLUMNS
    + 'FROM images WHERE due_at <= %s ORDER BY due_at, key COLLATE "C" LIMIT %s FOR UPDATE SKIP LOCKED'
)
_DEAD: Final = (
    "/* images.dead */ SELECT"
    + _COLUMNS
    + "FROM images WHERE state = 'deleting' AND due_at IS NULL"
    + ' ORDER BY key COLLATE "C" LIMIT %s FOR UPDATE SKIP LOCKED'
)
_REPLACE: Final = """/* images.replace */
    UPDATE images
    SET width = %s, height = %s, format = %s, bytes = %s,
        state = %s, movie_id = %s, due_at = %s, attempts = %s, open_until = %s
    WHERE key = %s
"""
_REMOVE: Final = "/* images.remove */ DELETE FROM images WHERE key = %s"


def _record(  # noqa: PLR0913, PLR0917 - a row
    key: str,
    width: int,
    height: int,
    image_format: str,
    size: int,
    state: str,
    movie_id: int,
    due_at: datetime | None,
    attempts: int,
    open_until: datetime | None,
) -> ImageRecord:
    return ImageRecord(
        Image(key, width, height, image_format, size),
        ImageState(state),
        movie_id,
        _utc(due_at),
        attempts,
        _utc(open_until),
    )


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)


_OF_MOVIE: Final = Query(
    "/* images.of_movie */ SELECT"
    + _COLUMNS
    + 'FROM images WHERE movie_id = %s::bigint ORDER BY key COLLATE "C" FOR UPDATE',
    _record,
    binary=True,
)


class PostgresImageLedger:
    """Satisfies `ports.ImageLedger` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    def _cursor(self) -> AsyncCursor[ImageRecord]:
        return cursor(self._connection, args_row(_record), binary=True)

    async def add(self, record: ImageRecord) -> None:
        """See the port."""
        key = record.image.key
        try:
            await cursor(self._connection, tuple_row).execute(_ADD, (key, *_values(record)))
        except UniqueViolation:
            raise IllegalTransition(f"image {key} is noted already") from None

    async def get(self, key: str) -> ImageRecord:
        """See the port."""
        async with self._cursor() as cursor:
            await cursor.execute(_GET, (key,))
            record = await cursor.fetchone()
        if record is None:
            raise ImageNotFound(f"no image has the key {key}")
        return record

    async def of_movie(self, movie_id: int) -> Sequence[ImageRecord]:
        """See the port."""
        return await _OF_MOVIE.rows(self._connection, (bigint(movie_id),))

    async def replace(self, record: ImageRecord) -> None:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(
            _REPLACE, (*_values(record), record.image.key)
        )
        if not done.rowcount:
            raise ImageNotFound(f"no image has the key {record.image.key}")

    async def due(self, now: datetime, limit: int) -> Sequence[ImageRecord]:
        """See the port."""
        async with self._cursor() as cursor:
            await cursor.execute(_DUE, (now, limit))
            return await cursor.fetchall()

    async def dead(self, limit: int) -> Sequence[ImageRecord]:
        """See the port."""
        async with self._cursor() as cursor:
            await cursor.execute(_DEAD, (limit,))
            return await cursor.fetchall()

    async def remove(self, key: str) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_REMOVE, (key,))


def _values(
    record: ImageRecord,
) -> tuple[int, int, str, int, str, int, datetime | None, int, datetime | None]:
    image = record.image
    return (
        image.width,
        image.height,
        image.format,
        image.bytes,
        record.state.value,
        record.movie_id,
        record.due_at,
        record.attempts,
        record.open_until,
    )
