"""Direct uploads: images that clients send straight to where they are kept, by tickets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

import msgspec

from watchly_core.catalogue import present, require_version
from watchly_core.contention import repeated
from watchly_core.errors import (
    IllegalTransition,
    ImageNotFound,
    ImageRejected,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
    MovieNotFound,
    Replayed,
    Unavailable,
    UploadConflict,
)
from watchly_core.images import (
    Image,
    ImageRecord,
    ImageState,
    StoredImage,
    Ticket,
    claimed_format,
    require_same,
)
from watchly_core.journey import PENDING_FOR, SWEPT, Journey, require_pixels
from watchly_core.movies import Movie
from watchly_core.people import SYSTEM, Actor, Permission
from watchly_core.ports import (
    Clock,
    ImageNotifications,
    ImageStore,
    ImageUploads,
    MovieQueries,
    Transactions,
    own,
)
from watchly_core.receipts import NO_RECEIPT, Receipt
from watchly_core.spools import Spool

__all__ = ["TICKET_FOR", "DirectUploads"]

#: How long a ticket is good for.
TICKET_FOR: Final = timedelta(hours=1)

#: A store that takes the metadata out of what arrives may have to encode it anew, which makes some images
#: larger: so much more than a ticket says may there be of them.
_GROWTH: Final = 2
_GROWTH_BYTES: Final = 65_536


class DirectUploads:
    """The use cases on images that do not pass through this service, or not before they are whole.

    Args:
        queries: the read side of the movies' store.
        transactions: its write side.
        store: where images are kept.
        journey: the steps that every image takes.
        clock: the present time.
        keys: makes a fresh key for each image.
        max_bytes: the largest image that is accepted.
    """

    def __init__(  # noqa: PLR0913 - a composition root names each part
        self,
        queries: MovieQueries,
        transactions: Transactions,
        store: ImageStore,
        journey: Journey,
        *,
        clock: Clock,
        keys: Callable[[], str],
        max_bytes: int,
    ) -> None:
        self._queries = queries
        # A client goes on meanwhile with what it was told: no step waits for what a host makes of it.
        self._transactions = own(transactions)
        self._store = store
        self._journey = journey
        self._clock = clock
        self._keys = keys
        self._max_bytes = max_bytes

    async def issue(
        self,
        movie_id: int,
        media_type: str,
        size: int,
        *,
        actor: Actor = SYSTEM,
        receipt: Receipt[Ticket] = NO_RECEIPT,
    ) -> Ticket:
        """A ticket for an image of a movie, of that type and `size` in bytes.

        Raises:
            ImageTypeUnsupported: the catalogue does not keep that type.
            MovieNotFound: there is no such movie.
            ImageTooLarge: it has too many bytes.
            Replayed, RequestInProgress, KeyReused: see `Receipt.look`.
        """
        actor.require(Permission.WRITE)
        image = Image(self._keys(), 0, 0, claimed_format(media_type), size)
        await receipt.look(self._transactions)  # before the movie, which may be gone since
        await self._queries.get(movie_id)
        if size > self._max_bytes:
            raise ImageTooLarge(f"an image may have at most {self._max_bytes} bytes")
        # Stores that count in seconds would round it down.
        expires_at = (self._clock() + TICKET_FOR).replace(microsecond=0)
        ticket = self._store.ticket(image.key, image, expires_at)
        due_at = expires_at + PENDING_FOR
        record = ImageRecord(image, ImageState.PENDING, movie_id, due_at, open_until=expires_at)
        await self._note(record, ticket, receipt)
        return ticket

    @repeated
    async def _note(self, record: ImageRecord, ticket: Ticket, receipt: Receipt[Ticket]) -> None:
        async with self._transactions() as tx:
            await receipt.claim(tx)
            await tx.images.add(record)
            await receipt.keep(tx, ticket)

    async def receive(  # noqa: PLR0913 - what a request says, each with its name
        self,
        key: str,
        content: AsyncIterable[bytes],
        media_type: str,
        *,
        expires: str,
        signature: str,
        start: int = 0,
        total: int | None = None,
    ) -> tuple[int, int]:
        """Take what an upload has from byte `start` on; how many bytes are there now, and of how many.

        Raises:
            ImageNotFound: this service takes no uploads, or knows of no ticket for `key`.
            SignatureRejected: the ticket is not one, or no longer.
            IllegalTransition: what was uploaded is used already, or was given up.
            ImageTypeUnsupported, ImageUnreadable: this is not what the ticket is for.
            UploadConflict: the piece does not follow on what arrived before it.
            ImageTooLarge: there are more bytes than the ticket is for.
        """
        uploads = self._own_uploads()
        uploads.admit(key, expires, signature, self._clock())
        record = await self._open(key)
        if claimed_format(media_type) != record.image.format:
            raise ImageTypeUnsupported(f"the ticket is for {record.image.format}")
        if await self._store.stat(key) is not None:
            # From here on it may be loaded, as what never changes.
            raise IllegalTransition(f"what was uploaded by the ticket {key} is kept already: complete it")
        wanted = record.image.bytes
        if (wanted if total is None else total) != wanted:
            raise ImageUnreadable(f"the ticket is for {wanted} bytes, not {total}")
        return await uploads.receive(key, content, start, wanted), wanted

    async def received(self, key: str, *, expires: str, signature: str) -> tuple[int, int]:
        """How many bytes of an upload are there, and of how many.

        Raises:
            ImageNotFound: this service takes no uploads, or knows of no ticket for `key`.
            SignatureRejected: the ticket is not one, or no longer.
            IllegalTransition: what was uploaded is used already, or was given up.
        """
        uploads = self._own_uploads()
        uploads.admit(key, expires, signature, self._clock())
        record = await self._open(key)
        return await uploads.received(key), record.image.bytes

    async def complete(
        self,
        movie_id: int,
        key: str,
        *,
        version: int | None = None,
        actor: Actor = SYSTEM,
        receipt: Receipt[Movie] = NO_RECEIPT,
    ) -> Movie:
        """Show what was uploaded by the ticket for `key`; what is not what the ticket allows is discarded.

        Completing what is complete changes nothing.

        Raises:
            MovieNotFound: there is no such movie.
            ImageNotFound: it has no such ticket.
            UploadConflict: not all of it has arrived.
            ImageRejected: it is not what the ticket allows, or none that the catalogue keeps.
            VersionConflict: the movie is at another version; the upload can still be completed.
            IllegalTransition: the upload was given up.
            Replayed, RequestInProgress, KeyReused: see `Receipt.look`.
        """
        actor.require(Permission.WRITE)
        try:
            await receipt.look(self._transactions)
        except Replayed:
            await self._forget(key)
            raise
        record = await self._find(key)
        if record.movie_id != movie_id:
            raise ImageNotFound(f"movie {movie_id} has no ticket with the key {key}")
        try:
            movie = await self._queries.get(movie_id)
            if record.state is ImageState.ATTACHED:
                await self._forget(key)
                return await self._settle(movie, receipt)
            _require_pending(record)
            require_version(movie, version)
            if isinstance(self._store, ImageUploads):
                return await self._take(self._store, record, version, actor, receipt)
            return await self._show(await self._confirmed(record), record, version, actor, receipt)
        except (ImageRejected, MovieNotFound):
            # The client may send it again until the ticket ends: the sweeper comes after that.
            if await self._journey.give_up(key):
                await self._journey.drop(key)
            raise
        except SWEPT:
            await self._journey.take_back(key)
            raise

    async def notified(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Complete the upload that the store tells of, if it is one of ours that waits for that.

        `headers` are those of the message, with names in lower case.

        Raises:
            ImageNotFound: the store does not tell of uploads.
            SignatureRejected: the message is not from the store.
            UploadConflict: the store does not confirm it yet.
        """
        if not isinstance(self._store, ImageNotifications):
            raise ImageNotFound("the image store tells of no uploads")
        key = self._store.notified(body, headers, self._clock())
        if key is None:
            return
        try:
            record = await self._find(key)
            if record.state is ImageState.PENDING:
                await self.complete(record.movie_id, key)
        except (ImageNotFound, MovieNotFound, ImageRejected, IllegalTransition):
            return  # nothing that telling us again would change

    async def _take(
        self,
        uploads: ImageUploads,
        record: ImageRecord,
        version: int | None,
        actor: Actor,
        receipt: Receipt[Movie],
    ) -> Movie:
        """Take an upload that came to this service the way of every other image."""
        key, wanted = record.image.key, record.image.bytes
        try:
            async with uploads.uploaded(key) as file:
                _require_size(file.seek(0, os.SEEK_END), wanted)
                image = await self._journey.inspect(Spool(file, wanted), record.image.format, key)
                if image.bytes != wanted:
                    await self._journey.resize(image)
                await self._store.put(key, file, image)
                return await self._show(image, record, version, actor, receipt)
        except (ImageNotFound, UploadConflict) as error:
            current = await self._find(key)
            if current.state is ImageState.ATTACHED:
                return await self._settle(await self._queries.get(record.movie_id), receipt)
            if isinstance(error, ImageNotFound):
                raise UploadConflict(0) from None
            if error.received == current.image.bytes:
                raise Unavailable("uploads", "the ticket is being completed already") from None
            raise

    async def _forget(self, key: str) -> None:
        """Drop what was uploaded by a ticket that was completed by somebody who did not live to do so."""
        if isinstance(self._store, ImageUploads):
            with suppress(ImageNotFound, UploadConflict):
                async with self._store.uploaded(key):
                    pass

    async def _confirmed(self, record: ImageRecord) -> Image:
        """The image as its store has it, if that is what the ticket allows."""
        stored = await self._store.stat(record.image.key)
        if stored is None:
            raise UploadConflict(0, "nothing has arrived by this ticket yet")
        return _allowed(stored, record.image, self._max_bytes)

    @repeated
    async def _show(
        self,
        image: Image,
        record: ImageRecord,
        version: int | None,
        actor: Actor,
        receipt: Receipt[Movie],
    ) -> Movie:
        async with self._transactions() as tx:
            await receipt.claim(tx)
            movie = await tx.movies.get(record.movie_id)
            if movie.image is not None and movie.image.key == image.key:
                shown = present(movie, self._store)  # somebody was faster: the client, or the store's word
            else:
                # Somebody may have been faster, and the movie shows another image since.
                _require_pending(await tx.images.get(image.key))
                require_version(movie, version)
                shown = await self._journey.show(tx, movie, image, actor)
            await receipt.keep(tx, shown)
            return shown

    async def _settle(self, movie: Movie, receipt: Receipt[Movie]) -> Movie:
        """`movie`, which shows what was uploaded without anything left to do."""
        shown = present(movie, self._store)
        await receipt.settle(self._transactions, shown)
        return shown

    async def _open(self, key: str) -> ImageRecord:
        """The record of an upload that may go on."""
        record = await self._find(key)
        _require_pending(record)
        return record

    @repeated
    async def _find(self, key: str) -> ImageRecord:
        async with self._transactions() as tx:
            record = await tx.images.get(key)
        if record.open_until is None:
            raise ImageNotFound(f"there is no ticket with the key {key}")
        return record

    def _own_uploads(self) -> ImageUploads:
        if not isinstance(self._store, ImageUploads):
            raise ImageNotFound("this service takes no uploads by tickets")
        return self._store


def _require_size(received: int, wanted: int) -> None:
    if received != wanted:
        raise UploadConflict(received)


def _require_pending(record: ImageRecord) -> None:
    if record.state is not ImageState.PENDING:
        raise IllegalTransition(f"the ticket {record.image.key} was used or given up")


def _allowed(stored: StoredImage, ticketed: Image, max_bytes: int) -> Image:
    if stored.format is None or not stored.width or not stored.height:
        raise ImageUnreadable("the image store cannot tell what arrived")
    require_same(ticketed.format, stored.format)
    require_pixels(stored.width, stored.height)
    if stored.bytes > min(max_bytes, _GROWTH * ticketed.bytes + _GROWTH_BYTES):
        raise ImageTooLarge(f"the ticket is for {ticketed.bytes} bytes, not {stored.bytes}")
    return msgspec.structs.replace(ticketed, width=stored.width, height=stored.height, bytes=stored.bytes)
