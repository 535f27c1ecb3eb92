"""What happened to a movie: one event for each write, in the write's own transaction.

An event carries the whole movie as it became, or as it last was when it was removed, so that history,
undo, the change feed and rebuilding the catalogue are all readings of one log.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from watchly_core.movies import Movie


class _Event(msgspec.Struct, frozen=True, tag_field="kind"):
    """The members of every event.

    `version` is the movie's after the event; `at` is in UTC; `actor` says who did it.
    """

    movie_id: int
    version: int
    at: datetime
    actor: str
    movie: Movie


class MovieAdded(_Event, frozen=True, tag="movie_added"):
    """The movie is new, or was found in the table of an older system."""


class MovieRevised(_Event, frozen=True, tag="movie_revised"):
    """Client fields of the movie changed."""


class MovieRemoved(_Event, frozen=True, tag="movie_removed"):
    """The movie is gone; `movie` is its last state and `version` is one more than that state's."""


class ImageAttached(_Event, frozen=True, tag="image_attached"):
    """The movie shows an image, new or in place of another."""


class ImageDetached(_Event, frozen=True, tag="image_detached"):
    """The movie shows no image any more."""


Event: TypeAlias = MovieAdded | MovieRevised | MovieRemoved | ImageAttached | ImageDetached


def kind(event: Event) -> str:
    """The name of the event's kind as clients see it, such as ``movie_added``."""
    return str(event.__struct_config__.tag)
