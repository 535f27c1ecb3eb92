"""Movies that are added at once: one transaction for many, and each as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
from psycopg.errors import CheckViolation
from tests.houses import ADA

from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing.stores import Store, events_of
from watchly_core.catalogue import Catalogue
from watchly_core.errors import Unavailable, Undone
from watchly_core.events import MovieAdded
from watchly_core.movies import Movie, MovieDraft
from watchly_core.people import Actor, Role
from watchly_core.ports import Transaction
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

MANY = 60
ACTORS = [ADA, Actor("user:8", Role.EDITOR)]


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


async def test_nobody_waits_in_turn_for_a_store_that_is_gone(
    store: Store, catalogue: Catalogue, transactions: Counted
) -> None:
    gone = Unavailable("database", "no connection became free in time")
    # Two that are alone, all others together, and the first two of these apart.
    transactions.faults = [None, None, ArithmeticError(), None, gone]

    results = await at_once(catalogue, transactions)

    assert transactions.begun == 5
    assert [type(result) for result in results] == [Movie] * 3 + [Unavailable] * (MANY - 3)
    assert len({id(result) for result in results}) == MANY
    assert len(await stored(store)) == 3


async def only_one_is_missing(store: Store, results: Sequence[Movie | BaseException]) -> None:
    added = [result for result in results if isinstance(result, Movie)]
    assert len(added) == MANY - 1
    assert await stored(store) == sorted(added, key=lambda movie: movie.id)


@contextmanager
def rule(database_url: str) -> Iterator[None]:
    """A rule that is not ours, as an adopted table may have it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE movies ADD CONSTRAINT foreign_rule CHECK (title <> 'Film 7')")
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
