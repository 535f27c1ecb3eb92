"""What a store of movies promises: rows, paging, transactions."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from watchly_adapters.testing.movie_lists import paged
from watchly_adapters.testing.stores import AT_ONCE, BARE, HEAT, LATER, NOON, Failure, Store, StoreContract
from watchly_core.errors import MovieNotFound, VersionConflict
from watchly_core.images import Image, new_key
from watchly_core.movies import Movie, MovieDraft, client_fields
from watchly_core.queries import Cursor, MovieQuery

__all__ = ["MovieStoreContract"]


class MovieStoreContract(StoreContract):
    """Movies: rows, paging, transactions. Supply `store`."""

    async def test_add_stores_a_movie_at_version_one(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add(HEAT, NOON)
        expected = Movie(
            added.id,
            "Heat",
            "A thief and a detective.",
            1995,
            "Crime",
            None,
            None,
            1,
            NOON,
            NOON,
        )
        assert added == expected
        assert await store.queries.get(added.id) == expected

    @pytest.mark.parametrize(
        "draft",
        [
            BARE,
            MovieDraft(title="M", description="", genre="g"),
            MovieDraft(title="𝕬" * 255, description="é\n\tǆ🎬" * 2_000, release_year=1870, genre="ß" * 100),
            MovieDraft(
                title="'; DROP TABLE movies; --", description='%s %(x)s \\ \\N {} "', release_year=2200
            ),
        ],
    )
    async def test_what_is_stored_comes_back_to_the_letter(self, store: Store, draft: MovieDraft) -> None:
        async with store.transactions() as tx:
            one = await tx.movies.add(draft, NOON)
            (many,) = await tx.movies.add_many([draft], NOON)
        for added in (one, many):
            got = await store.queries.get(added.id)
            assert got == added
            assert (got.title, got.description, got.release_year, got.genre) == (
                draft.title,
                draft.description,
                draft.release_year,
                draft.genre,
            )

    async def test_a_time_of_another_zone_is_the_same_moment(self, store: Store) -> None:
        zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
        async with store.transactions() as tx:
            added = await tx.movies.add(BARE, NOON.astimezone(zone))
        assert (await store.queries.get(added.id)).created_at == NOON

    @pytest.mark.parametrize("movie_id", [0, -1, 1, 2_147_483_647, 2_147_483_648, 2**63, 2**100, -(2**100)])
    async def test_any_integer_may_be_asked_for(self, store: Store, movie_id: int) -> None:
        with pytest.raises(MovieNotFound):
            await store.queries.get(movie_id)
        async with store.transactions() as tx:
            with pytest.raises(MovieNotFound):
                await tx.movies.get(movie_id)

    async def test_add_many_is_add_for_each(self, store: Store) -> None:
        drafts = [MovieDraft(title=f"Film {number}", release_year=1900 + number) for number in range(150)]
        async with store.transactions() as tx:
            added = await tx.movies.add_many(drafts, NOON)
        assert [movie.title for movie in added] == [draft.title for draft in drafts]
        ids = [movie.id for movie in added]
        assert ids == sorted(set(ids))
        page = await store.queries.find(MovieQuery(limit=200))
        assert page.data == tuple(added)

    @pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 200, 201, 250])
    async def test_however_many_are_added_each_is_there_as_a_whole(self, store: Store, count: int) -> None:
        drafts = [
            MovieDraft(title=f"Film {number}", description="Ä", release_year=number, genre=f"Genre {number}")
            for number in range(count)
        ]
        async with store.transactions() as tx:
            added = await tx.movies.add_many(drafts, NOON)
            assert await tx.movies.get(added[-1].id) == added[-1]
        assert [client_fields(movie) for movie in added] == drafts
        assert (await store.queries.find(MovieQuery(limit=300))).data == tuple(added)

    @pytest.mark.parametrize("count", [1, 2, 150])
    async def test_those_that_are_added_together_are_found_by_similar_words(
        self, store: Store, count: int
    ) -> None:
        drafts = [MovieDraft(title=f"Number {number}") for number in range(count - 1)]
        async with store.transactions() as tx:
            *_, last = await tx.movies.add_many([*drafts, MovieDraft(title="Casablanca")], NOON)
        assert (await store.queries.find(MovieQuery(q="casablanka"))).data == (last,)

    async def test_add_many_of_nothing_adds_nothing(self, store: Store) -> None:
        async with store.transactions() as tx:
            assert list(await tx.movies.add_many([], NOON)) == []
        assert (await store.queries.find(MovieQuery())).data == ()

    async def test_ids_ascend_and_are_never_given_twice(self, store: Store) -> None:
        async with store.transactions() as tx:
            first = await tx.movies.add(BARE, NOON)
            second = await tx.movies.add(BARE, NOON)
        async with store.transactions() as tx:
            await tx.movies.remove(second.id)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                undone = await tx.movies.add(BARE, NOON)
                raise Failure
        async with store.transactions() as tx:
            third = await tx.movies.add(BARE, NOON)
            (fourth,) = await tx.movies.add_many([BARE], NOON)
        assert 0 < first.id < second.id < third.id < fourth.id
        assert undone.id not in {third.id, fourth.id}

    async def test_replace_stores_every_field(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add(HEAT, NOON)
        changed = Movie(
            added.id,
            "Heat 2",
            None,
            None,
            None,
            "https://images.example/heat.jpg",
            Image(new_key(), 600, 900, "jpeg", 81_234),
            7,
            None,
            LATER,
        )
        async with store.transactions() as tx:
            await tx.movies.replace(changed)
            assert await tx.movies.get(added.id) == changed
        assert await store.queries.get(added.id) == changed
        async with store.transactions() as tx:
            await tx.movies.replace(added)
        assert await store.queries.get(added.id) == added

    async def test_replace_many_is_replace_for_each(self, store: Store) -> None:
        async with store.transactions() as tx:
            first, second, untouched = await tx.movies.add_many([HEAT, BARE, HEAT], NOON)
        changed = [
            Movie(
                second.id,
                "Heat 2'; \\ \"Ü𝕬",
                "%s\n\t",
                None,
                "ß",
                "https://images.example/heat.jpg",
                Image(new_key(), 600, 900, "jpeg", 81_234),
                7,
                None,
                LATER,
            ),
            Movie(first.id, "Ronin", None, 2_024, None, None, None, 2, NOON, None),
        ]
        async with store.transactions() as tx:
            await tx.movies.replace_many(changed)
            assert await tx.movies.get(second.id) == changed[0]
        for movie in (*changed, untouched):
            assert await store.queries.get(movie.id) == movie
        assert (await store.queries.find(MovieQuery(q="heat 2"))).data == (changed[0],)

    async def test_replace_many_misses_whoever_is_not_there(self, store: Store) -> None:
        async with store.transactions() as tx:
            kept, gone = await tx.movies.add_many([HEAT, BARE], NOON)
            await tx.movies.remove(gone.id)
        with pytest.raises(MovieNotFound) as missed:
            async with store.transactions() as tx:
                await tx.movies.replace_many([msgspec.structs.replace(kept, title="Heat 2"), gone])
        assert missed.value.movie_id == gone.id
        assert await store.queries.get(kept.id) == kept

    async def test_those_that_are_there_are_got_together(self, store: Store) -> None:
        async with store.transactions() as tx:
            first, gone, second = await tx.movies.add_many([HEAT, BARE, BARE], NOON)
            await tx.movies.remove(gone.id)
        async with store.transactions() as tx:
            some = [second.id, gone.id, 0, -1, 2**63, 2**100, -(2**100), first.id]
            found = {movie.id: movie for movie in await tx.movies.get_free(some)}
            assert found == {first.id: first, second.id: second}
            assert list(await tx.movies.get_free([])) == []
            await tx.movies.replace_many([])

    async def test_replacing_or_removing_nothing_is_an_error(self, store: Store) -> None:
        async with store.transactions() as tx:
            gone = await tx.movies.add(BARE, NOON)
            await tx.movies.remove(gone.id)
            with pytest.raises(MovieNotFound):
                await tx.movies.get(gone.id)
            with pytest.raises(MovieNotFound):
                await tx.movies.replace(gone)
            with pytest.raises(MovieNotFound):
                await tx.movies.remove(gone.id)
        with pytest.raises(MovieNotFound):
            await store.queries.get(gone.id)

    async def test_who_takes_what_is_free_waits_for_nobody(self, store: Store) -> None:
        """But for its turn, where all take turns."""
        async with store.transactions() as tx:
            held, free = await tx.movies.add_many([HEAT, BARE], NOON)

        async def free_ones() -> list[Movie]:
            async with store.transactions() as tx:
                return list(await tx.movies.get_free([held.id, free.id]))

        async with store.transactions() as tx:
            await tx.movies.get(held.id)
            taking = asyncio.create_task(free_ones())
            done, _ = await asyncio.wait({taking}, timeout=0.2 if self.in_turn else AT_ONCE)
            assert bool(done) != self.in_turn
        assert await asyncio.wait_for(taking, AT_ONCE) == ([held, free] if self.in_turn else [free])

    async def test_what_was_removed_is_gone_at_once(self, store: Store) -> None:
        async with store.transactions() as tx:
            gone, kept = await tx.movies.add_many([HEAT, BARE], NOON)
        with pytest.raises(MovieNotFound):
            async with store.transactions() as tx:
                await tx.movies.remove(gone.id)
                for again in (tx.movies.get(gone.id), tx.movies.replace(gone), tx.movies.remove(gone.id)):
                    with pytest.raises(MovieNotFound):
                        await again
                assert list(await tx.movies.get_free([gone.id, kept.id])) == [kept]
                await tx.movies.replace_many([kept, gone])
        assert await store.queries.get(gone.id) == gone
        async with store.transactions() as tx:
            await tx.movies.remove(gone.id)
        assert (await store.queries.find(MovieQuery())).data == (kept,)
        assert await store.queries.count(MovieQuery()) == 1
        assert [movie async for batch in store.queries.export(MovieQuery()) for movie in batch] == [
            client_fields(kept)
        ]

    async def test_a_movie_that_was_removed_is_restored_under_its_id(self, store: Store) -> None:
        async with store.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
        async with store.transactions() as tx:
            await tx.movies.remove(movie.id)
        image = Image(new_key(), 3, 4, "png", 5, {})
        back = msgspec.structs.replace(
            movie, title="Chaleur", version=3, updated_at=LATER, image=image, image_url="/images/x"
        )
        async with store.transactions() as tx:
            await tx.movies.restore(back)
            assert await tx.movies.get(movie.id) == back
        assert await store.queries.get(movie.id) == back
        assert (await store.queries.find(MovieQuery(q="chal"))).data == (back,)
        async with store.transactions() as tx:
            other = await tx.movies.add(BARE, NOON)
        assert other.id > movie.id

    async def test_a_movie_that_is_restored_has_its_place_again(self, store: Store) -> None:
        async with store.transactions() as tx:
            first, second, third = await tx.movies.add_many([HEAT, BARE, HEAT], NOON)
        async with store.transactions() as tx:
            await tx.movies.remove(first.id)
            await tx.movies.remove(second.id)
        assert (await store.queries.find(MovieQuery())).data == (third,)
        for movie, found in ((second, (second, third)), (first, (first, second, third))):
            async with store.transactions() as tx:
                await tx.movies.restore(movie)
            assert (await store.queries.find(MovieQuery())).data == found
            assert await paged(store, MovieQuery(limit=1)) == list(found)

    async def test_a_movie_that_is_there_is_not_restored(self, store: Store) -> None:
        async with store.transactions() as tx:
            movie = await tx.movies.add(HEAT, NOON)
        with pytest.raises(VersionConflict):
            async with store.transactions() as tx:
                await tx.movies.restore(msgspec.structs.replace(movie, title="Other", version=2))
        assert await store.queries.get(movie.id) == movie

    async def test_pages_follow_each_other_by_ascending_id(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add_many([BARE] * 7, NOON)
        for limit in (1, 2, 3, 6, 7, 8):
            seen: list[Movie] = []
            cursor: Cursor | None = None
            for _ in range(8):
                page = await store.queries.find(MovieQuery(limit=limit, cursor=cursor))
                assert len(page.data) <= limit
                seen += page.data
                if page.next_cursor is None:
                    break
                assert len(page.data) == limit
                cursor = Cursor.decode(page.next_cursor)
            assert seen == list(added), f"pages of {limit}"

    async def test_a_cursor_outlives_the_movie_it_stopped_at(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add_many([BARE] * 4, NOON)
        page = await store.queries.find(MovieQuery(limit=2))
        assert page.next_cursor is not None
        async with store.transactions() as tx:
            await tx.movies.remove(added[1].id)
        rest = await store.queries.find(MovieQuery(limit=2, cursor=Cursor.decode(page.next_cursor)))
        assert rest.data == (added[2], added[3])
        assert rest.next_cursor is None

    async def test_export_gives_everything_whatever_the_limit(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add_many([BARE] * 1_203, NOON)
        assert [
            movie async for batch in store.queries.export(MovieQuery(limit=1)) for movie in batch
        ] == list(map(client_fields, added))

    async def test_export_is_of_one_moment(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add_many([BARE] * 1_203, NOON)
        export = store.queries.export(MovieQuery())
        seen = [*await anext(export)]
        async with store.transactions() as tx:
            await tx.movies.remove(added[-1].id)
            await tx.movies.replace(msgspec.structs.replace(added[-2], title="Changed", version=2))
            await tx.movies.add(HEAT, NOON)
        seen += [movie async for batch in export for movie in batch]
        assert seen == list(map(client_fields, added))

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        async with store.transactions() as tx:
            kept = await tx.movies.add(HEAT, NOON)
            removed = await tx.movies.add(BARE, NOON)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.movies.add(BARE, LATER)
                await tx.movies.replace(msgspec.structs.replace(kept, title="Changed", version=2))
                await tx.movies.remove(removed.id)
                raise Failure
        assert (await store.queries.find(MovieQuery())).data == (kept, removed)

    async def test_a_cancelled_block_leaves_no_trace(self, store: Store) -> None:
        inside = asyncio.Event()

        async def write() -> None:
            async with store.transactions() as tx:
                await tx.movies.add(BARE, NOON)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(write())
        await asyncio.wait_for(inside.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await store.queries.find(MovieQuery())).data == ()
        async with store.transactions() as tx:
            added = await tx.movies.add(HEAT, NOON)
        assert (await store.queries.find(MovieQuery())).data == (added,)

    async def test_nobody_sees_what_is_not_committed(self, store: Store) -> None:
        async with store.transactions() as tx:
            before = await tx.movies.add(HEAT, NOON)
        async with store.transactions() as tx:
            fresh = await tx.movies.add(BARE, NOON)
            after = msgspec.structs.replace(before, title="Changed", version=2)
            await tx.movies.replace(after)
            assert await tx.movies.get(before.id) == after
            assert await tx.movies.get(fresh.id) == fresh
            assert await store.queries.get(before.id) == before
            assert (await store.queries.find(MovieQuery())).data == (before,)
            with pytest.raises(MovieNotFound):
                await store.queries.get(fresh.id)
        assert (await store.queries.find(MovieQuery())).data == (after, fresh)

    async def test_a_movie_that_was_got_is_held_until_the_end(self, store: Store) -> None:
        async with store.transactions() as tx:
            added = await tx.movies.add(BARE, NOON)

        async def raise_version() -> None:
            async with store.transactions() as tx:
                movie = await tx.movies.get(added.id)
                await asyncio.sleep(0)
                await tx.movies.replace(msgspec.structs.replace(movie, version=movie.version + 1))

        async def raise_version_if_free() -> None:
            async with store.transactions() as tx:
                free = await tx.movies.get_free([added.id])
                await asyncio.sleep(0)
                raised = [msgspec.structs.replace(movie, version=movie.version + 1) for movie in free]
                await tx.movies.replace_many(raised)
            if not free:
                await raise_version()

        await asyncio.gather(*(raise_version() for _ in range(25)))
        assert (await store.queries.get(added.id)).version == 26
        await asyncio.gather(*(raise_version_if_free() for _ in range(25)))
        assert (await store.queries.get(added.id)).version == 51
