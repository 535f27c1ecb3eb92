"""Use cases inside the transactions of hosts, on connections of theirs."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final, LiteralString, TypeAlias

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, TupleRow, dict_row

from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryImages
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing import samples
from watchly_core import Accounts, Catalogue, Gallery, MovieQuery, Role, Throttle, UserDraft
from watchly_core.errors import (
    Contended,
    EmailTaken,
    InvalidMovie,
    MovieNotFound,
    TooManyAttempts,
    Unavailable,
    Unjoinable,
    UserNotFound,
    VersionConflict,
)
from watchly_core.events import MovieAdded
from watchly_core.images import new_key
from watchly_core.imports import Row
from watchly_core.movies import Movie
from watchly_core.throttle import SIGN_UPS

pytestmark = pytest.mark.anyio

Host: TypeAlias = psycopg.AsyncConnection[DictRow]

HEAT: Final = {"title": "Heat 🎬", "genre": "Crime"}
PNG: Final = samples.UPRIGHT["png"]
NUMBERED: Final = "SELECT id FROM events WHERE seq IS NOT NULL"


class Off(Exception):
    """A host thinks better of it."""


async def cells(url: str, query: LiteralString) -> list[object]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return [row[0] async for row in await connection.execute(query)]


@pytest.fixture
def orders(database_url: str) -> Iterator[str]:
    """The database, with a table of the host's."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (movie_id integer PRIMARY KEY)")
        try:
            yield database_url
        finally:
            connection.execute("DROP TABLE orders")


@pytest.fixture(params=[True, False], ids=["autocommit", "manual"])
async def host(request: pytest.FixtureRequest, orders: str) -> AsyncIterator[Host]:
    async with await psycopg.AsyncConnection[DictRow].connect(
        orders, autocommit=bool(request.param), row_factory=dict_row
    ) as connection:
        yield connection


