"""Rows that other programs write: noted by a trigger, then filled by `reindex` with the events they lack."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import threading
from typing import Final, LiteralString

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from tests.legacy import (
    DEADLINE,
    INSERT,
    LEGACY,
    ROWS,
    SELECT,
    THEN,
    as_movie,
    assert_searchable,
    execute,
    select,
    settled,
    until,
)

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.postgres.reindex import reindex
from watchly_adapters.testing.stores import events_of
from watchly_core.catalogue import Catalogue
from watchly_core.errors import Misconfigured, Unavailable
from watchly_core.events import Event, MovieAdded, MovieRemoved, MovieRevised
from watchly_core.movies import Movie
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

MODULE: Final = importlib.import_module("watchly_adapters.postgres.reindex")
STATE: Final = """
    SELECT version, search_version, title_key IS NULL, search IS NULL FROM movies ORDER BY id
"""
FILLED: Final = (False, False)
CLEARED: Final = (None, True, True)


async def found(database: PostgresDatabase, q: str) -> list[str]:
    return [movie.title for movie in (await database.queries.find(MovieQuery(q=q))).data]


async def assert_told(database: PostgresDatabase) -> None:
    """The newest event of each movie tells what it is."""
    for movie in list((await database.queries.find(MovieQuery(limit=9_999))).data):
        newest, *_ = await events_of(database.queries, movie.id)
        assert newest.version == movie.version
        assert newest.movie == movie
        assert not isinstance(newest, MovieRemoved)


# What is filled


async def test_rows_of_another_program_are_found_afterwards(
    database_url: str, postgres: PostgresDatabase
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    await catalogue.add({"title": "Alien", "description": "In space."})
    execute(
        database_url,
        "INSERT INTO movies (title) VALUES ('The Godfather')",
        "UPDATE movies SET title = 'Aliens', description = 'In space once more.' WHERE title = 'Alien'",
    )
    assert await found(postgres, "godfather") == []
    assert await found(postgres, "alien") == []
    assert await reindex(database_url) == 2
    assert_searchable(database_url)
    assert await found(postgres, "godfather") == ["The Godfather"]
    assert await found(postgres, "godfahter") == ["The Godfather"]
    assert await found(postgres, "aliens once") == ["Aliens"]
    execute(database_url, "UPDATE movies SET title = 'Ran', description = NULL WHERE title = 'Aliens'")
    assert await reindex(database_url) == 1
    assert await found(postgres, "space") == []
    assert await found(postgres, "ran") == ["Ran"]
    assert await reindex(database_url) == 0
    await assert_told(postgres)


async def test_a_row_without_a_title_holds_nobody_up(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE movies ALTER title DROP NOT NULL")
        connection.execute("INSERT INTO movies (title) VALUES ('Heat'), (NULL), ('Ran')")
    assert await reindex(database_url) == 2
    assert await reindex(database_url) == 0


async def test_nothing_is_done_in_an_empty_table(database_url: str) -> None:
    assert await reindex(database_url) == 0


async def test_rows_of_any_content_are_filled(database_url: str, postgres: PostgresDatabase) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.cursor().executemany(INSERT, ROWS)
    assert await reindex(database_url) == len(ROWS)
    assert select(database_url, SELECT) == ROWS
    execute(
        database_url,
        "INSERT INTO movies (id, title, created_at, updated_at) VALUES (50, 'when', 'infinity', '-infinity')",
        "INSERT INTO movies (id, title, created_at) VALUES (51, 'before', '0044-03-15 BC')",
    )
    assert await reindex(database_url) == 2
    assert_searchable(database_url)
    await assert_told(postgres)
    for row in ROWS:
        (event,) = await events_of(postgres.queries, row[0])
        assert isinstance(event, MovieAdded)
        assert (event.movie, event.actor) == (as_movie(row), "system")
        assert event.at > dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)


async def test_a_transaction_takes_few_rows_and_few_bytes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = "SELECT array_agg(id ORDER BY id) FROM movies GROUP BY xmin::text ORDER BY min(id)"
    execute(
        database_url,
        "INSERT INTO movies (title, description) "
        "SELECT 'm', repeat('word ', 200000) FROM generate_series(1, 5)",
        "INSERT INTO movies (title, description) SELECT 'xl', repeat('word ', 1000000)",
        "INSERT INTO movies (title) SELECT 's' FROM generate_series(7, 12)",
    )
    monkeypatch.setattr(MODULE, "_ROWS", 4)
    assert await reindex(database_url) == 12
    # 2 MB at most, which is less than two rows of a megabyte and their titles; one row is always taken.
    batches = [ids for (ids,) in select(database_url, transactions)]
    assert batches == [[1], [2], [3], [4], [5], [6], [7, 8, 9, 10], [11, 12]]


# Events


def told(event: Event) -> tuple[type[Event], int, str, int]:
    return type(event), event.version, event.movie.title, event.movie.version


@pytest.mark.parametrize("rows", [1, 30])  # few events are written by statements, many by COPY
async def test_a_row_gets_the_event_it_lacks(
    database_url: str, postgres: PostgresDatabase, rows: int
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)

    async def history(*statements: LiteralString) -> list[tuple[type[Event], int, str, int]]:
        """What all movies' histories say after the statements and a reindex, newest first."""
        execute(database_url, *statements)
        await reindex(database_url)
        await assert_told(postgres)
        histories = [list(map(told, await events_of(postgres.queries, number + 1))) for number in range(rows)]
        assert all(one == histories[0] for one in histories)
        return histories[0]

    some = "INSERT INTO movies (id, title) SELECT n, 'Heat' FROM generate_series(1, rows) n"
    add = some.replace("rows", str(rows))
    expected: list[tuple[type[Event], int, str, int]] = [(MovieAdded, 1, "Heat", 1)]
    assert await history(add) == expected

    expected.insert(0, (MovieRevised, 2, "Heat 2", 2))
    assert await history("UPDATE movies SET title = 'Heat 2'") == expected

    # Those between nobody saw.
    expected.insert(0, (MovieRevised, 4, "Heat 4", 4))
    change: LiteralString = "UPDATE movies SET title = 'Heat 3'"
    assert await history(change, "UPDATE movies SET title = 'Heat 4'") == expected

    # Back as it was is a change as well.
    expected.insert(0, (MovieRevised, 6, "Heat 4", 6))
    assert await history(change, "UPDATE movies SET title = 'Heat 4'") == expected

    # Removed by the other program, and inserted again under the same id.
    expected.insert(0, (MovieRevised, 7, "Heat", 7))
    assert await history("DELETE FROM movies", add) == expected

    for number in range(rows):
        await catalogue.remove(number + 1)
    expected.insert(0, (MovieRemoved, 8, "Heat", 7))
    assert await history() == expected
    expected.insert(0, (MovieAdded, 9, "Heat", 9))
    assert await history(add) == expected

    # At the very version of its removal, and beyond it.
    for number in range(rows):
        await catalogue.remove(number + 1)
    expected.insert(0, (MovieRemoved, 10, "Heat", 9))
    assert await history(add, "UPDATE movies SET version = 10") == [(MovieAdded, 11, "Heat", 11), *expected]
    for number in range(rows):
        await catalogue.remove(number + 1)
    expected[:0] = [(MovieRemoved, 12, "Heat", 11), (MovieAdded, 11, "Heat", 11)]
    assert await history(add, "UPDATE movies SET version = 20") == [(MovieAdded, 20, "Heat", 20), *expected]


