"""What the sessions of a store promise."""

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
from watchly_core.people import Account, Role, User
from watchly_core.sessions import Session

__all__ = ["SessionContract"]


def _session(user: User, name: str = "one", expires_at: dt.datetime = LATER) -> Session:
    return Session(name, user.id, b"\x00handle\xff" + name.encode(), b"\xff\x00", NOON, NOON, expires_at)


async def _add(store: Store, *sessions: Session) -> None:
    async with store.transactions() as tx:
        for session in sessions:
            await tx.sessions.add(session)


async def _get(store: Store, session: Session) -> tuple[Session, User] | None:
    async with store.transactions() as tx:
        return await tx.sessions.get(session.handle)


class SessionContract(StoreContract):
    """Sessions. Supply `store`."""

    async def test_a_session_comes_back_as_it_is_with_its_user(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@exämple.test", Role.VIEWER)
        sessions = {
            Session("one", ada.id, bytes(range(256)), b"", NOON, LATER, LATER + dt.timedelta(days=30)): ada,
            Session("two", ada.id, b"", b"\x00" * 32, LATER, LATER, LATER): ada,
            Session("é 🎬", grace.id, b"\\x00", b"\\", NOON, NOON, LATER): grace,
        }
        await _add(store, *sessions)
        for session, user in sessions.items():
            assert await _get(store, session) == (session, user)
            assert await store.people.session_user(session.id) == user

    async def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        session = _session(await add_user(store))
        await _add(store, session)
        async with store.transactions() as tx:
            for handle in (b"", b"\x00", session.handle[:-1], session.handle + b"\x00", session.secret):
                assert await tx.sessions.get(handle) is None
        for session_id in ("", "ONE", "one ", "o"):
            assert await store.people.session_user(session_id) is None

    async def test_the_user_is_as_it_is_now(self, store: Store) -> None:
        user = await add_user(store)
        session = _session(user)
        await _add(store, session)
        changed = msgspec.structs.replace(user, email="b@films.example", role=Role.ADMIN, version=2)
        async with store.transactions() as tx:
            await tx.users.replace(Account(changed, HASH))
        assert await _get(store, session) == (session, changed)
        assert await store.people.session_user(session.id) == changed

    async def test_replace_stores_every_field(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@films.example")
        session, other = _session(ada), _session(ada, "two")
        await _add(store, session, other)
        later = LATER + dt.timedelta(days=30)
        changed = Session("one", grace.id, b"new handle", b"new secret", LATER, LATER, later)
        async with store.transactions() as tx:
            await tx.sessions.replace(changed)
            assert await tx.sessions.get(b"new handle") == (changed, grace)
        assert await _get(store, changed) == (changed, grace)
        assert await _get(store, session) is None
        assert await _get(store, other) == (other, ada)

    async def test_what_has_ended_is_not_replaced(self, store: Store) -> None:
        session = _session(await add_user(store))
        await _add(store, session)
        async with store.transactions() as tx:
            await tx.sessions.remove(session.id)
            await tx.sessions.replace(session)
        async with store.transactions() as tx:
            await tx.sessions.replace(session)
        assert await _get(store, session) is None
        assert await store.people.session_user(session.id) is None

    async def test_ending_one_twice_is_no_error(self, store: Store) -> None:
        user = await add_user(store)
        session, other = _session(user), _session(user, "two")
        await _add(store, session, other)
        for _ in range(2):
            async with store.transactions() as tx:
                await tx.sessions.remove(session.id)
        assert await _get(store, session) is None
        assert await store.people.session_user(session.id) is None
        assert await _get(store, other) == (other, user)

    async def test_all_sessions_of_one_user_end_together(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@films.example")
        mine, other = [_session(ada, name) for name in ("one", "two", "three")], _session(grace, "other")
        await _add(store, *mine, other)
        for _ in range(2):
            async with store.transactions() as tx:
                await tx.sessions.remove_all(ada.id)
        assert [await _get(store, session) for session in mine] == [None] * 3
        assert await _get(store, other) == (other, grace)

    async def test_those_that_went_on_last_are_kept(self, store: Store) -> None:
        ada, grace = await add_user(store), await add_user(store, "grace@films.example")
        used = {"a": LATER, "b": NOON, "c": LATER + dt.timedelta(days=1), "d": LATER}
        mine = {
            name: msgspec.structs.replace(_session(ada, name), rotated_at=at) for name, at in used.items()
        }
        other = _session(grace, "other")
        await _add(store, *mine.values(), other)
        for keep, kept in ((9, "abcd"), (4, "abcd"), (3, "acd"), (2, "ac"), (0, "")):
            async with store.transactions() as tx:
                await tx.sessions.trim(ada.id, keep)
            assert [name for name, session in mine.items() if await _get(store, session)] == list(kept)
        assert await _get(store, other) == (other, grace)

    async def test_what_ended_by_itself_is_dropped(self, store: Store) -> None:
        user = await add_user(store)
        sessions = [_session(user, str(n), NOON + dt.timedelta(minutes=n)) for n in range(5)]
        await _add(store, *sessions)
        now = NOON + dt.timedelta(minutes=3)

        async def expire(limit: int) -> int:
            async with store.transactions() as tx:
                return await tx.sessions.expire(now, limit)

        assert await _get(store, sessions[0]) is not None
        assert [await expire(3), await expire(3), await expire(3)] == [3, 1, 0]
        assert [await _get(store, session) for session in sessions] == [None] * 4 + [(sessions[4], user)]

    async def test_a_failed_block_leaves_no_trace(self, store: Store) -> None:
        user = await add_user(store)
        kept, ended, new = (_session(user, name) for name in ("kept", "ended", "new"))
        await _add(store, kept, ended)
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.sessions.add(new)
                await tx.sessions.replace(msgspec.structs.replace(kept, secret=b"another"))
                await tx.sessions.remove(ended.id)
                raise Failure
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                await tx.sessions.remove_all(user.id)
                raise Failure
        with pytest.raises(Failure):
            async with store.transactions() as tx:
                assert await tx.sessions.expire(LATER, 10) == 2
                raise Failure
        assert await _get(store, kept) == (kept, user)
        assert await _get(store, ended) == (ended, user)
        assert await _get(store, new) is None

    async def test_nobody_sees_what_is_not_committed_or_waits_for_it(self, store: Store) -> None:
        user = await add_user(store)
        old, new = _session(user), _session(user, "new")
        await _add(store, old)
        async with store.transactions() as tx, asyncio.timeout(AT_ONCE):
            await tx.sessions.get(old.handle)
            await tx.sessions.remove(old.id)
            await tx.sessions.add(new)
            assert await tx.sessions.get(old.handle) is None
            assert await tx.sessions.get(new.handle) == (new, user)
            assert await store.people.session_user(old.id) == user
            assert await store.people.session_user(new.id) is None
        assert await store.people.session_user(old.id) is None
        assert await store.people.session_user(new.id) == user

    async def test_the_user_of_a_session_is_not_held(self, store: Store) -> None:
        """But where all take turns."""
        user = await add_user(store)
        session = _session(user)
        await _add(store, session)

        async def account() -> Account:
            async with store.transactions() as tx:
                return await tx.users.get(user.id)

        async with store.transactions() as tx:
            await tx.sessions.get(session.handle)
            getting = asyncio.create_task(account())
            done, _ = await asyncio.wait({getting}, timeout=0.2 if self.in_turn else AT_ONCE)
            assert bool(done) != self.in_turn
        assert await asyncio.wait_for(getting, AT_ONCE) == Account(user, HASH)

    async def test_of_many_uses_at_once_one_rotates(self, store: Store) -> None:
        session = _session(await add_user(store))
        await _add(store, session)
        rotated: list[bytes] = []

        async def rotate(secret: bytes) -> None:
            async with store.transactions() as tx:
                found = await tx.sessions.get(session.handle)
                assert found is not None
                await asyncio.sleep(0)
                if found[0].secret == session.secret:
                    rotated.append(secret)
                    await tx.sessions.replace(msgspec.structs.replace(found[0], secret=secret))

        await asyncio.gather(*(rotate(b"%d" % number) for number in range(50)))
        found = await _get(store, session)
        assert found is not None
        assert rotated == [found[0].secret]

    async def test_of_many_at_once_one_finds_what_each_ends(self, store: Store) -> None:
        session = _session(await add_user(store))
        await _add(store, session)

        async def end() -> bool:
            async with store.transactions() as tx:
                found = await tx.sessions.get(session.handle)
                await asyncio.sleep(0)
                await tx.sessions.remove(session.id)
                return found is not None

        assert sum(await asyncio.gather(*(end() for _ in range(15)))) == 1
