"""Reading from a real replica: one that is late, paused, hung, killed, back again, or none at all."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.replicas import Replica, replicated
from tests.services import EMPTY

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.postgres.replicas import bytes_behind
from watchly_adapters.testing.movie_lists import MovieListContract
from watchly_adapters.testing.movie_stores import MovieStoreContract
from watchly_adapters.testing.positions import PositionContract
from watchly_core import Catalogue, Movie, MovieDraft
from watchly_core.errors import Misconfigured, MovieNotFound, Unavailable
from watchly_core.events import ChangeQuery
from watchly_core.ports import ChangeSignal, MovieQueries, Transactions
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

DEADLINE = 60.0
NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
HEAT = MovieDraft(title="Heat", release_year=1995, genre="Crime")
FAR = "FFFFFFFF/FFFFFFFF"
OURS: LiteralString = """
    SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
    WHERE application_name = 'watchly' AND pid <> pg_backend_pid()
"""


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


@pytest.fixture(scope="module")
def running(reachable_directory: Path) -> Iterator[Replica]:
    """A server with today's schema, and its replica."""
    with replicated(reachable_directory / "replicated") as replica:
        asyncio.run(migrate(replica.primary_url))
        yield replica


@pytest.fixture
def replica(running: Replica) -> Replica:
    """That replica, empty."""
    with psycopg.connect(running.primary_url, autocommit=True) as connection:
        connection.execute(EMPTY)
    running.catch_up()
    return running


@asynccontextmanager
async def opened(primary_url: str, replica_url: str) -> AsyncIterator[PostgresDatabase]:
    """A database whose replica answers."""
    async with PostgresDatabase(primary_url, replica_url=replica_url) as database:
        await answering(database)
        yield database


async def answering(database: PostgresDatabase, *, answers: bool = True) -> None:
    async def so() -> bool:
        return database.replica_answers is answers

    await until(so)


@pytest.fixture
async def database(replica: Replica) -> AsyncIterator[PostgresDatabase]:
    async with opened(replica.primary_url, replica.url) as database:
        yield database


async def add(database: PostgresDatabase, draft: MovieDraft = HEAT) -> Movie:
    async with database.transactions() as tx:
        return await tx.movies.add(draft, NOON)


async def is_there(queries: MovieQueries, movie: Movie) -> bool:
    try:
        return await queries.get(movie.id) == movie
    except MovieNotFound:
        return False


async def seen(database: PostgresDatabase) -> MovieQueries:
    assert database.position is not None
    return database.reads.at(database.position)


class Following:
    """The replica's side of a store, read where all that was written can be seen."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.transactions: Transactions = database.transactions
        self.signal: ChangeSignal = database.signal

    @property
    def reads(self) -> MovieQueries:
        return self._database.reads

    @property
    def position(self) -> str | None:
        return self._database.position

    @property
    def queries(self) -> MovieQueries:
        return self.reads.at(self.position or "0/0")


class _OnReplica:
    @pytest.fixture
    def store(self, database: PostgresDatabase) -> Following:
        return Following(database)


class TestMovies(_OnReplica, MovieStoreContract):
    pass


class TestLists(_OnReplica, MovieListContract):
    pass


class TestPositions(_OnReplica, PositionContract):
    pass


class TestPositionsOfALateOne(PositionContract):
    """On a replica that has got nothing, and gets nothing."""

    @pytest.fixture
    async def store(
        self, replica: Replica, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[PostgresDatabase]:
        # How long it is waited for is tried elsewhere.
        monkeypatch.setattr("watchly_adapters.postgres.replicas._WAIT", 0.01)
        with replica.paused():
            async with opened(replica.primary_url, replica.url) as database:
                yield database


# A replica that is late


async def test_reads_go_to_the_replica_which_is_late_while_it_is_paused(
    replica: Replica, database: PostgresDatabase
) -> None:
    with replica.paused():
        movie = await add(database)
        for _ in range(20):
            assert not await is_there(database.reads, movie)
            assert not (await database.reads.find(MovieQuery())).data
            assert not await database.reads.count(MovieQuery())
            assert not await database.reads.genres(MovieQuery())
            assert [batch async for batch in database.reads.export(MovieQuery())] == []
        assert await is_there(database.queries, movie)
    await until(lambda: is_there(database.reads, movie))


async def test_a_read_with_the_position_sees_the_write_while_the_replay_is_paused(
    replica: Replica, database: PostgresDatabase
) -> None:
    with replica.paused():
        movie = await add(database)
        reads = await seen(database)
        assert await is_there(reads, movie)
        assert (await reads.find(MovieQuery(q="heat"))).data == (movie,)
        assert await reads.count(MovieQuery()) == 1
        assert len(await reads.genres(MovieQuery())) == 1
        assert [draft async for batch in reads.export(MovieQuery()) for draft in batch] == [HEAT]
        # It is late, not ill: others are answered by it.
        assert database.replica_answers
        assert not await is_there(database.reads, movie)


async def test_a_read_with_the_position_waits_for_the_replica(
    replica: Replica, database: PostgresDatabase
) -> None:
    """The primary has another answer by then, which tells who gave this one."""
    with replica.paused():
        movie = await add(database)
        position = database.position
        assert position is not None
    replica.catch_up()
    with replica.paused():
        async with database.transactions() as tx:
            await tx.movies.remove(movie.id)
        assert await is_there(database.reads.at(position), movie)
        assert not await is_there(await seen(database), movie)


async def test_a_read_goes_on_when_the_replay_gets_there(
    replica: Replica, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the patience that a loaded machine needs: the primary would be asked only after the deadline."""
    monkeypatch.setattr("watchly_adapters.postgres.replicas._WAIT", 2 * DEADLINE)
    with replica.paused():
        movie = await add(database)
        waiting = asyncio.create_task(is_there(await seen(database), movie))
        looks = "FROM pg_stat_activity WHERE application_name = 'watchly' AND query LIKE '%replay_lsn%'"
        await until(lambda: _runs(replica, "SELECT " + looks))
        assert not waiting.done()
    async with asyncio.timeout(DEADLINE):
        assert await waiting


