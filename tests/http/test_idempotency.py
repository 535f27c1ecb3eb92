"""Idempotency-Key over REST."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import IO

import httpx
import msgspec
import pytest
from dependency_injector import providers
from httpx import Response
from tests.http.conftest import Client, Configure, client_of, movie_in, problem_in
from tests.http.test_images import PNG
from tests.http.test_sweeping import often
from tests.http.test_tickets import issued
from tests.http.test_tickets import send as upload

from watchly_adapters.container import Container
from watchly_adapters.memory import MemoryImages
from watchly_core.clocks import utc_now
from watchly_core.expiry import drop_all
from watchly_core.images import Image, ImageState, Ticket
from watchly_core.receipts import RECEIPT_FOR, Claim, KeptReply

pytestmark = pytest.mark.anyio

KEY = "4f1d0f2e-8d1b/~!"
KEYED = {"Idempotency-Key": KEY}
HEAT = {"title": "Heat"}
TYPE = {"Content-Type": "application/json"}


def assert_replayed(response: Response, first: Response) -> None:
    """Byte for byte, but for what differs from request to request."""
    assert first.is_success, first.text
    assert "idempotency-replayed" not in first.headers
    assert response.headers.pop("idempotency-replayed") == "true"
    assert response.status_code == first.status_code
    assert response.content == first.content
    of_each = {"x-request-id", "date", "watchly-position"}
    told, first_told = (
        {name: value for name, value in each.headers.items() if name not in of_each}
        for each in (response, first)
    )
    assert told == first_told


async def total(client: Client) -> int:
    return len((await client.get("/api/movies")).json()["data"])


async def test_a_movie_is_added_once(client: Client) -> None:
    first = await client.post("/api/movies", json=HEAT, headers=KEYED)
    movie = movie_in(first)
    assert (await client.patch(f"/api/movies/{movie.id}", json={"genre": "Crime"})).status_code == 200
    again = await client.post("/api/movies", json=HEAT, headers=KEYED)

    assert_replayed(again, first)
    assert again.headers["location"] == f"/api/movies/{movie.id}"
    assert again.headers["etag"] == '"v1"'
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert await total(client) == 1


async def test_the_reply_outlives_what_it_tells_of(client: Client) -> None:
    first = await client.post("/api/movies", json=HEAT, headers=KEYED)
    assert (await client.delete(first.headers["location"])).status_code == 204
    assert_replayed(await client.post("/api/movies", json=HEAT, headers=KEYED), first)
    assert await total(client) == 0


async def test_without_a_key_each_request_counts(client: Client) -> None:
    for _ in range(2):
        assert (await client.post("/api/movies", json=HEAT)).status_code == 201
    assert (await client.post("/api/movies", json=HEAT, headers=KEYED)).status_code == 201
    other = {"Idempotency-Key": KEY.upper()}
    assert (await client.post("/api/movies", json=HEAT, headers=other)).status_code == 201
    assert await total(client) == 4


async def test_a_key_is_for_one_request(client: Client) -> None:
    body = b'{"title": "Heat"}'
    assert (await client.post("/api/movies", content=body, headers={**KEYED, **TYPE})).status_code == 201
    movie = (await client.get("/api/movies")).json()["data"][0]
    others: list[tuple[str, bytes, dict[str, str]]] = [
        ("/api/movies", b'{"title":"Heat"}', TYPE),
        ("/api/movies/", body, TYPE),
        ("/api/movies?x=1", body, TYPE),
        ("/api/movies", body, {"Content-Type": "application/json; charset=utf-8"}),
        ("/api/movies/import", body, {"Content-Type": "application/x-ndjson"}),
        (
            f"/api/movies/{movie['id']}/image/tickets",
            b'{"content_type": "image/png", "bytes": 5}',
            TYPE,
        ),
    ]
    for path, content, headers in others:
        problem_in(await client.post(path, content=content, headers={**KEYED, **headers}), "key_reused")
    assert await total(client) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "\x7f", "a,\tb"])
async def test_a_key_that_is_none(fake_client: Client, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    response = await fake_client.post("/api/movies", json=HEAT, headers=headers)
    assert "Idempotency-Key" in problem_in(response, "malformed_request").detail
    assert await total(fake_client) == 0


@pytest.mark.parametrize("path", ["", "/import", "/999/revert", "/999/image/tickets"])
async def test_the_type_of_a_body_is_said_before_its_key_and_parameters(
    fake_client: Client, path: str
) -> None:
    headers = {"Idempotency-Key": "two words", "Content-Type": "text/plain"}

    response = await fake_client.post(f"/api/movies{path}?x=1", content=b"{", headers=headers)

    problem_in(response, "unsupported_media_type")


async def test_a_key_is_given_once(fake_client: Client) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    problem_in(await fake_client.post("/api/movies", json=HEAT, headers=twice), "malformed_request")


@pytest.mark.parametrize("key", ["!", "~" * 255])
async def test_the_shortest_key_and_the_longest(client: Client, key: str) -> None:
    headers = {"Idempotency-Key": key}
    first = await client.post("/api/movies", json=HEAT, headers=headers)
    assert_replayed(await client.post("/api/movies", json=HEAT, headers=headers), first)


async def test_what_is_refused_leaves_the_key_free(client: Client) -> None:
    problem_in(await client.post("/api/movies", json={"title": ""}, headers=KEYED), "validation")
    first = await client.post("/api/movies", json=HEAT, headers=KEYED)
    assert first.status_code == 201
    assert_replayed(await client.post("/api/movies", json=HEAT, headers=KEYED), first)


async def test_a_key_under_way_is_told_at_once(configure: Configure) -> None:
    container = configure()
    async with container.database() as database, client_of(container) as client:
        async with database.transactions() as tx:
            await tx.receipts.claim(Claim("anonymous", KEY, b""), utc_now())
            await tx.images.of_movie(1)
            async with asyncio.timeout(10):
                response = await client.post("/api/movies", json=HEAT, headers=KEYED)
            problem_in(response, "request_in_progress")
            assert response.headers["retry-after"] == "1"
        assert (await client.post("/api/movies", json=HEAT, headers=KEYED)).status_code == 201


async def test_of_many_at_once_one_is_done(configure: Configure) -> None:
    container = configure()
    async with container.database(), client_of(container) as client:

        async def send() -> Response:
            while True:
                response = await client.post("/api/movies", json=HEAT, headers=KEYED)
                if response.status_code != 409:
                    return response
                await asyncio.sleep(0.01)  # as a client that is told to come back

        replies = await asyncio.gather(*(send() for _ in range(20)))
        assert {(reply.status_code, reply.content) for reply in replies} == {(201, replies[0].content)}
        assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
        assert len((await client.get("/api/movies")).json()["data"]) == 1


async def test_a_form_is_the_same_whatever_its_boundary(client: Client) -> None:
    def form(title: str = "Heat", name: str = "p.png", content: bytes = PNG) -> Awaitable[Response]:
        files = {"image": (name, content, "image/png")}
        return client.post("/api/movies", data={"title": title}, files=files, headers=KEYED)

    first = await form()
    again = await form()
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert_replayed(again, first)
    for other in (form("Ran"), form(name="q.png"), form(content=PNG + b"\n")):
        problem_in(await other, "key_reused")
    assert await total(client) == 1
    movie = movie_in(first)
    assert [record.state for record in client.ledger(movie.id).values()] == [ImageState.ATTACHED]
    assert client.ledger(0) == {}


async def test_a_form_without_an_image(client: Client) -> None:
    first = await client.post("/api/movies", files={"title": (None, "Heat")}, headers=KEYED)
    assert_replayed(await client.post("/api/movies", files={"title": (None, "Heat")}, headers=KEYED), first)


class Slow(MemoryImages):
    """Keeps the first image when it is told to; later ones at once."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.go = asyncio.Event(), asyncio.Event()

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        if not self.arrived.is_set():
            self.arrived.set()
            await self.go.wait()
        await super().put(key, source, image)


