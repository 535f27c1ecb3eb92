"""The suite of rate limiters, on the fake and on a real server."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.valkeys import ValkeyServer

from watchly_adapters.memory import MemoryRateLimiter
from watchly_adapters.testing.rate_limiters import RateLimiterContract
from watchly_adapters.valkey import ValkeyRateLimiter
from watchly_core.rates import Rate


class TestInMemory(RateLimiterContract):
    @pytest.fixture
    def limiter(self) -> MemoryRateLimiter:
        return MemoryRateLimiter()


class TestInValkey(RateLimiterContract):
    @pytest.fixture
    async def limiter(self, valkey_server: ValkeyServer) -> AsyncIterator[ValkeyRateLimiter]:
        # What is promised is tried here, and not how soon: that is `test_valkey`.
        limiter = ValkeyRateLimiter(valkey_server.url, timeout=30.0)
        yield limiter
        await limiter.close()


@pytest.mark.anyio
async def test_the_fake_keeps_so_many_windows_and_no_more() -> None:
    limiter, rate = MemoryRateLimiter(most=3), Rate(1, timedelta(hours=1))
    taken = [(key, (await limiter.take(key, rate)).granted) for key in "aabcdbda"]
    # The fourth window takes the place of the first, which begins anew.
    assert taken == [
        (key, granted) for key, granted in zip("aabcdbda", [1, 0, 1, 1, 1, 0, 0, 1], strict=True)
    ]
