"""The table of movies made anew from the log."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import LiteralString

import msgspec
import psycopg
import pytest
from tests.adapters.test_migrate import catalogue as schema_in
from tests.conftest import new_database

from watchly_adapters.postgres import PostgresDatabase, PostgresTransaction, migrate
from watchly_adapters.postgres.rebuild import Comparison, rebuild
from watchly_adapters.testing.stores import NOON, events_of
from watchly_core import Catalogue, Movie, MovieQuery
from watchly_core.errors import Misconfigured
from watchly_core.events import ImageAttached
from watchly_core.images import Image, ImageRecord, ImageState, new_key
from watchly_core.traces import traced_by

pytestmark = pytest.mark.anyio

DEADLINE = 30.0


def execute(url: str, *statements: LiteralString) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def is_waiting(url: str) -> bool:
    """Whether somebody waits for a lock of somebody else on this database."""
    query: LiteralString = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with psycopg.connect(url) as connection:
        return bool(connection.execute(query).rowcount)


def without_triggers(statement: LiteralString) -> tuple[LiteralString, ...]:
    """A write of which not even the triggers of the table hear."""
    return ("SET session_replication_role = replica", statement)


async def filled(database: PostgresDatabase) -> list[Movie]:
    """Movies that were added, revised, removed and brought back, and one that shows an image."""
    catalogue = Catalogue(database.queries, database.transactions)
    for number in range(1_200):
        await catalogue.add({"title": f"Movie {number}", "description": "é 🎬"})
    with traced_by(f"00-{1:032x}-{1:016x}-01"):  # which is nothing of the movie's
        await catalogue.revise(2, {"genre": "Crime"})
    await catalogue.remove(3)
    await catalogue.remove(4)
    await catalogue.revert(4, 1)
    image = Image(new_key(), 3, 4, "png", 5, {})
    async with database.transactions() as tx:
        movie = await tx.movies.get(5)
        shown = msgspec.structs.replace(movie, image=image, image_url="/images/x", version=2)
        await tx.movies.replace(shown)
        await tx.images.add(ImageRecord(image, ImageState.ATTACHED, 5, None))
        await tx.events.append(ImageAttached(5, 2, NOON, "system", shown))
    return await movies(database)


async def movies(database: PostgresDatabase) -> list[Movie]:
    return list((await database.queries.find(MovieQuery(limit=9_999))).data)


async def test_a_table_that_is_what_the_log_says(postgres: PostgresDatabase, database_url: str) -> None:
    before = await filled(postgres)
    for apply in (False, True, False):
        assert await rebuild(database_url, apply=apply) == Comparison(movies=1_200)
    assert await movies(postgres) == before


async def test_a_table_that_was_emptied_comes_back(postgres: PostgresDatabase, database_url: str) -> None:
    before = await filled(postgres)
    execute(database_url, "DELETE FROM movies", "DELETE FROM images")
    lost = Comparison(movies=1_200, missing=1_199)
    assert await rebuild(database_url, apply=False) == lost
    assert await movies(postgres) == []
    assert await rebuild(database_url, apply=True) == lost
    assert await movies(postgres) == before
    assert (await rebuild(database_url, apply=False)).agree
    assert (await postgres.queries.find(MovieQuery(q="movie 77"))).data[0].title == "Movie 77"
    async with postgres.transactions() as tx:
        assert [record.state for record in await tx.images.of_movie(5)] == [ImageState.ATTACHED]
    assert [event.version for event in await events_of(postgres.queries, 4)] == [3, 2, 1]


async def test_rows_that_differ_are_what_the_log_says(postgres: PostgresDatabase, database_url: str) -> None:
    before = await filled(postgres)
    execute(
        database_url,
        *without_triggers("UPDATE movies SET title = 'changed' WHERE id IN (1, 5)"),
        "INSERT INTO movies (id, title, version, search_version) VALUES (3, 'back', 9, 9)",
        "DELETE FROM movies WHERE id = 2",
    )
    wrong = Comparison(movies=1_200, missing=1, different=2, removed=1)
    assert await rebuild(database_url, apply=False) == wrong
    assert await rebuild(database_url, apply=True) == wrong
    assert (await rebuild(database_url, apply=False)).agree
    assert await movies(postgres) == before


async def test_rows_of_other_programs_that_refer_to_a_movie_stay(empty_database: str) -> None:
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        movie = await catalogue.add({"title": "Heat"})
        execute(
            empty_database,
            "CREATE TABLE reviews (movie_id integer REFERENCES movies ON DELETE CASCADE)",
            "CREATE TABLE orders (movie_id integer REFERENCES movies)",
            "INSERT INTO reviews VALUES (1)",
            "INSERT INTO orders VALUES (1)",
            *without_triggers("UPDATE movies SET title = 'changed'"),
        )
        assert (await rebuild(empty_database, apply=True)).different == 1
        assert (await rebuild(empty_database, apply=False)).agree
        assert await catalogue.get(movie.id) == movie
        assert (await database.queries.find(MovieQuery(q="heat"))).data == (movie,)
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM reviews").fetchone() == (1,)


async def test_what_somebody_brings_back_meanwhile_is_kept(
    postgres: PostgresDatabase, database_url: str
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    movie = await catalogue.add({"title": "Heat"})
    execute(database_url, "DELETE FROM movies")
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await PostgresTransaction(other).movies.restore(movie)  # not committed yet
        rebuilding = asyncio.create_task(rebuild(database_url, apply=True))
        try:
            deadline = time.monotonic() + DEADLINE
            while not await asyncio.to_thread(is_waiting, database_url):
                assert time.monotonic() < deadline, "the rebuild did not wait"
                await asyncio.sleep(0.01)  # between looks, not in place of one
        finally:
            await other.commit()
            compared = await asyncio.wait_for(rebuilding, DEADLINE)
    assert compared == Comparison(movies=1)
    assert await movies(postgres) == [movie]


async def test_what_the_log_never_heard_of_is_told_to_it_and_stays(
    postgres: PostgresDatabase, database_url: str
) -> None:
    execute(database_url, *without_triggers("INSERT INTO movies (title) VALUES ('stranger')"))
    assert await rebuild(database_url, apply=True) == Comparison(movies=1)
    assert [movie.title for movie in await movies(postgres)] == ["stranger"]
    assert len(await events_of(postgres.queries, 1)) == 1


@pytest.mark.parametrize("drop", ["DROP TABLE movies", "TRUNCATE movies RESTART IDENTITY"])
async def test_a_table_that_was_dropped_comes_back(
    empty_database: str, server_url: str, drop: LiteralString
) -> None:
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        before = await filled(database)
        await catalogue.remove(1_200)
        last = before.pop()
        execute(empty_database, drop)
        if drop.startswith("DROP"):
            with pytest.raises(Misconfigured, match="watchly rebuild --apply"):
                await migrate(empty_database)
        lost = Comparison(movies=1_200, missing=1_198)
        assert await rebuild(empty_database, apply=False) == lost
        assert await rebuild(empty_database, apply=True) == lost
        assert await movies(database) == before
        assert (await catalogue.add({"title": "New"})).id == last.id + 1
        assert (await rebuild(empty_database, apply=True)).agree
        assert (await catalogue.add({"title": "Newer"})).id == last.id + 2
    with new_database(server_url) as other:
        await migrate(other)
        assert schema_in(empty_database) == schema_in(other)


async def test_a_table_that_was_dropped_is_made_once_by_many(empty_database: str) -> None:
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database:
        movie = await Catalogue(database.queries, database.transactions).add({"title": "Heat"})
        execute(empty_database, "DROP TABLE movies")
        await asyncio.gather(*(rebuild(empty_database, apply=True) for _ in range(4)))
        assert await movies(database) == [movie]


async def test_a_pruned_log_is_enough(postgres: PostgresDatabase, database_url: str) -> None:
    before = await filled(postgres)
    catalogue = Catalogue(postgres.queries, postgres.transactions, images=None)
    assert (await catalogue.changes()).data
    assert await catalogue.prune(dt.timedelta(0)) == 5
    execute(database_url, "DELETE FROM movies")
    assert (await rebuild(database_url, apply=True)).missing == 1_199
    assert await movies(postgres) == before
