"""The ports of images: the ledger of them, the stores of their bytes, and what looks into these."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import IO, Protocol, TypeAlias, runtime_checkable

from watchly_core.images import Image, ImageRecord, Measured, Rendition, StoredImage, Ticket


class ImageLedger(Protocol):
    """What is known of every image, inside a transaction."""

    async def add(self, record: ImageRecord) -> None:
        """Note a new key; each key is noted once.

        Raises:
            IllegalTransition: the key is noted already; nothing else can be done in the transaction.
        """
        ...

    async def get(self, key: str) -> ImageRecord:
        """The record of `key`, held against every other transaction until this one ends.

        Raises:
            ImageNotFound: there is none.
        """
        ...

    async def of_movie(self, movie_id: int) -> Sequence[ImageRecord]:
        """The records of a movie's images by key, held as by `get`; empty if it has none."""
        ...

    async def replace(self, record: ImageRecord) -> None:
        """Store `record` in place of the one with its key.

        Raises:
            ImageNotFound: there is none.
        """
        ...

    async def due(self, now: datetime, limit: int) -> Sequence[ImageRecord]:
        """At most `limit` records whose `due_at` is not after `now`, the longest due first.

        Records that another transaction holds are passed over; those given are held as by `get`.
        """
        ...

    async def dead(self, limit: int) -> Sequence[ImageRecord]:
        """At most `limit` records that the sweeper has given up, by key; held as those of `due` are."""
        ...

    async def remove(self, key: str) -> None:
        """Forget `key`; forgetting it twice is no error."""
        ...


@runtime_checkable
class ImageStore(Protocol):
    """Where the bytes of images are kept, under keys that the core chose (`images.is_key`)."""

    @property
    def max_bytes(self) -> int | None:
        """The largest image that it takes; None for no limit of its own."""
        ...

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        """Keep all of `source`, read from its start, under `key`, in place of what was there.

        Once it returns the bytes are durable; when it raises, either all of them are there or none.

        Raises:
            ImageRejected: the store will never take these bytes.
        """
        ...

    async def delete(self, key: str) -> None:
        """Drop what is kept under `key`; dropping nothing is no error."""
        ...

    async def stat(self, key: str) -> StoredImage | None:
        """What is kept under `key`; None if there is nothing."""
        ...

    def url(self, key: str, variant: str | None = None) -> str:
        """Where clients load the image, or one of `images.VARIANTS` of it; no look-up is made."""
        ...

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        """How a client sends the bytes of `image` straight here; its width and height are not known yet.

        What arrives by it after `expires_at`, or under another key, is refused.
        """
        ...


class ImageFile(Protocol):
    """A file that is open for reading."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    def chunks(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end`, which is not among them, or up to the last one."""
        ...


#: Makes a rendition of the original that it is given.
Render: TypeAlias = Callable[[IO[bytes]], Awaitable[bytes]]


@runtime_checkable
class ImageFiles(Protocol):
    """Reading images back: the side of a store whose images this service serves itself."""

    def read(self, key: str, rendition: Rendition | None = None) -> AbstractAsyncContextManager[ImageFile]:
        """What is kept under `key`: the original, or a rendition of it.

        Raises:
            ImageNotFound: there is nothing, or that rendition was not made yet.
        """
        ...

    async def content(self, key: str, rendition: Rendition | None = None, *, at_most: int) -> bytes | None:
        """All that `read` would give, at once; None where that is more than `at_most` bytes.

        Raises:
            ImageNotFound: there is nothing, or that rendition was not made yet.
        """
        ...

    async def is_empty(self) -> bool:
        """Whether no image is kept, under any key."""
        ...

    async def render(self, key: str, rendition: Rendition, render: Render) -> None:
        """Keep what `render` makes of the original, unless that rendition is kept already.

        Of all calls for one image, in whatever process, one renders at a time. A rendition goes with its
        original, also when that is dropped meanwhile.

        Raises:
            ImageNotFound: there is no original, or not any more.
        """
        ...


@runtime_checkable
class ImageUploads(Protocol):
    """What clients send by tickets: the side of a store whose tickets lead to this service.

    An upload is no image yet: `stat` and `read` do not know of it, and `delete` drops it as well.
    """

    def admit(self, key: str, expires: str, signature: str, now: datetime) -> None:
        """Check that a ticket of this store for `key` says so, and is good still.

        Raises:
            SignatureRejected: it does not, or is not.
        """
        ...

    async def receive(self, key: str, content: AsyncIterable[bytes], start: int, total: int) -> int:
        """Keep `content`, which begins at byte `start` of an upload of `total` bytes; how many are there now.

        Byte 0 begins an upload anew. What arrived stays, also when the content breaks off.

        Raises:
            UploadConflict: something else than `start` bytes are there, or another piece is arriving.
            ImageTooLarge: there are more than `total`; the upload is dropped.
        """
        ...

    async def received(self, key: str) -> int:
        """How many bytes of the upload are there."""
        ...

    def uploaded(self, key: str) -> AbstractAsyncContextManager[IO[bytes]]:
        """The upload as a file that can be read and written; when the block ends normally it is dropped.

        Raises:
            ImageNotFound: nothing was uploaded.
            UploadConflict: a piece of it is arriving, or it is in use already.
        """
        ...


@runtime_checkable
class ImageNotifications(Protocol):
    """Word from a store elsewhere that an upload has arrived."""

    def notified(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str | None:
        """The key of the image that a message tells of; None if it tells of something else.

        `headers` has names in lower case.

        Raises:
            SignatureRejected: the message is not signed by the store, or too old.
        """
        ...


class ImageInspector(Protocol):
    """Looks into image files."""

    async def measure(self, source: IO[bytes]) -> Measured:
        """The format and the size in pixels of the image in `source`, from its header.

        Raises:
            ImageTypeUnsupported: the content is of no format that the catalogue keeps.
            ImageUnreadable: the header is broken.
        """
        ...

    async def clean(self, source: IO[bytes]) -> int:
        """Take out of `source`, in place, what viewers need not see; how many bytes are left.

        That is where and by what it was taken, comments, previews, and what follows the image. What is
        shown stays as it is, and so do orientation and colour profile. All of the file's structure is read.

        Raises:
            ImageUnreadable: the structure is broken, or what follows the image makes it something else too.
            ImageTooLarge: it has more pictures than `images.MAX_FRAMES`.
        """
        ...

    async def decode(self, source: IO[bytes]) -> None:
        """Decode every picture of `source`, as far as this inspector can.

        Raises:
            ImageTooLarge: its pictures are too many, or have too many pixels in all.
            ImageUnreadable: that is not possible, or takes too much time or memory.
        """
        ...

    async def render(self, source: IO[bytes], rendition: Rendition) -> bytes:
        """The image in `source` as `rendition` asks for it, upright, in sRGB, without metadata.

        Raises:
            ImageUnreadable: that is not possible.
        """
        ...
