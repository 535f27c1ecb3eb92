"""Reading CSV and NDJSON: what is understood, and how what is not is named."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from watchly_core.errors import InvalidMovie
from watchly_core.imports import MAX_LINE, Row, read_csv, read_lines, read_ndjson
from watchly_core.movies import MovieDraft, drafted

HEADER = "title,description,release_year,genre\n"


def brief(value: object) -> str:
    """A name for a parameter, however long or odd it is."""
    return ascii(value)[:30]


def csv_rows(text: str, *, ignore_unknown: bool = False) -> list[Row]:
    return list(read_csv(io.StringIO(text, newline=""), ignore_unknown=ignore_unknown))


def csv_members(text: str, *, ignore_unknown: bool = False) -> list[dict[str, Any]]:
    rows = csv_rows(text, ignore_unknown=ignore_unknown)
    assert not any(row.faults for row in rows)
    return [dict(row.members) for row in rows]


def ndjson_rows(content: bytes, *, ignore_unknown: bool = False) -> list[Row]:
    return list(read_ndjson(io.BytesIO(content), ignore_unknown=ignore_unknown))


def header_faults(text: str, *, ignore_unknown: bool = False) -> list[str]:
    with pytest.raises(InvalidMovie) as caught:
        csv_rows(text, ignore_unknown=ignore_unknown)
    for fault in caught.value.faults:
        assert fault.pointer == "#"
        msgspec.json.encode(fault)
    return [fault.code for fault in caught.value.faults]


def summary(rows: list[Row]) -> list[tuple[int, Any]]:
    """Each row's line with its title, or with the code of the one fault that kept it from being read."""
    found: list[tuple[int, Any]] = []
    for row in rows:
        if row.faults:
            (fault,) = row.faults
            assert fault.pointer == "#"
            assert fault.detail
            assert not row.members
            msgspec.json.encode(fault)
            found.append((row.line, fault.code))
        else:
            found.append((row.line, row.members["title"]))
    return found


# CSV.


def test_a_row_of_csv_becomes_members() -> None:
    assert csv_rows(HEADER + "Heat,Cops,1995,Crime\n") == [
        Row(2, {"title": "Heat", "description": "Cops", "release_year": 1995, "genre": "Crime"})
    ]


def test_columns_come_in_any_order_and_some_of_them() -> None:
    assert csv_members("genre,release_year,title\nCrime,1995,Heat\n") == [
        {"genre": "Crime", "release_year": 1995, "title": "Heat"}
    ]
    assert csv_members("title\nHeat\nRonin\n") == [{"title": "Heat"}, {"title": "Ronin"}]


def test_an_empty_field_is_no_value() -> None:
    assert csv_members(HEADER + "Heat,,,\n,,,\n") == [
        {"title": "Heat", "description": None, "release_year": None, "genre": None},
        {"title": None, "description": None, "release_year": None, "genre": None},
    ]


def test_a_quoted_empty_field_is_an_empty_text_where_a_movie_can_have_one() -> None:
    # Many programs put every field in quotes: an empty year or genre of theirs is none.
    (members,) = csv_members(HEADER + '"Heat","","",""\n')
    assert members == {"title": "Heat", "description": "", "release_year": None, "genre": None}
    assert drafted(members) == MovieDraft(title="Heat", description="")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize(
    ("row", "description"),
    [
        (',"",x', ""),
        (",,x", None),
        ('"",,x', None),
        ('"","",x', ""),
        (',"",""', ""),
        (',,""', None),
        (',"",', ""),
        ('"a,"",b",,x', None),
        ('"a,"",b","",x', ""),
        ('"a\n,"""",b",,x', None),
        ('"a\n,"""",b","",x', ""),
        ('a"",,x', None),
        ('a"","",x', ""),
        ('"""",,x', None),
        ('"""","",""""', ""),
        ('"",," """""', None),
        (' ,"","\n,"""",\n"', ""),
        (' ,,"\n,"""",\n"', None),
    ],
)
def test_only_the_quotes_of_the_field_itself_count(row: str, description: str | None, end: str) -> None:
    text = f'title,description,genre\nA,"",x\nB,,""\n{row}{end}'
    found = [members["description"] for members in csv_members(text)]
    assert found == ["", None, description]


