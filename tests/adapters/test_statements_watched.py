"""What a watch is told of statements: which ones, how they end, and never a value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Final

import psycopg
import pytest
from psycopg import AsyncCursor
from psycopg.errors import DivisionByZero, UniqueViolation
from psycopg.rows import tuple_row
from tests.adapters.test_statements import name_by_rule, statements
from tests.legacy import until

from watchly_adapters.postgres import (
    PoolFigures,
    PostgresDatabase,
    PostgresTransaction,
    PostgresTransactions,
    pool,
    turns,
)
from watchly_adapters.postgres.events import read_last
from watchly_adapters.postgres.pipelines import PipelinedConnection
from watchly_adapters.postgres.pool import Connection, Pool, cursor
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.postgres.statements import Query, both
from watchly_adapters.testing.stores import HASH, LATER, NOON, Failure
from watchly_adapters.watching import Kind
from watchly_core import Catalogue
from watchly_core.api_keys import ApiKey
from watchly_core.errors import EmailTaken, Unavailable, VersionConflict
from watchly_core.events import ChangeQuery, MovieAdded, MovieRevised
from watchly_core.images import Image, ImageRecord, ImageState
from watchly_core.messages import Letter, Message, Target
from watchly_core.movies import Movie, MovieDraft
from watchly_core.people import Account, Role
from watchly_core.queries import MovieQuery, read_sort
from watchly_core.receipts import Claim, KeptReply
from watchly_core.sessions import Session
from watchly_core.signing_keys import SigningKey

pytestmark = pytest.mark.anyio

#: Stands in every value that is sent, and in no statement.
MARK: Final = "zqxj"
DRAFT: Final = MovieDraft(title=f"{MARK} title", description=f"{MARK} text", release_year=1995, genre=MARK)
NAMES: Final = {name_by_rule(constant) for constant, _ in statements()}
#: Names of what needs none of its own.
PLAIN: Final = {"begin", "check", "commit", "listen", "rollback", "set"}
#: What is run by commands, on connections that nobody watches (those of hosts), or before anybody does.
BY_COMMAND: Final = (
    *("dumps.", "migrate.", "rebuild.", "reindex."),
    *("hosts.", "events.load_untraced", "limits.session"),
)
#: What always travels with something that names the step.
BESIDE: Final = {"numbering.lock", "positions.newest", "receipts.try_lock"}

#: Ends the one connection of ours that waits for a lock.
CUT: Final = """
    SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'watchly' AND wait_event_type = 'Lock'
"""

_at_a_step: ContextVar[bool] = ContextVar("_at_a_step", default=False)


class Recorder:
    """A watch that remembers the steps that ended: what they were called, and what left them."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, type[BaseException] | None]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.steps]

    @contextmanager
    def step(self, kind: Kind, name: str) -> Iterator[None]:
        assert kind == "statement"
        assert not _at_a_step.get(), "the time of one would be that of two"
        token = _at_a_step.set(True)
        outcome: type[BaseException] | None = None
        try:
            yield
        except BaseException as error:
            outcome = type(error)
            raise
        finally:
            _at_a_step.reset(token)
            self.steps.append((name, outcome))


@pytest.fixture
def watch() -> Recorder:
    return Recorder()


@pytest.fixture
async def watched(database_url: str, watch: Recorder) -> AsyncIterator[PostgresDatabase]:
    async with PostgresDatabase(database_url, watch=watch) as database:
        yield database


@asynccontextmanager
async def one_connection(url: str, watch: Recorder | None) -> AsyncIterator[Pool]:
    opened = Pool(url, min_size=1, max_size=1, watch=watch)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def held_up(url: str) -> bool:
    """Whether a connection of ours waits for a lock."""
    async with await psycopg.AsyncConnection.connect(url) as looking:
        found = await looking.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'watchly' AND wait_event_type = 'Lock'"
        )
        return found.rowcount == 1


async def use_movies(tx: PostgresTransaction) -> Movie:
    movie = await tx.movies.add(DRAFT, NOON)
    few = await tx.movies.add_many([DRAFT] * 2, NOON)
    await tx.movies.add_many([MovieDraft(title=f"{MARK}{n}") for n in range(5_001)], NOON)
    assert await tx.movies.get(movie.id) == movie
    await tx.movies.get_free([movie.id])
    await tx.movies.replace(movie)
    await tx.movies.replace_many(few)
    await tx.movies.remove(few[0].id)
    await tx.movies.restore(few[0])
    return movie


