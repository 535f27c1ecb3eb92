"""NATS, on a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from tests.brokers import Nats, kept, looking

from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.nats import DUPLICATE_WINDOW, STREAM, NatsPublisher
from watchly_core import Catalogue
from watchly_core.dispatch import Dispatch
from watchly_core.errors import PublishRejected, Unavailable
from watchly_core.messages import Message, Target
from watchly_core.ports import Publisher
from watchly_core.relays import Relay
from watchly_core.tasks import cancelled
from watchly_core.traces import traced_by

pytestmark = pytest.mark.anyio

MESSAGE = Message("7-3", 12, 7, "movie_revised", '{"specversion":"1.0","data":"é 🎬"}'.encode())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nats]:
    with Nats(tmp_path) as server:
        yield server


@asynccontextmanager
async def publisher(url: str, seconds: float = 5.0) -> AsyncIterator[NatsPublisher]:
    made = NatsPublisher(url, timeout=seconds)
    try:
        yield made
    finally:
        await made.close()


async def test_a_message_is_kept_with_its_id_and_once(server: Nats) -> None:
    async with publisher(server.url) as broker:
        for _ in range(3):
            await broker.publish(MESSAGE)
    async with publisher(server.url) as another:
        await another.publish(MESSAGE)
    (found,) = await kept(server)
    assert (found.subject, found.id, found.body) == ("watchly.movie_revised.7", "7-3", MESSAGE.body)
    async with looking(server) as stream:
        config = (await stream.stream_info(STREAM)).config
    assert (config.subjects, config.duplicate_window) == (["watchly.>"], DUPLICATE_WINDOW)


async def test_a_message_goes_on_in_the_trace_of_who_sends_it_or_of_its_event(server: Nats) -> None:
    made, sent = f"00-{1:032x}-{1:016x}-01", f"00-{1:032x}-{2:016x}-01"
    traced = Message("7-4", 13, 7, "movie_revised", b'{"traceparent":"%s"}' % made.encode())
    async with publisher(server.url) as broker:
        await broker.publish(MESSAGE)
        await broker.publish(traced)
        with traced_by(sent):
            await broker.publish(Message("7-5", 14, 7, "movie_revised", traced.body))
            await broker.publish(Message("7-6", 15, 7, "movie_revised", MESSAGE.body))
    assert [message.headers.get("traceparent") for message in await kept(server)] == [None, made, sent, sent]


async def test_many_at_once_share_a_connection(server: Nats) -> None:
    messages = [Message(f"{number}-1", number, number, "movie_added", b"{}") for number in range(1, 201)]
    async with publisher(server.url) as broker:
        await asyncio.gather(*map(broker.publish, messages))
    assert {message.id for message in await kept(server)} == {message.id for message in messages}


async def test_a_stream_that_is_there_is_left_as_it_is(server: Nats) -> None:
    async with looking(server) as stream:
        await stream.add_stream(StreamConfig(name="FILMS", subjects=["watchly.*.*"], max_msgs=5))
    async with publisher(server.url) as broker:
        await broker.publish(MESSAGE)
    async with looking(server) as stream:
        info = await stream.stream_info("FILMS")
        assert (info.config.max_msgs, info.state.messages) == (5, 1)
        assert [each.config.name for each in await stream.streams_info()] == ["FILMS"]


async def test_a_message_that_is_too_large_is_for_good(server: Nats) -> None:
    async with looking(server) as stream:
        await stream.add_stream(StreamConfig(name=STREAM, subjects=["watchly.>"], max_msg_size=200))
    async with publisher(server.url) as broker:
        # The last one alone fits, but not with its headers.
        for size in (1_000, 2_000_000, 2**20 - 10):
            with pytest.raises(PublishRejected, match="larger"):
                await broker.publish(Message("7-4", 13, 7, "movie_revised", b"x" * size))
        await broker.publish(MESSAGE)


async def test_a_stream_that_is_full_may_have_room_later(server: Nats) -> None:
    async with looking(server) as stream:
        full = StreamConfig(name=STREAM, subjects=["watchly.>"], max_msgs=1)
        full.discard = nats.js.api.DiscardPolicy.NEW
        await stream.add_stream(full)
    other = Message("8-1", 13, 8, "movie_added", b"{}")
    async with publisher(server.url) as broker:
        await broker.publish(MESSAGE)
        with pytest.raises(Unavailable, match="maximum messages"):
            await broker.publish(other)
        async with looking(server) as stream:
            await stream.purge_stream(STREAM)
        await broker.publish(other)


async def test_a_server_that_was_gone_is_found_again(server: Nats) -> None:
    async with publisher(server.url) as broker:
        await broker.publish(MESSAGE)
        server.stop()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await broker.publish(MESSAGE)
        server.start()
        await broker.publish(Message("7-4", 13, 7, "movie_revised", b"{}"))
    assert [message.id for message in await kept(server)] == ["7-3", "7-4"]


async def test_a_server_that_does_not_answer_has_a_deadline(server: Nats) -> None:
    async with publisher(server.url, 1.0) as broker:
        await broker.publish(MESSAGE)
        server.freeze()
        began = time.monotonic()
        for _ in range(2):  # the first on a connection that is there, the second without
            with pytest.raises(Unavailable):
                await broker.publish(MESSAGE)
        assert time.monotonic() - began < 10


async def test_a_server_that_reads_no_more_has_a_deadline(server: Nats) -> None:
    large = [Message(f"{number}-1", number, number, "movie_added", b"x" * 900_000) for number in range(8)]
    async with publisher(server.url, 1.0) as broker:
        await broker.publish(MESSAGE)
        server.freeze()
        began = time.monotonic()
        errors = await asyncio.gather(*map(broker.publish, large), return_exceptions=True)
        assert {type(error) for error in errors} == {Unavailable}
    assert time.monotonic() - began < 10


async def test_a_stream_that_was_removed_is_made_again(server: Nats) -> None:
    async with publisher(server.url) as broker:
        await broker.publish(MESSAGE)
        async with looking(server) as stream:
            await stream.delete_stream(STREAM)
        with pytest.raises(Unavailable, match="no stream"):
            await broker.publish(MESSAGE)
        await broker.publish(MESSAGE)
    assert [message.id for message in await kept(server)] == ["7-3"]


async def test_nobody_there_and_no_jetstream_are_no_success(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with publisher(f"nats://127.0.0.1:{unused.getsockname()[1]}") as broker:
            with pytest.raises(Unavailable, match="broker"):
                await broker.publish(MESSAGE)
    with Nats(tmp_path, "--user", "films", "--pass", "secret") as closed:
        async with publisher(closed.url) as broker:
            with pytest.raises(Unavailable, match=r"(?i)authorization"):
                await broker.publish(MESSAGE)
        async with publisher(closed.url.replace("nats://", "nats://films:secret@")) as broker:
            await broker.publish(MESSAGE)


async def test_nothing_is_said_in_the_clear_where_the_url_asks_for_tls(tmp_path: Path) -> None:
    with Nats(tmp_path, "--user", "films", "--pass", "secret", "-DV") as clear:
        url = clear.url.replace("nats://", "tls://films:secret@")
        async with publisher(url) as broker:
            for ask in (partial(broker.publish, MESSAGE), broker.ping):
                with pytest.raises(Unavailable, match="TLS"):
                    await ask()
    assert "[CONNECT " not in (tmp_path / "log").read_text()


async def test_a_sign_of_life_changes_nothing(server: Nats) -> None:
    async with publisher(server.url, 1) as broker:
        await broker.ping()
        async with looking(server) as stream:
            assert await stream.streams_info() == []
        server.freeze()
        with pytest.raises(Unavailable):
            await broker.ping()


async def test_a_relay_loses_nothing_while_the_server_is_down_and_comes_back(server: Nats) -> None:
    database = MemoryDatabase()
    catalogue = Catalogue(database.queries, database.transactions)
    made: list[Publisher] = []

    def connect() -> Publisher:
        made.append(NatsPublisher(server.url, timeout=1))
        return made[-1]

    def no_webhook(target: Target) -> Publisher:
        raise AssertionError(target)

    dispatch = Dispatch(
        Relay(catalogue, database.transactions),
        database.transactions,
        database.signal,
        brokers={"nats": connect},
        webhook=no_webhook,
    )

    async def write(count: int) -> None:
        for _ in range(count):
            movie = await catalogue.add({"title": "Heat"})
            await catalogue.revise(movie.id, {"genre": "Crime"})

    async def until(condition: Callable[[Target], bool]) -> None:
        async with asyncio.timeout(60):
            while True:
                async with database.transactions() as tx:
                    if any(map(condition, await tx.relays.targets())):
                        return
                await asyncio.sleep(0.01)  # between looks, not in place of one

    await write(50)
    task = asyncio.create_task(dispatch.run(asyncio.Event()))
    try:
        await until(lambda target: target.position > 0)
        server.stop()
        await write(50)
        await until(lambda target: target.failures > 1)
        server.start()
        await until(lambda target: target.position == 200)
    finally:
        await cancelled(task)
    found = await kept(server)
    assert sorted(message.id for message in found) == sorted(
        f"{movie_id}-{version}" for movie_id in range(1, 101) for version in (1, 2)
    )
    versions: dict[str, list[str]] = {}
    for message in found:
        movie, _, version = message.id.partition("-")
        versions.setdefault(movie, []).append(version)
        assert json.loads(message.body)["id"] == message.id
    assert set(map(tuple, versions.values())) == {("1", "2")}
    assert len(made) == 1
