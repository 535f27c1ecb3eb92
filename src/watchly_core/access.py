"""Access: who a request is from, told by the token or the API key that it bears."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from watchly_core.api_keys import is_api_key
from watchly_core.clocks import utc_now
from watchly_core.errors import ApiKeyNotFound, NotSignedIn, Unavailable
from watchly_core.people import SYSTEM, Actor, Permission, stranger

if TYPE_CHECKING:
    from watchly_core.api_keys import ApiKey, ApiKeys
    from watchly_core.ports import Clock, PeopleQueries, Ticks, TokenReader
    from watchly_core.tokens import Claims

__all__ = ["Access"]

#: Characters of what a request bears, at most; tokens of this service have less than half of them.
MOST_BEARER: Final = 2_000
#: Seconds for which somebody is taken for who they were, before that is looked up again.
FRESH: Final = 2.0
#: Seconds for which an answer is waited for; whoever comes after that asks anew.
PATIENCE: Final = 5.0
#: Bearers that are remembered.
_MOST_KNOWN: Final = 10_000
#: How often it is noted that a key is used.
_NOTE_EVERY: Final = timedelta(minutes=1)


class _Known(NamedTuple):
    actor: Actor
    checked_at: float
    ends_at: datetime | None


class Access:
    """Tells who a request is from.

    A token is of its user as long as the session that it belongs to has not ended and the user has not
    changed; that, and whether an API key is good, is looked up every `FRESH` seconds. Where nobody is asked
    about people, a token is of whom it says, with the role that it says, until it ends.

    Args:
        people: the read side of the store; None where what a token says is enough.
        tokens: reads the tokens; None where there are none.
        api_keys: the API keys.
        everybody: what everybody may do, signed in or not.
        clock: the present time.
        ticks: how much of it has passed.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        people: PeopleQueries | None,
        tokens: TokenReader | None,
        api_keys: ApiKeys,
        *,
        everybody: frozenset[Permission],
        clock: Clock = utc_now,
        ticks: Ticks = monotonic,
    ) -> None:
        self.stranger: Actor = stranger(everybody)
        self._people, self._tokens, self._api_keys = people, tokens, api_keys
        self._clock, self._ticks = clock, ticks
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[_Known]] = {}

    def recent(self, bearer: str) -> Actor | None:
        """Who it is, if that was looked up a moment ago."""
        known = self._known.get(_digest(bearer))
        if known is None or self._ticks() - known.checked_at >= FRESH:
            return None
        if known.ends_at is not None and known.ends_at <= self._clock():
            return None
        return known.actor

    async def actor(self, bearer: str) -> Actor:
        """Who bears this token or API key.

        Raises:
            NotSignedIn: it is none of ours, or not good any more.
            Unavailable: nobody says so in time.
        """
        if len(bearer) > MOST_BEARER or not bearer.isascii():
            raise NotSignedIn("the token is none of this service")
        actor = self.recent(bearer)
        if actor is not None:
            return actor
        return (await self._look_up(bearer)).actor

    async def _look_up(self, bearer: str) -> _Known:
        digest = _digest(bearer)
        # Requests that come at once with the same bearer have one look-up.
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._found(bearer))
            task.add_done_callback(lambda done: self._learn(digest, done))
        try:
            # From outside: what waits for a frozen server does not end by being cancelled.
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(task)
        except TimeoutError:
            if self._asked.get(digest) is task:
                del self._asked[digest]
            raise Unavailable("database", "it does not say in time who somebody is") from None

    def _learn(self, digest: bytes, done: asyncio.Task[_Known]) -> None:
        if self._asked.get(digest) is done:
            del self._asked[digest]
        if done.cancelled() or done.exception() is not None:
            self._known.pop(digest, None)
            return
        self._known[digest] = done.result()
        self._known.move_to_end(digest)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    async def _found(self, bearer: str) -> _Known:
        began = self._ticks()
        if is_api_key(bearer):
            key, owner = await self._api_keys.use(bearer)
            await self._note_use(key)
            return _Known(self._also(key.actor(owner)), began, key.expires_at)
        if self._tokens is None:
            raise NotSignedIn("this service has no tokens")
        claims = await self._tokens.read(bearer)
        return _Known(self._also(await self._who_is(claims)), began, claims.expires_at)

    async def _who_is(self, claims: Claims) -> Actor:
        if claims.subject == SYSTEM.name and claims.session is None:
            return Actor(SYSTEM.name, claims.role)
        if self._people is None and claims.subject != SYSTEM.name:
            return Actor(f"user:{claims.subject}", claims.role, int(claims.subject))
        user = await self._people.session_user(claims.session or "") if self._people else None
        if user is None or (str(user.id), user.version) != (claims.subject, claims.version):
            raise NotSignedIn("the session of the token has ended, or its user has changed")
        return user.actor

    def _also(self, actor: Actor) -> Actor:
        return msgspec.structs.replace(actor, also=self.stranger.also)

    async def _note_use(self, key: ApiKey) -> None:
        now = self._clock()
        if key.last_used_at is not None and now - key.last_used_at < _NOTE_EVERY:
            return
        with suppress(Unavailable, ApiKeyNotFound):  # what matters is whether it is good
            await self._api_keys.note_use(key)


def _digest(bearer: str) -> bytes:
    # So that no token is kept in memory.
    return hashlib.sha256(bearer.encode()).digest()
