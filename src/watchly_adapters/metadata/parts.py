"""A file that is made of parts: every step through it is checked, and parts are overwritten in place."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import IO, Final, Literal

from watchly_adapters.exif import orientation
from watchly_core.errors import ImageTooLarge, ImageUnreadable
from watchly_core.images import MAX_FRAMES

#: How much is read or written at a time: others get their turn between two blocks.
BLOCK: Final = 256 * 1024

#: The first block of a search, which mostly ends soon.
_FIRST_BLOCK: Final = 512

#: How many segments, chunks, boxes and entries of one file are looked at; 500 MB of pixels come in about
#: 120,000 chunks from the writers that make the smallest ones.
_MOST_PARTS: Final = 200_000

#: EXIF data beyond this is not looked into, as `headers` does not.
_MOST_EXIF: Final = 1024 * 1024


#: As much of a colour profile as `is_profile` needs.
PROFILE_HEAD: Final = 132


def is_profile(head: bytes, size: int) -> bool:
    """Whether `size` bytes that begin with `head` may be a colour profile (ICC.1:2022, section 7.2).

    Some are rounded up to a multiple of four bytes, and nothing else may be with them.
    """
    stated = int.from_bytes(head[:4])
    return head[36:40] == b"acsp" and PROFILE_HEAD <= stated <= size < stated + 4


class Parts:
    """The bytes of one file, by their positions."""

    def __init__(self, file: IO[bytes], format_: str) -> None:
        self._file, self._format = file, format_
        self._parts = 0
        self.size: int = file.seek(0, io.SEEK_END)

    def broken(self, detail: str) -> ImageUnreadable:
        """The error that says of this file what `detail` does."""
        return ImageUnreadable(f"the {self._format} {detail}")

    def part(self) -> None:
        """Count a part.

        Raises:
            ImageUnreadable: there are more than any real image has.
        """
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise self.broken("has too many parts")

    def allow_pictures(self, count: int) -> None:
        """Refuse an animation of so many pictures if they are too many.

        Raises:
            ImageTooLarge: they are more than `MAX_FRAMES`.
        """
        if count > MAX_FRAMES:
            raise ImageTooLarge(f"the {self._format} has more than {MAX_FRAMES:,} pictures")

    def require(self, end: int) -> None:
        """Refuse a part that ends behind the file."""
        if end > self.size:
            raise self.broken("ends too early")

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes, all of them."""
        self.require(at + count)
        self._file.seek(at)
        return self._file.read(count)

    def number(self, at: int, count: int, order: Literal["big", "little"] = "big") -> int:
        """The number that these bytes are."""
        return int.from_bytes(self.read(at, count), order)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, a block at a time."""
        for at in range(start, end, BLOCK):
            yield self.read(at, min(BLOCK, end - at))

    def ahead(self, at: int, tries: int) -> bytes:
        """Some bytes from `at` on, more of them the more often it was tried; at least one."""
        self.require(at + 1)
        return self.read(at, min(_FIRST_BLOCK << min(tries, 16), BLOCK, self.size - at))

    def find(self, pair: re.Pattern[bytes], at: int) -> tuple[int, int]:
        """Where the first two bytes are that fit `pair`, from `at` on, and the second of them."""
        tries = 0
        while True:
            block = self.ahead(at, tries)
            if found := pair.search(block):
                return at + found.start(), found[0][1]
            self.require(at + len(block) + 1)
            at += max(1, len(block) - 1)  # a pair may lie across two blocks
            tries += 1

    def write(self, at: int, data: bytes | bytearray) -> None:
        """Put `data` in place of what is there."""
        self._file.seek(at)
        self._file.write(data)

    def fill(self, start: int, end: int, pattern: bytes = b"\0") -> None:
        """Overwrite what is between `start` and `end` with `pattern`, again and again."""
        filling = pattern * (min(BLOCK, end - start + len(pattern)) // len(pattern))
        while start < end:
            self.write(start, filling[: end - start])
            start += len(filling)

    def cut(self, end: int) -> None:
        """Drop what follows `end`."""
        if end < self.size:
            self._file.truncate(end)

    def turn(self, start: int, end: int) -> bytes:
        """What stays of the EXIF data between `start` and `end`: the orientation; nothing if it is upright.

        Raises:
            ImageUnreadable: there is no room for it: its own entries are laid over each other.
        """
        size = end - start
        turned = orientation(self.read(start, size)) if size <= _MOST_EXIF else 1
        if turned == 1:
            return b""
        kept = struct.pack(">2sHLHHHLHHL", b"MM", 42, 8, 1, 0x0112, 3, 1, turned, 0, 0)[:size]
        if orientation(kept) != turned:
            raise self.broken("has EXIF data that contradict themselves")
        return kept.ljust(size, b"\0")
