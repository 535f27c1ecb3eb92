"""Reading movies through a cache that the log of changes keeps true, see `following`.

The first level is in this process. The second one, if there is any, is shared with others, and nothing in
it is believed that this process cannot judge by the log as it has read it itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import msgspec

from watchly_adapters.following import Follower
from watchly_adapters.kept import COUNT, GENRES, MOVIE, PAGE, Answer, Count, Genres, Kept, Key, Kind, Shelf
from watchly_core.errors import Unavailable, alike
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.movies import Movie, MovieDraft
from watchly_core.ports import Cache, ChangeSignal, Interruptible, MovieQueries, Ticks
from watchly_core.queries import GenreCount, MovieQuery, Page
from watchly_core.tasks import cancelled

__all__ = ["CacheWatch", "CachedQueries", "Unwatched"]

T = TypeVar("T", Movie, Page, Genres, Count)

#: Bytes that one process keeps.
CACHE_BYTES: Final = 64_000_000
#: How old an answer gets at most: what other programs write to the table is not in the log before `reindex`.
KEEP: Final = timedelta(seconds=60)

_KEEP: Final = KEEP.total_seconds()
#: Positions that are remembered; and answers that are on their way to the second level.
_POSITIONS: Final = 10_000
_SHARING: Final = 100


class CacheWatch(Protocol):
    """Is told what a cache does."""

    def hit(self, level: str, age: float) -> None:
        """An answer was there, ``local`` or ``shared``, and was read so many seconds ago."""
        ...

    def miss(self) -> None:
        """An answer was not there."""
        ...

    def failed(self) -> None:
        """The second level did not answer."""
        ...


class Unwatched:
    """Satisfies `CacheWatch`, and tells nobody."""

    def hit(self, level: str, age: float) -> None:
        """Do nothing."""

    def miss(self) -> None:
        """Do nothing."""

    def failed(self) -> None:
        """Do nothing."""


class _Flight:
    """A read that is under way, for all who want its answer.

    Args:
        as_of: up to which change the log had been read when it began.
        began: when that was.

    Attributes:
        landed: set at its end, with an answer, an error, or neither if whoever asked has left.
    """

    def __init__(self, as_of: int, began: float) -> None:
        self.as_of, self.began = as_of, began
        self.landed = asyncio.Event()
        self.kept: Kept | None = None
        self.error: Exception | None = None


class _Positions:
    """When each of the last positions was first heard of, at or after which it was reached."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self._heard: OrderedDict[str, float] = OrderedDict()

    def heard(self, position: str) -> float:
        at = self._heard.get(position)
        if at is None:
            at = self._heard[position] = self._ticks()
            if len(self._heard) > _POSITIONS:
                self._heard.popitem(last=False)
        return at


