"""Live changes: the feed on the fakes, and streams of `watchly serve` on PostgreSQL."""

from __future__ import annotations

import asyncio
import http.client
import random
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import msgspec
import pytest
from litestar.types import HTTPReceiveMessage, Message
from psycopg.conninfo import conninfo_to_dict
from tests.services import Service

from watchly_adapters.memory import MemoryDatabase
from watchly_core import Catalogue, GenreCount, Movie, MovieDraft, MovieQuery, Page
from watchly_core.errors import Unavailable
from watchly_core.events import Change as LoggedChange
from watchly_core.events import ChangeQuery, Changes
from watchly_core.imports import Row
from watchly_core.ports import MovieQueries
from watchly_core.traces import traced_by
from watchly_http import downloads, drain, feed
from watchly_http.changes import History
from watchly_http.downloads import EventStream
from watchly_http.drain import Phase
from watchly_http.feed import Change, Feed, Stream

PATIENCE: Final = 60.0
"""Seconds for anything that is to happen; far more than it takes."""


class Event(NamedTuple):
    """What an `EventSource` tells; one without data moves its last id alone."""

    id: int
    kind: str
    change: Change | None


def events_in(lines: Iterator[str], retries: list[int]) -> Iterator[Event]:
    """Read a stream as WHATWG HTML says, line by line."""
    last, kind, data = -1, "message", ""
    for line in lines:
        name, _, value = line.rstrip("\n").partition(": ")
        match name:
            case "id":
                last = int(value)
            case "event":
                kind = value
            case "data":
                data += value
            case "retry":
                retries.append(int(value))
            case "":
                if line == "\n":
                    yield Event(last, kind, msgspec.json.decode(data, type=Change) if data else None)
                    kind, data = "message", ""
            case _:
                raise AssertionError(f"no field of a stream: {line!r}")


# ---- the feed ----


