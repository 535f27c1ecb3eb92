"""kill -9 of everything in the middle of writes: what was answered is there, and nothing is half there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from tests.services import Service

from watchly_adapters.embedded import EmbeddedPostgres

CREATES = 200
KILL_AFTER = 60

BROKEN = """
    SELECT coalesce(m.id, e.movie_id)
    FROM movies m FULL JOIN events e ON e.movie_id = m.id
    WHERE m.id IS NULL OR e.id IS NULL OR e.kind <> 'movie_added' OR e.version <> 1 OR m.version <> 1
       OR e.movie ->> 'title' <> m.title OR e.movie ->> 'description' <> m.description
"""


@pytest.fixture
def home(reachable_directory: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    home = reachable_directory / f"kill-{os.getpid()}-{request.node.name.replace('[', '-').rstrip(']')}"
    yield home
    with EmbeddedPostgres(home):
        pass  # the last one to leave stops the server that the killed ones left


async def _create_until_killed(service: Service, kill_database: bool, home: Path) -> dict[int, str]:
    """200 creates at once, again and again; kill everything once some are answered."""
    answered: dict[int, str] = {}
    enough = asyncio.Event()

    async def create(client: httpx.AsyncClient, number: int) -> None:
        round_ = 0
        while True:
            title = f"Film {number}.{round_}"
            round_ += 1
            try:
                body = {"title": title, "description": "x" * 500}
                response = await client.post(f"{service.url}/api/movies", json=body)
            except httpx.HTTPError:
                return
            if response.status_code == 201:
                answered[response.json()["id"]] = title
            if len(answered) >= KILL_AFTER:
                enough.set()

    limits = httpx.Limits(max_connections=CREATES)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        tasks = [asyncio.create_task(create(client, number)) for number in range(CREATES)]
        await asyncio.wait_for(enough.wait(), 60)
        service.kill()
        if kill_database:
            os.kill(int((home / "postgres/data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        await asyncio.gather(*tasks)
    return answered


@pytest.mark.parametrize("kill_database", [False, True], ids=["service", "service-and-database"])
def test_what_was_answered_is_there_whole(home: Path, tmp_path: Path, *, kill_database: bool) -> None:
    with Service(tmp_path / "first.log", WATCHLY_HOME=str(home), LOG_LEVEL="warning") as service:
        answered = asyncio.run(_create_until_killed(service, kill_database, home))
    assert len(answered) >= KILL_AFTER

    with (
        Service(tmp_path / "second.log", WATCHLY_HOME=str(home), LOG_LEVEL="warning") as service,
        httpx.Client(base_url=service.url) as client,
    ):
        for movie_id, title in answered.items():
            movie = client.get(f"/api/movies/{movie_id}").json()
            assert (movie["title"], movie["description"], movie["version"]) == (title, "x" * 500, 1)
        with EmbeddedPostgres(home) as url, psycopg.connect(url) as connection:
            assert connection.execute(BROKEN).fetchall() == []
        assert service.stop() == 0
