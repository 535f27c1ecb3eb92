"""The use cases on movies, on the fake and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise, product

import msgspec
import pytest
from tests.blocked import through
from tests.houses import ADA, KEY
from tests.legacy import leave

from watchly_adapters.memory import MemoryImages
from watchly_adapters.testing.stores import Store, events_of
from watchly_core.catalogue import Catalogue
from watchly_core.errors import (
    Fault,
    ImportRejected,
    InvalidMovie,
    MovieNotFound,
    Unavailable,
    VersionConflict,
)
from watchly_core.events import Event, MovieAdded, MovieRemoved, MovieRevised
from watchly_core.images import Image, new_key
from watchly_core.imports import ImportReport, Rejection, Row
from watchly_core.movies import Movie, MovieDraft, MoviePatch, client_fields
from watchly_core.people import Actor, Role
from watchly_core.ports import Transaction
from watchly_core.queries import Cursor, MovieQuery

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", ["memory", "postgres", "blocking", "blocking_postgres"], indirect=True),
]

NOON = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
HEAT = MovieDraft(title="Heat", description="A thief and a detective.", release_year=1995, genre="Crime")
NOWHERE = [0, -1, 999, 2_147_483_647, 2**31, 2**63, -(2**100)]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> dt.datetime:
        return self.now

    def move(self) -> dt.datetime:
        self.now += dt.timedelta(minutes=1, microseconds=7)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(store: Store, clock: Clock) -> Catalogue:
    return through(store, Catalogue(store.queries, store.transactions, clock=clock))


async def everything(store: Store) -> tuple[list[Movie], list[list[Event]]]:
    """All movies, and the histories of all ids that were given."""
    movies = list((await store.queries.find(MovieQuery(limit=9_999))).data)
    return movies, [await events_of(store.queries, movie_id) for movie_id in range(12)]


async def adopted(store: Store, **broken: object) -> Movie:
    """A movie as an older system left it: there before Watchly's rules were."""
    fields = {
        "title": " ",
        "description": "a\x01b",
        "release_year": 1,
        "genre": "",
        "image_url": "http://old",
    }
    async with store.transactions() as tx:
        added = await tx.movies.add(HEAT, NOON)
        movie = msgspec.structs.replace(added, **(fields | {"created_at": None, "updated_at": None} | broken))
        await leave(tx, movie)
        await tx.events.append(MovieAdded(movie.id, 1, NOON, "system", movie))
    return movie


# Adding


async def test_a_movie_is_added_with_one_event(catalogue: Catalogue) -> None:
    added = await catalogue.add(HEAT, actor=ADA)
    assert added == Movie(1, "Heat", "A thief and a detective.", 1995, "Crime", None, None, 1, NOON, NOON)
    assert await catalogue.get(1) == added
    assert await events_of(catalogue, 1) == [MovieAdded(1, 1, NOON, "user:7", added)]


@pytest.mark.parametrize(
    "draft",
    [
        MovieDraft(title="  Heat\r\n", description=" one\r\ntwo ", genre="\tCrime "),
        {"title": "  Heat\r\n", "description": " one\r\ntwo ", "genre": "\tCrime ", "release_year": None},
        {"title": "Heat", "description": "one\ntwo", "genre": "Crime", "image": None, "image_url": None},
    ],
)
async def test_structs_and_mappings_are_cleaned_alike(
    catalogue: Catalogue, draft: MovieDraft | Mapping[str, object]
) -> None:
    expected = Movie(1, "Heat", "one\ntwo", None, "Crime", None, None, 1, NOON, NOON)
    assert await catalogue.add(draft) == expected
    assert await catalogue.get(1) == expected
    assert await events_of(catalogue, 1) == [MovieAdded(1, 1, NOON, "system", expected)]


