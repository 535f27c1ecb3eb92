"""Replies that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from watchly_http.problems import log_error
from watchly_http.requests import ClientGone

#: Bytes a second, on the whole, below which a client is too slow: others wait for what its reply holds.
_SLOWEST: Final = 50_000


class Download(ASGIResponse):
    """A reply whose body is sent as it is made, and broken off where it cannot be made to its end.

    A body that is broken off does not end as HTTP says it should, so that clients can tell.

    Args:
        first: the beginning of the body.
        rest: makes the rest of it; it is closed however the reply ends.
        headers: of the reply, Content-Type among them.
        request_id: under which a fault is logged.
        status_code: of the reply.
        patience: seconds in which the client has to take the next piece, for it holds what `rest` holds;
            and those that it may spend on all of them beyond what a slow line needs.
    """

    _should_set_content_length = False

    def __init__(  # noqa: PLR0913 - a reply, each part with its name
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        request_id: str,
        *,
        status_code: int = 200,
        patience: float = 60.0,
    ) -> None:
        super().__init__(headers=headers, status_code=status_code)
        self._first, self._rest = first, rest
        self._request_id, self._patience = request_id, patience
        self._sent, self._waited = 0, 0.0

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send all of it, unless the client leaves or stops taking it."""
        left = asyncio.create_task(_wait_for_leaving(receive))
        try:
            async with aclosing(self._rest) as rest:
                await self._send(send, self._first)
                async for chunk in rest:
                    if left.done():
                        return
                    await self._send(send, chunk)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is too late for a problem
            log_error(error, self._request_id)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.cancel()

    async def _send(self, send: Send, chunk: bytes) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        room = self._patience + self._sent / _SLOWEST - self._waited
        try:
            async with asyncio.timeout(min(self._patience, room)):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            raise ClientGone("the client stopped taking the reply, or takes it too slowly") from None
        self._sent += len(chunk)
        self._waited += loop.time() - began
        await asyncio.sleep(0)  # a server that takes it at once would leave no time for others


async def _wait_for_leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
