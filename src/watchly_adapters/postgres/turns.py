"""Turns: what one process of all is at, at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg

from watchly_adapters.postgres.pipelines import PipelinedConnection
from watchly_adapters.postgres.pool import Connection, Pool
from watchly_core.errors import Unavailable
from watchly_core.tasks import cancelled

# A lock of the transaction: one of the session would not survive a pooler in front of the server.
_TRY: Final = """/* turns.try */
    SELECT set_config('idle_in_transaction_session_timeout', %s, true),
           pg_try_advisory_xact_lock(hashtextextended(%s, 0))
"""
_WORD: Final = "/* turns.word */ SELECT 1"

#: How long a process may say nothing before the server takes its turn away: it may be gone without a word.
SILENCE: Final = "20s"
#: Seconds between words to the server, and for its answer: both together are shorter than that.
_PAUSE: Final = 5.0
_ANSWER: Final = 5.0


@asynccontextmanager
async def turn(pool: Pool, task: str) -> AsyncIterator[bool]:
    """Whether nobody else is at `task`, on this database, until the block ends; it holds a connection.

    The block is cancelled when that connection is lost, for somebody else may have the next turn then.

    Raises:
        Unavailable: the database does not answer, or the turn was lost.
    """
    async with pool.transaction(_holding) as connection:
        cursor = await connection.execute(_TRY, (SILENCE, f"watchly.{task}"))
        row = await cursor.fetchone()
        if row is None or not row[1]:
            yield False
            return
        lost = asyncio.timeout(None)
        try:
            async with lost:
                watch = asyncio.create_task(_watch(connection, lost))
                try:
                    yield True
                finally:
                    await cancelled(watch)
        except TimeoutError:
            if not lost.expired():
                raise
            raise Unavailable("database", f"the connection was lost that holds the turn to {task}") from None


@asynccontextmanager
async def _holding(connection: PipelinedConnection) -> AsyncIterator[None]:
    """A transaction that has nothing to commit: a word may be under way when it is over, and be cancelled."""
    connection.begin()
    try:
        yield
    finally:
        with suppress(psycopg.Error):
            await connection.undo()


async def _watch(connection: Connection, lost: asyncio.Timeout) -> None:
    """End `lost` when the connection is."""
    try:
        while True:
            # Nothing is listened for: it waits, and sees at once when the server ends the connection.
            async for _ in connection.notifies(timeout=_PAUSE):
                pass
            async with asyncio.timeout(_ANSWER):
                await connection.execute(_WORD)
    except (psycopg.Error, TimeoutError):
        lost.reschedule(asyncio.get_running_loop().time())
