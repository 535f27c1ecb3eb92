"""Uploads: files that arrive piece by piece and are no images yet."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final

from watchly_adapters.filesystem.files import Locked, closing, is_at, lock, write
from watchly_adapters.filesystem.folders import Folders, sync, translating
from watchly_core.errors import ImageNotFound, ImageTooLarge, Unavailable, UploadConflict
from watchly_core.images import is_key
from watchly_core.threads import Threads

#: What arrives is gathered up to this before it is written.
_GATHERED: Final = 1024 * 1024


class Uploads:
    """The uploads in a directory, one file for each key, locked while a piece arrives or it is in use.

    Nothing here is made durable: after a crash of the machine a client is told how much is left.

    Args:
        folders: where they lie.
        threads: write them, a little at a time.
    """

    def __init__(self, folders: Folders, threads: Threads) -> None:
        self._folders = folders
        self._threads = threads

    async def receive(self, key: str, content: AsyncIterable[bytes], start: int, total: int) -> int:
        """See `ports.ImageUploads`."""
        path = self._folders.upload(key)
        async with closing(self._threads) as opened:
            descriptor = await self._threads.lend(lambda _: self._begun(path, start, opened))
            piece = _Piece(path, descriptor, start)
            try:
                piece.add(b"", total)
                async for chunk in content:
                    piece.add(chunk, total)
                    if len(piece.gathered) >= _GATHERED:
                        await self._threads.lend(lambda _: piece.save())
            except ImageTooLarge:
                await self._threads.finish(lambda: _drop(path, descriptor))
                raise
            except BaseException:
                # What arrived stays, where there is room.
                with suppress(Unavailable, UploadConflict):
                    await self._threads.finish(piece.save)
                raise
            await self._threads.lend(lambda _: piece.save())
            return piece.at

    async def received(self, key: str) -> int:
        """See `ports.ImageUploads`."""
        return await self._threads.run(lambda: _size(self._folders.upload(key))) if is_key(key) else 0

    @asynccontextmanager
    async def uploaded(self, key: str) -> AsyncIterator[IO[bytes]]:
        """See `ports.ImageUploads`."""
        if not is_key(key):
            raise _nothing(key)
        path = self._folders.upload(key)
        async with closing(self._threads) as opened:
            file, descriptor = await self._threads.lend(lambda _: _ended(path, opened))
            yield file
            await self._threads.finish(lambda: _drop(path, descriptor))

    def remove(self, key: str) -> None:
        """Drop an upload, also while a piece of it arrives; touches the disk."""
        path = self._folders.upload(key)
        with suppress(FileNotFoundError):
            path.unlink()
            sync(path.parent)

    def _begun(self, path: Path, start: int, opened: ExitStack) -> int:
        with translating():
            if start == 0:
                self._folders.make(path.parent)
            try:
                descriptor = _locked(path, os.O_RDWR | (0 if start else os.O_CREAT), opened)
            except FileNotFoundError:
                raise UploadConflict(0) from None
            if start == 0:
                os.truncate(descriptor, 0)
            elif start != os.fstat(descriptor).st_size:
                raise UploadConflict(os.fstat(descriptor).st_size)
            return descriptor


class _Piece:
    """A piece of an upload as it arrives.

    Attributes:
        at: how many bytes of the upload are written.
        gathered: those that come next.
    """

    def __init__(self, path: Path, descriptor: int, start: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.at = start
        self.gathered = bytearray()

    def add(self, chunk: bytes, total: int) -> None:
        if self.at + len(self.gathered) + len(chunk) > total:
            raise ImageTooLarge(f"more arrived than the {total} bytes that were to come")
        self.gathered += chunk

    def save(self) -> None:
        """Write what was gathered; once more does no harm."""
        with translating():
            if not is_at(self._path, self._descriptor):
                raise UploadConflict(0)  # it was dropped meanwhile
            self.at += write(self._descriptor, self.gathered, self.at)
        self.gathered.clear()


def _locked(path: Path, flags: int, opened: ExitStack) -> int:
    """As `files.lock`, but for the one who comes in between.

    Raises:
        UploadConflict: a piece is arriving, or the upload is in use.
    """
    try:
        return lock(path, flags, opened)
    except Locked as held:
        raise UploadConflict(held.size) from None


def _ended(path: Path, opened: ExitStack) -> tuple[IO[bytes], int]:
    with translating():
        try:
            descriptor = _locked(path, os.O_RDWR, opened)
        except FileNotFoundError:
            raise _nothing(path.name) from None
        if not os.fstat(descriptor).st_size:
            raise _nothing(path.name)
        # The descriptor stays open whatever is done with the file, and with it the lock.
        return opened.enter_context(os.fdopen(descriptor, "r+b", closefd=False)), descriptor


def _nothing(key: str) -> ImageNotFound:
    return ImageNotFound(f"nothing was uploaded for {key!r}")


def _size(path: Path) -> int:
    with translating():
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def _drop(path: Path, descriptor: int) -> None:
    with translating():
        # Under its name may be another one by now.
        if is_at(path, descriptor):
            path.unlink(missing_ok=True)
