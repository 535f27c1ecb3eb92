"""Cursors of lists that go by a number: opaque texts that say where to go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from watchly_core.errors import Fault, InvalidQuery
from watchly_core.seals import seal, unseal

_BYTES: Final = 8


class NumberCursors(msgspec.Struct, frozen=True):
    """The cursors of a kind of list, which is for one `purpose`, and called `name` where one is refused.

    They hold numbers up to `largest`, and belong to a list by its context.
    """

    purpose: bytes
    name: str
    largest: int

    def write(self, number: int, context: bytes = b"") -> str:
        """The cursor for the place that is next to a number."""
        return seal(number.to_bytes(_BYTES), self.purpose, context)

    def reader(self, context: bytes = b"") -> Callable[[str], int]:
        """Reads the number out of a cursor, or refuses it by `InvalidQuery`."""

        def read(text: str) -> int:
            try:
                place = unseal(text, self.purpose, context)
            except ValueError:
                place = b""
            number = int.from_bytes(place)
            if len(place) != _BYTES or number > self.largest:
                detail = f"is not a cursor of this {self.name}"
                raise InvalidQuery([Fault("invalid_cursor", detail, parameter="cursor")])
            return number

        return read
