"""Streams of changes end soon after their clients may not follow them any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from litestar import Litestar
from litestar.types import Message
from tests.http.cast import PASSWORD, Cast, Member, running
from tests.http.conftest import Configure

from watchly_adapters.container import Container
from watchly_core.api_keys import ApiKeyDraft
from watchly_core.people import Role, UserPatch

pytestmark = pytest.mark.anyio

#: Seconds within which whatever happens to a user or a key has its effect.
SOON: Final = 5.0
#: Seconds in which a stream begins, or a change comes.
PATIENCE: Final = 10.0


class Following:
    """What one client gets."""

    def __init__(self) -> None:
        self.status = 0
        self.text = ""
        self._news = asyncio.Event()
        self._left = asyncio.Event()

    async def receive(self) -> Message:
        """Nothing, up to when the client leaves."""
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the reply."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.text += message["body"].decode()
        self._news.set()

    def leave(self) -> None:
        """Go away."""
        self._left.set()

    async def until(self, word: str) -> None:
        """Wait for a word of the stream."""
        async with asyncio.timeout(PATIENCE):
            while word not in self.text:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def following(app: Litestar, bearer: str) -> AsyncIterator[tuple[Following, asyncio.Task[None]]]:
    """A client that follows the changes, and the exchange, which is done when the stream has ended."""
    path = "/api/changes/stream"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {bearer}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "extensions": {},
    }
    client = Following()
    task = asyncio.create_task(app(scope, client.receive, client.send))  # type: ignore[arg-type]
    try:
        await client.until("retry:")
        assert client.status == 200
        yield client, task
    finally:
        client.leave()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([task])


async def _sign_out(container: Container, member: Member) -> None:
    await container.sessions().sign_out(member.signed_in.refresh_token)


async def _remove(container: Container, member: Member) -> None:
    await container.accounts().remove(member.user.id)


async def _demote(container: Container, member: Member) -> None:
    await container.accounts().revise(member.user.id, UserPatch(role=Role.VIEWER))


async def _change_password(container: Container, member: Member) -> None:
    await container.accounts().change_password(
        PASSWORD, "another incident", address="", actor=member.user.actor
    )


async def _revoke(container: Container, member: Member) -> None:
    await container.api_keys().revoke(member.key.key.id)


#: What happens, and whether it is the key by which the stream is followed.
ENDS: Final[dict[str, tuple[Callable[[Container, Member], Awaitable[None]], bool]]] = {
    "signed out": (_sign_out, False),
    "removed": (_remove, False),
    "removed, by key": (_remove, True),
    "demoted": (_demote, False),
    "changed the password": (_change_password, False),
    "key revoked": (_revoke, True),
}


async def test_a_stream_ends_with_what_its_client_was_let_in_for(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on", PUBLIC_READ="false")
    cast = Cast(container)
    staying = await cast.member(Role.VIEWER)
    members = {name: await cast.member(Role.EDITOR) for name in ENDS}
    async with running(container) as (app, _), AsyncExitStack() as stack:
        streams = {
            name: await stack.enter_async_context(
                following(app, member.key.secret if ENDS[name][1] else member.token)
            )
            for name, member in members.items()
        }
        good = [
            await stack.enter_async_context(following(app, bearer))
            for bearer in (staying.token, staying.key.secret, await cast.system_token())
        ]

        for name, member in members.items():
            await ENDS[name][0](container, member)
        began = time.monotonic()
        done, open_ = await asyncio.wait([task for _, task in streams.values()], timeout=SOON)
        print(f"ended after {time.monotonic() - began:.1f} s")  # noqa: T201 - `-s` shows it

        assert not [name for name, (_, task) in streams.items() if task in open_]
        assert len(done) == len(ENDS)
        await container.catalogue().add({"title": "Heat"})
        for client, task in good:
            await client.until("Heat")
            assert not task.done()
        for client, _ in streams.values():
            assert ": the end" in client.text
            assert "Heat" not in client.text


async def test_a_stream_ends_with_the_token_that_it_was_opened_by(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on", PUBLIC_READ="false")
    brief = timedelta(seconds=2)
    token = await Cast(container).system_token(Role.VIEWER, brief)
    draft = ApiKeyDraft(name="brief", role=Role.VIEWER, expires_at=datetime.now(UTC) + brief)
    key = (await container.api_keys().add(draft)).secret
    async with (
        running(container) as (app, _),
        following(app, token) as (client, ended),
        following(app, key) as (other, ended_too),
    ):
        async with asyncio.timeout(brief.total_seconds() + SOON):
            await asyncio.gather(ended, ended_too)

        assert ": the end" in client.text
        assert ": the end" in other.text
