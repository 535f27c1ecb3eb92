"""What every store promises of positions: who reads at one sees all writes up to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import msgspec
import pytest

from watchly_adapters.testing.stores import BARE, HEAT, LATER, NOON, Store, StoreContract, events_of
from watchly_core.errors import InvalidPosition, MovieNotFound
from watchly_core.events import ChangeQuery, MovieAdded
from watchly_core.movies import Movie, MovieDraft, client_fields
from watchly_core.ports import MovieQueries
from watchly_core.queries import MovieQuery

__all__ = ["PositionContract", "PositionedStore"]


class PositionedStore(Store, Protocol):
    """A store under test that tells positions, empty at the start of each test."""

    @property
    def reads(self) -> MovieQueries:
        """The read side that may be late."""
        ...

    @property
    def position(self) -> str | None:
        """Where all that was written so far can be seen."""
        ...


def newest(store: PositionedStore) -> MovieQueries:
    """Queries that see all that was written so far."""
    assert store.position is not None
    return store.reads.at(store.position)


async def added(store: PositionedStore, draft: MovieDraft = HEAT) -> Movie:
    """A new movie with its event."""
    async with store.transactions() as tx:
        movie = await tx.movies.add(draft, NOON)
        await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
    return movie


class PositionContract(StoreContract):
    """Supply `store`: a `PositionedStore`, empty at the start of each test."""

    @pytest.fixture
    def store(self) -> Iterator[PositionedStore]:
        """An empty store for each test."""
        raise NotImplementedError("supply a fixture `store`: an empty store for each test")

    async def test_every_query_sees_a_write_at_its_position(self, store: PositionedStore) -> None:
        for number in range(1, 20):
            movie = await added(store, BARE if number % 2 else HEAT)
            at = newest(store)
            assert await at.get(movie.id) == movie
            assert (await at.find(MovieQuery())).data[-1] == movie
            assert await at.count(MovieQuery()) == number
            assert sum(count.movies for count in await at.genres(MovieQuery())) == number // 2
            exported = [draft async for batch in at.export(MovieQuery()) for draft in batch]
            assert exported[-1] == client_fields(movie)
            assert len(exported) == number
            assert len(await events_of(at, movie.id)) == 1
            assert len((await at.changes(ChangeQuery())).data) == number

    @pytest.mark.parametrize(
        "ask", ["get", "find", "search", "count", "genres", "export", "history", "changes"]
    )
    async def test_each_query_sees_a_write_as_soon_as_it_is_done(
        self, store: PositionedStore, ask: str
    ) -> None:
        """Whatever was asked before, or was not."""
        for number in range(1, 16):
            movie = await added(store)
            at = newest(store)
            match ask:
                case "get":
                    assert await at.get(movie.id) == movie
                case "find":
                    assert (await at.find(MovieQuery())).data[-1] == movie
                case "search":
                    assert (await at.find(MovieQuery(q="heat"))).data[-1] == movie
                case "count":
                    assert await at.count(MovieQuery()) == number
                case "genres":
                    assert [each.movies for each in await at.genres(MovieQuery())] == [number]
                case "export":
                    exported = [draft async for batch in at.export(MovieQuery()) for draft in batch]
                    assert len(exported) == number
                case "history":
                    assert len(await at.history(movie.id)) == 1
                case _:
                    assert (await at.changes(ChangeQuery())).next_after == number
                    assert await at.last_change() == number

    async def test_the_log_is_never_late(self, store: PositionedStore) -> None:
        """For whoever names no position neither."""
        for number in range(1, 16):
            movie = await added(store)
            (change,) = await store.reads.history(movie.id)
            assert change == (await store.reads.changes(ChangeQuery(after=number - 1))).data[0]
            assert change.seq == await store.reads.last_change() == number

    async def test_an_older_position_takes_nothing_back(self, store: PositionedStore) -> None:
        for _ in range(15):
            await added(store)
            position = str(store.position)
            second = await added(store)
            assert await newest(store).at(position).get(second.id) == second
            third = await added(store)
            assert await store.reads.at(position).at(str(store.position)).get(third.id) == third

    async def test_changes_and_removals_are_seen(self, store: PositionedStore) -> None:
        movie = await added(store)
        for version in range(2, 10):
            movie = msgspec.structs.replace(movie, title=f"Heat {version}", version=version, updated_at=LATER)
            async with store.transactions() as tx:
                await tx.movies.replace(movie)
            assert await newest(store).get(movie.id) == movie
            assert (await newest(store).find(MovieQuery(q=f"heat {version}"))).data == (movie,)
        async with store.transactions() as tx:
            await tx.movies.remove(movie.id)
        with pytest.raises(MovieNotFound):
            await newest(store).get(movie.id)

    async def test_older_positions_stay_good(self, store: PositionedStore) -> None:
        first = await added(store)
        position = store.position
        assert position is not None
        second = await added(store)
        assert await store.reads.at(position).get(first.id) == first
        assert await newest(store).at(position).get(second.id) == second
        assert await store.reads.at(position).at(str(store.position)).get(second.id) == second

    async def test_who_only_read_in_a_transaction_sees_it_again(self, store: PositionedStore) -> None:
        """A write that changes nothing, because somebody else has just written the same."""
        movie = await added(store)
        async with store.transactions() as tx:
            assert await tx.movies.get(movie.id) == movie
        assert await newest(store).get(movie.id) == movie

    async def test_a_position_fits_into_a_header(self, store: PositionedStore) -> None:
        await added(store)
        assert re.fullmatch("[!-~]{1,100}", str(store.position))

    async def test_other_texts_are_no_positions(self, store: PositionedStore) -> None:
        for text in ("", " ", "x", "-1", "0/", "/0", "1/2/3", "\u0661", "0" * 1_000, "\0", "1\n"):
            with pytest.raises(InvalidPosition):
                store.reads.at(text)
