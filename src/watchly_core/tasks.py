"""Tasks in the background."""

from __future__ import annotations

import asyncio

#: Seconds after which a task that goes on is cancelled once more.
_AGAIN = 0.5


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task, and see it end.

    Once is not always enough: before Python 3.12 `asyncio.wait_for`, by which pools of connections wait,
    loses a cancellation that comes just when what it waits for is there.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN)
