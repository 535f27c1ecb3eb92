"""The lists of a store whose author reads movies alone: they are made by the core, in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Final, Self

import msgspec

from watchly_core.errors import InvalidPosition
from watchly_core.listing import count_genres, entries_of, found, listed
from watchly_core.movies import Movie, MovieDraft, client_fields
from watchly_core.queries import GenreCount, MovieQuery, Page, Position

#: Movies that an export gives at once.
_EXPORT_BATCH: Final = 500


class ListedQueries:
    """The lists of `ports.MovieQueries`, made in memory of the movies that a subclass reads."""

    async def movies(self, query: MovieQuery) -> Collection[Movie]:
        """All movies of the catalogue, or where nothing is searched for those that may pass the filters."""
        raise NotImplementedError

    def entries(self, movie: Movie) -> list[str]:
        """See `listing.entries_of`; a subclass may remember it."""
        return entries_of(movie)

    async def placed(self, query: MovieQuery, most: int | None) -> tuple[list[tuple[Movie, Position]], bool]:
        """See `listing.listed`; a subclass may know a shorter way to lists by id."""
        return listed(query, await self.movies(query), entries=self.entries, most=most)

    def at(self, position: str) -> Self:  # noqa: ARG002 - there is none
        """See the port: this store tells no positions."""
        raise InvalidPosition("this store tells no positions")

    async def find(self, query: MovieQuery) -> Page:
        """See the port."""
        placed, similar = await self.placed(query, query.limit + 1)
        return Page.of(placed, query, similar=similar)

    async def count(self, query: MovieQuery) -> int:
        """See the port."""
        return len(found(query, await self.movies(query), entries=self.entries))

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """See the port."""
        return count_genres(found(query, await self.movies(query), entries=self.entries))

    async def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """See the port."""
        placed, _ = await self.placed(msgspec.structs.replace(query, cursor=None), None)
        for start in range(0, len(placed), _EXPORT_BATCH):
            yield [client_fields(movie) for movie, _ in placed[start : start + _EXPORT_BATCH]]
