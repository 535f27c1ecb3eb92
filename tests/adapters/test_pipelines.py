"""Statements that are held back: what is told of them, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import psycopg
import pytest
from psycopg.abc import PQGen
from psycopg.errors import UndefinedTable

from watchly_adapters.postgres import PostgresTransactions, migrate
from watchly_adapters.postgres.pool import Pool
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.postgres.statements import Query
from watchly_adapters.testing.stores import events_of
from watchly_core import Catalogue
from watchly_core.errors import MovieNotFound, VersionConflict
from watchly_core.events import MovieAdded, MovieRevised
from watchly_core.movies import MovieDraft
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

DEADLINE: Final = 60.0
NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEAT: Final = MovieDraft(title="Heat")
#: Those that wait for a lock.
_WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@asynccontextmanager
async def one_connection(url: str) -> AsyncIterator[Pool]:
    pool = Pool(url, min_size=1, max_size=1)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


async def test_what_the_server_refuses_late_undoes_what_came_before(database_url: str) -> None:
    async with one_connection(database_url) as pool:
        transactions, queries = PostgresTransactions(pool), PostgresMovieQueries(pool)
        async with transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
        went_on = False
        with pytest.raises(VersionConflict) as caught:  # noqa: PT012 - a transaction is its block
            async with transactions() as tx:
                await tx.movies.add(HEAT, NOON)
                await tx.events.append(MovieRevised(movie.id, 1, NOON, "system", movie))
                went_on = True
        assert went_on
        assert (caught.value.id, caught.value.current) == (movie.id, 1)
        assert (await queries.find(MovieQuery())).data == (movie,)


async def test_the_next_question_tells_what_was_refused_before_it(database_url: str) -> None:
    async with one_connection(database_url) as pool:
        transactions = PostgresTransactions(pool)
        async with transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
        for ask in ("pipelined", "by psycopg", "copied"):
            with pytest.raises(VersionConflict):  # noqa: PT012 - a transaction is its block
                async with transactions() as tx:
                    await tx.events.append(MovieRevised(movie.id, 1, NOON, "system", movie))
                    if ask == "pipelined":
                        await tx.movies.get(movie.id)
                    elif ask == "by psycopg":
                        await tx.users.admins()
                    else:
                        await tx.movies.add_many([HEAT], NOON)
                    pytest.fail("it went on")


async def test_a_block_without_a_statement_does_nothing(database_url: str) -> None:
    async with one_connection(database_url) as pool:
        async with PostgresTransactions(pool)():
            pass
        with pytest.raises(ZeroDivisionError):
            async with PostgresTransactions(pool)():
                raise ZeroDivisionError
        with pytest.raises(MovieNotFound):
            async with PostgresTransactions(pool)():
                raise MovieNotFound(1)
        assert await PostgresMovieQueries(pool).count(MovieQuery()) == 0


async def test_any_number_of_statements_may_wait(database_url: str) -> None:
    async with one_connection(database_url) as pool:
        async with PostgresTransactions(pool)() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            for version in range(1, 351):
                await tx.events.append(MovieRevised(movie.id, version, NOON, "system", movie))
        history = await events_of(PostgresMovieQueries(pool), movie.id)
        assert [event.version for event in history] == [*range(350, 0, -1)]


async def test_a_write_that_is_cancelled_at_its_commit_leaves_nothing_and_the_pool_usable(
    database_url: str,
) -> None:
    async with one_connection(database_url) as pool:
        catalogue = Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool))
        movie = await catalogue.add(HEAT)
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute(
                "INSERT INTO events (kind, movie_id, version, at, actor, movie) "
                "VALUES ('movie_revised', %s, 2, now(), 'other', '{}')",
                (movie.id,),
            )
            task = asyncio.create_task(catalogue.revise(movie.id, {"title": "Ronin"}))

            async def waiting() -> bool:
                return await (await other.execute(_WAITING)).fetchone() == (1,)

            await until(waiting)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, DEADLINE)
            await other.rollback()
        assert await catalogue.get(movie.id) == movie
        assert (await catalogue.revise(movie.id, {"title": "Ronin"})).version == 2


@pytest.mark.parametrize("by", ["a pooler", "a new type"])
async def test_what_was_prepared_and_is_no_longer_good_is_prepared_again(
    empty_database: str, by: str
) -> None:
    await migrate(empty_database)
    async with one_connection(empty_database) as pool:
        catalogue = Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool))
        movie = await catalogue.add(HEAT)
        movie = await catalogue.revise(movie.id, {"release_year": 1995})
        if by == "a pooler":
            await pool.read(lambda connection: connection.execute("DEALLOCATE ALL"))
        else:
            async with await psycopg.AsyncConnection.connect(empty_database) as other:
                await other.execute("DROP TRIGGER zzz_watchly_note_foreign_write ON movies")
                await other.execute("ALTER TABLE movies ALTER COLUMN genre TYPE text")
        # It is refused, prepared again, and written by itself.
        revised = await catalogue.revise(movie.id, {"release_year": 1996})
        assert (revised.version, revised.release_year) == (3, 1996)


async def test_what_cannot_be_prepared_says_why(database_url: str) -> None:
    missing = Query("/* tests.missing */ SELECT 1 FROM no_such_table", int)
    async with one_connection(database_url) as pool:
        for _ in range(2):
            with pytest.raises(UndefinedTable, match="no_such_table"):
                await pool.read(missing.rows)
        with pytest.raises(UndefinedTable, match="no_such_table"):
            async with pool.transaction() as connection:
                await missing.later(connection)
        assert await PostgresMovieQueries(pool).count(MovieQuery()) == 0


async def test_a_name_means_the_same_statement_on_all_connections(database_url: str) -> None:
    # Some poolers hand on a server's connection with all that others have prepared on it.
    async def prepared(pool: Pool) -> dict[object, object]:
        async with pool.transaction() as connection:
            asked = await connection.execute(
                "SELECT name, statement FROM pg_prepared_statements WHERE name LIKE 'watchly%'"
            )
            return dict(await asked.fetchall())

    async with one_connection(database_url) as one, one_connection(database_url) as other:
        catalogues = [
            Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool)) for pool in (one, other)
        ]
        movie = await catalogues[0].add(HEAT)
        await catalogues[1].remove(movie.id)
        ours, theirs = await prepared(one), await prepared(other)
        assert ours
        assert theirs
        assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


async def test_a_failed_transaction_drops_no_prepared_statement(database_url: str) -> None:
    async with one_connection(database_url) as pool:
        catalogue = Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool))

        async def prepared() -> list[tuple[object, ...]]:
            async with pool.transaction() as connection:
                asked = await connection.execute("SELECT name, prepare_time FROM pg_prepared_statements")
                return await asked.fetchall()

        movie = await catalogue.add(HEAT)
        for failure in (MovieNotFound, ZeroDivisionError):
            before = set(await prepared())
            assert before
            with pytest.raises(failure):  # noqa: PT012 - a transaction is its block
                async with PostgresTransactions(pool)() as tx:
                    await tx.movies.get(movie.id)
                    raise failure(1)
            assert before <= set(await prepared())


async def test_an_older_psycopg_whose_waits_have_no_deadline_does_as_well(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = psycopg.AsyncConnection.wait

    async def wait(
        self: psycopg.AsyncConnection[object], gen: PQGen[object], interval: float = 0.1
    ) -> object:
        return await newest(self, gen, interval)

    monkeypatch.setattr(psycopg.AsyncConnection, "wait", wait)
    async with one_connection(database_url) as pool:
        catalogue = Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool))
        movie = await catalogue.add(HEAT)
        assert await catalogue.get(movie.id) == movie
