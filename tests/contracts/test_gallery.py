"""The use cases on images: on the fakes, and on PostgreSQL with a directory of files."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import IO

import msgspec
import pytest
from tests.legacy import leave

from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryDatabase, MemoryImages
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import ServedStore
from watchly_adapters.testing.stores import Store
from watchly_core.catalogue import IMAGE_GRACE, Catalogue
from watchly_core.errors import (
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
    Misconfigured,
    MovieNotFound,
    Unavailable,
    VersionConflict,
    WatchlyError,
)
from watchly_core.events import ImageAttached, ImageDetached, MovieAdded, MovieRemoved
from watchly_core.gallery import MAX_IMAGE_BYTES, PENDING_FOR, Gallery, SweepReport
from watchly_core.images import MAX_PIXELS, Image, ImageRecord, ImageState, new_key
from watchly_core.movies import Movie, MovieDraft
from watchly_core.ports import ImageInspector, ImageStore, Transaction, Transactions
from watchly_core.queries import MovieQuery

pytestmark = pytest.mark.anyio

NOON = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
INSTANT = dt.timedelta(microseconds=1)
PNG = samples.UPRIGHT["png"]


class House:
    """The parts of a catalogue with images, a clock that is moved by hand, and all keys that were made."""

    def __init__(
        self, store: Store, images: ServedStore, inspector: ImageInspector, directory: Path | None
    ) -> None:
        self.store, self.images, self.inspector = store, images, inspector
        self._directory = directory
        self.now = NOON
        self.keys: list[str] = []

    def clock(self) -> dt.datetime:
        return self.now

    def wait(self, time: dt.timedelta = dt.timedelta(minutes=1, microseconds=7)) -> dt.datetime:
        self.now += time
        return self.now

    def gallery(
        self,
        *,
        images: ImageStore | None = None,
        transactions: Transactions | None = None,
        max_bytes: int = MAX_IMAGE_BYTES,
        grace: dt.timedelta = IMAGE_GRACE,
    ) -> Gallery:
        return Gallery(
            self.store.queries,
            transactions or self.store.transactions,
            images or self.images,
            self.inspector,
            clock=self.clock,
            keys=self._key,
            max_bytes=max_bytes,
            grace=grace,
        )

    def catalogue(self, *, transactions: Transactions | None = None) -> Catalogue:
        return Catalogue(
            self.store.queries,
            transactions or self.store.transactions,
            images=self.images,
            clock=self.clock,
        )

    def _key(self) -> str:
        self.keys.append(new_key())
        return self.keys[-1]

    async def movie(self) -> Movie:
        return await self.catalogue().add({"title": "Heat"})

    async def with_image(self, content: bytes = PNG) -> Movie:
        movie = await self.movie()
        return await self.gallery().attach(movie.id, chunks(content), "image/png")

    async def movies(self) -> list[Movie]:
        return list((await self.store.queries.find(MovieQuery(limit=9_999))).data)

    async def kept(self) -> Mapping[str, int]:
        """The files in the store and their sizes; of a directory everything that is in it."""
        if self._directory is not None:
            files = [path for path in self._directory.rglob("*") if path.is_file()]
            return {path.name: path.stat().st_size for path in files}
        sizes = {key: await self.images.stat(key) for key in self.keys}
        return {key: size for key, size in sizes.items() if size is not None}

    async def content(self, key: str) -> bytes:
        async with self.images.read(key) as (_, content):
            return b"".join([chunk async for chunk in content])

    async def records(self) -> Mapping[str, ImageRecord]:
        found = {}
        async with self.store.transactions() as tx:
            for key in self.keys:
                try:
                    found[key] = await tx.images.get(key)
                except ImageNotFound:
                    continue
        return found

    async def states(self) -> list[str]:
        """The states of all images that the ledger knows, in the order in which their keys were made."""
        return [record.state.value for record in (await self.records()).values()]

    async def disagreements(self) -> list[str]:
        """What must hold at every moment, and does not."""
        kept, records = await self.kept(), await self.records()
        shown = {movie.image.key: movie for movie in await self.movies() if movie.image}
        wrong = [f"the file {key} has no record" for key in kept.keys() - records.keys()]
        for key, record in records.items():
            if record.state is ImageState.ATTACHED:
                if kept.get(key) != record.image.bytes:
                    wrong.append(f"{key} is attached and its file is not there")
                if key not in shown or shown[key].id != record.movie_id:
                    wrong.append(f"{key} is attached and no movie shows it")
        for key, movie in shown.items():
            if key not in kept:
                wrong.append(f"movie {movie.id} shows {key}, whose file is missing")
            if key not in records or records[key].state is not ImageState.ATTACHED:
                wrong.append(f"movie {movie.id} shows {key}, which is not attached")
            elif records[key].image != movie.image:
                wrong.append(f"movie {movie.id} shows {key} other than the ledger has it")
        return wrong

    async def unsettled(self) -> list[str]:
        """What must hold once a sweep found all that was left behind, and does not."""
        kept, records = await self.kept(), await self.records()
        left = [
            f"{key} is still {record.state.value}"
            for key, record in records.items()
            if record.state in {ImageState.PENDING, ImageState.DELETING} or key not in kept
        ]
        return await self.disagreements() + left


@pytest.fixture(params=["memory", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    if request.param == "memory":
        return House(
            MemoryDatabase(), MemoryImages(base_url="https://films.example"), HeaderInspector(), None
        )
    return House(
        request.getfixturevalue("postgres"),
        FilesystemImages(tmp_path / "images", base_url="https://films.example"),
        PillowInspector(),
        tmp_path / "images",
    )


async def chunks(content: bytes, size: int = 1_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def untouched() -> AsyncIterator[bytes]:
    yield pytest.fail("the content was read")


class Behind:
    """A store with another one behind it."""

    def __init__(self, real: ImageStore) -> None:
        self.real = real

    @property
    def max_bytes(self) -> int | None:
        return self.real.max_bytes

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        await self.real.put(key, source, image)

    async def delete(self, key: str) -> None:
        await self.real.delete(key)

    async def stat(self, key: str) -> int | None:
        return await self.real.stat(key)

    def url(self, key: str) -> str:
        return self.real.url(key)


class Failing(Behind):
    """Fails with these errors when it is asked to, and notes what it was asked to delete."""

    def __init__(self, real: ImageStore) -> None:
        super().__init__(real)
        self.before_put: WatchlyError | None = None
        self.after_put: WatchlyError | None = None
        self.on_delete: WatchlyError | None = None
        self.only: Collection[str] | None = None
        self.deleted: list[str] = []

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        if self.before_put:
            raise self.before_put
        await super().put(key, source, image)
        if self.after_put:
            raise self.after_put

    async def delete(self, key: str) -> None:
        if self.on_delete and (self.only is None or key in self.only):
            raise self.on_delete
        self.deleted.append(key)
        await asyncio.sleep(0)
        await super().delete(key)


DOWN = Unavailable("image_store", "is down")

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
        added.id, chunks(content, 7), f"Image/{format_}; q=1", version=1, actor="user:7"
    )
    (key,) = house.keys
    image = Image(key, width, height, format_, len(content))
    assert movie == msgspec.structs.replace(
        added, image=image, image_url=f"https://films.example/images/{key}", version=2, updated_at=at
    )
    assert await house.catalogue().get(added.id) == movie
    assert list(await house.store.queries.history(added.id)) == [
        ImageAttached(added.id, 2, at, "user:7", movie),
        MovieAdded(added.id, 1, NOON, "system", added),
    ]
    assert await house.records() == {key: ImageRecord(image, ImageState.ATTACHED, added.id, None)}
    assert await house.content(key) == content
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
    assert await house.content(movie.image.key) == content


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
    assert next(iter(await house.store.queries.history(first.id))) == ImageAttached(
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
    assert await gallery.sweep() == SweepReport(9, 0)
    assert await house.states() == ["attached"]
    assert await house.unsettled() == []


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
    movie = await house.with_image(samples.png_claiming(10_000, MAX_PIXELS // 10_000))
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
    assert read == (1_000 - len(PNG)) // 300 + 1
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


async def test_a_version_conflict_changes_nothing_and_the_file_goes_with_the_next_sweep(house: House) -> None:
    movie = await house.with_image()
    for version in (1, 3, 0):
        with pytest.raises(VersionConflict) as conflict:
            await house.gallery().attach(movie.id, chunks(PNG), "image/png", version=version)
        assert (conflict.value.expected, conflict.value.current) == (version, 2)
    assert await house.movies() == [movie]
    assert len(await house.store.queries.history(movie.id)) == 2
    assert await house.disagreements() == []
    assert await house.gallery().sweep() == SweepReport(3, 0)
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
    await house.gallery().detach(movie.id, version=version, actor="user:7")
    bare = msgspec.structs.replace(movie, image=None, image_url=None, version=3, updated_at=at)
    assert await house.movies() == [bare]
    assert next(iter(await house.store.queries.history(movie.id))) == ImageDetached(
        movie.id, 3, at, "user:7", bare
    )
    assert len(await house.store.queries.history(movie.id)) == 3
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
    assert list(await house.store.queries.history(added.id)) == [
        ImageDetached(added.id, 2, at, "system", bare)
    ]


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
    assert next(iter(await house.store.queries.history(movie.id))) == MovieRemoved(
        movie.id, 3, at, "system", movie
    )
    assert [record.due_at for record in (await house.records()).values()] == [at + IMAGE_GRACE]
    assert await house.unsettled() == []


# Sweeping


async def _discarded(house: House, number: int) -> None:
    for _ in range(number):
        movie = await house.with_image()
        await house.gallery().detach(movie.id, purge=True)


async def test_a_sweep_goes_as_far_as_its_limit(house: House) -> None:
    await _discarded(house, 5)
    gallery = house.gallery()
    assert [await gallery.sweep(limit=2) for _ in range(4)] == [
        SweepReport(2, 0),
        SweepReport(2, 0),
        SweepReport(1, 0),
        SweepReport(0, 0),
    ]
    assert (await house.kept(), await house.records()) == ({}, {})


async def test_a_store_that_is_down_is_asked_ever_more_rarely(house: House) -> None:
    await _discarded(house, 3)
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


@pytest.mark.parametrize("error", [DOWN, Misconfigured("wrong key"), ImageRejected("not this one")])
async def test_an_image_that_will_not_go_keeps_no_other_one(house: House, error: WatchlyError) -> None:
    await _discarded(house, 5)
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
    await _discarded(house, 20)
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


class Crash(Exception):
    """The process is gone; nothing that it still does counts."""


class Fuse:
    """Burns with each step, and ends everything after some of them."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def burn(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Crash


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


class FusedTransactions:
    """Ends before a transaction, before its commit, or after it when nobody has heard of it yet."""

    def __init__(self, real: Transactions, fuse: Fuse) -> None:
        self._real, self._fuse = real, fuse

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Transaction]:
        self._fuse.burn()
        async with self._real() as tx:
            yield tx
            self._fuse.burn()
        self._fuse.burn()


async def _prepare_sweep(house: House) -> None:
    """One image of every kind that a sweeper meets."""
    await _discarded(house, 2)
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
        movie.id, chunks(PNG), "image/png", version=99
    ),
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
