"""Reading requests: bodies, parameters, ids, without the tolerance that frameworks have."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Final, Never, TypeAlias
from urllib.parse import parse_qsl, quote

import litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import Scope

from watchly_core.errors import Fault, InvalidQuery, MovieNotFound, NotFound, WatchlyError
from watchly_core.imports import decode_json
from watchly_core.movies import MAX_ID

Request: TypeAlias = litestar.Request[None, None, State]

#: Where the id of a request, and whether it is a HEAD that is answered as a GET, stand in its scope.
REQUEST_ID: Final = "watchly.request_id"
HEAD_ONLY: Final = "watchly.head_only"

_ID: Final = re.compile(r"[1-9][0-9]{0,9}")


class MalformedRequest(WatchlyError):
    """The request is not HTTP as this service speaks it."""


class BodyTooLarge(WatchlyError):
    """The body has more bytes than are taken here."""


class UnsupportedMediaType(WatchlyError):
    """The body is of a type that is not taken here."""


class ClientGone(WatchlyError):
    """The client left before its body was read; nobody will see the reply."""


def request_id_of(scope: Scope) -> str:
    """The id under which a request is logged."""
    return str(scope.get(REQUEST_ID, ""))


def path_of(scope: Scope) -> str:
    """The path of a request as it was sent, fit for JSON and logs."""
    raw = scope.get("raw_path") or quote(scope["path"], errors="replace").encode()
    return raw.partition(b"?")[0].decode("ascii", "replace")


def allowed_methods(scope: Scope) -> list[str]:
    """The methods that the address of a request takes: those for which the router finds a handler."""
    allowed = []
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        with suppress(HTTPException):
            scope["litestar_app"].asgi_router.handle_routing(path=scope["path"], method=method)
            allowed += [method, "HEAD"] if method == "GET" else [method]
    return allowed


def read_id(text: str) -> int:
    """The id that a path segment names.

    Raises:
        MovieNotFound: it is not a plain decimal in range, so no movie has it.
    """
    if _ID.fullmatch(text) is None:
        raise NotFound("no movie has such an id")
    number = int(text)
    if number > MAX_ID:
        raise MovieNotFound(number)
    return number


def parameters(request: Request, allowed: Collection[str]) -> dict[str, str]:
    """The query parameters of `request`, each once.

    Raises:
        InvalidQuery: one is unknown or repeated.
    """
    text = request.scope["query_string"].decode("latin-1")
    if not text:
        return {}
    given: dict[str, str] = {}
    faults: list[Fault] = []
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100, errors="surrogateescape")
    except ValueError:
        raise MalformedRequest("there are too many query parameters") from None
    for raw, value in pairs:
        name = raw[:100].encode("utf-8", "replace").decode()
        if name not in allowed:
            faults.append(Fault("unknown_parameter", "is not a parameter of this address", parameter=name))
        elif name in given:
            faults.append(Fault("repeated_parameter", "is given more than once", parameter=name))
        given[name] = value
    if faults:
        raise InvalidQuery(faults)
    return given


def flag(given: dict[str, str], name: str) -> bool:
    """A parameter that is true or false; absent it is false.

    Raises:
        InvalidQuery: it is something else.
    """
    text = given.get(name, "false")
    if text not in {"true", "false"}:
        _refuse(name, "must be true or false")
    return text == "true"


def whole_number(given: dict[str, str], name: str, default: int, largest: int) -> int:
    """A parameter that is an integer from 1 to `largest`.

    Raises:
        InvalidQuery: it is something else.
    """
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= largest):  # noqa: PLR2004 - digits
        _refuse(name, f"must be an integer from 1 to {largest}")
    return int(text)


def _refuse(name: str, detail: str) -> Never:
    raise InvalidQuery([Fault("invalid_value", detail, parameter=name)])


def media_type(request: Request) -> str:
    """The type of the body without its parameters, in lower case; empty if none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_size(request: Request, limit: int) -> None:
    """Refuse a body that is announced with more than `limit` bytes, before any of it is read.

    Raises:
        BodyTooLarge: it is.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise BodyTooLarge(f"the body may have at most {limit} bytes")


def require_plain(request: Request) -> None:
    """Refuse a body that is compressed.

    Raises:
        UnsupportedMediaType: it is.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("a Content-Encoding is not accepted here")


async def stream(request: Request) -> AsyncIterator[bytes]:
    """The body of `request` as it arrives.

    Raises:
        ClientGone: the client left before its end.
    """
    while True:
        event = await request.receive()
        if event["type"] != "http.request":
            raise ClientGone("the client left before the end of its body")
        # Servers may leave out both members (ASGI 3.0, HTTP, "Request").
        if body := event.get("body", b""):
            yield body
        if not event.get("more_body", False):
            return


async def read_json(
    request: Request, limit: int, accepted: Collection[str] = ("application/json",)
) -> object:
    """The body of `request` as JSON of at most `limit` bytes.

    Raises:
        UnsupportedMediaType: its Content-Type is none of `accepted`.
        BodyTooLarge: it is too large.
        MalformedJSON: it is not JSON.
    """
    if media_type(request) not in accepted:
        raise UnsupportedMediaType(f"the Content-Type must be {' or '.join(accepted)}")
    require_plain(request)
    require_size(request, limit)
    body = bytearray()
    async for chunk in stream(request):
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"the body may have at most {limit} bytes")
    return decode_json(bytes(body))
