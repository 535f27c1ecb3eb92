"""Images as files in a directory.

::

    directory/
      3f/9a/3f9a…                  one file for each key, spread over 65,536 folders
      3f/9a/3f9a….thumbnail.webp   what was rendered of it
      .incoming/…                  what is being written; a crash leaves it, and a later write clears it
      .uploads/3f9a…               what clients are sending by tickets
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from watchly_adapters.filesystem.files import OpenFile, closing, copy, read_small
from watchly_adapters.filesystem.folders import Folders, sync, translating
from watchly_adapters.filesystem.renditions import Renditions
from watchly_adapters.filesystem.uploads import Uploads
from watchly_adapters.tickets import Tickets, image_url
from watchly_core.errors import ImageNotFound
from watchly_core.images import Image, Rendition, StoredImage, Ticket, is_key
from watchly_core.ports import ImageFile, Render
from watchly_core.threads import Threads

__all__ = ["FilesystemImages"]

#: Calls of one store that touch the disk at a time. They are apart, for large images take long to copy,
#: and small ones are to be read and written meanwhile. Large ones are copied one after another, and step
#: back: beside 20 uploads of 500 MB, four copiers at a time made the slowest requests for a movie take
#: 134 ms, one that steps back 85 ms, and it copied half as much again in a second.
_READS: Final = 8
_COPIES: Final = 1
_COPIES_NICE: Final = 10
_WRITES: Final = 4

#: Up to so many bytes an image is small.
_SMALL_BYTES: Final = 1024 * 1024


class FilesystemImages:
    """An `ImageStore`, `ImageFiles` and `ImageUploads` over a directory, which several processes may share.

    Args:
        directory: where the files are kept; made by the first put if it is missing.
        base_url: what comes before ``/images/`` in the URLs of images; empty for a path alone.
        secret: signs tickets. Processes that share the directory have to share it; with None each makes
            one of its own, and knows no other's tickets.
    """

    def __init__(self, directory: Path, *, base_url: str = "", secret: bytes | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._tickets = Tickets(self._base_url, secret)
        self._folders = Folders(directory)
        self._reads = Threads(_READS, "watchly-reads")
        self._copies = Threads(_COPIES, "watchly-copies", _COPIES_NICE)
        self._writes = Threads(_WRITES, "watchly-writes")
        self._renditions = Renditions(self._folders, self._reads, self._writes)
        self._uploads = Uploads(self._folders, self._writes)

    @property
    def max_bytes(self) -> int | None:
        """None: the disk is the limit."""
        return None

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        """Keep all of `source`, read from its start, under `key`, in place of what was there.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        target = self._folders.original(key)
        threads = self._writes if image.bytes <= _SMALL_BYTES else self._copies
        await threads.lend(lambda stop: self._put(key, target, source, stop))

    async def delete(self, key: str) -> None:
        """Drop what is kept under `key`, its renditions and its upload; dropping nothing is no error."""
        if is_key(key):
            await self._writes.run(lambda: self._delete(key))

    async def stat(self, key: str) -> StoredImage | None:
        """The number of bytes kept under `key`; None if there is nothing."""
        return await self._reads.run(lambda: self._stat(key)) if is_key(key) else None

    def url(self, key: str, variant: str | None = None) -> str:
        """Where the HTTP layer serves the image, or a variant of it.

        Raises:
            ValueError: there is no such variant.
        """
        return image_url(self._base_url, key, variant)

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        """How a client sends `image` to the HTTP layer.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        return self._tickets.ticket(key, image, expires_at)

    @asynccontextmanager
    async def read(self, key: str, rendition: Rendition | None = None) -> AsyncIterator[ImageFile]:
        """What is kept under `key`, or a rendition of it; its chunks have 256 KiB.

        Raises:
            ImageNotFound: there is nothing.
        """
        async with closing(self._reads) as opened:
            file = await self._reads.lend(lambda _: self._open(key, rendition, opened))
            yield file
            if file.size <= _SMALL_BYTES:
                opened.close()  # which is done before a thread has heard of it

    async def content(self, key: str, rendition: Rendition | None = None, *, at_most: int) -> bytes | None:
        """All that `read` would give, in one turn of a thread; None where that is more than `at_most` bytes.

        Raises:
            ImageNotFound: there is nothing.
        """
        return await self._reads.run(lambda: self._content(key, rendition, at_most))

    async def is_empty(self) -> bool:
        """Whether no image is kept; folders without any may be there."""
        return await self._reads.run(self._is_empty)

    async def render(self, key: str, rendition: Rendition, render: Render) -> None:
        """Keep what `render` makes of the original, unless that rendition is kept already.

        Raises:
            ImageNotFound: there is no original, or not any more.
        """
        await self._renditions.render(key, rendition, render)

    def admit(self, key: str, expires: str, signature: str, now: datetime) -> None:
        """Check that a ticket of this store for `key` says so, and is good still.

        Raises:
            SignatureRejected: it does not, or is not.
        """
        self._tickets.admit(key, expires, signature, now)

    async def receive(self, key: str, content: AsyncIterable[bytes], start: int, total: int) -> int:
        """Keep a piece of an upload; how many bytes of it are there now.

        Raises:
            ValueError: `key` has not the form of a key.
            UploadConflict: the piece does not follow on what is there, or does not come alone.
            ImageTooLarge: there are more than `total`; the upload is dropped.
        """
        return await self._uploads.receive(key, content, start, total)

    async def received(self, key: str) -> int:
        """How many bytes of the upload are there."""
        return await self._uploads.received(key)

    def uploaded(self, key: str) -> AbstractAsyncContextManager[IO[bytes]]:
        """The upload as a file that can be read and written; when the block ends normally it is dropped.

        Raises:
            ImageNotFound: nothing was uploaded.
            UploadConflict: a piece of it is arriving, or it is in use.
        """
        return self._uploads.uploaded(key)

    def _put(self, key: str, target: Path, source: IO[bytes], stop: threading.Event) -> None:
        with translating():
            with self._folders.writing(target) as descriptor:
                copy(source, descriptor, stop)
                # Renditions are known by it, and the kernel's own clock stands still between its ticks.
                now = time.time_ns()
                os.utime(descriptor, ns=(now, now))
                os.fsync(descriptor)
            self._renditions.remove(key)
            sync(target.parent)

    def _delete(self, key: str) -> None:
        path = self._folders.original(key)
        with translating():
            path.unlink(missing_ok=True)
            # Only now: whoever renders meanwhile looks at the end whether the original is still there.
            self._renditions.remove(key)
            self._uploads.remove(key)
            # The ledger forgets the key next: a crash must not bring the file back.
            if path.parent.exists():
                sync(path.parent)

    def _stat(self, key: str) -> StoredImage | None:
        with translating():
            try:
                return StoredImage(self._folders.original(key).stat().st_size)
            except FileNotFoundError:
                return None

    def _is_empty(self) -> bool:
        with translating():
            return not any(self._folders.keys())

    def _open(self, key: str, rendition: Rendition | None, opened: ExitStack) -> OpenFile:
        """Open a file for `opened` to close, also when the caller has gone before it hears of it."""
        with _reading(key):
            if rendition is not None:
                return self._renditions.open(key, rendition, opened)
            return OpenFile(self._folders.original(key), self._reads, opened)

    def _content(self, key: str, rendition: Rendition | None, at_most: int) -> bytes | None:
        with _reading(key):
            if rendition is not None:
                return self._renditions.content(key, rendition, at_most)
            small = read_small(self._folders.original(key), at_most)
            return None if small is None else small.content


@contextmanager
def _reading(key: str) -> Iterator[None]:
    """What finds no file has found no image of this key."""
    nothing = ImageNotFound(f"no image is kept under {key!r}")
    if not is_key(key):
        raise nothing
    with translating():
        try:
            yield
        except FileNotFoundError:
            raise nothing from None
