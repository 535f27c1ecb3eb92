"""Watchly-Position, and `watchly serve` beside a real replica."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from tests.http.conftest import Client, Configure, movie_in, problem_in
from tests.replicas import Replica, replicated
from tests.services import NO_CERTIFICATES, Service, run, wait_until

from watchly_adapters.postgres import migrate
from watchly_adapters.testing import samples

pytestmark = pytest.mark.anyio

POSITION = "Watchly-Position"
PNG = samples.UPRIGHT["png"]
READS = ("/api/movies", "/api/movies/1", "/api/genres", "/api/movies/export", "/api/movies/1/history")


@pytest.fixture(scope="module")
def replica(reachable_directory: Path) -> Iterator[Replica]:
    """A server with today's schema, and its replica."""
    with replicated(reachable_directory / "replicated-for-http") as replica:
        asyncio.run(migrate(replica.primary_url))
        yield replica


@pytest.fixture(scope="module")
def api(replica: Replica, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of two workers that reads from the replica."""
    folder = tmp_path_factory.mktemp("serve")
    variables = {
        "DATABASE_URL": replica.primary_url,
        "READ_DATABASE_URL": replica.url,
        "SECRET_KEY": "k" * 32,
        "WATCHLY_HOME": str(folder / "home"),
        "WORKERS": "2",
    }
    with Service(folder / "log", **variables) as service, httpx.Client(base_url=service.url) as client:
        wait_until(lambda: checks(client) == {"up"}, "the replica answered")
        yield client


def checks(client: httpx.Client) -> set[str]:
    """What both workers say of the replica, for whoever of them answers."""
    said = set()
    for _ in range(10):
        with httpx.Client(base_url=client.base_url, verify=NO_CERTIFICATES) as another:
            ready = another.get("/health/ready")
            assert ready.status_code == 200, ready.text
            said.add(ready.json()["checks"]["replica"])
            assert ready.json()["status"] == ready.json()["checks"]["replica"]
    return said


def added(client: httpx.Client, title: str = "Heat") -> httpx.Response:
    response = client.post("/api/movies", json={"title": title, "genre": title})
    assert response.status_code == 201, response.text
    return response


def test_a_read_that_sends_the_position_back_sees_the_write(api: httpx.Client, replica: Replica) -> None:
    with replica.paused():
        response = added(api, "Position")
        place, movie = response.headers["Location"], response.json()
        for address in (place, "/api/movies?genre=Position"):
            assert "Position" not in api.get(address).json().get("data", ())
        assert api.get(place).status_code == 404
        assert api.head(place).status_code == 404
        seen = {POSITION: response.headers[POSITION]}
        assert api.get(place, headers=seen).json() == movie
        assert api.head(place, headers=seen).status_code == 200
        assert api.get("/api/movies", params={"genre": "Position"}, headers=seen).json()["data"] == [movie]
        counted = api.get("/api/genres", params={"genre": "Position"}, headers=seen).json()
        assert counted == {"data": [{"genre": "Position", "movies": 1}]}
        exported = api.get("/api/movies/export", params={"genre": "Position"}, headers=seen)
        assert exported.text.count("\n") == 1
        assert len(api.get(f"{place}/history").json()["data"]) == 1
    replica.catch_up()
    assert api.get(place).json() == movie


def test_what_writes_never_looks_at_a_replica_that_is_late(api: httpx.Client, replica: Replica) -> None:
    """Each one follows the last at once, and none of them sends a position."""
    with replica.paused():
        place = added(api).headers["Location"]
        assert api.get(place).status_code == 404
        put = api.put(place, json={"title": "Heat 2"}, headers={"If-Match": '"v1", "v7"'})
        assert (put.status_code, put.headers["ETag"]) == (200, '"v2"')
        patch = api.patch(place, json={"genre": "Crime"}, headers={"If-None-Match": '"v1"'})
        assert (patch.status_code, patch.headers["ETag"]) == (200, '"v3"')
        assert api.patch(place, json=[]).status_code == 422
        image = api.put(f"{place}/image", content=PNG, headers={"Content-Type": "image/png"})
        assert image.status_code == 200, image.text
        form = api.put(f"{place}/image", files={"image": ("x.png", io.BytesIO(PNG), "image/png")})
        assert form.status_code == 200, form.text
        ticket = api.post(f"{place}/image/tickets", json={"content_type": "image/png", "bytes": len(PNG)})
        assert ticket.status_code == 201, ticket.text
        told = ticket.json()
        sent = api.request(told["method"], told["url"], headers=told["headers"], content=PNG)
        assert sent.status_code < 300, sent.text
        for _ in range(2):
            complete = api.post(f"{place}/image/tickets/{told['key']}/complete")
            assert complete.status_code == 200, complete.text
        assert api.post(f"{place}/revert", json={"version": 99}).status_code == 422
        assert api.post(f"{place}/revert", json={"version": 1}).json()["title"] == "Heat"
        assert api.delete(f"{place}/image").status_code == 404
        removed = api.delete(place, headers={"If-Match": '"v1", "v7"'})
        assert removed.status_code == 204, removed.text
        assert api.get(place).status_code == 404


def test_a_made_up_position_is_answered_all_the_same(api: httpx.Client) -> None:
    place = added(api).headers["Location"]
    assert api.get(place, headers={POSITION: "FFFFFFFF/FFFFFFFF"}).status_code == 200


def test_no_read_fails_while_the_replica_is_killed_and_comes_back(
    api: httpx.Client, replica: Replica
) -> None:
    place = added(api, "Killed").headers["Location"]
    replica.catch_up()
    ended = threading.Event()
    answers: list[int] = []

    def read() -> None:
        with httpx.Client(base_url=api.base_url, timeout=60) as client:
            while not ended.is_set():
                addresses = (place, "/api/movies?q=killed", "/api/genres")
                answers.extend(client.get(address).status_code for address in addresses)

    def go_on() -> None:
        before = len(answers)
        wait_until(lambda: len(answers) > before + 100, "there were more answers")

    readers = [threading.Thread(target=read) for _ in range(4)]
    with ExitStack() as stack:
        for reader in readers:
            reader.start()
            stack.callback(reader.join)
        stack.callback(ended.set)
        go_on()
        replica.kill()
        try:
            wait_until(lambda: checks(api) == {"degraded"}, "the replica was missed")
            go_on()
        finally:
            replica.start()
        wait_until(lambda: checks(api) == {"up"}, "the replica was found again")
        go_on()
    assert set(answers) == {200}
    with replica.paused():
        assert api.get(added(api).headers["Location"]).status_code == 404


def test_doctor_tells_how_far_the_replica_is(replica: Replica, tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": replica.primary_url,
        "SECRET_KEY": "k" * 32,
        "WATCHLY_HOME": str(tmp_path),
        "COLUMNS": "200",
    }
    shown = run("doctor", READ_DATABASE_URL=replica.url, **variables)
    assert shown.returncode == 0, shown.stdout
    assert "bytes behind" in shown.stdout
    shown = run("doctor", READ_DATABASE_URL="postgresql://u:s3cret@127.0.0.1:1/x", **variables)
    assert shown.returncode == 1
    assert "FAILS: database: 127.0.0.1:1/x could not be reached: connection failed" in " ".join(
        shown.stdout.split()
    )
    assert "s3cret" not in shown.stdout


# Whatever is behind the API


async def test_every_write_returns_a_position(client: Client) -> None:
    response = await client.post("/api/movies", json={"title": "Heat"})
    place = response.headers["Location"]
    ticket = await client.post(
        f"{place}/image/tickets", json={"content_type": "image/png", "bytes": len(PNG)}
    )
    told = ticket.json()
    replies = [
        response,
        await client.post("/api/movies", files={"title": (None, "Heat")}),
        await client.put(place, json={"title": "Heat 2"}),
        await client.patch(place, json={"genre": "Crime"}),
        await client.patch(place, json={}),
        await client.put(f"{place}/image", content=PNG, headers={"Content-Type": "image/png"}),
        await client.delete(f"{place}/image"),
        ticket,
    ]
    await client.request(told["method"], told["url"], headers=told["headers"], content=PNG)
    replies += [
        await client.post(f"{place}/image/tickets/{told['key']}/complete"),
        await client.post(f"{place}/revert", json={"version": 1}),
        await client.post("/api/movies/import", content=b'{"title": "Ronin"}\n', headers=NDJSON),
        await client.delete(place),
    ]
    for reply in replies:
        assert reply.status_code < 300, reply.text
        position = reply.headers[POSITION]
        assert (await client.get("/api/movies", headers={POSITION: position})).status_code == 200


NDJSON = {"Content-Type": "application/x-ndjson"}


async def test_reads_and_problems_return_none(client: Client) -> None:
    movie = await client.added()
    await client.added()
    for address in (*READS, "/api/changes", "/health/ready"):
        response = await client.get(address)
        assert response.status_code == 200, address
        assert POSITION not in response.headers
    assert POSITION not in (await client.post("/api/movies", json={})).headers
    stale = await client.delete(f"/api/movies/{movie.id}", headers={"If-Match": '"v9"'})
    assert stale.status_code == 412
    assert POSITION not in stale.headers


@pytest.mark.parametrize("text", ["", "x", "-1", "0/G", "1, 2", "0/123456789", "é"])
async def test_a_position_that_is_none_is_refused_by_its_name(client: Client, text: str) -> None:
    await client.added()
    for address in READS:
        for method in ("GET", "HEAD"):
            response = await client.request(method, address, headers={POSITION.encode(): text.encode()})
            assert response.status_code == 400, address
            if method == "GET":
                assert POSITION in (problem_in(response, "malformed_request").detail)


async def test_the_document_declares_positions(fake_client: Client) -> None:
    paths = (await fake_client.get("/openapi.json")).json()["paths"]
    for address in READS:
        reads = paths[address.replace("/1", "/{movie_id}")]["get"]["parameters"]
        assert POSITION in {parameter["name"] for parameter in reads if parameter["in"] == "header"}
    told = [
        (path, method)
        for path, methods in paths.items()
        for method, operation in methods.items()
        for reply in operation["responses"].values()
        if POSITION in reply.get("headers", {})
    ]
    assert len(told) == 10
    assert {method for _, method in told} == {"post", "put", "patch", "delete"}


async def test_pages_of_other_origins_may_send_and_read_positions(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(CORS_ORIGINS="https://app.example")) as client:
        origin = {"Origin": "https://app.example"}
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": POSITION.lower()}
        allowed = await client.options("/api/movies", headers=origin | asked)
        assert POSITION.lower() in allowed.headers["Access-Control-Allow-Headers"].lower()
        made = await client.post("/api/movies", json={"title": "Heat"}, headers=origin)
        assert movie_in(made).title == "Heat"
        assert POSITION in made.headers["Access-Control-Expose-Headers"]
