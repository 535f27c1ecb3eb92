"""Movies on their way out of the catalogue as CSV and NDJSON, in the form that `imports` reads."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from watchly_core.movies import CLIENT_FIELDS, Movie, client_fields

#: Bytes that are handed on at once: enough to make little of each hand over, few enough to keep.
_CHUNK: Final = 64 * 1024


def write_csv(movies: AsyncGenerator[Movie, None]) -> AsyncGenerator[bytes, None]:
    """CSV (RFC 4180) with a header row, in UTF-8: the fields that clients write.

    None is an empty field, and an empty text one in quotes, as PostgreSQL's COPY has it. Lines come many
    at a time.
    """
    return _written(movies, _csv_line, (",".join(CLIENT_FIELDS) + "\r\n").encode())


def write_ndjson(movies: AsyncGenerator[Movie, None]) -> AsyncGenerator[bytes, None]:
    """One JSON object a line: the fields that clients write. Lines come many at a time."""
    encode = msgspec.json.Encoder().encode
    return _written(movies, lambda movie: encode(client_fields(movie)) + b"\n", b"")


async def _written(
    movies: AsyncGenerator[Movie, None], line: Callable[[Movie], bytes], head: bytes
) -> AsyncGenerator[bytes, None]:
    chunk = bytearray(head)
    async with aclosing(movies):
        async for movie in movies:
            chunk += line(movie)
            if len(chunk) >= _CHUNK:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)


def _csv_line(movie: Movie) -> bytes:
    return (",".join([_field(getattr(movie, name)) for name in CLIENT_FIELDS]) + "\r\n").encode()


#: What a field holds that has to be in quotes.
_quoted: Final = re.compile('[",\r\n]').search


def _field(value: str | int | None) -> str:
    if value is None:
        return ""
    text = str(value)
    if text and not _quoted(text):
        return text
    return '"' + text.replace('"', '""') + '"'
