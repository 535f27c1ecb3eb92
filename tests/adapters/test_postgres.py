"""What PostgreSQL does to its clients, for real: lost connections, refusals, sessions of hosts."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final, LiteralString, cast

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, TupleRow, dict_row

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.postgres import PostgresDatabase, PostgresTransaction, PostgresTransactions, migrate
from watchly_adapters.postgres.pool import Connection, Pool, connect
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.testing.stores import events_of
from watchly_core.errors import IllegalTransition, Misconfigured, MovieNotFound, Unavailable
from watchly_core.events import MovieAdded, MovieRevised
from watchly_core.images import Image, ImageRecord, ImageState, new_key
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import MovieQuery
from watchly_core.receipts import Claim, KeptReply

pytestmark = pytest.mark.anyio

MODULE: Final = importlib.import_module("watchly_adapters.postgres.pool")
DEADLINE: Final = 60.0
NOON: Final = dt.datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=dt.UTC)
HEAT: Final = MovieDraft(title="Heat 🎬", description="é %s \\", release_year=1995, genre="Crime")
SECRET: Final = "s3cret"  # noqa: S105 - nobody's


def execute(url: str, *statements: LiteralString | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def select(url: str, query: LiteralString) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return list(connection.execute(query).fetchall())


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


OURS: Final = """
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'watchly' AND pid <> pg_backend_pid()
"""


async def kill(url: str) -> int:
    """End every connection of Watchly's to this database, and wait until they are gone."""
    ended = await asyncio.to_thread(select, url, "SELECT pg_terminate_backend(pid, 30000)" + OURS)
    assert all(done for (done,) in ended)
    return len(ended)


@asynccontextmanager
async def opened(url: str, size: int) -> AsyncIterator[Pool]:
    """A pool of exactly so many connections, all of them open."""
    pool = Pool(url, min_size=size, max_size=size)
    await pool.open()

    async def full() -> bool:
        return await asyncio.to_thread(select, url, "SELECT count(*)" + OURS) == [(size,)]

    try:
        await until(full)
        yield pool
    finally:
        await pool.close()


async def add(transactions: PostgresTransactions) -> Movie:
    async with transactions() as tx:
        return await tx.movies.add(HEAT, NOON)


# Lost connections


@pytest.mark.parametrize("at_once", [1, 10, 30])
async def test_reads_do_not_notice_that_idle_connections_were_killed(database_url: str, at_once: int) -> None:
    async with opened(database_url, 10) as pool:
        queries = PostgresMovieQueries(pool)
        added = await add(PostgresTransactions(pool))
        for _ in range(3):
            assert await kill(database_url) == 10
            for _ in range(2):
                got = await asyncio.gather(*(queries.get(added.id) for _ in range(at_once)))
                assert got == [added] * at_once

            async def full() -> bool:
                return await asyncio.to_thread(select, database_url, "SELECT count(*)" + OURS) == [(10,)]

            await until(full)


@pytest.mark.parametrize("size", [1, 10])
async def test_writes_do_not_notice_that_idle_connections_were_killed(database_url: str, size: int) -> None:
    async with opened(database_url, size) as pool:
        stored = [await add(PostgresTransactions(pool)) for _ in range(size)]
        for _ in range(3):
            assert await kill(database_url) == size
            stored += [await add(PostgresTransactions(pool)) for _ in range(5)]
            assert (await PostgresMovieQueries(pool).find(MovieQuery())).data == tuple(stored)

            async def full() -> bool:
                return await asyncio.to_thread(select, database_url, "SELECT count(*)" + OURS) == [(size,)]

            await until(full)


@pytest.mark.parametrize("lost_at", ["statement", "commit", "failure"])
async def test_a_write_on_a_lost_connection_leaves_nothing(
    database_url: str, postgres: PostgresDatabase, lost_at: str
) -> None:
    async def write() -> None:
        async with postgres.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            assert await kill(database_url) >= 1
            if lost_at == "statement":
                await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
            elif lost_at == "failure":
                raise ValueError(lost_at)

    with pytest.raises(ValueError if lost_at == "failure" else Unavailable):
        await write()
    assert (await postgres.queries.find(MovieQuery())).data == ()
    assert select(database_url, "SELECT count(*) FROM events") == [(0,)]
    await asyncio.wait_for(eventually_adds(postgres), DEADLINE)
    assert len((await postgres.queries.find(MovieQuery())).data) == 1


