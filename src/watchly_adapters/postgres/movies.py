"""Movies in PostgreSQL: the read side and the repository.

Times are stored as the older system stored them, without a zone and in UTC.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.events import read_history
from watchly_adapters.postgres.pool import Connection, HostConnection, Pool, cursor
from watchly_core.errors import MovieNotFound, Unavailable
from watchly_core.events import Event
from watchly_core.images import Image
from watchly_core.movies import MAX_ID, Movie, MovieDraft
from watchly_core.queries import MovieQuery, Page

#: The columns of `Movie`, in the order of its fields.
_COLUMNS: Final = """
    id, title, description, release_year, genre, image_url, image::text, version,
    CASE WHEN created_at BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999' THEN created_at END,
    CASE WHEN updated_at BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999' THEN updated_at END
"""
_GET: Final = "SELECT" + _COLUMNS + "FROM movies WHERE id = %s"
_GET_LOCKED: Final = _GET + " FOR UPDATE"
_FIND: Final = "SELECT" + _COLUMNS + "FROM movies WHERE id > %s ORDER BY id LIMIT %s"
_EXPORT: Final = "SELECT" + _COLUMNS + "FROM movies WHERE id > %s ORDER BY id"
_ADD: Final = """
    INSERT INTO movies (title, description, release_year, genre, version, created_at, updated_at)
    VALUES (%s, %s, %s, %s, 1, %s, %s) RETURNING id
"""
# The sequence of an adopted table may have any name.
_NEXT_IDS: Final = """
    SELECT nextval(coalesce(
        pg_get_serial_sequence('movies', 'id')::regclass,
        (SELECT d.refobjid::regclass FROM pg_attrdef a
         JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
         JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
         WHERE a.adrelid = 'movies'::regclass AND d.refclassid = 'pg_class'::regclass)
    )) FROM generate_series(1, %s)
"""
_LOAD: Final = """
    COPY movies (id, title, description, release_year, genre, version, created_at, updated_at) FROM STDIN
"""
_REPLACE: Final = """
    UPDATE movies
    SET title = %s, description = %s, release_year = %s, genre = %s, image_url = %s,
        image = %s::text::jsonb, version = %s, created_at = %s, updated_at = %s
    WHERE id = %s
"""
_REMOVE: Final = "DELETE FROM movies WHERE id = %s"

#: Rows that an export fetches at once.
_EXPORT_BATCH: Final = 500

_encode_image = msgspec.json.Encoder().encode
_decode_image = msgspec.json.Decoder(Image).decode


def _movie(  # noqa: PLR0913, PLR0917 - a row
    movie_id: int,
    title: str,
    description: str | None,
    release_year: int | None,
    genre: str | None,
    image_url: str | None,
    image: str | None,
    version: int,
    created_at: datetime | None,
    updated_at: datetime | None,
) -> Movie:
    return Movie(
        movie_id,
        title,
        description,
        release_year,
        genre,
        image_url,
        None if image is None else _decode_image(image),
        version,
        None if created_at is None else created_at.replace(tzinfo=UTC),
        None if updated_at is None else updated_at.replace(tzinfo=UTC),
    )


def _stored(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None)


def _cursor(connection: HostConnection) -> AsyncCursor[Movie]:
    return cursor(connection, args_row(_movie), binary=True)


class PostgresMovieQueries:
    """Satisfies `ports.MovieQueries`: each call is one statement in autocommit."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, movie_id: int) -> Movie:
        """See the port."""

        async def read(connection: Connection) -> Movie | None:
            async with _cursor(connection) as cursor:
                await cursor.execute(_GET, (movie_id,))
                return await cursor.fetchone()

        movie = await self._pool.read(read)
        if movie is None:
            raise MovieNotFound(movie_id)
        return movie

    async def find(self, query: MovieQuery) -> Page:
        """See the port."""

        async def read(connection: Connection) -> list[Movie]:
            async with _cursor(connection) as cursor:
                await cursor.execute(_FIND, (query.after_id, min(query.limit, MAX_ID) + 1))
                return await cursor.fetchall()

        return Page.of(await self._pool.read(read), query)

    async def export(self, query: MovieQuery) -> AsyncGenerator[Movie, None]:
        """See the port."""
        async with (
            self._pool.transaction() as connection,
            connection.cursor("export", binary=True, row_factory=args_row(_movie)) as cursor,
        ):
            cursor.itersize = _EXPORT_BATCH
            await cursor.execute(_EXPORT, (query.after_id,))
            async for movie in cursor:
                yield movie

    async def history(self, movie_id: int) -> Sequence[Event]:
        """See the port."""
        return await self._pool.read(lambda connection: read_history(connection, movie_id))


def _scalar_cursor(connection: HostConnection) -> AsyncCursor[int]:
    return cursor(connection, scalar_row)


class PostgresMovies:
    """Satisfies `ports.MovieRepository` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        """See the port."""
        async with _scalar_cursor(self._connection) as cursor:
            stored = _stored(at)
            await cursor.execute(
                _ADD, (draft.title, draft.description, draft.release_year, draft.genre, stored, stored)
            )
            return _added(await cursor.fetchone(), draft, at)

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        """See the port."""
        async with _scalar_cursor(self._connection) as cursor:
            await cursor.execute(_NEXT_IDS, (len(drafts),))
            ids = await cursor.fetchall()
            movies = [_added(movie_id, draft, at) for movie_id, draft in zip(ids, drafts, strict=True)]
            # As text: psycopg would format the same moment twice for each row.
            stored = str(_stored(at))
            async with cursor.copy(_LOAD) as copy:
                for movie in movies:
                    await copy.write_row(
                        (
                            movie.id,
                            movie.title,
                            movie.description,
                            movie.release_year,
                            movie.genre,
                            1,
                            stored,
                            stored,
                        )
                    )
        return movies

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        async with _cursor(self._connection) as cursor:
            await cursor.execute(_GET_LOCKED, (movie_id,))
            movie = await cursor.fetchone()
        if movie is None:
            raise MovieNotFound(movie_id)
        return movie

    async def replace(self, movie: Movie) -> None:
        """See the port."""
        image = None if movie.image is None else _encode_image(movie.image).decode()
        done = await cursor(self._connection, tuple_row).execute(
            _REPLACE,
            (
                movie.title,
                movie.description,
                movie.release_year,
                movie.genre,
                movie.image_url,
                image,
                movie.version,
                _stored(movie.created_at),
                _stored(movie.updated_at),
                movie.id,
            ),
        )
        if not done.rowcount:
            raise MovieNotFound(movie.id)

    async def remove(self, movie_id: int) -> None:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_REMOVE, (movie_id,))
        if not done.rowcount:
            raise MovieNotFound(movie_id)


def _added(movie_id: int | None, draft: MovieDraft, at: datetime) -> Movie:
    if movie_id is None:  # RETURNING gives a row for each that is inserted
        raise Unavailable("database", "an insert gave no id")
    return Movie(
        movie_id, draft.title, draft.description, draft.release_year, draft.genre, None, None, 1, at, at
    )
