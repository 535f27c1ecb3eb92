"""Writes: movies that many callers add or revise at once, in one transaction for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import Unavailable, Undone, WatchlyError
from watchly_core.events import MovieAdded, MovieRevised
from watchly_core.merging import Merging
from watchly_core.movies import next_time
from watchly_core.ports import JoinedTransactions
from watchly_core.traces import current_trace

if TYPE_CHECKING:
    from datetime import datetime

    from watchly_core.events import Event
    from watchly_core.movies import Movie, MovieDraft
    from watchly_core.people import Actor
    from watchly_core.ports import Clock, Transaction, Transactions

#: Callers that may wait for their transaction to begin, and for how many seconds each.
_MOST_WAITING: Final = 1_000
_PATIENCE: Final = 5.0

#: Seconds; under load a transaction takes longer.
_COMPANY: Final = 0.005

#: What a write weighs: a transaction is for some eighty at most, which are made ready without a pause.
_WEIGHT: Final = 6

#: What a movie becomes at this time, or the same one if nothing changes; raises why it may not.
Revise: TypeAlias = "Callable[[Movie, datetime], Movie]"


class _Addition(NamedTuple):
    draft: MovieDraft
    actor: Actor
    trace: str | None


class _Revision(NamedTuple):
    movie_id: int
    revise: Revise
    actor: Actor
    trace: str | None


_Asked: TypeAlias = "_Addition | _Revision"


class _Apart(Exception):
    """A write has to be done by itself, for it may have to wait for somebody, or be refused."""


class _Refused(WatchlyError):
    """Nothing of a transaction is to be kept."""


def added(movie: Movie, actor: Actor, trace: str | None) -> MovieAdded:
    """The event of a movie that was just added."""
    # `add` has just set created_at; the fallback is for the type alone.
    return MovieAdded(movie.id, movie.version, movie.created_at or utc_now(), actor.name, movie, trace)


class Writes:
    """Adds and revises movies: who comes while others are at it waits for the next transaction.

    A commit costs more than what it commits, and so do the ways to a server and back. Whoever would have to
    wait for a lock, or is refused by the store, is written apart, so that nobody else has to do with that. In
    a host's transaction everything is.

    Args:
        transactions: the write side of the store.
        clock: the present time.
    """

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions, self._clock = transactions, clock
        # Those of a host are no company: each write of a part is refused, or not, for itself.
        self._joined = isinstance(transactions, JoinedTransactions)
        self._merging: Merging[_Asked, Movie] = Merging(
            self._together,
            lambda _: _WEIGHT,
            max_waiting=_MOST_WAITING,
            patience=_PATIENCE,
            company=_COMPANY,
        )

    async def add(self, draft: MovieDraft, actor: Actor) -> Movie:
        """Store a movie with its event; it is committed when this returns.

        Raises:
            Unavailable: too many wait, or the store does not answer.
        """
        # Taken here, for a transaction of many is that of who began it.
        return await self._write(_Addition(draft, actor, current_trace()))

    async def revise(self, movie_id: int, revise: Revise, actor: Actor) -> Movie:
        """Store what a movie becomes, with its event; it is committed when this returns.

        Raises:
            MovieNotFound: there is no such movie.
            WatchlyError: what `revise` raises; it may be asked more than once.
            Unavailable: too many wait, or the store does not answer.
        """
        return await self._write(_Revision(movie_id, revise, actor, current_trace()))

    async def _write(self, asked: _Asked) -> Movie:
        if not self._joined:
            with suppress(_Apart):
                return await self._merging.ask(asked)
        return await self._apart(asked)

    async def _together(self, asked: Sequence[_Asked]) -> Sequence[Movie | Exception]:
        answers: Sequence[Movie | Exception] = ()
        try:
            async with self._transactions() as tx:
                await tx.hurry()
                answers = await self._attempt(tx, asked)
                if all(isinstance(answer, Exception) for answer in answers):
                    raise _Refused  # noqa: TRY301 - by leaving so, the block is undone
        except _Refused:
            return answers
        except Exception as error:
            # Of those that are lost, nobody knows whether they were written.
            if isinstance(error, Unavailable) and not isinstance(error, Undone):
                raise
            # Something is wrong with one of them, for which the others cannot help.
            return [_Apart() for _ in asked]
        return answers

    async def _attempt(self, tx: Transaction, asked: Sequence[_Asked]) -> Sequence[Movie | Exception]:
        drafts = [one.draft for one in asked if isinstance(one, _Addition)]
        ids = {one.movie_id for one in asked if isinstance(one, _Revision)}
        answers: list[Movie | Exception] = []
        events: list[Event] = []
        free = {movie.id: movie for movie in await tx.movies.get_free(ids)} if ids else {}
        # Once they are held, so that the times of a movie ascend as its versions do.
        now = self._clock()
        revised: dict[int, Movie] = {}
        additions = iter(await _add(tx, drafts, now))
        for one in asked:
            if isinstance(one, _Addition):
                movie = next(additions)
                events.append(added(movie, one.actor, one.trace))
                answers.append(movie)
                continue
            # What another one of these made of it comes first.
            stored = revised.get(one.movie_id) or free.get(one.movie_id)
            at = now if stored is None else next_time(stored, now)
            answer = _revise(one, stored, at)
            answers.append(answer)
            if answer is not stored and not isinstance(answer, Exception):
                revised[one.movie_id] = answer
                events.append(_revised(answer, at, one))
        await _replace(tx, list(revised.values()))
        await tx.events.append(*events)
        return answers

    @repeated
    async def _apart(self, asked: _Asked) -> Movie:
        async with self._transactions() as tx:
            if isinstance(asked, _Addition):
                movie = await tx.movies.add(asked.draft, self._clock())
                await tx.events.append(added(movie, asked.actor, asked.trace))
                return movie
            stored = await tx.movies.get(asked.movie_id)
            at = next_time(stored, self._clock())
            movie = asked.revise(stored, at)
            if movie is not stored:
                await tx.movies.replace(movie)
                await tx.events.append(_revised(movie, at, asked))
            return movie


def _revise(revision: _Revision, stored: Movie | None, now: datetime) -> Movie | Exception:
    if stored is None:
        return _Apart()
    try:
        return revision.revise(stored, now)
    except WatchlyError as error:
        # The frames hold what holds the error: without them it goes as soon as it was raised.
        return error.with_traceback(None)


async def _add(tx: Transaction, drafts: Sequence[MovieDraft], now: datetime) -> Sequence[Movie]:
    if len(drafts) == 1:
        return [await tx.movies.add(drafts[0], now)]
    return await tx.movies.add_many(drafts, now) if drafts else ()


async def _replace(tx: Transaction, movies: Sequence[Movie]) -> None:
    if len(movies) == 1:
        await tx.movies.replace(movies[0])
    elif movies:
        await tx.movies.replace_many(movies)


def _revised(movie: Movie, now: datetime, asked: _Revision) -> MovieRevised:
    return MovieRevised(movie.id, movie.version, now, asked.actor.name, movie, asked.trace)
