"""Cursors under every text that a client can send."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from watchly_core.errors import InvalidQuery
from watchly_core.movies import MAX_ID, Movie
from watchly_core.queries import Cursor, MovieQuery, Page, _checksum

ids = st.integers(-(2**31), MAX_ID)
digits = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/")
points = digits | st.characters(exclude_categories=())


def decoded(text: str) -> Cursor | None:
    """The cursor, or None when it is refused in the one way allowed."""
    try:
        return Cursor.decode(text)
    except InvalidQuery as error:
        invalid = error
    assert [fault.parameter for fault in invalid.faults] == ["cursor"]
    return None


@settings(deadline=None)
@given(ids)
def test_a_cursor_comes_back_from_its_text(after_id: int) -> None:
    assert Cursor.decode(Cursor(after_id).encode()) == Cursor(after_id)


@settings(deadline=None)
@given(st.integers(-(2**63), -(2**31) - 1) | st.integers(MAX_ID + 1, 2**64 - 1))
def test_no_text_names_a_place_outside_the_ids(after_id: int) -> None:
    assert decoded(Cursor(after_id).encode()) is None


@settings(deadline=None)
@given(ids, st.data())
def test_a_cursor_changed_anywhere_is_refused(after_id: int, data: st.DataObject) -> None:
    text = Cursor(after_id).encode()
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
@given(st.binary(max_size=40) | st.builds(bytes.__add__, st.just(b"\x91"), st.binary(max_size=9)))
def test_sealed_bytes_are_a_cursor_in_its_one_spelling_or_they_are_refused(payload: bytes) -> None:
    text = urlsafe_b64encode(_checksum(payload) + payload).decode().rstrip("=")
    cursor = decoded(text)
    assert cursor is None or cursor.encode() == text


@settings(deadline=None)
@given(st.lists(st.integers(1, MAX_ID), unique=True).map(sorted), st.integers(1, 10))
def test_following_cursors_reads_every_movie_once(movie_ids: list[int], limit: int) -> None:
    stored = [Movie(number, "x", None, None, None, None, None, 1, None, None) for number in movie_ids]
    read: list[int] = []
    query = MovieQuery(limit=limit)
    for _ in range(len(stored) + 1):
        page = Page.of([movie for movie in stored if movie.id > query.after_id][: limit + 1], query)
        read += [movie.id for movie in page.data]
        if page.next_cursor is None:
            break
        assert len(page.data) == limit
        query = MovieQuery(limit=limit, cursor=Cursor.decode(page.next_cursor))
    else:
        pytest.fail("the cursors never end")
    assert read == movie_ids