async def test_who_loses_gives_its_image_up(configure: Configure) -> None:
    container = configure()
    images = Slow()
    container.images.override(providers.Object(images))
    async with container.database() as database, client_of(container) as client:

        def send() -> Awaitable[Response]:
            files = {"image": ("p.png", PNG, "image/png")}
            return client.post("/api/movies", data=HEAT, files=files, headers=KEYED)

        slow = asyncio.ensure_future(send())
        async with asyncio.timeout(30):
            await images.arrived.wait()
        first = await send()
        images.go.set()
        assert_replayed(await slow, first)
        assert len((await client.get("/api/movies")).json()["data"]) == 1
        async with database.transactions() as tx:
            assert [record.state for record in await tx.images.of_movie(0)] == [ImageState.DISCARDED]


async def test_an_import_adds_its_movies_once(client: Client) -> None:
    headers = {**KEYED, "Content-Type": "application/x-ndjson"}
    rows = b'{"title": "Heat"}\n{"title": ""}\n' * 300

    def send(query: str = "?on_error=skip") -> Awaitable[Response]:
        return client.post(f"/api/movies/import{query}", content=rows, headers=headers)

    problem_in(await send(""), "validation")  # which keeps nothing
    first = await send()
    assert first.json()["added"] == 300
    assert_replayed(await send(), first)
    problem_in(await send("?on_error=skip&dry_run=true"), "key_reused")
    assert len((await client.get("/api/movies/export")).content.splitlines()) == 300


