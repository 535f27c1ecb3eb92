"""The gateway before two instances with a primary, a replica, a Valkey and a NATS, all of them real."""

from __future__ import annotations

import asyncio
import io
import re
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import PIL.Image
import psycopg
import pytest
from nats.js.errors import NotFoundError
from tests.brokers import Nats, kept
from tests.forgeries import Forger, compact, unsealed
from tests.gateways import DEPLOY, Gateway, Names, free_port, needs_haproxy
from tests.replicas import replicated
from tests.services import NO_CERTIFICATES, WATCHLY, Service, environment, run, wait_until
from tests.valkeys import ValkeyServer

from watchly_core.signing_keys import SigningKey

pytestmark = [pytest.mark.anyio, needs_haproxy]

HOSTS: Final = ("127.0.0.2", "127.0.0.3")
SECRET: Final = "k" * 32
PASSWORD: Final = "correct horse battery"  # noqa: S105 - of nobody
#: Where a movie is from the start.
FIRST: Final = "/api/movies/1"
READERS, WRITERS = 6, 3
#: Requests of each kind before and after what is done to an instance under load.
ENOUGH: Final = 150


class Run:
    """What runs.

    Attributes:
        gateway: before all of it.
        nats: is told of all changes.
        instances: by their addresses.
        token: of an administrator.
        key: signed it.
    """

    def __init__(self, home: Path, logs: Path, stack: ExitStack) -> None:
        self._logs, self._stack = logs, stack
        replica = stack.enter_context(replicated(home))
        self.nats = stack.enter_context(Nats(logs / "nats"))
        valkey = stack.enter_context(ValkeyServer(logs / "valkey"))
        self._port = free_port(*HOSTS)
        self._variables = {
            "AUTH": "on",
            "ENVIRONMENT": "production",
            "DATABASE_URL": replica.primary_url,
            "READ_DATABASE_URL": replica.url,
            "SECRET_KEY": SECRET,
            "CACHE": "shared",
            "VALKEY_URL": valkey.url,
            "NATS_URL": self.nats.url,
            "RELAY": "off",
            "SWEEP_INTERVAL": "0",
            "TRUSTED_PROXIES": "127.0.0.1",
            "WATCHLY_HOME": str(logs / "home"),
            "WORKERS": "1",
        }
        migrated = run("migrate", **self._variables)
        assert migrated.returncode == 0, migrated.stderr
        added = run("user", "add", "ada@films.example", "--role", "admin", stdin=PASSWORD, **self._variables)
        assert added.returncode == 0, added.stderr
        self.instances = {host: self.start(host) for host in HOSTS}
        stack.callback(self._stop)
        stack.enter_context(self._relaying())
        names = stack.enter_context(Names({"watchly.test": HOSTS}))
        fetch = (sys.executable, "-I", str(DEPLOY / "haproxy" / "keys.py"))
        jwks = f"http://{HOSTS[0]}:{self._port}/.well-known/jwks.json"
        subprocess.run([*fetch, jwks, str(logs / "keys")], check=True, timeout=60)
        self.gateway = stack.enter_context(
            Gateway(
                logs / "gateway",
                DNS=names.address,
                KEYS=str(logs / "keys"),
                WATCHLY_SERVERS=f"watchly.test:{self._port}",
                CLIENT_REQUESTS="1000000",
            )
        )
        self.wait_for(*HOSTS)
        with self.client() as client:
            pair = client.post("/api/auth/login", json={"email": "ada@films.example", "password": PASSWORD})
            self.token: str = pair.json()["access_token"]
        with self.client(self.token) as client:
            assert client.post("/api/movies", json={"title": "The first"}).headers["Location"] == FIRST
        replica.catch_up()
        with psycopg.connect(replica.primary_url) as connection:
            found = "SELECT kid, sealed, created_at, signs_from, ends_at FROM watchly_signing_keys"
            ((kid, sealed, *times),) = connection.execute(found).fetchall()
        self.key = unsealed(SECRET, SigningKey(kid, bytes(sealed), *times))

    def start(self, host: str) -> Service:
        log = self._logs / f"{host}-{secrets.token_hex(4)}"
        return Service(log, "--host", host, "--port", str(self._port), **self._variables)

    def _stop(self) -> None:
        for instance in self.instances.values():
            with instance:
                instance.stop()

    def wait_for(self, *hosts: str) -> None:
        """Wait until the gateway gives requests to these instances, and to no other."""
        wait_until(lambda: self.gateway.up() == set(hosts), f"the gateway had {hosts} and no other")

    def client(self, bearer: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return httpx.Client(base_url=self.gateway.url, headers=headers, verify=NO_CERTIFICATES, timeout=60)

    @contextmanager
    def _relaying(self) -> Iterator[None]:
        with (self._logs / "relay").open("w") as log:
            relay = subprocess.Popen(
                [WATCHLY, "relay"], env=environment(**self._variables), stdout=log, stderr=log
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
    token = Forger(running.token, running.key)
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

    load = await _under_load(running, "killed", kill)
    try:
        assert load.failed_reads == Counter()
        # What was on its way to it: nobody knows, and whoever sends it again does it once. The first request
        # of a connection is told so by a 502; at a later one the connection ends (RFC 9110, 9.2.2).
        assert set(load.failed_writes) <= {"502", "409", "RemoteProtocolError", "ReadError"}
        with running.client() as client:
            titles = Counter(re.findall(r"killed-\d+-\d+", client.get("/api/movies/export").text))
        assert titles == dict.fromkeys(load.written, 1)
        print(f"killed: {load}")  # noqa: T201 - the figures
    finally:
        running.instances[lost] = running.start(lost)
        running.wait_for(*HOSTS)


async def test_an_instance_that_is_stopped_and_started_under_load_fails_nothing(running: Run) -> None:
    stopped, left = HOSTS

    async def roll() -> None:
        assert await asyncio.to_thread(running.instances[stopped].stop) == 0
        assert running.gateway.up() == {left}
        running.instances[stopped] = await asyncio.to_thread(running.start, stopped)
        await asyncio.to_thread(running.wait_for, *HOSTS)

    load = await _under_load(running, "rolled", roll)
    print(f"rolled: {load}")  # noqa: T201 - the figures
    assert load.failed_reads == Counter()
    assert load.failed_writes == Counter()


class Load:
    """What became of reads and writes; failures are counted by their status, or the name of their error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reads = 0
        self.failed_reads: Counter[str] = Counter()
        self.failed_writes: Counter[str] = Counter()
        self.written: list[str] = []
        self.longest = 0.0
        self.over = False

    def __str__(self) -> str:
        """In short."""
        failed = sum(self.failed_reads.values())
        again = dict(self.failed_writes) or "none"
        return (
            f"{self.reads} reads, {failed} failed; {len(self.written)} writes done once each, sent again"
            f" after: {again}; longest wait {1000 * self.longest:.0f} ms"
        )

    async def read(self, client: httpx.AsyncClient) -> None:
        while not self.over:
            for path in ("/api/movies?limit=20", FIRST, "/api/genres"):
                outcome = await self._send(client, "GET", path)
                self.reads += 1
                if outcome != "200":
                    self.failed_reads[outcome] += 1

    async def write(self, client: httpx.AsyncClient, writer: int) -> None:
        number = 0
        while not self.over:
            title = f"{self.name}-{writer}-{number}"
            key = {"Idempotency-Key": title}
            while (
                outcome := await self._send(client, "POST", "/api/movies", json={"title": title}, headers=key)
            ) != "201":
                self.failed_writes[outcome] += 1
                assert sum(self.failed_writes.values()) < 1000, self.failed_writes
                await asyncio.sleep(0.05)  # as a client would
            self.written.append(title)
            number += 1

    async def _send(self, client: httpx.AsyncClient, method: str, path: str, **more: object) -> str:
        began = time.monotonic()
        try:
            response = await client.request(method, path, **more)  # type: ignore[arg-type] # body and headers
            return str(response.status_code)
        except httpx.HTTPError as error:
            return type(error).__name__
        finally:
            self.longest = max(self.longest, time.monotonic() - began)


async def _under_load(running: Run, name: str, harm: Callable[[], Awaitable[None]]) -> Load:
    load = Load(name)

    async def more() -> None:
        reads, writes = load.reads + ENOUGH, len(load.written) + ENOUGH // 5
        while load.reads < reads or len(load.written) < writes:  # noqa: ASYNC110 - who counts has enough to do
            await asyncio.sleep(0.01)

    headers = {"Authorization": f"Bearer {running.token}"}
    async with AsyncExitStack() as clients, asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for number in range(READERS + WRITERS):
            client = await clients.enter_async_context(
                httpx.AsyncClient(
                    base_url=running.gateway.url, headers=headers, verify=NO_CERTIFICATES, timeout=30
                )
            )
            tasks.create_task(load.read(client) if number < READERS else load.write(client, number))
        await more()
        await harm()
        await more()
        load.over = True
    return load


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
