"""What took how long: told in replies, in the log, and on a page of its own for what serves nothing."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.http.conftest import Client, Configure
from tests.metrics import odd_labels
from tests.services import Command, Service, as_url, wait_until

pytestmark = pytest.mark.anyio

_PART: Final = re.compile(r"([a-z]+);dur=([0-9]+\.[0-9]{2})")


def parts(response: httpx.Response) -> dict[str, float]:
    """What a reply tells, in milliseconds."""
    return {
        name: float(duration)
        for name, duration in (
            found.groups()
            for found in map(_PART.fullmatch, response.headers["server-timing"].split(", "))
            if found
        )
    }


async def test_replies_tell_what_took_how_long_where_that_is_wanted(configure: Configure) -> None:
    async with Client(configure(SERVER_TIMING="on")) as client:
        added = await client.post("/api/movies", json={"title": "Heat"})
        found = parts(await client.get("/api/movies/1"))
        nothing = parts(await client.get("/nowhere"))
        memory = client.container.settings().in_memory

    assert found.keys() == {"total", "app"} | (set() if memory else {"db"})
    assert 0 < max(found[name] for name in found if name != "total") <= found["total"]
    assert parts(added).keys() == found.keys()
    assert nothing.keys() == {"total"}


async def test_they_do_not_where_it_is_not(client: Client) -> None:
    response = await client.get("/api/movies")

    assert not {"server-timing", "traceresponse"} & set(response.headers)


def test_slow_statements_are_logged_by_name_with_their_request(empty_database: str, tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": as_url(empty_database),
        "SECRET_KEY": "k" * 32,
        "WATCHLY_HOME": str(tmp_path),
        "SLOW_STATEMENT": "1ms",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "warning",
    }
    title = "a title that nobody should read in a log"
    with Service(tmp_path / "log", "--workers", "1", **variables) as service:

        def told() -> list[dict[str, object]]:
            httpx.post(f"{service.url}/api/movies", json={"title": title}, headers={"X-Request-ID": "mine"})
            lines = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
            return [line for line in lines if line.get("request_id") == "mine"]

        wait_until(lambda: bool(told()), "a statement was slow")
        for line in told():
            assert (line["event"], line["logger"]) == ("slow statement", "watchly.statements")
            assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", str(line["statement"]))
            assert line["route"] == "/api/movies"
            assert int(str(line["ms"])) >= 1
        assert title not in service.log
        assert service.stop() == 0


def test_what_serves_nothing_has_its_metrics_at_a_port(empty_database: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "DATABASE_URL": as_url(empty_database),
        "WATCHLY_HOME": str(tmp_path),
        "METRICS_PORT": str(port),
    }
    with Command(tmp_path / "log", "sweep", "--every", "1s", **variables) as sweeper:
        wait_until(lambda: "sweeping" in sweeper.log, "it sweeps")

        def swept() -> bool:
            page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            assert list(odd_labels(page)) == []
            return 'use_case="gallery.sweep"' in page

        wait_until(swept, "a sweep was counted")
        with Command(tmp_path / "other log", "relay", **variables) as other:
            assert other.process.wait(60) == 1
            assert other.log.splitlines()[-1] == (
                f"watchly: METRICS_PORT: cannot listen on 127.0.0.1, port {port}: Address already in use;"
                " an example: METRICS_PORT=9464"
            )
