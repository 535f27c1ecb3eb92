"""Tokens that are read by published keys, and what becomes of them when nobody answers as they should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.forgeries import jwk_of
from tests.households import split
from tests.publishers import Publisher, publishing
from tests.receivers import Behaviour, answer, flood, hang, leave, linger, stream, trickle
from tests.services import wait_until

from watchly_adapters.security import PublishedKeys
from watchly_core.errors import NotSignedIn, Unavailable
from watchly_http.fetching import fetching

pytestmark = pytest.mark.anyio

#: Seconds for a request where it is tried what becomes of it when they are over.
SHORT: Final = 0.3
#: Seconds within which whatever has to happen has happened.
DEADLINE: Final = 30.0


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as publisher:
        yield publisher


class Times:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Times:
    return Times()


@pytest.fixture
def keys(publisher: Publisher, ticks: Times) -> Iterator[PublishedKeys]:
    keys = PublishedKeys(publisher.url, timeout=DEADLINE, ticks=ticks)
    yield keys
    keys.close()


async def refused(keys: PublishedKeys, *tokens: str) -> None:
    for token in tokens:
        with pytest.raises(NotSignedIn):
            await keys.read(token)


async def test_the_keys_are_fetched_once_for_all_who_need_them_and_kept(
    publisher: Publisher, keys: PublishedKeys
) -> None:
    tokens = [publisher.token(str(number)) for number in range(1, 51)]
    claims = await asyncio.gather(*map(keys.read, tokens))
    assert [each.subject for each in claims] == [str(number) for number in range(1, 51)]
    await asyncio.gather(*map(keys.read, tokens))
    assert publisher.asked == 1
    assert keys.known == 1
    (request,) = publisher.receiver.received
    assert request.headers["cache-control"] == "no-cache"
    assert "authorization" not in request.headers


async def test_a_new_key_is_fetched_when_a_token_names_it(
    publisher: Publisher, keys: PublishedKeys, ticks: Times
) -> None:
    old = publisher.token()
    await keys.read(old)
    publisher.rotate()
    ticks.now += 1
    await keys.read(publisher.token())
    await keys.read(old)
    assert publisher.asked == 2


async def test_tokens_by_keys_that_nobody_knows_cause_no_storm_of_requests(
    publisher: Publisher, keys: PublishedKeys, ticks: Times
) -> None:
    with publishing() as another:
        unknown = [another.token(str(number)) for number in range(1, 51)]
        await keys.read(publisher.token())
        for round_ in range(1, 4):
            await refused(keys, *unknown)
            assert publisher.asked == round_
            ticks.now += 1
    await keys.read(publisher.token())


async def test_what_is_no_token_asks_nobody(publisher: Publisher, keys: PublishedKeys) -> None:
    await refused(keys, "", "a.b.c", publisher.token().replace(".", "", 1), "x" * 5_000)
    assert publisher.asked == 0


async def test_a_key_that_is_not_published_any_more_counts_until_the_next_fetch(
    publisher: Publisher, keys: PublishedKeys
) -> None:
    old = publisher.token()
    await keys.read(old)
    publisher.rotate(at_once=True)
    await keys.read(old)
    await keys.fetch()
    await refused(keys, old)
    await keys.read(publisher.token())


async def test_known_keys_count_while_nobody_answers(
    publisher: Publisher, keys: PublishedKeys, ticks: Times
) -> None:
    old = publisher.token()
    await keys.read(old)
    publisher.receiver.choose = lambda _: answer(503)
    with pytest.raises(Unavailable, match="answered 503"):
        await keys.fetch()
    with pytest.raises(Unavailable, match="answered 503"):
        keys.check()
    await keys.read(old)
    publisher.rotate()
    new = publisher.token()
    ticks.now += 1
    # Nobody knows whether it is good: to refuse it would end a session that may be.
    with pytest.raises(Unavailable):
        await keys.read(new)
    publisher.receiver.choose = publisher.published
    ticks.now += 1
    await keys.read(new)
    keys.check()


def _with(**changes: object) -> Callable[[Publisher], bytes]:
    def document(publisher: Publisher) -> bytes:
        (key,) = publisher.tokens.public(publisher.keys)
        return msgspec.json.encode({"keys": [{**key, **changes}]})

    return document


#: What passes for no key, whatever signs with it.
NO_KEYS: Final[dict[str, Callable[[Publisher], bytes]]] = {
    "nothing": lambda _: b"",
    "a page": lambda _: b"<!doctype html><title>Sign in</title>",
    "no text": lambda _: b"\xff\xfe",
    "null": lambda _: b"null",
    "a list": lambda publisher: b"[" + publisher.document() + b"]",
    "no keys": lambda _: b'{"keys":[]}',
    "keys that are numbers": lambda _: b'{"keys":[1,2]}',
    "keys that are texts": lambda _: b'{"keys":["x"]}',
    "keys in an object": lambda _: b'{"keys":{"a":{}}}',
    "an empty key": lambda _: b'{"keys":[{}]}',
    "deep brackets": lambda _: b"[" * 60_000,
    "deep brackets in a key": lambda _: b'{"keys":[{"kid":' + b"[" * 60_000,
    "too much": lambda publisher: publisher.document()[:-2] + b'],"x":"' + b"x" * 70_000 + b'"}',
    "no name": _with(kid=None),
    "a number for a name": _with(kid=7),
    "a key that encrypts": _with(use="enc"),
    "another kind": _with(kty="RSA"),
    "a secret": _with(kty="oct", k="c2VjcmV0"),
    "another curve": _with(crv="P-384"),
    "no curve": _with(crv=None),
    "half a point": _with(y=None),
    "a point off the curve": _with(y="A" * 43),
    "a point of too few bytes": _with(x="AAAA"),
    "a point that is no text": _with(x=7),
    "a private key": _with(d="A" * 43),
}


@pytest.mark.parametrize("name", NO_KEYS)
async def test_an_answer_without_keys_leaves_those_that_are_known(
    name: str, publisher: Publisher, keys: PublishedKeys
) -> None:
    token = publisher.token()
    await keys.read(token)
    body = NO_KEYS[name](publisher)
    publisher.receiver.choose = lambda _: answer(200, body)
    with pytest.raises(Unavailable, match="does not answer with keys for ES256"):
        await keys.fetch()
    await keys.read(token)


@pytest.mark.parametrize("name", ["nothing for long", "500", "no keys"])
async def test_the_query_of_the_address_is_told_nobody(name: str, publisher: Publisher) -> None:
    keys = PublishedKeys(f"{publisher.url}?key=canary", timeout=SHORT)
    publisher.receiver.choose = lambda _: BAD.get(name, answer(200, b'{"keys":[]}'))
    with pytest.raises(Unavailable) as refusal:
        await keys.fetch()
    assert publisher.url in str(refusal.value)
    assert "canary" not in str(refusal.value)


async def test_keys_of_other_kinds_are_passed_over(publisher: Publisher, keys: PublishedKeys) -> None:
    own = msgspec.json.decode(publisher.document(), type=dict[str, list[object]])["keys"]
    other = {**jwk_of(ec.generate_private_key(ec.SECP256R1())), "kid": "another"}
    odd = [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "b"}, {"kty": "oct", "k": "YQ", "kid": "c"}]
    body = msgspec.json.encode({"keys": [*odd, other, *own], "more": True})
    publisher.receiver.choose = lambda _: answer(200, body)
    await keys.read(publisher.token())
    assert keys.known == 2


BAD: Final[dict[str, Behaviour]] = {
    "404": answer(404, b"{}"),
    "500": answer(500),
    "a redirect": answer(302, Location="http://127.0.0.1:1/"),
    "no content": answer(204),
    "nothing": leave,
    "nothing for long": hang,
    "a header without end": trickle,
    "headers without end": flood,
    "promises": linger,
    "a body without end": stream,
}


@pytest.mark.parametrize("name", BAD)
async def test_whatever_answers_in_its_place_nobody_is_refused_and_nobody_waits_for_ever(
    name: str, publisher: Publisher
) -> None:
    keys = PublishedKeys(publisher.url, timeout=SHORT)
    publisher.receiver.choose = lambda _: BAD[name]
    tokens = [publisher.token(str(number)) for number in range(1, 11)]
    async with asyncio.timeout(DEADLINE):
        done, failed = split(await asyncio.gather(*map(keys.read, tokens), return_exceptions=True))
    assert done == []
    assert {type(error) for error in failed} == {Unavailable}
    assert {error.retry_after for error in failed if isinstance(error, Unavailable)} == {1}
    assert str(failed[0]).startswith("keys: ")
    assert "\n" not in str(failed[0])
    await refused(keys, "a.b.c")
    publisher.receiver.choose = publisher.published
    async with asyncio.timeout(DEADLINE), fetching(keys, every=0.01):
        while not keys.known:  # noqa: ASYNC110 - it is known by nothing else
            await asyncio.sleep(0.005)  # between looks, not in place of one
        await keys.read(tokens[0])


async def test_nobody_at_home_is_no_refusal() -> None:
    with publishing() as publisher:
        token = publisher.token()
    keys = PublishedKeys(publisher.url)
    with pytest.raises(Unavailable, match="refused"):
        await keys.read(token)
    keys.close()


async def test_after_the_end_nobody_is_asked(publisher: Publisher, keys: PublishedKeys) -> None:
    keys.close()
    with pytest.raises(Unavailable):
        await keys.read(publisher.token())
    assert publisher.asked == 0


async def test_whoever_leaves_takes_the_keys_from_nobody(publisher: Publisher, keys: PublishedKeys) -> None:
    first, second = (asyncio.create_task(keys.read(publisher.token())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).subject == "7"
    assert publisher.asked == 1


# ---- while the service runs ----


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait in a thread, for the loop has to go on."""
    await asyncio.to_thread(wait_until, condition, what)


