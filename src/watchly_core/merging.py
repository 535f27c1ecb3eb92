"""Answering many callers at once: who comes while an answer is on its way waits for the next one.

A caller that is alone asks at once and waits for no company. Under load the callers of a moment gather behind
those of the moment before, and cost one question together. What each of them is told was asked after it had
come. A question of several goes on in the context of the first of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
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
        company: seconds after the answers to several callers for which the next batch waits until as many
            have come again; such batches are under way one at a time. For questions that cost far more than
            that, and less together: without it those who come back first would go alone, and all others
            after them.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]],
        weight: Callable[[Asked], int],
        *,
        max_waiting: int,
        patience: float,
        company: float = 0.0,
    ) -> None:
        self._answer, self._weight, self._company = answer, weight, company
        self._max_waiting, self._patience = max_waiting, patience
        #: What is asked, since when, and in the course of what, by who waits for a turn.
        self._waiting: dict[asyncio.Future[Answer], tuple[Asked, float, Context]] = {}
        #: Who waits for the answers that are under way.
        self._batches: dict[asyncio.Task[None], Sequence[asyncio.Future[Answer]]] = {}
        self._under_way = 0
        #: How many the last batch was for.
        self._last = 1
        #: When the last answers came.
        self._answered_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._bell: asyncio.TimerHandle | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer to a question, which is put after this was called.

        Raises:
            Unavailable: too many wait, or the turn of this one did not come in time.
        """
        if self._last > 1 or self._waiting or self._under_way >= AT_ONCE:
            return await self._wait(asked)
        self._under_way += 1
        try:
            (answer,) = await self._answer([asked])
        finally:
            self._under_way -= 1
            self._go_on()
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                # The error holds this frame: each would keep the other, and all that was asked.
                del answer
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
        self._waiting[turn] = asked, loop.time(), copy_context()
        if self._alarm is None:
            self._alarm = loop.call_later(self._patience, self._turn_away)
        if self._under_way < self._at_once and (len(self._waiting) == 1 or self._is_complete):
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
        finally:
            del turn  # as above

    @property
    def _at_once(self) -> int:
        """Batches that may be under way at present."""
        return 1 if self._company and self._last > 1 else AT_ONCE

    @property
    def _is_complete(self) -> bool:
        """Whether as many wait as the last batch was for, or nobody waits for them any more."""
        return len(self._waiting) >= self._last or self._company_left <= 0

    @property
    def _company_left(self) -> float:
        """Seconds for which company is waited for."""
        return self._answered_at + self._company - asyncio.get_running_loop().time()

    def _go_on(self) -> None:
        """Begin the batches that may begin, or see to it that they will."""
        if self._waiting and not self._is_complete and self._under_way < self._at_once:
            if self._bell is None:
                self._bell = asyncio.get_running_loop().call_later(self._company_left, self._begin)
            return
        self._begin()

    def _begin(self) -> None:
        """Begin the batches that may begin."""
        if self._bell is not None:
            self._bell.cancel()
            self._bell = None
        while self._waiting and self._under_way < self._at_once:
            batch = self._next()
            self._last = len(batch)
            self._under_way += 1
            turns = list(batch)
            # In the course of what its first caller does, or it would be of whatever the batch before was.
            _, _, context = next(iter(batch.values()))
            asked = [asked for asked, _, _ in batch.values()]
            task = asyncio.create_task(self._run(turns, asked), context=context)
            self._batches[task] = turns
            task.add_done_callback(partial(self._done, turns))

    def _next(self) -> dict[asyncio.Future[Answer], tuple[Asked, float, Context]]:
        """Those whose turn it is, as they wait."""
        batch: dict[asyncio.Future[Answer], tuple[Asked, float, Context]] = {}
        room = MOST
        for turn, waiting in self._waiting.items():
            room -= self._weight(waiting[0])
            if batch and room < 0:
                break
            batch[turn] = waiting
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
        self._answered_at = asyncio.get_running_loop().time()
        self._go_on()

    def _turn_away(self) -> None:
        """Turn away who has waited for too long, and look again when the next one will have."""
        self._alarm = None
        loop = asyncio.get_running_loop()
        for turn, (_, since, _) in list(self._waiting.items()):
            if since + self._patience > loop.time():
                self._alarm = loop.call_at(since + self._patience, self._turn_away)
                return
            del self._waiting[turn]
            _fail(turn, Unavailable("database", "the turn of a request did not come in time"))

    def _look_no_more(self) -> None:
        """Once nobody waits, need nothing of this loop: the next one to wait may be on another."""
        if self._waiting:
            return
        for timer in (self._alarm, self._bell):
            if timer is not None:
                timer.cancel()
        self._alarm = self._bell = None


def _fail(turn: asyncio.Future[Answer], error: Exception) -> None:
    if not turn.done():
        turn.set_exception(error)


def _ended() -> Unavailable:
    return Unavailable("database", "nothing is begun any more")
