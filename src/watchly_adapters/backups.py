"""Backups: a catalogue in PostgreSQL and the originals of its images, as they are at one moment.

What is in an archive, see `archives`. Renditions are made anew, and what is being uploaded is left out.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import IO, Final

import msgspec

from watchly_adapters.archives import Archive, ArchiveWriter, Entry, Manifest
from watchly_adapters.postgres.dumps import Shown, snapshot, vacancy
from watchly_adapters.postgres.migrate import migrate, migrations
from watchly_core.clocks import utc_now
from watchly_core.errors import ImageNotFound, Misconfigured, Unavailable, WatchlyError
from watchly_core.images import Image
from watchly_core.ports import ImageFiles, ImageStore

#: Told of bytes that were read or written.
Advance = Callable[[int], None]

_CHUNK_BYTES: Final = 1024 * 1024
_ANY_KEY: Final = "0" * 32
#: Images that are sent to their store at a time.
_AT_ONCE: Final = 4


class Backup(msgspec.Struct, frozen=True):
    """What a backup came to.

    `lost` are the keys of images that movies show and the store has not, or not whole.
    """

    manifest: Manifest
    lost: tuple[str, ...]


async def back_up(
    url: str,
    store: ImageStore,
    out: IO[bytes],
    *,
    spool: Path | None = None,
    advance: Advance = lambda _: None,
) -> Backup:
    """Write a database and its images to `out`, consistent with each other.

    The caller sees to it that nobody deletes images from the store meanwhile. Images that the service does
    not serve itself stay where they are.

    Args:
        url: a PostgreSQL URL or conninfo string.
        store: where the images are.
        out: where the archive goes; it is not read.
        spool: the folder for temporary files.
        advance: told of bytes that were written.

    Raises:
        Misconfigured: there is no catalogue in the database, or there are no programs that make dumps.
        Unavailable: the database or the image store does not answer, the dump cannot be made, or there are
            images and the store has nothing at all: it is none, or one that is not mounted.
        OSError: there is no room.
    """
    archive = ArchiveWriter(out)
    lost: list[str] = []
    images = image_bytes = 0
    images_at = None
    with tempfile.TemporaryFile(dir=spool) as dump, tempfile.TemporaryFile(dir=spool) as listed:
        at = utc_now()
        async with snapshot(url) as taken:
            async for shown in taken.images():
                listed.write(msgspec.json.encode(shown) + b"\n")
            await taken.dump(dump)
        await asyncio.to_thread(_copy_dump, dump, archive, advance)
        dump.truncate(0)
        if isinstance(store, ImageFiles):
            for shown in _listed(listed):
                found = await _copy_image(store, shown.image, archive, advance)
                images, image_bytes = images + (found is not None), image_bytes + (found or 0)
                # What was discarded may never have arrived, and then no movie has shown it.
                if found != shown.image.bytes and shown.attached:
                    lost.append(shown.image.key)
            if lost and not images and await store.is_empty():
                # Such a backup would take the place of one that has them.
                raise Unavailable(
                    "image_store", f"it is empty, and movies show images ({len(lost)}): is it where they are?"
                )
        elif listed.tell():
            images_at = place(store)
    manifest = Manifest(
        watchly=version("watchly"),
        schema=taken.schema,
        postgresql=taken.server,
        at=at,
        movies=taken.movies,
        events=taken.events,
        images=images,
        image_bytes=image_bytes,
        images_at=images_at,
    )
    return Backup(archive.finish(manifest), tuple(lost))


async def restore(
    archive: Archive, url: str, store: ImageStore, *, advance: Advance = lambda _: None
) -> list[str]:
    """Make an empty database and an empty image store what is in an archive; gives the migrations it took.

    All of it is restored, or nothing; a process that is killed may leave images behind, and no movies.

    Args:
        archive: the backup.
        url: a PostgreSQL URL or conninfo string.
        store: where the images go.
        advance: told of bytes that were restored.

    Raises:
        Misconfigured: the archive is newer than this version or this server, the database or the store is not
            empty, or the images of the backup are elsewhere than in this store.
        Unavailable: the database or the image store does not answer, or the dump cannot be loaded.
        ImageRejected: the store does not take an image.
    """
    manifest = archive.manifest
    _require_schema(manifest)
    _require_place(manifest, store)
    async with vacancy(url) as vacant:
        vacant.require_server(manifest.postgresql_major)
        if isinstance(store, ImageFiles) and not await store.is_empty():
            raise Misconfigured(
                "the image store is not empty: restore into another one, or delete its files,"
                " which a restore that was cut off may have left"
            )
        with archive.dump() as dump:
            await vacant.examine(dump)
        images = _Images(archive, store, advance)
        try:
            # First, so that no row ever refers to a file that is not there.
            await images.put()
            with archive.dump() as dump:
                await vacant.load(dump)
        except BaseException:
            with suppress(WatchlyError):
                # Unless rows refer to them all the same: the end of a transaction may not be heard of.
                if await vacant.is_vacant():
                    await images.take_back()
            raise
    return await migrate(url)


def place(store: ImageStore) -> str:
    """Where a store keeps images, with ``{key}`` for their keys."""
    return store.url(_ANY_KEY).replace(_ANY_KEY, "{key}")


def _require_schema(manifest: Manifest) -> None:
    known = migrations()[-1].number
    if manifest.schema > known:
        raise Misconfigured(
            f"the backup was made by Watchly {manifest.watchly}, whose schema {manifest.schema} is newer than"
            f" {known}, which is this one's: restore it with that version"
        )


def _require_place(manifest: Manifest, store: ImageStore) -> None:
    wanted = manifest.images_at
    if wanted is None or (not isinstance(store, ImageFiles) and place(store) == wanted):
        return
    have = "files of this service" if isinstance(store, ImageFiles) else place(store)
    raise Misconfigured(
        f"the images of this backup are at {wanted}, and the settings name {have}:"
        " set CLOUDINARY_URL to where they are"
    )


def _copy_dump(dump: IO[bytes], archive: ArchiveWriter, advance: Advance) -> None:
    size = dump.seek(0, 2)
    dump.seek(0)
    with archive.dump(size) as write:
        while chunk := dump.read(_CHUNK_BYTES):
            write(chunk)
            advance(len(chunk))


def _listed(file: IO[bytes]) -> Iterator[Shown]:
    file.seek(0)
    decode = msgspec.json.Decoder(Shown).decode
    return map(decode, file)


async def _copy_image(
    store: ImageFiles, image: Image, archive: ArchiveWriter, advance: Advance
) -> int | None:
    """How many bytes the store has of an image; None if there is none."""
    try:
        async with store.read(image.key) as file:
            with archive.image(msgspec.structs.replace(image, bytes=file.size)) as write:
                async for chunk in file.chunks():
                    await asyncio.to_thread(write, chunk)
                    advance(len(chunk))
            return file.size
    except ImageNotFound:
        return None


class _Images:
    """The images of an archive on their way to a store."""

    def __init__(self, archive: Archive, store: ImageStore, advance: Advance) -> None:
        self._archive, self._store, self._advance = archive, store, advance
        self._begun = 0

    async def put(self) -> None:
        """Put all of them, some at a time."""
        images = self._archive.images()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._put(images))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def take_back(self) -> None:
        """Delete those that were put."""
        for image, _ in islice(self._archive.images(), self._begun):
            await self._store.delete(image.key)

    async def _put(self, images: Iterator[tuple[Image, Entry]]) -> None:
        for image, entry in images:
            self._begun += 1
            with self._archive.open(entry) as source:
                await self._store.put(image.key, source, image)
            self._advance(entry.size)