async def use_events(tx: PostgresTransaction, movie: Movie) -> None:
    await tx.events.append(MovieAdded(movie.id, 1, NOON, MARK, movie))
    some = [MovieRevised(movie.id, version, NOON, MARK, movie) for version in range(2, 200)]
    await tx.events.append(*some[:2])
    await tx.events.append(*some[2:])
    await tx.events.get(movie.id, 1)
    await tx.events.newest(movie.id)
    await tx.events.prune(NOON, 1)


async def use_images(tx: PostgresTransaction, movie: Movie) -> None:
    image = Image(MARK, 1, 1, "png", 1)
    record = ImageRecord(image, ImageState.PENDING, movie.id, NOON)
    await tx.images.add(record)
    await tx.images.get(MARK)
    await tx.images.of_movie(movie.id)
    await tx.images.replace(record)
    await tx.images.due(NOON, 1)
    await tx.images.dead(1)
    await tx.images.remove(MARK)


async def use_receipts(tx: PostgresTransaction) -> None:
    claim = Claim(MARK, MARK, MARK.encode())
    await tx.receipts.claim(claim, NOON)
    await tx.receipts.keep(claim, KeptReply(201, ((MARK, MARK),), MARK.encode()), LATER)
    await tx.receipts.expire(NOON, 1)


async def use_relays(tx: PostgresTransaction) -> None:
    target = Target(MARK, url=MARK, secret=MARK)
    await tx.relays.add(target)
    await tx.relays.targets()
    await tx.relays.get(MARK)
    await tx.relays.replace(target)
    await tx.relays.keep(MARK, Letter(Message(MARK, 1, 1, MARK, b"{}"), NOON, reason=MARK))
    await tx.relays.due(MARK, NOON, 1)
    await tx.relays.heads(MARK)
    await tx.relays.dead(MARK, 1)
    await tx.relays.count(MARK)
    await tx.relays.drop(MARK, 1)
    await tx.relays.remove(MARK)


async def use_people(tx: PostgresTransaction) -> None:
    user = await tx.users.add(MARK, Role.ADMIN, HASH, NOON)
    await tx.users.get(user.id)
    await tx.users.replace(Account(user, HASH))
    await tx.users.admins()
    session = Session(MARK, user.id, MARK.encode(), MARK.encode(), NOON, NOON, LATER)
    await tx.sessions.add(session)
    await tx.sessions.get(session.handle)
    await tx.sessions.replace(session)
    await tx.sessions.trim(user.id, 1)
    await tx.sessions.expire(NOON, 1)
    await tx.sessions.remove(session.id)
    await tx.sessions.remove_all(user.id)
    key = await tx.api_keys.add(ApiKey(0, MARK, Role.VIEWER, MARK, MARK.encode(), user.id, NOON))
    await tx.api_keys.get(key.id)
    await tx.api_keys.replace(key)
    await tx.api_keys.count(user.id)
    await tx.api_keys.count(None)
    await tx.api_keys.expire(NOON, 1)
    signing = SigningKey(MARK, MARK.encode(), NOON, NOON)
    await tx.signing_keys.add(signing)
    await tx.signing_keys.all()
    await tx.signing_keys.replace(signing)
    await tx.signing_keys.remove(MARK)
    for _ in range(2):
        await tx.throttles.take(MARK, 1, NOON, LATER)
    await tx.throttles.give_back(MARK)
    await tx.throttles.find(MARK, NOON)
    await tx.throttles.expire(NOON, 1)
    await tx.users.remove(user.id)


#: What is held back until a transaction ends.
HELD: Final[list[Callable[[PostgresTransaction, Movie], Awaitable[object]]]] = [
    lambda tx, _: tx.movies.add(MovieDraft(title=f"{MARK}new"), NOON),
    lambda tx, movie: tx.events.append(MovieRevised(movie.id, 900, NOON, MARK, movie)),
    lambda tx, movie: tx.events.append(*(MovieRevised(movie.id, n, NOON, MARK, movie) for n in (901, 902))),
    lambda tx, _: tx.receipts.keep(Claim(MARK, f"{MARK}2", b""), KeptReply(201, (), b""), LATER),
    lambda tx, _: tx.users.add(MARK, Role.ADMIN, HASH, NOON),
]


