"""A backup that is made while others write, and sweep: what is restored is the catalogue at one moment."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

import httpx
import psycopg
import pytest
from psycopg.rows import TupleRow
from tests.pictures import cleaned
from tests.services import WATCHLY, Service, environment, run

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.testing import samples

pytestmark = pytest.mark.anyio

WRITERS: Final = 6
#: Writes before the first backup, and between two.
WARM: Final = 250
BACKUPS: Final = 2

EVENTS: Final = "SELECT movie_id, version, kind, at, actor, movie::text, seq FROM events"
IMAGES: Final = "SELECT key, state, bytes, movie_id FROM images WHERE state IN ('attached', 'discarded')"
SHOWN: Final = "SELECT id, image ->> 'key' FROM movies WHERE image IS NOT NULL"
LAST: Final = "SELECT last_seq FROM change_log"

#: The events of a log by movie and version, each with its number, which may have come later.
Log: TypeAlias = dict[tuple[int, int], tuple[TupleRow, int | None]]


class Writers:
    """Write to a service all the time, and remember what they were told.

    Attributes:
        told: the movies and versions that were answered.
        sent: the images that were shown, by key.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=60)
        self._marks = itertools.count(1)
        self._live: list[int] = []
        self._gone: list[int] = []
        self._stop = False
        self.told: set[tuple[int, int]] = set()
        self.sent: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Write while the block runs."""
        async with self._client, asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._write(number))
            try:
                yield
            finally:
                self._stop = True

    async def done(self, writes: int) -> None:
        """Wait for so many more writes."""
        wanted = self.counts.total() + writes
        async with asyncio.timeout(60):
            while self.counts.total() < wanted:  # noqa: ASYNC110 - what is waited for is elsewhere
                await asyncio.sleep(0.01)  # between looks, not in place of one

    async def _write(self, number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - no secret
        wanted = ["add", "image", "image", "revise", "detach", "remove", "revert"]
        while not self._stop:
            what = "add" if len(self._live) < 10 * WRITERS else chance.choice(wanted)
            await self._do(what, chance)

    async def _do(self, what: str, chance: random.Random) -> None:
        movie_id = chance.choice(self._live or [0])
        path = f"/api/movies/{movie_id}"
        purge = {"purge": chance.choice(["true", "false"])}
        if what == "add":
            content = self._picture(chance)
            files = {"image": ("x.png", content, "image/png")}
            reply = await self._client.post("/api/movies", data={"title": "Heat"}, files=files)
            self._shown(reply, content)
            self._live.append(reply.json()["id"])
        elif what == "image":
            content = self._picture(chance)
            headers = {"Content-Type": "image/png"}
            self._shown(await self._client.put(f"{path}/image", content=content, headers=headers), content)
        elif what == "revise":
            self._see(await self._client.patch(path, json={"title": f"Heat {next(self._marks)}"}))
        elif what == "detach":
            await self._client.delete(f"{path}/image", params=purge)
        elif what == "remove":
            if (await self._client.delete(path, params=purge)).status_code == 204:
                self._live.remove(movie_id)
                self._gone.append(movie_id)
        elif self._gone:
            back = chance.choice(self._gone)
            reply = await self._client.post(f"/api/movies/{back}/revert", json={"version": 1})
            if reply.status_code == 200 and back in self._gone:
                self._gone.remove(back)
                self._live.append(back)
            self._see(reply)
        self.counts[what] += 1

    def _picture(self, chance: random.Random) -> bytes:
        return samples.png(chance.choice([300, 3_000, 300_000]), mark=next(self._marks))

    def _shown(self, reply: httpx.Response, content: bytes) -> None:
        self._see(reply)
        if reply.is_success:
            self.sent[reply.json()["image"]["key"]] = cleaned(content)

    def _see(self, reply: httpx.Response) -> None:
        assert reply.status_code in {200, 201, 404, 409}, reply.text
        if reply.is_success:
            self.told.add((reply.json()["id"], reply.json()["version"]))


@asynccontextmanager
async def sweeping(home: Path) -> AsyncIterator[None]:
    """`watchly sweep`, again and again, beside what the service sweeps."""
    stop = asyncio.Event()

    async def sweep() -> None:
        while not stop.is_set():
            done = await asyncio.to_thread(run, "sweep", WATCHLY_HOME=str(home))
            assert done.returncode == 0, done.stderr

    async with asyncio.TaskGroup() as group:
        group.create_task(sweep())
        try:
            yield
        finally:
            stop.set()


def backup(home: Path, path: Path) -> subprocess.CompletedProcess[str]:
    # In a process of its own: `run` runs one command at a time, and others sweep.
    return subprocess.run(
        [WATCHLY, "backup", path],
        env=environment(WATCHLY_HOME=str(home)),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def log_of(connection: psycopg.Connection[TupleRow]) -> Log:
    return {(row[0], row[1]): (row[2:6], row[6]) for row in connection.execute(EVENTS)}


def assert_one_moment(there: Log, here: Log, before: set[tuple[int, int]]) -> None:
    """Each movie's history is that of the source up to a version, without a hole, and so is the whole log."""
    assert before <= there.keys()
    versions: dict[int, list[int]] = defaultdict(list)
    for movie_id, version in there:
        versions[movie_id].append(version)
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in versions.values())
    numbers = []
    for name, (event, seq) in there.items():
        assert event == here[name][0]
        if seq is not None:
            assert seq == here[name][1]
            numbers.append(seq)
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def assert_images(home: Path, connection: psycopg.Connection[TupleRow], sent: Mapping[str, bytes]) -> int:
    """Ledger, movies and files agree; how many images there are."""
    files = {path.name: path for path in (home / "images").rglob("*") if path.is_file()}
    records = {row[0]: row[1:] for row in connection.execute(IMAGES)}
    assert files.keys() == records.keys()
    for key, path in files.items():
        content = path.read_bytes()
        assert len(content) == records[key][1]
        assert content == sent.get(key, content)
    shown = {key: movie_id for movie_id, key in connection.execute(SHOWN)}
    attached = {key: record[2] for key, record in records.items() if record[0] == "attached"}
    assert shown == attached
    return len(files)


