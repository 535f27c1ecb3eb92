"""The page of metrics, of one process and of the workers of a service, as which this file runs."""

from __future__ import annotations

import asyncio
import http.client
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from litestar import Litestar, post
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from tests.http.conftest import Client, Configure, problem_in
from tests.services import Service, as_url, wait_until

from watchly_adapters import metrics
from watchly_adapters.container import Container
from watchly_adapters.metrics import CacheMetrics, Metrics
from watchly_adapters.settings import MEMORY, read_settings
from watchly_adapters.tallies import VARIABLE, Tallies
from watchly_http.app import create_app
from watchly_http.openapi import OPEN
from watchly_http.server import serve

pytestmark = pytest.mark.anyio

#: What Prometheus 3 and 2 send.
PROMETHEUS: Final = (
    (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
        "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    ),
    (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    ),
)
#: All metrics by their types, and what each of their labels may hold.
METRICS: Final[Mapping[str, tuple[str, Mapping[str, frozenset[str]]]]] = {
    "watchly_build_info": (
        "gauge",
        {
            "version": frozenset({version("watchly")}),
            "python": frozenset({platform.python_version()}),
        },
    ),
    "watchly_workers": ("gauge", {}),
    "watchly_cache_reads": (
        "counter",
        {"outcome": frozenset({"hit", "miss"}), "level": frozenset({"local", "shared", "none"})},
    ),
    "watchly_cache_failures": ("counter", {}),
    "watchly_cache_hit_age_seconds": (
        "histogram",
        {"le": frozenset({"0.1", "1.0", "5.0", "15.0", "30.0", "60.0", "300.0", "900.0", "3600.0", "+Inf"})},
    ),
}

LOCAL_HITS: Final = 'watchly_cache_reads_total{level="local",outcome="hit"}'
SHARED_HITS: Final = 'watchly_cache_reads_total{level="shared",outcome="hit"}'
MISSES: Final = 'watchly_cache_reads_total{level="none",outcome="miss"}'

#: What a page shows, by its names and labels.
Figures: TypeAlias = Mapping[str, float]


def figures(page: str) -> Figures:
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in page.splitlines())
        if not name.startswith("#")
    }


def families(page: str) -> list[Metric]:
    """The metrics of a page, without the times at which the library made them."""
    return [family for family in read_text(page) if not family.name.endswith("_created")]


async def shown(client: httpx.AsyncClient) -> Figures:
    response = await client.get("/metrics")
    assert response.status_code == 200
    return figures(response.text)


# ---- one process ----


async def test_prometheus_can_read_the_page(fake_client: Client) -> None:
    response = await fake_client.get("/metrics")

    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"]
    found = {family.name: family.type for family in families(response.text)}
    assert found == {name: kind for name, (kind, _) in METRICS.items()}


@pytest.mark.parametrize("accept", PROMETHEUS)
async def test_who_asks_for_openmetrics_gets_it(fake_client: Client, accept: str) -> None:
    response = await fake_client.get("/metrics", headers={"Accept": accept})

    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0;")
    assert response.headers["vary"] == "Accept"
    assert "watchly_cache_reads" in {family.name for family in read_openmetrics(response.text)}  # type: ignore[no-untyped-call]  # it has none


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "text/*;q=0.5", "text/html, */*;q=0.1"])
async def test_all_others_get_text(fake_client: Client, accept: str) -> None:
    response = await fake_client.get("/metrics", headers={"Accept": accept})

    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("accept", ["image/png", "application/openmetrics-text;version=1.x"])
async def test_what_it_cannot_be_is_refused(fake_client: Client, accept: str) -> None:
    problem_in(await fake_client.get("/metrics", headers={"Accept": accept}), "not_acceptable")


async def test_a_head_is_a_get_without_its_body(fake_client: Client) -> None:
    response = await fake_client.head("/metrics")

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/plain")


