"""The suites of the ports that this store implements: they are all its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from watchly_sqlite import SqliteDatabase

from watchly_adapters.testing.event_logs import EventLogContract
from watchly_adapters.testing.movie_lists import MovieListContract
from watchly_adapters.testing.movie_searches import MovieSearchContract
from watchly_adapters.testing.movie_stores import MovieStoreContract
from watchly_adapters.testing.receipts import ReceiptContract


class InSqlite:
    in_turn = True

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
        async with SqliteDatabase(tmp_path / "movies.db") as database:
            yield database


class TestRows(InSqlite, MovieStoreContract):
    pass


class TestLists(InSqlite, MovieListContract):
    pass


class TestSearches(InSqlite, MovieSearchContract):
    pass


class TestEvents(InSqlite, EventLogContract):
    pass


class TestReceipts(InSqlite, ReceiptContract):
    pass
