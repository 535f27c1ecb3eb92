"""Files that are read, copied and locked."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from watchly_adapters.filesystem.folders import translating
from watchly_core.errors import Unavailable
from watchly_core.threads import Threads

_CHUNK_BYTES: Final = 256 * 1024

#: What is copied before it is made durable. Whoever else syncs to the same disk, such as a database that
#: commits, may have to wait for all that is not: beside ten images of 300 MB the slowest commit took 45 ms
#: so, and 430 ms with each of them synced at its end alone.
_COPIED_AT_ONCE: Final = 16 * 1024 * 1024


class OpenFile:
    """An `ImageFile` of the disk.

    Args:
        path: where it is; a file that is replaced or dropped later stays as it was.
        threads: read it.
        opened: ends its life.

    Attributes:
        size: in bytes.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path, threads: Threads, opened: ExitStack) -> None:
        self._file = path.open("rb", buffering=0)
        opened.callback(self._close)
        self._threads = threads
        self._using = threading.Lock()
        status = os.fstat(self._file.fileno())
        self.size: Final = status.st_size
        #: When the content was written, in nanoseconds.
        self.written: Final = status.st_mtime_ns

    async def chunks(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`, which is not among them, 256 KiB at a time.

        Raises:
            ValueError: the file is closed.
        """
        end = self.size if end is None else min(end, self.size)
        while start < end:
            chunk = await self._chunk(start, min(_CHUNK_BYTES, end - start))
            yield chunk
            start += len(chunk)

    async def _chunk(self, start: int, size: int) -> bytes:
        return await self._threads.lend(lambda _: self._read(start, size))

    def _read(self, start: int, size: int) -> bytes:
        # The number of a closed descriptor may be another file's by now.
        with translating(), self._using:
            chunk = os.pread(self._file.fileno(), size, start)
        if not chunk:
            raise _shortened()
        return chunk

    def _close(self) -> None:
        with self._using:
            self._file.close()


class Small(NamedTuple):
    """A file that was read at once: its content, and when that was written, in nanoseconds."""

    content: bytes
    written: int


def read_small(path: Path, at_most: int) -> Small | None:
    """All of a file; None of one that has more than `at_most` bytes.

    Raises:
        FileNotFoundError: there is none.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        if status.st_size > at_most:
            return None
        content = os.read(descriptor, status.st_size)
    finally:
        os.close(descriptor)
    if len(content) < status.st_size:
        raise _shortened()
    return Small(content, status.st_mtime_ns)


def copy(source: IO[bytes], target: int, stop: threading.Event) -> None:
    """Write all of `source` to a new file, by the kernel alone where that is possible.

    Raises:
        Unavailable: the event says that nobody waits for it any more.
    """
    source.flush()  # what its own buffer holds is not in the file
    size = source.seek(0, os.SEEK_END)
    # Asked for its descriptor, a small one that is kept in memory would go to the disk first.
    at = synced = _copy_by_kernel(source, size, target, stop) if size > _CHUNK_BYTES else 0
    source.seek(at)
    while chunk := source.read(_CHUNK_BYTES):
        _look(stop)
        at += write(target, chunk, at)
        if at - synced >= _COPIED_AT_ONCE:
            os.fdatasync(target)
            synced = at


def write(target: int, content: bytes | bytearray, at: int) -> int:
    """Write all of `content` from byte `at` on; how much that was."""
    written = 0
    with memoryview(content) as view:
        while written < len(view):
            written += os.pwrite(target, view[written:], at + written)
    return written


@asynccontextmanager
async def closing(threads: Threads) -> AsyncIterator[ExitStack]:
    """What ends after the block, in a thread: the last to close a large file that was dropped frees it.

    That took 120 to 140 ms for 500 MB, in which an event loop would have answered nobody.
    """
    opened = ExitStack()
    try:
        yield opened
    finally:
        await threads.finish(lambda: _end(opened))


def _end(opened: ExitStack) -> None:
    with translating():
        opened.close()


class Locked(Exception):
    """Somebody else holds a file.

    Attributes:
        size: its size in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__("somebody else holds the file")


def lock(path: Path, flags: int, opened: ExitStack) -> int:
    """The descriptor of the file at `path`, locked until `opened` ends.

    Locks are between open files: it does not matter whether of one process or of several.

    Raises:
        FileNotFoundError: there is none.
        Locked: somebody else holds it.
    """
    while True:
        with ExitStack() as attempt:
            descriptor = os.open(path, flags, 0o644)
            attempt.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Of the file that is held: its holder may drop it just now.
                raise Locked(os.fstat(descriptor).st_size) from None
            # Explicitly, for another process may have been lent the descriptor.
            attempt.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
            if is_at(path, descriptor):
                opened.push(attempt.pop_all())
                return descriptor
            # It was dropped or replaced just before it was locked.


def is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _copy_by_kernel(source: IO[bytes], size: int, target: int, stop: threading.Event) -> int:
    """How far the kernel came: from there on it has to be read and written."""
    at = 0
    while at < size:
        try:
            copied = os.copy_file_range(source.fileno(), target, _COPIED_AT_ONCE, at, at)
        except OSError:
            # No file, another file system, an old kernel. What else there is will stop a writer as well.
            break
        if not copied:
            break
        at += copied
        if at < size:
            _look(stop)
            os.fdatasync(target)
    return at


def _shortened() -> Unavailable:
    return Unavailable("image_store", "a file became shorter while it was read")


def _look(stop: threading.Event) -> None:
    if stop.is_set():
        raise Unavailable("image_store", "the caller left before the image was written")
