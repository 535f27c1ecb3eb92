"""Answering many callers at once: who comes while an answer is on its way waits for the next one.

Nobody waits for company: a caller that is alone asks at once. Under load the callers of a moment gather
behind those of the moment before, and cost one question together. What each of them is told was asked
after it had come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

from watchly_core.errors import Unavailable, alike
from watchly_core.tasks import cancelled

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

#: Batches that are under way at once.
AT_ONCE: Final = 2
#: What the questions of a batch weigh at most, unless it is a single one.
MOST: Final = 512


class Merging(Generic[Asked, Answer]):
    """Puts the questions of callers together, first come, first served.

    A caller that leaves takes nobody's answer with it; once all callers of a batch have left, it is
    cancelled.

    Args:
        answer: answers questions, in their order; an answer that is an error is raised to who asked.
            What `answer` itself raises is raised to all of them.
        weight: what a question weighs.
        max_waiting: callers that may wait at once.
        patience: seconds that a caller waits for its turn.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]],
        weight: Callable[[Asked], int],
        *,
        max_waiting: int,
        patience: float,
    ) -> None:
        self._answer, self._weight = answer, weight
        self._max_waiting, self._patience = max_waiting, patience
        #: What is asked, and since when, by who waits for a turn.
        self._waiting: dict[asyncio.Future[Answer], tuple[Asked, float]] = {}
        #: Who waits for the answers that are under way.
        self._batches: dict[asyncio.Task[None], Sequence[asyncio.Future[Answer]]] = {}
        self._under_way = 0
        self._gathers = False
        self._alarm: asyncio.TimerHandle | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer to a question, which is put after this was called.

        Raises:
            Unavailable: too many wait, or the turn of this one did not come in time.
        """
        if self._gathers or self._waiting or self._under_way >= AT_ONCE:
            return await self._wait(asked)
        self._under_way += 1
        try:
            (answer,) = await self._answer([asked])
        finally:
            self._under_way -= 1
            self._go_on()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Cancel what is under way, and turn away who waits."""
        for turn in self._waiting:
            _fail(turn, _ended())
        self._waiting.clear()
        self._look_no_more()
        await cancelled(*self._batches)

    async def _wait(self, asked: Asked) -> Answer:
        if len(self._waiting) + self._under_way >= self._max_waiting:
            raise Unavailable("database", "too many wait for their turn")
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Answer] = loop.create_future()
        self._waiting[turn] = asked, loop.time()
        if self._alarm is None:
            self._alarm = loop.call_later(self._patience, self._turn_away)
        if self._under_way < AT_ONCE and len(self._waiting) == 1:
            # After what is ready to run at this moment, which may ask as well.
            loop.call_soon(self._go_on)
        try:
            return await turn
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            self._look_no_more()
            for batch, turns in self._batches.items():
                # Once: it may take a while to end in good order, and would be cut off there.
                if not batch.cancelling() and all(turn.done() for turn in turns):
                    batch.cancel()
            raise

    def _go_on(self) -> None:
        """Begin the batches that may begin."""
        while self._waiting and self._under_way < AT_ONCE:
            batch = self._next()
            self._gathers = len(batch) > 1
            self._under_way += 1
            turns = list(batch)
            task = asyncio.create_task(self._run(turns, list(batch.values())))
            self._batches[task] = turns
            task.add_done_callback(partial(self._done, turns))

    def _next(self) -> dict[asyncio.Future[Answer], Asked]:
        """Those whose turn it is, and what they ask."""
        batch: dict[asyncio.Future[Answer], Asked] = {}
        room = MOST
        for turn, (asked, _) in self._waiting.items():
            room -= self._weight(asked)
            if batch and room < 0:
                break
            batch[turn] = asked
        for turn in batch:
            del self._waiting[turn]
        self._look_no_more()
        return batch

    async def _run(self, turns: Sequence[asyncio.Future[Answer]], asked: Sequence[Asked]) -> None:
        try:
            answers = await self._answer(asked)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised to those who asked
            for turn in turns:
                _fail(turn, alike(error))
            return
        for turn, answer in zip(turns, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(turn, answer)
            elif not turn.done():
                turn.set_result(answer)

    def _done(self, turns: Sequence[asyncio.Future[Answer]], batch: asyncio.Task[None]) -> None:
        del self._batches[batch]
        for turn in turns:
            if not turn.done():  # the batch was cancelled
                turn.set_exception(_ended())
        self._under_way -= 1
        self._go_on()

    def _turn_away(self) -> None:
        """Turn away who has waited for too long, and look again when the next one will have."""
        self._alarm = None
        loop = asyncio.get_running_loop()
        for turn, (_, since) in list(self._waiting.items()):
            if since + self._patience > loop.time():
                self._alarm = loop.call_at(since + self._patience, self._turn_away)
                return
            del self._waiting[turn]
            _fail(turn, Unavailable("database", "the turn of a request did not come in time"))

    def _look_no_more(self) -> None:
        """Once nobody waits, need nothing of this loop: the next one to wait may be on another."""
        if self._alarm is not None and not self._waiting:
            self._alarm.cancel()
            self._alarm = None


def _fail(turn: asyncio.Future[Answer], error: Exception) -> None:
    if not turn.done():
        turn.set_exception(error)


def _ended() -> Unavailable:
    return Unavailable("database", "nothing is begun any more")
