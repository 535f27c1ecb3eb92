"""Addresses: paths, queries, cursors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.corpus.cases import CURSOR, MOVIE, Case, Table, get

#: Targets of a GET, percent-encoded oddly.
TARGETS: Final[Mapping[bytes, int]] = {
    b"/api/movies?q=\xc3\xa9": 200,
    b"/api/movies?q=%": 200,
    b"/api/movies?q=%00%27%22%25_%5C%26%7C%21%28%29%3A%2A": 200,
    b"/api/movies?q=" + b"x" * 10_240: 200,
    b"/api/movies?q=" + b"%F0%9F%98%80" * 1_000: 200,
    b"/api/movies?sort=" + b"id," * 1_000: 400,
    b"/api/genres?genre=%FF": 400,
    b"/api/movies/export?q=%ED%A0%80": 400,
    b"/api/movies/%": 404,
    b"/api/movies/%1": 404,
    b"/api/movies/%zz": 404,
    b"/api/movies/%00": 404,
    b"/api/movies/%ff": 404,
    b"/api/movies/%c0%af": 404,
    b"/api/movies/%ed%a0%80": 404,
    b"/api/movies/%2531": 404,
    b"/api/movies/%D9%A3": 404,
    b"/api/movies/%31%0d%0aX-Evil:%201": 404,
    b"/api/movies/" + b"9" * 8_000: 404,
    b"/api/movies/" + b"/" * 8_000: 404,
    b"/api/movies/": 200,
    b"/api/movies//": 404,
    b"/api//movies": 404,
    b"/api/movies//1": 404,
    b"//metrics": 404,
    b"/%2Fmetrics": 404,
    b"/metrics%2f/": 404,
    b"//health/live": 404,
    b"//": 404,
    b"http://evil.example//metrics": 404,
    b"/" + b"../" * 1_000: 404,
    b"/api/../api/movies": 404,
    b"/api/./movies": 404,
    b"/api/movies;x=1": 404,
    b"/API/movies": 404,
    b"//api/movies": 404,
    b"//evil.example/%2f..": 404,
    b"/images/..%2f..%2fetc%2fpasswd": 404,
    b"/images/../../etc/passwd": 404,
    b"/images/%2e%2e/%2e%2e/etc/passwd": 404,
    b"/images/%00": 404,
    b"/docs/assets/..%2f..%2f__init__.py": 404,
    b"/docs/assets/%2e%2e/%2e%2e/__init__.py": 404,
    b"/docs/assets/%00": 404,
    b"/docs/assets/" + b"x" * 5_000: 404,
    b"/docs/assets/%ff": 404,
    b"/problems/%00": 404,
    b"/problems/%ff": 404,
    b"/problems/__class__": 404,
    b"/api/movies?limit=%": 400,
    b"/api/movies?limit=%00": 400,
    b"/api/movies?limit=%ff": 400,
    b"/api/movies?%ff=%ff": 400,
    b"/api/movies?limit=\xd9\xa3": 400,
    b"/api/movies?cursor=%ED%A0%80": 400,
    b"/api/movies?cursor=" + b"A" * 7_000: 400,
    b"/api/movies?" + b"&" * 5_000: 400,
    b"/api/movies?" + b"x&" * 3_000: 400,
    b"/api/movies?" + b"%" * 3_000: 400,
    b"/api/movies??": 400,
    b"/api/movies?#": 200,
    b"/api/movies#x": 200,
    b"http://evil.example/api/movies": 200,
    b"http://evil.example": 404,
    b"*": 404,
}

#: Queries of a list of movies.
_QUERIES: Final[Mapping[bytes, int]] = {
    **dict.fromkeys((b"limit=0", b"limit=201", b"limit=-1", b"limit=1e2", b"limit=+1", b"limit=1.0"), 400),
    **dict.fromkeys(
        (b"limit=", b"limit=%D9%A3", b"limit=1%00", b"limit=1&limit=1", b"limit=" + b"9" * 5_000), 400
    ),
    b"limit=01": 200,
    b"limit=1": 200,
    **dict.fromkeys((b"sort=", b"sort=id,id", b"sort=--id", b"sort=ID", b"sort=id;drop", b"sort=%00"), 400),
    b"sort=-title,id": 200,
    **dict.fromkeys((b"release_year=1999.0", b"release_year=2147483648", b"release_year=x"), 400),
    b"release_year=-2147483648": 200,
    b"min_release_year=2000&max_release_year=1000": 200,
    **dict.fromkeys((b"nothing=1", b"Limit=1", b"limit[]=1", b"=1", b"q=a&q=b", b"%71=a&q=b"), 400),
    b"q=": 200,
    b"q=%00": 200,
    b"q=" + b"a+" * 2_000: 400,
    b"genre=%00": 400,
    b"genre=": 200,
}

#: Cursors of that list, and the rest of its query.
_CURSORS: Final[Mapping[str, tuple[bytes, int]]] = {
    "a good one": (CURSOR, 200),
    "with another limit": (CURSOR + b"&limit=3", 200),
    "of another query": (CURSOR + b"&q=heat", 400),
    "of another sort": (CURSOR + b"&sort=-id", 400),
    "twice": (CURSOR + b"&cursor=" + CURSOR, 400),
    "with more": (CURSOR + b"A", 400),
    "with padding": (CURSOR + b"%3D", 400),
    "with a line": (CURSOR + b"%0A", 400),
    "with NUL": (CURSOR + b"%00", 400),
    "empty": (b"", 400),
    "null": (b"null", 400),
    "zeros": (b"A" * 32, 400),
    "of another alphabet": (b"%2B%2F" * 16, 400),
    "not ASCII": (b"%C3%A9" * 8, 400),
    "a number": (b"1", 400),
    "JSON": (b"eyJpZCI6MX0", 400),
    "too long": (b"A" * 60_000, 400),
}

#: What stands where the id of a movie does.
_IDS: Final = (
    *(
        b"0",
        b"01",
        b"+1",
        b"-1",
        b"1.0",
        b"1e0",
        b"0x1",
        b"1_0",
        b"%201",
        b"1%20",
        b"1%00",
        b"1%0A",
        b"1,2",
        b"'1'",
    ),
    *(
        b"2147483648",
        b"9223372036854775808",
        b"9" * 400,
        b"%EF%BC%91",
        b"%C2%B2",
        b"null",
        b"NaN",
        b"1;2",
        b"1:1",
    ),
)

#: Other addresses.
_OTHERS: Final[Mapping[bytes, int]] = {
    b"/api/changes?after=-1": 400,
    b"/api/changes?after=9223372036854775808": 400,
    b"/api/changes?after=" + b"9" * 5_000: 400,
    b"/api/changes?after=9223372036854775807": 200,
    b"/api/changes?movie_id=0": 400,
    b"/api/changes?kind=movie_added,": 400,
    b"/api/changes?kind=" + b"movie_added," * 1_000: 400,
    b"/api/changes/stream?after=x": 400,
    b"/api/changes/stream?cursor=1": 400,
    b"/api/movies/" + MOVIE + b"/history?cursor=" + CURSOR: 400,
    b"/api/movies/" + MOVIE + b"/history?cursor=A": 400,
    b"/api/movies/" + MOVIE + b"/history?limit=0": 400,
    b"/api/movies/" + MOVIE + b"/": 200,
    b"/api/movies/" + MOVIE + b"?": 200,
    b"/api/movies/" + MOVIE + b"?x=1": 200,
    b"/api/movies/" + MOVIE + b"/nothing": 404,
    b"/api/users?cursor=" + CURSOR: 403,
    b"/images/@IMAGE@?variant=huge": 400,
    b"/images/@IMAGE@?variant=card&variant=card": 400,
    b"/images/@IMAGE@%00": 404,
    b"/images/@IMAGE@.png": 404,
    b"/images/@IMAGE@/..": 404,
    b"/images/@IMAGE@": 200,
}


def _cases() -> Iterator[tuple[str, Case]]:
    for target, status in TARGETS.items():
        yield f"target: {target[:40]!r} ({len(target)})", Case(get(target), status)
    for query, status in _QUERIES.items():
        yield f"query: {query[:40]!r} ({len(query)})", Case(get(b"/api/movies?" + query), status)
    for name, (cursor, status) in _CURSORS.items():
        yield f"cursor: {name}", Case(get(b"/api/movies?cursor=" + cursor), status)
    for text in _IDS:
        yield f"id: {text[:40]!r} ({len(text)})", Case(get(b"/api/movies/" + text), 404)
    for target, status in _OTHERS.items():
        yield f"address: {target[:60]!r}", Case(get(target), status)


CASES: Final[Table] = dict(_cases())
