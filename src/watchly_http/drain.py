"""The part of a stop that happens inside a worker.

The supervisor writes the phase of the service on a board that all its processes share, then wakes the
workers with SIGTERM. A signal means only "look at the board": one that reaches a worker from elsewhere
(Ctrl-C goes to the whole foreground group, systemd signals every process) changes nothing.
"""

import asyncio
import contextlib
import enum
import functools
import mmap
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from watchly_http import logs

if TYPE_CHECKING:
    from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send
    from litestar.types.asgi_types import LifeSpanReceiveMessage, LifeSpanSendMessage

    AnyScope = Scope | LifeSpanScope
    AnyReceive = Receive | LifeSpanReceive
    AnySend = Send | LifeSpanSend

CUT_AGAIN = 1.0
"""Seconds that a cancelled request gets to clean up before it is cancelled once more."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
SETTLED = 0.5
"""Seconds after its startup before which a worker does not leave: granian would not hear of it yet."""
UNHEARD = 1.0
"""Seconds between looks whether a worker that was told to leave has nobody left to wait for."""
LOOK_EVERY = 0.5
"""Seconds between looks at the board without a signal: uvloop at times stays asleep over one."""
KILL_AFTER = 5.0
"""Seconds after the cut at which a worker that is still there is killed."""


class Phase(enum.IntEnum):
    """How far the stop of the service has come; it only ever rises."""

    RUNNING = 0
    DRAINING = 1
    LEAVING = 2
    CUTTING = 3


def _new_board() -> mmap.mmap:
    return mmap.mmap(-1, 1)  # anonymous and shared: a fork sees what the other side writes


_board = _new_board()


def begin() -> None:
    """Have a board of its own for the service that begins in this process, whoever else has the last one."""
    global _board  # noqa: PLW0603 - workers find by it what their supervisor has left to them
    _board = _new_board()


def phase() -> Phase:
    """Return the phase that the service is in."""
    return Phase(_board[0])


def mark(reached: Phase) -> None:
    """Write a phase on the board, for every process of the service."""
    _board[0] = reached


def draining() -> bool:
    """Tell whether the service is about to stop: readiness then says 503 and streams end."""
    return _board[0] != Phase.RUNNING


def cutting() -> bool:
    """Tell whether requests that still run are being cancelled: there is no time left but for a reply."""
    return _board[0] >= Phase.CUTTING


_calls: set[Callable[[], None]] = set()


@contextlib.contextmanager
def at_drain(call: Callable[[], None]) -> Iterator[None]:
    """Have `call` made, perhaps more than once, when the service is about to stop while the block runs."""
    _calls.add(call)
    try:
        if draining():
            call()
        yield
    finally:
        _calls.discard(call)


def hold_signals() -> None:
    """Keep the signals of a stop from a worker until it can take them.

    Before its server has started, granian's own handlers wait for ever.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def _connected(port: int) -> bool:
    """Tell whether this process holds a connection to its port."""
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, or without a peer since it listens
            if not stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as held:
                if held.family in (socket.AF_INET, socket.AF_INET6) and held.getsockname()[1] == port:
                    held.getpeername()
                    return True
    return False


class Application(Protocol):
    """An ASGI application with a lifespan, as Litestar types it."""

    async def __call__(self, scope: "AnyScope", receive: "AnyReceive", send: "AnySend") -> None:
        """Answer one request, or run the lifespan."""


