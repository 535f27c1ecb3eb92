"""Cases of the corpus of bytes: what is sent over a socket, and what has to come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from watchly_adapters.testing import samples

PNG: Final = samples.UPRIGHT["png"]
MAX_JSON_BYTES: Final = 1_000_000
MAX_IMAGE_BYTES: Final = 100_000
HEAT: Final = b'{"title": "Heat"}'
TYPE: Final = b"Content-Type: application/json"

#: What stands in the bytes of a case for what the service gives out while it runs.
EDITOR: Final = b"@EDITOR@"
MOVIE: Final = b"@MOVIE@"
IMAGE: Final = b"@IMAGE@"
CURSOR: Final = b"@CURSOR@"
BEARER: Final = b"Authorization: Bearer " + EDITOR


class Case(NamedTuple):
    """Bytes that are sent, the status of the reply, and what becomes of the connection.

    A reply below the application is `bare`: it has no body, and the connection ends. Else every 4xx is a
    problem document, and the connection is good for the next request unless it is `closed`. No reply at all
    has the status 0. Where the body does not come to its end (`unended`) the reply says that the connection
    does not go on.
    """

    data: bytes
    status: int
    bare: bool = False
    closed: bool = False
    unended: bool = False


Table: TypeAlias = Mapping[str, Case]


def refused(data: bytes, status: int = 400) -> Case:
    """Bytes that are not HTTP, and never reach the application: see docs/decisions/0007."""
    return Case(data, status, bare=True, closed=True)


def last(data: bytes, status: int) -> Case:
    """A request after which the connection is good for nothing."""
    return Case(data, status, closed=True)


def unended(data: bytes, status: int) -> Case:
    """A request whose body is announced and never comes."""
    return Case(data, status, closed=True, unended=True)


def request(  # noqa: PLR0913 - each is a part of its own
    method: str,
    target: bytes,
    *headers: bytes,
    body: bytes = b"",
    length: bool = True,
    host: bytes = b"x",
    bearer: bytes | None = BEARER,
) -> bytes:
    """A request of an editor; `length` adds a Content-Length to one that has a body."""
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: " + host, *headers]
    if bearer is not None:
        lines.append(bearer)
    if length and body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def get(target: bytes, *headers: bytes) -> bytes:
    return request("GET", target, *headers)


def post(body: bytes, media_type: bytes = b"application/json", *headers: bytes) -> bytes:
    return request("POST", b"/api/movies", b"Content-Type: " + media_type, *headers, body=body)


def framed(*headers: bytes, body: bytes = HEAT) -> bytes:
    """A POST of a movie whose framing is what its headers say."""
    return request("POST", b"/api/movies", TYPE, *headers, body=body, length=False)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return framed(b"Transfer-Encoding: chunked", body=body)


def multipart(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--b--\r\n") -> bytes:
    return post(
        b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end,
        b"multipart/form-data; boundary=" + boundary,
    )


def part(disposition: bytes, content: bytes = b"x", *headers: bytes) -> bytes:
    return b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *headers, b"", content])
