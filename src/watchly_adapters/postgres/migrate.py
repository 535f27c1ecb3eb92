"""Bringing a database's schema up to date with the numbered files in `migrations/`.

Each file is applied once, in one transaction, and noted in the table `watchly_migrations`. An earlier
version of Watchly, and the system that the table comes from, keep running meanwhile: a file only adds,
and waits for a lock no longer than `lock_timeout`, so that it never makes others queue behind it.

A file whose first line says so is applied outside a transaction, statement by statement: it builds
indexes, which takes long and holds nobody up. One that was cut off is begun again: what it has built
stays, and what it left half built is dropped.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Final

import msgspec
import psycopg
from psycopg import sql

from watchly_adapters.postgres.pool import START_WAIT, Connection, connect, translated
from watchly_adapters.postgres.reindex import reindex_rows
from watchly_core.errors import Misconfigured, Unavailable

#: The advisory lock that one migrator holds at a time: "watchly" as a number.
_LOCK: Final = 0x7761_7463_686C_79
#: Seconds to wait for the locks of the tables.
_WAIT: Final = 60.0
#: Seconds to wait for another migrator, which may have a million rows to index, and for transactions that
#: were open before an index is built.
_LONG_WAIT: Final = 600.0
_INTERVAL: Final = 0.2
#: While a migration waits for a table everybody else waits behind it: so it does for a moment, seldom. It is
#: shorter than `deadlock_timeout`: where two wait for each other, it is the migration that gives up.
_SET_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '500ms'"
_LOCK_INTERVAL: Final = 2.0

_CREATE: Final = """/* migrate.create */
    CREATE TABLE IF NOT EXISTS watchly_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
_HAS_BEGUN: Final = """/* migrate.has_begun */
    SELECT to_regclass('watchly_migrations') IS NOT NULL
"""
_APPLIED: Final = "/* migrate.applied */ SELECT number FROM watchly_migrations"
_NOTE: Final = "/* migrate.note */ INSERT INTO watchly_migrations (number, name) VALUES (%s, %s)"
_TRY_LOCK: Final = "/* migrate.try_lock */ SELECT pg_try_advisory_lock(%s)"
_ENCODING: Final = "/* migrate.encoding */ SELECT current_setting('server_encoding')"
# A server's usual limit is one for queries: an index takes as long as it takes. Waiting for locks does not.
# Where the older system gave its times a zone, what is made of them is in UTC.
_SET_TIMEOUTS: Final = """/* migrate.set_timeouts */
    SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', %s, false),
           set_config('TimeZone', 'UTC', false)
"""
# Otherwise a server notices that its client was killed when it has done, and holds the lock until then.
_SET_CHECK: Final = "SET client_connection_check_interval = '5s'"

# The table was there, and the log still is.
_GONE: Final = """/* migrate.gone */
    SELECT to_regclass('watchly_migrations') IS NOT NULL AND to_regclass('events') IS NOT NULL
        AND to_regclass('movies') IS NULL
"""
#: What of `schema.sql` goes with the table of movies when it is dropped.
_OF_MOVIES: Final = re.compile(
    r"^CREATE (?:TABLE movies|INDEX \w+ ON movies|TRIGGER \w+ BEFORE \w+ ON movies)\s.*?;$",
    re.MULTILINE | re.DOTALL,
)

#: The file that makes the columns which `reindex` fills.
_SEARCH: Final = 5

_OUTSIDE: Final = b"-- watchly: outside a transaction\n"
_COMMENT: Final = re.compile(rb"^--.*\n", re.MULTILINE)
_CREATE_INDEX: Final = re.compile(r"CREATE INDEX CONCURRENTLY IF NOT EXISTS (\w+) ON (\w+)\s")
# An index lies in the schema of its table, wherever on the search path that is.
_HALF_BUILT: Final = """/* migrate.half_built */
    SELECT nspname, relname
    FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = %s AND indrelid = to_regclass(%s) AND NOT indisvalid
"""
_DROP: Final = sql.SQL("/* migrate.drop */ DROP INDEX CONCURRENTLY IF EXISTS {}")


class Migration(msgspec.Struct, frozen=True):
    """One numbered file."""

    number: int
    name: str
    statements: bytes

    @property
    def outside(self) -> bool:
        """Whether it is applied outside a transaction."""
        return self.statements.startswith(_OUTSIDE)

    def apart(self) -> list[bytes]:
        """Its statements one by one; each ends with a semicolon at the end of a line."""
        parts = re.split(rb";\s*\n", _COMMENT.sub(b"", self.statements) + b"\n")
        return [part.strip() for part in parts if part.strip()]


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
    place, with its rows. Rows that other programs wrote are made searchable, see `reindex`.

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
            await hold(connection)
            await require_utf8(connection)
            if await _is_gone(connection):
                raise Misconfigured(
                    "DATABASE_URL: the table of movies is gone from this database, but not its log: "
                    "`watchly rebuild --apply` restores it"
                )
            with _refused("this database cannot be migrated"):
                await connection.execute(_CREATE)
            applied = await _applied(connection)
            missing = [migration for migration in migrations() if migration.number not in applied]
            for migration in missing:
                if migration.outside:
                    # Rows are cheaper to fill before there are indexes on what is filled.
                    await _fill(connection)
                    await _build(connection, migration)
                else:
                    await _apply(connection, migration)
            await _fill(connection)
            return [_label(migration) for migration in missing]


