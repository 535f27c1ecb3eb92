"""What is sent waits in a file until all of it is there, so that a slow sender holds nothing else."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import IO, Final

from watchly_core.errors import Unavailable, WatchlyError

#: Bytes that are kept in memory before they go to a file.
_IN_MEMORY: Final = 256 * 1024


@asynccontextmanager
async def spooled(
    content: AsyncIterable[bytes], largest: int, too_large: WatchlyError
) -> AsyncIterator[tuple[IO[bytes], int]]:
    """A file, at its start, that holds all of `content`, and its size in bytes; it lives in the block.

    Raises:
        WatchlyError: `too_large`, if there are more than `largest` bytes.
        Unavailable: there is no room for them.
    """
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        size = 0
        async for chunk in content:
            size += len(chunk)
            if size > largest:
                raise too_large
            await _do(partial(file.write, chunk), size)
        await _do(partial(file.seek, 0), size)
        yield file, size


async def _do(step: Callable[[], int], size: int) -> None:
    try:
        if size <= _IN_MEMORY:
            step()
        else:
            await asyncio.to_thread(step)
    except OSError as error:
        raise Unavailable("uploads", f"no room for an upload: {error.strerror}") from error
