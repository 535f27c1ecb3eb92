"""Archives: one tar file that holds a database, its images, and what tells that all of it is there.

::

    database.dump                what pg_dump made, in its custom format
    images/KEY-600x900.jpeg      the original of an image, for each that the database may show
    manifest.json                last, and with the checksum of all before it: what was cut off has none

Members follow one another as tar has them, so that any tar can take them apart.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from watchly_core.errors import Misconfigured
from watchly_core.images import Image

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: The format that is written, and the newest that is read.
FORMAT: Final = 1

_DUMP: Final = "database.dump"
_MANIFEST: Final = "manifest.json"
_IMAGE: Final = re.compile(r"images/([0-9a-f]{32})-([0-9]{1,9})x([0-9]{1,9})\.([a-z0-9]{1,10})")
_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK_BYTES: Final = 1024 * 1024
_LARGEST_MANIFEST: Final = 64 * 1024


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive is, and what is in it.

    `schema` is the number of the newest migration, `postgresql` the version of the server. `image_bytes` is
    what the images of the archive have together. `images_at` is where images are that are none of it, with
    ``{key}`` for their keys; None if all are in it. `sha256` is that of everything before the manifest.
    """

    format: int = FORMAT
    watchly: str
    schema: int
    postgresql: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}(?![0-9])")]
    at: datetime
    movies: int
    events: int
    images: int
    image_bytes: int
    images_at: str | None = None
    sha256: str = ""

    @property
    def postgresql_major(self) -> int:
        """The major version of the server."""
        # That of one which is not released yet is as 19beta1.
        return int(re.split(r"[^0-9]", self.postgresql, maxsplit=1)[0])


class _Format(msgspec.Struct):
    """What manifests of every format have."""

    format: int
    watchly: str


class Entry(NamedTuple):
    """A member of an archive: where its bytes begin, and how many there are."""

    name: str
    start: int
    size: int

    @property
    def image(self) -> Image | None:
        """The image that it holds; None if it holds none."""
        found = _IMAGE.fullmatch(self.name)
        if found is None:
            return None
        return Image(found[1], int(found[2]), int(found[3]), found[4], self.size)


class ArchiveWriter:
    """Writes an archive, member by member, to a file that need not be one of a disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    @contextmanager
    def dump(self, size: int) -> Iterator[Callable[[bytes], None]]:
        """What writes the dump, which has so many bytes; it comes first."""
        with self._member(_DUMP, size) as write:
            yield write

    @contextmanager
    def image(self, image: Image) -> Iterator[Callable[[bytes], None]]:
        """What writes an image, which has as many bytes as it says."""
        name = f"images/{image.key}-{image.width}x{image.height}.{image.format}"
        with self._member(name, image.bytes) as write:
            yield write

    def finish(self, manifest: Manifest) -> Manifest:
        """End the archive; the manifest as it is there."""
        manifest = msgspec.structs.replace(manifest, sha256=self._digest.hexdigest())
        content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
        with self._member(_MANIFEST, len(content)) as write:
            write(content)
        self._write(bytes(2 * _BLOCK))
        self._file.flush()
        return manifest

    @contextmanager
    def _member(self, name: str, size: int) -> Iterator[Callable[[bytes], None]]:
        header = tarfile.TarInfo(name)
        header.size, header.mode, header.mtime = size, 0o600, int(time.time())
        # In this format a header is one block, whatever the size.
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        written = 0

        def write(content: bytes) -> None:
            nonlocal written
            written += len(content)
            self._write(content)

        yield write
        if written != size:
            raise ValueError(f"{name} has {written} bytes, not {size}")
        self._write(bytes(-size % _BLOCK))

    def _write(self, content: bytes) -> None:
        self._digest.update(content)
        self._file.write(content)


class Archive:
    """An archive that was looked through from its beginning to its end, and is whole.

    Args:
        file: where it is; it stays open as long as the archive is used.
        name: what messages call it.
        advance: told of bytes that were looked at.

    Attributes:
        manifest: what it is.

    Raises:
        Misconfigured: it is none, or not whole, or of a format that is not known here.
    """

    def __init__(self, file: IO[bytes], name: str, advance: Callable[[int], None] = lambda _: None) -> None:
        self._file = file.fileno()
        self._name = name
        digest, at, seen = hashlib.sha256(), 0, 0
        for entry in self._entries():
            if entry.name == _MANIFEST:
                break
            if (entry.name == _DUMP) is (seen > 0) or not (entry.image or entry.name == _DUMP):
                raise self._foreign() if not seen else self._damaged()
            seen, end = seen + 1, _end(entry)
            while at < end:
                chunk = os.pread(self._file, min(_CHUNK_BYTES, end - at), at)
                if not chunk:
                    raise self._damaged()
                digest.update(chunk)
                advance(len(chunk))
                at += len(chunk)
        if not seen:
            raise self._foreign()
        self.manifest: Final = self._read_manifest(entry)
        if self.manifest.sha256 != digest.hexdigest():
            raise self._damaged()

    def dump(self) -> IO[bytes]:
        """What pg_dump made."""
        return self.open(next(self._entries()))

    def images(self) -> Iterator[tuple[Image, Entry]]:
        """The images that are in it, and where."""
        for entry in self._entries():
            if (image := entry.image) is not None:
                yield image, entry

    def open(self, entry: Entry) -> IO[bytes]:
        """The bytes of a member, as a file of its own that any thread may read."""
        return io.BufferedReader(_Window(self._file, entry), _CHUNK_BYTES // 4)

    def _entries(self) -> Iterator[Entry]:
        """The members, up to the manifest; which of them may follow which is not looked at."""
        at = 0
        while True:
            try:
                header = tarfile.TarInfo.frombuf(os.pread(self._file, _BLOCK, at), "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                raise self._damaged() if at else self._foreign() from None
            # A size can be written that leads back to where one was.
            if header.size < 0:
                raise self._damaged()
            entry = Entry(header.name, at + _BLOCK, header.size)
            yield entry
            if entry.name == _MANIFEST:
                return
            at = _end(entry)

    def _read_manifest(self, entry: Entry) -> Manifest:
        with self.open(entry) as file:
            content = file.read(_LARGEST_MANIFEST)
        try:
            known = msgspec.json.decode(content, type=_Format)
            if known.format > FORMAT:
                raise Misconfigured(
                    f"{self._name} was made by Watchly {known.watchly} in a format that is newer than this"
                    " one's: restore it with that version"
                )
            return msgspec.json.decode(content, type=Manifest)
        except (msgspec.DecodeError, RecursionError):
            raise self._damaged() from None

    def _foreign(self) -> Misconfigured:
        return Misconfigured(f"{self._name} is no backup of Watchly")

    def _damaged(self) -> Misconfigured:
        return Misconfigured(f"{self._name} is cut off or damaged: restore another backup")


class _Window(io.RawIOBase):
    """A part of a file as a file of its own, which leaves alone where the other one is read."""

    def __init__(self, file: int, entry: Entry) -> None:
        self._file, self._entry, self._at = file, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._entry.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        left = max(0, self._entry.size - self._at)
        read = os.preadv(self._file, [memoryview(buffer)[:left]], self._entry.start + self._at)
        self._at += read
        return read


def _end(entry: Entry) -> int:
    """Where the member after this one begins."""
    return entry.start + entry.size + -entry.size % _BLOCK
