"""What the sweeper finishes: what is due, and whatever a crash leaves."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import IO

import pytest
from tests.houses import (
    DOWN,
    INSTANT,
    PNG,
    Behind,
    Crash,
    Failing,
    Fuse,
    FusedTransactions,
    House,
    chunks,
    discarded,
)

from watchly_core.catalogue import IMAGE_GRACE, Catalogue
from watchly_core.errors import (
    ImageRejected,
    Misconfigured,
    Unavailable,
    VersionConflict,
    WatchlyError,
)
from watchly_core.gallery import Gallery
from watchly_core.images import Image
from watchly_core.journey import PENDING_FOR
from watchly_core.movies import Movie
from watchly_core.ports import ImageStore, Transaction
from watchly_core.sweeper import MAX_ATTEMPTS, SweepReport

pytestmark = pytest.mark.anyio


# Sweeping


async def test_a_sweep_goes_as_far_as_its_limit(house: House) -> None:
    await discarded(house, 5)
    gallery = house.gallery()
    assert [await gallery.sweep(limit=2) for _ in range(4)] == [
        SweepReport(2, 0),
        SweepReport(2, 0),
        SweepReport(1, 0),
        SweepReport(0, 0),
    ]
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_a_store_that_is_down_is_asked_ever_more_rarely(house: House) -> None:
    await discarded(house, 3)
    store = Failing(house.images)
    store.on_delete = DOWN
    gallery = house.gallery(images=store)
    for attempt in range(14):
        assert await gallery.sweep() == SweepReport(0, 3, (str(DOWN),))
        assert await house.states() == ["deleting"] * 3
        assert {record.attempts for record in (await house.records()).values()} == {attempt + 1}
        least = min(dt.timedelta(minutes=2**attempt), dt.timedelta(days=1))
        house.wait(least - INSTANT)
        assert await gallery.sweep() == SweepReport(0, 0)
        house.wait(least / 2 + INSTANT)
    assert len(await house.kept()) == 3
    store.on_delete = None
    assert await gallery.sweep() == SweepReport(3, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_what_will_not_go_is_given_up_in_the_end(house: House) -> None:
    await discarded(house, 2)
    store = Failing(house.images)
    store.on_delete, store.only = DOWN, {house.keys[0]}
    gallery = house.gallery(images=store)
    assert await gallery.sweep() == SweepReport(1, 1, (str(DOWN),))
    for attempt in range(2, MAX_ATTEMPTS + 1):
        house.wait(dt.timedelta(days=2))
        assert await gallery.sweep() == SweepReport(0, 1, (str(DOWN),), int(attempt == MAX_ATTEMPTS))
    (record,) = (await house.records()).values()
    assert record.is_dead
    house.wait(dt.timedelta(days=999))
    store.on_delete = None
    assert await gallery.sweep() == SweepReport(0, 0)
    assert await house.disagreements() == []

    assert await gallery.revive() == 1
    assert await gallery.sweep() == SweepReport(1, 0)
    assert await gallery.revive() == 0
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_a_store_that_is_down_is_left_alone(house: House) -> None:
    """The rest waits for the next sweep, and has lost no try."""
    await discarded(house, 45)
    store = Failing(house.images)
    store.on_delete = DOWN
    report = await house.gallery(images=store).sweep()
    assert 0 < report.failed < 45
    assert [record.attempts for record in (await house.records()).values()].count(0) == 45 - report.failed
    store.on_delete = None
    house.wait(dt.timedelta(minutes=2))
    assert await house.gallery(images=store).sweep() == SweepReport(45, 0)


@pytest.mark.parametrize("error", [DOWN, Misconfigured("wrong key"), ImageRejected("not this one")])
async def test_an_image_that_will_not_go_keeps_no_other_one(house: House, error: WatchlyError) -> None:
    await discarded(house, 5)
    store = Failing(house.images)
    store.on_delete, store.only = error, {house.keys[2]}
    assert await house.gallery(images=store).sweep() == SweepReport(4, 1, (str(error),))
    assert set(await house.records()) == {house.keys[2]}
    assert await house.disagreements() == []


async def test_what_the_sweeper_has_claimed_never_comes_back(house: House) -> None:
    movie = await house.with_image()
    await house.gallery().attach(movie.id, chunks(PNG), "image/png")
    house.wait(IMAGE_GRACE)
    store = Failing(house.images)
    store.on_delete = DOWN
    assert await house.gallery(images=store).sweep() == SweepReport(0, 1, (str(DOWN),))
    claimed = await house.records()
    await house.gallery().detach(movie.id, purge=True)
    assert (await house.records())[house.keys[0]] == claimed[house.keys[0]]
    house.wait(dt.timedelta(minutes=2))
    assert await house.gallery().sweep() == SweepReport(2, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


@pytest.mark.parametrize("limit", [7, 1_000])
async def test_sweepers_at_once_share_the_work(house: House, limit: int) -> None:
    await discarded(house, 20)
    kept = await house.with_image()
    store = Failing(house.images)
    gallery = house.gallery(images=store)
    reports = await asyncio.gather(*(gallery.sweep(limit) for _ in range(4)))
    assert sum(report.deleted for report in reports) == 20
    assert sum(report.failed for report in reports) == 0
    assert sorted(store.deleted) == sorted(house.keys[:20])
    assert await house.states() == ["attached"]
    assert (await house.catalogue().get(kept.id)) == kept
    assert await house.unsettled() == []


async def test_sweepers_and_writers_at_once(house: House) -> None:
    movies = [await house.movie() for _ in range(4)]
    gallery = house.gallery(grace=dt.timedelta(0))

    async def write(movie: Movie) -> None:
        for _ in range(5):
            await gallery.attach(movie.id, chunks(PNG), "image/png")
        await gallery.detach(movie.id)
        await gallery.attach(movie.id, chunks(PNG), "image/png")

    async def sweep() -> None:
        for _ in range(12):
            await gallery.sweep(3)
            await asyncio.sleep(0)

    await asyncio.gather(*map(write, movies), sweep(), sweep())
    house.wait()
    await gallery.sweep()
    assert await house.states() == ["attached"] * 4
    assert await house.unsettled() == []


# Crashes


class Overtaking(FusedTransactions):
    """Revises a movie while its image is on its way, after the look at its version."""

    def __init__(self, house: House, fuse: Fuse, movie: Movie) -> None:
        super().__init__(house.store.transactions, fuse)
        self._house, self._movie, self._begun = house, movie, 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Transaction]:
        self._begun += 1
        if self._begun == 2:
            await self._house.catalogue().revise(self._movie.id, {"genre": f"Crime {self._movie.id}"})
        async with super().__call__() as tx:
            yield tx


class FusedStore(Behind):
    def __init__(self, real: ImageStore, fuse: Fuse) -> None:
        super().__init__(real)
        self._fuse = fuse

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        self._fuse.burn()
        await super().put(key, source, image)
        self._fuse.burn()

    async def delete(self, key: str) -> None:
        self._fuse.burn()
        await super().delete(key)
        self._fuse.burn()


async def _prepare_sweep(house: House) -> None:
    """One image of every kind that a sweeper meets."""
    await discarded(house, 2)
    store = Failing(house.images)
    store.after_put = DOWN
    movie = await house.movie()
    with pytest.raises(Unavailable):
        await house.gallery(images=store).attach(movie.id, chunks(PNG), "image/png")
    house.wait(PENDING_FOR)
    failing = Failing(house.images)
    failing.on_delete, failing.only = DOWN, {house.keys[-1]}
    await house.gallery(images=failing).sweep(1)
    house.wait(dt.timedelta(minutes=2))


Act = Callable[[Gallery, Catalogue, Movie], Awaitable[object]]
ACTS: Mapping[str, Act] = {
    "attach": lambda gallery, _, movie: gallery.attach(movie.id, chunks(PNG), "image/png"),
    "attach in vain": lambda gallery, _, movie: gallery.attach(
        movie.id, chunks(PNG), "image/png", version=movie.version
    ),
    "add": lambda gallery, *_: gallery.add({"title": "Ran"}, chunks(PNG), "image/png"),
    "detach": lambda gallery, _, movie: gallery.detach(movie.id),
    "detach and purge": lambda gallery, _, movie: gallery.detach(movie.id, purge=True),
    "remove": lambda _, catalogue, movie: catalogue.remove(movie.id),
    "remove and purge": lambda _, catalogue, movie: catalogue.remove(movie.id, purge=True),
    "sweep": lambda gallery, *_: gallery.sweep(),
}


@pytest.mark.parametrize("shows_an_image", [True, False])
@pytest.mark.parametrize("name", ACTS)
async def test_after_a_crash_at_any_step_one_sweep_settles_everything(
    house: House, name: str, *, shows_an_image: bool
) -> None:
    for steps in count():
        movie = await (house.with_image() if shows_an_image or "detach" in name else house.movie())
        if name == "sweep":
            await _prepare_sweep(house)
        fuse = Fuse(steps)
        transactions = FusedTransactions(house.store.transactions, fuse)
        if name == "attach in vain":
            transactions = Overtaking(house, fuse, movie)
        gallery = house.gallery(images=FusedStore(house.images, fuse), transactions=transactions)
        crashed = False
        try:
            await ACTS[name](gallery, house.catalogue(transactions=transactions), movie)
        except Crash:
            crashed = True
        except VersionConflict:
            assert name == "attach in vain"
        assert await house.disagreements() == [], f"after {steps} steps"
        house.wait(PENDING_FOR)
        await house.gallery().sweep()
        assert await house.unsettled() == [], f"after {steps} steps and a sweep"
        if not crashed:
            break
    assert steps >= 3
    house.wait(IMAGE_GRACE)
    await house.gallery().sweep()
    assert set(await house.states()) <= {"attached"}
    assert await house.unsettled() == []


async def test_a_commit_of_which_nobody_knows_leaves_the_image_or_nothing(house: House) -> None:
    """The answer to the commit is lost: the caller is told so, and both outcomes are whole."""

    class Lossy:
        @asynccontextmanager
        async def __call__(self) -> AsyncIterator[Transaction]:
            async with house.store.transactions() as tx:
                yield tx
            if await house.states() == ["attached"]:
                raise Unavailable("database", "the connection was lost")

    movie = await house.movie()
    with pytest.raises(Unavailable):
        await house.gallery(transactions=Lossy()).attach(movie.id, chunks(PNG), "image/png")
    assert (await house.catalogue().get(movie.id)).image is not None
    house.wait(PENDING_FOR)
    assert await house.gallery().sweep() == SweepReport(0, 0)
    assert await house.unsettled() == []
