"""Following the log of changes, so that it is known of any answer whether it is still good.

An answer remembers the number up to which the log had been read when the read that gave it began: it tells
of every change up to there. It is good for as long as no change with a larger number concerns it. Which
process has read it, and where it was kept since, does not matter.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from watchly_core.errors import ChangesGone
from watchly_core.events import ChangeQuery
from watchly_core.ports import ChangeSignal, MovieQueries, Ticks
from watchly_core.signals import Signal
from watchly_core.tasks import cancelled

__all__ = ["Follower"]

#: Seconds for which it is believed that there is nothing new, once the end of the log was read.
TRUSTED: Final = 2.0
#: Seconds after which the end of the log is looked for without a notification: some get lost, and silence has
#: to be confirmed. It is also looked whether this is the same log still, however many notifications come.
_LOOK: Final = 1.0
#: Seconds for one reading, and before the next one where it failed.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.5

#: Changes that are read at once: nothing else goes on in the process while their rows become events.
_PAGE: Final = 250
#: Changes before the end of the log that a new follower reads as well: for answers that others have kept.
_LOOK_BACK: Final = 1_000
#: Movies whose last change is remembered.
_MOST: Final = 10_000


class Follower:
    """How far one process has read the log, and which movies have changed lately.

    Args:
        queries: read the log, and know of every write.
        signal: tells of new changes.
        identify: names the catalogue; it has another name when it is put back to what it once was.
        ticks: the time that passes.
        most: movies whose last change is remembered.

    Attributes:
        seq: the log was read up to this number.
        confirmed: when a reading began that came to the end of the log.
        catalogue: the name of the catalogue; empty before it is known.
        told: tells each time that the end was reached.
        on_restart: called when nothing is known any more.
    """

    def __init__(
        self,
        queries: MovieQueries,
        signal: ChangeSignal,
        identify: Callable[[], Awaitable[str]],
        *,
        ticks: Ticks = time.monotonic,
        most: int = _MOST,
    ) -> None:
        self.seq: int = 0
        self.confirmed: float = -math.inf
        self.catalogue: str = ""
        self.told: Signal = Signal()
        self.on_restart: Callable[[], None] = lambda: None
        self._queries, self._signal, self._identify = queries, signal, identify
        self._ticks, self._most = ticks, most
        #: Of what came up to this number, not all is known.
        self._floor = 0
        #: The numbers of the last changes of movies, in their order.
        self._changed: OrderedDict[int, int] = OrderedDict()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            await cancelled(task)
            self.confirmed = -math.inf

    def is_current(self, now: float) -> bool:
        """Whether the end of the log was read lately."""
        return now - self.confirmed < TRUSTED

    def holds(self, as_of: int, movie_id: int | None) -> bool:
        """Whether what was read as of this number is still so, of a movie, or of all where it is None."""
        if movie_id is None:
            return as_of >= self.seq
        return as_of >= self._floor and self._changed.get(movie_id, 0) <= as_of

    async def _run(self) -> None:
        while True:
            # Whatever it is that fails, nothing is confirmed meanwhile, and readers ask the database.
            with suppress(Exception):
                while True:
                    await self._look()
            await asyncio.sleep(_PAUSE)

    async def _look(self) -> None:
        """Read to the end of the log, and on with each notification until it is time for another look."""
        now = asyncio.get_running_loop().time
        until = now() + _LOOK
        seen, began = self._signal.count, self._ticks()
        async with asyncio.timeout(_PATIENCE):
            last = await self._recognise()
        if last == self.seq:
            self._confirm(began)
        else:
            await self._catch_up()
        while now() < until:
            try:
                async with asyncio.timeout_at(until):
                    await self._signal.beyond(seen)
            except TimeoutError:
                return
            seen = self._signal.count
            await self._catch_up()

    async def _recognise(self) -> int:
        """Begin anew if it is another log than it was; the last number of what it is."""
        catalogue, last = await self._identify(), await self._queries.last_change()
        if catalogue != self.catalogue or last < self.seq:
            self._restart(catalogue, max(0, last - _LOOK_BACK))
        return last

    def _restart(self, catalogue: str, after: int) -> None:
        self.confirmed = -math.inf
        self.catalogue = catalogue
        self.seq = self._floor = after
        self._changed.clear()
        self.on_restart()

    async def _catch_up(self) -> None:
        while True:
            began = self._ticks()
            try:
                async with asyncio.timeout(_PATIENCE):
                    found = await self._queries.changes(ChangeQuery(after=self.seq, limit=_PAGE))
            except ChangesGone as gone:
                self._restart(self.catalogue, gone.horizon)
                continue
            for change in found.data:
                self._note(change.event.movie_id, change.seq)
            self.seq = found.next_after
            if len(found.data) < _PAGE:
                self._confirm(began)
                return

    def _confirm(self, began: float) -> None:
        """Vouch for the moment at which a reading began that came to the end of the log."""
        self.confirmed = began
        self.told.tell()

    def _note(self, movie_id: int, seq: int) -> None:
        self._changed[movie_id] = seq
        self._changed.move_to_end(movie_id)
        if len(self._changed) > self._most:
            _, self._floor = self._changed.popitem(last=False)
