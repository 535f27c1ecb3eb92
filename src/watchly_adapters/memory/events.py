"""The log in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from watchly_adapters.partial import Turn
from watchly_core.errors import ChangesGone, VersionConflict
from watchly_core.events import Change, ChangeQuery, Changes, Event
from watchly_core.signals import Signal


class Log:
    """What is committed, numbered as it is.

    Args:
        signal: told of new ones.

    Attributes:
        last: the last number that was given.
    """

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self.last: int = 0
        self._horizon = 0
        self._changes: dict[int, Change] = {}
        self._movies: dict[int, list[Change]] = {}

    def commit(self, appended: Sequence[Event], pruned: Sequence[Change]) -> None:
        """Take in what a transaction has done."""
        for event in appended:
            self.last += 1
            self._changes[self.last] = change = Change(self.last, event)
            self._movies.setdefault(event.movie_id, []).append(change)
        for change in pruned:
            del self._changes[change.seq]
            self._movies[change.event.movie_id].remove(change)
            self._horizon = max(self._horizon, change.seq)
        if appended:
            self._signal.tell()

    def of_movie(self, movie_id: int) -> Sequence[Change]:
        """The changes of one movie, oldest first."""
        return self._movies.get(movie_id, ())

    def prunable(self, before: datetime) -> Iterator[Change]:
        """What was noted before that time, but for the newest of each movie; oldest first."""
        for change in self._changes.values():
            if change.event.at < before and change is not self._movies[change.event.movie_id][-1]:
                yield change

    def read(self, query: ChangeQuery) -> Changes:
        """See `ports.MovieQueries.changes`."""
        if query.after < self._horizon:
            raise ChangesGone(self._horizon)
        numbers = range(query.after + 1, self.last + 1)
        found: list[Change] = []
        for number in numbers:
            change = self._changes.get(number)
            if change is not None and query.admits(change.event):
                found.append(change)
                if len(found) == query.limit:
                    return Changes(tuple(found), number)
        return Changes(tuple(found), max(query.after, self.last))


class MemoryEvents:
    """Satisfies `ports.EventLog`.

    Args:
        log: what is committed.
        turn: awaits the turn of the transaction among all of them.
    """

    def __init__(self, log: Log, turn: Turn) -> None:
        self._log, self._turn = log, turn
        self.appended: list[Event] = []
        self._taken: dict[int, set[int]] = {}
        self.pruned: list[Change] = []

    async def append(self, *events: Event) -> None:
        """See the port."""
        await self._turn()
        for event in events:
            committed = self._log.of_movie(event.movie_id)
            taken = {change.event.version for change in committed} | self._taken.get(event.movie_id, set())
            if event.version in taken:
                raise VersionConflict(event.movie_id, event.version - 1, event.version)
            self._taken.setdefault(event.movie_id, set()).add(event.version)
            self.appended.append(event)

    async def get(self, movie_id: int, version: int) -> Event | None:
        """See the port."""
        await self._turn()
        return next((event for event in self._of_movie(movie_id) if event.version == version), None)

    async def newest(self, movie_id: int) -> Event | None:
        """See the port."""
        await self._turn()
        return next(iter(self._of_movie(movie_id)[::-1]), None)

    async def prune(self, before: datetime, limit: int) -> int:
        """See the port."""
        await self._turn()
        pruned = [change for change in self._log.prunable(before) if change not in self.pruned][:limit]
        self.pruned += pruned
        return len(pruned)

    def _of_movie(self, movie_id: int) -> list[Event]:
        kept = [change.event for change in self._log.of_movie(movie_id) if change not in self.pruned]
        return kept + [event for event in self.appended if event.movie_id == movie_id]
