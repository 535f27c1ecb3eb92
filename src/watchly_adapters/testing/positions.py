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