async def test_another_movie_at_the_version_of_the_last_event_is_told(
    database_url: str, postgres: PostgresDatabase
) -> None:
    # A seed that is loaded anew, and writes before there was a trigger.
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    movie = await catalogue.add({"title": "Heat"})
    execute(database_url, "TRUNCATE movies", "INSERT INTO movies (id, title) VALUES (1, 'Ran')")
    assert movie.id == 1
    await reindex(database_url)
    history = await events_of(catalogue, 1)
    assert list(map(told, history)) == [(MovieRevised, 2, "Ran", 2), (MovieAdded, 1, "Heat", 1)]
    await assert_told(postgres)


async def test_a_row_that_is_told_already_is_only_filled(
    database_url: str, postgres: PostgresDatabase
) -> None:
    # As an earlier version of Watchly writes: it knows no column of the search.
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    movie = await catalogue.add({"title": "Heat", "description": "A thief."})
    revised = await catalogue.revise(movie.id, {"title": "Heat 2"})
    execute(database_url, "UPDATE movies SET search_version = NULL, search = NULL, title_key = NULL")
    history = await events_of(catalogue, movie.id)
    assert await reindex(database_url) == 1
    assert_searchable(database_url)
    assert await catalogue.get(movie.id) == revised
    assert await events_of(catalogue, movie.id) == history


