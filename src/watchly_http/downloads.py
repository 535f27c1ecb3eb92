"""Replies that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from litestar.response.base import ASGIResponse
from litestar.types import Receive, Send

from watchly_http.feed import Stream
from watchly_http.problems import log_error
from watchly_http.requests import ClientGone

#: Bytes a second, on the whole, below which a client is too slow: others wait for what its reply holds.
_SLOWEST: Final = 50_000
#: Seconds for the end of a stream: a client that takes nothing must not hold up a stop.
_LAST_WORDS: Final = 1.0


class Download(ASGIResponse):
    """A reply whose body is sent as it is made, and broken off where it cannot be made to its end.

    A body that is broken off does not end as HTTP says it should, so that clients can tell.

    Args:
        first: the beginning of the body.
        rest: makes the rest of it; it is closed however the reply ends.
        headers: of the reply, Content-Type among them.
        status_code: of the reply.
        patience: seconds in which the client has to take the next piece, for it holds what `rest` holds;
            and those that it may spend on all of them beyond what a slow line needs.
    """

    _should_set_content_length = False

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        *,
        status_code: int = 200,
        patience: float = 60.0,
    ) -> None:
        super().__init__(headers=headers, status_code=status_code)
        self._first, self._rest = first, rest
        self._patience = patience
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
            log_error(error)
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


class EventStream(ASGIResponse):
    """A reply that is `text/event-stream`: it goes on until its stream ends, or the client leaves.

    Args:
        stream: what is sent; it is ended when the client leaves.
    """

    _should_set_content_length = False

    def __init__(self, stream: Stream) -> None:
        super().__init__(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would keep events until there are some kilobytes of them
            }
        )
        self._stream = stream

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send what comes, each piece at once."""
        stream, now = self._stream, asyncio.get_running_loop().time
        left = asyncio.create_task(_wait_for_leaving(receive))
        left.add_done_callback(lambda _: stream.end())
        try:
            async with asyncio.timeout(None) as limit:
                stream.on_end = lambda: limit.reschedule(now() + _LAST_WORDS)
                try:
                    async with aclosing(stream.pieces()) as pieces:
                        async for piece in pieces:
                            await send({"type": "http.response.body", "body": piece, "more_body": True})
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                finally:
                    stream.end()  # here, where the limit can still be moved
        except TimeoutError:
            pass  # the client takes nothing, or is gone
        except Exception as error:  # noqa: BLE001 - whatever it is, it is too late for a problem
            log_error(error)
        finally:
            left.cancel()


async def _wait_for_leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