async def eventually_adds(database: PostgresDatabase) -> None:
    """Add a movie; how many attempts that takes is another test's concern."""
    while True:
        try:
            await add(database.transactions)
        except Unavailable:
            await asyncio.sleep(0)
        else:
            return


async def test_a_connection_that_is_lost_on_the_way_says_so(database_url: str) -> None:
    async with opened(database_url, 1) as pool:
        with pytest.raises(Unavailable) as caught:  # noqa: PT012 - a transaction is its block
            async with pool.transaction() as connection:
                await kill(database_url)
                await connection.execute("SELECT 1")
        assert "\n" not in str(caught.value)
        assert (caught.value.dependency, caught.value.retry_after) == ("database", 1)


# No connection


async def test_an_exhausted_pool_says_so_in_time(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_ACQUIRE_TIMEOUT", 0.2)
    async with PostgresDatabase(database_url, max_size=2) as database:
        added = await add(database.transactions)
        async with database.transactions(), database.transactions():
            attempts: list[Awaitable[object]] = [
                database.queries.get(added.id),
                database.queries.find(MovieQuery()),
                database.queries.history(added.id),
                database.ping(),
                add(database.transactions),
            ]
            results = await asyncio.wait_for(asyncio.gather(*attempts, return_exceptions=True), DEADLINE)
            assert [type(result) for result in results] == [Unavailable] * 5
            assert {str(result) for result in results} == {"database: no connection became free in time"}
        assert await database.queries.get(added.id) == added
        await database.ping()


async def test_exports_leave_connections_for_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_ACQUIRE_TIMEOUT", 0.2)
    async with PostgresDatabase(database_url, max_size=2) as database:
        added = await add(database.transactions)
        async with aclosing(database.queries.export(MovieQuery())) as slow:
            assert await anext(slow) == [HEAT]
            with pytest.raises(Unavailable, match="too many exports"):
                await anext(database.queries.export(MovieQuery()))
            assert await database.queries.get(added.id) == added
        assert [draft async for batch in database.queries.export(MovieQuery()) for draft in batch] == [HEAT]


async def test_callers_that_would_wait_for_too_long_are_turned_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_MAX_WAITING", 1)
    monkeypatch.setattr(MODULE, "_ACQUIRE_TIMEOUT", DEADLINE)
    async with opened(database_url, 1) as pool:
        queries = PostgresMovieQueries(pool)
        async with pool.transaction():
            waiting = asyncio.create_task(queries.find(MovieQuery()))
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await queries.find(MovieQuery())
        assert (await waiting).data == ()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nothing listens on and nobody else can take."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize("attempt", [connect, migrate])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_that_cannot_be_reached_is_named_without_the_password(
    closed_port: int, host: str, attempt: Callable[..., Awaitable[object]]
) -> None:
    url = f"postgresql://someone:{SECRET}@{host}:{closed_port}/movies"
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(attempt(url, wait=1), DEADLINE)
    message = str(caught.value)
    assert f"{host}:{closed_port}/movies" in message
    assert "refused" in message
    assert "\n" not in message
    assert SECRET not in f"{message} {caught.value.__cause__}"


async def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        await connect(f"postgresql://someone:{SECRET}@/movies?host={tmp_path}", wait=0)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "No such file or directory" in message
    assert "\n" not in message
    assert SECRET not in message


@asynccontextmanager
async def forwarded(server_url: str, directory: Path) -> AsyncIterator[None]:
    """A socket in a directory through which the server is reached."""
    target = conninfo_to_dict(server_url)
    host, port = str(target.get("host") or "localhost"), int(target.get("port") or 5432)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            back, forth = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            back, forth = await asyncio.open_connection(host, port)
        await asyncio.gather(copy(reader, forth), copy(back, writer))

    async with await asyncio.start_unix_server(forward, directory / ".s.PGSQL.5432"):
        yield


async def test_a_server_that_comes_up_late_is_waited_for(server_url: str, tmp_path: Path) -> None:
    late = make_conninfo(server_url, host=str(tmp_path), port=5432)
    with pytest.raises(Unavailable):
        await connect(late, wait=0)
    task = asyncio.create_task(connect(late, wait=DEADLINE))
    await asyncio.sleep(0)
    assert not task.done()
    async with forwarded(server_url, tmp_path), await task as connection:
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)


# Refusals


