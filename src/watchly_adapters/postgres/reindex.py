"""Making the rows searchable that other programs wrote, and writing the events that these rows lack."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from psycopg import IsolationLevel
from psycopg.rows import tuple_row

from watchly_adapters.postgres.events import load_events
from watchly_adapters.postgres.movies import COLUMNS, movie_cursor
from watchly_adapters.postgres.pool import START_WAIT, Connection, connect, cursor, translated
from watchly_adapters.postgres.vocabulary import Vocabulary, index
from watchly_core.clocks import utc_now
from watchly_core.events import MovieAdded, MovieRevised
from watchly_core.movies import Movie
from watchly_core.people import SYSTEM

#: Rows, and bytes of their texts, that one transaction takes: others wait for it no longer than a moment.
_ROWS: Final = 1_000
_BYTES: Final = 2_000_000
#: A row that somebody is writing is passed by, and looked at once more.
_ROUNDS: Final = 2

# Every step walks along an index. Statistics say otherwise of a table that is small, or was just restored.
_SET_PLANS: Final = """/* reindex.set_plans */
    SELECT set_config(setting, 'off', false)
    FROM unnest('{enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin}'::text[]) AS setting
"""
# A row without a title, as a table may have it that was adopted by an earlier version, is no movie: it waits.
_RANGE: Final = """/* reindex.range */
    SELECT min(id), max(id) FROM movies WHERE search_version IS NULL AND title IS NOT NULL
"""
_LOCK: Final = """/* reindex.lock */
    SELECT id, octet_length(title) + coalesce(octet_length(description), 0)
    FROM movies WHERE search_version IS NULL AND title IS NOT NULL AND id BETWEEN %s AND %s
    ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
"""
_READ: Final = "/* reindex.read */ SELECT" + COLUMNS + "FROM movies WHERE id = ANY(%s::integer[]) ORDER BY id"
_NEWEST: Final = """/* reindex.newest */
    SELECT number, kind = 'movie_removed', version, movie::text
    FROM unnest(%s::integer[]) AS number CROSS JOIN LATERAL (
        SELECT kind, version, movie FROM events WHERE movie_id = number ORDER BY version DESC LIMIT 1
    ) AS newest
"""
_FILL: Final = """/* reindex.fill */
    UPDATE movies
    SET version = filled.version, title_key = filled.title_key, search = filled.search::tsvector,
        search_version = filled.version
    FROM unnest(%s::integer[], %s::integer[], %s::text[], %s::text[])
        AS filled (id, version, title_key, search)
    WHERE movies.id = filled.id
