"""A breaker opens after failures in a row, passes one call after its pause, and judges by how that ends."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from watchly_adapters.breakers import Breaker
from watchly_core.errors import ImageUnreadable, Misconfigured, Unavailable


class Seconds:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def breaker(clock: Seconds) -> Breaker:
    return Breaker("store", failures=3, pause=30.0, clock=clock)


def end(error: BaseException | None) -> None:
    if error is not None:
        raise error


def call(breaker: Breaker, error: BaseException | None = None) -> BaseException | None:
    """How a call ends that ends so; calls that do not pass end by an error of the breaker's own."""
    try:
        with breaker:
            end(error)
    except BaseException as raised:  # noqa: BLE001 - cancellation is among them
        return raised
    return None


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        error = Unavailable("store", "down")
        assert call(breaker, error) is error


def refused(breaker: Breaker) -> int | None:
    """What the breaker says without letting a call pass: after how many seconds to come back."""
    if not breaker.interrupted:
        breaker.require()
        return None
    with pytest.raises(Unavailable) as raised:
        breaker.require()
    assert raised.value.dependency == "store"
    return raised.value.retry_after


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert refused(breaker) is None
    fail(breaker, 1)
    assert refused(breaker) == 30


def test_an_open_one_lets_nothing_pass(breaker: Breaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 12.5
    passed = []
    with pytest.raises(Unavailable) as raised, breaker:
        passed.append(1)
    assert passed == []
    assert raised.value.retry_after == 18


@pytest.mark.parametrize("answer", [None, ImageUnreadable("no image"), Misconfigured("no such account")])
def test_an_answer_of_any_kind_ends_the_row(breaker: Breaker, answer: Exception | None) -> None:
    fail(breaker, 2)
    assert call(breaker, answer) is answer
    fail(breaker, 2)
    assert refused(breaker) is None


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("a mistake"), KeyboardInterrupt()])
def test_what_says_nothing_changes_nothing(breaker: Breaker, error: BaseException) -> None:
    fail(breaker, 2)
    assert call(breaker, error) is error
    fail(breaker, 1)
    assert refused(breaker) == 30


def test_after_the_pause_one_call_tries_it_out_and_closes_it(breaker: Breaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert refused(breaker) is None
    with breaker:
        assert refused(breaker) == 30
        assert isinstance(call(breaker), Unavailable)
    assert refused(breaker) is None
    fail(breaker, 2)
    assert refused(breaker) is None


def test_a_failed_trial_opens_it_again(breaker: Breaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 31
    fail(breaker, 1)
    assert refused(breaker) == 30
    clock.now += 29
    assert refused(breaker) == 1
    clock.now += 1
    assert call(breaker) is None
    assert refused(breaker) is None


def test_a_trial_that_is_cancelled_or_never_ends_is_followed_by_another(
    breaker: Breaker, clock: Seconds
) -> None:
    fail(breaker, 3)
    clock.now += 30
    call(breaker, asyncio.CancelledError())
    assert refused(breaker) == 30
    clock.now += 30
    with breaker:
        clock.now += 30
        assert call(breaker) is None
    assert refused(breaker) is None


@pytest.mark.parametrize("error", [None, Unavailable("store", "down")])
def test_calls_under_way_when_it_opens_are_judged_as_well(breaker: Breaker, error: Exception | None) -> None:
    def under_way() -> None:
        with breaker:
            fail(breaker, 3)
            assert breaker.interrupted
            end(error)

    if error is None:
        under_way()
        assert refused(breaker) is None
    else:
        with pytest.raises(Unavailable):
            under_way()
        assert refused(breaker) == 30


def test_of_many_threads_one_tries_it_out(breaker: Breaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 30
    together, others_failed = threading.Barrier(16), threading.Semaphore(0)

    def one() -> bool:
        together.wait(10)
        try:
            with breaker:
                # Ends when all others were refused, so that none of them can come after it.
                return all(others_failed.acquire(timeout=10) for _ in range(15))
        except Unavailable:
            others_failed.release()
            return False

    with ThreadPoolExecutor(16) as threads:
        assert sorted(threads.map(lambda _: one(), range(16))) == [False] * 15 + [True]


def test_many_threads_that_fail_are_all_counted() -> None:
    breaker = Breaker("store", failures=200, pause=30.0)
    together = threading.Barrier(8)

    def some(times: int) -> Callable[[], None]:
        def fails() -> None:
            together.wait(10)
            fail(breaker, times)

        return fails

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(some(24)) for _ in range(8)]:
            done.result()
    assert not breaker.interrupted
    fail(breaker, 8)
    assert breaker.interrupted
