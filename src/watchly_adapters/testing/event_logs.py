"""What the log promises, and each movie's history."""

from __future__ import annotations

import msgspec
import pytest

from watchly_adapters.testing.stores import BARE, HEAT, LATER, NOON, Failure, Store, StoreContract
from watchly_core.events import (
    Event,
    ImageAttached,
    ImageDetached,
    MovieAdded,
    MovieRemoved,
    MovieRevised,
)
from watchly_core.images import Image, new_key


class EventLogContract(StoreContract):
    """The log and each movie's history. Supply `store`."""

    async def test_history_is_newest_first_and_whole(self, store: Store) -> None:
        async with store.transactions() as tx:
            first = await tx.movies.add(HEAT, NOON)
            other = await tx.movies.add(BARE, NOON)
            await tx.events.append(
                MovieAdded(first.id, 1, NOON, "system", first), MovieAdded(other.id, 1, NOON, "system", other)
            )
        image = Image(new_key(), 3, 4, "png", 5, {"card": "https://images.example/card"})
        second = msgspec.structs.replace(first, description='\u2028 é 🎬 \\ "', version=2, created_at=None)
        third = msgspec.structs.replace(second, image=image, image_url="/images/x", version=3)
        events: list[Event] = [
            MovieRevised(first.id, 2, LATER, "user:7", second),
            ImageAttached(first.id, 3, LATER, "système", third),
            ImageDetached(first.id, 4, LATER, "key:9", msgspec.structs.replace(second, version=4)),
            MovieRemoved(first.id, 5, LATER, "anonymous", msgspec.structs.replace(second, version=4)),
        ]
        for event in events:
            async with store.transactions() as tx:
                await tx.events.append(event)
        history = list(await store.queries.history(first.id))
        assert history == [*reversed(events), MovieAdded(first.id, 1, NOON, "system", first)]
        assert list(await store.queries.history(other.id)) == [MovieAdded(other.id, 1, NOON, "system", other)]

    @pytest.mark.parametrize("movie_id", [0, 1, -5, 2**40, 2**100])
    async def test_what_never_was_has_no_history(self, store: Store, movie_id: int) -> None:
        assert list(await store.queries.history(movie_id)) == []

    @pytest.mark.parametrize("count", [0, 1, 19, 20, 300])
    async def test_many_events_in_one_call(self, store: Store, count: int) -> None:
        async with store.transactions() as tx:
            movies = await tx.movies.add_many([HEAT] * count, NOON)
            await tx.events.append(*(MovieAdded(movie.id, 1, NOON, "system", movie) for movie in movies))
        for movie in movies:
            assert list(await store.queries.history(movie.id)) == [
                MovieAdded(movie.id, 1, NOON, "system", movie)
            ]

    async def test_a_failed_block_leaves_no_event(self, store: Store) -> None:
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                movie = await tx.movies.add(HEAT, NOON)
                await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
                raise Failure
        assert list(await store.queries.history(movie.id)) == []

    async def test_events_are_seen_when_the_transaction_commits(self, store: Store) -> None:
        async with store.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
            assert list(await store.queries.history(movie.id)) == []
        assert len(await store.queries.history(movie.id)) == 1
