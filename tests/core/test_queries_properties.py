"""Cursors under every text that a client can send, and pages in every order."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from functools import cmp_to_key

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from watchly_core.errors import InvalidQuery
from watchly_core.movies import MAX_ID, Movie
from watchly_core.queries import SORT_FIELDS, Cursor, MovieQuery, Page, Position, Sort, _digest, read_sort
from watchly_core.text import entries, matches, title_key

ids = st.integers(-(2**31), MAX_ID)
digits = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/")
points = digits | st.characters(exclude_categories=())
cursors = st.builds(
    Cursor,
    st.binary(max_size=8),
    st.booleans(),
    st.lists(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20), max_size=7).map(tuple),
)
sorts = st.lists(
    st.builds(Sort, st.sampled_from(SORT_FIELDS), st.booleans()),
    max_size=4,
    unique_by=lambda sort: sort.field,
).map(tuple)
years = st.none() | st.integers(1994, 1996)
queries = st.builds(
    MovieQuery,
    q=st.none() | st.sampled_from(["", "?", "a", "A b", "é"]),
    genre=st.none() | st.sampled_from(["Crime", "crime", ""]),
    release_year=years,
    min_release_year=years,
    max_release_year=years,
    sort=sorts,
    limit=st.integers(1, 5),
)
times = st.none() | st.sampled_from(
    [
        datetime(2026, 11, 22, tzinfo=UTC),
        datetime(2026, 11, 22, 0, 0, 0, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ]
)
movies = st.builds(
    Movie,
    id=ids,
    title=st.sampled_from(["a", "A", "á", "b a", "é", "", "\U0001f3ac", "\uffee"]),
    description=st.none() | st.sampled_from(["a b", "b"]),
    release_year=st.none() | st.integers(1993, 1997),
    genre=st.none() | st.sampled_from(["Crime", "crime", ""]),
    image_url=st.none(),
    image=st.none(),
    version=st.just(1),
    created_at=times,
    updated_at=times,
)
catalogues = st.lists(movies, max_size=25, unique_by=lambda movie: movie.id)


def decoded(text: str) -> Cursor | None:
    """The cursor, or None when it is refused in the one way allowed."""
    try:
        return Cursor.decode(text)
    except InvalidQuery as error:
        invalid = error
    assert [fault.parameter for fault in invalid.faults] == ["cursor"]
    return None


def followed(query: MovieQuery, cursor: Cursor) -> MovieQuery | None:
    """The query at the cursor, or None when it is refused in the one way allowed."""
    try:
        return msgspec.structs.replace(query, cursor=cursor)
    except InvalidQuery as error:
        invalid = error
    assert [fault.parameter for fault in invalid.faults] == ["cursor"]
    return None


@settings(deadline=None)
@given(cursors)
def test_a_cursor_comes_back_from_its_text(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode()) == cursor


@settings(deadline=None)
@given(st.integers(-(2**63), -(2**31) - 1) | st.integers(MAX_ID + 1, 2**64 - 1))
def test_no_cursor_names_a_place_outside_the_ids(movie_id: int) -> None:
    query = MovieQuery()
    assert followed(query, Cursor.decode(query.cursor_after((movie_id,), similar=False).encode())) is None


@settings(deadline=None)
@given(cursors, st.data())
def test_a_cursor_changed_anywhere_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    text = cursor.encode()
    start = data.draw(st.integers(0, len(text)), label="start")
    end = data.draw(st.integers(start, len(text)), label="end")
    changed = text[:start] + data.draw(st.text(points, max_size=6), label="put in") + text[end:]
    assume(changed != text)
    assert decoded(changed) is None


@settings(deadline=None)
@given(st.text(points))
def test_a_text_is_a_cursor_in_its_one_spelling_or_it_is_refused(text: str) -> None:
    cursor = decoded(text)
    assert cursor is None or cursor.encode() == text


@settings(deadline=None)
@given(
    st.binary(max_size=40) | st.builds(bytes.__add__, st.just(b"\x93\xc4\x01q\xc2"), st.binary(max_size=20))
)
def test_sealed_bytes_are_a_cursor_in_its_one_spelling_or_they_are_refused(payload: bytes) -> None:
    text = urlsafe_b64encode(_digest(payload) + payload).decode().rstrip("=")
    cursor = decoded(text)
    assert cursor is None or cursor.encode() == text


@settings(deadline=None)
@given(queries, cursors)
def test_a_query_takes_any_position_that_fits_and_refuses_every_other(
    query: MovieQuery, cursor: Cursor
) -> None:
    assert followed(query, cursor) is None
    own = query.cursor_after(cursor.position, similar=cursor.similar)
    at = followed(query, own)
    if at is not None:
        # It compares with every movie of the list, so that paging goes on.
        there = Movie(7, "x", None, None, None, None, None, 1, None, None)
        ranks = query.rank(own.position), query.rank(query.position(there, tier=0, key="x"))
        assert ranks[0] < ranks[1] or ranks[0] >= ranks[1]


@settings(deadline=None)
@given(queries, queries, movies)
def test_a_cursor_is_taken_by_another_query_only_if_that_means_the_same(
    one: MovieQuery, other: MovieQuery, movie: Movie
) -> None:
    def meaning(query: MovieQuery) -> object:
        return (
            None if query.search is None else query.search.words,
            query.genre,
            (query.release_year, query.min_release_year, query.max_release_year),
            query.order,
        )

    cursor = one.cursor_after(one.position(movie, tier=0, key=title_key(movie.title)), similar=False)
    assert followed(one, cursor) is not None
    assert (followed(other, cursor) is not None) == (meaning(one) == meaning(other))


@settings(deadline=None)
@given(sorts)
def test_keys_to_sort_by_come_back_from_their_text(sort: tuple[Sort, ...]) -> None:
    assume(sort)
    assert read_sort(",".join("-" * key.descending + key.field for key in sort)) == sort


@settings(deadline=None)
@given(st.text(st.sampled_from("-, id") | points))
def test_a_text_of_keys_is_read_or_refused(text: str) -> None:
    try:
        keys = read_sort(text)
    except InvalidQuery as error:
        refused = [fault.parameter for fault in error.faults]
    else:
        refused = ["sort"]
        assert ",".join("-" * key.descending + key.field for key in keys) == text
    assert refused == ["sort"]


def found_by(query: MovieQuery, stored: list[Movie]) -> list[tuple[Movie, Position]]:
    """The whole list, by the words of the search as they are."""
    found = []
    for movie in stored:
        tier: int | None = 0
        if query.search is not None:
            tier = next(
                (
                    tier.number
                    for tier in query.search.tiers()
                    if matches(entries(movie.title, movie.description), tier.pattern)
                ),
                None,
            )
        if tier is not None and query.admits(movie):
            found.append((movie, query.position(movie, tier=tier, key=title_key(movie.title))))
    return sorted(found, key=lambda item: query.rank(item[1]))


def page_of(query: MovieQuery, stored: list[Movie]) -> Page:
    found = found_by(query, stored)
    if query.cursor is not None:
        after = query.rank(query.cursor.position)
        found = [item for item in found if query.rank(item[1]) > after]
    return Page.of(found[: query.limit + 1], query)


@settings(deadline=None)
@given(queries, catalogues, st.data())
def test_following_cursors_reads_every_movie_once(
    query: MovieQuery, stored: list[Movie], data: st.DataObject
) -> None:
    expected = [movie.id for movie, _ in found_by(query, stored)]
    read: list[int] = []
    for _ in range(len(stored) + 1):
        page = page_of(query, stored)
        read += [movie.id for movie in page.data]
        if page.next_cursor is None:
            break
        assert len(page.data) == query.limit
        query = msgspec.structs.replace(
            query, limit=data.draw(st.integers(1, 5)), cursor=Cursor.decode(page.next_cursor)
        )
    else:
        pytest.fail("the cursors never end")
    assert read == expected


@settings(deadline=None)
@given(queries, catalogues, st.data())
def test_movies_that_stay_are_read_once_while_others_come_and_go(
    query: MovieQuery, stored: list[Movie], data: st.DataObject
) -> None:
    staying = [movie for movie in stored if data.draw(st.booleans())]
    read: list[int] = []
    while True:
        going = [movie for movie in stored if movie not in staying and data.draw(st.booleans())]
        page = page_of(query, staying + going)
        read += [movie.id for movie in page.data]
        if page.next_cursor is None:
            break
        query = msgspec.structs.replace(query, cursor=Cursor.decode(page.next_cursor))
    assert len(read) == len(set(read))
    kept = {movie.id for movie in staying}
    expected = [movie.id for movie, _ in found_by(msgspec.structs.replace(query, cursor=None), staying)]
    assert [movie_id for movie_id in read if movie_id in kept] == expected


@settings(deadline=None)
@given(sorts, catalogues)
def test_movies_are_ordered_key_by_key_with_none_last_and_ids_at_the_end(
    sort: tuple[Sort, ...], stored: list[Movie]
) -> None:
    def compared(one: Movie, other: Movie) -> int:
        for key in (*sort, Sort("id")):
            values = [
                (title_key(movie.title), movie.title) if key.field == "title" else getattr(movie, key.field)
                for movie in (one, other)
            ]
            if values[0] == values[1]:
                continue
            if None in values:
                return 1 if values[0] is None else -1
            return (1 if values[0] > values[1] else -1) * (-1 if key.descending else 1)
        return 0

    ordered = [movie for movie, _ in found_by(MovieQuery(sort=sort), stored)]
    assert ordered == sorted(stored, key=cmp_to_key(compared))


@settings(deadline=None)
@given(queries, movies)
def test_filters_admit_what_they_say(query: MovieQuery, movie: Movie) -> None:
    year = movie.release_year
    expected = query.genre in {None, movie.genre}
    if (query.release_year, query.min_release_year, query.max_release_year) != (None, None, None):
        expected = expected and year is not None
    if query.release_year is not None:
        expected = expected and year == query.release_year
    if query.min_release_year is not None:
        expected = expected and (year or 0) >= query.min_release_year
    if query.max_release_year is not None:
        expected = expected and (year or 9_999) <= query.max_release_year
    assert query.admits(movie) == expected
