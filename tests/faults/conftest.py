"""What the modules of trouble share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.conftest import new_database
from tests.services import as_url

from watchly_adapters.postgres import migrate


@pytest.fixture
def own_database(server_url: str) -> Iterator[str]:
    """A database of the test's own: all that is in it is counted, and every connection to it may be cut."""
    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield as_url(url)


@pytest.fixture(scope="module")
def module_database(server_url: str) -> Iterator[str]:
    """A database of the module's own: all that is in it is counted."""
    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        yield as_url(url)
