"""The steps of an image on its way to a movie; each leaves what the sweeper can finish from.

A key is noted as pending before anything is sent, attached in the transaction that changes the movie, and
discarded in the transaction that shows another image or none.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import msgspec

from watchly_core.catalogue import present
from watchly_core.contention import repeated
from watchly_core.errors import (
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    WatchlyError,
)
from watchly_core.events import ImageAttached
from watchly_core.image_records import discard_images
from watchly_core.images import MAX_PIXELS, Image, ImageRecord, ImageState, require_same
from watchly_core.movies import Movie, next_time
from watchly_core.people import Actor
from watchly_core.ports import (
    Clock,
    ImageInspector,
    ImageStore,
    JoinedTransactions,
    Transaction,
    Transactions,
    own,
)
from watchly_core.spools import Spool
from watchly_core.traces import current_trace

#: After this long an image that is still pending was given up by whoever sent it.
PENDING_FOR: Final = timedelta(hours=24)

#: The movie of a pending image that comes together with its movie.
NO_MOVIE: Final = 0


class Journey:
    """Takes images from a file to their movies.

    Args:
        transactions: the write side of the movies' store.
        store: where images are kept.
        inspector: looks into uploaded files.
        clock: the present time.
        grace: how long a discarded image can come back before the sweeper takes it.
    """

    def __init__(
        self,
        transactions: Transactions,
        store: ImageStore,
        inspector: ImageInspector,
        clock: Clock,
        grace: timedelta,
    ) -> None:
        # Whatever a host does with its transaction, no file is to be left of which nothing tells.
        self._transactions = own(transactions)
        self._joined = transactions if isinstance(transactions, JoinedTransactions) else None
        self._store = store
        self._inspector = inspector
        self._clock = clock
        self._grace = grace

    async def require_current(self) -> None:
        """Refuse, before anything is read or sent, to go where the note of the image could not be seen.

        Raises:
            Unjoinable: see `ports.JoinedTransactions`.
        """
        if self._joined is not None:
            await self._joined.require_current()

    async def inspect(self, spool: Spool, claimed: str | None, key: str) -> Image:
        """What is in a file, which has only what viewers need when this returns.

        Raises:
            ImageRejected: it is none that the catalogue keeps, or not of the format `claimed`, if any is.
        """
        measured = await self._inspector.measure(spool.file)
        if claimed is not None:
            require_same(claimed, measured.format)
        require_pixels(measured.width, measured.height)
        size = await self._inspector.clean(spool.file)
        # A file may tell several orientations; one of them is left.
        measured = await self._inspector.measure(spool.file)
        await self._inspector.decode(spool.file)
        return Image(key, measured.width, measured.height, measured.format, size)

    @repeated
    async def note(self, image: Image, movie_id: int, due_at: datetime) -> None:
        """Note that `image` may arrive in the store; if nothing comes of it, it is due then."""
        async with self._transactions() as tx:
            await tx.images.add(ImageRecord(image, ImageState.PENDING, movie_id, due_at))

    async def keep(self, image: Image, spool: Spool) -> None:
        """Send `image` to the store.

        Raises:
            ImageRejected: the store will never take it; it is discarded.
        """
        try:
            await self._store.put(image.key, spool.file, image)
        except ImageRejected:
            await self.give_up(image.key)
            raise

    @repeated
    async def resize(self, image: Image) -> None:
        """Note that what was uploaded has another size since it was cleaned.

        Raises:
            ImageNotFound: the sweeper has given it up.
        """
        async with self._transactions() as tx:
            record = await tx.images.get(image.key)
            uploaded = msgspec.structs.replace(record.image, bytes=image.bytes)
            await tx.images.replace(msgspec.structs.replace(record, image=uploaded))

    async def show(self, tx: Transaction, movie: Movie, image: Image, actor: Actor) -> Movie:
        """Make `image` the one that `movie`, which `tx` holds, shows; the one before it is discarded.

        Raises:
            IllegalTransition: the sweeper is giving the image up.
            ImageNotFound: the sweeper has given it up.
        """
        now = self._clock()
        at = next_time(movie, now)
        shown = msgspec.structs.replace(
            movie,
            image=image,
            # For whoever reads the table without Watchly; Watchly itself asks the store each time.
            image_url=self._store.url(image.key),
            version=movie.version + 1,
            updated_at=at,
        )
        await discard_images(tx, movie.id, now + self._grace, purge=False)
        record = await tx.images.get(image.key)
        attached = record.moved(ImageState.ATTACHED, due_at=None)
        await tx.images.replace(msgspec.structs.replace(attached, image=image, movie_id=movie.id))
        await tx.movies.replace(shown)
        await tx.events.append(ImageAttached(movie.id, shown.version, at, actor.name, shown, current_trace()))
        return present(shown, self._store)

    async def give_up(self, key: str) -> bool:
        """Discard what is pending, if it still is; whatever fails here, the record stays for the sweeper."""
        with suppress(WatchlyError):
            return await self._discard(key)
        return False

    @repeated
    async def _discard(self, key: str) -> bool:
        async with self._transactions() as tx:
            record = await tx.images.get(key)
            pending = record.state is ImageState.PENDING
            if pending:
                await tx.images.replace(record.moved(ImageState.DISCARDED, due_at=self._clock()))
        return pending

    async def take_back(self, key: str) -> None:
        """Drop what was sent under a key that the sweeper gave up, perhaps before the store had the file."""
        with suppress(WatchlyError):
            # What is in any other state somebody else was faster to show.
            if await self._swept(key):
                await self.drop(key)

    @repeated
    async def _swept(self, key: str) -> bool:
        async with self._transactions() as tx:
            try:
                return (await tx.images.get(key)).state is ImageState.DELETING
            except ImageNotFound:
                return True

    async def drop(self, key: str) -> None:
        """Drop what was sent under a key that nobody will show; what fails is left for the sweeper."""
        with suppress(WatchlyError):
            await self._store.delete(key)


#: What `Journey.show` raises when the sweeper was faster.
SWEPT: Final = (ImageNotFound, IllegalTransition)


def require_pixels(width: int, height: int) -> None:
    """Refuse an image that is too large to be shown.

    Raises:
        ImageTooLarge: it has more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(f"an image may have at most {MAX_PIXELS} pixels, not {width}x{height}")
