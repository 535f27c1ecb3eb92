"""What a database has that keeps movies and not all of the rest: its author writes the stores that it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Final, Never, Self
from uuid import uuid4

import msgspec

from watchly_adapters.databases import Kept
from watchly_core.api_keys import ApiKey
from watchly_core.backlogs import Backlog
from watchly_core.errors import ImageNotFound, InvalidPosition, Misconfigured, UserNotFound
from watchly_core.images import ImageRecord
from watchly_core.listing import count_genres, entries_of, found, listed
from watchly_core.movies import Movie, MovieDraft, client_fields
from watchly_core.people import Account, User
from watchly_core.ports import (
    ApiKeyRepository,
    EventLog,
    ImageLedger,
    MovieQueries,
    MovieRepository,
    PeopleQueries,
    Receipts,
    RelayLedger,
    SessionRepository,
    SigningKeyRepository,
    ThrottleLedger,
    Transaction,
    Transactions,
    UserRepository,
)
from watchly_core.queries import GenreCount, MovieQuery, Page, Position
from watchly_core.signals import Signal
from watchly_core.signing_keys import SigningKey

__all__ = ["ListedQueries", "PartialDatabase", "PartialTransaction", "SerialTransactions", "Turn"]

#: Movies that an export gives at once.
_EXPORT_BATCH: Final = 500


class PartialTransaction:
    """Satisfies `ports.Transaction` with the stores that are given, and no others.

    What needs another one is refused as `Misconfigured`; of images there are none.

    Args:
        movies: movies.
        events: the log.
        images: the ledger of images, if there is one.
        receipts: the receipts of writes, if there are any.
    """

    def __init__(
        self,
        movies: MovieRepository,
        events: EventLog,
        *,
        images: ImageLedger | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        self.movies: MovieRepository = movies
        self.events: EventLog = events
        self.images: ImageLedger = images or _NoImages()
        self._receipts = receipts

    async def hurry(self) -> None:
        """See the port: it waits as long as it does."""

    async def take_time(self) -> None:
        """See the port: nothing is in a hurry here."""

    @property
    def receipts(self) -> Receipts:
        """See the port."""
        return self._receipts or _lacking("receipts of writes")

    @property
    def relays(self) -> RelayLedger:
        """There is none."""
        return _lacking("targets that are told of changes")

    @property
    def users(self) -> UserRepository:
        """There are none."""
        return _lacking("people")

    @property
    def sessions(self) -> SessionRepository:
        """There are none."""
        return _lacking("people")

    @property
    def api_keys(self) -> ApiKeyRepository:
        """There are none."""
        return _lacking("people")

    @property
    def signing_keys(self) -> SigningKeyRepository:
        """There are none."""
        return _lacking("people")

    @property
    def throttles(self) -> ThrottleLedger:
        """There are none."""
        return _lacking("people")


class PartialDatabase:
    """Satisfies `databases.Database` for a subclass that has `queries` and `transactions`.

    It is for one process: nothing tells of changes that others make, and each is alone at its tasks.

    Attributes:
        keeps: what there is beside movies and events.
        queries: the read side.
        transactions: the write side; tell `signal` after the commits of those that have appended events.
        signal: satisfies `ports.ChangeSignal`.
    """

    keeps: frozenset[Kept] = frozenset()
    queries: MovieQueries
    transactions: Transactions
    #: There is no replica, and no position to be reached.
    replica_answers: bool | None = None
    position: str | None = None

    def __init__(self) -> None:
        self.signal: Signal = Signal()
        self._identity = uuid4().hex
        self._tasks: set[str] = set()

    @property
    def reads(self) -> MovieQueries:
        """The same as `queries`."""
        return self.queries

    @property
    def backlogs(self) -> Self:
        """Itself."""
        return self

    @property
    def people(self) -> PeopleQueries:
        """There are none."""
        return _Nobody()

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give back what it holds: nothing."""

    async def backlog(self, now: datetime) -> Backlog:  # noqa: ARG002 - nothing is ever due
        """See `ports.Backlogs`: nothing but the number of the last change."""
        return Backlog(numbered_up_to=await self.queries.last_change())

    async def identity(self) -> str:
        """A name that ends with this object."""
        return self._identity

    async def ping(self) -> None:
        """See `databases.Database`: ask for the last change."""
        await self.queries.last_change()

    @asynccontextmanager
    async def alone(self, task: str) -> AsyncIterator[bool]:
        """Whether nobody else of this process is at `task` until the block ends."""
        if task in self._tasks:
            yield False
            return
        self._tasks.add(task)
        try:
            yield True
        finally:
            self._tasks.remove(task)


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


