"""Random histories on the fake and on PostgreSQL; HYPOTHESIS_PROFILE=long runs many more of them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from hypothesis import settings

from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing.histories import compare

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
OPTIONS = settings(max_examples=5_000 if LONG else 60, stateful_step_count=80 if LONG else 50)

pytestmark = pytest.mark.timeout(7_200 if LONG else 120)


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
            await connection.execute("TRUNCATE movies, images, events RESTART IDENTITY")
        async with PostgresDatabase(database_url) as database:
            yield database

    answers = compare(MemoryDatabase, postgres, OPTIONS)
    report(capsys, answers)
    assert answers > OPTIONS.max_examples
