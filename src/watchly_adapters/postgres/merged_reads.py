"""The most frequent reads, merged: movies by their ids, and plain pages of all movies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final, TypeAlias

import psycopg

from watchly_adapters.postgres.movies import COLUMNS, GET, as_movie, movie_cursor
from watchly_adapters.postgres.pool import Connection, Pool, translated
from watchly_adapters.postgres.statements import Query, bigint, both
from watchly_core.merging import Merging
from watchly_core.movies import Movie


def _numbered(  # noqa: PLR0913, PLR0917 - a row
    number: int,
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
) -> tuple[int, Movie]:
    client = (title, description, release_year, genre)
    return number, as_movie(movie_id, *client, image_url, image, version, created_at, updated_at)


_GET_ANY: Final = Query(
    "/* merged_reads.get_any */ SELECT" + COLUMNS + "FROM movies WHERE id = ANY(%s::bigint[])",
    as_movie,
    binary=True,
)
_PAGE: Final = "/* merged_reads.page */ SELECT" + COLUMNS + "FROM movies WHERE id > %s ORDER BY id LIMIT %s"
# One statement for all pages takes half the time of one for each in a pipeline.
_PAGES: Final = Query(
    """/* merged_reads.pages */
    SELECT number, page.*
    FROM unnest(%s::bigint[], %s::bigint[]) WITH ORDINALITY AS asked (after, most, number),
    LATERAL (
        SELECT
    """
    + COLUMNS
    + """
        FROM movies WHERE id > asked.after ORDER BY id LIMIT asked.most
    ) AS page
    """,
    _numbered,
    binary=True,
)

#: A page of more movies than this is read by itself: others would wait for it.
_MOST_MERGED: Final = 100

#: The movies after an id, and how many of them at most.
_Page: TypeAlias = tuple[int, int]
_Asked: TypeAlias = int | _Page
_Found: TypeAlias = Sequence[Movie]


class MergedReads:
    """Reads movies for many callers at once, each statement on some connection of a pool.

    Args:
        pool: connections.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._merging: Merging[_Asked, _Found] = Merging(
            self._answer, _weight, max_waiting=pool.max_waiting, patience=pool.patience
        )

    async def get(self, movie_id: int) -> Movie | None:
        """The movie with this id, if there is one.

        Raises:
            Unavailable: see `Pool.read`.
        """
        if bigint(movie_id) is None:
            return None
        found = await self._merging.ask(movie_id)
        return found[0] if found else None

    async def page(self, after: int, most: int) -> Sequence[Movie]:
        """The movies whose ids come after this one, by id, and at most so many.

        Raises:
            Unavailable: see `Pool.read`.
        """
        if most <= _MOST_MERGED:
            return await self._merging.ask((after, most))
        return await self._pool.read(lambda connection: _read(connection, (after, most)))

    async def close(self) -> None:
        """End what is under way."""
        await self._merging.close()

    async def _answer(self, asked: Sequence[_Asked]) -> Sequence[_Found | Exception]:
        if len(asked) == 1:
            return [await self._pool.read(lambda connection: _read(connection, asked[0]))]
        return await self._pool.read(lambda connection: _read_all(connection, asked))


def _weight(asked: _Asked) -> int:
    """How many movies it takes at most."""
    return 1 if isinstance(asked, int) else asked[1]


async def _read(connection: Connection, asked: _Asked) -> _Found:
    async with movie_cursor(connection) as sink:
        if isinstance(asked, int):
            await sink.execute(GET, (asked,))
        else:
            await sink.execute(_PAGE, asked)
        return await sink.fetchall()


async def _read_all(connection: Connection, asked: Sequence[_Asked]) -> Sequence[_Found | Exception]:
    """What all of them ask for, by a statement of each kind; if one fails, each by its own."""
    try:
        return await _read_together(connection, asked)
    except psycopg.OperationalError:
        # Nothing is wrong with what is asked for: one by one, all of them would wait for the same in turn.
        raise
    except Exception:
        if connection.broken:
            raise
    return [await _read_apart(connection, one) for one in asked]


async def _read_apart(connection: Connection, asked: _Asked) -> _Found | Exception:
    try:
        with translated():
            return await _read(connection, asked)
    except Exception as error:
        if connection.broken:
            raise
        return error


async def _read_together(connection: Connection, asked: Sequence[_Asked]) -> Sequence[_Found]:
    ids = {one for one in asked if isinstance(one, int)}
    pages = list({one for one in asked if not isinstance(one, int)})
    columns = [_array(column) for column in zip(*pages, strict=True)]
    by_id: Sequence[Movie] = ()
    by_page: Sequence[tuple[int, Movie]] = ()
    if not pages:
        by_id = await _GET_ANY.rows(connection, (_array(ids),))
    elif not ids:
        by_page = await _PAGES.rows(connection, columns)
    else:
        by_id, by_page = await both(connection, _GET_ANY, _PAGES, ((_array(ids),), columns))
    found: dict[_Asked, list[Movie]] = {one: [] for one in asked}
    for movie in by_id:
        found[movie.id].append(movie)
    for number, movie in by_page:
        found[pages[number - 1]].append(movie)
    for page in pages:
        found[page].sort(key=attrgetter("id"))  # the server promises no order of the whole
    return [found[one] for one in asked]


def _array(numbers: Sequence[int] | set[int]) -> str:
    """As PostgreSQL writes an array: ten times faster than an adapter of lists."""
    return "{" + ",".join(map(str, numbers)) + "}"
