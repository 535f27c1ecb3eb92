"""The suites of the stores, on the fake and on PostgreSQL; and of movies, read through a cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from tests.caches import CachedStore, through_cache
from tests.valkeys import ValkeyServer

from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase, PostgresTransaction
from watchly_adapters.testing.api_keys import ApiKeyContract
from watchly_adapters.testing.backlogs import BacklogContract
from watchly_adapters.testing.contention import ContentionContract
from watchly_adapters.testing.event_logs import EventLogContract
from watchly_adapters.testing.image_ledgers import ImageLedgerContract
from watchly_adapters.testing.movie_lists import MovieListContract
from watchly_adapters.testing.movie_searches import MovieSearchContract
from watchly_adapters.testing.movie_stores import MovieStoreContract
from watchly_adapters.testing.positions import PositionContract
from watchly_adapters.testing.receipts import ReceiptContract
from watchly_adapters.testing.relay_ledgers import RelayLedgerContract
from watchly_adapters.testing.sessions import SessionContract
from watchly_adapters.testing.signing_keys import SigningKeyContract
from watchly_adapters.testing.throttles import ThrottleContract
from watchly_adapters.testing.transactions import TransactionContract
from watchly_adapters.testing.users import UserContract
from watchly_adapters.valkey import ValkeyCache


class _InMemory:
    in_turn = True

    @pytest.fixture
    def store(self) -> MemoryDatabase:
        return MemoryDatabase()


class _InPostgres:
    @pytest.fixture
    def store(self, postgres: PostgresDatabase) -> PostgresDatabase:
        return postgres


class Joining:
    """Writes in transactions of a host, each on a connection of its own."""

    def __init__(self, database: PostgresDatabase, url: str) -> None:
        self.queries, self.people, self.signal = database.queries, database.people, database.signal
        self._database, self._url = database, url

    @asynccontextmanager
    async def transactions(self) -> AsyncIterator[PostgresTransaction]:
        async with (
            await psycopg.AsyncConnection[DictRow].connect(self._url, row_factory=dict_row) as host,
            self._database.joined(host).transactions() as tx,
        ):
            yield tx


class _Joined:
    @pytest.fixture
    def store(self, postgres: PostgresDatabase, database_url: str) -> Joining:
        return Joining(postgres, database_url)


class _Cached:
    """Read through a cache of this process."""

    noted = True

    @pytest.fixture
    async def store(self, postgres: PostgresDatabase) -> AsyncIterator[CachedStore]:
        async with through_cache(postgres, noted=self.noted) as store:
            yield store


class _Shared:
    """Read through one with Valkey behind it."""

    in_turn = True
    noted = True

    @pytest.fixture
    async def store(self, valkey_server: ValkeyServer) -> AsyncIterator[CachedStore]:
        # It is not tried here how soon it answers.
        cache = ValkeyCache(valkey_server.url, timeout=30.0)
        async with through_cache(MemoryDatabase(), cache, noted=self.noted) as store:
            yield store


class TestMoviesInMemory(_InMemory, MovieStoreContract):
    pass


class TestMoviesInPostgres(_InPostgres, MovieStoreContract):
    pass


class TestMoviesJoined(_Joined, MovieStoreContract):
    pass


class TestMoviesCached(_Cached, MovieStoreContract):
    pass


class TestMoviesShared(_Shared, MovieStoreContract):
    pass


class TestListsInMemory(_InMemory, MovieListContract):
    pass


class TestListsInPostgres(_InPostgres, MovieListContract):
    pass


class TestListsCached(_Cached, MovieListContract):
    pass


class TestListsShared(_Shared, MovieListContract):
    pass


class TestSearchesInMemory(_InMemory, MovieSearchContract):
    pass


class TestSearchesInPostgres(_InPostgres, MovieSearchContract):
    pass


class TestSearchesCached(_Cached, MovieSearchContract):
    pass


class TestSearchesShared(_Shared, MovieSearchContract):
    pass


class TestTransactionsInMemory(_InMemory, TransactionContract):
    pass


class TestTransactionsInPostgres(_InPostgres, TransactionContract):
    pass


class TestPositionsInMemory(_InMemory, PositionContract):
    pass


class TestPositionsInPostgres(_InPostgres, PositionContract):
    pass


class TestPositionsCached(_Cached, PositionContract):
    noted = False


class TestPositionsShared(_Shared, PositionContract):
    noted = False


class TestEventsInMemory(_InMemory, EventLogContract):
    pass


class TestEventsInPostgres(_InPostgres, EventLogContract):
    pass


class TestEventsCached(_Cached, EventLogContract):
    noted = False


class TestEventsShared(_Shared, EventLogContract):
    noted = False


class TestImagesInMemory(_InMemory, ImageLedgerContract):
    pass


class TestImagesInPostgres(_InPostgres, ImageLedgerContract):
    pass


class TestImagesJoined(_Joined, ImageLedgerContract):
    pass


class TestReceiptsInMemory(_InMemory, ReceiptContract):
    pass


class TestReceiptsInPostgres(_InPostgres, ReceiptContract):
    pass


class TestReceiptsJoined(_Joined, ReceiptContract):
    pass


class TestRelaysInMemory(_InMemory, RelayLedgerContract):
    pass


class TestRelaysInPostgres(_InPostgres, RelayLedgerContract):
    pass


class TestContentionInMemory(_InMemory, ContentionContract):
    pass


class TestContentionInPostgres(_InPostgres, ContentionContract):
    pass


class TestBacklogsInMemory(_InMemory, BacklogContract):
    pass


class TestBacklogsInPostgres(_InPostgres, BacklogContract):
    pass


class TestUsersInMemory(_InMemory, UserContract):
    pass


class TestUsersInPostgres(_InPostgres, UserContract):
    pass


class TestUsersJoined(_Joined, UserContract):
    pass


class TestSessionsInMemory(_InMemory, SessionContract):
    pass


class TestSessionsInPostgres(_InPostgres, SessionContract):
    pass


class TestApiKeysInMemory(_InMemory, ApiKeyContract):
    pass


class TestApiKeysInPostgres(_InPostgres, ApiKeyContract):
    pass


class TestSigningKeysInMemory(_InMemory, SigningKeyContract):
    pass


class TestSigningKeysInPostgres(_InPostgres, SigningKeyContract):
    pass


class TestThrottlesInMemory(_InMemory, ThrottleContract):
    pass


class TestThrottlesInPostgres(_InPostgres, ThrottleContract):
    pass
