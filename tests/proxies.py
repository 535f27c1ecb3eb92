"""A proxy of TCP connections that makes trouble on them, in the words of toxiproxy.

    with Proxy(("127.0.0.1", 5432), seed=7) as proxy:
        ...                                          # connect to 127.0.0.1:proxy.port
        with proxy.toxic(Latency(200, jitter=50)):   # from here on, on open connections as well
            ...
        proxy.down()

Toxics come and go while connections run, several at once; what one holds back goes on its way when it is
removed. `upstream` is what goes to the server, `downstream` what comes back from there.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, TypeVar

T = TypeVar("T")

Stream: TypeAlias = Literal["upstream", "downstream"]
#: A host and a port, or a Unix socket.
Server: TypeAlias = tuple[str, int] | Path

#: Bytes that are passed on at once, and how many such pieces wait on a connection.
_PIECE: Final = 8_192
_WAITING: Final = 64
#: Seconds for whatever is asked of the thread.
_PATIENCE: Final = 30.0
_RESET: Final = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The connection ends here."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset
        super().__init__()


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """What happens to connections.

    Attributes:
        stream: to what goes which way.
        toxicity: which part of all connections it befalls, from 0 to 1.
    """

    stream: Stream = "downstream"
    toxicity: float = 1.0

    def befalls(self, stream: Stream) -> bool:
        """Whether it has to do with what goes this way."""
        return stream == self.stream

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:
        """What goes on of a piece that arrived at this time of the loop; an empty one is the end.

        Raises:
            Cut: nothing does.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Latency(Toxic):
    """Everything comes later: by `ms` milliseconds, and up to `jitter` more or fewer."""

    ms: float
    jitter: float = 0.0

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:
        """See `Toxic`."""
        late = self.ms + case.chance.uniform(-self.jitter, self.jitter)
        await case.hold(late / 1_000 - (case.now() - arrived))
        return piece


@dataclass(frozen=True)
class Bandwidth(Toxic):
    """No more than `rate` KB go through in a second."""

    rate: float

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:  # noqa: ARG002 - see `Toxic`
        """See `Toxic`."""
        await case.hold(len(piece) / (self.rate * 1_000))
        return piece


@dataclass(frozen=True)
class Timeout(Toxic):
    """Nothing gets through; `ms` milliseconds after something wanted to, it is closed. 0: it never is."""

    ms: float = 0.0

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:  # noqa: ARG002 - see `Toxic`
        """See `Toxic`."""
        if await case.hold(self.ms / 1_000 if self.ms else None):
            raise Cut(reset=False)
        return piece


@dataclass(frozen=True)
class ResetPeer(Toxic):
    """It is reset, `ms` milliseconds after something wanted to get through, which is lost."""

    ms: float = 0.0

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:  # noqa: ARG002 - see `Toxic`
        """See `Toxic`."""
        if await case.hold(self.ms / 1_000):
            raise Cut(reset=True)
        return piece


@dataclass(frozen=True)
class LimitData(Toxic):
    """It is closed when `most` bytes went through since the toxic came."""

    most: int

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:  # noqa: ARG002 - see `Toxic`
        """See `Toxic`."""
        passed = piece[: self.most - case.passed]
        case.passed += len(passed)
        case.last = case.passed >= self.most
        return passed


@dataclass(frozen=True)
class SlowClose(Toxic):
    """Its end comes `ms` milliseconds later."""

    ms: float

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:  # noqa: ARG002 - see `Toxic`
        """See `Toxic`."""
        if not piece:
            await case.hold(self.ms / 1_000)
        return piece


@dataclass(frozen=True)
class LoseReply(Toxic):
    """It is reset in place of the reply to what has these bytes in it, which reaches the server whole."""

    to: bytes

    def befalls(self, stream: Stream) -> bool:  # noqa: ARG002 - both ways
        """See `Toxic`."""
        return True

    async def meet(self, case: Case, piece: bytes, arrived: float) -> bytes:  # noqa: ARG002 - see `Toxic`
        """See `Toxic`."""
        if case.stream == "downstream":
            if case.link.marked:
                raise Cut(reset=True)
            return piece
        text = case.tail + piece
        case.link.marked |= self.to in text
        case.tail = text[-len(self.to) :]
        return piece


class Active:
    """A toxic that is on a proxy.

    Attributes:
        toxic: it.
        hits: pieces that it has met so far.
    """

    def __init__(self, toxic: Toxic) -> None:
        self.toxic = toxic
        self.hits = 0
        self.removed = asyncio.Event()


