"""The gateway before two instances with a primary, a replica, a Valkey and a NATS, all of them real."""

from __future__ import annotations

import asyncio
import io
import re
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import PIL.Image
import psycopg
import pytest
from nats.js.errors import NotFoundError
from tests.brokers import Nats, kept
from tests.fleets import HOSTS, SECRET, Fleet
from tests.forgeries import Forger, compact, unsealed
from tests.gateways import Gateway, needs_haproxy
from tests.loads import Clients, Load
from tests.replicas import replicated
from tests.services import WATCHLY, environment
from tests.valkeys import ValkeyServer

from watchly_core.signing_keys import SigningKey

pytestmark = [pytest.mark.anyio, needs_haproxy]

#: At both, before, while and after something is done to an instance.
CLIENTS: Final = Clients(readers=6, writers=3)


class Run(Fleet):
    """What runs.

    Attributes:
        nats: is told of all changes.
        signed_by: what signs tokens.
    """

    def __init__(self, home: Path, logs: Path, stack: ExitStack) -> None:
        replica = stack.enter_context(replicated(home))
        self.nats = stack.enter_context(Nats(logs / "nats"))
        valkey = stack.enter_context(ValkeyServer(logs / "valkey"))
        super().__init__(
            logs,
            stack,
            DATABASE_URL=replica.primary_url,
            READ_DATABASE_URL=replica.url,
            CACHE="shared",
            VALKEY_URL=valkey.url,
            NATS_URL=self.nats.url,
            RELAY="off",
            SWEEP_INTERVAL="0",
        )
        stack.enter_context(self._relaying())
        replica.catch_up()
        with psycopg.connect(replica.primary_url) as connection:
            found = "SELECT kid, sealed, created_at, signs_from, ends_at FROM watchly_signing_keys"
            ((kid, sealed, *times),) = connection.execute(found).fetchall()
        self.signed_by = unsealed(SECRET, SigningKey(kid, bytes(sealed), *times))

    @contextmanager
    def _relaying(self) -> Iterator[None]:
        with (self._logs / "relay").open("w") as log:
            relay = subprocess.Popen(
                [WATCHLY, "relay"], env=environment(**self.variables), stdout=log, stderr=log
            )
            try:
                yield
            finally:
                relay.terminate()
                assert relay.wait(60) == 0


