"""Exchanges: each is one request and the reply to it, as they pass.

Every reply gets here what replies have: the id of its request, and a connection that can be used again, or
word that it cannot.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from litestar.types import (
    HTTPReceiveMessage,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)
from litestar.types.asgi_types import HTTPResponseStartEvent

from watchly_adapters.watching import Kind
from watchly_http.answers import Answer
from watchly_http.authorization import sender_of
from watchly_http.drain import cutting
from watchly_http.openapi import SHOWN, TELLS_POSITION
from watchly_http.problems import is_problem
from watchly_http.protections import Protections
from watchly_http.requests import METHODS, RATE_LIMIT, REQUEST_ID, VARY, allowed_methods

#: How a reply may end before its time: the client left, the stop of the service cut it, or an error did.
LEFT: Final = "left"
CUT: Final = "cut"
BROKEN: Final = "broken"

#: What stands for the status where the client left before the reply began, as other servers have it.
_CLIENT_CLOSED_REQUEST: Final = 499

#: The steps that replies tell of, and under which names.
_TIMED: Final[Mapping[Kind, str]] = {"use_case": "app", "statement": "db", "image_store": "images"}

#: The methods that are told as they are; another can be any word, of any length.
OTHER: Final = "other"
_KNOWN: Final = frozenset({*METHODS, "HEAD", "OPTIONS"})

#: The first status that is no success. A member of `HTTPStatus` takes as long to look up as a small function.
_REDIRECTION: Final = HTTPStatus.MULTIPLE_CHOICES.value

#: What a client may choose as the id of its request: anything that is safe in a log.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

#: Digits of a length that can be true; int() refuses thousands of them.
_MOST_DIGITS: Final = 18

#: How much of a body that nobody wanted is read all the same, and for how long: up to there the connection
#: is kept for the next request.
_REST_BYTES: Final = 4_194_304
_REST_SECONDS: Final = 1.0


class Exchange:
    """One request and the reply to it.

    Attributes:
        scope: of the request.
        request_id: under which it is logged.
        method: of the request; "other" for one that is no method of this service.
        status: of the reply, 0 until it begins.
        received, sent: bytes of the bodies, so far.
        ending: how the reply ended before its time, if it did.
        receive: what the application gets the body from.
        began: when it began, by `time.perf_counter`.
        trace: how its span is named to others, if there is one.
        spent: seconds that its steps took, where the reply tells.
        begun: whether the reply has begun, and can be no other one.
        since: when something happened last, as `began`: a part of a body came, or was taken.
        awaits_client: whether it waits for the client, to send some of its body or to take some of the reply.
        late: sends a reply in place of the application, which took too long; None while that has time.
        over: whether it has ended, for those who look at it.
    """

    __slots__ = (
        "_body",
        "_bodyless",
        "_by_origin",
        "_cancelled",
        "_complete",
        "_left",
        "_options",
        "_position",
        "_protections",
        "_receive",
        "_send",
        "_task",
        "_trusted",
        "awaits_client",
        "began",
        "begun",
        "ending",
        "late",
        "method",
        "over",
        "receive",
        "received",
        "request_id",
        "scope",
        "sent",
        "since",
        "spent",
        "status",
        "trace",
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
        protections: Protections,
    ) -> None:
        self.began: float = time.perf_counter()
        self.since: float = self.began
        self.late: asyncio.Task[None] | None = None
        self._task, self._cancelled = asyncio.current_task(), 0
        self.trace: str | None = None
        self.spent: Mapping[Kind, float] | None = None
        self.scope: HTTPScope = scope
        self._send, self._position, self._by_origin = send, position, by_origin
        self._receive, self._trusted, self._protections = receive, trusted, protections
        method = scope["method"]
        self.method: str = str(method) if method in _KNOWN else OTHER
        self._options = method == "OPTIONS"
        self._bodyless = method == "HEAD"
        self.status: int = 0
        self.received: int = 0
        self.sent: int = 0
        self._left = self._complete = False
        self.begun: bool = False
        self.awaits_client: bool = False
        self.over: bool = False
        self.ending: str | None = None
        self.request_id: str
        self.request_id, self._body = _examine(scope, self._hear)
        self.receive: Receive = self._hear if self._body is None else self._body.receive
        scope[REQUEST_ID] = self.request_id  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        if self._options:
            _hide_origin(scope)

    @property
    def route(self) -> str | None:
        """The template of the address, such as ``/api/movies/{movie_id}``; None where there is none."""
        return self.scope.get("path_template")

    def known(self) -> dict[str, object]:
        """What whoever reads a line of this exchange wants to know of it."""
        known: dict[str, object] = {
            "request_id": self.request_id,
            "actor": sender_of(self.scope),
            "method": self.method,
            "route": self.route,
        }
        if self.trace is not None:
            known["trace_id"] = self.trace.split("-")[1]
        return known

    def about(self) -> dict[str, object]:
        """The same, while it goes on: some of what it began may live longer, and serve others."""
        return {} if self.over else self.known()

    @property
    def marks(self) -> Mapping[str, object]:
        """What its handler says of itself, which is nothing where there is none."""
        try:
            return self.scope["route_handler"].opt
        except KeyError:
            return {}

    async def _hear(self) -> HTTPReceiveMessage | WebSocketReceiveMessage:
        if not self.begun:  # else for the rest of a body, or word that it has left, beside the reply
            self.awaits_client = True
        try:
            message = await self._receive()
        finally:
            if not self.begun:
                self.awaits_client = False
                self.since = time.perf_counter()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        elif not self._complete:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the reply, with what every reply has.

        Raises:
            CancelledError: the client has another reply, for this one is late, or it has all of it.
        """
        if self.over or (self.late is not None and asyncio.current_task() is not self.late):
            raise asyncio.CancelledError  # once more, for who went on
        last = False
        if message["type"] == "http.response.start":
            self.begun = self.awaits_client = True
            self.since = time.perf_counter()
            if self._body is not None and not (self._body.ended or await self._body.finish()):
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            headers = self._headers(message)
            if self._options and not is_problem(headers):
                # Litestar refuses a preflight by 400 and plain text; what it allows says it all.
                message["status"] = HTTPStatus.NO_CONTENT.value
                headers = _answer_to_options(headers, self.scope)
                self._bodyless = True
            message["headers"] = headers
            self.status = _CLIENT_CLOSED_REQUEST if self._left else message["status"]
        elif message["type"] == "http.response.body":
            if self._bodyless:
                message["body"] = b""
            self.sent += len(message.get("body", b""))
            last = not message.get("more_body", False)
        self.awaits_client = True
        try:
            await self._send(message)
        finally:
            if not last:
                self.awaits_client = False
                self.since = time.perf_counter()
        self._complete = last

    def _headers(self, message: HTTPResponseStartEvent) -> list[tuple[bytes, bytes]]:
        """Those of a reply, with what every reply has."""
        marks, request_id = self.marks, (b"x-request-id", self.request_id.encode())
        headers = [*message["headers"], request_id, *self._protections[marks.get(SHOWN)]]
        if self._by_origin and not any(name == b"vary" for name, _ in headers):
            headers.append((b"vary", b"Origin"))
        # Here, because Litestar would say so to all origins or to none.
        if self._trusted and not self._trusted.isdisjoint(headers):
            headers.append((b"access-control-allow-credentials", b"true"))
        # Here, because Litestar's CORS puts its own in the place of one that is there.
        if isinstance(varying := self.scope.get(VARY), str):
            headers.append((b"vary", varying.encode()))
        if isinstance(limit := self.scope.get(RATE_LIMIT), list):
            headers += limit
        # Here, because a reply that is kept and sent again has to tell where it can be seen now.
        written = message["status"] < _REDIRECTION and marks.get(TELLS_POSITION)
        if written and (position := self._position()) is not None:
            headers.append((b"watchly-position", position.encode()))
        if self.trace is not None:
            headers.append((b"traceresponse", self.trace.encode()))
        if self.spent is not None:
            headers.append((b"server-timing", _timing(time.perf_counter() - self.began, self.spent)))
        return headers

    async def reply(self, answer: Answer) -> None:
        """Send a reply that is ready."""
        await answer(self.scope, self.receive, self.send)

    def cancel(self) -> None:
        """Have the application stop."""
        if self._task is not None:
            self._cancelled += 1
            self._task.cancel()

    def forgive(self) -> bool:
        """Take back what `cancel` did, once it has come to pass; whether nobody else cancels the task."""
        left = 0
        for _ in range(self._cancelled):
            left = self._task.uncancel() if self._task is not None else 0
        forgiven, self._cancelled = self._cancelled > 0, 0
        return forgiven and not left

    def break_off(self, ending: str) -> None:
        """Note that the rest of it is not sent."""
        self.ending = ending
        self._left = ending == LEFT

    def release(self) -> None:
        """Let go of its tasks, which are at their end: by their contexts they hold this one as well."""
        self._task = self.late = None

    def end(self) -> None:
        """Note that it is over."""
        self.over = True
        # What is left of a body holds the connection, and whatever has the context of this holds this.
        self._body, self.receive, self._receive, self._send = None, _nothing, _nothing, _nowhere
        if not self.status:
            left = self._left
            self.status = _CLIENT_CLOSED_REQUEST if left else HTTPStatus.INTERNAL_SERVER_ERROR.value
        if self._left:
            self.ending = LEFT
        elif not self._complete and self.ending is None:
            self.ending = BROKEN


async def _nothing() -> HTTPReceiveMessage | WebSocketReceiveMessage:
    """What comes of a request that is over."""
    return {"type": "http.disconnect"}


async def _nowhere(_: Message) -> None:
    """Where a reply goes that is over."""


def _timing(total: float, spent: Mapping[Kind, float]) -> bytes:
    """What took how long until now, in milliseconds (W3C Server Timing, section 3)."""
    parts = [("total", total), *((_TIMED[kind], spent[kind]) for kind in _TIMED if kind in spent)]
    return ", ".join(f"{name};dur={seconds * 1_000:.2f}" for name, seconds in parts).encode()


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