async def test_a_made_up_position_does_not_hold_a_read_up(database: PostgresDatabase) -> None:
    movie = await add(database)
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(is_there(database.reads.at(FAR), movie) for _ in range(100)))
    assert all(answers)
    assert time.monotonic() - began < DEADLINE / 4
    assert database.replica_answers


async def test_history_and_changes_are_never_late(replica: Replica, database: PostgresDatabase) -> None:
    catalogue = Catalogue(database.reads, database.transactions)
    with replica.paused():
        movie = await catalogue.add(HEAT)
        assert len(await catalogue.history(movie.id)) == 1
        assert len((await catalogue.changes(ChangeQuery())).data) == 1


# A replica that fails


async def test_without_a_replica_the_primary_answers_and_nobody_waits(replica: Replica) -> None:
    nowhere = make_conninfo(replica.url, port="1")
    async with PostgresDatabase(replica.primary_url, replica_url=nowhere) as database:
        movie = await add(database)
        async with asyncio.timeout(DEADLINE):
            for _ in range(100):
                assert await is_there(database.reads, movie)
        assert database.replica_answers is False


async def test_no_read_fails_when_the_replica_is_killed_and_it_is_used_again(
    replica: Replica, database: PostgresDatabase
) -> None:
    movie = await add(database)
    replica.catch_up()
    ended = asyncio.Event()
    reads = 0

    async def read() -> None:
        nonlocal reads
        while not ended.is_set():
            assert await is_there(database.reads, movie)
            assert (await database.reads.find(MovieQuery(q="heat"))).data == (movie,)
            assert await database.reads.count(MovieQuery()) == 1
            assert len(await database.reads.genres(MovieQuery())) == 1
            reads += 4

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(read())
        before = reads
        await until(lambda: _more_than(lambda: reads, before + 100))
        await asyncio.to_thread(replica.kill)
        try:
            await answering(database, answers=False)
            before = reads
            await until(lambda: _more_than(lambda: reads, before + 100))
        finally:
            await asyncio.to_thread(replica.start)
        await answering(database)
        before = reads
        await until(lambda: _more_than(lambda: reads, before + 100))
        ended.set()
    with replica.paused():
        assert not await is_there(database.reads, await add(database))


async def _more_than(number: Callable[[], int], least: int) -> bool:
    return number() > least


async def test_reads_of_a_replica_that_hangs_are_answered_by_the_primary(
    replica: Replica, database: PostgresDatabase
) -> None:
    movie = await add(database)
    replica.catch_up()
    await asyncio.to_thread(replica.signal, signal.SIGSTOP)
    try:
        async with asyncio.timeout(DEADLINE):
            assert all(await asyncio.gather(*(is_there(database.reads, movie) for _ in range(50))))
            exported = [draft async for batch in database.reads.export(MovieQuery()) for draft in batch]
        assert exported == [HEAT]
        assert database.replica_answers is False
    finally:
        await asyncio.to_thread(replica.signal, signal.SIGCONT)
    await answering(database)


