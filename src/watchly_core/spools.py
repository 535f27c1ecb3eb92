"""What is sent waits in a file until all of it is there, so that a slow sender holds nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, Final, NamedTuple, TypeVar

from watchly_core.errors import Unavailable, WatchlyError
from watchly_core.threads import Threads

T = TypeVar("T")

#: Bytes that are kept in memory before they go to a file.
_IN_MEMORY: Final = 256 * 1024
#: Bytes that are gathered before they are written, in a thread: each of those trips costs as much as
#: writing many of the small pieces that a server gives.
_BLOCK: Final = 512 * 1024

#: Writers at a time. They are not the event loop's own threads, which others wait for; more of them would
#: take the processors from requests that are quickly answered.
_writers: Final = Threads(2, "watchly-spools", nice=10)


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
