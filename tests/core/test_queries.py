"""Cursors, limits and pages."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import msgspec
import pytest

from watchly_core.errors import InvalidQuery
from watchly_core.movies import MAX_ID, Movie
from watchly_core.queries import DEFAULT_LIMIT, Cursor, MovieQuery, Page, _checksum

BOUNDARIES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, MAX_ID - 1, MAX_ID]


def sealed(payload: bytes) -> str:
    """`payload` under a right checksum: what somebody who reads the source can send."""
    return urlsafe_b64encode(_checksum(payload) + payload).decode().rstrip("=")


def brief(value: object) -> str:
    """A name for a parameter, however long or odd it is."""
    return ascii(value)[:30]


def assert_refused(text: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        Cursor.decode(text)
    (fault,) = caught.value.faults
    assert fault.parameter == "cursor"
    assert fault.pointer is None
    assert fault.code == "invalid_cursor"
    assert "cursor" in str(caught.value)


@pytest.mark.parametrize("after_id", BOUNDARIES)
def test_a_cursor_comes_back_from_its_text(after_id: int) -> None:
    text = Cursor(after_id).encode()
    assert Cursor.decode(text) == Cursor(after_id)
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("after_id", BOUNDARIES)
def test_a_cut_padded_or_decorated_cursor_is_refused(after_id: int) -> None:
    text = Cursor(after_id).encode()
    for size in range(len(text)):
        assert_refused(text[:size])
        assert_refused(text[size + 1 :])
    for decorated in ("=", "==", "A", "\n", " ", "\x00", "é", "\ud800", text):
        assert_refused(text + decorated)
        assert_refused(decorated + text)
        assert_refused(text[:3] + decorated + text[3:])


def test_the_other_alphabet_of_base64_is_refused() -> None:
    spelled = [text for after_id in range(1, 200) if set(text := Cursor(after_id).encode()) & set("-_")]
    assert spelled
    for text in spelled:
        assert_refused(text.replace("-", "+").replace("_", "/"))


@pytest.mark.parametrize("after_id", BOUNDARIES)
def test_a_cursor_with_another_last_digit_is_refused(after_id: int) -> None:
    # The bits of the last digit that base64 does not use must not give a second spelling.
    text = Cursor(after_id).encode()
    for digit in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if digit != text[-1]:
            assert_refused(text[:-1] + digit)


@pytest.mark.parametrize(
    "text",
    ["", "=", "====", "A", "7", "null", "é", "\ud800", "\x00", "..", "A" * 100_000],
    ids=brief,
)
def test_a_text_that_never_was_a_cursor_is_refused(text: str) -> None:
    assert_refused(text)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        -1,
        [],
        [-(2**31) - 1],
        [MAX_ID + 1],
        [2**64 - 1],
        [True],
        [1.0],
        ["1"],
        [None],
        [7, 7],
        {"after_id": 7},
        [[7]],
    ],
)
def test_a_sealed_value_that_is_no_cursor_is_refused(value: object) -> None:
    assert_refused(sealed(msgspec.msgpack.encode(value)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"\x91\xcd\x00\x07",  # 7 in more bytes than it needs
        b"\x91\xc7",
        b"\x91\xa1\xff",
        b"\x91\x07\x00",
        b"\xdd\xff\xff\xff\xff\x07",
        b"\x92\x07" + b"\x91" * 200_000,
        b"\x92\x07" + b"\x91" * 200_000 + b"\xc0",
        b"\x81" * 200_000,
    ],
    ids=lambda payload: payload[:6].hex() or "empty",
)
def test_sealed_bytes_that_are_no_cursor_are_refused(payload: bytes) -> None:
    assert_refused(sealed(payload))
    assert_refused(urlsafe_b64encode(b"\x00" * 6 + payload).decode().rstrip("="))


def test_a_query_without_wishes_is_the_first_page_of_all() -> None:
    query = MovieQuery()
    assert (query.limit, query.cursor, query.after_id) == (DEFAULT_LIMIT, None, -(2**31) - 1)
    assert DEFAULT_LIMIT == 50
    assert MovieQuery(cursor=Cursor(9)).after_id == 9


@pytest.mark.parametrize("limit", [1, 50, 200, 10**9])
def test_a_limit_is_any_size_of_page(limit: int) -> None:
    assert MovieQuery(limit=limit).limit == limit


@pytest.mark.parametrize("limit", [0, -1, -(10**30)])
def test_a_limit_below_one_is_refused_by_name(limit: int) -> None:
    with pytest.raises(InvalidQuery) as caught:
        MovieQuery(limit=limit)
    (fault,) = caught.value.faults
    assert (fault.parameter, fault.pointer, fault.code) == ("limit", None, "too_small")


def movies(*ids: int) -> list[Movie]:
    return [Movie(movie_id, "x", None, None, None, None, None, 1, None, None) for movie_id in ids]


@pytest.mark.parametrize(
    ("found", "limit", "shown", "after"),
    [
        ([], 1, [], None),
        ([4], 1, [4], None),
        ([4, 9], 1, [4], 4),
        ([4, 9], 2, [4, 9], None),
        ([4, 9, MAX_ID], 2, [4, 9], 9),
        ([4, 9], 50, [4, 9], None),
    ],
)
def test_one_movie_above_the_limit_says_that_more_follow(
    found: list[int], limit: int, shown: list[int], after: int | None
) -> None:
    page = Page.of(movies(*found), MovieQuery(limit=limit))
    assert [movie.id for movie in page.data] == shown
    if after is None:
        assert page.next_cursor is None
    else:
        assert page.next_cursor is not None
        assert Cursor.decode(page.next_cursor) == Cursor(after)


def test_a_page_is_on_the_wire_as_api_md_shows_it() -> None:
    assert msgspec.json.encode(Page((), None)) == b'{"data":[],"next_cursor":null}'
    members = msgspec.json.decode(msgspec.json.encode(Page.of(movies(1, 2), MovieQuery(limit=1))))
    assert set(members) == {"data", "next_cursor"}
    assert isinstance(members["next_cursor"], str)
