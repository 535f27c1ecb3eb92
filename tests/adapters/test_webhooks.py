"""Webhooks against a real receiver on this machine."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from tests.receivers import (
    Behaviour,
    Receiver,
    answer,
    flood,
    hang,
    leave,
    linger,
    promise,
    receiving,
    stream,
    trickle,
)

from watchly_adapters.webhooks import WebhookPublisher, is_public, refuse_private
from watchly_core.errors import InvalidTarget, Overloaded, PublishRejected, Unavailable
from watchly_core.messages import Message, Target
from watchly_core.traces import traced_by
from watchly_core.webhooks import new_secret, sign

pytestmark = pytest.mark.anyio

SECRET = new_secret()
MESSAGE = Message("7-3", 12, 7, "movie_revised", '{"specversion":"1.0","data":"é 🎬"}'.encode())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@asynccontextmanager
async def publisher(
    url: str, *, allow_private: bool = True, seconds: float = 15.0
) -> AsyncIterator[WebhookPublisher]:
    made = WebhookPublisher(Target("webhook-1", url, SECRET), allow_private=allow_private, timeout=seconds)
    try:
        yield made
    finally:
        await made.close()


async def test_a_message_arrives_signed_so_that_the_standard_library_accepts_it(receiver: Receiver) -> None:
    async with publisher(receiver.url + "?film=é".replace("é", "%C3%A9")) as hook:
        await hook.publish(MESSAGE)
    (received,) = receiver.received
    assert received.body == MESSAGE.body
    assert received.path == "/hook?film=%C3%A9"
    assert received.headers["webhook-id"] == "7-3"
    assert received.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert Webhook(SECRET).verify(received.body, received.headers) == {"specversion": "1.0", "data": "é 🎬"}
    for other in (SECRET.replace("whsec_", "whsec_AAAA"), new_secret()):
        with pytest.raises(WebhookVerificationError):
            Webhook(other).verify(received.body, received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.body + b" ", received.headers)


async def test_a_message_goes_on_in_the_trace_of_who_sends_it_or_of_its_event(receiver: Receiver) -> None:
    made, sent = f"00-{1:032x}-{1:016x}-01", f"00-{1:032x}-{2:016x}-01"
    traced = Message("7-4", 13, 7, "movie_revised", b'{"traceparent":"%s"}' % made.encode())
    async with publisher(receiver.url) as hook:
        await hook.publish(MESSAGE)
        await hook.publish(traced)
        with traced_by(sent):
            await hook.publish(traced)
            await hook.publish(MESSAGE)
    assert [each.headers.get("traceparent") for each in receiver.received] == [None, made, sent, sent]
    for received in receiver.received:
        Webhook(SECRET).verify(received.body, received.headers)


def test_the_signature_is_the_one_of_the_specification() -> None:
    """The example of the reference implementations' own tests."""
    body = b'{"test": 2432232314}'
    at = dt.datetime.fromtimestamp(1_614_265_330, dt.UTC)
    signed = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body)
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signed["webhook-timestamp"] == "1614265330"


async def test_connections_are_used_again(receiver: Receiver) -> None:
    receiver.choose = lambda _: answer(200, b"thanks")
    async with publisher(receiver.url) as hook:
        for _ in range(5):
            await hook.publish(MESSAGE)
        assert len(hook._pools.pools) == 1  # noqa: SLF001 - what is kept open shows nowhere else
        (pool,) = (hook._pools.pools[key] for key in hook._pools.pools.keys())  # noqa: SLF001, SIM118
        assert (pool.num_connections, pool.num_requests) == (1, 5)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (answer(500), "500"),
        (answer(404), "404"),
        (answer(302, Location="/elsewhere"), "302"),
        (answer(307, Location="/elsewhere"), "307"),
        (answer(101), "101"),
        (leave, "webhook"),
        (flood, "100 headers"),
    ],
)
async def test_what_is_no_success_may_be_one_later(
    receiver: Receiver, behaviour: Behaviour, words: str
) -> None:
    receiver.choose = lambda _: behaviour
    async with publisher(receiver.url, seconds=5) as hook:
        with pytest.raises(Unavailable, match=words) as raised:
            await hook.publish(MESSAGE)
        assert raised.value.retry_after == 1
        # Asked once, and nowhere else.
        assert [received.path for received in receiver.received] == ["/hook"]
        receiver.choose = lambda _: answer(200)
        await hook.publish(MESSAGE)


async def test_a_late_answer_is_not_that_of_the_next_message(receiver: Receiver) -> None:
    receiver.choose = lambda _: promise if len(receiver.received) == 1 else answer(500)
    async with publisher(receiver.url, seconds=5) as hook:
        for words in ("103", "500"):
            with pytest.raises(Unavailable, match=words):
                await hook.publish(MESSAGE)


