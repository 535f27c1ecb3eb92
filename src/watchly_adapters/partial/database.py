"""What a database has beside its stores: little is to be written where it is for one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import uuid4

from watchly_adapters.databases import Kept
from watchly_core.api_keys import ApiKey
from watchly_core.backlogs import Backlog
from watchly_core.errors import UserNotFound
from watchly_core.people import Account, User
from watchly_core.ports import Backlogs, MovieQueries, PeopleQueries, Transactions
from watchly_core.signals import Signal
from watchly_core.signing_keys import SigningKey


class PartialDatabase:
    """Satisfies `databases.Database` for a subclass that has `queries` and `transactions`.

    It is for one process: nothing tells of changes that others make, and each is alone at its tasks.

    Attributes:
        keeps: what there is beside movies and events.
        for_one_process: it is.
        queries: the read side.
        transactions: the write side; tell `signal` after the commits of those that have appended events.
        signal: satisfies `ports.ChangeSignal`.
        people: satisfies `ports.PeopleQueries`: there are none.
        backlogs: satisfies `ports.Backlogs`: the database itself.
    """

    keeps: frozenset[Kept] = frozenset()
    for_one_process: bool = True
    queries: MovieQueries
    transactions: Transactions

    def __init__(self) -> None:
        self.signal: Signal = Signal()
        self.people: PeopleQueries = _Nobody()
        self.backlogs: Backlogs = self
        self._identity = uuid4().hex
        self._tasks: set[str] = set()

    @property
    def reads(self) -> MovieQueries:
        """The same as `queries`."""
        return self.queries

    @property
    def position(self) -> str | None:
        """See `ports.MovieQueries.at`: this store tells none."""
        return None

    @property
    def replica_answers(self) -> bool | None:
        """There is none."""
        return None

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
