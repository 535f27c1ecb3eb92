"""Bytes that no client library sends, against a real server: none of them gives a 5xx or ends it."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import pytest

from watchly_adapters.container import Container
from watchly_adapters.settings import read_settings
from watchly_adapters.testing import samples
from watchly_core import Page
from watchly_http import logs
from watchly_http.app import create_app
from watchly_http.problems import KINDS, Problem
from watchly_http.server import serve

PATIENCE: Final = 60.0
"""Seconds for anything that is to happen; far more than it takes."""

MAX_JSON_BYTES: Final = 1_000_000
PNG: Final = samples.UPRIGHT["png"]


def announce(url: str) -> None:
    os.write(1, f"{url}\n".encode())


def main() -> int:
    settings = read_settings(os.environ)
    logs.configure(settings)
    return serve(
        lambda: create_app(Container(settings=settings)),
        host="127.0.0.1",
        port=0,
        workers=1,
        drain_timeout=settings.drain_timeout.total_seconds(),
        on_listening=announce,
    )


if __name__ == "__main__":
    sys.exit(main())


# ---- the server ----


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where the service listens; at the end it has logged no fault of its own and stops cleanly."""
    with running(tmp_path_factory.mktemp("bytes"), DRAIN_TIMEOUT="5") as (address, process):
        yield address
        process.terminate()


@contextmanager
def running(home: Path, **variables: str) -> Iterator[tuple[tuple[str, int], subprocess.Popen[bytes]]]:
    """A service and its log, `home/log`; the block has it end by a signal."""
    from tests.canaries import secrets_in  # noqa: PLC0415 - the service is this file, run by itself

    environment = {
        **os.environ,
        "DATABASE_URL": "memory:",
        "IMAGE_STORE_URL": "memory:",
        "WATCHLY_HOME": str(home),
        "AUTH": "off",
        "SECRET_KEY": secrets.token_hex(32),
        "MAX_JSON_BYTES": str(MAX_JSON_BYTES),
        "MAX_IMAGE_BYTES": "100000",
        **variables,
    }
    log = home / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, __file__], env=environment, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip().removeprefix("http://")
        assert address, log.read_text()
        host, _, port = address.rpartition(":")
        try:
            yield (host, int(port)), process
            assert process.wait(PATIENCE) == 0, log.read_text()
        finally:
            process.kill()
    text = log.read_text(errors="replace")
    assert not secrets_in(text)
    _, fault, rest = text.partition("unhandled error")
    assert not fault, rest[:3_000]
    _, trace, rest = text.partition("Traceback")
    assert not trace, rest[:3_000]


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes


def exchange(server: tuple[str, int], data: bytes, *, leave: bool = False) -> Answer | None:
    """What the server answers to `data`; None if it says nothing. `leave` hangs up after sending."""
    with socket.create_connection(server, timeout=PATIENCE) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered and hung up already
            connection.sendall(data)
        if leave:
            return None
        response = http.client.HTTPResponse(connection, method=data.partition(b" ")[0].decode("latin-1"))
        try:
            response.begin()
            body = response.read()
        except (http.client.BadStatusLine, ConnectionResetError):
            return None
        finally:
            response.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def alive(server: tuple[str, int]) -> bool:
    answer = exchange(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return answer is not None and answer.status == 200


# ---- the corpus ----


def request(
    method: str, target: bytes, *headers: bytes, body: bytes = b"", length: bool = True, host: bytes = b"x"
) -> bytes:
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *headers]
    if length and body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def post(body: bytes, media_type: bytes = b"application/json", *headers: bytes) -> bytes:
    return request("POST", b"/api/movies", b"Content-Type: " + media_type, *headers, body=body)


def get(target: bytes, *headers: bytes) -> bytes:
    return request("GET", target, *headers)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    head = (b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    return request("POST", b"/api/movies", *head, body=body, length=False)


def multipart(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--b--\r\n") -> bytes:
    return post(
        b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end,
        b"multipart/form-data; boundary=" + boundary,
    )


def part(disposition: bytes, content: bytes = b"x", *headers: bytes) -> bytes:
    return b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *headers, b"", content])


HEAT: Final = b'{"title": "Heat"}'
LONG: Final = b'{"title": "Heat"}'.ljust(MAX_JSON_BYTES + 1)