def test_the_quotes_of_a_row_do_not_count_for_the_next() -> None:
    text = 'description,title\n"",A\n,B\n"a"b,x\n,C\n\n,D\n"",E\nshort\n,F\n'
    found = [(row.members["title"], row.members["description"]) for row in csv_rows(text) if not row.faults]
    assert found == [("A", ""), ("B", None), ("C", None), ("D", None), ("E", ""), ("F", None)]


def test_an_empty_text_behind_a_byte_order_mark_and_unknown_columns_is_found() -> None:
    text = '\ufeffid,x,description,title\n1,"""",,A\n1,"""","",B\n'
    assert csv_members(text, ignore_unknown=True) == [
        {"title": "A", "description": None},
        {"title": "B", "description": ""},
    ]


def test_a_record_of_many_quotes_is_told_apart_as_well() -> None:
    long = '"' + '""' * 60_000 + '"'
    found = csv_members(f'title,description\n{long},""\n{long},\n')
    assert [members["description"] for members in found] == ["", None]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_every_line_end_is_read(end: str, *, last: bool) -> None:
    text = end.join(["title,genre", "Heat,Crime", "Amélie,Romance"]) + (end if last else "")
    assert csv_members(text) == [
        {"title": "Heat", "genre": "Crime"},
        {"title": "Amélie", "genre": "Romance"},
    ]


@pytest.mark.parametrize("header", ["title,genre", '"title","genre"', '"title",genre', " title , genre "])
def test_a_byte_order_mark_before_the_header_is_no_part_of_it(header: str) -> None:
    assert csv_members(header + "\nHeat,Crime\n") == [{"title": "Heat", "genre": "Crime"}]
    assert csv_members("\ufeff" + header + "\nHeat,Crime\n") == [{"title": "Heat", "genre": "Crime"}]


def test_quotes_commas_and_newlines_survive_in_quoted_fields() -> None:
    text = 'title,description\n"Good, Bad","say ""hi""\r\nthere\n\nend"\n""""," x "\n'
    assert csv_members(text) == [
        {"title": "Good, Bad", "description": 'say "hi"\r\nthere\n\nend'},
        {"title": '"', "description": " x "},
    ]


def test_utf8_titles_of_every_plane() -> None:
    titles = ["Amélie", "七人の侍", "Солярис", "\U0001f3ac", "e\u0301", "a\u2028b\u2029c"]
    assert csv_members("title\n" + "\n".join(titles) + "\n") == [{"title": title} for title in titles]


def test_a_byte_order_mark_elsewhere_belongs_to_the_field() -> None:
    assert csv_members("title\nHeat\n\ufeffRonin\n") == [{"title": "Heat"}, {"title": "\ufeffRonin"}]


def test_lines_are_right_after_quoted_newlines_and_blank_lines() -> None:
    text = 'title,description\nA,\n"B","1\n2\r\n3"\n\nC,\nshort\n"D","x\ny"\nE,\n'
    assert summary(csv_rows(text)) == [(2, "A"), (3, "B"), (7, "C"), (8, "malformed"), (9, "D"), (11, "E")]


def test_lines_are_right_when_the_header_has_quoted_newlines() -> None:
    assert summary(csv_rows('title,"x\ny"\nA,1\n', ignore_unknown=True)) == [(3, "A")]


def test_blank_lines_are_passed_over() -> None:
    assert summary(csv_rows("title,genre\n\nA,x\n\r\n\nB,y\n\n\n")) == [(3, "A"), (6, "B")]


def test_header_only_is_no_movie() -> None:
    assert csv_rows(HEADER) == []
    assert csv_rows("title") == []


@pytest.mark.parametrize("text", ["", "\ufeff", "\n", "\r\n\r\n", "\ufeff\n"])
def test_an_empty_file_has_no_title_column(text: str) -> None:
    assert "missing_column" in header_faults(text)


