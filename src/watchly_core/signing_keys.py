"""Signing keys: what tokens are signed by, one after another.

A new key is published before it signs, so that whoever keeps the published ones for a while knows it in
time; an old one stays published until the last token that it signed has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import NotSignedIn
from watchly_core.tokens import MOST_ACCESS, Claims

if TYPE_CHECKING:
    from watchly_core.ports import Clock, PeopleQueries, Ticks, Tokens, Transactions

__all__ = ["PUBLISHED_FOR", "SigningKey", "SigningKeys"]

#: How long others may keep the published keys.
PUBLISHED_FOR: Final = timedelta(minutes=5)
#: How long a new key is published before it signs: keys that were fetched just before are forgotten by then.
_NOTICE: Final = 2 * PUBLISHED_FOR
#: Seconds for which the keys are known here before they are read again, and between readings that are made
#: because a token names a key which is not known.
_FRESH: Final = 2.0
_PAUSE: Final = 0.5


class SigningKey(msgspec.Struct, frozen=True):
    """A key, sealed. It signs from `signs_from` on, and nothing that it signed is good from `ends_at` on."""

    kid: str
    sealed: bytes
    created_at: datetime
    signs_from: datetime
    ends_at: datetime | None = None

    def __repr__(self) -> str:
        """Without the key."""
        return f"SigningKey({self.kid!r})"

    def ended(self, now: datetime) -> bool:
        """Whether nothing that it signed is good any more."""
        return self.ends_at is not None and self.ends_at <= now


class SigningKeys:
    """The use cases on signing keys.

    Args:
        people: the read side of the store.
        transactions: its write side.
        tokens: signs, and reads what was signed.
        clock: the present time.
        ticks: how much of it has passed.
    """

    def __init__(
        self,
        people: PeopleQueries,
        transactions: Transactions,
        tokens: Tokens,
        *,
        clock: Clock = utc_now,
        ticks: Ticks = monotonic,
    ) -> None:
        self._people = people
        self._transactions = transactions
        self._tokens = tokens
        self._clock, self._ticks = clock, ticks
        self._known: Sequence[SigningKey] = ()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def signer(self) -> Callable[[Claims], str]:
        """What makes tokens of claims."""
        return partial(self._tokens.sign, await self._present())

    async def read(self, token: str) -> Claims:
        """What a token says.

        Raises:
            NotSignedIn: it is not one of ours, or not good at this time.
        """
        kid = self._tokens.kid(token)
        key = _named(kid, await self._keys(_FRESH)) or _named(kid, await self._keys(_PAUSE))
        now = self._clock()
        if key is None or key.ended(now):
            raise NotSignedIn("the token is signed by a key that is not known here, or not any more")
        return self._tokens.read(key, token, now)

    async def published(self) -> Sequence[Mapping[str, str]]:
        """The public halves of the keys that sign, or will, or did sign what is good still (RFC 7517)."""
        await self._present()
        now = self._clock()
        keys = await self._keys(_FRESH)
        return self._tokens.public([key for key in keys if not key.ended(now)])

    async def opened(self) -> tuple[int, int]:
        """How many of the keys can be opened here, and how many there are."""
        found = await self._people.signing_keys()
        return sum(map(self._tokens.opens, found)), len(found)

    @repeated
    async def rotate(self, *, at_once: bool = False) -> SigningKey:
        """Let a new key sign; what the old ones signed stays good until it ends by itself.

        With `at_once` they are forgotten, and all that they signed is refused from now on, as it should be
        where one has leaked.
        """
        async with self._transactions() as tx:
            now = self._clock()
            old = await tx.signing_keys.all()
            # Where nobody had a key of ours, there is nobody to be told in time.
            in_use = not at_once and any(self._tokens.opens(key) for key in old)
            key = self._made(now, now + _NOTICE if in_use else now)
            for each in old:
                if at_once or each.ended(now):
                    await tx.signing_keys.remove(each.kid)
                elif each.ends_at is None:
                    ends_at = key.signs_from + MOST_ACCESS
                    await tx.signing_keys.replace(msgspec.structs.replace(each, ends_at=ends_at))
            await tx.signing_keys.add(key)
        self._read_at = float("-inf")
        return key

    @repeated
    async def _present(self) -> SigningKey:
        """The key that signs now; the first one is made when it is needed."""
        key = self._signing(await self._keys(_FRESH))
        if key is not None:
            return key
        async with self._transactions() as tx:
            key = self._signing([key for key in await tx.signing_keys.all() if self._tokens.opens(key)])
            if key is None:
                now = self._clock()
                key = self._made(now, now)
                await tx.signing_keys.add(key)
        self._read_at = float("-inf")
        return key

    def _signing(self, keys: Sequence[SigningKey]) -> SigningKey | None:
        """The newest of `keys` that signs already, and has not ended."""
        now = self._clock()
        signing = [key for key in keys if key.signs_from <= now and not key.ended(now)]
        return max(signing, key=lambda key: key.signs_from, default=None)

    def _made(self, now: datetime, signs_from: datetime) -> SigningKey:
        kid, sealed = self._tokens.new_key()
        return SigningKey(kid, sealed, now, signs_from)

    async def _keys(self, fresh: float) -> Sequence[SigningKey]:
        """The keys that can be opened here, as they were at most so many seconds ago."""
        if self._ticks() - self._read_at < fresh:
            return self._known
        # Those who ask at once have one reading: if nobody answers, they do not wait one after another.
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)
        return self._known

    async def _read(self) -> None:
        began = self._ticks()
        try:
            found = await self._people.signing_keys()
        finally:
            self._reading = None
        self._known = [key for key in found if self._tokens.opens(key)]
        self._read_at = began


def _named(kid: str, keys: Sequence[SigningKey]) -> SigningKey | None:
    return next((key for key in keys if key.kid == kid), None)
