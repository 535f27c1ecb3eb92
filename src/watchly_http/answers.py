"""Answers: replies of bytes that are ready, without the work that Litestar's `Response` does for each."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from litestar.types import Receive, Scope, Send

_JSON: Final = (b"content-type", b"application/json")


class AnyAnswer(Protocol):
    """A reply that sends itself: an ASGI application, which handlers may return."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        ...


class Answer(NamedTuple):
    """A reply, which is an ASGI application as well: what a handler returns is what is sent."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def json_answer(body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> Answer:
    """An answer that is JSON, with these headers as well."""
    return Answer(status, (*headers, _JSON, (b"content-length", b"%d" % len(body))), body)
