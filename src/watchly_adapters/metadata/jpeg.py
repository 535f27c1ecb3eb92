"""JPEG: segments, each with a marker and its length, and scans, which end where the next marker is."""

from __future__ import annotations

import re
from typing import Final

from watchly_adapters.metadata.parts import PROFILE_HEAD, Parts, is_profile

_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")

#: Markers that end a scan: those of restarts are part of it, and decoders pass over what means nothing.
_AFTER_SCAN: Final = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")

_START, _END, _SCAN, _LINES, _COMMENT = 0xD8, 0xD9, 0xDA, 0xDC, 0xFE
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

#: Frames and scans, and the tables that they are decoded by.
_PICTURE: Final = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDD})

_EXIF: Final = b"Exif\0\0"

#: After this a part of a colour profile has its number, from 1, and how many parts there are.
_PROFILE: Final = b"ICC_PROFILE\0"
_PART_HEAD: Final = len(_PROFILE) + 2
_MOST_PROFILE_PARTS: Final = 255
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE


class _Metadata:
    """Empties the segments that do not matter."""

    def __init__(self, file: Parts) -> None:
        self._file = file
        self._has_exif = False
        self._profile: list[tuple[int, int]] = []

    def empty(self, marker: int, start: int, end: int, *, late: bool) -> None:
        """Overwrite what does not matter between `start` and `end`; `late` is what comes after pixels."""
        content = self._file.read(start, end - start)
        kept = b""
        if marker == _APP1 and content.startswith(_EXIF):
            # Readers go by the first, before the pixels.
            turn = b"" if late or self._has_exif else self._file.turn(start + len(_EXIF), end)
            kept = _EXIF + turn if turn else b""
            self._has_exif = True
        elif marker == _APP0 and content.startswith(b"JFIF\0"):
            kept = content[:12]  # a preview may follow
        elif marker == _APP2 and content.startswith(_PROFILE) and not late:
            if len(self._profile) <= _MOST_PROFILE_PARTS:  # one more is enough to know that they are none
                self._profile.append((start, end))
                kept = content
        elif marker == _APP14 and content.startswith(b"Adobe"):
            kept = content[:12]
        elif marker == _LINES:
            # A height, where decoders do not look for it: what has none before is refused.
            self._file.write(start - 3, bytes([_COMMENT]))
        kept = kept.ljust(len(content), b"\0")
        if kept != content:
            self._file.write(start, kept)

    def end(self) -> None:
        """Empty a profile that is none."""
        if not self._has_profile():
            for start, end in self._profile:
                self._file.fill(start, end)

    def _has_profile(self) -> bool:
        """Whether the parts of a profile, in whichever order, are all there, and may be one."""
        number, head = self._file.number, len(_PROFILE)
        parts = {number(start + head, 1): start for start, end in self._profile if end - start > _PART_HEAD}
        counts = {number(start + head + 1, 1) for start in parts.values()}
        if counts != {len(self._profile)} or parts.keys() != {*range(1, len(self._profile) + 1)}:
            return False
        first = parts[1] + _PART_HEAD
        size = sum(end - start - _PART_HEAD for start, end in self._profile)
        return is_profile(self._file.read(first, min(PROFILE_HEAD, self._file.size - first)), size)


def clean(file: Parts) -> int:
    """Empty the segments that do not matter, and cut what follows the image."""
    at = 2
    metadata, seen = _Metadata(file), set[int]()
    while True:
        file.part()
        found, marker = file.find(_MARKER, at)
        file.fill(at, found, b"\xff")  # any number of these may stand before a marker, and nothing else
        at = found + 2
        if marker == _END:
            break
        if marker == _START:
            raise file.broken("starts again")
        if marker in _BARE:
            continue
        start, end = at + 2, at + file.number(at, 2)
        if end < start:
            raise file.broken("has a segment of an impossible size")
        file.require(end)
        if marker not in _PICTURE:
            metadata.empty(marker, start, end, late=_SCAN in seen)
        seen.add(marker)
        at = end
        if marker == _SCAN:
            at, _ = file.find(_AFTER_SCAN, at)
    if _SCAN not in seen or not seen & _FRAMES:
        raise file.broken("has no pixels")
    metadata.end()
    file.cut(at)
    return at