@pytest.fixture
def homes(reachable_directory: Path) -> list[Path]:
    """A home to be backed up, and those that its backups are restored into."""
    names = ("source", *(f"restored-{number}" for number in range(BACKUPS)))
    return [reachable_directory / f"backups-{name}" for name in names]


@pytest.mark.timeout(300)  # a service, and two more
async def test_a_backup_under_load_is_the_catalogue_at_one_moment(homes: list[Path], tmp_path: Path) -> None:
    source, *restored = homes
    befores: list[set[tuple[int, int]]] = []
    paths = [tmp_path / f"{number}.tar" for number in range(BACKUPS)]
    with Service(
        tmp_path / "log",
        WATCHLY_HOME=str(source),
        IMAGE_GRACE="0",
        SWEEP_INTERVAL="1 s",
        LOG_LEVEL="warning",
    ) as service:
        writers = Writers(service.url)
        async with writers.at_work(), sweeping(source):
            for path in paths:
                await writers.done(WARM)
                befores.append(set(writers.told))
                done = await asyncio.to_thread(backup, source, path)
                assert done.returncode == 0, done.stderr
            await writers.done(WARM)
        with EmbeddedPostgres(source) as url, psycopg.connect(url) as connection:
            here = log_of(connection)
    for home, path, before in zip(restored, paths, befores, strict=True):
        with EmbeddedPostgres(home) as url:
            done = run("restore", str(path), WATCHLY_HOME=str(home))
            assert done.returncode == 0, done.stderr
            with psycopg.connect(url) as connection:
                there = log_of(connection)
                images = assert_images(home, connection, writers.sent)
            assert f", events: {len(there)}, images: {images} (" in done.stderr
            assert 0 < len(there) < len(here)
            assert_one_moment(there, here, before)
            checked = run("rebuild", "--check", WATCHLY_HOME=str(home))
            assert checked.returncode == 0, checked.stdout
            await assert_served(home, tmp_path, writers.sent)
    assert min(writers.counts[what] for what in ("add", "image", "revise", "detach", "remove")) > WARM / 20


async def assert_served(home: Path, tmp_path: Path, sent: Mapping[str, bytes]) -> None:
    """Every movie that is listed shows its image."""
    with Service(tmp_path / "log", WATCHLY_HOME=str(home), SWEEP_INTERVAL="0") as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            movies = (await client.get("/api/movies?limit=200")).json()["data"]
            shown = [movie for movie in movies if movie["image"]]
            assert shown
            for movie in shown:
                assert (await client.get(movie["image_url"])).content == sent[movie["image"]["key"]]
