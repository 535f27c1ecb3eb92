"""The size of an image in pixels, read from its header with the standard library alone.

Nothing is decoded, what does not matter is skipped by seeking, and every loop is bounded, so that
memory and time are small whatever the file says. The size is that of the image as it is shown: EXIF
orientations 5 to 8, and a quarter turn of an AVIF, swap width and height.

The formats: PNG 3rd edition, GIF89a, ITU T.81 with EXIF 2.32, RFC 9649 (WebP), ISO 14496-12 and 23008-12.
"""

# ruff: noqa: PLR2004 - the numbers are those of the formats

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Final, Literal

from watchly_adapters.threads import Threads
from watchly_core.errors import ImageUnreadable
from watchly_core.images import SNIFF_BYTES, Measured, sniff

#: How many segments, chunks or boxes are looked at; real images have a few dozen.
_MOST_PARTS: Final = 20_000

#: The most that is read of one part that matters: EXIF data, the meta box of an AVIF.
_MOST_BYTES: Final = 1024 * 1024

#: Far beyond any file, and within what can be sought to.
_LARGEST_BOX: Final = 2**40

_THREADS: Final = 4
_TURNED: Final = frozenset({5, 6, 7, 8})


class HeaderInspector:
    """An `ImageInspector` that needs no library, for the fakes and where Pillow is not installed."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS, "watchly-headers")

    async def measure(self, source: IO[bytes]) -> Measured:
        """The format and the size in pixels of the image in `source`, which is left at its start.

        Raises:
            ImageTypeUnsupported: the content is of no format that the catalogue keeps.
            ImageUnreadable: the header is broken.
        """
        return await self._threads.lend(lambda _: measure(source))


def measure(source: IO[bytes]) -> Measured:
    """What `HeaderInspector.measure` says, for callers that are in a thread already."""
    try:
        source.seek(0)
        format_ = sniff(source.read(SNIFF_BYTES))
        source.seek(0)
        try:
            width, height = _READERS[format_](source)
        except (EOFError, IndexError) as error:
            raise ImageUnreadable(f"the header of the {format_} ends too early") from error
        if width <= 0 or height <= 0:
            raise ImageUnreadable(f"the {format_} has no size: {width}x{height}")
        return Measured(format_, width, height)
    finally:
        source.seek(0)


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where `exif`, a TIFF structure, does not say or is broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in {b"II*\0", b"MM\0*"}:
        return 1
    order: Literal["big", "little"] = "little" if exif[:1] == b"I" else "big"
    start = int.from_bytes(exif[4:8], order)
    for index in range(int.from_bytes(exif[start : start + 2], order)):
        entry = exif[start + 2 + 12 * index : start + 14 + 12 * index]
        if len(entry) < 12:
            break
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        if (tag, kind) == (0x0112, 3):
            value = int.from_bytes(entry[8:10], order)
            return value if value in range(1, 9) else 1
    return 1


def shown(width: int, height: int, exif_orientation: int) -> tuple[int, int]:
    """The width and height of an image turned as its orientation says."""
    return (height, width) if exif_orientation in _TURNED else (width, height)


def _png(source: IO[bytes]) -> tuple[int, int]:
    source.seek(8)
    length, kind = _number(source, 4), _exactly(source, 4)
    header, checksum = _exactly(source, 13), _number(source, 4)
    if (length, kind) != (13, b"IHDR") or zlib.crc32(kind + header) != checksum:
        raise ImageUnreadable("the png does not start with a sound IHDR")
    if header[8] not in _PNG_DEPTHS.get(header[9], ()):
        raise ImageUnreadable(f"no png has colour type {header[9]} with {header[8]} bits")
    turn = 1
    for _ in range(_MOST_PARTS):
        length, kind = _number(source, 4), _exactly(source, 4)
        if kind == b"IDAT":
            return shown(int.from_bytes(header[:4]), int.from_bytes(header[4:8]), turn)
        if kind == b"IEND":
            break
        if kind == b"eXIf" and length <= _MOST_BYTES:
            turn = orientation(_exactly(source, length))
            length = 0
        source.seek(length + 4, io.SEEK_CUR)
    raise ImageUnreadable("the png has no pixels")


_PNG_DEPTHS: Final[Mapping[int, tuple[int, ...]]] = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}


def _gif(source: IO[bytes]) -> tuple[int, int]:
    source.seek(6)
    width, height = _number(source, 2, "little"), _number(source, 2, "little")
    colours = _exactly(source, 3)[0]
    if colours & 0x80:
        source.seek(3 * 2 ** ((colours & 7) + 1), io.SEEK_CUR)
    in_extension = False
    for _ in range(_MOST_PARTS):
        mark = _exactly(source, 1)[0]
        if in_extension:
            source.seek(mark, io.SEEK_CUR)
            in_extension = mark != 0
        elif mark == 0x21:
            source.seek(1, io.SEEK_CUR)
            in_extension = True
        elif mark == 0x2C:
            left, top, frame_width, frame_height = (_number(source, 2, "little") for _ in range(4))
            # Decoders widen the screen to a first frame that does not fit on it.
            return max(width, left + frame_width), max(height, top + frame_height)
        elif mark == 0x3B:
            break
    raise ImageUnreadable("the gif has no frame")


def _jpeg(source: IO[bytes]) -> tuple[int, int]:
    source.seek(2)
    size: tuple[int, int] | None = None
    turn: int | None = None
    for _ in range(_MOST_PARTS):
        marker = _jpeg_marker(source)
        if marker == 0xDA:
            if size is None:
                break
            return shown(*size, turn or 1)
        if marker in _JPEG_BARE:
            continue
        length = _number(source, 2) - 2
        if length < 0 or marker == 0xD9:
            break
        if marker in _JPEG_FRAMES:
            frame = _exactly(source, length)
            size = int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3])
        elif marker == 0xE1 and turn is None:
            data = _exactly(source, length)
            turn = orientation(data) if data.startswith(b"Exif\0\0") else None
        else:
            source.seek(length, io.SEEK_CUR)
    raise ImageUnreadable("the jpeg has no frame header before its pixels")


_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})


def _jpeg_marker(source: IO[bytes]) -> int:
    after_ff = False
    for _ in range(_MOST_PARTS):
        byte = _exactly(source, 1)[0]
        if after_ff and byte not in {0x00, 0xFF}:
            return byte
        after_ff = byte == 0xFF
    raise ImageUnreadable("the jpeg has no marker where one should be")


def _webp(source: IO[bytes]) -> tuple[int, int]:
    source.seek(12)
    size: tuple[int, int] | None = None
    has_pixels, has_exif = False, False
    turn = 1
    for kind, length in _webp_chunks(source):
        start = source.tell()
        if kind == b"VP8X" and size is None:
            flags = _exactly(source, 4)[0]
            size = _number(source, 3, "little") + 1, _number(source, 3, "little") + 1
            has_exif = bool(flags & 0x08)
        elif kind == b"VP8 ":
            size, has_pixels = size or _vp8_size(_exactly(source, 10)), True
        elif kind == b"VP8L":
            size, has_pixels = size or _vp8l_size(_exactly(source, 5)), True
        elif kind == b"ANMF":
            has_pixels = True
        elif kind == b"EXIF" and length <= _MOST_BYTES:
            turn, has_exif = orientation(_exactly(source, length)), False
        if size is None:
            break
        if has_pixels and not has_exif:
            return shown(*size, turn)
        source.seek(start + length + length % 2)
    if size is None or not has_pixels:
        raise ImageUnreadable("the webp has no pixels")
    return shown(*size, turn)


def _webp_chunks(source: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    for _ in range(_MOST_PARTS):
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


def _avif(source: IO[bytes]) -> tuple[int, int]:
    meta = dict(_boxes(io.BytesIO(_avif_meta(source)[4:])))
    primary = _field(meta.get(b"pitm", b""))
    properties: list[tuple[bytes, bytes]] = []
    associations = b""
    for kind, payload in _boxes(io.BytesIO(meta.get(b"iprp", b""))):
        if kind == b"ipco":
            properties = list(_boxes(io.BytesIO(payload)))
        elif kind == b"ipma":
            associations = payload
    size: tuple[int, int] | None = None
    turned = False
    for index in _ipma(associations, primary):
        kind, payload = properties[index - 1] if 0 < index <= len(properties) else (b"", b"")
        if kind == b"ispe":
            size = int.from_bytes(payload[4:8]), int.from_bytes(payload[8:12])
        elif kind == b"irot":
            turned = payload[0] & 1 == 1
    if size is None:
        raise ImageUnreadable("the avif does not say how large its image is")
    return size[::-1] if turned else size


def _avif_meta(source: IO[bytes]) -> bytes:
    for kind, payload in _boxes(source, wanted=b"meta"):
        if kind == b"meta":
            return payload
    raise ImageUnreadable("the avif has no meta box")


def _boxes(source: IO[bytes], wanted: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of ISO 14496-12 in `source`, with their content; only of those `wanted`, if given."""
    for _ in range(_MOST_PARTS):
        head = source.read(8)
        if len(head) < 8:
            return
        size, kind, start = int.from_bytes(head[:4]), head[4:], 8
        if size == 1:
            size, start = _number(source, 8), 16
        if size == 0:  # up to the end of the file
            yield kind, source.read(_MOST_BYTES)
            return
        if size < start or size > _LARGEST_BOX:
            raise ImageUnreadable("a box of the avif has an impossible size")
        if wanted is None or kind == wanted:
            yield kind, _exactly(source, size - start)
        else:
            source.seek(size - start, io.SEEK_CUR)


def _field(payload: bytes) -> int:
    """The number after the version of a full box: 16 bits wide in version 0, else 32."""
    return int.from_bytes(payload[4 : 6 if payload[0] == 0 else 8])


def _ipma(payload: bytes, item: int) -> Iterator[int]:
    """The positions, from 1, of the properties that belong to `item`."""
    table = io.BytesIO(payload)
    version, flags = _number(table, 1), _number(table, 3)
    for _ in range(_number(table, 4)):
        of_item = _number(table, 2 if version == 0 else 4)
        for _ in range(_number(table, 1)):
            index = _number(table, 2) & 0x7FFF if flags & 1 else _number(table, 1) & 0x7F
            if of_item == item:
                yield index


def _exactly(source: IO[bytes], count: int) -> bytes:
    if count > _MOST_BYTES:
        raise ImageUnreadable("a part of the header is too large")
    data = source.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _number(source: IO[bytes], count: int, order: Literal["big", "little"] = "big") -> int:
    return int.from_bytes(_exactly(source, count), order)


_READERS: Final[Mapping[str, Callable[[IO[bytes]], tuple[int, int]]]] = {
    "png": _png,
    "gif": _gif,
    "jpeg": _jpeg,
    "webp": _webp,
    "avif": _avif,
}
