"""Merged reads of a real database: nothing stale, nobody's answer mixed up, nobody else's failure."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, LiteralString, TypeVar

import msgspec
import psycopg
import pytest

from watchly_adapters.postgres import PostgresTransactions
from watchly_adapters.postgres.merged_reads import MergedReads
from watchly_adapters.postgres.pool import Connection, Pool
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_core.errors import MovieNotFound, Unavailable
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import MovieQuery

T = TypeVar("T")

pytestmark = pytest.mark.anyio

DEADLINE: Final = 60.0
NOON: Final = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
OURS: Final = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'watchly' "


class Counted(Pool):
    """A pool that counts the reads on it."""

    reads = 0

    async def read(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        self.reads += 1
        return await super().read(read)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Counted]:
    pool = Counted(database_url, min_size=4, max_size=4)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def reads(pool: Counted) -> AsyncIterator[MergedReads]:
    reads = MergedReads(pool)
    yield reads
    await reads.close()


async def stored(pool: Pool, count: int) -> Sequence[Movie]:
    drafts = [MovieDraft(title=f"Movie {number}") for number in range(count)]
    async with PostgresTransactions(pool)() as tx:
        return await tx.movies.add_many(drafts, NOON)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


async def select(url: str, query: LiteralString) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return await (await connection.execute(query)).fetchall()


async def lock_waits(url: str, number: int) -> None:
    """Wait until so many reads are held up by a lock."""

    async def waiting() -> bool:
        return await select(url, "SELECT count(*) " + OURS + "AND wait_event_type = 'Lock'") == [(number,)]

    await until(waiting)


async def test_everybody_gets_what_they_asked_for(pool: Counted, reads: MergedReads) -> None:
    movies = await stored(pool, 60)
    by_id = {movie.id: movie for movie in movies}
    ids = [*by_id, *list(by_id)[:9], 0, -1, 2**31, 2**62, 2**63, -(2**63) - 1, 10**40]
    afters = [*range(movies[0].id - 3, movies[-1].id + 2, 5), movies[4].id, -(2**31) - 1, 2**40]
    random.shuffle(ids)
    pages = [(after, most) for after in afters for most in (1, 7, 21, 500)]
    before = pool.reads
    async with asyncio.timeout(DEADLINE):
        got, found = await asyncio.gather(
            asyncio.gather(*(reads.get(movie_id) for movie_id in ids)),
            asyncio.gather(*(reads.page(after, most) for after, most in pages)),
        )
    assert got == [by_id.get(movie_id) for movie_id in ids]
    assert found == [[movie for movie in movies if movie.id > after][:most] for after, most in pages]
    alone = sum(most == 500 for _, most in pages)
    assert pool.reads - before - alone <= 8


async def test_nothing_that_was_committed_before_a_read_is_missing_from_it(  # noqa: C901 - three roles
    pool: Counted,
) -> None:
    """Beside writers, and readers that leave."""
    transactions, queries = PostgresTransactions(pool), PostgresMovieQueries(pool)
    movies = await stored(pool, 12)
    chance = random.Random(7)  # noqa: S311 - nothing secret
    begun = {movie.id: 1 for movie in movies}
    committed = dict(begun)
    ended = asyncio.Event()
    seen = 0

    async def write(movie: Movie) -> None:
        while not ended.is_set():
            begun[movie.id] += 1
            async with transactions() as tx:
                await tx.movies.replace(msgspec.structs.replace(movie, version=begun[movie.id]))
            committed[movie.id] = begun[movie.id]

    async def read() -> None:
        nonlocal seen
        while not ended.is_set():
            least = dict(committed)
            movie_id = chance.choice(movies).id
            if chance.random() < 0.7:
                found: Sequence[Movie] = [await queries.get(movie_id)]
            else:
                found = (await queries.find(MovieQuery(limit=12))).data
                assert [movie.id for movie in found] == [movie.id for movie in movies]
            for movie in found:
                assert least[movie.id] <= movie.version <= begun[movie.id]
            seen += 1

    async def leave() -> None:
        while not ended.is_set():
            asked = asyncio.create_task(queries.get(chance.choice(movies).id))
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait({asked})

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        for movie in movies[:2]:
            tasks.create_task(write(movie))
        for _ in range(24):
            tasks.create_task(read())
        for _ in range(2):
            tasks.create_task(leave())

        async def enough() -> bool:
            return seen > 3_000 and min(committed[movie.id] for movie in movies[:2]) > 30

        await until(enough)
        ended.set()
    assert pool.reads < seen
    await queries.close()


async def test_a_row_that_cannot_be_read_fails_only_those_who_asked_for_it(
    pool: Counted, reads: MergedReads, database_url: str
) -> None:
    movies = await stored(pool, 30)
    bad = movies[10]
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("UPDATE movies SET image = '{}' WHERE id = %s", (bad.id,))
    afters = [movies[0].id - 1, movies[5].id, movies[10].id, movies[15].id]
    async with asyncio.timeout(DEADLINE):
        got, found = await asyncio.gather(
            asyncio.gather(*(reads.get(movie.id) for movie in movies), return_exceptions=True),
            asyncio.gather(*(reads.page(after, 8) for after in afters), return_exceptions=True),
        )
    assert isinstance(got.pop(10), msgspec.ValidationError)
    assert got == [movie for movie in movies if movie is not bad]
    assert isinstance(found[1], msgspec.ValidationError)
    assert [found[0], found[2], found[3]] == [list(movies[:8]), list(movies[11:19]), list(movies[16:24])]


async def test_a_statement_that_fails_in_a_pipeline_fails_nobody_elses(
    pool: Counted, reads: MergedReads
) -> None:
    """A page after an id that no array of ids holds: by itself, it is a page like others."""
    movies = await stored(pool, 30)
    async with asyncio.timeout(DEADLINE):
        *got, whole, none = await asyncio.gather(
            *(reads.get(movie.id) for movie in movies), reads.page(0, 50), reads.page(10**30, 50)
        )
    assert got == list(movies)
    assert (whole, none) == (list(movies), [])


@pytest.mark.parametrize("at_once", [1, 2, 40])
async def test_reads_that_are_under_way_on_killed_connections_are_asked_again(
    pool: Counted, reads: MergedReads, database_url: str, at_once: int
) -> None:
    movies = await stored(pool, at_once)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("LOCK TABLE movies")
        asked = [asyncio.create_task(reads.get(movie.id)) for movie in movies]
        await lock_waits(database_url, min(at_once, 2))
        # Those alone: a read that has lost two connections is told.
        held = "SELECT pg_terminate_backend(pid, 30000) " + OURS + "AND wait_event_type = 'Lock'"
        assert await select(database_url, held) == [(True,)] * min(at_once, 2)
        await lock_waits(database_url, min(at_once, 2))
        await other.rollback()
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*asked) == list(movies)


async def test_a_batch_that_everybody_leaves_is_cancelled_on_the_server(
    pool: Counted, reads: MergedReads, database_url: str
) -> None:
    movies = await stored(pool, 40)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("LOCK TABLE movies")
        for each in [*(MergedReads(pool) for _ in range(3)), reads]:
            asked: list[asyncio.Task[object]] = [asyncio.create_task(each.get(movie.id)) for movie in movies]
            asked.append(asyncio.create_task(each.page(0, 21)))
            await lock_waits(database_url, 2)
            for task in asked[:2]:
                task.cancel()  # those were alone
            await asyncio.wait(asked[:2])
            await lock_waits(database_url, 1)
            for task in asked[2:]:
                task.cancel()
            await lock_waits(database_url, 0)
        await other.rollback()
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*(reads.get(movie.id) for movie in movies)) == list(movies)


async def test_reads_are_refused_as_one_and_without_delay_once_the_pool_is_closed(database_url: str) -> None:
    pool = Counted(database_url, min_size=1, max_size=1)
    await pool.open()
    queries = PostgresMovieQueries(pool)
    with pytest.raises(MovieNotFound):
        await queries.get(1)
    before = asyncio.all_tasks()
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("LOCK TABLE movies")
        asked = [asyncio.create_task(queries.get(number)) for number in range(9)]
        await lock_waits(database_url, 1)
        await queries.close()
        await pool.close()
        async with asyncio.timeout(DEADLINE):
            answers = await asyncio.gather(*asked[1:], return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 8
        await other.rollback()
    with pytest.raises(MovieNotFound):
        await asked[0]  # it had been asked
    with pytest.raises(Unavailable):
        await queries.get(1)
    assert asyncio.all_tasks() <= before
