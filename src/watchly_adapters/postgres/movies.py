"""Movies in PostgreSQL: their rows, and the repository.

Times are stored as the older system stored them: without a zone and in UTC, or with one where its table
has that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec.structs import asdict
from psycopg import AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_adapters.postgres.statements import Query, Statement, bigint
from watchly_adapters.postgres.vocabulary import SELECT_UNKNOWN, Searched, Vocabulary, index
from watchly_core.errors import MovieNotFound, Unavailable, VersionConflict
from watchly_core.images import Image
from watchly_core.movies import Movie, MovieDraft, created

# Adding to an aware time takes a tenth of what `replace(tzinfo=UTC)` takes, and every row has two.
_NAIVE: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - as the table holds times
_AWARE: Final = _NAIVE.replace(tzinfo=UTC)

_encode = msgspec.json.Encoder().encode
_decode_image = msgspec.json.Decoder(Image).decode


def as_movie(  # noqa: PLR0913, PLR0917 - a row
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
    """A row of `COLUMNS` as a movie."""
    return Movie(
        movie_id,
        title,
        description,
        release_year,
        genre,
        image_url,
        None if image is None else _decode_image(image),
        version,
        None if created_at is None else _in_utc(created_at),
        None if updated_at is None else _in_utc(updated_at),
    )


def _in_utc(at: datetime) -> datetime:
    return _AWARE + (at - _NAIVE) if at.tzinfo is None else at.astimezone(UTC)


def _added(movie_id: int, unknown: list[str]) -> tuple[int, list[str]]:
    return movie_id, unknown


def _written_some(ids: list[int], unknown: list[str]) -> tuple[list[int], list[str]]:
    return ids, unknown


def _unknown(words: list[str]) -> list[str]:
    return words


#: Times that no calendar of ours holds are read as none.
CREATED_AT: Final = """
    (CASE WHEN created_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN created_at END)
"""
UPDATED_AT: Final = """
    (CASE WHEN updated_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN updated_at END)
"""
#: The columns of `Movie`, in the order of its fields.
COLUMNS: Final = (
    " id, title, description, release_year, genre, image_url, image::text AS image, version, "
    + CREATED_AT
    + " AS created_at, "
    + UPDATED_AT
    + " AS updated_at "
)
GET: Final = "/* movies.get */ SELECT" + COLUMNS + "FROM movies WHERE id = %s"
_GET_LOCKED: Final = Query(
    "/* movies.get_locked */ SELECT" + COLUMNS + "FROM movies WHERE id = %s::bigint FOR UPDATE",
    as_movie,
    binary=True,
)
_GET_FREE: Final = Query(
    "/* movies.get_free */ SELECT"
    + COLUMNS
    + "FROM movies WHERE id = ANY(%s::bigint[]) FOR UPDATE SKIP LOCKED",
    as_movie,
    binary=True,
)
_UNKNOWN: Final = "ARRAY(" + SELECT_UNKNOWN + ")"
_ADD: Final = Query(
    """/* movies.add */
    INSERT INTO movies (
        title, description, release_year, genre, version, created_at, updated_at,
        title_key, search, search_version
    )
    VALUES (%s, %s, %s, %s, 1, %s, %s, %s, %s::tsvector, 1)
    RETURNING id,
    """
    + _UNKNOWN,
    _added,
)
# The ids come in the order in which the rows are inserted, which is that of their places; the sequence of an
# adopted table may as well count down.
_ADD_SOME: Final = Query(
    """/* movies.add_some */
    WITH added AS (
        INSERT INTO movies (
            title, description, release_year, genre, version, created_at, updated_at,
            title_key, search, search_version
        )
        SELECT title, description, release_year, genre, 1, created_at, updated_at, title_key, search, 1
        FROM json_populate_recordset(NULL::movies, %s::text::json) WITH ORDINALITY
        ORDER BY ordinality
        RETURNING id
    )
    SELECT ARRAY(SELECT id FROM added),
    """
    + _UNKNOWN,
    _written_some,
)
#: The sequence of the ids: that of an adopted table may have any name.
IDS: Final = """
    coalesce(
        pg_get_serial_sequence('movies', 'id')::regclass,
        (SELECT d.refobjid::regclass FROM pg_attrdef a
         JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
         JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
         WHERE a.adrelid = 'movies'::regclass AND d.refclassid = 'pg_class'::regclass)
    )
