"""Reading whatever a file may hold: rows or faults, and never another exception."""

from __future__ import annotations

import contextlib
import io

from hypothesis import example, given, settings
from hypothesis import strategies as st

from watchly_core.errors import InvalidMovie
from watchly_core.imports import Row, read_csv, read_ndjson
from watchly_core.movies import drafted

fragments = st.sampled_from(
    [
        "title",
        "genre",
        "release_year",
        ",",
        ",",
        '"',
        '"',
        "\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "\ufeff",
        "\x00",
        "1999",
        "é",
    ]
) | st.text(st.characters(exclude_categories=()), max_size=3)
contents = st.lists(fragments, max_size=40).map("".join)

json_fragments = st.sampled_from(
    [
        b'{"title":',
        b'"Heat"',
        b"}",
        b"{",
        b"[",
        b"]",
        b",",
        b"1999",
        b"null",
        b"\n",
        b"\r\n",
        b" ",
        b'"',
        b"\xef\xbb\xbf",
    ]
) | st.binary(max_size=3)


def check(rows: list[Row]) -> None:
    assert [row.line for row in rows] == sorted({row.line for row in rows})
    for row in rows:
        assert row.line >= 1
        if row.faults:
            assert not row.members
        else:
            with contextlib.suppress(InvalidMovie):
                drafted(row.members)


@settings(deadline=None)
@given(
    header=st.sampled_from(["", "title\n", "title,genre\n", "\ufefftitle,release_year\r\n"]),
    content=contents,
    ignore_unknown=st.booleans(),
)
@example(header="", content='"title\nHeat', ignore_unknown=False)
@example(header="", content="x" * 200_000, ignore_unknown=True)
def test_csv_gives_rows_or_refuses_its_header(header: str, content: str, ignore_unknown: bool) -> None:
    with contextlib.suppress(InvalidMovie):
        check(list(read_csv(io.StringIO(header + content, newline=""), ignore_unknown=ignore_unknown)))


@settings(deadline=None)
@given(st.lists(json_fragments, max_size=40).map(b"".join), st.booleans())
def test_ndjson_gives_rows(content: bytes, ignore_unknown: bool) -> None:
    check(list(read_ndjson(io.BytesIO(content), ignore_unknown=ignore_unknown)))
