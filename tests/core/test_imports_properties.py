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


bare = st.text(st.characters(exclude_characters='",\r\n', exclude_categories=["Cs"]), max_size=4).flatmap(
    lambda start: st.text(
        st.characters(exclude_characters=",\r\n", exclude_categories=["Cs"]), max_size=4
    ).map(lambda rest: start + rest if start else "")
)
#: How a field may be written, with what it says.
fields = bare.map(lambda text: (text, text or None)) | st.text(
    st.sampled_from('",\r\n a') | st.characters(exclude_categories=["Cs"]), max_size=6
).map(lambda text: ('"' + text.replace('"', '""') + '"', text))


@settings(deadline=None)
@given(
    st.lists(st.tuples(fields, fields, fields), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.permutations(["title", "description", "genre"]),
)
def test_csv_tells_an_empty_text_from_none_however_its_fields_are_written(
    written: list[tuple[tuple[str, str | None], ...]], end: str, columns: list[str]
) -> None:
    content = ",".join(columns) + end
    content += "".join(",".join(spelled for spelled, _ in row) + end for row in written)
    expected = []
    for row in written:
        members = {name: said for name, (_, said) in zip(columns, row, strict=True)}
        # Titles and genres cannot be empty.
        expected.append(
            {name: said if name == "description" else said or None for name, said in members.items()}
        )
    rows = list(read_csv(io.StringIO(content, newline="")))
    assert not any(row.faults for row in rows)
    assert [row.members for row in rows] == expected
