"""Direct uploads over REST: tickets to this service, and to Cloudinary."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.hostile import png_chunk
from tests.http.conftest import Client, Configure, faults_in, movie_in, problem_in
from tests.http.test_images import FILES, PNG

from watchly_adapters.container import NOTIFICATIONS
from watchly_adapters.testing.cloudinary import CloudinaryEmulator
from watchly_core import Movie
from watchly_core.images import ImageState, Ticket, is_key

pytestmark = pytest.mark.anyio


async def issued(client: Client, movie: Movie, content: bytes = PNG, kind: str = "image/png") -> Ticket:
    response = await client.post(
        f"/api/movies/{movie.id}/image/tickets", json={"content_type": kind, "bytes": len(content)}
    )
    assert response.status_code == 201, response.text
    return msgspec.json.decode(response.content, type=Ticket)


async def complete(client: Client, movie: Movie, key: str, **headers: str) -> httpx.Response:
    return await client.post(
        f"/api/movies/{movie.id}/image/tickets/{key}/complete",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


async def send(client: Client, ticket: Ticket, content: bytes = PNG, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.request(
        ticket.method, ticket.url, content=content, headers={**ticket.headers, **named}
    )


async def test_an_image_is_uploaded_by_a_ticket(client: Client) -> None:
    movie = await client.added()
    ticket = await issued(client, movie)
    assert is_key(ticket.key)
    assert ticket.method == "PUT"

    sent = await send(client, ticket)
    response = await complete(client, movie, ticket.key, If_Match='"v1"')

    assert (sent.status_code, sent.headers["upload-offset"]) == (204, str(len(PNG)))
    assert response.status_code == 200, response.text
    shown = movie_in(response)
    assert (shown.version, response.headers["etag"]) == (2, '"v2"')
    assert shown.image is not None
    assert shown.image.key == ticket.key
    assert (await client.get(shown.image_url or "")).content == PNG
    assert movie_in(await complete(client, movie, ticket.key)) == shown


async def test_an_upload_goes_on_where_it_ended(client: Client) -> None:
    movie = await client.added()
    ticket = await issued(client, movie)
    size = len(PNG)

    async def ask() -> tuple[int, str]:
        reply = await send(client, ticket, b"", Content_Range=f"bytes */{size}")
        return reply.status_code, reply.headers["upload-offset"]

    assert await ask() == (202, "0")
    first = await send(client, ticket, PNG[:40], Content_Range=f"bytes 0-39/{size}")
    assert (first.status_code, first.headers["upload-offset"]) == (202, "40")
    assert await ask() == (202, "40")
    early = await complete(client, movie, ticket.key)
    problem_in(early, "upload_conflict")
    assert early.headers["upload-offset"] == "40"
    again = await send(client, ticket, PNG[30:], Content_Range=f"bytes 30-{size - 1}/{size}")
    problem_in(again, "upload_conflict")
    assert again.headers["upload-offset"] == "40"
    last = await send(client, ticket, PNG[40:], Content_Range=f"bytes 40-{size - 1}/{size}")
    assert (last.status_code, await ask()) == (204, (204, str(size)))
    assert (await complete(client, movie, ticket.key)).status_code == 200
    problem_in(await send(client, ticket), "image_conflict")


async def test_what_a_ticket_is_for(client: Client) -> None:
    movie = await client.added()
    ticket = await issued(client, movie)
    size = len(PNG)

    problem_in(await send(client, ticket, PNG + b"x"), "too_large")
    problem_in(await send(client, ticket, Content_Type="image/gif"), "unsupported_media_type")
    problem_in(await send(client, ticket, Content_Encoding="gzip"), "unsupported_media_type")
    problem_in(await send(client, ticket, PNG[:9], Content_Range=f"bytes 0-8/{size + 1}"), "image_unreadable")
    for header in ("bytes 0-8/*", "bytes 8-0/9", "bytes 0-9/9", "x", "", f"bytes 0-{'9' * 30}/{'9' * 31}"):
        problem_in(await send(client, ticket, PNG[:9], Content_Range=header), "malformed_request")
    problem_in(await send(client, ticket, PNG[:9], Content_Range=f"bytes 0-7/{size}"), "malformed_request")
    forged = msgspec.structs.replace(ticket, url=ticket.url.replace("signature=", "signature=0"))
    problem_in(await send(client, forged), "signature_rejected")
    problem_in(await client.put(f"/images/{ticket.key}", content=PNG), "signature_rejected")
    problem_in(await client.put(f"{ticket.url}&x=1", content=PNG), "invalid_parameter")
    problem_in(await client.put("/images/nothing", content=PNG), "not_found")


async def test_what_was_uploaded_is_looked_into(client: Client) -> None:
    movie = await client.added()
    ticket = await issued(client, movie, FILES["gif"])
    await send(client, ticket, FILES["gif"])

    problem_in(await complete(client, movie, ticket.key), "image_unreadable")

    assert await client.current(movie.id) == movie
    assert client.ledger(movie.id)[ticket.key].state is ImageState.DISCARDED
    problem_in(await complete(client, movie, ticket.key), "image_conflict")
    problem_in(await client.get(f"/images/{ticket.key}"), "not_found")


async def test_a_ticket_is_asked_for_in_order(client: Client) -> None:
    movie = await client.added()
    address = f"/api/movies/{movie.id}/image/tickets"

    problem_in(await client.post(address, content=b"{}"), "unsupported_media_type")
    problem_in(
        await client.post(address, content=b"{", headers={"Content-Type": "application/json"}),
        "malformed_json",
    )
    for path in ("01", "999"):
        problem_in(await client.post(f"/api/movies/{path}/image/tickets", json=[]), "not_found")
    bodies: tuple[tuple[Any, set[str]], ...] = (
        ([], {"#"}),
        ({}, {"#/content_type", "#/bytes"}),
        ({"content_type": 1, "bytes": "9"}, {"#/content_type", "#/bytes"}),
        ({"content_type": "image/png", "bytes": 0}, {"#/bytes"}),
        ({"content_type": "image/png", "bytes": True}, {"#/bytes"}),
        ({"content_type": "image/png", "bytes": 1.5}, {"#/bytes"}),
        ({"content_type": "image/png", "bytes": 9, "name": "x"}, {"#/name"}),
    )
    for body, places in bodies:
        refused = await client.post(address, json=body)
        assert {place for place, _ in faults_in(refused)} == places
        assert refused.json()["title"] == "Invalid ticket"
    wanted = {"content_type": "text/html", "bytes": 9}
    problem_in(await client.post(address, json=wanted), "unsupported_media_type")
    wanted = {"content_type": "image/png", "bytes": 10**12}
    problem_in(await client.post(address, json=wanted), "too_large")
    assert client.ledger(movie.id) == {}


async def test_a_ticket_belongs_to_its_movie(client: Client) -> None:
    first, second = await client.added(), await client.added()
    ticket = await issued(client, first)
    await send(client, ticket)

    for movie, key in ((second, ticket.key), (first, "0" * 32), (first, "x")):
        problem_in(await complete(client, movie, key), "not_found")
    problem_in(await complete(client, first, ticket.key, If_Match='"v9"'), "version_conflict")
    problem_in(await complete(client, first, ticket.key, If_Match="v9"), "malformed_request")
    assert (await complete(client, first, ticket.key, If_Match='"v1"')).status_code == 200


# ---- Cloudinary ----


@pytest.fixture
def emulator() -> Iterator[CloudinaryEmulator]:
    with CloudinaryEmulator() as emulator:
        yield emulator


@pytest.fixture
async def cloudy(configure_fakes: Configure, emulator: CloudinaryEmulator) -> AsyncIterator[Client]:
    """The API before an emulated Cloudinary."""
    async with Client(configure_fakes(IMAGE_STORE_URL=emulator.url)) as client:
        yield client


async def post_form(ticket: Ticket, content: bytes = PNG) -> httpx.Response:
    async with httpx.AsyncClient() as browser:
        return await browser.request(
            ticket.method,
            ticket.url,
            data=dict(ticket.fields),
            files={"file": ("poster.png", content)},
            headers=dict(ticket.headers),
        )


async def test_a_browser_posts_straight_to_cloudinary(cloudy: Client, emulator: CloudinaryEmulator) -> None:
    movie = await cloudy.added()
    ticket = await issued(cloudy, movie)
    assert (ticket.method, ticket.url.partition("/v1_1/")[0]) == ("POST", emulator.upload_prefix)

    problem_in(await complete(cloudy, movie, ticket.key), "upload_conflict")
    assert (await post_form(ticket)).status_code == 200
    response = await complete(cloudy, movie, ticket.key)

    assert response.status_code == 200, response.text
    shown = movie_in(response)
    assert shown.image is not None
    assert (shown.image.width, shown.image.height, shown.image.format) == (6, 4, "png")
    assert ticket.key in (shown.image_url or "")
    problem_in(await cloudy.get(f"/images/{ticket.key}"), "not_found")


async def test_what_cloudinary_has_must_be_what_the_ticket_allows(
    cloudy: Client, emulator: CloudinaryEmulator
) -> None:
    movie = await cloudy.added()
    ticket = await issued(cloudy, movie, b"x" * 9)
    refused = await post_form(msgspec.structs.replace(ticket, fields={**ticket.fields, "public_id": "mine"}))
    assert refused.status_code == 401
    assert (await post_form(ticket, FILES["gif"])).status_code == 400
    file = FILES["png"][:-12] + png_chunk(b"waTc", bytes(70_000)) + FILES["png"][-12:]
    assert (await post_form(ticket, file)).status_code == 200

    problem_in(await complete(cloudy, movie, ticket.key), "too_large")

    assert emulator.assets == {}
    assert await cloudy.current(movie.id) == movie


def _signed(emulator: CloudinaryEmulator, body: bytes, at: float) -> dict[str, str]:
    timestamp = str(int(at))
    signed = body + timestamp.encode() + emulator.api_secret.encode()
    signature = hashlib.sha1(signed).hexdigest()  # noqa: S324 - as Cloudinary signs by default
    return {"X-Cld-Timestamp": timestamp, "X-Cld-Signature": signature, "Content-Type": "application/json"}


async def test_cloudinary_tells_of_an_upload(cloudy: Client, emulator: CloudinaryEmulator) -> None:
    movie = await cloudy.added()
    ticket = await issued(cloudy, movie)
    body = json.dumps(
        {"notification_type": "upload", "public_id": ticket.fields["public_id"], "bytes": 1}
    ).encode()
    signed = _signed(emulator, body, time.time())

    problem_in(await cloudy.post(NOTIFICATIONS, content=body, headers=signed), "upload_conflict")
    await post_form(ticket)
    for headers in (
        {},
        {**signed, "X-Cld-Signature": "0" * 40},
        _signed(emulator, body, time.time() - 3 * 3600),
        _signed(emulator, body, time.time() + 3600),
        _signed(emulator, body + b" ", time.time()),
    ):
        problem_in(await cloudy.post(NOTIFICATIONS, content=body, headers=headers), "signature_rejected")
    assert await cloudy.current(movie.id) == movie
    for _ in range(2):
        assert (await cloudy.post(NOTIFICATIONS, content=body, headers=signed)).status_code == 204

    shown = await cloudy.current(movie.id)
    assert (shown.version, shown.image and shown.image.key) == (2, ticket.key)
    assert movie_in(await complete(cloudy, movie, ticket.key)) == shown


async def test_other_stores_tell_nothing(client: Client) -> None:
    problem_in(await client.post(NOTIFICATIONS, content=b"{}"), "not_found")


async def test_an_interrupted_store_degrades_readiness(cloudy: Client, emulator: CloudinaryEmulator) -> None:
    movie = await cloudy.added()
    emulator.faults.down()

    for _ in range(5):
        response = await cloudy.put(
            f"/api/movies/{movie.id}/image", content=PNG, headers={"Content-Type": "image/png"}
        )
        problem_in(response, "unavailable")

    ready = await cloudy.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["checks"] == {"database": "up", "image_store": "degraded"}
