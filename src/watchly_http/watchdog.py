"""Which workers are alive: each of them beats in memory that it shares with the supervisor.

A worker whose loop is blocked, or which was stopped, holds its port like any other, and whoever reaches it
waits in vain. Only its beats tell, and only of a worker whose start is complete: that may take long.

Silence is counted in looks, not in seconds. So a supervisor that could not look itself, for it or the whole
machine was suspended, finds nobody guilty: it has had no looks.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

LOOK_EVERY: Final = 1.0
"""Seconds between looks, at the least; workers beat more often."""
SILENCE: Final = 30.0
"""Seconds without a beat: no machine is so busy, and whoever waits at that worker has given up."""


class Watchdog:
    """Notices workers that do nothing any more.

    Made before the workers are forked, and used by both sides.

    Args:
        workers: how many there are; their numbers begin at 0.
        silence: seconds, in whole looks, after which a worker counts as dead.
        ticks: how much time has passed.
    """

    def __init__(
        self, workers: int, silence: float = SILENCE, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = mmap.mmap(-1, workers)  # anonymous and shared; 0 is a worker that has not begun
        self._seen, self._missed = bytearray(workers), [0] * workers
        self._most, self._ticks = math.ceil(silence / LOOK_EVERY), ticks
        self._look_at = ticks() + LOOK_EVERY

    def beat(self, number: int) -> None:
        """Give a sign of life, as the worker `number`."""
        self._board[number] = self._board[number] % 255 + 1

    def forget(self, number: int) -> None:
        """Watch the worker `number` no more until it beats: that one is gone, and another will start."""
        self._board[number] = 0

    def before_look(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, self._look_at - self._ticks())

    def look(self) -> list[int]:
        """The workers that have been silent for too long, if a look is due; each counts anew after that."""
        if self.before_look():
            return []
        self._look_at = self._ticks() + LOOK_EVERY
        silent = []
        for number, beat in enumerate(self._board[:]):
            self._missed[number] = self._missed[number] + 1 if beat and beat == self._seen[number] else 0
            self._seen[number] = beat
            if self._missed[number] >= self._most:
                self._missed[number] = 0
                silent.append(number)
        return silent


def is_traced(pid: int) -> bool:
    """Whether a debugger holds a process."""
    with suppress(OSError):
        return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return False
