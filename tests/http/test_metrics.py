"""The page of metrics, of one process and of the workers of a service, as which this file runs."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import structlog
from litestar import Litestar, post
from litestar.routes import HTTPRoute
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from tests.adapters.test_statements import statements
from tests.http.conftest import Client, Configure, problem_in
from tests.metrics import METRICS, families, odd_labels
from tests.pictures import blank_png
from tests.services import Program, Service, as_url, wait_until

from watchly_adapters import counts, metrics
from watchly_adapters.container import Container
from watchly_adapters.counts import Telling
from watchly_adapters.gauges import of_health
from watchly_adapters.meters import CacheMetrics
from watchly_adapters.metrics import Metrics
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.settings import MEMORY, read_settings
from watchly_adapters.tallies import VARIABLE, Tallies
from watchly_adapters.watching import calls_of
from watchly_core.errors import Unavailable
from watchly_http.app import create_app
from watchly_http.health import Readiness
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
PNG: Final = blank_png(4, 4)

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
    assert found == {name: described.kind for name, described in METRICS.items()}


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


async def test_no_label_holds_what_somebody_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_KEPT", 0.0)
    word = "zqxjronin"
    movie = await client.added(title=word, genre=word)
    await client.patch(f"/api/movies/{movie.id}", json={"title": f"{word} 2"}, headers={"If-Match": '"v9"'})
    await client.patch(f"/api/movies/{movie.id}", json={"title": f"{word} 2"})
    await client.put(f"/api/movies/{movie.id}/image", content=PNG, headers={"Content-Type": "image/png"})
    shown = await client.current(movie.id)
    assert shown.image is not None
    for path in (
        f"/api/movies?q={word}&genre={word}",
        f"/api/movies/{movie.id}/history",
        f"/api/movies/{word}",
        f"/images/{shown.image.key}",
        f"/images/{word}",
        f"/problems/{word}",
        f"/{word}",
        f"/metrics?{word}=7",
    ):
        await client.get(path)
    await client.request(word.upper(), "/api/movies")
    await client.post("/api/auth/login", json={"email": f"{word}@films.example", "password": word})
    await client.delete(f"/api/movies/{movie.id}")
    with pytest.raises(KeyError):
        client.container.metrics().cache.hit(f"movie {movie.id}", 1.0)

    page = (await client.get("/metrics")).text

    assert list(odd_labels(page)) == []
    assert word not in page.lower()
    assert shown.image.key not in page
    found = figures(page)
    assert found['watchly_http_requests_total{method="GET",route="none",status="404"}'] == 1
    assert (
        found['watchly_http_requests_total{method="PATCH",route="/api/movies/{movie_id}",status="412"}'] == 1
    )
    assert found['watchly_use_case_seconds_count{outcome="VersionConflict",use_case="catalogue.revise"}'] == 1
    assert found['watchly_use_case_seconds_count{outcome="NotSignedIn",use_case="sessions.sign_in"}'] == 1
    assert found['watchly_use_case_seconds_count{outcome="ok",use_case="gallery.attach"}'] == 1
    assert found['watchly_image_store_call_seconds_count{call="image_store.put",outcome="ok"}'] == 1
    route = "/api/movies/{movie_id}/image"
    assert found[f'watchly_http_bytes_total{{direction="in",route="{route}"}}'] == len(PNG)
    assert found["watchly_http_requests_in_flight"] == 1
    assert found["watchly_log_changes"] + found["watchly_log_unnumbered"] == 4
    assert found["watchly_ready"] == found['watchly_check_up{check="database"}'] == 1


async def test_statements_and_pools_are_counted(client: Client) -> None:
    movie = await client.added()
    await client.current(movie.id)

    found = await shown(client)

    if client.container.settings().in_memory:
        assert not [name for name in found if "statement=" in name or "pool=" in name]
        return
    assert found['watchly_database_statement_seconds_count{outcome="ok",statement="movies.get"}'] >= 1
    assert found['watchly_pool_connections{pool="primary",state="open"}'] >= 1
    assert found['watchly_pool_acquire_seconds_count{pool="primary"}'] >= 2


async def test_who_is_left_without_a_connection_is_told_when_to_come_again_and_counted(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchly_adapters.postgres.pool._ACQUIRE_TIMEOUT", 0.2)
    async with Client(configure()) as client:
        database = client.container.database()
        if not isinstance(database, PostgresDatabase):
            return
        movie = await client.added()
        async with AsyncExitStack() as turns:
            held = 0
            while held < 10:  # as many as there are
                with suppress(Unavailable):
                    await turns.enter_async_context(database.alone(f"task {held}"))
                    held += 1
            reply = await client.get(f"/api/movies/{movie.id}")
            assert problem_in(reply, "unavailable").status == 503
            assert reply.headers["retry-after"] == "1"
        assert (await client.get(f"/api/movies/{movie.id}")).status_code == 200
        found = await shown(client)
    assert found['watchly_pool_refused_total{pool="primary"}'] >= 2


async def test_hits_are_told_before_long_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "TOLD_EVERY", 0.01)
    registry = CollectorRegistry()
    cache = CacheMetrics(registry, Telling())

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


async def test_what_does_not_answer_holds_up_no_page_and_is_asked_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.01)
    monkeypatch.setattr(metrics, "_KEPT", 0.0)
    counted, thawed, asked = Metrics(), asyncio.Event(), 0

    async def frozen() -> Iterable[Metric]:
        nonlocal asked
        asked += 1
        try:
            await thawed.wait()
        except asyncio.CancelledError:
            await thawed.wait()  # as who waits for a server does, until that has heard that it should not
            raise
        return ()

    async def well() -> Iterable[Metric]:
        return of_health({"database": False}, ready=False)

    counted.also(frozen)
    counted.also(well)
    async with asyncio.timeout(60):
        pages = [figures((await counted.page()).decode()) for _ in range(3)]

    assert [page["watchly_ready"] for page in pages] == [0, 0, 0]
    assert asked == 1
    thawed.set()


async def test_a_page_waits_for_longer_than_a_part_that_is_asked_for_a_sign_of_life() -> None:
    counted, never = Metrics(), asyncio.Event()

    async def check() -> object:
        return await never.wait()

    counted.also(Readiness({"database": check}).gauges)
    found = figures((await counted.page()).decode())

    assert found["watchly_ready"] == found['watchly_check_up{check="database"}'] == 0


def test_hits_are_told_at_once_where_there_is_no_loop() -> None:
    registry = CollectorRegistry()
    CacheMetrics(registry, Telling()).hit("shared", 1.0)

    labels = {"outcome": "hit", "level": "shared"}
    assert registry.get_sample_value("watchly_cache_reads_total", labels) == 1


# ---- the workers of a service ----

#: Counts all that there is to count, and shows the sizes of the files before and after.
CROWDED: Final = """
import asyncio, json, sys
from contextlib import suppress
from types import SimpleNamespace
from watchly_adapters.metrics import Metrics
from watchly_adapters.steps import Steps
from watchly_adapters.tallies import Tallies
with Tallies() as tallies:
    tallies.join(0)
    metrics = Metrics()
    watch = Steps(metrics.steps)
    def show_sizes():
        asyncio.run(metrics.page())  # which has told all of it
        print(json.dumps({file.name: file.stat().st_size for file in tallies.path.iterdir()}))
    show_sizes()
    routes, steps = json.load(sys.stdin)
    for route, method in routes:
        for status in (200, 304, 400, 401, 403, 404, 409, 412, 429, 503):
            done = SimpleNamespace(route=route, method=method, status=status, received=1, sent=1)
            metrics.requests.begin()
            metrics.requests.end(done, 0.1)
    for kind, name in steps:
        with watch.step(kind, name):
            pass
        for error in (TimeoutError, OSError):
            with suppress(error), watch.step(kind, name):
                raise error
    show_sizes()
"""


async def test_there_is_room_for_all_that_can_be_counted(
    fake_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = fake_client.container
    routes = [
        (route.path_format, method)
        for route in create_app(container).routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
    ]
    parts = {
        "catalogue": container.catalogue(),
        "gallery": container.gallery(),
        "uploads": container.gallery().uploads,
        "accounts": container.accounts(),
        "sessions": container.sessions(),
        "api_keys": container.api_keys(),
    }
    steps = [("use_case", name) for noun, part in parts.items() for name in calls_of(part, noun).values()]
    steps += [("statement", name) for name, _ in statements()]
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CROWDED],
        input=msgspec.json.encode([routes, steps]),
        stdout=subprocess.PIPE,
        check=True,
    )

    before, after = done.stdout.splitlines()
    assert (len(routes) > 50, len(steps) > 150) == (True, True)
    assert before == after


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
    # Nobody reads what would be logged, to a pipe, which is full before long.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
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
    with Program(
        "tests.http.test_metrics",
        msgspec.json.encode(Plan(str(gate))).decode(),
        variables={**os.environ, VARIABLE: str(tmp_path)},
        errors=2,
    ) as service:
        url = service.heard()
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
            service.process.terminate()
        assert service.process.wait(60) == 0
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
