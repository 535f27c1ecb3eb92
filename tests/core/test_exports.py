"""Writing CSV and NDJSON: the form of it, and what comes back."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable, Iterable

from watchly_core.exports import write_csv, write_ndjson
from watchly_core.imports import read_csv, read_ndjson
from watchly_core.movies import Movie, MovieDraft, drafted


def movie(
    title: str, description: str | None = None, year: int | None = None, genre: str | None = None
) -> Movie:
    return Movie(7, title, description, year, genre, "/images/x", None, 3, None, None)


async def stream(movies: Iterable[Movie]) -> AsyncGenerator[Movie, None]:
    for one in movies:
        yield one


def exported(
    write: Callable[[AsyncGenerator[Movie, None]], AsyncGenerator[bytes, None]], *movies: Movie
) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [chunk async for chunk in write(stream(movies))]

    return asyncio.run(collect())


def reimported_csv(*movies: Movie) -> list[MovieDraft]:
    text = io.StringIO(b"".join(exported(write_csv, *movies)).decode(), newline="")
    return [drafted(row.members) for row in read_csv(text)]


def reimported_ndjson(*movies: Movie) -> list[MovieDraft]:
    return [
        drafted(row.members) for row in read_ndjson(io.BytesIO(b"".join(exported(write_ndjson, *movies))))
    ]


def test_csv_is_rfc_4180_with_a_header() -> None:
    chunks = exported(write_csv, movie("Heat", "Cops.\nRobbers.", 1995, "Crime"), movie('Good, "Bad"'))
    assert chunks == [
        b"title,description,release_year,genre\r\n",
        b'Heat,"Cops.\nRobbers.",1995,Crime\r\n',
        b'"Good, ""Bad""",,,\r\n',
    ]


def test_ndjson_is_one_object_a_line() -> None:
    assert exported(write_ndjson, movie("Heat", "Cops.\nRobbers.", 1995, "Crime"), movie("Amélie")) == [
        b'{"title":"Heat","description":"Cops.\\nRobbers.","release_year":1995,"genre":"Crime"}\n',
        '{"title":"Amélie","description":null,"release_year":null,"genre":null}\n'.encode(),
    ]


def test_no_movies_are_a_header_or_nothing() -> None:
    assert exported(write_csv) == [b"title,description,release_year,genre\r\n"]
    assert exported(write_ndjson) == []


def test_an_export_can_be_imported() -> None:
    movies = [movie("Heat", 'a, "b"\n\n\tc', 1995, "Crime"), movie("Amélie"), movie("1917", "007", 2019, "1")]
    drafts = [
        MovieDraft(title="Heat", description='a, "b"\n\n\tc', release_year=1995, genre="Crime"),
        MovieDraft(title="Amélie"),
        MovieDraft(title="1917", description="007", release_year=2019, genre="1"),
    ]
    assert reimported_csv(*movies) == drafts
    assert reimported_ndjson(*movies) == drafts


def test_csv_cannot_tell_an_empty_description_from_none() -> None:
    # Known limit of the format: NDJSON keeps the difference.
    assert reimported_csv(movie("Heat", "")) == [MovieDraft(title="Heat", description=None)]
    assert reimported_ndjson(movie("Heat", "")) == [MovieDraft(title="Heat", description="")]


def test_an_adopted_movie_that_breaks_rules_is_exported_as_it_is() -> None:
    broken = movie("", "a\rb\x00", 0, "")
    assert exported(write_csv, broken)[1] == b',"a\rb\x00",0,\r\n'
    (row,) = read_ndjson(exported(write_ndjson, broken))
    assert row.members == {"title": "", "description": "a\rb\x00", "release_year": 0, "genre": ""}
