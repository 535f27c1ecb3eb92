"""The testing kit: what a script has befall calls, and what the use cases make of it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import pytest
from tests.houses import chunks

from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryDatabase, MemoryImages
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.testing import samples
from watchly_adapters.testing.clocks import BEGINNING, HandClock
from watchly_adapters.testing.scripts import Script
from watchly_core import Catalogue, Gallery, Movie, MovieDraft, MovieQuery
from watchly_core.contention import TRIES
from watchly_core.errors import Contended, MovieNotFound, Unavailable, VersionConflict
from watchly_core.imports import Row
from watchly_core.movies import MAX_ID
from watchly_core.ports import ImageFiles

pytestmark = pytest.mark.anyio

PNG: Final = samples.UPRIGHT["png"]
KEY: Final = "0" * 32
MINUTE: Final = dt.timedelta(minutes=1)


class House:
    """A catalogue with one movie, on parts that follow a script."""

    def __init__(self, database: MemoryDatabase | PostgresDatabase) -> None:
        self.clock, self.script = HandClock(), Script()
        self.database = self.script.on_database(database)
        self.catalogue = Catalogue(database.queries, database.transactions, clock=self.clock)

    async def seen(self) -> list[tuple[int, str, int]]:
        """What there is, and in which versions."""
        page = await self.catalogue.find(MovieQuery(limit=100))
        return [(movie.id, movie.title, movie.version) for movie in page.data]

    async def told(self) -> int:
        """How many changes there were."""
        return len((await self.catalogue.changes()).data)


@pytest.fixture
def fake() -> House:
    return House(MemoryDatabase())


@pytest.fixture(params=["fake", "postgres"], ids=["fake", "real"])
def house(request: pytest.FixtureRequest) -> House:
    if request.param == "fake":
        return House(MemoryDatabase())
    postgres: PostgresDatabase = request.getfixturevalue("postgres")
    return House(postgres)


async def rows() -> AsyncIterator[Row]:
    yield Row(1, {"title": "Ronin"})


#: What writes, and the call by which it does so.
WRITES: Final[dict[str, tuple[str, Callable[[Catalogue, Movie], Awaitable[object]]]]] = {
    "add": ("movies.add", lambda catalogue, _: catalogue.add({"title": "Ronin"})),
    "add_many": ("movies.add_many", lambda catalogue, _: catalogue.add_many(rows())),
    "replace": ("movies.replace", lambda catalogue, movie: catalogue.replace(movie.id, {"title": "Ronin"})),
    "revise": ("movies.replace", lambda catalogue, movie: catalogue.revise(movie.id, {"genre": "Crime"})),
    "remove": ("movies.remove", lambda catalogue, movie: catalogue.remove(movie.id)),
    "revert": ("movies.replace", lambda catalogue, movie: catalogue.revert(movie.id, 1)),
}


@pytest.fixture(params=WRITES)
def write(request: pytest.FixtureRequest) -> tuple[str, Callable[[Catalogue, Movie], Awaitable[object]]]:
    return WRITES[request.param]


async def revised(house: House) -> Movie:
    movie = await house.catalogue.add({"title": "Heat"})
    return await house.catalogue.revise(movie.id, {"title": "Heat, again"})


async def test_a_write_that_fails_has_changed_nothing(
    house: House, write: tuple[str, Callable[[Catalogue, Movie], Awaitable[object]]]
) -> None:
    call, do = write
    movie = await revised(house)
    before = await house.seen()

    house.script.fail_next(call)
    with pytest.raises(Unavailable, match="^database: it does not answer: the script .*" + call):
        await do(house.catalogue, movie)
    house.script.fail_next("commit")
    with pytest.raises(Unavailable):
        await do(house.catalogue, movie)

    assert (await house.seen(), await house.told()) == (before, 2)
    await do(house.catalogue, movie)
    assert (await house.told(), await house.seen() == before) == (3, False)


async def test_a_write_that_fails_after_its_commit_is_done_once_with_its_event(
    house: House, write: tuple[str, Callable[[Catalogue, Movie], Awaitable[object]]]
) -> None:
    call, do = write
    movie = await revised(house)
    before = await house.seen()

    house.script.fail_next(call, after_commit=True)
    with pytest.raises(Unavailable, match="lost its answer"):
        await do(house.catalogue, movie)

    assert (await house.told(), await house.seen() == before) == (3, False)
    *_, written = house.script.called(call)
    *_, committed = house.script.called("transactions.commit")
    assert (written.error, written.ended) == (None, True)
    assert isinstance(committed.error, Unavailable)


async def test_a_write_that_was_in_the_way_is_done_again(
    house: House, write: tuple[str, Callable[[Catalogue, Movie], Awaitable[object]]]
) -> None:
    call, do = write
    movie = await revised(house)
    house.script.fail_next(call, Contended("database", "a deadlock"))
    if call == "movies.add_many":  # its rows come but once
        with pytest.raises(Contended):
            await do(house.catalogue, movie)
        return
    await do(house.catalogue, movie)
    assert await house.told() == 3


async def test_a_write_that_is_in_the_way_each_time_is_given_up(fake: House) -> None:
    # Together with others, then by itself.
    fake.script.fail_next("movies.add", Contended("database", "a deadlock"), times=1 + TRIES)
    with pytest.raises(Contended):
        await fake.catalogue.add({"title": "Heat"})
    assert await fake.seen() == []
    assert len(fake.script.called("movies.add")) == 1 + TRIES
    assert (await fake.catalogue.add({"title": "Heat"})).title == "Heat"


async def test_a_read_that_fails_may_be_asked_again(house: House) -> None:
    movie = await house.catalogue.add({"title": "Heat"})
    for after in (False, True):
        house.script.fail_next("queries.get", after_commit=after)
        with pytest.raises(Unavailable):
            await house.catalogue.get(movie.id)
        assert await house.catalogue.get(movie.id) == movie
    house.script.fail_next("queries.get", MovieNotFound(7))
    with pytest.raises(MovieNotFound, match="7"):
        await house.catalogue.get(movie.id)


async def test_what_fails_after_its_commit_does_not_fail_where_there_is_none(house: House) -> None:
    movie = await revised(house)
    house.script.fail_next("movies.get", after_commit=True)
    with pytest.raises(VersionConflict):
        await house.catalogue.remove(movie.id, version=1)
    await house.catalogue.remove(movie.id, version=2)


async def test_what_is_scripted_befalls_the_calls_in_turn(fake: House) -> None:
    fake.script.fail_next("add", times=2)
    fake.script.fail_next("add", after_commit=True)
    outcomes: list[int] = []
    for _ in range(3):
        with pytest.raises(Unavailable):
            await fake.catalogue.add({"title": "Heat"})
        outcomes.append(len(await fake.seen()))
    assert outcomes == [0, 0, 1]

    fake.script.fail_next("begin")
    fake.script.forget()
    await fake.catalogue.add({"title": "Heat"})
    assert [call.name for call in fake.script.calls] == [
        "transactions.begin",
        "movies.add",
        "events.append",
        "transactions.commit",
    ]


async def test_calls_are_held_until_they_are_released(fake: House) -> None:
    before = fake.script.hold_next("movies.add")
    writing = asyncio.ensure_future(fake.catalogue.add({"title": "Heat"}))
    await before.reached()
    assert (await fake.seen(), writing.done()) == ([], False)
    assert not fake.script.called("movies.add")[0].ended

    after = fake.script.hold_next("movies.add", after_commit=True)
    before.release()
    assert (await writing).title == "Heat"
    writing = asyncio.ensure_future(fake.catalogue.add({"title": "Ronin"}))
    await after.reached()
    assert (len(await fake.seen()), writing.done()) == (2, False)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    fake.script.hold_next("movies.add").release()  # before it comes
    await fake.catalogue.add({"title": "Thief"})


async def test_calls_are_remembered_with_how_they_ended(fake: House) -> None:
    movie = await fake.catalogue.add({"title": "Heat"})
    with pytest.raises(MovieNotFound):
        await fake.catalogue.get(9)
    await fake.catalogue.get(movie.id)

    (added,) = fake.script.called("movies.add")
    assert (added.args[1], added.result) == (BEGINNING, movie)
    missed, found = fake.script.called("queries.get")
    assert (missed.args, isinstance(missed.error, MovieNotFound), missed.result) == ((9,), True, None)
    assert (found.error, found.result) == (None, movie)


async def test_calls_that_are_remembered_have_a_bound() -> None:
    script = Script(most=3)
    images = script.on(MemoryImages(), "image_store")
    for number in range(5):
        await images.stat(f"{number:032x}")
    assert [call.args for call in script.calls] == [(f"{number:032x}",) for number in (2, 3, 4)]


async def test_what_is_entered_or_iterated_follows_the_script_as_well(fake: House) -> None:
    await fake.catalogue.add({"title": "Heat"})

    async def exported() -> Sequence[str]:
        return [draft.title async for batch in fake.catalogue.export() for draft in batch]

    for after in (False, True):
        fake.script.fail_next("queries.export", after_commit=after)
        with pytest.raises(Unavailable):
            await exported()
    assert await exported() == ["Heat"]

    fake.script.fail_next("database.alone")
    with pytest.raises(Unavailable):
        async with fake.database.alone("sweep"):
            raise AssertionError
    async with fake.database.alone("sweep") as alone:
        assert alone


async def test_an_image_that_arrived_unheard_of_is_swept(fake: House) -> None:
    images = fake.script.on(MemoryImages(), "image_store")
    assert isinstance(images, MemoryImages)
    assert isinstance(images, ImageFiles)
    gallery = Gallery(
        fake.database.queries,
        fake.database.transactions,
        images,
        HeaderInspector(),
        clock=fake.clock,
        keys=iter([KEY]).__next__,
    )
    movie = await fake.catalogue.add({"title": "Heat"})

    fake.script.fail_next("image_store.put", after_commit=True)
    with pytest.raises(Unavailable, match=r"^image_store: "):
        await gallery.attach(movie.id, chunks(PNG), "image/png")

    assert (await images.stat(KEY)) is not None
    fake.clock.move(dt.timedelta(days=2))
    await gallery.sweep()
    assert (await images.stat(KEY)) is None


async def test_what_a_part_calls_of_itself_is_no_call() -> None:
    script = Script()
    database = script.on_database(MemoryDatabase())
    catalogue = Catalogue(database.queries, database.transactions)
    script.fail_next("movies.add")
    await catalogue.add_many(rows())  # the fake's own add_many adds one after another
    assert script.called("movies.add") == []
    with pytest.raises(Unavailable):
        await catalogue.add({"title": "Heat"})


@pytest.mark.parametrize("times", [0, -1])
def test_less_than_one_call_cannot_fail(times: int) -> None:
    script = Script()
    script.on_database(MemoryDatabase())
    with pytest.raises(ValueError, match="cannot fail"):
        script.fail_next("movies.add", times=times)


def test_a_name_that_no_call_has_is_told() -> None:
    script = Script()
    with pytest.raises(LookupError, match="no call is named 'put'; there are none: no part follows"):
        script.fail_next("put")
    script.on(MemoryImages(), "image_store")
    for ask in (script.fail_next, script.hold_next, script.called):
        with pytest.raises(LookupError, match=r"no call is named 'url'; there are .*image_store.put"):
            ask("url")


async def test_parts_without_a_script_are_as_they_were() -> None:
    script = Script()
    script.on(MemoryImages(), "image_store")
    script.fail_next("image_store.stat")
    plain = MemoryImages()
    assert type(plain) is MemoryImages
    assert await plain.stat(KEY) is None
    assert not script.calls


async def test_movies_get_the_ids_that_are_chosen() -> None:
    database = MemoryDatabase(ids=[7, 3, 3, MAX_ID + 1])
    catalogue = Catalogue(database.queries, database.transactions)
    assert [(await catalogue.add({"title": "Heat"})).id for _ in range(2)] == [7, 3]
    assert [movie.id for movie in (await catalogue.find(MovieQuery())).data] == [3, 7]
    for why in ("3 cannot be the id", f"{MAX_ID + 1} cannot be the id", "there are no more ids"):
        with pytest.raises(ValueError, match=why):
            async with database.transactions() as tx:
                await tx.movies.add(MovieDraft(title="Heat"), BEGINNING)


def test_a_clock_is_moved_by_hand() -> None:
    clock = HandClock()
    assert (clock(), clock.ticks()) == (BEGINNING, 0)
    assert clock.move(MINUTE) == clock() == BEGINNING + MINUTE
    clock.set(dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))))
    assert (clock(), clock.ticks()) == (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 60)
    with pytest.raises(ValueError, match="backwards"):
        clock.move(-MINUTE)
    with pytest.raises(ValueError, match="no time zone"):
        clock.set(dt.datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is wrong with it
