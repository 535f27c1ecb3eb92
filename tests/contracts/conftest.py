"""The parts that the use cases are tried on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.blocked import THREADS, BlockedStore
from tests.caches import CachedStore, through_cache
from tests.households import Household
from tests.houses import House
from tests.valkeys import ValkeyServer

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryDatabase, MemoryImages
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing.stores import Store
from watchly_adapters.valkey import ValkeyCache
from watchly_core.blocking import Loop


@pytest.fixture(scope="session")
def pillow() -> Iterator[PillowInspector]:
    """One for all tests: its process takes longer to start than most of them."""
    inspector = PillowInspector()
    yield inspector
    inspector.close()


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store of movies: the fake, or PostgreSQL.

    Where its use cases are tried, tests ask for "blocking" as well, or "blocking_postgres": the same, called
    from threads.
    """
    if request.param == "memory":
        return MemoryDatabase()
    database: Store = request.getfixturevalue(request.param)
    return database


@pytest.fixture
def blocking() -> Iterator[BlockedStore]:
    """The fake, whose use cases are called through their blocking namesakes."""
    with Loop() as loop, ThreadPoolExecutor(THREADS) as threads:
        yield BlockedStore(MemoryDatabase(), loop, threads)


@pytest.fixture
def blocking_postgres(database_url: str) -> Iterator[BlockedStore]:
    """PostgreSQL, likewise; for movies and images, which have all there is: iterators, contexts, files."""
    with Loop() as loop, ThreadPoolExecutor(THREADS) as threads:
        yield BlockedStore(loop.enter(PostgresDatabase(database_url)), loop, threads)


@pytest.fixture
async def cached(postgres: PostgresDatabase) -> AsyncIterator[CachedStore]:
    """PostgreSQL, read through a cache of this process."""
    async with through_cache(postgres) as store:
        yield store


@pytest.fixture
async def shared(valkey_server: ValkeyServer) -> AsyncIterator[CachedStore]:
    """The fake, read through one with Valkey behind it."""
    # It is not tried here how soon it answers.
    async with through_cache(MemoryDatabase(), ValkeyCache(valkey_server.url, timeout=30.0)) as store:
        yield store


@pytest.fixture
def one_loop(request: pytest.FixtureRequest) -> None:
    """For tests that cancel a call, or whose parts wait for them: both take place on the loop of the test."""
    if {"blocking", "blocking_postgres"} & set(request.node.callspec.params.values()):
        pytest.skip("a thread waits for these calls, on another loop")


@pytest.fixture(params=["memory", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path, pillow: PillowInspector) -> House:
    """A catalogue of the fakes, or in PostgreSQL with a directory of images.

    Where what is read matters, tests ask for "cached" and "shared" as well: both through a cache; and for
    "blocking", or "blocking_postgres", where use cases are tried.
    """
    base_url, secret = "https://films.example", b"secret"
    if request.param in {"memory", "shared", "blocking"}:
        store: Store = (
            MemoryDatabase() if request.param == "memory" else request.getfixturevalue(request.param)
        )
        return House(store, MemoryImages(base_url=base_url, secret=secret), HeaderInspector(), None)
    return House(
        request.getfixturevalue(request.param),
        FilesystemImages(tmp_path / "images", base_url=base_url, secret=secret),
        pillow,
        tmp_path / "images",
    )


@pytest.fixture
def household(house: House) -> Household:
    """The use cases on people over the fakes, or over PostgreSQL."""
    return Household(house)
