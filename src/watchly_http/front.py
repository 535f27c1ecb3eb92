"""What every request has: an id, HEAD wherever there is GET, a fitting Host, and a line in the log.

And what every reply has: a connection that can be used again, or word that it cannot.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Final

import structlog
from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)

from watchly_http.drain import cutting
from watchly_http.openapi import TELLS_POSITION
from watchly_http.problems import is_problem, stopping_reply
from watchly_http.requests import (
    HEAD_ONLY,
    REQUEST_ID,
    VARY,
    MalformedRequest,
    Request,
    allowed_methods,
    lines_of,
    path_of,
)

_log = structlog.stdlib.get_logger("watchly.requests")

#: The first status that is no success. A member of `HTTPStatus` takes as long to look up as a small function.
_REDIRECTION: Final = HTTPStatus.MULTIPLE_CHOICES.value

#: What a client may choose as the id of its request: anything that is safe in a log.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

#: Digits of a length that can be true; int() refuses thousands of them.
_MOST_DIGITS: Final = 18

#: What no address of this service has in it, and may be a token that somebody took for a part of one.
_UNKNOWN: Final = re.compile(r"[^/]{33,}")

#: How much of a body that nobody wanted is read all the same, and for how long: up to there the connection
#: is kept for the next request.
_REST_BYTES: Final = 4_194_304
_REST_SECONDS: Final = 1.0


class Front:
    """An ASGI application around `app` that gives every request what the module's docstring says.

    Args:
        app: what answers.
        by_origin: whether replies differ by Origin, so that caches must keep them apart.
        trusted: the origins whose pages may send cookies, and read the replies.
        position: where all that was written can be seen, for the replies that tell it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        by_origin: bool,
        trusted: Collection[str] = (),
        position: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._app = app
        self._position = position
        self._trusted = frozenset((b"access-control-allow-origin", origin.encode()) for origin in trusted)
        self._by_origin = by_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        exchange = _Exchange(
            scope, receive, send, self._position, by_origin=self._by_origin, trusted=self._trusted
        )
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"
            scope[HEAD_ONLY] = True  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if exchange.status or not cutting():
                raise
            await exchange.refuse()
        finally:
            if _is_logged():
                _log.info(
                    "request",
                    method=str(method),
                    path=_UNKNOWN.sub("…", path_of(scope)),
                    status=exchange.status,
                    ms=round((time.perf_counter() - started) * 1000, 2),
                    request_id=exchange.request_id,
                )


def _is_logged() -> bool:
    """Whether anybody wants the lines of requests, which take a while to make."""
    # Whoever embeds this may have configured loggers of another kind, which see for themselves.
    enabled = getattr(_log, "isEnabledFor", None)
    return enabled is None or bool(enabled(logging.INFO))


class _Exchange:
    """One request and the reply to it.

    Attributes:
        request_id: under which it is logged.
        status: of the reply, 0 until it begins.
        receive: what the application gets the body from.
    """

    __slots__ = (
        "_body",
        "_bodyless",
        "_by_origin",
        "_options",
        "_position",
        "_scope",
        "_send",
        "_trusted",
        "receive",
        "request_id",
        "status",
    )

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        scope: HTTPScope,
        receive: Receive,
        send: Send,
        position: Callable[[], str | None],
        *,
        by_origin: bool,
        trusted: frozenset[tuple[bytes, bytes]],
    ) -> None:
        self._scope, self._send, self._position, self._by_origin = scope, send, position, by_origin
        self._trusted = trusted
        self._options = scope["method"] == "OPTIONS"
        self._bodyless = scope["method"] == "HEAD"
        self.status = 0
        self.request_id, self._body = _examine(scope, receive)
        self.receive = receive if self._body is None else self._body.receive
        scope[REQUEST_ID] = self.request_id  # type: ignore[typeddict-unknown-key] # as above
        if self._options:
            _hide_origin(scope)

    async def send(self, message: Message) -> None:
        """Send a part of the reply, with what every reply has."""
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"x-request-id", self.request_id.encode())]
            if self._body is not None and not (self._body.ended or await self._body.finish()):
                headers.append((b"connection", b"close"))
            if self._by_origin and not any(name == b"vary" for name, _ in headers):
                headers.append((b"vary", b"Origin"))
            # Here, because Litestar would say so to all origins or to none.
            if self._trusted and not self._trusted.isdisjoint(headers):
                headers.append((b"access-control-allow-credentials", b"true"))
            # Here, because Litestar's CORS puts its own in the place of one that is there.
            if isinstance(varying := self._scope.get(VARY), str):
                headers.append((b"vary", varying.encode()))
            # Here, because a reply that is kept and sent again has to tell where it can be seen now.
            if self._tells_position(message["status"]) and (position := self._position()) is not None:
                headers.append((b"watchly-position", position.encode()))
            if self._options and not is_problem(headers):
                # Litestar refuses a preflight by 400 and plain text; what it allows says it all.
                message["status"] = HTTPStatus.NO_CONTENT.value
                headers = _answer_to_options(headers, self._scope)
                self._bodyless = True
            message["headers"] = headers
            self.status = message["status"]
        elif self._bodyless and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    def _tells_position(self, status: int) -> bool:
        """Whether a reply tells where what was written can be seen."""
        if status >= _REDIRECTION or "route_handler" not in self._scope:
            return False
        return bool(self._scope["route_handler"].opt.get(TELLS_POSITION))

    async def refuse(self) -> None:
        """Reply that the service is stopping."""
        status, headers, body = stopping_reply(self._scope)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