class Drained:
    """An ASGI application that leaves when the board says so, its lifespan shutdown included.

    Args:
        app: what answers the requests.
        report: told None once the startup is complete, or the error that ended it.
        leash: the reading end of a pipe whose other end lives exactly as long as the supervisor.
        port: where the worker listens.
        drain_timeout: seconds for running requests when the supervisor died and cannot cut them.
        beat: called twice a second by the loop, from the end of the startup on.
    """

    def __init__(  # noqa: PLR0913  # each is a thing of its own
        self,
        app: Application,
        *,
        report: Callable[[BaseException | None], None],
        leash: int,
        port: int,
        drain_timeout: float,
        beat: Callable[[], None],
    ) -> None:
        self._app, self._report, self._leash, self._drain_timeout = app, report, leash, drain_timeout
        self._port, self._beat = port, beat
        self._running: set[asyncio.Task[object] | None] = set()
        self._inbox: asyncio.Queue[LifeSpanReceiveMessage] = asyncio.Queue()
        self._lifespan: asyncio.Task[object] | None = None
        self._started = self._leaving = self._left = self._cutting = self._forced = False
        self._ready_at = 0.0
        self._given_up = Phase.RUNNING

    async def __call__(self, scope: "AnyScope", receive: "AnyReceive", send: "AnySend") -> None:
        """Answer a request, or run the lifespan of the worker.

        The application itself says no to a request that it is cancelled in; one that had begun its reply is
        broken off.
        """
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)  # type: ignore[arg-type]  # the scope says which they are
            return
        task = asyncio.current_task()
        self._running.add(task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._cutting:
                raise
        finally:
            self._running.discard(task)

    async def _live(self, scope: "LifeSpanScope", receive: "LifeSpanReceive", send: "LifeSpanSend") -> None:
        self._lifespan = asyncio.current_task()
        loop = asyncio.get_running_loop()
        # granian leaves on either signal. Its handler for SIGINT stays registered with the loop, out of
        # reach of the outside, for _look to call; the one for SIGTERM is replaced.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self._look)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        threading.Thread(target=self._hold_leash, args=(loop,), daemon=True).start()
        pump = asyncio.create_task(self._pump(receive))

        problem: BaseException = RuntimeError("the application ended before its startup was complete")

        async def tell(message: "LifeSpanSendMessage") -> None:
            nonlocal problem
            if message["type"] == "lifespan.startup.failed":
                problem = RuntimeError(message["message"])  # what the application raises next says more
                return
            self._started = True
            self._ready_at = loop.time()
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._beat()  # a worker that is blocked from here on is noticed
                self._report(None)
                self._look()

        try:
            self._keep_looking()  # a signal that came before the handler was in place is lost
            await self._app(scope, self._inbox.get, tell)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the worker has to go on to its end
            problem = error
            if self._started:
                sys.stderr.write(f"watchly: the shutdown of a worker failed: {error!r}\n")
        finally:
            pump.cancel()
        if not self._started:
            self._report(problem)
            await send({"type": "lifespan.startup.failed", "message": ""})
        elif self._forced:
            sys.stderr.flush()
            logs.flush()
            os._exit(0)  # granian still waits for a connection; nothing else is left to do

    async def _pump(self, receive: "LifeSpanReceive") -> None:
        while True:
            message = await receive()
            self._left = message["type"] == "lifespan.shutdown"
            self._inbox.put_nowait(message)

    def _keep_looking(self) -> None:
        if self._started:
            self._beat()
        self._look()
        asyncio.get_running_loop().call_later(LOOK_EVERY, self._keep_looking)

    def _look(self) -> None:
        reached = phase()
        if reached >= Phase.DRAINING:
            for call in tuple(_calls):
                call()
        if reached >= Phase.LEAVING and not self._started and self._lifespan is not None:
            if reached > self._given_up:  # once in each phase: it has that long to clear up
                self._given_up = reached
                self._lifespan.cancel()
        elif reached >= Phase.LEAVING and not self._leaving:
            self._leaving = True
            asyncio.get_running_loop().call_at(self._ready_at + SETTLED, self._leave)
        if reached >= Phase.CUTTING and self._started and not self._cutting:
            self._cutting = True
            self._cut()

    def _leave(self) -> None:
        # The loop hears of a signal through its wakeup descriptor, so what Python does with it is moot.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asyncio.get_running_loop().call_later(UNHEARD, self._leave_alone)

    def _leave_alone(self, idle: int = 0) -> None:
        """Leave without granian, which at times loses its own word of a stop, once nobody is connected."""
        if self._left:
            return
        idle = 0 if self._running or _connected(self._port) else idle + 1
        if idle > 1:  # twice: a connection may have been taken that is not yet a request
            self._force()
        else:
            asyncio.get_running_loop().call_later(UNHEARD, self._leave_alone, idle)

    def _force(self) -> None:
        if not self._left:
            self._left = self._forced = True
            self._inbox.put_nowait({"type": "lifespan.shutdown"})

    def _cut(self, *, again: bool = False) -> None:
        if again and not self._running:
            self._force()
            return
        for task in self._running:
            if task is not None:
                task.cancel()
        asyncio.get_running_loop().call_later(CUT_AGAIN, functools.partial(self._cut, again=True))

    def _hold_leash(self, loop: asyncio.AbstractEventLoop) -> None:
        os.read(self._leash, 1)  # nobody writes: it returns when the supervisor is gone
        for reached, pause in ((Phase.LEAVING, self._drain_timeout), (Phase.CUTTING, KILL_AFTER)):
            mark(max(reached, phase()))
            with contextlib.suppress(RuntimeError):  # the loop closed: the worker is at its end
                loop.call_soon_threadsafe(self._look)
            time.sleep(pause)
        os._exit(1)
