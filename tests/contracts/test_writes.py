"""Movies that are written at once: one transaction for many, and each as if it were alone."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import LiteralString
from weakref import ref

import psycopg
import pytest
from msgspec import structs
from psycopg.errors import CheckViolation
from tests.houses import ADA

from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing.stores import Store, events_of
from watchly_core.catalogue import Catalogue
from watchly_core.clocks import utc_now
from watchly_core.errors import InvalidMovie, MovieNotFound, Unavailable, Undone, VersionConflict
from watchly_core.events import MovieAdded, MovieRevised
from watchly_core.movies import Members, Movie, MovieDraft
from watchly_core.people import Actor, Role
from watchly_core.ports import Transaction
from watchly_core.queries import MovieQuery
from watchly_core.traces import traced_by

pytestmark = pytest.mark.anyio

MANY = 60
DEADLINE = 60.0
ACTORS = [ADA, Actor("user:8", Role.EDITOR)]


def trace(number: int) -> str | None:
    """Every third of those who write is not traced."""
    return f"00-{number:032x}-{1:016x}-01" if number % 3 else None


class Counted:
    """Transactions that are counted, and can be made to fail at their end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.begun = 0
        self.commits_get_lost = False
        self.faults: list[Exception | None] = []
        self.waits = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Transaction]:
        self.begun += 1
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        async with self._store.transactions() as tx:
            self.waits.set()
            await self.gate.wait()
            yield tx
        if self.commits_get_lost:
            raise Unavailable("database", "the connection was lost")


@pytest.fixture
def transactions(store: Store) -> Counted:
    return Counted(store)


@pytest.fixture
def catalogue(store: Store, transactions: Counted) -> Catalogue:
    return Catalogue(store.queries, transactions)


def numbered(number: int) -> MovieDraft:
    return MovieDraft(title=f"Film {number}", description="x" * number, release_year=1900 + number)


def begin(catalogue: Catalogue, count: int) -> list[asyncio.Task[Movie]]:
    actors = [ACTORS[number % len(ACTORS)] for number in range(count)]
    return [
        asyncio.create_task(catalogue.add(numbered(number), actor=actor))
        for number, actor in enumerate(actors)
    ]


async def at_once(catalogue: Catalogue, transactions: Counted) -> list[Movie | BaseException]:
    """Add many while the first of them is under way."""
    transactions.gate.clear()
    tasks = begin(catalogue, MANY)
    await transactions.waits.wait()
    await asyncio.sleep(0)
    transactions.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def stored(store: Store) -> list[Movie]:
    return list((await store.queries.find(MovieQuery(limit=1_000))).data)


async def test_everybody_gets_their_own_movie_and_event(store: Store, catalogue: Catalogue) -> None:
    added = await asyncio.gather(*begin(catalogue, MANY))

    assert [movie.title for movie in added] == [f"Film {number}" for number in range(MANY)]
    assert len({movie.id for movie in added}) == MANY
    assert await stored(store) == sorted(added, key=lambda movie: movie.id)
    for number, movie in enumerate(added):
        (event,) = await events_of(store.queries, movie.id)
        assert isinstance(event, MovieAdded)
        assert (event.movie, event.actor) == (movie, ACTORS[number % len(ACTORS)].name)


async def test_many_share_a_transaction(catalogue: Catalogue, transactions: Counted) -> None:
    await at_once(catalogue, transactions)

    assert transactions.begun <= 4