async def test_too_large_is_for_good(receiver: Receiver) -> None:
    receiver.choose = lambda _: answer(413)
    async with publisher(receiver.url) as hook:
        with pytest.raises(PublishRejected, match="413"):
            await hook.publish(MESSAGE)


@pytest.mark.parametrize(
    ("behaviour", "seconds", "overloaded"),
    [
        (answer(503, Retry_After="120"), 120, True),
        (answer(429), 1, True),
        (answer(429, Retry_After="999999999999"), 3600, True),
        (answer(429, Retry_After="-5"), 1, True),
        (answer(429, Retry_After="soon"), 1, True),
        (answer(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"), 1, True),
        (answer(503, Retry_After="Thu, 01 Jan 2099 00:00:00 GMT"), 3600, True),
        (answer(500, Retry_After="120"), 120, False),
        (answer(503), 1, False),
        (answer(410), 3600, False),
    ],
)
async def test_who_wants_to_be_left_alone_is(
    receiver: Receiver, behaviour: Behaviour, seconds: int, overloaded: bool
) -> None:
    receiver.choose = lambda _: behaviour
    async with publisher(receiver.url) as hook:
        with pytest.raises(Unavailable) as raised:
            await hook.publish(MESSAGE)
    assert (raised.value.retry_after, isinstance(raised.value, Overloaded)) == (seconds, overloaded)


@pytest.mark.parametrize("behaviour", [hang, trickle, linger])
async def test_a_request_ends_when_its_time_is_over(receiver: Receiver, behaviour: Behaviour) -> None:
    receiver.choose = lambda _: behaviour
    began = time.monotonic()
    async with publisher(receiver.url, seconds=0.5) as hook:
        with pytest.raises(Unavailable, match=r"0\.5 s"):
            await hook.publish(MESSAGE)
    assert time.monotonic() - began < 5


async def test_an_answer_without_end_is_an_answer(receiver: Receiver) -> None:
    receiver.choose = lambda _: stream
    began = time.monotonic()
    async with publisher(receiver.url, seconds=0.5) as hook:
        await hook.publish(MESSAGE)
    assert time.monotonic() - began < 5


async def test_closing_ends_what_is_under_way(receiver: Receiver) -> None:
    receiver.choose = lambda _: hang
    async with publisher(receiver.url) as hook:
        task = asyncio.create_task(hook.publish(MESSAGE))
        async with asyncio.timeout(10):
            while not receiver.received:  # noqa: ASYNC110 - another thread receives
                await asyncio.sleep(0.005)  # between looks, not in place of one
            await hook.close()
            with pytest.raises(Unavailable):
                await task
        with pytest.raises(Unavailable):
            await hook.publish(MESSAGE)


async def test_nobody_there_is_no_success() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        async with publisher(url) as hook:
            with pytest.raises(Unavailable):
                await hook.publish(MESSAGE)


async def test_tls_is_for_those_who_have_a_certificate(receiver: Receiver) -> None:
    async with publisher(receiver.url.replace("http:", "https:"), seconds=5) as hook:
        with pytest.raises(Unavailable):
            await hook.publish(MESSAGE)
    assert receiver.received == []


# Private addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "0"])
async def test_private_addresses_are_refused_at_the_connection(receiver: Receiver, host: str) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    async with publisher(url, allow_private=False, seconds=5) as hook:
        with pytest.raises(Unavailable, match="WEBHOOK_PRIVATE"):
            await hook.publish(MESSAGE)
    assert receiver.received == []


async def test_a_name_that_means_another_address_by_now_does_not_get_round_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was checked is the one that is connected to: the name is looked up once."""
    look_up, asked = socket.getaddrinfo, list[object]()

    def rebinding(host: str, *args: int, **kwargs: int) -> object:
        asked.append(host)
        real = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return look_up(real, *args, **kwargs)

    def connect(_: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] == "93.184.215.14", "connected to what was not checked"
        raise ConnectionRefusedError("nobody is asked in a test")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket.socket, "connect", connect)
    url = receiver.url.replace("127.0.0.1", "films.example")
    async with publisher(url, allow_private=False, seconds=5) as hook:
        with pytest.raises(Unavailable, match="nobody is asked"):
            await hook.publish(MESSAGE)
        assert len(asked) == 1
        with pytest.raises(Unavailable, match="WEBHOOK_PRIVATE"):
            await hook.publish(MESSAGE)
    assert receiver.received == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::5db8:d70e", True),
        ("0.0.0.0", False),  # noqa: S104 - an example
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.53", False),
        ("169.254.169.254", False),
        ("172.31.255.255", False),
        ("192.168.0.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_private_url_is_refused_early() -> None:
    refuse_private("https://93.184.215.14/hook")
    refuse_private("https://nobody.invalid/hook")
    for url in ("http://127.0.0.1:1/", "http://localhost/", "http://[::1]/", "http://10.0.0.1/"):
        with pytest.raises(InvalidTarget, match="public internet"):
            refuse_private(url)