async def test_a_dry_run_is_answered_alike(client: Client) -> None:
    headers = {**KEYED, "Content-Type": "application/x-ndjson"}
    path, row = "/api/movies/import?dry_run=true", b'{"title": "Heat"}\n'
    first = await client.post(path, content=row, headers=headers)
    assert_replayed(await client.post(path, content=row, headers=headers), first)
    problem_in(await client.post(path, content=row * 2, headers=headers), "key_reused")


async def test_a_revert_is_done_once_though_its_precondition_no_longer_holds(client: Client) -> None:
    movie = movie_in(await client.post("/api/movies", json=HEAT))
    await client.patch(f"/api/movies/{movie.id}", json={"title": "Ronin"})
    path, headers = f"/api/movies/{movie.id}/revert", {**KEYED, "If-Match": '"v2"'}
    first = await client.post(path, json={"version": 1}, headers=headers)
    assert first.status_code == 200
    assert_replayed(await client.post(path, json={"version": 1}, headers=headers), first)
    assert movie_in(await client.get(f"/api/movies/{movie.id}")).version == 3
    other = await client.post(path, json={"version": 2}, headers=headers)
    assert other.json()["code"] == "key_reused"


async def test_a_ticket_is_issued_once(client: Client) -> None:
    movie = await client.added()
    path, body = f"/api/movies/{movie.id}/image/tickets", {"content_type": "image/png", "bytes": len(PNG)}
    first = await client.post(path, json=body, headers=KEYED)
    assert_replayed(await client.post(path, json=body, headers=KEYED), first)
    assert list(client.ledger(movie.id)) == [msgspec.json.decode(first.content, type=Ticket).key]
    assert (await client.delete(f"/api/movies/{movie.id}")).status_code == 204
    assert_replayed(await client.post(path, json=body, headers=KEYED), first)


