"""Blocking calls in a few threads, kept apart from those of the host's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """Runs blocking calls, at most `limit` of them at a time; the others wait their turn.

    Args:
        limit: how many threads there may be; they start when they are needed.
        name: how they are called in a debugger.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. A caller that is cancelled leaves it behind, to end by itself."""
        return await asyncio.wrap_future(self._executor.submit(call))

    async def lend(self, call: Callable[[threading.Event], T]) -> T:
        """The result of a `call` that uses what belongs to the caller, such as an open file.

        A caller that is cancelled first sees the call end, so that nothing is used after its owner has
        closed it. The call is told by the event, which it may look at between its steps.
        """
        stop = threading.Event()
        job = self._executor.submit(call, stop)
        result = asyncio.wrap_future(job)
        try:
            await asyncio.wait({result})
        except asyncio.CancelledError:
            stop.set()
            job.cancel()
            while not result.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({result})
            if not result.cancelled():
                result.exception()  # retrieved, or asyncio would log it as lost
            raise
        return result.result()
