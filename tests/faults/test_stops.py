"""Stops in the midst of uploads and other writes: what clients were told is so, and nothing is half done."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final

import httpx
from tests.faults.checker import read_tables, sweep_later, violations
from tests.faults.runs import SECRET
from tests.faults.stores import Disk
from tests.faults.told import Told
from tests.faults.uploaders import Odds, Uploaders
from tests.faults.wire import send
from tests.gateways import free_port
from tests.http.test_server import left_behind
from tests.services import Service, wait_until

from watchly_adapters.settings import read_settings

SEED: Final = int(os.environ.get("FAULTS_SEED", "5"))
CLIENTS: Final = 4
#: Operations between the stops.
SOME: Final = 12


def tell_once(service: Service) -> int:
    return service.stop()


def tell_twice(service: Service) -> int:
    service.process.terminate()

    def heard() -> bool:
        try:
            return httpx.get(f"{service.url}/health/ready", timeout=60).status_code == 503
        except httpx.HTTPError:
            return True

    wait_until(heard, "the first signal was heard")
    return service.stop()


def kill_supervisor(service: Service) -> int:
    service.process.kill()
    return service.process.wait(60) + signal.SIGKILL


STOPS: Final[tuple[Callable[[Service], int], ...]] = (tell_once, tell_twice, kill_supervisor)


class House:
    """A service that is stopped and started, at one address, and what it leaves in folders."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port}"
        self.images, self.spools = Disk(folder, self.url), folder / "spools"
        self.spools.mkdir()
        self._logs = (folder / f"log-{number}" for number in count())
        self.variables = {
            **self.images.environment,
            "DATABASE_URL": database_url,
            "SECRET_KEY": SECRET,
            "DRAIN_TIMEOUT": "1 s",
            "SWEEP_INTERVAL": "1 s",
            "LOG_LEVEL": "error",
            "TMPDIR": str(self.spools),
        }

    def serving(self) -> Service:
        port = str(self._port)
        return Service(next(self._logs), "--workers", "2", "--port", port, **self.variables)

    def half_an_upload(self, movie: int) -> socket.socket:
        """A connection with an upload on it that goes no further."""
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        head = f"PUT /api/movies/{movie}/image HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        connection.sendall(f"{head}Content-Length: 3000000\r\n\r\n".encode() + bytes(1_500_000))
        return connection


def test_a_stop_in_the_midst_of_uploads_leaves_nothing_half_done(own_database: str, tmp_path: Path) -> None:
    house = House(tmp_path, own_database)
    told, over = Told(), threading.Event()
    clients = Uploaders(house.url, house.images.deliver, told, seed=SEED, odds=Odds(leave=0.1, pause=0.2))
    finished: list[int] = []

    def work(first: int) -> None:
        for number in count(first, CLIENTS):
            if over.is_set():
                return
            clients.operate(number)
            finished.append(number)

    service = house.serving()
    clients.begin(12)
    # One that the others, who remove movies, do not know.
    own = send("POST", f"{house.url}/api/movies", b'{"title": "own"}', {"Content-Type": "application/json"})
    assert own.status == 201, own
    told.done("add", "own", surely=True)
    with ThreadPoolExecutor(CLIENTS) as threads:
        tasks = [threads.submit(work, first) for first in range(CLIENTS)]
        try:
            for stop in STOPS:
                enough = len(finished) + SOME
                wait_until(lambda: len(finished) >= enough, "much was done")  # noqa: B023 - called here
                with service, house.half_an_upload(int(str(own.json["id"]))) as stalled:
                    assert stop(service) == 0, service.log
                    wait_until(lambda: not left_behind(service.process.pid), "all of it had ended")  # noqa: B023 - as above
                    # A clean refusal, or the end of the connection.
                    assert stalled.recv(12) in {b"HTTP/1.1 503", b""}
                    assert "Traceback" not in service.log
                service = house.serving()
        finally:
            over.set()
            with service:
                for task in tasks:
                    task.result()
    assert [path for path in house.spools.iterdir() if path.is_file()] == []
    report = asyncio.run(sweep_later(read_settings(house.variables)))
    assert (report.failed, report.dead) == (0, 0)
    tables = read_tables(house.variables["DATABASE_URL"])
    uploads = house.images.uploads()
    wrong = list(violations(tables, told=told, assets=house.images.assets(), uploads=uploads))
    print(f"{len(finished)} operations, {len(told.attached)} images: {wrong or 'nothing wrong'}")  # noqa: T201 - the figures
    assert not wrong
