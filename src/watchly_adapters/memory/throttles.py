"""Limits of attempts in memory."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from watchly_adapters.memory.rows import Rows
from watchly_adapters.partial import Turn


class Attempts(NamedTuple):
    """How often something was tried, and when that begins anew."""

    made: int
    until: datetime


class MemoryThrottles:
    """Satisfies `ports.ThrottleLedger`."""

    def __init__(self, buckets: Rows[str, Attempts], turn: Turn) -> None:
        self._buckets, self._turn = buckets, turn

    async def take(self, bucket: str, limit: int, now: datetime, until: datetime) -> datetime | None:
        """See the port."""
        await self._turn()
        attempts = self._buckets.get(bucket)
        if attempts is None or attempts.until <= now:
            attempts = Attempts(0, until)
        if attempts.made >= limit:
            return attempts.until
        self._buckets.put(bucket, Attempts(attempts.made + 1, attempts.until))
        return None

    async def give_back(self, bucket: str) -> None:
        """See the port."""
        await self._turn()
        attempts = self._buckets.get(bucket)
        if attempts is not None and attempts.made:
            self._buckets.put(bucket, Attempts(attempts.made - 1, attempts.until))

    async def find(self, bucket: str, now: datetime) -> bool:
        """See the port."""
        await self._turn()
        attempts = self._buckets.get(bucket)
        return attempts is not None and now < attempts.until

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        await self._turn()
        return self._buckets.drop_where(lambda attempts: attempts.until <= now, limit)
