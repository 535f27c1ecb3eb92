"""The use cases called through their blocking namesakes, by tests that await them as ever."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Final, TypeVar

from watchly_adapters.testing.stores import Store
from watchly_core import blocking
from watchly_core.ports import ChangeSignal, MovieQueries, PeopleQueries, Transactions

A = TypeVar("A")
T = TypeVar("T")

#: Calls that a test makes at once, at most.
THREADS: Final = 128
#: Bytes that are read from threads at a time.
READ_AHEAD: Final = 65_536
_END: Final = object()


class BlockedStore:
    """A store on a loop of its own, whose use cases are called from threads that wait for that.

    Its parts may be awaited on any loop: by tests on theirs, and by use cases where the store is.
    """

    def __init__(self, store: Store, loop: blocking.Loop, threads: ThreadPoolExecutor) -> None:
        self.loop, self.threads = loop, threads
        home = loop.call(asyncio.get_running_loop)
        self.queries: MovieQueries = _Placed(store.queries, home, loop, threads)
        self.people: PeopleQueries = _Placed(store.people, home, loop, threads)
        self.transactions: Transactions = _Placed(store.transactions, home, loop, threads)
        self.signal: ChangeSignal = _Placed(store.signal, home, loop, threads)


def through(store: object, use_cases: A) -> A:
    """`use_cases`, or what calls them through their blocking namesakes, where `store` wants that."""
    if not isinstance(store, BlockedStore):
        return use_cases
    namesake = getattr(blocking, type(use_cases).__name__)
    found: A = _Awaited(namesake(store.loop, use_cases), store.threads)  # type: ignore[assignment] # as it behaves
    return found


class _Waiting:
    """Waits in threads for what blocks."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    def _as_awaited(self, found: object) -> object:
        """What a test gets for `found`."""
        raise NotImplementedError

    async def _wait(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, call)

    async def _each(self, items: Generator[object]) -> AsyncGenerator[object, None]:
        try:
            while (item := await self._wait(partial(next, items, _END))) is not _END:
                yield item
        finally:
            await self._wait(items.close)

    def _within(self, context: AbstractContextManager[object]) -> AbstractAsyncContextManager[object]:
        @asynccontextmanager
        async def within() -> AsyncGenerator[object, None]:
            value = await self._wait(context.__enter__)
            try:
                yield self._as_awaited(value)
            except BaseException as error:
                if not await self._wait(partial(context.__exit__, type(error), error, error.__traceback__)):
                    raise
            else:
                await self._wait(partial(context.__exit__, None, None, None))

        return within()


class _Awaited(_Waiting):
    """Something blocking whose methods are called in threads, and awaited."""

    def __init__(self, blocked: blocking.Blocking[object], threads: ThreadPoolExecutor) -> None:
        super().__init__(threads)
        self._blocked = blocked

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._blocked, name)
        if not callable(found):
            return self._as_awaited(found)
        waits = inspect.iscoroutinefunction(inspect.unwrap(getattr(type(self._blocked), name)))

        @wraps(found)
        def call(*args: object, **kwargs: object) -> Any:
            here = asyncio.get_running_loop()
            made = partial(found, *(_readable(arg, here) for arg in args), **kwargs)
            return self._wait(made) if waits else self._as_awaited(made())

        return call

    def _as_awaited(self, found: object) -> object:
        match found:
            case blocking.Blocking():
                return _Awaited(found, self._threads)
            case Generator():
                return self._each(found)
            case AbstractContextManager():
                return self._within(found)
        return found


class _Placed(_Waiting):
    """A part of a store that is on `home`, which `loop` runs: awaited elsewhere, it is awaited there."""

    def __init__(
        self,
        part: object,
        home: asyncio.AbstractEventLoop,
        loop: blocking.Loop,
        threads: ThreadPoolExecutor,
    ) -> None:
        super().__init__(threads)
        self._part, self._home, self._loop = part, home, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._calling(found) if callable(found) else self._as_awaited(found)

    def __call__(self) -> Any:
        return self._calling(self._part)()

    def _calling(self, function: Any) -> Any:
        @wraps(function)
        def call(*args: object, **kwargs: object) -> Any:
            if asyncio.get_running_loop() is self._home:
                return function(*args, **kwargs)
            match made := function(*args, **kwargs):
                case Coroutine():
                    return self._wait(partial(self._loop.run, lambda: made))
                case AsyncGenerator():
                    return self._each(self._loop.iterate(made))
                case AbstractAsyncContextManager():
                    return self._within(self._loop.entered(made))
            return made

        return call

    def _as_awaited(self, found: object) -> object:
        if type(found).__module__.startswith("watchly_adapters."):
            return _Placed(found, self._home, self._loop, self._threads)
        return found


def _readable(given: object, loop: asyncio.AbstractEventLoop) -> object:
    """What a test gives on its loop, for threads to read."""
    if not isinstance(given, AsyncIterable):
        return given
    items = aiter(given)

    async def following() -> object:
        return await anext(items, _END)

    def read() -> Iterator[object]:
        while (item := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not _END:
            yield item

    return read()
