"""Queries, their order, cursors, limits and pages."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from watchly_core.errors import Fault, InvalidQuery
from watchly_core.movies import MAX_ID, Movie
from watchly_core.queries import (
    DEFAULT_LIMIT,
    MAX_WORDS,
    SORT_FIELDS,
    Cursor,
    GenreCount,
    MovieQuery,
    Order,
    Page,
    Position,
    Sort,
    SortField,
    _digest,
    moment,
    read_sort,
)
from watchly_core.text import title_key

BOUNDARIES = [-(2**31), -1, 0, 1, 127, 128, 255, 256, 65_535, 65_536, MAX_ID - 1, MAX_ID]
POSITIONS: list[Position] = [
    *((number,) for number in BOUNDARIES),
    (None, 7),
    (19, 7),
    ("amelie", "Amélie", 7),
    (None, "\U0001f3ac\ud7ff\ue000", 7),
    (-62_135_596_800_000_000, 253_402_300_799_999_999, None, 1995, "", "", 7),
]


def sealed(payload: bytes) -> str:
    """`payload` under a right checksum: what somebody who reads the source can send."""
    return urlsafe_b64encode(_digest(payload) + payload).decode().rstrip("=")


def brief(value: object) -> str:
    """A name for a parameter, however long or odd it is."""
    return ascii(value)[:30]


def bits(number: int) -> str:
    """The same for a number, which may have more digits than str() takes."""
    return f"{'-' if number < 0 else ''}{number.bit_length()} bits"


def refusal(**parameters: Any) -> Fault:
    with pytest.raises(InvalidQuery) as caught:
        MovieQuery(**parameters)
    (fault,) = caught.value.faults
    assert fault.pointer is None
    assert fault.detail
    msgspec.json.encode(fault)
    return fault


def assert_refused(text: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        Cursor.decode(text)
    (fault,) = caught.value.faults
    assert fault.parameter == "cursor"
    assert fault.pointer is None
    assert fault.code == "invalid_cursor"
    assert "cursor" in str(caught.value)


def movie(movie_id: int, title: str = "x", year: int | None = None, at: datetime | None = None) -> Movie:
    return Movie(movie_id, title, None, year, None, None, None, 1, at, at)


def placed(query: MovieQuery, *movies: Movie) -> list[tuple[Movie, Position]]:
    return [(one, query.position(one, tier=0, key=title_key(one.title))) for one in movies]


# Cursors as texts.


@pytest.mark.parametrize("position", POSITIONS, ids=brief)
@pytest.mark.parametrize("similar", [True, False])
def test_a_cursor_comes_back_from_its_text(position: Position, *, similar: bool) -> None:
    cursor = Cursor(b"\x00\xff1234", similar, position)
    text = cursor.encode()
    assert Cursor.decode(text) == cursor
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("position", POSITIONS, ids=brief)
def test_a_cut_padded_or_decorated_cursor_is_refused(position: Position) -> None:
    text = Cursor(b"123456", False, position).encode()  # noqa: FBT003 - its fields have an order
    for size in range(len(text)):
        assert_refused(text[:size])
        assert_refused(text[size + 1 :])
    for decorated in ("=", "==", "A", "\n", " ", "\x00", "é", "\ud800", text):
        assert_refused(text + decorated)
        assert_refused(decorated + text)
        assert_refused(text[:3] + decorated + text[3:])


def test_the_other_alphabet_of_base64_is_refused() -> None:
    texts = [MovieQuery().cursor_after((number,), similar=False).encode() for number in range(1, 200)]
    spelled = [text for text in texts if set(text) & set("-_")]
    assert spelled
    for text in spelled:
        assert_refused(text.replace("-", "+").replace("_", "/"))


@pytest.mark.parametrize("position", POSITIONS, ids=brief)
def test_a_cursor_with_another_last_digit_is_refused(position: Position) -> None:
    # The bits of the last digit that base64 does not use must not give a second spelling.
    text = Cursor(b"123456", True, position).encode()  # noqa: FBT003 - its fields have an order
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
        True,
        "123456",
        [],
        [7],
        [b"123456"],
        [b"123456", False],
        [b"123456", False, [7], 7],
        [b"123456", False, 7],
        [b"123456", False, None],
        [b"123456", False, {"id": 7}],
        [b"123456", False, b"7"],
        [b"123456", False, "7"],
        [b"123456", False, [True]],
        [b"123456", False, [7.0]],
        [b"123456", False, [float("nan")]],
        [b"123456", False, [float("inf")]],
        [b"123456", False, [b"7"]],
        [b"123456", False, [[7]]],
        [b"123456", False, [{}]],
        [b"123456", False, [datetime(2026, 1, 1, tzinfo=UTC)]],
        [b"123456", 0, [7]],
        [b"123456", None, [7]],
        [b"123456", "", [7]],
        ["123456", False, [7]],
        [[], False, [7]],
        [None, False, [7]],
        {"query": b"123456", "similar": False, "position": [7]},
        [[b"123456", False, [7]]],
    ],
    ids=brief,
)
def test_a_sealed_value_that_is_no_cursor_is_refused(value: object) -> None:
    assert_refused(sealed(msgspec.msgpack.encode(value)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\x93\xc4\x01q\xc2\x91\xcd\x00\x07",  # 7 in more bytes than it needs
        b"\x93\xc5\x00\x01q\xc2\x91\x07",
        b"\x93\xc4\x01q\xc2\xdc\x00\x01\x07",
        b"\x93\xc4\x01q\xc2\x91\x07\x00",
        b"\x93\xc4\x01q\xc2\x91\xa1\xff",
        b"\x93\xc4\x01q\xc2\x91\xa3\xed\xa0\x80",  # a lone surrogate
        b"\x93\xc4\x01q\xc2\x91\xc7",
        b"\x93\xc4\x01q\xc2\xdd\xff\xff\xff\xff\x07",
        b"\x93\xc6\xff\xff\xff\xffq",
        b"\xdd\xff\xff\xff\xff\x07",
        b"\x93\xc4\x01q\xc2" + b"\x91" * 200_000,
        b"\x93\xc4\x01q\xc2" + b"\x91" * 200_000 + b"\xc0",
        b"\x81" * 200_000,
    ],
    ids=lambda payload: f"{payload[:10].hex()}-{len(payload)}",
)
def test_sealed_bytes_that_are_no_cursor_are_refused(payload: bytes) -> None:
    assert_refused(sealed(payload))
    assert_refused(urlsafe_b64encode(b"\x00" * 6 + payload).decode().rstrip("="))


# Cursors and their queries.

FIELDS_AND_VALUES: list[tuple[SortField, list[int | str | None]]] = [
    ("id", [-(2**31), 0, MAX_ID]),
    ("release_year", [None, -(2**31), 0, MAX_ID]),
    ("created_at", [None, 0, -62_135_596_800_000_000, 253_402_300_799_999_999]),
    ("updated_at", [None, 0, -62_135_596_800_000_000, 253_402_300_799_999_999]),
]


@pytest.mark.parametrize(("field", "values"), FIELDS_AND_VALUES)
def test_a_cursor_holds_what_a_movie_can_have(field: SortField, values: list[int | str | None]) -> None:
    query = MovieQuery(sort=(Sort(field),))
    rest: Position = () if field == "id" else (7,)
    for value in values:
        cursor = query.cursor_after((value, *rest), similar=False)
        assert MovieQuery(sort=(Sort(field),), cursor=Cursor.decode(cursor.encode())).cursor == cursor


@pytest.mark.parametrize("field", SORT_FIELDS)
@pytest.mark.parametrize("value", [None, "7", "", "a\0b", 2**31, -(2**31) - 1, 2**62, -(2**62)], ids=brief)
def test_a_cursor_made_by_somebody_holds_what_a_movie_can_have_or_is_refused(
    field: SortField, value: int | str | None
) -> None:
    query = MovieQuery(sort=(Sort(field),))
    fitting = {
        "id": False,
        "title": value in {"7", ""},
        "release_year": value is None,
        "created_at": value is None or (isinstance(value, int) and abs(value) < 2**33),
        "updated_at": value is None or (isinstance(value, int) and abs(value) < 2**33),
    }
    position = {"id": (value,), "title": (value, value, 7)}.get(field, (value, 7))
    # A checksum and a fingerprint are no secret.
    cursor = Cursor.decode(query.cursor_after(position, similar=False).encode())
    if fitting[field]:
        assert MovieQuery(sort=(Sort(field),), cursor=cursor).cursor == cursor
    else:
        fault = refusal(sort=(Sort(field),), cursor=cursor)
        assert (fault.parameter, fault.code) == ("cursor", "invalid_cursor")


@pytest.mark.parametrize(
    ("parameters", "position"),
    [
        ({}, ()),
        ({}, (7, 7)),
        ({}, (None,)),
        ({}, ("7",)),
        ({"q": "heat"}, (7,)),
        ({"q": "heat"}, (-1, 7)),
        ({"q": "heat"}, (None, 7)),
        ({"q": "heat"}, ("0", 7)),
        ({"q": "heat"}, (2**31, 7)),
        ({"q": "heat"}, (0, None)),
        ({"sort": read_sort("title")}, ("x", 7)),
        ({"sort": read_sort("title")}, ("x", "X", "7")),
        ({"sort": read_sort("title")}, ("x", None, 7)),
        ({"sort": read_sort("title")}, (7, "X", 7)),
        ({"sort": read_sort("title")}, ("x", "X\0", 7)),
        ({"sort": read_sort("title")}, ("x\0", "X", 7)),
        ({"sort": read_sort("release_year")}, (1995, None)),
        ({"sort": read_sort("created_at")}, (253_402_300_800_000_000, 7)),
        ({"sort": read_sort("updated_at")}, (-62_135_596_800_000_001, 7)),
    ],
    ids=brief,
)
def test_a_cursor_at_a_place_that_is_none_is_refused(parameters: dict[str, Any], position: Position) -> None:
    cursor = MovieQuery(**parameters).cursor_after(position, similar=False)
    fault = refusal(**parameters, cursor=cursor)
    assert (fault.parameter, fault.code) == ("cursor", "invalid_cursor")


SAME_POSITION: Position = (7,)
DIFFERENT: list[dict[str, Any]] = [
    {},
    {"sort": read_sort("-id")},
    {"genre": "Crime"},
    {"genre": "crime"},
    {"genre": ""},
    {"genre": "None"},
    {"release_year": 1995},
    {"release_year": 0},
    {"min_release_year": 1995},
    {"max_release_year": 1995},
    {"min_release_year": 1995, "max_release_year": 1995},
    {"release_year": 2**63 - 1},
    {"release_year": 2**63 - 2},
    {"release_year": -(2**63)},
    {"q": "heat", "sort": read_sort("id")},
    {"q": "heats", "sort": read_sort("id")},
    {"q": "heat wave", "sort": read_sort("id")},
    {"q": "wave heat", "sort": read_sort("id")},
    {"q": "heatwave", "sort": read_sort("id")},
    {"q": "?", "sort": read_sort("id")},
]


def test_a_cursor_belongs_to_its_filters_and_sort() -> None:
    for own in DIFFERENT:
        cursor = MovieQuery(**own).cursor_after(SAME_POSITION, similar=False)
        for other in DIFFERENT:
            if other is own:
                assert MovieQuery(**other, cursor=cursor).cursor == cursor
            else:
                fault = refusal(**other, cursor=cursor)
                assert (fault.parameter, fault.code) == ("cursor", "invalid_cursor")


@pytest.mark.parametrize(
    ("one", "other", "position"),
    [
        ({"limit": 1}, {"limit": 200}, (7,)),
        ({}, {"sort": read_sort("id")}, (7,)),
        ({"q": None}, {"q": " \t\n"}, (7,)),
        ({"q": "?!"}, {"q": "%_"}, (3, 7)),
        ({"q": "Amélie!"}, {"q": "  amelie"}, (3, 7)),
        ({"q": "SPIDER-MAN"}, {"q": "spider  man"}, (3, 7)),
        ({"sort": read_sort("title")}, {"sort": read_sort("title,id")}, ("x", "X", 7)),
        ({"sort": read_sort("-id,title")}, {"sort": read_sort("-id")}, (7,)),
    ],
    ids=brief,
)
def test_a_cursor_belongs_to_what_the_query_means(
    one: dict[str, Any], other: dict[str, Any], position: Position
) -> None:
    cursor = MovieQuery(**one).cursor_after(position, similar=True)
    assert cursor == MovieQuery(**other).cursor_after(position, similar=True)
    assert MovieQuery(**other, cursor=cursor).cursor == cursor


@pytest.mark.parametrize(
    ("one", "other", "position"),
    [
        (read_sort("title"), read_sort("-title"), ("x", "X", 7)),
        (read_sort("release_year"), read_sort("-release_year"), (1995, 7)),
        (read_sort("created_at"), read_sort("updated_at"), (1995, 7)),
        (read_sort("release_year,created_at"), read_sort("created_at,release_year"), (1995, 1995, 7)),
        (read_sort("release_year"), read_sort("release_year,-id"), (1995, 7)),
    ],
)
def test_a_cursor_belongs_to_its_order(
    one: tuple[Sort, ...], other: tuple[Sort, ...], position: Position
) -> None:
    cursor = MovieQuery(sort=one).cursor_after(position, similar=False)
    assert refusal(sort=other, cursor=cursor).parameter == "cursor"


def test_a_cursor_of_relevance_is_none_by_id() -> None:
    cursor = MovieQuery(q="heat").cursor_after((0, 7), similar=False)
    assert refusal(q="heat", sort=read_sort("id"), cursor=cursor).parameter == "cursor"
    assert refusal(cursor=cursor).parameter == "cursor"


def test_a_fingerprint_is_the_same_wherever_it_is_taken() -> None:
    # Cursors are followed by other processes, and after a restart.
    query = MovieQuery(q="Amélie 2", genre="Crime", min_release_year=1990, sort=read_sort("-title"))
    text = query.cursor_after(("x", "X", 7), similar=True).encode()
    assert text == "DbW1dB6Ak8QGPN74HSklw5OheKFYBw"


# Queries.


def test_a_query_without_wishes_is_the_first_page_of_all() -> None:
    query = MovieQuery()
    assert (query.limit, query.cursor, query.search, query.sort) == (DEFAULT_LIMIT, None, None, ())
    assert query.order == (Order("id"),)
    assert query.admits(movie(1))
    assert DEFAULT_LIMIT == 50


@pytest.mark.parametrize("limit", [1, 50, 200, 10**9])
def test_a_limit_is_any_size_of_page(limit: int) -> None:
    assert MovieQuery(limit=limit).limit == limit


@pytest.mark.parametrize("limit", [0, -1, -(10**30)])
def test_a_limit_below_one_is_refused_by_name(limit: int) -> None:
    fault = refusal(limit=limit)
    assert (fault.parameter, fault.code) == ("limit", "too_small")


@pytest.mark.parametrize("genre", ["\0", "Cri\0me", "\ud800", "Crime\udfff"], ids=ascii)
def test_a_genre_that_no_text_can_be_is_refused_by_name(genre: str) -> None:
    assert refusal(genre=genre).parameter == "genre"


@pytest.mark.parametrize(
    "genre", ["", " ", "Crime", "'; --", "%", "\x01", "\ud7ff\ue000\U0001f3ac"], ids=ascii
)
def test_any_other_genre_is_compared_to_the_letter(genre: str) -> None:
    query = MovieQuery(genre=genre)
    assert query.admits(msgspec.structs.replace(movie(1), genre=genre))
    for other in (None, genre + "x", genre.lower() + " ", "x" + genre):
        assert not query.admits(msgspec.structs.replace(movie(1), genre=other))


@pytest.mark.parametrize("q", ["\ud800", "heat\udfff", " \ud83c ", "x\ud83c\udfac"], ids=ascii)
def test_words_that_no_text_can_hold_are_refused_by_name(q: str) -> None:
    fault = refusal(q=q)
    assert (fault.parameter, fault.code) == ("q", "invalid_value")


@pytest.mark.parametrize("name", ["release_year", "min_release_year", "max_release_year"])
@pytest.mark.parametrize("year", [2**63, -(2**63) - 1, 10**5_000, -(10**5_000)], ids=bits)
def test_a_year_of_more_than_eight_bytes_is_refused_by_name(name: str, year: int) -> None:
    fault = refusal(**{name: year})
    assert (fault.parameter, fault.code) == (name, "invalid_value")


def test_all_faults_of_a_query_are_told_together() -> None:
    with pytest.raises(InvalidQuery) as caught:
        MovieQuery(q="\ud800", genre="\0", release_year=2**63, max_release_year=-(2**64), limit=0)
    named = {fault.parameter for fault in caught.value.faults}
    assert named == {"q", "genre", "release_year", "max_release_year", "limit"}


@pytest.mark.parametrize("q", [None, "", " ", "\t\n\u3000"], ids=ascii)
def test_blanks_search_for_nothing(q: str | None) -> None:
    query = MovieQuery(q=q)
    assert query.search is None
    assert query.order == (Order("id"),)


@pytest.mark.parametrize("q", ["?", "%", "'", "\\", "&|!():*", "\x00", "\U0001f3ac", "\u200b"], ids=ascii)
def test_a_search_for_what_is_no_word_finds_nothing(q: str) -> None:
    query = MovieQuery(q=q)
    assert query.search is not None
    assert query.search.tiers() == []


def test_a_search_has_at_most_32_words() -> None:
    assert MAX_WORDS == 32
    query = MovieQuery(q="word " * 32)
    assert query.search is not None
    assert len(query.search.words) == 32
    for q in ("word " * 33, "a-b" * 32, "8½ " * 11, "x " * 50_000):
        fault = refusal(q=q)
        assert (fault.parameter, fault.code) == ("q", "too_long")
    assert MovieQuery(q="x" * 10_000).search == MovieQuery(q="x" * 64).search


@pytest.mark.parametrize(
    ("filters", "years"),
    [
        ({}, [None, -1, 1994, 1995, 1996]),
        ({"release_year": 1995}, [1995]),
        ({"min_release_year": 1995}, [1995, 1996]),
        ({"max_release_year": 1995}, [-1, 1994, 1995]),
        ({"min_release_year": 1995, "max_release_year": 1995}, [1995]),
        ({"min_release_year": 1996, "max_release_year": 1994}, []),
        ({"release_year": 1995, "min_release_year": 1996}, []),
        ({"release_year": 1995, "max_release_year": 1994}, []),
        ({"release_year": 0}, []),
        ({"min_release_year": 0}, [1994, 1995, 1996]),
        ({"max_release_year": 0}, [-1]),
        ({"release_year": 2**63 - 1}, []),
        ({"min_release_year": -(2**63), "max_release_year": 2**63 - 1}, [-1, 1994, 1995, 1996]),
    ],
    ids=str,
)
def test_years_are_inclusive_and_a_movie_without_one_fits_no_filter(
    filters: dict[str, Any], years: list[int | None]
) -> None:
    query = MovieQuery(**filters)
    assert [year for year in (None, -1, 1994, 1995, 1996) if query.admits(movie(1, year=year))] == years


def test_every_filter_has_to_fit() -> None:
    query = MovieQuery(genre="Crime", release_year=1995)
    heat = msgspec.structs.replace(movie(1, year=1995), genre="Crime")
    assert query.admits(heat)
    assert not query.admits(msgspec.structs.replace(heat, genre="Drama"))
    assert not query.admits(msgspec.structs.replace(heat, release_year=1996))


# Order.


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("id", (Sort("id"),)),
        ("-id", (Sort("id", descending=True),)),
        ("title,-release_year", (Sort("title"), Sort("release_year", descending=True))),
        (
            "-updated_at,created_at,release_year,title,id",
            (
                Sort("updated_at", descending=True),
                Sort("created_at"),
                Sort("release_year"),
                Sort("title"),
                Sort("id"),
            ),
        ),
    ],
)
def test_keys_to_sort_by_are_read(text: str, keys: tuple[Sort, ...]) -> None:
    assert read_sort(text) == keys


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "-",
        "--id",
        "+id",
        "id,",
        ",id",
        "id,,title",
        " id",
        "id ",
        "id, title",
        "ID",
        "Title",
        "genre",
        "title_key",
        "tier",
        "relevance",
        "id;title",
        "id desc",
        "id\0",
        "ｉｄ",  # noqa: RUF001 - looks like one
        "id,id",
        "id,-id",
        "title,id,-title",
        "\ud800",
        "id," * 100_000,
    ],
    ids=brief,
)
def test_other_keys_to_sort_by_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        read_sort(text)
    (fault,) = caught.value.faults
    assert (fault.parameter, fault.pointer, fault.code) == ("sort", None, "invalid_value")
    msgspec.json.encode(fault)
    assert len(fault.detail) < 200


@pytest.mark.parametrize(
    ("parameters", "order"),
    [
        ({}, [Order("id")]),
        ({"q": "heat"}, [Order("tier"), Order("id")]),
        ({"q": "?"}, [Order("tier"), Order("id")]),
        ({"q": "heat", "sort": read_sort("-id")}, [Order("id", descending=True)]),
        ({"sort": read_sort("title")}, [Order("title_key"), Order("title"), Order("id")]),
        (
            {"q": "heat", "sort": read_sort("-title,release_year")},
            [
                Order("title_key", descending=True),
                Order("title", descending=True),
                Order("release_year"),
                Order("id"),
            ],
        ),
        (
            {"sort": read_sort("-release_year,-id,title")},
            [
                Order("release_year", descending=True),
                Order("id", descending=True),
            ],
        ),
    ],
    ids=brief,
)
def test_an_order_ends_with_the_id(parameters: dict[str, Any], order: list[Order]) -> None:
    assert list(MovieQuery(**parameters).order) == order


def sorted_ids(sort: str, *movies: Movie) -> list[int]:
    query = MovieQuery(sort=read_sort(sort))
    ranked = sorted(placed(query, *movies), key=lambda item: query.rank(item[1]))
    assert ranked == sorted(placed(query, *movies[::-1]), key=lambda item: query.rank(item[1]))
    return [one.id for one, _ in ranked]


YEARS = [
    movie(1, year=None),
    movie(2, year=1995),
    movie(3, year=1972),
    movie(4, year=1995),
    movie(5, year=None),
]


@pytest.mark.parametrize(
    ("sort", "ids"),
    [
        ("id", [1, 2, 3, 4, 5]),
        ("-id", [5, 4, 3, 2, 1]),
        ("release_year", [3, 2, 4, 1, 5]),
        ("-release_year", [2, 4, 3, 1, 5]),
        ("release_year,-id", [3, 4, 2, 5, 1]),
        ("-release_year,-id", [4, 2, 3, 5, 1]),
    ],
)
def test_none_comes_last_both_ways_and_equals_by_ascending_id(sort: str, ids: list[int]) -> None:
    assert sorted_ids(sort, *YEARS) == ids


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
def test_times_are_ordered_to_the_microsecond_wherever_they_were_taken(field: str) -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    times = [
        noon,
        None,
        noon + timedelta(microseconds=1),
        noon - timedelta(microseconds=1),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        noon,
    ]
    movies = [movie(number, at=at) for number, at in enumerate(times)]
    assert sorted_ids(field, *movies) == [4, 3, 0, 6, 2, 5, 1]
    assert sorted_ids(f"-{field}", *movies) == [5, 2, 0, 6, 3, 4, 1]


@pytest.mark.parametrize(
    "at",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 11, 22, 12, 0, 0, 123_457, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
    ids=str,
)
def test_a_time_comes_back_from_a_position(at: datetime) -> None:
    query = MovieQuery(sort=read_sort("created_at"))
    ((_, (microseconds, movie_id)),) = placed(query, movie(7, at=at))
    assert isinstance(microseconds, int)
    assert (moment(microseconds), movie_id) == (at, 7)


def test_titles_are_ordered_by_what_they_fold_to_and_then_by_code_point() -> None:
    titles = ["amelie", "Amélie", "AMELIE", "Zebra", "ångström", "Ångström", "apple", "apple"]
    movies = [movie(number, title) for number, title in enumerate(titles)]
    assert sorted_ids("title", *movies) == [2, 1, 0, 5, 4, 6, 7, 3]
    assert sorted_ids("-title", *movies) == [3, 6, 7, 4, 5, 0, 1, 2]
    assert sorted_ids("-title,-id", *movies) == [3, 7, 6, 4, 5, 0, 1, 2]
    # Not by halves of characters beyond U+FFFF, as UTF-16 would have it.
    assert sorted_ids("title", movie(1, "\U0001f3ac"), movie(2, "\uffee")) == [2, 1]


def test_a_movie_whose_key_is_not_made_yet_is_among_the_last_by_title() -> None:
    for sort in ("title", "-title"):
        query = MovieQuery(sort=read_sort(sort))
        without = query.position(movie(1, "A"), tier=0, key=None)
        assert query.rank(without) > query.rank(query.position(movie(2, "Z"), tier=0, key="z"))
        assert query.rank(without) > query.rank(query.position(movie(2, "A"), tier=0, key="a"))
        assert MovieQuery(sort=read_sort(sort), cursor=query.cursor_after(without, similar=False)).cursor


def test_relevance_comes_before_the_id() -> None:
    query = MovieQuery(q="heat")
    positions = [
        query.position(movie(movie_id), tier=tier, key=None)
        for movie_id, tier in [(1, 3), (2, 0), (3, 19), (4, 0), (5, 3)]
    ]
    assert [position[1] for position in sorted(positions, key=query.rank)] == [2, 4, 1, 5, 3]


def test_a_rank_is_neither_more_nor_less_than_itself() -> None:
    for sort in ("title,release_year", "-title,-release_year,-id"):
        query = MovieQuery(sort=read_sort(sort))
        for year in (None, 1995):
            ((_, position),) = placed(query, movie(1, "Heat", year))
            assert query.rank(position) == query.rank(position)
            assert not query.rank(position) > query.rank(position)
            assert not query.rank(position) < query.rank(position)


# Pages.


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
    query = MovieQuery(limit=limit)
    page = Page.of(placed(query, *map(movie, found)), query)
    assert [one.id for one in page.data] == shown
    if after is None:
        assert page.next_cursor is None
    else:
        assert page.next_cursor is not None
        cursor = Cursor.decode(page.next_cursor)
        assert cursor == query.cursor_after((after,), similar=False)
        assert MovieQuery(limit=limit + 1, cursor=cursor).cursor == cursor


def test_a_page_of_guessed_words_says_so_in_its_cursor() -> None:
    query = MovieQuery(q="haet", limit=1)
    found: Sequence[tuple[Movie, Position]] = [(movie(4), (11, 4)), (movie(9), (11, 9))]
    for similar in (True, False):
        page = Page.of(found, query, similar=similar)
        assert page.next_cursor is not None
        assert Cursor.decode(page.next_cursor) == query.cursor_after((11, 4), similar=similar)


def test_a_page_is_on_the_wire_as_api_md_shows_it() -> None:
    assert msgspec.json.encode(Page((), None)) == b'{"data":[],"next_cursor":null}'
    assert msgspec.json.encode(Page((), None, 0)) == b'{"data":[],"next_cursor":null,"total":0}'
    query = MovieQuery(limit=1)
    members = msgspec.json.decode(msgspec.json.encode(Page.of(placed(query, movie(1), movie(2)), query)))
    assert set(members) == {"data", "next_cursor"}
    assert isinstance(members["next_cursor"], str)
    assert msgspec.json.encode(GenreCount("Drama", 123)) == b'{"genre":"Drama","movies":123}'
