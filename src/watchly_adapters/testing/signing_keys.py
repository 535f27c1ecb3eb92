"""What the signing keys of a store promise."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence

import msgspec
import pytest

from watchly_adapters.testing.stores import AT_ONCE, LATER, NOON, Failure, Store, StoreContract
from watchly_core.signing_keys import SigningKey

__all__ = ["SigningKeyContract"]

OLD = SigningKey("zz", bytes(range(256)), NOON, LATER, LATER + dt.timedelta(microseconds=1))
MIDDLE = SigningKey("aa-_é", b"", NOON + dt.timedelta(microseconds=1), NOON)
NEW = SigningKey("mm", b"\x00sealed\xff", LATER, LATER + dt.timedelta(days=1))


async def _add(store: Store, *keys: SigningKey) -> None:
    async with store.transactions() as tx:
        for key in keys:
            await tx.signing_keys.add(key)


async def _all(store: Store) -> Sequence[SigningKey]:
    async with store.transactions() as tx:
        return list(await tx.signing_keys.all())


class SigningKeyContract(StoreContract):
    """The keys that sign tokens. Supply `store`."""

    async def test_keys_come_back_as_they_are_oldest_first(self, store: Store) -> None:
        assert await _all(store) == []
        assert list(await store.people.signing_keys()) == []
        await _add(store, NEW, OLD, MIDDLE)
        assert await _all(store) == [OLD, MIDDLE, NEW]
        assert list(await store.people.signing_keys()) == [OLD, MIDDLE, NEW]

    async def test_of_those_that_are_as_old_the_name_decides(self, store: Store) -> None:
        twins = [msgspec.structs.replace(MIDDLE, kid=kid) for kid in ("b", "a", "d", "c")]
        await _add(store, *twins, OLD)
        wanted = [OLD, *sorted(twins, key=lambda key: key.kid)]
        assert await _all(store) == wanted
        assert list(await store.people.signing_keys()) == wanted

    async def test_replace_stores_every_field(self, store: Store) -> None:
        await _add(store, OLD, NEW)
        changed = SigningKey(OLD.kid, b"sealed anew", LATER + dt.timedelta(days=1), NOON, None)
        async with store.transactions() as tx:
            await tx.signing_keys.replace(changed)
            assert list(await tx.signing_keys.all()) == [NEW, changed]
        assert list(await store.people.signing_keys()) == [NEW, changed]
        await _end(store, NEW, LATER)
        assert await _all(store) == [msgspec.structs.replace(NEW, ends_at=LATER), changed]
        later = msgspec.structs.replace(changed, signs_from=LATER, ends_at=LATER + dt.timedelta(days=9))
        async with store.transactions() as tx:
            await tx.signing_keys.replace(later)
        assert (await _all(store))[1] == later

    async def test_forgetting_one_twice_is_no_error(self, store: Store) -> None:
        await _add(store, OLD, NEW)
        for _ in range(2):
            async with store.transactions() as tx:
                await tx.signing_keys.remove(OLD.kid)
        assert await _all(store) == [NEW]
        assert list(await store.people.signing_keys()) == [NEW]

    async def test_the_others_stay(self, store: Store) -> None:
        await _add(store, OLD, MIDDLE, NEW)
        for kid, left in (("nobody", [OLD, MIDDLE, NEW]), (NEW.kid, [OLD, MIDDLE]), (MIDDLE.kid, [OLD])):
            async with store.transactions() as tx:
                await tx.signing_keys.remove(kid)
            assert await _all(store) == left

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        await _add(store, OLD, MIDDLE)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.signing_keys.add(NEW)
                await tx.signing_keys.remove(OLD.kid)
                await tx.signing_keys.replace(msgspec.structs.replace(MIDDLE, ends_at=LATER))
                raise Failure
        assert await _all(store) == [OLD, MIDDLE]

    async def test_nobody_sees_what_is_not_committed_or_waits_for_it(self, store: Store) -> None:
        await _add(store, OLD)
        async with store.transactions() as tx, asyncio.timeout(AT_ONCE):
            assert list(await tx.signing_keys.all()) == [OLD]
            await tx.signing_keys.remove(OLD.kid)
            await tx.signing_keys.add(NEW)
            assert list(await tx.signing_keys.all()) == [NEW]
            assert list(await store.people.signing_keys()) == [OLD]
        assert list(await store.people.signing_keys()) == [NEW]

    async def test_of_many_at_once_one_makes_the_first(self, store: Store) -> None:
        async def make_first(number: int) -> SigningKey:
            async with store.transactions() as tx:
                if keys := await tx.signing_keys.all():
                    return keys[0]
                await asyncio.sleep(0)
                key = msgspec.structs.replace(NEW, kid=str(number))
                await tx.signing_keys.add(key)
                return key

        made = await asyncio.gather(*map(make_first, range(15)))
        assert await _all(store) == made[:1]
        assert {key.kid for key in made} == {made[0].kid}

    async def test_each_finds_what_the_one_before_has_left(self, store: Store) -> None:
        await _add(store, msgspec.structs.replace(NEW, kid="first"))
        found: list[str] = []

        async def rotate(number: int) -> None:
            async with store.transactions() as tx:
                (old,) = await tx.signing_keys.all()
                found.append(old.kid)
                await asyncio.sleep(0)
                await tx.signing_keys.remove(old.kid)
                await tx.signing_keys.add(msgspec.structs.replace(NEW, kid=str(number)))

        await asyncio.gather(*map(rotate, range(15)))
        (last,) = await _all(store)
        assert sorted([*found, last.kid]) == sorted(["first", *map(str, range(15))])

    @pytest.mark.parametrize("change", ["add", "replace", "remove"])
    async def test_nobody_changes_one_while_somebody_has_them(self, store: Store, change: str) -> None:
        await _add(store, OLD)
        changes = {
            "add": lambda: _add(store, NEW),
            "replace": lambda: _end(store, OLD, None),
            "remove": lambda: _remove(store, OLD),
        }
        async with store.transactions() as tx:
            assert list(await tx.signing_keys.all()) == [OLD]
            changing = asyncio.create_task(changes[change]())
            async with asyncio.timeout(AT_ONCE):
                for _ in range(20):
                    await asyncio.sleep(0)
                    assert list(await store.people.signing_keys()) == [OLD]
            assert list(await tx.signing_keys.all()) == [OLD]
        await asyncio.wait_for(changing, AT_ONCE)
        assert await _all(store) != [OLD]


async def _end(store: Store, key: SigningKey, ends_at: dt.datetime | None) -> None:
    async with store.transactions() as tx:
        await tx.signing_keys.replace(msgspec.structs.replace(key, ends_at=ends_at))


async def _remove(store: Store, key: SigningKey) -> None:
    async with store.transactions() as tx:
        await tx.signing_keys.remove(key.kid)