async def test_it_is_read_under_any_name_and_by_anybody(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on", PUBLIC_READ="false", ALLOWED_HOSTS="films.example")
    async with Client(container) as client:
        response = await client.get("/metrics", headers={"Host": "10.0.0.7:5000"})

        assert response.status_code == 200
        assert (await client.get("/api/movies", headers={"Host": "10.0.0.7:5000"})).status_code == 400


async def test_what_a_cache_tells_is_counted(fake_client: Client) -> None:
    cache = fake_client.container.metrics().cache
    for age in (0.05, 0.1, 20.0, 9000.0):
        cache.hit("local", age)
    cache.hit("shared", 0.5)
    cache.miss()
    cache.failed()
    cache.failed()

    found = await shown(fake_client)

    assert (found[LOCAL_HITS], found[SHARED_HITS], found[MISSES]) == (4, 1, 1)
    assert found["watchly_cache_failures_total"] == 2
    assert found["watchly_workers"] == 1
    bounds = ("0.1", "1.0", "15.0", "30.0", "3600.0", "+Inf")
    ages = [found[f'watchly_cache_hit_age_seconds_bucket{{le="{bound}"}}'] for bound in bounds]
    assert ages == [2, 3, 3, 4, 4, 5]
    assert found["watchly_cache_hit_age_seconds_count"] == 5
    assert found["watchly_cache_hit_age_seconds_sum"] == pytest.approx(9020.65)


async def test_applications_in_one_process_count_apart(configure_fakes: Configure) -> None:
    async with Client(configure_fakes()) as one, Client(configure_fakes()) as other:
        one.container.metrics().cache.miss()

        assert (await shown(one))[MISSES] == 1
        assert (await shown(other))[MISSES] == 0


async def test_no_label_holds_what_somebody_sent(fake_client: Client) -> None:
    movie = await fake_client.added(title="Ronin")
    for path in (f"/api/movies/{movie.id}", "/api/movies?q=ronin", "/nowhere/7", "/metrics?ronin=7"):
        await fake_client.get(path)
    cache = fake_client.container.metrics().cache
    cache.hit("local", movie.id)
    with pytest.raises(KeyError):
        cache.hit(f"movie {movie.id}", 1.0)

    for family in families((await fake_client.get("/metrics")).text):
        _, labels = METRICS[family.name]
        for sample in family.samples:
            assert {name for name, value in sample.labels.items() if value not in labels[name]} == set()


async def test_hits_are_told_before_long_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TOLD_EVERY", 0.01)
    registry = CollectorRegistry()
    cache = CacheMetrics(registry)

    def told() -> float | None:
        return registry.get_sample_value("watchly_cache_reads_total", {"outcome": "hit", "level": "local"})

    for hits in (1, 2):
        cache.hit("local", 1.0)
        assert told() == hits - 1
        deadline = time.monotonic() + 60
        while told() != hits:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)  # between looks, not in place of one


async def test_who_asks_while_a_page_is_written_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate, pages = threading.Event(), threading.Event(), 0

    def write(registry: CollectorRegistry) -> bytes:
        nonlocal pages
        pages += 1
        begun.set()
        assert gate.wait(60)
        return generate_latest(registry)

    monkeypatch.setattr(metrics, "generate_latest", write)
    counted = Metrics()
    first = asyncio.create_task(counted.page())
    assert await asyncio.to_thread(begun.wait, 60)
    counted.cache.miss()
    others = [asyncio.create_task(counted.page()) for _ in range(50)]
    await asyncio.sleep(0)  # they begin
    others[0].cancel()
    gate.set()

    await first
    assert {figures((await page).decode())[MISSES] for page in others[1:]} == {1}
    assert pages == 2


def test_hits_are_told_at_once_where_there_is_no_loop() -> None:
    registry = CollectorRegistry()
    CacheMetrics(registry).hit("shared", 1.0)

    labels = {"outcome": "hit", "level": "shared"}
    assert registry.get_sample_value("watchly_cache_reads_total", labels) == 1


# ---- the workers of a service ----


class Plan(msgspec.Struct):
    """What the service of a test is told."""

    gate: str


def born(tallies: Tallies, gate: Path, number: int) -> None:
    """Start to count, once the gate is open if there is one."""
    if gate.exists():
        gate.read_bytes()
    tallies.join(number)


def load_app() -> Litestar:
    settings = read_settings({"DATABASE_URL": MEMORY, "AUTH": "off", "SECRET_KEY": secrets.token_hex(32)})
    container = Container(settings=settings)

    @post("/hit", opt=OPEN)
    async def hit() -> int:
        container.metrics().cache.hit("local", 0.5)
        container.metrics().cache.miss()
        return os.getpid()

    app = create_app(container)
    app.register(hit)
    return app


def main() -> int:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with Tallies() as tallies:
        return serve(
            load_app,
            host="127.0.0.1",
            port=0,
            workers=2,
            drain_timeout=10,
            on_listening=partial(print, flush=True),
            on_birth=partial(born, tallies, Path(plan.gate)),
            on_death=tallies.forget,
        )


if __name__ == "__main__":
    sys.exit(main())


