"""Renditions of images: each is made once, by one process, and goes with its original."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from watchly_adapters.filesystem.files import Locked, OpenFile, closing, is_at, lock, read_small, write
from watchly_adapters.filesystem.folders import Folders, translating
from watchly_core.errors import ImageNotFound, Unavailable
from watchly_core.images import Rendition, is_key
from watchly_core.ports import Render
from watchly_core.threads import Threads

#: Seconds that a call waits for others that render the same image.
PATIENCE: Final = 300.0

#: Seconds between two looks at whether another process has ended.
_LOOK_AGAIN: Final = 0.03


class Renditions:
    """The renditions in a directory.

    A rendition bears the time of the original that it was made of, to the nanosecond; beside an original
    of another time, or none, it counts as not there. So it does not matter in which moment an original is
    replaced or dropped, nor whether its renditions could be removed before a crash.

    Args:
        folders: where they lie.
        reads: threads for reading.
        writes: threads for writing a little.
    """

    def __init__(self, folders: Folders, reads: Threads, writes: Threads) -> None:
        self._folders = folders
        self._reads = reads
        self._writes = writes
        #: Those who wait in this process look at the lock of the file one after another.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def open(self, key: str, rendition: Rendition, opened: ExitStack) -> OpenFile:
        """A rendition as a file.

        Raises:
            FileNotFoundError: there is none of the present original.
        """
        file = OpenFile(self._folders.rendition(key, rendition), self._reads, opened)
        self._require_present(key, file.written)
        return file

    def content(self, key: str, rendition: Rendition, at_most: int) -> bytes | None:
        """All of a rendition; None of one that has more than `at_most` bytes.

        Raises:
            FileNotFoundError: there is none of the present original.
        """
        small = read_small(self._folders.rendition(key, rendition), at_most)
        if small is None:
            return None
        self._require_present(key, small.written)
        return small.content

    async def render(self, key: str, rendition: Rendition, render: Render) -> None:
        """Make a rendition, unless it is there.

        Raises:
            ImageNotFound: there is no original, or not any more.
            Unavailable: others are rendering the image, and do not end.
        """
        if not is_key(key):
            raise _nothing(key)
        while not await self._rendered(key, rendition, render):
            pass  # the original was replaced meanwhile, so that another one has to be rendered

    def remove(self, key: str) -> None:
        """Drop all renditions of an image."""
        for path in self._folders.renditions(key):
            path.unlink(missing_ok=True)

    def _require_present(self, key: str, written: int) -> None:
        # After a rendition was opened, for a new original comes before its rendition.
        if self._folders.original(key).stat().st_mtime_ns != written:
            raise FileNotFoundError

    async def _rendered(self, key: str, rendition: Rendition, render: Render) -> bool:
        turn = self._turns.setdefault(key, asyncio.Lock())
        target = self._folders.rendition(key, rendition)
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(PATIENCE):
                    await held.enter_async_context(turn)
                    descriptor = await self._locked(key, await held.enter_async_context(closing(self._reads)))
            except TimeoutError:
                raise Unavailable(
                    "image_store", "other renditions of this image do not get done", retry_after=10
                ) from None
            if await self._reads.lend(lambda _: _is_made(target, descriptor)):
                return True
            # The descriptor stays open whatever `render` does with its file, and with it the lock.
            with os.fdopen(descriptor, "rb", closefd=False) as original:
                content = await render(original)
            return await self._writes.lend(lambda _: self._keep(key, target, content, descriptor))

    async def _locked(self, key: str, opened: ExitStack) -> int:
        path = self._folders.original(key)

        def attempt() -> int | None:
            with translating():
                try:
                    return lock(path, os.O_RDONLY, opened)
                except Locked:
                    return None
                except FileNotFoundError:
                    raise _nothing(key) from None

        while (descriptor := await self._reads.lend(lambda _: attempt())) is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN)  # no event tells that another process is done
        return descriptor

    def _keep(self, key: str, target: Path, content: bytes, original: int) -> bool:
        """Whether it is the rendition of what is still the original."""
        with translating():
            with self._folders.writing(target) as descriptor:
                write(descriptor, content, 0)
                written = os.fstat(original).st_mtime_ns
                os.utime(descriptor, ns=(written, written))
                # Its place need not be durable, for it can be made again; but there it has to be whole.
                os.fsync(descriptor)
            if is_at(self._folders.original(key), original):
                return True
            # Perhaps after whoever replaced or dropped the original has removed renditions.
            target.unlink(missing_ok=True)
            return False


def _is_made(target: Path, original: int) -> bool:
    with translating():
        try:
            return target.stat().st_mtime_ns == os.fstat(original).st_mtime_ns
        except FileNotFoundError:
            return False


def _nothing(key: str) -> ImageNotFound:
    return ImageNotFound(f"no image is kept under {key!r}")
