"""What happened to a movie: one event for each write, in the write's own transaction.

An event carries the whole movie as it became, or as it last was when it was removed, so that history,
undo, the change feed and rebuilding the catalogue are all readings of one log.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeAlias, get_args

import msgspec

from watchly_core.errors import Fault, InvalidQuery
from watchly_core.movies import MAX_ID, Movie

__all__ = [
    "KINDS",
    "MAX_CHANGES",
    "MAX_SEQ",
    "Change",
    "ChangeQuery",
    "Changes",
    "Event",
    "ImageAttached",
    "ImageDetached",
    "MovieAdded",
    "MovieRemoved",
    "MovieRevised",
    "kind",
]


class _Event(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """The members of every event.

    `version` is the movie's after the event; `at` is in UTC; `actor` says who did it; `trace` is the
    `traceparent` of what they did it in, see `traces`, if that was traced. Clients are not shown it.
    """

    movie_id: int
    version: int
    at: datetime
    actor: str
    movie: Movie
    trace: str | None = None


class MovieAdded(_Event, frozen=True, tag="movie_added"):
    """The movie is new, or back after its removal, or was found in the table of an older system."""


class MovieRevised(_Event, frozen=True, tag="movie_revised"):
    """Client fields of the movie changed, and with a revert perhaps its image."""


class MovieRemoved(_Event, frozen=True, tag="movie_removed"):
    """The movie is gone; `movie` is its last state and `version` is one more than that state's."""


class ImageAttached(_Event, frozen=True, tag="image_attached"):
    """The movie shows an image, new or in place of another."""


class ImageDetached(_Event, frozen=True, tag="image_detached"):
    """The movie shows no image any more."""


#: What the log is made of; `kind` names which of them one is.
Event: TypeAlias = MovieAdded | MovieRevised | MovieRemoved | ImageAttached | ImageDetached


def kind(event: Event) -> str:
    """The name of the event's kind as clients see it, such as ``movie_added``."""
    return str(event.__struct_config__.tag)


#: The names of all kinds.
KINDS: Final = frozenset(str(each.__struct_config__.tag) for each in get_args(Event))

#: The most changes that are asked for at once.
MAX_CHANGES: Final = 1_000
#: The largest number that a change can have: PostgreSQL's bigint has 8 bytes.
MAX_SEQ: Final = 2**63 - 1


class Change(msgspec.Struct, frozen=True):
    """An event in its place: events are numbered from 1 on, without gaps, once they are committed.

    Whoever has seen number n has seen all that come before it, and the numbers of one movie's events are in
    the order of its versions.
    """

    seq: int
    event: Event


class ChangeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which changes to read.

    Args:
        after: the number of the last change that is known; 0 for none.
        limit: changes at most.
        movie_id: only those of one movie.
        kinds: only those of these kinds; of all where it is empty.

    Raises:
        InvalidQuery: a value is out of range, or there is no such kind.
    """

    after: int = 0
    limit: int = 100
    movie_id: int | None = None
    kinds: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check the values."""
        faults = []
        if not 0 <= self.after <= MAX_SEQ:
            faults.append(Fault("invalid_value", f"must be from 0 to {MAX_SEQ}", parameter="after"))
        if not 1 <= self.limit <= MAX_CHANGES:
            faults.append(Fault("invalid_value", f"must be from 1 to {MAX_CHANGES}", parameter="limit"))
        if self.movie_id is not None and not 1 <= self.movie_id <= MAX_ID:
            faults.append(Fault("invalid_value", f"must be from 1 to {MAX_ID}", parameter="movie_id"))
        if unknown := sorted(self.kinds - KINDS):
            detail = f"must be among {', '.join(sorted(KINDS))}, not {unknown[0][:100]}"
            faults.append(Fault("invalid_value", detail, parameter="kind"))
        if faults:
            raise InvalidQuery(faults)

    def admits(self, event: Event) -> bool:
        """Whether the query asks for this event."""
        return (self.movie_id is None or event.movie_id == self.movie_id) and (
            not self.kinds or kind(event) in self.kinds
        )


class Changes(msgspec.Struct, frozen=True):
    """Some changes in their order, and after which number the next ones come."""

    data: tuple[Change, ...]
    next_after: int