class Worker:
    """A connection to one of the workers, for whom it stays with."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        self.pid = int(self._ask("POST", "/hit"))

    def _ask(self, method: str, path: str) -> str:
        self._connection.request(method, path)
        return self._connection.getresponse().read().decode()

    def hit(self) -> None:
        """Have it count a hit and a miss."""
        assert int(self._ask("POST", "/hit")) == self.pid

    def shown(self) -> Figures:
        """What its page shows."""
        return figures(self._ask("GET", "/metrics"))

    def close(self) -> None:
        self._connection.close()


class Workers:
    """The two workers of a service, and how often they have counted."""

    def __init__(self, url: str, gate: Path, place: Path) -> None:
        self._url, self.gate, self._place = url, gate, place
        self.hits = 0
        self.both: list[Worker] = []

    def find(self, gone: int = 0) -> None:
        """Connect to each of the two, neither of which is the one that is gone."""
        found: dict[int, Worker] = {}

        def is_there() -> bool:
            try:
                worker = Worker(self._url)
            except OSError:  # it reached the one that is going
                return False
            self.hits += 1
            if worker.pid == gone or worker.pid in found:
                worker.close()
            else:
                found[worker.pid] = worker
            return len(found) == 2

        wait_until(is_there, "two workers have answered")
        for worker in self.both:
            worker.close()
        self.both = list(found.values())

    def hit(self, worker: Worker) -> None:
        worker.hit()
        self.hits += 1

    def agree(self, workers: int) -> None:
        """Wait until the page of each shows what all of them counted."""
        for worker in self.both[:workers]:
            wait_until(partial(self._all_told, worker), "all hits are told")
            found = worker.shown()
            assert (found[LOCAL_HITS], found[MISSES]) == (self.hits, self.hits)
            assert found["watchly_cache_hit_age_seconds_count"] == self.hits
            assert found["watchly_workers"] == workers

    def _all_told(self, worker: Worker) -> bool:
        return worker.shown()[LOCAL_HITS] >= self.hits

    @property
    def folder(self) -> Path:
        """Where they count."""
        (folder,) = self._place.glob("watchly-metrics-*")
        return folder

    def files(self) -> set[str]:
        return {file.name for file in self.folder.iterdir()}


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    gate = tmp_path / "gate"
    with subprocess.Popen(
        [sys.executable, __file__, msgspec.json.encode(Plan(str(gate))).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), VARIABLE: str(tmp_path)},
        text=True,
    ) as service:
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        assert url, "it did not start"
        found = Workers(url, gate, tmp_path)
        try:
            found.find()
            yield found
        finally:
            for worker in found.both:
                worker.close()
            if gate.exists():
                os.close(os.open(gate, os.O_RDWR))  # lets in who waits there
            service.terminate()
    assert service.returncode == 0
    assert list(tmp_path.glob("watchly-metrics-*")) == []


def test_each_worker_shows_what_all_of_them_counted(workers: Workers) -> None:
    one, other = workers.both
    for _ in range(3):
        workers.hit(one)
    workers.hit(other)

    workers.agree(2)


def test_what_a_killed_worker_counted_stays_and_what_it_was_goes(workers: Workers) -> None:
    one, other = workers.both
    for _ in range(3):
        workers.hit(other)
    workers.agree(2)
    files = workers.files()
    os.mkfifo(workers.gate)

    os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: one.shown()["watchly_workers"] == 1, "the dead one is not counted any more")
    workers.agree(1)

    workers.gate.write_bytes(b"")
    workers.gate.unlink()
    workers.find(gone=other.pid)
    for worker in workers.both:
        workers.hit(worker)
    workers.agree(2)
    assert workers.files() == files, "those of its successor are others"


def test_a_folder_that_somebody_tidied_away_costs_no_worker_its_start(workers: Workers) -> None:
    one, other = workers.both
    shutil.rmtree(workers.folder)

    os.kill(other.pid, signal.SIGKILL)

    workers.find(gone=other.pid)
    assert one.pid in {worker.pid for worker in workers.both}
    assert workers.files()


def test_a_service_shows_its_workers(database_url: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": as_url(database_url), "SECRET_KEY": "k" * 32, "WATCHLY_HOME": str(tmp_path)}
    with Service(
        tmp_path / "log", "--workers", "2", **variables, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)
    ) as service:
        page = httpx.get(f"{service.url}/metrics").text

        assert figures(page)["watchly_workers"] == 2
        (folder,) = tmp_path.glob("watchly-metrics-*")
        assert {re.sub(r"\D", "", file.name) for file in folder.iterdir()} == {"0", "1"}
        for file in folder.iterdir():
            status = file.stat()
            assert status.st_blocks * 512 >= status.st_size, (
                f"{file.name} has holes, for which there may be no room"
            )
        assert service.stop() == 0
    assert not folder.exists()
