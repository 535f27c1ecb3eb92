"""The suites of the stores, on the fake and on PostgreSQL."""

import pytest

from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing.api_keys import ApiKeyContract
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
from watchly_adapters.testing.users import UserContract


class _InMemory:
    @pytest.fixture
    def store(self) -> MemoryDatabase:
        return MemoryDatabase()


class _InPostgres:
    @pytest.fixture
    def store(self, postgres: PostgresDatabase) -> PostgresDatabase:
        return postgres


class TestMoviesInMemory(_InMemory, MovieStoreContract):
    pass


class TestMoviesInPostgres(_InPostgres, MovieStoreContract):
    pass


class TestListsInMemory(_InMemory, MovieListContract):
    pass


class TestListsInPostgres(_InPostgres, MovieListContract):
    pass


class TestSearchesInMemory(_InMemory, MovieSearchContract):
    pass


class TestSearchesInPostgres(_InPostgres, MovieSearchContract):
    pass


class TestPositionsInMemory(_InMemory, PositionContract):
    pass


class TestPositionsInPostgres(_InPostgres, PositionContract):
    pass


class TestEventsInMemory(_InMemory, EventLogContract):
    pass


class TestEventsInPostgres(_InPostgres, EventLogContract):
    pass


class TestImagesInMemory(_InMemory, ImageLedgerContract):
    pass


class TestImagesInPostgres(_InPostgres, ImageLedgerContract):
    pass


class TestReceiptsInMemory(_InMemory, ReceiptContract):
    pass


class TestReceiptsInPostgres(_InPostgres, ReceiptContract):
    pass


class TestRelaysInMemory(_InMemory, RelayLedgerContract):
    pass


class TestRelaysInPostgres(_InPostgres, RelayLedgerContract):
    pass


class TestUsersInMemory(_InMemory, UserContract):
    pass


class TestUsersInPostgres(_InPostgres, UserContract):
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
