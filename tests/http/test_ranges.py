"""Range, If-Range and Content-Range, read."""

from __future__ import annotations

import pytest

from watchly_http.ranges import RangeNotSatisfiable, applies, content_range, requested
from watchly_http.requests import MalformedRequest


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-99", range(100)),
        ("bytes=100-", range(100, 5_000)),
        ("bytes=-100", range(4_900, 5_000)),
        ("bytes=0-0", range(1)),
        ("bytes=4999-", range(4_999, 5_000)),
        ("bytes=007-008", range(7, 9)),
        ("BYTES=0-99", range(100)),
        # What is past the end is not asked for.
        ("bytes=4000-5000", range(4_000, 5_000)),
        ("bytes=0-4999", range(5_000)),
        ("bytes=0-" + "9" * 99, range(5_000)),
        ("bytes=-5000", range(5_000)),
        ("bytes=-5001", range(5_000)),
        ("bytes=-" + "9" * 99, range(5_000)),
    ],
)
def test_one_range_is_given(header: str, found: range) -> None:
    assert requested(header, 5_000) == found


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--5",
        "bytes=5-4",
        "bytes=9000-8000",
        "bytes=1",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1_0-20",
        "bytes=\u0661-\u0662",
        "bytes=0x0-0x9",
        "bytes =0-99",
        "bytes=0 - 99",
        "bytes=0-99,",
        "bytes=0-1,5-6",
        "bytes=0-1, 9000-",
        "bytes=0-99, bytes=0-99",
        "bytes=0-99\n",
        "seconds=0-99",
        "0-99",
        pytest.param("bytes=0-" + "9" * 5_000, id="thousands of digits"),
    ],
)
def test_anything_else_asks_for_all_of_it(header: str | None) -> None:
    assert requested(header, 5_000) is None


@pytest.mark.parametrize("header", ["bytes=5000-", "bytes=5000-6000", "bytes=-0", "bytes=" + "9" * 99 + "-"])
def test_a_range_of_nothing_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        requested(header, 5_000)
    assert raised.value.size == 5_000


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_file_has_no_range(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        requested(header, 0)


@pytest.mark.parametrize(
    ("if_range", "etag", "counts"),
    [
        (None, '"a"', True),
        ('"a"', '"a"', True),
        (' "a" ', '"a"', True),
        ('"b"', '"a"', False),
        ('W/"a"', '"a"', False),
        ('"a"', 'W/"a"', False),
        ('W/"a"', 'W/"a"', False),
        ('"a", "b"', '"a"', False),
        ("a", '"a"', False),
        ("*", '"a"', False),
        ("", '"a"', False),
        ("Sat, 29 Oct 1994 19:43:31 GMT", '"a"', False),
    ],
)
def test_a_range_counts_where_the_client_has_a_part_of_the_same_bytes(
    if_range: str | None, etag: str, *, counts: bool
) -> None:
    assert applies(if_range, etag) == counts


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes 0-999/5000", (range(1_000), 5_000)),
        ("bytes 4999-4999/5000", (range(4_999, 5_000), 5_000)),
        ("bytes 0-0/1", (range(1), 1)),
        ("Bytes 0-4999/5000", (range(5_000), 5_000)),
        (" bytes 0-4999/5000 ", (range(5_000), 5_000)),
    ],
)
def test_a_content_range_says_which_bytes_come(header: str, found: tuple[range, int]) -> None:
    assert content_range(header) == found


@pytest.mark.parametrize("total", [0, 5_000, 10**18 - 1])
def test_a_content_range_of_nothing_asks_how_much_is_there(total: int) -> None:
    piece, found = content_range(f"bytes */{total}")
    assert not piece
    assert found == total


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes */*",
        "bytes 0-999/*",
        "bytes 0-999",
        "bytes 0-/5000",
        "bytes -999/5000",
        "bytes 999-0/5000",
        "bytes 0-5000/5000",
        "bytes 5000-5000/5000",
        "bytes 0-0/0",
        "bytes=0-999/5000",
        "bytes  0-999/5000",
        "bytes 0 - 999/5000",
        "bytes +0-999/5000",
        "bytes 0-\u0669/5000",
        "bytes 0-999/5000, bytes 0-999/5000",
        "bytes 0-999/5000\nx",
        "items 0-999/5000",
        "bytes 0-999/" + "9" * 19,
        pytest.param("bytes 0-" + "9" * 5_000 + "/" + "9" * 5_001, id="thousands of digits"),
    ],
)
def test_any_other_content_range_is_refused(header: str) -> None:
    with pytest.raises(MalformedRequest):
        content_range(header)