@pytest.mark.parametrize(
    "draft",
    [
        MovieDraft(title="\0", release_year=1869, genre=" "),
        {"title": "\0", "release_year": 1869, "genre": " "},
    ],
)
async def test_structs_and_mappings_are_refused_alike(
    catalogue: Catalogue, store: Store, draft: MovieDraft | Mapping[str, object]
) -> None:
    before = await everything(store)
    with pytest.raises(InvalidMovie) as refused:
        await catalogue.add(draft)
    assert [(fault.pointer, fault.code) for fault in refused.value.faults] == [
        ("#/title", "forbidden_character"),
        ("#/release_year", "too_small"),
        ("#/genre", "too_short"),
    ]
    assert await everything(store) == before


# Reading


@pytest.mark.parametrize("movie_id", NOWHERE)
async def test_what_is_not_there(catalogue: Catalogue, movie_id: int) -> None:
    with pytest.raises(MovieNotFound) as missing:
        await catalogue.get(movie_id)
    assert missing.value.movie_id == movie_id
    assert await events_of(catalogue, movie_id) == []


async def test_pages_and_exports(catalogue: Catalogue) -> None:
    movies = [await catalogue.add({"title": f"Film {number}"}) for number in range(5)]
    first = await catalogue.find(MovieQuery(limit=3))
    assert first.data == tuple(movies[:3])
    assert first.next_cursor is not None
    rest = await catalogue.find(MovieQuery(limit=3, cursor=Cursor.decode(first.next_cursor)))
    assert (rest.data, rest.next_cursor) == (tuple(movies[3:]), None)
    drafts = list(map(client_fields, movies))
    assert [draft async for batch in catalogue.export() for draft in batch] == drafts
    later = MovieQuery(limit=1, cursor=Cursor.decode(first.next_cursor))
    assert [draft async for batch in catalogue.export(later) for draft in batch] == drafts


@pytest.mark.parametrize("limit", [2**31 - 1, 2**31, sys.maxsize, 2**100])
async def test_a_limit_beyond_every_number_of_movies(catalogue: Catalogue, limit: int) -> None:
    added = await catalogue.add(HEAT)
    page = await catalogue.find(MovieQuery(limit=limit))
    assert (page.data, page.next_cursor) == ((added,), None)


async def test_an_export_may_be_left_early(catalogue: Catalogue) -> None:
    await catalogue.add_many(rows({"title": "Film"} for _ in range(1_200)))
    for _ in range(25):
        async with aclosing(catalogue.export()) as export:
            assert (await anext(export))[0].title == "Film"
    assert (await catalogue.get(1)).title == "Film"


async def test_images_are_shown_as_their_store_gives_them_today(store: Store, clock: Clock) -> None:
    image = Image(new_key(), 6, 4, "png", 99)
    url = f"https://films.example/images/{image.key}"
    async with store.transactions() as tx:
        added = await tx.movies.add(HEAT, NOON)
        await leave(tx, msgspec.structs.replace(added, image=image, image_url="/images/old"))
        bare = await tx.movies.add(HEAT, NOON)
        old = msgspec.structs.replace(bare, image_url="http://old.example/x.jpg")
        await leave(tx, old)
    images = MemoryImages(base_url="https://films.example")
    catalogue = Catalogue(store.queries, store.transactions, images=images, clock=clock)
    variants = {name: f"{url}?variant={name}" for name in ("thumbnail", "card")}
    seen = msgspec.structs.replace(image, variants=variants)
    shown = msgspec.structs.replace(added, image=seen, image_url=url)
    assert await catalogue.get(added.id) == shown
    assert (await catalogue.find(MovieQuery())).data == (shown, old)
    stored = msgspec.structs.replace(added, image=image, image_url="/images/old")
    async with store.transactions() as tx:
        await tx.events.append(MovieAdded(added.id, 1, NOON, "system", stored))
    assert await events_of(catalogue, added.id) == [MovieAdded(added.id, 1, NOON, "system", shown)]
    assert await catalogue.replace(added.id, {**msgspec.to_builtins(HEAT), "image_url": url}) == shown
    revised = await catalogue.revise(added.id, {"genre": None, "image_url": url, "image": seen})
    assert revised == msgspec.structs.replace(shown, genre=None, version=2, updated_at=NOON)
    with pytest.raises(InvalidMovie):
        await catalogue.revise(added.id, {"image_url": "/images/old"})


# Replacing and revising


