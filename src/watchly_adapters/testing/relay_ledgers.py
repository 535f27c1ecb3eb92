"""What the ledger of the relay promises."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from watchly_adapters.testing.stores import HEAT, LATER, NOON, Failure, Store, StoreContract
from watchly_core.errors import TargetNotFound
from watchly_core.messages import Letter, LetterCount, Message, Target

__all__ = ["RelayLedgerContract"]

BROKER = Target("nats")
HOOK = Target(
    "webhook-1",
    "https://films.example/hook?a=b",
    "whsec_c2VjcmV0",
    position=2**62,
    version=2**40,
    failures=3,
    failing_since=NOON,
    due_at=LATER,
    reason="nobody there: „é 🎬\" \\ '",
)


def _letter(seq: int, movie_id: int = 1, due_at: dt.datetime | None = NOON, attempts: int = 0) -> Letter:
    body = '{"data":"é 🎬 \\u0000"}'.encode()
    message = Message(f"{movie_id}-{seq}", seq, movie_id, "movie_revised", body)
    return Letter(message, due_at, attempts, "busy" if attempts else "")


class RelayLedgerContract(StoreContract):
    """Targets and their letters. Supply `store`."""

    async def test_a_target_comes_back_as_it_is(self, store: Store) -> None:
        async with store.transactions() as tx:
            assert await tx.relays.add(HOOK)
            assert await tx.relays.add(BROKER)
        async with store.transactions() as tx:
            assert await tx.relays.get("webhook-1") == HOOK
            assert await tx.relays.get("nats") == BROKER
            assert list(await tx.relays.targets()) == [BROKER, HOOK]

    async def test_a_transaction_that_began_before_undoes_nothing(self, store: Store) -> None:
        async with store.transactions() as before:
            async with store.transactions() as tx:
                await tx.relays.add(HOOK)
            await before.movies.add(HEAT, NOON)
        async with store.transactions() as before:
            async with store.transactions() as tx:
                await tx.relays.keep("webhook-1", _letter(1))
            await before.relays.keep("webhook-1", _letter(2))
        async with store.transactions() as tx:
            assert await tx.relays.get("webhook-1") == HOOK
            assert await tx.relays.count("webhook-1") == LetterCount(2, 0)

    async def test_a_target_is_noted_once(self, store: Store) -> None:
        async with store.transactions() as tx:
            assert await tx.relays.add(HOOK)
            assert not await tx.relays.add(Target("webhook-1"))
        async with store.transactions() as tx:
            assert not await tx.relays.add(Target("webhook-1"))
            assert await tx.relays.get("webhook-1") == HOOK

    async def test_replace_stores_every_field(self, store: Store) -> None:
        async with store.transactions() as tx:
            await tx.relays.add(Target("webhook-1"))
            await tx.relays.replace(HOOK)
            assert await tx.relays.get("webhook-1") == HOOK
        plain = Target("webhook-1", position=1)
        async with store.transactions() as tx:
            await tx.relays.replace(plain)
        async with store.transactions() as tx:
            assert await tx.relays.get("webhook-1") == plain

    async def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        async with store.transactions() as tx:
            with pytest.raises(TargetNotFound):
                await tx.relays.get("nats")
            with pytest.raises(TargetNotFound):
                await tx.relays.replace(BROKER)
            with pytest.raises(TargetNotFound):
                await tx.relays.remove("nats")
            assert list(await tx.relays.targets()) == []

    async def test_a_target_goes_with_its_letters(self, store: Store) -> None:
        async with store.transactions() as tx:
            for target in (BROKER, HOOK):
                await tx.relays.add(target)
                await tx.relays.keep(target.name, _letter(1))
        async with store.transactions() as tx:
            await tx.relays.remove("webhook-1")
        async with store.transactions() as tx:
            assert list(await tx.relays.targets()) == [BROKER]
            assert await tx.relays.count("nats") == LetterCount(1, 0)
            await tx.relays.add(HOOK)
            assert await tx.relays.count("webhook-1") == LetterCount(0, 0)

    async def test_letters_come_back_as_they_are_until_they_are_dropped(self, store: Store) -> None:
        waiting, dead = _letter(1, attempts=2), _letter(2**62, movie_id=2**31 - 1, due_at=None, attempts=9)
        async with store.transactions() as tx:
            await tx.relays.add(BROKER)
            await tx.relays.keep("nats", waiting, dead)
        async with store.transactions() as tx:
            assert list(await tx.relays.due("nats", NOON, 10)) == [waiting]
            assert list(await tx.relays.dead("nats", 10)) == [dead]
            assert await tx.relays.count("nats") == LetterCount(1, 1)
            await tx.relays.drop("nats", 1, 2**62, 3)
            await tx.relays.drop("nats")
        async with store.transactions() as tx:
            assert await tx.relays.count("nats") == LetterCount(0, 0)

    async def test_letters_are_dropped_by_their_numbers_alone(self, store: Store) -> None:
        letters = [_letter(seq, movie_id=seq) for seq in (1, 2, 3)] + [_letter(4, due_at=None)]
        async with store.transactions() as tx:
            for target in (BROKER, HOOK):
                await tx.relays.add(target)
                await tx.relays.keep(target.name, *letters)
            await tx.relays.drop("nats", 2)
            assert list(await tx.relays.due("nats", NOON, 10)) == [letters[0], letters[2]]
        async with store.transactions() as tx:
            await tx.relays.drop("nats")
            await tx.relays.drop("nats", 3, 9)
            assert list(await tx.relays.due("nats", NOON, 10)) == [letters[0]]
        async with store.transactions() as tx:
            assert list(await tx.relays.dead("nats", 10)) == [letters[3]]
            assert list(await tx.relays.due("webhook-1", NOON, 10)) == letters[:3]

    async def test_a_letter_is_kept_in_place_of_the_one_before(self, store: Store) -> None:
        first, second = _letter(1), _letter(1, due_at=LATER, attempts=1)
        async with store.transactions() as tx:
            await tx.relays.add(BROKER)
            await tx.relays.keep("nats", first)
        async with store.transactions() as tx:
            await tx.relays.keep("nats", second)
            await tx.relays.keep("nats")
        async with store.transactions() as tx:
            assert list(await tx.relays.due("nats", NOON, 10)) == []
            assert list(await tx.relays.due("nats", LATER, 10)) == [second]
            await tx.relays.keep("nats", _letter(1, due_at=None))
        async with store.transactions() as tx:
            assert await tx.relays.count("nats") == LetterCount(0, 1)

    async def test_of_each_movie_the_oldest_is_due(self, store: Store) -> None:
        early = NOON - dt.timedelta(seconds=5)
        letters = [
            _letter(1, movie_id=1, due_at=None),
            _letter(4, movie_id=1),
            _letter(2, movie_id=1, due_at=LATER),
            _letter(3, movie_id=2),
            _letter(5, movie_id=2, due_at=early),
            _letter(9, movie_id=3, due_at=early),
            _letter(6, movie_id=4, due_at=None),
        ]
        by_seq = {letter.message.seq: letter for letter in letters}
        async with store.transactions() as tx:
            await tx.relays.add(BROKER)
            await tx.relays.add(HOOK)
            await tx.relays.keep("nats", *letters)
        async with store.transactions() as tx:
            assert list(await tx.relays.due("nats", NOON, 10)) == [by_seq[9], by_seq[3]]
            assert list(await tx.relays.due("nats", NOON, 1)) == [by_seq[9]]
            assert list(await tx.relays.due("nats", LATER, 10)) == [by_seq[9], by_seq[3], by_seq[2]]
            assert dict(await tx.relays.heads("nats")) == {1: LATER, 2: NOON, 3: early}
            assert list(await tx.relays.dead("nats", 10)) == [by_seq[1], by_seq[6]]
            assert list(await tx.relays.dead("nats", 1)) == [by_seq[1]]
            assert list(await tx.relays.dead("nats", 10, after=1)) == [by_seq[6]]
            assert list(await tx.relays.due("webhook-1", LATER, 10)) == []
            assert dict(await tx.relays.heads("webhook-1")) == {}

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        async with store.transactions() as tx:
            await tx.relays.add(BROKER)
            await tx.relays.keep("nats", _letter(1))
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.relays.add(HOOK)
                await tx.relays.replace(msgspec.structs.replace(BROKER, position=5))
                await tx.relays.keep("nats", _letter(2))
                await tx.relays.drop("nats", 1)
                raise Failure
        async with store.transactions() as tx:
            assert list(await tx.relays.targets()) == [BROKER]
            assert list(await tx.relays.due("nats", NOON, 10)) == [_letter(1)]

    async def test_a_target_is_held_until_the_transaction_ends(self, store: Store) -> None:
        async with store.transactions() as tx:
            await tx.relays.add(BROKER)

        async def count() -> None:
            async with store.transactions() as tx:
                target = await tx.relays.get("nats")
                await asyncio.sleep(0)
                await tx.relays.replace(msgspec.structs.replace(target, position=target.position + 1))

        await asyncio.gather(*(count() for _ in range(8)))
        async with store.transactions() as tx:
            assert (await tx.relays.get("nats")).position == 8
