"""What the API keys of a store promise."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from watchly_adapters.testing.stores import (
    AT_ONCE,
    HASH,
    LATER,
    NOON,
    Failure,
    Store,
    StoreContract,
    add_user,
)
from watchly_adapters.testing.users import NO_IDS
from watchly_core.api_keys import ApiKey
from watchly_core.errors import ApiKeyNotFound, Unavailable
from watchly_core.people import Account, Role, User

__all__ = ["ApiKeyContract"]


def _key(prefix: str, owner: User | None = None, revoked_at: dt.datetime | None = None) -> ApiKey:
    digest = b"\x00digest\xff" + prefix.encode()
    user_id = None if owner is None else owner.id
    return ApiKey(0, f"key {prefix}", Role.EDITOR, prefix, digest, user_id, NOON, revoked_at=revoked_at)


async def _add(store: Store, key: ApiKey) -> ApiKey:
    async with store.transactions() as tx:
        return await tx.api_keys.add(key)


class ApiKeyContract(StoreContract):
    """API keys. Supply `store`."""

    async def test_a_key_comes_back_as_it_is_with_its_owner(self, store: Store) -> None:
        ada = await add_user(store)
        full = ApiKey(
            7,
            "„nightly import“ 🎬 '--%s",
            Role.ADMIN,
            "0123456789ab",
            bytes(range(256)),
            ada.id,
            NOON,
            LATER,
            LATER + dt.timedelta(microseconds=1),
            LATER + dt.timedelta(days=9_999),
        )
        bare = ApiKey(0, "", Role.VIEWER, "ba9876543210", b"", None, NOON)
        for key, owner in ((full, ada), (bare, None)):
            added = await _add(store, key)
            assert added.id > 0
            assert added == msgspec.structs.replace(key, id=added.id)
            assert await store.people.api_key(key.prefix) == (added, owner)
            async with store.transactions() as tx:
                assert await tx.api_keys.get(added.id) == added

    async def test_a_key_has_an_id_that_no_key_had_before(self, store: Store) -> None:
        first = await _add(store, msgspec.structs.replace(_key("a"), id=2**31 - 1))
        again = await _add(store, msgspec.structs.replace(_key("b"), id=first.id))
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                undone = await tx.api_keys.add(_key("c"))
                raise Failure
        last = await _add(store, msgspec.structs.replace(_key("d"), id=1))
        assert 0 < first.id < again.id < undone.id < last.id < 2**31 - 1
        assert list(await store.people.api_keys(None)) == [first, again, last]

    async def test_the_owner_is_as_it_is_now(self, store: Store) -> None:
        user = await add_user(store)
        key = await _add(store, _key("a", user))
        changed = msgspec.structs.replace(user, role=Role.VIEWER, version=2)
        async with store.transactions() as tx:
            await tx.users.replace(Account(changed, HASH))
        assert await store.people.api_key("a") == (key, changed)

    @pytest.mark.parametrize("key_id", NO_IDS)
    async def test_any_integer_may_be_asked_for(self, store: Store, key_id: int) -> None:
        async with store.transactions() as tx:
            with pytest.raises(ApiKeyNotFound):
                await tx.api_keys.get(key_id)

    async def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        key = await _add(store, _key("abcdef"))
        async with store.transactions() as tx:
            with pytest.raises(ApiKeyNotFound):
                await tx.api_keys.replace(msgspec.structs.replace(key, id=key.id + 1))
        for prefix in ("", "abcde", "ABCDEF", "abcdef0"):
            assert await store.people.api_key(prefix) is None
        assert await store.people.api_key("abcdef") == (key, None)

    async def test_an_id_is_never_given_twice(self, store: Store) -> None:
        owner = await add_user(store)
        first, removed = await _add(store, _key("a")), await _add(store, _key("b", owner))
        async with store.transactions() as tx:
            await tx.users.remove(owner.id)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                undone = await tx.api_keys.add(_key("c"))
                raise Failure
        again = await _add(store, _key("d"))
        assert len({first.id, removed.id, undone.id, again.id}) == 4

    async def test_a_prefix_is_of_one_key(self, store: Store) -> None:
        key = await _add(store, _key("a", revoked_at=LATER))
        with pytest.raises(Unavailable):
            async with store.transactions() as tx:
                await tx.api_keys.add(_key("b"))
                await tx.api_keys.add(_key("a"))
        assert await store.people.api_key("a") == (key, None)
        assert await store.people.api_key("b") is None

    async def test_replace_stores_every_field(self, store: Store) -> None:
        owner = await add_user(store)
        key, other = await _add(store, _key("a")), await _add(store, _key("b"))
        changed = ApiKey(key.id, "new", Role.VIEWER, "c", b"new", owner.id, LATER, NOON, NOON, LATER)
        async with store.transactions() as tx:
            await tx.api_keys.replace(changed)
            assert await tx.api_keys.get(key.id) == changed
        assert await store.people.api_key("c") == (changed, owner)
        assert await store.people.api_key("a") is None
        async with store.transactions() as tx:
            await tx.api_keys.replace(key)
        assert await store.people.api_key("a") == (key, None)
        assert await store.people.api_key("b") == (other, None)

    async def test_keys_are_listed_by_owner_unless_they_are_revoked(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@films.example")
        keys = {
            prefix: await _add(store, _key(prefix, owner, revoked_at))
            for prefix, owner, revoked_at in (
                ("f", ada, None),
                ("e", None, None),
                ("d", grace, None),
                ("c", None, LATER),
                ("b", ada, LATER),
                ("a", ada, None),
                ("g", ada, None),
            )
        }
        for owner, prefixes in ((ada, "fag"), (grace, "d"), (None, "e")):
            wanted = sorted((keys[prefix] for prefix in prefixes), key=lambda key: key.id)
            assert list(await store.people.api_keys(None if owner is None else owner.id)) == wanted
        assert list(await store.people.api_keys(grace.id + 1)) == []

    async def test_a_revoked_key_is_kept(self, store: Store) -> None:
        key = await _add(store, _key("a"))
        revoked = msgspec.structs.replace(key, revoked_at=LATER)
        async with store.transactions() as tx:
            await tx.api_keys.replace(revoked)
        async with store.transactions() as tx:
            assert await tx.api_keys.get(key.id) == revoked
            assert await tx.api_keys.count(None) == 1
        assert await store.people.api_key("a") == (revoked, None)

    async def test_keys_are_counted_by_their_owner(self, store: Store) -> None:
        ada, grace = await add_user(store, "ada@films.example"), await add_user(store, "grace@films.example")
        for prefix, owner in (("a", ada), ("b", ada), ("c", grace), ("d", None)):
            await _add(store, _key(prefix, owner, LATER if prefix == "b" else None))
        async with store.transactions() as tx:
            counts = [await tx.api_keys.count(each) for each in (ada.id, grace.id, None, grace.id + 7)]
        assert counts == [2, 1, 1, 0]

    async def test_keys_of_users_that_ended_are_dropped_some_at_a_time(self, store: Store) -> None:
        ada = await add_user(store, "ada@films.example")
        before = LATER + dt.timedelta(microseconds=1)
        ended = {"revoked": (ada, LATER, None), "past": (ada, None, LATER), "both": (ada, before, NOON)}
        kept = {
            "good": (ada, None, None),
            "to end": (ada, None, before),
            "just revoked": (ada, before, None),
            "nobody's": (None, NOON, NOON),
        }
        for prefix, (owner, revoked_at, expires_at) in {**ended, **kept}.items():
            key = _key(prefix, owner, revoked_at)
            await _add(store, msgspec.structs.replace(key, expires_at=expires_at))

        async def expire(limit: int) -> int:
            async with store.transactions() as tx:
                return await tx.api_keys.expire(before, limit)

        assert [await expire(2), await expire(2), await expire(2)] == [2, 1, 0]
        assert [prefix for prefix in ended if await store.people.api_key(prefix)] == []
        assert [prefix for prefix in kept if await store.people.api_key(prefix)] == list(kept)

    async def test_a_key_that_was_got_is_held_until_the_end(self, store: Store) -> None:
        key = await _add(store, _key("a"))

        async def use() -> None:
            async with store.transactions() as tx:
                held = await tx.api_keys.get(key.id)
                await asyncio.sleep(0)
                used = (held.last_used_at or NOON) + dt.timedelta(seconds=1)
                await tx.api_keys.replace(msgspec.structs.replace(held, last_used_at=used))

        await asyncio.gather(*(use() for _ in range(25)))
        used = msgspec.structs.replace(key, last_used_at=NOON + dt.timedelta(seconds=25))
        assert await store.people.api_key("a") == (used, None)

    async def test_of_many_who_count_at_once_one_adds_the_first(self, store: Store) -> None:
        async def add_first(prefix: str) -> bool:
            async with store.transactions() as tx:
                if await tx.api_keys.count(None):
                    return False
                await asyncio.sleep(0)
                await tx.api_keys.add(_key(prefix))
                return await tx.api_keys.count(None) == 1

        assert sum(await asyncio.gather(*(add_first(str(number)) for number in range(15)))) == 1
        assert len(await store.people.api_keys(None)) == 1

    async def test_nobody_adds_a_key_while_they_are_counted(self, store: Store) -> None:
        await _add(store, _key("a"))
        async with store.transactions() as tx:
            assert await tx.api_keys.count(None) == 1
            adding = asyncio.create_task(_add(store, _key("b")))
            async with asyncio.timeout(AT_ONCE):
                for _ in range(20):
                    await asyncio.sleep(0)
                    assert len(await store.people.api_keys(None)) == 1
            assert await tx.api_keys.count(None) == 1
        await asyncio.wait_for(adding, AT_ONCE)
        assert len(await store.people.api_keys(None)) == 2

    async def test_nobody_sees_what_is_not_committed_or_waits_for_it(self, store: Store) -> None:
        key = await _add(store, _key("a"))
        async with store.transactions() as tx, asyncio.timeout(AT_ONCE):
            await tx.api_keys.get(key.id)
            await tx.api_keys.replace(msgspec.structs.replace(key, revoked_at=LATER))
            new = await tx.api_keys.add(_key("b"))
            assert await tx.api_keys.count(None) == 2
            assert await store.people.api_key("a") == (key, None)
            assert await store.people.api_key("b") is None
            assert list(await store.people.api_keys(None)) == [key]
        assert list(await store.people.api_keys(None)) == [new]

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        key = await _add(store, _key("a"))
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.api_keys.add(_key("b"))
                await tx.api_keys.replace(msgspec.structs.replace(key, revoked_at=LATER))
                raise Failure
        assert list(await store.people.api_keys(None)) == [key]
        async with store.transactions() as tx:
            assert await tx.api_keys.count(None) == 1
