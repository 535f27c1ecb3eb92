"""What a database has that keeps movies and not all of the rest: its author writes the stores that it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Never, Self
from uuid import uuid4

from watchly_adapters.databases import Kept
from watchly_core.backlogs import Backlog
from watchly_core.errors import ImageNotFound, Misconfigured
from watchly_core.images import ImageRecord
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
    Transactions,
    UserRepository,
)
from watchly_core.signals import Signal


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
        self.movies, self.events = movies, events
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
        self.signal = Signal()
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
        return _lacking("people")

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

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


def _lacking(what: str) -> Never:
    raise Misconfigured(f"this store keeps no {what}")
