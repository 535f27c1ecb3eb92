"""What every rate limiter promises: in each window so many are granted, and not one more."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator

import pytest

from watchly_adapters.testing.suites import Suite
from watchly_core.ports import RateLimiter
from watchly_core.rates import Allowance, Rate

__all__ = ["RateLimiterContract"]

LONG = dt.timedelta(hours=1)
SHORT = dt.timedelta(milliseconds=80)
#: Seconds within which whatever has to happen has happened.
_DEADLINE = 10.0
_MOMENT = 0.005


class RateLimiterContract(Suite):
    """Supply `limiter`: a rate limiter that has counted nothing."""

    @pytest.fixture
    def limiter(self) -> Iterator[RateLimiter]:
        """One that has counted nothing, for each test."""
        raise NotImplementedError("supply a fixture `limiter`: one that has counted nothing, for each test")

    @pytest.mark.parametrize("most", [1, 2, 7])
    async def test_so_many_are_granted_and_no_more(self, limiter: RateLimiter, most: int) -> None:
        rate = Rate(most, LONG)
        taken = [await limiter.take("key", rate) for _ in range(most + 3)]
        assert [allowance.granted for allowance in taken] == [True] * most + [False] * 3
        assert [allowance.left for allowance in taken] == [*reversed(range(most)), 0, 0, 0]

    async def test_the_end_of_the_window_comes_nearer_and_nobody_moves_it(self, limiter: RateLimiter) -> None:
        rate = Rate(3, LONG)
        ends = [(await limiter.take("key", rate)).ends_in for _ in range(6)]
        assert ends == sorted(ends, reverse=True)
        assert LONG.total_seconds() - _DEADLINE < ends[-1] <= ends[0] <= LONG.total_seconds()
        await asyncio.sleep(_MOMENT)
        assert (await limiter.take("key", rate)).ends_in < ends[0]

    async def test_however_many_come_at_once(self, limiter: RateLimiter) -> None:
        rate = Rate(50, LONG)
        taken = await asyncio.gather(*(limiter.take("key", rate) for _ in range(200)))
        granted = sorted(allowance.left for allowance in taken if allowance.granted)
        assert granted == list(range(50))

    async def test_each_key_is_one_of_its_own(self, limiter: RateLimiter) -> None:
        rate = Rate(1, LONG)
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
            "",
            "1",
        ]
        for granted in (True, False):
            assert [(await limiter.take(key, rate)).granted for key in keys] == [granted] * len(keys)

    async def test_each_rate_is_counted_by_itself(self, limiter: RateLimiter) -> None:
        rates = [Rate(1, LONG), Rate(2, LONG), Rate(1, 2 * LONG)]
        taken = [await limiter.take("key", rate) for rate in rates]
        assert taken == [
            Allowance(granted=True, left=rate.most - 1, ends_in=taken[i].ends_in)
            for i, rate in enumerate(rates)
        ]

    async def test_the_next_window_is_a_new_one(self, limiter: RateLimiter) -> None:
        short, long = Rate(2, SHORT), Rate(2, LONG)
        for _ in range(3):
            await limiter.take("key", long)
        for _ in range(2):
            while (await limiter.take("key", short)).granted:
                pass
            first = await _granted(limiter, short)
            assert first.left == 1
            assert 0 <= first.ends_in <= SHORT.total_seconds()
        assert not (await limiter.take("key", long)).granted

    async def test_who_goes_on_after_a_refusal_waits_no_longer(self, limiter: RateLimiter) -> None:
        rate = Rate(1, 3 * SHORT)
        before = asyncio.get_running_loop().time()
        await limiter.take("key", rate)
        # As if every refusal began another window, this would have no end.
        await _granted(limiter, rate)
        assert asyncio.get_running_loop().time() - before >= 2 * SHORT.total_seconds()

    async def test_the_shortest_window_is_over_at_once(self, limiter: RateLimiter) -> None:
        rate = Rate(1, dt.timedelta(microseconds=1))
        await limiter.take("key", rate)
        await _granted(limiter, rate)

    async def test_one_who_leaves_spoils_nobody_elses_count(self, limiter: RateLimiter) -> None:
        rate = Rate(1, LONG)
        for turn in range(50):
            leaver = asyncio.create_task(limiter.take("leaver", rate))
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            leaver.cancel()
            assert (await limiter.take(str(turn), rate)).granted
        assert not any([(await limiter.take(str(turn), rate)).granted for turn in range(50)])

    async def test_what_was_counted_stays_when_it_is_closed(self, limiter: RateLimiter) -> None:
        rate = Rate(1, LONG)
        await limiter.take("key", rate)
        await limiter.close()
        await limiter.close()
        assert not (await limiter.take("key", rate)).granted


async def _granted(limiter: RateLimiter, rate: Rate) -> Allowance:
    """What is granted next, which must be soon."""
    async with asyncio.timeout(_DEADLINE):
        while True:
            if (allowance := await limiter.take("key", rate)).granted:
                return allowance
            await asyncio.sleep(_MOMENT)
