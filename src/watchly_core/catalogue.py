"""Catalogue: the use cases on movies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing
from copy import copy
from datetime import datetime, timedelta
from typing import Final

import msgspec

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import Fault, InvalidMovie, MovieNotFound, VersionConflict
from watchly_core.events import Change, ChangeQuery, Changes, Event, MovieAdded, MovieRemoved, MovieRevised
from watchly_core.expiry import drop_all
from watchly_core.image_records import discard_images, recall_image
from watchly_core.images import VARIANTS
from watchly_core.imports import ImportReport, Rejection, Row, Tally, draft_batches
from watchly_core.movies import (
    READ_ONLY,
    Members,
    Movie,
    MovieDraft,
    MoviePatch,
    client_fields,
    drafted,
    next_time,
    patched,
)
from watchly_core.people import SYSTEM, Actor, Permission
from watchly_core.ports import Clock, ImageStore, MovieQueries, Transactions
from watchly_core.queries import GenreCount, MovieQuery, Page
from watchly_core.receipts import NO_RECEIPT, Receipt
from watchly_core.tasks import ahead
from watchly_core.traces import current_trace
from watchly_core.writes import Writes, added

__all__ = ["IMAGE_GRACE", "Catalogue", "Reverted"]

#: How long a discarded image can come back.
IMAGE_GRACE: Final = timedelta(days=30)


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


class Reverted(msgspec.Struct, frozen=True):
    """A movie after a revert, and whether the image that it had is gone for good."""

    movie: Movie
    image_lost: bool


class Catalogue:
    """The use cases on movies: every rule about them is kept here or below.

    Each write is in one transaction with its event; movies that are added and revised at once share one, in
    which some may be refused. A write takes the `version` that it was based on, or None for any; a movie at
    another version raises `VersionConflict` and nothing changes. A write that changes nothing keeps the
    version and leaves no event. Values to write are structs or mappings of members as they come from JSON,
    checked alike (`InvalidMovie`). A write that takes a `receipt` raises what its `look` does, and is done
    once for all calls with its key. Whoever may not write, or read, gets `NotSignedIn` or `NotAllowed`, and
    nothing is looked at. Where the store does not answer, that is `Unavailable`.

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
        self._writes = Writes(transactions, clock)
        self._clock = clock
        self._grace = image_grace

    def at(self, position: str) -> Catalogue:
        """This catalogue, reading where every write is seen that was done at `position`.

        A position is a text that a database gives, see `ports.MovieQueries.at`.

        Raises:
            InvalidPosition: no write has returned such a one.
        """
        return self.over(self._queries.at(position))

    def over(self, queries: MovieQueries) -> Catalogue:
        """This catalogue over another read side of its store."""
        catalogue = copy(self)
        catalogue._queries = queries  # noqa: SLF001 - one of us
        return catalogue

    async def get(self, movie_id: int, *, actor: Actor = SYSTEM) -> Movie:
        """The movie with this id.

        Raises:
            MovieNotFound: there is none.
        """
        actor.require(Permission.READ)
        return present(await self._queries.get(movie_id), self._store)

    async def find(self, query: MovieQuery, *, actor: Actor = SYSTEM) -> Page:
        """One page of movies."""
        actor.require(Permission.READ)
        page = await self._queries.find(query)
        return msgspec.structs.replace(page, data=tuple(present(movie, self._store) for movie in page.data))

    async def count(self, query: MovieQuery, *, actor: Actor = SYSTEM) -> int:
        """How many movies `query` finds on all its pages together."""
        actor.require(Permission.READ)
        return await self._queries.count(query)

    async def genres(self, query: MovieQuery | None = None, *, actor: Actor = SYSTEM) -> Sequence[GenreCount]:
        """The genres of the movies that `query` finds, the most frequent first."""
        actor.require(Permission.READ)
        return await self._queries.genres(query or MovieQuery())

    def export(
        self, query: MovieQuery | None = None, *, actor: Actor = SYSTEM
    ) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """What clients write of all movies of `query`, as of one moment, in batches.

        The query's limit and cursor do not matter. Whoever stops before the end closes it by
        `contextlib.aclosing`.
        """
        actor.require(Permission.READ)
        return ahead(self._queries.export(query or MovieQuery()))

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None, actor: Actor = SYSTEM
    ) -> Sequence[Change]:
        """What happened to a movie, newest first, also after its removal; empty if it never was.

        Only what led to versions below `before`, and at most `limit` changes, where these are given.
        """
        actor.require(Permission.READ)
        changes = await self._queries.history(movie_id, before=before, limit=limit)
        return [self._shown(change) for change in changes]

    async def changes(self, query: ChangeQuery | None = None, *, actor: Actor = SYSTEM) -> Changes:
        """What happened to all movies, in one order for everybody.

        Raises:
            ChangesGone: what comes after `query.after` was pruned.
        """
        actor.require(Permission.READ)
        found = await self._queries.changes(query or ChangeQuery())
        return msgspec.structs.replace(found, data=tuple(self._shown(change) for change in found.data))

    async def last_change(self, *, actor: Actor = SYSTEM) -> int:
        """The number of the last change so far; 0 for none."""
        actor.require(Permission.READ)
        return await self._queries.last_change()

    async def add(
        self,
        draft: MovieDraft | Members,
        *,
        actor: Actor = SYSTEM,
        receipt: Receipt[Movie] = NO_RECEIPT,
    ) -> Movie:
        """Add a movie.

        Raises:
            InvalidMovie: it breaks rules.
            Replayed, RequestInProgress, KeyReused: see `Receipt.look`.
        """
        actor.require(Permission.WRITE)
        checked = drafted(draft)
        if receipt is NO_RECEIPT:
            return await self._writes.add(checked, actor)
        return await self._add(checked, actor, receipt)

    @repeated
    async def _add(self, draft: MovieDraft, actor: Actor, receipt: Receipt[Movie]) -> Movie:
        async with self._transactions() as tx:
            await receipt.claim(tx)
            movie = await tx.movies.add(draft, self._clock())
            await tx.events.append(added(movie, actor, current_trace()))
            await receipt.keep(tx, movie)
        return movie

    async def replace(
        self, movie_id: int, draft: MovieDraft | Members, *, version: int | None = None, actor: Actor = SYSTEM
    ) -> Movie:
        """Replace all client fields of a movie; those that `draft` leaves out become None.

        Raises:
            MovieNotFound: there is no such movie.
            InvalidMovie: the draft breaks rules.
            VersionConflict: the movie is at another version.
        """
        return await self._write(movie_id, lambda movie: drafted(draft, movie), version, actor)

    async def revise(
        self, movie_id: int, patch: MoviePatch | Members, *, version: int | None = None, actor: Actor = SYSTEM
    ) -> Movie:
        """Merge `patch` into a movie (RFC 7396): what it leaves out stays, None clears.

        Raises:
            MovieNotFound: there is no such movie.
            InvalidMovie: the movie would break rules.
            VersionConflict: the movie is at another version.
        """
        return await self._write(movie_id, lambda movie: patched(movie, patch), version, actor)

    @repeated
    async def remove(
        self, movie_id: int, *, version: int | None = None, purge: bool = False, actor: Actor = SYSTEM
    ) -> None:
        """Remove a movie; with `purge` its images go without the grace period.

        Raises:
            MovieNotFound: there is no such movie.
            VersionConflict: the movie is at another version.
        """
        actor.require(Permission.WRITE)
        async with self._transactions() as tx:
            movie = await tx.movies.get(movie_id)
            require_version(movie, version)
            now = self._clock()
            await tx.movies.remove(movie_id)
            due_at = now if purge else now + self._grace
            await discard_images(tx, movie_id, due_at, purge=purge, tickets=purge)
            await tx.events.append(
                MovieRemoved(
                    movie_id, movie.version + 1, next_time(movie, now), actor.name, movie, current_trace()
                )
            )

    async def revert(
        self,
        movie_id: int,
        to: int,
        *,
        version: int | None = None,
        actor: Actor = SYSTEM,
        receipt: Receipt[Reverted] = NO_RECEIPT,
    ) -> Reverted:
        """Make a movie what it was at version `to`; one that was removed comes back.

        That is a new version, which continues the old ones. The image of that time comes back while the
        image store still has it.

        Raises:
            MovieNotFound: there never was such a movie.
            InvalidMovie: it never had that version, or was removed by it, or that was pruned.
            VersionConflict: the movie is at another version than `version`; a removed one is at that of
                its removal.
            Replayed, RequestInProgress, KeyReused: see `Receipt.look`.
        """
        actor.require(Permission.WRITE)
        taken = 0
        while True:
            try:
                return await self._revert(movie_id, to, version, actor, receipt)
            except VersionConflict as conflict:
                # Others brought it back meanwhile, which they can do once for each removal. If what it would
                # be is taken twice, it is not they: the row is behind its log, or not unique otherwise.
                if version is not None or conflict.current == taken:
                    raise
                taken = conflict.current

    @repeated
    async def _revert(
        self, movie_id: int, to: int, version: int | None, actor: Actor, receipt: Receipt[Reverted]
    ) -> Reverted:
        async with self._transactions() as tx:
            await receipt.claim(tx)
            try:
                current: Movie | None = await tx.movies.get(movie_id)
            except MovieNotFound:
                current = None
            newest = await tx.events.newest(movie_id)
            if newest is None and current is None:
                raise MovieNotFound(movie_id)
            last = current.version if current else newest.version if newest else 0
            old = _reverted_to(await tx.events.get(movie_id, to))
            if version is not None and version != last:
                raise VersionConflict(movie_id, version, last)
            now = self._clock()
            # A removal is no version of the movie, and its time is its own.
            at = max(next_time(current or old, now), newest.at if newest else now)
            image = await recall_image(tx, movie_id, old.image, now + self._grace)
            lost = old.image is not None and image is None
            wanted = msgspec.structs.replace(
                old,
                image=image,
                image_url=None if lost else old.image_url,
                version=last + 1,
                updated_at=at,
            )
            if current is None:
                await tx.movies.restore(wanted)
                await tx.events.append(
                    MovieAdded(movie_id, wanted.version, at, actor.name, wanted, current_trace())
                )
            elif same_content(current, wanted):
                wanted = current
            else:
                wanted = msgspec.structs.replace(wanted, created_at=current.created_at)
                await tx.movies.replace(wanted)
                await tx.events.append(
                    MovieRevised(movie_id, wanted.version, at, actor.name, wanted, current_trace())
                )
            reverted = Reverted(present(wanted, self._store), lost)
            await receipt.keep(tx, reverted)
        return reverted

    async def prune(self, keep: timedelta, *, actor: Actor = SYSTEM) -> int:
        """Drop events that are older than `keep`, but for the newest of each movie; how many those were.

        That one holds the movie as it is, or last was, so that nothing is lost but how it came to be so.
        """
        actor.require(Permission.SWEEP)
        before = self._clock() - keep
        return await drop_all(self._transactions, lambda tx, limit: tx.events.prune(before, limit))

    async def add_many(  # noqa: PLR0913 - each with its name
        self,
        rows: AsyncIterable[Row],
        *,
        skip_invalid: bool = False,
        dry_run: bool = False,
        on_rejected: Callable[[Rejection], None] | None = None,
        actor: Actor = SYSTEM,
        receipt: Receipt[ImportReport] = NO_RECEIPT,
    ) -> ImportReport:
        """Add the movies of `rows` in one transaction: all of them, or without the invalid ones.

        Memory stays bounded, however many rows there are. With `dry_run` the rows are only checked.
        `on_rejected` is told of every invalid row, of which the report lists the first thousand.

        Raises:
            ImportRejected: some rows are invalid and `skip_invalid` is not set; nothing was added.
            Replayed, RequestInProgress, KeyReused: see `Receipt.look`; nothing was added.
        """
        actor.require(Permission.WRITE)
        tally, trace = Tally(on_rejected), current_trace()
        if dry_run:
            async with aclosing(draft_batches(rows, tally)) as batches:
                async for batch in batches:
                    tally.added += len(batch)
            report = tally.report(dry_run=True, skip_invalid=skip_invalid)
            await receipt.settle(self._transactions, report)
            return report
        async with self._transactions() as tx, aclosing(ahead(draft_batches(rows, tally))) as batches:
            await tx.take_time()
            await receipt.claim(tx)
            async for batch in batches:
                if tally.rejected_total and not skip_invalid:
                    continue
                movies = await tx.movies.add_many(batch, self._clock())
                await tx.events.append(*(added(movie, actor, trace) for movie in movies))
                tally.added += len(movies)
            report = tally.report(dry_run=False, skip_invalid=skip_invalid)
            await receipt.keep(tx, report)
            return report

    def _shown(self, change: Change) -> Change:
        event = msgspec.structs.replace(change.event, movie=present(change.event.movie, self._store))
        return msgspec.structs.replace(change, event=event)

    async def _write(
        self, movie_id: int, change: Callable[[Movie], MovieDraft], version: int | None, actor: Actor
    ) -> Movie:
        actor.require(Permission.WRITE)

        def revise(stored: Movie, now: datetime) -> Movie:
            try:
                fields = change(present(stored, self._store))
            except InvalidMovie as invalid:
                # A stale movie sent back whole differs in what the server sets: the conflict says why.
                if all(fault.code == READ_ONLY for fault in invalid.faults):
                    require_version(stored, version)
                raise
            require_version(stored, version)
            if fields == client_fields(stored):
                return stored
            return msgspec.structs.replace(
                stored, **msgspec.structs.asdict(fields), version=stored.version + 1, updated_at=now
            )

        return present(await self._writes.revise(movie_id, revise, actor), self._store)


def same_content(movie: Movie, other: Movie) -> bool:
    """Whether two versions of a movie hold the same client fields and the same image."""
    # Of an older system's image there is the URL alone.
    image, other_image = (each.image.key if each.image else each.image_url for each in (movie, other))
    return client_fields(movie) == client_fields(other) and image == other_image


def _reverted_to(event: Event | None) -> Movie:
    if event is None or isinstance(event, MovieRemoved):
        why = "no version of this movie" if event is None else "the version at which it was removed"
        raise InvalidMovie([Fault("unknown_version", f"is {why}", pointer="#/version")])
    return event.movie