def test_rows_of_another_length_are_named_by_line_and_lengths() -> None:
    rows = csv_rows("title,genre\nA\nB,x\nC,x,y\n")
    assert summary(rows) == [(2, "malformed"), (3, "B"), (4, "malformed")]
    assert rows[0].faults[0].detail == "has 1 fields where the header has 2"
    assert rows[2].faults[0].detail == "has 3 fields where the header has 2"


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ('"a"b,x\n', 3),
        ('"a" ,x\n', 3),
        ('x,"a"b\n', 3),
        ('"a\nb"c,x\n', 3),
    ],
)
def test_malformed_quoting_is_named_by_line_and_does_not_end_the_import(row: str, line: int) -> None:
    rows = csv_rows(f"title,genre\nA,x\n{row}B,y\n")
    after = 3 + row.count("\n")
    assert summary(rows) == [(2, "A"), (line, "malformed"), (after, "B")]
    assert rows[1].faults[0].detail.startswith("is not CSV")


@pytest.mark.parametrize(
    "text",
    [
        'title,genre\nA,x\n"B,y\nC,z\n',
        'title,genre\nA,x\n"B,y\n' + "C,z\n" * 50_000,
        "title,genre\nA,x\n" + "y" * 1_000_000 + ",x\nB,y\n",
    ],
    ids=["to-the-end", "too-long", "no-quote"],
)
def test_where_the_next_row_starts_is_not_guessed(text: str) -> None:
    rows = read_csv(text.splitlines(keepends=True))
    assert next(rows) == Row(2, {"title": "A", "genre": "x"})
    with pytest.raises(InvalidMovie, match="what starts at line 3 "):
        next(rows)


def test_lines_are_bounded() -> None:
    longest = b"x" * (MAX_LINE - 1) + b"\n"
    assert list(read_lines(io.BytesIO(longest + b"\nend"))) == [longest, b"\n", b"end"]
    lines = read_lines(io.BytesIO(b"a\nx" + longest))
    assert next(lines) == b"a\n"
    with pytest.raises(InvalidMovie, match="what starts at line 2 is longer"):
        next(lines)


@pytest.mark.parametrize("before", [["title\n", "Heat\n"], []], ids=["row", "header"])
def test_a_record_of_many_lines_is_bounded(before: list[str]) -> None:
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        yield from before
        yield '"\n'
        while True:  # a new field on each line, so that none of them is long
            read += 4
            assert read <= MAX_LINE, "more was read than a record may have"
            yield '","\n'

    with pytest.raises(InvalidMovie, match=f"what starts at line {len(before) + 1} is longer"):
        list(read_csv(lines()))


def test_records_of_many_lines_are_counted_one_by_one() -> None:
    lines = 150_000
    record = '"\n' + '","\n' * (lines - 2) + '"\n'
    assert len(record) < MAX_LINE < 2 * len(record)
    rows = csv_rows("title\n" + record * 2 + "Heat\n")
    assert summary(rows) == [(2, "malformed"), (2 + lines, "malformed"), (2 + 2 * lines, "Heat")]


def test_a_lone_surrogate_of_ndjson_is_judged_by_the_movie() -> None:
    (row,) = read_ndjson([b'{"title":"\\ud800"}'])
    assert row == Row(1, {"title": "\ud800"})


@pytest.mark.parametrize(
    "header",
    ['"title', '"title"x', 'title,"genre\nHeat,Crime\n', "title," + "x" * 200_000, '"title" ,genre'],
    ids=brief,
)
def test_a_header_that_is_no_csv_is_refused_as_such(header: str) -> None:
    for ignore_unknown in (True, False):
        assert header_faults(header + "\nHeat,x\n", ignore_unknown=ignore_unknown)


def test_unknown_columns_are_refused_by_name() -> None:
    with pytest.raises(InvalidMovie) as caught:
        csv_rows("title,director,id\nHeat,Mann,7\n")
    assert [fault.code for fault in caught.value.faults] == ["unknown_column", "unknown_column"]
    assert "'director'" in caught.value.faults[0].detail
    assert "'id'" in caught.value.faults[1].detail


@pytest.mark.parametrize(
    "header", ["a," * 450_000 + "\n", f"{'x' * 40_000}," * 22 + "\n"], ids=["many", "long"]
)
def test_of_many_unknown_columns_some_are_told(header: str) -> None:
    with pytest.raises(InvalidMovie) as caught:
        csv_rows(header)
    codes = [fault.code for fault in caught.value.faults]
    assert codes == ["unknown_column"] * 20 + ["missing_column"]
    assert len(str(caught.value)) < 5_000