async def test_who_comes_later_is_added_later(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    transactions.gate.clear()
    first = begin(catalogue, 5)
    await transactions.waits.wait()
    transactions.gate.set()
    await asyncio.gather(*first)
    later = await catalogue.add(numbered(7))

    assert all(later.id > one.result().id for one in first)
    assert len(await stored(store)) == 6


async def test_who_leaves_takes_nothing_from_the_others(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    transactions.gate.clear()
    tasks = begin(catalogue, MANY)
    await transactions.waits.wait()
    for task in tasks[::2]:
        task.cancel()
    await asyncio.sleep(0)
    transactions.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    kept = [result for result in results[1::2] if isinstance(result, Movie)]
    assert len(kept) == MANY // 2
    there = await stored(store)
    assert {movie.id for movie in kept} <= {movie.id for movie in there}
    # What was added for those who left is whole, or not there.
    for movie in there:
        assert len(await events_of(store.queries, movie.id)) == 1


async def test_a_lost_commit_is_told_to_everybody(catalogue: Catalogue, transactions: Counted) -> None:
    transactions.commits_get_lost = True

    results = await at_once(catalogue, transactions)

    assert all(isinstance(result, Unavailable) for result in results)
    assert transactions.begun <= 4


async def test_those_that_cannot_be_written_together_are_written_apart_and_beside_one_another(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    # Two that are alone, and all others together.
    transactions.faults = [None, None, ArithmeticError()]

    results = await at_once(catalogue, transactions)

    assert transactions.begun == MANY + 1
    assert all(isinstance(result, Movie) for result in results)
    assert len(await stored(store)) == MANY


async def test_nobody_waits_in_turn_for_a_store_that_is_gone(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    gone = Unavailable("database", "no connection became free in time")
    transactions.faults = [None, None, gone]

    results = await at_once(catalogue, transactions)

    assert transactions.begun == 3
    assert [type(result) for result in results] == [Movie] * 2 + [Unavailable] * (MANY - 2)
    assert len({id(result) for result in results}) == MANY
    assert len(await stored(store)) == 2


# Revising


async def films(catalogue: Catalogue, count: int = MANY) -> list[Movie]:
    return [await catalogue.add(numbered(number)) for number in range(count)]


async def revised_at_once(
    catalogue: Catalogue,
    transactions: Counted,
    movies: Sequence[Movie],
    fields: Members = MappingProxyType({}),
) -> list[Movie | BaseException]:
    """Revise all of these while the first of them is under way."""
    transactions.begun = 0
    transactions.waits.clear()
    transactions.gate.clear()
    tasks = [
        asyncio.create_task(
            catalogue.revise(
                movie.id, fields or {"genre": f"g{number}"}, version=movie.version, actor=ACTORS[number % 2]
            )
        )
        for number, movie in enumerate(movies)
    ]
    await transactions.waits.wait()
    await asyncio.sleep(0)
    transactions.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_that_are_revised_share_a_transaction_and_have_an_event_each(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    movies = await films(catalogue)

    results = await revised_at_once(catalogue, transactions, movies)

    assert transactions.begun <= 4
    assert await stored(store) == results
    for number, (before, movie) in enumerate(zip(movies, results, strict=True)):
        assert isinstance(movie, Movie)
        assert (movie.id, movie.version, movie.genre) == (before.id, 2, f"g{number}")
        event, _ = await events_of(store.queries, movie.id)
        assert isinstance(event, MovieRevised)
        assert (event.movie, event.actor) == (movie, ACTORS[number % 2].name)


async def test_everybody_is_traced_by_who_asked_whoever_began_the_transaction(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    async def write(number: int) -> Movie:
        with traced_by(trace(number)):
            movie = await catalogue.add(numbered(number))
            return await catalogue.revise(movie.id, {"genre": f"g{number}"})

    transactions.gate.clear()
    with traced_by("00-" + "e" * 32 + "-" + "e" * 16 + "-01"):
        tasks = [asyncio.create_task(write(number)) for number in range(1, MANY)]
    await transactions.waits.wait()
    await asyncio.sleep(0)
    transactions.gate.set()
    for number, movie in enumerate(await asyncio.gather(*tasks), 1):
        events = await events_of(store.queries, movie.id)
        assert [(event.version, event.trace) for event in events] == [(2, trace(number)), (1, trace(number))]
    assert transactions.begun < MANY


async def test_one_movie_that_is_revised_many_times_at_once_has_every_version(
    store: Store, catalogue: Catalogue
) -> None:
    (movie,) = await films(catalogue, 1)

    tasks = [catalogue.revise(movie.id, {"genre": f"g{number}"}) for number in range(MANY)]
    results = await asyncio.gather(*tasks)

    assert sorted(result.version for result in results) == list(range(2, MANY + 2))
    by_version = {result.version: result for result in results}
    assert await store.queries.get(movie.id) == by_version[MANY + 1]
    *events, _ = await events_of(store.queries, movie.id)
    assert [event.movie for event in events] == [by_version[event.version] for event in events]
    assert len(events) == MANY


async def test_of_those_who_saw_one_version_one_revises_it(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    first, second = await films(catalogue, 2)

    results = await revised_at_once(catalogue, transactions, [first, second, first, first, second])

    done = [result for result in results if isinstance(result, Movie)]
    refused = [result for result in results if isinstance(result, VersionConflict)]
    assert (len(done), len(refused)) == (2, 3)
    assert await stored(store) == sorted(done, key=lambda movie: movie.id)
    assert {(error.expected, error.current) for error in refused} == {(1, 2)}


async def test_who_may_not_or_finds_nothing_fails_alone(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    movies = await films(catalogue)
    await catalogue.remove(movies[40].id)
    stale = structs.replace(movies[41], version=7)
    asked = [*movies[:41], stale, *movies[42:]]

    results = await revised_at_once(catalogue, transactions, asked)

    assert [type(result) for result in results[40:42]] == [MovieNotFound, VersionConflict]
    there = [result for result in results if isinstance(result, Movie)]
    assert len(there) == MANY - 2
    assert await stored(store) == sorted([*there, movies[41]], key=lambda movie: movie.id)


async def test_what_breaks_a_rule_fails_alone(store: Store, catalogue: Catalogue) -> None:
    movies = await films(catalogue)
    years = [2_200 + number % 2 for number in range(MANY)]
    tasks = [
        catalogue.revise(movie.id, {"release_year": year}) for movie, year in zip(movies, years, strict=True)
    ]
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, InvalidMovie) for result in results[1::2])
    there = await stored(store)
    assert there[::2] == results[::2]
    assert there[1::2] == movies[1::2]


class Fields(dict[str, object]):
    """Members that tell whether anybody still holds them."""


async def test_what_was_asked_goes_with_its_refusal(catalogue: Catalogue) -> None:
    movies = await films(catalogue, 5)
    kept: list[ref[Fields]] = []

    async def refused(movie: Movie) -> None:
        fields = Fields(release_year=9_999)
        kept.append(ref(fields))
        with pytest.raises(InvalidMovie):
            await catalogue.revise(movie.id, fields)

    gc.collect()
    gc.disable()
    try:
        await refused(movies[0])
        await asyncio.gather(*(refused(movie) for movie in movies))
        await asyncio.sleep(0)
        assert [held() for held in kept] == [None] * 6
    finally:
        gc.enable()


async def test_a_refused_revision_undoes_its_transaction(store: Store, catalogue: Catalogue) -> None:
    (movie,) = await films(catalogue, 1)

    @asynccontextmanager
    async def with_another() -> AsyncIterator[Transaction]:
        async with store.transactions() as tx:
            await tx.movies.add(numbered(7), movie.created_at or utc_now())
            yield tx

    host = Catalogue(store.queries, with_another)
    with pytest.raises(VersionConflict):
        await host.revise(movie.id, {"genre": "new"}, version=7)
    with pytest.raises(InvalidMovie):
        await host.revise(movie.id, {"title": ""})
    with pytest.raises(MovieNotFound):
        await host.revise(movie.id + 1_000, {"genre": "new"})

    assert await stored(store) == [movie]


async def test_the_time_of_a_revision_is_one_at_which_the_movie_is_held(
    postgres: PostgresDatabase, database_url: str
) -> None:
    held: list[bool] = []
    with psycopg.connect(database_url, autocommit=True) as connection:

        def clock() -> datetime:
            free = connection.execute("SELECT FROM movies FOR UPDATE SKIP LOCKED").rowcount
            held.append(free == 0)
            return utc_now()

        catalogue = Catalogue(postgres.queries, postgres.transactions, clock=clock)
        movie = await catalogue.add({"title": "Heat"})
        await catalogue.revise(movie.id, {"genre": "new"})

    assert held[-1]


async def test_revisions_that_change_nothing_leave_no_event(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    movies = await films(catalogue)

    results = await revised_at_once(catalogue, transactions, movies, {"genre": None})

    assert results == movies
    for movie in movies:
        assert len(await events_of(store.queries, movie.id)) == 1


async def test_movies_are_added_and_revised_together(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    movies = await films(catalogue, 20)
    transactions.begun = 0
    transactions.waits.clear()
    transactions.gate.clear()
    revised = [asyncio.create_task(catalogue.revise(movie.id, {"genre": "new"})) for movie in movies[:10]]
    added = begin(catalogue, 10)
    revised += [asyncio.create_task(catalogue.revise(movie.id, {"genre": "new"})) for movie in movies[10:]]
    await transactions.waits.wait()
    await asyncio.sleep(0)
    transactions.gate.set()
    results = await asyncio.gather(*revised, *added)

    assert transactions.begun <= 4
    assert await stored(store) == results
    assert [movie.genre for movie in results] == ["new"] * 20 + [None] * 10


async def test_a_lost_commit_is_told_to_everybody_who_revises(
    catalogue: Catalogue, transactions: Counted
) -> None:
    movies = await films(catalogue)
    transactions.commits_get_lost = True

    results = await revised_at_once(catalogue, transactions, movies)

    assert all(isinstance(result, Unavailable) for result in results)
    assert transactions.begun <= 4


async def test_nobody_waits_for_a_movie_that_somebody_else_holds(
    postgres: PostgresDatabase, database_url: str
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    movies = await films(catalogue)
    async with asyncio.timeout(DEADLINE):
        with psycopg.connect(database_url) as connection:
            connection.execute("SELECT FROM movies WHERE id = %s FOR UPDATE", (movies[7].id,))
            tasks = [asyncio.create_task(catalogue.revise(movie.id, {"genre": "new"})) for movie in movies]
            others = await asyncio.gather(*tasks[:7], *tasks[8:])
            assert (await catalogue.add(numbered(0))).version == 1
            assert not tasks[7].done()
        revised = await tasks[7]

    assert {movie.genre for movie in (*others, revised)} == {"new"}
    assert {movie.version for movie in (*others, revised)} == {2}


async def test_nobody_waits_for_what_somebody_else_is_about_to_take(
    postgres: PostgresDatabase, database_url: str
) -> None:
    """A lock that is not that of the movie: of a unique index of a host's."""
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    movies = await films(catalogue)
    async with asyncio.timeout(DEADLINE):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("CREATE UNIQUE INDEX foreign_index ON movies (title)")
        try:
            with psycopg.connect(database_url) as connection:
                connection.execute("INSERT INTO movies (title) VALUES ('Heat')")
                titles = ["Heat" if number == 7 else f"New {number}" for number in range(MANY)]
                tasks = [
                    asyncio.create_task(catalogue.revise(movie.id, {"title": title}))
                    for movie, title in zip(movies, titles, strict=True)
                ]
                await asyncio.gather(*tasks[:7], *tasks[8:])
                assert (await catalogue.add({"title": "Ronin"})).version == 1
                assert not tasks[7].done()
                connection.rollback()
                assert (await tasks[7]).title == "Heat"
        finally:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("DROP INDEX foreign_index")

    assert [movie.title for movie in await stored(postgres)] == [*titles, "Ronin"]


async def test_only_the_revision_that_the_database_refuses_fails(
    postgres: PostgresDatabase, database_url: str
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    movies = await films(catalogue)
    with rule(database_url, "genre <> 'Film 7'"):
        tasks = [catalogue.revise(movie.id, {"genre": movie.title}) for movie in movies]
        results = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(results[7], CheckViolation)
    expected = [*results[:7], movies[7], *results[8:]]
    assert await stored(postgres) == expected


# What the database refuses


async def only_one_is_missing(store: Store, results: Sequence[Movie | BaseException]) -> None:
    added = [result for result in results if isinstance(result, Movie)]
    assert len(added) == MANY - 1
    assert await stored(store) == sorted(added, key=lambda movie: movie.id)


@contextmanager
def rule(database_url: str, check: LiteralString = "title <> 'Film 7'") -> Iterator[None]:
    """A rule that is not ours, as an adopted table may have it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE movies ADD CONSTRAINT foreign_rule CHECK (" + check + ")")
        try:
            yield
        finally:
            connection.execute("ALTER TABLE movies DROP CONSTRAINT foreign_rule")


async def test_only_the_one_that_the_database_refuses_fails(
    postgres: PostgresDatabase, database_url: str
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    with rule(database_url):
        results = await asyncio.gather(*begin(catalogue, MANY), return_exceptions=True)

    assert isinstance(results[7], CheckViolation)
    await only_one_is_missing(postgres, results)


async def test_what_is_too_large_for_an_index_fails_alone(
    postgres: PostgresDatabase, database_url: str
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    # Nothing in it repeats itself, so that it cannot be made smaller.
    large = MovieDraft(title="Film", description="".join(map(chr, range(0x20000, 0x20000 + 5_000))))
    drafts = [large if number == 7 else numbered(number) for number in range(MANY)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE INDEX foreign_index ON movies (description)")
        try:
            results = await asyncio.gather(*map(catalogue.add, drafts), return_exceptions=True)
        finally:
            connection.execute("DROP INDEX foreign_index")

    assert isinstance(results[7], Undone)
    await only_one_is_missing(postgres, results)


async def test_each_gets_its_own_id_also_where_ids_descend(
    postgres: PostgresDatabase, database_url: str
) -> None:
    catalogue = Catalogue(postgres.queries, postgres.transactions)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER SEQUENCE movies_id_seq INCREMENT -1 RESTART 1000000")
        try:
            added = await asyncio.gather(*begin(catalogue, MANY))
        finally:
            connection.execute("ALTER SEQUENCE movies_id_seq INCREMENT 1 RESTART 1")

    assert await stored(postgres) == sorted(added, key=lambda movie: movie.id)
