"""Framing: where requests end, what may stand in their lines, methods and versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.corpus.cases import (
    HEAT,
    MAX_JSON_BYTES,
    MOVIE,
    Case,
    Table,
    chunked,
    framed,
    get,
    last,
    post,
    refused,
    request,
    unended,
)

_LONG: Final = HEAT.ljust(MAX_JSON_BYTES + 1)
_CHUNKED: Final = b"Transfer-Encoding: chunked"
_ALIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
#: What must not be taken for a request of its own.
_HIDDEN: Final = b"GET /api/movies/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
_IN_CHUNKS: Final = b"11\r\n" + HEAT + b"\r\n0\r\n\r\n"

#: Lengths that a Content-Length cannot be.
_NO_LENGTHS: Final = (
    *(b"-1", b"+17", b"0x11", b"1_7", b"17.0", b"1e1", b"\xd9\xa1\xd9\xa7", b"many", b"", b"17 17", b"17;"),
    *(b"17, 18", b"17\x00", b"\x0b17", b"9" * 400),
)
#: Transfer-Encodings that are none that ends with chunks.
_NO_ENCODINGS: Final = (
    *(b"gzip", b"identity", b"chunked, gzip", b"xchunked", b"chunked;q=1", b"\x0bchunked"),
    *(b"chunked\x00", b"\xffchunked", b"", b"'chunked'"),
)
#: Bodies that are not what chunks are.
_NO_CHUNKS: Final = {
    "a size that is none": b"zz\r\n" + HEAT,
    "a size that is huge": b"f" * 40 + b"\r\n" + HEAT,
    "a negative size": b"-1\r\n" + HEAT,
    "a size with a sign": b"+11\r\n" + HEAT + b"\r\n0\r\n\r\n",
    "a size with 0x": b"0x11\r\n" + HEAT + b"\r\n0\r\n\r\n",
    "a size with an underscore": b"1_1\r\n" + HEAT + b"\r\n0\r\n\r\n",
    "no size": b"\r\n" + HEAT + b"\r\n0\r\n\r\n",
    "no end of a chunk": b"11\r\n" + HEAT + b"xx0\r\n\r\n",
    "a chunk that ends with LF": b"11\r\n" + HEAT + b"\n0\r\n\r\n",
    "a size that ends with LF": b"11\n" + HEAT + b"\r\n0\r\n\r\n",
    "a size that ends with CR": b"11\r" + HEAT + b"\r\n0\r\n\r\n",
    "a long extension": b"11;" + b"x" * 50_000 + b"\r\n" + HEAT + b"\r\n0\r\n\r\n",
    "LF in an extension": b"11;x\nx\r\n" + HEAT + b"\r\n0\r\n\r\n",
}


def _lengths() -> Iterator[tuple[str, Case]]:
    """Bodies as long as their heads say, or not."""
    for value in _NO_LENGTHS:
        yield f"Content-Length {value[:30]!r}", refused(framed(b"Content-Length: " + value))
    yield "no Content-Length", last(framed(), 400)
    yield "Content-Length 0", last(framed(b"Content-Length: 0"), 400)
    yield "Content-Length too short", last(framed(b"Content-Length: 5"), 400)
    yield "two equal Content-Lengths", Case(framed(b"Content-Length: 17", b"Content-Length: 17"), 201)
    yield "a list of Content-Lengths", refused(framed(b"Content-Length: 17, 17"))
    yield "two different Content-Lengths", refused(framed(b"Content-Length: 17", b"Content-Length: 18"))
    yield "too long, announced", unended(framed(b"Content-Length: 1000001", body=b""), 413)
    yield (
        "too long, announced beyond numbers",
        unended(framed(b"Content-Length: " + b"9" * 19, body=b""), 413),
    )
    yield "too long, sent", Case(post(_LONG), 413)
    yield "too long, chunked", Case(chunked(_LONG), 413)
    yield "too long, in small chunks", Case(chunked(*[b" " * 1_000] * 1_000, b" "), 413)
    yield "at the limit, chunked", Case(chunked(_LONG[:-1]), 201)
    yield "a body on GET", Case(request("GET", b"/health/live", body=HEAT), 200)
    yield "a body on DELETE", Case(request("DELETE", b"/api/movies/999999", body=HEAT), 404)
    yield "a body on HEAD", Case(request("HEAD", b"/health/live", body=HEAT), 200)
    image = request(
        "PUT",
        b"/api/movies/" + MOVIE + b"/image",
        b"Content-Type: image/png",
        b"Content-Length: 100001",
        length=False,
    )
    yield "an image too long, announced", unended(image, 413)


def _chunks() -> Iterator[tuple[str, Case]]:
    """Bodies in chunks, or not."""
    for value in _NO_ENCODINGS:
        data = framed(b"Transfer-Encoding: " + value, body=_IN_CHUNKS)
        yield f"Transfer-Encoding {value!r}", refused(data)
    for name, body in _NO_CHUNKS.items():
        yield f"chunks: {name}", last(framed(_CHUNKED, body=body), 400)
    yield "chunks of one byte", Case(chunked(*(HEAT[i : i + 1] for i in range(len(HEAT)))), 201)
    yield "an empty body in chunks", Case(chunked(), 400)
    yield "chunk extension", Case(framed(_CHUNKED, body=b"11;x=1\r\n" + HEAT + b"\r\n0\r\n\r\n"), 201)
    yield (
        "leading zeros of a size",
        Case(framed(_CHUNKED, body=b"00011\r\n" + HEAT + b"\r\n000\r\n\r\n"), 201),
    )
    yield "trailers", Case(chunked(HEAT, end=b"0\r\nX-Request-ID: evil\r\nContent-Length: 5\r\n\r\n"), 201)
    yield "trailers that are none", last(chunked(HEAT, end=b"0\r\nbad\r\n\r\n"), 400)
    yield "chunked in capitals", Case(framed(b"Transfer-Encoding: CHUNKED", body=_IN_CHUNKS), 201)
    yield "chunked twice", Case(framed(b"Transfer-Encoding: chunked, chunked", body=_IN_CHUNKS), 201)
    yield "chunked on two lines", Case(framed(_CHUNKED, _CHUNKED, body=_IN_CHUNKS), 201)
    yield "chunks in HTTP/1.0", refused(framed(_CHUNKED, body=_IN_CHUNKS).replace(b"/1.1\r", b"/1.0\r"))


def _smuggled() -> Iterator[tuple[str, Case]]:
    """Requests inside of requests, for whoever reads them in another way."""
    both = (b"Content-Length: 17", _CHUNKED)
    # Taken by its chunks, after which the connection ends, as RFC 9112, section 6.1, has it.
    yield "Content-Length and chunks", last(framed(*both, body=_IN_CHUNKS), 201)
    yield "chunks and Content-Length", last(framed(*reversed(both), body=_IN_CHUNKS), 201)
    hidden = framed(b"Content-Length: 5", _CHUNKED, body=b"0\r\n\r\n" + _HIDDEN)
    yield "a request after the last chunk", last(hidden, 400)
    yield "a request in a GET", Case(request("GET", b"/health/live", body=_HIDDEN), 200)
    spaced = framed(b"Content-Length: 5", b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + _HIDDEN)
    yield "a space before the colon of Transfer-Encoding", refused(spaced)
    folded = framed(b"Content-Length: 5", b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + _HIDDEN)
    yield "a folded Transfer-Encoding", refused(folded)
    tab = framed(b"Content-Length: 5", b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n" + _HIDDEN)
    yield "a tab before chunked", last(tab, 400)
    lone = framed(b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + _HIDDEN)
    yield "a Transfer-Encoding after LF", last(lone, 400)
    yield "a Transfer-Encoding after CR", refused(lone.replace(b"\nTransfer", b"\rTransfer", 1))
    yield "a request in a header", refused(get(b"/health/live", b"X: y\r\n\r" + _HIDDEN))


def _lines() -> Iterator[tuple[str, Case]]:
    """Lines of heads that are none, too long or too many."""
    for name, header in {
        "NUL in a value": b"X-A: a\x00b",
        "CR in a value": b"X-A: a\rb",
        "DEL in a value": b"X-A: a\x7fb",
        "a control character in a value": b"X-A: a\x01b",
        "no name": b": a",
        "no colon": b"header",
        "a space before the colon": b"X-A : a",
        "a space in a name": b"X A: a",
        "a space before a name": b" X-A: a",
        "a byte in a name": b"X-\xff: a",
        "NUL in a name": b"X-\x00: a",
        "brackets in a name": b"X[A]: a",
        "a folded value": b"X-A: a\r\n b",
        "a value folded by a tab": b"X-A: a\r\n\tb",
    }.items():
        yield f"line: {name}", refused(get(b"/health/live", header))
    yield "line: bytes in a value", Case(get(b"/api/movies", b"X-A: \xff\xfe"), 200)
    yield "line: no space after the colon", Case(get(b"/health/live", b"X-A:a"), 200)
    yield "line: an empty value", Case(get(b"/health/live", b"X-A:"), 200)
    yield "line: LF alone ends all of them", Case(_ALIVE.replace(b"\r", b"") + b"\n", 200)
    yield "line: CR alone ends all of them", refused(_ALIVE.replace(b"\n", b"") + b"\r\r\n\r\n")
    yield "line: two empty ones before it", Case(b"\r\n\r\n" + _ALIVE + b"\r\n", 200)
    yield "line: a space before it", refused(b" " + _ALIVE + b"\r\n")
    yield "line: 20 KB", Case(get(b"/health/live", b"X-A: " + b"x" * 20_000), 200)
    yield "line: 1 MB", refused(get(b"/health/live", b"X-A: " + b"x" * 1_000_000), 431)
    yield "line: a long name", refused(get(b"/health/live", b"X" * 1_000_000 + b": a"), 431)
    yield "lines: 90", Case(get(b"/health/live", *(b"X-%d: x" % number for number in range(90))), 200)
    for count in (200, 1_000):
        data = get(b"/health/live", *(b"X-%d: x" % number for number in range(count)))
        yield f"lines: {count}", refused(data, 431)


def _starts() -> Iterator[tuple[str, Case]]:
    """First lines: methods, addresses, versions."""
    for version, case in {
        b"HTTP/1.0": last(b"GET /health/live HTTP/1.0\r\n\r\n", 200),
        b"HTTP/1.2": refused(b"GET /health/live HTTP/1.2\r\nHost: x\r\n\r\n"),
        b"HTTP/2.0": refused(b"GET /health/live HTTP/2.0\r\nHost: x\r\n\r\n"),
        b"HTTP/3.0": refused(b"GET /health/live HTTP/3.0\r\nHost: x\r\n\r\n"),
        b"HTTP/1.10": refused(b"GET /health/live HTTP/1.10\r\nHost: x\r\n\r\n"),
        b"HTTP/01.1": refused(b"GET /health/live HTTP/01.1\r\nHost: x\r\n\r\n"),
        b"HTTP/1": refused(b"GET /health/live HTTP/1\r\nHost: x\r\n\r\n"),
        b"http/1.1": refused(b"GET /health/live http/1.1\r\nHost: x\r\n\r\n"),
        b"HTTQ/1.1": refused(b"GET /health/live HTTQ/1.1\r\nHost: x\r\n\r\n"),
        b"no version, as in HTTP/0.9": refused(b"GET /health/live\r\n\r\n"),
        b"no version, and lines": refused(b"GET /health/live\r\nHost: x\r\n\r\n"),
    }.items():
        yield f"version: {version.decode()}", case
    yield "HTTP/1.0 that stays", Case(b"GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200)
    yield "HTTP/2 preface", Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, closed=True)
    yield "TLS", refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100)
    yield "noise", refused(bytes(range(256)) * 4)
    yield "two spaces after the method", refused(b"GET  /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    yield "a tab after the method", refused(b"GET\t/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    yield "a space in the address", refused(get(b"/api/movies/1 2"))
    yield "NUL in the address", refused(get(b"/api/movies/\x00"))
    yield "no address", refused(get(b""))
    yield "bytes in the address", refused(get(b"/api/movies/\xff"))
    yield "bytes in a query that are no UTF-8", refused(get(b"/api/movies?q=\xff\xfe"))
    yield "bytes in the name of a parameter", refused(get(b"/api/movies?\xff=1"))
    yield "an address of 200 KB", refused(get(b"/health/live?x=" + b"x" * 200_000), 414)
    yield "an address of 70 KB", refused(get(b"/health/live?" + b"x" * 70_000), 414)
    yield "an address of 8 KB", Case(get(b"/api/movies/" + b"9" * 8_000), 404)
    yield "absolute form", Case(get(b"http://x/health/live"), 200)
    yield "absolute form of another host", Case(get(b"http://evil.example/health/live"), 200)
    yield "absolute form of another scheme", Case(get(b"ftp://x/health/live"), 200)
    yield "absolute form without a path", Case(get(b"http://evil.example"), 404)
    yield "relative form", refused(get(b"api/movies"))
    yield "asterisk form", Case(get(b"*"), 404)
    for method, status in {
        "FROB": 405,
        "get": 405,
        "X" * 500: 405,
        "TRACE": 405,
        "PROPFIND": 405,
        "M-SEARCH": 405,
    }.items():
        yield f"method: {method[:20]}", Case(request(method, b"/api/movies"), status)
    yield "method: TRACE of health", Case(request("TRACE", b"/health/live", b"Cookie: a=b"), 405)
    yield "method: with a byte", refused(request("G\u00cbT", b"/api/movies"))
    yield "method: CONNECT", Case(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405)
    yield "method: OPTIONS", Case(request("OPTIONS", b"/api/movies"), 204)
    yield "method: OPTIONS *", Case(request("OPTIONS", b"*"), 404)
    yield "method: OPTIONS of nothing", Case(request("OPTIONS", b"/nope"), 404)
    yield "method: OPTIONS with two Hosts", Case(request("OPTIONS", b"/api/movies", b"Host: y"), 400)


def _hosts() -> Iterator[tuple[str, Case]]:
    yield "Host: none", Case(b"GET /health/live HTTP/1.1\r\n\r\n", 400)
    yield "Host: none, of nothing", Case(b"GET /nope HTTP/1.1\r\n\r\n", 400)
    yield "Host: two, of nothing", Case(get(b"/nope", b"Host: y"), 400)
    yield "Host: none, OPTIONS", Case(b"OPTIONS /api/movies HTTP/1.1\r\n\r\n", 400)
    yield "Host: none, with a movie", Case(framed(b"Content-Length: 17").replace(b"Host: x\r\n", b""), 400)
    yield "Host: two", Case(get(b"/health/live", b"Host: y"), 400)
    yield "Host: two, the same", Case(get(b"/health/live", b"Host: x"), 400)
    for host, status in {
        b"": 400,
        b"a b/c?d@e:f": 400,
        b"\xff\xfe": 400,
        b"x:99999999": 400,
        b"h" * 5_000: 400,
        b"x, y": 400,
        b"user@x": 400,
        b"[::1]": 200,
        b"[::1": 400,
        b"x:80": 200,
    }.items():
        yield f"Host: {host[:20]!r}", Case(request("GET", b"/api/movies", host=host), status)


def _others() -> Iterator[tuple[str, Case]]:
    yield "Expect", Case(post(HEAT, b"application/json", b"Expect: 100-continue"), 201)
    yield "Expect what", Case(post(HEAT, b"application/json", b"Expect: miracles"), 201)
    yield "an upgrade to h2c", Case(get(b"/api/movies", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"), 200)
    socket = (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    upgrade = (b"Upgrade: websocket", b"Connection: Upgrade")
    yield "a web socket", Case(get(b"/api/movies", *upgrade, *socket), 200)
    yield "a request that closes", last(get(b"/health/live", b"Connection: close"), 200)
    yield (
        "a request that both closes and stays",
        last(get(b"/health/live", b"Connection: close, keep-alive"), 200),
    )
    yield "Connection that names what matters", Case(get(b"/api/me", b"Connection: Authorization"), 404)


CASES: Final[Table] = {
    f"{kind}: {name}": case
    for kind, cases in {
        "length": _lengths(),
        "chunks": _chunks(),
        "smuggled": _smuggled(),
        "line": _lines(),
        "start": _starts(),
        "host": _hosts(),
        "other": _others(),
    }.items()
    for name, case in cases
}
