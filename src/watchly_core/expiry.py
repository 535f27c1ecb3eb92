"""Expiry: what was kept for a while goes when its time is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from watchly_core.contention import repeated

if TYPE_CHECKING:
    from watchly_core.ports import Clock, PeopleQueries, Transaction, Transactions

#: How many of a kind are dropped in one transaction.
_BATCH: Final = 1_000


async def drop_all(transactions: Transactions, drop: Callable[[Transaction, int], Awaitable[int]]) -> int:
    """Drop all that `drop` finds, some in each transaction; how many those were.

    It is told how many to drop at most, and tells how many it did.
    """
    total = 0
    while True:
        dropped = await _drop_some(transactions, drop)
        total += dropped
        if dropped < _BATCH:
            return total


@repeated
async def _drop_some(transactions: Transactions, drop: Callable[[Transaction, int], Awaitable[int]]) -> int:
    async with transactions() as tx:
        return await drop(tx, _BATCH)


@repeated
async def expire_signing_keys(people: PeopleQueries, transactions: Transactions, clock: Clock) -> int:
    """Drop the signing keys by which nothing is signed that is good still; how many those were."""
    now = clock()
    ended = [key.kid for key in await people.signing_keys() if key.ended(now)]
    if ended:
        async with transactions() as tx:
            for kid in ended:
                await tx.signing_keys.remove(kid)
    return len(ended)
