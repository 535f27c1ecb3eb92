"""What is sent waits in a file until all of it is there, so that a slow sender holds nothing else."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, Final, NamedTuple, TypeVar

from watchly_core.errors import Unavailable, WatchlyError
from watchly_core.threads import Threads

__all__ = ["Pace", "Spool", "spooled"]

T = TypeVar("T")

#: Bytes that are kept in memory before they go to a file.
_IN_MEMORY: Final = 256 * 1024
#: Bytes that are gathered before they are written, in a thread: each of those trips costs as much as
#: writing many of the small pieces that a server gives.
_BLOCK: Final = 512 * 1024

#: Writers at a time. They are not the event loop's own threads, which others wait for; more of them would
#: take the processors from requests that are quickly answered.
_writers: Final = Threads(2, "watchly-spools", nice=10)


class Pace:
    """Holds all that arrives in a process to a rate, for as long as its event loop is late.

    Large uploads would otherwise come as fast as the processors can take them, and small requests would
    wait behind each piece.

    Args:
        rate: bytes a second.
        late: how many seconds beyond its turn a task may have waited.
        seconds: for which the rate is held since that last happened.
    """

    def __init__(self, rate: float, late: float, seconds: float) -> None:
        self._rate, self._late, self._seconds = rate, late, seconds
        self._held_until = self._next = 0.0

    async def keep(self, size: int) -> None:
        """Wait until the bytes that have just arrived were due."""
        now = asyncio.get_running_loop().time
        began = due = now()
        if began < self._held_until:
            self._next = due = max(began, self._next) + size / self._rate
        await asyncio.sleep(due - began)
        ended = now()
        if ended - due > self._late:
            self._held_until = ended + self._seconds


#: Beside 20 uploads of 500 MB to two workers on two processors the slowest of a hundred requests for a movie
#: take a third of the time so, and the uploads twice and a half. One that comes alone is not held.
_pace: Final = Pace(rate=40_000_000, late=0.002, seconds=3)


class Spool(NamedTuple):
    """A file, at its start, that holds all that was sent, and its size in bytes."""

    file: IO[bytes]
    size: int


@asynccontextmanager
async def spooled(
    content: AsyncIterable[bytes], largest: int, too_large: WatchlyError
) -> AsyncIterator[Spool]:
    """All of `content` in a file that lives in the block.

    Raises:
        WatchlyError: `too_large`, if there are more than `largest` bytes.
        Unavailable: there is no room for them.
    """
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed below, in a thread
    size = gathered = 0
    block: list[bytes] = []

    def write() -> None:
        file.writelines(block)

    try:
        async for chunk in content:
            size += len(chunk)
            if size > largest:
                raise too_large
            block.append(chunk)
            gathered += len(chunk)
            if gathered >= _BLOCK:
                await _do(write, size)
                await _pace.keep(gathered)
                block, gathered = [], 0
        await _do(write, size)
        await _do(lambda: file.seek(0), size)
        yield Spool(file, size)
    finally:
        # Freeing what a large file takes of a disk takes time as well.
        await _do(file.close, size)


async def _do(step: Callable[[], T], size: int) -> T:
    """Take a step, in a thread where the disk has a part in it; a caller that is cancelled waits for it."""
    try:
        if size <= _IN_MEMORY:
            return step()
        return await _writers.finish(step)
    except OSError as error:
        raise Unavailable("uploads", f"no room for an upload: {error.strerror}") from error