@pytest.mark.parametrize("name", ["Title", "TITLE", "titel", "", "year", "release year", "image_url"])
def test_a_column_that_only_looks_like_one_is_unknown(name: str) -> None:
    assert header_faults(f"title,{name}\n") == ["unknown_column"]


def test_unknown_columns_may_be_ignored() -> None:
    text = "id,title,director,,director\n7,Heat,Mann,,x\n"
    assert csv_members(text, ignore_unknown=True) == [{"title": "Heat"}]
    assert summary(csv_rows(text + "8,Ronin\n", ignore_unknown=True)) == [(2, "Heat"), (3, "malformed")]


@pytest.mark.parametrize("name", ["title", "description", "release_year", "genre"])
def test_a_repeated_column_is_refused_by_name(name: str) -> None:
    for ignore_unknown in (True, False):
        with pytest.raises(InvalidMovie) as caught:
            csv_rows(f"{HEADER.strip()},{name}\n", ignore_unknown=ignore_unknown)
        (fault,) = caught.value.faults
        assert fault.code == "repeated_column"
        assert repr(name) in fault.detail


def test_every_fault_of_a_header_is_listed_at_once() -> None:
    assert sorted(header_faults("genre,genre,director\n")) == [
        "missing_column",
        "repeated_column",
        "unknown_column",
    ]
    assert header_faults("genre,director\n", ignore_unknown=True) == ["missing_column"]


def test_the_header_is_checked_before_any_row_is_read() -> None:
    def lines() -> Any:
        yield "director\n"
        pytest.fail("a row was read")

    with pytest.raises(InvalidMovie):
        next(iter(read_csv(lines())))


@pytest.mark.parametrize(
    ("text", "year"), [("1999", 1999), ("1999 ", 1999), (" 1999", 1999), ("", None), ("2200", 2200)]
)
def test_a_year_is_plain_digits(text: str, year: int | None) -> None:
    (members,) = csv_members(f"title,release_year\nHeat,{text}\n")
    assert drafted(members) == MovieDraft(title="Heat", release_year=year)
    assert type(members["release_year"]) is type(year)


@pytest.mark.parametrize(
    "text",
    [
        "１９９９",  # noqa: RUF001 - other digits are the point
        "١٩٩٩",
        "1_999",
        "+1999",
        "-1999",
        "1999.0",
        "1999.",
        "1.999e3",
        "0x7CF",
        "19 99",
        "MCMXCIX",
        "true",
        "null",
        "99999",
        "0",
        "1869",
        "2201",
        "²",
        "9" * 10,
        "9" * 5_000,
    ],
    ids=brief,
)
def test_any_other_year_is_refused_by_the_movie_itself(text: str) -> None:
    (members,) = csv_members(f"title,release_year\nHeat,{text}\n")
    with pytest.raises(InvalidMovie) as caught:
        drafted(members)
    assert [fault.pointer for fault in caught.value.faults] == ["#/release_year"]


def test_other_columns_stay_text() -> None:
    (members,) = csv_members(HEADER + "1917,007,2019,1\n")
    assert drafted(members) == MovieDraft(title="1917", description="007", release_year=2019, genre="1")


def test_bytes_that_are_no_utf8_reject_their_row_alone() -> None:
    content = b"title,genre\nHeat,Crime\nCaf\xe9,x\nOk,\xff\nRonin,y\n"
    rows = csv_rows(content.decode("utf-8", errors="surrogateescape"))
    found: list[Any] = []
    for row in rows:
        try:
            found.append(drafted(row.members).title)
        except InvalidMovie as invalid:
            msgspec.json.encode(invalid.faults)
            found.append([(row.line, fault.pointer, fault.code) for fault in invalid.faults])
    assert found == [
        "Heat",
        [(3, "#/title", "forbidden_character")],
        [(4, "#/genre", "forbidden_character")],
        "Ronin",
    ]


def test_bytes_that_are_no_utf8_in_the_header_are_an_unknown_column() -> None:
    text = b"title,genr\xe9\n".decode("utf-8", errors="surrogateescape")
    assert header_faults(text) == ["unknown_column"]


