"""What the receipts of writes promise."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from watchly_adapters.testing.stores import AT_ONCE, HEAT, LATER, NOON, Failure, Store, StoreContract
from watchly_core.errors import KeyReused, MovieNotFound, RequestInProgress
from watchly_core.ports import Transaction
from watchly_core.receipts import Claim, KeptReply

__all__ = ["ReceiptContract"]

CLAIM = Claim("user:7", "3f1c:/~!", b"\x00digest\xff")
OTHER_REQUEST = msgspec.structs.replace(CLAIM, digest=b"another")
REPLY = KeptReply(
    201, (("Content-Type", "application/json"), ("ETag", '"v1"'), ("Location", "/é")), b'\x00{"id": 7}\xff'
)
TOMORROW = NOON + dt.timedelta(days=1)


async def _keep(store: Store, claim: Claim = CLAIM, until: dt.datetime = TOMORROW) -> None:
    async with store.transactions() as tx:
        assert await tx.receipts.claim(claim, NOON) is None
        await tx.receipts.keep(claim, REPLY, until)


async def _find(store: Store, claim: Claim = CLAIM, now: dt.datetime = NOON) -> KeptReply | None:
    async with store.transactions() as tx:
        return await tx.receipts.claim(claim, now)


class ReceiptContract(StoreContract):
    """The receipts of writes. Supply `store`."""

    async def test_a_reply_comes_back_as_it_is(self, store: Store) -> None:
        assert await _find(store) is None
        await _keep(store)
        assert await _find(store) == REPLY
        assert await _find(store, now=LATER) == REPLY

    @pytest.mark.parametrize("size", [0, 3_000_000])
    async def test_a_reply_may_be_empty_or_long(self, store: Store, size: int) -> None:
        reply = KeptReply(200, (), bytes(size))
        async with store.transactions() as tx:
            await tx.receipts.claim(CLAIM, NOON)
            await tx.receipts.keep(CLAIM, reply, TOMORROW)
        assert await _find(store) == reply

    @pytest.mark.parametrize(
        "other",
        [
            msgspec.structs.replace(CLAIM, actor="user:8"),
            msgspec.structs.replace(CLAIM, key="3F1C:/~!"),
            msgspec.structs.replace(CLAIM, actor="", key="user:7:3f1c:/~!"),
            msgspec.structs.replace(CLAIM, actor="", key="x" * 255),
        ],
    )
    async def test_another_actor_or_key_has_its_own(self, store: Store, other: Claim) -> None:
        await _keep(store)
        async with store.transactions() as tx:
            assert await tx.receipts.claim(CLAIM, NOON) == REPLY
            assert await tx.receipts.claim(other, NOON) is None

    async def test_a_key_is_for_one_request(self, store: Store) -> None:
        await _keep(store)
        with pytest.raises(KeyReused):
            await _find(store, OTHER_REQUEST)
        assert await _find(store) == REPLY

    @pytest.mark.parametrize("claim", [CLAIM, OTHER_REQUEST])
    async def test_a_key_under_way_is_told_at_once(self, store: Store, claim: Claim) -> None:
        async with store.transactions() as tx:
            assert await tx.receipts.claim(CLAIM, NOON) is None
            await tx.movies.add(HEAT, NOON)
            with pytest.raises(RequestInProgress):
                async with asyncio.timeout(AT_ONCE):
                    await _find(store, claim)
            async with asyncio.timeout(AT_ONCE):
                assert await _find(store, msgspec.structs.replace(claim, key="other")) is None
                assert await _find(store, msgspec.structs.replace(claim, actor="user:8")) is None

    async def test_the_end_of_one_transaction_frees_its_own_keys_alone(self, store: Store) -> None:
        other = msgspec.structs.replace(CLAIM, key="other")
        async with store.transactions() as tx:
            assert await tx.receipts.claim(CLAIM, NOON) is None
            async with store.transactions() as another:
                assert await another.receipts.claim(other, NOON) is None
                with pytest.raises(RequestInProgress):
                    await _find(store, other)
            with pytest.raises(RequestInProgress):
                await _find(store)
            assert await _find(store, other) is None
        assert await _find(store) is None

    async def test_a_key_may_be_claimed_twice_in_one_transaction(self, store: Store) -> None:
        async with store.transactions() as tx:
            assert await tx.receipts.claim(CLAIM, NOON) is None
            assert await tx.receipts.claim(CLAIM, NOON) is None
            await tx.receipts.keep(CLAIM, REPLY, TOMORROW)
            assert await tx.receipts.claim(CLAIM, NOON) == REPLY

    async def test_a_reply_is_kept_if_its_write_is(self, store: Store) -> None:
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.receipts.claim(CLAIM, NOON)
                lost = await tx.movies.add(HEAT, NOON)
                await tx.receipts.keep(CLAIM, REPLY, TOMORROW)
                raise Failure
        assert await _find(store, OTHER_REQUEST) is None
        async with store.transactions() as tx:
            with pytest.raises(MovieNotFound):
                await tx.movies.get(lost.id)

    async def test_a_claim_ends_with_its_transaction(self, store: Store) -> None:
        assert await _find(store) is None
        with pytest.raises(asyncio.CancelledError):
            async with store.transactions() as tx:
                await tx.receipts.claim(CLAIM, NOON)
                raise asyncio.CancelledError
        await _keep(store, OTHER_REQUEST)

    async def test_of_many_at_once_one_writes(self, store: Store) -> None:
        written: list[int] = []

        async def write(tx: Transaction) -> KeptReply:
            if reply := await tx.receipts.claim(CLAIM, NOON):
                return reply
            written.append((await tx.movies.add(HEAT, NOON)).id)
            await tx.receipts.keep(CLAIM, REPLY, TOMORROW)
            return REPLY

        async def send() -> KeptReply:
            while True:
                try:
                    async with store.transactions() as tx:
                        return await write(tx)
                except RequestInProgress:
                    await asyncio.sleep(0.001)  # as long as a client would

        replies = await asyncio.gather(*(send() for _ in range(30)))
        assert replies == [REPLY] * 30
        assert len(written) == 1

    async def test_a_reply_is_good_until_its_time(self, store: Store) -> None:
        await _keep(store)
        assert await _find(store, now=TOMORROW - dt.timedelta(microseconds=1)) == REPLY
        async with store.transactions() as tx:
            assert await tx.receipts.claim(OTHER_REQUEST, TOMORROW) is None
            await tx.receipts.keep(OTHER_REQUEST, REPLY, TOMORROW + dt.timedelta(days=1))
        assert await _find(store, OTHER_REQUEST, TOMORROW) == REPLY
        with pytest.raises(KeyReused):
            await _find(store, CLAIM, NOON)

    async def test_what_is_no_longer_good_is_dropped(self, store: Store) -> None:
        claims = [msgspec.structs.replace(CLAIM, key=f"key-{number}") for number in range(5)]
        for number, claim in enumerate(claims):
            await _keep(store, claim, NOON + dt.timedelta(minutes=number + 1))
        now = NOON + dt.timedelta(minutes=4)

        async def expire(limit: int) -> int:
            async with store.transactions() as tx:
                return await tx.receipts.expire(now, limit)

        assert [await expire(3), await expire(3), await expire(3)] == [3, 1, 0]
        # As of noon none of them would have been too old.
        assert [await _find(store, claim) for claim in claims] == [None] * 4 + [REPLY]

    async def test_what_is_dropped_and_claimed_at_once_is_kept_anew(self, store: Store) -> None:
        await _keep(store)
        later = TOMORROW + dt.timedelta(days=1)
        async with store.transactions() as tx:
            assert await tx.receipts.claim(OTHER_REQUEST, TOMORROW) is None
            async with store.transactions() as sweeping:
                await sweeping.receipts.expire(TOMORROW, 10)
            await tx.receipts.keep(OTHER_REQUEST, REPLY, later)
        async with store.transactions() as tx:
            assert await tx.receipts.expire(TOMORROW, 10) == 0
        assert await _find(store, OTHER_REQUEST, TOMORROW) == REPLY

    async def test_what_is_kept_anew_while_it_is_dropped_stays(self, store: Store) -> None:
        await _keep(store)
        later = TOMORROW + dt.timedelta(days=1)

        async def keep() -> None:
            async with store.transactions() as tx:
                assert await tx.receipts.claim(OTHER_REQUEST, TOMORROW) is None
                await tx.receipts.keep(OTHER_REQUEST, REPLY, later)

        async with store.transactions() as sweeping:
            await sweeping.receipts.expire(TOMORROW, 10)
            keeping = asyncio.create_task(keep())
            # It may have to wait for the end of this block, and need not.
            await asyncio.wait({keeping}, timeout=0.2)
        await asyncio.wait_for(keeping, AT_ONCE)
        assert await _find(store, OTHER_REQUEST, TOMORROW) == REPLY
