"""The cache in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import timedelta

from watchly_core.ports import Ticks


class MemoryCache:
    """Satisfies `ports.Cache`, within one process.

    Args:
        most: values that it keeps; the one that was put longest ago goes first.
        ticks: the time that passes.
    """

    def __init__(self, *, most: int = 10_000, ticks: Ticks = time.monotonic) -> None:
        self._most, self._ticks = most, ticks
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        value, until = self._values.get(key, (None, 0.0))
        return value if self._ticks() < until else None

    async def put(self, key: str, value: bytes, keep: timedelta) -> None:
        """See the port."""
        self._values[key] = (value, self._ticks() + keep.total_seconds())
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    async def close(self) -> None:
        """Do nothing: what it holds stays."""