"""
_COLUMNS: Final = """/* reindex.columns */
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass('movies') AND attnum > 0 AND NOT attisdropped
"""
_COUNT: Final = "/* reindex.count */ SELECT count(*) FROM movies"
_COUNT_WAITING: Final = "/* reindex.count_waiting */ SELECT count(*) FROM movies WHERE search_version IS NULL"

_decode = msgspec.json.Decoder(Movie).decode


class _Newest(msgspec.Struct, frozen=True):
    """The newest event of a movie."""

    removed: bool
    version: int
    movie: str

    def tells(self, movie: Movie) -> bool:
        """Whether it tells of `movie`, or of one that has gone or been written over under this version."""
        return not self.removed and self.version == movie.version and _decode(self.movie) == movie


class _Work(msgspec.Struct, frozen=True):
    """Movies at the versions that they get, what fills their rows, and the events that they lack by id."""

    movies: list[Movie]
    events: dict[int, type[MovieAdded | MovieRevised]]
    title_keys: list[str]
    searches: list[str]
    words: set[str]


async def reindex(url: str, *, wait: float = START_WAIT) -> int:
    """Make the rows searchable that other programs wrote; returns how many those were.

    A row that lacks an event gets it, so that the log tells every movie as it is. Any number of processes
    may call it at once, while others write. The schema has to be there, see `migrate`.

    Args:
        url: a PostgreSQL URL or conninfo string.
        wait: seconds to try for while the server cannot be reached.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time, or was lost; what was done so far stays.
    """
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            return await reindex_rows(connection)


async def reindex_rows(connection: Connection) -> int:
    """The same on a connection in autocommit mode, whose settings it changes."""
    await connection.execute(_SET_PLANS)
    # Each statement sees what was committed before it: rows and their events as of after the lock.
    await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
    known = Vocabulary(connection, remembers=True)
    done = 0
    for _ in range(_ROUNDS):
        # The end is set, or another program that keeps adding rows would keep this one from ending.
        bounds = await (await connection.execute(_RANGE)).fetchone()
        if bounds is None or None in bounds:
            break
        next_id, last_id = bounds
        while next_id <= last_id:
            async with connection.transaction():
                ids = await _lock(connection, next_id, last_id)
                done += await _fill(connection, ids, known)
            next_id = ids[-1] + 1 if ids else last_id + 1
    return done


async def waiting(url: str) -> int:
    """How many movies of a database cannot be searched yet; all of them, before it is migrated.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time.
    """
    with translated():
        async with await connect(url) as connection:
            asked = await connection.execute(_COLUMNS)
            columns = {name for (name,) in await asked.fetchall()}
            if not columns:
                return 0
            count = _COUNT_WAITING if "search_version" in columns else _COUNT
            row = await (await connection.execute(count)).fetchone()
    return int(row[0]) if row else 0


async def _lock(connection: Connection, first_id: int, last_id: int) -> list[int]:
    """Lock the next rows to fill, as many as memory may hold and one at least, where there are any."""
    ids: list[int] = []
    room = _BYTES
    for movie_id, size in await (await connection.execute(_LOCK, (first_id, last_id, _ROWS))).fetchall():
        room -= size
        if ids and room < 0:
            break
        ids.append(movie_id)
    return ids


async def _fill(connection: Connection, ids: list[int], known: Vocabulary) -> int:
    """Fill these rows, which are locked, and write the events they lack; how many they were."""
    if not ids:
        return 0
    stored = await _read(connection, ids)
    newest = await _newest_events(connection, ids)
    # In a thread, for it takes a while: a host's loop goes on meanwhile.
    work = await asyncio.to_thread(_work_out, stored, newest)
    await known.learn(work.words)
    versions = [movie.version for movie in work.movies]
    filled = await cursor(connection, tuple_row).execute(
        _FILL, ([movie.id for movie in work.movies], versions, work.title_keys, work.searches)
    )
    # As the rows are now: another program's trigger may have had its say.
    told, now = await _read(connection, list(work.events)), utc_now()
    events = [work.events[movie.id](movie.id, movie.version, now, SYSTEM.name, movie) for movie in told]
    if events:
        # Rows are filled between migrations as well, when the log has no other columns yet.
        await load_events(connection, events, traced=False)
    return filled.rowcount


async def _read(connection: Connection, ids: list[int]) -> list[Movie]:
    async with movie_cursor(connection) as asked:
        await asked.execute(_READ, (ids,))
        return await asked.fetchall()


async def _newest_events(connection: Connection, ids: list[int]) -> dict[int, _Newest]:
    rows = await (await connection.execute(_NEWEST, (ids,))).fetchall()
    return {movie_id: _Newest(*row) for movie_id, *row in rows}


def _work_out(stored: Sequence[Movie], newest: Mapping[int, _Newest]) -> _Work:
    work = _Work([], {}, [], [], set())
    for found in stored:
        movie, last = found, newest.get(found.id)
        if last is None or not last.tells(movie):
            if last is not None and last.version >= movie.version:
                # Another program took the id once more, or wrote before there was a trigger to note it.
                movie = msgspec.structs.replace(movie, version=last.version + 1)
            work.events[movie.id] = MovieAdded if last is None or last.removed else MovieRevised
        searched = index(movie)
        work.movies.append(movie)
        work.title_keys.append(searched.title_key)
        work.searches.append(searched.search)
        work.words.update(searched.words)
    return work