class CachedQueries:
    """Satisfies `ports.MovieQueries`: movies, pages, counts and genres from a cache, the rest from a store.

    What it gives knows of every change of which this process has been notified, and of all changes up to
    two seconds ago; while that is not certain the store is asked. Many who miss the same
    are answered by one read. It is a cache while it is `running`.

    Args:
        primary: fills the cache, so it knows of every write.
        signal: tells of new changes.
        identify: names the catalogue, see `following.Follower`.
        rest: whatever is not cached is left to these queries, which may be a replica's; else to the primary.
        shared: the second level.
        room: bytes of memory for the first level.
        watch: is told of hits and misses.
        ticks: the time that passes.

    Attributes:
        log: how far this process has read the log.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        primary: MovieQueries,
        signal: ChangeSignal,
        identify: Callable[[], Awaitable[str]],
        *,
        rest: MovieQueries | None = None,
        shared: Cache | None = None,
        room: int = CACHE_BYTES,
        watch: CacheWatch | None = None,
        ticks: Ticks = time.monotonic,
    ) -> None:
        self.log: Follower = Follower(primary, signal, identify, ticks=ticks)
        self.log.on_restart = self._forget
        self._primary, self._rest, self._shared = primary, rest or primary, shared
        self._watch: CacheWatch = watch or Unwatched()
        part: object = shared
        self._interruptible = part if isinstance(part, Interruptible) else None
        self._ticks = ticks
        self._shelf = Shelf(room)
        self._flights: dict[Key, _Flight] = {}
        self._sharing: set[asyncio.Task[None]] = set()
        self._positions = _Positions(ticks)
        #: Answers have to tell of all that was done before.
        self._since = -math.inf

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Use the cache while the block runs, and close the second level behind it."""
        try:
            async with self.log.running():
                yield
        finally:
            self._forget()
            await cancelled(*self._sharing)
            if self._shared is not None:
                await self._shared.close()

    @property
    def in_use(self) -> bool:
        """Whether the log is followed, so that anything may be given out."""
        return self.log.is_current(self._ticks())

    def at(self, position: str) -> CachedQueries:
        """See the port."""
        view = copy(self)
        view._rest = self._rest.at(position)  # noqa: SLF001 - one of us
        # Whoever tells of a position has heard of it before.
        view._since = max(self._since, self._positions.heard(position))  # noqa: SLF001 - one of us
        return view

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        found = self._kept(movie_id, movie_id)
        if isinstance(found, Movie):
            return found
        return await self._ask(MOVIE, movie_id, movie_id, lambda queries: queries.get(movie_id))

    async def find(self, query: MovieQuery) -> Page:
        """See the port."""
        key = _digest(query, str(query.limit), query.cursor, query.sort)
        found = self._kept(key, None)
        if isinstance(found, Page):
            return found
        return await self._ask(PAGE, key, None, lambda queries: queries.find(query))

    async def count(self, query: MovieQuery) -> int:
        """See the port."""

        async def read(queries: MovieQueries) -> Count:
            return Count(await queries.count(query))

        key = _digest(query, "count")
        found = self._kept(key, None)
        return (found if isinstance(found, Count) else await self._ask(COUNT, key, None, read)).movies

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """See the port."""

        async def read(queries: MovieQueries) -> Genres:
            return Genres(tuple(await queries.genres(query)))

        key = _digest(query, "genres")
        found = self._kept(key, None)
        return (found if isinstance(found, Genres) else await self._ask(GENRES, key, None, read)).data

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """See the port."""
        return self._rest.export(query)

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """See the port."""
        return await self._rest.history(movie_id, before=before, limit=limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        """See the port."""
        return await self._rest.changes(query)

    async def last_change(self) -> int:
        """See the port."""
        return await self._rest.last_change()

    def _kept(self, key: Key, movie_id: int | None) -> Answer | None:
        """The answer of the first level, if it is good."""
        kept = self._shelf.get(key)
        if kept is None:
            return None
        now = self._ticks()
        if not self._is_good(kept, movie_id, now):
            return None
        self._watch.hit("local", now - kept.began)
        return kept.answer

    def _is_good(self, kept: Kept, movie_id: int | None, now: float) -> bool:
        log, since = self.log, self._since
        return (
            now - kept.began < _KEEP
            and log.is_current(now)
            # It was read after that moment, or all that was done up to there is known not to concern it.
            and (kept.sees >= since or log.confirmed >= since)
            and log.holds(kept.as_of, movie_id)
        )

    async def _ask(
        self, kind: Kind[T], key: Key, movie_id: int | None, read: Callable[[MovieQueries], Awaitable[T]]
    ) -> T:
        """The answer of the second level, or of the store; one read for all who ask at once."""
        while (flight := self._flights.get(key)) is not None:
            # One that began before a change of which this caller may know is not for it.
            if flight.began < self._since or not self.log.holds(flight.as_of, movie_id):
                break
            await flight.landed.wait()
            if flight.error is not None:
                raise alike(flight.error)
            landed = flight.kept
            if landed is not None and landed.sees >= self._since and isinstance(landed.answer, kind.answer):
                self._watch.miss()
                return landed.answer
            # Whoever was reading has left; of those who waited the first one reads for the others.
            if isinstance(found := self._kept(key, movie_id), kind.answer):
                return found
        if not self.in_use:
            self._watch.miss()
            return await read(self._rest)
        flight = self._flights[key] = _Flight(self.log.seq, self._ticks())
        try:
            return await self._fly(flight, kind, key, movie_id, read)
        except Exception as error:
            flight.error = error
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set()

    async def _fly(
        self,
        flight: _Flight,
        kind: Kind[T],
        key: Key,
        movie_id: int | None,
        read: Callable[[MovieQueries], Awaitable[T]],
    ) -> T:
        catalogue = self.log.catalogue
        found = await self._from_others(kind, kind.key(catalogue, key), movie_id)
        if found is not None and self.log.catalogue == catalogue:
            answer, kept = found
        else:
            self._watch.miss()
            flight.as_of, began = self.log.seq, self._ticks()
            answer = await read(self._primary)
            kept = Kept(answer, flight.as_of, began, began)
            if self._flights.get(key) is flight:
                self._share(kind, kind.key(catalogue, key), answer, kept)
        flight.kept = kept
        if self._flights.get(key) is flight:
            self._shelf.put(key, kept, kind.weigh(answer))
        return answer

    async def _from_others(self, kind: Kind[T], name: str, movie_id: int | None) -> tuple[T, Kept] | None:
        """The answer of the second level, if it is good."""
        # What is there was read before now, so it has to be known what was done up to then.
        if self._shared is None or self._is_interrupted() or self.log.confirmed < self._since:
            return None
        try:
            written = await self._shared.get(name)
        except Unavailable:
            self._watch.failed()
            return None
        found = None if written is None else kind.read(name, written)
        if found is None:
            return None
        answer, as_of, at = found
        now, age = self._ticks(), max(0.0, time.time() - at)
        kept = Kept(answer, as_of, now - age, self.log.confirmed)
        if not self._is_good(kept, movie_id, now):
            return None
        self._watch.hit("shared", age)
        return answer, kept

    def _share(self, kind: Kind[T], name: str, answer: T, kept: Kept) -> None:
        """Put an answer into the second level, which nobody waits for."""
        if self._shared is None or self._is_interrupted() or len(self._sharing) >= _SHARING:
            return
        at = time.time() - (self._ticks() - kept.began)
        if (value := kind.write(name, answer, kept.as_of, at)) is not None:
            task = asyncio.create_task(self._put(self._shared, name, value))
            self._sharing.add(task)
            task.add_done_callback(self._sharing.discard)

    async def _put(self, shared: Cache, name: str, value: bytes) -> None:
        try:
            await shared.put(name, value, KEEP)
        except Unavailable:
            self._watch.failed()

    def _is_interrupted(self) -> bool:
        """Whether the second level is not asked at present."""
        return self._interruptible is not None and self._interruptible.interrupted

    def _forget(self) -> None:
        """Keep nothing, of what is under way neither."""
        self._shelf.clear()
        self._flights.clear()


def _digest(query: MovieQuery, *more: object) -> str:
    """A name for what is asked: by the filters of a query, and what else makes a difference."""
    asked = (
        query.q,
        query.genre,
        query.release_year,
        query.min_release_year,
        query.max_release_year,
        more,
    )
    return hashlib.blake2b(msgspec.msgpack.encode(asked), digest_size=16).hexdigest()