def test_a_nul_or_another_control_character_reaches_the_rules() -> None:
    (members,) = csv_members("title\nHe\x00at\n")
    with pytest.raises(InvalidMovie):
        drafted(members)


# NDJSON.


def test_a_line_of_ndjson_becomes_members() -> None:
    assert ndjson_rows(b'{"title":"Heat","release_year":1995}\n{"title":"Ronin"}') == [
        Row(1, {"title": "Heat", "release_year": 1995}),
        Row(2, {"title": "Ronin"}),
    ]


def test_a_byte_order_mark_before_ndjson_is_no_part_of_it() -> None:
    assert summary(ndjson_rows(b'\xef\xbb\xbf{"title":"Heat"}\r\n{"title":"Ronin"}\r\n')) == [
        (1, "Heat"),
        (2, "Ronin"),
    ]


@pytest.mark.parametrize("first", [b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\r\n", b"\xef\xbb\xbf  \n"])
def test_a_line_that_holds_only_a_byte_order_mark_is_blank(first: bytes) -> None:
    assert ndjson_rows(first[:3]) == []
    assert summary(ndjson_rows(first + b'{"title":"Heat"}\n')) == [(2, "Heat")]


def test_blank_lines_of_ndjson_are_passed_over_and_counted() -> None:
    assert summary(ndjson_rows(b'\n{"title":"A"}\n \t\r\n\n{"title":"B"}\n\n')) == [(2, "A"), (5, "B")]
    assert ndjson_rows(b"") == []
    assert ndjson_rows(b"\n\n") == []


@pytest.mark.parametrize("value", [b"null", b"true", b"7", b'"Heat"', b"[]", b'[{"title":"Heat"}]'])
def test_json_that_is_no_object_is_named_by_line(value: bytes) -> None:
    for ignore_unknown in (True, False):
        rows = ndjson_rows(b'{"title":"A"}\n' + value + b'\n{"title":"B"}\n', ignore_unknown=ignore_unknown)
        assert summary(rows) == [(1, "A"), (2, "wrong_type"), (3, "B")]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"}",
        b'{"title":"Heat"',
        b'{"title":"Heat"}}',
        b'{"title":"Heat"} {"title":"Heat"}',
        b'{"title":"Heat",}',
        b"{'title':'Heat'}",
        b'{title:"Heat"}',
        b'{"title":NaN}',
        b'{"title":"Heat}',
        b'{"title":"He\x00at"}',
        b'{"title":"He\xffat"}',
        b'{"title":"\xed\xa0\x80"}',
        b'{"\xff":1}',
        b"\xff\xfe{\x00}\x00",
        b'{"title":"Heat","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"title,genre",
    ],
    ids=brief,
)
def test_what_is_no_json_is_named_by_line_and_does_not_end_the_import(line: bytes) -> None:
    rows = ndjson_rows(b'{"title":"A"}\n' + line + b'\n{"title":"B"}\n')
    assert summary(rows) == [(1, "A"), (2, "malformed"), (3, "B")]


@pytest.mark.parametrize("year", [b"1" * 30, b"-" + b"1" * 30, b"1999.0", b"1e3", b'"1999"', b"true"])
def test_a_year_of_ndjson_is_judged_by_the_movie(year: bytes) -> None:
    (row,) = ndjson_rows(b'{"title":"Heat","release_year":' + year + b"}")
    assert not row.faults
    with pytest.raises(InvalidMovie) as caught:
        drafted(row.members)
    assert [fault.pointer for fault in caught.value.faults] == ["#/release_year"]


def test_unknown_members_of_ndjson_are_refused_by_the_movie_or_ignored() -> None:
    content = b'{"title":"Heat","director":"Mann","id":7}'
    (row,) = ndjson_rows(content)
    with pytest.raises(InvalidMovie) as caught:
        drafted(row.members)
    assert {fault.pointer for fault in caught.value.faults} == {"#/director", "#/id"}
    (row,) = ndjson_rows(content, ignore_unknown=True)
    assert drafted(row.members) == MovieDraft(title="Heat")
    (row,) = ndjson_rows(b'{"director":"Mann"}', ignore_unknown=True)
    assert row.members == {}