# The trigger


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE movies SET title = 'Heat!'",
        "UPDATE movies SET description = NULL",
        "UPDATE movies SET release_year = NULL",
        "UPDATE movies SET genre = 'crime'",
        "UPDATE movies SET image_url = 'https://images.example/1.jpg'",
        "UPDATE movies SET created_at = NULL",
        "UPDATE movies SET updated_at = updated_at + interval '1 microsecond'",
        "UPDATE movies SET id = 7",
        "UPDATE movies SET title = 'Heat!', genre = 'Drama', updated_at = now()",
        "UPDATE movies SET search = NULL, title_key = '', title = 'Heat!'",
    ],
)
async def test_a_foreign_update_raises_the_version_and_clears_the_search(
    database_url: str, postgres: PostgresDatabase, change: LiteralString
) -> None:
    await make_heat(postgres)
    execute(database_url, change)
    assert select(database_url, STATE) == [(2, *CLEARED)]
    execute(database_url, "UPDATE movies SET title = 'Heat 3'")
    assert select(database_url, STATE) == [(3, *CLEARED)]
    assert await reindex(database_url) == 1
    assert select(database_url, STATE) == [(3, 3, *FILLED)]
    await assert_told(postgres)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE movies SET title = title, description = description, genre = genre, version = version",
        "UPDATE movies SET title = 'Heat'",
        "UPDATE movies SET title = 'Ran' WHERE id = 0",
        "INSERT INTO movies (id, title) VALUES (1, 'Ran') ON CONFLICT DO NOTHING",
        "SELECT FROM movies FOR UPDATE",
    ],
)
async def test_what_changes_nothing_keeps_the_version(
    database_url: str, postgres: PostgresDatabase, statement: LiteralString
) -> None:
    await make_heat(postgres)
    execute(database_url, statement)
    assert select(database_url, STATE) == [(1, 1, *FILLED)]
    assert await reindex(database_url) == 0


async def test_a_foreign_upsert_is_an_update(database_url: str, postgres: PostgresDatabase) -> None:
    await make_heat(postgres)
    upsert: LiteralString = (
        "INSERT INTO movies (id, title) VALUES (1, 'Ran') "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title"
    )
    execute(database_url, upsert)
    assert select(database_url, STATE) == [(2, *CLEARED)]


async def test_an_earlier_watchly_raises_the_version_itself(
    database_url: str, postgres: PostgresDatabase
) -> None:
    movie = await make_heat(postgres)
    revised = msgspec.structs.replace(movie, title="Ran", version=2)
    execute(database_url, "UPDATE movies SET title = 'Ran', version = 2")
    async with postgres.transactions() as tx:
        await tx.events.append(MovieRevised(1, 2, dt.datetime.now(dt.UTC), "system", revised))
    assert select(database_url, STATE) == [(2, *CLEARED)]
    execute(database_url, "UPDATE movies SET title = 'Ikiru', version = 3")
    assert select(database_url, STATE) == [(3, *CLEARED)]


