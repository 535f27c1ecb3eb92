"""Somebody who follows the feed from its beginning through all trouble, by the list and by the stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from types import TracebackType
from typing import Final, Self

import httpx
from tests.faults.told import Heard

#: What a service in trouble may answer.
_TROUBLE: Final = frozenset({429, 502, 503, 504})
#: Seconds between attempts, and without a sign of life until the stream is opened anew.
_PAUSE: Final = 0.05
_SILENCE: Final = 20.0
#: Seconds in which a service that works again has to tell the rest.
_PATIENCE: Final = 60.0


class Consumer:
    """Follows the feed in a thread of its own while it is entered; each time anew at another address.

    Args:
        urls: where services answer.

    Attributes:
        heard: all changes that it was told, in that order.
        wrong: replies that must not be.
        cuts: how often it had to begin anew.
    """

    def __init__(self, *urls: str) -> None:
        self._urls = itertools.cycle(urls)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="consumer")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._begun = threading.Event()
        self.heard: list[Heard] = []
        self.wrong: list[str] = []
        self.cuts = 0

    @property
    def last(self) -> int:
        """The number of the last change that it knows of."""
        return self.heard[-1].seq if self.heard else 0

    def finish(self) -> list[Heard]:
        """Follow no more, and read what is left, now that services work: all that was told."""
        self._stop()
        with httpx.Client(timeout=_PATIENCE) as client:
            while True:
                before = self.last
                page = client.get(f"{next(self._urls)}/api/changes?after={before}&limit=200")
                assert page.status_code == 200, page.text
                self._take_page(page)
                if self.last == before:
                    return self.heard

    def _stop(self) -> None:
        if self._thread.is_alive() and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun.set()
        following = asyncio.create_task(self._follow())
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait({following, over}, return_when=asyncio.FIRST_COMPLETED)
        for task in (following, over):
            task.cancel()
        (failure, _) = await asyncio.gather(following, over, return_exceptions=True)
        if isinstance(failure, Exception):
            self.wrong.append(f"the consumer failed: {failure!r}")

    async def _follow(self) -> None:
        timeout = httpx.Timeout(_SILENCE)
        async with httpx.AsyncClient(timeout=timeout) as client:
            while True:
                url = next(self._urls)
                with contextlib.suppress(httpx.HTTPError):
                    # First what is there, then what comes.
                    page = await client.get(f"{url}/api/changes", params={"after": self.last})
                    self._take_page(page)
                    if page.status_code == 200:
                        await self._stream(client, url)
                self.cuts += 1
                await asyncio.sleep(_PAUSE)

    async def _stream(self, client: httpx.AsyncClient, url: str) -> None:
        headers = {"Last-Event-ID": str(self.last)}
        async with client.stream("GET", f"{url}/api/changes/stream", headers=headers) as reply:
            if not self._is_good(reply):
                return
            event: dict[str, str] = {}
            async for line in reply.aiter_lines():
                name, _, value = line.partition(":")
                if line:
                    event[name] = value.strip()
                    continue
                if "data" in event:
                    self._take_event(event)
                event = {}

    def _take_event(self, event: dict[str, str]) -> None:
        change = json.loads(event["data"])
        heard = Heard(change["seq"], change["kind"], change["movie_id"], change["version"])
        if (event["id"], event["event"]) != (str(heard.seq), heard.kind):
            self.wrong.append(f"{event} is not what its data says")
        self.heard.append(heard)

    def _take_page(self, reply: httpx.Response) -> None:
        if not self._is_good(reply):
            return
        page = reply.json()
        self.heard += [
            Heard(change["seq"], change["kind"], change["movie_id"], change["version"])
            for change in page["data"]
        ]
        if page["next_after"] != self.last:
            self.wrong.append(f"a page up to {self.last} goes on after {page['next_after']}")

    def _is_good(self, reply: httpx.Response) -> bool:
        if reply.status_code != 200 and reply.status_code not in _TROUBLE:
            self.wrong.append(f"{reply.request.url} answered {reply.status_code}")
        return reply.status_code == 200

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
