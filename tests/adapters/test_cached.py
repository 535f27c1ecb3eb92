"""Reading through a cache: two processes on one database, races, positions, and who asks at once."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import psycopg
import pytest
from tests.caches import DEADLINE, Gated, IdentifiedStore, Watch, caught_up
from tests.replicas import replicated
from tests.services import EMPTY
from tests.valkeys import ValkeyServer

from watchly_adapters import kept
from watchly_adapters.cached import KEEP, CachedQueries
from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.following import TRUSTED
from watchly_adapters.kept import MOVIE, Kept, Shelf
from watchly_adapters.memory import MemoryCache, MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.testing.stores import NOON
from watchly_adapters.valkey import ValkeyCache
from watchly_core import Catalogue
from watchly_core.errors import InvalidPosition, MovieNotFound, Unavailable
from watchly_core.events import ImageAttached
from watchly_core.images import Image, new_key
from watchly_core.movies import Movie, MovieDraft
from watchly_core.ports import Cache, MovieQueries
from watchly_core.queries import GenreCount, MovieQuery, Page

pytestmark = pytest.mark.anyio

ALL = MovieQuery()


class Clock:
    """Time that passes as it does, and by leaps."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def leap(self, seconds: float) -> None:
        self._ahead += seconds


class Process:
    """What one process has: a cache over a store, and the use cases that write.

    Attributes:
        primary: what fills the cache.
    """

    def __init__(self, store: IdentifiedStore, shared: Cache | None = None) -> None:
        self.store = store
        self.primary = Gated(store.queries)
        self.watch = Watch()
        self.clock = Clock()
        self.cached = CachedQueries(
            self.primary,
            store.signal,
            store.identity,
            rest=store.reads,
            shared=shared,
            watch=self.watch,
            ticks=self.clock,
        )
        self.catalogue = Catalogue(store.queries, store.transactions)

    @property
    def position(self) -> str:
        """Where all that was written in this process can be seen."""
        assert self.store.position is not None
        return self.store.position

    @property
    def filled(self) -> int:
        """How often the store was asked for something to keep."""
        return sum(self.primary.asked[name] for name in ("get", "find", "count", "genres"))

    async def settle(self) -> None:
        """Hear of all that was written."""
        await caught_up(self.cached.log, self.store)

    async def confirmed(self) -> None:
        """Wait until the end of the log was read by a reading that has begun after this was called."""
        now = self.clock()
        async with asyncio.timeout(DEADLINE):
            while True:
                told = self.cached.log.told.count
                if self.cached.log.confirmed >= now:
                    return
                await self.cached.log.told.beyond(told)

    async def shared(self) -> None:
        """Wait until what was read is in the second level."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self.cached._sharing)  # noqa: SLF001 - nobody else waits for it


@asynccontextmanager
async def running(store: IdentifiedStore, shared: Cache | None = None) -> AsyncIterator[Process]:
    process = Process(store, shared)
    async with process.cached.running():
        await process.settle()
        yield process


@pytest.fixture
async def here() -> AsyncIterator[Process]:
    """A process on the fake, where it makes no difference what is behind the cache."""
    async with running(MemoryDatabase()) as process:
        yield process


@asynccontextmanager
async def processes(
    url: str, number: int, server: ValkeyServer | None = None
) -> AsyncIterator[list[Process]]:
    """Processes on one PostgreSQL, and on one Valkey if there is one."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(number):
            store = await stack.enter_async_context(PostgresDatabase(url))
            cache = None if server is None else ValkeyCache(server.url, timeout=DEADLINE)
            found.append(await stack.enter_async_context(running(store, cache)))
        yield found


async def seen(queries: MovieQueries, movie: Movie) -> float:
    """How many seconds it took until `movie` was read as it is now, or later."""
    began = time.perf_counter()
    async with asyncio.timeout(DEADLINE):
        while True:
            if (await queries.get(movie.id)).version >= movie.version:
                return time.perf_counter() - began
            await asyncio.sleep(0)


# ---- two processes ----


