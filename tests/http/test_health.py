"""Health, over REST and as it asks the parts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from dependency_injector import providers
from tests.http.conftest import Client, Configure, problem_in

from watchly_adapters.memory import MemoryImages
from watchly_core.errors import Unavailable
from watchly_core.images import StoredImage
from watchly_http import health
from watchly_http.health import Check, Readiness, Refusal

pytestmark = pytest.mark.anyio

#: Seconds after which a part that hangs is given up here.
SOON: Final = 0.05


class DownImages(MemoryImages):
    """An image store that does not answer."""

    async def stat(self, key: str) -> StoredImage | None:  # noqa: ARG002 - the port's
        raise Unavailable("image_store", "secret")


# ---- health ----


async def test_liveness_touches_nothing(client: Client) -> None:
    response = await client.get("/health/live")

    assert (response.status_code, response.json()) == (200, {"status": "up"})
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_readiness_names_each_part(client: Client, path: str) -> None:
    response = await client.get(path)

    assert response.status_code == 200
    assert response.json() == {"status": "up", "checks": {"database": "up", "image_store": "up"}}
    assert response.headers["cache-control"] == "no-store"


async def test_a_store_that_is_down_only_degrades(configure: Configure) -> None:
    container = configure()
    container.images.override(providers.Object(DownImages()))
    async with Client(container) as client:
        response = await client.get("/health/ready")

        assert response.status_code == 200
        assert response.json()["status"] == "degraded"
        assert response.json()["checks"] == {"database": "up", "image_store": "degraded"}
        assert (await client.get("/api/movies")).status_code == 200


@pytest.mark.parametrize(("kept", "condition"), [(0.0, "up"), (60.0, "degraded")])
async def test_a_store_that_is_up_again_is_soon_seen_to_be(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, kept: float, condition: str
) -> None:
    monkeypatch.setattr(health, "_KEPT", 0.0)
    monkeypatch.setattr(health, "_FAULT_KEPT", kept)
    container = configure()
    images = container.images()
    whole, broken = type(images), type("Broken", (type(images),), {"stat": DownImages.stat})
    async with Client(container) as client:
        images.__class__ = broken
        before = (await client.get("/health/ready")).json()["checks"]
        images.__class__ = whole
        after = (await client.get("/health/ready")).json()["checks"]

    assert (before["image_store"], after["image_store"]) == ("degraded", condition)


async def test_a_directory_of_images_that_fails_only_degrades(
    configure_fakes: Configure, tmp_path: Path
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("not a directory")
    async with Client(configure_fakes(IMAGE_STORE_URL=nowhere.as_uri())) as client:
        response = await client.get("/health/ready")

        assert response.status_code == 200
        assert response.json()["checks"] == {"database": "up", "image_store": "degraded"}
        assert str(tmp_path) not in response.text


async def test_a_store_elsewhere_is_named_as_well(configure_fakes: Configure) -> None:
    """api.md: each dependency by name. Nothing listens at this Cloudinary, so it cannot be up."""
    async with Client(configure_fakes(CLOUDINARY_URL="cloudinary://key:secret@nowhere")) as client:
        assert "image_store" in (await client.get("/health/ready")).json()["checks"]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody answers, kept from everybody else."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


async def test_without_its_database_it_is_alive_but_not_ready(
    configure_fakes: Configure, closed_port: int
) -> None:
    container = configure_fakes()
    url = f"postgresql://user:secret@127.0.0.1:{closed_port}/watchly"
    settings = msgspec.structs.replace(container.settings(), database_url=url)
    container.settings.override(providers.Object(settings))
    async with Client(container) as client:
        ready = await client.get("/health/ready")
        live = await client.get("/health/live")

        problem_in(ready, "unavailable")
        assert "draining" not in ready.json()
        assert ready.json()["checks"] == {"database": "down", "image_store": "up"}
        assert ready.headers["retry-after"].isdigit()
        assert "secret" not in ready.text
        assert str(closed_port) not in ready.text
        assert live.status_code == 200


async def test_while_it_drains_it_is_alive_but_not_ready(
    fake_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "draining", lambda: True)

    ready = await fake_client.get("/health/ready")
    live = await fake_client.get("/health/live")

    problem_in(ready, "unavailable")
    told = msgspec.json.decode(ready.content, type=Refusal)
    assert (told.draining, told.checks) == (True, {"database": "up", "image_store": "up"})
    assert ready.headers["retry-after"].isdigit()
    assert live.status_code == 200
    assert (await fake_client.get("/api/movies")).status_code == 200


# ---- how the parts are asked ----


class Parts:
    """Parts that count how often they are asked, and hang or fail as they are told."""

    def __init__(self, *names: str) -> None:
        self.asked: Counter[str] = Counter()
        self.now = 0.0
        self.hanging: set[str] = set()
        self.stubborn: set[str] = set()
        self.broken: set[str] = set()
        self.thawed = asyncio.Event()
        checks = {name: self._check(name) for name in names}
        self.readiness = Readiness(checks, patience=SOON, ticks=lambda: self.now)

    def _check(self, name: str) -> Check:
        async def ask() -> None:
            self.asked[name] += 1
            if name in self.broken:
                raise ZeroDivisionError("a bug")
            while name in self.hanging and not self.thawed.is_set():
                try:
                    await self.thawed.wait()
                except asyncio.CancelledError:
                    if name not in self.stubborn:
                        raise

        return ask


async def test_whoever_asks_at_once_or_soon_has_one_round_of_questions() -> None:
    parts = Parts("database", "cache")
    answers = await asyncio.gather(*(parts.readiness.checks() for _ in range(50)))
    assert all(answer == {"database": "up", "cache": "up"} for answer in answers)
    parts.now = 0.9
    await parts.readiness.checks()
    assert parts.asked == {"database": 1, "cache": 1}
    parts.now = 1.0
    parts.broken = {"cache"}
    assert await parts.readiness.checks() == {"database": "up", "cache": "degraded"}
    assert parts.asked == {"database": 2, "cache": 2}


async def test_who_leaves_takes_the_answers_from_nobody() -> None:
    parts = Parts("database", "cache")
    parts.hanging = {"cache"}
    first, second = (asyncio.create_task(parts.readiness.checks()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == {"database": "up", "cache": "degraded"}


async def test_a_part_that_hangs_holds_nobody_up_and_its_questions_do_not_pile_up() -> None:
    parts = Parts("database", "cache", "replica")
    parts.hanging, parts.stubborn = {"cache", "replica"}, {"cache"}
    for round_ in range(1, 6):
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(parts.readiness.checks() for _ in range(20)))
        assert answers == [{"database": "up", "cache": "degraded", "replica": "degraded"}] * 20
        # One that gives up when it is told so is asked again; one that does not has its first question still.
        assert parts.asked == {"database": round_, "cache": 1, "replica": round_}
        parts.now += 1
    parts.thawed.set()
    await asyncio.sleep(0)
    assert await parts.readiness.checks() == {"database": "up", "cache": "up", "replica": "up"}


async def test_a_database_that_hangs_is_down() -> None:
    parts = Parts("database")
    parts.hanging = {"database"}
    assert await parts.readiness.checks() == {"database": "down"}


async def test_it_is_logged_when_a_part_goes_and_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "watchly.health")
    parts = Parts("database", "cache")
    told = []
    for broken in (set[str](), {"cache"}, {"cache"}, set[str](), {"cache", "database"}):
        parts.broken = broken
        await parts.readiness.checks()
        told.append(sorted(record.levelname for record in caplog.records))
        caplog.clear()
        parts.now += 1
    assert told == [[], ["WARNING"], [], ["INFO"], ["WARNING", "WARNING"]]


async def test_a_store_that_is_away_is_asked_seldom(configure_fakes: Configure) -> None:
    class Counting(DownImages):
        asked = 0

        async def stat(self, key: str) -> StoredImage | None:
            self.asked += 1
            return await super().stat(key)

    images = Counting()
    container = configure_fakes()
    container.images.override(providers.Object(images))
    checks = health.checks_of(container.database(), images)
    now = 0.0
    readiness = Readiness(checks, ticks=lambda: now)
    for _ in range(5):
        assert (await readiness.checks())["image_store"] == "degraded"
        now += 1
    assert images.asked == 1