async def test_our_own_writes_stay_searchable(database_url: str, postgres: PostgresDatabase) -> None:
    await make_heat(postgres)
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    await catalogue.revise(1, {"title": "Ran"})
    assert select(database_url, STATE) == [(2, 2, *FILLED)]
    execute(database_url, "UPDATE movies SET title = 'Ikiru'")
    await catalogue.revise(1, {"title": "Alien"})
    assert select(database_url, STATE) == [(4, 4, *FILLED)]
    assert await reindex(database_url) == 0
    assert_searchable(database_url)


async def make_heat(database: PostgresDatabase) -> Movie:
    catalogue = Catalogue(database.queries, database.transactions)
    return await catalogue.add(
        {"title": "Heat", "description": "A thief.", "release_year": 1995, "genre": "Crime"}
    )


def make_touched(url: str, trigger: str = "set_updated_at") -> None:
    """The table of an older system, with a trigger that notes the time of each update."""
    execute(
        url,
        LEGACY,
        """
        CREATE FUNCTION note_update() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.updated_at := clock_timestamp();
            RETURN NEW;
        END
        $$
        """,
    )
    create = sql.SQL("CREATE TRIGGER {} BEFORE UPDATE ON movies FOR EACH ROW EXECUTE FUNCTION note_update()")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(trigger)))


# Triggers fire in the order of their names.
@pytest.mark.parametrize("trigger", ["set_updated_at", "updated", "zz_updated", "zzz_a_updated"])
async def test_filling_keeps_the_times_that_a_trigger_would_set(empty_database: str, trigger: str) -> None:
    make_touched(empty_database, trigger)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.cursor().executemany(INSERT, ROWS)
    await migrate(empty_database)
    assert select(empty_database, SELECT) == ROWS
    assert_searchable(empty_database)
    execute(empty_database, "UPDATE movies SET title = 'Heat!' WHERE id = 1")
    ((updated_at,),) = select(empty_database, "SELECT updated_at FROM movies WHERE id = 1")
    assert isinstance(updated_at, dt.datetime)
    assert updated_at > THEN
    assert await reindex(empty_database) == 1
    assert_searchable(empty_database)
    assert select(empty_database, "SELECT updated_at FROM movies WHERE id = 1") == [(updated_at,)]
    async with PostgresDatabase(empty_database) as database:
        await assert_told(database)


@pytest.mark.parametrize("role", ["origin", "replica"])  # the latter fires no trigger, as when restoring
async def test_a_row_that_takes_an_id_again_is_told_as_it_is(
    empty_database: str, role: LiteralString
) -> None:
    make_touched(empty_database)
    execute(empty_database, "INSERT INTO movies (title) VALUES ('Heat')")
    await migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("SET session_replication_role = " + role)
        connection.execute("DELETE FROM movies")
        connection.execute("INSERT INTO movies (id, title, updated_at) VALUES (1, 'Ran', '2019-07-04')")
    assert await reindex(empty_database) == 1
    assert_searchable(empty_database)
    async with PostgresDatabase(empty_database) as database:
        await assert_told(database)
        history = list(map(told, await events_of(database.queries, 1)))
        assert history == [(MovieRevised, 2, "Ran", 2), (MovieAdded, 1, "Heat", 1)]
        if role == "origin":
            movie = await database.queries.get(1)
            assert movie.updated_at == dt.datetime(2019, 7, 4, tzinfo=dt.UTC)


async def test_a_row_that_takes_an_id_again_can_be_revised_before_it_is_filled(
    database_url: str, postgres: PostgresDatabase
) -> None:
    await make_heat(postgres)
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    await catalogue.revise(1, {"title": "Heat 2"})
    execute(database_url, "DELETE FROM movies", "INSERT INTO movies (id, title) VALUES (1, 'Ran')")
    assert select(database_url, STATE) == [(3, *CLEARED)]
    await catalogue.revise(1, {"genre": "Drama"})
    assert select(database_url, STATE) == [(4, 4, *FILLED)]
    assert await reindex(database_url) == 0
    await assert_told(postgres)
    assert [event.version for event in await events_of(catalogue, 1)] == [4, 2, 1]


