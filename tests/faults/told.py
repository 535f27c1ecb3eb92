"""What clients were told: all that has to be so, and all that may be."""

from __future__ import annotations

import collections
import hashlib
import random
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tests.faults.wire import Reply
from tests.pictures import cleaned

#: How the titles of movies begin that came with an image.
WITH_IMAGE: Final = "movie "

_LONGEST: Final = "seconds of the longest wait for the service"


class Shown(NamedTuple):
    """A movie as a reply showed it."""

    movie: int
    version: int
    key: str | None


class Heard(NamedTuple):
    """A change as the feed told it."""

    seq: int
    kind: str
    movie: int
    version: int


class Deeds(NamedTuple):
    """How often something was done to a movie: as clients know, and perhaps beyond that."""

    sure: int = 0
    unsure: int = 0

    def more(self, sure: int, unsure: int) -> Deeds:
        return Deeds(self.sure + sure, self.unsure + unsure)


class Told:
    """What many clients were told, each in a thread of its own.

    Attributes:
        counts: how often each operation, and each kind of reply, was met.
        shown: the movies of replies.
        attached: keys of images that a reply has confirmed, and the movies.
        contents: the digests of what is to be loaded under a key.
        tickets: keys by tickets, and their movies.
        deeds: by what was done ("attach", "detach", "remove", "add") and the movie, or the new one's title.
        keyed: what the replies to writes with an Idempotency-Key showed, by the key.
        wrong: replies that must not be.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._live: dict[int, int] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        self.shown: set[Shown] = set()
        self.attached: dict[str, int] = {}
        self.contents: dict[str, str] = {}
        self.tickets: dict[str, int] = {}
        self.deeds: collections.defaultdict[tuple[str, int | str], Deeds] = collections.defaultdict(Deeds)
        self.keyed: dict[str, Shown] = {}
        self.wrong: list[str] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            yield

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def wait(self, seconds: float) -> None:
        """A client has waited so long."""
        with self._lock:
            self.counts[_LONGEST] = max(self.counts[_LONGEST], round(seconds))

    @property
    def acknowledged(self) -> int:
        """How much was told to be done."""
        with self._lock:
            return len(self.shown) + sum(deeds.sure for deeds in self.deeds.values())

    @property
    def trouble(self) -> int:
        """How many replies said that the service is in trouble."""
        with self._lock:
            return sum(
                times
                for what, times in self.counts.items()
                if what.startswith("reply: ") and what.endswith((" 503", " 504"))
            )

    def object(self, words: str) -> None:
        with self._lock:
            self.wrong.append(words)

    def see(self, reply: Reply) -> Shown:
        """The movie that a reply shows, which is there from now on, at this version at least."""
        movie = reply.json
        image = movie["image"]
        number, version = movie["id"], movie["version"]
        assert isinstance(number, int)
        assert isinstance(version, int)
        key = image["key"] if isinstance(image, dict) else None
        shown = Shown(number, version, key)
        with self._lock:
            self.shown.add(shown)
            if ("remove", number) not in self.deeds:
                self._live[number] = max(version, self._live.get(number, 0))
        if reply.headers["etag"] != f'"v{version}"':
            self.object(f"the ETag of {shown} is {reply.headers['etag']}")
        return shown

    def confirm(self, shown: Shown, content: bytes) -> None:
        """An upload made a movie show this."""
        if shown.key is None:
            self.object(f"{shown} was uploaded and is not shown")
            return
        with self._lock:
            self.attached[shown.key] = shown.movie
            self.contents[shown.key] = hashlib.sha256(cleaned(content)).hexdigest()

    def keep(self, key: str, shown: Shown) -> None:
        """A write with this key was answered so, perhaps again."""
        with self._lock:
            if (before := self.keyed.setdefault(key, shown)) != shown:
                self.object(f"the key {key} was answered with {before}, then with {shown}")

    def done(self, deed: str, whose: int | str, *, surely: bool) -> None:
        with self._lock:
            self.deeds[deed, whose] = self.deeds[deed, whose].more(surely, not surely)

    def condemn(self, chance: random.Random) -> int:
        """One of the movies that are there, which may be gone from now on."""
        with self._lock:
            movie = self.pick(chance)
            del self._live[movie]
            self.done("remove", movie, surely=False)
            return movie

    def least(self, movie: int) -> int | None:
        """The version that it has at least; None if it may be gone."""
        with self._lock:
            return self._live.get(movie)

    def pick(self, chance: random.Random) -> int:
        """One of the movies that are there."""
        with self._lock:
            return chance.choice(sorted(self._live))

    @property
    def live(self) -> Collection[int]:
        with self._lock:
            return list(self._live)
