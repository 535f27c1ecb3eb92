"""A later version migrates the database while this one serves: no request fails, or waits for long."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from tests.conftest import new_database
from tests.faults.checker import read_tables, violations
from tests.legacy import select, settled, until
from tests.loads import Clients, Load
from tests.services import NO_CERTIFICATES, Service, as_url

from watchly_adapters.postgres import migrate
from watchly_adapters.postgres.migrate import Migration, migrations

pytestmark = pytest.mark.anyio

MODULE: Final = importlib.import_module("watchly_adapters.postgres.migrate")  # the function has its name

#: As CONTRIBUTING wants it, but for the order of the tables: writes take them the other way round.
TWO_TABLES: Final = b"""
ALTER TABLE events ADD COLUMN rating integer;
ALTER TABLE movies ADD COLUMN rating integer DEFAULT 5;
"""
INDEX: Final = b"""-- watchly: outside a transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_rating ON movies (rating);
"""
WAITING: Final = "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"


@pytest.fixture
def database_url(server_url: str) -> Iterator[str]:
    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield url


async def test_a_migration_beside_a_running_service_fails_no_request(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = migrations()
    later = [
        Migration(len(here) + number, "later", text) for number, text in enumerate((TWO_TABLES, INDEX), 1)
    ]
    monkeypatch.setattr(MODULE, "migrations", lambda: [*here, *later])

    async def waits() -> bool:
        return bool(await asyncio.to_thread(select, database_url, WAITING))

    with Service(
        tmp_path / "log",
        DATABASE_URL=as_url(database_url),
        IMAGE_STORE_URL=f"file://{tmp_path}/images",
        SECRET_KEY="k" * 32,
        WORKERS="2",
        LOG_LEVEL="error",
    ) as service:
        async with httpx.AsyncClient(base_url=service.url, verify=NO_CERTIFICATES) as client:
            await client.post("/api/movies", json={"title": "The first"})
        load = Load("kept", service.url, "nobody")

        async def change() -> None:
            async with await settled(database_url) as reader:
                await reader.execute("SELECT FROM movies")
                migrating = asyncio.create_task(migrate(database_url))
                # Whoever comes now queues behind the migration, which gives up its place after a moment.
                for _ in range(2):
                    await until(waits)
                    before = load.done.copy()
                    while min((load.done - before)[kind] for kind in ("read", "write")) < 20:  # noqa: ASYNC110 - they are counted
                        await asyncio.sleep(0.01)
                assert not migrating.done()
                await reader.commit()
            assert await migrating == [f"{each.number:04}_later" for each in later]

        async with asyncio.timeout(100):
            await load.beside(Clients(readers=3, writers=3, editors=1, rate=100.0), change)
        print(load)  # noqa: T201 - the figures
        assert sum(load.failed.values(), Counter()) == Counter()
        assert service.stop() == 0
        assert service.log.count("\n") == 1, service.log
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT title FROM movies WHERE title LIKE 'kept-%'").fetchall()
    assert sorted(title for (title,) in found) == sorted(load.written)
    assert list(violations(read_tables(database_url))) == []
