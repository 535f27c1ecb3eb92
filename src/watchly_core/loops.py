"""An event loop in a thread of its own, for programs that wait for what is done on it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    MutableSequence,
)
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Generic, ParamSpec, Self, TypeAlias, TypeVar

from watchly_core.errors import Unavailable
from watchly_core.tasks import cancelled
from watchly_core.waiting import Waiter

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that a call may take, unless the host says otherwise.
TIMEOUT: Final = 30.0
#: Seconds that what is under way when the loop is closed has to end in.
_UNWINDING: Final = 2.0

#: Leaves a context with an error, or without one.
Leave: TypeAlias = Callable[[BaseException | None], Awaitable[object]]

_timeout: Final[ContextVar[float | None]] = ContextVar("watchly_timeout", default=None)


class Loop:
    """An event loop in a thread of its own: calls that are made from other threads wait for their results.

    It is a context manager, whose end closes it; a loop that nobody closes is closed when Python ends. Any
    number of threads may call at once. What is raised on the loop is raised by the call, and the caller's
    context variables are seen there. A caller that is interrupted (Ctrl-C) cancels its call.

    A process that is forked has no copy of the thread: each makes a loop of its own, after the fork.

    Args:
        timeout: seconds that a call may take, beside the time that the host takes to give what is read, and
            with a second more for each 50,000 bytes of that.

    Raises:
        ValueError: `timeout` is no time.
        RuntimeError: by calls in the loop's own thread, where waiting would never end; in another process
            than that of the thread; or after the end.
        Unavailable: by calls that take too long, which are cancelled, or under which the loop is closed.
    """

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._timeout = _time(timeout)
        self._process = os.getpid()
        # The collector of garbage may free an iterator in a thread that holds this already.
        self._lock = threading.RLock()
        self._closed = False
        self._end = asyncio.Event()
        self._leaves: list[Leave] = []
        self._iterated: set[AsyncGenerator[object, None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished: Future[None] = Future()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="watchly-loop", daemon=True)
        self._thread.start()
        self._loop = started.result()
        atexit.register(self.close)

    def run(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of an asynchronous call, which is made on the loop.

        Raises:
            Unavailable, RuntimeError: see the class; everything else is what the call raises.
        """
        outcome: Future[T] = Future()

        async def work() -> None:
            try:
                outcome.set_result(await call(*args, **kwargs))
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - the one who waits gets it, not the loop
                outcome.set_exception(error)

        waiter = Waiter(self._loop)
        asked = _timeout.get()
        seconds = self._timeout if asked is None else asked
        ended = False
        # An interruption may come at any moment from here on.
        try:
            self._begin(work, waiter)
            ended = waiter.wait(seconds)
        finally:
            if waiter.begun and not ended:
                waiter.abandon()
        if outcome.done():
            return outcome.result()
        if ended and not self._closed:
            raise Unavailable("loop", "a call was cancelled by what it called")
        if ended:
            raise Unavailable("loop", "it was closed while a call was under way")
        raise Unavailable("loop", f"a call took longer than {seconds:g} seconds, and was cancelled")

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a function that wants to be called on a loop and does not wait."""

        async def called() -> T:
            return function(*args, **kwargs)

        return self.run(called)

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter an asynchronous context, which is left when the loop is closed: last in, first out."""
        return self.entered(manager).__enter__()

    def entered(self, manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """An asynchronous context as a blocking one; it is entered and left on the loop."""
        return _Stay(self, self._leaves, manager)

    def iterate(self, items: AsyncIterator[T]) -> Generator[T, None, None]:
        """Yield what an asynchronous iterator does, which is closed when this generator ends."""
        generator = items if isinstance(items, AsyncGenerator) else None
        if generator is not None:
            self._iterated.add(generator)
        try:
            while True:
                try:
                    item = self.run(items.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if generator is not None:
                self._iterated.discard(generator)
                self._free(generator)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let each call of the block, and of the iterators that are used in it, take so many seconds.

        Raises:
            ValueError: that is no time.
        """
        token = _timeout.set(_time(seconds))
        try:
            yield
        finally:
            _timeout.reset(token)

    def close(self) -> None:
        """Cancel what is under way, leave what was entered, and end the thread; closing twice does nothing.

        Raises:
            Exception: the first error of what was left.
            Unavailable: that takes too long; it goes on until Python ends.
        """
        if os.getpid() != self._process:
            return  # what it holds is the other process's
        self._require_other_thread()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._end.set)
        atexit.unregister(self.close)
        try:
            self._finished.result(self._timeout)
        except TimeoutError:
            raise Unavailable("loop", f"it did not end within {self._timeout:g} seconds") from None
        self._thread.join(self._timeout)

    def __enter__(self) -> Self:
        """It has begun already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._live(started))
        except BaseException as error:  # noqa: BLE001 - the one who waits gets it
            (self._finished if started.done() else started).set_exception(error)
        else:
            self._finished.set_result(None)
        finally:
            self._closed = True

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._end.wait()
        await asyncio.wait({asyncio.ensure_future(cancelled(*self._tasks))}, timeout=_UNWINDING)
        for items in tuple(self._iterated):
            with suppress(Exception):  # nobody is there to be told
                await items.aclose()
        problem: BaseException | None = None
        for leave in self._leaves[::-1]:
            try:
                await leave(None)
            except Exception as error:  # noqa: BLE001 - the others are left as well
                problem = problem or error
        if problem is not None:
            raise problem

    def _begin(self, work: Callable[[], Awaitable[None]], waiter: Waiter) -> None:
        # First of all: after a fork another thread may hold the lock for ever.
        if os.getpid() != self._process:
            raise RuntimeError(
                "the process was forked, and the thread of this watchly_core.blocking.Loop stayed behind: "
                "make a loop, and what is entered on it, in each process (with gunicorn: without --preload, "
                "or in the post_fork hook)"
            )
        self._require_other_thread()
        with self._lock:
            if self._closed:
                raise RuntimeError("this watchly_core.blocking.Loop has been closed")
            waiter.begun = True
            # It takes the context variables of this thread along.
            self._loop.call_soon_threadsafe(self._spawn, work, waiter)

    def _require_other_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call in the thread of the loop itself would never end: await the asynchronous one"
            )

    def _spawn(self, work: Callable[[], Awaitable[None]], waiter: Waiter) -> None:
        task = waiter.task = asyncio.ensure_future(waiter.see(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(waiter.end)

    def _free(self, items: AsyncGenerator[T, None]) -> None:
        """Close a generator from wherever it is let go of, which may be by the collector of garbage."""
        if os.getpid() != self._process or self._closed:
            return  # it is the other process's, or was closed with the loop
        if threading.current_thread() is self._thread:
            self._spawn(items.aclose, Waiter(self._loop))
            return
        # One that is still running is being cancelled, and closes itself.
        with suppress(RuntimeError):
            self.run(items.aclose)


def _time(seconds: float) -> float:
    """As long as anything can be waited for at most; refuses what is no time, or none that anything takes."""
    if not seconds > 0:
        raise ValueError(f"a call cannot take {seconds} seconds")
    return min(seconds, threading.TIMEOUT_MAX)


class _Stay(AbstractContextManager[T], Generic[T]):
    """A stay in an asynchronous context, which one task enters and leaves, as some of them want.

    Args:
        loop: where it is.
        leaves: what the loop calls when it is closed.
        manager: the context.
    """

    def __init__(
        self, loop: Loop, leaves: MutableSequence[Leave], manager: AbstractAsyncContextManager[T]
    ) -> None:
        self._loop, self._leaves, self._manager = loop, leaves, manager
        self._suppressed = False

    def __enter__(self) -> T:
        """Enter it."""
        return self._loop.run(self._enter)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave it, with what was raised in the block."""
        return self._loop.run(self.leave, error)

    async def _enter(self) -> T:
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[None] = loop.create_future()
        self._left: asyncio.Future[BaseException | None] = loop.create_future()
        values: list[T] = []
        self._task = asyncio.create_task(self._stay(values))
        try:
            await asyncio.wait({self._entered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await cancelled(self._task)
            raise
        if not values:
            await self._task  # it raises what entering did
        self._leaves.append(self.leave)
        return values[0]

    async def leave(self, error: BaseException | None) -> bool:
        """Leave it, with what was raised in the block; whether that is suppressed."""
        if not self._left.done():
            self._left.set_result(error)
            self._leaves.remove(self.leave)
        await self._task
        return self._suppressed

    async def _stay(self, values: list[T]) -> None:
        values.append(await self._manager.__aenter__())
        self._entered.set_result(None)
        error: BaseException | None
        try:
            error = await self._left
        except asyncio.CancelledError as cancellation:
            error = cancellation
        kind, trace = (type(error), error.__traceback__) if error is not None else (None, None)
        self._suppressed = bool(await self._manager.__aexit__(kind, error, trace))
