"""Catalogue: the use cases on movies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from watchly_core.errors import Fault, ImportRejected, InvalidMovie, VersionConflict
from watchly_core.events import Event, MovieAdded, MovieRemoved, MovieRevised
from watchly_core.images import VARIANTS, ImageState
from watchly_core.imports import ImportReport, Rejection, Row
from watchly_core.movies import (
    READ_ONLY,
    Members,
    Movie,
    MovieDraft,
    MoviePatch,
    client_fields,
    drafted,
    patched,
)
from watchly_core.ports import Clock, ImageStore, MovieQueries, Transaction, Transactions
from watchly_core.queries import GenreCount, MovieQuery, Page

T = TypeVar("T")

#: Who acts when nobody is named: the service that embeds the catalogue.
SYSTEM = "system"

#: How long a discarded image can come back.
IMAGE_GRACE = timedelta(days=30)

#: Rows that an import hands to the store at once: large enough for COPY, small enough for memory, and for
#: others who are answered in between.
_BATCH = 500
#: Rejections that a report lists; it counts all of them.
_LISTED = 1_000
#: Faults that are told of one row.
_FAULTS = 20


def utc_now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


def require_version(movie: Movie, version: int | None) -> None:
    """Refuse a write that was based on another version of `movie`; None was based on none.

    Raises:
        VersionConflict: the versions differ.
    """
    if version is not None and version != movie.version:
        raise VersionConflict(movie.id, version, movie.version)


def present(movie: Movie, store: ImageStore | None) -> Movie:
    """`movie` as clients see it: with the URLs of its image as its store gives them today."""
    if movie.image is None or store is None:
        return movie
    key = movie.image.key
    image = msgspec.structs.replace(movie.image, variants={name: store.url(key, name) for name in VARIANTS})
    return msgspec.structs.replace(movie, image=image, image_url=store.url(key))


class Catalogue:
    """The use cases on movies: every rule about them is kept here or below.

    Each write is one transaction that holds its event. A write takes the `version` that it was based
    on, or None for any; a movie at another version raises `VersionConflict` and nothing changes. A
    write that changes nothing keeps the version and leaves no event. Values to write are structs or
    mappings of members as they come from JSON, checked alike (`InvalidMovie`).

    Args:
        queries: the read side of the store.
        transactions: its write side.
        images: the store that knows the images' URLs; without it movies keep those they were stored with.
        clock: the present time.
        image_grace: how long the image of a removed movie can come back.
    """

    def __init__(
        self,
        queries: MovieQueries,
        transactions: Transactions,
        *,
        images: ImageStore | None = None,
        clock: Clock = utc_now,
        image_grace: timedelta = IMAGE_GRACE,
    ) -> None:
        self._queries = queries
        self._transactions = transactions
        self._store = images
        self._clock = clock
        self._grace = image_grace

    async def get(self, movie_id: int) -> Movie:
        """The movie with this id.

        Raises:
            MovieNotFound: there is none.
        """
        return present(await self._queries.get(movie_id), self._store)

    async def find(self, query: MovieQuery) -> Page:
        """One page of movies."""
        page = await self._queries.find(query)
        return msgspec.structs.replace(page, data=tuple(present(movie, self._store) for movie in page.data))

    async def count(self, query: MovieQuery) -> int:
        """How many movies `query` finds on all its pages together."""
        return await self._queries.count(query)

    async def genres(self, query: MovieQuery | None = None) -> Sequence[GenreCount]:
        """The genres of the movies that `query` finds, the most frequent first."""
        return await self._queries.genres(query or MovieQuery())

    def export(self, query: MovieQuery | None = None) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """What clients write of all movies of `query`, as of one moment, in batches.

        The query's limit and cursor do not matter.
        """
        return _ahead(self._queries.export(query or MovieQuery()))

    async def history(self, movie_id: int) -> Sequence[Event]:
        """What happened to a movie, newest first, also after its removal."""
        events = await self._queries.history(movie_id)
        return [msgspec.structs.replace(event, movie=present(event.movie, self._store)) for event in events]

    async def add(self, draft: MovieDraft | Members, *, actor: str = SYSTEM) -> Movie:
        """Add a movie.

        Raises:
            InvalidMovie: it breaks rules.
        """
        checked = drafted(draft)
        async with self._transactions() as tx:
            movie = await tx.movies.add(checked, self._clock())
            await tx.events.append(added(movie, actor))
        return movie

    async def replace(
        self, movie_id: int, draft: MovieDraft | Members, *, version: int | None = None, actor: str = SYSTEM
    ) -> Movie:
        """Replace all client fields of a movie; those that `draft` leaves out become None.

        Raises:
            MovieNotFound: there is no such movie.
            InvalidMovie: the draft breaks rules.
            VersionConflict: the movie is at another version.
        """
        return await self._write(movie_id, lambda movie: drafted(draft, movie), version, actor)

    async def revise(
        self, movie_id: int, patch: MoviePatch | Members, *, version: int | None = None, actor: str = SYSTEM
    ) -> Movie:
        """Merge `patch` into a movie (RFC 7396): what it leaves out stays, None clears.

        Raises:
            MovieNotFound: there is no such movie.
            InvalidMovie: the movie would break rules.
            VersionConflict: the movie is at another version.
        """
        return await self._write(movie_id, lambda movie: patched(movie, patch), version, actor)

    async def remove(
        self, movie_id: int, *, version: int | None = None, purge: bool = False, actor: str = SYSTEM
    ) -> None:
        """Remove a movie; with `purge` its images go without the grace period.

        Raises:
            MovieNotFound: there is no such movie.
            VersionConflict: the movie is at another version.
        """
        async with self._transactions() as tx:
            movie = await tx.movies.get(movie_id)
            require_version(movie, version)
            now = self._clock()
            await tx.movies.remove(movie_id)
            due_at = now if purge else now + self._grace
            await discard_images(tx, movie_id, due_at, purge=purge, tickets=purge)
            await tx.events.append(MovieRemoved(movie_id, movie.version + 1, now, actor, movie))

    async def add_many(
        self,
        rows: AsyncIterable[Row],
        *,
        skip_invalid: bool = False,
        dry_run: bool = False,
        on_rejected: Callable[[Rejection], None] | None = None,
        actor: str = SYSTEM,
    ) -> ImportReport:
        """Add the movies of `rows` in one transaction: all of them, or without the invalid ones.

        Memory stays bounded, however many rows there are. With `dry_run` the rows are only checked.
        `on_rejected` is told of every invalid row, of which the report lists the first thousand.

        Raises:
            ImportRejected: some rows are invalid and `skip_invalid` is not set; nothing was added.
        """
        tally = _Tally(on_rejected)
        if dry_run:
            async with aclosing(_batches(rows, tally)) as batches:
                async for batch in batches:
                    tally.added += len(batch)
            return tally.report(dry_run=True, skip_invalid=skip_invalid)
        async with self._transactions() as tx, aclosing(_ahead(_batches(rows, tally))) as batches:
            async for batch in batches:
                if tally.rejected_total and not skip_invalid:
                    continue
                movies = await tx.movies.add_many(batch, self._clock())
                await tx.events.append(*(added(movie, actor) for movie in movies))
                tally.added += len(movies)
            return tally.report(dry_run=False, skip_invalid=skip_invalid)

    async def _write(
        self, movie_id: int, change: Callable[[Movie], MovieDraft], version: int | None, actor: str
    ) -> Movie:
        async with self._transactions() as tx:
            stored = await tx.movies.get(movie_id)
            shown = present(stored, self._store)
            try:
                fields = change(shown)
            except InvalidMovie as invalid:
                # A stale movie sent back whole differs in what the server sets: the conflict says why.
                if all(fault.code == READ_ONLY for fault in invalid.faults):
                    require_version(stored, version)
                raise
            require_version(stored, version)
            if fields == client_fields(stored):
                return shown
            now = self._clock()
            revised = msgspec.structs.replace(
                stored, **msgspec.structs.asdict(fields), version=stored.version + 1, updated_at=now
            )
            await tx.movies.replace(revised)
            await tx.events.append(MovieRevised(movie_id, revised.version, now, actor, revised))
        return present(revised, self._store)


async def discard_images(
    tx: Transaction, movie_id: int, due_at: datetime, *, purge: bool, tickets: bool = False
) -> None:
    """Discard the image that a movie shows, to be swept at `due_at`.

    With `purge` earlier ones are discarded as well, and with `tickets` what is being uploaded by them.
    """
    for record in await tx.images.of_movie(movie_id):
        if (
            record.state is ImageState.ATTACHED
            or (purge and record.state is ImageState.DISCARDED)
            or (tickets and record.state is ImageState.PENDING and record.open_until is not None)
        ):
            await tx.images.replace(record.moved(ImageState.DISCARDED, due_at=due_at))


def added(movie: Movie, actor: str) -> MovieAdded:
    """The event of a movie that was just added."""
    # `add` has just set created_at; the fallback is for the type alone.
    return MovieAdded(movie.id, movie.version, movie.created_at or utc_now(), actor, movie)


class _Tally:
    """What an import has come to so far."""

    def __init__(self, on_rejected: Callable[[Rejection], None] | None) -> None:
        self.added = 0
        self.rejected_total = 0
        self._listed: list[Rejection] = []
        self._on_rejected = on_rejected

    def reject(self, line: int, faults: Sequence[Fault]) -> None:
        rejection = Rejection(line, tuple(faults[:_FAULTS]))
        self.rejected_total += 1
        if len(self._listed) < _LISTED:
            self._listed.append(rejection)
        if self._on_rejected is not None:
            self._on_rejected(rejection)

    def report(self, *, dry_run: bool, skip_invalid: bool) -> ImportReport:
        if skip_invalid or not self.rejected_total:
            return ImportReport(self.added, tuple(self._listed), self.rejected_total, dry_run)
        raise ImportRejected(ImportReport(0, tuple(self._listed), self.rejected_total, dry_run))


async def _ahead(batches: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield the same batches, each made while the one before it is used."""
    async with aclosing(batches):
        following = asyncio.ensure_future(anext(batches, None))
        try:
            while (batch := await following) is not None:
                following = asyncio.ensure_future(anext(batches, None))
                yield batch
        finally:
            following.cancel()
            await asyncio.wait({following})
            if not following.cancelled():
                following.exception()  # nobody waits for it any more


async def _batches(rows: AsyncIterable[Row], tally: _Tally) -> AsyncGenerator[list[MovieDraft], None]:
    """Yield the valid rows as drafts, many at a time; the others go to `tally`."""
    batch: list[MovieDraft] = []
    async for row in rows:
        if row.faults:
            tally.reject(row.line, row.faults)
            continue
        try:
            batch.append(drafted(row.members))
        except InvalidMovie as invalid:
            tally.reject(row.line, invalid.faults)
            continue
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
