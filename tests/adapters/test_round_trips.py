"""How often a write waits for PostgreSQL, counted between the two."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from watchly_adapters.postgres import PostgresTransactions
from watchly_adapters.postgres.pool import Pool
from watchly_adapters.postgres.queries import PostgresMovieQueries
from watchly_core import Catalogue
from watchly_core.clocks import utc_now
from watchly_core.errors import Unavailable
from watchly_core.movies import Movie
from watchly_core.queries import MovieQuery
from watchly_core.receipts import Claim, KeptReply, KeyedReceipt

pytestmark = pytest.mark.anyio

#: Times after which psycopg has prepared a statement, so that it is sent by its name.
_PREPARED: Final = 6
_PIECE: Final = 65_536
PIPELINES: Final = importlib.import_module("watchly_adapters.postgres.pipelines")


class Wire:
    """Passes on what a client and a server say.

    Attributes:
        trips: how often the client spoke after the server had, or at first.
        cut: whether whoever speaks next is cut off, without a word before.
        left: set when all have left.
    """

    def __init__(self, folder: str, port: str) -> None:
        self._path = f"{folder}/.s.PGSQL.{port}"
        self._answered = True
        self._open = 0
        self.left = asyncio.Event()
        self.trips = 0
        self.cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on, both ways, until either side has left."""
        self._open += 1
        self.left.clear()
        there, to_there = await asyncio.open_unix_connection(self._path)
        async with asyncio.TaskGroup() as ways:
            ways.create_task(self._pass(reader, to_there, asked=True))
            ways.create_task(self._pass(there, writer, asked=False))
        self._open -= 1
        if not self._open:
            self.left.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool) -> None:
        while piece := await reader.read(_PIECE):
            if asked and self.cut:
                self.cut = False
                break
            self.trips += asked and self._answered
            self._answered = not asked
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def counted(url: str) -> AsyncIterator[tuple[Catalogue, Wire]]:
    """A catalogue on one connection, and the wire that it goes over."""
    parts = conninfo_to_dict(url)
    wire = Wire(str(parts["host"]), str(parts["port"]))
    async with await asyncio.start_server(wire.carry, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        through = make_conninfo(url, host=host, port=port, sslmode="disable", gssencmode="disable")
        pool = Pool(through, min_size=1, max_size=1)
        await pool.open()
        try:
            yield Catalogue(PostgresMovieQueries(pool), PostgresTransactions(pool)), wire
        finally:
            await pool.close()
            await wire.left.wait()


async def trips(wire: Wire, work: Callable[[], Awaitable[object]]) -> int:
    """How often `work` waits, once all it sends is prepared."""
    for _ in range(_PREPARED):
        await work()
    before = wire.trips
    await work()
    return wire.trips - before


async def test_adding_waits_for_the_id_and_for_the_commit(database_url: str) -> None:
    async with counted(database_url) as (catalogue, wire):
        assert await trips(wire, lambda: catalogue.add({"title": "Heat"})) == 2


async def test_words_that_are_new_are_not_waited_for(database_url: str) -> None:
    async with counted(database_url) as (catalogue, wire):
        titles = iter(f"w{number}" for number in range(100))
        assert await trips(wire, lambda: catalogue.add({"title": next(titles)})) == 2


async def test_a_key_is_claimed_by_waiting_once_more(database_url: str) -> None:
    keys = (Claim("system", f"key-{number}", b"digest") for number in range(100))
    async with counted(database_url) as (catalogue, wire):

        async def add() -> None:
            receipt = KeyedReceipt[Movie](
                next(keys), lambda movie: KeptReply(201, (), b"%d" % movie.id), utc_now
            )
            await catalogue.add({"title": "Heat"}, receipt=receipt)

        assert await trips(wire, add) == 3


async def test_revising_waits_for_the_movie_as_well(database_url: str) -> None:
    async with counted(database_url) as (catalogue, wire):
        movie = await catalogue.add({"title": "Heat"})
        years = iter(range(1990, 2010))
        assert await trips(wire, lambda: catalogue.revise(movie.id, {"release_year": next(years)})) == 3


async def test_a_revision_that_changes_nothing_writes_nothing(database_url: str) -> None:
    async with counted(database_url) as (catalogue, wire):
        movie = await catalogue.add({"title": "Heat"})
        assert await trips(wire, lambda: catalogue.revise(movie.id, {"title": "Heat"})) == 2


async def test_removing_waits_for_the_movie_and_its_images(database_url: str) -> None:
    async with counted(database_url) as (catalogue, wire):
        ids = iter([(await catalogue.add({"title": "Heat"})).id for _ in range(_PREPARED + 1)])
        assert await trips(wire, lambda: catalogue.remove(next(ids))) == 4


async def test_a_connection_that_has_been_idle_for_long_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIPELINES, "_FRESH", 0.0)
    async with counted(database_url) as (catalogue, wire):
        assert await trips(wire, lambda: catalogue.add({"title": "Heat"})) == 3


async def test_one_that_has_died_without_a_word_since_then_is_replaced(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(database_url) as (catalogue, wire):
        await catalogue.add({"title": "Heat"})
        monkeypatch.setattr(PIPELINES, "_FRESH", 0.0)
        wire.cut = True
        await catalogue.add({"title": "Heat"})
        assert not wire.cut
        assert await catalogue.count(MovieQuery()) == 2


async def test_one_that_dies_without_a_word_just_after_use_costs_a_write_and_leaves_nothing(
    database_url: str,
) -> None:
    async with counted(database_url) as (catalogue, wire):
        await catalogue.add({"title": "Heat"})
        wire.cut = True
        with pytest.raises(Unavailable):
            await catalogue.add({"title": "Heat"})
        await catalogue.add({"title": "Heat"})
        assert await catalogue.count(MovieQuery()) == 2