@pytest.mark.parametrize("levels", ["local", "shared"])
async def test_a_write_is_seen_elsewhere_after_one_notification(
    levels: str, database_url: str, valkey_server: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = valkey_server if levels == "shared" else None
    async with processes(database_url, 2, server) as (one, other):
        movie = await one.catalogue.add({"title": "Heat"})
        await other.settle()
        stale = []
        for number in range(50):
            assert (await other.cached.get(movie.id)).version == movie.version
            assert (await other.cached.find(ALL)).data == (movie,)
            movie = await one.catalogue.revise(movie.id, {"title": f"Heat {number}"})
            stale.append(await seen(other.cached, movie))
            assert (await other.cached.find(ALL)).data == (movie,)
        assert other.watch.counts["local"] > 50
    with capsys.disabled():
        ms = sorted(1_000 * seconds for seconds in stale)
        print(f" stale for {statistics.median(ms):.1f} ms, {ms[-1]:.1f} ms at most ", end="")  # noqa: T201 - the run's own record
    # By notifications: looks without any come every half a second.
    assert statistics.median(stale) < 0.25


async def test_nothing_that_was_there_is_given_out_once_it_is_removed(database_url: str) -> None:
    async with processes(database_url, 2) as (one, other):
        movie = await one.catalogue.add({"title": "Heat", "genre": "Crime"})
        await other.settle()
        assert await other.cached.get(movie.id) == movie
        assert [await other.cached.count(ALL), len(await other.cached.genres(ALL))] == [1, 1]
        await one.catalogue.remove(movie.id)
        await other.settle()
        for _ in range(2):
            with pytest.raises(MovieNotFound):
                await other.cached.get(movie.id)
            assert (await other.cached.find(ALL)).data == ()
            assert [await other.cached.count(ALL), len(await other.cached.genres(ALL))] == [0, 0]
        again = await one.catalogue.revert(movie.id, 1)
        await other.settle()
        assert await other.cached.get(movie.id) == again.movie


@pytest.mark.parametrize("levels", ["local", "shared"])
async def test_whoever_sends_a_position_never_reads_anything_older(
    levels: str, database_url: str, valkey_server: ValkeyServer
) -> None:
    """Writers and readers in three processes; whatever anybody was told of by its position is there."""
    server = valkey_server if levels == "shared" else None
    random_ = random.Random(7)  # noqa: S311 - no secret
    told: list[tuple[str, int, int]] = []
    async with processes(database_url, 3, server) as found:
        movies = [await found[0].catalogue.add({"title": f"Film {number}"}) for number in range(5)]

        async def write(process: Process) -> None:
            for number in range(60):
                movie = await process.catalogue.revise(
                    random_.choice(movies).id, {"title": f"{random_.random()} {number}"}
                )
                told.append((process.position, movie.id, movie.version))
                await asyncio.sleep(0)

        async def read(process: Process) -> None:
            for _ in range(300):
                if told:
                    position, movie_id, version = random_.choice(told[-20:])
                    view = process.cached.at(position)
                    assert (await view.get(movie_id)).version >= version
                    page = await view.find(ALL)
                    assert next(movie for movie in page.data if movie.id == movie_id).version >= version
                await asyncio.sleep(0)

        await asyncio.gather(*map(write, found), *(read(process) for process in found * 3))
        for process in found:
            await process.settle()
            last = await found[0].store.queries.find(ALL)
            for _ in range(2):
                assert await process.cached.find(ALL) == last
                assert [await process.cached.get(movie.id) for movie in last.data] == list(last.data)
            assert process.watch.counts["local"] > 0


# ---- what is kept ----


async def test_everything_is_read_once_and_then_kept(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat", "genre": "Crime", "release_year": 1995})
    await here.settle()
    crime = MovieQuery(genre="Crime")
    for _ in range(3):
        assert await here.cached.get(movie.id) == movie
        assert (await here.cached.find(crime)).data == (movie,)
        assert await here.cached.count(crime) == 1
        assert [count.genre for count in await here.cached.genres(crime)] == ["Crime"]
    assert here.primary.asked == here.primary.asked | {"get": 1, "find": 1, "count": 1, "genres": 1}
    assert here.watch.counts == {"miss": 4, "local": 8}
    assert all(0 <= age < 60 for age in here.watch.ages)


async def test_a_hit_suspends_nobody(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    await here.cached.get(movie.id)
    reading = here.cached.get(movie.id)
    with pytest.raises(StopIteration) as ended:
        reading.send(None)
    assert ended.value.value == movie


async def test_each_query_has_an_answer_of_its_own(here: Process) -> None:
    for year in (1990, 1995, 1999):
        for genre in ("Crime", "Drama"):
            await here.catalogue.add({"title": f"{genre} {year}", "genre": genre, "release_year": year})
    await here.settle()
    queries = [
        ALL,
        MovieQuery(limit=1),
        MovieQuery(limit=2**70),
        MovieQuery(q="crime"),
        MovieQuery(q="drama"),
        MovieQuery(genre="Crime"),
        MovieQuery(genre="crime"),
        MovieQuery(release_year=1995),
        MovieQuery(min_release_year=1995),
        MovieQuery(max_release_year=1995),
        MovieQuery(min_release_year=-(2**63), max_release_year=2**63 - 1),
    ]
    real = here.store.queries
    for _ in range(2):
        for query in queries:
            assert await here.cached.find(query) == await real.find(query)
            assert await here.cached.count(query) == await real.count(query)
            assert list(await here.cached.genres(query)) == list(await real.genres(query))
    # How much of it is shown makes no difference to how many there are.
    assert here.primary.asked["find"] == len(queries)
    assert here.primary.asked["count"] == here.primary.asked["genres"] == len(queries) - 2


async def test_the_rest_is_left_to_the_store(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    assert [draft.title async for batch in here.cached.export(ALL) for draft in batch] == ["Heat"]
    assert [change.event.movie for change in await here.cached.history(movie.id)] == [movie]
    assert await here.cached.last_change() == 1


async def test_memory_is_bounded_by_what_it_is_said_to_be() -> None:
    room = 4_000_000
    shelf = Shelf(room)
    now = time.time()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 12_000):
            movie = _decoded(number)
            shelf.put(number, Kept(movie, number + 10**6, now + number, now - number), MOVIE.weigh(movie))
        del movie
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.9 * room < shelf.used <= room
    assert 0.8 * room < taken < 1.05 * room
    assert shelf.get(1) is None
    assert shelf.get(11_999) is not None


def _decoded(number: int) -> Movie:
    """A movie that shares nothing with others, as one that comes from elsewhere."""
    description = f"{number} {'🎬' if number % 7 == 0 else 'x'}" * (number % 90)
    movie = Movie(
        number,
        f"{'é' * (number % 50)} {number}",
        description if number % 3 else None,
        1990,
        f"Genre {number}",
        None,
        Image(new_key(), 600, 900, "jpeg", 80_000 + number) if number % 2 else None,
        1,
        NOON,
        NOON,
    )
    return msgspec.msgpack.decode(msgspec.msgpack.encode(movie), type=Movie)


async def test_what_was_used_last_stays() -> None:
    shelf = Shelf(300)
    answer = Kept(Page((), None), 0, 0.0, 0.0)
    for key in (1, 2, 3):
        shelf.put(key, answer, 100)
    shelf.get(1)
    shelf.put(4, answer, 100)
    assert [key for key in (1, 2, 3, 4) if shelf.get(key)] == [1, 3, 4]
    shelf.put(3, answer, 200)
    assert [key for key in (1, 3, 4) if shelf.get(key)] == [3, 4]
    shelf.put(4, answer, 301)
    assert [key for key in (3, 4) if shelf.get(key)] == [3]
    assert shelf.used == 200


# ---- races ----


@pytest.mark.parametrize("levels", ["local", "shared"])
async def test_a_read_that_a_change_has_overtaken_is_not_kept(
    levels: str, database_url: str, valkey_server: ValkeyServer
) -> None:
    server = valkey_server if levels == "shared" else None
    async with processes(database_url, 2, server) as (one, other):
        movie = await one.catalogue.add({"title": "Heat"})
        await one.settle()
        gate = one.primary.close("get", "find", "count")
        early = [
            asyncio.create_task(one.cached.get(movie.id)),
            asyncio.create_task(one.cached.find(ALL)),
        ]
        await one.primary.holds(2)
        one.primary.open()
        revised = await other.catalogue.revise(movie.id, {"title": "Heat 2"})
        await one.settle()
        await other.settle()
        gate.set()
        # They came before the change.
        assert await asyncio.gather(*early) == [movie, Page((movie,), None)]
        await one.shared()
        for process in (one, other):
            assert await process.cached.get(movie.id) == revised
            assert await process.cached.find(ALL) == Page((revised,), None)


async def test_whoever_comes_after_a_change_does_not_join_who_came_before(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    gate = here.primary.close("get")
    early = asyncio.create_task(here.cached.get(movie.id))
    await here.primary.holds(1)
    here.primary.open()
    revised = await here.catalogue.revise(movie.id, {"title": "Heat 2"})
    await here.settle()
    assert await here.cached.get(movie.id) == revised
    gate.set()
    assert await early == movie
    # What lands late does not take the place of what is newer.
    assert await here.cached.get(movie.id) == revised
    assert here.primary.asked["get"] == 2


# ---- many at once ----


async def test_many_who_miss_the_same_are_answered_by_one_read(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    gate = here.primary.close("get", "find")
    asking = [asyncio.create_task(here.cached.get(movie.id)) for _ in range(100)]
    listing = [asyncio.create_task(here.cached.find(ALL)) for _ in range(100)]
    await here.primary.holds(2)
    gate.set()
    assert await asyncio.gather(*asking) == [movie] * 100
    assert await asyncio.gather(*listing) == [Page((movie,), None)] * 100
    assert here.filled == 2
    assert here.watch.counts == {"miss": 200}


async def test_one_who_leaves_takes_nobodys_answer_along(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    gate = here.primary.close("get")
    asking = [asyncio.create_task(here.cached.get(movie.id)) for _ in range(10)]
    await here.primary.holds(1)
    here.primary.open()
    for task in (asking[0], asking[3], asking[9]):
        task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [
        number in {0, 3, 9} for number in range(10)
    ]
    assert [answer for answer in answers if isinstance(answer, Movie)] == [movie] * 7
    # The first one was reading for all; of the others one has read once more.
    assert here.primary.asked["get"] == 2
    gate.set()


async def test_an_error_reaches_all_who_wait_and_is_not_kept(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    gate = here.primary.close("get")
    here.primary.fault = Unavailable("database", "it is down", retry_after=7)
    asking = [asyncio.create_task(here.cached.get(movie.id)) for _ in range(5)]
    await here.primary.holds(1)
    gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [(str(error), getattr(error, "retry_after", 0)) for error in answers] == [
        ("database: it is down", 7)
    ] * 5
    assert len(set(map(id, answers))) == 5
    here.primary.fault = None
    here.primary.open()
    assert await here.cached.get(movie.id) == movie


async def test_a_movie_that_is_not_there_is_asked_for_each_time(here: Process) -> None:
    for _ in range(3):
        with pytest.raises(MovieNotFound):
            await here.cached.get(77)
    assert here.primary.asked["get"] == 3


# ---- positions ----


async def test_a_position_takes_what_was_kept_once_the_log_was_read_that_far(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    assert await here.cached.get(movie.id) == movie
    assert (await here.cached.find(ALL)).data == (movie,)
    view = here.cached.at(here.position)
    for _ in range(3):
        assert await view.get(movie.id) == movie
    assert here.primary.asked["get"] == 2  # nobody knew whether the first answer was new enough
    await here.confirmed()
    for at_position in (view, here.cached.at(here.position)):
        assert await at_position.get(movie.id) == movie
        assert (await at_position.find(ALL)).data == (movie,)
    assert (here.primary.asked["get"], here.primary.asked["find"]) == (2, 1)


async def test_who_sends_a_position_does_not_join_who_came_before(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    gate = here.primary.close("get", "changes", "last_change")
    early = asyncio.create_task(here.cached.get(movie.id))
    await here.primary.holds(1)
    del here.primary.gates["get"]
    revised = await here.catalogue.revise(movie.id, {"title": "Heat 2"})  # which the log does not tell yet
    position = here.position
    assert await here.cached.at(position).get(movie.id) == revised
    gate.set()
    assert await early == movie
    assert await here.cached.at(position).get(movie.id) == revised


async def test_many_who_send_the_same_position_are_answered_by_one_read(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    gate = here.primary.close("get")
    position = here.position
    asking = [asyncio.create_task(here.cached.at(position).get(movie.id)) for _ in range(50)]
    await here.primary.holds(1)
    gate.set()
    assert await asyncio.gather(*asking) == [movie] * 50
    assert here.primary.asked["get"] == 1


async def test_no_two_transactions_end_at_the_same_position(database_url: str) -> None:
    """Where a commit waits for a replica, somebody else may be told of its place before it can be seen."""
    async with processes(database_url, 2) as (one, other):
        told = []
        for process in (one, other) * 5:
            with pytest.raises(MovieNotFound):
                await process.catalogue.revise(99, {"title": "Heat"})
            told.append(process.position)
        assert len(set(told)) == 10
        # Nothing was written, so that the server's log has hardly grown meanwhile.
        assert len({position.split("-")[0] for position in told}) < 10


async def test_what_is_no_position_is_refused(here: Process) -> None:
    with pytest.raises(InvalidPosition):
        here.cached.at("yesterday")


# ---- what the log does not tell ----


async def test_a_log_that_cannot_be_read_is_trusted_for_two_seconds(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    assert await here.cached.get(movie.id) == movie
    gate = here.primary.close("changes", "last_change")
    await here.primary.holds(1)
    revised = await here.catalogue.revise(movie.id, {"title": "Heat 2"})
    assert await here.cached.get(movie.id) == movie
    here.clock.leap(TRUSTED)
    for _ in range(3):
        assert await here.cached.get(movie.id) == revised
        assert (await here.cached.find(ALL)).data == (revised,)
    assert here.filled == 1  # the others were read past the cache
    here.primary.open()
    gate.set()
    await here.settle()
    await here.confirmed()
    assert await here.cached.get(movie.id) == revised
    assert await here.cached.get(movie.id) == revised
    assert here.filled == 2


async def test_before_the_log_was_read_and_behind_the_block_nothing_is_kept() -> None:
    process = Process(MemoryDatabase())
    movie = await process.catalogue.add({"title": "Heat"})
    for _ in range(2):
        assert await process.cached.get(movie.id) == movie
    async with process.cached.running():
        await process.settle()
        assert await process.cached.get(movie.id) == movie
    assert process.filled == 1
    assert await process.cached.get(movie.id) == movie
    assert process.filled == 1


async def test_what_other_programs_write_is_seen_within_a_minute(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    assert await here.cached.get(movie.id) == movie
    async with here.store.transactions() as tx:
        await tx.movies.replace(msgspec.structs.replace(movie, title="Heat 2", version=2))
    assert (await here.cached.get(movie.id)).title == "Heat"
    here.clock.leap(KEEP.total_seconds())
    await here.confirmed()
    assert (await here.cached.get(movie.id)).title == "Heat 2"
    assert KEEP.total_seconds() == 60


async def test_a_connection_that_listens_may_be_cut(database_url: str) -> None:
    async with processes(database_url, 2) as (one, other):
        movie = await one.catalogue.add({"title": "Heat"})
        await other.settle()
        for number in range(3):
            assert await other.cached.get(movie.id) == movie
            async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
            movie = await one.catalogue.revise(movie.id, {"title": f"Heat {number}"})
            assert await seen(other.cached, movie) < 2 * TRUSTED


# ---- other logs ----


async def test_another_catalogue_in_the_same_place_is_known_as_such(database_url: str) -> None:
    """A server that was put back to what it was: numbers are given a second time."""
    async with processes(database_url, 2) as (one, other):
        movie = await one.catalogue.add({"title": "Heat"})
        await other.settle()
        assert await other.cached.get(movie.id) == movie
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute(EMPTY)
        await other.confirmed()
        await other.confirmed()
        assert other.cached.log.seq == 0
        with pytest.raises(MovieNotFound):
            await other.cached.get(movie.id)
        again = await one.catalogue.add({"title": "Ronin"})
        assert again.id == movie.id
        assert await seen(other.cached, again) < DEADLINE
        assert await other.cached.get(again.id) == again


async def test_a_catalogue_has_a_name_that_no_other_one_has(database_url: str, empty_database: str) -> None:
    await migrate(empty_database)
    async with (
        PostgresDatabase(database_url) as one,
        PostgresDatabase(database_url) as same,
        PostgresDatabase(empty_database) as other,
    ):
        name = await other.identity()
        assert await one.identity() == await same.identity() != name
        async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as connection:
            # As a restore of a dump does.
            await connection.execute("ALTER TABLE change_log RENAME TO old_log")
            await connection.execute("CREATE TABLE change_log AS TABLE old_log")
        assert await other.identity() != name


async def test_a_server_that_was_stopped_may_be_another_one(reachable_directory: Path) -> None:
    """Its files may have been put back meanwhile, and nothing in them tells of that."""
    names = []
    for _ in range(2):
        with EmbeddedPostgres(reachable_directory / "stopped") as url:
            await migrate(url)
            async with PostgresDatabase(url) as store:
                names.append(await store.identity())
                assert await store.identity() == names[-1]
    assert names[0] != names[1]


async def test_a_server_that_was_promoted_is_another_one_and_a_late_replica_fills_nothing(
    reachable_directory: Path,
) -> None:
    with replicated(reachable_directory / "replicated-for-caches") as replica:
        await migrate(replica.primary_url)
        replica.catch_up()
        async with PostgresDatabase(replica.primary_url, replica_url=replica.url) as store:
            async with running(store) as process:
                movie = await process.catalogue.add({"title": "Heat"})
                replica.catch_up()
                await process.settle()
                assert await process.cached.get(movie.id) == movie
                with replica.paused():
                    revised = await process.catalogue.revise(movie.id, {"title": "Heat 2"})
                    await process.settle()
                    for _ in range(2):
                        assert await process.cached.get(movie.id) == revised
                        assert await process.cached.find(ALL) == Page((revised,), None)
            async with PostgresDatabase(replica.url) as former:
                with pytest.raises(Unavailable, match="replica"):
                    await former.identity()
                with psycopg.connect(replica.url, autocommit=True) as connection:
                    assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
                assert await former.identity() != await store.identity()


async def test_a_log_that_was_pruned_is_begun_anew(here: Process) -> None:
    movie = await here.catalogue.add({"title": "Heat"})
    await here.settle()
    assert await here.cached.get(movie.id) == movie
    gate = here.primary.close("changes", "last_change")
    await here.primary.holds(1)
    for number in range(5):
        movie = await here.catalogue.revise(movie.id, {"title": f"Heat {number}"})
    await here.catalogue.add({"title": "Ronin"})
    assert await here.catalogue.prune(timedelta(0)) == 5
    here.primary.open()
    gate.set()
    await here.settle()
    assert await here.cached.get(movie.id) == movie
    assert here.cached.log.seq == 7


# ---- the second level ----


@asynccontextmanager
async def sharing(cache: Cache, number: int = 2) -> AsyncIterator[list[Process]]:
    """Processes on one fake, which share a cache."""
    store = MemoryDatabase()
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(store, cache)) for _ in range(number)]


async def handed_on(one: Process, other: Process) -> Movie:
    """A movie that both know of, and that one has read and shared."""
    movie = await one.catalogue.add({"title": "Heat"})
    await one.settle()
    await other.settle()
    await one.cached.get(movie.id)
    await one.shared()
    return movie


async def test_what_one_process_has_read_another_one_need_not(
    database_url: str, valkey_server: ValkeyServer
) -> None:
    async with processes(database_url, 2, valkey_server) as (one, other):
        image = Image(new_key(), 600, 900, "jpeg", 80_000)
        movie = await one.catalogue.add({"title": "Amélie 🎬", "description": "é\n" * 99, "genre": "Romance"})
        async with one.store.transactions() as tx:
            movie = msgspec.structs.replace(movie, image=image, version=2)
            await tx.movies.replace(movie)
            await tx.events.append(ImageAttached(movie.id, 2, NOON, "system", movie))
        await one.settle()
        await other.settle()

        async def read(process: Process) -> list[object]:
            cached = process.cached
            return [
                await cached.get(movie.id),
                await cached.find(ALL),
                await cached.count(ALL),
                await cached.genres(ALL),
            ]

        first = await read(one)
        await one.shared()
        assert await read(other) == first
        assert (one.filled, other.filled) == (4, 0)
        assert other.watch.counts == {"shared": 4}
        assert await read(other) == first
        assert other.watch.counts == {"shared": 4, "local": 4}
        # A process that starts later reads the log a little back, so that it can judge what is there.
        async with processes(database_url, 1, valkey_server) as (late,):
            assert await read(late) == first
            assert late.filled == 0


async def test_what_was_written_by_another_is_judged_by_ones_own_reading_of_the_log() -> None:
    async with sharing(MemoryCache()) as (one, other):
        movie = await one.catalogue.add({"title": "Heat"})
        await one.settle()
        await other.settle()
        gate = one.primary.close("changes", "last_change")
        await one.primary.holds(1)
        revised = await one.catalogue.revise(movie.id, {"title": "Heat 2"})
        await other.settle()
        # One has not heard of the change, reads the present all the same, and says that it is of before it.
        assert await one.cached.get(movie.id) == revised
        await one.shared()
        assert await other.cached.get(movie.id) == revised
        assert (one.filled, other.filled) == (1, 1)
        gate.set()


class Hesitant(MemoryCache):
    """A cache that looks at once, and tells when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()
        self.asked = asyncio.Event()

    async def get(self, key: str) -> bytes | None:
        found = await super().get(key)
        self.asked.set()
        await self.may.wait()
        return found


async def test_who_sends_a_position_believes_no_answer_of_another_that_may_be_older() -> None:
    cache = Hesitant()
    async with sharing(cache) as (one, other):
        movie = await handed_on(one, other)
        gate = other.primary.close("changes", "last_change")
        await other.primary.holds(1)
        revised = await one.catalogue.revise(movie.id, {"title": "Heat 2"})
        view = other.cached.at(one.position)
        cache.may.clear()
        cache.asked.clear()
        plain = asyncio.create_task(other.cached.get(movie.id))
        async with asyncio.timeout(DEADLINE):
            await cache.asked.wait()
        # It joins, for that one began after the position was heard of; but what it finds is of before.
        joined = asyncio.create_task(view.get(movie.id))
        await asyncio.sleep(0)
        cache.may.set()
        assert await plain == movie
        assert await joined == revised
        assert await view.get(movie.id) == revised
        gate.set()


@pytest.mark.parametrize("trouble", ["flush", "garbage", "swap"])
async def test_whatever_is_done_to_the_second_level_nobody_reads_anything_wrong(
    trouble: str, valkey_server: ValkeyServer
) -> None:
    random_ = random.Random(11)  # noqa: S311 - no secret
    async with sharing(ValkeyCache(valkey_server.url, timeout=DEADLINE), 1) as (one,):
        movies = [await one.catalogue.add({"title": f"Film {number}"}) for number in range(30)]
        await one.settle()
        for movie in movies:
            await one.cached.get(movie.id)
        await one.cached.find(ALL)
        await one.shared()
        with valkey_server.client() as client:
            keys = client.keys()
            assert len(keys) == 31
            values = client.mget(keys)
            if trouble == "flush":
                client.flushall()
            elif trouble == "swap":
                for key, value in zip(keys, random_.sample(values, len(values)), strict=True):
                    client.set(key, value)
            else:
                for key, value in zip(keys, values, strict=True):
                    client.set(key, _spoilt(value, random_))
        async with running(one.store, ValkeyCache(valkey_server.url, timeout=DEADLINE)) as other:
            for movie in movies:
                assert await other.cached.get(movie.id) == movie
            assert (await other.cached.find(ALL)).data == tuple(movies)
            assert other.watch.counts["failed"] == 0
            # By chance a few may have been swapped with themselves.
            assert other.filled > 25


def _spoilt(value: bytes, random_: random.Random) -> bytes:
    place = random_.randrange(len(value))
    return random_.choice(
        [
            b"",
            value[:place],
            value + b"\0",
            random_.randbytes(len(value)),
            value[:place] + bytes([value[place] ^ 1 << random_.randrange(8)]) + value[place + 1 :],
        ]
    )


async def test_two_catalogues_on_one_valkey_never_mix(valkey_server: ValkeyServer) -> None:
    cache = ValkeyCache(valkey_server.url, timeout=DEADLINE)
    async with running(MemoryDatabase(), cache) as one, running(MemoryDatabase(), cache) as other:
        for process, title in ((one, "Heat"), (other, "Ronin")):
            movie = await process.catalogue.add({"title": title})
            await process.settle()
            assert (await process.cached.get(movie.id)).title == title
            await process.shared()
        async with running(other.store, cache) as third:
            assert (await third.cached.get(1)).title == "Ronin"
            assert third.filled == 0


async def test_another_format_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = MemoryCache()
    async with sharing(cache) as (one, other):
        movie = await handed_on(one, other)
        monkeypatch.setattr(kept, "FORMAT", kept.FORMAT + 1)
        assert await other.cached.get(movie.id) == movie
        assert other.filled == 1


def test_the_format_is_another_one_when_what_is_kept_is() -> None:
    """If this fails, raise `kept.FORMAT`: older processes would misread what is written."""
    assert kept.FORMAT == 1
    fields = [
        [field.name for field in msgspec.structs.fields(kind)]
        for kind in (Movie, Image, Page, GenreCount, kept.Genres, kept.Count)
    ]
    assert fields == [
        [
            *("id", "title", "description", "release_year", "genre", "image_url", "image", "version"),
            *("created_at", "updated_at"),
        ],
        ["key", "width", "height", "format", "bytes", "variants"],
        ["data", "next_cursor", "total"],
        ["genre", "movies"],
        ["data"],
        ["movies"],
    ]


async def test_what_is_too_old_by_the_clock_is_not_believed() -> None:
    cache = MemoryCache()
    async with sharing(cache, 1) as (one,):
        movie = await one.catalogue.add({"title": "Heat"})
        await one.settle()
        wrong = msgspec.structs.replace(movie, title="Heat, an hour ago")
        name = MOVIE.key(await one.store.identity(), movie.id)
        too_old = time.time() - KEEP.total_seconds()
        written = MOVIE.write(name, wrong, 1, too_old)
        assert written is not None
        await cache.put(name, written, KEEP)
        assert await one.cached.get(movie.id) == movie


async def test_what_cannot_be_written_is_read_all_the_same() -> None:
    async with sharing(MemoryCache()) as (one, other):
        async with one.store.transactions() as tx:
            movie = await tx.movies.add(MovieDraft(title="\ud800"), NOON)
        for process in (one, other):
            assert await process.cached.get(movie.id) == movie
            assert process.filled == 1


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_without_the_second_level_a_request_costs_a_moment_more(trouble: str, tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        cache = ValkeyCache(server.url)
        async with sharing(cache, 1) as (one,):
            movies = [await one.catalogue.add({"title": f"Film {number}"}) for number in range(40)]
            await one.settle()
            await one.cached.get(movies[0].id)
            await one.shared()
            if trouble == "killed":
                server.stop()
            else:
                server.freeze()
            took = []
            for movie in movies[1:]:
                began = time.perf_counter()
                assert await one.cached.get(movie.id) == movie
                took.append(time.perf_counter() - began)
            assert statistics.median(took) < 0.05
            assert sum(took) < 0.05 * len(took)
            # It was left alone after a few of them.
            assert cache.interrupted
            assert 3 <= one.watch.counts["failed"] < 10
            assert one.watch.counts["miss"] == 40
