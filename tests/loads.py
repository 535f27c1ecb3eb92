"""Clients at work beside what happens to a service, and what became of their requests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final, Literal, NamedTuple, TypeAlias

import httpx

from tests.services import NO_CERTIFICATES
from watchly_adapters.testing import samples

Kind: TypeAlias = Literal["read", "write", "edit", "upload"]

#: Requests of each kind before and after what happens, and seconds in which they are done.
_ENOUGH: Final[Mapping[Kind, int]] = {"read": 150, "write": 30, "upload": 2, "edit": 2}
_PATIENCE: Final = 120.0
#: Seconds after which a client sends again what failed.
_PAUSE: Final = 0.05
#: An upload is sent in so many pieces, with seconds between them: longer than a stop is told before.
_PIECES: Final = 10
_BETWEEN: Final = 0.15


class Clients(NamedTuple):
    """How many of each kind there are, and how many requests each of them sends in a second at the most."""

    readers: int
    writers: int
    editors: int = 0
    rate: float = 1_000.0


class Load:
    """What became of the requests.

    Attributes:
        done: how many there were of each kind that did what they should.
        failed: how many did not, by the status or the name of the error.
        written: the titles of movies that are there, by all that their writers were told.
        edited: the versions that movies were told to have, by their ids; all have images.
        longest: seconds that somebody waited for a reply, but for those that take long to send.
    """

    def __init__(self, name: str, url: str, bearer: str) -> None:
        self._name, self._url, self._bearer = name, url, bearer
        self.done: Counter[Kind] = Counter()
        self.failed: dict[Kind, Counter[str]] = {
            "read": Counter(),
            "write": Counter(),
            "edit": Counter(),
            "upload": Counter(),
        }
        self.written: list[str] = []
        self.edited: dict[int, int] = {}
        self.longest = 0.0
        self._over = False

    def __str__(self) -> str:
        """In short."""
        done = ", ".join(f"{number:,} {kind}s" for kind, number in self.done.items())
        failed = {kind: dict(why) for kind, why in self.failed.items() if why}
        return f"{done}; failed: {failed or 'none'}; longest wait {1000 * self.longest:.0f} ms"

    async def beside(self, clients: Clients, happening: Callable[[], Awaitable[None]]) -> None:
        """Let clients work before, while and after something happens."""
        headers = {"Authorization": f"Bearer {self._bearer}"}
        kinds = [
            *([self._read] * clients.readers),
            *([self._write] * clients.writers),
            *([self._edit] * clients.editors),
        ]
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for number, kind in enumerate(kinds):
                client = await stack.enter_async_context(
                    httpx.AsyncClient(base_url=self._url, headers=headers, verify=NO_CERTIFICATES, timeout=30)
                )
                tasks.create_task(kind(client, number, 1 / clients.rate))
            await self._more(clients)
            await happening()
            await self._more(clients)
            self._over = True

    async def _more(self, clients: Clients) -> None:
        """Wait until each kind of client has done some more."""
        at_work: dict[Kind, int] = {
            "read": clients.readers,
            "write": clients.writers,
            "upload": clients.editors,
        }
        wanted = {kind: self.done[kind] + _ENOUGH[kind] for kind, number in at_work.items() if number}
        async with asyncio.timeout(_PATIENCE):
            while any(self.done[kind] < number for kind, number in wanted.items()):  # noqa: ASYNC110 - who counts has enough to do
                await asyncio.sleep(0.01)

    async def _read(self, client: httpx.AsyncClient, _: int, pace: float) -> None:
        while not self._over:
            for path in ("/api/movies?limit=20", "/api/movies/1", "/api/genres"):
                await self._send("read", client, "GET", path, pace=pace)

    async def _write(self, client: httpx.AsyncClient, writer: int, pace: float) -> None:
        number = 0
        while not self._over:
            title = f"{self._name}-{writer}-{number}"
            await self._add(client, title, pace)
            number += 1

    async def _add(self, client: httpx.AsyncClient, title: str, pace: float) -> httpx.Response:
        """Add a movie, however often that has to be sent."""
        key = {"Idempotency-Key": title}
        body = {"title": title}
        while (
            added := await self._send(
                "write", client, "POST", "/api/movies", json=body, headers=key, pace=pace
            )
        ) is None:
            assert self.failed["write"].total() < 1_000, self.failed
            await asyncio.sleep(_PAUSE)  # as a client would
        self.written.append(title)
        return added

    async def _edit(self, client: httpx.AsyncClient, editor: int, pace: float) -> None:
        """Add movies, send their images piece by piece, and change what came of that."""
        number = 0
        image = samples.UPRIGHT["png"]
        while not self._over:
            added = await self._add(client, f"{self._name}-{editor}-{number}", pace)
            number += 1
            place = added.headers["Location"]
            headers = {
                "Content-Type": "image/png",
                "Content-Length": str(len(image)),
                "If-Match": added.headers["ETag"],
            }
            shown = await self._send(
                "upload", client, "PUT", f"{place}/image", content=_slowly(image), headers=headers, pace=pace
            )
            if shown is None:
                continue
            match = {"If-Match": shown.headers["ETag"]}
            edited = await self._send(
                "edit", client, "PATCH", place, json={"genre": "Drama"}, headers=match, pace=pace
            )
            last = shown if edited is None else edited
            self.edited[last.json()["id"]] = last.json()["version"]

    async def _send(
        self, kind: Kind, client: httpx.AsyncClient, method: str, path: str, *, pace: float, **more: object
    ) -> httpx.Response | None:
        """Send a request; None if it fails. The next one is sent when its time has come."""
        began = time.monotonic()
        try:
            response = await client.request(method, path, **more)  # type: ignore[arg-type] # body and headers
        except httpx.HTTPError as error:
            self.failed[kind][type(error).__name__] += 1
            return None
        finally:
            took = time.monotonic() - began
            if kind != "upload":
                self.longest = max(self.longest, took)
            if took < pace:
                await asyncio.sleep(pace - took)
        if not response.is_success:
            self.failed[kind][str(response.status_code)] += 1
            return None
        self.done[kind] += 1
        return response


async def _slowly(content: bytes) -> AsyncIterator[bytes]:
    size = -(-len(content) // _PIECES)
    for start in range(0, len(content), size):
        await asyncio.sleep(_BETWEEN if start else 0)
        yield content[start : start + size]
