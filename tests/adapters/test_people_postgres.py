"""People in PostgreSQL: what its clients see of times, and of who holds what."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Final, LiteralString

import msgspec
import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from watchly_adapters.postgres import PostgresDatabase, PostgresTransaction
from watchly_adapters.testing.stores import AT_ONCE, HASH, LATER, NOON, add_user
from watchly_core.api_keys import ApiKey
from watchly_core.people import Account, Role
from watchly_core.sessions import Session
from watchly_core.signing_keys import SigningKey

pytestmark = pytest.mark.anyio

KEY: Final = ApiKey(0, "import", Role.EDITOR, "prefix", b"\x00\\", None, NOON, LATER, LATER, LATER)
SIGNING_KEY: Final = SigningKey("kid", b"\x00\\", NOON, NOON, LATER)

HELD: Final[dict[str, LiteralString]] = {
    "session": "SELECT FROM watchly_sessions FOR KEY SHARE NOWAIT",
    "user": "SELECT FROM watchly_users FOR UPDATE NOWAIT",
}


def held(url: str) -> set[str]:
    """Which rows somebody holds."""
    found = set()
    for name, query in HELD.items():
        with psycopg.connect(url) as connection:
            try:
                connection.execute(query)
            except errors.LockNotAvailable:
                found.add(name)
    return found


def moments(value: msgspec.Struct) -> list[dt.datetime]:
    return [field for field in msgspec.structs.astuple(value) if isinstance(field, dt.datetime)]


@pytest.mark.parametrize(
    "options",
    ["-c TimeZone=Asia/Kolkata", "-c DateStyle=German,DMY -c bytea_output=escape"],
    ids=["kolkata", "german"],
)
async def test_people_are_the_same_in_the_session_of_a_host(
    database_url: str, postgres: PostgresDatabase, options: str
) -> None:
    url = make_conninfo(database_url, options=options)
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        tx = PostgresTransaction(connection)
        user = await tx.users.add("zoë@films.example", Role.ADMIN, HASH, NOON)
        session = Session("one", user.id, b"\x00\\", b"\\x00", NOON, LATER, LATER)
        await tx.sessions.add(session)
        key = await tx.api_keys.add(msgspec.structs.replace(KEY, user_id=user.id))
        await tx.signing_keys.add(SIGNING_KEY)
        found = await tx.sessions.get(session.handle)
        assert found == (session, user)
        assert await tx.users.get(user.id) == Account(user, HASH)
        assert await tx.users.admins() == [user.id]
        assert await tx.api_keys.get(key.id) == key
        assert await tx.api_keys.count(user.id) == 1
        (signing_key,) = await tx.signing_keys.all()
        assert signing_key == SIGNING_KEY
        assert await tx.throttles.take("bucket", 1, NOON, LATER) is None
        again = await tx.throttles.take("bucket", 1, NOON, LATER)
        assert again == LATER
        assert await tx.throttles.find("bucket", NOON)
    read = [again, *moments(user), *moments(found[0]), *moments(key), *moments(signing_key)]
    assert len(read) == 12
    assert {moment.tzinfo for moment in read} == {dt.UTC}
    assert await postgres.people.account(user.email) == Account(user, HASH)
    assert await postgres.people.session_user("one") == user
    assert await postgres.people.api_key("prefix") == (key, user)
    assert await postgres.people.signing_keys() == [SIGNING_KEY]


async def test_the_settings_of_a_database_change_no_answer_about_people(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c TimeZone=Asia/Kolkata -c DateStyle=German,DMY")
    async with PostgresDatabase(url) as database:
        user = await add_user(database)
        async with database.transactions() as tx:
            await tx.api_keys.add(msgspec.structs.replace(KEY, user_id=user.id, revoked_at=None))
            await tx.signing_keys.add(SIGNING_KEY)
        (key,) = await database.people.api_keys(user.id)
        (signing_key,) = await database.people.signing_keys()
        found = await database.people.user(user.id)
        assert found == user
        for value in (found, key, signing_key):
            assert {moment.tzinfo for moment in moments(value)} == {dt.UTC}


async def test_a_session_is_held_without_its_user(database_url: str, postgres: PostgresDatabase) -> None:
    user = await add_user(postgres)
    session = Session("one", user.id, b"handle", b"secret", NOON, NOON, LATER)
    async with postgres.transactions() as tx:
        await tx.sessions.add(session)
    assert held(database_url) == set()
    async with postgres.transactions() as tx:
        await tx.sessions.get(b"handle")
        await tx.sessions.replace(msgspec.structs.replace(session, secret=b"another"))
        assert held(database_url) == {"session"}
    async with postgres.transactions() as tx:
        await tx.users.get(user.id)
        assert held(database_url) == {"user"}


async def test_what_somebody_holds_is_left_where_old_ones_are_dropped(postgres: PostgresDatabase) -> None:
    user = await add_user(postgres)
    async with postgres.transactions() as tx:
        for name in ("one", "two"):
            handle = name.encode()
            await tx.sessions.add(Session(name, user.id, handle, b"secret", NOON, NOON, NOON))
            await tx.throttles.take(name, 9, NOON, NOON)
    async with postgres.transactions() as busy:
        await busy.sessions.get(b"one")
        await busy.throttles.give_back("one")
        async with asyncio.timeout(AT_ONCE), postgres.transactions() as tx:
            assert await tx.sessions.expire(LATER, 9) == 1
            assert await tx.throttles.expire(LATER, 9) == 1
    async with postgres.transactions() as tx:
        assert await tx.sessions.expire(LATER, 9) == 1
        assert await tx.throttles.expire(LATER, 9) == 1


async def test_keys_that_are_counted_or_rotated_can_be_read(postgres: PostgresDatabase) -> None:
    """Reading goes on while somebody else waits for the lock as well."""
    async with postgres.transactions() as tx:
        key = await tx.api_keys.add(KEY)
        await tx.signing_keys.add(SIGNING_KEY)

    async def lock() -> None:
        async with postgres.transactions() as tx:
            await tx.api_keys.count(None)
            await tx.signing_keys.all()

    async with postgres.transactions() as tx:
        await tx.api_keys.count(None)
        await tx.signing_keys.all()
        waiting = [asyncio.create_task(lock()) for _ in range(3)]
        async with asyncio.timeout(AT_ONCE):
            for _ in range(10):
                assert await postgres.people.api_key("prefix") == (key, None)
                assert await postgres.people.signing_keys() == [SIGNING_KEY]
        assert not any(task.done() for task in waiting)
    await asyncio.wait_for(asyncio.gather(*waiting), AT_ONCE)
