"""Every port in memory: transactional, fast, and proven equal to the real adapters by `testing`.

Transactions run one after another, each waiting for the one before it when it first does anything but claim
a receipt, so a task must not begin a second one inside the first.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Self

from watchly_adapters.databases import EVERYTHING, Kept
from watchly_adapters.memory.backlogs import MemoryBacklogs
from watchly_adapters.memory.caches import MemoryCache
from watchly_adapters.memory.events import Log, MemoryEvents
from watchly_adapters.memory.image_ledger import MemoryImageLedger
from watchly_adapters.memory.images import MemoryImages
from watchly_adapters.memory.people import (
    MemoryApiKeys,
    MemoryPeople,
    MemoryPeopleQueries,
    MemorySessions,
    MemorySigningKeys,
    MemoryUsers,
    PeopleTables,
)
from watchly_adapters.memory.rates import MemoryRateLimiter
from watchly_adapters.memory.receipts import ClaimedName, MemoryReceipts, Receipt
from watchly_adapters.memory.relays import MemoryRelayLedger, RelayTables
from watchly_adapters.memory.throttles import MemoryThrottles
from watchly_adapters.partial import ListedQueries, PartialDatabase, SerialTransactions, Turn
from watchly_core.errors import (
    InvalidPosition,
    MovieNotFound,
    VersionConflict,
)
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.images import ImageRecord
from watchly_core.movies import MAX_ID, Movie, MovieDraft, created
from watchly_core.queries import MovieQuery, Position
from watchly_core.text import entries

__all__ = ["MemoryCache", "MemoryDatabase", "MemoryImages", "MemoryRateLimiter"]

_POSITION = re.compile(r"[0-9]{1,19}", re.ASCII)


class MemoryDatabase(PartialDatabase):
    """The movies, events and image records of a catalogue, and its people, in memory.

    Entering it does nothing; it is there so that this class can stand where a real database does.

    Attributes:
        keeps: everything.
        queries: satisfies `ports.MovieQueries`.
        people: satisfies `ports.PeopleQueries`.
        transactions: satisfies `ports.Transactions`.
        signal: satisfies `ports.ChangeSignal`.
        backlogs: satisfies `ports.Backlogs`.

    Args:
        ids: the ids of the movies that are added, in turn; 1, 2, 3 … by themselves. One that is no id, or
            that some movie has, is a ValueError of the call that adds, as is the end of them.
    """

    keeps: frozenset[Kept] = EVERYTHING

    def __init__(self, ids: Iterable[int] | None = None) -> None:
        super().__init__()
        tables = _Tables(Log(self.signal), count(1) if ids is None else ids)
        self.queries: MemoryMovieQueries = MemoryMovieQueries(tables)
        self.people: MemoryPeopleQueries = MemoryPeopleQueries(tables.people)
        self.transactions: SerialTransactions[MemoryTransaction] = SerialTransactions(
            lambda turn: MemoryTransaction(tables, turn), commit=tables.commit
        )
        self.backlogs: MemoryBacklogs = MemoryBacklogs(tables.log, tables.images, tables.relays)
        self._tables = tables

    @property
    def position(self) -> str:
        """See `ports.MovieQueries.at`: how many transactions were committed."""
        return str(self._tables.commits)


class _Tables:
    """What is committed. Values are immutable, so that readers may keep them."""

    def __init__(self, log: Log, ids: Iterable[int]) -> None:
        self._next_ids = iter(ids)
        self.movies: dict[int, Movie] = {}
        self.ids: list[int] = []
        self.log: Log = log
        self.images: dict[str, ImageRecord] = {}
        self.receipts: dict[ClaimedName, Receipt] = {}
        self.relays: RelayTables = RelayTables()
        self.people: PeopleTables = PeopleTables()
        self._entries: dict[int, tuple[Movie, list[str]]] = {}
        self.commits: int = 0

    def next_id(self) -> int:
        # As with a sequence, the id of a movie whose transaction failed is not given out again.
        movie_id = next(self._next_ids, None)
        if movie_id is None:
            raise ValueError("there are no more ids for movies")
        if movie_id in self.movies or not 1 <= movie_id <= MAX_ID:
            raise ValueError(f"{movie_id} cannot be the id of another movie")
        return movie_id

    def entries(self, movie: Movie) -> list[str]:
        """What a movie is found by, made when it is first searched."""
        made_of, found = self._entries.get(movie.id, (None, []))
        if made_of is not movie:
            found = entries(movie.title, movie.description)
            self._entries[movie.id] = (movie, found)
        return found

    async def commit(self, tx: MemoryTransaction) -> None:
        """Take in what a transaction has done, while nobody else does anything."""
        self.commits += 1
        for movie_id, movie in tx.movies.changes.items():
            if movie is not None:
                if movie_id not in self.movies:
                    insort(self.ids, movie_id)
                self.movies[movie_id] = movie
            elif self.movies.pop(movie_id, None) is not None:
                del self.ids[bisect_left(self.ids, movie_id)]
                self._entries.pop(movie_id, None)
        self.log.commit(tx.events.appended, tx.events.pruned)
        tx.images.commit()
        tx.receipts.commit()
        tx.relays.commit()
        tx.people.commit()


class MemoryMovieQueries(ListedQueries):
    """Satisfies `ports.MovieQueries`."""

    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    async def movies(self, query: MovieQuery) -> Collection[Movie]:  # noqa: ARG002 - others look only for some
        """All movies."""
        return self._tables.movies.values()

    def entries(self, movie: Movie) -> list[str]:
        """What a movie is found by."""
        return self._tables.entries(movie)

    async def placed(self, query: MovieQuery, most: int | None) -> tuple[list[tuple[Movie, Position]], bool]:
        """At most so many movies after the query's cursor, and whether its words had to be guessed."""
        if not query.is_plain:
            return await super().placed(query, most)
        # By id, the most frequent one.
        after = query.cursor.position[0] if query.cursor else None
        ids = self._tables.ids
        start = bisect_right(ids, after) if isinstance(after, int) else 0
        shown = ids[start:] if most is None else ids[start : start + most]
        return [(self._tables.movies[movie_id], (movie_id,)) for movie_id in shown], False

    def at(self, position: str) -> Self:
        """See the port."""
        if _POSITION.fullmatch(position) is None:
            raise InvalidPosition("no write has returned such a position")
        return self

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        try:
            return self._tables.movies[movie_id]
        except KeyError:
            raise MovieNotFound(movie_id) from None

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """See the port."""
        changes = self._tables.log.of_movie(movie_id)[::-1]
        return [change for change in changes if before is None or change.event.version < before][:limit]

    async def last_change(self) -> int:
        """See the port."""
        return self._tables.log.last

    async def changes(self, query: ChangeQuery) -> Changes:
        """See the port."""
        return self._tables.log.read(query)


