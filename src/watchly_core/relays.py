"""Relaying: telling targets of every change, at least once, and of one movie's changes in order.

A target is told of changes in the order of the log, of several movies at once. A message that it does not
take is set aside as a letter if it takes others at the same time: that one is tried again after growing
pauses, later ones of its movie wait behind it, those of other movies go on. After `MAX_ATTEMPTS` tries it is
dead: kept with its reason, while the next one of its movie has its turn. A message that will never be taken
is dead at once.

A target that takes nothing at all is down. Then the fault is not the message's: none is set aside, no try
counts but the first, the target is asked again, about twice a minute, and goes on from where it was, be that
minutes later or hours. Only after each `PATIENCE` the oldest messages are set aside all the same, so that
none is in the way for ever. Nor is it the message's fault if the target has too much to do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import msgspec

from watchly_core.catalogue import Catalogue
from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import (
    ChangesGone,
    Overloaded,
    PublishRejected,
    RelaySuperseded,
    TargetNotFound,
    Unavailable,
)
from watchly_core.events import ChangeQuery
from watchly_core.messages import SOURCE, Letter, Target, message_of
from watchly_core.ports import Clock, Publisher, Transactions
from watchly_core.traces import traced_by

__all__ = ["Relay", "Round"]

#: Tries after which a letter is dead; they take about three hours.
MAX_ATTEMPTS: Final = 15
#: The wait after a first failure; it doubles with each one, up to these.
_PAUSE: Final = timedelta(seconds=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)
_LONGEST_HOLD: Final = timedelta(seconds=30)

#: How long a target may take nothing before that counts.
PATIENCE: Final = timedelta(days=1)

#: Seconds that a target has for one message.
DEADLINE: Final = 20.0

#: Changes, and letters, that are sent in one round; and movies whose messages are under way at once.
_BATCH: Final = 100
_AT_ONCE: Final = 8
#: So many failures without a success are enough to know that a target is down.
_ENOUGH: Final = 3

#: Seconds after which a target that there is nothing for is looked at.
_LOOK: Final = 5.0

#: How much of a reason is kept.
_MOST_REASON: Final = 300


class Round(msgspec.Struct, frozen=True):
    """What a round of one target came to.

    `sent` messages were taken, `failed` were not and will be tried again, `dead` will not; `reason` tells of
    one of them. The next round makes sense in `wait` seconds, or as soon as there are new changes, unless the
    target is `down`: it takes nothing at all.
    """

    sent: int = 0
    failed: int = 0
    dead: int = 0
    reason: str = ""
    down: bool = False
    wait: float = 0.0


class Relay:
    """Tells targets of the changes, one round at a time.

    Of two relays on the same database that are at the same target, one stops with `RelaySuperseded`; until
    then messages may be sent twice.

    Args:
        catalogue: whose changes they are.
        transactions: the write side of its store.
        source: what this service is called: its public URL, or a path.
        clock: the present time.
        deadline: seconds that a target has for one message.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        transactions: Transactions,
        *,
        source: str = SOURCE,
        clock: Clock = utc_now,
        deadline: float = DEADLINE,
    ) -> None:
        self._catalogue = catalogue
        self._transactions = transactions
        self._source = source or SOURCE
        self._clock = clock
        self._deadline = deadline

    async def round(self, name: str, publisher: Publisher) -> Round:
        """Send what is due to a target: its letters, and the next changes.

        Raises:
            TargetNotFound: the target was removed.
            RelaySuperseded: another relay is at it.
        """
        target, now, due, heads = await self._look(name)
        if target.due_at is not None and target.due_at > now:
            return Round(down=True, wait=_seconds(target.due_at - now))
        try:
            # Where letters are due, that is enough: a target that is slow is not to gather ever more of them.
            limit = max(1, _BATCH - len(due))
            changes = await self._catalogue.changes(ChangeQuery(after=target.position, limit=limit))
        except ChangesGone as gone:
            return await self._skip(target, gone)
        fresh = [Letter(message_of(change, self._source), now) for change in changes.data]
        post = _Post(due, fresh, heads.keys(), shuffled=target.failures > 0)
        await post.send(publisher, self._deadline)
        now = self._clock()
        if post.failed and not post.has_life:
            since = target.failing_since or now
            if now - since < PATIENCE:
                return await self._hold(target, post, since, now)
        return await self._settle(target, changes.next_after, post, heads, now)

    @repeated
    async def _look(self, name: str) -> tuple[Target, datetime, Sequence[Letter], Mapping[int, datetime]]:
        """A target, when it was looked at, and unless it is down its letters, which are due or will be."""
        async with self._transactions() as tx:
            target = await tx.relays.get(name)
            now = self._clock()
            if target.due_at is not None and target.due_at > now:
                return target, now, (), {}
            return target, now, await tx.relays.due(name, now, _BATCH), await tx.relays.heads(name)

    async def revive(self) -> int:
        """Make all dead letters due again, as if they had never been tried; how many.

        They come later than what their movies' versions were since.
        """
        return sum([await self._revive(target.name) for target in await self._targets()])

    @repeated
    async def _targets(self) -> Sequence[Target]:
        async with self._transactions() as tx:
            return await tx.relays.targets()

    async def _revive(self, name: str) -> int:
        revived = seq = 0
        with suppress(TargetNotFound):
            while letters := await self._revive_some(name, seq):
                revived, seq = revived + len(letters), letters[-1].message.seq
        return revived

    @repeated
    async def _revive_some(self, name: str, after: int) -> Sequence[Letter]:
        async with self._transactions() as tx:
            await tx.relays.get(name)
            letters = await tx.relays.dead(name, _BATCH, after=after)
            now = self._clock()
            await tx.relays.keep(name, *(Letter(letter.message, now) for letter in letters))
        return letters

    async def _skip(self, target: Target, gone: ChangesGone) -> Round:
        """Go on behind changes that were pruned before the target was told of them."""
        reason = f"changes {target.position + 1} to {gone.horizon} were pruned before they were sent"
        await self._store(target, msgspec.structs.replace(target, position=gone.horizon, reason=reason))
        return Round(reason=reason)

    async def _settle(
        self, target: Target, position: int, post: _Post, heads: Mapping[int, datetime], now: datetime
    ) -> Round:
        """Note what became of the messages, and go on."""
        tried = [*post.refused_letters(), *post.failed_letters(now)]
        left = [letter for letter in post.left if letter.message.seq > target.position]
        known = [letter.message.seq for letter in post.sent if letter.message.seq <= target.position]
        pause = post.pause
        if tried or left or known or position != target.position:
            moved = msgspec.structs.replace(target, position=position)
            if post.has_life or post.failed:
                due_at = now + pause if pause else None
                moved = Target(target.name, target.url, target.secret, position, due_at=due_at)
            await self._store(target, moved, keep=[*tried, *left], drop=known)
        dead = sum(letter.due_at is None for letter in tried)
        wait = _seconds(pause)
        if not (wait or post.has_life or dead):  # behind what was sent, or is dead, others may be waiting
            due = [letter.due_at for letter in tried if letter.due_at]
            due += [at for at in heads.values() if at > now]
            wait = min([_LOOK, *(_seconds(at - now) for at in due)])
        return Round(len(post.sent), len(tried) - dead, dead, tried[0].reason if tried else "", wait=wait)

    async def _hold(self, target: Target, post: _Post, since: datetime, now: datetime) -> Round:
        """Leave a target that takes nothing alone for a while; its position stays."""
        pause = max(_pause(target.failures + 1, _LONGEST_HOLD), post.asked)
        tried = post.failed_letters(now)
        if target.failing_since is not None:
            # It has taken nothing since the last try: this one proves nothing more.
            tried = [_again(letter, error, now + pause) for letter, error in post.failed]
        known = [letter for letter in tried if letter.message.seq <= target.position]
        # Where none but letters were tried, others may do better: new changes need not wait.
        down = len(known) < len(tried)
        held = msgspec.structs.replace(
            target,
            failures=target.failures + 1,
            failing_since=since,
            due_at=now + pause if down else None,
            reason=tried[-1].reason,
        )
        await self._store(target, held, keep=known)
        dead = sum(letter.due_at is None for letter in known)
        return Round(0, len(tried) - dead, dead, held.reason, down=down, wait=_seconds(pause))

    @repeated
    async def _store(
        self, target: Target, moved: Target, *, keep: Sequence[Letter] = (), drop: Sequence[int] = ()
    ) -> None:
        async with self._transactions() as tx:
            current = await tx.relays.get(target.name)
            if current.version != target.version:
                raise RelaySuperseded(f"another relay has told {target.name} of changes meanwhile")
            await tx.relays.replace(msgspec.structs.replace(moved, version=target.version + 1))
            await tx.relays.drop(target.name, *drop)
            await tx.relays.keep(target.name, *keep)


