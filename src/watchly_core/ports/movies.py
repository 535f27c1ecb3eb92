"""The ports of movies: reading them, writing them, and the log of what happened to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import datetime
from typing import Protocol

from watchly_core.events import Change, ChangeQuery, Changes, Event
from watchly_core.movies import Movie, MovieDraft
from watchly_core.queries import GenreCount, MovieQuery, Page
from watchly_core.receipts import Claim, KeptReply


class MovieQueries(Protocol):
    """The read side. It sees what was committed before a call began, and never a transaction.

    One that sits on a replica or a cache may be a little late, but for `history` and `changes`.
    """

    def at(self, position: str) -> MovieQueries:
        """Queries that see every write which was done when somebody was told of this position.

        A position is a short text of visible ASCII; stores say which one theirs has reached.

        Raises:
            InvalidPosition: it is none of such a store.
        """
        ...

    async def get(self, movie_id: int) -> Movie:
        """The movie with this id.

        Raises:
            MovieNotFound: there is none; any integer may be asked for.
        """
        ...

    async def find(self, query: MovieQuery) -> Page:
        """One page of the query's movies, in its order; empty when nothing fits.

        What a search means, and the order of what it finds, is `text.Search`: its tiers, and where no
        movie at all is in one, its similar tiers. A query with a cursor goes on as its first page began.
        """
        ...

    async def count(self, query: MovieQuery) -> int:
        """How many movies the query finds on all its pages together, whatever its limit and cursor."""
        ...

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """The genres of those movies, the most frequent first, then by code point; no genre is none."""
        ...

    def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """What clients write of all the query's movies, in its order as of one moment, in batches.

        The query's limit and cursor do not matter; nothing is checked.

        Closing it early frees what it holds.
        """
        ...

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """The changes of one movie, newest first, also when it is removed; empty if it never was.

        Only those to versions below `before`, and at most `limit` of them, where these are given.
        """
        ...

    async def changes(self, query: ChangeQuery) -> Changes:
        """Changes of all movies, in the order of their numbers: the next ones after `query.after`.

        Of all that was committed before the call began, none is missing. Beyond the end there are none,
        and reading goes on from the same number.

        Raises:
            ChangesGone: some that come after `query.after` were pruned.
        """
        ...

    async def last_change(self) -> int:
        """The number of the last change of all that were committed before the call began; 0 for none."""
        ...


class MovieRepository(Protocol):
    """Movies inside a transaction. It stores what it is given and checks no rule."""

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        """Store a new movie at version 1, created and updated `at`, under an id never used before."""
        ...

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        """Like `add` for each draft, in their order with ascending ids, at the price of a bulk load."""
        ...

    async def get(self, movie_id: int) -> Movie:
        """The movie with this id, held against every other transaction until this one ends.

        Raises:
            MovieNotFound: there is none.
        """
        ...

    async def get_free(self, movie_ids: Collection[int]) -> Sequence[Movie]:
        """Those of these movies that are there and that no other transaction holds, held as by `get`.

        It waits for none of them. Any integers may be given.
        """
        ...

    async def replace(self, movie: Movie) -> None:
        """Store `movie` in place of the one with its id; its `version` is another one.

        Raises:
            MovieNotFound: there is none.
        """
        ...

    async def replace_many(self, movies: Sequence[Movie]) -> None:
        """Like `replace` for each of these movies, of which no two have the same id.

        Raises:
            MovieNotFound: one of them is not there.
        """
        ...

    async def remove(self, movie_id: int) -> None:
        """Delete the movie with this id.

        Raises:
            MovieNotFound: there is none.
        """
        ...

    async def restore(self, movie: Movie) -> None:
        """Store `movie`, which was removed, under its id again.

        Raises:
            VersionConflict: somebody else has just done so; nothing else can be done in the transaction.
        """
        ...


class ChangeSignal(Protocol):
    """Tells that there may be new changes, so that nobody has to ask again and again.

    ``seen = signal.count``, then read, then ``await signal.beyond(seen)``: nothing is missed so.
    """

    @property
    def count(self) -> int:
        """How often it has told so far."""
        ...

    async def beyond(self, count: int) -> None:
        """Wait until it has told more often than `count` times; it may do so for nothing."""
        ...


class EventLog(Protocol):
    """The log inside a transaction."""

    async def append(self, *events: Event) -> None:
        """Add events in this order, to be seen when the transaction commits.

        Raises:
            VersionConflict: somebody else has just taken a version; nothing else can be done in the
                transaction. It may be raised later, but no later than where the transaction would commit.
        """
        ...

    async def get(self, movie_id: int, version: int) -> Event | None:
        """What made this version of a movie; None if nothing did, or it was pruned.

        Any integers may be given.
        """
        ...

    async def newest(self, movie_id: int) -> Event | None:
        """The last event of a movie; None if it never was."""
        ...

    async def prune(self, before: datetime, limit: int) -> int:
        """Drop at most `limit` of the oldest events that have numbers, from before that time; how many.

        The newest event of each movie stays: it holds the movie as it is, or last was.
        """
        ...


class Receipts(Protocol):
    """The replies to writes that their senders named by keys, inside a transaction."""

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        """The reply that is kept for a key; if there is none, the key is this transaction's until it ends.

        It never waits for another transaction. A key may be claimed twice in one transaction.

        Raises:
            KeyReused: the reply is that to another request.
            RequestInProgress: there is none, and the key is another transaction's.
        """
        ...

    async def keep(self, claim: Claim, reply: KeptReply, until: datetime) -> None:
        """Keep the reply to a write, whose key this transaction has claimed, until then."""
        ...

    async def expire(self, now: datetime, limit: int) -> int:
        """Drop at most `limit` replies that were kept until `now` or before; how many those were."""
        ...
