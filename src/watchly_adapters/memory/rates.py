"""Counts of requests in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from watchly_core.ports import Ticks
from watchly_core.rates import Allowance, Rate

#: Keys that are counted at once: some ten megabytes.
_MOST: Final = 50_000


class MemoryRateLimiter:
    """Satisfies `ports.RateLimiter`, within one process.

    Args:
        most: windows that it keeps; the one that was opened first goes first, and its key begins anew.
        ticks: the time that passes.
    """

    def __init__(self, *, most: int = _MOST, ticks: Ticks = time.monotonic) -> None:
        self._most, self._ticks = most, ticks
        self._windows: OrderedDict[tuple[str, Rate], _Window] = OrderedDict()

    async def take(self, key: str, rate: Rate) -> Allowance:
        """See the port."""
        now, name = self._ticks(), (key, rate)
        window = self._windows.get(name)
        if window is None or window.ends_at <= now:
            window = self._windows[name] = _Window(now + rate.window.total_seconds())
            self._windows.move_to_end(name)
            if len(self._windows) > self._most:
                self._windows.popitem(last=False)
        window.made += 1
        return rate.allowance(window.made, window.ends_at - now)

    async def close(self) -> None:
        """Do nothing: what it has counted stays."""


class _Window:
    __slots__ = ("ends_at", "made")

    def __init__(self, ends_at: float) -> None:
        self.ends_at, self.made = ends_at, 0