# Beside others


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_several_at_once_share_the_rows(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    await migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        name = sql.Identifier(str(conninfo_to_dict(empty_database)["dbname"]))
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}")
        connection.execute(setting.format(name, isolation))
    execute(empty_database, "INSERT INTO movies (title) SELECT 'Film ' || n FROM generate_series(1, 2000) n")
    monkeypatch.setattr(MODULE, "_ROWS", 20)
    done = await asyncio.gather(*(reindex(empty_database) for _ in range(3)), migrate(empty_database))
    await reindex(empty_database)
    assert sum(count for count in done if isinstance(count, int)) <= 2000
    assert_searchable(empty_database)
    events = "SELECT count(*), count(DISTINCT movie_id), max(version) FROM events"
    assert select(empty_database, events) == [(2000, 2000, 1)]


async def test_a_row_that_somebody_writes_is_passed_by(database_url: str, postgres: PostgresDatabase) -> None:
    execute(database_url, "INSERT INTO movies (title) VALUES ('Heat'), ('Ran'), ('Ikiru')")
    async with await settled(database_url) as other:
        await other.execute("UPDATE movies SET title = 'Alien' WHERE title = 'Ran'")
        assert await asyncio.wait_for(reindex(database_url), DEADLINE) == 2
        await other.commit()
    assert await found(postgres, "ran") == []
    assert await reindex(database_url) == 1
    assert await found(postgres, "alien") == ["Alien"]
    assert await found(postgres, "ran") == []
    await assert_told(postgres)


class LegacyReviser(threading.Thread):
    """Changes titles of rows, one transaction each, and replaces rows, until it is stopped."""

    def __init__(self, url: str, rows: int) -> None:
        super().__init__(daemon=True)
        self._url, self._rows = url, rows
        self._leave = threading.Event()
        self.writes = 0

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._leave.is_set():
                self.writes += 1
                number = self.writes * 7919 % self._rows + 1
                title = f"Written {self.writes}"
                if self.writes % 5:
                    connection.execute("UPDATE movies SET title = %s WHERE id = %s", (title, number))
                else:
                    connection.execute("DELETE FROM movies WHERE id = %s", (number,))
                    connection.execute("INSERT INTO movies (id, title) VALUES (%s, %s)", (number, title))

    def stop(self) -> None:
        self._leave.set()
        self.join(DEADLINE)
        assert not self.is_alive()


async def test_live_writers_are_not_held_up_and_lose_nothing(
    database_url: str, postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database_url, "INSERT INTO movies (title) SELECT 'Film ' || n FROM generate_series(1, 300) n")
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    own = await catalogue.add({"title": "Own 0"})
    monkeypatch.setattr(MODULE, "_ROWS", 20)
    reviser = LegacyReviser(database_url, 300)
    reviser.start()
    try:
        for count in range(20):
            await reindex(database_url)
            own = await catalogue.revise(own.id, {"title": f"Own {count + 1}"})
            seen = reviser.writes

            async def wrote(seen: int = seen) -> bool:
                assert reviser.is_alive()
                return reviser.writes > seen + 20

            await until(wrote)
    finally:
        reviser.stop()
    await reindex(database_url)
    assert_searchable(database_url)
    await assert_told(postgres)
    assert await catalogue.get(own.id) == own
    for number in (1, 2, 3):
        versions = [event.version for event in await events_of(catalogue, number)]
        assert versions == sorted(set(versions), reverse=True)


# What it cannot do


async def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(Misconfigured):
        await reindex("no url")
    with pytest.raises(Unavailable):
        await reindex("postgresql://127.0.0.1:1/watchly", wait=0)
