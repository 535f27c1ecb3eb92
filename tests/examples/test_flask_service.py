"""The Flask service of the examples, by Flask's own client, and under a server that forks its workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from examples.flask_service.app import create_app
from flask.testing import FlaskClient

from tests.services import wait_until

SERVICE = Path(__file__).parents[2] / "examples" / "flask_service"


@pytest.fixture
def client(database_url: str) -> Iterator[FlaskClient]:
    app = create_app(database_url)
    yield app.test_client()
    app.extensions["watchly"].close()


def test_movies_are_listed_added_and_revised(client: FlaskClient) -> None:
    added = client.post("/movies", json={"title": "Heat", "release_year": 1995})
    assert (added.status_code, added.get_json()["version"]) == (201, 1)
    movie = f"/movies/{added.get_json()['id']}"
    revised = client.patch(f"{movie}?version=1", json={"genre": "Crime"})
    heat = revised.get_json()
    assert (revised.status_code, heat["genre"], heat["version"]) == (200, "Crime", 2)
    assert client.get(movie).get_json() == heat
    assert client.get("/movies?q=hea&genre=Crime").get_json() == {"data": [heat], "next_cursor": None}


def test_errors_have_their_statuses(client: FlaskClient) -> None:
    client.post("/movies", json={"title": "Heat"})
    refused = client.post("/movies", json={"title": " ", "release_year": 1})
    assert (refused.status_code, len(refused.get_json()["faults"])) == (422, 2)
    assert client.post("/movies", data=b"{").status_code == 400
    assert client.post("/movies", json=[]).status_code == 400
    assert client.get("/movies?cursor=none").status_code == 400
    assert client.get("/movies/999").status_code == 404
    assert client.patch("/movies/1?version=7", json={"genre": "Crime"}).status_code == 412


def test_it_runs_in_workers_that_were_forked(database_url: str, tmp_path: Path) -> None:
    log, access = tmp_path / "log", tmp_path / "access"
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--threads", "4", "--bind", "127.0.0.1:0"]
    said = ["--access-logfile", str(access), "--access-logformat", "%(p)s", "app:create_app()"]
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [*command, *said], cwd=SERVICE, stderr=stderr, env={**os.environ, "DATABASE_URL": database_url}
        )
    try:
        wait_until(lambda: "Listening at: " in log.read_text(), "gunicorn listens")
        found = re.search(r"Listening at: (\S+)", log.read_text())
        assert found is not None, log.read_text()

        def add(number: int) -> int:
            title = {"title": f"Film {number}"}
            return httpx.post(f"{found[1]}/movies", json=title, timeout=60).status_code

        def served() -> bool:
            with ThreadPoolExecutor(8) as threads:
                assert set(threads.map(add, range(16))) == {201}, log.read_text()
            return len(set(access.read_text().split())) == 2

        wait_until(served, "both workers have added movies")
        listed = httpx.get(f"{found[1]}/movies?q=film", timeout=60)
        assert len(listed.json()["data"]) >= 16
        server.terminate()
        assert server.wait(60) == 0
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()
        server.wait()
