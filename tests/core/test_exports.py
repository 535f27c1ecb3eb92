"""Writing CSV and NDJSON: the form of it, and what comes back."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import islice
from typing import TypeAlias

import msgspec
import pytest

from watchly_core.exports import Batches, write_csv, write_ndjson
from watchly_core.imports import read_csv, read_lines, read_ndjson
from watchly_core.movies import Members, MovieDraft, drafted

Writer: TypeAlias = Callable[[Batches], AsyncGenerator[bytes, None]]


def movie(
    title: str, description: str | None = None, year: int | None = None, genre: str | None = None
) -> MovieDraft:
    return MovieDraft(title=title, description=description, release_year=year, genre=genre)


async def stream(movies: Iterable[MovieDraft]) -> Batches:
    """The movies three at a time."""
    rest = iter(movies)
    while batch := list(islice(rest, 3)):
        yield batch


def chunks_of(write: Writer, movies: Iterable[MovieDraft]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [chunk async for chunk in write(stream(movies))]

    return asyncio.run(collect())


def exported(write: Writer, *movies: MovieDraft) -> bytes:
    return b"".join(chunks_of(write, movies))


def reread_csv(*movies: MovieDraft) -> list[Members]:
    content = io.BytesIO(exported(write_csv, *movies))
    return [row.members for row in read_csv(line.decode() for line in read_lines(content))]


def reimported_csv(*movies: MovieDraft) -> list[MovieDraft]:
    return [drafted(members) for members in reread_csv(*movies)]


def reimported_ndjson(*movies: MovieDraft) -> list[MovieDraft]:
    return [drafted(row.members) for row in read_ndjson(io.BytesIO(exported(write_ndjson, *movies)))]


def test_csv_is_rfc_4180_with_a_header() -> None:
    movies = [movie("Heat", "Cops.\nRobbers.", 1995, "Crime"), movie('Good, "Bad"')]
    assert exported(write_csv, *movies) == (
        b'title,description,release_year,genre\r\nHeat,"Cops.\nRobbers.",1995,Crime\r\n"Good, ""Bad""",,,\r\n'
    )


def test_ndjson_is_one_object_a_line() -> None:
    movies = [movie("Heat", "Cops.\nRobbers.", 1995, "Crime"), movie("Amélie")]
    assert exported(write_ndjson, *movies).decode() == (
        '{"title":"Heat","description":"Cops.\\nRobbers.","release_year":1995,"genre":"Crime"}\n'
        '{"title":"Amélie","description":null,"release_year":null,"genre":null}\n'
    )


def test_no_movies_are_a_header_or_nothing() -> None:
    assert chunks_of(write_csv, []) == [b"title,description,release_year,genre\r\n"]
    assert chunks_of(write_ndjson, []) == []


@pytest.mark.parametrize("write", [write_csv, write_ndjson])
def test_lines_come_a_batch_at_a_time(write: Writer) -> None:
    movies = [movie(f"Heat {number}", "x" * 1_000) for number in range(10)]
    chunks = chunks_of(write, movies)
    assert len(chunks) == 4
    head = exported(write)
    assert b"".join(chunks) == head + b"".join(exported(write, one).removeprefix(head) for one in movies)


@pytest.mark.parametrize("write", [write_csv, write_ndjson])
def test_closing_an_export_early_closes_what_it_reads(
    write: Writer,
) -> None:
    closed = []

    async def endless() -> Batches:
        try:
            while True:
                yield [movie("x" * 1_000)]
        finally:
            closed.append(True)

    async def read_one() -> None:
        chunks = write(endless())
        assert await anext(chunks)
        assert not closed
        await chunks.aclose()

    asyncio.run(read_one())
    assert closed


def test_an_export_can_be_imported() -> None:
    movies = [movie("Heat", 'a, "b"\n\n\tc', 1995, "Crime"), movie("Amélie"), movie("1917", "007", 2019, "1")]
    drafts = [
        MovieDraft(title="Heat", description='a, "b"\n\n\tc', release_year=1995, genre="Crime"),
        MovieDraft(title="Amélie"),
        MovieDraft(title="1917", description="007", release_year=2019, genre="1"),
    ]
    assert reimported_csv(*movies) == drafts
    assert reimported_ndjson(*movies) == drafts


def test_an_empty_description_is_not_none() -> None:
    movies = [movie("Heat", ""), movie("Ronin"), movie("Collateral", "", 2004, "Crime")]
    assert exported(write_csv, *movies) == (
        b'title,description,release_year,genre\r\nHeat,"",,\r\nRonin,,,\r\nCollateral,"",2004,Crime\r\n'
    )
    drafts = [
        MovieDraft(title="Heat", description=""),
        MovieDraft(title="Ronin"),
        MovieDraft(title="Collateral", description="", release_year=2004, genre="Crime"),
    ]
    assert reimported_csv(*movies) == drafts
    assert reimported_ndjson(*movies) == drafts


@pytest.mark.parametrize(
    "title",
    [
        " Heat ",
        "\tHeat\t",
        "He\rat",
        "\r",
        "He\nat",
        "\r\n",
        "Heat\r",
        '"',
        '""',
        '"Heat"',
        'He"at',
        ",",
        '",',
        '","',
        '\r"\r',
        "a,b",
        "'",
        "\\.",
        "\\N",
        "NULL",
        "#",
        "=1+1",
        "\ufeff",
        "\x00",
        "\x1a",
        "\x85",
        "a\u2028b",
        ";",
    ],
    ids=ascii,
)
def test_every_text_of_an_adopted_row_is_written_so_that_it_is_read_as_it_is(title: str) -> None:
    # Whether the rules then allow the text is asked of the movie, and of nothing before it.
    rows = [movie(title, title, 0, title), movie(title, "", -7, title), movie(title)]
    assert reread_csv(*rows) == [msgspec.structs.asdict(row) for row in rows]


def test_an_adopted_movie_that_breaks_rules_is_exported_as_it_is() -> None:
    broken = movie("", "a\rb\x00", 0, "")
    assert exported(write_csv, broken) == exported(write_csv) + b'"","a\rb\x00",0,""\r\n'
    (row,) = read_ndjson([exported(write_ndjson, broken)])
    assert row.members == {"title": "", "description": "a\rb\x00", "release_year": 0, "genre": ""}