async def refusal(url: str) -> str:
    """What is said of a URL that asking again will not mend; what is asked again ends as `Unavailable`."""
    with pytest.raises(Misconfigured) as caught:
        await asyncio.wait_for(connect(url, wait=1), DEADLINE)
    message = str(caught.value)
    assert "DATABASE_URL" in message
    assert "\n" not in message
    assert SECRET not in f"{message} {caught.value.__cause__}"
    return message


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://someone:{SECRET}@127.0.0.1/movies",
        f"postgresql://someone:{SECRET}@127.0.0.1/movies?colour=red",
        f"postgresql://someone:{SECRET}@127.0.0.1:port/movies",
        f"postgresql://someone:{SECRET}@127.0.0.1:70000/movies",
        f"postgresql://someone:{SECRET}@127.0.0.1/movies?sslmode=perhaps",
        f"postgresql://someone:{SECRET}@127.0.0.1/%zz",
        f"host=127.0.0.1 {SECRET}",
        SECRET,
    ],
)
async def test_what_is_no_url_of_postgresql_is_refused_at_once(url: str) -> None:
    await refusal(url)


async def test_a_database_that_is_not_there_is_refused_at_once(server_url: str) -> None:
    message = await refusal(make_conninfo(server_url, dbname="nowhere"))
    assert '"nowhere" does not exist' in message
    with pytest.raises(Misconfigured):
        await asyncio.wait_for(migrate(make_conninfo(server_url, dbname="nowhere")), DEADLINE)


