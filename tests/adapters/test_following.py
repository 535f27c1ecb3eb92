"""Following the log by itself: what it vouches for, and what it has forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.caches import DEADLINE, Gated, caught_up

from watchly_adapters.following import TRUSTED, Follower
from watchly_adapters.memory import MemoryDatabase
from watchly_core import Catalogue, Movie
from watchly_core.errors import Unavailable
from watchly_core.tasks import cancelled

pytestmark = pytest.mark.anyio


class Place:
    """A store, and the name that its catalogue has."""

    def __init__(self) -> None:
        self.store = MemoryDatabase()
        self.queries = Gated(self.store.queries)
        self.catalogue = Catalogue(self.store.queries, self.store.transactions)
        self.name = "one"
        self.fault: Exception | None = None
        self.now = 1_000.0
        self.restarts = 0

    async def identify(self) -> str:
        if self.fault is not None:
            raise self.fault
        return self.name

    def ticks(self) -> float:
        return self.now

    def _count(self) -> None:
        self.restarts += 1

    @asynccontextmanager
    async def followed(self, most: int = 10_000) -> AsyncIterator[Follower]:
        log = Follower(self.queries, self.store.signal, self.identify, ticks=self.ticks, most=most)
        log.on_restart = self._count
        async with log.running():
            await caught_up(log, self.store)
            yield log

    async def movies(self, number: int) -> list[Movie]:
        return [await self.catalogue.add({"title": f"Film {each}"}) for each in range(number)]


@pytest.fixture
def place() -> Place:
    return Place()


async def until_told(log: Follower) -> None:
    async with asyncio.timeout(DEADLINE):
        await log.told.beyond(log.told.count)


async def asked_again(place: Place, times: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            if place.queries.asked["changes"] > times:
                return
            await asyncio.sleep(0.005)


async def test_an_answer_is_good_until_its_movie_changes_and_a_list_until_any_does(place: Place) -> None:
    first, second = await place.movies(2)
    async with place.followed() as log:
        assert log.seq == 2
        for as_of in (2, 3):
            assert log.holds(as_of, first.id)
            assert log.holds(as_of, None)
        assert not log.holds(0, first.id)
        assert not log.holds(1, None)
        await place.catalogue.revise(first.id, {"title": "Heat"})
        await caught_up(log, place.store)
        assert (log.holds(2, first.id), log.holds(2, second.id), log.holds(2, None)) == (False, True, False)
        # What somebody has read who is ahead is good as well, until that is known to have changed.
        assert log.holds(9, first.id)
        assert log.holds(9, None)


async def test_what_is_not_remembered_is_not_vouched_for(place: Place) -> None:
    movies = await place.movies(5)
    async with place.followed(most=3) as log:
        assert [log.holds(5, movie.id) for movie in movies] == [True] * 5
        # Of the first two it is not known any more which change was theirs.
        assert [log.holds(as_of, movies[4].id) for as_of in range(6)] == [False] * 5 + [True]
        assert [log.holds(as_of, 77) for as_of in range(6)] == [False] * 2 + [True] * 4
        await place.catalogue.revise(movies[2].id, {"title": "Heat"})
        await place.catalogue.add({"title": "Ronin"})
        await caught_up(log, place.store)
        # The fourth was forgotten, for the third has changed once more.
        assert [log.holds(as_of, 77) for as_of in range(6)] == [False] * 4 + [True] * 2
        assert not log.holds(5, movies[2].id)


async def test_one_that_starts_reads_a_little_of_what_was_before(place: Place) -> None:
    movies = await place.movies(1_500)
    async with place.followed() as log:
        assert log.seq == 1_500
        assert not log.holds(499, 77)
        assert log.holds(500, 77)
        assert not log.holds(1_498, movies[-1].id)


async def test_it_is_trusted_for_as_long_as_its_last_look_is_no_older(place: Place) -> None:
    async with place.followed() as log:
        assert log.is_current(place.now)
        assert log.is_current(place.now + TRUSTED - 0.001)
        assert not log.is_current(place.now + TRUSTED)
    assert not log.is_current(place.now)


async def test_a_reading_vouches_for_the_moment_at_which_it_began(place: Place) -> None:
    async with place.followed() as log:
        gate = place.queries.close("last_change")
        await place.queries.holds(1)
        began = place.now
        place.now += 1.5
        place.queries.open()
        told = log.told.count
        gate.set()
        async with asyncio.timeout(DEADLINE):
            await log.told.beyond(told)
        assert log.confirmed == began


async def test_silence_is_confirmed(place: Place) -> None:
    async with place.followed() as log:
        for _ in range(3):
            place.now += 1.0
            await until_told(log)
            assert log.confirmed >= place.now - 1.0
        assert log.is_current(place.now)
        assert place.restarts == 1
        # By its end alone: there was nothing to read.
        assert place.queries.asked["changes"] == 0


async def test_a_failure_ends_no_following(place: Place) -> None:
    (movie,) = await place.movies(1)
    async with place.followed() as log:
        for fault in (Unavailable("database", "it is down"), ZeroDivisionError()):
            place.queries.fault = place.fault = fault
            asked, seq = place.queries.asked["changes"], log.seq
            await place.catalogue.revise(movie.id, {"title": repr(fault)})
            await asked_again(place, asked)
            assert log.seq == seq
            place.queries.fault = place.fault = None
            await caught_up(log, place.store)
        assert not log.holds(1, movie.id)
        assert log.seq == 3
        assert place.restarts == 1


async def test_another_name_is_another_log(place: Place) -> None:
    await place.movies(3)
    async with place.followed() as log:
        assert (log.catalogue, place.restarts) == ("one", 1)
        place.name = "two"
        await until_told(log)
        await until_told(log)
        assert (log.catalogue, place.restarts) == ("two", 2)
        assert log.seq == 3


async def test_another_log_is_known_as_such_while_notifications_keep_coming(place: Place) -> None:
    await place.movies(3)
    async with place.followed() as log:

        async def write() -> None:
            while True:
                place.store.signal.tell()
                await asyncio.sleep(0.005)

        writing = asyncio.create_task(write())
        place.name = "two"
        async with asyncio.timeout(DEADLINE):
            while log.catalogue != "two":
                await until_told(log)
        assert place.restarts == 2
        await cancelled(writing)
