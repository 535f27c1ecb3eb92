"""Numbers of changes: given after the commit, so that no reader ever meets a gap that fills up later.

Ids are taken while transactions run, and these commit in any order: who reads by ids misses what commits
late. So one process at a time, held by the lock of a row, numbers what is committed, in the order of ids,
and tells all processes at once. The order of one movie's events is that of its versions, for a writer holds
the movie while it takes an id.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import psycopg
from psycopg.rows import scalar_row

from watchly_adapters.postgres.pool import Connection, Pool, connect, cursor
from watchly_adapters.postgres.statements import Query, Statement
from watchly_adapters.watching import Watch
from watchly_core.errors import WatchlyError
from watchly_core.signals import Signal
from watchly_core.tasks import cancelled

_WAITING: Final = "/* numbering.waiting */ SELECT EXISTS (SELECT FROM events WHERE seq IS NULL)"
# Apart from what follows: that sees what was committed before the lock was got, and no less.
_LOCK: Final = Statement("/* numbering.lock */ SELECT FROM change_log FOR UPDATE")
_NUMBER: Final = Query(
    """/* numbering.number */
    WITH waiting AS MATERIALIZED (
        SELECT id FROM events WHERE seq IS NULL ORDER BY id LIMIT %s
    ), ordered AS MATERIALIZED (
        SELECT id, last_seq + row_number() OVER (ORDER BY id) AS seq FROM waiting, change_log
    ), numbered AS (
        UPDATE events SET seq = ordered.seq FROM ordered WHERE events.id = ordered.id RETURNING events.seq
    ), counted AS (
        UPDATE change_log SET last_seq = last_seq + (SELECT count(*) FROM numbered)
    )
    SELECT count(*) FROM numbered
    """,
    int,
)
_TELL: Final = Statement("/* numbering.tell */ SELECT pg_notify('watchly_changes', '')")
_LISTEN: Final = "LISTEN watchly_changes"

#: Events that are numbered in one transaction.
_BATCH: Final = 1_000
#: Seconds after which a process looks for events whose writer ended before it had them numbered.
_LOOK: Final = 1.0
#: Seconds between two rounds: what is written meanwhile shares the next one.
_REST: Final = 0.02
#: Seconds after which readers look by themselves: notifications do not get through some poolers.
_LISTENED: Final = 5.0
_WORD: Final = "/* numbering.word */ SELECT 1"
#: Seconds that the server gets to show that it is still there.
_ANSWER: Final = 5.0
#: Seconds before a connection that was lost is made anew.
_PAUSE: Final = 0.5


async def number(pool: Pool) -> None:
    """Number all that was committed before this began.

    Raises:
        Unavailable: the database does not answer.
    """
    while await pool.read(_waits):
        async with pool.transaction() as connection:
            await _LOCK.later(connection)
            count = await _NUMBER.row(connection, (_BATCH,))
            await _TELL.later(connection)
        if count != _BATCH:
            return


async def _waits(connection: Connection) -> bool:
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_WAITING)
        return bool(await asked.fetchone())


class Numbering:
    """Numbers events in the background while it runs.

    Args:
        pool: connections.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._written = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        await _ended(self._task)

    def kick(self) -> None:
        """Say that events were committed."""
        self._written.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._written.wait()
            self._written.clear()
            # What fails is tried again after a look, or by the next writer or reader: also what a server
            # refuses for a while, such as to write.
            with suppress(WatchlyError, psycopg.Error):
                await number(self._pool)
            await asyncio.sleep(_REST)


class Listening(Signal):
    """Satisfies `ports.ChangeSignal`: it comes from the database, over a connection of its own.

    That is opened once somebody waits for it.

    Args:
        url: a PostgreSQL URL or conninfo string.
        watch: is told that it listens.
    """

    def __init__(self, url: str, watch: Watch | None = None) -> None:
        super().__init__()
        self._url, self._watch = url, watch
        self._task: asyncio.Task[None] | None = None

    async def beyond(self, count: int) -> None:
        """See the port."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen())
        await super().beyond(count)

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        await _ended(task)

    async def _listen(self) -> None:
        while True:
            with suppress(WatchlyError, psycopg.Error):
                async with await connect(self._url, wait=0, watch=self._watch, limit=_ANSWER) as connection:
                    await connection.execute(_LISTEN)
                    while True:
                        # The first time for what came before it listened.
                        self.tell()
                        if not [None async for _ in connection.notifies(timeout=_LISTENED, stop_after=1)]:
                            # A line that died without a word is as silent as one on which nothing happens.
                            await connection.execute(_WORD)
            await asyncio.sleep(_PAUSE)


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await cancelled(task)
