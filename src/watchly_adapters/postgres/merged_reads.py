"""The most frequent reads, merged: movies by their ids, and plain pages of all movies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from operator import attrgetter
from typing import Final, TypeAlias

from psycopg.rows import tuple_row

from watchly_adapters.postgres.movies import COLUMNS, GET, as_movie, movie_cursor
from watchly_adapters.postgres.pool import Connection, Pool, cursor, translated
from watchly_adapters.postgres.statements import bigint
from watchly_core.merging import Merging
from watchly_core.movies import Movie

_GET_ANY: Final = "SELECT" + COLUMNS + "FROM movies WHERE id = ANY(%s::bigint[])"
_PAGE: Final = "SELECT" + COLUMNS + "FROM movies WHERE id > %s ORDER BY id LIMIT %s"
# One statement for all pages takes half the time of one for each in a pipeline.
_PAGES: Final = (
    """
    SELECT number, page.*
    FROM unnest(%s::bigint[], %s::bigint[]) WITH ORDINALITY AS asked (after, most, number),
    LATERAL (
        SELECT
    """
    + COLUMNS
    + """
        FROM movies WHERE id > asked.after ORDER BY id LIMIT asked.most
    ) AS page
    """
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
    async with AsyncExitStack() as stack:
        if ids and pages:
            await stack.enter_async_context(connection.pipeline())
        by_id, by_page = movie_cursor(connection), cursor(connection, tuple_row, binary=True)
        if ids:
            await by_id.execute(_GET_ANY, (_array(ids),), prepare=True)
        if pages:
            columns = [_array(column) for column in zip(*pages, strict=True)]
            await by_page.execute(_PAGES, columns, prepare=True)
        found: dict[_Asked, list[Movie]] = {one: [] for one in asked}
        if ids:
            for movie in await by_id.fetchall():
                found[movie.id].append(movie)
        if pages:
            for number, *row in await by_page.fetchall():
                found[pages[number - 1]].append(as_movie(*row))
    for page in pages:
        found[page].sort(key=attrgetter("id"))  # the server promises no order of the whole
    return [found[one] for one in asked]


def _array(numbers: Sequence[int] | set[int]) -> str:
    """As PostgreSQL writes an array: ten times faster than an adapter of lists."""
    return "{" + ",".join(map(str, numbers)) + "}"
