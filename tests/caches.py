"""Stores that are read through a cache, and what is done to caches to try them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count
from typing import Final, Protocol, TypeVar

from watchly_adapters.cached import CachedQueries, CacheWatch
from watchly_adapters.following import Follower
from watchly_adapters.testing.positions import PositionedStore
from watchly_adapters.testing.stores import NOON
from watchly_core.errors import WatchlyError
from watchly_core.events import Change, ChangeQuery, Changes, MovieRevised
from watchly_core.movies import Movie, MovieDraft
from watchly_core.ports import (
    Cache,
    ChangeSignal,
    MovieQueries,
    MovieRepository,
    PeopleQueries,
    Transaction,
    Transactions,
)
from watchly_core.queries import GenreCount, MovieQuery, Page

T = TypeVar("T")

DEADLINE: Final = 30.0


class Watch:
    """Satisfies `CacheWatch`: counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.ages: list[float] = []

    def hit(self, level: str, age: float) -> None:
        self.counts[level] += 1
        self.ages.append(age)

    def miss(self) -> None:
        self.counts["miss"] += 1

    def failed(self) -> None:
        self.counts["failed"] += 1


class IdentifiedStore(PositionedStore, Protocol):
    async def identity(self) -> str: ...


def cached_over(
    store: IdentifiedStore,
    *,
    shared: Cache | None = None,
    watch: CacheWatch | None = None,
    primary: MovieQueries | None = None,
) -> CachedQueries:
    """What one process reads through."""
    return CachedQueries(
        primary or store.queries, store.signal, store.identity, rest=store.reads, shared=shared, watch=watch
    )


async def caught_up(log: Follower, store: IdentifiedStore) -> None:
    """Wait until a process has read the log up to what is its end now."""
    last = await store.queries.last_change()
    async with asyncio.timeout(DEADLINE):
        while True:
            seen = log.told.count
            if seen and log.seq >= last:
                return
            await log.told.beyond(seen)


class Gated:
    """A read side that counts what it is asked, and keeps its answers back when it is told to.

    Attributes:
        asked: how often, by what.
        held: answers that are read and not given yet.
        fault: raised in place of them.
    """

    def __init__(self, real: MovieQueries) -> None:
        self._real = real
        self.asked: Counter[str] = Counter()
        self.held = 0
        self.fault: Exception | None = None
        self.gates: dict[str, asyncio.Event] = {}

    def close(self, *names: str) -> asyncio.Event:
        """Keep back what is asked by these names from now on, until what this returns is set."""
        gate = asyncio.Event()
        self.gates.update(dict.fromkeys(names, gate))
        return gate

    def open(self) -> None:
        """Keep back nothing more of what is asked from now on."""
        self.gates.clear()

    async def holds(self, number: int) -> None:
        """Wait until so many are kept back."""
        async with asyncio.timeout(DEADLINE):
            while True:
                if self.held >= number:
                    return
                await asyncio.sleep(0.001)

    async def _given(self, name: str, answer: Awaitable[T]) -> T:
        self.asked[name] += 1
        gate = self.gates.get(name)
        given = await answer
        if gate is not None:
            self.held += 1
            try:
                await gate.wait()
            finally:
                self.held -= 1
        if self.fault is not None:
            raise self.fault
        return given

    def at(self, position: str) -> Gated:
        self._real.at(position)
        return self

    async def get(self, movie_id: int) -> Movie:
        return await self._given("get", self._real.get(movie_id))

    async def find(self, query: MovieQuery) -> Page:
        return await self._given("find", self._real.find(query))

    async def count(self, query: MovieQuery) -> int:
        return await self._given("count", self._real.count(query))

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        return await self._given("genres", self._real.genres(query))

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        self.asked["export"] += 1
        return self._real.export(query)

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        return await self._given("history", self._real.history(movie_id, before=before, limit=limit))

    async def changes(self, query: ChangeQuery) -> Changes:
        return await self._given("changes", self._real.changes(query))

    async def last_change(self) -> int:
        return await self._given("last_change", self._real.last_change())


