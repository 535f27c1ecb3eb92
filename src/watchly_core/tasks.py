"""Tasks in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, TypeVar

T = TypeVar("T")

#: Seconds after which a task that goes on is cancelled once more.
_AGAIN: Final = 0.5


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and see all of them end, also when the caller is cancelled meanwhile.

    Once is not always enough: before Python 3.12 `asyncio.wait_for`, by which pools of connections wait,
    loses a cancellation that comes just when what it waits for is there.
    """
    interrupted = False
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=_AGAIN)
        except asyncio.CancelledError:
            interrupted = True
    if interrupted:
        raise asyncio.CancelledError


async def ahead(batches: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield the same batches, each made while the one before it is used."""
    async with aclosing(batches):
        following = asyncio.ensure_future(anext(batches, None))
        try:
            while (batch := await following) is not None:
                following = asyncio.ensure_future(anext(batches, None))
                yield batch
        finally:
            following.cancel()
            await asyncio.wait({following})
            if not following.cancelled():
                following.exception()  # nobody waits for it any more
