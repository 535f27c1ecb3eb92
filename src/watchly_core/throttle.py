"""Throttling: how often somebody may try to sign in.

Attempts are counted, and those that succeed are given back. Three things are limited: attempts on an
account from one address, all attempts from one address, and attempts on an account from all addresses
together. The last limit would let anybody lock somebody out; so it is not for addresses from which the
account was signed in to before (after OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import Overloaded, TooManyAttempts
from watchly_core.ports import own

if TYPE_CHECKING:
    from watchly_core.ports import Clock, Transactions

__all__ = ["Throttle"]

#: How long attempts count.
WINDOW: Final = timedelta(minutes=15)
#: Attempts in that time: on one account from one address, from one address, on one account.
PER_ACCOUNT_AND_ADDRESS: Final = 10
PER_ADDRESS: Final = 100
PER_ACCOUNT: Final = 100
#: Accounts that one address may make in an hour.
SIGN_UPS: Final = 20
SIGN_UP_WINDOW: Final = timedelta(hours=1)
#: How long an address is remembered from which somebody has signed in.
KNOWN_FOR: Final = timedelta(days=90)
#: For how long a refusal holds without another look, how many are remembered, and how many attempts are
#: counted at a time: those of one address wait for each other, and the connections that they would wait on
#: are for everybody.
_HOLDS_FOR: Final = timedelta(seconds=1)
_MOST_HELD: Final = 10_000
_AT_ONCE: Final = 2
#: Seconds for which an attempt waits for its turn.
_PATIENCE: Final = 5.0


class _Refusal(NamedTuple):
    at: datetime
    again: datetime


class Throttle:
    """Counts attempts, of all processes together.

    Args:
        transactions: the write side of the store.
        clock: the present time.
    """

    def __init__(self, transactions: Transactions, *, clock: Clock = utc_now) -> None:
        # An attempt counts, whatever a host undoes.
        self._transactions = own(transactions)
        self._clock = clock
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def attempt(self, email: str, address: str) -> AsyncIterator[None]:
        """Count an attempt to sign in, which is the block, before anything is looked at.

        If the block ends normally it has succeeded: it is given back, and the address is remembered. If it
        raises `Overloaded`, nobody had the time to look at it, and it is given back as well.

        Raises:
            TooManyAttempts: there were too many.
            Overloaded: too many wait to be counted.
        """
        counted = [bucket for bucket, _ in _limits(email, address, known=True)]
        remembered = _bucket("known", email, address)
        async with self._turn(counted):
            taken, known = await self._take(email, address, remembered)
        try:
            yield
        except Overloaded:
            await self._give_back(taken)
            raise
        await self._give_back(taken, None if known else remembered)

    @repeated
    async def _take(self, email: str, address: str, remembered: str) -> tuple[Sequence[str], bool]:
        """Count an attempt: where that was, and whether its address is known."""
        now = self._clock()
        async with self._transactions() as tx:
            known = await tx.throttles.find(remembered, now)
            limits = _limits(email, address, known=known)
            for bucket, limit in limits:
                again = await tx.throttles.take(bucket, limit, now, now + WINDOW)
                if again is not None:
                    raise self._refused(bucket, again, now)
        return [bucket for bucket, _ in limits], known

    @repeated
    async def _give_back(self, taken: Sequence[str], remembered: str | None = None) -> None:
        """Give back what an attempt took, and remember its address if it is not yet."""
        now = self._clock()
        async with self._transactions() as tx:
            for bucket in taken:
                await tx.throttles.give_back(bucket)
            if remembered is not None:
                await tx.throttles.take(remembered, 1, now, now + KNOWN_FOR)

    async def sign_up(self, address: str) -> None:
        """Count an account that somebody makes without having signed in.

        Raises:
            TooManyAttempts: there were too many.
        """
        bucket = _bucket("sign-up", address)
        async with self._turn([bucket]):
            await self._take_sign_up(bucket)

    @repeated
    async def _take_sign_up(self, bucket: str) -> None:
        now = self._clock()
        async with self._transactions() as tx:
            again = await tx.throttles.take(bucket, SIGN_UPS, now, now + SIGN_UP_WINDOW)
            if again is not None:
                raise self._refused(bucket, again, now)

    @asynccontextmanager
    async def _turn(self, buckets: Sequence[str]) -> AsyncIterator[None]:
        """A turn to count, unless one of `buckets` refused a moment ago."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("attempts", "too many wait to be counted") from None
        try:
            now = self._clock()
            for bucket in buckets:
                held = self._refusals.get(bucket)
                if held is not None and held.at <= now < min(held.at + _HOLDS_FOR, held.again):
                    raise _refusal(held.again, now)
            yield
        finally:
            self._turns.release()

    def _refused(self, bucket: str, again: datetime, now: datetime) -> TooManyAttempts:
        self._refusals[bucket] = _Refusal(now, again)
        self._refusals.move_to_end(bucket)
        if len(self._refusals) > _MOST_HELD:
            self._refusals.popitem(last=False)
        return _refusal(again, now)


def _limits(email: str, address: str, *, known: bool) -> list[tuple[str, int]]:
    """The buckets of an attempt, in the order of their names, and how many may be in each."""
    limits = [
        (_bucket("pair", email, address), PER_ACCOUNT_AND_ADDRESS),
        (_bucket("address", address), PER_ADDRESS),
    ]
    if not known:
        limits.append((_bucket("account", email), PER_ACCOUNT))
    return sorted(limits)


def _bucket(kind: str, *words: str) -> str:
    # Who tried is nobody's business, and may be of any length.
    return hashlib.sha256("\0".join((kind, *words)).encode(errors="surrogatepass")).hexdigest()


def _refusal(again: datetime, now: datetime) -> TooManyAttempts:
    return TooManyAttempts(max(1, ceil((again - now).total_seconds())))