#: JSON bodies, and what a POST of each is answered with.
JSON: Final[dict[str, tuple[bytes, set[int]]]] = {
    "nested 100": (b"[" * 100 + b"]" * 100, {422}),
    # Where the interpreter stops depends on its version.
    "nested 1,000": (b"[" * 1_000 + b"]" * 1_000, {400, 422}),
    "nested 1,000 in the title": (b'{"title": ' + b"[" * 1_000 + b"]" * 1_000 + b"}", {400, 422}),
    "nested 1,000 objects": (b'{"a":' * 1_000 + b"1" + b"}" * 1_000, {400, 422}),
    "nested 100,000": (b"[" * 100_000 + b"]" * 100_000, {400}),
    "nested 100,000 objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {400}),
    "nested 100,000 and cut": (b"[" * 100_000, {400}),
    "invalid UTF-8": (b'{"title": "\xff\xfe"}', {400}),
    "invalid UTF-8 in a name": (b'{"\xff": 1}', {400}),
    "overlong UTF-8": (b'{"title": "\xc0\xaf"}', {400}),
    "UTF-8 cut": (b'{"title": "\xe2\x82"}', {400}),
    "surrogate in UTF-8": (b'{"title": "\xed\xa0\x80"}', {400}),
    "lone surrogate": (b'{"title": "\\ud800"}', {422}),
    "lone low surrogate": (b'{"title": "\\udc00"}', {422}),
    "surrogates swapped": (b'{"title": "\\udc00\\ud800"}', {422}),
    "lone surrogate in a name": (b'{"title": "H", "\\ud800": 1}', {422}),
    "surrogate pair": (b'{"title": "\\ud83c\\udfac"}', {201}),
    "NUL escaped": (b'{"title": "a\\u0000b"}', {422}),
    "NUL escaped in a name": (b'{"title": "H", "\\u0000": 1}', {422}),
    "NUL raw": (b'{"title": "a\x00b"}', {400}),
    "NUL alone": (b"\x00", {400}),
    "newline raw": (b'{"title": "a\nb"}', {400}),
    "BOM": (b"\xef\xbb\xbf" + HEAT, {400}),
    "UTF-16": (HEAT.decode().encode("utf-16"), {400}),
    "UTF-32": (HEAT.decode().encode("utf-32-le"), {400}),
    "latin-1": ('{"title": "é"}'.encode("latin-1"), {400}),
    "NaN": (b'{"title": "H", "release_year": NaN}', {400}),
    "Infinity": (b'{"title": "H", "release_year": -Infinity}', {400}),
    "1e400": (b'{"title": "H", "release_year": 1e400}', {422}),
    "1e3": (b'{"title": "H", "release_year": 1.999e3}', {422}),
    "-0": (b'{"title": "H", "release_year": -0}', {422}),
    "a hundred digits": (b'{"title": "H", "release_year": ' + b"9" * 100 + b"}", {422}),
    "100,000 digits": (b'{"title": "H", "release_year": ' + b"9" * 100_000 + b"}", {400, 422}),
    "a long fraction": (b'{"title": "H", "release_year": 0.' + b"9" * 100_000 + b"}", {400, 422}),
    "leading zero": (b'{"title": "H", "release_year": 01999}', {400}),
    "comment": (b'{"title": "H"} // movie', {400}),
    "trailing comma": (b'{"title": "H",}', {400}),
    "single quotes": (b"{'title': 'H'}", {400}),
    "two values": (HEAT + HEAT, {400}),
    "cut": (b'{"title": "Heat', {400}),
    "empty": (b"", {400}),
    "spaces": (b"   ", {400}),
    "bare word": (b"Heat", {400}),
    "null": (b"null", {422}),
    "a repeated member": (b'{"title": 1, "title": "Heat"}', {201, 400, 422}),
    "10,000 members": (b'{"title": "H"' + b"".join(b',"m%d":1' % n for n in range(10_000)) + b"}", {422}),
    "a long name": (b'{"title": "H", "' + b"n" * 500_000 + b'": 1}', {422}),
    "a long title": (b'{"title": "' + b"t" * 900_000 + b'"}', {422}),
    "500,000 line feeds": (b'{"title": "H", "description": "' + b"\\n" * 400_000 + b'"}', {201}),
    "at the limit": (HEAT.ljust(MAX_JSON_BYTES), {201}),
    "__proto__": (b'{"title": "H", "__proto__": {}, "__class__": 1}', {422}),
    "format strings": (b'{"title": "%s%n{0.__class__}${jndi:ldap://x}"}', {201}),
    "SQL": (b'{"title": "\'; DROP TABLE movies; --"}', {201}),
}

