"""An import of an export gives the same drafts, whatever the movies."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Iterable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from watchly_core.exports import Batches, write_csv, write_ndjson
from watchly_core.imports import read_csv, read_lines, read_ndjson
from watchly_core.movies import MovieDraft, drafted

#: What a stored text may hold, with what CSV and JSON treat apart drawn often.
points = st.sampled_from("\"',;\\ =+-@\u2028\u2029\ufeffé\U0001f3ac\u00ad") | st.characters(
    exclude_categories=["Cc", "Cs"]
)
#: What an adopted row may hold besides.
anything = points | st.sampled_from("\r\n\t\x00") | st.characters(exclude_categories=["Cs"])
lines = st.text(points, max_size=40)
paragraphs = st.text(points | st.sampled_from("\n\t"), max_size=60)
drafts = st.builds(
    MovieDraft,
    title=lines.filter(str.strip),
    description=st.none() | paragraphs,
    release_year=st.none() | st.integers(1870, 2200),
    genre=st.none() | lines.filter(str.strip),
).map(drafted)


async def stream(drafts: Iterable[MovieDraft]) -> Batches:
    for draft in drafts:
        yield [draft]


def exported(
    write: Callable[[Batches], AsyncGenerator[bytes, None]],
    written: Iterable[MovieDraft],
) -> bytes:
    async def collect() -> bytes:
        return b"".join([chunk async for chunk in write(stream(written))])

    return asyncio.run(collect())


@settings(deadline=None)
@given(st.lists(drafts, max_size=5))
def test_ndjson_comes_back_as_it_was(written: list[MovieDraft]) -> None:
    rows = list(read_ndjson(io.BytesIO(exported(write_ndjson, written))))
    assert [row.line for row in rows] == list(range(1, len(written) + 1))
    assert [drafted(row.members) for row in rows] == written


@settings(deadline=None)
@given(st.lists(drafts, max_size=5))
def test_csv_comes_back_as_it_was(written: list[MovieDraft]) -> None:
    text = exported(write_csv, written).decode()
    for content in (text, "\ufeff" + text):
        rows = list(read_csv(io.StringIO(content, newline="")))
        assert [drafted(row.members) for row in rows] == written


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            MovieDraft,
            title=st.text(anything, min_size=1, max_size=20),
            description=st.none() | st.text(anything, max_size=20),
            release_year=st.none() | st.integers(-(2**31), 2**31 - 1),
            genre=st.none() | st.text(anything, min_size=1, max_size=20),
        ),
        max_size=5,
    )
)
def test_adopted_rows_are_read_as_they_were(written: list[MovieDraft]) -> None:
    content = exported(write_csv, written)
    csv_lines = (line.decode() for line in read_lines(io.BytesIO(content)))
    assert [row.members for row in read_csv(csv_lines)] == [msgspec.structs.asdict(one) for one in written]
    # What splits at every line end that Python knows is understood as well.
    split = io.StringIO(content.decode(), newline="")
    assert [row.members for row in read_csv(split)] == [msgspec.structs.asdict(one) for one in written]
    ndjson_lines = read_lines(io.BytesIO(exported(write_ndjson, written)))
    assert [row.members for row in read_ndjson(ndjson_lines)] == [
        msgspec.structs.asdict(one) for one in written
    ]
