"""How an image is turned, by its EXIF data (CIPA DC-008, section 4.6.4, tag 0x0112)."""

from __future__ import annotations

from typing import Final, Literal

#: Bytes of an entry of a directory.
_ENTRY: Final = 12
_TURNED: Final = frozenset({5, 6, 7, 8})


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where `exif`, a TIFF structure, does not say or is broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in {b"II*\0", b"MM\0*"}:
        return 1
    order: Literal["big", "little"] = "little" if exif[:1] == b"I" else "big"
    start = int.from_bytes(exif[4:8], order)
    entries = int.from_bytes(exif[start : start + 2], order)
    for at in range(start + 2, start + 2 + entries * _ENTRY, _ENTRY):
        entry = exif[at : at + _ENTRY]
        if len(entry) < _ENTRY:
            break
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        if (tag, kind) == (0x0112, 3):
            value = int.from_bytes(entry[8:10], order)
            return value if value in range(1, 9) else 1
    return 1


def shown(width: int, height: int, exif_orientation: int) -> tuple[int, int]:
    """The width and height of an image turned as its orientation says."""
    return (height, width) if exif_orientation in _TURNED else (width, height)
