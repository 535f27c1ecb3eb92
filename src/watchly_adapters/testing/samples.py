"""Small images for the suites: one for each format and each way of saying its size, all 6 by 4 pixels."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Final

WIDTH: Final = 6
HEIGHT: Final = 4

_AFTER_IHDR: Final = 33

_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAYAAAAECAIAAAAiZtkUAAAAHUlEQVR42mNkYGA4IWfDgASY0PgMDAxMDBgAixAAkVACTD+VBlYAAAAASUVO"
    "RK5CYII="
)
_GIF = "R0lGODdhBgAEAIEAAMgePAAAAAAAAAAAACwAAAAABgAEAAAIDAADABhIsKDBgwMDAgA7"
_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////////////////////"
    "////////////2wBDAVVaWnhpeOuCguv/////////////////////////////////////////////////////////////////////////wAAR"
    "CAAEAAYDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAP/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAA"
    "AQT/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwCQAUP/2Q=="
)
_WEBP_LOSSY = "UklGRi4AAABXRUJQVlA4ICIAAABwAQCdASoGAAQADMDOJagCdAFAAAD+2iAQHbzmzt9QAAAA"
_WEBP_LOSSLESS = "UklGRiIAAABXRUJQVlA4TBUAAAAvBcAAAA8wHoM8PPMfeLjPT0T/wwEA"
_WEBP_EXTENDED = (
    "UklGRlYAAABXRUJQVlA4WAoAAAAIAAAABQAAAwAAVlA4TBUAAAAvBcAAAA8wHoM8PPMfeLjPT0T/wwEARVhJRhoAAABNTQAqAAAA"
    "CAABARIAAwAAAAEABgAAAAAAAA=="
)
_AVIF = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAO"
    "cGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAIwAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAA"
    "AABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAABgAAAAQAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAG"
    "gAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAK21kYXQSAAoIGAhu0QENBoQyFR7Hh4VZ3///4sAAAJA1jjxnQI1xsA=="
)
_AVIF_TURNED = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAAD1bWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAO"
    "cGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAEdAAAAIwAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAA"
    "AAB0aXBycAAAAFRpcGNvAAAAFGlzcGUAAAAAAAAABgAAAAQAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBAAwAAAAAE2NvbHJuY2x4AAEADQAG"
    "gAAAAAlpcm90AwAAABhpcG1hAAAAAAAAAAEAAQUBAoMEhQAAACttZGF0EgAKCBgIbtEBDQaEMhUex4eFWd///+LAAACQNY48Z0CNcbA="
)

#: Upright images by what they are; the first word is the format. Each is shown `WIDTH` by `HEIGHT`.
UPRIGHT: Final[Mapping[str, bytes]] = {
    "jpeg": base64.b64decode(_JPEG),
    "png": base64.b64decode(_PNG),
    "gif": base64.b64decode(_GIF),
    "webp lossy": base64.b64decode(_WEBP_LOSSY),
    "webp lossless": base64.b64decode(_WEBP_LOSSLESS),
    "avif": base64.b64decode(_AVIF),
}


def exif(orientation: int) -> bytes:
    """EXIF data that says only how the image is turned, as JPEG and PNG carry it in their ways."""
    return struct.pack(">2sHLHHHLHHL", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def turned_jpeg(orientation: int) -> bytes:
    """The JPEG with an EXIF orientation."""
    data = b"Exif\0\0" + exif(orientation)
    plain = UPRIGHT["jpeg"]
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + plain[2:]


def turned_png(orientation: int) -> bytes:
    """The PNG with an EXIF orientation."""
    plain = UPRIGHT["png"]
    return plain[:_AFTER_IHDR] + _png_chunk(b"eXIf", exif(orientation)) + plain[_AFTER_IHDR:]


def png(size: int, *, mark: int = 0) -> bytes:
    """A sound PNG of exactly `size` bytes; `mark` makes it another one. The least size is 200."""
    plain = UPRIGHT["png"]
    room = size - len(plain) - 12
    data = mark.to_bytes(8, "big") + bytes(room - 8)
    # An ancillary, private chunk, safe to copy, which readers pass over.
    return plain[:_AFTER_IHDR] + _png_chunk(b"waTc", data) + plain[_AFTER_IHDR:]


def png_claiming(width: int, height: int) -> bytes:
    """The PNG with another size in its header, whatever its pixels are."""
    plain = UPRIGHT["png"]
    header = struct.pack(">LL", width, height) + plain[24:29]
    return plain[:8] + _png_chunk(b"IHDR", header) + plain[_AFTER_IHDR:]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


#: Images that lie on their side, so that they are shown `HEIGHT` by `WIDTH`.
TURNED: Final[Mapping[str, bytes]] = {
    "jpeg": turned_jpeg(6),
    "png": turned_png(8),
    "webp extended": base64.b64decode(_WEBP_EXTENDED),
    "avif": base64.b64decode(_AVIF_TURNED),
}