class Settled:
    """The read side of a store through a cache, asked only when that has heard of all that was written.

    Everything is asked for twice: once it may be read, and then it is there.
    """

    def __init__(self, store: IdentifiedStore, cached: CachedQueries, view: CachedQueries) -> None:
        self._store, self._cached, self._view = store, cached, view
        self.answered = 0

    def at(self, position: str) -> Settled:
        return Settled(self._store, self._cached, self._view.at(position))

    async def _twice(self, ask: Callable[[CachedQueries], Awaitable[T]]) -> T:
        await caught_up(self._cached.log, self._store)
        first, second = [await _outcome(ask(self._view)) for _ in range(2)]
        assert _shown(first) == _shown(second)
        if isinstance(second, WatchlyError):
            raise second
        self.answered += self._view is self._cached
        return second

    async def get(self, movie_id: int) -> Movie:
        return await self._twice(lambda queries: queries.get(movie_id))

    async def find(self, query: MovieQuery) -> Page:
        return await self._twice(lambda queries: queries.find(query))

    async def count(self, query: MovieQuery) -> int:
        return await self._twice(lambda queries: queries.count(query))

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        # A list, as those of stores are.
        return list(await self._twice(lambda queries: queries.genres(query)))

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        return self._view.export(query)

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        return await self._view.history(movie_id, before=before, limit=limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        return await self._view.changes(query)

    async def last_change(self) -> int:
        return await self._view.last_change()


async def _outcome(answer: Awaitable[T]) -> T | WatchlyError:
    try:
        return await answer
    except WatchlyError as error:
        return error


def _shown(outcome: object) -> object:
    return repr(outcome) if isinstance(outcome, WatchlyError) else outcome


class CachedStore:
    """A store whose read side goes through a cache.

    Attributes:
        watch: what became of reads.
    """

    def __init__(
        self, store: IdentifiedStore, cached: CachedQueries, watch: Watch, transactions: Transactions
    ) -> None:
        self._store, self.watch, self.transactions = store, watch, transactions
        self.queries = Settled(store, cached, cached)
        self.reads = self.queries

    @property
    def people(self) -> PeopleQueries:
        return self._store.people

    @property
    def signal(self) -> ChangeSignal:
        return self._store.signal

    @property
    def position(self) -> str | None:
        return self._store.position

    async def identity(self) -> str:
        return await self._store.identity()


class _NotedMovies:
    """The movies of a transaction, and which of them were written."""

    def __init__(self, real: MovieRepository) -> None:
        self._real = real
        self.written: list[Movie] = []

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        self.written.append(await self._real.add(draft, at))
        return self.written[-1]

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        added = await self._real.add_many(drafts, at)
        self.written += added
        return added

    async def get(self, movie_id: int) -> Movie:
        return await self._real.get(movie_id)

    async def get_free(self, movie_ids: Collection[int]) -> Sequence[Movie]:
        return await self._real.get_free(movie_ids)

    async def replace(self, movie: Movie) -> None:
        await self._real.replace(movie)
        self.written.append(movie)

    async def replace_many(self, movies: Sequence[Movie]) -> None:
        await self._real.replace_many(movies)
        self.written += movies

    async def remove(self, movie_id: int) -> None:
        movie = await self._real.get(movie_id)
        await self._real.remove(movie_id)
        self.written.append(movie)

    async def restore(self, movie: Movie) -> None:
        await self._real.restore(movie)
        self.written.append(movie)


class _NotedTransaction:
    """A transaction of which only the movies matter."""

    def __init__(self, real: Transaction) -> None:
        self._real = real
        self.movies = _NotedMovies(real.movies)
        self.events, self.images, self.receipts, self.relays = (
            real.events,
            real.images,
            real.receipts,
            real.relays,
        )
        self.users, self.sessions, self.api_keys = real.users, real.sessions, real.api_keys
        self.signing_keys, self.throttles = real.signing_keys, real.throttles

    async def hurry(self) -> None:
        await self._real.hurry()

    async def take_time(self) -> None:
        await self._real.take_time()


class NotedTransactions:
    """The write side of a store, with an event for each movie that is written, as the use cases leave one.

    The suites of movies write movies alone.
    """

    def __init__(self, real: Transactions) -> None:
        self._real = real
        self._versions = count(1_000_000)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Transaction]:
        async with self._real() as tx:
            noted = _NotedTransaction(tx)
            yield noted
            for movie in noted.movies.written:
                await tx.events.append(MovieRevised(movie.id, next(self._versions), NOON, "system", movie))


@asynccontextmanager
async def through_cache(
    store: IdentifiedStore, shared: Cache | None = None, *, noted: bool = False
) -> AsyncIterator[CachedStore]:
    """The same store, read through a cache while the block runs; `noted`, see `NotedTransactions`."""
    watch = Watch()
    cached = cached_over(store, shared=shared, watch=watch)
    transactions = NotedTransactions(store.transactions) if noted else store.transactions
    async with cached.running():
        read = CachedStore(store, cached, watch, transactions)
        yield read
        # One or two may have come just when the log was not known to be read to its end.
        assert watch.counts["local"] or read.queries.answered < 3
