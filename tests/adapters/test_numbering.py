"""Numbers of changes in PostgreSQL, and the word that reaches other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import LiteralString

import msgspec
import psycopg
import pytest

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.testing.stores import HEAT, NOON
from watchly_core.backlogs import Backlog
from watchly_core.events import ChangeQuery, Event, MovieAdded, MovieRevised

pytestmark = pytest.mark.anyio

DEADLINE = 30.0

_RAW = """
    INSERT INTO events (kind, movie_id, version, at, actor, movie)
    SELECT 'movie_added', %s, 1, now(), 'other',
        json_build_object('id', %s::int, 'title', 'Heat', 'version', 1,
            'description', NULL, 'release_year', NULL, 'genre', NULL, 'image_url', NULL, 'image', NULL,
            'created_at', NULL, 'updated_at', NULL)
"""
_UNNUMBERED = "SELECT count(*) FROM events WHERE seq IS NULL"


@asynccontextmanager
async def session(url: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[int]]]:
    """A connection of another program, whose transaction is ended by hand."""
    async with await psycopg.AsyncConnection[tuple[int]].connect(url) as connection:
        yield connection


async def added(database: PostgresDatabase) -> MovieAdded:
    async with database.transactions() as tx:
        movie = await tx.movies.add(HEAT, NOON)
        event = MovieAdded(movie.id, 1, NOON, "system", movie)
        await tx.events.append(event)
    return event


async def until(other: psycopg.AsyncConnection[tuple[int]], query: LiteralString, number: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while await (await other.execute(query)).fetchone() != (number,):
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


async def numbers(database: PostgresDatabase, after: int = 0) -> list[tuple[int, int]]:
    found = await database.queries.changes(ChangeQuery(after=after))
    return [(change.seq, change.event.movie_id) for change in found.data]


async def test_what_commits_late_is_not_missed_by_who_read_before(database_url: str) -> None:
    async with PostgresDatabase(database_url) as database, session(database_url) as slow:
        await slow.execute(_RAW, (1001, 1001))  # takes an id, and does not commit yet
        event = await added(database)
        assert await numbers(database) == [(1, event.movie_id)]
        await slow.commit()
        assert await numbers(database, after=1) == [(2, 1001)]
        assert await numbers(database) == [(1, event.movie_id), (2, 1001)]


async def test_who_numbers_meanwhile_is_waited_for(database_url: str) -> None:
    async with PostgresDatabase(database_url) as database, session(database_url) as other:
        await other.execute("SELECT FROM change_log FOR UPDATE")
        event = await added(database)
        reading = asyncio.create_task(numbers(database))
        done, _ = await asyncio.wait({reading}, timeout=0.2)
        assert not done
        await other.rollback()
        assert await asyncio.wait_for(reading, DEADLINE) == [(1, event.movie_id)]


async def test_what_has_no_number_yet_is_a_backlog(database_url: str) -> None:
    async with PostgresDatabase(database_url) as database, session(database_url) as other:
        await added(database)
        assert await numbers(database) == [(1, 1)]
        # Nobody numbers while another program holds the log, or has not committed.
        await other.execute("SELECT FROM change_log FOR UPDATE")
        for _ in range(3):
            await added(database)
        await other.execute(_RAW, (1001, 1001))
        assert await database.backlogs.backlog(NOON) == Backlog(numbered_up_to=1, unnumbered=3)
        await other.commit()
        assert len(await numbers(database)) == 5
        assert await database.backlogs.backlog(NOON) == Backlog(numbered_up_to=5)


async def test_what_a_writer_left_unnumbered_is_numbered_soon(database_url: str) -> None:
    """As one that was killed between its commit and the numbering; nobody reads or writes meanwhile."""
    async with session(database_url) as other:
        await other.execute(_RAW, (1, 1))
        await other.commit()
    async with PostgresDatabase(database_url) as database:
        await database.signal.beyond(database.signal.count)  # it listens
        seen = database.signal.count
        async with session(database_url) as other, asyncio.timeout(DEADLINE):
            await database.signal.beyond(seen)
            await other.set_autocommit(True)
            while await (await other.execute(_UNNUMBERED)).fetchone() != (0,):
                await database.signal.beyond(database.signal.count)


async def test_what_a_server_refuses_for_a_while_is_numbered_after_that(empty_database: str) -> None:
    await migrate(empty_database)
    async with session(empty_database) as other, PostgresDatabase(empty_database) as database:
        await other.set_autocommit(True)
        await other.execute("CREATE SEQUENCE refused")
        await other.execute(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM nextval('refused');
                RAISE read_only_sql_transaction;
            END
            $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON change_log EXECUTE FUNCTION refuse()
            """
        )
        await added(database)
        await until(other, "SELECT is_called::integer FROM refused", 1)
        await other.execute("DROP TRIGGER refuse ON change_log")
        await until(other, _UNNUMBERED, 0)


