"""Changes as they happen: what is new is read, and made into bytes, once for all who follow.

A stream that resumes reads the log first, from where its client was, and takes its place among those that
are handed what is new when it is near the end; from there it reads the log on up to where the others are.
So it misses nothing and gets nothing twice, whoever is quicker.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Final, NamedTuple

import msgspec
import structlog
from msgspec import Meta

from watchly_core import Catalogue, Movie, events
from watchly_core.errors import ChangesGone, Unavailable, WatchlyError
from watchly_core.events import KINDS, ChangeQuery, Changes, Event
from watchly_core.movies import Moment
from watchly_core.people import SYSTEM, Actor, Permission
from watchly_core.ports import ChangeSignal
from watchly_core.tasks import cancelled
from watchly_http.drain import at_drain

_log = structlog.stdlib.get_logger("watchly.feed")

#: Streams that are open in one process; connections are kept for other requests.
MOST_STREAMS: Final = 3_000
#: Seconds after which one more may be tried.
_RETRY_AFTER: Final = 10
#: Changes that wait for one client.
ROOM: Final = 1_000
#: Changes that are read at once, and about how many bytes are sent at once.
_PAGE: Final = 100
_PIECE: Final = 65_536
#: Streams that read the log at a time: connections of the database are kept for other requests.
_READERS: Final = 2
#: Seconds between signs of life, and before a database that does not answer is asked again.
HEARTBEAT: Final = 15.0
_PAUSE: Final = 1.0
#: Seconds between looks at who follows, and how many are looked up at a time.
_ASK: Final = 1.5
_AT_ONCE: Final = 20
#: Milliseconds after which clients come back; at a stop they do not come back all at once.
_RETRY: Final = 3_000
_RETRY_AT_STOP: Final = (1_000, 5_000)

_encode = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True):
    """What happened to a movie, which is shown as it became, or last was.

    `seq` is the place of the change among all changes; those of one movie are in the order of its versions.
    """

    seq: int
    kind: Annotated[str, Meta(title="ChangeKind", extra_json_schema={"enum": sorted(KINDS)})]
    movie_id: int
    version: int
    at: Moment
    actor: str
    movie: Movie


def shown(change: events.Change) -> Change:
    """The change as clients see it."""
    event = change.event
    return Change(
        change.seq, events.kind(event), event.movie_id, event.version, event.at, event.actor, event.movie
    )


class _Frame(NamedTuple):
    """A change in the form of the stream, which has no line ends inside of JSON."""

    seq: int
    event: Event
    text: bytes


def _frame(change: events.Change) -> _Frame:
    text = b"id: %d\nevent: %s\ndata: %s\n\n" % (
        change.seq,
        events.kind(change.event).encode(),
        _encode(shown(change)),
    )
    return _Frame(change.seq, change.event, text)


def _pieces(frames: Iterable[_Frame]) -> Iterator[bytes]:
    """The texts of some frames, put together: a server keeps a number of pieces for a client that is slow."""
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        piece.append(frame.text)
        size += len(frame.text)
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


class Feed:
    """The live changes of one process.

    Args:
        catalogue: whose changes they are.
        signal: tells that there are new ones.

    Attributes:
        position: all changes up to this number were handed out.
    """

    def __init__(self, catalogue: Catalogue, signal: ChangeSignal) -> None:
        self.position: int = 0
        self._catalogue, self._signal = catalogue, signal
        self._open: set[Stream] = set()
        self._followers: set[Stream] = set()
        self._followed = asyncio.Event()
        self._turns = asyncio.Semaphore(_READERS)
        self._stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hand out changes while the block runs, up to the drain of the service."""
        tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._ask())]
        try:
            with at_drain(self.stop):
                yield
        finally:
            self.stop()
            for task in tasks:
                await cancelled(task)

    def stop(self) -> None:
        """End all streams, and those that come as soon as they have begun."""
        self._stopped = True
        for stream in self._open:
            stream.end()

    async def open(
        self,
        query: ChangeQuery,
        after: int | None,
        *,
        actor: Actor = SYSTEM,
        still: Callable[[], Awaitable[bool]] | None = None,
    ) -> Stream:
        """A stream of what `query` asks for that comes after this number; of what is new if it is None.

        It ends soon after `still` says that its client may not follow it any more.

        Raises:
            ChangesGone: some of it was pruned.
            Unavailable: too many streams are open, or the database does not answer.
        """
        if len(self._open) >= MOST_STREAMS:
            raise Unavailable("streams", "too many are open", retry_after=_RETRY_AFTER)
        actor.require(Permission.READ)
        if after is None:
            after = await self._catalogue.last_change()
        query = msgspec.structs.replace(query, after=after, limit=_PAGE)
        return Stream(self, query, await self.read(query), still)

    async def read(self, query: ChangeQuery) -> Changes:
        """A page of the log, when it is this reader's turn.

        Raises:
            ChangesGone: some of it was pruned.
        """
        async with self._turns:
            return await self._catalogue.changes(query)

    def count(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def enter(self, stream: Stream) -> None:
        """Count a stream as open."""
        self._open.add(stream)
        if self._stopped:
            stream.end()

    async def join(self, stream: Stream) -> int:
        """Let `stream` have what is new, which is all that comes after the number that is returned."""
        if not self._followers:
            end = await self._catalogue.last_change()
            if not self._followers:  # still
                self.position = end
        self._followers.add(stream)
        self._followed.set()
        return self.position

    def leave(self, stream: Stream) -> None:
        """Let it have no more."""
        self._open.discard(stream)
        self._followers.discard(stream)
        if not self._followers:
            self._followed.clear()

    async def _run(self) -> None:
        failed = False
        while True:
            await self._followed.wait()
            try:
                await self._hand_out()
                failed = False
            except Exception as error:  # noqa: BLE001 - whatever it is, the streams wait for what comes
                if not failed:
                    known = isinstance(error, WatchlyError)
                    _log.warning("changes cannot be read", reason=str(error), exc_info=not known)
                failed = True
                await asyncio.sleep(_PAUSE)

    async def _ask(self) -> None:
        """End the streams whose clients may not follow them any more."""
        while True:
            await asyncio.sleep(_ASK)
            asked = [stream for stream in self._open if stream.still is not None]
            for start in range(0, len(asked), _AT_ONCE):
                await asyncio.gather(*(_ask(stream) for stream in asked[start : start + _AT_ONCE]))

    async def _hand_out(self) -> None:
        """Hand out the next changes; wait for more where these are all."""
        seen = self._signal.count
        try:
            found = await self._catalogue.changes(ChangeQuery(after=self.position, limit=_PAGE))
        except ChangesGone:
            for stream in tuple(self._followers):
                self.leave(stream)
                stream.end()
            return
        frames = [_frame(change) for change in found.data]
        if frames:
            for stream in self._followers:
                stream.offer(frames)
        self.position = found.next_after
        if len(frames) < _PAGE:
            await self._signal.beyond(seen)


async def _ask(stream: Stream) -> None:
    try:
        if stream.still is not None and not await stream.still():
            stream.end()
    except Exception as error:  # noqa: BLE001 - whatever it is, others are asked all the same
        _log.warning("a stream cannot be asked for", exc_info=error)


class Stream:
    """The changes that one client follows, as `text/event-stream` (WHATWG HTML, "Server-sent events").

    Args:
        feed: gives what is new.
        query: what is asked for, and from where on.
        first: the first page of it.
        still: whether its client may follow it still; None if there is nothing to ask.

    Attributes:
        ended: whether it is at its end; its client comes back if it wants more.
        on_end: called when it ends.
        still: as above.
    """

    def __init__(
        self,
        feed: Feed,
        query: ChangeQuery,
        first: Changes,
        still: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.ended: bool = False
        self.still = still
        self.on_end: Callable[[], None] = lambda: None
        self._feed, self._query, self._first = feed, query, first
        self._position = query.after
        self._waiting: deque[_Frame] = deque()
        self._told = asyncio.Event()

    def end(self) -> None:
        """Bring it to its end."""
        if not self.ended:
            self.ended = True
            self._told.set()
            self.on_end()

    def offer(self, frames: Sequence[_Frame]) -> None:
        """Take those of some new changes that are asked for; end where the client is too slow for them."""
        wanted = [frame for frame in frames if self._query.admits(frame.event)]
        if len(self._waiting) + len(wanted) > ROOM:
            self.end()
        elif wanted and not self.ended:
            self._waiting += wanted
            self._told.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, for as long as it has not ended, and a last word."""
        self._feed.enter(self)
        try:
            # Clients keep an id without data as well: they resume from here if nothing happens meanwhile.
            yield b": watchly\nretry: %d\nid: %d\n\n" % (_RETRY, self._position)
            for source in (self._from_log, self._from_feed):
                async with aclosing(source()) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            self._feed.leave(self)
        yield b": the end\nretry: %d\n\n" % random.randint(*_RETRY_AT_STOP)  # noqa: S311 - no secret

    async def _from_log(self) -> AsyncGenerator[bytes, None]:
        """What is in the log up to where the others are."""
        page, joined = self._first, None
        while not self.ended:
            self._position = max(self._position, page.next_after)
            for piece in _pieces([_frame(change) for change in page.data]):
                yield piece
            try:
                if joined is None and len(page.data) < _PAGE:
                    joined = await self._feed.join(self)
                if joined is not None and self._position >= joined:
                    return
                page = await self._feed.read(msgspec.structs.replace(self._query, after=self._position))
            except ChangesGone:
                self.end()
            except Unavailable:
                page = Changes((), self._position)
                yield self._heartbeat()
                await asyncio.sleep(_PAUSE)

    async def _from_feed(self) -> AsyncGenerator[bytes, None]:
        """What is new."""
        loop = asyncio.get_running_loop()
        while not self.ended:
            if not self._waiting:
                self._told.clear()
                alarm = loop.call_later(HEARTBEAT, self._told.set)  # half the price of a timeout
                try:
                    await self._told.wait()
                finally:
                    alarm.cancel()
                if not self._waiting and not self.ended:
                    self._position = max(self._position, self._feed.position)
                    yield self._heartbeat()
                continue
            piece: list[bytes] = []
            size = 0
            while self._waiting and size < _PIECE:
                frame = self._waiting.popleft()
                if frame.seq > self._position:
                    self._position = frame.seq
                    piece.append(frame.text)
                    size += len(frame.text)
            if piece:
                yield b"".join(piece)

    def _heartbeat(self) -> bytes:
        """A sign of life that tells the client up to where there was nothing for it."""
        return b": still here\nid: %d\n\n" % self._position