async def test_a_ticket_is_completed_once(client: Client) -> None:
    movie = await client.added()
    ticket = await issued(client, movie)
    path = f"/api/movies/{movie.id}/image/tickets/{ticket.key}/complete"
    headers = {**KEYED, "If-Match": '"v1"'}
    problem_in(await client.post(path, headers=headers), "upload_conflict")
    await upload(client, ticket)

    first = await client.post(path, headers=headers)
    assert movie_in(first).version == 2
    revised = await client.patch(f"/api/movies/{movie.id}", json={"genre": "Crime"})
    assert movie_in(revised).version == 3
    assert_replayed(await client.post(path, headers=headers), first)
    other = {"Idempotency-Key": "another"}
    third = await client.post(path, headers=other)
    assert movie_in(third) == movie_in(revised)
    assert_replayed(await client.post(path, headers=other), third)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET"])
async def test_other_routes_take_no_notice(fake_client: Client, method: str) -> None:
    movie = await fake_client.added()
    body = HEAT if method in {"PUT", "PATCH"} else None
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "no key")]
    response = await fake_client.request(method, f"/api/movies/{movie.id}", json=body, headers=headers)
    assert response.is_success
    assert "idempotency-replayed" not in response.headers


def _keep(container: Container, until: dt.datetime) -> Callable[[], Awaitable[None]]:
    async def keep() -> None:
        async with container.database().transactions() as tx:
            claim = Claim("anonymous", KEY, b"another request")
            assert await tx.receipts.claim(claim, utc_now()) is None
            await tx.receipts.keep(claim, KeptReply(201, (), b""), until)

    return keep


async def test_a_key_is_free_again_after_a_day(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0")
    async with Client(container) as client:
        client.call(_keep(container, utc_now()))
        first = await client.post("/api/movies", json=HEAT, headers=KEYED)
        assert first.status_code == 201

        async def good_for(period: timedelta) -> int:
            transactions = container.database().transactions
            return await drop_all(
                transactions, lambda tx, limit: tx.receipts.expire(utc_now() + period, limit)
            )

        assert client.call(lambda: good_for(RECEIPT_FOR - timedelta(minutes=5))) == 0
        assert client.call(lambda: good_for(RECEIPT_FOR)) == 1
        second = await client.post("/api/movies", json=HEAT, headers=KEYED)
        assert movie_in(second).id != movie_in(first).id


async def test_old_receipts_go_by_themselves(configure: Configure) -> None:
    container = configure(SWEEP_INTERVAL="0")
    async with Client(container) as client:
        client.call(_keep(container, utc_now()))

        async def sweep() -> int:
            database = container.database()
            # As of long ago the receipt is good: it can be seen until it is gone.
            past = utc_now() - timedelta(days=7)
            claim = Claim("anonymous", KEY, b"another request")
            async with often(container), asyncio.timeout(30):
                looks = 0
                while True:
                    async with database.transactions() as tx:
                        if await tx.receipts.claim(claim, past) is None:
                            return looks
                    looks += 1
                    await asyncio.sleep(0.005)  # between looks, not in place of one

        assert client.call(sweep) >= 0


async def test_a_browser_may_send_a_key_and_read_the_answer(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(CORS_ORIGINS="https://app.example")) as client:
        headers = {**KEYED, "Origin": "https://app.example"}
        for _ in range(2):
            response = await client.post("/api/movies", json=HEAT, headers=headers)
            assert "Idempotency-Replayed" in response.headers["access-control-expose-headers"]
        assert response.headers["idempotency-replayed"] == "true"


async def test_large_bodies_are_told_apart_as_they_stream(configure_fakes: Configure) -> None:
    async with client_of(configure_fakes()) as client:

        async def rows(last: bytes) -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b'{"title": "Heat"}\n' * 1_000
            yield last

        async def send(last: bytes) -> httpx.Response:
            headers = {**KEYED, "Content-Type": "application/x-ndjson"}
            return await client.post("/api/movies/import", content=rows(last), headers=headers)

        first = await send(b'{"title": "Ran"}\n')
        assert first.json()["added"] == 50_001
        assert_replayed(await send(b'{"title": "Ran"}\n'), first)
        problem_in(await send(b'{"title": "Run"}\n'), "key_reused")
