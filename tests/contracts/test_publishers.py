"""The suite of publishers, on a real NATS server and on a real receiver of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from standardwebhooks import Webhook
from tests.brokers import Nats, kept, looking
from tests.receivers import Behaviour, Received, answer, hang, leave, receiving

from watchly_adapters.nats import STREAM, SUBJECTS, NatsPublisher
from watchly_adapters.testing.publishers import Mood, Post, PublisherContract, Told, message
from watchly_adapters.webhooks import WebhookPublisher
from watchly_core.messages import MEDIA_TYPE, Target
from watchly_core.webhooks import new_secret

SECRET = new_secret()
#: Seconds after which there is no answer.
SECONDS = 1.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nats]:
    """One for each test: what one has left to a server that hung, that may take in later."""
    with Nats(tmp_path) as server:
        yield server


class TestNats(PublisherContract):
    @pytest.fixture
    async def post(self, server: Nats) -> AsyncIterator[Post]:
        async with looking(server) as stream:
            await stream.add_stream(_stream())
        mood: Mood = "takes"

        async def told() -> Sequence[Told]:
            found = await kept(server)
            for each in found:
                assert each.subject.startswith("watchly.movie_")
                assert each.headers["Content-Type"] == MEDIA_TYPE
            return [Told(each.id, each.body, each.headers.get("traceparent")) for each in found]

        async def become(wanted: Mood) -> None:
            nonlocal mood
            match mood:
                case "hangs":
                    server.thaw()
                case "gone":
                    server.start()
                case _:
                    pass
            mood = wanted
            match wanted:
                case "hangs":
                    server.freeze()
                case "gone":
                    server.stop()
                case _:
                    most = 1 if wanted == "refuses" else -1
                    full = StreamConfig(
                        STREAM, subjects=[SUBJECTS], max_bytes=most, discard=DiscardPolicy.NEW
                    )
                    async with looking(server) as stream:
                        await stream.update_stream(full)

        publisher = NatsPublisher(server.url, timeout=SECONDS)
        yield Post(publisher, told, become, too_large=2_000_000)
        if mood != "takes":
            await become("takes")
        await publisher.close()

    async def test_a_message_is_kept_once_under_its_subject(self, post: Post, server: Nats) -> None:
        for _ in range(3):
            await post.publisher.publish(message(1))
            await post.publisher.publish(message(2, movie_id=8))
        found = await kept(server)
        assert [each.subject for each in found] == ["watchly.movie_added.7", "watchly.movie_revised.8"]


def _stream(room: int | None = None) -> StreamConfig:
    """One that refuses what it has no room for: for so many messages, or for any."""
    full = StreamConfig(STREAM, subjects=[SUBJECTS], discard=DiscardPolicy.NEW)
    if room == 0:
        full.max_bytes = 1
    else:
        full.max_msgs = room
    return full


class TestWebhooks(PublisherContract):
    @pytest.fixture
    async def post(self) -> AsyncIterator[Post]:
        moods: dict[Mood, Behaviour] = {
            "takes": answer(204),
            "refuses": answer(500),
            "hangs": hang,
            "gone": leave,
        }
        mood: Mood = "takes"
        too_large = 200_000

        def choose(received: Received) -> Behaviour:
            return answer(413) if len(received.body) >= too_large else moods[mood]

        async def become(wanted: Mood) -> None:
            nonlocal mood
            mood = wanted

        with receiving() as receiver:
            receiver.choose = choose

            async def told() -> Sequence[Told]:
                for each in receiver.taken:
                    assert each.headers["content-type"] == MEDIA_TYPE
                return [
                    Told(_verified(each), each.body, each.headers.get("traceparent"))
                    for each in receiver.taken
                ]

            target = Target("webhook-1", receiver.url, SECRET)
            publisher = WebhookPublisher(target, allow_private=True, timeout=SECONDS)
            yield Post(publisher, told, become, too_large)
            await asyncio.wait_for(publisher.close(), 10)


def _verified(received: Received) -> str:
    """The id of a message, whose signature has to hold for it."""
    Webhook(SECRET).verify(received.body, received.headers, json_parse=False)
    return received.headers["webhook-id"]
