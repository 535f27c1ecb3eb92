"""Deadlines: a request ends in time, whatever it hangs on.

It has so many seconds, from its head on and again from the last of its body, and more where that was
large. What is waited for its client counts apart: where bodies are read, who sends too slowly is looked
after, and here is the end of those who take nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from watchly_http.exchanges import Exchange
from watchly_http.openapi import ENDLESS

#: Bytes of a body for which a request has a second more: the slowest line to an image store sends as many,
#: and imports are faster.
SLOWEST_WORK: Final = 50_000
#: Seconds in which a client has to take some of a reply, or to send some of a body.
STALLED: Final = 60.0
#: The pauses between looks, as a part of the time that a request has, and at the most in seconds.
_PART: Final = 20
_PAUSE: Final = 0.5


class Deadlines:
    """Looks from time to time which requests of a process are late; a timer for each would cost more.

    Args:
        seconds: how long a request may take.
        end: ends one that is late; it is told again after as long, if it goes on.
    """

    def __init__(self, seconds: float, end: Callable[[Exchange], None]) -> None:
        self._seconds, self._end = seconds, end
        self._pause = min(_PAUSE, seconds / _PART)
        self._watched: set[Exchange] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def sending(self) -> int:
        """How many of them wait for the rest of their bodies, and are at nothing else."""
        return sum(exchange.awaits_client and not exchange.begun for exchange in self._watched)

    def watch(self, exchange: Exchange) -> None:
        """Look after a request, up to `leave`."""
        self._watched.add(exchange)
        # An application may be used on one loop after another.
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop = loop
            loop.call_later(self._pause, self._look, loop)

    def leave(self, exchange: Exchange) -> None:
        """Let it be."""
        self._watched.discard(exchange)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        now = time.perf_counter()
        for exchange in self._watched:
            if now - exchange.since > self._limit(exchange):
                exchange.since = now
                self._end(exchange)
        if self._watched:
            loop.call_later(self._pause, self._look, loop)
        else:
            self._loop = None

    def _limit(self, exchange: Exchange) -> float:
        """Seconds in which something has to happen."""
        if exchange.awaits_client:
            return STALLED
        if exchange.begun and exchange.marks.get(ENDLESS):
            return float("inf")
        return self._seconds + exchange.received / SLOWEST_WORK
