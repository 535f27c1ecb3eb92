"""Transactions one after another, and what they have where a store keeps not everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Generic, Never, TypeVar

from watchly_adapters.databases import WORDS, Kept
from watchly_core.errors import ImageNotFound, Misconfigured
from watchly_core.images import ImageRecord
from watchly_core.ports import (
    ApiKeyRepository,
    EventLog,
    ImageLedger,
    MovieRepository,
    Receipts,
    RelayLedger,
    SessionRepository,
    SigningKeyRepository,
    ThrottleLedger,
    Transaction,
    UserRepository,
)

T = TypeVar("T", bound=Transaction)


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


async def _nothing() -> None:
    """What there is to do where nothing is."""


class SerialTransactions(Generic[T]):
    """Satisfies `ports.Transactions` by one after another, from the first thing on that each does.

    Args:
        make: makes the stores; what they do begins by awaiting the turn, but for claims of receipts.
        commit: does as a whole what one of them has done; not called if its turn has never come.
        begin: begins that, when the turn has come.
        roll_back: undoes it.
        on_commit: called after each commit.
    """

    def __init__(
        self,
        make: Callable[[Turn], T],
        *,
        commit: Callable[[T], Awaitable[object]],
        begin: Callable[[], Awaitable[object]] = _nothing,
        roll_back: Callable[[], Awaitable[object]] = _nothing,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._make, self._begin, self._commit, self._roll_back = make, begin, commit, roll_back
        self._on_commit, self._lock, self._claimed = on_commit, asyncio.Lock(), set[Hashable]()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[T]:
        """See the port."""
        turn, done = Turn(self._lock, self._begin, self._claimed), False
        tx = self._make(turn)
        try:
            yield tx
            if turn.has_come:
                await self._commit(tx)
            done = True
        finally:
            try:
                if turn.has_come and not done:
                    await self._roll_back()
            finally:
                turn.end()
        if turn.has_come:
            self._on_commit()


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
        return self._receipts or _lacking("receipts")

    @property
    def relays(self) -> RelayLedger:
        """There is none."""
        return _lacking("relays")

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


def _lacking(what: Kept) -> Never:
    raise Misconfigured(f"this store keeps no {WORDS[what]}")
