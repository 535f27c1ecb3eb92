"""Blocking calls in a few threads, kept apart from those of the host's event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """Runs blocking calls, at most `limit` of them at a time; the others wait their turn.

    Args:
        limit: how many threads there may be; they start when they are needed.
        name: how they are called in a debugger.
        nice: by how much they step back behind all else, on Linux.
    """

    def __init__(self, limit: int, name: str, nice: int = 0) -> None:
        self._executor = ThreadPoolExecutor(limit, name, _step_back, (nice,))

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. A caller that is cancelled leaves it behind, to end by itself."""
        return await asyncio.wrap_future(self._executor.submit(call))

    async def lend(self, call: Callable[[threading.Event], T]) -> T:
        """The result of a `call` that uses what belongs to the caller, such as an open file.

        A caller that is cancelled first sees the call end, so that nothing is used after its owner has
        closed it; one whose turn has not come is not made. The call is told by the event, which it may
        look at between its steps.
        """
        stop = threading.Event()
        job = self._executor.submit(call, stop)

        def leave() -> None:
            stop.set()
            job.cancel()

        return await _seen_out(job, leave)

    async def finish(self, call: Callable[[], T]) -> T:
        """The result of a `call` that is made in any case, such as one that closes files.

        A caller that is cancelled first sees it end, also if its turn has yet to come.
        """
        return await _seen_out(self._executor.submit(call), lambda: None)


async def _seen_out(job: Future[T], leave: Callable[[], None]) -> T:
    """The result of a job; who is cancelled while it runs calls `leave`, and waits all the same."""
    result = asyncio.wrap_future(job)
    try:
        await asyncio.wait({result})
    except asyncio.CancelledError:
        leave()
        while not result.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({result})
        if not result.cancelled():
            result.exception()  # retrieved, or asyncio would log it as lost
        raise
    return result.result()


def _step_back(nice: int) -> None:
    # To Linux a thread is a process of its own; elsewhere this would be said of all of them.
    if nice and sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + nice)
