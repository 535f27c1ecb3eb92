"""The loop in a thread, and the blocking classes: what is not a rule of the catalogue."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Final

import pytest
from tests.services import wait_until

import watchly_core
from watchly_core import blocking, uploads, waiting
from watchly_core.blocking import Loop
from watchly_core.errors import Unavailable
from watchly_core.traces import current_trace, traced_by
from watchly_core.waiting import given

CLASSES: Final = ("Access", "Accounts", "ApiKeys", "Catalogue", "Gallery", "Sessions")
TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


# The classes


@pytest.mark.parametrize("name", [*CLASSES, "DirectUploads"])
def test_every_public_method_is_there_with_its_words(name: str) -> None:
    asynchronous = uploads.DirectUploads if name == "DirectUploads" else getattr(watchly_core, name)
    namesake = getattr(blocking, name)
    methods = {method: found for method, found in vars(asynchronous).items() if inspect.isfunction(found)}
    public = {method for method in methods if not method.startswith("_")}
    assert public == {method for method, found in vars(namesake).items() if inspect.isfunction(found)}
    for method in public:
        assert getattr(namesake, method).__doc__ == methods[method].__doc__
        assert getattr(namesake, method).__name__ == method


# Calls


def test_a_call_returns_or_raises_as_it_would_be_awaited(loop: Loop) -> None:
    async def divided(one: int, *, by: int) -> float:
        await asyncio.sleep(0)
        return one / by

    assert loop.run(divided, 6, by=3) == 2
    with pytest.raises(ZeroDivisionError) as error:
        loop.run(divided, 6, by=0)
    assert error.traceback[-1].name == "divided"


def test_what_ends_a_program_ends_the_caller_and_not_the_loop(loop: Loop) -> None:
    async def leave() -> None:
        raise SystemExit(7)

    with pytest.raises(SystemExit):
        loop.run(leave)
    assert loop.call(lambda: 1) == 1


def test_context_variables_travel_along(loop: Loop) -> None:
    with traced_by(TRACE):
        assert loop.call(current_trace) == TRACE
    assert loop.call(current_trace) is None


def test_calls_of_many_threads_are_under_way_at_once(loop: Loop) -> None:
    meeting = loop.call(asyncio.Barrier, 20)
    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(lambda _: loop.run(meeting.wait), range(20)))
    assert sorted(found) == list(range(20))


def test_a_call_that_takes_too_long_is_cancelled_and_has_ended(loop: Loop) -> None:
    ended = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with loop.within(0.05), pytest.raises(Unavailable, match=r"longer than 0\.05 seconds"):
        loop.run(hang)
    assert ended.is_set()
    with Loop(timeout=0.05) as hurried, pytest.raises(Unavailable, match="longer than"):
        hurried.run(hang)


def test_ctrl_c_cancels_the_call(loop: Loop) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupt() -> None:
        begun.wait(60)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # What a shell runs in the background begins with a SIGINT that is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            loop.run(hang)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert ended.is_set()


# Where no call can be made


def test_the_loops_own_thread_is_refused(loop: Loop) -> None:
    with pytest.raises(RuntimeError, match="await the asynchronous one"):
        loop.call(lambda: loop.call(int))
    with pytest.raises(RuntimeError, match="await the asynchronous one"):
        loop.call(loop.close)


def test_a_call_that_is_cancelled_by_what_it_calls_says_so(loop: Loop) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(Unavailable, match="was cancelled by what it called"):
        loop.run(give_up)
    assert loop.call(int) == 0


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_what_is_no_time_is_refused(loop: Loop, seconds: float) -> None:
    with pytest.raises(ValueError, match="a call cannot take"), loop.within(seconds):
        raise AssertionError
    with pytest.raises(ValueError, match="a call cannot take"):
        Loop(timeout=seconds)


def test_a_loop_that_waits_for_ever_can_be_closed() -> None:
    with Loop(timeout=float("inf")) as loop:
        thread = loop.call(threading.current_thread)
    assert not thread.is_alive()


def test_a_call_after_the_end_is_refused() -> None:
    with Loop() as loop:
        pass
    with pytest.raises(RuntimeError, match="has been closed"):
        loop.call(int)
    loop.close()


def test_who_waits_when_the_loop_is_closed_is_told() -> None:
    loop, begun = Loop(), threading.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(loop.run, hang)
        assert begun.wait(60)
        loop.close()
        with pytest.raises(Unavailable, match="was closed"):
            call.result(60)


_FORKED: Final = """
import os
from watchly_core.blocking import Loop

async def pieces():
    yield 1
    yield 2

loop = Loop()
begun = loop.iterate(pieces())
next(begun)
child = os.fork()
if not child:
    del begun
    try:
        loop.call(int)
    except RuntimeError as error:
        print(error, flush=True)
    loop.close()
    with Loop() as own:
        print(own.call(int), flush=True)
else:
    os.waitpid(child, 0)
    print(next(begun), flush=True)
