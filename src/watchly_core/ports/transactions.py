"""The write side: transactions, and the stores that write into one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from watchly_core.ports.images import ImageLedger
from watchly_core.ports.movies import EventLog, MovieRepository, Receipts
from watchly_core.ports.people import (
    ApiKeyRepository,
    SessionRepository,
    SigningKeyRepository,
    ThrottleLedger,
    UserRepository,
)
from watchly_core.ports.relays import RelayLedger


class Transaction(Protocol):
    """The stores, all writing into one transaction."""

    async def hurry(self) -> None:
        """From here on, wait for other transactions a moment at most: what would take longer raises `Undone`.

        A transaction that is a host's, or has to wait for its turn as a whole, waits all the same.
        """
        ...

    async def take_time(self) -> None:
        """From here on, this is for many rows, from somebody who may send them slowly: be patient with both.

        That has an end as well, if a later one. A transaction that is a host's goes on as it is.
        """
        ...

    @property
    def movies(self) -> MovieRepository:
        """Movies."""
        ...

    @property
    def events(self) -> EventLog:
        """The log."""
        ...

    @property
    def images(self) -> ImageLedger:
        """The ledger of images."""
        ...

    @property
    def receipts(self) -> Receipts:
        """The receipts of writes."""
        ...

    @property
    def relays(self) -> RelayLedger:
        """The ledger of the relay."""
        ...

    @property
    def users(self) -> UserRepository:
        """Users."""
        ...

    @property
    def sessions(self) -> SessionRepository:
        """Sessions."""
        ...

    @property
    def api_keys(self) -> ApiKeyRepository:
        """API keys."""
        ...

    @property
    def signing_keys(self) -> SigningKeyRepository:
        """The keys that sign tokens."""
        ...

    @property
    def throttles(self) -> ThrottleLedger:
        """How often something was tried."""
        ...


class Transactions(Protocol):
    """The write side: ``async with transactions() as tx``.

    Leaving the block normally commits all that was done through `tx`, and the block's caller goes on
    only after the commit; leaving it by any exception, cancellation included, undoes all of it. When
    the commit itself raises `Unavailable`, whether it took effect is not known, unless it is `Undone`.
    """

    def __call__(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction; the stores of `tx` are of use only inside the block."""
        ...


@runtime_checkable
class JoinedTransactions(Transactions, Protocol):
    """Parts of a transaction that a host has begun, and ends.

    Leaving a block normally leaves what it did to the host's commit; leaving it by an exception undoes it
    alone, and the host may go on. One part is done at a time: a block in a block waits for itself.
    """

    @property
    def own(self) -> Transactions:
        """Transactions of the same store that are no host's: for what has to last, whatever the host does."""
        ...

    async def require_current(self) -> None:
        """Refuse what stands on commits of others that come meanwhile, those of `own` among them.

        Raises:
            Unjoinable: the host's transaction sees everything as it was when it began.
        """
        ...


def own(transactions: Transactions) -> Transactions:
    """Those for what has to last: the same ones, unless they are parts of a host's."""
    return transactions.own if isinstance(transactions, JoinedTransactions) else transactions
