"""Merging by itself: who is answered by what, in which order, and who else is harmed by a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from watchly_core.errors import Unavailable
from watchly_core.merging import AT_ONCE, MOST, Merging
from watchly_core.traces import current_trace, traced_by

pytestmark = pytest.mark.anyio

DEADLINE = 60.0
PATIENCE = 30.0


class Clerk:
    """Answers each number by itself, when it is let to; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.traces: list[str | None] = []
        self.cancelled = 0
        self.free = asyncio.Event()
        #: Whether it ends at once when it is cancelled.
        self.leaves = asyncio.Event()
        self.leaves.set()
        self.fault: Exception | None = None

    async def answer(self, numbers: Sequence[int]) -> Sequence[int | Exception]:
        self.asked.append(list(numbers))
        self.traces.append(current_trace())
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.leaves.wait()
            raise
        if self.fault is not None:
            raise self.fault
        return [ArithmeticError(str(number)) if number < 0 else number for number in numbers]


@pytest.fixture
def clerk() -> Clerk:
    return Clerk()


@pytest.fixture
async def merging(clerk: Clerk) -> AsyncIterator[Merging[int, int]]:
    merging = Merging(clerk.answer, lambda number: max(1, number // 100), max_waiting=900, patience=PATIENCE)
    yield merging
    await merging.close()


async def settled() -> None:
    """Let everything go as far as it gets by itself."""
    for _ in range(10):
        await asyncio.sleep(0)


async def asking(merging: Merging[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(merging.ask(number)) for number in numbers]
    await settled()
    return tasks


async def occupied(merging: Merging[int, int]) -> list[asyncio.Task[int]]:
    """Callers that are alone, as many as are asked for at once."""
    return await asking(merging, *range(1_000, 1_000 + AT_ONCE))


async def all_of(tasks: Sequence[asyncio.Task[int]]) -> list[int | BaseException]:
    async with asyncio.timeout(DEADLINE):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_is_alone_is_asked_for_at_once_and_in_no_other_task(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    clerk.free.set()
    before = asyncio.all_tasks()
    asked = merging.ask(7).__await__()
    with pytest.raises(StopIteration) as ended:
        next(asked)
    assert ended.value.value == 7
    assert asyncio.all_tasks() == before


async def test_who_comes_meanwhile_is_answered_together_in_their_order(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    first = await occupied(merging)
    later = await asking(merging, *range(20))
    assert clerk.asked == [[1_000 + number] for number in range(AT_ONCE)]
    clerk.free.set()
    assert await all_of(later) == list(range(20))
    assert clerk.asked[AT_ONCE:] == [list(range(20))]
    assert await all_of(first) == [1_000 + number for number in range(AT_ONCE)]


async def test_under_load_callers_of_the_same_moment_go_together(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    await occupied(merging)
    await asking(merging, 1, 2)
    clerk.free.set()
    await settled()
    clerk.asked.clear()
    assert await all_of(await asking(merging, 3, 4, 5)) == [3, 4, 5]
    assert clerk.asked == [[3, 4, 5]]


async def test_nobody_is_overtaken_and_a_batch_weighs_no_more_than_it_may(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    await occupied(merging)
    numbers = [number if number % 7 else 5_000 + number for number in range(1, 301)]
    tasks = await asking(merging, *numbers, 99_999_900, 1)
    clerk.free.set()
    assert await all_of(tasks) == [*numbers, 99_999_900, 1]
    batches = clerk.asked[AT_ONCE:]
    assert [number for batch in batches for number in batch] == [*numbers, 99_999_900, 1]
    assert [99_999_900] in batches
    assert all(sum(max(1, number // 100) for number in batch) <= MOST for batch in batches if len(batch) > 1)
    assert len(batches) < 20


async def test_no_more_are_asked_for_at_once_than_may_be(clerk: Clerk, merging: Merging[int, int]) -> None:
    tasks = await asking(merging, *range(800))
    assert len(clerk.asked) == AT_ONCE
    clerk.free.set()
    assert await all_of(tasks) == list(range(800))


async def test_who_is_one_too_many_is_turned_away_at_once(clerk: Clerk, merging: Merging[int, int]) -> None:
    tasks = await asking(merging, *range(900))
    with pytest.raises(Unavailable):
        await merging.ask(1)
    clerk.free.set()
    assert await all_of(tasks) == list(range(900))


async def test_who_waits_for_too_long_is_turned_away_and_the_others_are_not(clerk: Clerk) -> None:
    merging = Merging(clerk.answer, lambda _: 1, max_waiting=900, patience=0.05)
    first = await occupied(merging)
    early = await asking(merging, 1, 2)
    assert [type(error) for error in await all_of(early)] == [Unavailable, Unavailable]
    assert not any(task.done() for task in first)
    late = await asking(merging, 3)
    clerk.free.set()
    assert await all_of(late) == [3]
    assert await all_of(first) == [1_000 + number for number in range(AT_ONCE)]


# Company


def companionable(clerk: Clerk, company: float = DEADLINE) -> Merging[int, int]:
    return Merging(clerk.answer, lambda _: 1, max_waiting=900, patience=2 * DEADLINE, company=company)


async def answered_together(clerk: Clerk, merging: Merging[int, int]) -> None:
    """Have the last batch be one of three callers."""
    first = await occupied(merging)
    tasks = await asking(merging, 1, 2, 3)
    clerk.free.set()
    await all_of([*first, *tasks])
    assert clerk.asked[AT_ONCE:] == [[1, 2, 3]]
    clerk.asked.clear()


async def test_a_batch_waits_for_as_many_as_the_last_one_had(clerk: Clerk) -> None:
    merging = companionable(clerk)
    await answered_together(clerk, merging)
    early = await asking(merging, 4, 5)
    assert not clerk.asked
    assert await all_of([*early, *await asking(merging, 6)]) == [4, 5, 6]
    assert clerk.asked == [[4, 5, 6]]


async def test_company_that_does_not_come_is_not_waited_for_long_nor_again(clerk: Clerk) -> None:
    merging = companionable(clerk, 0.02)
    await answered_together(clerk, merging)
    assert await all_of(await asking(merging, 4)) == [4]
    asked = merging.ask(5).__await__()
    with pytest.raises(StopIteration):  # at once, without giving way
        next(asked)
    assert clerk.asked == [[4], [5]]


async def test_who_comes_after_a_pause_waits_for_no_company(clerk: Clerk) -> None:
    merging = companionable(clerk, 0.02)
    await answered_together(clerk, merging)
    pause_ends = asyncio.Event()
    asyncio.get_running_loop().call_later(0.021, pause_ends.set)
    await pause_ends.wait()
    (task,) = await asking(merging, 4)
    assert task.result() == 4


async def test_who_waits_for_company_may_leave(clerk: Clerk) -> None:
    merging = companionable(clerk)
    await answered_together(clerk, merging)
    gone, *kept = await asking(merging, 4, 5)
    gone.cancel()
    await settled()
    kept += await asking(merging, 6)
    assert not clerk.asked
    assert await all_of([*kept, *await asking(merging, 7)]) == [5, 6, 7]


async def test_batches_that_wait_for_company_are_under_way_one_at_a_time(clerk: Clerk) -> None:
    merging = companionable(clerk)
    await answered_together(clerk, merging)
    clerk.free.clear()
    first, second = await asking(merging, 4, 5, 6), await asking(merging, 7, 8, 9)
    assert clerk.asked == [[4, 5, 6]]
    clerk.free.set()
    assert await all_of([*first, *second]) == [4, 5, 6, 7, 8, 9]
    assert clerk.asked[1:] == [[7, 8, 9]]


async def test_closing_turns_away_who_waits_for_company(clerk: Clerk) -> None:
    merging = companionable(clerk)
    await answered_together(clerk, merging)
    waiting = await asking(merging, 4)
    await merging.close()
    assert [type(error) for error in await all_of(waiting)] == [Unavailable]


# Leaving


def test_who_waits_on_another_loop_is_turned_away_as_well() -> None:
    async def answer(numbers: Sequence[int]) -> Sequence[int]:
        await asyncio.Event().wait()  # for ever
        return numbers

    merging = Merging(answer, lambda _: 1, max_waiting=900, patience=0.2)

    async def wait(*, leave: bool) -> None:
        first = await occupied(merging)
        (late,) = await asking(merging, 1)
        if leave:
            late.cancel()
        (error,) = await all_of([late])
        assert isinstance(error, asyncio.CancelledError if leave else Unavailable)
        for task in first:
            task.cancel()
        await all_of(first)

    asyncio.run(wait(leave=True))
    asyncio.run(wait(leave=False))


async def test_who_leaves_takes_nobodys_answer_along(clerk: Clerk, merging: Merging[int, int]) -> None:
    first = await occupied(merging)
    waiting = await asking(merging, *range(10))
    waiting[3].cancel()
    first[0].cancel()  # was alone: the next ones begin
    await settled()
    assert clerk.asked[AT_ONCE:] == [[number for number in range(10) if number != 3]]
    for task in (waiting[0], waiting[9]):
        task.cancel()
    await settled()
    clerk.free.set()
    answers = await all_of(waiting)
    left = {number for number, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)}
    assert left == {0, 3, 9}
    assert [answer for number, answer in enumerate(answers) if number not in left] == [1, 2, 4, 5, 6, 7, 8]


async def test_a_batch_that_nobody_waits_for_any_more_is_cancelled(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    first = await occupied(merging)
    waiting = await asking(merging, 1, 2)
    first[0].cancel()
    await settled()
    for task in waiting:
        task.cancel()
    await settled()
    assert clerk.cancelled == 2
    last = await asking(merging, 3)
    assert clerk.asked[-1] == [3]  # in their place
    clerk.free.set()
    assert await all_of(last) == [3]


async def test_a_batch_that_is_cancelled_may_end_in_good_order(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    first = await occupied(merging)
    batch = await asking(merging, 1, 2)
    first[0].cancel()
    await settled()
    clerk.leaves.clear()
    for turns in (batch, await asking(merging, 3)):
        for task in turns:
            task.cancel()
        await settled()
    last = await asking(merging, 4)
    asked = list(clerk.asked)
    clerk.leaves.set()
    clerk.free.set()
    assert await all_of(last) == [4]
    assert asked[-1] == [1, 2]  # it was still at it


async def test_whoever_left_does_not_count_among_those_who_wait(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    await occupied(merging)
    for _ in range(3):
        for task in await asking(merging, *range(800)):
            task.cancel()
        await settled()
    tasks = await asking(merging, 1)
    clerk.free.set()
    assert await all_of(tasks) == [1]
    assert clerk.asked[AT_ONCE:] == [[1]]


# Failing


async def test_an_error_is_raised_to_who_asked_for_it(clerk: Clerk, merging: Merging[int, int]) -> None:
    await occupied(merging)
    tasks = await asking(merging, 1, -2, 3)
    clerk.free.set()
    one, two, three = await all_of(tasks)
    assert (one, three) == (1, 3)
    assert isinstance(two, ArithmeticError)
    with pytest.raises(ArithmeticError):
        await merging.ask(-4)


async def test_the_error_of_a_batch_is_raised_to_all_of_it_each_with_its_own(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    tasks = await asking(merging, *range(AT_ONCE + 3))
    clerk.fault = Unavailable("database", "gone", retry_after=3)
    clerk.fault.__cause__ = cause = OSError("gone")
    clerk.free.set()
    errors = await all_of(tasks[AT_ONCE:])
    assert len(set(map(id, errors))) == 3
    for error in errors:
        assert isinstance(error, Unavailable)
        assert (str(error), error.retry_after, error.__cause__) == ("database: gone", 3, cause)
    await all_of(tasks)
    clerk.fault = None
    assert await merging.ask(5) == 5


async def test_a_batch_is_of_what_its_first_caller_does_whatever_came_before(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    tasks = await occupied(merging)
    large = range(100 * MOST, 100 * MOST + 4)  # each is a batch of its own
    traces = [f"00-{number:032x}-{number:016x}-01" for number in large]
    for number, trace in zip(large, traces, strict=True):
        with traced_by(trace):
            tasks += await asking(merging, number)
    clerk.free.set()
    await all_of(tasks)

    assert clerk.asked[AT_ONCE:] == [[number] for number in large]
    assert clerk.traces[AT_ONCE:] == traces


# Closing


async def test_closing_leaves_nothing_behind_and_nobody_waiting(
    clerk: Clerk, merging: Merging[int, int]
) -> None:
    before = asyncio.all_tasks()
    first = await occupied(merging)
    under_way = await asking(merging, 1, 2)
    first[0].cancel()
    await settled()
    waiting = await asking(merging, 3, 4)
    await merging.close()
    assert [type(error) for error in await all_of([*under_way, *waiting])] == [Unavailable] * 4
    clerk.free.set()
    await all_of(first)
    assert asyncio.all_tasks() == before
