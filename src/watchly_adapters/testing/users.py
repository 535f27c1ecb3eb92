"""What the users of a store promise."""

from __future__ import annotations

import asyncio

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
from watchly_core.api_keys import ApiKey
from watchly_core.errors import ApiKeyNotFound, EmailTaken, UserNotFound
from watchly_core.people import Account, Role, User
from watchly_core.sessions import Session

__all__ = ["UserContract"]

#: Integers of which none is the id of anything in an empty store.
NO_IDS = [0, -1, 1, 2_147_483_647, 2_147_483_648, 2**63, 2**100, -(2**100)]


class UserContract(StoreContract):
    """Users. Supply `store`."""

    @pytest.mark.parametrize("role", Role)
    @pytest.mark.parametrize(
        "email",
        [
            "ada@films.example",
            "zoë+films@exämple.test",
            "🎬@映画.example",
            "'--%s{}$1@films.example",
            "a@b" * 80,
        ],
    )
    async def test_a_user_comes_back_as_it_is(self, store: Store, email: str, role: Role) -> None:
        async with store.transactions() as tx:
            user = await tx.users.add(email, role, HASH, NOON)
            assert await tx.users.get(user.id) == Account(user, HASH)
        assert user == User(user.id, email, role, NOON, 1)
        assert user.id > 0
        assert await store.people.user(user.id) == user
        assert await store.people.account(email) == Account(user, HASH)
        async with store.transactions() as tx:
            account = await tx.users.get(user.id)
        assert account == Account(user, HASH)
        assert account.user.created_at.utcoffset() == NOON.utcoffset()

    @pytest.mark.parametrize("user_id", NO_IDS)
    async def test_any_integer_may_be_asked_for(self, store: Store, user_id: int) -> None:
        with pytest.raises(UserNotFound):
            await store.people.user(user_id)
        async with store.transactions() as tx:
            with pytest.raises(UserNotFound):
                await tx.users.get(user_id)

    @pytest.mark.parametrize(
        "email", ["", "\0", "ada@films.example\0", "\ud800", "ADA@films.example", "ada", "x" * 100_000, "%"]
    )
    async def test_any_text_may_be_asked_for(self, store: Store, email: str) -> None:
        await add_user(store)
        assert await store.people.account(email) is None

    async def test_users_are_listed_by_their_ids(self, store: Store) -> None:
        users = [await add_user(store, f"{name}@films.example") for name in "ebdac"]
        users.sort(key=lambda user: user.id)
        assert list(await store.people.users(0, 50)) == users
        assert list(await store.people.users(0, 2)) == users[:2]
        assert list(await store.people.users(users[1].id, 2)) == users[2:4]
        assert list(await store.people.users(users[-1].id, 2)) == []

    async def test_an_id_is_never_given_twice(self, store: Store) -> None:
        first, removed = await add_user(store), await add_user(store, "b@films.example")
        async with store.transactions() as tx:
            await tx.users.remove(removed.id)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                undone = await tx.users.add("c@films.example", Role.VIEWER, HASH, NOON)
                raise Failure
        again = await add_user(store, "b@films.example")
        assert len({first.id, removed.id, undone.id, again.id}) == 4

    async def test_replace_stores_all_but_when_it_was_made(self, store: Store) -> None:
        user, other = await add_user(store), await add_user(store, "grace@films.example")
        changed = Account(User(user.id, "ada@exämple.test", Role.ADMIN, LATER, 7), "another hash")
        stored = Account(msgspec.structs.replace(changed.user, created_at=NOON), "another hash")
        async with store.transactions() as tx:
            await tx.users.replace(changed)
            assert await tx.users.get(user.id) == stored
        assert await store.people.user(user.id) == stored.user
        assert await store.people.account("ada@exämple.test") == stored
        assert await store.people.account("ada@films.example") is None
        assert await store.people.user(other.id) == other

    async def test_replacing_or_removing_nobody_is_an_error(self, store: Store) -> None:
        gone = await add_user(store)
        async with store.transactions() as tx:
            await tx.users.remove(gone.id)
            with pytest.raises(UserNotFound):
                await tx.users.get(gone.id)
            with pytest.raises(UserNotFound):
                await tx.users.replace(Account(gone, HASH))
            with pytest.raises(UserNotFound):
                await tx.users.remove(gone.id)
        with pytest.raises(UserNotFound):
            await store.people.user(gone.id)
        assert await store.people.account(gone.email) is None
        assert list(await store.people.users(0, 50)) == []

    async def test_an_address_is_taken_once(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@films.example")
        with pytest.raises(EmailTaken):
            async with store.transactions() as tx:
                await tx.users.add("new@films.example", Role.VIEWER, HASH, NOON)
                await tx.users.add(ada.email, Role.VIEWER, HASH, NOON)
        with pytest.raises(EmailTaken):
            async with store.transactions() as tx:
                await tx.users.add("new@films.example", Role.VIEWER, HASH, NOON)
                await tx.users.add("new@films.example", Role.VIEWER, HASH, NOON)
        with pytest.raises(EmailTaken):
            async with store.transactions() as tx:
                await tx.users.replace(Account(msgspec.structs.replace(grace, email=ada.email), HASH))
        assert list(await store.people.users(0, 50)) == [ada, grace]
        assert await store.people.account(ada.email) == Account(ada, HASH)

    async def test_an_address_is_free_again_once_nobody_has_it(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@films.example")
        async with store.transactions() as tx:
            await tx.users.remove(ada.id)
            await tx.users.replace(Account(msgspec.structs.replace(grace, email=ada.email), HASH))
            await tx.users.replace(Account(msgspec.structs.replace(grace, email=ada.email, version=2), HASH))
            again = await tx.users.add(grace.email, Role.VIEWER, HASH, NOON)
        assert [user.email for user in await store.people.users(0, 50)] == [ada.email, grace.email]
        assert (await store.people.user(again.id)).email == grace.email

    async def test_of_many_at_once_one_takes_an_address(self, store: Store) -> None:
        made = await asyncio.gather(*(add_user(store) for _ in range(15)), return_exceptions=True)
        users = [user for user in made if isinstance(user, User)]
        assert list(await store.people.users(0, 50)) == users
        assert len(users) == 1
        assert [type(other) for other in made if not isinstance(other, User)] == [EmailTaken] * 14

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        kept, other = await add_user(store), await add_user(store, "grace@films.example")
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.users.add("new@films.example", Role.VIEWER, HASH, NOON)
                await tx.users.replace(Account(msgspec.structs.replace(kept, version=2), "another hash"))
                await tx.users.remove(other.id)
                raise Failure
        assert list(await store.people.users(0, 50)) == [kept, other]
        assert await store.people.account(kept.email) == Account(kept, HASH)
        await add_user(store, "new@films.example")

    async def test_nobody_sees_what_is_not_committed_or_waits_for_it(self, store: Store) -> None:
        before = await add_user(store)
        async with store.transactions() as tx, asyncio.timeout(AT_ONCE):
            await tx.users.admins()
            account = await tx.users.get(before.id)
            after = msgspec.structs.replace(account.user, email="b@films.example", version=2)
            await tx.users.replace(Account(after, "another hash"))
            assert await store.people.user(before.id) == before
            assert await store.people.account(before.email) == account
            assert await store.people.account(after.email) is None
            assert list(await store.people.users(0, 50)) == [before]
        assert await store.people.user(before.id) == after

    async def test_a_user_that_was_got_is_held_until_the_end(self, store: Store) -> None:
        user = await add_user(store)

        async def raise_version() -> None:
            async with store.transactions() as tx:
                account = await tx.users.get(user.id)
                await asyncio.sleep(0)
                raised = msgspec.structs.replace(account.user, version=account.user.version + 1)
                await tx.users.replace(Account(raised, account.password_hash))

        await asyncio.gather(*(raise_version() for _ in range(25)))
        assert (await store.people.user(user.id)).version == 26

    async def test_the_administrators_by_their_ids(self, store: Store) -> None:
        roles = [Role.ADMIN, Role.VIEWER, Role.ADMIN, Role.EDITOR, Role.ADMIN]
        users = [await add_user(store, f"{n}@films.example", role) for n, role in enumerate(roles)]
        wanted = sorted(user.id for user in users if user.role is Role.ADMIN)
        async with store.transactions() as tx:
            assert list(await tx.users.admins()) == wanted
            await tx.users.remove(wanted[0])
            assert list(await tx.users.admins()) == wanted[1:]

    async def test_of_administrators_who_leave_at_once_one_stays(self, store: Store) -> None:
        users = [await add_user(store, f"{number}@films.example", Role.ADMIN) for number in range(6)]

        async def leave(user: User) -> None:
            async with store.transactions() as tx:
                if list(await tx.users.admins()) == [user.id]:
                    return
                account = await tx.users.get(user.id)
                viewer = msgspec.structs.replace(account.user, role=Role.VIEWER)
                await tx.users.replace(Account(viewer, account.password_hash))

        await asyncio.gather(*map(leave, users))
        async with store.transactions() as tx:
            assert len(await tx.users.admins()) == 1

    async def test_one_transaction_at_a_time_gets_the_administrators(self, store: Store) -> None:
        async def administrators() -> list[int]:
            async with store.transactions() as tx:
                return list(await tx.users.admins())

        async with store.transactions() as tx:
            assert list(await tx.users.admins()) == []
            admin = await tx.users.add("ada@films.example", Role.ADMIN, HASH, NOON)
            waiting = asyncio.create_task(administrators())
            async with asyncio.timeout(AT_ONCE):
                for _ in range(20):
                    await asyncio.sleep(0)
                    assert list(await store.people.users(0, 50)) == []
        assert await asyncio.wait_for(waiting, AT_ONCE) == [admin.id]

    async def test_a_user_goes_with_all_sessions_and_keys(self, store: Store) -> None:
        gone, stays = await add_user(store), await add_user(store, "grace@films.example")
        owners = {"gone": gone.id, "also gone": gone.id, "stays": stays.id, "nobody": None}
        keys: dict[str, ApiKey] = {}
        async with store.transactions() as tx:
            for name, owner in owners.items():
                key = ApiKey(0, name, Role.VIEWER, name, b"digest", owner, NOON)
                keys[name] = await tx.api_keys.add(key)
                if owner is not None:
                    handle = name.encode()
                    await tx.sessions.add(Session(name, owner, handle, b"secret", NOON, NOON, LATER))
        async with store.transactions() as tx:
            await tx.users.remove(gone.id)
        async with store.transactions() as tx:
            assert await tx.sessions.get(b"gone") is None
            assert await tx.sessions.get(b"also gone") is None
            for name in ("gone", "also gone"):
                with pytest.raises(ApiKeyNotFound):
                    await tx.api_keys.get(keys[name].id)
            counts = [await tx.api_keys.count(owner) for owner in (gone.id, stays.id, None)]
            assert counts == [0, 1, 1]
            # Not even for those who drop them.
            assert await tx.api_keys.expire(LATER, 10) == 0
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                assert await tx.sessions.expire(LATER, 10) == 1
                raise Failure
        assert await store.people.session_user("gone") is None
        assert await store.people.api_key("gone") is None
        assert list(await store.people.api_keys(gone.id)) == []
        assert await store.people.session_user("stays") == stays
        assert await store.people.api_key("stays") == (keys["stays"], stays)
        assert await store.people.api_key("nobody") == (keys["nobody"], None)