class _Post:
    """What is sent in one round, and what becomes of it.

    Args:
        due: letters that are due, one of a movie.
        fresh: new messages, in order.
        waiting: the movies that have letters; their new messages wait behind these.
        shuffled: whether movies have their turns in any order; where many fail, it is others each time.

    Attributes:
        sent: what was taken.
        failed: what was not, and why.
        refused: what never will be, and why.
        left: what was not tried.
    """

    def __init__(
        self, due: Sequence[Letter], fresh: Sequence[Letter], waiting: Collection[int], *, shuffled: bool
    ) -> None:
        self.sent: list[Letter] = []
        self.failed: list[tuple[Letter, Exception]] = []
        self.refused: list[tuple[Letter, Exception]] = []
        self.left = [letter for letter in fresh if letter.message.movie_id in waiting]
        rows = {letter.message.movie_id: [letter] for letter in due}
        for letter in fresh:
            if letter.message.movie_id not in waiting:
                rows.setdefault(letter.message.movie_id, []).append(letter)
        self._rows = list(rows.values())
        if shuffled:
            random.shuffle(self._rows)

    @property
    def has_life(self) -> bool:
        """Whether the target has dealt with any message."""
        return bool(self.sent or self.refused)

    @property
    def asked(self) -> timedelta:
        """How long the target asks to be left alone, if it does."""
        return max((_asked(error) for _, error in self.failed), default=timedelta())

    @property
    def pause(self) -> timedelta:
        """The same, if it has too much to do."""
        busy = (_asked(error) for _, error in self.failed if isinstance(error, Overloaded))
        return max(busy, default=timedelta())

    def failed_letters(self, now: datetime) -> list[Letter]:
        """The failed messages as they are tried next."""
        return [_failed(letter, error, now) for letter, error in self.failed]

    def refused_letters(self) -> list[Letter]:
        """The refused messages, dead."""
        return [
            Letter(letter.message, None, letter.attempts + 1, _reason(error))
            for letter, error in self.refused
        ]

    async def send(self, publisher: Publisher, deadline: float) -> None:
        """Send each movie's messages one after another, up to the first that fails."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def send_row(row: Sequence[Letter]) -> None:
            async with turns:
                for place, letter in enumerate(row):
                    if self.pause or (not self.has_life and len(self.failed) >= _ENOUGH):
                        self.left += row[place:]
                        return
                    if not await self._try(publisher, letter, deadline):
                        self.left += row[place + 1 :]
                        return

        await asyncio.gather(*map(send_row, self._rows))

    async def _try(self, publisher: Publisher, letter: Letter, deadline: float) -> bool:
        """Send a message; whether its movie's next one may follow."""
        try:
            async with asyncio.timeout(deadline):
                with traced_by(letter.message.trace):
                    await publisher.publish(letter.message)
        except PublishRejected as error:
            self.refused.append((letter, error))
        except TimeoutError:
            self.failed.append((letter, TimeoutError(f"no answer within {deadline:g} s")))
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, other messages are not to wait for it
            self.failed.append((letter, error))
            return False
        else:
            self.sent.append(letter)
        return True


