"""What every cache promises: it gives back what was put, for a while, or nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterator

import pytest

from watchly_adapters.testing.suites import Suite
from watchly_core.ports import Cache

__all__ = ["CacheContract"]

LONG = dt.timedelta(hours=1)
SHORT = dt.timedelta(milliseconds=80)
#: Seconds after which what was put for a short time must not be there; clocks are not compared to a hair.
_LATE = 1.0
_MOMENT = 0.005


class CacheContract(Suite):
    """Supply `cache`: a cache with nothing in it."""

    @pytest.fixture
    def cache(self) -> Iterator[Cache]:
        """One with nothing in it, for each test."""
        raise NotImplementedError("supply a fixture `cache`: one with nothing in it, for each test")

    async def test_what_was_not_put_is_not_there(self, cache: Cache) -> None:
        assert await cache.get("nothing") is None

    @pytest.mark.parametrize(
        "value", [b"", b"\0", b"null", bytes(range(256)), "é 🎬".encode(), b"\r\n$-1\r\n", b"x" * 1_000_000]
    )
    async def test_bytes_come_back_to_the_letter(self, cache: Cache, value: bytes) -> None:
        await cache.put("key", value, LONG)
        for _ in range(2):
            found = await cache.get("key")
            assert found == value
            assert isinstance(found, bytes)

    async def test_each_key_is_one_of_its_own(self, cache: Cache) -> None:
        keys = [
            "a",
            "A",
            "a ",
            " a",
            "a\n",
            "a:b",
            "a*",
            "é",
            "e\u0301",
            "🎬",
            "\0",
            "%s",
            "x" * 500,
            "GET a",
            "",
        ]
        for key in keys:
            assert await cache.get(key) is None
            await cache.put(key, repr(key).encode(), LONG)
        assert [await cache.get(key) for key in keys] == [repr(key).encode() for key in keys]

    async def test_what_is_put_last_is_there(self, cache: Cache) -> None:
        for value in (b"first", b"", b"last"):
            await cache.put("key", value, LONG)
        assert await cache.get("key") == b"last"

    async def test_it_is_gone_when_its_time_is_over(self, cache: Cache) -> None:
        await cache.put("long", b"stays", LONG)
        await cache.put("short", b"goes", SHORT)
        await _gone(cache, "short")
        assert await cache.get("long") == b"stays"
        await cache.put("short", b"is back", LONG)
        assert await cache.get("short") == b"is back"

    async def test_the_last_put_says_how_long(self, cache: Cache) -> None:
        await cache.put("shortened", b"1", LONG)
        await cache.put("lengthened", b"1", SHORT)
        await cache.put("shortened", b"2", SHORT)
        await cache.put("lengthened", b"2", LONG)
        await _gone(cache, "shortened")
        assert await cache.get("lengthened") == b"2"

    async def test_the_shortest_time_is_over_at_once(self, cache: Cache) -> None:
        await cache.put("key", b"1", LONG)
        await cache.put("key", b"2", dt.timedelta(microseconds=1))
        await _gone(cache, "key")

    async def test_many_ask_at_once(self, cache: Cache) -> None:
        numbers = [str(number) for number in range(200)]
        await asyncio.gather(*(cache.put(number, number.encode(), LONG) for number in numbers))
        found = await asyncio.gather(*(cache.get(number) for number in numbers))
        assert found == [number.encode() for number in numbers]

    async def test_one_who_leaves_spoils_nobody_elses_answer(self, cache: Cache) -> None:
        for number in range(50):
            await cache.put(str(number), str(number).encode(), LONG)
        for turn in range(50):
            leaver = asyncio.create_task(cache.get(str(turn)))
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            leaver.cancel()
            assert await cache.get(str(49 - turn)) == str(49 - turn).encode()
        assert [await cache.get(str(number)) for number in range(50)] == [
            str(number).encode() for number in range(50)
        ]

    async def test_what_was_put_stays_when_it_is_closed(self, cache: Cache) -> None:
        await cache.put("key", b"value", LONG)
        await cache.close()
        await cache.close()
        assert await cache.get("key") == b"value"


async def _gone(cache: Cache, key: str) -> None:
    """Wait until what was put for a short time is gone."""
    began = time.monotonic()
    while True:
        # Before it is asked: however long that takes, it must not be there any more.
        late = time.monotonic() - began > _LATE
        if await cache.get(key) is None:
            return
        assert not late, "it is there after its time"
        await asyncio.sleep(_MOMENT)