async def read_everything(database: PostgresDatabase, movie: Movie) -> None:
    queries, people = database.queries, database.people
    for query in (
        MovieQuery(),
        MovieQuery(limit=200),
        MovieQuery(q=MARK),
        MovieQuery(q=f"{MARK}y", genre=MARK, sort=read_sort("-title")),
    ):
        await queries.find(query)
        await queries.count(query)
        await queries.genres(query)
        assert [batch async for batch in queries.export(query)] or query.q
    pages = [MovieQuery(limit=number + 1) for number in range(9)]
    await asyncio.gather(*(queries.get(movie.id + number) for number in range(9)))
    await asyncio.gather(*map(queries.find, pages), *(queries.get(movie.id) for _ in range(9)))
    await queries.history(movie.id)
    await queries.changes(ChangeQuery())
    await queries.changes(ChangeQuery(movie_id=movie.id, kinds=frozenset({"movie_added"})))
    await queries.last_change()
    await people.account(MARK)
    await people.user((await people.users(0, 1))[0].id)
    await people.session_user(MARK)
    await people.api_key(MARK)
    await people.api_keys(1)
    await people.api_keys(None)
    await people.signing_keys()
    await database.backlogs.backlog(LATER)


async def test_every_step_has_the_name_of_a_statement_and_never_a_value(
    database_url: str, watch: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(name: str) -> None:
        async def found() -> bool:
            return name in watch.names

        await until(found)

    async def answering() -> bool:
        return database.replica_answers is True

    monkeypatch.setattr(turns, "_PAUSE", 0.01)
    monkeypatch.setattr("watchly_adapters.postgres.numbering._LISTENED", 0.01)
    async with PostgresDatabase(database_url, replica_url=database_url, watch=watch) as database:
        await database.ping()
        await database.identity()
        async with database.transactions() as tx:
            await tx.hurry()
            movie = await use_movies(tx)
            await use_events(tx, movie)
            await use_images(tx, movie)
            await use_receipts(tx)
            await use_relays(tx)
            await use_people(tx)
        for hold in HELD:
            async with database.transactions() as tx:
                await hold(tx, movie)
        await read_everything(database, movie)
        assert database.position is not None
        await until(answering)
        assert database.pools.keys() == {"primary", "replica"}
        await database.reads.at(database.position).get(movie.id)
        listening = asyncio.create_task(database.signal.beyond(10**9))
        async with database.alone(MARK):
            await told("turns.word")
        await told("listen")
        await told("numbering.word")
        listening.cancel()
    seen = set(watch.names)
    assert not [name for name in seen if MARK in name]
    assert seen <= NAMES | PLAIN
    assert {name for name in NAMES - BESIDE - seen if not name.startswith(BY_COMMAND)} == set()


async def test_what_travels_together_is_named_by_the_last_that_has_a_name(
    watched: PostgresDatabase, watch: Recorder
) -> None:
    catalogue = Catalogue(watched.queries, watched.transactions)
    movie = await catalogue.add(DRAFT)
    await catalogue.revise(movie.id, {"title": "Ronin"})
    ours = [name for name in watch.names if not name.startswith(("numbering.", "check"))]
    assert ours[:2] == ["movies.add", "events.append"]
    assert ours[2:] == ["movies.get_free", "movies.replace", "events.append"]


@pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
async def test_what_has_no_name_is_called_by_what_it_does(
    watched: PostgresDatabase, watch: Recorder, *, fails: bool
) -> None:
    with suppress(Failure):
        async with watched.transactions() as tx:
            await tx.users.admins()
            if fails:
                raise Failure
    assert [name for name in watch.names if not name.startswith("numbering.")] == [
        "begin",
        "users.turn",
        "users.admins",
        "rollback" if fails else "commit",
    ]


async def test_an_export_is_a_step_for_each_fetch_and_a_load_is_one(
    database_url: str, watch: Recorder
) -> None:
    async with one_connection(database_url, watch) as opened:
        async with PostgresTransactions(opened)() as tx:
            await tx.movies.add_many([DRAFT] * 501, NOON)
        assert watch.names.count("movies.load") == 1
        watch.steps.clear()
        sizes = [len(batch) async for batch in PostgresMovieQueries(opened).export(MovieQuery())]
    assert sizes == [500, 1]
    # It is declared, and the last fetch finds no more.
    assert watch.names == ["limits.transaction", *["queries.export"] * 4, "commit"]


async def test_a_step_ends_as_its_statement_does(watched: PostgresDatabase, watch: Recorder) -> None:
    async with watched.transactions() as tx:
        movie = await tx.movies.add(DRAFT, NOON)
        await tx.users.add(MARK, Role.VIEWER, HASH, NOON)
        await tx.events.append(MovieAdded(movie.id, 1, NOON, MARK, movie))
    with pytest.raises(EmailTaken):
        async with watched.transactions() as tx:
            await tx.users.add(MARK, Role.VIEWER, HASH, NOON)
    assert ("users.add", UniqueViolation) in watch.steps
    with pytest.raises(VersionConflict):
        async with watched.transactions() as tx:
            await tx.events.append(MovieAdded(movie.id, 1, NOON, MARK, movie))
    assert ("events.append", VersionConflict) in watch.steps
    with pytest.raises(VersionConflict):
        async with watched.transactions() as tx:
            await tx.events.append(*[MovieAdded(movie.id, 1, NOON, MARK, movie)] * 101)
    assert ("events.load", UniqueViolation) in watch.steps


@pytest.mark.parametrize("how", ["cursor", "pipeline"])
@pytest.mark.parametrize("end", ["cancelled", "lost"])
async def test_a_step_that_is_cut_off_ends_so(database_url: str, watch: Recorder, how: str, end: str) -> None:
    async with one_connection(database_url, watch) as opened:
        transactions = PostgresTransactions(opened)
        async with transactions() as tx:
            movie = await tx.movies.add(DRAFT, NOON)
        watch.steps.clear()

        async def write() -> None:
            async with transactions() as tx:
                await (tx.movies.get(movie.id) if how == "pipeline" else tx.users.admins())

        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("LOCK TABLE movies, watchly_users")
            task = asyncio.create_task(write())
            await until(partial(held_up, database_url))
            if end == "cancelled":
                task.cancel()
            else:
                await other.execute(CUT)
            with pytest.raises(asyncio.CancelledError if end == "cancelled" else Unavailable):
                await task
            await other.rollback()
    name = "movies.get_locked" if how == "pipeline" else "users.admins"
    (outcome,) = [outcome for found, outcome in watch.steps if found == name]
    assert outcome is not None
    assert issubclass(outcome, asyncio.CancelledError if end == "cancelled" else psycopg.OperationalError)


async def test_the_second_of_two_that_travel_together_tells_of_its_failure(
    database_url: str, watch: Recorder
) -> None:
    one, bad = Query("/* a.one */ SELECT 1", int), Query("/* a.bad */ SELECT 1 / %s::integer", int)
    async with one_connection(database_url, watch) as opened:
        with pytest.raises(DivisionByZero):
            await opened.read(lambda connection: both(connection, one, bad, ((), (0,))))
        assert await opened.read(lambda connection: both(connection, one, bad, ((), (1,)))) == ([1], [1])
    assert watch.steps == [("a.bad", DivisionByZero), ("a.bad", None)]


async def test_without_a_watch_there_is_nothing_in_between(database_url: str) -> None:
    async def kinds(connection: Connection) -> list[type]:
        return [type(connection), type(connection.cursor()), type(cursor(connection, tuple_row))]

    async with one_connection(database_url, None) as opened:
        assert await opened.read(kinds) == [PipelinedConnection, AsyncCursor, AsyncCursor]


async def test_a_pool_tells_how_it_is_and_how_long_connections_were_waited_for(database_url: str) -> None:
    waits: list[float] = []

    def wait(pool: str, seconds: float) -> None:
        assert pool == "primary"
        waits.append(seconds)

    async with PostgresDatabase(database_url, max_size=2, on_acquired=wait) as database:

        async def figures(size: int, idle: int, waiting: int) -> bool:
            # Another look at what is to be numbered may be under way.
            return database.pools == {"primary": PoolFigures(size, idle, waiting, 0)}

        await until(lambda: figures(2, 2, 0))
        before = len(waits)
        async with database.transactions(), database.transactions():
            asked = asyncio.create_task(database.ping())
            await until(lambda: figures(2, 0, 1))
            assert len(waits) >= before + 2
        await asked
        await until(lambda: figures(2, 2, 0))
    assert len(waits) >= before + 3
    assert min(waits) >= 0


async def test_a_pool_tells_how_many_were_left_without_a_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT", 0.05)
    waits: list[float] = []
    one = Pool(database_url, min_size=1, max_size=1, on_acquired=waits.append)
    await one.open()

    async def connected() -> bool:
        return one.figures.idle == 1

    try:
        await until(connected)
        async with one.transaction():
            with pytest.raises(Unavailable):
                await one.read(read_last)
        assert one.figures.refused == len(waits) == 1
    finally:
        await one.close()
