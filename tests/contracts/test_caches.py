"""The suite of caches, on the fake and on a real server."""

import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.valkeys import ValkeyServer

from watchly_adapters.memory.caches import MemoryCache
from watchly_adapters.testing.caches import CacheContract
from watchly_adapters.valkey import ValkeyCache


class TestInMemory(CacheContract):
    @pytest.fixture
    def cache(self) -> MemoryCache:
        return MemoryCache()


class TestInValkey(CacheContract):
    @pytest.fixture
    async def cache(self, valkey_server: ValkeyServer) -> AsyncIterator[ValkeyCache]:
        # What is promised is tried here, and not how soon: that is `test_valkey`.
        cache = ValkeyCache(valkey_server.url, timeout=30.0)
        yield cache
        await cache.close()


@pytest.mark.anyio
async def test_the_fake_keeps_so_many_values_and_no_more() -> None:
    cache = MemoryCache(most=3, ticks=time.monotonic)
    for key in "abcda":
        await cache.put(key, key.encode(), timedelta(hours=1))
    assert [await cache.get(key) for key in "abcd"] == [b"a", None, b"c", b"d"]