async def test_connections_that_are_cut_cost_no_answer(replica: Replica, database: PostgresDatabase) -> None:
    movie = await add(database)
    replica.catch_up()
    for _ in range(3):
        await answering(database)
        with psycopg.connect(replica.url, autocommit=True) as connection:
            connection.execute(OURS)
        assert all(await asyncio.gather(*(is_there(database.reads, movie) for _ in range(30))))


async def test_a_read_that_the_replica_cancels_is_answered_by_the_primary(
    replica: Replica, database: PostgresDatabase
) -> None:
    """As it does with one that is in the way of what it replays; that is no reason to leave it alone."""
    movie = await add(database)
    replica.catch_up()
    with psycopg.connect(replica.primary_url) as primary, primary.transaction(force_rollback=True):
        primary.execute("LOCK TABLE movies")
        await commit_something(replica)
        await until(lambda: _runs(replica, "SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock'"))
        reading = asyncio.create_task(is_there(database.reads, movie))
        waits = "FROM pg_stat_activity WHERE application_name = 'watchly' AND wait_event_type = 'Lock'"
        await until(lambda: _runs(replica, "SELECT " + waits))
        assert await _runs(replica, "SELECT pg_cancel_backend(pid) " + waits)
        await until(lambda: _runs_on(replica.primary_url, "SELECT " + waits))
        assert database.replica_answers
    assert await reading
    assert database.replica_answers


async def commit_something(replica: Replica) -> None:
    """Commit something, which takes to the replica what the primary had not sent before."""
    await _runs_on(replica.primary_url, "UPDATE change_log SET last_seq = last_seq RETURNING 1")


async def _runs(replica: Replica, query: LiteralString) -> bool:
    return await _runs_on(replica.url, query)


async def _runs_on(url: str, query: LiteralString) -> bool:
    """Whether a query finds anything."""

    def ask() -> bool:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(query).fetchone() is not None

    return await asyncio.to_thread(ask)


async def test_a_replica_whose_schema_is_older_is_left_to_the_primary_until_it_has_caught_up(
    replica: Replica, database: PostgresDatabase
) -> None:
    movie = await add(database)
    with psycopg.connect(replica.primary_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE movies RENAME TO films")
        replica.catch_up()
        replica.replay(on=False)
        connection.execute("ALTER TABLE films RENAME TO movies")
    try:
        for _ in range(20):
            assert await is_there(database.reads, movie)
        assert database.replica_answers is False
    finally:
        replica.replay(on=True)
    replica.catch_up()
    await answering(database)
    with replica.paused():
        assert not await is_there(database.reads, await add(database))


# Servers that are no replica of this one


async def test_the_primary_under_both_names_is_good(replica: Replica) -> None:
    async with opened(replica.primary_url, replica.primary_url) as database:
        movie = await add(database)
        assert await is_there(await seen(database), movie)
        assert await is_there(database.reads.at(FAR), movie)
        assert database.replica_answers
    assert await bytes_behind(replica.primary_url, replica.primary_url) == 0


async def test_another_server_is_never_read_from(replica: Replica, database_url: str) -> None:
    with pytest.raises(Misconfigured, match="READ_DATABASE_URL: this server is no replica"):
        await bytes_behind(database_url, replica.primary_url)
    async with PostgresDatabase(replica.primary_url, replica_url=database_url) as database:
        movie = await add(database)
        for _ in range(20):
            assert await is_there(database.reads, movie)
        assert database.replica_answers is False


async def test_how_far_a_replica_is_behind_can_be_asked(replica: Replica, database: PostgresDatabase) -> None:
    with replica.paused():
        await add(database)
        assert await bytes_behind(replica.url, replica.primary_url) > 0
    replica.catch_up()
    assert await bytes_behind(replica.url, replica.primary_url) >= 0
    with pytest.raises(Unavailable):
        await bytes_behind(make_conninfo(replica.url, port="1"), replica.primary_url)


async def test_connections_stay_below_their_bound(replica: Replica) -> None:
    """Together with the look-out, on each of the servers."""
    async with PostgresDatabase(replica.primary_url, replica_url=replica.url, max_size=4) as database:
        await answering(database)
        movie = await add(database)
        replica.catch_up()
        await asyncio.gather(*(is_there(database.reads, movie) for _ in range(200)))
        with psycopg.connect(replica.url, autocommit=True) as connection:
            counted = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'watchly'"
            ).fetchone()
        assert counted is not None
        assert counted[0] <= 4
