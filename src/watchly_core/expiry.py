"""Expiry: what was kept for a while goes when its time is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from watchly_core.ports import Clock, PeopleQueries, Transaction, Transactions

#: How many of a kind are dropped in one transaction.
_BATCH: Final = 1_000


class Expiring(Protocol):
    """What a transaction keeps for a while: receipts, sessions, API keys, attempts to sign in."""

    async def expire(self, now: datetime, limit: int) -> int:
        """Drop at most `limit` that are over at `now`; how many those were."""
        ...


async def expire(transactions: Transactions, kind: Callable[[Transaction], Expiring], clock: Clock) -> int:
    """Drop all of a kind that are over, some at a time; how many those were."""
    expired = 0
    while True:
        async with transactions() as tx:
            dropped = await kind(tx).expire(clock(), _BATCH)
        expired += dropped
        if dropped < _BATCH:
            return expired


async def expire_signing_keys(people: PeopleQueries, transactions: Transactions, clock: Clock) -> int:
    """Drop the signing keys by which nothing is signed that is good still; how many those were."""
    now = clock()
    ended = [key.kid for key in await people.signing_keys() if key.ended(now)]
    if ended:
        async with transactions() as tx:
            for kid in ended:
                await tx.signing_keys.remove(kid)
    return len(ended)