async def test_they_are_fetched_at_the_start_and_now_and_then(publisher: Publisher) -> None:
    keys = PublishedKeys(publisher.url)
    old = publisher.token()
    async with fetching(keys, every=0.01):
        await until(lambda: keys.known == 1, "the keys were fetched")
        await keys.read(old)
        publisher.rotate()
        await until(lambda: keys.known == 2, "the new one was fetched before it signed")
        publisher.rotate(at_once=True)
        await until(lambda: keys.known == 1, "the old ones were forgotten")
        await refused(keys, old)
    asked = publisher.asked
    await refused(keys, old)
    assert publisher.asked in {asked, asked + 1}  # one may have been under way


async def test_it_is_told_once_that_they_cannot_be_fetched_and_once_that_they_can(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    keys = PublishedKeys(publisher.url)
    publisher.receiver.choose = lambda _: answer(503)
    async with fetching(keys, every=0.01):
        await until(lambda: publisher.asked > 5, "it was tried often")
        publisher.receiver.choose = publisher.published
        await until(lambda: keys.known == 1, "they were fetched")
        await until(lambda: len(caplog.records) > 1, "that was told")
    told = [(record.levelname, str(record.msg)) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert "answered 503" in told[0][1]


async def test_nothing_to_fetch_is_nothing_to_do() -> None:
    before = asyncio.all_tasks()
    async with fetching(None):
        assert asyncio.all_tasks() == before
