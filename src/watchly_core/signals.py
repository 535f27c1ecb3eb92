"""Waking all who wait for the same thing."""

from __future__ import annotations

import asyncio

__all__ = ["Signal"]


class Signal:
    """Satisfies `ports.ChangeSignal`, within one event loop.

    Attributes:
        count: how often it has told so far.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait."""
        self.count += 1
        self._told.set()
        self._told = asyncio.Event()

    async def beyond(self, count: int) -> None:
        """See the port."""
        while self.count <= count:
            await self._told.wait()
