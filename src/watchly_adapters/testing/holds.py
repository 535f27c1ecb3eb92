"""Holds: calls that wait until a test lets them go on."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

__all__ = ["PATIENCE", "Hold"]

#: Seconds until a call that was never made, or never released, fails the test.
PATIENCE: Final = 30.0


class Hold:
    """Holds one call up; made by `scripts.Script.hold_next`. All may be asked of any thread.

    Args:
        name: that of the call.

    Attributes:
        name: that of the call.
    """

    def __init__(self, name: str) -> None:
        self.name: str = name
        self._arrived = threading.Event()
        self._lock = threading.Lock()
        self._released = False
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def reached(self) -> None:
        """Wait until the call is held.

        Raises:
            TimeoutError: nobody made it.
        """
        await asyncio.to_thread(self.wait)

    def wait(self) -> None:
        """Wait until the call is held, in a test that has no event loop of its own.

        Raises:
            TimeoutError: nobody made it.
        """
        if not self._arrived.wait(PATIENCE):
            raise TimeoutError(f"nobody has called {self.name}")

    def release(self) -> None:
        """Let the call go on, or not be held at all if it has yet to come."""
        with self._lock:
            self._released, waiting = True, self._waiting
        if waiting is not None:
            loop, event = waiting
            loop.call_soon_threadsafe(event.set)

    async def stay(self) -> None:
        """Wait until it is released.

        Raises:
            TimeoutError: nobody did that.
        """
        event = asyncio.Event()
        with self._lock:
            if self._released:
                event.set()
            self._waiting = asyncio.get_running_loop(), event
        self._arrived.set()
        try:
            await asyncio.wait_for(event.wait(), PATIENCE)
        except TimeoutError:
            raise TimeoutError(f"nobody has released {self.name}") from None
        finally:
            with self._lock:
                self._waiting = None
