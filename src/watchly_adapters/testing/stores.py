"""What the suites of stores stand on: an empty store for each test, and values to put into it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Protocol

import pytest

from watchly_adapters.testing.suites import Suite
from watchly_core.events import Change, Event
from watchly_core.movies import MovieDraft
from watchly_core.people import Role, User
from watchly_core.ports import ChangeSignal, MovieQueries, PeopleQueries, Transactions

__all__ = ["Store", "StoreContract"]

NOON = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(seconds=1, microseconds=1)

HEAT = MovieDraft(title="Heat", description="A thief and a detective.", release_year=1995, genre="Crime")
BARE = MovieDraft(title="Untitled")

#: What stands for the hash of a password.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"
#: Seconds in which nothing that waits for somebody else would have ended.
AT_ONCE = 5.0


class Historian(Protocol):
    """Whoever knows what happened to a movie: a read side, or a catalogue."""

    async def history(self, movie_id: int) -> Sequence[Change]:
        """The changes of one movie, newest first."""
        ...


async def events_of(historian: Historian, movie_id: int) -> list[Event]:
    """The events of one movie, newest first, without their numbers."""
    return [change.event for change in await historian.history(movie_id)]


class Failure(Exception):
    """Raised inside a transaction to undo it."""


class Store(Protocol):
    """A store under test, empty at the start of each test."""

    @property
    def queries(self) -> MovieQueries:
        """Its read side."""
        ...

    @property
    def transactions(self) -> Transactions:
        """Its write side."""
        ...

    @property
    def people(self) -> PeopleQueries:
        """Its read side of people."""
        ...

    @property
    def signal(self) -> ChangeSignal:
        """Tells of what was committed."""
        ...


async def add_user(store: Store, email: str = "ada@films.example", role: Role = Role.EDITOR) -> User:
    """A user who is there for others to belong to."""
    async with store.transactions() as tx:
        return await tx.users.add(email, role, HASH, NOON)


class StoreContract(Suite):
    """What the suites of stores have in common: their one fixture, `store`.

    Attributes:
        in_turn: set it where transactions run one after another as a whole, each waiting for its turn.
    """

    in_turn: bool = False

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """An empty store for each test."""
        raise NotImplementedError("supply a fixture `store`: an empty store for each test")
