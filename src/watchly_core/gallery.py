"""Gallery: the use cases on images."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import msgspec

from watchly_core.catalogue import (
    IMAGE_GRACE,
    require_version,
)
from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import (
    ImageNotFound,
    ImageTooLarge,
    ImageUnreadable,
    MovieNotFound,
    VersionConflict,
)
from watchly_core.events import ImageDetached
from watchly_core.image_records import discard_images
from watchly_core.images import Image, Rendition, claimed_format, new_key
from watchly_core.journey import NO_MOVIE, PENDING_FOR, SWEPT, Journey
from watchly_core.movies import Members, Movie, MovieDraft, drafted, next_time
from watchly_core.people import SYSTEM, Actor, Permission
from watchly_core.ports import (
    Clock,
    ImageFile,
    ImageFiles,
    ImageInspector,
    ImageStore,
    MovieQueries,
    Transactions,
)
from watchly_core.receipts import NO_RECEIPT, OUTRUN, Receipt
from watchly_core.spools import Spool, spooled
from watchly_core.sweeper import Sweeper, SweepReport
from watchly_core.traces import current_trace
from watchly_core.uploads import DirectUploads
from watchly_core.writes import added

__all__ = ["MAX_IMAGE_BYTES", "Gallery"]

#: Bytes of an image at most, where nothing else is said.
MAX_IMAGE_BYTES: Final = 500 * 1000 * 1000


class Gallery:
    """The use cases on images.

    Whoever may not do something gets `NotSignedIn` or `NotAllowed`, and nothing is looked at. Where the
    image store does not answer, that is `Unavailable`.

    Args:
        queries: the read side of the movies' store.
        transactions: its write side.
        store: where images are kept.
        inspector: looks into uploaded files.
        clock: the present time.
        keys: makes a fresh key for each image.
        max_bytes: the largest image that is accepted, in bytes; the store's own limit counts as well.
        grace: how long a discarded image can come back before the sweeper takes it.

    Attributes:
        max_bytes: the largest image that is accepted, in bytes.
        uploads: the use cases on images that clients send straight to the store.
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
        # Looked at once: whether an object is what a protocol says takes a while to find out.
        self._files = store if isinstance(store, ImageFiles) else None
        self._inspector = inspector
        self._clock = clock
        self._keys = keys
        self._grace = grace
        self._journey = Journey(transactions, store, inspector, clock, grace)
        self._sweeper = Sweeper(transactions, store, clock)
        self.max_bytes: int = max_bytes if store.max_bytes is None else min(max_bytes, store.max_bytes)
        self.uploads: DirectUploads = DirectUploads(
            queries, transactions, store, self._journey, clock=clock, keys=keys, max_bytes=self.max_bytes
        )

    async def attach(
        self,
        movie_id: int,
        content: AsyncIterable[bytes] | Spool,
        media_type: str | None,
        *,
        version: int | None = None,
        actor: Actor = SYSTEM,
    ) -> Movie:
        """Make `content` the image of a movie; the one before it is discarded.

        `media_type` is what its sender says it is; None if nothing is said.

        Raises:
            ImageTypeUnsupported: `media_type` or the content is none that the catalogue keeps.
            MovieNotFound: there is no such movie.
            ImageTooLarge: too many bytes, pixels or pictures.
            ImageUnreadable: the content is not what `media_type` says, or cannot be decoded.
            VersionConflict: the movie is at another version.
            IllegalTransition: the sweeper is giving the upload up, because it took more than a day.
            ImageNotFound: the sweeper has given it up.
        """
        actor.require(Permission.WRITE)
        claimed = None if media_type is None else claimed_format(media_type)
        await self._queries.get(movie_id)
        async with self._kept(content, claimed, movie_id, version) as image:
            return await self._show(movie_id, image, version, actor)

    @repeated
    async def _show(self, movie_id: int, image: Image, version: int | None, actor: Actor) -> Movie:
        async with self._transactions() as tx:
            movie = await tx.movies.get(movie_id)
            require_version(movie, version)
            return await self._journey.show(tx, movie, image, actor)

    async def add(
        self,
        draft: MovieDraft | Members,
        content: AsyncIterable[bytes] | Spool,
        media_type: str | None,
        *,
        actor: Actor = SYSTEM,
        receipt: Receipt[Movie] = NO_RECEIPT,
    ) -> Movie:
        """Add a movie together with its image: both of them, or neither.

        Raises:
            InvalidMovie: the movie breaks rules.
            ImageRejected: as `attach` does, and the others of its errors on images.
            Replayed, RequestInProgress, KeyReused: see `Receipt.look`.
        """
        actor.require(Permission.WRITE)
        claimed = None if media_type is None else claimed_format(media_type)
        checked = drafted(draft)
        await receipt.look(self._transactions)
        # The key is claimed when the image is in the store: a slow one must hold no transaction open.
        async with self._kept(content, claimed, NO_MOVIE) as image:
            return await self._add(checked, image, actor, receipt)

    @repeated
    async def _add(self, draft: MovieDraft, image: Image, actor: Actor, receipt: Receipt[Movie]) -> Movie:
        async with self._transactions() as tx:
            await receipt.claim(tx)
            movie = await tx.movies.add(draft, self._clock())
            await tx.events.append(added(movie, actor, current_trace()))
            shown = await self._journey.show(tx, movie, image, actor)
            await receipt.keep(tx, shown)
            return shown

    @repeated
    async def detach(
        self, movie_id: int, *, version: int | None = None, purge: bool = False, actor: Actor = SYSTEM
    ) -> None:
        """Take the image from a movie; with `purge` it goes without the grace period.

        Raises:
            MovieNotFound: there is no such movie.
            VersionConflict: the movie is at another version.
            ImageNotFound: the movie shows no image.
        """
        actor.require(Permission.WRITE)
        async with self._transactions() as tx:
            movie = await tx.movies.get(movie_id)
            if movie.image is None and movie.image_url is None:
                raise ImageNotFound(f"movie {movie_id} has no image")
            require_version(movie, version)
            now = self._clock()
            at = next_time(movie, now)
            bare = msgspec.structs.replace(
                movie, image=None, image_url=None, version=movie.version + 1, updated_at=at
            )
            await tx.movies.replace(bare)
            await discard_images(tx, movie_id, now if purge else now + self._grace, purge=purge)
            await tx.events.append(
                ImageDetached(movie_id, bare.version, at, actor.name, bare, current_trace())
            )

    @asynccontextmanager
    async def load(
        self, key: str, rendition: Rendition | None = None, *, actor: Actor = SYSTEM
    ) -> AsyncIterator[ImageFile]:
        """An image as it is kept, or a rendition of it, which is made when it is first asked for.

        Raises:
            ImageNotFound: there is no such image, or its store serves its images itself.
        """
        actor.require(Permission.READ)
        files = self._served()
        if rendition is not None:
            await self._render(files, key, rendition)
        async with files.read(key, rendition) as file:
            yield file

    async def content(
        self, key: str, rendition: Rendition | None = None, *, at_most: int, actor: Actor = SYSTEM
    ) -> bytes | None:
        """All that `load` would give, at once; None where that is more than `at_most` bytes.

        Raises:
            ImageNotFound: as `load` does.
        """
        actor.require(Permission.READ)
        files = self._served()
        try:
            return await files.content(key, rendition, at_most=at_most)
        except ImageNotFound:
            if rendition is None:
                raise
        await self._render(files, key, rendition)
        return await files.content(key, rendition, at_most=at_most)

    async def sweep(self, limit: int = 1_000, *, actor: Actor = SYSTEM) -> SweepReport:
        """Delete up to `limit` images that are due: discarded ones, and pending ones that were given up."""
        actor.require(Permission.SWEEP)
        return await self._sweeper.sweep(limit)

    async def revive(self, *, actor: Actor = SYSTEM) -> int:
        """Make the images that sweeps gave up due again; how many those are."""
        actor.require(Permission.SWEEP)
        return await self._sweeper.revive()

    def _served(self) -> ImageFiles:
        if self._files is None:
            raise ImageNotFound("the image store serves its images itself")
        return self._files

    async def _render(self, files: ImageFiles, key: str, rendition: Rendition) -> None:
        try:
            await files.render(key, rendition, lambda source: self._inspector.render(source, rendition))
        except ImageUnreadable as error:
            # An image that was accepted before images were decoded.
            raise ImageNotFound(f"image {key} has no {rendition.variant.name}: {error}") from error

    @asynccontextmanager
    async def _kept(
        self,
        content: AsyncIterable[bytes] | Spool,
        claimed: str | None,
        movie_id: int,
        version: int | None = None,
    ) -> AsyncIterator[Image]:
        """An image that is in the store, for the block to show; if it does not, the image is discarded."""
        await self._journey.require_current()
        async with self._spooled(content) as spool:
            image = await self._journey.inspect(spool, claimed, self._keys())
            if version is not None:
                # Before the image goes to the store in vain; who is right in the end, the block says.
                require_version(await self._queries.get(movie_id), version)
            await self._journey.note(image, movie_id, self._clock() + PENDING_FOR)
            await self._journey.keep(image, spool)
        try:
            yield image
        except (MovieNotFound, VersionConflict, *OUTRUN):
            await self._journey.give_up(image.key)
            raise
        except SWEPT:
            await self._journey.take_back(image.key)
            raise

    @asynccontextmanager
    async def _spooled(self, content: AsyncIterable[bytes] | Spool) -> AsyncIterator[Spool]:
        too_large = ImageTooLarge(f"an image may have at most {self.max_bytes} bytes")
        if isinstance(content, Spool):
            if content.size > self.max_bytes:
                raise too_large
            yield content
            return
        async with spooled(content, self.max_bytes, too_large) as spool:
            yield spool
