"""Sweeping: deleting from the store what no movie shows any more, and what was never finished."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

import msgspec

from watchly_core.contention import repeated
from watchly_core.errors import ImageNotFound, Unavailable, WatchlyError
from watchly_core.images import ImageRecord, ImageState
from watchly_core.ports import Clock, ImageStore, Transactions, own

__all__ = ["SweepReport"]

#: The sweeper's first wait after a failure; it doubles with each one.
_RETRY_AFTER: Final = timedelta(minutes=1)
_LONGEST_RETRY: Final = timedelta(days=1)

#: Tries after which an image is given up: by then the store was asked for about ten days.
MAX_ATTEMPTS: Final = 20

#: Images that are claimed, and asked of the store, at a time.
_BATCH: Final = 20
#: Reasons that a report of a sweep names.
_REASONS: Final = 5


class SweepReport(msgspec.Struct, frozen=True):
    """What a sweep came to: images deleted, those to be tried again, and some of the reasons.

    `dead` are those of the failed ones that will not be tried again; see `Gallery.revive`.
    """

    deleted: int
    failed: int
    reasons: tuple[str, ...] = ()
    dead: int = 0


class Sweeper:
    """Deletes images that are due: discarded ones, and pending ones that were given up.

    Safe to run anywhere, any number of times at once: an image is claimed before the store is asked
    and forgotten only after the store has dropped it.

    Args:
        transactions: the write side of the movies' store.
        store: where images are kept.
        clock: the present time.
    """

    def __init__(self, transactions: Transactions, store: ImageStore, clock: Clock) -> None:
        # What the store has dropped must not come back when a host undoes its transaction.
        self._transactions = own(transactions)
        self._store = store
        self._clock = clock

    async def sweep(self, limit: int) -> SweepReport:
        """Delete up to `limit` images that are due; a store that is down is left alone for this time."""
        deleted = failed = dead = 0
        reasons: dict[str, None] = {}
        while (left := limit - deleted - failed) > 0 and (batch := await self._claim(min(left, _BATCH))):
            errors = await self._drop(batch)
            reasons |= dict.fromkeys(map(str, errors.values()))
            deleted, failed = deleted + len(batch) - len(errors), failed + len(errors)
            dead += await self._bury([record for record in batch if record.image.key in errors])
            if len(errors) == len(batch) and all(isinstance(error, Unavailable) for error in errors.values()):
                break
        return SweepReport(deleted, failed, tuple(reasons)[:_REASONS], dead)

    async def revive(self) -> int:
        """Make the images that were given up due again, as if they had never been tried; how many."""
        revived = 0
        while count := await self._revive():
            revived += count
        return revived

    @repeated
    async def _revive(self) -> int:
        """Make some of them due; how many."""
        async with self._transactions() as tx:
            records = await tx.images.dead(_BATCH)
            for record in records:
                await tx.images.replace(record.moved(ImageState.DELETING, due_at=self._clock()))
        return len(records)

    async def _drop(self, records: Sequence[ImageRecord]) -> Mapping[str, WatchlyError]:
        """Delete images and forget them; what went wrong, by key."""
        keys = [record.image.key for record in records]
        errors = {
            key: error
            for key, error in zip(keys, await asyncio.gather(*map(self._delete, keys)), strict=True)
            if error is not None
        }
        gone = [key for key in keys if key not in errors]
        try:
            await self._forget(gone)
        except WatchlyError as error:
            errors |= dict.fromkeys(gone, error)
        return errors

    @repeated
    async def _forget(self, keys: Sequence[str]) -> None:
        async with self._transactions() as tx:
            for key in sorted(keys):  # in the order in which writers lock the images of a movie
                await tx.images.remove(key)

    async def _delete(self, key: str) -> WatchlyError | None:
        try:
            await self._store.delete(key)
        except WatchlyError as error:
            return error
        return None

    @repeated
    async def _claim(self, limit: int) -> list[ImageRecord]:
        """Take records that are due out of everybody's reach, each until its next try is due."""
        claimed: list[ImageRecord] = []
        async with self._transactions() as tx:
            now = self._clock()
            for record in await tx.images.due(now, limit):
                wait = min(_RETRY_AFTER * 2 ** min(record.attempts, 20), _LONGEST_RETRY)
                taken = record.moved(
                    ImageState.DELETING,
                    # Spread, so that a store that comes back is not met by all of them at once.
                    due_at=now + wait * random.uniform(1.0, 1.5),  # noqa: S311 - no secret
                    attempts=record.attempts + 1,
                )
                await tx.images.replace(taken)
                claimed.append(taken)
        return claimed

    @repeated
    async def _bury(self, records: Sequence[ImageRecord]) -> int:
        """Give up those that failed too often; how many."""
        worn = sorted(
            (record for record in records if record.attempts >= MAX_ATTEMPTS),
            key=lambda record: record.image.key,
        )
        buried = 0
        if worn:
            async with self._transactions() as tx:
                for record in worn:
                    with suppress(ImageNotFound):
                        current = await tx.images.get(record.image.key)
                        # Unless another sweeper has claimed it meanwhile.
                        if current.attempts == record.attempts:
                            await tx.images.replace(
                                current.moved(ImageState.DELETING, due_at=None, attempts=current.attempts)
                            )
                            buried += 1
        return buried
