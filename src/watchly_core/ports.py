"""The roles that adapters play: protocols, satisfied by shape and proven by `watchly_adapters.testing`.

Every method may raise `errors.Unavailable` when what stands behind it does not answer; only the other
errors are named below. All times are aware datetimes in UTC with microseconds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import IO, Protocol, TypeAlias, runtime_checkable

from watchly_core.events import Event
from watchly_core.images import Image, ImageRecord, Measured
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import GenreCount, MovieQuery, Page

#: The present time.
Clock: TypeAlias = Callable[[], datetime]


class MovieQueries(Protocol):
    """The read side. It sees what was committed before a call began, and never a transaction."""

    async def get(self, movie_id: int) -> Movie:
        """The movie with this id.

        Raises:
            MovieNotFound: there is none; any integer may be asked for.
        """
        ...

    async def find(self, query: MovieQuery) -> Page:
        """One page of the query's movies, in its order; empty when nothing fits.

        What a search means, and the order of what it finds, is `text.Search`: its tiers, and where no
        movie at all is in one, its similar tiers. A query with a cursor goes on as its first page began.
        """
        ...

    async def count(self, query: MovieQuery) -> int:
        """How many movies the query finds on all its pages together, whatever its limit and cursor."""
        ...

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """The genres of those movies, the most frequent first, then by code point; no genre is none."""
        ...

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """What clients write of all the query's movies, in its order as of one moment, in batches.

        The query's limit and cursor do not matter; nothing is checked.

        Closing it early frees what it holds.
        """
        ...

    async def history(self, movie_id: int) -> Sequence[Event]:
        """The events of one movie, newest first, also when it is removed; empty if it never was."""
        ...


class MovieRepository(Protocol):
    """Movies inside a transaction. It stores what it is given and checks no rule."""

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        """Store a new movie at version 1, created and updated `at`, under an id never used before."""
        ...

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        """Like `add` for each draft, in their order with ascending ids, at the price of a bulk load."""
        ...

    async def get(self, movie_id: int) -> Movie:
        """The movie with this id, held against every other transaction until this one ends.

        Raises:
            MovieNotFound: there is none.
        """
        ...

    async def replace(self, movie: Movie) -> None:
        """Store `movie` in place of the one with its id; its `version` is another one.

        Raises:
            MovieNotFound: there is none.
        """
        ...

    async def remove(self, movie_id: int) -> None:
        """Delete the movie with this id.

        Raises:
            MovieNotFound: there is none.
        """
        ...


class EventLog(Protocol):
    """The log inside a transaction: append only."""

    async def append(self, *events: Event) -> None:
        """Add events in this order, to be seen when the transaction commits."""
        ...


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

    async def remove(self, key: str) -> None:
        """Forget `key`; forgetting it twice is no error."""
        ...


class Transaction(Protocol):
    """The stores, all writing into one transaction."""

    @property
    def movies(self) -> MovieRepository:
        """Movies."""
        ...

    @property
    def events(self) -> EventLog:
        """The log."""
        ...

    @property
    def images(self) -> ImageLedger:
        """The ledger of images."""
        ...


class Transactions(Protocol):
    """The write side: ``async with transactions() as tx``.

    Leaving the block normally commits all that was done through `tx`, and the block's caller goes on
    only after the commit; leaving it by any exception, cancellation included, undoes all of it. When
    the commit itself raises `Unavailable`, whether it took effect is not known.
    """

    def __call__(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction; the stores of `tx` are of use only inside the block."""
        ...


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

    async def stat(self, key: str) -> int | None:
        """The number of bytes kept under `key`; None if there is nothing."""
        ...

    def url(self, key: str) -> str:
        """Where clients load the image; no look-up is made."""
        ...


@runtime_checkable
class ImageFiles(Protocol):
    """Reading images back: the side of a store whose images this service serves itself."""

    def read(self, key: str) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """The size in bytes and the content of what is kept under `key`, in chunks.

        Raises:
            ImageNotFound: there is nothing.
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
