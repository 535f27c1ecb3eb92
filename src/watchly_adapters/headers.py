"""The size of an image in pixels, read from its header with the standard library alone.

Nothing is decoded, what does not matter is skipped by seeking, and how much is read of a file, in how
many steps, has a bound, so that memory and time are small whatever the file says. The size is that of the
image as it is shown: EXIF orientations 5 to 8, and a quarter turn of an AVIF, swap width and height.

The formats: PNG 3rd edition, GIF89a, ITU T.81 with EXIF 2.32, RFC 9649 (WebP), ISO 14496-12 and 23008-12.
"""

# ruff: noqa: PLR2004 - the numbers are those of the formats

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import IO, Final, Literal

from watchly_adapters.exif import orientation, shown
from watchly_adapters.metadata import clean
from watchly_core.errors import ImageUnreadable, Misconfigured
from watchly_core.images import SNIFF_BYTES, Measured, Rendition, sniff
from watchly_core.threads import Threads

__all__ = ["HeaderInspector", "measure"]

#: How many segments, chunks, boxes and entries of one file are looked at; real images have a few dozen.
_MOST_PARTS: Final = 20_000

#: The most that is read of one part that matters: EXIF data, the meta box of an AVIF.
_MOST_BYTES: Final = 1024 * 1024

#: The most that is read of one file; an AVIF's boxes count at each level of their nesting.
_MOST_IN_ALL: Final = 4 * _MOST_BYTES + 256 * 1024

#: How many bytes between the segments of a JPEG, where none should be, are passed over, and how many are
#: read at a time to find the next segment.
_MOST_STRAY: Final = 64 * 1024
_STRAY_BLOCK: Final = 512

#: Far beyond any file, and within what can be sought to.
_LARGEST_BOX: Final = 2**40

_THREADS: Final = 4

#: Cleaning walks whole files: slowly, and after all that answers requests.
_CLEANERS: Final = 2
_NICE: Final = 10


