"""Receipts: a write that its sender repeats, because no reply came, is done once and answered alike.

The sender names the write by a key. Its reply is rendered and kept in the write's own transaction, so that
there is a receipt if, and only if, the write was done.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from watchly_core.contention import repeated
from watchly_core.errors import KeyReused, Replayed, RequestInProgress

if TYPE_CHECKING:
    from watchly_core.ports import Clock, Transaction, Transactions

__all__ = ["NO_RECEIPT", "RECEIPT_FOR", "Claim", "KeptReply", "KeyedReceipt", "Receipt"]

T_contra = TypeVar("T_contra", contravariant=True)

#: How long a receipt is good for.
RECEIPT_FOR: Final = timedelta(hours=24)


class Claim(msgspec.Struct, frozen=True):
    """What a sender calls a write: a key of `actor`, and a digest of all that was asked for by it.

    `actor` is the name of an `Actor`. Equal digests are the same request, whatever their length in bytes.
    """

    actor: str
    key: str
    digest: bytes


class KeptReply(msgspec.Struct, frozen=True):
    """The reply to a write, as it was sent: a status of HTTP, names and values of headers, and the body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


#: What tells a write that another one with its key was faster.
OUTRUN: Final = (Replayed, RequestInProgress, KeyReused)


class Receipt(Generic[T_contra]):
    """What a use case does with the receipt of its write: nothing, where the sender named no key."""

    async def look(self, transactions: Transactions) -> None:
        """Look for a receipt in a transaction of its own, before anything costly is done.

        Raises:
            Replayed: there is one.
            RequestInProgress, KeyReused: see `ports.Receipts.claim`.
        """

    async def claim(self, tx: Transaction) -> None:
        """Claim the key for the write that `tx` is about to make.

        Raises:
            Replayed, RequestInProgress, KeyReused: as `look` does.
        """

    async def keep(self, tx: Transaction, result: T_contra) -> None:
        """Keep the reply to the write that `tx` has made, with it."""

    async def settle(self, transactions: Transactions, result: T_contra) -> None:
        """Keep the reply to what had nothing to write.

        Raises:
            Replayed, RequestInProgress, KeyReused: as `look` does.
        """


#: The receipt of a write that nobody will repeat.
NO_RECEIPT: Final = Receipt[object]()


class KeyedReceipt(Receipt[T_contra]):
    """The receipt of a write with a key.

    Args:
        claim: what names the write.
        render: makes the reply of what the use case returns.
        clock: the present time.
    """

    def __init__(self, claim: Claim, render: Callable[[T_contra], KeptReply], clock: Clock) -> None:
        self._claim, self._render, self._clock = claim, render, clock

    @repeated
    async def look(self, transactions: Transactions) -> None:
        """See `Receipt`."""
        async with transactions() as tx:
            await self.claim(tx)

    async def claim(self, tx: Transaction) -> None:
        """See `Receipt`."""
        reply = await tx.receipts.claim(self._claim, self._clock())
        if reply is not None:
            raise Replayed(reply)

    async def keep(self, tx: Transaction, result: T_contra) -> None:
        """See `Receipt`."""
        await tx.receipts.keep(self._claim, self._render(result), self._clock() + RECEIPT_FOR)

    @repeated
    async def settle(self, transactions: Transactions, result: T_contra) -> None:
        """See `Receipt`."""
        async with transactions() as tx:
            await self.claim(tx)
            await self.keep(tx, result)
