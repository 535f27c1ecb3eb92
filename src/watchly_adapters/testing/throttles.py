"""What the ledger of attempts promises."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from watchly_adapters.testing.stores import LATER, NOON, Failure, Store, StoreContract

__all__ = ["ThrottleContract"]

WINDOW = dt.timedelta(minutes=15)
UNTIL = NOON + WINDOW
JUST_BEFORE = UNTIL - dt.timedelta(microseconds=1)


async def _take(
    store: Store, limit: int, now: dt.datetime = NOON, bucket: str = "bucket"
) -> dt.datetime | None:
    async with store.transactions() as tx:
        return await tx.throttles.take(bucket, limit, now, now + WINDOW)


async def _give_back(store: Store, bucket: str = "bucket") -> None:
    async with store.transactions() as tx:
        await tx.throttles.give_back(bucket)


async def _find(store: Store, now: dt.datetime = NOON, bucket: str = "bucket") -> bool:
    async with store.transactions() as tx:
        return await tx.throttles.find(bucket, now)


async def _expire(store: Store, now: dt.datetime, limit: int = 10) -> int:
    async with store.transactions() as tx:
        return await tx.throttles.expire(now, limit)


class ThrottleContract(StoreContract):
    """How often something was tried. Supply `store`."""

    async def test_as_many_are_counted_as_the_limit_says(self, store: Store) -> None:
        assert [await _take(store, 3, now) for now in (NOON, LATER, LATER)] == [None] * 3
        # It begins anew as long after the first one, not after the last.
        assert [await _take(store, 3, now) for now in (LATER, JUST_BEFORE)] == [UNTIL] * 2

    async def test_where_the_limit_is_reached_nothing_is_counted(self, store: Store) -> None:
        assert [await _take(store, 1) for _ in range(4)] == [None, UNTIL, UNTIL, UNTIL]
        assert [await _take(store, 2) for _ in range(2)] == [None, UNTIL]
        assert await _take(store, 1) == UNTIL

    async def test_a_bucket_begins_anew_at_its_time(self, store: Store) -> None:
        assert [await _take(store, 2) for _ in range(2)] == [None] * 2
        assert await _take(store, 2, JUST_BEFORE) == UNTIL
        assert [await _take(store, 2, UNTIL) for _ in range(3)] == [None, None, UNTIL + WINDOW]
        much_later = UNTIL + 9 * WINDOW
        assert [await _take(store, 1, much_later) for _ in range(2)] == [None, much_later + WINDOW]

    async def test_each_bucket_counts_for_itself(self, store: Store) -> None:
        for bucket in ("a", "A", "a ", "", "é 🎬 '--%s", "x" * 200):
            assert not await _find(store, bucket=bucket)
            assert [await _take(store, 1, bucket=bucket) for _ in range(2)] == [None, UNTIL]

    async def test_what_is_given_back_may_be_taken_again(self, store: Store) -> None:
        assert [await _take(store, 2) for _ in range(2)] == [None] * 2
        await _give_back(store)
        # The bucket is the same, and begins anew when it had to.
        assert [await _take(store, 2, LATER) for _ in range(2)] == [None, UNTIL]

    async def test_no_more_is_given_back_than_was_taken(self, store: Store) -> None:
        await _give_back(store)
        assert not await _find(store)
        await _take(store, 1)
        for _ in range(3):
            await _give_back(store)
        assert await _find(store, LATER)
        assert [await _take(store, 1, LATER) for _ in range(2)] == [None, UNTIL]

    async def test_a_bucket_is_found_until_it_begins_anew(self, store: Store) -> None:
        assert not await _find(store)
        await _take(store, 1)
        assert [await _find(store, now) for now in (NOON, JUST_BEFORE, UNTIL)] == [True, True, False]
        assert not await _find(store, bucket="another")
        # Looking counts nothing.
        assert [await _take(store, 2) for _ in range(2)] == [None, UNTIL]

    async def test_what_begins_anew_anyway_is_dropped(self, store: Store) -> None:
        for minute in range(5):
            await _take(store, 1, NOON + dt.timedelta(minutes=minute), str(minute))
        now = UNTIL + dt.timedelta(minutes=3)
        assert await _expire(store, JUST_BEFORE) == 0
        assert [await _expire(store, now, 3) for _ in range(3)] == [3, 1, 0]
        # As of noon none of them would have begun anew.
        assert [await _find(store, bucket=str(minute)) for minute in range(5)] == [False] * 4 + [True]

    async def test_a_transaction_counts_by_what_it_has_done(self, store: Store) -> None:
        async with store.transactions() as tx:
            assert await tx.throttles.take("bucket", 1, NOON, UNTIL) is None
            assert await tx.throttles.take("bucket", 1, NOON, UNTIL) == UNTIL
            assert await tx.throttles.find("bucket", NOON)
            await tx.throttles.give_back("bucket")
            assert await tx.throttles.take("bucket", 1, LATER, LATER + WINDOW) is None
            assert await tx.throttles.expire(UNTIL, 10) == 1
            assert not await tx.throttles.find("bucket", NOON)
        assert not await _find(store)

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        await _take(store, 2)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.throttles.take("bucket", 2, NOON, UNTIL)
                await tx.throttles.take("new", 2, NOON, UNTIL)
                raise Failure
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.throttles.give_back("bucket")
                raise Failure
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.throttles.expire(UNTIL, 10)
                raise Failure
        assert not await _find(store, bucket="new")
        assert [await _take(store, 2) for _ in range(2)] == [None, UNTIL]

    async def test_of_many_at_once_no_more_get_in_than_the_limit(self, store: Store) -> None:
        taken = await asyncio.gather(*(_take(store, 10) for _ in range(30)))
        assert (taken.count(None), taken.count(UNTIL)) == (10, 20)

    async def test_who_takes_waits_for_who_has_taken(self, store: Store) -> None:
        async def take() -> dt.datetime | None:
            async with store.transactions() as tx:
                taken = await tx.throttles.take("bucket", 3, NOON, UNTIL)
                await asyncio.sleep(0)
                return taken

        await _take(store, 3)
        async with store.transactions() as tx:
            assert await tx.throttles.take("bucket", 3, NOON, UNTIL) is None
            taking = [asyncio.create_task(take()) for _ in range(5)]
            done, _ = await asyncio.wait(taking, timeout=0.1)
            assert not done
        taken = await asyncio.gather(*taking)
        assert (taken.count(None), taken.count(UNTIL)) == (1, 4)

    async def test_nor_where_the_bucket_begins_anew(self, store: Store) -> None:
        assert [await _take(store, 10) for _ in range(11)] == [None] * 10 + [UNTIL]
        taken = await asyncio.gather(*(_take(store, 10, UNTIL) for _ in range(30)))
        assert (taken.count(None), taken.count(UNTIL + WINDOW)) == (10, 20)

    async def test_nor_where_it_is_dropped_meanwhile(self, store: Store) -> None:
        await _take(store, 10)
        taking = asyncio.gather(*(_take(store, 10, UNTIL) for _ in range(30)))
        await asyncio.gather(*(_expire(store, UNTIL) for _ in range(5)))
        taken = await taking
        assert (taken.count(None), taken.count(UNTIL + WINDOW)) == (10, 20)

    async def test_many_take_from_several_and_give_back(self, store: Store) -> None:
        async def attempt(address: int) -> None:
            buckets = sorted(("account", f"address {address % 3}", f"pair {address}"))
            async with store.transactions() as tx:
                for bucket in buckets:
                    assert await tx.throttles.take(bucket, 30, NOON, UNTIL) is None
            async with store.transactions() as tx:
                for bucket in buckets:
                    await tx.throttles.give_back(bucket)

        await asyncio.gather(*map(attempt, range(30)))
        assert [await _take(store, 1, bucket="account") for _ in range(2)] == [None, UNTIL]