class _Body:
    """The body of a request, which is read to its end, if that is near, before the reply begins.

    What is left of it stands where the server looks for the next request of the connection.

    Args:
        receive: what it comes from.
        length: how many bytes it has, -1 where that is not known.
        awaited: whether the client waits for word to send it.

    Attributes:
        ended: whether all of it was read, or the client has left.
    """

    def __init__(self, receive: Receive, length: int, *, awaited: bool) -> None:
        self._receive, self._left, self._awaited = receive, length, awaited
        self.ended = False

    async def receive(self) -> HTTPReceiveMessage | WebSocketReceiveMessage:
        """The next part of it."""
        self._awaited = False
        message = await self._receive()
        if message["type"] != "http.request":
            self.ended = True
            return message
        self._left -= len(message.get("body", b""))
        if self._left == 0:
            # granian tells the end by a message of its own, which is a turn of the loop and another timeout.
            message["more_body"] = False
        self.ended = not message.get("more_body", False)
        return message

    async def finish(self) -> bool:
        """Read the rest of it, if that is soon done; tell whether its end was reached."""
        if self._awaited or cutting():
            return self.ended
        rest = 0
        try:
            async with asyncio.timeout(_REST_SECONDS):
                while not self.ended and rest <= _REST_BYTES:
                    message = await self.receive()
                    if message["type"] == "http.request":
                        rest += len(message.get("body", b""))
        except TimeoutError:
            pass
        return self.ended


def _hide_origin(scope: Scope) -> None:
    """Keep Litestar from taking any OPTIONS with an Origin for a preflight (Fetch, section 3.3.2)."""
    names = {name for name, _ in scope["headers"]}
    if b"origin" in names and b"access-control-request-method" not in names:
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"origin"]


def _answer_to_options(headers: list[tuple[bytes, bytes]], scope: Scope) -> list[tuple[bytes, bytes]]:
    """Without a body, and naming every method of the address: Litestar names those of one handler."""
    allow = ", ".join(allowed_methods(scope)).encode()
    kept = [pair for pair in headers if pair[0] not in {b"content-type", b"content-length"}]
    return [(name, allow if name == b"allow" else value) for name, value in kept]


def host_check(allowed: Collection[str]) -> Callable[[Request], Awaitable[None]]:
    """A check that a request names one host (RFC 9112, section 3.2), one of `allowed` if there are any.

    Health and metrics may be asked for under any name: who watches uses addresses.
    """

    # Asynchronous without need: Litestar would run it in a thread, for every request.
    async def check(request: Request) -> None:
        # granian gives an empty one where there is none.
        hosts = [host for host in lines_of(request, "host") if host]
        if len(hosts) != 1 and request.scope["http_version"] == "1.1":
            raise MalformedRequest("a request must name one Host")
        if allowed and not request.scope["path"].startswith(("/health", "/metrics")):
            host = hosts[0].lower() if hosts else ""
            if host not in allowed and host.rpartition(":")[0] not in allowed:
                raise MalformedRequest("this service does not answer for the Host that the request names")

    return check


def _examine(scope: Scope, receive: Receive) -> tuple[str, _Body | None]:
    """The id of a request, and its body if it has one, in one walk through its headers."""
    request_id, length = "", b""
    chunked = awaited = False
    for name, value in scope["headers"]:
        if name == b"x-request-id" and not request_id and _REQUEST_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"content-length" and value != b"0":
            length = value
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"expect":
            awaited = True
    body = None
    if length or chunked:
        known = not chunked and length.isdigit() and len(length) <= _MOST_DIGITS
        body = _Body(receive, int(length) if known else -1, awaited=awaited)
    # Not by os.urandom: it lets go of the interpreter, and threads that read images would all come first.
    return request_id or f"{random.getrandbits(128):032x}", body
