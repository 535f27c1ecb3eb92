"""The roles that adapters play: protocols, satisfied by shape and proven by `watchly_adapters.testing`.

Every method may raise `errors.Unavailable` when what stands behind it does not answer; only the other
errors are named below. All times are aware datetimes in UTC with microseconds.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import IO, Protocol, TypeAlias, runtime_checkable

from watchly_core.events import Change, ChangeQuery, Changes, Event
from watchly_core.images import Image, ImageRecord, Measured, Rendition, StoredImage, Ticket
from watchly_core.messages import Letter, LetterCount, Message, Target
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import GenreCount, MovieQuery, Page
from watchly_core.receipts import Claim, KeptReply

#: The present time.
Clock: TypeAlias = Callable[[], datetime]


class MovieQueries(Protocol):
    """The read side. It sees what was committed before a call began, and never a transaction.

    One that sits on a replica or a cache may be a little late, but for `history` and `changes`.
    """

    def at(self, position: str) -> MovieQueries:
        """Queries that see every write which was done when somebody was told of this position.

        A position is a short text of visible ASCII; stores say which one theirs has reached.

        Raises:
            InvalidPosition: it is none of such a store.
        """
        ...

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

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """The changes of one movie, newest first, also when it is removed; empty if it never was.

        Only those to versions below `before`, and at most `limit` of them, where these are given.
        """
        ...

    async def changes(self, query: ChangeQuery) -> Changes:
        """Changes of all movies, in the order of their numbers: the next ones after `query.after`.

        Of all that was committed before the call began, none is missing. Beyond the end there are none,
        and reading goes on from the same number.

        Raises:
            ChangesGone: some that come after `query.after` were pruned.
        """
        ...

    async def last_change(self) -> int:
        """The number of the last change of all that were committed before the call began; 0 for none."""
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

    async def restore(self, movie: Movie) -> None:
        """Store `movie`, which was removed, under its id again.

        Raises:
            VersionConflict: somebody else has just done so; nothing else can be done in the transaction.
        """
        ...


class ChangeSignal(Protocol):
    """Tells that there may be new changes, so that nobody has to ask again and again.

    ``seen = signal.count``, then read, then ``await signal.beyond(seen)``: nothing is missed so.
    """

    @property
    def count(self) -> int:
        """How often it has told so far."""
        ...

    async def beyond(self, count: int) -> None:
        """Wait until it has told more often than `count` times; it may do so for nothing."""
        ...


class EventLog(Protocol):
    """The log inside a transaction."""

    async def append(self, *events: Event) -> None:
        """Add events in this order, to be seen when the transaction commits.

        Raises:
            VersionConflict: somebody else has just taken a version; nothing else can be done in the
                transaction.
        """
        ...

    async def get(self, movie_id: int, version: int) -> Event | None:
        """What made this version of a movie; None if nothing did, or it was pruned.

        Any integers may be given.
        """
        ...

    async def newest(self, movie_id: int) -> Event | None:
        """The last event of a movie; None if it never was."""
        ...

    async def prune(self, before: datetime, limit: int) -> int:
        """Drop at most `limit` of the oldest events that have numbers, from before that time; how many.

        The newest event of each movie stays: it holds the movie as it is, or last was.
        """
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

    async def dead(self, limit: int) -> Sequence[ImageRecord]:
        """At most `limit` records that the sweeper has given up, by key; held as those of `due` are."""
        ...

    async def remove(self, key: str) -> None:
        """Forget `key`; forgetting it twice is no error."""
        ...


class Receipts(Protocol):
    """The replies to writes that their senders named by keys, inside a transaction."""

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        """The reply that is kept for a key; if there is none, the key is this transaction's until it ends.

        It never waits for another transaction. A key may be claimed twice in one transaction.

        Raises:
            KeyReused: the reply is that to another request.
            RequestInProgress: there is none, and the key is another transaction's.
        """
        ...

    async def keep(self, claim: Claim, reply: KeptReply, until: datetime) -> None:
        """Keep the reply to a write, whose key this transaction has claimed, until then."""
        ...

    async def expire(self, now: datetime, limit: int) -> int:
        """Drop at most `limit` replies that were kept until `now` or before; how many those were."""
        ...


class RelayLedger(Protocol):
    """How far each target has been told of the changes, inside a transaction."""

    async def add(self, target: Target) -> bool:
        """Note a new target, and whether it was one: nothing is done if there is one of its name."""
        ...

    async def targets(self) -> Sequence[Target]:
        """All targets by name, in the order of code points."""
        ...

    async def get(self, name: str) -> Target:
        """The target of this name, held against every other transaction until this one ends.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    async def replace(self, target: Target) -> None:
        """Store `target` in place of the one with its name.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    async def remove(self, name: str) -> None:
        """Forget a target and its letters.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    async def keep(self, name: str, *letters: Letter) -> None:
        """Note letters of a target that is there, each in place of the one with its number."""
        ...

    async def drop(self, name: str, *seqs: int) -> None:
        """Forget letters by their numbers; forgetting what is not there is no error."""
        ...

    async def due(self, name: str, now: datetime, limit: int) -> Sequence[Letter]:
        """At most `limit` letters that are due, the longest due first: of each movie the oldest one.

        Where that one is not due yet, none of its movie is.
        """
        ...

    async def heads(self, name: str) -> Mapping[int, datetime]:
        """The movies that have letters which are not dead, and when the oldest one of each is due."""
        ...

    async def dead(self, name: str, limit: int, *, after: int = 0) -> Sequence[Letter]:
        """At most `limit` dead letters with numbers beyond `after`, in the order of these."""
        ...

    async def count(self, name: str) -> LetterCount:
        """How many letters there are."""
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

    @property
    def receipts(self) -> Receipts:
        """The receipts of writes."""
        ...

    @property
    def relays(self) -> RelayLedger:
        """The ledger of the relay."""
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


class Publisher(Protocol):
    """Tells one target of changes."""

    async def publish(self, message: Message) -> None:
        """Hand over `message`; once it returns, the target has it.

        It may be called again with the same message, and for messages of several movies at once. Whoever
        waits has a deadline, but an adapter should have its own: a call that is cancelled may be under way.

        Raises:
            Unavailable: the target does not take it now, or did not say so; it may later.
            Overloaded: the same, for a reason that is not this message's.
            PublishRejected: it will never take it.
        """
        ...

    async def close(self) -> None:
        """Give back what it holds."""
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


@runtime_checkable
class Closable(Protocol):
    """A part that holds what has to be given back: connections, processes."""

    def close(self) -> None:
        """Give it back, and end whatever waits for it; later calls may fail as `Unavailable`."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A part that is not asked for a while after it failed again and again."""

    @property
    def interrupted(self) -> bool:
        """Whether calls fail at once at present."""
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