"""
_NEXT_IDS: Final = "/* movies.next_ids */ SELECT nextval(" + IDS + ") FROM generate_series(1, %s)"
_LOAD: Final = """/* movies.load */
    COPY movies (
        id, title, description, release_year, genre, version, created_at, updated_at,
        title_key, search, search_version
    ) FROM STDIN
"""
_REPLACE: Final = Query(
    """/* movies.replace */
    UPDATE movies
    SET title = %s, description = %s, release_year = %s, genre = %s, image_url = %s,
        image = %s::text::jsonb, version = %s, created_at = %s, updated_at = %s,
        title_key = %s, search = %s::tsvector, search_version = %s
    WHERE id = %s::bigint
    RETURNING
    """
    + _UNKNOWN,
    _unknown,
)
_REPLACE_SOME: Final = Query(
    """/* movies.replace_some */
    WITH replaced AS (
        UPDATE movies
        SET title = given.title, description = given.description, release_year = given.release_year,
            genre = given.genre, image_url = given.image_url, image = given.image, version = given.version,
            created_at = given.created_at, updated_at = given.updated_at,
            title_key = given.title_key, search = given.search, search_version = given.version
        FROM json_populate_recordset(NULL::movies, %s::text::json) AS given
        WHERE movies.id = given.id
        RETURNING movies.id
    )
    SELECT ARRAY(SELECT id FROM replaced),
    """
    + _UNKNOWN,
    _written_some,
)
_RESTORE: Final = Query(
    """/* movies.restore */
    INSERT INTO movies (
        id, title, description, release_year, genre, image_url, image, version, created_at, updated_at,
        title_key, search, search_version
    )
    VALUES (%s, %s, %s, %s, %s, %s, %s::text::jsonb, %s, %s, %s, %s, %s::tsvector, %s)
    RETURNING
    """
    + _UNKNOWN,
    _unknown,
)
_REMOVE: Final = Statement("/* movies.remove */ DELETE FROM movies WHERE id = %s::bigint")

#: So many new movies make statistics stale; the server itself looks after them a minute later.
_MANY: Final = 5_000
# Somebody else may be at it, or be building an index, which waits for this transaction.
_ANALYZE: Final = "/* movies.analyze */ ANALYZE (SKIP_LOCKED) movies, trigrams"
#: Movies that are added at once by a statement, at most; more are loaded in bulk.
_FEW: Final = 100
#: Movies of a bulk load that are prepared at once.
_SLICE: Final = 100


def stored_time(at: datetime | None) -> str | None:
    """A time as the table takes it: a column without a zone passes over the one that is named."""
    return None if at is None else at.astimezone(UTC).isoformat()


def movie_cursor(connection: HostConnection) -> AsyncCursor[Movie]:
    """A cursor whose rows of `COLUMNS` are movies."""
    return cursor(connection, args_row(as_movie), binary=True)


class PostgresMovies:
    """Satisfies `ports.MovieRepository` on a connection that is inside a transaction.

    Args:
        connection: the connection.
        remembers: see `Vocabulary`.
    """

    def __init__(self, connection: HostConnection, *, remembers: bool = False) -> None:
        self._connection = connection
        self._vocabulary = Vocabulary(connection, remembers=remembers)
        self._loaded = 0

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        """See the port."""
        searched = index(draft)
        stored = stored_time(at)
        row = await _ADD.row(
            self._connection,
            (
                draft.title,
                draft.description,
                draft.release_year,
                draft.genre,
                stored,
                stored,
                searched.title_key,
                searched.search,
                searched.words,
            ),
        )
        if row is None:  # RETURNING gives a row for each that is inserted
            raise Unavailable("database", "an insert gave no id")
        movie_id, unknown = row
        await self._vocabulary.add(unknown)
        return created(movie_id, draft, at)

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        """See the port."""
        if len(drafts) <= _FEW:
            return await self._add_few(drafts, at)
        async with cursor(self._connection, scalar_row) as sink:
            await sink.execute(_NEXT_IDS, (len(drafts),))
            ids: list[int] = await sink.fetchall()
            movies = [created(movie_id, draft, at) for movie_id, draft in zip(ids, drafts, strict=True)]
            stored = stored_time(at)
            words: set[str] = set()
            async with sink.copy(_LOAD) as copy:
                for start in range(0, len(movies), _SLICE):
                    # In a thread, for it takes a while: others go on meanwhile, and so does the server.
                    some = movies[start : start + _SLICE]
                    for row in await asyncio.to_thread(_rows, some, stored, words):
                        await copy.write_row(row)
        await self._vocabulary.learn(words)
        self._loaded += len(movies)
        return movies

    async def _add_few(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        """By one statement, where COPY and its round trips would cost more."""
        rows = []
        words: set[str] = set()
        times = dict.fromkeys(("created_at", "updated_at"), stored_time(at))
        for draft in drafts:
            searched = index(draft)
            words.update(searched.words)
            rows.append(asdict(draft) | times | _search_columns(searched))
        row = await _ADD_SOME.row(self._connection, (_encode(rows).decode(), list(words)))
        if row is None or len(row[0]) != len(drafts):  # there is an id for each that is inserted
            raise Unavailable("database", "an insert gave no ids")
        ids, unknown = row
        await self._vocabulary.add(unknown)
        return [created(movie_id, draft, at) for movie_id, draft in zip(ids, drafts, strict=True)]

    async def tell_planner(self) -> None:
        """After a bulk load, let the planner know of it: without statistics it reads whole tables."""
        if self._loaded >= _MANY:
            await cursor(self._connection, tuple_row).execute(_ANALYZE)

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        movie = await _GET_LOCKED.row(self._connection, (bigint(movie_id),))
        if movie is None:
            raise MovieNotFound(movie_id)
        return movie

    async def get_free(self, movie_ids: Collection[int]) -> Sequence[Movie]:
        """See the port."""
        known = [movie_id for movie_id in movie_ids if bigint(movie_id) is not None]
        return await _GET_FREE.rows(self._connection, (known,))

    async def replace(self, movie: Movie) -> None:
        """See the port."""
        searched = index(movie)
        values = (*_values(movie, searched), bigint(movie.id), searched.words)
        unknown = await _REPLACE.row(self._connection, values)
        if unknown is None:
            raise MovieNotFound(movie.id)
        await self._vocabulary.add(unknown)

    async def replace_many(self, movies: Sequence[Movie]) -> None:
        """See the port."""
        rows = []
        words: set[str] = set()
        for movie in movies:
            searched = index(movie)
            words.update(searched.words)
            times = {"created_at": stored_time(movie.created_at), "updated_at": stored_time(movie.updated_at)}
            rows.append(asdict(movie) | times | _search_columns(searched))
        row = await _REPLACE_SOME.row(self._connection, (_encode(rows).decode(), list(words)))
        ids, unknown = row or ([], [])
        for movie in movies:
            if movie.id not in ids:
                raise MovieNotFound(movie.id)
        await self._vocabulary.add(unknown)

    async def remove(self, movie_id: int) -> None:
        """See the port."""
        if not await _REMOVE.count(self._connection, (bigint(movie_id),)):
            raise MovieNotFound(movie_id)

    async def restore(self, movie: Movie) -> None:
        """See the port."""
        searched = index(movie)
        values = (movie.id, *_values(movie, searched), searched.words)
        try:
            unknown = await _RESTORE.row(self._connection, values)
        except UniqueViolation:
            raise VersionConflict(movie.id, movie.version - 1, movie.version) from None
        await self._vocabulary.add(unknown or ())


def _values(movie: Movie, searched: Searched) -> tuple[str | int | None, ...]:
    """All of a row but its id."""
    return (
        movie.title,
        movie.description,
        movie.release_year,
        movie.genre,
        movie.image_url,
        None if movie.image is None else _encode(movie.image).decode(),
        movie.version,
        stored_time(movie.created_at),
        stored_time(movie.updated_at),
        searched.title_key,
        searched.search,
        movie.version,
    )


def _search_columns(searched: Searched) -> dict[str, str]:
    return {"title_key": searched.title_key, "search": searched.search}


def _rows(movies: Sequence[Movie], stored: str | None, words: set[str]) -> list[tuple[object, ...]]:
    """The rows of new movies for COPY; the words in them are added to `words`."""
    rows: list[tuple[object, ...]] = []
    for movie in movies:
        searched = index(movie)
        words.update(searched.words)
        client = (movie.title, movie.description, movie.release_year, movie.genre)
        rows.append((movie.id, *client, 1, stored, stored, searched.title_key, searched.search, 1))
    return rows
