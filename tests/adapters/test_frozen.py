"""A PostgreSQL whose processes are frozen: they cost who waits for them a deadline, and no more."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
import pytest
from tests.conftest import new_database

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.postgres import Limits, PostgresDatabase, PostgresTransactions, migrate
from watchly_adapters.postgres.pool import Pool
from watchly_adapters.testing.stores import HEAT, NOON
from watchly_core import Catalogue
from watchly_core.errors import Unavailable
from watchly_core.movies import Movie
from watchly_core.ports import Transaction

pytestmark = pytest.mark.anyio

#: Far beyond what anything here may take, and far below for ever.
DEADLINE: Final = 60.0
SOON: Final = Limits(statement=0.5, lock=0.25)
PID: Final = "SELECT pg_backend_pid()"


class Server:
    """A server of which some or all processes can be frozen."""

    def __init__(self, home: Path, url: str) -> None:
        self._pid = int((home / "postgres/data/postmaster.pid").read_text().split()[0])
        self.url = url

    @contextmanager
    def frozen(self, *pids: int) -> Iterator[None]:
        """Keep these processes, or all of the server, from doing anything in the block."""
        self._send(signal.SIGSTOP, *pids)
        try:
            yield
        finally:
            self._send(signal.SIGCONT, *pids)

    def _send(self, number: int, *pids: int) -> None:
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        for pid in pids or (self._pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def backends(self) -> set[int]:
        """Those of Watchly."""
        with psycopg.connect(self.url) as connection:
            asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'watchly'"
            return {pid for (pid,) in connection.execute(asked)}


@pytest.fixture(autouse=True)
def nothing_is_held_by_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The pool logs errors, whose frames hold the connections that could not be made."""
    caplog.set_level(logging.ERROR, "psycopg")


@pytest.fixture(scope="module")
def server(reachable_directory: Path) -> Iterator[Server]:
    home = reachable_directory / "frozen"
    with EmbeddedPostgres(home) as server_url, new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield Server(home, url)


@asynccontextmanager
async def pooled(server: Server, size: int) -> AsyncIterator[Pool]:
    pool = Pool(server.url, min_size=size, max_size=size, limits=SOON)
    await pool.open()
    try:
        yield pool
    finally:
        async with asyncio.timeout(DEADLINE):
            await pool.close()


async def pid_of(pool: Pool) -> int:
    async def read(connection: psycopg.AsyncConnection[object]) -> int:
        async with connection.cursor() as cursor:
            row = await (await cursor.execute(PID)).fetchone()
        assert isinstance(row, tuple)
        return int(row[0])

    return await pool.read(read)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


async def test_a_frozen_backend_costs_a_read_its_deadline_and_others_nothing(server: Server) -> None:
    async with pooled(server, 1) as pool:
        pid = await pid_of(pool)
        with server.frozen(pid):
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(Unavailable, match="no answer in time"):
                    await pid_of(pool)
                assert await pid_of(pool) != pid
        # Once it can, it sees that nobody is there any more.
        await until(lambda: len(server.backends()) == 1)


async def test_a_frozen_backend_costs_a_write_its_deadline(server: Server) -> None:
    async with pooled(server, 1) as pool:
        transactions = PostgresTransactions(pool)

        async def write(tx: Transaction) -> Movie:
            return await tx.movies.add(HEAT, NOON)

        async def failing() -> None:
            async with transactions() as tx:
                await write(tx)

        with server.frozen(await pid_of(pool)):
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(Unavailable, match="no answer in time"):
                    await failing()
                async with transactions() as tx:
                    await write(tx)


async def test_what_is_cancelled_ends_though_its_backend_is_frozen(server: Server) -> None:
    async with pooled(server, 1) as pool:
        pool_pid = await pid_of(pool)
        for statement in ("SELECT pg_sleep(3600)", None):
            began = asyncio.Event()

            async def work(asked: str | None, began: asyncio.Event) -> None:
                async with pool.transaction() as connection:
                    await connection.execute("SELECT 1")
                    began.set()
                    if asked is None:
                        await asyncio.sleep(DEADLINE)  # which is cancelled: the ROLLBACK is what is slow
                    else:
                        await connection.execute(asked.encode())

            task = asyncio.create_task(work(statement, began))
            await began.wait()
            with server.frozen(pool_pid):
                await asyncio.sleep(0)
                task.cancel()
                async with asyncio.timeout(DEADLINE):
                    with pytest.raises((asyncio.CancelledError, Unavailable)):
                        await task
                    pool_pid = await pid_of(pool)


async def test_connections_that_died_without_a_word_are_not_tried_one_by_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first costs a deadline; the others are asked for a sign of life before they are used."""
    size = 4
    monkeypatch.setattr("watchly_adapters.postgres.pool._ACQUIRE_TIMEOUT", DEADLINE)
    async with pooled(server, size) as pool:
        pids = await asyncio.to_thread(server.backends)
        while len(pids) < size:
            await asyncio.gather(*(pid_of(pool) for _ in range(size)))
            pids = await asyncio.to_thread(server.backends)
        with server.frozen(*pids):
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(Unavailable, match="no answer in time"):
                    await pid_of(pool)
                found = await asyncio.gather(*(pid_of(pool) for _ in range(size)))
            assert not pids.intersection(found)


async def test_a_stop_ends_though_the_database_is_frozen(server: Server) -> None:
    """With all that holds a connection: reads, writes, a turn, who numbers, who listens."""
    database = PostgresDatabase(server.url, replica_url=server.url)
    async with asyncio.timeout(DEADLINE):
        async with database:
            catalogue = Catalogue(database.reads, database.transactions)
            movie = await catalogue.add(HEAT)
            waiting = asyncio.create_task(database.signal.beyond(10**9))
            turn = database.alone("test")
            assert await turn.__aenter__()
            await until(lambda: bool(database.replica_answers))
            with server.frozen():
                tasks = [asyncio.create_task(catalogue.get(movie.id)) for _ in range(5)]
                tasks += [asyncio.create_task(catalogue.revise(movie.id, {"genre": "Drama"}))]
                await asyncio.sleep(0)
                for task in (*tasks, waiting):
                    task.cancel()
                await asyncio.wait([*tasks, waiting])
                with suppress(Unavailable):
                    await turn.__aexit__(None, None, None)
                await database.__aexit__(None, None, None)
    await until(lambda: not server.backends())


async def test_a_listener_whose_line_is_dead_listens_anew(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchly_adapters.postgres.numbering._LISTENED", 0.2)
    monkeypatch.setattr("watchly_adapters.postgres.numbering._ANSWER", 0.5)

    def listeners() -> set[int]:
        with psycopg.connect(server.url) as connection:
            asked = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%numbering.word%' AND pid <> "
            return {pid for (pid,) in connection.execute(asked.encode() + b"pg_backend_pid()")}

    async with PostgresDatabase(server.url) as database:
        waiting = asyncio.create_task(database.signal.beyond(10**9))
        await until(lambda: bool(listeners()))
        (first,) = listeners()
        with server.frozen(first):
            await until(lambda: bool(listeners() - {first}))
        waiting.cancel()
        await asyncio.wait({waiting})
