"""What the log promises, and each movie's history."""

from __future__ import annotations

import asyncio
from typing import Final, TypedDict, Unpack

import msgspec
import pytest

from watchly_adapters.testing.stores import BARE, HEAT, LATER, NOON, Failure, Store, StoreContract, events_of
from watchly_core.errors import ChangesGone, VersionConflict
from watchly_core.events import (
    MAX_SEQ,
    Change,
    ChangeQuery,
    Changes,
    Event,
    ImageAttached,
    ImageDetached,
    MovieAdded,
    MovieRemoved,
    MovieRevised,
)
from watchly_core.images import Image, new_key

__all__ = ["EventLogContract"]

#: Seconds for which what has to come is waited for.
DEADLINE: Final = 30.0


class Filters(TypedDict, total=False):
    """The parameters of a `ChangeQuery`."""

    after: int
    limit: int
    movie_id: int
    kinds: frozenset[str]


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
        history = await events_of(store.queries, first.id)
        assert history == [*reversed(events), MovieAdded(first.id, 1, NOON, "system", first)]
        assert await events_of(store.queries, other.id) == [MovieAdded(other.id, 1, NOON, "system", other)]

    @pytest.mark.parametrize("movie_id", [0, 1, -5, 2**40, 2**100])
    async def test_what_never_was_has_no_history(self, store: Store, movie_id: int) -> None:
        assert await events_of(store.queries, movie_id) == []

    @pytest.mark.parametrize("count", [0, 1, 19, 20, 300])
    async def test_many_events_in_one_call(self, store: Store, count: int) -> None:
        async with store.transactions() as tx:
            movies = await tx.movies.add_many([HEAT] * count, NOON)
            await tx.events.append(*(MovieAdded(movie.id, 1, NOON, "system", movie) for movie in movies))
        for movie in movies:
            assert await events_of(store.queries, movie.id) == [
                MovieAdded(movie.id, 1, NOON, "system", movie)
            ]

    @pytest.mark.parametrize("count", [1, 2, 300])
    async def test_an_event_keeps_its_trace(self, store: Store, count: int) -> None:
        async with store.transactions() as tx:
            movies = await tx.movies.add_many([HEAT] * count, NOON)
            events = [
                # Not all of those that are appended at once have one, or the same.
                MovieAdded(movie.id, 1, NOON, "system", movie, f"00-{movie.id:032x}-{1:016x}-01")
                if number % 3 == 0
                else MovieAdded(movie.id, 1, NOON, "system", movie)
                for number, movie in enumerate(movies)
            ]
            await tx.events.append(*events)
            assert await tx.events.get(movies[0].id, 1) == await tx.events.newest(movies[0].id) == events[0]
        found = (await store.queries.changes(ChangeQuery(limit=count))).data
        assert [change.event for change in found] == events
        assert await events_of(store.queries, movies[0].id) == events[:1]

    async def test_a_failed_block_leaves_no_event(self, store: Store) -> None:
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                movie = await tx.movies.add(HEAT, NOON)
                await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
                raise Failure
        assert await events_of(store.queries, movie.id) == []

    async def test_a_version_is_taken_once(self, store: Store) -> None:
        (first,) = await added(store, 1)
        with pytest.raises(VersionConflict):
            async with store.transactions() as tx:
                await tx.events.append(first)
        second = MovieRemoved(first.movie_id, 2, NOON, "system", first.movie)
        with pytest.raises(VersionConflict):
            async with store.transactions() as tx:
                await tx.events.append(second, second)
        many = [
            MovieRemoved(first.movie_id, version, NOON, "system", first.movie) for version in range(30, 0, -1)
        ]
        with pytest.raises(VersionConflict) as conflict:
            async with store.transactions() as tx:
                await tx.events.append(*many)
        assert (conflict.value.id, conflict.value.current) == (first.movie_id, 1)
        assert await events_of(store.queries, first.movie_id) == [first]

    async def test_events_are_seen_when_the_transaction_commits(self, store: Store) -> None:
        async with store.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
            assert await events_of(store.queries, movie.id) == []
        assert len(await events_of(store.queries, movie.id)) == 1

    async def test_an_event_has_its_number_when_its_block_has_ended(self, store: Store) -> None:
        first, second, third = await added(store, 3)
        changes = await store.queries.changes(ChangeQuery())
        assert changes == Changes((Change(1, first), Change(2, second), Change(3, third)), 3)
        assert list(await store.queries.history(second.movie_id)) == [Change(2, second)]

    async def test_failed_blocks_leave_no_gap(self, store: Store) -> None:
        (first,) = await added(store, 1)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                movie = await tx.movies.add(HEAT, NOON)
                await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
                raise Failure
        assert await store.queries.last_change() == 1
        assert await store.queries.changes(ChangeQuery()) == Changes((Change(1, first),), 1)
        (second,) = await added(store, 1)
        assert (await store.queries.changes(ChangeQuery())).data == (Change(1, first), Change(2, second))

    async def test_changes_come_in_pages(self, store: Store) -> None:
        events = await added(store, 7)
        after = 0
        found: list[Change] = []
        while (page := await store.queries.changes(ChangeQuery(after=after, limit=3))).data:
            assert page.next_after == page.data[-1].seq
            found += page.data
            assert len(found) <= len(events)
            after = page.next_after
        assert found == [Change(number, event) for number, event in enumerate(events, 1)]
        assert page.next_after == 7

    @pytest.mark.parametrize("after", [3, 4, 2**40, MAX_SEQ])
    async def test_beyond_the_end_there_is_nothing_and_the_place_is_kept(
        self, store: Store, after: int
    ) -> None:
        await added(store, 3)
        assert await store.queries.changes(ChangeQuery(after=after)) == Changes((), after)

    async def test_an_empty_log_has_an_end_too(self, store: Store) -> None:
        assert await store.queries.changes(ChangeQuery()) == Changes((), 0)
        assert await store.queries.changes(ChangeQuery(after=5, movie_id=1)) == Changes((), 5)
        assert await store.queries.last_change() == 0

    async def test_the_last_change_is_known_as_soon_as_it_is_committed(self, store: Store) -> None:
        await added(store, 3)
        assert await store.queries.last_change() == 3
        await added(store, 1)
        assert await store.queries.last_change() == 4

    async def test_changes_of_one_movie_and_of_some_kinds(self, store: Store) -> None:
        first, second = await added(store, 2)
        revised = MovieRevised(
            second.movie_id, 2, NOON, "system", msgspec.structs.replace(second.movie, version=2)
        )
        removed = MovieRemoved(first.movie_id, 2, NOON, "system", first.movie)
        async with store.transactions() as tx:
            await tx.events.append(revised, removed)
        changes = [Change(1, first), Change(2, second), Change(3, revised), Change(4, removed)]

        async def found(**query: Unpack[Filters]) -> tuple[list[Change], int]:
            page = await store.queries.changes(ChangeQuery(**query))
            return list(page.data), page.next_after

        assert await found(movie_id=second.movie_id) == ([changes[1], changes[2]], 4)
        assert await found(kinds=frozenset({"movie_added"})) == (changes[:2], 4)
        assert await found(kinds=frozenset({"movie_added"}), limit=1) == (changes[:1], 1)
        assert await found(kinds=frozenset({"movie_removed", "movie_revised"}), after=3) == ([changes[3]], 4)
        assert await found(movie_id=first.movie_id, kinds=frozenset({"movie_revised"})) == ([], 4)
        assert await found(movie_id=2_000_000_000) == ([], 4)

    async def test_history_comes_in_pages(self, store: Store) -> None:
        (first,) = await added(store, 1)
        events: list[Event] = [first]
        for version in range(2, 6):
            movie = msgspec.structs.replace(first.movie, version=version)
            events.append(MovieRevised(movie.id, version, LATER, "system", movie))
        async with store.transactions() as tx:
            await tx.events.append(*events[1:])
        changes = [Change(number, event) for number, event in enumerate(events, 1)][::-1]
        history = store.queries.history
        assert list(await history(first.movie_id, limit=2)) == changes[:2]
        assert list(await history(first.movie_id, before=4, limit=2)) == changes[2:4]
        assert list(await history(first.movie_id, before=2)) == changes[4:]
        assert list(await history(first.movie_id, before=1, limit=2)) == []

    async def test_blocks_at_once_are_numbered_without_gaps_and_each_movie_in_order(
        self, store: Store
    ) -> None:
        events = await added(store, 4)

        async def revise(movie_id: int) -> None:
            for _ in range(8):
                async with store.transactions() as tx:
                    movie = await tx.movies.get(movie_id)
                    revised = msgspec.structs.replace(movie, version=movie.version + 1)
                    await tx.movies.replace(revised)
                    await tx.events.append(MovieRevised(movie_id, revised.version, LATER, "system", revised))

        async def read() -> list[Change]:
            found: list[Change] = []
            while len(found) < 36:
                seen = store.signal.count
                page = await store.queries.changes(ChangeQuery(after=len(found), limit=5))
                found += page.data
                if not page.data:
                    await store.signal.beyond(seen)
            return found

        readers = [asyncio.create_task(read()) for _ in range(2)]
        await asyncio.gather(*(revise(event.movie_id) for event in events))
        for reader in readers:
            found = await asyncio.wait_for(reader, DEADLINE)
            assert [change.seq for change in found] == list(range(1, 37))
            for event in events:
                versions = [
                    change.event.version for change in found if change.event.movie_id == event.movie_id
                ]
                assert versions == list(range(1, 10))

    async def test_what_made_a_version_can_be_looked_up(self, store: Store) -> None:
        (first,) = await added(store, 1)
        second = MovieRevised(
            first.movie_id, 2, LATER, "système", msgspec.structs.replace(first.movie, version=2)
        )
        async with store.transactions() as tx:
            assert await tx.events.newest(first.movie_id) == first
            await tx.events.append(second)
            assert await tx.events.newest(first.movie_id) == second
            assert await tx.events.get(first.movie_id, 2) == second
            assert await tx.events.get(first.movie_id, 1) == first
            for version in (0, 3, -1, 2**31, 2**70):
                assert await tx.events.get(first.movie_id, version) is None
            for movie_id in (0, -1, 2**31, 2**70):
                assert await tx.events.get(movie_id, 1) is None
                assert await tx.events.newest(movie_id) is None

    async def test_old_events_are_pruned_but_for_the_newest_of_each_movie(self, store: Store) -> None:
        first, second = await added(store, 2)
        third = MovieRevised(
            first.movie_id, 2, NOON, "system", msgspec.structs.replace(first.movie, version=2)
        )
        fourth = MovieRevised(
            first.movie_id, 3, LATER, "system", msgspec.structs.replace(first.movie, version=3)
        )
        async with store.transactions() as tx:
            await tx.events.append(third, fourth)
        assert (await store.queries.changes(ChangeQuery())).next_after == 4

        async with store.transactions() as tx:
            assert await tx.events.prune(NOON, 10) == 0
        async with store.transactions() as tx:
            assert await tx.events.prune(LATER, 1) == 1
        assert await store.queries.changes(ChangeQuery(after=1)) == Changes(
            (Change(2, second), Change(3, third), Change(4, fourth)), 4
        )
        async with store.transactions() as tx:
            assert await tx.events.prune(LATER, 10) == 1
            assert await tx.events.get(first.movie_id, 2) is None
            assert await tx.events.newest(first.movie_id) == fourth
        assert await events_of(store.queries, first.movie_id) == [fourth]
        for after in (0, 1, 2):
            with pytest.raises(ChangesGone) as gone:
                await store.queries.changes(ChangeQuery(after=after))
            assert gone.value.horizon == 3
        assert await store.queries.changes(ChangeQuery(after=3)) == Changes((Change(4, fourth),), 4)
        assert await events_of(store.queries, second.movie_id) == [second]
        assert await store.queries.last_change() == 4
        (fifth,) = await added(store, 1)
        assert (await store.queries.changes(ChangeQuery(after=4))).data == (Change(5, fifth),)

    async def test_a_failed_block_prunes_nothing(self, store: Store) -> None:
        (first,) = await added(store, 1)
        async with store.transactions() as tx:
            await tx.events.append(
                MovieRevised(
                    first.movie_id, 2, LATER, "system", msgspec.structs.replace(first.movie, version=2)
                )
            )
        assert len((await store.queries.changes(ChangeQuery())).data) == 2
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                assert await tx.events.prune(LATER, 10) == 1
                raise Failure
        assert len((await store.queries.changes(ChangeQuery())).data) == 2

    async def test_a_signal_tells_of_each_write(self, store: Store) -> None:
        for number in range(1, 5):
            seen = store.signal.count
            waiting = asyncio.create_task(store.signal.beyond(seen))
            await added(store, 1)
            await asyncio.wait_for(waiting, DEADLINE)
            assert store.signal.count > seen
            assert await store.queries.last_change() == number

    async def test_who_waits_is_told_of_each_commit(self, store: Store) -> None:
        # From the first word on it listens, and has to be told of what comes then.
        await asyncio.wait_for(self._beyond_a_commit(store, store.signal.count), DEADLINE)
        for _ in range(3):
            await asyncio.wait_for(self._beyond_a_commit(store, store.signal.count), DEADLINE)

    async def _beyond_a_commit(self, store: Store, seen: int) -> None:
        waiting = asyncio.create_task(store.signal.beyond(seen))
        await asyncio.sleep(0)
        await added(store, 1)
        await store.queries.last_change()
        await waiting

    async def test_a_signal_tells_of_what_was_committed(self, store: Store) -> None:
        seen = store.signal.count
        waiting = asyncio.create_task(store.signal.beyond(seen))
        after = 0
        (event,) = await added(store, 1)
        async with asyncio.timeout(DEADLINE):
            while not (page := await store.queries.changes(ChangeQuery(after=after))).data:
                await store.signal.beyond(seen)
                seen = store.signal.count
            await waiting
        assert page.data == (Change(1, event),)


async def added(store: Store, count: int) -> list[MovieAdded]:
    """The events of so many new movies, each in a block of its own."""
    events = []
    for _ in range(count):
        async with store.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
            event = MovieAdded(movie.id, 1, NOON, "system", movie)
            await tx.events.append(event)
        events.append(event)
    return events
