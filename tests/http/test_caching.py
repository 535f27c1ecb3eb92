"""CACHE: reading through a cache over REST, and `watchly serve` with a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.http.conftest import Client, Configure
from tests.services import NO_CERTIFICATES, Service, as_url, run, wait_until
from tests.valkeys import ValkeyServer

pytestmark = pytest.mark.anyio

POSITION = "Watchly-Position"


async def checks(client: Client) -> dict[str, str]:
    response = await client.get("/health/ready")
    assert response.status_code == 200
    found: dict[str, str] = response.json()["checks"]
    return found


async def shows(client: Client, condition: str) -> None:
    """Wait until health says that the cache does so: what it says may be a second old."""
    deadline = time.monotonic() + 30
    while (await checks(client))["cache"] != condition:
        assert time.monotonic() < deadline, "the cache was not seen so in time"
        await asyncio.sleep(0.005)  # between looks, not in place of one


async def in_use(client: Client) -> None:
    cached = client.container.cached()
    assert cached is not None
    deadline = time.monotonic() + 30
    while not cached.in_use:
        assert time.monotonic() < deadline, "the cache was not used in time"
        await asyncio.sleep(0.005)  # between looks, not in place of one


async def test_a_cache_of_the_process_shows_whether_it_is_in_use(configure: Configure) -> None:
    async with Client(configure(CACHE="local")) as client:
        await shows(client, "up")
        movie = await client.added(genre="Crime")
        seen = {POSITION: str(client.container.database().position)}
        for _ in range(3):
            got = await client.get(f"/api/movies/{movie.id}", headers=seen)
            assert (got.status_code, got.headers["etag"]) == (200, '"v1"')
            listed = await client.get("/api/movies", headers={**seen, "Prefer": "count=exact"})
            assert (len(listed.json()["data"]), listed.json()["total"]) == (1, 1)
            genres = await client.get("/api/genres", headers=seen)
            assert genres.json() == {"data": [{"genre": "Crime", "movies": 1}]}
            unchanged = await client.get(f"/api/movies/{movie.id}", headers={**seen, "If-None-Match": '"v1"'})
            assert unchanged.status_code == 304


async def test_what_is_written_is_based_on_what_is_there_and_not_on_what_is_kept(
    configure: Configure,
) -> None:
    async with Client(configure(CACHE="local")) as client:
        await in_use(client)
        movie = await client.added()
        for version in range(1, 20):
            await client.get(f"/api/movies/{movie.id}")
            patched = await client.patch(
                f"/api/movies/{movie.id}",
                json={"title": f"Heat {version}"},
                headers={"If-Match": f'"v{version}"'},
            )
            assert patched.status_code == 200
            seen = await client.get(f"/api/movies/{movie.id}", headers={POSITION: patched.headers[POSITION]})
            assert seen.json() == patched.json()


async def test_a_shared_cache_that_is_down_only_degrades(configure: Configure, tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "valkey") as server:
        async with Client(configure(CACHE="shared", VALKEY_URL=server.url)) as client:
            await in_use(client)
            movie = await client.added()
            server.stop()
            await shows(client, "degraded")
            assert (await client.get("/health/ready")).json()["status"] == "degraded"
            for _ in range(5):
                assert (await client.get(f"/api/movies/{movie.id}")).status_code == 200
                assert (await client.get("/api/movies")).status_code == 200


def test_without_a_cache_none_is_shown(tmp_path: Path) -> None:
    shown = run("doctor", WATCHLY_HOME=str(tmp_path), DATABASE_URL="memory:", COLUMNS="200")
    assert "Valkey" not in shown.stdout


def test_doctor_asks_the_shared_cache_and_does_not_show_its_password(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "valkey", "--user", "films", "on", ">s3cret", "~*", "+@all") as server:
        variables = {
            "WATCHLY_HOME": str(tmp_path),
            "DATABASE_URL": "memory:",
            "CACHE": "shared",
            "VALKEY_URL": server.url.replace("://", "://films:s3cret@"),
            "COLUMNS": "200",
        }
        well = run("doctor", **variables)
        assert well.returncode == 0, well.stdout + well.stderr
        assert f"Valkey at {server.url.removeprefix('valkey://')}" in well.stdout
        assert "keeps what is put" in well.stdout
    gone = run("doctor", **variables)
    assert gone.returncode == 1
    assert "FAILS: cache: " in gone.stdout
    for shown in (well, gone):
        assert "s3cret" not in shown.stdout + shown.stderr


def test_a_shared_cache_without_an_address_stops_the_start(tmp_path: Path) -> None:
    refused = run("serve", WATCHLY_HOME=str(tmp_path), DATABASE_URL="memory:", CACHE="shared")
    assert refused.returncode == 1
    assert "VALKEY_URL is missing, and CACHE is shared; an example: VALKEY_URL=valkey://" in refused.stderr


@pytest.fixture
def api(tmp_path: Path, database_url: str, valkey_server: ValkeyServer) -> Iterator[httpx.Client]:
    """A service of two workers."""
    variables = {
        "DATABASE_URL": as_url(database_url),
        "SECRET_KEY": "k" * 32,
        "WATCHLY_HOME": str(tmp_path / "home"),
        "WORKERS": "2",
        "CACHE": "shared",
        "VALKEY_URL": valkey_server.url,
    }
    with Service(tmp_path / "log", **variables) as service, httpx.Client(base_url=service.url) as client:
        yield client


def test_workers_read_what_was_written_at_its_position_and_soon_without(api: httpx.Client) -> None:
    place = api.post("/api/movies", json={"title": "Heat"}).headers["Location"]
    for number in range(20):
        for _ in range(3):
            with httpx.Client(base_url=api.base_url, verify=NO_CERTIFICATES) as another:
                assert another.get(place).status_code == 200
        patched = api.patch(place, json={"title": f"Heat {number}"})
        for _ in range(3):
            with httpx.Client(base_url=api.base_url, verify=NO_CERTIFICATES) as another:
                seen = another.get(place, headers={POSITION: patched.headers[POSITION]})
                assert seen.json() == patched.json()

        def is_everywhere() -> bool:
            with httpx.Client(base_url=api.base_url, verify=NO_CERTIFICATES) as another:
                return bool(another.get(place).json() == patched.json())  # noqa: B023 - called at once

        wait_until(is_everywhere, "it was seen without a position")


def test_hits_and_misses_of_all_workers_are_shown(api: httpx.Client) -> None:
    place = api.post("/api/movies", json={"title": "Heat"}).headers["Location"]

    def counted(outcome: str, level: str) -> float:
        name = f'watchly_cache_reads_total{{level="{level}",outcome="{outcome}"}} '
        page = api.get("/metrics").text
        return sum(float(line.removeprefix(name)) for line in page.splitlines() if line.startswith(name))

    def is_counted() -> bool:
        with httpx.Client(base_url=api.base_url, verify=NO_CERTIFICATES) as another:
            another.get(place)
        return counted("miss", "none") > 0 and counted("hit", "local") > 0

    wait_until(is_counted, "hits and misses were shown")
    page = api.get("/metrics").text
    assert "watchly_workers 2.0" in page
    assert "watchly_cache_hit_age_seconds_count" in page
