"""What every request has: an id, HEAD wherever there is GET, a fitting Host, and a line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Final
from uuid import uuid4

import structlog
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from watchly_http.requests import (
    HEAD_ONLY,
    REQUEST_ID,
    MalformedRequest,
    Request,
    allowed_methods,
    path_of,
)

_log = structlog.stdlib.get_logger("watchly.requests")

#: What a client may choose as the id of its request: anything that is safe in a log.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Front:
    """An ASGI application around `app` that gives every request what the module's docstring says.

    Args:
        app: what answers.
        by_origin: whether replies differ by Origin, so that caches must keep them apart.
    """

    def __init__(self, app: ASGIApp, *, by_origin: bool) -> None:
        self._app = app
        self._by_origin = by_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope[REQUEST_ID] = request_id  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        method = scope["method"]
        bodyless = method in {HttpMethod.HEAD, HttpMethod.OPTIONS}
        if method == HttpMethod.HEAD:
            scope["method"] = HttpMethod.GET
            scope[HEAD_ONLY] = True  # type: ignore[typeddict-unknown-key] # as above
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                if self._by_origin and not any(name == b"vary" for name, _ in headers):
                    headers.append((b"vary", b"Origin"))
                if method == HttpMethod.OPTIONS:
                    # Litestar refuses a preflight by 400 and plain text; what it allows says it all.
                    status = message["status"] = HTTPStatus.NO_CONTENT
                    headers = _answer_to_options(headers, scope)
                message["headers"] = headers
            elif bodyless and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await self._app(scope, receive, finish)
        finally:
            _log.info(
                "request",
                method=str(method),
                path=path_of(scope),
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 2),
                request_id=request_id,
            )


def _answer_to_options(headers: list[tuple[bytes, bytes]], scope: Scope) -> list[tuple[bytes, bytes]]:
    """Without a body, and naming every method of the address: Litestar names those of one handler."""
    allow = ", ".join(allowed_methods(scope)).encode()
    kept = [pair for pair in headers if pair[0] not in {b"content-type", b"content-length"}]
    return [(name, allow if name == b"allow" else value) for name, value in kept]


def host_check(allowed: Collection[str]) -> Callable[[Request], None]:
    """A check that a request names one host (RFC 9112, section 3.2), one of `allowed` if there are any.

    Health may be asked for under any name: probes use addresses.
    """

    def check(request: Request) -> None:
        # granian gives an empty one where there is none.
        hosts = [host for host in request.headers.getall("host", []) if host]
        if len(hosts) != 1 and request.scope["http_version"] == "1.1":
            raise MalformedRequest("a request must name one Host")
        if allowed and not request.scope["path"].startswith("/health"):
            host = hosts[0].lower() if hosts else ""
            if host not in allowed and host.rpartition(":")[0] not in allowed:
                raise MalformedRequest("this service does not answer for the Host that the request names")

    return check


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return uuid4().hex
