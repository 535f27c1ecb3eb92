"""Turns on PostgreSQL: whoever cannot be sure of one any more is stopped."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from tests.services import wait_until

from watchly_adapters.postgres import PostgresDatabase, relays, turns
from watchly_core.errors import Unavailable
from watchly_core.messages import Target

pytestmark = pytest.mark.anyio

TRY = "SELECT pg_try_advisory_lock(hashtextextended('watchly.work', 0))"
UNLOCK = "SELECT pg_advisory_unlock_all()"
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def free(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Whether another could have the turn."""
    row = connection.execute(TRY).fetchone()
    connection.execute(UNLOCK)
    return row == (True,)


async def test_a_turn_ends_when_its_connection_is_lost(postgres: PostgresDatabase, database_url: str) -> None:
    began = asyncio.Event()

    async def work() -> None:
        async with postgres.alone("work") as alone:
            assert alone
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    async with asyncio.timeout(10):
        await began.wait()
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:
            await other.execute(CUT)
        # At once, and not after the next word.
        async with asyncio.timeout(2):
            with pytest.raises(Unavailable, match="the turn to work"):
                await task
    async with postgres.alone("work") as alone:
        assert alone


async def test_a_process_that_says_nothing_loses_its_turn(
    postgres: PostgresDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SILENCE", "500ms")

    async def work(other: psycopg.Connection[tuple[object, ...]]) -> None:
        async with postgres.alone("work") as alone:
            assert alone
            assert not free(other)
            # The loop does nothing meanwhile, as that of a machine that is gone.
            deadline = time.monotonic() + 10
            while not free(other):
                assert time.monotonic() < deadline
            await asyncio.Event().wait()

    with psycopg.connect(database_url, autocommit=True) as other:
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable, match="the turn to work"):
                await work(other)


async def test_a_process_that_is_there_keeps_its_turn(
    postgres: PostgresDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SILENCE", "500ms")
    monkeypatch.setattr(turns, "_PAUSE", 0.05)
    with psycopg.connect(database_url, autocommit=True) as other:
        async with postgres.alone("work") as alone:
            assert alone
            until = time.monotonic() + 1.5  # three times as long as it may be silent
            while time.monotonic() < until:
                assert not free(other)
                await asyncio.sleep(0.01)
        assert free(other)


async def test_a_turn_ends_while_a_word_is_under_way(
    postgres: PostgresDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_PAUSE", 0.01)
    monkeypatch.setattr(turns, "_WORD", "/* turns.word */ SELECT pg_sleep(3600)")
    words = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '/* turns.word%' AND state = 'active'"
    with psycopg.connect(database_url, autocommit=True) as other:
        async with asyncio.timeout(20), postgres.alone("work") as alone:
            assert alone
            await asyncio.to_thread(wait_until, lambda: other.execute(words).fetchone() == (1,), "a word")
        assert free(other)


async def test_a_process_that_says_nothing_lets_go_of_the_target_it_was_at(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the next turn would wait for it without end."""
    monkeypatch.setattr(relays, "SILENCE", "500ms")
    async with postgres.transactions() as tx:
        await tx.relays.add(Target("nats"))

    async def say_nothing() -> None:
        async with postgres.transactions() as silent:
            await silent.relays.get("nats")
            async with asyncio.timeout(10), postgres.transactions() as tx:
                assert (await tx.relays.get("nats")).name == "nats"

    with pytest.raises(Unavailable, match="database"):
        await say_nothing()
