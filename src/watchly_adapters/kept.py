"""What a cache keeps: answers, what they weigh, and how they are written for other processes."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from sys import getsizeof
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from watchly_core.movies import Movie
from watchly_core.queries import GenreCount, Page
from watchly_core.seals import checksum

T = TypeVar("T")

#: Raised with every change of what is written, the fields of movies included: processes of two versions may
#: run side by side.
FORMAT: Final = 1

#: As of which change, and when by the clock, an answer was read.
_HEAD: Final = struct.Struct(">Qd")
_SUM: Final = len(checksum(b"", b""))
_PURPOSE: Final = b"watchly cache"

# In bytes, beside their texts, and rounded up: measured.
_MOVIE: Final = 640
_IMAGE: Final = 400
_LIST: Final = 700
_GENRE: Final = 100


class Genres(msgspec.Struct, frozen=True):
    """How many movies there are of each genre."""

    data: tuple[GenreCount, ...]


class Count(msgspec.Struct, frozen=True):
    """How many movies a query finds."""

    movies: int


Answer: TypeAlias = Movie | Page | Genres | Count
#: Movies by their ids, lists by a digest of what was asked.
Key: TypeAlias = int | str


class Kept(NamedTuple):
    """An answer.

    Attributes:
        answer: it.
        as_of: up to which change the log had been read when the read began that gave it.
        began: when that was, by the ticks of this process.
        sees: it tells of all that was done before this moment.
    """

    answer: Answer
    as_of: int
    began: float
    sees: float


class Kind(Generic[T]):
    """A kind of answers, and how they are written.

    Args:
        letter: tells it from others.
        answer: their type.
        weigh: about how many bytes of memory one takes.
    """

    def __init__(self, letter: str, answer: type[T], weigh: Callable[[T], int]) -> None:
        self.letter: str = letter
        self.answer: type[T] = answer
        self.weigh: Callable[[T], int] = weigh
        self._decode = msgspec.msgpack.Decoder(answer).decode

    def key(self, catalogue: str, name: Key) -> str:
        """Under which key other processes look for an answer."""
        return f"watchly:{FORMAT}:{catalogue}:{self.letter}:{name}"

    def write(self, key: str, answer: T, as_of: int, at: float) -> bytes | None:
        """An answer for other processes, and when it was read by the clock; None if it cannot be written."""
        try:
            value = _HEAD.pack(as_of, at) + msgspec.msgpack.encode(answer)
        except (struct.error, msgspec.MsgspecError, ValueError, OverflowError):
            return None  # a store may hold what no UTF-8 can
        return _sum(key, value) + value

    def read(self, key: str, written: bytes) -> tuple[T, int, float] | None:
        """What `write` was given for this key; None if that was nothing."""
        value = written[_SUM:]
        if written[:_SUM] != _sum(key, value):
            return None
        try:
            as_of, at = _HEAD.unpack_from(value)
            return self._decode(value[_HEAD.size :]), as_of, at
        except (struct.error, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            return None


class Shelf:
    """The answers that one process keeps, bounded in bytes; what was not used for longest goes first.

    Args:
        room: bytes that they may weigh together.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._used = 0
        self._kept: OrderedDict[Key, tuple[Kept, int]] = OrderedDict()

    def get(self, key: Key) -> Kept | None:
        """What is kept under this key."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Key, kept: Kept, weight: int) -> None:
        """Keep an answer in place of the one that was there, unless it is too large for the room."""
        _, old = self._kept.pop(key, (None, 0))
        self._used -= old
        if weight > self._room:
            return
        self._kept[key] = (kept, weight)
        self._used += weight
        while self._used > self._room:
            _, (_, freed) = self._kept.popitem(last=False)
            self._used -= freed

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that all of it weighs."""
        return self._used


def _sum(key: str, value: bytes) -> bytes:
    return checksum(key.encode() + value, _PURPOSE)


def _movie(movie: Movie) -> int:
    weight = _MOVIE + getsizeof(movie.title) + getsizeof(movie.description) + getsizeof(movie.genre)
    weight += getsizeof(movie.image_url)
    return weight if movie.image is None else weight + _IMAGE


def _page(page: Page) -> int:
    return _LIST + getsizeof(page.next_cursor) + sum(map(_movie, page.data))


def _genres(genres: Genres) -> int:
    return _LIST + sum(_GENRE + getsizeof(count.genre) for count in genres.data)


def _count(_: Count) -> int:
    return _LIST


MOVIE: Final = Kind("movie", Movie, _movie)
PAGE: Final = Kind("page", Page, _page)
GENRES: Final = Kind("genres", Genres, _genres)
COUNT: Final = Kind("count", Count, _count)
