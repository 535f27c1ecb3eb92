"""How many users come when, and what they know of the catalogue: all that locust is told."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

#: Names the file of the plan to locust's processes.
VARIABLE: Final = "WATCHLY_LOAD_PLAN"
_SETTLING: Final = 5


def settling(seconds: int) -> int:
    """Seconds of a stage that do not count: users come, and thoughts of the stage before end."""
    return min(_SETTLING, seconds // 2)


class Stage(NamedTuple):
    """So many users who do something, then think so many seconds on average, then do something again."""

    users: int
    think: float

    @property
    def rate(self) -> float:
        """What they would do in a second if nothing took any time."""
        return self.users / self.think


#: First more users, then the same ones in more of a hurry.
STAGES: Final = (
    *(Stage(users, 2.0) for users in (50, 100, 250, 500, 1_000)),
    *(Stage(1_000, 1_000 / rate) for rate in (600, 700, 800, 900, 1_000, 1_200, 1_500, 2_000)),
)
SECONDS: Final = 25
SHORT_STAGES: Final = (Stage(25, 1.0), Stage(50, 1.0))
SHORT_SECONDS: Final = 6


class Plan(msgspec.Struct, frozen=True):
    """What locust's processes are told.

    Attributes:
        host: where Watchly listens.
        folder: where they write down what came of it.
        stages: one after another.
        seconds: how long each is.
        movies: ids, the one that is asked for most first.
        popular: words of many titles, the most frequent one first.
        rare: words of one title.
        misspelt: words as some type them.
        genres: what is filtered by.
        thumbnails: paths of small images, those of movies that are asked for most first.
        editors: addresses of those who may write.
        password: of each of them.
        poster: the file of an image.
    """

    host: str
    folder: str
    stages: tuple[Stage, ...]
    seconds: int
    movies: list[int]
    popular: list[str]
    rare: list[str]
    misspelt: list[str]
    genres: tuple[str, ...]
    thumbnails: list[str]
    editors: list[str]
    password: str
    poster: str

    def stage(self, second: float) -> Stage | None:
        """The one at a time, counted from the beginning; nothing when all is over."""
        number = int(second // self.seconds)
        return self.stages[number] if number < len(self.stages) else None
