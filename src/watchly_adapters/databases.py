"""Databases: what each adapter of one offers as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal, Protocol, TypeAlias, TypeGuard, get_args, runtime_checkable

from watchly_core.ports import Backlogs, ChangeSignal, MovieQueries, PeopleQueries, Transactions

__all__ = ["EVERYTHING", "Database", "Kept", "is_database"]

#: What a database may keep beside movies and their events.
Kept: TypeAlias = Literal["images", "people", "receipts", "relays"]
#: All of that.
EVERYTHING: Final[frozenset[Kept]] = frozenset(get_args(Kept))
#: How people are told of what is not kept.
WORDS: Final[Mapping[Kept, str]] = {
    "images": "images",
    "people": "people",
    "receipts": "receipts of writes",
    "relays": "targets that are told of changes",
}


@runtime_checkable
class Database(AbstractAsyncContextManager["Database"], Protocol):
    """What a database adapter offers; it is entered while the application runs."""

    @property
    def keeps(self) -> frozenset[Kept]:
        """What it keeps beside movies and their events; the rest of its parts are never used."""
        ...

    @property
    def for_one_process(self) -> bool:
        """Whether what others do to it, and at which tasks they are, is not known here."""
        ...

    @property
    def queries(self) -> MovieQueries:
        """The read side, as whoever is about to write has to see it."""
        ...

    @property
    def reads(self) -> MovieQueries:
        """The read side for others: that of a replica, where there is one."""
        ...

    @property
    def position(self) -> str | None:
        """Where all that was done here can be seen, for `MovieQueries.at`; None before anything was."""
        ...

    @property
    def replica_answers(self) -> bool | None:
        """Whether the replica answers at present; None where there is none."""
        ...

    @property
    def transactions(self) -> Transactions:
        """The write side."""
        ...

    @property
    def people(self) -> PeopleQueries:
        """The read side of people."""
        ...

    @property
    def signal(self) -> ChangeSignal:
        """Tells of new changes, those of other processes as well, while the database is entered."""
        ...

    @property
    def backlogs(self) -> Backlogs:
        """What is still to be done in the background."""
        ...

    async def identity(self) -> str:
        """The name of the catalogue: no other one has it, nor this one when it is put back to what it was.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        ...

    def alone(self, task: str) -> AbstractAsyncContextManager[bool]:
        """Whether no other process is at `task` until the block ends.

        The block is cancelled when that is not certain any more.

        Raises:
            Unavailable: the database does not answer, or that was so.
        """
        ...


def is_database(made: object) -> TypeGuard[Database]:
    """Whether something has all that a database offers."""
    return isinstance(made, Database)