class Turn:
    """That of a transaction among those of one store, which run one after another."""

    def __init__(
        self, lock: asyncio.Lock, begin: Callable[[], Awaitable[object]], claimed: set[Hashable]
    ) -> None:
        self._lock, self._begin, self._claimed = lock, begin, claimed
        self._own = set[Hashable]()
        self.has_come: bool = False

    async def __call__(self) -> None:
        """Wait for it, unless it has come."""
        if not self.has_come:
            await self._lock.acquire()
            try:
                await self._begin()
            except BaseException:
                self._lock.release()
                raise
            self.has_come = True

    def claim(self, name: Hashable) -> bool:
        """Whether this name is the transaction's until it ends; nothing is waited for."""
        if name in self._claimed and name not in self._own:
            return False
        self._own.add(name)
        self._claimed.add(name)
        return True

    def end(self) -> None:
        """Let the next one have its turn, and others the names."""
        self._claimed -= self._own
        if self.has_come:
            self._lock.release()


class SerialTransactions:
    """Satisfies `ports.Transactions` by one after another, from the first thing on that each does.

    Args:
        make: makes the stores; what they do begins by awaiting the turn, but for claims of receipts.
        begin: begins what is done or undone as a whole.
        commit: does it.
        roll_back: undoes it.
        on_commit: called after each commit.
    """

    def __init__(
        self,
        make: Callable[[Turn], Transaction],
        *,
        begin: Callable[[], Awaitable[object]],
        commit: Callable[[], Awaitable[object]],
        roll_back: Callable[[], Awaitable[object]],
        on_commit: Callable[[], None],
    ) -> None:
        self._make, self._begin, self._commit, self._roll_back = make, begin, commit, roll_back
        self._on_commit, self._lock, self._claimed = on_commit, asyncio.Lock(), set[Hashable]()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Transaction]:
        """See the port."""
        turn, done = Turn(self._lock, self._begin, self._claimed), False
        try:
            yield self._make(turn)
            if turn.has_come:
                await self._commit()
            done = True
        finally:
            try:
                if turn.has_come and not done:
                    await self._roll_back()
            finally:
                turn.end()
        self._on_commit()


class _NoImages:
    """A ledger that knows of none, and takes none."""

    async def add(self, record: ImageRecord) -> None:  # noqa: ARG002 - as the others
        _lacking("images")

    async def get(self, key: str) -> ImageRecord:
        raise ImageNotFound(key)

    async def of_movie(self, movie_id: int) -> Sequence[ImageRecord]:  # noqa: ARG002 - as the others
        return ()

    async def replace(self, record: ImageRecord) -> None:
        raise ImageNotFound(record.image.key)

    async def due(self, now: datetime, limit: int) -> Sequence[ImageRecord]:  # noqa: ARG002 - as the others
        return ()

    async def dead(self, limit: int) -> Sequence[ImageRecord]:  # noqa: ARG002 - as the others
        return ()

    async def remove(self, key: str) -> None:
        """There is nothing to forget."""


class _Nobody:
    """Satisfies `ports.PeopleQueries`, and knows none."""

    async def account(self, email: str) -> Account | None:  # noqa: ARG002 - as the others
        return None

    async def user(self, user_id: int) -> User:
        raise UserNotFound(user_id)

    async def users(self, after: int, limit: int) -> Sequence[User]:  # noqa: ARG002 - as the others
        return ()

    async def session_user(self, session_id: str) -> User | None:  # noqa: ARG002 - as the others
        return None

    async def api_key(self, prefix: str) -> tuple[ApiKey, User | None] | None:  # noqa: ARG002 - as the others
        return None

    async def api_keys(self, user_id: int | None) -> Sequence[ApiKey]:  # noqa: ARG002 - as the others
        return ()

    async def signing_keys(self) -> Sequence[SigningKey]:
        return ()


def _lacking(what: str) -> Never:
    raise Misconfigured(f"this store keeps no {what}")
