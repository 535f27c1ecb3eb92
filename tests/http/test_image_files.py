"""How image files are sent: small ones at once, large ones in pieces, as fast as the client takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from dependency_injector import providers
from litestar import Litestar
from litestar.types import HTTPReceiveMessage, Message
from tests.http.cast import running
from tests.http.conftest import Configure, problem_in

from watchly_adapters.container import Container
from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.memory import MemoryImages
from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import put
from watchly_core.images import Rendition
from watchly_http.image_files import SMALL_BYTES

pytestmark = pytest.mark.anyio

KEY: Final = "5a" * 16
PATH: Final = f"/images/{KEY}"
LARGE: Final = 3_000_000
#: What waits longer waits for ever.
_LONG: Final = 90


class Line:
    """A client that asks for the image, and what it got.

    Attributes:
        pieces: of the body that were sent.
        ended: whether the reply was, as it should be.
    """

    def __init__(self, *, leaves: bool = False) -> None:
        self._leaves = leaves
        self.pieces: list[bytes] = []
        self.ended = False

    async def ask(self, app: Litestar) -> None:
        """Get the image."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        async with asyncio.timeout(_LONG):
            await app(scope, self.receive, self.send)  # type: ignore[arg-type]  # as servers give it

    async def receive(self) -> HTTPReceiveMessage:
        """Nothing, or that it has left."""
        if not self._leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the reply."""
        if message["type"] == "http.response.body":
            self.pieces.append(message["body"])
            self.ended = not message["more_body"]


class Stuck(Line):
    """A client that takes one piece, and is told how late it is when it does not take the next."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    async def send(self, message: Message) -> None:
        """Take a part of the reply, or not."""
        if self.pieces:
            self._pass_time(61)
            await asyncio.Event().wait()
        await super().send(message)


@asynccontextmanager
async def serving(container: Container, size: int, tmp_path: Path) -> AsyncIterator[Litestar]:
    """The application, with an image of this size in a directory."""
    store = FilesystemImages(tmp_path)
    await put(store, KEY, samples.png(size))
    container.images.override(providers.Object(store))
    async with running(container) as (app, _):
        yield app


def open_files(folder: Path) -> list[str]:
    """The files below a folder that this process has open, where the system tells."""
    told = Path("/proc/self/fd")
    links = [path.resolve() for path in told.iterdir()] if told.is_dir() else []
    return [str(link) for link in links if link.is_relative_to(folder)]


@pytest.mark.parametrize(("size", "pieces"), [(SMALL_BYTES, 1), (SMALL_BYTES + 1, 3)])
async def test_an_image_is_sent_at_once_if_it_is_small(
    configure_fakes: Configure, tmp_path: Path, size: int, pieces: int
) -> None:
    async with serving(configure_fakes(), size, tmp_path) as app:
        line = Line()
        await line.ask(app)

    assert b"".join(line.pieces) == samples.png(size)
    assert (len(line.pieces), line.ended) == (pieces, True)


async def test_a_client_that_leaves_gets_no_more_of_a_large_image(
    configure_fakes: Configure, tmp_path: Path
) -> None:
    async with serving(configure_fakes(), LARGE, tmp_path) as app:
        line = Line(leaves=True)
        await line.ask(app)

        assert 0 < len(b"".join(line.pieces)) < LARGE
        assert open_files(tmp_path) == []


async def test_a_client_that_stops_taking_a_large_image_is_given_up(
    configure_fakes: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, late = asyncio.get_running_loop(), 0.0
    now = loop.time

    def pass_time(seconds: float) -> None:
        nonlocal late
        late += seconds

    async with serving(configure_fakes(), LARGE, tmp_path) as app:
        line = Stuck(pass_time)
        with monkeypatch.context() as clock:
            clock.setattr(loop, "time", lambda: now() + late)
            await line.ask(app)

        assert len(line.pieces) == 1
        assert not line.ended
        assert open_files(tmp_path) == []


class Going(MemoryImages):
    """A store whose images go while they are looked for."""

    async def content(self, key: str, rendition: Rendition | None = None, *, at_most: int) -> bytes | None:
        """See the port."""
        content = await super().content(key, rendition, at_most=at_most)
        await self.delete(key)
        return content


async def test_a_large_image_that_goes_before_it_is_opened_is_not_found(configure_fakes: Configure) -> None:
    container, store = configure_fakes(), Going()
    container.images.override(providers.Object(store))
    async with running(container) as (_, client):
        await put(store, KEY, samples.png(LARGE))

        problem_in(await client.get(PATH), "not_found")


async def test_an_image_that_is_gone_is_not_found_whatever_the_client_has(configure_fakes: Configure) -> None:
    container = configure_fakes()
    async with running(container) as (_, client):
        store = container.images()
        await put(store, KEY, samples.png(1_000))
        assert (await client.get(PATH, headers={"If-None-Match": "*"})).status_code == 304
        await store.delete(KEY)

        for headers in ({}, {"If-None-Match": "*"}, {"Range": "bytes=0-9"}):
            problem_in(await client.get(PATH, headers=headers), "not_found")
