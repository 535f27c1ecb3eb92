"""Gallery: the use cases on images.

An image crosses two stores, so every step leaves a record that the sweeper can finish from: a key is
noted as pending before anything is sent, attached in the transaction that changes the movie, and
discarded in the transaction that shows another image or none.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import IO, Final

import msgspec

from watchly_core.catalogue import (
    IMAGE_GRACE,
    SYSTEM,
    discard_images,
    present,
    require_version,
    utc_now,
)
from watchly_core.errors import (
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    MovieNotFound,
    VersionConflict,
    WatchlyError,
)
from watchly_core.events import ImageAttached, ImageDetached
from watchly_core.images import (
    MAX_PIXELS,
    Image,
    ImageRecord,
    ImageState,
    claimed_format,
    new_key,
    require_same,
)
from watchly_core.movies import Movie
from watchly_core.ports import Clock, ImageInspector, ImageStore, MovieQueries, Transactions
from watchly_core.spools import spooled

MAX_IMAGE_BYTES: Final = 500 * 1000 * 1000

#: After this long an image that is still pending was given up by whoever sent it.
PENDING_FOR: Final = timedelta(hours=24)

#: Reasons that a report of a sweep names.
_REASONS: Final = 5

#: The sweeper's first wait after a failure; it doubles with each one.
_RETRY_AFTER: Final = timedelta(minutes=1)
_LONGEST_RETRY: Final = timedelta(days=1)


class SweepReport(msgspec.Struct, frozen=True):
    """What a sweep came to: images deleted, those to be tried again, and some of the reasons."""

    deleted: int
    failed: int
    reasons: tuple[str, ...] = ()


class Gallery:
    """The use cases on images.

    Args:
        queries: the read side of the movies' store.
        transactions: its write side.
        store: where images are kept.
        inspector: looks into uploaded files.
        clock: the present time.
        keys: makes a fresh key for each image.
        max_bytes: the largest image that is accepted; the store's own limit counts as well.
        grace: how long a discarded image can come back before the sweeper takes it.
    """

    def __init__(  # noqa: PLR0913 - a composition root names each part
        self,
        queries: MovieQueries,
        transactions: Transactions,
        store: ImageStore,
        inspector: ImageInspector,
        *,
        clock: Clock = utc_now,
        keys: Callable[[], str] = new_key,
        max_bytes: int = MAX_IMAGE_BYTES,
        grace: timedelta = IMAGE_GRACE,
    ) -> None:
        self._queries = queries
        self._transactions = transactions
        self._store = store
        self._inspector = inspector
        self._clock = clock
        self._keys = keys
        #: The largest image that is accepted.
        self.max_bytes = max_bytes if store.max_bytes is None else min(max_bytes, store.max_bytes)
        self._grace = grace

    async def attach(
        self,
        movie_id: int,
        content: AsyncIterable[bytes],
        media_type: str,
        *,
        version: int | None = None,
        actor: str = SYSTEM,
    ) -> Movie:
        """Make `content` the image of a movie; the one before it is discarded.

        Raises:
            ImageTypeUnsupported: `media_type` or the content is none that the catalogue keeps.
            MovieNotFound: there is no such movie.
            ImageTooLarge: too many bytes or pixels.
            ImageUnreadable: the content is not what `media_type` says, or its header is broken.
            VersionConflict: the movie is at another version.
            IllegalTransition: the sweeper is giving the upload up, because it took more than a day.
            ImageNotFound: the sweeper has given it up.
        """
        claimed = claimed_format(media_type)
        await self._queries.get(movie_id)
        too_large = ImageTooLarge(f"an image may have at most {self.max_bytes} bytes")
        async with spooled(content, self.max_bytes, too_large) as (spool, size):
            image = await self._inspect(spool, size, claimed)
            await self._note(image, movie_id)
            try:
                await self._store.put(image.key, spool, image)
                return await self._show(image, movie_id, version, actor)
            except (ImageRejected, MovieNotFound, VersionConflict):
                await self._give_up(image.key)
                raise
            except (ImageNotFound, IllegalTransition):
                # The sweeper gave the key up, perhaps before the store had the file.
                with suppress(WatchlyError):
                    await self._store.delete(image.key)
                raise

    async def detach(
        self, movie_id: int, *, version: int | None = None, purge: bool = False, actor: str = SYSTEM
    ) -> None:
        """Take the image from a movie; with `purge` it goes without the grace period.

        Raises:
            MovieNotFound: there is no such movie.
            VersionConflict: the movie is at another version.
            ImageNotFound: the movie shows no image.
        """
        async with self._transactions() as tx:
            movie = await tx.movies.get(movie_id)
            if movie.image is None and movie.image_url is None:
                raise ImageNotFound(f"movie {movie_id} has no image")
            require_version(movie, version)
            now = self._clock()
            bare = msgspec.structs.replace(
                movie, image=None, image_url=None, version=movie.version + 1, updated_at=now
            )
            await tx.movies.replace(bare)
            await discard_images(tx, movie_id, now if purge else now + self._grace, purge=purge)
            await tx.events.append(ImageDetached(movie_id, bare.version, now, actor, bare))

    async def sweep(self, limit: int = 1_000) -> SweepReport:
        """Delete up to `limit` images that are due: discarded ones, and pending ones that were given up.

        Safe to run anywhere, any number of times at once: an image is claimed before the store is asked
        and forgotten only after the store has dropped it.
        """
        deleted = failed = 0
        reasons: dict[str, None] = {}
        for record in await self._claim(limit):
            try:
                await self._store.delete(record.image.key)
                async with self._transactions() as tx:
                    await tx.images.remove(record.image.key)
            except WatchlyError as error:
                failed += 1
                reasons[str(error)] = None
            else:
                deleted += 1
        return SweepReport(deleted, failed, tuple(reasons)[:_REASONS])

    async def _inspect(self, spool: IO[bytes], size: int, claimed: str) -> Image:
        measured = await self._inspector.measure(spool)
        require_same(claimed, measured.format)
        if measured.width * measured.height > MAX_PIXELS:
            raise ImageTooLarge(
                f"an image may have at most {MAX_PIXELS} pixels, not {measured.width}x{measured.height}"
            )
        return Image(self._keys(), measured.width, measured.height, measured.format, size)

    async def _note(self, image: Image, movie_id: int) -> None:
        async with self._transactions() as tx:
            due_at = self._clock() + PENDING_FOR
            await tx.images.add(ImageRecord(image, ImageState.PENDING, movie_id, due_at))

    async def _show(self, image: Image, movie_id: int, version: int | None, actor: str) -> Movie:
        async with self._transactions() as tx:
            movie = await tx.movies.get(movie_id)
            require_version(movie, version)
            now = self._clock()
            shown = msgspec.structs.replace(
                movie,
                image=image,
                # For whoever reads the table without Watchly; Watchly itself asks the store each time.
                image_url=self._store.url(image.key),
                version=movie.version + 1,
                updated_at=now,
            )
            await discard_images(tx, movie_id, now + self._grace, purge=False)
            record = await tx.images.get(image.key)
            await tx.images.replace(record.moved(ImageState.ATTACHED, due_at=None))
            await tx.movies.replace(shown)
            await tx.events.append(ImageAttached(movie_id, shown.version, now, actor, shown))
        return present(shown, self._store)

    async def _give_up(self, key: str) -> None:
        # Whatever fails here, the record stays for the sweeper, and the first error says more.
        with suppress(WatchlyError):
            async with self._transactions() as tx:
                record = await tx.images.get(key)
                await tx.images.replace(record.moved(ImageState.DISCARDED, due_at=self._clock()))

    async def _claim(self, limit: int) -> list[ImageRecord]:
        """Take records that are due out of everybody's reach, each until its next try is due."""
        claimed: list[ImageRecord] = []
        async with self._transactions() as tx:
            now = self._clock()
            for record in await tx.images.due(now, limit):
                wait = min(_RETRY_AFTER * 2 ** min(record.attempts, 20), _LONGEST_RETRY)
                taken = record.moved(
                    ImageState.DELETING,
                    # Spread, so that a store that comes back is not met by all of them at once.
                    due_at=now + wait * random.uniform(1.0, 1.5),  # noqa: S311 - no secret
                    attempts=record.attempts + 1,
                )
                await tx.images.replace(taken)
                claimed.append(taken)
        return claimed