class Case:
    """A toxic on one way of one connection.

    Attributes:
        link: the connection.
        stream: the way.
        chance: of the proxy.
        passed: bytes that went through.
        tail: the end of what did.
        last: whether it is closed behind the piece that goes now.
    """

    def __init__(self, active: Active, link: Link, stream: Stream, chance: random.Random) -> None:
        self.link, self.stream, self.chance = link, stream, chance
        self.passed, self.tail, self.last = 0, b"", False
        self._active = active

    def now(self) -> float:
        """The time of the loop."""
        return asyncio.get_running_loop().time()

    async def hold(self, seconds: float | None) -> bool:
        """Wait, for ever if that is None; whether the toxic is still there then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._active.removed.wait()
                return False
        return True

    async def meet(self, piece: bytes, arrived: float) -> bytes:
        """See `Toxic`."""
        if self._active.removed.is_set():
            return piece
        self._active.hits += 1
        return await self._active.toxic.meet(self, piece, arrived)


class Link:
    """A connection through the proxy, with both ends.

    Attributes:
        marked: whether the next thing from the server is not to arrive.
    """

    def __init__(self, proxy: Proxy, near: _End, far: _End) -> None:
        self._proxy, self._near, self._far = proxy, near, far
        self._cases: dict[tuple[Active, Stream], Case | None] = {}
        self._befallen: dict[Active, bool] = {}
        self.marked = False

    async def run(self) -> None:
        """Pass everything on, both ways, until both are at their end."""
        try:
            async with asyncio.TaskGroup() as group:
                for stream, source, sink in (
                    ("upstream", self._near, self._far),
                    ("downstream", self._far, self._near),
                ):
                    pieces: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue(_WAITING)
                    group.create_task(self._take(source, pieces))
                    group.create_task(self._give(_way(stream), pieces, sink))
        except* Cut as cuts:
            if any(isinstance(cut, Cut) and cut.reset for cut in cuts.exceptions):
                self.reset()
        except* OSError:
            self.reset()  # as whoever is at the other end would see it
        finally:
            self.close()

    def reset(self) -> None:
        """End it as if the machine behind it did not know it any more."""
        for end in (self._near, self._far):
            end.reset()

    def close(self) -> None:
        """End it."""
        for end in (self._near, self._far):
            end.writer.transport.abort()

    async def _take(self, source: _End, pieces: asyncio.Queue[tuple[bytes, float]]) -> None:
        while True:
            piece = await source.reader.read(_PIECE)
            await pieces.put((piece, asyncio.get_running_loop().time()))
            if not piece:
                return

    async def _give(self, stream: Stream, pieces: asyncio.Queue[tuple[bytes, float]], sink: _End) -> None:
        while True:
            piece, arrived = await pieces.get()
            ends, last = not piece, False
            for active in self._proxy.toxics:
                if (case := self._case(active, stream)) is not None:
                    piece = await case.meet(piece, arrived)
                    last |= case.last
            sink.writer.write(piece)
            await sink.writer.drain()
            if last:
                raise Cut(reset=False)
            if ends:
                with suppress(OSError):  # the other end has gone meanwhile
                    sink.writer.write_eof()
                return

    def _case(self, active: Active, stream: Stream) -> Case | None:
        if (active, stream) not in self._cases:
            chance, toxic = self._proxy.chance, active.toxic
            befallen = self._befallen.setdefault(active, chance.random() < toxic.toxicity)
            case = Case(active, self, stream, chance) if befallen and toxic.befalls(stream) else None
            self._cases[active, stream] = case
        return self._cases[active, stream]


@dataclass(frozen=True)
class _End:
    """One of the two ends of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Close it by a reset, where there is such a thing."""
        link = self.writer.get_extra_info("socket")
        if link is not None and link.family != socket.AF_UNIX:
            with suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


class Proxy:
    """Passes connections on to a server, for the length of a block, in a thread of its own.

    Args:
        server: where they lead.
        seed: of all chance.

    Attributes:
        port: at which it listens on 127.0.0.1; it keeps it while it is down.
        toxics: those that are on it, in their order.
        chance: what befalls whom.
    """

    def __init__(self, server: Server, *, seed: int = 0) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._listener: asyncio.Server | None = None
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._accepted = 0
        self.port = 0
        self.toxics: tuple[Active, ...] = ()
        self.chance = random.Random(f"proxy/{seed}")  # noqa: S311 - to be repeated

    @property
    def address(self) -> str:
        """Host and port, as URLs have them."""
        return f"127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """How many there were so far."""
        return self._accepted

    def add(self, toxic: Toxic) -> Active:
        """Put a toxic on all connections, those that are open as well."""

        async def add() -> Active:
            active = Active(toxic)
            self.toxics = (*self.toxics, active)
            return active

        return self._do(add())

    def remove(self, active: Active) -> None:
        """Take a toxic off; what it holds back goes on."""

        async def remove() -> None:
            self.toxics = tuple(each for each in self.toxics if each is not active)
            active.removed.set()

        self._do(remove())

    @contextmanager
    def toxic(self, *toxics: Toxic) -> Iterator[Active]:
        """Have toxics on it while the block runs; yields the first."""
        active = [self.add(toxic) for toxic in toxics]
        try:
            yield active[0]
        finally:
            for each in active:
                self.remove(each)

    def down(self) -> None:
        """Refuse new connections, and end those that are open."""

        async def down() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            await self._cut()

        self._do(down())

    def up(self) -> None:
        """Take connections again."""
        self._do(self._listen())

    def cut(self, *, reset: bool = False) -> None:
        """End those that are open, and take new ones."""

        async def cut() -> None:
            for link in self._links:
                if reset:
                    link.reset()
            await self._cut()

        self._do(cut())

    async def _cut(self) -> None:
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted += 1
        near = _End(reader, writer)
        try:
            far = _End(*await self._reach())
        except OSError:
            near.reset()
            return
        if self._listener is None:  # it went down meanwhile
            near.reset()
            far.reset()
            return
        link = Link(self, near, far)
        task = self._links[link] = asyncio.ensure_future(link.run())
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            del self._links[link]

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._server, Path):
            return await asyncio.open_unix_connection(str(self._server))
        return await asyncio.open_connection(*self._server)

    def _do(self, what: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._do(_last())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()


async def _last() -> None:
    """Wait for whatever else the loop is at; transports are closed in the turns behind that."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.gather(*others, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)


def _way(stream: str) -> Stream:
    return "upstream" if stream == "upstream" else "downstream"
