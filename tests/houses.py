"""A catalogue with images, whose clock is moved by hand and whose parts fail when they are told to."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from tests.blocked import through
from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import ServedStore
from watchly_adapters.testing.stores import Store
from watchly_core.catalogue import IMAGE_GRACE, Catalogue
from watchly_core.errors import ImageNotFound, Unavailable, WatchlyError
from watchly_core.gallery import MAX_IMAGE_BYTES, Gallery
from watchly_core.images import Image, ImageRecord, ImageState, StoredImage, Ticket, new_key
from watchly_core.movies import Movie
from watchly_core.people import Actor, Role
from watchly_core.ports import ImageInspector, ImageStore, Transaction, Transactions
from watchly_core.queries import MovieQuery

NOON = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
INSTANT = dt.timedelta(microseconds=1)
PNG = samples.UPRIGHT["png"]


#: Who acts in tests.
ADA = Actor("user:7", Role.EDITOR, 7)
KEY = Actor("api-key:9", Role.EDITOR, 7)


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

    def ticks(self) -> float:
        """How many seconds it was waited."""
        return (self.now - NOON).total_seconds()

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
        gallery = Gallery(
            self.store.queries,
            transactions or self.store.transactions,
            images or self.images,
            self.inspector,
            clock=self.clock,
            keys=self._key,
            max_bytes=max_bytes,
            grace=grace,
        )
        return through(self.store, gallery)

    def catalogue(self, *, transactions: Transactions | None = None) -> Catalogue:
        catalogue = Catalogue(
            self.store.queries,
            transactions or self.store.transactions,
            images=self.images,
            clock=self.clock,
        )
        return through(self.store, catalogue)

    def _key(self) -> str:
        self.keys.append(new_key())
        return self.keys[-1]

    async def movie(self) -> Movie:
        return await self.catalogue().add({"title": "Heat"})

    async def with_image(self, content: bytes = PNG) -> Movie:
        movie = await self.movie()
        return await self.gallery().attach(movie.id, chunks(content), "image/png")

    async def movies(self) -> list[Movie]:
        """All movies as clients see them."""
        return list((await self.catalogue().find(MovieQuery(limit=9_999))).data)

    async def kept(self) -> Mapping[str, int]:
        """The files in the store and their sizes; of a directory everything that is in it."""
        if self._directory is not None:
            files = [path for path in self._directory.rglob("*") if path.is_file()]
            kept = {}
            for path in files:
                with suppress(FileNotFoundError):  # a thread may be deleting it, though who wanted it crashed
                    kept[path.name] = path.stat().st_size
            return kept
        found = {key: await self.images.stat(key) for key in self.keys}
        return {key: stored.bytes for key, stored in found.items() if stored is not None}

    async def content(self, key: str) -> bytes:
        async with self.images.read(key) as file:
            return b"".join([chunk async for chunk in file.chunks()])

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
        rows = (await self.store.queries.find(MovieQuery(limit=9_999))).data
        shown = {movie.image.key: movie for movie in rows if movie.image}
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


async def chunks(content: bytes, size: int = 1_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


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

    async def stat(self, key: str) -> StoredImage | None:
        return await self.real.stat(key)

    def url(self, key: str, variant: str | None = None) -> str:
        return self.real.url(key, variant)

    def ticket(self, key: str, image: Image, expires_at: dt.datetime) -> Ticket:
        return self.real.ticket(key, image, expires_at)


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


async def discarded(house: House, number: int) -> None:
    """Leave images that are due."""
    for _ in range(number):
        movie = await house.with_image()
        await house.gallery().detach(movie.id, purge=True)


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
