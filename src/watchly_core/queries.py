"""MovieQuery, Cursor and Page: what a list of movies is asked with and answered by."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from watchly_core.errors import Fault, InvalidQuery
from watchly_core.movies import MAX_ID, Movie

DEFAULT_LIMIT: Final = 50

#: The lowest id that an adopted row can have: new ones start at 1.
_MIN_ID: Final = -2_147_483_648


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The place after which a page starts: the id of the last movie before it.

    It names a position, not a movie, so it keeps working when that movie is gone.
    """

    after_id: int

    def encode(self) -> str:
        """An opaque text for clients: URL-safe, with a checksum against cuts and typing errors."""
        payload = msgspec.msgpack.encode(self)
        return urlsafe_b64encode(_checksum(payload) + payload).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Read what `encode` gave out.

        Raises:
            InvalidQuery: it gave out no such text.
        """
        try:
            sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            cursor = msgspec.msgpack.decode(sealed[_CHECKSUM_BYTES:], type=cls)
        except (ValueError, msgspec.DecodeError, RecursionError):
            cursor = None
        # Comparing texts refuses the other spellings that base64 tolerates.
        if cursor is None or not _MIN_ID <= cursor.after_id <= MAX_ID or cursor.encode() != text:
            raise InvalidQuery([Fault("invalid_cursor", "is not a cursor of this list", parameter="cursor")])
        return cursor


_CHECKSUM_BYTES: Final = 6


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_CHECKSUM_BYTES, person=b"watchly cursor").digest()


class MovieQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which movies to list: by ascending id, at most `limit`, after `cursor`."""

    limit: int = DEFAULT_LIMIT
    cursor: Cursor | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that gives no page."""
        if self.limit < 1:
            raise InvalidQuery([Fault("too_small", "must be at least 1", parameter="limit")])

    @property
    def after_id(self) -> int:
        """The id below or at which the list has been read already; below every id at its start."""
        return self.cursor.after_id if self.cursor else _MIN_ID - 1


class Page(msgspec.Struct, frozen=True):
    """Movies in the order of their query; `next_cursor` is None on the last page."""

    data: tuple[Movie, ...]
    next_cursor: str | None

    @classmethod
    def of(cls, found: list[Movie], query: MovieQuery) -> Page:
        """The page that `found` fills, where one movie above the limit says that more follow."""
        if len(found) <= query.limit:
            return cls(tuple(found), None)
        shown = tuple(found[: query.limit])
        return cls(shown, Cursor(shown[-1].id).encode())