async def test_more_than_one_batch_is_numbered_for_one_reader(database_url: str) -> None:
    async with session(database_url) as other:
        await other.execute(
            """
            INSERT INTO events (kind, movie_id, version, at, actor, movie)
            SELECT 'movie_removed', number, 1, now(), 'other', json_build_object(
                'id', number, 'title', 'x', 'version', 1, 'description', NULL, 'release_year', NULL,
                'genre', NULL, 'image_url', NULL, 'image', NULL, 'created_at', NULL, 'updated_at', NULL)
            FROM generate_series(1, 2500) AS number
            """
        )
        await other.commit()
    async with PostgresDatabase(database_url) as database:
        found = await database.queries.changes(ChangeQuery(after=2_400, limit=1_000))
    assert [change.seq for change in found.data] == list(range(2_401, 2_501))
    assert [change.event.movie_id for change in found.data] == list(range(2_401, 2_501))


async def test_another_process_hears_of_a_commit(database_url: str) -> None:
    async with PostgresDatabase(database_url) as one, PostgresDatabase(database_url) as other:
        async with asyncio.timeout(DEADLINE):
            await other.signal.beyond(other.signal.count)  # it listens
            seen = other.signal.count
            event = await added(one)
            while not (found := await numbers(other)):
                await other.signal.beyond(seen)
                seen = other.signal.count
        assert found == [(1, event.movie_id)]


async def test_a_listener_that_was_cut_listens_again_and_tells_of_what_it_may_have_missed(
    database_url: str,
) -> None:
    async with PostgresDatabase(database_url) as database, session(database_url) as other:
        await other.set_autocommit(True)
        async with asyncio.timeout(DEADLINE):
            await database.signal.beyond(database.signal.count)
            seen = database.signal.count
            cut = await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN watchly%' "
                "AND datname = current_database()"
            )
            assert cut.rowcount == 1
            await database.signal.beyond(seen)
            seen = database.signal.count
            await added(database)
            await database.signal.beyond(seen)


async def test_writers_at_once_leave_dense_numbers_and_each_movie_in_order(database_url: str) -> None:
    async with PostgresDatabase(database_url) as one, PostgresDatabase(database_url) as other:
        events: list[Event] = [await added(one) for _ in range(4)]

        async def revise(database: PostgresDatabase) -> None:
            for number in range(40):
                async with database.transactions() as tx:
                    movie = await tx.movies.get(events[number % 4].movie_id)
                    revised = msgspec.structs.replace(movie, version=movie.version + 1)
                    await tx.movies.replace(revised)
                    await tx.events.append(MovieRevised(movie.id, revised.version, NOON, "system", revised))

        await asyncio.gather(*(revise(database) for database in (one, other) for _ in range(3)))
        found = (await one.queries.changes(ChangeQuery(limit=1_000))).data
    assert [change.seq for change in found] == list(range(1, 245))
    for event in events:
        versions = [change.event.version for change in found if change.event.movie_id == event.movie_id]
        assert versions == list(range(1, len(versions) + 1))