async def test_replace_clears_what_is_left_out(catalogue: Catalogue, clock: Clock) -> None:
    added = await catalogue.add(HEAT)
    at = clock.move()
    replaced = await catalogue.replace(1, {"title": "Ronin"}, version=1, actor=KEY)
    assert replaced == Movie(1, "Ronin", None, None, None, None, None, 2, NOON, at)
    assert await catalogue.get(1) == replaced
    assert await events_of(catalogue, 1) == [
        MovieRevised(1, 2, at, "api-key:9", replaced),
        MovieAdded(1, 1, NOON, "system", added),
    ]


@pytest.mark.parametrize(
    "patch",
    [
        MoviePatch(description=None, release_year=1996),
        {"description": None, "release_year": 1996},
        {
            "description": None,
            "release_year": 1996,
            "id": 1,
            "version": 1,
            "created_at": NOON,
            "title": "Heat",
        },
    ],
)
async def test_revise_keeps_what_is_left_out(
    catalogue: Catalogue, clock: Clock, patch: MoviePatch | Mapping[str, object]
) -> None:
    added = await catalogue.add(HEAT)
    at = clock.move()
    revised = await catalogue.revise(1, patch, version=1, actor=ADA)
    assert revised == Movie(1, "Heat", None, 1996, "Crime", None, None, 2, NOON, at)
    assert await catalogue.get(1) == revised
    assert await events_of(catalogue, 1) == [
        MovieRevised(1, 2, at, "user:7", revised),
        MovieAdded(1, 1, NOON, "system", added),
    ]