# Nobody closes the loop: that is left to the end of Python.
"""


def test_after_a_fork_the_loop_is_refused_and_another_one_works() -> None:
    done = subprocess.run(
        # Later Pythons warn of every fork beside a thread, which is what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKED],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    refusal, own, parents = done.stdout.splitlines()
    assert "make a loop, and what is entered on it, in each process" in refusal
    assert (own, parents, done.stderr) == ("0", "2", "")


# Contexts


class Place:
    """A context that wants to be entered and left by one task."""

    def __init__(self, visits: list[str], name: str) -> None:
        self._visits, self._name = visits, name

    async def __aenter__(self) -> str:
        self._task = asyncio.current_task()
        self._visits.append(f"into {self._name}")
        return self._name

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        assert asyncio.current_task() is self._task
        self._visits.append(f"out of {self._name}" if kind is None else f"{kind.__name__} in {self._name}")
        return kind is LookupError


def test_what_was_entered_is_left_in_the_end_last_in_first_out() -> None:
    visits: list[str] = []
    with Loop() as loop:
        assert loop.enter(Place(visits, "a")) == "a"
        assert loop.enter(Place(visits, "b")) == "b"
    assert visits == ["into a", "into b", "out of b", "out of a"]


def test_a_block_leaves_with_what_it_raised(loop: Loop) -> None:
    visits: list[str] = []

    def fail(name: str, error: Exception) -> None:
        with loop.entered(Place(visits, name)):
            raise error

    with pytest.raises(ValueError, match="not a place"):
        fail("a", ValueError("not a place"))
    fail("b", LookupError())
    assert visits == ["into a", "ValueError in a", "into b", "LookupError in b"]


def test_what_cannot_be_entered_or_left_says_so() -> None:
    visits: list[str] = []

    @asynccontextmanager
    async def broken(where: str) -> AsyncIterator[None]:
        if where == "entrance":
            raise ConnectionError(where)
        yield
        raise ConnectionError(where)

    loop = Loop()
    loop.enter(Place(visits, "a"))
    loop.enter(broken("exit"))
    with pytest.raises(ConnectionError, match="entrance"):
        loop.enter(broken("entrance"))
    with pytest.raises(ConnectionError, match="exit"):
        loop.close()
    assert visits == ["into a", "out of a"], "the others are left all the same"


# Iterators, both ways


class Source:
    """Gives numbers, and holds something as long as it does."""

    def __init__(self) -> None:
        self.open = 0

    async def numbers(self) -> AsyncGenerator[int, None]:
        self.open += 1
        try:
            for number in range(5):
                await asyncio.sleep(0)
                yield number
        finally:
            await asyncio.sleep(0)
            self.open -= 1


def test_an_iterator_frees_what_it_holds_however_it_ends(loop: Loop) -> None:
    source = Source()
    assert list(loop.iterate(source.numbers())) == [0, 1, 2, 3, 4]
    for _ in loop.iterate(source.numbers()):
        break
    assert source.open == 0
    left = loop.iterate(source.numbers())
    next(left)
    assert source.open == 1
    left.close()
    assert source.open == 0


def test_an_iterator_that_is_left_open_frees_what_it_holds_before_what_it_came_from_is_left() -> None:
    source = Source()

    @asynccontextmanager
    async def home() -> AsyncIterator[None]:
        yield
        assert source.open == 0

    with Loop() as loop:
        loop.enter(home())
        left = loop.iterate(source.numbers())
        assert next(left) == 0
    with pytest.raises(RuntimeError, match="has been closed"):
        next(left)


def test_garbage_may_be_collected_by_the_loop_itself(loop: Loop) -> None:
    source = Source()
    held: list[object] = [loop.iterate(source.numbers())]
    next(held[0])  # type: ignore[call-overload] # it is an iterator
    held.append(held)
    del held
    loop.call(gc.collect)
    wait_until(lambda: source.open == 0, "the loop has freed it")


def test_what_is_given_is_read_by_the_thread_that_calls(loop: Loop) -> None:
    threads = set()

    def numbers() -> Iterator[int]:
        for number in range(1_000):
            threads.add(threading.current_thread())
            yield number

    async def total(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    assert loop.run(total, given(numbers(), lambda _: 256)) == 499_500
    assert threads == {threading.current_thread()}


def test_what_goes_wrong_with_what_is_given_is_raised_after_what_came_before(loop: Loop) -> None:
    read = set()

    def torn() -> Iterator[int]:
        yield from range(3)
        raise ConnectionError("torn")

    async def taken(items: AsyncIterator[int]) -> None:
        async for item in items:
            read.add(item)

    with pytest.raises(ConnectionError, match="torn"):
        loop.run(taken, given(torn(), lambda _: 1))
    assert read == {0, 1, 2}


def test_the_time_that_the_host_takes_is_its_own(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0

    def slow() -> Iterator[int]:
        nonlocal passed
        passed += 1_000
        yield 1

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))

    async def first(items: AsyncIterator[int]) -> int:
        return await anext(items)

    with loop.within(100):
        assert loop.run(first, given(slow(), lambda _: 1)) == 1