def _failed(letter: Letter, error: Exception, now: datetime) -> Letter:
    """A letter after a try that failed."""
    if isinstance(error, Overloaded):
        return _again(letter, error, now + _asked(error))
    attempts = letter.attempts + 1
    pause = max(_pause(attempts, _LONGEST_PAUSE), _asked(error))
    due_at = None if attempts >= MAX_ATTEMPTS else now + pause
    return Letter(letter.message, due_at, attempts, _reason(error))


def _again(letter: Letter, error: Exception, due_at: datetime) -> Letter:
    """A letter after a try that does not count."""
    return Letter(letter.message, due_at, letter.attempts, _reason(error))


def _asked(error: Exception) -> timedelta:
    """How long an error asks to leave its target alone."""
    if isinstance(error, Unavailable):
        return min(timedelta(seconds=error.retry_after), _LONGEST_PAUSE)
    return timedelta()


def _pause(failures: int, longest: timedelta) -> timedelta:
    pause = min(_PAUSE * (1 << min(failures - 1, 30)), longest)
    # Spread, so that a target that comes back is not met by all of them at once.
    return pause * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


def _seconds(time: timedelta) -> float:
    return max(0.0, time.total_seconds())


def _reason(error: Exception) -> str:
    """What went wrong, on one short line; others may have had a hand in its words."""
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words[:_MOST_REASON])
