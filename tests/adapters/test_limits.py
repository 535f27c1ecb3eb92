"""How long a server may take, and transactions that get in each other's way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Final

import msgspec
import psycopg
import pytest
from psycopg.errors import SerializationFailure
from tests.conftest import new_database

from watchly_adapters.postgres import Limits, PostgresDatabase, PostgresTransaction, migrate
from watchly_adapters.postgres.pool import Pool
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.testing.stores import HEAT, NOON, events_of
from watchly_adapters.watching import Kind
from watchly_core import Catalogue
from watchly_core.contention import TRIES, repeated
from watchly_core.errors import Contended, Unavailable, Undone
from watchly_core.imports import Row
from watchly_core.movies import Movie, MovieDraft
from watchly_core.ports import Transaction, Transactions
from watchly_core.queries import MovieQuery
from watchly_core.receipts import Claim, KeptReply, KeyedReceipt

pytestmark = pytest.mark.anyio

DEADLINE: Final = 60.0
SETTINGS: Final = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"
WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@asynccontextmanager
async def pooled(url: str, limits: Limits) -> AsyncIterator[Pool]:
    pool = Pool(url, min_size=1, max_size=1, limits=limits)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def pid(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> int:
    return connection.info.backend_pid


async def shown(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> list[str]:
    found = []
    for setting in SETTINGS:
        row = await (await connection.execute(b"SHOW " + setting.encode())).fetchone()
        assert row is not None
        found.append(str(row[0]))
    return found


async def test_each_session_has_the_limits_and_what_moves_many_rows_has_others(database_url: str) -> None:
    async with pooled(database_url, Limits(1.5, 0.75, 8.0)) as pool:
        assert await pool.read(shown) == ["1500ms", "750ms", "8s"]
        async with pool.stream() as connection:
            assert await shown(connection) == ["1min", "30s", "10min"]
        async with pool.transaction() as connection:
            assert await shown(connection) == ["1500ms", "750ms", "8s"]
    assert Limits.of_requests(15.0) == Limits()


async def test_an_import_and_an_export_may_take_longer(database_url: str) -> None:
    """Their senders and readers are slower than any other client may be."""
    database = PostgresDatabase(database_url, limits=Limits(idle=0.2))
    async with database:
        catalogue = Catalogue(database.queries, database.transactions)

        async def rows() -> AsyncIterator[Row]:
            for number in range(1_200):
                if number == 1_100:
                    await asyncio.sleep(0.5)  # the pause that is tried here
                yield Row(number, {"title": f"Film {number}"})

        assert (await catalogue.add_many(rows())).added == 1_200
        async with aclosing(catalogue.export()) as batches:
            count = 0
            async for batch in batches:
                if not count:
                    await asyncio.sleep(0.5)
                count += len(batch)
        assert count == 1_200


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT pg_sleep(3600)", Unavailable),
        ("LOCK TABLE movies IN ACCESS SHARE MODE", Undone),
    ],
)
async def test_what_takes_too_long_is_ended_and_told(
    database_url: str, statement: str, error: type[Unavailable]
) -> None:
    async with pooled(database_url, Limits(statement=0.5, lock=0.2)) as pool:
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("LOCK TABLE movies")
            before = await pool.read(pid)
            with pytest.raises(Unavailable) as caught:
                async with pool.transaction() as connection:
                    await connection.execute(statement.encode())
        assert type(caught.value) is error
        # It is the server that ended it: the connection is still good.
        assert await pool.read(pid) == before


async def test_a_transaction_that_is_left_alone_is_ended(database_url: str) -> None:
    async with pooled(database_url, Limits(idle=0.1)) as pool:
        with pytest.raises(Unavailable):  # noqa: PT012 - a transaction is its block
            async with pool.transaction() as connection:
                await connection.execute("SELECT 1")
                await asyncio.wait_for(asyncio.shield(_ended(database_url)), DEADLINE)
                await connection.execute("SELECT 1")
        await pool.read(shown)


async def _ended(url: str) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
        await until(other, asked, 0)


async def until(connection: psycopg.AsyncConnection[tuple[object, ...]], asked: str, count: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while await (await connection.execute(asked.encode())).fetchone() != (count,):
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


class Steps:
    """Counts the statements that are run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def step(self, _: Kind, name: str) -> AbstractContextManager[object]:
        self.counts[name] += 1
        return nullcontext()


async def test_merged_reads_wait_for_a_lock_together_and_not_one_after_another(database_url: str) -> None:
    steps = Steps()
    pool = Pool(database_url, max_size=2, limits=Limits(lock=0.2), watch=steps)
    await pool.open()
    try:
        queries = PostgresMovieQueries(pool)
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("LOCK TABLE movies")
            reads = (queries.get(number) for number in range(1, 60))
            results = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(result) for result in results} == {Undone}
        assert sum(steps.counts[name] for name in steps.counts if "get" in name) <= 6
    finally:
        await pool.close()