@pytest.fixture(scope="module")
def running(reachable_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with ExitStack() as stack:
        yield Run(reachable_directory / "behind-a-gateway", tmp_path_factory.mktemp("run"), stack)


async def test_a_session_through_it(running: Run) -> None:
    token = Forger(running.token, running.signed_by)
    ended = token.signed(payload=compact(token.payload | {"iat": 1, "exp": int(time.time()) - 1}))
    with running.client() as stranger:
        assert stranger.get("/health/ready").json()["status"] == "up"
        assert stranger.get("/metrics").status_code == 404
        assert stranger.get("/api/movies").status_code == 200
        assert stranger.post("/api/movies", json={"title": "Heat"}).status_code == 401
    with running.client(ended) as late:
        assert "gateway" in late.get("/api/movies").json()["detail"]
    with running.client(running.token) as ada:
        key = ada.post("/api/api-keys", json={"name": "a service", "role": "editor"}).json()["secret"]
        added = ada.post("/api/movies", json={"title": "Heat"})
        assert added.status_code == 201, added.text
        assert {"server", "x-powered-by"}.isdisjoint(added.headers)
        position = {"Watchly-Position": added.headers["Watchly-Position"]}
        assert ada.get(added.headers["Location"], headers=position).json() == added.json()
    with running.client(key) as service:
        place = added.headers["Location"]
        assert service.patch(place, json={"genre": "Crime"}).json()["version"] == 2
    subject = f"watchly.movie_revised.{added.json()['id']}"
    async with asyncio.timeout(30):
        while subject not in await _subjects(running.nats):  # noqa: ASYNC110 - nobody would tell
            await asyncio.sleep(0.01)


def test_attempts_are_counted_by_the_address_that_the_gateway_saw(running: Run) -> None:
    with running.client() as client:
        statuses = Counter(
            client.post(
                "/api/auth/login",
                json={"email": "eve@films.example", "password": "wrong and wrong again"},
                headers={"X-Forwarded-For": f"198.51.100.{number}"},
            ).status_code
            for number in range(12)
        )
    assert statuses == {401: 10, 429: 2}


def test_a_large_upload_goes_through_and_is_not_gathered(running: Run) -> None:
    noise = PIL.Image.frombytes("RGB", (3200, 3200), secrets.token_bytes(3 * 3200 * 3200))
    file = io.BytesIO()
    noise.save(file, "PNG", compress_level=0)
    assert file.tell() > 30_000_000
    with running.client(running.token) as client:
        before = _memory_of(running.gateway)
        movie = client.post("/api/movies", json={"title": "Noise"}).json()
        url = f"/api/movies/{movie['id']}/image"
        reply = client.put(url, content=file.getvalue(), headers={"Content-Type": "image/png"})
        assert reply.status_code == 200, reply.text
        got = client.get(reply.json()["image_url"])
        assert got.status_code == 200
        grown = _memory_of(running.gateway) - before
    print(f"{file.tell():,} bytes up, {len(got.content):,} down; the gateway grew by {grown} kB")  # noqa: T201 - the figures
    assert grown < 10_000


def test_changes_come_one_by_one_as_they_happen(running: Run) -> None:
    with (
        running.client(running.token) as client,
        running.client() as follower,
        follower.stream("GET", "/api/changes/stream") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": watchly"
        for number in range(5):
            title = f"live {number}"
            assert client.post("/api/movies", json={"title": title}).status_code == 201
            # No other one is written before this one has come.
            assert title in next(line for line in lines if line.startswith("data:"))


async def test_an_instance_that_is_killed_under_load_fails_no_read_and_loses_no_write(running: Run) -> None:
    lost, left = HOSTS

    async def kill() -> None:
        running.instances[lost].kill()
        await asyncio.to_thread(running.wait_for, left)

    load = Load("killed", running.gateway.url, running.token)
    try:
        await load.beside(CLIENTS, kill)
        print(f"killed: {load}")  # noqa: T201 - the figures
        assert load.failed["read"] == Counter()
        # What was on its way to it: nobody knows, and whoever sends it again does it once. The first request
        # of a connection is told so by a 502; at a later one the connection ends (RFC 9110, 9.2.2).
        assert set(load.failed["write"]) <= {"502", "409", "RemoteProtocolError", "ReadError"}
        with running.client() as client:
            titles = Counter(re.findall(r"killed-\d+-\d+", client.get("/api/movies/export").text))
        assert titles == dict.fromkeys(load.written, 1)
    finally:
        running.instances[lost] = running.start(lost)
        running.wait_for(*HOSTS)


async def test_an_instance_that_is_stopped_and_started_under_load_fails_nothing(running: Run) -> None:
    """A hundred of both, one after the other, are `tests.faults.restarts`."""
    load = Load("rolled", running.gateway.url, running.token)
    await load.beside(CLIENTS._replace(editors=2), lambda: asyncio.to_thread(running.restart, HOSTS[0]))
    print(f"rolled: {load}")  # noqa: T201 - the figures
    assert sum(load.failed.values(), Counter()) == Counter()
    with running.client() as client:
        for movie, version in load.edited.items():
            assert client.get(f"/api/movies/{movie}").json()["version"] == version


async def _subjects(nats: Nats) -> set[str]:
    """What NATS was told of; nothing before the relay has begun."""
    with suppress(NotFoundError):
        return {message.subject for message in await kept(nats)}
    return set()


def _memory_of(gateway: Gateway) -> int:
    """Kilobytes that its worker has had at most."""
    (worker,) = re.findall(r"^(\d+)\s+worker", gateway.ask("show proc"), re.MULTILINE)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    return int(peak)
