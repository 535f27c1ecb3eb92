"""Lines to PostgreSQL that are cut while a commit is on its way, and outages."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Final, Literal, Self

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool.base import AttemptWithBackoff

from watchly_adapters.postgres import PostgresTransactions
from watchly_adapters.postgres.pool import Pool
from watchly_adapters.postgres.positions import Positions
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_adapters.testing.stores import BARE, HEAT
from watchly_core import Catalogue
from watchly_core.errors import Replayed, Unavailable, Undone
from watchly_core.queries import MovieQuery
from watchly_core.receipts import Claim, KeptReply, KeyedReceipt

pytestmark = pytest.mark.anyio

DEADLINE: Final = 60.0
NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: As it is prepared, and as it is asked for later, by the digest in its name.
COMMIT: Final = re.compile(rb"COMMIT(?!TED)|_" + sha256(b"COMMIT").hexdigest()[:16].encode())
SIZE: Final = 3


class Line:
    """A line to a server, over which a commit can get lost, and which can be down.

    Attributes:
        loses: what it loses from now on: a commit, or the reply to one.
        commits: how many it has lost so far.
        calls: how many connections it has now.
    """

    def __init__(self, url: str) -> None:
        parts = conninfo_to_dict(url)
        self._host, self._port = str(parts["host"]), int(parts.get("port") or 5432)
        self._url, self._at = url, 0
        self._writers: set[asyncio.StreamWriter] = set()
        self.loses: Literal["commit", "reply"] | None = None
        self.commits = self.calls = 0

    @property
    def url(self) -> str:
        return make_conninfo(
            self._url, host="127.0.0.1", port=self._at, sslmode="disable", gssencmode="disable"
        )

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._call, "127.0.0.1", self._at)
        self._at = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Cut all connections, and take no more."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._host.startswith("/"):
            socket = f"{self._host}/.s.PGSQL.{self._port}"
            there, beyond = await asyncio.open_unix_connection(socket)
        else:
            there, beyond = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, beyond}
        self.calls += 1
        try:
            with closing(writer), closing(beyond):
                back = asyncio.create_task(self._pass(there, writer))
                while data := await reader.read(65_536):
                    if self.loses and COMMIT.search(data):
                        self.commits += 1
                        if self.loses == "reply":
                            back.cancel()
                            await asyncio.wait({back})
                            beyond.write(data)
                            await there.read(65_536)  # it is done by now
                        return
                    beyond.write(data)
        except ConnectionError:
            return
        finally:
            self.calls -= 1
            self._writers -= {writer, beyond}
            back.cancel()

    async def _pass(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65_536):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def pooled(url: str) -> AsyncIterator[Pool]:
    pool = Pool(url, min_size=SIZE, max_size=SIZE)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)  # between looks, not in place of one


def receipt() -> KeyedReceipt[object]:
    reply = KeptReply(201, (), b"{}")
    return KeyedReceipt(Claim("user:7", "a key", b"digest"), lambda _: reply, lambda: NOON)


@pytest.mark.parametrize("lost", ["commit", "reply"])
@pytest.mark.parametrize("prepared", [True, False])
async def test_a_commit_of_which_nobody_knows_is_never_told_as_done_or_repeated_and_its_key_tells(
    database_url: str, lost: Literal["commit", "reply"], *, prepared: bool
) -> None:
    async with Line(database_url) as line, pooled(line.url) as pool:
        positions, kicks = Positions(), list[int]()
        transactions = PostgresTransactions(pool, lambda: kicks.append(1), positions)
        catalogue = Catalogue(PostgresMovieQueries(pool), transactions)
        if prepared:
            await asyncio.gather(*(catalogue.add(BARE, receipt=_other(n)) for n in range(4 * SIZE)))
        before, kicked = positions.newest, len(kicks)
        line.loses = lost
        with pytest.raises(Unavailable) as caught:
            await catalogue.add(HEAT, receipt=receipt())
        line.loses = None
        assert not isinstance(caught.value, Undone)
        assert line.commits == 1
        assert (positions.newest, len(kicks)) == (before, kicked)
        if lost == "reply":
            with pytest.raises(Replayed):
                await catalogue.add(HEAT, receipt=receipt())
        else:
            await catalogue.add(HEAT, receipt=receipt())
        (movie,) = (await catalogue.find(MovieQuery(q="heat"))).data
        assert len(await catalogue.history(movie.id)) == 1


def _other(number: int) -> KeyedReceipt[object]:
    claim = Claim("user:7", f"key {number}", b"digest")
    return KeyedReceipt(claim, lambda _: KeptReply(201, (), b"{}"), lambda: NOON)


async def test_writes_that_shared_a_lost_commit_are_not_done_apart(database_url: str) -> None:
    async with Line(database_url) as line, pooled(line.url) as pool:
        catalogue = Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool))
        movies = [await catalogue.add(HEAT) for _ in range(5)]
        line.loses = "reply"
        writes = (catalogue.revise(movie.id, {"genre": "Drama"}) for movie in movies)
        results = await asyncio.gather(*writes, return_exceptions=True)
        line.loses = None
        assert [type(result) for result in results] == [Unavailable] * len(movies)
        found = [await catalogue.get(movie.id) for movie in movies]
        assert [movie.version for movie in found] == [2] * len(movies)


async def test_who_waits_through_an_outage_is_answered_when_it_is_over(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long psycopg would pause between its tries, and with no more connections than before."""
    monkeypatch.setattr(AttemptWithBackoff, "INITIAL_DELAY", 4 * DEADLINE)
    monkeypatch.setattr("watchly_adapters.postgres.pool._ACQUIRE_TIMEOUT", DEADLINE)
    async with Line(database_url) as line, pooled(line.url) as pool:
        catalogue = Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool))
        movie = await catalogue.add(HEAT)
        for _ in range(2):
            await line.down()
            waiting = [asyncio.create_task(catalogue.get(movie.id)) for _ in range(2 * SIZE)]
            await until(lambda: pool.figures.size < SIZE)  # some were tried to be replaced in vain
            await line.up()
            async with asyncio.timeout(DEADLINE / 2):
                assert await asyncio.gather(*waiting) == [movie] * 2 * SIZE
                await catalogue.revise(movie.id, {"genre": None})
                movie = await catalogue.get(movie.id)
            assert line.calls <= SIZE
