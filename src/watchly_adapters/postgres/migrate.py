"""Bringing a database's schema up to date with the numbered files in `migrations/`.

Each file is applied once, in one transaction, and noted in the table `watchly_migrations`. An earlier
version of Watchly, and the system that the table comes from, keep running meanwhile: a file only adds,
and waits for a lock no longer than `lock_timeout`, so that it never makes others queue behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final

import msgspec
import psycopg

from watchly_adapters.postgres.pool import START_WAIT, Connection, connect, translated
from watchly_core.errors import Misconfigured, Unavailable

#: The advisory lock that one migrator holds at a time: "watchly" as a number.
_LOCK: Final = 0x7761_7463_686C_79
#: Seconds to wait for another migrator, and then for the locks of the tables.
_WAIT: Final = 60.0
_INTERVAL: Final = 0.2
#: While a migration waits for a table everybody else waits behind it: so it does for a moment, seldom.
_SET_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '500ms'"
_LOCK_INTERVAL: Final = 2.0

_CREATE: Final = """
    CREATE TABLE IF NOT EXISTS watchly_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
_APPLIED: Final = "SELECT number FROM watchly_migrations"
_NOTE: Final = "INSERT INTO watchly_migrations (number, name) VALUES (%s, %s)"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%s)"


class Migration(msgspec.Struct, frozen=True):
    """One numbered file."""

    number: int
    name: str
    statements: bytes


def migrations() -> list[Migration]:
    """All migrations in their order."""
    found = []
    for file in files("watchly_adapters.postgres").joinpath("migrations").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_bytes()))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(url: str, *, wait: float = START_WAIT) -> list[str]:
    """Apply what is missing; returns the names of what was applied, such as ``0001_movies``.

    Any number of processes may call it at once. A table `movies` of an older system is adopted in
    place, with its rows.

    Args:
        url: a PostgreSQL URL or conninfo string.
        wait: seconds to try for while the server cannot be reached.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server, or a lock, could not be had in time; what was applied so far stays.
    """
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            deadline = asyncio.get_running_loop().time() + _WAIT
            await _lock(connection, deadline)
            await _require_utf8(connection)
            with _refused("this database cannot be migrated"):
                await connection.execute(_CREATE)
            applied = await _applied(connection)
            missing = [migration for migration in migrations() if migration.number not in applied]
            for migration in missing:
                await _apply(connection, migration, deadline)
            return [_label(migration) for migration in missing]


async def pending(url: str, *, wait: float = START_WAIT) -> list[str]:
    """The names of the migrations that `migrate` would apply; nothing is changed.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time.
    """
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            cursor = await connection.execute("SELECT to_regclass('watchly_migrations') IS NOT NULL")
            noted = await cursor.fetchone() == (True,)
            applied = await _applied(connection) if noted else set()
            return [_label(migration) for migration in migrations() if migration.number not in applied]


async def _applied(connection: Connection) -> set[int]:
    return {number for (number,) in await (await connection.execute(_APPLIED)).fetchall()}


async def _lock(connection: Connection, deadline: float) -> None:
    # Polled: a session that waits inside pg_advisory_lock deadlocks with CREATE INDEX CONCURRENTLY.
    while True:
        cursor = await connection.execute(_TRY_LOCK, (_LOCK,))
        if await cursor.fetchone() == (True,):
            return
        await _pause(deadline, _INTERVAL, "another process has been migrating this database for too long")


async def _apply(connection: Connection, migration: Migration, deadline: float) -> None:
    while True:
        try:
            with _refused(f"migration {_label(migration)} cannot be applied to this database"):
                async with connection.transaction():
                    await connection.execute(_SET_LOCK_TIMEOUT)
                    await connection.execute(migration.statements)
                    await connection.execute(_NOTE, (migration.number, migration.name))
        except psycopg.errors.LockNotAvailable:
            await _pause(deadline, _LOCK_INTERVAL, f"migration {_label(migration)} could not lock its table")
        else:
            return


async def _require_utf8(connection: Connection) -> None:
    cursor = await connection.execute("SELECT current_setting('server_encoding')")
    row = await cursor.fetchone()
    if row != ("UTF8",):
        raise Misconfigured(
            "DATABASE_URL: the encoding of this database must be UTF8, so that it holds any text"
        )


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Say in one line why the server takes no such change: a right is missing, or a table is another one."""
    try:
        yield
    except psycopg.ProgrammingError as error:
        raise Misconfigured(f"DATABASE_URL: {what}: {str(error).splitlines()[0]}") from error


async def _pause(deadline: float, seconds: float, reason: str) -> None:
    if asyncio.get_running_loop().time() + seconds > deadline:
        raise Unavailable("database", f"{reason} (waited {_WAIT:g} s); try again when it is quieter")
    await asyncio.sleep(seconds)


def _label(migration: Migration) -> str:
    return f"{migration.number:04}_{migration.name}"