class MemoryTransaction:
    """Satisfies `ports.Transaction`: what it changes is kept apart until the commit."""

    def __init__(self, tables: _Tables, turn: Turn) -> None:
        self.movies: MemoryMovies = MemoryMovies(tables, turn)
        self.events: MemoryEvents = MemoryEvents(tables.log, turn)
        self.images: MemoryImageLedger = MemoryImageLedger(tables.images, turn)
        self.receipts: MemoryReceipts = MemoryReceipts(tables.receipts, turn)
        self.relays: MemoryRelayLedger = MemoryRelayLedger(tables.relays, turn)
        self.people: MemoryPeople = MemoryPeople(tables.people, turn)
        self.users: MemoryUsers = self.people.users
        self.sessions: MemorySessions = self.people.sessions
        self.api_keys: MemoryApiKeys = self.people.api_keys
        self.signing_keys: MemorySigningKeys = self.people.signing_keys
        self.throttles: MemoryThrottles = self.people.throttles

    async def hurry(self) -> None:
        """See the port: it waits for its turn alone."""

    async def take_time(self) -> None:
        """See the port: nothing is in a hurry here."""


class MemoryMovies:
    """Satisfies `ports.MovieRepository`."""

    def __init__(self, tables: _Tables, turn: Turn) -> None:
        self._tables, self._turn = tables, turn
        self.changes: dict[int, Movie | None] = {}

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        """See the port."""
        await self._turn()
        movie = created(self._tables.next_id(), draft, at)
        self.changes[movie.id] = movie
        return movie

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        """See the port."""
        return [await self.add(draft, at) for draft in drafts]

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        await self._turn()
        movie = (self.changes if movie_id in self.changes else self._tables.movies).get(movie_id)
        if movie is None:
            raise MovieNotFound(movie_id)
        return movie

    async def get_free(self, movie_ids: Collection[int]) -> Sequence[Movie]:
        """See the port: whoever has the turn holds them all."""
        movies = []
        for movie_id in movie_ids:
            with suppress(MovieNotFound):
                movies.append(await self.get(movie_id))
        return movies

    async def replace(self, movie: Movie) -> None:
        """See the port."""
        await self.get(movie.id)
        self.changes[movie.id] = movie

    async def replace_many(self, movies: Sequence[Movie]) -> None:
        """See the port."""
        for movie in movies:
            await self.replace(movie)

    async def remove(self, movie_id: int) -> None:
        """See the port."""
        await self.get(movie_id)
        self.changes[movie_id] = None

    async def restore(self, movie: Movie) -> None:
        """See the port."""
        try:
            found = await self.get(movie.id)
        except MovieNotFound:
            self.changes[movie.id] = movie
        else:
            raise VersionConflict(movie.id, movie.version - 1, found.version)