class HeaderInspector:
    """An `ImageInspector` that needs no library, for the fakes and where Pillow is not installed."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS, "watchly-headers")
        self._cleaners = Threads(_CLEANERS, "watchly-cleaner", nice=_NICE)

    async def measure(self, source: IO[bytes]) -> Measured:
        """The format and the size in pixels of the image in `source`, which is left at its start.

        Raises:
            ImageTypeUnsupported: the content is of no format that the catalogue keeps.
            ImageUnreadable: the header is broken.
        """
        return await self._threads.lend(lambda _: measure(source))

    async def clean(self, source: IO[bytes]) -> int:
        """See the port."""
        return await self._cleaners.lend(lambda _: clean(source))

    async def decode(self, source: IO[bytes]) -> None:
        """Nothing: without a library there is no more to an image than its structure, which `clean` walks."""

    async def render(self, source: IO[bytes], rendition: Rendition) -> bytes:  # noqa: ARG002 - see the port
        """Refuse to.

        Raises:
            Misconfigured: always.
        """
        raise Misconfigured("rendering variants needs Pillow: pip install 'watchly[images]'")


def measure(source: IO[bytes]) -> Measured:
    """What `HeaderInspector.measure` says, for callers that are in a thread already.

    Raises:
        ImageTypeUnsupported: it is of none of the formats that the catalogue takes.
        ImageUnreadable: its header is broken, or ends too early.
    """
    try:
        source.seek(0)
        format_ = sniff(source.read(SNIFF_BYTES))
        source.seek(0)
        try:
            width, height = _READERS[format_](_Header(source, _Budget()))
        except (EOFError, IndexError) as error:
            raise ImageUnreadable(f"the header of the {format_} ends too early") from error
        if width <= 0 or height <= 0:
            raise ImageUnreadable(f"the {format_} has no size: {width}x{height}")
        return Measured(format_, width, height)
    finally:
        source.seek(0)


class _Budget:
    """What may still be read of one file."""

    def __init__(self) -> None:
        self.bytes = _MOST_IN_ALL
        self.parts = _MOST_PARTS


class _Header:
    """A file, or a part of one, of which only so much is read."""

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file = file
        self._budget = budget
        self.tell, self.seek = file.tell, file.seek

    def inside(self, payload: bytes) -> _Header:
        """A part that was read already, to be read again as what it holds."""
        return _Header(io.BytesIO(payload), self._budget)

    def parts(self) -> Iterator[None]:
        """A step for each part that a loop looks at, while there are steps left."""
        while self._budget.parts:
            self._budget.parts -= 1
            yield
        raise ImageUnreadable("the header has too many parts")

    def read(self, count: int) -> bytes:
        """At most `count` bytes, fewer only at the end."""
        data = self._file.read(count)
        self._budget.bytes -= len(data)
        if self._budget.bytes < 0:
            raise ImageUnreadable("the header is too long")
        return data

    def exactly(self, count: int) -> bytes:
        if count > _MOST_BYTES:
            raise ImageUnreadable("a part of the header is too large")
        data = self.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def number(self, count: int, order: Literal["big", "little"] = "big") -> int:
        return int.from_bytes(self.exactly(count), order)

    def skip(self, count: int) -> None:
        self.seek(count, io.SEEK_CUR)


def _png(source: _Header) -> tuple[int, int]:
    source.seek(8)
    length, kind = source.number(4), source.exactly(4)
    header, checksum = source.exactly(13), source.number(4)
    if (length, kind) != (13, b"IHDR") or zlib.crc32(kind + header) != checksum:
        raise ImageUnreadable("the png does not start with a sound IHDR")
    if header[8] not in _PNG_DEPTHS.get(header[9], ()):
        raise ImageUnreadable(f"no png has colour type {header[9]} with {header[8]} bits")
    turn: int | None = None
    for _ in source.parts():
        length, kind = source.number(4), source.exactly(4)
        if kind == b"IDAT":
            return shown(int.from_bytes(header[:4]), int.from_bytes(header[4:8]), turn or 1)
        if kind == b"IEND":
            break
        if kind == b"eXIf" and turn is None:
            turn = 1
            if length <= _MOST_BYTES:
                turn, length = orientation(source.exactly(length)), 0
        source.skip(length + 4)
    raise ImageUnreadable("the png has no pixels")


_PNG_DEPTHS: Final[Mapping[int, tuple[int, ...]]] = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}


def _gif(source: _Header) -> tuple[int, int]:
    source.seek(6)
    width, height = source.number(2, "little"), source.number(2, "little")
    colours = source.exactly(3)[0]
    if colours & 0x80:
        source.skip(3 * 2 ** ((colours & 7) + 1))
    in_extension = False
    for _ in source.parts():
        mark = source.exactly(1)[0]
        if in_extension:
            source.skip(mark)
            in_extension = mark != 0
        elif mark == 0x21:
            source.skip(1)
            in_extension = True
        elif mark == 0x2C:
            left, top, frame_width, frame_height = (source.number(2, "little") for _ in range(4))
            # Decoders widen the screen to a first frame that does not fit on it.
            return max(width, left + frame_width), max(height, top + frame_height)
        elif mark == 0x3B:
            break
    raise ImageUnreadable("the gif has no frame")


def _jpeg(source: _Header) -> tuple[int, int]:
    source.seek(2)
    size: tuple[int, int] | None = None
    turn: int | None = None
    stray = 0
    for _ in source.parts():
        marker, passed_over = _jpeg_marker(source, _MOST_STRAY - stray)
        stray += passed_over
        if marker == 0xDA:
            if size is None:
                break
            return shown(*size, turn or 1)
        if marker in _JPEG_BARE:
            continue
        length = source.number(2) - 2
        if length < 0 or marker == 0xD9:
            break
        if marker in _JPEG_FRAMES:
            frame = source.exactly(length)
            size = int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3])
        elif marker == 0xE1 and turn is None:
            start = source.tell()
            if source.exactly(min(length, 6)) == b"Exif\0\0":
                turn = orientation(source.exactly(length - 6))
            source.seek(start + length)
        else:
            source.skip(length)
    raise ImageUnreadable("the jpeg has no frame header before its pixels")


_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})


_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")


def _jpeg_marker(source: _Header, most: int) -> tuple[int, int]:
    """The next marker, and how many bytes before it, at most about `most`, were passed over."""
    block, passed_over = source.exactly(2), 0
    while (found := _JPEG_MARKER.search(block)) is None:
        kept = block[-1:] if block[-1] == 0xFF else b""
        passed_over += len(block) - len(kept)
        if passed_over > most:
            raise ImageUnreadable("the jpeg has no marker where one should be")
        more = source.read(_STRAY_BLOCK)
        if not more:
            raise EOFError
        block = kept + more
    source.skip(found.end() - len(block))
    return found[0][1], passed_over + found.start()


def _webp(source: _Header) -> tuple[int, int]:
    source.seek(12)
    size: tuple[int, int] | None = None
    has_pixels, has_exif = False, False
    turn = 1
    for kind, length in _webp_chunks(source):
        start = source.tell()
        if kind == b"VP8X" and size is None:
            flags = source.exactly(4)[0]
            size = source.number(3, "little") + 1, source.number(3, "little") + 1
            has_exif = bool(flags & 0x08)
        elif kind == b"VP8 ":
            size, has_pixels = size or _vp8_size(source.exactly(10)), True
        elif kind == b"VP8L":
            size, has_pixels = size or _vp8l_size(source.exactly(5)), True
        elif kind == b"ANMF":
            has_pixels = True
        elif kind == b"EXIF" and has_exif:
            # Readers go by the first, and only if they were told of it.
            turn = orientation(source.exactly(length)) if length <= _MOST_BYTES else 1
            has_exif = False
        if size is None:
            break
        if has_pixels and not has_exif:
            return shown(*size, turn)
        source.seek(start + length + length % 2)
    if size is None or not has_pixels:
        raise ImageUnreadable("the webp has no pixels")
    return shown(*size, turn)


def _webp_chunks(source: _Header) -> Iterator[tuple[bytes, int]]:
    for _ in source.parts():
        head = source.read(8)
        if len(head) < 8:
            return
        yield head[:4], int.from_bytes(head[4:], "little")


def _vp8_size(frame: bytes) -> tuple[int, int]:
    if frame[3:6] != b"\x9d\x01\x2a":
        raise ImageUnreadable("the webp has no key frame")
    return int.from_bytes(frame[6:8], "little") & 0x3FFF, int.from_bytes(frame[8:10], "little") & 0x3FFF


def _vp8l_size(frame: bytes) -> tuple[int, int]:
    if frame[0] != 0x2F:
        raise ImageUnreadable("the webp has no lossless frame")
    bits = int.from_bytes(frame[1:], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _avif(source: _Header) -> tuple[int, int]:
    meta = dict(_boxes(source.inside(_avif_meta(source)[4:])))
    primary = _field(meta.get(b"pitm", b""))
    properties: list[tuple[bytes, bytes]] = []
    associations = b""
    for kind, payload in _boxes(source.inside(meta.get(b"iprp", b""))):
        if kind == b"ipco":
            properties = list(_boxes(source.inside(payload)))
        elif kind == b"ipma":
            associations = payload
    size: tuple[int, int] | None = None
    turned = False
    for index in _ipma(source.inside(associations), primary):
        kind, payload = properties[index - 1] if 0 < index <= len(properties) else (b"", b"")
        if kind == b"ispe":
            size = int.from_bytes(payload[4:8]), int.from_bytes(payload[8:12])
        elif kind == b"irot":
            turned = payload[0] & 1 == 1
    if size is None:
        raise ImageUnreadable("the avif does not say how large its image is")
    return size[::-1] if turned else size


def _avif_meta(source: _Header) -> bytes:
    for kind, payload in _boxes(source, wanted=b"meta"):
        if kind == b"meta":
            return payload
    raise ImageUnreadable("the avif has no meta box")


def _boxes(source: _Header, wanted: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of ISO 14496-12 in `source`, with their content; only of those `wanted`, if given."""
    for _ in source.parts():
        head = source.read(8)
        if len(head) < 8:
            return
        size, kind, start = int.from_bytes(head[:4]), head[4:], 8
        if size == 1:
            size, start = source.number(8), 16
        if size == 0:  # up to the end of the file
            yield kind, source.read(_MOST_BYTES)
            return
        if size < start or size > _LARGEST_BOX:
            raise ImageUnreadable("a box of the avif has an impossible size")
        if wanted is None or kind == wanted:
            yield kind, source.exactly(size - start)
        else:
            source.skip(size - start)


def _field(payload: bytes) -> int:
    """The number after the version of a full box: 16 bits wide in version 0, else 32."""
    return int.from_bytes(payload[4 : 6 if payload[0] == 0 else 8])


def _ipma(table: _Header, item: int) -> Iterator[int]:
    """The positions, from 1, of the properties that belong to `item`."""
    version, flags = table.number(1), table.number(3)
    width = 2 if flags & 1 else 1
    for _ in islice(table.parts(), table.number(4)):
        of_item = table.number(2 if version == 0 else 4)
        indices = table.exactly(table.number(1) * width)
        if of_item == item:
            for start in range(0, len(indices), width):
                yield int.from_bytes(indices[start : start + width]) & (0x7FFF if flags & 1 else 0x7F)


_READERS: Final[Mapping[str, Callable[[_Header], tuple[int, int]]]] = {
    "png": _png,
    "gif": _gif,
    "jpeg": _jpeg,
    "webp": _webp,
    "avif": _avif,
}
