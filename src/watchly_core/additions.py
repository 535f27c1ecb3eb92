"""Additions: movies that many callers add at once, in one transaction for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from watchly_core.clocks import utc_now
from watchly_core.errors import Unavailable, Undone, alike
from watchly_core.events import MovieAdded
from watchly_core.merging import Merging

if TYPE_CHECKING:
    from watchly_core.movies import Movie, MovieDraft
    from watchly_core.people import Actor
    from watchly_core.ports import Clock, Transactions

#: Callers that may wait for their transaction to begin, and for how many seconds each.
_MOST_WAITING: Final = 1_000
_PATIENCE: Final = 5.0

_Asked: TypeAlias = "tuple[MovieDraft, Actor]"


def added(movie: Movie, actor: Actor) -> MovieAdded:
    """The event of a movie that was just added."""
    # `add` has just set created_at; the fallback is for the type alone.
    return MovieAdded(movie.id, movie.version, movie.created_at or utc_now(), actor.name, movie)


class Additions:
    """Adds movies: who comes while others are being added waits for the next transaction.

    A commit costs more than an addition does, and so do the ways to a server and back.

    Args:
        transactions: the write side of the store.
        clock: the present time.
    """

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions, self._clock = transactions, clock
        self._merging: Merging[_Asked, Movie] = Merging(
            self._add_all, lambda _: 1, max_waiting=_MOST_WAITING, patience=_PATIENCE
        )

    async def add(self, draft: MovieDraft, actor: Actor) -> Movie:
        """Store a movie with its event; it is committed when this returns.

        Raises:
            Unavailable: too many wait, or the store does not answer.
        """
        return await self._merging.ask((draft, actor))

    async def _add_all(self, asked: Sequence[_Asked]) -> Sequence[Movie | Exception]:
        try:
            return await self._add_together(asked)
        except Exception as error:
            # Of those that are lost, nobody knows whether they were added.
            if len(asked) == 1 or _is_lost(error):
                raise
        # Something is wrong with one of them, for which the others cannot help.
        return await self._add_apart(asked)

    async def _add_apart(self, asked: Sequence[_Asked]) -> Sequence[Movie | Exception]:
        answers: list[Movie | Exception] = []
        for one in asked:
            try:
                answers += await self._add_together([one])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised to who asked
                answers.append(error)
                if _is_lost(error):
                    # The others would wait for the store one after another.
                    answers += [alike(error) for _ in asked[len(answers) :]]
                    break
        return answers

    async def _add_together(self, asked: Sequence[_Asked]) -> Sequence[Movie]:
        async with self._transactions() as tx:
            now = self._clock()
            if len(asked) == 1:
                movies: Sequence[Movie] = [await tx.movies.add(asked[0][0], now)]
            else:
                movies = await tx.movies.add_many([draft for draft, _ in asked], now)
            actors = (actor for _, actor in asked)
            await tx.events.append(*map(added, movies, actors))
        return movies


def _is_lost(error: Exception) -> bool:
    """Whether the store did not answer, rather than refuse."""
    return isinstance(error, Unavailable) and not isinstance(error, Undone)
