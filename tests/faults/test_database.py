"""kill -9 of the embedded database under running services: they raise it again, and no stop does."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.faults.havoc import postmaster, server_processes
from tests.services import NO_CERTIFICATES, Service, wait_until

from watchly_adapters.embedded import EmbeddedPostgres


@pytest.fixture
def home(reachable_directory: Path) -> Iterator[Path]:
    home = reachable_directory / f"database-{uuid.uuid4().hex}"
    yield home
    with EmbeddedPostgres(home):
        pass  # the last one to leave stops the server that a failed test left


def serve(home: Path, log: Path) -> Service:
    return Service(log, "--workers", "2", WATCHLY_HOME=str(home), LOG_LEVEL="error")


def kill_database(home: Path) -> int:
    killed = postmaster(home)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    return killed


def answers(service: Service, movie: str) -> bool:
    """Whether every worker can be expected to: a client of its own for each question finds them all."""
    address = f"{service.url}{movie}"
    replies = (httpx.get(address, timeout=60, verify=NO_CERTIFICATES) for _ in range(10))
    return all(reply.status_code == 200 for reply in replies)


def test_a_killed_database_is_raised_again_under_the_service(home: Path, tmp_path: Path) -> None:
    with serve(home, tmp_path / "log") as service:
        created = httpx.post(f"{service.url}/api/movies", json={"title": "Heat"}, timeout=60)
        movie = created.headers["location"]
        for _ in range(2):
            killed = kill_database(home)
            wait_until(partial(answers, service, movie), "the service answers again")
            assert postmaster(home) != killed
        assert service.stop() == 0
    assert server_processes(home) == []


def test_two_services_of_one_home_raise_one_database(home: Path, tmp_path: Path) -> None:
    with serve(home, tmp_path / "first") as first, serve(home, tmp_path / "second") as second:
        created = httpx.post(f"{first.url}/api/movies", json={"title": "Heat"}, timeout=60)
        movie = created.headers["location"]
        kill_database(home)
        for service in (first, second):
            wait_until(partial(answers, service, movie), "both services answer again")
        assert first.stop() == 0
        kill_database(home)
        wait_until(partial(answers, second, movie), "the other service answers again")
        assert second.stop() == 0
    assert server_processes(home) == []


@pytest.mark.parametrize("first", ["signal", "kill"])
def test_a_stop_raises_nothing(home: Path, tmp_path: Path, first: str) -> None:
    with serve(home, tmp_path / "log") as service:
        if first == "signal":
            service.process.terminate()
        kill_database(home)
        assert service.stop() == 0
        assert "Traceback" not in service.log
    assert server_processes(home) == []
