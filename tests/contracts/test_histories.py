"""Random histories on the fake and on PostgreSQL; HYPOTHESIS_PROFILE=long runs many more of them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import psycopg
import pytest
from hypothesis import Phase, settings
from tests.caches import CachedStore, NotedTransactions, through_cache
from tests.services import EMPTY

from watchly_adapters.memory import MemoryCache, MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing.histories import compare
from watchly_adapters.testing.stores import Failure
from watchly_core.ports import Transaction, Transactions

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
OPTIONS = settings(max_examples=5_000 if LONG else 35, stateful_step_count=100 if LONG else 60)

pytestmark = pytest.mark.timeout(7_200 if LONG else 120)


class Stubborn:
    """A store in memory that commits blocks which failed."""

    def __init__(self) -> None:
        self._database = MemoryDatabase()
        self.queries = self._database.queries
        self.people = self._database.people
        self.signal = self._database.signal

    @asynccontextmanager
    async def transactions(self) -> AsyncIterator[Transaction]:
        failure = None
        async with self._database.transactions() as tx:
            try:
                yield tx
            except Failure as error:
                failure = error
        if failure is not None:
            raise failure


class Noted:
    """A store in memory that has an event for every movie which is written."""

    def __init__(self) -> None:
        self._database = MemoryDatabase()
        self.transactions: Transactions = NotedTransactions(self._database.transactions)
        self.queries = self._database.queries
        self.people = self._database.people
        self.signal = self._database.signal


def report(capsys: pytest.CaptureFixture[str], answers: int) -> None:
    with capsys.disabled():
        print(f" {answers:,} answers compared ", end="")  # noqa: T201 - the run's own record


def test_memory_answers_as_memory_does(capsys: pytest.CaptureFixture[str]) -> None:
    """That the histories themselves hold nothing that differs by chance."""
    answers = compare(MemoryDatabase, MemoryDatabase, OPTIONS)
    report(capsys, answers)
    assert answers > OPTIONS.max_examples


def test_postgres_answers_as_memory_does(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    @asynccontextmanager
    async def postgres() -> AsyncIterator[PostgresDatabase]:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            # The words go as well. That those of movies which are gone do no harm is seen within a history;
            # between histories they would make one depend on those before it, and no longer repeat alone.
            await connection.execute(EMPTY)
        async with PostgresDatabase(database_url) as database:
            yield database

    answers = compare(MemoryDatabase, postgres, OPTIONS)
    report(capsys, answers)
    assert answers > OPTIONS.max_examples


def test_a_cache_answers_as_what_is_behind_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a cache this holds where every write is in the log."""

    @asynccontextmanager
    async def noted() -> AsyncIterator[Noted]:
        yield Noted()

    @asynccontextmanager
    async def cached() -> AsyncIterator[CachedStore]:
        async with through_cache(MemoryDatabase(), MemoryCache(), noted=True) as store:
            yield store

    answers = compare(noted, cached, OPTIONS)
    report(capsys, answers)
    assert answers > OPTIONS.max_examples


def test_a_store_that_errs_is_found() -> None:
    @asynccontextmanager
    async def stubborn() -> AsyncIterator[Stubborn]:
        yield Stubborn()

    with pytest.raises(AssertionError, match="is right"):
        compare(
            MemoryDatabase, stubborn, settings(max_examples=1_000, database=None, phases=[Phase.generate])
        )


def test_a_store_that_does_not_start_says_why() -> None:
    class Broken(MemoryDatabase):
        async def __aenter__(self) -> Self:
            raise Failure("no such host")

    with pytest.raises(Failure, match="no such host"):
        compare(MemoryDatabase, Broken, settings(max_examples=1, database=None, phases=[Phase.generate]))
