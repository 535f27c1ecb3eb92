"""Small images for the suites: one for each format and each way of saying its size, all 6 by 4 pixels."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Final, NamedTuple

WIDTH: Final = 6
HEIGHT: Final = 4

_AFTER_IHDR: Final = 33
_GIF_PICTURE: Final = 25

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
_AVIF_TOLD = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUIAAAF+bWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAOcGl0"
    "bQAAAAAAAQAAADppbG9jAAAAAEQAAAMAAQAAAAEAAAI6AAAAMAACAAAAAQAAAaYAAAByAAMAAAABAAACGAAAACIAAABtaWluZgAAAAAAAwAAABpp"
    "bmZlAgAAAAABAABhdjAxQ29sb3IAAAAAGWluZmUCAAAAAAIAAEV4aWZFeGlmAAAAACxpbmZlAgAAAAADAABtaW1lWE1QAGFwcGxpY2F0aW9uL3Jk"
    "Zit4bWwAAAAAKGlyZWYAAAAAAAAADmNkc2MAAgABAAEAAAAOY2RzYwADAAEAAQAAAHRpcHJwAAAAVGlwY28AAAAUaXNwZQAAAAAAAAAGAAAABAAA"
    "ABBwaXhpAAAAAAMICAgAAAAMYXYxQ4EADAAAAAATY29scm5jbHgAAQANAAaAAAAACWlyb3QDAAAAGGlwbWEAAAAAAAAAAQABBQECgwSFAAAAzG1k"
    "YXQAAAAGRXhpZgAATU0AKgAAAAgAAgEOAAIAAAAMAAAAJoglAAQAAAABAAAAMgAAAABTRUNSRVRQTEFDRQAAAgABAAIAAAACTgAAAAACAAUAAAAD"
    "AAAAUAAAAAAAAAA7AAAAAQAAABoAAAABAAAFOQAAAGQ8eDp4bXBtZXRhPlNFQ1JFVFBMQUNFPC94OnhtcG1ldGE+EgAKCBgIbtEBDQaEMiIZR4eG"
    "IYeeeeaCQACQQMpsoT6HVNl8MKbu3/+t1gHocUeU"
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


#: What nobody should learn of an image: a word that is in all of its texts, and where it was taken.
SECRET: Final = b"SECRETPLACE"
LATITUDE: Final = struct.pack(">6L", 59, 1, 26, 1, 1337, 100)


def telling_exif(orientation: int) -> bytes:
    """EXIF data that say where the image was taken as well."""
    text = SECRET + b"\0"
    text_at = 8 + 2 + 3 * 12 + 4
    gps_at = text_at + len(text)
    latitude_at = gps_at + 2 + 2 * 12 + 4
    return b"".join(
        (
            struct.pack(">2sHLH", b"MM", 42, 8, 3),
            struct.pack(">HHLL", 0x010E, 2, len(text), text_at),
            struct.pack(">HHLHH", 0x0112, 3, 1, orientation, 0),
            struct.pack(">HHLL", 0x8825, 4, 1, gps_at),
            bytes(4) + text,
            struct.pack(">H", 2),
            struct.pack(">HHL4s", 1, 2, 2, b"N"),
            struct.pack(">HHLL", 2, 5, 3, latitude_at),
            bytes(4) + LATITUDE,
        )
    )


def turned_jpeg(orientation: int) -> bytes:
    """The JPEG with an EXIF orientation."""
    plain = UPRIGHT["jpeg"]
    return plain[:2] + _jpeg_segment(0xE1, b"Exif\0\0" + exif(orientation)) + plain[2:]


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


def png_showing(width: int, height: int, *, orientation: int = 1) -> bytes:
    """A PNG of this size, before it is turned upright, with a grey that grows lighter downwards."""
    rows = b"".join(b"\0" + bytes([255 * row // height]) * width for row in range(height))
    return _png_of(struct.pack(">LL5B", width, height, 8, 0, 0, 0, 0), zlib.compress(rows), orientation)


def png_holding(pixels: bytes) -> bytes:
    """The PNG with these bytes where its compressed pixels should be, and checksums that are right."""
    return _png_of(UPRIGHT["png"][16:29], pixels)


def _png_of(header: bytes, pixels: bytes, orientation: int = 1) -> bytes:
    chunks = (b"IHDR", header), (b"eXIf", exif(orientation)), (b"IDAT", pixels), (b"IEND", b"")
    return UPRIGHT["png"][:8] + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def gif_of(pictures: int) -> bytes:
    """An animated GIF."""
    plain = UPRIGHT["gif"]
    return plain[:_GIF_PICTURE] + plain[_GIF_PICTURE:-1] * pictures + plain[-1:]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def _jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _riff_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<L", len(data)) + data + bytes(len(data) % 2)


#: Images that lie on their side, so that they are shown `HEIGHT` by `WIDTH`.
TURNED: Final[Mapping[str, bytes]] = {
    "jpeg": turned_jpeg(6),
    "png": turned_png(8),
    "webp extended": base64.b64decode(_WEBP_EXTENDED),
    "avif": base64.b64decode(_AVIF_TURNED),
}


class Told(NamedTuple):
    """An image that tells more than it should, and a part of it that matters."""

    content: bytes
    pixels: bytes


def _told_jpeg() -> Told:
    plain = UPRIGHT["jpeg"]
    segments = (
        (0xE1, b"Exif\0\0" + telling_exif(6)),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"),
        (0xED, b"Photoshop 3.0\x008BIM" + SECRET),
        (0xFE, SECRET),
    )
    told = b"".join(_jpeg_segment(marker, data) for marker, data in segments)
    return Told(plain[:2] + told + plain[2:], plain[2:])


def _told_png() -> Told:
    plain = UPRIGHT["png"]
    chunks = (
        (b"eXIf", telling_exif(6)),
        (b"tEXt", b"Comment\0" + SECRET),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + SECRET),
        (b"prVt", SECRET),
    )
    told = b"".join(_png_chunk(kind, data) for kind, data in chunks)
    return Told(plain[:_AFTER_IHDR] + told + plain[_AFTER_IHDR:], plain[_AFTER_IHDR:])


def _told_gif() -> Told:
    plain = UPRIGHT["gif"]
    comment = b"!\xfe" + bytes([len(SECRET)]) + SECRET + b"\0"
    return Told(plain[:_GIF_PICTURE] + comment + plain[_GIF_PICTURE:], plain[_GIF_PICTURE:])


def _told_webp() -> Told:
    pixels = UPRIGHT["webp lossless"][12:]
    body = b"".join(
        (
            b"WEBP",
            _riff_chunk(
                b"VP8X", b"\x0c\0\0\0" + struct.pack("<L", WIDTH - 1)[:3] + struct.pack("<L", HEIGHT - 1)[:3]
            ),
            pixels,
            _riff_chunk(b"EXIF", telling_exif(6)),
            _riff_chunk(b"XMP ", SECRET),
        )
    )
    return Told(_riff_chunk(b"RIFF", body), pixels)


def _told_avif() -> Told:
    content = base64.b64decode(_AVIF_TOLD)
    # The last of its items; those before are EXIF and XMP data.
    return Told(content, content[-48:])


#: Images with metadata of every kind. All but the GIF, which cannot, lie on their side.
TOLD: Final[Mapping[str, Told]] = {
    "jpeg": _told_jpeg(),
    "png": _told_png(),
    "gif": _told_gif(),
    "webp": _told_webp(),
    "avif": _told_avif(),
}

#: Images whose structure is sound, and whose pixels are not.
BROKEN: Final[Mapping[str, bytes]] = {
    "png of garbage": png_holding(b"\x78\x9c" + bytes(range(100))),
    "png of too few pixels": png_holding(zlib.compress(b"\0" * 30)),
    "png of pixels that are cut off": png_holding(zlib.compress(bytes(4 * 19))[:-6]),
    "webp of garbage": UPRIGHT["webp lossless"][:25] + b"\xff" * (len(UPRIGHT["webp lossless"]) - 25),
    "avif of garbage": UPRIGHT["avif"][:-30] + b"\xff" * 30,
}
