"""Dumps of a whole database, made and loaded by PostgreSQL's own programs.

They are run by `programs`.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Final

import msgspec
import psycopg
from psycopg.rows import args_row, scalar_row

from watchly_adapters.binaries import find_programs
from watchly_adapters.postgres.migrate import hold, require_utf8
from watchly_adapters.postgres.pool import Connection, connect, cursor, translated
from watchly_adapters.postgres.programs import running
from watchly_core.errors import Misconfigured, Unavailable
from watchly_core.images import Image
from watchly_core.tasks import cancelled

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# The transaction waits while pg_dump is at work, which takes as long as it takes.
_SET_TIMEOUTS: Final = """/* dumps.set_timeouts */
    SELECT set_config('statement_timeout', '0', true),
           set_config('lock_timeout', '60s', true),
           set_config('idle_in_transaction_session_timeout', '0', true)
"""
_DESCRIBE: Final = """/* dumps.describe */
    SELECT pg_export_snapshot(),
           current_setting('server_version'),
           (SELECT max(number) FROM watchly_migrations),
           (SELECT count(*) FROM movies),
           (SELECT count(*) FROM events)
"""
_IMAGES: Final = """/* dumps.images */
    SELECT key, width, height, format, bytes, state = 'attached'
    FROM images WHERE state IN ('attached', 'discarded')
    ORDER BY key COLLATE "C"
"""
# What extensions have brought along comes anew with them.
_HAS_RELATIONS: Final = r"""/* dumps.has_relations */
    SELECT EXISTS (
        SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema' AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
        )
    )
"""
_ANALYZE: Final = "/* dumps.analyze */ ANALYZE"

#: Replication is set up for one server; waiting for a lock in vain is told after a minute.
_DUMP: Final = (
    "--format=custom",
    "--no-password",
    "--lock-wait-timeout=60000",
    "--no-publications",
    "--no-subscriptions",
)
#: The roles and disks of the server that was dumped need not be those of this one.
_AS_SQL: Final = ("--file=-", "--no-owner", "--no-privileges", "--no-tablespaces")
_PSQL: Final = ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-")


class Shown(msgspec.Struct, frozen=True):
    """An image that the catalogue may show: now (`attached`), or again when a change is undone."""

    image: Image
    attached: bool


class Snapshot:
    """A database as it is at one moment, for as long as the connection is open.

    Attributes:
        server: the version of the server.
        schema: the number of the newest migration.
        movies: how many there are.
        events: how many there are.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - a row
        self, url: str, connection: Connection, name: str, server: str, schema: int, movies: int, events: int
    ) -> None:
        self._url, self._connection, self._name = url, connection, name
        self.server: str = server.split(maxsplit=1)[0]
        self.schema: int = schema
        self.movies: int = movies
        self.events: int = events

    async def images(self) -> AsyncIterator[Shown]:
        """The images that it may show, by key."""
        asked = psycopg.AsyncServerCursor(self._connection, "images", row_factory=args_row(_shown))
        async with asked:
            await asked.execute(_IMAGES)
            async for shown in asked:
                yield shown

    async def dump(self, to: IO[bytes]) -> None:
        """Write to a file what pg_dump makes of it.

        Raises:
            Unavailable: pg_dump fails; says why.
        """
        programs = find_programs(self._connection.info.server_version // 10_000)
        words = (*_DUMP, f"--snapshot={self._name}")
        async with running(programs / "pg_dump", words, self._url, stdin=DEVNULL, stdout=to) as dumping:
            await dumping.end()


@asynccontextmanager
async def snapshot(url: str) -> AsyncIterator[Snapshot]:
    """The database as it is now.

    Raises:
        Misconfigured: there is no catalogue in it, or `url` is none.
        Unavailable: the database does not answer.
    """
    connection = await connect(url)
    with translated():
        async with connection:
            await connection.execute(_BEGIN)
            await connection.execute(_SET_TIMEOUTS)
            try:
                row = await (await connection.execute(_DESCRIBE)).fetchone()
            except psycopg.errors.UndefinedTable:
                raise Misconfigured(
                    "DATABASE_URL: there is no catalogue in this database; `watchly migrate` makes one"
                ) from None
            if row is None:
                raise Unavailable("database", "it does not tell what is in it")
            yield Snapshot(url, connection, *row)


class Vacancy:
    """A database with nothing in it, which nobody else may migrate or restore as long as this is open."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url, self._connection = url, connection
        self._major = connection.info.server_version // 10_000

    def require_server(self, major: int) -> None:
        """Refuse a server that is older than the one whose dump is to be loaded.

        Raises:
            Misconfigured: it is.
        """
        if self._major < major:
            raise Misconfigured(
                f"the backup was made of PostgreSQL {major}, and this server is {self._major}:"
                f" restore it on version {major} or later"
            )

    async def examine(self, dump: IO[bytes]) -> None:
        """See whether a dump can be read by the programs that are here.

        Raises:
            Misconfigured: there are no such programs.
            Unavailable: they cannot read it; says why.
        """
        program = find_programs(self._major) / "pg_restore"
        async with running(program, ("--list",), None, stdin=PIPE, stdout=DEVNULL) as dumping:
            await dumping.feed(dump)
            await dumping.end()

    async def is_vacant(self) -> bool:
        """Whether there is nothing in it still.

        Raises:
            Unavailable: the database does not answer.
        """
        with translated():
            async with cursor(self._connection, scalar_row) as asked:
                await asked.execute(_HAS_RELATIONS)
                return not await asked.fetchone()

    async def load(self, dump: IO[bytes]) -> None:
        """Make the database what was dumped: all of it, or nothing.

        Raises:
            Unavailable: that is not possible; says why.
        """
        programs = find_programs(self._major)
        async with (
            running(programs / "pg_restore", _AS_SQL, None, stdin=PIPE, stdout=PIPE) as restore,
            running(programs / "psql", _PSQL, self._url, stdin=PIPE, stdout=DEVNULL) as psql,
        ):
            feeding = asyncio.create_task(restore.feed(dump))
            try:
                await psql.write(b"BEGIN;\n")
                async for text in restore.text():
                    await psql.write(text)
                    if psql.gone:
                        break
                else:
                    await feeding
                    await restore.end()
                    # Said by who knows that all of it was there: to psql the end of its input is no error.
                    await psql.write(b"COMMIT;\n")
                await psql.end()
            finally:
                await cancelled(feeding)
        if await self.is_vacant():
            raise Unavailable("database", "psql left before the end")
        with translated():
            await self._connection.execute(_ANALYZE)


@asynccontextmanager
async def vacancy(url: str) -> AsyncIterator[Vacancy]:
    """The database, if nothing is in it.

    Raises:
        Misconfigured: something is, or it cannot hold any text, or `url` is none.
        Unavailable: the database does not answer, or another process is migrating it for too long.
    """
    connection = await connect(url)
    with translated():
        async with connection:
            await hold(connection)
            await require_utf8(connection)
            vacant = Vacancy(url, connection)
            if not await vacant.is_vacant():
                raise Misconfigured(
                    "the database is not empty: restore into a new one, or a new WATCHLY_HOME"
                )
            yield vacant


def _shown(key: str, width: int, height: int, image_format: str, size: int, attached: bool) -> Shown:  # noqa: PLR0913, PLR0917 - a row
    return Shown(Image(key, width, height, image_format, size), attached)
