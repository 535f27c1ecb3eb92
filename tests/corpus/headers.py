"""Headers: conditions, ranges, keys, preferences, positions, and what claims to say who sends a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.corpus.cases import EDITOR, HEAT, MOVIE, TYPE, Case, Table, get, post, refused, request
from tests.http import forging

_BEARER: Final = b"Bearer " + EDITOR
_ONE: Final = b"/api/movies/" + MOVIE
_KEY: Final = b"Idempotency-Key: "

#: Values of Idempotency-Key.
_KEYS: Final[Mapping[str, tuple[bytes, int]]] = {
    "a good one": (b"!" + b"~" * 254, 201),
    "once more": (b"!" + b"~" * 254, 201),
    "empty": (b"", 400),
    "a space": (b"a b", 400),
    "a tab": (b"a\tb", 400),
    "256 characters": (b"k" * 256, 400),
    "UTF-8": ("schlüssel".encode(), 400),
    "bytes": (b"\x80\xff", 400),
    "two lines": (b"a\r\nIdempotency-Key: b", 400),
    "two lines, the same": (b"a\r\nIdempotency-Key: a", 400),
}

#: Headers of a GET of a movie.
_OF_ONE: Final[Mapping[bytes, int]] = {
    b'If-None-Match: "v1"': 304,
    b'If-None-Match: W/"v1"': 304,
    b"If-None-Match: *": 304,
    b'If-None-Match: , ,"v0", "v1",': 304,
    b'If-None-Match: "v1': 200,
    b"If-None-Match: v1": 200,
    b"If-None-Match: \xff": 200,
    b'If-None-Match: w/"v1"': 200,
    b'If-None-Match: "v1""v1"': 200,
    b"If-None-Match: " + b'"x",' * 5_000: 200,
    b"If-Match: \xff": 200,
    b"If-Modified-Since: never": 200,
    b"Range: bytes=0-1": 200,
    b"Watchly-Position: x": 400,
    b"Watchly-Position: ": 400,
    b"Watchly-Position: 0/0-": 400,
    b"Watchly-Position: FFFFFFFF/FFFFFFFF-000000000": 200,
    b"Watchly-Position: " + b"9" * 5_000: 400,
    b"X-Request-ID: a b": 200,
    b"X-Request-ID: " + b"a" * 129: 200,
    b"X-Request-ID: \xff": 200,
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01": 200,
    b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01": 200,
    b"traceparent: ff-x": 200,
    b"traceparent: \xff" + b"-" * 5_000: 200,
    b"X-Forwarded-For: \xff, 999.1.1.1, [::": 200,
    b"X-HTTP-Method-Override: DELETE": 200,
    b"Cookie: watchly_refresh=\x80\xff; =; ;;": 200,
    b"Cookie: " + b"a=b; " * 1_000: 200,
    b"Accept: \xff": 200,
    b"Accept-Encoding: gzip;q=\xff, *;q=0": 200,
    b"Origin: \xff\x80": 200,
    b"Origin: null": 200,
    b"Connection: close, \xff": 200,
}

#: Headers of a PUT of a movie that never was at the version 4711.
_OF_WRITES: Final[Mapping[bytes, int]] = {
    b'If-Match: "v4711"': 412,
    b'If-Match: "v4711", "x"': 412,
    b'If-Match: W/"v1"': 412,
    b'If-Match: "v01"': 412,
    b'If-Match: "v' + b"9" * 400 + b'"': 412,
    b"If-Match: v1": 400,
    b'If-Match: "v1': 400,
    b"If-Match: ": 400,
    b"If-Match: \xff": 400,
    b'If-Match: "v1" "v2"': 400,
    b'If-Match: *, "v1"': 400,
    b"If-None-Match: *": 412,
    b"If-None-Match: v1": 400,
    b"If-Match: " + b'"x",' * 5_000: 412,
}

#: Ranges of an image.
_RANGES: Final[Mapping[bytes, int]] = {
    b"bytes=0-9": 206,
    b"bytes=-1": 206,
    b"bytes=0-": 206,
    b"bytes=0-" + b"9" * 18: 206,
    b"bytes=99999-": 416,
    b"bytes=-0": 416,
    b"bytes=9-1": 200,
    b"bytes=": 200,
    b"bytes=-": 200,
    b"bytes=x-y": 200,
    b"bytes=0x0-0x9": 200,
    b"bytes=\xd9\xa0-": 200,
    b"bytes=0-1,3-4": 200,
    b"bytes=" + b"0-0," * 5_000: 200,
    b"bytes=" + b"9" * 5_000 + b"-": 200,
    b"lines=0-1": 200,
    b"\xff": 200,
}

#: Requests to other addresses, with their headers.
_OTHERS: Final[Mapping[str, tuple[bytes, int]]] = {
    "Accept of an export: nothing": (get(b"/api/movies/export", b"Accept: text/csv;q=0"), 406),
    "Accept of an export: odd": (
        get(b"/api/movies/export", b'Accept: ;;q=,/,"\xff,*/*;q=nan', b"Accept: text/csv;q=" + b"9" * 5_000),
        406,
    ),
    "Accept of an export: many": (get(b"/api/movies/export", b"Accept: " + b"a/b," * 5_000), 406),
    "Accept of an export: empty": (get(b"/api/movies/export", b"Accept: "), 200),
    "Accept of a list": (get(b"/api/movies", b"Accept: ;;q=,/,*/*;q=nan", b"Accept-Language: *;q=9"), 200),
    "Prefer": (get(b"/api/movies", b'Prefer: ;=,"\xff, count="\\', b"Prefer: count=exact"), 200),
    "Prefer, long": (get(b"/api/movies", b"Prefer: " + b'count="exact' * 2_000), 200),
    "Last-Event-ID: word": (get(b"/api/changes/stream", b"Last-Event-ID: x"), 400),
    "Last-Event-ID: empty": (get(b"/api/changes/stream", b"Last-Event-ID: "), 400),
    "Last-Event-ID: negative": (get(b"/api/changes/stream", b"Last-Event-ID: -1"), 400),
    "Last-Event-ID: too large": (get(b"/api/changes/stream", b"Last-Event-ID: " + b"9" * 400), 400),
    "Last-Event-ID: other digits": (get(b"/api/changes/stream", b"Last-Event-ID: \xd9\xa3"), 400),
    "Last-Event-ID: two": (get(b"/api/changes/stream", b"Last-Event-ID: 1", b"Last-Event-ID: 2"), 400),
    "Content-Range that is none": (
        request("PUT", b"/images/" + b"0" * 32, b"Content-Range: bytes 9-1/\xff", body=HEAT),
        400,
    ),
    "Content-Encoding": (post(b"\x1f\x8b\x08", b"application/json", b"Content-Encoding: gzip"), 415),
    "Content-Encoding by other names": (
        post(HEAT, b"application/json", b"Content-Encoding: X-GZIP, identity"),
        415,
    ),
    "Content-Encoding identity": (post(HEAT, b"application/json", b"Content-Encoding: Identity"), 201),
    "no Content-Type": (request("POST", b"/api/movies", body=HEAT), 415),
    "two Content-Types": (post(HEAT, b"application/json", b"Content-Type: text/plain"), 201),
}


def _cases() -> Iterator[tuple[str, Case]]:
    for name, (value, status) in _KEYS.items():
        yield f"Idempotency-Key: {name}", Case(post(HEAT, b"application/json", _KEY + value), status)
    for header, status in _OF_ONE.items():
        yield f"header: {header[:60]!r} ({len(header)})", Case(get(_ONE, header), status)
    for header, status in _OF_WRITES.items():
        data = request("PUT", _ONE, TYPE, header, body=HEAT)
        yield f"condition: {header[:60]!r} ({len(header)})", Case(data, status)
    for value, status in _RANGES.items():
        data = get(b"/images/@IMAGE@", b"Range: " + value)
        yield f"range: {value[:40]!r} ({len(value)})", Case(data, status)
    for name, (data, status) in _OTHERS.items():
        yield f"headers: {name}", Case(data, status)
    odd = {"NUL inside": b"Bearer a\0b", "NUL before": b"Bearer \0" + EDITOR, "NUL behind": _BEARER + b"\0"}
    for name, value in {**odd, "folded": _BEARER + b"\r\n x"}.items():
        yield f"token: {name}", refused(get(b"/api/movies", b"Authorization: " + value))
    for name, values in forging.headers(EDITOR.decode()).items():
        lines = [b"Authorization: " + value for value in values]
        for method in ("GET", "HEAD", "OPTIONS"):
            yield f"token, {method}: {name}", Case(request(method, b"/api/movies", *lines, bearer=None), 401)


CASES: Final[Table] = dict(_cases())
