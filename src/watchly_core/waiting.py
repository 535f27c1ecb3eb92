"""Threads that wait for what is done on an event loop, and have a part in it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from watchly_core.tasks import cancelled

T = TypeVar("T")

#: Bytes of what is given for which a call has a second more: the slowest line to an image store sends them.
_SLOWEST: Final = 50_000
#: Bytes that are fetched from the thread at a time: each trip to it costs as much as reading many.
_PORTION: Final = 65_536
#: Seconds that a call has to end in once it is cancelled; it goes on without anybody waiting after that.
_UNWINDING: Final = 2.0


class Waiter:
    """The thread that waits for a call, and does meanwhile what the call asks it for.

    Args:
        loop: where the call is under way.

    Attributes:
        begun: whether the call was handed to the loop, or is just being so.
        task: which does it, from the time that the loop has begun with it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.begun = False
        self.task: asyncio.Task[None] | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._given = 0

    def wait(self, seconds: float) -> bool:
        """Whether the call ends within this time; that of the steps that it asks for does not count."""
        due = time.monotonic() + seconds
        with suppress(Empty):
            while (step := self._next(due + self._given / _SLOWEST)) is not None:
                began = time.monotonic()
                step()
                due += time.monotonic() - began
            return True
        return False

    def abandon(self) -> None:
        """Cancel the call, and wait a moment for its end."""
        with suppress(RuntimeError):  # the loop is closed, and the call has ended with it
            self._loop.call_soon_threadsafe(self._cancel)
        due = time.monotonic() + _UNWINDING
        with suppress(Empty):
            while self._next(due) is not None:
                pass

    async def see(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work of the call, which can ask this thread for what it needs."""
        _waiter.set(self)
        await work()

    def end(self, _: asyncio.Task[None]) -> None:
        """Tell the thread that the call has ended."""
        self._steps.put(None)

    async def ask(self, step: Callable[[], tuple[T, int]]) -> T:
        """What `step` returns, which the thread that waits takes, and how many bytes that was."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def tell(say: Callable[[], None]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(lambda: None if answer.done() else say())

        def take() -> None:
            if answer.done():
                return  # nobody waits for it any more
            try:
                value, size = step()
            except Exception as error:  # noqa: BLE001 - the call gets it, and its caller in the end
                tell(partial(answer.set_exception, error))
            else:
                self._given += size
                tell(partial(answer.set_result, value))

        self._steps.put(take)
        return await answer

    def _next(self, due: float) -> Callable[[], None] | None:
        return self._steps.get(timeout=min(max(0.0, due - time.monotonic()), threading.TIMEOUT_MAX))

    def _cancel(self) -> None:
        if self.task is None:
            self._steps.put(None)  # it was interrupted before the loop had heard of it
        else:
            self._reaper = asyncio.ensure_future(cancelled(self.task))


_waiter: Final[ContextVar[Waiter]] = ContextVar("watchly_waiter")


async def given(items: Iterable[T], size: Callable[[T], int]) -> AsyncGenerator[T, None]:
    """Yield `items`, which are read by the thread that waits for the call in which this is iterated.

    So they may be what belongs to that thread, such as a cursor or a request; the loop waits for none of
    them. `size` tells of each about how many bytes it has.
    """
    waiter = _waiter.get()
    left: Iterator[T] | None = None
    problem: Exception | None = None

    def portion() -> tuple[Sequence[T], int]:
        nonlocal left, problem
        if problem is not None:
            raise problem
        taken, total = [], 0
        try:
            left = iter(items) if left is None else left
            for item in left:
                taken.append(item)
                total += size(item)
                if total >= _PORTION:
                    break
        except Exception as error:
            if not taken:
                raise
            problem = error  # what came before it counts
        return taken, total

    while taken := await waiter.ask(portion):
        for item in taken:
            yield item