@asynccontextmanager
async def another(url: str) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """A connection whose transaction ends with the block."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


def catalogue_of(database: PostgresDatabase, connection: psycopg.AsyncConnection[object]) -> Catalogue:
    joined = database.joined(connection)
    return Catalogue(joined.queries, joined.transactions)


async def order(connection: psycopg.AsyncConnection[object], movie: Movie) -> None:
    await connection.execute("INSERT INTO orders VALUES (%s)", (movie.id,))


async def titles(database: PostgresDatabase) -> list[str]:
    return [movie.title for movie in (await database.queries.find(MovieQuery())).data]


# Together, or not at all


async def test_a_row_of_the_hosts_and_a_movie_are_committed_together(
    host: Host, postgres: PostgresDatabase, orders: str
) -> None:
    catalogue = catalogue_of(postgres, host)
    async with host.transaction():
        heat = await catalogue.add(HEAT)
        heat = await catalogue.revise(heat.id, {"genre": "Drama"}, version=1)
        await order(host, heat)
        assert await titles(postgres) == []
    await host.commit()
    assert await postgres.queries.get(heat.id) == heat
    assert await cells(orders, "SELECT movie_id FROM orders") == [heat.id]
    assert [change.event.version for change in await catalogue.history(heat.id)] == [2, 1]


async def test_a_row_of_the_hosts_and_a_movie_are_undone_together(
    host: Host, postgres: PostgresDatabase, orders: str
) -> None:
    catalogue = catalogue_of(postgres, host)

    async def think_better() -> None:
        async with host.transaction():
            await order(host, await catalogue.add(HEAT))
            raise Off

    with pytest.raises(Off):
        await think_better()
    await host.commit()
    assert await titles(postgres) == []
    assert await cells(orders, "SELECT movie_id FROM orders") == []
    assert await cells(orders, "SELECT id FROM events") == []


async def test_a_use_case_begins_the_transaction_where_any_statement_of_the_host_would(
    orders: str, postgres: PostgresDatabase
) -> None:
    async with await psycopg.AsyncConnection.connect(orders) as host:
        catalogue = catalogue_of(postgres, host)
        await catalogue.add(HEAT)
        await host.rollback()
        assert await titles(postgres) == []
        await catalogue.add(HEAT)
        assert await titles(postgres) == []
        await host.commit()
        assert await titles(postgres) == [HEAT["title"]]


async def test_every_use_case_of_the_catalogue_may_be_a_part(host: Host, postgres: PostgresDatabase) -> None:
    async def rows() -> AsyncIterator[Row]:
        for number in range(150):
            yield Row(number + 1, {"title": f"Film {number}"})

    catalogue = catalogue_of(postgres, host)
    async with host.transaction():
        one = await catalogue.add(HEAT)
        two = await catalogue.replace(one.id, {"title": "Heat"}, version=1)
        await catalogue.remove(one.id, version=2)
        three = (await catalogue.revert(one.id, 1)).movie
        assert (one.version, two.version, three.version, three.title) == (1, 2, 4, HEAT["title"])
        report = await catalogue.add_many(rows())
        assert report.added == 150
        assert await catalogue.count(MovieQuery()) == 151
    await host.commit()
    assert await catalogue.last_change() == 154


# Refusals


async def test_one_that_is_refused_leaves_the_transaction_usable(
    host: Host, postgres: PostgresDatabase, orders: str
) -> None:
    kept = await Catalogue(postgres.queries, postgres.transactions).add(HEAT)
    catalogue = catalogue_of(postgres, host)
    async with host.transaction():
        await order(host, kept)
        with pytest.raises(VersionConflict):
            await catalogue.revise(kept.id, {"genre": "Drama"}, version=7)
        with pytest.raises(InvalidMovie):
            await catalogue.add({"title": " "})
        with pytest.raises(MovieNotFound):
            await catalogue.remove(kept.id + 1)
        with pytest.raises(MovieNotFound):
            await catalogue.get(2**70)
        await catalogue.revise(kept.id, {"genre": "Comedy"}, version=1)
    await host.commit()
    assert (await postgres.queries.get(kept.id)).genre == "Comedy"
    assert await cells(orders, "SELECT movie_id FROM orders") == [kept.id]


async def test_what_the_server_refuses_in_one_leaves_the_transaction_usable(
    host: Host, postgres: PostgresDatabase
) -> None:
    joined = postgres.joined(host)
    throttle = Throttle(postgres.transactions)
    accounts = Accounts(joined.people, joined.transactions, Hasher(), throttle)
    async with host.transaction():
        ada = await accounts.add(draft("ada"))
        with pytest.raises(EmailTaken):
            await accounts.add(draft("ada"))
        assert await accounts.get(ada.id) == ada
        with pytest.raises(UserNotFound):
            await postgres.people.user(ada.id)
    await host.commit()
    assert await postgres.people.user(ada.id) == ada


async def test_one_that_is_cancelled_leaves_the_transaction_usable(
    host: Host, postgres: PostgresDatabase, orders: str
) -> None:
    kept = await Catalogue(postgres.queries, postgres.transactions).add(HEAT)
    catalogue = catalogue_of(postgres, host)
    async with host.transaction():
        added = await catalogue.add(HEAT)
        async with another(orders) as holder:
            await holder.execute("SELECT FROM movies FOR UPDATE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await catalogue.revise(kept.id, {"genre": None})
        await catalogue.revise(added.id, {"genre": "Comedy"})
    await host.commit()
    assert (await postgres.queries.get(added.id)).genre == "Comedy"


async def test_several_at_once_take_turns(host: Host, postgres: PostgresDatabase) -> None:
    catalogue = catalogue_of(postgres, host)
    async with host.transaction():
        done = await asyncio.gather(
            *(catalogue.add({"title": "x" * (number % 2)}) for number in range(20)), return_exceptions=True
        )
    await host.commit()
    assert [isinstance(one, Movie) for one in done] == [False, True] * 10
    assert len(await titles(postgres)) == 10


async def test_several_who_were_joined_apart_take_turns_as_well(
    host: Host, postgres: PostgresDatabase
) -> None:
    async with host.transaction():
        done = await asyncio.gather(
            *(catalogue_of(postgres, host).add({"title": "x" * (number % 2)}) for number in range(20)),
            return_exceptions=True,
        )
    await host.commit()
    assert [isinstance(one, Movie) for one in done] == [False, True] * 10
    assert len(await titles(postgres)) == 10


# Contention


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
async def test_what_came_too_late_reaches_the_host_who_begins_anew(
    orders: str, postgres: PostgresDatabase, level: IsolationLevel
) -> None:
    ours = Catalogue(postgres.queries, postgres.transactions)
    kept = await ours.add(HEAT)
    async with another(orders) as host:
        await host.set_isolation_level(level)
        catalogue = catalogue_of(postgres, host)
        assert await catalogue.get(kept.id) == kept
        await ours.revise(kept.id, {"genre": "Drama"})
        with pytest.raises(Contended) as raised:
            await catalogue.revise(kept.id, {"title": "Late"})
        assert raised.value.joined
        await host.rollback()
        await catalogue.revise(kept.id, {"title": "Late"})
    found = await postgres.queries.get(kept.id)
    assert (found.title, found.genre, found.version) == ("Late", "Drama", 3)


async def test_of_two_who_are_in_each_others_way_one_hears_of_it_and_goes_on(
    orders: str, postgres: PostgresDatabase
) -> None:
    ours = Catalogue(postgres.queries, postgres.transactions)
    one, two = [(await ours.add(HEAT)).id for _ in range(2)]
    both = asyncio.Barrier(2)

    async def revise(first: int, second: int, genre: str) -> int:
        async with another(orders) as host:
            await host.execute("SET deadlock_timeout = '100ms'")
            catalogue = catalogue_of(postgres, host)
            await catalogue.revise(first, {"genre": genre})
            await both.wait()
            try:
                await catalogue.revise(second, {"genre": genre})
            except Contended:
                # What was done before is there still, and what comes after is done.
                return int((await catalogue.get(first)).genre == genre)
        return 0

    assert sum(await asyncio.gather(revise(one, two, "Drama"), revise(two, one, "War"))) == 1


# Reads


async def test_reads_see_what_the_transaction_has_written(host: Host, postgres: PostgresDatabase) -> None:
    catalogue = catalogue_of(postgres, host)
    elsewhere = Catalogue(postgres.queries, postgres.joined(host).transactions)
    async with host.transaction():
        heat = await catalogue.add(HEAT)
        for query in (MovieQuery(), MovieQuery(q="heat"), MovieQuery(q="haet"), MovieQuery(genre="Crime")):
            assert (await catalogue.find(query)).data == (heat,)
            assert await catalogue.count(query) == 1
        assert [found.genre for found in await catalogue.genres()] == ["Crime"]
        assert (await catalogue.find(MovieQuery(q="!"))).data == ()
        assert await catalogue.at("0/0").get(heat.id) == heat
        with pytest.raises(MovieNotFound):
            await elsewhere.get(heat.id)
        # The log is of what is committed, and so is what streams.
        assert await catalogue.history(heat.id) == []
        assert await catalogue.last_change() == 0
        assert [batch async for batch in catalogue.export()] == []
    await host.commit()
    (change,) = (await catalogue.changes()).data
    assert (change.seq, change.event) == (1, MovieAdded(heat.id, 1, change.event.at, "system", heat))
    assert [len(batch) async for batch in catalogue.export()] == [1]


async def test_after_its_commit_a_host_has_its_events_numbered_and_learns_their_position(
    orders: str, postgres: PostgresDatabase
) -> None:
    async with await psycopg.AsyncConnection.connect(orders) as host:
        await host.execute("SET synchronous_commit = off")
        heat = await catalogue_of(postgres, host).add(HEAT)
        await host.commit()
        reached = await cells(orders, "SELECT pg_current_wal_insert_lsn()")
    before = postgres.position
    position = await postgres.committed()
    assert await cells(orders, NUMBERED) != []
    assert position == postgres.position != before
    place = position.partition("-")[0]
    async with another(orders) as asked:
        row = await (await asked.execute("SELECT %s::pg_lsn >= %s::pg_lsn", (place, reached[0]))).fetchone()
    assert row == (True,)
    assert await postgres.queries.at(position).get(heat.id) == heat


# What cannot be joined


async def test_a_connection_in_no_transaction_is_refused(orders: str, postgres: PostgresDatabase) -> None:
    async with await psycopg.AsyncConnection.connect(orders, autocommit=True) as host:
        catalogue = catalogue_of(postgres, host)
        with pytest.raises(Unjoinable, match="it is in no transaction"):
            await catalogue.add(HEAT)
        with pytest.raises(Unjoinable, match="it is in no transaction"):
            await catalogue.get(1)
    assert await titles(postgres) == []


async def test_a_transaction_that_has_failed_is_refused(orders: str, postgres: PostgresDatabase) -> None:
    async with await psycopg.AsyncConnection.connect(orders) as host:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await host.execute("SELECT 1/0")
        with pytest.raises(Unjoinable, match="has failed"):
            await catalogue_of(postgres, host).add(HEAT)
        await host.rollback()
        await catalogue_of(postgres, host).add(HEAT)


async def test_a_pipeline_is_refused(orders: str, postgres: PostgresDatabase) -> None:
    async with another(orders) as host:
        async with host.pipeline():
            with pytest.raises(Unjoinable, match="pipeline"):
                await catalogue_of(postgres, host).add(HEAT)
        await catalogue_of(postgres, host).add(HEAT)
    assert await titles(postgres) == [HEAT["title"]]


async def test_an_encoding_that_lacks_letters_is_refused(orders: str, postgres: PostgresDatabase) -> None:
    async with another(make_conninfo(orders, client_encoding="latin1")) as host:
        with pytest.raises(Unjoinable, match="iso8859-1"):
            await catalogue_of(postgres, host).add(HEAT)


async def test_a_connection_that_was_lost_is_unavailable(orders: str, postgres: PostgresDatabase) -> None:
    async with another(orders) as host:
        catalogue = catalogue_of(postgres, host)
        await catalogue.add(HEAT)
        await cells(
            orders, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'movies'::regclass"
        )
        for _ in range(2):
            with pytest.raises(Unavailable):
                await catalogue.add(HEAT)
    assert await titles(postgres) == []


# Sessions of other kinds


@pytest.mark.parametrize("kind", ["unprepared", "prepared", "client", "raw", "serializable", "read_only"])
async def test_a_session_of_another_kind(orders: str, postgres: PostgresDatabase, kind: str) -> None:
    async with another(orders) as host:
        if kind in {"unprepared", "prepared"}:
            host.prepare_threshold = None if kind == "unprepared" else 0
        if kind in {"client", "raw"}:
            host.cursor_factory = psycopg.AsyncClientCursor if kind == "client" else psycopg.AsyncRawCursor
        if kind == "serializable":
            await host.set_isolation_level(IsolationLevel.SERIALIZABLE)
        catalogue = catalogue_of(postgres, host)
        if kind == "read_only":
            await host.set_read_only(True)
            with pytest.raises(Unavailable, match="may only read"):
                await catalogue.add(HEAT)
            return
        for _ in range(3):
            heat = await catalogue.add(HEAT)
            with pytest.raises(VersionConflict):
                await catalogue.revise(heat.id, {"genre": None}, version=2)
            heat = await catalogue.revise(heat.id, {"genre": None}, version=1)
        assert await catalogue.get(heat.id) == heat
    assert len(await titles(postgres)) == 3


# Images and attempts


def gallery_of(
    database: PostgresDatabase,
    host: psycopg.AsyncConnection[object],
    images: MemoryImages,
    keys: list[str],
) -> Gallery:
    def make() -> str:
        keys.append(new_key())
        return keys[-1]

    joined = database.joined(host)
    return Gallery(joined.queries, joined.transactions, images, HeaderInspector(), keys=make)


async def whole() -> AsyncIterator[bytes]:
    yield PNG


async def test_an_image_is_shown_by_the_commit_of_the_host(host: Host, postgres: PostgresDatabase) -> None:
    images, keys = MemoryImages(), list[str]()
    catalogue, gallery = catalogue_of(postgres, host), gallery_of(postgres, host, images, keys)
    async with host.transaction():
        heat = await catalogue.add(HEAT)
        shown = await gallery.attach(heat.id, whole(), "image/png")
        both = await gallery.add({"title": "Ran"}, whole(), "image/png")
    await host.commit()
    for movie in (shown, both):
        found = await postgres.queries.get(movie.id)
        assert found.image is not None
        assert await images.stat(found.image.key) is not None


async def test_a_file_whose_movie_the_host_undid_is_noted_and_swept(
    host: Host, postgres: PostgresDatabase
) -> None:
    images, keys = MemoryImages(), list[str]()
    gallery = gallery_of(postgres, host, images, keys)

    async def think_better() -> None:
        async with host.transaction():
            await gallery.add({"title": "Ran"}, whole(), "image/png")
            # A sweep in the middle sees it as it was noted, and waits for nobody.
            assert (await gallery.sweep()).deleted == 0
            raise Off

    with pytest.raises(Off):
        await think_better()
    await host.commit()
    (key,) = keys
    assert await images.stat(key) is not None
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    own = Gallery(postgres.queries, postgres.transactions, images, HeaderInspector(), clock=lambda: later)
    assert (await own.sweep()).deleted == 1
    assert await images.stat(key) is None


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
async def test_an_image_is_refused_where_the_host_cannot_see_its_note(
    host: Host, postgres: PostgresDatabase, level: IsolationLevel
) -> None:
    await host.set_isolation_level(level)
    images, keys = MemoryImages(), list[str]()
    gallery, read = gallery_of(postgres, host, images, keys), False

    async def content() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield PNG

    async with host.transaction():
        heat = await catalogue_of(postgres, host).add(HEAT)
        for attaching in (
            gallery.attach(heat.id, content(), "image/png"),
            gallery.add({"title": "Ran"}, content(), "image/png"),
        ):
            with pytest.raises(
                Unjoinable, match=f"isolation level is {level.name.lower().replace('_', ' ')}"
            ):
                await attaching
        assert not read, "nothing is sent that could not be shown"
    await host.commit()
    assert await postgres.queries.get(heat.id) == heat
    assert await titles(postgres) == [HEAT["title"]]
    assert keys == []


async def test_an_image_is_refused_outside_of_a_transaction_before_it_is_read(
    orders: str, postgres: PostgresDatabase
) -> None:
    async with await psycopg.AsyncConnection.connect(orders, autocommit=True) as host:
        keys = list[str]()
        with pytest.raises(Unjoinable, match="in no transaction"):
            await gallery_of(postgres, host, MemoryImages(), keys).add(HEAT, whole(), "image/png")
        assert keys == []


class Hasher:
    """Passwords as they are: what is tried here is not how they are hashed."""

    async def hash(self, password: str) -> str:
        return password

    async def verify(self, password_hash: str | None, password: str) -> bool:
        return password_hash == password

    def outdated(self, _: str) -> bool:
        return False


def draft(name: str) -> UserDraft:
    return UserDraft(email=f"{name}@films.example", password="correct horse battery", role=Role.VIEWER)


async def test_attempts_count_whatever_the_host_undoes(host: Host, postgres: PostgresDatabase) -> None:
    throttle = Throttle(postgres.joined(host).transactions)
    for _ in range(SIGN_UPS):
        async with host.transaction(force_rollback=True):
            await throttle.sign_up("192.0.2.7")
        await host.rollback()
    with pytest.raises(TooManyAttempts):
        await Throttle(postgres.transactions).sign_up("192.0.2.7")


# Synchronous hosts


@pytest.fixture(params=[True, False], ids=["autocommit", "manual"])
def blocking(request: pytest.FixtureRequest, orders: str) -> Iterator[psycopg.Connection[DictRow]]:
    with psycopg.Connection[DictRow].connect(
        orders, autocommit=bool(request.param), row_factory=dict_row
    ) as connection:
        yield connection


async def test_a_synchronous_connection_is_joined_alike(
    blocking: psycopg.Connection[DictRow], postgres: PostgresDatabase
) -> None:
    joined = postgres.joined(blocking)
    catalogue = Catalogue(joined.queries, joined.transactions)
    with blocking.transaction():
        heat = await catalogue.add(HEAT)
        blocking.execute("INSERT INTO orders VALUES (%s)", (heat.id,))
        with blocking.transaction(force_rollback=True):
            await catalogue.remove(heat.id)
        with pytest.raises(VersionConflict):
            await catalogue.revise(heat.id, {"genre": None}, version=2)
        heat = await catalogue.revise(heat.id, {"genre": None}, version=1)
        assert await catalogue.get(heat.id) == heat
        assert blocking.execute("SELECT count(*) FROM orders").fetchone() == {"count": 1}
        assert await titles(postgres) == []
    blocking.commit()
    assert await postgres.queries.get(heat.id) == heat


def test_a_synchronous_host_needs_no_event_loop_of_its_own(orders: str) -> None:
    database = PostgresDatabase(orders)
    with psycopg.connect(orders) as host:
        host.isolation_level = IsolationLevel.SERIALIZABLE
        notices: list[str | None] = []
        host.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        joined = database.joined(host)
        catalogue = Catalogue(joined.queries, joined.transactions)
        for _ in range(10):
            heat = asyncio.run(catalogue.add(HEAT))
            # The host's own statements are prepared from the fifth time on, and stay so.
            assert host.execute("SELECT title FROM movies WHERE id = %s", (heat.id,)).fetchone() == (
                HEAT["title"],
            )
            with pytest.raises(VersionConflict):
                asyncio.run(catalogue.revise(heat.id, {"genre": None}, version=9))
        assert host.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        host.execute("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
        assert notices == ["heard"]
        host.rollback()
        asyncio.run(catalogue.add(HEAT))
    with psycopg.connect(orders, autocommit=True) as host:
        joined = database.joined(host)
        with pytest.raises(Unjoinable):
            asyncio.run(Catalogue(joined.queries, joined.transactions).add(HEAT))
        assert host.execute("SELECT count(*) FROM movies").fetchone() == (1,)


def test_a_synchronous_host_may_have_several_event_loops_one_after_another(orders: str) -> None:
    database = PostgresDatabase(orders)
    with psycopg.connect(orders) as host:
        joined = database.joined(host)
        catalogue = Catalogue(joined.queries, joined.transactions)

        async def add(titles: list[str]) -> list[Movie]:
            return await asyncio.gather(*(catalogue.add({"title": title}) for title in titles))

        for titles in (["Heat", "Ran"], ["Alien", "Stalker"]):
            assert [movie.title for movie in asyncio.run(add(titles))] == titles
        host.rollback()


def test_a_synchronous_host_may_begin_transactions_otherwise_later(orders: str) -> None:
    database = PostgresDatabase(orders)
    with psycopg.connect(orders, autocommit=True) as host:
        joined = database.joined(host)
        catalogue = Catalogue(joined.queries, joined.transactions)
        # As Django does around each block of its own.
        host.autocommit = False
        host.isolation_level = IsolationLevel.SERIALIZABLE
        asyncio.run(catalogue.add(HEAT))
        assert host.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        host.commit()
        host.autocommit = True
        # What was begun now would be committed by nobody.
        with pytest.raises(Unjoinable):
            asyncio.run(catalogue.add(HEAT))
        assert host.info.transaction_status == TransactionStatus.IDLE
