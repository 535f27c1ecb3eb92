"""An import of an export gives the same drafts, whatever the movies."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from watchly_core.exports import write_csv, write_ndjson
from watchly_core.imports import read_csv, read_ndjson
from watchly_core.movies import Movie, MovieDraft, drafted

#: What a stored text may hold, with what CSV and JSON treat apart drawn often.
points = st.sampled_from("\"',;\\ =+-@\u2028\u2029\ufeffé\U0001f3ac\u00ad") | st.characters(
    exclude_categories=["Cc", "Cs"]
)
lines = st.text(points, max_size=40)
paragraphs = st.text(points | st.sampled_from("\n\t"), max_size=60)
drafts = st.builds(
    MovieDraft,
    title=lines.filter(str.strip),
    description=st.none() | paragraphs,
    release_year=st.none() | st.integers(1870, 2200),
    genre=st.none() | lines.filter(str.strip),
).map(drafted)


async def stream(movies: Iterable[Movie]) -> AsyncGenerator[Movie, None]:
    for movie in movies:
        yield movie


def exported(
    write: Callable[[AsyncGenerator[Movie, None]], AsyncGenerator[bytes, None]], written: list[MovieDraft]
) -> bytes:
    movies = [
        Movie(7, draft.title, draft.description, draft.release_year, draft.genre, None, None, 1, None, None)
        for draft in written
    ]

    async def collect() -> bytes:
        return b"".join([chunk async for chunk in write(stream(movies))])

    return asyncio.run(collect())


@settings(deadline=None)
@given(st.lists(drafts, max_size=5))
def test_ndjson_comes_back_as_it_was(written: list[MovieDraft]) -> None:
    rows = list(read_ndjson(io.BytesIO(exported(write_ndjson, written))))
    assert [row.line for row in rows] == list(range(1, len(written) + 1))
    assert [drafted(row.members) for row in rows] == written


@settings(deadline=None)
@given(st.lists(drafts, max_size=5))
def test_csv_comes_back_as_it_was_but_for_empty_descriptions(written: list[MovieDraft]) -> None:
    text = exported(write_csv, written).decode()
    # Known limit of the format: an empty description comes back as none.
    expected = [msgspec.structs.replace(draft, description=draft.description or None) for draft in written]
    for content in (text, "\ufeff" + text):
        rows = list(read_csv(io.StringIO(content, newline="")))
        assert [drafted(row.members) for row in rows] == expected
