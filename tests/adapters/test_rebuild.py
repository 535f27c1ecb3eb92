"""The table of movies made anew from the log."""

from __future__ import annotations

import datetime as dt
from typing import LiteralString

import msgspec
import psycopg
import pytest

from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.postgres.rebuild import Comparison, rebuild
from watchly_adapters.testing.stores import NOON, events_of
from watchly_core import Catalogue, Movie, MovieQuery
from watchly_core.events import ImageAttached
from watchly_core.images import Image, ImageRecord, ImageState, new_key

pytestmark = pytest.mark.anyio


def execute(url: str, *statements: LiteralString) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def without_triggers(statement: LiteralString) -> tuple[LiteralString, ...]:
    """A write of which not even the triggers of the table hear."""
    return ("SET session_replication_role = replica", statement)


async def filled(database: PostgresDatabase) -> list[Movie]:
    """Movies that were added, revised, removed and brought back, and one that shows an image."""
    catalogue = Catalogue(database.queries, database.transactions)
    for number in range(1_200):
        await catalogue.add({"title": f"Movie {number}", "description": "é 🎬"})
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


async def test_what_the_log_never_heard_of_is_told_and_stays(
    postgres: PostgresDatabase, database_url: str
) -> None:
    execute(database_url, *without_triggers("INSERT INTO movies (title) VALUES ('stranger')"))
    assert await rebuild(database_url, apply=True) == Comparison(unknown=1)
    assert [movie.title for movie in await movies(postgres)] == ["stranger"]


async def test_a_pruned_log_is_enough(postgres: PostgresDatabase, database_url: str) -> None:
    before = await filled(postgres)
    catalogue = Catalogue(postgres.queries, postgres.transactions, images=None)
    assert (await catalogue.changes()).data
    assert await catalogue.prune(dt.timedelta(0)) == 5
    execute(database_url, "DELETE FROM movies")
    assert (await rebuild(database_url, apply=True)).missing == 1_199
    assert await movies(postgres) == before