@pytest.fixture(scope="module")
def guarded(reachable_directory: Path) -> Iterator[str]:
    """A server with rules, and with users and databases to be refused."""
    home = reachable_directory / "guarded"
    with EmbeddedPostgres(home) as url:
        rules = home / "postgres/conf/pg_hba.conf"
        rules.write_text(
            "local all by_password scram-sha-256\n"
            "local all by_name peer\n"
            "local all by_rule reject\n"
            "local all by_login,by_right trust\n" + rules.read_text()
        )
        execute(
            url,
            "SELECT pg_reload_conf()",
            "CREATE ROLE by_password LOGIN PASSWORD 'open'",
            "CREATE ROLE by_name LOGIN",
            "CREATE ROLE by_login NOLOGIN",
            "CREATE ROLE by_right LOGIN",
            "CREATE ROLE by_rule LOGIN",
            "CREATE DATABASE closed",
            "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        )
        yield url


RIGHT: Final = {"user": "by_password", "password": "open"}


async def rules_hold(guarded: str) -> bool:
    """Whether the rules are in force: a reload takes a moment."""
    try:
        await (await connect(make_conninfo(guarded, **RIGHT), wait=0)).close()
        await (await connect(make_conninfo(guarded, user="by_right"), wait=0)).close()
    except (Misconfigured, Unavailable):
        return False
    return True


#: What is asked for, and what the answer has to say, whatever else it says.
REFUSED: Final[dict[str, tuple[dict[str, str], str]]] = {
    "wrong_password": ({"user": "by_password", "password": SECRET}, "password authentication failed"),
    "no_password": ({"user": "by_password"}, "no password supplied"),
    "wrong_user_of_the_machine": ({"user": "by_name", "password": SECRET}, "authentication failed"),
    "no_such_user": ({"user": "nobody_here", "password": SECRET}, "nobody_here"),
    "rejected_by_rule": ({"user": "by_rule", "password": SECRET}, "pg_hba.conf"),
    "may_not_log_in": ({"user": "by_login", "password": SECRET}, "not permitted to log in"),
    "may_not_enter": ({"user": "by_right", "password": SECRET, "dbname": "closed"}, "permission denied"),
    "unknown_option": ({"options": "-c nonsense=1"}, "nonsense"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_client_that_is_not_let_in_is_told_at_once(
    guarded: str, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    await until(lambda: rules_hold(guarded))
    changes, reason = REFUSED[case]
    assert reason in await refusal(make_conninfo(guarded, **changes))


# A host's own connection


HOST_SESSIONS: Final = {
    "plain": "",
    "kolkata": "-c TimeZone=Asia/Kolkata",
    "german": "-c DateStyle=German,DMY -c IntervalStyle=sql_standard -c bytea_output=escape",
    "old_strings": "-c standard_conforming_strings=off -c backslash_quote=off",
}


@pytest.fixture(params=HOST_SESSIONS)
def session(request: pytest.FixtureRequest, database_url: str) -> str:
    return make_conninfo(database_url, options=HOST_SESSIONS[str(request.param)])


@pytest.fixture(params=[True, False], ids=["autocommit", "manual"])
async def host(
    request: pytest.FixtureRequest, session: str, database_url: str
) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
    """A connection as a host service may have set it up, and its table `orders`."""
    execute(database_url, "CREATE TABLE orders (movie_id integer PRIMARY KEY)")
    try:
        async with await psycopg.AsyncConnection[DictRow].connect(
            session, autocommit=bool(request.param), row_factory=dict_row
        ) as connection:
            yield connection
    finally:
        execute(database_url, "DROP TABLE orders")


def joined(connection: psycopg.AsyncConnection[DictRow]) -> PostgresTransaction:
    return PostgresTransaction(cast("Connection", connection))


class Undone(Exception):
    pass


async def test_a_write_joins_the_transaction_of_a_host(
    host: psycopg.AsyncConnection[DictRow], postgres: PostgresDatabase, database_url: str
) -> None:
    async with host.transaction():
        tx = joined(host)
        kept = await tx.movies.add(HEAT, NOON)
        await tx.events.append(MovieAdded(kept.id, 1, NOON, "host", kept))
        await host.execute("INSERT INTO orders VALUES (%s)", (kept.id,))
        with pytest.raises(MovieNotFound):
            await postgres.queries.get(kept.id)
    await host.commit()

    async def fail() -> None:
        async with host.transaction():
            tx = joined(host)
            undone = await tx.movies.add(HEAT, NOON)
            await tx.events.append(MovieAdded(undone.id, 1, NOON, "host", undone))
            await host.execute("INSERT INTO orders VALUES (%s)", (undone.id,))
            raise Undone

    with pytest.raises(Undone):
        await fail()
    await host.commit()
    assert (await postgres.queries.find(MovieQuery())).data == (kept,)
    assert await events_of(postgres.queries, kept.id) == [MovieAdded(kept.id, 1, NOON, "host", kept)]
    assert select(database_url, "SELECT movie_id FROM orders") == [(kept.id,)]
    assert select(database_url, "SELECT count(*) FROM events") == [(1,)]


async def test_a_savepoint_of_a_host_undoes_its_part(
    host: psycopg.AsyncConnection[DictRow], postgres: PostgresDatabase
) -> None:
    async def fail(kept: Movie) -> None:
        async with host.transaction():
            await joined(host).movies.remove(kept.id)
            raise Undone

    async with host.transaction():
        kept = await joined(host).movies.add(HEAT, NOON)
        with pytest.raises(Undone):
            await fail(kept)
    await host.commit()
    assert (await postgres.queries.find(MovieQuery())).data == (kept,)


async def test_words_that_a_savepoint_of_a_host_undid_are_noted_when_they_come_back(
    database_url: str, postgres: PostgresDatabase
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        tx = PostgresTransaction(connection)

        async def fail() -> None:
            async with connection.transaction():
                await tx.movies.add_many([HEAT], NOON)
                raise Undone

        with pytest.raises(Undone):
            await fail()
        (movie,) = await tx.movies.add_many([HEAT], NOON)
        await connection.commit()
    assert (await postgres.queries.find(MovieQuery(q="haet"))).data == (movie,)


async def test_every_store_works_in_the_session_of_a_host(
    host: psycopg.AsyncConnection[DictRow], postgres: PostgresDatabase, database_url: str
) -> None:
    image = Image(new_key(), 600, 900, "jpeg", 2**33)
    record = ImageRecord(image, ImageState.PENDING, 1, NOON, 2)
    claim, reply = Claim("host", "key", b"\0digest\xff"), KeptReply(201, (), b"\\x\0\xff")
    async with host.transaction():
        tx = joined(host)
        one = await tx.movies.add(HEAT, NOON)
        two, three = await tx.movies.add_many([HEAT, MovieDraft(title="\\'; --")], NOON)
        changed = msgspec.structs.replace(one, title="Heat\\' 2", image=image, image_url="/x", version=2)
        await tx.movies.replace(changed)
        await tx.movies.remove(two.id)
        got = await tx.movies.get(one.id)
        assert got == changed
        assert got.created_at is not None
        assert got.created_at.tzinfo == dt.UTC
        await tx.events.append(*(MovieRevised(one.id, number, NOON, "host", changed) for number in range(9)))
        await tx.events.append(*(MovieAdded(three.id, number, NOON, "host", three) for number in range(90)))
        await tx.images.add(record)
        for found in (
            await tx.images.get(image.key),
            *await tx.images.due(NOON, 9),
            *await tx.images.of_movie(1),
        ):
            assert found == record
            assert found.due_at is not None
            assert found.due_at.tzinfo == dt.UTC
        assert list(await tx.images.due(NOON - dt.timedelta(microseconds=1), 9)) == []
        assert await tx.receipts.claim(claim, NOON) is None
        await tx.receipts.keep(claim, reply, NOON + dt.timedelta(hours=1))
        assert await tx.receipts.claim(claim, NOON) == reply
    await host.commit()
    assert (await postgres.queries.find(MovieQuery())).data == (changed, three)
    history = await events_of(postgres.queries, one.id)
    assert list(history) == [
        MovieRevised(one.id, number, NOON, "host", changed) for number in reversed(range(9))
    ]
    history = await events_of(postgres.queries, three.id)
    assert list(history) == [
        MovieAdded(three.id, number, NOON, "host", three) for number in reversed(range(90))
    ]
    stored = select(database_url, "SELECT created_at::text, updated_at::text FROM movies")
    assert stored == [("2026-03-01 12:00:00.123456", "2026-03-01 12:00:00.123456")] * 2


async def test_a_host_may_commit_by_itself(database_url: str, postgres: PostgresDatabase) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        kept = await PostgresTransaction(connection).movies.add(HEAT, NOON)
        await connection.commit()
        await PostgresTransaction(connection).movies.add(HEAT, NOON)
        await connection.rollback()
    assert (await postgres.queries.find(MovieQuery())).data == (kept,)


@pytest.mark.parametrize("kind", [psycopg.AsyncClientCursor, psycopg.AsyncRawCursor])
async def test_the_cursors_of_a_host_may_be_of_another_kind(
    database_url: str, kind: type[psycopg.AsyncCursor[TupleRow]]
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, cursor_factory=kind) as connection:
        tx = PostgresTransaction(connection)
        added = await tx.movies.add(HEAT, NOON)
        await tx.events.append(MovieAdded(added.id, 1, NOON, "host", added))
        assert await tx.movies.get(added.id) == added


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TimeZone", "Asia/Kolkata"),
        ("DateStyle", "German, DMY"),
        ("DateStyle", "SQL, MDY"),
        ("default_transaction_isolation", "serializable"),
        ("standard_conforming_strings", "off"),
        ("client_encoding", "LATIN1"),
    ],
)
async def test_the_settings_of_a_database_change_no_answer(
    empty_database: str, name: str, value: str
) -> None:
    this = sql.Identifier(str(conninfo_to_dict(empty_database)["dbname"]))
    setting = sql.SQL("ALTER DATABASE {} SET {} = {}")
    execute(empty_database, setting.format(this, sql.Identifier(name), value))
    await migrate(empty_database)
    async with PostgresDatabase(empty_database) as database:
        async with database.transactions() as tx:
            one = await tx.movies.add(HEAT, NOON)
            (two,) = await tx.movies.add_many([HEAT], NOON)
            await tx.events.append(MovieAdded(one.id, 1, NOON, "système", one))
            await tx.events.append(
                *(MovieAdded(two.id, number, NOON, "système", two) for number in range(30))
            )
            assert await tx.movies.get(one.id) == one
        assert list((await database.queries.find(MovieQuery())).data) == [
            one,
            two,
        ]
        assert await database.queries.get(two.id) == two
        assert await events_of(database.queries, one.id) == [MovieAdded(one.id, 1, NOON, "système", one)]
        assert len(await events_of(database.queries, two.id)) == 30


async def test_writers_do_not_undo_each_other_where_transactions_are_serializable(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c default_transaction_isolation=serializable")
    assert select(url, "SHOW transaction_isolation") == [("serializable",)]
    writers = 8
    everybody = asyncio.Barrier(writers)

    async with PostgresDatabase(url, max_size=writers) as database:

        async def write(number: int) -> None:
            async with database.transactions() as tx:
                await tx.movies.add(MovieDraft(title=f"unrelated{number} {number}words"), NOON)
                await everybody.wait()

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*map(write, range(writers)))
        assert await database.queries.count(MovieQuery(q="unrelated")) == writers


async def test_after_a_bulk_load_the_planner_knows_of_it(empty_database: str) -> None:
    await migrate(empty_database)
    execute(
        empty_database,
        "ALTER TABLE movies SET (autovacuum_enabled = off)",
        "ALTER TABLE trigrams SET (autovacuum_enabled = off)",
    )
    known = """
        SELECT tablename FROM pg_stats
        WHERE (tablename, attname) IN (('movies', 'search'), ('trigrams', 'word')) ORDER BY 1
    """

    async def load(*counts: int) -> list[tuple[object, ...]]:
        """The tables that have statistics after such batches in one transaction."""
        async with PostgresDatabase(empty_database) as database, database.transactions() as tx:
            for count in counts:
                await tx.movies.add_many([HEAT] * count, NOON)
        return select(empty_database, known)

    assert await load(10, 10) == []
    assert await load(2_500, 2_500) == [("movies",), ("trigrams",)]


# Cancellation


async def test_a_cancelled_read_leaves_the_pool_usable(database_url: str) -> None:
    active = "SELECT count(*)" + OURS + "AND state = 'active'"

    async def running() -> bool:
        return await asyncio.to_thread(select, database_url, active) == [(1,)]

    async with opened(database_url, 1) as pool:
        for _ in range(3):
            task = asyncio.create_task(pool.read(lambda c: c.execute("SELECT pg_sleep(600)")))
            await until(running)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, DEADLINE)
            page = await asyncio.wait_for(PostgresMovieQueries(pool).find(MovieQuery()), DEADLINE)
            assert page.data == ()
            assert not await running()


async def test_a_cancelled_write_leaves_nothing_and_the_pool_usable(database_url: str) -> None:
    blocked = "SELECT count(*)" + OURS + "AND wait_event_type = 'Lock'"

    async def waiting() -> bool:
        return await asyncio.to_thread(select, database_url, blocked) == [(1,)]

    async with opened(database_url, 1) as pool:
        transactions = PostgresTransactions(pool)
        held = await add(transactions)

        async def write() -> None:
            async with transactions() as tx:
                await tx.movies.add(HEAT, NOON)
                await tx.movies.get(held.id)

        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("SELECT FROM movies FOR UPDATE")
            task = asyncio.create_task(write())
            await until(waiting)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, DEADLINE)
            await other.rollback()
        found = await asyncio.wait_for(PostgresMovieQueries(pool).find(MovieQuery()), DEADLINE)
        assert found.data == (held,)


async def test_a_server_that_may_only_be_read_is_unavailable_to_writes(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c default_transaction_read_only=on")
    async with PostgresDatabase(url) as database:
        with pytest.raises(Unavailable):
            async with database.transactions() as tx:
                await tx.movies.add(HEAT, NOON)
        assert (await database.queries.find(MovieQuery())).data == ()


async def test_a_write_that_is_done_is_told_as_done_when_its_position_cannot_be(empty_database: str) -> None:
    await migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            "CREATE FUNCTION public.pg_current_wal_flush_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS "
            "'BEGIN RAISE EXCEPTION ''not told''; END'"
        )
    hiding = make_conninfo(empty_database, options="-c search_path=public,pg_catalog")
    async with PostgresDatabase(hiding) as database:
        async with database.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
        assert await database.queries.get(movie.id) == movie
        assert database.position is None
        with pytest.raises(MovieNotFound):
            async with database.transactions() as tx:
                await tx.movies.get(movie.id + 1)


async def test_a_statement_that_failed_unseen_undoes_its_transaction_and_that_is_told(
    postgres: PostgresDatabase,
) -> None:
    record = ImageRecord(Image(new_key(), 3, 4, "png", 5), ImageState.ATTACHED, 1, None)

    async def write() -> None:
        async with postgres.transactions() as tx:
            await tx.movies.add(HEAT, NOON)
            await tx.images.add(record)
            with suppress(IllegalTransition):
                await tx.images.add(record)

    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await write()
    assert await postgres.queries.count(MovieQuery()) == 0


async def test_an_export_that_is_left_gives_its_connection_back(database_url: str) -> None:
    async with opened(database_url, 1) as pool:
        async with PostgresTransactions(pool)() as tx:
            await tx.movies.add_many([HEAT] * 1_200, NOON)
        queries = PostgresMovieQueries(pool)
        export = queries.export(MovieQuery())
        assert (await anext(export))[0] == HEAT
        await export.aclose()
        assert (await asyncio.wait_for(queries.get(1), DEADLINE)).title == HEAT.title


async def test_an_export_on_a_lost_connection_does_not_end_as_if_it_were_whole(database_url: str) -> None:
    async with opened(database_url, 1) as pool:
        async with PostgresTransactions(pool)() as tx:
            await tx.movies.add_many([HEAT] * 1_200, NOON)
        export = PostgresMovieQueries(pool).export(MovieQuery())
        await anext(export)
        await kill(database_url)
        with pytest.raises(Unavailable):
            async for _ in export:
                pass