async def test_writing_the_same_again_is_no_write(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    added = await catalogue.add(HEAT)
    before = await everything(store)
    clock.move()
    assert await catalogue.replace(1, HEAT, version=1) == added
    assert await catalogue.replace(1, msgspec.to_builtins(added)) == added
    assert await catalogue.replace(1, {**msgspec.to_builtins(HEAT), "title": " Heat\r\n"}) == added
    assert await catalogue.revise(1, MoviePatch()) == added
    assert await catalogue.revise(1, {}, version=1) == added
    assert await catalogue.revise(1, {"genre": " Crime "}) == added
    assert await everything(store) == before


async def test_every_write_leaves_one_event_with_the_whole_movie(catalogue: Catalogue, clock: Clock) -> None:
    added = await catalogue.add(HEAT, actor=ADA)
    events: list[Event] = [MovieAdded(1, 1, NOON, "user:7", added)]
    last = added
    for year in range(1900, 1903):
        for write in (catalogue.revise, catalogue.replace):
            at = clock.move()
            fields = {"title": write.__name__, "release_year": year}
            last = await write(1, fields, version=last.version, actor=Actor(f"user:{year}", Role.EDITOR))
            assert (last.version, last.created_at, last.updated_at) == (len(events) + 1, NOON, at)
            events.append(MovieRevised(1, last.version, at, f"user:{year}", last))
    at = clock.move()
    await catalogue.remove(1, version=7, actor=KEY)
    events.append(MovieRemoved(1, 8, at, "api-key:9", last))
    assert await events_of(catalogue, 1) == events[::-1]


Write = Callable[[Catalogue, int, int | None, object], Awaitable[object]]
GOOD, BAD = "Ronin", "\0"
WRITES: dict[str, Write] = {
    "replace": lambda catalogue, movie_id, version, title: catalogue.replace(
        movie_id, {"title": title}, version=version
    ),
    "revise": lambda catalogue, movie_id, version, title: catalogue.revise(
        movie_id, {"title": title}, version=version
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_faults_are_found_in_their_order(catalogue: Catalogue, store: Store, write: Write) -> None:
    """Not found, then invalid, then at another version; none of them changes a thing."""
    await catalogue.add(HEAT)
    await catalogue.revise(1, {"genre": None})
    before = await everything(store)
    for movie_id in NOWHERE:
        with pytest.raises(MovieNotFound):
            await write(catalogue, movie_id, 1, BAD)
    for version in (None, 1, 2, 3):
        with pytest.raises(InvalidMovie):
            await write(catalogue, 1, version, BAD)
    for version in (0, 1, 3, -1, 2**100):
        for title in (GOOD, "Heat"):
            with pytest.raises(VersionConflict) as conflict:
                await write(catalogue, 1, version, title)
            assert (conflict.value.id, conflict.value.expected, conflict.value.current) == (
                1,
                version,
                2,
            )
    assert await everything(store) == before


async def test_a_movie_sent_back_whole_is_stale_rather_than_invalid(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    """What the server sets differs because somebody else wrote: the version says so, if one is named."""
    await catalogue.add(HEAT)
    clock.move()
    seen = msgspec.to_builtins(await catalogue.get(1))
    await catalogue.revise(1, {"genre": None})
    before = await everything(store)
    for write in (catalogue.replace, catalogue.revise):
        with pytest.raises(VersionConflict):
            await write(1, seen, version=1)
        with pytest.raises(InvalidMovie):
            await write(1, {**seen, "title": BAD}, version=1)
        for version in (None, 2):
            with pytest.raises(InvalidMovie) as refused:
                await write(1, seen, version=version)
            pointers = [fault.pointer for fault in refused.value.faults]
            assert pointers == ["#/version", "#/updated_at"]
    assert await everything(store) == before


# Removing


async def test_a_removed_movie_leaves_its_history(catalogue: Catalogue, clock: Clock) -> None:
    added = await catalogue.add(HEAT)
    other = await catalogue.add({"title": "Ronin"})
    at = clock.move()
    await catalogue.remove(1, actor=ADA)
    with pytest.raises(MovieNotFound):
        await catalogue.get(1)
    assert (await catalogue.find(MovieQuery())).data == (other,)
    history = [MovieRemoved(1, 2, at, "user:7", added), MovieAdded(1, 1, NOON, "system", added)]
    assert await events_of(catalogue, 1) == history
    for version in (None, 1, 2):
        with pytest.raises(MovieNotFound):
            await catalogue.remove(1, version=version)
        with pytest.raises(MovieNotFound):
            await catalogue.revise(1, {"title": GOOD}, version=version)
        with pytest.raises(MovieNotFound):
            await catalogue.replace(1, HEAT, version=version)
    assert await events_of(catalogue, 1) == history
    assert (await catalogue.add(HEAT)).id == 3


async def test_a_movie_at_another_version_is_not_removed(catalogue: Catalogue, store: Store) -> None:
    await catalogue.add(HEAT)
    before = await everything(store)
    for version in (0, 2):
        with pytest.raises(VersionConflict):
            await catalogue.remove(1, version=version, purge=True)
    for movie_id in NOWHERE:
        with pytest.raises(MovieNotFound):
            await catalogue.remove(movie_id, version=1)
    assert await everything(store) == before


# Adopted rows


async def test_an_adopted_movie_is_served_as_it_is(catalogue: Catalogue, store: Store) -> None:
    movie = await adopted(store)
    assert await catalogue.get(movie.id) == movie
    assert (await catalogue.find(MovieQuery())).data == (movie,)
    assert [draft async for batch in catalogue.export() for draft in batch] == [client_fields(movie)]


async def test_an_adopted_movie_may_stay_as_it_is(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    movie = await adopted(store)
    before = await everything(store)
    clock.move()
    as_read = {name: getattr(movie, name) for name in Movie.__struct_fields__}
    for patch in ({}, MoviePatch(), {"title": " "}, {"id": 1, "image_url": "http://old"}, as_read):
        assert await catalogue.revise(movie.id, patch, version=1) == movie
    assert await everything(store) == before


async def test_a_change_of_an_adopted_movie_mends_all_of_it(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    movie = await adopted(store)
    before = await everything(store)
    with pytest.raises(InvalidMovie) as invalid:
        await catalogue.revise(movie.id, {"title": "Heat"})
    assert {fault.pointer for fault in invalid.value.faults} == {
        "#/description",
        "#/release_year",
        "#/genre",
    }
    assert await everything(store) == before
    at = clock.move()
    patch = {"title": "Heat", "description": None, "release_year": 1995, "genre": None}
    mended = await catalogue.revise(movie.id, patch)
    assert mended == Movie(1, "Heat", None, 1995, None, "http://old", None, 2, None, at)
    assert await catalogue.get(1) == mended
    assert await events_of(catalogue, 1) == [
        MovieRevised(1, 2, at, "system", mended),
        MovieAdded(1, 1, NOON, "system", movie),
    ]


async def test_an_adopted_movie_is_replaced_whole(catalogue: Catalogue, store: Store, clock: Clock) -> None:
    movie = await adopted(store)
    at = clock.move()
    given = {"title": "Heat", "image_url": "http://old", "created_at": None, "version": 1}
    replaced = await catalogue.replace(movie.id, given)
    assert replaced == Movie(1, "Heat", None, None, None, "http://old", None, 2, None, at)


async def test_an_adopted_movie_is_removed_as_it_was(
    catalogue: Catalogue, store: Store, clock: Clock
) -> None:
    movie = await adopted(store)
    at = clock.move()
    await catalogue.remove(movie.id, version=1)
    assert next(iter(await events_of(catalogue, movie.id))) == MovieRemoved(movie.id, 2, at, "system", movie)


# Adding many


async def rows(given: Iterable[Mapping[str, object] | Fault]) -> AsyncIterator[Row]:
    """Rows of a file, from line 2 on; a fault stands for a row that cannot be read."""
    for line, row in enumerate(given, start=2):
        yield Row(line, faults=(row,)) if isinstance(row, Fault) else Row(line, row)


def films(count: int, first: int = 0) -> list[Mapping[str, object]]:
    return [{"title": f" Film {number} ", "release_year": 1900} for number in range(first, first + count)]


UNREAD = Fault("malformed", "is not CSV", pointer="#")


async def test_many_are_added_in_their_order_each_with_its_event(catalogue: Catalogue, store: Store) -> None:
    """In several batches, of which the last is not full."""
    report = await catalogue.add_many(rows(films(4_321)), actor=ADA)
    assert report == ImportReport(4_321, (), 0, dry_run=False)
    added = list((await store.queries.find(MovieQuery(limit=9_999))).data)
    assert [movie.title for movie in added] == [f"Film {number}" for number in range(4_321)]
    assert [movie.id for movie in added] == list(range(1, 4_322))
    for movie in [*added[::97], *added[1_998:2_002], *added[3_998:4_002], added[-1]]:
        assert movie == Movie(movie.id, movie.title, None, 1900, None, None, None, 1, NOON, NOON)
        assert await events_of(store.queries, movie.id) == [MovieAdded(movie.id, 1, NOON, "user:7", movie)]


@pytest.mark.parametrize("count", [0, 1, 19, 2_000, 2_001])
async def test_any_number_of_rows(catalogue: Catalogue, store: Store, count: int) -> None:
    assert (await catalogue.add_many(rows(films(count)))).added == count
    assert len(list((await store.queries.find(MovieQuery(limit=9_999))).data)) == count
    for movie_id in {1, count} - {0}:
        assert len(await events_of(store.queries, movie_id)) == min(count, 1)


BROKEN: list[Mapping[str, object] | Fault] = [
    {"title": " "},
    UNREAD,
    {"title": "x", "release_year": 1.5, "seen": 1},
]


def broken_at(*lines: int) -> tuple[Rejection, ...]:
    title, unread, third = lines
    return (
        Rejection(title, (Fault("too_short", "must not be blank", pointer="#/title"),)),
        Rejection(unread, (UNREAD,)),
        Rejection(
            third,
            (
                Fault("wrong_type", "must be an integer or null", pointer="#/release_year"),
                Fault("unknown_member", "is not a member of a movie", pointer="#/seen"),
            ),
        ),
    )


async def test_rows_that_break_rules_can_be_left_out(catalogue: Catalogue, store: Store) -> None:
    told: list[Rejection] = []
    given = [*films(2), *BROKEN, *films(2, first=2)]
    report = await catalogue.add_many(rows(given), skip_invalid=True, on_rejected=told.append)
    assert report == ImportReport(4, broken_at(4, 5, 6), 3, dry_run=False)
    assert tuple(told) == report.rejected
    movies, histories = await everything(store)
    assert [movie.title for movie in movies] == ["Film 0", "Film 1", "Film 2", "Film 3"]
    assert [len(history) for history in histories] == [0, 1, 1, 1, 1, *[0] * 7]


async def test_rows_that_break_rules_keep_all_others_out(catalogue: Catalogue, store: Store) -> None:
    told: list[Rejection] = []
    given = [*films(2), *BROKEN, *films(2)]
    with pytest.raises(ImportRejected) as rejected:
        await catalogue.add_many(rows(given), on_rejected=told.append)
    assert rejected.value.report == ImportReport(0, broken_at(4, 5, 6), 3, dry_run=False)
    assert tuple(told) == rejected.value.report.rejected
    assert await everything(store) == ([], [[]] * 12)


@pytest.mark.parametrize("valid", [1, 2_000, 4_000, 4_001])
async def test_a_bad_row_late_in_a_file_leaves_nothing_half_added(
    catalogue: Catalogue, store: Store, valid: int
) -> None:
    kept = await catalogue.add(HEAT)
    before = await everything(store)
    with pytest.raises(ImportRejected) as rejected:
        await catalogue.add_many(rows([*films(valid), {}]))
    assert [rejection.line for rejection in rejected.value.report.rejected] == [valid + 2]
    assert await everything(store) == before
    assert (await catalogue.add(HEAT)).id > kept.id


async def test_a_report_lists_the_first_thousand_of_more(catalogue: Catalogue, store: Store) -> None:
    given = [row for film in films(1_250) for row in (film, UNREAD)]
    listed = tuple(Rejection(line, (UNREAD,)) for line in range(3, 2_502, 2))
    for skip_invalid, dry_run in product([True, False], repeat=2):
        told: list[Rejection] = []
        added = catalogue.add_many(
            rows(given), skip_invalid=skip_invalid, dry_run=dry_run, on_rejected=told.append
        )
        if skip_invalid:
            report = await added
        else:
            with pytest.raises(ImportRejected) as rejected:
                await added
            report = rejected.value.report
        assert report == ImportReport(1_250 * skip_invalid, listed[:1_000], 1_250, dry_run)
        assert tuple(told) == listed
    assert len(list((await store.queries.find(MovieQuery(limit=9_999))).data)) == 1_250


async def test_a_dry_run_adds_nothing(catalogue: Catalogue, store: Store) -> None:
    report = await catalogue.add_many(rows(films(2_001)), dry_run=True)
    assert report == ImportReport(2_001, (), 0, dry_run=True)
    report = await catalogue.add_many(rows([*films(1), *BROKEN]), dry_run=True, skip_invalid=True)
    assert report == ImportReport(1, broken_at(3, 4, 5), 3, dry_run=True)
    with pytest.raises(ImportRejected) as rejected:
        await catalogue.add_many(rows([*films(1), *BROKEN]), dry_run=True)
    assert rejected.value.report == ImportReport(0, broken_at(3, 4, 5), 3, dry_run=True)
    assert await everything(store) == ([], [[]] * 12)


class Torn(Exception):
    """Whoever sends the rows has gone."""


@pytest.mark.parametrize("skip_invalid", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2_000, 3_000])
async def test_rows_that_end_in_an_error_leave_nothing_half_added(
    catalogue: Catalogue, store: Store, count: int, *, skip_invalid: bool
) -> None:
    async def torn() -> AsyncIterator[Row]:
        async for row in rows(films(count)):
            yield row
        raise Torn

    with pytest.raises(Torn):
        await catalogue.add_many(torn(), skip_invalid=skip_invalid)
    assert await everything(store) == ([], [[]] * 12)
    await catalogue.add(HEAT)


async def test_an_error_of_whoever_is_told_leaves_nothing_half_added(
    catalogue: Catalogue, store: Store
) -> None:
    def full(rejection: Rejection) -> None:
        raise Torn(rejection)

    with pytest.raises(Torn):
        await catalogue.add_many(rows([*films(2_000), UNREAD]), skip_invalid=True, on_rejected=full)
    assert await everything(store) == ([], [[]] * 12)


@pytest.mark.usefixtures("one_loop")
async def test_an_import_that_is_cancelled_leaves_nothing_half_added(
    catalogue: Catalogue, store: Store
) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[Row]:
        async for row in rows(films(2_500)):
            yield row
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(catalogue.add_many(endless()))
    await asyncio.wait_for(waiting.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await everything(store) == ([], [[]] * 12)
    await catalogue.add(HEAT)


# Many at once


async def test_of_fifty_writes_based_on_one_version_exactly_one_wins(
    catalogue: Catalogue, clock: Clock
) -> None:
    last = await catalogue.add(HEAT)
    for first in (1900, 1950, 2000, 2050):
        at = clock.move()
        results = await asyncio.gather(
            *(
                catalogue.revise(1, {"release_year": year}, version=last.version)
                for year in range(first, first + 50)
            ),
            return_exceptions=True,
        )
        winners = [result for result in results if isinstance(result, Movie)]
        losers = [result for result in results if isinstance(result, VersionConflict)]
        assert (len(winners), len(losers)) == (1, 49)
        assert {(loser.expected, loser.current) for loser in losers} == {(last.version, last.version + 1)}
        last = winners[0]
        assert (last.release_year, last.version) == (first + results.index(last), losers[0].current)
        assert await catalogue.get(1) == last
        history = await events_of(catalogue, 1)
        assert history[0] == MovieRevised(1, last.version, at, "system", last)
        assert len(history) == last.version


async def test_writes_based_on_no_version_all_hold(catalogue: Catalogue) -> None:
    """Each builds on the one before it: none brings back what another one has changed."""
    await catalogue.add(HEAT)
    await asyncio.gather(
        *(catalogue.revise(1, {"release_year": 1900 + number}) for number in range(25)),
        *(catalogue.revise(1, {"genre": f"Genre {number}"}) for number in range(25)),
    )
    history = (await events_of(catalogue, 1))[::-1]
    assert [event.version for event in history] == list(range(1, 52))
    assert await catalogue.get(1) == history[-1].movie
    for before, after in pairwise(event.movie for event in history):
        assert (before.release_year != after.release_year) + (before.genre != after.genre) == 1


async def test_readers_that_try_again_lose_no_update(catalogue: Catalogue) -> None:
    await catalogue.add({"title": "Counter", "release_year": 1900})

    async def count() -> None:
        while True:
            seen = await catalogue.get(1)
            year = (seen.release_year or 0) + 1
            try:
                await catalogue.revise(1, {"release_year": year}, version=seen.version)
            except VersionConflict:
                continue
            return

    await asyncio.gather(*(count() for _ in range(20)))
    assert ((await catalogue.get(1)).release_year, (await catalogue.get(1)).version) == (1920, 21)


async def test_of_many_removals_exactly_one_is_the_first(catalogue: Catalogue) -> None:
    await catalogue.add(HEAT)
    results = await asyncio.gather(*(catalogue.remove(1) for _ in range(20)), return_exceptions=True)
    assert results.count(None) == 1
    assert [type(result) for result in results].count(MovieNotFound) == 19
    assert [type(event) for event in await events_of(catalogue, 1)] == [MovieRemoved, MovieAdded]


# A commit that fails


async def test_a_write_is_done_when_it_is_committed(store: Store, clock: Clock) -> None:
    class Uncommitted:
        @asynccontextmanager
        async def __call__(self) -> AsyncIterator[Transaction]:
            async with store.transactions() as tx:
                yield tx
                raise Unavailable("database", "it went away")

    added = await Catalogue(store.queries, store.transactions, clock=clock).add(HEAT)
    before = await everything(store)
    catalogue = Catalogue(store.queries, Uncommitted(), clock=clock)
    writes: Sequence[Awaitable[object]] = [
        catalogue.add(HEAT),
        catalogue.replace(added.id, {"title": GOOD}),
        catalogue.revise(added.id, {"title": GOOD}),
        catalogue.remove(added.id),
        catalogue.add_many(rows(films(3))),
    ]
    for write in writes:
        with pytest.raises(Unavailable):
            await write
    assert await everything(store) == before