async def restore_table(url: str, *, apply: bool, wait: float = START_WAIT) -> bool:
    """Whether the table of movies was dropped while its log stayed; with `apply` it is made anew, empty.

    What other programs had set on it, such as rights, does not come back.

    Raises:
        Misconfigured, Unavailable: as for `migrate`.
    """
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            gone = await _is_gone(connection)
            if gone and apply:
                await hold(connection)
                if not await _is_gone(connection):
                    return True  # somebody else was faster
                schema = files("watchly_adapters.postgres").joinpath("schema.sql").read_text("utf-8")
                with _refused("the table of movies cannot be made anew"):
                    async with connection.transaction():
                        for statement in _OF_MOVIES.findall(schema):
                            await connection.execute(statement.encode())
            return gone


async def _is_gone(connection: Connection) -> bool:
    return await (await connection.execute(_GONE)).fetchone() == (True,)


async def pending(url: str, *, wait: float = START_WAIT) -> list[str]:
    """The names of the migrations that `migrate` would apply; nothing is changed.

    Raises:
        Misconfigured: `url` is none, or the server refuses it for good.
        Unavailable: the server could not be reached in time.
    """
    connection = await connect(url, wait=wait)
    with translated():
        async with connection:
            cursor = await connection.execute(_HAS_BEGUN)
            noted = await cursor.fetchone() == (True,)
            applied = await _applied(connection) if noted else set()
            return [_label(migration) for migration in migrations() if migration.number not in applied]


async def _applied(connection: Connection) -> set[int]:
    return {number for (number,) in await (await connection.execute(_APPLIED)).fetchall()}


async def hold(connection: Connection) -> None:
    """Let nobody else migrate this database as long as `connection` is open.

    Raises:
        Unavailable: another process is at it for too long.
    """
    await connection.execute(_SET_TIMEOUTS, (f"{_LONG_WAIT * 1000:.0f}",))
    # Not every system can tell.
    with suppress(psycopg.errors.InvalidParameterValue):
        await connection.execute(_SET_CHECK)
    # Polled: a session that waits inside pg_advisory_lock deadlocks with CREATE INDEX CONCURRENTLY.
    deadline = asyncio.get_running_loop().time() + _LONG_WAIT
    while True:
        cursor = await connection.execute(_TRY_LOCK, (_LOCK,))
        if await cursor.fetchone() == (True,):
            return
        if asyncio.get_running_loop().time() + _INTERVAL > deadline:
            raise _out_of_patience("another process has been migrating this database", _LONG_WAIT)
        await asyncio.sleep(_INTERVAL)


async def _apply(connection: Connection, migration: Migration) -> None:
    deadline = asyncio.get_running_loop().time() + _WAIT
    while True:
        try:
            with _refused(f"migration {_label(migration)} cannot be applied to this database"):
                async with connection.transaction():
                    await connection.execute(_SET_LOCK_TIMEOUT)
                    await connection.execute(migration.statements)
                    await connection.execute(_NOTE, (migration.number, migration.name))
        except psycopg.errors.LockNotAvailable:
            if asyncio.get_running_loop().time() + _LOCK_INTERVAL > deadline:
                raise _out_of_patience(
                    f"migration {_label(migration)} could not lock its table", _WAIT
                ) from None
            await asyncio.sleep(_LOCK_INTERVAL)
        else:
            return


async def _build(connection: Connection, migration: Migration) -> None:
    """Apply a file outside a transaction. Its indexes wait for transactions that were open before."""
    try:
        with _refused(f"migration {_label(migration)} cannot be applied to this database"):
            for statement in migration.apart():
                await _drop_half_built(connection, statement)
                await connection.execute(statement)
            await connection.execute(_NOTE, (migration.number, migration.name))
    except psycopg.errors.LockNotAvailable:
        raise _out_of_patience(
            f"migration {_label(migration)} could not be finished, for others keep transactions open",
            _LONG_WAIT,
        ) from None


async def _drop_half_built(connection: Connection, statement: bytes) -> None:
    """Drop the index that `statement` makes if a build left it half done: it would pass for made."""
    if named := _CREATE_INDEX.match(statement.decode()):
        for found in await (await connection.execute(_HALF_BUILT, named.groups())).fetchall():
            await connection.execute(_DROP.format(sql.Identifier(*found)))


async def _fill(connection: Connection) -> None:
    """Make the rows searchable that other programs wrote; before the columns for it are there, none is."""
    if _SEARCH in await _applied(connection):
        with _refused("the rows of this database cannot be indexed"):
            await reindex_rows(connection)


async def require_utf8(connection: Connection) -> None:
    """Refuse a database that cannot hold any text.

    Raises:
        Misconfigured: it is one.
    """
    cursor = await connection.execute(_ENCODING)
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
    except (
        psycopg.ProgrammingError,
        psycopg.IntegrityError,
        psycopg.NotSupportedError,
        psycopg.errors.ProgramLimitExceeded,
    ) as error:
        raise Misconfigured(f"DATABASE_URL: {what}: {str(error).splitlines()[0]}") from error


def _out_of_patience(reason: str, waited: float) -> Unavailable:
    return Unavailable("database", f"{reason} (waited {waited:g} s); try again when it is quieter")


def _label(migration: Migration) -> str:
    return f"{migration.number:04}_{migration.name}"
