"""The boxes of ISO 14496-12: each with its size and type, some with boxes inside, most with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from watchly_adapters.metadata.parts import Parts

#: The type of a box that is of no use.
FREE: Final = b"free"


class Box(NamedTuple):
    """A box: its content is between `start` and `end`."""

    kind: bytes
    at: int
    start: int
    end: int


def boxes(file: Parts, read: Callable[[int, int], bytes], at: int, end: int) -> Iterator[Box]:
    """The boxes between `at` and `end`, by what `read` reads there."""
    while at < end:
        file.part()
        if at + 8 > end:
            raise file.broken("has something between its boxes")
        head = read(at, min(16, end - at))
        size, start = int.from_bytes(head[:4]), at + 8
        if size == 1:
            size, start = int.from_bytes(head[8:16]), at + 16
        elif size == 0:
            size = end - at
        if not start <= at + size <= end:
            raise file.broken("has a box of an impossible size")
        yield Box(head[4:8], at, start, at + size)
        at += size


class Tables:
    """A box of boxes that is held in memory, and written back once it is tidy."""

    def __init__(self, file: Parts, box: Box) -> None:
        self._file, self._at = file, box.start
        self._before = file.read(box.start, box.end - box.start)
        self._data = bytearray(self._before)
        self.end: int = len(self._data)

    def place(self, at: int) -> int:
        """Where in the file this is."""
        return self._at + at

    def boxes(self, at: int, end: int) -> Iterator[Box]:
        """The boxes between `at` and `end`; what they hold may be overwritten meanwhile."""
        return boxes(self._file, lambda at, count: bytes(self._data[at : at + count]), at, end)

    def fields(self, box: Box, skip: int = 0) -> Fields:
        """The numbers in a box, after as many bytes."""
        return Fields(self._file, bytes(self._data[box.start + skip : box.end]))

    def erase(self, box: Box, first: int = 0, last: int | None = None) -> None:
        """Overwrite the content of a box with zeros: what is between two places in it, or all of it."""
        start = min(box.start + first, box.end)
        end = box.end if last is None else min(box.start + last, box.end)
        self._data[start:end] = bytes(end - start)

    def free(self, box: Box) -> None:
        """Make a box one that is of no use."""
        self.rename(box.at + 4, FREE)
        self.erase(box)

    def rename(self, at: int, kind: bytes) -> None:
        """Put another type at `at`."""
        self._data[at : at + 4] = kind

    def save(self) -> None:
        """Write to the file what was changed."""
        if self._data != self._before:
            self._file.write(self._at, self._data)


class Fields:
    """Numbers that are read one after the other."""

    def __init__(self, file: Parts, content: bytes) -> None:
        self._file, self._content, self._at = file, content, 0

    def number(self, count: int) -> int:
        """The next number, of `count` bytes."""
        return int.from_bytes(self.take(count))

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._at += count
        if self._at > len(self._content):
            raise self._file.broken("has a table that ends too early")
        return self._content[self._at - count : self._at]
