"""Movies on their way out of the catalogue as CSV and NDJSON, in the form that `imports` reads."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from watchly_core.movies import CLIENT_FIELDS, Movie, client_fields


async def write_csv(movies: AsyncGenerator[Movie, None]) -> AsyncGenerator[bytes, None]:
    """CSV (RFC 4180) with a header row, in UTF-8: the fields that clients write, nothing for None."""
    async with aclosing(movies):
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer)
        writer.writerow(CLIENT_FIELDS)
        yield buffer.getvalue().encode()
        async for movie in movies:
            buffer.seek(0)
            buffer.truncate()
            writer.writerow(getattr(movie, name) for name in CLIENT_FIELDS)
            yield buffer.getvalue().encode()


async def write_ndjson(movies: AsyncGenerator[Movie, None]) -> AsyncGenerator[bytes, None]:
    """One JSON object a line: the fields that clients write."""
    encode = msgspec.json.Encoder().encode
    async with aclosing(movies):
        async for movie in movies:
            yield encode(client_fields(movie)) + b"\n"
