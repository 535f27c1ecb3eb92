"""Bodies: JSON, Content-Types, forms, imports, images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.corpus.cases import HEAT, MAX_JSON_BYTES, MOVIE, PNG, Case, Table, multipart, part, post, request
from tests.hostile import CORPUS as IMAGES

#: JSON bodies, and what a POST of each is answered with.
JSON: Final[Mapping[str, tuple[bytes, int]]] = {
    "nested 100": (b"[" * 100 + b"]" * 100, 422),
    "nested 500 in the title": (b'{"title": ' + b"[" * 500 + b"]" * 500 + b"}", 422),
    "nested 500 objects": (b'{"a":' * 500 + b"1" + b"}" * 500, 422),
    "nested 100,000": (b"[" * 100_000 + b"]" * 100_000, 400),
    "nested 100,000 objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400),
    "nested 100,000 and cut": (b"[" * 100_000, 400),
    "invalid UTF-8": (b'{"title": "\xff\xfe"}', 400),
    "invalid UTF-8 in a name": (b'{"\xff": 1}', 400),
    "overlong UTF-8": (b'{"title": "\xc0\xaf"}', 400),
    "UTF-8 cut": (b'{"title": "\xe2\x82"}', 400),
    "surrogate in UTF-8": (b'{"title": "\xed\xa0\x80"}', 400),
    "lone surrogate": (b'{"title": "\\ud800"}', 422),
    "lone low surrogate": (b'{"title": "\\udc00"}', 422),
    "surrogates swapped": (b'{"title": "\\udc00\\ud800"}', 422),
    "lone surrogate in a name": (b'{"title": "H", "\\ud800": 1}', 422),
    "surrogate pair": (b'{"title": "\\ud83c\\udfac"}', 201),
    "NUL escaped": (b'{"title": "a\\u0000b"}', 422),
    "NUL escaped in a name": (b'{"title": "H", "\\u0000": 1}', 422),
    "NUL raw": (b'{"title": "a\x00b"}', 400),
    "NUL alone": (b"\x00", 400),
    "newline raw": (b'{"title": "a\nb"}', 400),
    "BOM": (b"\xef\xbb\xbf" + HEAT, 400),
    "UTF-16": (HEAT.decode().encode("utf-16"), 400),
    "UTF-32": (HEAT.decode().encode("utf-32-le"), 400),
    "latin-1": ('{"title": "é"}'.encode("latin-1"), 400),
    "NaN": (b'{"title": "H", "release_year": NaN}', 400),
    "Infinity": (b'{"title": "H", "release_year": -Infinity}', 400),
    "1e400": (b'{"title": "H", "release_year": 1e400}', 422),
    "1e3": (b'{"title": "H", "release_year": 1.999e3}', 422),
    "-0": (b'{"title": "H", "release_year": -0}', 422),
    "a hundred digits": (b'{"title": "H", "release_year": ' + b"9" * 100 + b"}", 422),
    "100,000 digits": (b'{"title": "H", "release_year": ' + b"9" * 100_000 + b"}", 422),
    "a long fraction": (b'{"title": "H", "release_year": 0.' + b"9" * 100_000 + b"}", 422),
    "leading zero": (b'{"title": "H", "release_year": 01999}', 400),
    "comment": (b'{"title": "H"} // movie', 400),
    "trailing comma": (b'{"title": "H",}', 400),
    "single quotes": (b"{'title': 'H'}", 400),
    "two values": (HEAT + HEAT, 400),
    "cut": (b'{"title": "Heat', 400),
    "empty": (b"", 400),
    "spaces": (b"   ", 400),
    "bare word": (b"Heat", 400),
    "null": (b"null", 422),
    "a repeated member": (b'{"title": 1, "title": "Heat"}', 201),
    "10,000 members": (b'{"title": "H"' + b"".join(b',"m%d":1' % n for n in range(10_000)) + b"}", 422),
    "a long name": (b'{"title": "H", "' + b"n" * 500_000 + b'": 1}', 422),
    "a long title": (b'{"title": "' + b"t" * 900_000 + b'"}', 422),
    "500,000 line feeds": (b'{"title": "H", "description": "' + b"\\n" * 400_000 + b'"}', 201),
    "at the limit": (HEAT.ljust(MAX_JSON_BYTES), 201),
    "__proto__": (b'{"title": "H", "__proto__": {}, "__class__": 1}', 422),
    "format strings": (b'{"title": "%s%n{0.__class__}${jndi:ldap://x}"}', 201),
    "SQL": (b'{"title": "\'; DROP TABLE movies; --"}', 201),
}

#: Content-Types of a POST of good JSON.
TYPES: Final[Mapping[bytes, int]] = {
    b"": 415,
    b" ": 415,
    b";": 415,
    b"/": 415,
    b"application": 415,
    b"application/": 415,
    b"text/plain": 415,
    b"application/json": 201,
    b"APPLICATION/JSON": 201,
    b"application/json;": 201,
    b"application/json;;;=": 201,
    b"application/json; charset=utf-8": 201,
    b"application/json; charset=klingon": 201,
    b'application/json; charset="': 201,
    b"application/json; charset=utf-16": 201,
    b"application/json\x80": 415,
    b"application/json\xff; charset=\xff": 415,
    b"application/vnd.api+json": 415,
    b"application/merge-patch+json": 415,
    b"application/" + b"j" * 5_000: 415,
    b"application/json, text/plain": 415,
    b"application/x-www-form-urlencoded": 415,
    b"image/png": 415,
}

MULTIPART: Final[Mapping[str, tuple[bytes, int]]] = {
    "a good one": (
        multipart(part(b'name="title"', b"Heat"), part(b'name="image"; filename="a.png"', PNG)),
        201,
    ),
    "no filename": (multipart(part(b'name="image"', PNG, b"Content-Type: image/png")), 422),
    "empty filename": (multipart(part(b'name="image"; filename=""', PNG)), 422),
    "filename* only": (multipart(part(b"name=\"image\"; filename*=UTF-8''a.png", PNG)), 422),
    "filename* broken": (multipart(part(b'name="image"; filename*=klingon\'%ff', PNG)), 422),
    "CRLF in the filename": (multipart(part(b'name="image"; filename="a\r\nX-Evil: 1.png"', PNG)), 422),
    "NUL in the filename": (multipart(part(b'name="image"; filename="a\x00.png"', PNG)), 422),
    "a path as filename": (multipart(part(b'name="image"; filename="../../etc/passwd"', PNG)), 422),
    "two files in one field": (multipart(*[part(b'name="image"; filename="a.png"', PNG)] * 2), 422),
    "bad charset": (
        multipart(part(b'name="title"', b"\xff", b"Content-Type: text/plain; charset=klingon")),
        422,
    ),
    "text only": (multipart(part(b'name="image"', b"text")), 422),
    "1,001 parts": (multipart(*[part(b'name="title"', b"x")] * 1_001), 422),
    "no name": (multipart(part(b"", b"x")), 400),
    "no disposition": (multipart(b"\r\nx"), 400),
    "no boundary": (post(b"--b--\r\n", b"multipart/form-data"), 400),
    "empty boundary": (post(b"--\r\n", b"multipart/form-data; boundary="), 400),
    "long boundary": (post(b"--b--\r\n", b"multipart/form-data; boundary=" + b"b" * 5_000), 400),
    "another boundary": (multipart(part(b'name="title"'), boundary=b"c"), 400),
    "no end": (multipart(part(b'name="title"'), end=b""), 400),
    "no body": (post(b"", b"multipart/form-data; boundary=b"), 400),
    "a large text part": (multipart(part(b'name="title"', b"x" * 500_000)), 422),
    "huge part headers": (multipart(part(b'name="title"', b"x", b"X-Long: " + b"x" * 100_000)), 400),
}

#: Bodies of other requests at a movie: method, place, type, body, status.
_OTHERS: Final[Mapping[str, tuple[str, bytes, bytes, bytes, int]]] = {
    "a revert to nothing": ("POST", b"/revert", b"application/json", b"{}", 422),
    "a revert to a version that is no integer": (
        "POST",
        b"/revert",
        b"application/json",
        b'{"version": "1"}',
        422,
    ),
    "a revert to a version beyond numbers": (
        "POST",
        b"/revert",
        b"application/json",
        b'{"version": 99999999999999999999}',
        422,
    ),
    "a revert to a version that never was": (
        "POST",
        b"/revert",
        b"application/json",
        b'{"version": 4711}',
        422,
    ),
    "a revert to more": ("POST", b"/revert", b"application/json", b'{"version": 1, "x": 1}', 422),
    "a ticket for nothing": ("POST", b"/image/tickets", b"application/json", b"{}", 422),
    "a ticket for less than nothing": (
        "POST",
        b"/image/tickets",
        b"application/json",
        b'{"content_type": "image/png", "bytes": -1}',
        422,
    ),
    "a ticket for too much": (
        "POST",
        b"/image/tickets",
        b"application/json",
        b'{"content_type": "image/png", "bytes": 100001}',
        413,
    ),
    "a ticket for a page": (
        "POST",
        b"/image/tickets",
        b"application/json",
        b'{"content_type": "text/html", "bytes": 9}',
        415,
    ),
    "a completion of no ticket": ("POST", b"/image/tickets/%2e%2e/complete", b"application/json", b"", 404),
    "a patch of another kind": ("PATCH", b"", b"application/json-patch+json", b"[]", 415),
    "a patch of nothing": ("PATCH", b"", b"application/merge-patch+json", b"{}", 200),
    "a patch of the id": ("PATCH", b"", b"application/merge-patch+json", b'{"id": 4711}', 422),
    "a patch of the title to null": ("PATCH", b"", b"application/merge-patch+json", b'{"title": null}', 422),
    "an image of no type": ("PUT", b"/image", b"", PNG, 415),
    "an image of any type": ("PUT", b"/image", b"image/*", PNG, 415),
    "an image with a script as its type": ("PUT", b"/image", b"image/<script>", PNG, 415),
    "an image that is too long": ("PUT", b"/image", b"image/png", PNG.ljust(100_001), 413),
}

#: Bodies of an import, their type, and what becomes of them.
_IMPORTS: Final[Mapping[str, tuple[bytes, bytes, int]]] = {
    "bytes in an import": (b"text/csv", bytes(range(256)), 422),
    "an odd type of an import": (b'text/csv;charset="\xff', b"title", 415),
    "an import in another charset": (b"text/csv; charset=utf-16", "title\nHeat".encode("utf-16"), 415),
    "an import of nothing": (b"application/x-ndjson", b"", 200),
    "an import of NUL": (b"application/x-ndjson", b'{"title": "a\x00b"}\n', 422),
    "an import of a surrogate": (b"application/x-ndjson", b'{"title": "\\ud800"}\n', 422),
    "an import of one long line": (b"application/x-ndjson", b'{"title": "' + b"t" * 3_000_000, 422),
    "an import of deep brackets": (b"application/x-ndjson", b"[" * 100_000 + b"\n", 422),
    "an import with an open quote": (b"text/csv", b'title\n"Heat', 422),
    "an import with too many columns": (b"text/csv", b"title" + b",x" * 10_000 + b"\nHeat\n", 422),
    "an import of line ends": (b"text/csv", b"title\r\rHeat\r\n", 422),
}


def _cases() -> Iterator[tuple[str, Case]]:
    for name, (body, status) in JSON.items():
        yield f"JSON: {name}", Case(post(body), status)
        if status >= 400:  # what is no movie is no change of one either
            for method in ("PUT", "PATCH"):
                data = request(method, b"/api/movies/" + MOVIE, b"Content-Type: application/json", body=body)
                yield f"JSON by {method}: {name}", Case(data, status)
    for media_type, status in TYPES.items():
        yield f"type: {media_type[:40]!r}", Case(post(HEAT, media_type), status)
    for name, (data, status) in MULTIPART.items():
        yield f"multipart: {name}", Case(data, status)
    for name, (method, place, media_type, body, status) in _OTHERS.items():
        data = request(method, b"/api/movies/" + MOVIE + place, b"Content-Type: " + media_type, body=body)
        yield f"body: {name}", Case(data, status)
    for name, (media_type, body, status) in _IMPORTS.items():
        data = request("POST", b"/api/movies/import", b"Content-Type: " + media_type, body=body)
        yield f"import: {name}", Case(data, status)
    for name, image in IMAGES.items():
        kind = b"Content-Type: " + image.media_type.encode()
        (status,) = image.statuses
        data = request("PUT", b"/api/movies/" + MOVIE + b"/image", kind, body=image.content)
        yield f"image: {name}", Case(data, status)


CASES: Final[Table] = dict(_cases())
