"""What the ledger of images promises."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence

import msgspec
import pytest

from watchly_adapters.testing.stores import AT_ONCE, LATER, NOON, Failure, Store, StoreContract
from watchly_core.errors import IllegalTransition, ImageNotFound
from watchly_core.images import Image, ImageRecord, ImageState, new_key
from watchly_core.ports import Transaction

__all__ = ["ImageLedgerContract"]


def _record(due_at: dt.datetime | None = NOON, movie_id: int = 1, attempts: int = 0) -> ImageRecord:
    state = ImageState.ATTACHED if due_at is None else ImageState.PENDING
    return ImageRecord(Image(new_key(), 600, 900, "webp", 2**33), state, movie_id, due_at, attempts)


class ImageLedgerContract(StoreContract):
    """The records of images. Supply `store`."""

    async def test_a_record_comes_back_as_it_is(self, store: Store) -> None:
        records = [_record(), _record(None), _record(LATER, movie_id=2_147_483_647, attempts=9)]
        async with store.transactions() as tx:
            for record in records:
                await tx.images.add(record)
        async with store.transactions() as tx:
            for record in records:
                assert await tx.images.get(record.image.key) == record

    async def test_replace_stores_every_field(self, store: Store) -> None:
        record = _record()
        ticketed = msgspec.structs.replace(record, open_until=NOON, movie_id=7)
        discarded = ticketed.moved(ImageState.DISCARDED, due_at=LATER, attempts=3)
        async with store.transactions() as tx:
            await tx.images.add(record)
            await tx.images.replace(discarded)
            assert await tx.images.get(record.image.key) == discarded
        async with store.transactions() as tx:
            assert await tx.images.get(record.image.key) == discarded

    async def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        record = _record()
        async with store.transactions() as tx:
            with pytest.raises(ImageNotFound):
                await tx.images.get(record.image.key)
            with pytest.raises(ImageNotFound):
                await tx.images.replace(record)
            assert list(await tx.images.of_movie(1)) == []

    async def test_forgetting_twice_is_no_error(self, store: Store) -> None:
        record = _record()
        async with store.transactions() as tx:
            await tx.images.add(record)
        for _ in range(2):
            async with store.transactions() as tx:
                await tx.images.remove(record.image.key)
        async with store.transactions() as tx:
            with pytest.raises(ImageNotFound):
                await tx.images.get(record.image.key)

    async def test_a_key_is_noted_once(self, store: Store) -> None:
        record, other = _record(), _record()
        again = record.moved(ImageState.DELETING, due_at=LATER)
        async with store.transactions() as tx:
            await tx.images.add(record)
        with pytest.raises(IllegalTransition):
            async with store.transactions() as tx:
                await tx.images.add(other)
                await tx.images.add(again)
        async with store.transactions() as tx:
            assert await tx.images.get(record.image.key) == record
            with pytest.raises(ImageNotFound):
                await tx.images.get(other.image.key)
        with pytest.raises(IllegalTransition):
            async with store.transactions() as tx:
                await tx.images.add(other)
                await tx.images.add(other)

    async def test_a_forgotten_key_can_be_noted_again(self, store: Store) -> None:
        record = _record()
        again = record.moved(ImageState.DELETING, due_at=LATER)
        async with store.transactions() as tx:
            await tx.images.add(record)
        async with store.transactions() as tx:
            await tx.images.remove(record.image.key)
            await tx.images.add(again)
        async with store.transactions() as tx:
            assert await tx.images.get(record.image.key) == again

    async def test_the_images_of_a_movie_by_key(self, store: Store) -> None:
        mine = sorted((_record(movie_id=5) for _ in range(4)), key=lambda record: record.image.key)
        async with store.transactions() as tx:
            for record in [*reversed(mine), _record(movie_id=6)]:
                await tx.images.add(record)
        async with store.transactions() as tx:
            assert list(await tx.images.of_movie(5)) == mine

    async def test_due_gives_the_longest_due_first_up_to_the_limit(self, store: Store) -> None:
        minutes = [_record(NOON + dt.timedelta(minutes=minute)) for minute in range(5)]
        async with store.transactions() as tx:
            for record in [*minutes[::-1], _record(None)]:
                await tx.images.add(record)
        async with store.transactions() as tx:
            assert list(await tx.images.due(NOON - dt.timedelta(microseconds=1), 10)) == []
            assert list(await tx.images.due(NOON, 10)) == minutes[:1]
            assert list(await tx.images.due(NOON + dt.timedelta(minutes=3), 10)) == minutes[:4]
            assert list(await tx.images.due(NOON + dt.timedelta(days=1), 2)) == minutes[:2]

    async def test_what_was_given_up_is_dead_and_not_due(self, store: Store) -> None:
        claimed = _record().moved(ImageState.DELETING, due_at=NOON, attempts=20)
        dead = sorted(
            (_record().moved(ImageState.DELETING, due_at=None, attempts=20) for _ in range(3)),
            key=lambda record: record.image.key,
        )
        async with store.transactions() as tx:
            for record in [claimed, *reversed(dead), _record(None)]:
                await tx.images.add(record)
        async with store.transactions() as tx:
            assert list(await tx.images.due(LATER, 10)) == [claimed]
            assert list(await tx.images.dead(10)) == dead
            assert list(await tx.images.dead(2)) == dead[:2]
            await tx.images.replace(dead[0].moved(ImageState.DELETING, due_at=NOON))
        async with store.transactions() as tx:
            assert list(await tx.images.dead(10)) == dead[1:]
            assert len(await tx.images.due(NOON, 10)) == 2

    @pytest.mark.parametrize("by", ["due", "dead"])
    async def test_sweepers_pass_over_what_is_held(self, store: Store, by: str) -> None:
        """And do not wait for it, but where all take turns."""
        at = NOON if by == "due" else None
        records = sorted(
            (_record().moved(ImageState.DELETING, due_at=at) for _ in range(2)),
            key=lambda record: record.image.key,
        )
        async with store.transactions() as tx:
            for record in records:
                await tx.images.add(record)
        first, second = records

        async def sweep() -> list[ImageRecord]:
            async with store.transactions() as tx:
                return list(await (tx.images.due(NOON, 10) if by == "due" else tx.images.dead(10)))

        async with store.transactions() as tx:
            await tx.images.get(first.image.key)
            sweeping = asyncio.create_task(sweep())
            done, _ = await asyncio.wait({sweeping}, timeout=0.2 if self.in_turn else AT_ONCE)
            assert bool(done) != self.in_turn
        found = await asyncio.wait_for(sweeping, AT_ONCE)
        assert found == ([first, second] if self.in_turn else [second])

    async def test_two_sweepers_never_claim_the_same_image(self, store: Store) -> None:
        records = [_record() for _ in range(40)]
        async with store.transactions() as tx:
            for record in records:
                await tx.images.add(record)
        claimed: list[str] = []

        async def claim() -> None:
            async with store.transactions() as tx:
                for record in await tx.images.due(NOON, 10):
                    claimed.append(record.image.key)
                    await asyncio.sleep(0)
                    await tx.images.replace(record.moved(ImageState.DELETING, due_at=LATER))

        for _ in range(4):
            await asyncio.gather(*(claim() for _ in range(4)))
        assert sorted(claimed) == sorted(record.image.key for record in records)

    @pytest.mark.parametrize("by", ["get", "of_movie", "due", "dead"])
    async def test_a_record_that_was_got_is_held_until_the_end(self, store: Store, by: str) -> None:
        record = _record().moved(ImageState.DELETING, due_at=None if by == "dead" else NOON)
        async with store.transactions() as tx:
            await tx.images.add(record)

        async def got(tx: Transaction) -> Sequence[ImageRecord]:
            match by:
                case "get":
                    return [await tx.images.get(record.image.key)]
                case "of_movie":
                    return await tx.images.of_movie(1)
                case "due":
                    return await tx.images.due(NOON, 10)
                case _:
                    return await tx.images.dead(10)

        async def attempt() -> None:
            async with store.transactions() as tx:
                (found,) = await tx.images.of_movie(1)
                attempts = found.attempts + 1
                await tx.images.replace(msgspec.structs.replace(found, attempts=attempts))

        async with store.transactions() as tx:
            (held,) = await got(tx)
            others = [asyncio.create_task(attempt()) for _ in range(3)]
            done, _ = await asyncio.wait(others, timeout=0.1)
            assert not done
            await tx.images.replace(msgspec.structs.replace(held, attempts=held.attempts + 1))
        await asyncio.gather(*others)
        async with store.transactions() as tx:
            assert (await tx.images.get(record.image.key)).attempts == 4

        # Those who get it so at once do not get the same, or one after another.
        async def attempt_so() -> int:
            async with store.transactions() as tx:
                found = await got(tx)
                await asyncio.sleep(0)
                for each in found:
                    attempts = each.attempts + 1
                    await tx.images.replace(msgspec.structs.replace(each, attempts=attempts))
                return len(found)

        counted = sum(await asyncio.gather(*(attempt_so() for _ in range(8))))
        async with store.transactions() as tx:
            assert (await tx.images.get(record.image.key)).attempts == 4 + counted
        if by in {"get", "of_movie"}:
            assert counted == 8

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        kept, undone = _record(), _record()
        async with store.transactions() as tx:
            await tx.images.add(kept)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.images.add(undone)
                await tx.images.remove(kept.image.key)
                raise Failure
        async with store.transactions() as tx:
            assert await tx.images.get(kept.image.key) == kept
            with pytest.raises(ImageNotFound):
                await tx.images.get(undone.image.key)
