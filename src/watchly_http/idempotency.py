"""Idempotency-Key: a request that is sent again, because its reply was lost, is not done again."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final, TypeVar

from watchly_core.errors import Replayed
from watchly_core.receipts import NO_RECEIPT, Claim, KeptReply, KeyedReceipt, Receipt
from watchly_http.answers import Answer
from watchly_http.forms import FORM
from watchly_http.requests import (
    MalformedRequest,
    Request,
    clock_of,
    digest_body,
    header_of,
    lines_of,
    media_type,
    path_of,
)

T = TypeVar("T")

_LENGTH: Final = b"content-length"

_KEY: Final = re.compile("[!-~]{1,255}")


class Sending:
    """A request that may be sent several times: made before its body is read.

    Args:
        request: the request.
        actor: who sends it; each has keys of its own.

    Raises:
        MalformedRequest: its key is none.
    """

    def __init__(self, request: Request, actor: str) -> None:
        self._request, self._actor = request, actor
        self._key = _key(request)
        self._body = None if self._key is None else digest_body(request)

    async def once(
        self, write: Callable[[Receipt[T]], Awaitable[T]], render: Callable[[T], Answer]
    ) -> Answer:
        """The reply to what `write` does, or the one that was given when it was done; the body is read now.

        Raises:
            RequestInProgress: it is being done.
            KeyReused: the key was used for another request.
        """
        if self._key is None:
            return render(await write(NO_RECEIPT))
        claim = Claim(self._actor, self._key, self._digest())
        receipt = KeyedReceipt[T](claim, lambda result: _kept(render(result)), clock_of(self._request))
        try:
            return render(await write(receipt))
        except Replayed as replayed:
            return _again(replayed.reply)

    def _digest(self) -> bytes:
        """What tells the request from others. What a form's boundary is makes no difference."""
        request = self._request
        kind = media_type(request)
        told = (
            request.method,
            path_of(request.scope),
            request.scope["query_string"],
            kind if kind == FORM else header_of(request, "content-type"),
            self._body and self._body.hexdigest(),
        )
        return sha256(repr(told).encode()).digest()


def _key(request: Request) -> str | None:
    given = lines_of(request.scope, "idempotency-key")
    if not given:
        return None
    if len(given) > 1 or _KEY.fullmatch(given[0]) is None:
        raise MalformedRequest("the Idempotency-Key must be one, of 1 to 255 visible ASCII characters")
    return given[0]


def _kept(answer: Answer) -> KeptReply:
    headers = ((name.decode(), value.decode()) for name, value in answer.headers if name != _LENGTH)
    return KeptReply(answer.status, tuple(headers), answer.body)


def _again(reply: KeptReply) -> Answer:
    headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers]
    length = (_LENGTH, b"%d" % len(reply.body))
    return Answer(reply.status, (*headers, length, (b"idempotency-replayed", b"true")), reply.body)