# Transactions that are in each other's way


async def test_a_deadlock_is_undone_and_the_transaction_done_at_last(
    postgres: PostgresDatabase, database_url: str
) -> None:
    held, go_on = asyncio.Event(), asyncio.Event()
    tries = 0

    @repeated
    async def swap(transactions: Transactions, first: int, second: int) -> None:
        nonlocal tries
        tries += 1
        async with transactions() as tx:
            one = await tx.movies.get(first)
            held.set()
            await go_on.wait()
            other = await tx.movies.get(second)
            await tx.movies.replace(_titled(one, other.title))
            await tx.movies.replace(_titled(other, one.title))

    async with postgres.transactions() as tx:
        a, b = await tx.movies.add(HEAT, NOON), await tx.movies.add(MovieDraft(title="Ronin"), NOON)
    async with (
        await psycopg.AsyncConnection.connect(database_url) as outside,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as looking,
    ):
        # So that it is the other one that finds the deadlock out.
        await outside.execute("SET deadlock_timeout = '1min'")
        await outside.execute("SELECT FROM movies WHERE id = %s FOR UPDATE", (b.id,))
        swapping = asyncio.create_task(swap(postgres.transactions, a.id, b.id))
        await held.wait()
        waiting = asyncio.create_task(outside.execute("SELECT FROM movies WHERE id = %s FOR UPDATE", (a.id,)))
        await until(looking, WAITING, 1)
        go_on.set()
        async with asyncio.timeout(DEADLINE):
            await waiting
            await outside.commit()
            await swapping
    assert tries == 2
    found = (await postgres.queries.find(MovieQuery())).data
    assert [movie.title for movie in found] == [b.title, a.title]


def _titled(movie: Movie, title: str) -> Movie:
    return msgspec.structs.replace(movie, title=title, version=movie.version + 1)


class Conflicts:
    """A database whose next transactions that write an event cannot be serialized."""

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                """
                CREATE SEQUENCE tries;
                CREATE TABLE refused (most bigint);
                INSERT INTO refused VALUES (0);
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('tries') <= (SELECT most FROM refused) THEN
                        RAISE EXCEPTION 'could not serialize' USING ERRCODE = '40001';
                    END IF;
                    RETURN NULL;
                END $$;
                CREATE TRIGGER refuse AFTER INSERT ON events
                    FOR EACH STATEMENT EXECUTE FUNCTION refuse();
                """
            )

    def begin(self, most: int) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("UPDATE refused SET most = %s", (most,))
            connection.execute("ALTER SEQUENCE tries RESTART")

    def tries(self) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT last_value FROM tries").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture(scope="module")
def conflicts(server_url: str) -> Iterator[Conflicts]:
    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield Conflicts(url)


def _receipt(key: str) -> KeyedReceipt[object]:
    reply = KeptReply(201, (), b"{}")
    return KeyedReceipt(Claim("user:7", key, b"digest"), lambda _: reply, lambda: NOON)


async def test_writes_that_could_not_be_serialized_are_done_once(conflicts: Conflicts) -> None:
    async with PostgresDatabase(conflicts.url) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        conflicts.begin(TRIES - 1)
        movie = await catalogue.add(HEAT, receipt=_receipt("one"))
        assert conflicts.tries() == TRIES
        # What may share a transaction is tried in that first.
        conflicts.begin(TRIES)
        movie = await catalogue.revise(movie.id, {"genre": "Drama"})
        assert conflicts.tries() == TRIES + 1
        conflicts.begin(TRIES - 1)
        await catalogue.remove(movie.id)
        assert conflicts.tries() == TRIES
        assert [event.version for event in await events_of(catalogue, movie.id)] == [3, 2, 1]
        conflicts.begin(TRIES)
        before = await catalogue.last_change()
        with pytest.raises(Contended):
            await catalogue.add(HEAT, receipt=_receipt("two"))
        assert await catalogue.last_change() == before


async def test_the_transaction_of_a_host_is_not_begun_anew(conflicts: Conflicts) -> None:
    """It is the host's to do so, and the error is the one that it knows."""
    conflicts.begin(1)
    async with await psycopg.AsyncConnection.connect(conflicts.url) as connection:

        @asynccontextmanager
        async def transactions() -> AsyncIterator[Transaction]:
            yield PostgresTransaction(connection)

        async with PostgresDatabase(conflicts.url) as database:
            catalogue = Catalogue(database.queries, transactions)
            with pytest.raises(SerializationFailure):
                await catalogue.add(HEAT, receipt=_receipt("three"))
        await connection.rollback()
    assert conflicts.tries() == 1
