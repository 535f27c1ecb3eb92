"""The FastAPI example, asked as its clients would."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from examples.fastapi_service.service import app
from httpx import ASGITransport, AsyncClient

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://films.example") as client,
    ):
        yield client


async def test_movies_are_added_listed_and_revised(client: AsyncClient) -> None:
    added = await client.post("/films", json={"title": " Amélie ", "release_year": 2001})
    assert (added.status_code, added.headers["etag"], added.json()["title"]) == (201, '"v1"', "Amélie")
    await client.post("/films", json={"title": "Heat"})
    place = added.headers["location"]

    revised = await client.patch(place, json={"genre": "Romance"}, headers={"If-Match": '"v1"'})
    assert (revised.status_code, revised.headers["etag"]) == (200, '"v2"')
    assert (await client.get(place)).json() == revised.json()
    late = await client.patch(place, json={"genre": "Drama"}, headers={"If-Match": '"v1"'})
    assert (late.status_code, late.json()["detail"]) == (412, "movie 1 is at version 2, not 1")

    first = (await client.get("/films", params={"limit": 1})).json()
    assert [movie["title"] for movie in first["data"]] == ["Amélie"]
    second = (await client.get("/films", params={"limit": 1, "cursor": first["next"]})).json()
    assert ([movie["title"] for movie in second["data"]], second["next"]) == (["Heat"], None)
    found = (await client.get("/films", params={"q": "amelie"})).json()
    assert found["data"] == [revised.json()]


async def test_what_is_wrong_is_said(client: AsyncClient) -> None:
    invalid = await client.post("/films", json={"title": " ", "release_year": "1995"})
    assert invalid.status_code == 422
    assert [fault["pointer"] for fault in invalid.json()["errors"]] == ["#/title", "#/release_year"]
    assert (await client.get("/films/7")).status_code == 404
    assert (await client.get("/films", params={"limit": 0})).status_code == 400
    assert (await client.get("/films", params={"cursor": "x"})).status_code == 400
    assert (await client.patch("/films/7", json={}, headers={"If-Match": "7"})).status_code == 400
