"""The use cases on images: on the fakes, and on PostgreSQL with a directory of files."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import IO

import msgspec
import pytest
from tests.blocked import READ_AHEAD, BlockedStore
from tests.houses import ADA, DOWN, INSTANT, NOON, PNG, Behind, Failing, House, chunks
from tests.legacy import leave
from tests.pictures import blank_png, cleaned

from watchly_adapters.testing import samples
from watchly_adapters.testing.stores import events_of
from watchly_core.catalogue import IMAGE_GRACE
from watchly_core.errors import (
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
    InvalidMovie,
    MovieNotFound,
    Unavailable,
    VersionConflict,
)
from watchly_core.events import ImageAttached, ImageDetached, MovieAdded, MovieRemoved
from watchly_core.images import MAX_PIXELS, Image, ImageRecord, ImageState
from watchly_core.journey import PENDING_FOR
from watchly_core.movies import Movie, MovieDraft
from watchly_core.ports import ImageStore
from watchly_core.spools import Spool
from watchly_core.sweeper import SweepReport

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "blocking", "blocking_postgres"], indirect=True),
]


async def untouched() -> AsyncIterator[bytes]:
    yield pytest.fail("the content was read")


# Attaching

IMAGES = {name: (content, samples.WIDTH, samples.HEIGHT) for name, content in samples.UPRIGHT.items()} | {
    f"{name} turned": (content, samples.HEIGHT, samples.WIDTH) for name, content in samples.TURNED.items()
}


@pytest.mark.parametrize("name", IMAGES)
async def test_an_image_is_attached(house: House, name: str) -> None:
    content, width, height = IMAGES[name]
    format_ = name.partition(" ")[0]
    added = await house.movie()
    at = house.wait()
    movie = await house.gallery().attach(
        added.id, chunks(content, 7), f"Image/{format_}; q=1", version=1, actor=ADA
    )
    (key,) = house.keys
    kept = cleaned(content)
    image = Image(key, width, height, format_, len(kept))
    url = f"https://films.example/images/{key}"
    variants = {name: f"{url}?variant={name}" for name in ("thumbnail", "card")}
    shown = msgspec.structs.replace(image, variants=variants)
    assert movie == msgspec.structs.replace(added, image=shown, image_url=url, version=2, updated_at=at)
    assert await house.catalogue().get(added.id) == movie
    assert await events_of(house.catalogue(), added.id) == [
        ImageAttached(added.id, 2, at, "user:7", movie),
        MovieAdded(added.id, 1, NOON, "system", added),
    ]
    assert await house.records() == {key: ImageRecord(image, ImageState.ATTACHED, added.id, None)}
    assert await house.content(key) == kept
    house.wait(dt.timedelta(days=9_999))
    assert await house.gallery().sweep() == SweepReport(0, 0)
    assert await house.unsettled() == []


@pytest.mark.parametrize("size", [262_143, 262_144, 262_145, 1_000_000])
async def test_a_large_image_is_kept_whole(house: House, size: int) -> None:
    """From a certain size on it goes through a file."""
    content = samples.png(size)
    movie = await house.with_image(content)
    assert movie.image is not None
    assert movie.image.bytes == size
    assert await house.content(movie.image.key) == cleaned(content)


async def test_the_name_image_jpg_is_known(house: House) -> None:
    movie = await house.movie()
    movie = await house.gallery().attach(movie.id, chunks(samples.UPRIGHT["jpeg"]), "image/jpg")
    assert movie.image is not None
    assert movie.image.format == "jpeg"


async def test_an_image_takes_the_place_of_another(house: House) -> None:
    first = await house.with_image()
    at = house.wait()
    second = await house.gallery().attach(first.id, chunks(PNG), "image/png", version=2)
    assert second.image is not None
    assert (second.version, second.updated_at, second.image.key) == (3, at, house.keys[1])
    records = await house.records()
    assert await house.states() == ["discarded", "attached"]
    assert records[house.keys[0]].due_at == at + IMAGE_GRACE
    assert set(await house.kept()) == set(house.keys)
    assert next(iter(await events_of(house.catalogue(), first.id))) == ImageAttached(
        first.id, 3, at, "system", second
    )
    assert await house.unsettled() == []


async def test_an_image_takes_the_place_of_a_url_of_an_older_system(house: House) -> None:
    async with house.store.transactions() as tx:
        added = await tx.movies.add(MovieDraft(title="x"), NOON)
        old = msgspec.structs.replace(added, title=" ", image_url="http://old/x.jpg", updated_at=None)
        await leave(tx, old)
    movie = await house.gallery().attach(added.id, chunks(PNG), "image/png")
    assert (movie.title, movie.image_url) == (" ", f"https://films.example/images/{house.keys[0]}")
    assert await house.unsettled() == []


async def test_of_many_images_at_once_one_is_shown_at_last(house: House) -> None:
    movie = await house.movie()
    gallery = house.gallery()
    shown = await asyncio.gather(
        *(gallery.attach(movie.id, chunks(samples.png(300 + mark)), "image/png") for mark in range(10))
    )
    assert sorted(movie.version for movie in shown) == list(range(2, 12))
    assert sorted(await house.states()) == ["attached"] + ["discarded"] * 9
    assert await house.unsettled() == []


async def test_of_many_images_based_on_one_version_one_wins(house: House) -> None:
    movie = await house.movie()
    gallery = house.gallery()
    results = await asyncio.gather(
        *(gallery.attach(movie.id, chunks(PNG), "image/png", version=1) for _ in range(10)),
        return_exceptions=True,
    )
    assert [type(result) for result in results].count(VersionConflict) == 9
    assert await house.disagreements() == []
    assert (await gallery.sweep()).failed == 0
    assert await house.states() == ["attached"]
    assert await house.unsettled() == []


# Adding a movie with its image


async def test_a_movie_is_added_with_its_image(house: House) -> None:
    movie = await house.gallery().add({"title": "Heat"}, chunks(PNG), "image/png", actor=ADA)
    assert movie.image is not None
    assert (movie.title, movie.version, movie.image.key) == ("Heat", 2, house.keys[0])
    assert await house.movies() == [movie]
    events = await events_of(house.catalogue(), movie.id)
    assert [(type(event), event.version, event.actor) for event in events] == [
        (ImageAttached, 2, "user:7"),
        (MovieAdded, 1, "user:7"),
    ]
    assert {record.movie_id for record in (await house.records()).values()} == {movie.id}
    assert await house.unsettled() == []


async def test_neither_a_movie_nor_its_image_is_added_alone(house: House) -> None:
    gallery = house.gallery()
    with pytest.raises(InvalidMovie):
        await gallery.add({"title": ""}, untouched(), "image/png")
    with pytest.raises(ImageTypeUnsupported):
        await gallery.add({"title": ""}, untouched(), "text/html")
    with pytest.raises(ImageUnreadable):
        await gallery.add({"title": "Heat"}, chunks(PNG[:-1]), "image/png")
    store = Failing(house.images)
    store.after_put = DOWN
    with pytest.raises(Unavailable):
        await house.gallery(images=store).add({"title": "Heat"}, chunks(PNG), "image/png")
    assert await house.movies() == []
    house.wait(PENDING_FOR)
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_a_file_is_taken_as_it_is(house: House) -> None:
    """Who has spooled it already need not do so again; its size counts all the same."""
    movie = await house.movie()
    with io.BytesIO(PNG) as file:
        with pytest.raises(ImageTooLarge):
            await house.gallery(max_bytes=len(PNG) - 1).attach(movie.id, Spool(file, len(PNG)), "image/png")
        shown = await house.gallery().attach(movie.id, Spool(file, len(PNG)), "image/png")
    assert shown.image is not None
    assert await house.content(shown.image.key) == PNG


# What is refused

REFUSED: Mapping[str, tuple[bytes, str, type[ImageRejected]]] = {
    "another format": (PNG, "image/jpeg", ImageUnreadable),
    "another format of the same family": (samples.UPRIGHT["webp lossy"], "image/avif", ImageUnreadable),
    "no image": (b"<html>", "image/png", ImageTypeUnsupported),
    "nothing": (b"", "image/png", ImageTypeUnsupported),
    "a signature alone": (PNG[:8], "image/png", ImageUnreadable),
    "too many pixels": (
        samples.png_claiming(10_000, MAX_PIXELS // 10_000 + 1),
        "image/png",
        ImageTooLarge,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_accepted_leaves_nothing(house: House, name: str) -> None:
    content, media_type, error = REFUSED[name]
    movie = await house.with_image()
    for version in (None, 2, 1):
        with pytest.raises(error) as refused:
            await house.gallery().attach(movie.id, chunks(content), media_type, version=version)
        assert type(refused.value) is error
    assert await house.movies() == [movie]
    assert await house.states() == ["attached"]
    assert await house.unsettled() == []


async def test_as_many_pixels_as_allowed(house: House) -> None:
    movie = await house.with_image(blank_png(10_000, MAX_PIXELS // 10_000))
    assert movie.image is not None
    assert movie.image.width * movie.image.height == MAX_PIXELS


@pytest.mark.parametrize("media_type", ["", "text/html", "image/svg+xml", "image/", "png", "image/*"])
async def test_a_type_that_is_not_kept_is_refused_first_of_all(house: House, media_type: str) -> None:
    for movie_id in (999, (await house.movie()).id):
        with pytest.raises(ImageTypeUnsupported):
            await house.gallery().attach(movie_id, untouched(), media_type, version=99)


@pytest.mark.parametrize("movie_id", [0, -1, 999, 2**31, 2**63])
async def test_the_image_of_an_unknown_movie_is_not_even_read(house: House, movie_id: int) -> None:
    with pytest.raises(MovieNotFound):
        await house.gallery().attach(movie_id, untouched(), "image/png", version=1)
    assert house.keys == []


@pytest.mark.parametrize("store_has_it", [False, True])
async def test_a_limit_is_kept_while_the_content_streams(house: House, *, store_has_it: bool) -> None:
    class Small(Behind):
        @property
        def max_bytes(self) -> int | None:
            return 1_000

    gallery = house.gallery(images=Small(house.images)) if store_has_it else house.gallery(max_bytes=1_000)
    movie = await house.movie()
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        yield PNG
        while True:
            read += 1
            yield bytes(300)

    with pytest.raises(ImageTooLarge):
        await gallery.attach(movie.id, endless(), "image/png")
    most = READ_AHEAD if isinstance(house.store, BlockedStore) else 1_000
    assert read == (most - len(PNG)) // 300 + 1
    with pytest.raises(ImageTooLarge):
        await gallery.attach(movie.id, chunks(samples.png(1_001)), "image/png")
    assert house.keys == []
    assert (await gallery.attach(movie.id, chunks(samples.png(1_000)), "image/png")).version == 2


async def test_the_smaller_of_two_limits_counts(house: House) -> None:
    class Small(Behind):
        @property
        def max_bytes(self) -> int | None:
            return 1_000

    movie = await house.movie()
    for limit, least in ((999, 999), (1_001, 1_000)):
        gallery = house.gallery(images=Small(house.images), max_bytes=limit)
        with pytest.raises(ImageTooLarge):
            await gallery.attach(movie.id, chunks(samples.png(least + 1)), "image/png")
        await gallery.attach(movie.id, chunks(samples.png(least)), "image/png")


class Torn(Exception):
    """Whoever sends the content has gone."""


async def test_content_that_ends_in_an_error_leaves_nothing(house: House) -> None:
    async def torn() -> AsyncIterator[bytes]:
        yield PNG
        raise Torn

    movie = await house.with_image()
    with pytest.raises(Torn):
        await house.gallery().attach(movie.id, torn(), "image/png")
    assert await house.movies() == [movie]
    assert await house.states() == ["attached"]


# What another one does meanwhile


async def test_a_version_conflict_changes_nothing_and_sends_nothing(house: House) -> None:
    movie = await house.with_image()
    for version in (1, 3, 0):
        with pytest.raises(VersionConflict) as conflict:
            await house.gallery().attach(movie.id, chunks(PNG), "image/png", version=version)
        assert (conflict.value.expected, conflict.value.current) == (version, 2)
    assert await house.movies() == [movie]
    assert len(await events_of(house.catalogue(), movie.id)) == 2
    assert await house.disagreements() == []
    assert await house.gallery().sweep() == SweepReport(0, 0)
    assert set(await house.kept()) == {house.keys[0]}
    assert await house.unsettled() == []


async def test_a_movie_that_goes_while_its_image_comes_takes_it_along(house: House) -> None:
    movie = await house.movie()

    async def slow() -> AsyncIterator[bytes]:
        yield PNG
        await house.catalogue().remove(movie.id)

    with pytest.raises(MovieNotFound):
        await house.gallery().attach(movie.id, slow(), "image/png")
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


@pytest.mark.usefixtures("one_loop")
async def test_an_upload_that_is_cancelled_is_swept_when_it_is_given_up(house: House) -> None:
    class Slow(Behind):
        def __init__(self, real: ImageStore) -> None:
            super().__init__(real)
            self.putting = asyncio.Event()

        async def put(self, key: str, source: IO[bytes], image: Image) -> None:
            await super().put(key, source, image)
            self.putting.set()
            await asyncio.Event().wait()

    slow = Slow(house.images)
    movie = await house.movie()
    task = asyncio.create_task(house.gallery(images=slow).attach(movie.id, chunks(PNG), "image/png"))
    await asyncio.wait_for(slow.putting.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await house.disagreements() == []
    await _given_up(house, movie)


@pytest.mark.parametrize("store_is_down", [False, True])
async def test_an_upload_that_takes_too_long_leaves_nothing(house: House, *, store_is_down: bool) -> None:
    """The sweeper gives it up while the store still receives it, and may have forgotten it by then."""

    class Slow(Failing):
        async def put(self, key: str, source: IO[bytes], image: Image) -> None:
            house.wait(PENDING_FOR)
            report = await gallery.sweep()
            assert report.deleted + report.failed == 1
            await super().put(key, source, image)

    slow = Slow(house.images)
    gallery = house.gallery(images=slow)
    slow.on_delete = DOWN if store_is_down else None
    movie = await house.movie()
    with pytest.raises((IllegalTransition, ImageNotFound)):
        await gallery.attach(movie.id, chunks(PNG), "image/png")
    assert await house.movies() == [movie]
    assert await house.disagreements() == []
    slow.on_delete = None
    house.wait(PENDING_FOR)
    await gallery.sweep()
    assert (await house.kept(), await house.records()) == ({}, {})


@pytest.mark.parametrize("fault", ["before_put", "after_put"])
async def test_a_store_that_fails_leaves_a_record_for_the_sweeper(house: House, fault: str) -> None:
    """Whether it has the file by then is not known."""
    store = Failing(house.images)
    setattr(store, fault, DOWN)
    movie = await house.movie()
    with pytest.raises(Unavailable) as unavailable:
        await house.gallery(images=store).attach(movie.id, chunks(PNG), "image/png")
    assert unavailable.value is DOWN
    assert await house.states() == ["pending"]
    assert await house.disagreements() == []
    await _given_up(house, movie)


async def _given_up(house: House, movie: Movie) -> None:
    """`movie` is as it was, and what was pending since now goes after its time and not before."""
    gallery = house.gallery()
    assert await house.movies() == [movie]
    house.wait(PENDING_FOR - INSTANT)
    assert await gallery.sweep() == SweepReport(0, 0)
    assert await house.states() == ["pending"]
    house.wait(INSTANT)
    assert await gallery.sweep() == SweepReport(1, 0)
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_what_a_store_refuses_goes_with_the_next_sweep(house: House) -> None:
    store = Failing(house.images)
    store.before_put = ImageUnreadable("the store cannot decode it")
    movie = await house.movie()
    with pytest.raises(ImageUnreadable):
        await house.gallery(images=store).attach(movie.id, chunks(PNG), "image/png")
    assert await house.movies() == [movie]
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert await house.records() == {}


# Detaching and removing


@pytest.mark.parametrize("version", [None, 2])
async def test_an_image_is_detached(house: House, version: int | None) -> None:
    movie = await house.with_image()
    at = house.wait()
    await house.gallery().detach(movie.id, version=version, actor=ADA)
    bare = msgspec.structs.replace(movie, image=None, image_url=None, version=3, updated_at=at)
    assert await house.movies() == [bare]
    assert next(iter(await events_of(house.catalogue(), movie.id))) == ImageDetached(
        movie.id, 3, at, "user:7", bare
    )
    assert len(await events_of(house.catalogue(), movie.id)) == 3
    assert await house.states() == ["discarded"]
    assert await house.unsettled() == []


async def test_a_url_of_an_older_system_is_detached(house: House) -> None:
    async with house.store.transactions() as tx:
        added = await tx.movies.add(MovieDraft(title="Heat"), NOON)
        await leave(tx, msgspec.structs.replace(added, image_url="http://old/x.jpg"))
    at = house.wait()
    await house.gallery().detach(added.id)
    bare = msgspec.structs.replace(added, version=2, updated_at=at)
    assert await house.movies() == [bare]
    assert await events_of(house.catalogue(), added.id) == [ImageDetached(added.id, 2, at, "system", bare)]


@pytest.mark.parametrize("purge", [False, True])
async def test_detaching_finds_faults_in_their_order(house: House, *, purge: bool) -> None:
    movie = await house.with_image()
    bare = await house.movie()
    before = await house.movies(), await house.records()
    gallery = house.gallery()
    for version in (None, 1, 2):
        with pytest.raises(MovieNotFound):
            await gallery.detach(999, version=version, purge=purge)
        with pytest.raises(ImageNotFound):
            await gallery.detach(bare.id, version=version, purge=purge)
    for version in (0, 1, 3):
        with pytest.raises(VersionConflict):
            await gallery.detach(movie.id, version=version, purge=purge)
    assert (await house.movies(), await house.records()) == before


Discard = Callable[[House, Movie, bool], Awaitable[object]]
DISCARDS: Mapping[str, Discard] = {
    "detach": lambda house, movie, purge: house.gallery().detach(movie.id, purge=purge),
    "remove": lambda house, movie, purge: house.catalogue().remove(movie.id, purge=purge),
}


@pytest.mark.parametrize("name", [*DISCARDS, "replace"])
async def test_a_discarded_image_keeps_its_grace(house: House, name: str) -> None:
    movie = await house.with_image()
    house.wait()
    if name == "replace":
        await house.gallery().attach(movie.id, chunks(PNG), "image/png")
    else:
        await DISCARDS[name](house, movie, False)  # noqa: FBT003 - no purge
    first = house.keys[0]
    house.wait(IMAGE_GRACE - INSTANT)
    assert await house.gallery().sweep() == SweepReport(0, 0)
    assert first in await house.kept()
    house.wait(INSTANT)
    assert await house.gallery().sweep() == SweepReport(1, 0)
    assert first not in await house.kept()
    assert first not in await house.records()
    assert await house.unsettled() == []


async def test_a_gallery_has_a_grace_of_its_own(house: House) -> None:
    movie = await house.with_image()
    gallery = house.gallery(grace=dt.timedelta(0))
    await gallery.attach(movie.id, chunks(PNG), "image/png")
    assert await gallery.sweep() == SweepReport(1, 0)
    await gallery.detach(movie.id)
    assert await gallery.sweep() == SweepReport(1, 0)


@pytest.mark.parametrize("name", DISCARDS)
async def test_a_purge_takes_earlier_images_along(house: House, name: str) -> None:
    movie = await house.with_image()
    other = await house.with_image()
    for _ in range(2):
        await house.gallery().attach(movie.id, chunks(PNG), "image/png")
        await house.gallery().attach(other.id, chunks(PNG), "image/png")
    await DISCARDS[name](house, movie, True)  # noqa: FBT003 - purge
    assert await house.disagreements() == []
    assert await house.gallery().sweep() == SweepReport(3, 0)
    assert {record.movie_id for record in (await house.records()).values()} == {other.id}
    assert len(await house.kept()) == 3
    assert await house.unsettled() == []


async def test_a_removed_movie_takes_its_image_along(house: House) -> None:
    movie = await house.with_image()
    at = house.wait()
    await house.catalogue().remove(movie.id, version=2)
    assert next(iter(await events_of(house.catalogue(), movie.id))) == MovieRemoved(
        movie.id, 3, at, "system", movie
    )
    assert [record.due_at for record in (await house.records()).values()] == [at + IMAGE_GRACE]
    assert await house.unsettled() == []