#: Content-Types of a POST of good JSON.
TYPES: Final[dict[bytes, set[int]]] = {
    b"": {415},
    b" ": {415},
    b";": {415},
    b"/": {415},
    b"application": {415},
    b"application/": {415},
    b"text/plain": {415},
    b"application/json": {201},
    b"APPLICATION/JSON": {201},
    b"application/json;": {201},
    b"application/json;;;=": {201},
    b"application/json; charset=utf-8": {201},
    b"application/json; charset=klingon": {201, 415},
    b'application/json; charset="': {201, 415},
    b"application/json; charset=utf-16": {201, 415},
    b"application/json\x80": {415},
    b"application/json\xff; charset=\xff": {415},
    b"application/vnd.api+json": {415},
    b"application/merge-patch+json": {415},
    b"application/" + b"j" * 5_000: {415},
    b"application/json, text/plain": {415},
    b"application/x-www-form-urlencoded": {415},
    b"image/png": {415},
}

MULTIPART: Final[dict[str, tuple[bytes, int]]] = {
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

#: Targets of a GET, percent-encoded oddly.
TARGETS: Final[dict[bytes, set[int]]] = {
    b"/api/movies?q=\xff\xfe": {400},
    b"/api/movies?q=\xc3\xa9": {200, 400},
    b"/api/movies?q=%": {200},
    b"/api/movies?q=%00%27%22%25_%5C%26%7C%21%28%29%3A%2A": {200},
    b"/api/movies?q=" + b"x" * 10_240: {200},
    b"/api/movies?q=" + b"%F0%9F%98%80" * 1_000: {200},
    b"/api/movies?sort=" + b"id," * 1_000: {400},
    b"/api/genres?genre=%FF": {400},
    b"/api/movies/export?q=%ED%A0%80": {400},
    b"/api/movies/%": {400, 404},
    b"/api/movies/%1": {400, 404},
    b"/api/movies/%zz": {400, 404},
    b"/api/movies/%00": {404},
    b"/api/movies/%ff": {400, 404},
    b"/api/movies/%c0%af": {400, 404},
    b"/api/movies/%ed%a0%80": {400, 404},
    b"/api/movies/%2531": {404},
    b"/api/movies/%D9%A3": {404},
    b"/api/movies/%31%0d%0aX-Evil:%201": {404},
    b"/api/movies/\xff": {400, 404},
    b"/api/movies/1 2": {400},
    b"/api/movies/" + b"9" * 8_000: {404, 414},
    b"/api/movies/" + b"/" * 8_000: {200, 404, 414},
    b"/" + b"../" * 1_000: {400, 404},
    b"/api/../api/movies": {404},
    b"/api/./movies": {404},
    b"/api/movies;x=1": {404},
    b"/API/movies": {404},
    b"//api/movies": {200, 404},
    b"//evil.example/%2f..": {404},
    b"/images/..%2f..%2fetc%2fpasswd": {404},
    b"/images/../../etc/passwd": {404},
    b"/images/%2e%2e/%2e%2e/etc/passwd": {404},
    b"/images/%00": {404},
    b"/docs/assets/..%2f..%2f__init__.py": {404},
    b"/docs/assets/%2e%2e/%2e%2e/__init__.py": {404},
    b"/docs/assets/%00": {404},
    b"/docs/assets/" + b"x" * 5_000: {404},
    b"/docs/assets/%ff": {404},
    b"/problems/%00": {404},
    b"/problems/%ff": {400, 404},
    b"/problems/__class__": {404},
    b"/api/movies?limit=%": {400},
    b"/api/movies?limit=%00": {400},
    b"/api/movies?limit=%ff": {400},
    b"/api/movies?%ff=%ff": {400},
    b"/api/movies?\xff=1": {400},
    b"/api/movies?limit=\xd9\xa3": {400},
    b"/api/movies?cursor=%ED%A0%80": {400},
    b"/api/movies?cursor=" + b"A" * 7_000: {400},
    b"/api/movies?" + b"&" * 5_000: {200, 400},
    b"/api/movies?" + b"x&" * 3_000: {400},
    b"/api/movies?" + b"%" * 3_000: {400},
    b"/api/movies??": {400},
    b"/api/movies?#": {200, 400},
    b"/api/movies#x": {200, 400, 404},
    b"http://evil.example/api/movies": {200},
    b"http://evil.example": {200, 400, 404},
    b"api/movies": {400, 404},
    b"*": {400, 404},
    b"": {400},
    b"/health/live?x=" + b"x" * 200_000: {200, 400, 414, 431},
}

_TYPE: Final = b"Content-Type: application/json"


def _framed(*headers: bytes, body: bytes = HEAT) -> bytes:
    return request("POST", b"/api/movies", _TYPE, *headers, body=body, length=False)


#: Requests with odd framing, headers and methods. 0 stands for a connection closed without an answer.
FRAMES: Final[dict[str, tuple[bytes, set[int]]]] = {
    "too long, announced": (_framed(b"Content-Length: 1000001", body=b""), {413}),
    "too long, announced beyond numbers": (_framed(b"Content-Length: " + b"9" * 19, body=b""), {400, 413}),
    "too long, announced far beyond": (_framed(b"Content-Length: " + b"9" * 400, body=b""), {400, 413}),
    "too long, sent": (post(LONG), {413}),
    "too long, chunked": (chunked(LONG), {413}),
    "too long, in small chunks": (chunked(*[b" " * 1_000] * 1_000, b" "), {413}),
    "at the limit, chunked": (chunked(LONG[:-1]), {201}),
    "an image too long, announced": (
        request(
            "PUT",
            b"/api/movies/999/image",
            b"Content-Type: image/png",
            b"Content-Length: 100001",
            length=False,
        ),
        {404, 413},
    ),
    "chunks of one byte": (chunked(*(HEAT[i : i + 1] for i in range(len(HEAT)))), {201}),
    "chunk extension": (
        _framed(b"Transfer-Encoding: chunked", body=b"11;x=1\r\n" + HEAT + b"\r\n0\r\n\r\n"),
        {201, 400},
    ),
    "trailers": (chunked(HEAT, end=b"0\r\nX-Request-ID: evil\r\n\r\n"), {201, 400}),
    "bad chunk size": (_framed(b"Transfer-Encoding: chunked", body=b"zz\r\n" + HEAT), {0, 400}),
    "huge chunk size": (_framed(b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\n" + HEAT), {0, 400}),
    "negative chunk size": (_framed(b"Transfer-Encoding: chunked", body=b"-1\r\n" + HEAT), {0, 400}),
    "chunk without its end": (
        _framed(b"Transfer-Encoding: chunked", body=b"11\r\n" + HEAT + b"xx0\r\n\r\n"),
        {0, 400},
    ),
    "no Content-Length": (_framed(), {400}),
    "Content-Length 0": (_framed(b"Content-Length: 0"), {400}),
    "Content-Length too short": (_framed(b"Content-Length: 5"), {400}),
    "negative Content-Length": (_framed(b"Content-Length: -1"), {400}),
    "Content-Length +17": (_framed(b"Content-Length: +17"), {400}),
    "Content-Length 0x11": (_framed(b"Content-Length: 0x11"), {400}),
    "Content-Length 1_7": (_framed(b"Content-Length: 1_7"), {400}),
    "Content-Length in other digits": (_framed(b"Content-Length: \xd9\xa1\xd9\xa7"), {400}),
    "Content-Length of words": (_framed(b"Content-Length: many"), {400}),
    "Content-Length empty": (_framed(b"Content-Length: "), {400}),
    "two equal Content-Lengths": (_framed(b"Content-Length: 17", b"Content-Length: 17"), {201, 400}),
    "a list of Content-Lengths": (_framed(b"Content-Length: 17, 17"), {201, 400}),
    "two different Content-Lengths": (_framed(b"Content-Length: 17", b"Content-Length: 18"), {400}),
    "Content-Length and chunks": (
        _framed(
            b"Content-Length: 17", b"Transfer-Encoding: chunked", body=b"11\r\n" + HEAT + b"\r\n0\r\n\r\n"
        ),
        {201, 400},
    ),
    "an unknown Transfer-Encoding": (_framed(b"Transfer-Encoding: gzip"), {400, 501}),
    "Transfer-Encoding chunked twice": (
        _framed(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
        {400},
    ),
    "Transfer-Encoding identity": (_framed(b"Transfer-Encoding: identity"), {400}),
    "gzip": (post(b"\x1f\x8b\x08", b"application/json", b"Content-Encoding: gzip"), {415}),
    "gzip by another name": (post(HEAT, b"application/json", b"Content-Encoding: X-GZIP, identity"), {415}),
    "identity": (post(HEAT, b"application/json", b"Content-Encoding: Identity"), {201}),
    "no Content-Type": (request("POST", b"/api/movies", body=HEAT), {415}),
    "two Content-Types": (post(HEAT, b"application/json", b"Content-Type: text/plain"), {201, 400, 415}),
    "a body on GET": (request("GET", b"/health/live", body=HEAT), {200}),
    "a body on DELETE": (request("DELETE", b"/api/movies/999", body=HEAT), {404}),
    "Expect": (post(HEAT, b"application/json", b"Expect: 100-continue"), {201}),
    "Expect what": (post(HEAT, b"application/json", b"Expect: miracles"), {201, 400, 417}),
    "no Host": (b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n", {400}),
    "two Hosts": (get(b"/health/live", b"Host: y"), {400}),
    "empty Host": (request("GET", b"/api/movies", host=b""), {200, 400}),
    "odd Host": (request("GET", b"/api/movies", host=b"a b/c?d@e:f"), {200, 400}),
    "Host of bytes": (request("GET", b"/api/movies", host=b"\xff\xfe"), {200, 400}),
    "Host with a port that is none": (request("GET", b"/api/movies", host=b"x:99999999"), {200, 400}),
    "long Host": (request("GET", b"/api/movies", host=b"h" * 5_000), {200, 400}),
    "HTTP/1.0": (b"GET /health/live HTTP/1.0\r\n\r\n", {200}),
    "HTTP/0.9": (b"GET /health/live\r\n\r\n", {0, 400}),
    "HTTP/3.0": (b"GET /health/live HTTP/3.0\r\nHost: x\r\n\r\n", {0, 400, 505}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0, 400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, {0, 400}),
    "noise": (bytes(range(256)) * 4, {0, 400}),
    "NUL in a header": (get(b"/health/live", b"X-A: a\x00b"), {400}),
    "CR in a header": (get(b"/health/live", b"X-A: a\rb"), {400}),
    "a header without a name": (get(b"/health/live", b": a"), {400}),
    "a header without a colon": (get(b"/health/live", b"header"), {400}),
    "a space before the colon": (get(b"/health/live", b"X-A : a"), {400}),
    "a folded header": (get(b"/health/live", b"X-A: a\r\n b"), {200, 400}),
    "bytes in a header": (
        get(b"/api/movies", b"X-A: \xff\xfe", b"If-None-Match: \xff", b"Accept: \xff"),
        {200},
    ),
    "bytes in X-Request-ID": (get(b"/nowhere", b"X-Request-ID: \xff\xfe"), {404}),
    "a huge header": (get(b"/health/live", b"X-A: " + b"x" * 1_000_000), {0, 200, 400, 431}),
    "a thousand headers": (get(b"/health/live", *(b"X-%d: x" % n for n in range(1_000))), {0, 200, 400, 431}),
    "a large Cookie": (get(b"/api/movies", b"Cookie: " + b"a=b; " * 1_000), {200}),
    "a broken Cookie": (get(b"/api/movies", b'Cookie: =; ;;a="\x80'), {200}),
    "odd conditions": (get(b"/api/movies/999", b"If-None-Match: \xff", b'If-Match: "'), {404}),
    "a long condition": (get(b"/api/movies/999", b"If-None-Match: " + b'"v1",' * 10_000), {0, 404, 431}),
    "odd Accept": (get(b"/api/movies", b"Accept: ;;q=,/,*/*;q=nan", b"Accept-Language: *;q=9"), {200, 406}),
    "odd Accept of an export": (
        get(b"/api/movies/export", b'Accept: ;;q=,/,"\xff,*/*;q=nan', b"Accept: text/csv;q=" + b"9" * 5_000),
        {406},
    ),
    "odd Prefer": (get(b"/api/movies", b'Prefer: ;=,"\xff, count="\\', b"Prefer: count=exact"), {200}),
    "odd type of an import": (
        request("POST", b"/api/movies/import", b'Content-Type: text/csv;charset="\xff', body=b"title"),
        {415},
    ),
    "bytes in an import": (
        request("POST", b"/api/movies/import", b"Content-Type: text/csv", body=bytes(range(256))),
        {422},
    ),
    "odd Origin": (get(b"/api/movies", b"Origin: \xff\x80"), {200}),
    "odd Range": (get(b"/health/live", b"Range: bytes=-0,9-1,x"), {200}),
    "odd Forwarded": (get(b"/health/live", b'Forwarded: for="_\xff', b"X-Forwarded-For: \xff,,"), {200}),
    "an upgrade": (get(b"/api/movies", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"), {200, 400}),
    "a web socket": (
        request(
            "GET",
            b"/api/movies",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        {200, 400, 403, 404, 426},
    ),
    "an unknown method": (request("FROB", b"/api/movies"), {405}),
    "a method in lower case": (request("get", b"/api/movies"), {405}),
    "a long method": (request("X" * 500, b"/api/movies"), {400, 405}),
    "TRACE": (request("TRACE", b"/api/movies"), {405}),
    "CONNECT": (
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {400, 404, 405},
    ),
    "OPTIONS *": (request("OPTIONS", b"*"), {200, 204, 400, 404}),
    "OPTIONS": (request("OPTIONS", b"/api/movies"), {204}),
    "OPTIONS of nothing": (request("OPTIONS", b"/nope"), {404}),
    "OPTIONS without Host": (b"OPTIONS /api/movies HTTP/1.1\r\nConnection: close\r\n\r\n", {400}),
    "OPTIONS with an empty Host": (request("OPTIONS", b"/api/movies", host=b""), {400}),
    "OPTIONS with two Hosts": (request("OPTIONS", b"/api/movies", b"Host: y"), {400}),
    "two If-None-Match": (get(b"/api/movies/999", b'If-None-Match: "a"', b"If-None-Match: *"), {404}),
}


def cases() -> Iterator[tuple[str, bytes, set[int]]]:
    for name, (body, statuses) in JSON.items():
        yield f"JSON: {name}", post(body), statuses
    for media_type, statuses in TYPES.items():
        yield f"type: {media_type[:40]!r}", post(HEAT, media_type), statuses
    for name, (data, status) in MULTIPART.items():
        yield f"multipart: {name}", data, {status}
    for target, statuses in TARGETS.items():
        yield f"target: {target[:40]!r} ({len(target)})", get(target), statuses
    for name, (data, statuses) in FRAMES.items():
        yield f"frame: {name}", data, statuses


CASES: Final = {name: (data, statuses) for name, data, statuses in cases()}


@pytest.mark.parametrize("name", CASES)
def test_bytes(server: tuple[str, int], name: str) -> None:
    data, statuses = CASES[name]

    answer = exchange(server, data)

    assert (answer.status if answer else 0) in statuses, answer
    assert alive(server)
    if answer is None or answer.status < 400 or "x-request-id" not in answer.headers:
        return  # what cannot be read as HTTP at all is refused by the server below the application
    assert answer.headers["content-type"] == "application/problem+json"
    problem = msgspec.json.decode(answer.body, type=Problem)
    assert problem.status == answer.status == KINDS[problem.code].status
    assert problem.request_id == answer.headers["x-request-id"]


@pytest.mark.parametrize("name", [name for name, (_, statuses) in JSON.items() if statuses <= {400, 422}])
def test_the_same_json_on_put_and_patch(server: tuple[str, int], name: str) -> None:
    created = exchange(server, post(HEAT))
    assert created is not None
    location = created.headers["location"].encode()
    body, statuses = JSON[name]

    for method in ("PUT", "PATCH"):
        answer = exchange(server, request(method, location, _TYPE, body=body))
        assert answer is not None
        assert answer.status in statuses, (method, answer)
    assert alive(server)


CUT: Final[dict[str, bytes]] = {
    "in the request line": b"GET /api/mov",
    "in the headers": b"GET /api/movies HTTP/1.1\r\nHost: x\r\nX-A",
    "before the body": _framed(b"Content-Length: 17", body=b""),
    "in the body": _framed(b"Content-Length: 170"),
    "in a chunk": _framed(b"Transfer-Encoding: chunked", body=b"ff\r\n" + HEAT),
    "between chunks": _framed(b"Transfer-Encoding: chunked", body=b"11\r\n" + HEAT + b"\r\n"),
    "in a large body": _framed(b"Content-Length: 900000", body=b" " * 500_000),
    "in an image": request(
        "PUT",
        b"/api/movies/1/image",
        b"Content-Type: image/png",
        b"Content-Length: 90000",
        body=PNG,
        length=False,
    ),
    "before the answer": get(b"/openapi.json"),
    "in an import": request(
        "POST",
        b"/api/movies/import",
        b"Content-Type: application/x-ndjson",
        b"Content-Length: 900000",
        body=HEAT,
        length=False,
    ),
    "in a multipart body": request(
        "POST",
        b"/api/movies",
        b"Content-Type: multipart/form-data; boundary=b",
        b"Content-Length: 99",
        length=False,
    ),
}


@pytest.mark.parametrize("where", CUT)
def test_a_client_that_leaves_disturbs_nobody(server: tuple[str, int], where: str) -> None:
    for _ in range(5):
        exchange(server, CUT[where], leave=True)
        assert alive(server)


@pytest.mark.parametrize("where", ["in the body", "in a chunk", "in a large body"])
def test_a_body_that_ends_early_is_no_movie(server: tuple[str, int], where: str) -> None:
    with socket.create_connection(server, timeout=PATIENCE) as connection:
        connection.sendall(CUT[where])
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert alive(server)


def test_head_has_the_headers_of_get_and_no_body(server: tuple[str, int]) -> None:
    created = exchange(server, post(HEAT))
    assert created is not None
    for target in (created.headers["location"].encode(), b"/nowhere", b"/openapi.json", b"/docs", b"/health"):
        got = exchange(server, get(target, b"X-Request-ID: same"))
        assert got is not None
        with socket.create_connection(server, timeout=PATIENCE) as connection:
            connection.sendall(request("HEAD", target, b"X-Request-ID: same"))
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert body == b"", target
        lines = dict(line.decode().lower().split(": ", 1) for line in head.split(b"\r\n")[1:])
        assert head.startswith(b"HTTP/1.1 %d" % got.status)
        volatile = {"date", "connection"}
        assert {name: value for name, value in lines.items() if name not in volatile} == {
            name: value.lower() for name, value in got.headers.items() if name not in volatile
        }
        assert lines["content-length"] == str(len(got.body))


@pytest.mark.parametrize("name", ["q", "genre"])
def test_a_query_may_hold_utf8_that_is_not_encoded(server: tuple[str, int], name: str) -> None:
    created = exchange(server, post('{"title": "Ünïcödé", "genre": "Ünïcödé"}'.encode()))
    assert created is not None

    for value in ("Ünïcödé".encode(), quote("Ünïcödé").encode()):
        found = exchange(server, get(b"/api/movies?%s=%s" % (name.encode(), value)))
        assert found is not None
        page = msgspec.json.decode(found.body, type=Page)
        assert created.headers["location"] in {f"/api/movies/{movie.id}" for movie in page.data}, value


def test_conditions_may_stand_on_several_lines(server: tuple[str, int]) -> None:
    """RFC 9110, section 5.3: lines of one name are one list."""
    created = exchange(server, post(HEAT))
    assert created is not None
    location = created.headers["location"].encode()

    for first, second in ((b'"v9"', b'"v1"'), (b'"v1"', b'"v9"')):
        got = exchange(server, get(location, b"If-None-Match: " + first, b"If-None-Match: " + second))
        put = exchange(
            server,
            request("PUT", location, _TYPE, b"If-Match: " + first, b"If-Match: " + second, body=HEAT),
        )
        assert got is not None
        assert put is not None
        assert (got.status, put.status) == (304, 200), (first, second)


def test_a_connection_goes_on_after_a_problem(server: tuple[str, int]) -> None:
    body = b'{"title": 5}'
    head = b"POST /api/movies HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    bad = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    good = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(server, timeout=PATIENCE) as connection:
        connection.sendall(bad + bad + good)
        text = connection.makefile("rb").read()
    assert text.count(b"HTTP/1.1 422 ") == 2
    assert text.count(b"HTTP/1.1 200 ") == 1


#: Requests that are answered before their body is read: what, its Content-Type, the status.
EARLY: Final = [
    ("POST /api/movies", "text/plain", 415),
    ("PUT /api/movies/999999/image", "image/png", 404),
    ("POST /nowhere", "text/plain", 404),
    ("GET /health/live", "text/plain", 200),
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("line", "media_type", "status"), EARLY)
def test_a_connection_goes_on_after_a_body_that_nobody_wanted(
    server: tuple[str, int], line: str, media_type: str, status: int, *, chunked: bool
) -> None:
    method, target = line.split()
    with closing(http.client.HTTPConnection(*server, timeout=PATIENCE)) as connection:
        connection.connect()
        first = connection.sock
        for _ in range(2):
            body = iter([bytes(6_000)] * 10) if chunked else bytes(60_000)
            connection.request(method, target, body, {"Content-Type": media_type}, encode_chunked=chunked)
            response = connection.getresponse()
            response.read()
            assert response.status == status
            assert response.headers["connection"] is None
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"up"}'
        assert connection.sock is first


@pytest.mark.parametrize(
    "sent",
    [b"Content-Length: 100\r\n\r\n", b"Content-Length: 100\r\n\r\n ", b"Transfer-Encoding: chunked\r\n\r\n"],
)
def test_a_reply_before_the_end_of_a_body_that_does_not_come_says_close(
    server: tuple[str, int], sent: bytes
) -> None:
    answer = exchange(server, b"POST /api/movies HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n" + sent)

    assert answer is not None
    assert answer.status == 415
    assert answer.headers["connection"] == "close"


def test_a_client_that_asks_before_it_sends_is_refused_without_its_body(server: tuple[str, int]) -> None:
    head = b"POST /api/movies HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n"
    with socket.create_connection(server, timeout=PATIENCE) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        text = connection.makefile("rb").read()
    assert text.startswith(b"HTTP/1.1 415 ")
    assert b"\r\nconnection: close\r\n" in text.lower()


def test_a_request_that_the_stop_cuts_is_answered_and_logged_like_any_other(tmp_path: Path) -> None:
    head = (
        b"POST /api/movies?x=1 HTTP/1.1\r\nHost: x\r\nX-Request-ID: cut\r\nContent-Type: application/json\r\n"
    )
    with (
        running(tmp_path, DRAIN_TIMEOUT="1", LOG_FORMAT="json", LOG_LEVEL="info") as (server, process),
        socket.create_connection(server, timeout=PATIENCE) as connection,
        closing(http.client.HTTPResponse(connection)) as response,
    ):
        connection.sendall(head + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        asked = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(asked), socket.MSG_WAITALL) == asked  # so its body is being read
        process.terminate()
        response.begin()
        assert response.status == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"] == "cut"
        assert response.headers["retry-after"] == "1"
        problem = msgspec.json.decode(response.read(), type=Problem)
    assert problem == Problem(
        type="/problems/unavailable",
        title=KINDS["unavailable"].title,
        status=503,
        detail="The service is stopping.",
        instance="/api/movies",
        code="unavailable",
        request_id="cut",
    )
    lines = [msgspec.json.decode(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [(line["event"], line["status"]) for line in lines if line.get("request_id") == "cut"] == [
        ("request", 503)
    ]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health/live\r\nHost: x\r\n\r\n", 400),
        (request("POST", b"/api/movies", b"Content-Length: -1"), 400),
        (request("POST", b"/api/movies", b"Transfer-Encoding: gzip"), 400),
        (get(b"/health/live?" + b"x" * 70_000), 414),
        (get(b"/health/live", *(b"X-%d: x" % number for number in range(200))), 431),
    ],
    ids=["request line", "Content-Length", "Transfer-Encoding", "URI", "headers"],
)
def test_what_is_no_http_is_refused_in_silence(server: tuple[str, int], data: bytes, status: int) -> None:
    """Below the application: see docs/decisions/0007."""
    answer = exchange(server, data)

    assert answer is not None
    assert (answer.status, answer.body) == (status, b"")
    assert answer.headers["connection"] == "close"
    assert "x-request-id" not in answer.headers


def test_a_request_hidden_in_a_body_is_not_run(server: tuple[str, int]) -> None:
    hidden = b"GET /api/movies/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    data = _framed(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + hidden)
    with socket.create_connection(server, timeout=PATIENCE) as connection:
        connection.sendall(data)
        text = connection.makefile("rb").read()
    assert b"smuggled" not in text
    assert text.count(b"HTTP/1.1 ") == 1