class Queries:
    """Those of a fake, which count the reads of changes and fail while they are told to."""

    def __init__(self, queries: MovieQueries) -> None:
        self._queries = queries
        self.reads = 0
        self.error: Exception | None = None

    def at(self, position: str) -> Self:  # noqa: ARG002 - the port's
        return self

    async def get(self, movie_id: int) -> Movie:
        return await self._queries.get(movie_id)

    async def find(self, query: MovieQuery) -> Page:
        return await self._queries.find(query)

    async def count(self, query: MovieQuery) -> int:
        return await self._queries.count(query)

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        return await self._queries.genres(query)

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        return self._queries.export(query)

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[LoggedChange]:
        return await self._queries.history(movie_id, before=before, limit=limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        self.reads += 1
        await asyncio.sleep(0)  # as a database, it lets others go on
        if self.error is not None:
            raise self.error
        return await self._queries.changes(query)

    async def last_change(self) -> int:
        if self.error is not None:
            raise self.error
        return await self._queries.last_change()


class House:
    """A catalogue in memory and its feed."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.queries = Queries(self.database.queries)
        self.catalogue = Catalogue(self.queries, self.database.transactions)
        self.feed = Feed(self.catalogue, self.database.signal)

    async def add(self, count: int = 1) -> None:
        for number in range(count):
            await self.catalogue.add({"title": f"Film {number}"})

    async def add_at_once(self, count: int) -> None:
        async def rows() -> AsyncIterator[Row]:
            for number in range(count):
                yield Row(number + 1, {"title": f"Film {number}"})

        await self.catalogue.add_many(rows())

    @asynccontextmanager
    async def following(
        self, after: int | None = None, taken: int = 0, **query: object
    ) -> AsyncIterator[Follower]:
        """A client that follows, from when its first words are there; it holds so many pieces, or all."""
        stream = await self.feed.open(msgspec.convert(query, ChangeQuery), after)
        follower = Follower(stream, taken)
        line = asyncio.create_task(follower.take())
        try:
            follower.started = await follower.next()
            yield follower
        finally:
            line.cancel()
            await asyncio.wait({line})

    async def prune(self) -> None:
        async with self.database.transactions() as tx:
            await tx.events.prune(datetime.now(UTC) + timedelta(days=1), 10_000)


class EndOfStream(Exception):
    """There is no more."""


class Follower:
    """What a client gets.

    Attributes:
        started: what came first.
        retries: after how many milliseconds it is to come back.
    """

    started: Event

    def __init__(self, stream: Stream, taken: int) -> None:
        self.stream = stream
        self._taken: asyncio.Queue[bytes] = asyncio.Queue(taken)
        self.retries: list[int] = []
        self._ready: list[Event] = []
        self.last = 0

    async def take(self) -> None:
        """Take what comes, up to the end."""
        async with aclosing(self.stream.pieces()) as pieces:
            async for piece in pieces:
                await self._taken.put(piece)
        await self._taken.put(b"")

    async def next(self) -> Event:
        """What comes next, be it without data."""
        while not self._ready:
            async with asyncio.timeout(PATIENCE):
                piece = await self._taken.get()
            if not piece:
                raise EndOfStream
            self._ready += events_in(iter(piece.decode().splitlines(keepends=True)), self.retries)
        event = self._ready.pop(0)
        self.last = max(self.last, event.id)
        return event

    async def changes(self, count: int) -> list[int]:
        """The numbers of the next changes."""
        found: list[int] = []
        while len(found) < count:
            event = await self.next()
            if event.change is not None:
                assert event.id == event.change.seq
                assert event.kind == event.change.kind
                found.append(event.id)
        return found

    async def rest(self) -> list[int]:
        """The numbers of what comes up to the end."""
        found: list[int] = []
        while True:
            try:
                found += await self.changes(1)
            except EndOfStream:
                return found


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    async with house.feed.running():
        yield house


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


@pytest.mark.anyio
async def test_a_change_has_the_members_of_the_contract(house: House) -> None:
    with traced_by(f"00-{1:032x}-{1:016x}-01"):  # which is not among them
        await house.add()
    stream = await house.feed.open(ChangeQuery(), 0)
    text = b""
    async with asyncio.timeout(PATIENCE), aclosing(stream.pieces()) as pieces:
        while b"data: " not in text:
            text += await anext(pieces)
    (data,) = (line for line in text.decode().splitlines() if line.startswith("data: "))
    members = msgspec.json.decode(data.removeprefix("data: "), type=dict[str, object])
    assert list(members) == ["seq", "kind", "movie_id", "version", "at", "actor", "movie"]


@pytest.mark.anyio
async def test_without_a_place_to_go_on_from_only_what_is_new_is_told(house: House) -> None:
    await house.add(1_234)
    async with house.following() as follower:
        assert follower.started == Event(1_234, "message", None)
        assert follower.retries == [3_000]
        await house.add(3)
        assert await follower.changes(3) == numbers(1_235, 1_237)


@pytest.mark.anyio
@pytest.mark.parametrize("already", [0, 1, 99, 100, 101, 2_500])
async def test_who_resumes_gets_the_rest_and_then_what_is_new(house: House, already: int) -> None:
    await house.add(already)
    for after in {0, already // 2, already}:
        async with house.following(after=after) as follower:
            assert follower.started.id == after
            assert await follower.changes(already - after) == numbers(after + 1, already)
            await house.add()
            already += 1
            assert await follower.changes(1) == [already]


@pytest.mark.anyio
async def test_who_is_beyond_the_end_waits_there(house: House) -> None:
    await house.add(3)
    async with house.following(after=5) as ahead, house.following() as other:
        await house.add(4)
        assert await other.changes(4) == numbers(4, 7)
        assert await ahead.changes(2) == [6, 7]


@pytest.mark.anyio
async def test_filters(house: House) -> None:
    await house.add(2)
    async with (
        house.following(after=0, movie_id=2) as of_movie,
        house.following(after=0, kinds=["movie_removed", "movie_revised"]) as of_kinds,
    ):
        await house.catalogue.revise(1, {"genre": "Crime"})
        await house.catalogue.revise(2, {"genre": "Crime"})
        await house.catalogue.remove(1)
        assert await of_movie.changes(2) == [2, 4]
        assert await of_kinds.changes(3) == [3, 4, 5]


@pytest.mark.anyio
async def test_whoever_comes_and_goes_whenever_misses_nothing_and_gets_nothing_twice(house: House) -> None:
    chance = random.Random(5)  # noqa: S311 - no secret
    last = 3_000

    async def write() -> None:
        while (
            house.feed.position < last
            and (await house.catalogue.changes(ChangeQuery(after=last - 1))).data == ()
        ):
            if chance.random() < 0.1:
                await house.add_at_once(chance.randrange(150))
            else:
                await house.add()
            await asyncio.sleep(0)

    async def follow() -> list[int]:
        found: list[int] = []
        while not found or found[-1] < last:
            async with house.following(after=found[-1] if found else 0) as follower:
                for _ in range(chance.randrange(400)):
                    found += await follower.changes(1)
                    if found[-1] >= last:
                        break
                    if chance.random() < 0.05:
                        await asyncio.sleep(0)
        return found

    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow()) for _ in range(20)]
        tasks.create_task(write())

    assert [task.result() for task in followers] == [numbers(1, last)] * 20


@pytest.mark.anyio
async def test_changes_are_read_once_for_all_and_not_while_nobody_follows(house: House) -> None:
    await house.add(10)
    assert house.queries.reads == 0
    async with house.following() as one, house.following() as other:
        house.queries.reads = 0
        for number in range(11, 31):
            await house.add()
            assert await one.changes(1) == [number]
            assert await other.changes(1) == [number]
        assert house.queries.reads <= 21
    await house.add(5)
    reads = house.queries.reads
    await house.add(5)
    assert house.queries.reads <= reads + 1  # one that was under way
    async with house.following(after=30) as again:
        assert await again.changes(10) == numbers(31, 40)


@pytest.mark.anyio
async def test_a_database_that_fails_is_asked_again_and_nothing_is_missed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_PAUSE", 0.001)
    for error in (Unavailable("database", "gone"), RuntimeError("a fault of our own")):
        async with house.following() as follower:
            await house.add()
            first = follower.started.id + 1
            assert await follower.changes(1) == [first]
            house.queries.error, house.queries.reads = error, 0
            await house.add(3)
            async with asyncio.timeout(PATIENCE):
                while house.queries.reads < 5:  # noqa: ASYNC110 - it is the feed that counts
                    await asyncio.sleep(0.001)
            house.queries.error = None
            assert await follower.changes(3) == numbers(first + 1, first + 3)


@pytest.mark.anyio
async def test_a_database_that_fails_on_the_way_is_asked_again_with_signs_of_life(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_PAUSE", 0.001)
    await house.add(1_000)
    async with house.following(after=0, taken=1) as follower:
        house.queries.error = Unavailable("database", "gone")
        found = await follower.changes(100)
        while (event := await follower.next()).change is not None:
            found.append(event.id)
        assert event.id == found[-1] < 1_000
        house.queries.error = None
        assert found + await follower.changes(1_000 - len(found)) == numbers(1, 1_000)


@pytest.mark.anyio
async def test_a_database_that_is_away_opens_no_stream(house: House) -> None:
    house.queries.error = Unavailable("database", "gone")
    for after in (None, 0):
        with pytest.raises(Unavailable):
            await house.feed.open(ChangeQuery(), after)


@pytest.mark.anyio
async def test_a_client_that_is_too_slow_is_let_go_and_resumes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "ROOM", 150)
    async with house.following(taken=1) as slow, house.following() as quick:
        await house.add()
        assert await slow.changes(1) == [1]  # it has its place among the others
        for _ in range(6):
            await house.add_at_once(100)
            await quick.changes(100)
        assert slow.stream.ended
        assert not quick.stream.ended
        found = [1, *await slow.rest()]
        assert len(slow.retries) == 2
    async with house.following(after=found[-1]) as again:
        assert found + await again.changes(601 - len(found)) == numbers(1, 601)


@pytest.mark.anyio
async def test_a_long_way_to_catch_up_makes_no_client_slow(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "ROOM", 100)
    await house.add(1_000)
    async with house.following(after=0) as follower:
        found: list[int] = []
        while len(found) < 1_500:
            found += await follower.changes(1)
            if len(found) % 2 == 0 and len(found) <= 1_000:
                await house.add()
        assert found == numbers(1, 1_500)


@pytest.mark.anyio
async def test_a_quiet_stream_gives_signs_of_life_that_tell_where_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT", 0.01)
    async with house.following(after=0, kinds=["movie_removed"]) as follower:
        await house.add(7)
        async with asyncio.timeout(PATIENCE):
            while (event := await follower.next()).id < 7:
                assert event.change is None
        await house.catalogue.remove(1)
        assert await follower.changes(1) == [8]


@pytest.mark.anyio
async def test_a_stream_ends_where_what_comes_next_was_pruned(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_PAUSE", 0.001)
    await house.add(1)
    async with house.following() as follower, house.following(after=0) as behind:
        house.queries.error = Unavailable("database", "gone")
        for genre in ("Crime", "Thriller", "Drama"):
            await house.catalogue.revise(1, {"genre": genre})
        await house.prune()
        house.queries.error = None
        assert await follower.rest() == []
        assert await behind.rest() == [1]
    async with house.following(after=3) as again:
        assert await again.changes(1) == [4]


@pytest.mark.anyio
async def test_a_stop_ends_streams_wherever_they_are(house: House) -> None:
    await house.add(500)
    async with house.following() as waiting, house.following(after=0) as reading:
        await reading.changes(1)
        house.feed.stop()
        assert await waiting.rest() == []
        assert len(await reading.rest()) < 499
        for follower in (waiting, reading):
            assert len(follower.retries) == 2
    async with house.following(after=499) as late:
        assert await late.rest() == []
        assert len(late.retries) == 2


@pytest.mark.anyio
async def test_a_drain_ends_streams(house: House) -> None:
    async with house.following() as follower:
        drain.mark(Phase.DRAINING)
        try:
            with drain.at_drain(house.feed.stop):
                assert await follower.rest() == []
        finally:
            drain.mark(Phase.RUNNING)


@pytest.mark.anyio
async def test_there_is_a_limit_to_streams(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_STREAMS", 2)
    async with house.following(), house.following():
        with pytest.raises(Unavailable):
            await house.feed.open(ChangeQuery(), None)
    async with house.following():
        pass


# ---- the reply ----


class Line:
    """The connection of a client that takes so many pieces, and leaves when it is told to."""

    def __init__(self, taken: int = 1_000_000) -> None:
        self._taken = taken
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self.stuck = asyncio.Event()

    async def send(self, message: Message) -> None:
        if len(self.sent) >= self._taken:
            self.stuck.set()
            await asyncio.Event().wait()
        self.sent.append(message)

    async def receive(self) -> HTTPReceiveMessage:
        await self.left.wait()
        return {"type": "http.disconnect"}


@pytest.mark.anyio
async def test_a_client_that_leaves_takes_its_stream_with_it(house: House) -> None:
    line = Line()
    stream = await house.feed.open(ChangeQuery(), None)
    reply = asyncio.create_task(EventStream(stream).send_body(line.send, line.receive))
    async with house.following() as other:
        await house.add()
        assert await other.changes(1) == [1]
        line.left.set()
        async with asyncio.timeout(PATIENCE):
            await reply
    assert stream.ended
    await house.add(3)
    reads = house.queries.reads
    await house.add(3)
    assert house.queries.reads <= reads + 1


@pytest.mark.anyio
async def test_a_client_that_takes_nothing_does_not_hold_up_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_LAST_WORDS", 0.01)
    line = Line(taken=1)
    stream = await house.feed.open(ChangeQuery(), None)
    reply = asyncio.create_task(EventStream(stream).send_body(line.send, line.receive))
    async with house.following() as other:
        await house.add()
        assert await other.changes(1) == [1]
        async with asyncio.timeout(PATIENCE):
            await line.stuck.wait()
            house.feed.stop()
            await reply
    assert [message.get("more_body") for message in line.sent] == [True]


# ---- a service on PostgreSQL ----


class Listener:
    """A client of a stream over HTTP.

    Attributes:
        last: the id of the last event, by which it resumes.
    """

    def __init__(self, service: Service, last: int | None = None, query: str = "") -> None:
        url = urlsplit(service.url)
        self._connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE)
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        self._connection.request("GET", f"/api/changes/stream{query}", headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        self.headers = self._response.headers
        self.retries: list[int] = []
        self._events = events_in(iter(lambda: self._response.readline().decode(), ""), self.retries)
        self.last = self.next().id

    def next(self) -> Event:
        """What comes next, be it without data."""
        return next(self._events)

    def changes(self, count: int) -> list[int]:
        """The numbers of the next changes."""
        found: list[int] = []
        while len(found) < count:
            event = self.next()
            if event.change is not None:
                found.append(event.id)
                self.last = event.id
        return found

    def rest(self) -> list[int]:
        """The numbers of what comes up to the end, which is one as HTTP has it."""
        return [event.id for event in self._events if event.change is not None]

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def url_of(conninfo: str) -> str:
    known = conninfo_to_dict(conninfo)
    query = urlencode({name: str(value) for name, value in known.items() if name != "dbname"})
    return f"postgresql:///{known['dbname']}?{query}"


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    variables = {
        "DATABASE_URL": url_of(database_url),
        "SECRET_KEY": "0123456789abcdef" * 4,
        "WATCHLY_HOME": str(tmp_path / "home"),
        "DRAIN_TIMEOUT": str(int(PATIENCE)),
    }
    with Service(tmp_path / "log", "--workers", "2", **variables) as service:
        yield service


@contextmanager
def asking(service: Service) -> Iterator[http.client.HTTPConnection]:
    url = urlsplit(service.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE)
    try:
        yield connection
    finally:
        connection.close()


def write(service: Service, count: int = 1) -> None:
    for number in range(count):
        with asking(service) as connection:  # each may meet another worker
            body = b'{"title": "Film %d"}' % number
            connection.request("POST", "/api/movies", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 201


def test_streams_of_all_workers_tell_the_writes_of_all_workers(service: Service) -> None:
    write(service, 2)
    listeners = [Listener(service) for _ in range(8)]
    assert [listener.last for listener in listeners] == [2] * 8
    write(service, 20)
    for listener in listeners:
        assert listener.changes(20) == numbers(3, 22)
        assert listener.headers["content-type"] == "text/event-stream"
        assert listener.headers["cache-control"] == "no-store"
        assert listener.headers["x-accel-buffering"] == "no"
        listener.close()
    with asking(service) as connection:
        connection.request("GET", "/api/movies/1/history")
        history = msgspec.json.decode(connection.getresponse().read(), type=History)
    resumed = Listener(service, last=0, query="?movie_id=1&after=17")
    assert resumed.next().change == history.data[0]
    resumed.close()


def test_a_listener_that_loses_its_line_again_and_again_hears_everything_once(service: Service) -> None:
    heard: list[int] = []
    last = 0
    for round_ in range(10):
        write(service, 3)
        listener = Listener(service, last=last)
        write(service, 3)
        heard += listener.changes(6 if round_ == 9 else 4)
        last = listener.last
        listener.close()
    listener = Listener(service, last=last)
    heard += listener.changes(60 - len(heard))
    listener.close()
    assert heard == numbers(1, 60)


def test_a_stop_ends_open_streams_at_once_and_tells_clients_to_come_back(service: Service) -> None:
    listeners = [Listener(service) for _ in range(20)]
    write(service)
    for listener in listeners:
        assert listener.changes(1) == [1]
    began = time.monotonic()

    service.process.send_signal(signal.SIGTERM)

    for listener in listeners:
        assert listener.rest() == []
        assert listener.retries[0] == 3_000
        assert 1_000 <= listener.retries[1] <= 5_000
    assert service.process.wait(PATIENCE) == 0
    assert time.monotonic() - began < PATIENCE / 4  # of a drain that would last so long
    for listener in listeners:
        listener.close()
