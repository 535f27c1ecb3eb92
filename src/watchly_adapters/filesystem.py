"""Images as files in a directory.

::

    directory/
      3f/9a/3f9a…        one file for each key, spread over 65,536 folders
      .incoming/…        files that are being written; a crash leaves them here, and a later put clears them
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from watchly_adapters.threads import Threads
from watchly_core.errors import ImageNotFound, Unavailable
from watchly_core.images import Image, is_key

_CHUNK_BYTES: Final = 256 * 1024

#: Calls of one store that touch the disk at a time.
_THREADS: Final = 8

#: A file that was not written to for this long was left behind by a crash: its source is a file as
#: well, so that a living writer never pauses.
_STALE_SECONDS: Final = 3600

#: How many leftovers one put looks at.
_CLEARED_AT_ONCE: Final = 100


class FilesystemImages:
    """An `ImageStore` and `ImageFiles` over a directory, which several processes may share.

    Args:
        directory: where the files are kept; made by the first put if it is missing.
        base_url: what comes before ``/images/`` in the URLs of images; empty for a path alone.
    """

    def __init__(self, directory: Path, *, base_url: str = "") -> None:
        self._directory = directory
        self._incoming = directory / ".incoming"
        self._base_url = base_url.rstrip("/")
        self._threads = Threads(_THREADS, "watchly-files")
        self._durable: set[Path] = set()

    @property
    def max_bytes(self) -> int | None:
        """None: the disk is the limit."""
        return None

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:  # noqa: ARG002 - for other stores
        """Keep all of `source`, read from its start, under `key`, in place of what was there.

        Raises:
            ValueError: `key` has not the form of a key.
        """
        if not is_key(key):
            raise ValueError(f"{key!r} is no key of an image")
        await self._threads.lend(lambda stop: self._write(key, source, stop))

    async def delete(self, key: str) -> None:
        """Drop what is kept under `key`; dropping nothing is no error."""
        if is_key(key):
            await self._threads.run(lambda: self._remove(key))

    async def stat(self, key: str) -> int | None:
        """The number of bytes kept under `key`; None if there is nothing."""
        return await self._threads.run(lambda: self._size(key)) if is_key(key) else None

    def url(self, key: str) -> str:
        """Where the HTTP layer serves the image."""
        return f"{self._base_url}/images/{quote(key, safe='')}"

    @asynccontextmanager
    async def read(self, key: str) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """The size in bytes and the content of what is kept under `key`, in chunks of 256 KiB.

        Raises:
            ImageNotFound: there is nothing.
        """
        with ExitStack() as opened:
            file, size = await self._threads.lend(lambda _: self._open(key, opened))
            yield size, self._chunks(file)

    async def _chunks(self, file: IO[bytes]) -> AsyncIterator[bytes]:
        while chunk := await self._threads.lend(lambda _: _next_chunk(file)):
            yield chunk

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / key[2:4] / key

    def _write(self, key: str, source: IO[bytes], stop: threading.Event) -> None:
        with _translating():
            target = self._path(key)
            self._make(self._incoming)
            self._make(target.parent)
            self._clear()
            descriptor, name = tempfile.mkstemp(prefix=f"{key}-", suffix=".part", dir=self._incoming)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    # mkstemp keeps its files private; other services may serve these.
                    os.fchmod(descriptor, 0o644)
                    _copy(source, file, stop)
                    os.fsync(descriptor)
                Path(name).replace(target)
            except BaseException:
                with suppress(FileNotFoundError):
                    Path(name).unlink()
                raise
            _sync_folder(target.parent)

    def _remove(self, key: str) -> None:
        path = self._path(key)
        with _translating(), suppress(FileNotFoundError):
            path.unlink()
            # The ledger forgets the key next: a crash must not bring the file back.
            _sync_folder(path.parent)

    def _size(self, key: str) -> int | None:
        with _translating():
            try:
                return self._path(key).stat().st_size
            except FileNotFoundError:
                return None

    def _open(self, key: str, opened: ExitStack) -> tuple[IO[bytes], int]:
        """Open the file for `opened` to close, also when the caller has gone before it hears of it."""
        nothing = ImageNotFound(f"no image is kept under {key!r}")
        if not is_key(key):
            raise nothing
        with _translating():
            try:
                file = opened.enter_context(self._path(key).open("rb", buffering=0))
            except FileNotFoundError:
                raise nothing from None
            return file, os.fstat(file.fileno()).st_size

    def _make(self, folder: Path) -> None:
        """Make `folder` and what is missing above it, and see that the way to it survives a crash."""
        try:
            folder.mkdir()
            made = True
        except FileExistsError:
            made = False
        except FileNotFoundError:
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            made = True
        # A folder that another writer has just made may not be durable yet, so the first use syncs as well.
        if made or (folder not in self._durable and self._directory in folder.parents):
            _sync_folder(folder.parent)
            self._durable.add(folder)

    def _clear(self) -> None:
        oldest = time.time() - _STALE_SECONDS
        with os.scandir(self._incoming) as entries:
            for entry in islice(entries, _CLEARED_AT_ONCE):
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        Path(entry.path).unlink()


def _copy(source: IO[bytes], file: IO[bytes], stop: threading.Event) -> None:
    source.seek(0)
    while chunk := source.read(_CHUNK_BYTES):
        if stop.is_set():
            raise Unavailable("image_store", "the caller left before the image was written")
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Its own text names the path, which is nobody's business outside.
        detail = os.strerror(error.errno) if error.errno else "the disk failed"
        raise Unavailable("image_store", detail.lower()) from error


def _next_chunk(file: IO[bytes]) -> bytes:
    with _translating():
        return file.read(_CHUNK_BYTES)
