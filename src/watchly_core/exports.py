"""Movies on their way out of the catalogue as CSV and NDJSON, in the form that `imports` reads."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, TypeAlias

import msgspec

from watchly_core.movies import CLIENT_FIELDS, MovieDraft

__all__ = ["Batches", "write_csv", "write_ndjson"]

#: What writers take: the fields that clients write, in batches, as `Catalogue.export` gives them.
Batches: TypeAlias = AsyncGenerator[Sequence[MovieDraft], None]


async def write_csv(batches: Batches) -> AsyncGenerator[bytes, None]:
    """CSV (RFC 4180) with a header row, in UTF-8: the fields that clients write, a batch at a time.

    None is an empty field, and an empty text one in quotes, as PostgreSQL's COPY has it.
    """
    head = ",".join(CLIENT_FIELDS) + "\r\n"
    async with aclosing(batches):
        async for movies in batches:
            yield (head + "".join(map(_csv_line, movies))).encode()
            head = ""
    if head:
        yield head.encode()


async def write_ndjson(batches: Batches) -> AsyncGenerator[bytes, None]:
    """One JSON object a line: the fields that clients write, a batch at a time."""
    encode = msgspec.json.Encoder().encode_lines
    async with aclosing(batches):
        async for movies in batches:
            yield encode(movies)


def _csv_line(movie: MovieDraft) -> str:
    year = "" if movie.release_year is None else movie.release_year
    return f"{_field(movie.title)},{_field(movie.description)},{year},{_field(movie.genre)}\r\n"


#: What a field holds that has to be in quotes.
_quoted: Final = re.compile('[",\r\n]').search


def _field(text: str | None) -> str:
    if text is None:
        return ""
    if text and not _quoted(text):
        return text
    return '"' + text.replace('"', '""') + '"'
