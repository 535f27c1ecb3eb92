"""Owners of movies, whom nobody else writes: they know what each must be, and may be after no answer."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from tests.faults.checker import Tables
from tests.faults.wire import Broken, Line, Reply

#: The longest time in seconds that one rests between two operations.
_REST: Final = 0.03
#: Movies that one has; removed ones can come back.
_MOVIES: Final = 50


class Step(NamedTuple):
    """A movie as a write leaves it; `title` is the last one where it is removed."""

    version: int
    title: str
    removed: bool = False


class Movie:
    """What its only writer knows of a movie.

    Attributes:
        id: its own.
        steps: what was answered, or seen since.
        doubts: what may come of writes without an answer, at the next version.
    """

    def __init__(self, number: int, title: str) -> None:
        self.id = number
        self.steps = [Step(1, title)]
        self.doubts: set[Step] = set()

    @property
    def now(self) -> Step:
        return self.steps[-1]

    def go_on(self, step: Step) -> None:
        """It has become this: what was in doubt is done, or cannot be done any more."""
        self.steps.append(step)
        self.doubts.clear()


class Owner:
    """Writes movies of its own, and compares what it reads with what it knows.

    Args:
        number: its own.
        seed: of all chance.
        line: to the service.
        over: is set when the run is over.

    Attributes:
        movies: what was added.
        doubts: titles of movies that may have been added.
        counts: how often what happened.
        wrong: what must not be.
        acknowledged: writes that were answered.
    """

    def __init__(self, number: int, seed: int, line: Line, over: threading.Event) -> None:
        self._number, self._seed, self._line, self._over = number, seed, line, over
        self.movies: list[Movie] = []
        self.doubts: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.acknowledged = 0

    def work(self) -> None:
        """Operate until the run is over."""
        number = 0
        while not self._over.is_set():
            self.operate(number)
            number += 1
        self._line.close()

    def operate(self, number: int) -> None:
        """One operation, as its number says."""
        chance = random.Random(f"owners/{self._seed}/{self._number}/{number}")  # noqa: S311 - to be repeated
        title = f"film-{self._number}-{number}"
        operations: Mapping[Callable[[Movie, random.Random, str], None], int] = {
            self._revise: 6,
            self._remove: 1,
            self._revert: 2,
            self._look: 3,
        }
        self._over.wait(chance.uniform(0, _REST))
        if len(self.movies) < 2 or (chance.random() < 0.25 and len(self.movies) < _MOVIES):
            self._add(chance, title)
            return
        (operation,) = chance.choices(list(operations), list(operations.values()))
        movie = chance.choice(self.movies)
        if movie.now.removed and operation != self._look:
            operation = self._revert
        operation(movie, chance, title)

    def _add(self, chance: random.Random, title: str) -> None:
        headers = {"Idempotency-Key": title} if chance.random() < 0.5 else {}
        reply = self._surely("POST", "/api/movies", {"title": title}, headers)
        if reply is None:
            self.doubts.add(title)
        elif reply.status == 201 and reply.json["version"] == 1 and reply.json["title"] == title:
            self.movies.append(Movie(_number(reply, "id"), title))
            self.acknowledged += 1
        else:
            self._object(f"adding {title}", reply)

    def _revise(self, movie: Movie, _: random.Random, title: str) -> None:
        step = Step(movie.now.version + 1, title)
        reply = self._ask("PATCH", f"/api/movies/{movie.id}", {"title": title}, _as_it_is(movie))
        self._note(movie, step, reply)

    def _remove(self, movie: Movie, _: random.Random, __: str) -> None:
        step = Step(movie.now.version + 1, movie.now.title, removed=True)
        reply = self._ask("DELETE", f"/api/movies/{movie.id}", None, _as_it_is(movie))
        self._note(movie, step, reply)

    def _revert(self, movie: Movie, chance: random.Random, title: str) -> None:
        earlier = [step for step in movie.steps if not step.removed and step.title != movie.now.title]
        old = chance.choice(earlier or movie.steps[:1])
        if old.title == movie.now.title and not movie.now.removed:
            return  # there is nothing to go back to
        headers = _as_it_is(movie) | ({"Idempotency-Key": title} if chance.random() < 0.5 else {})
        reply = self._surely("POST", f"/api/movies/{movie.id}/revert", {"version": old.version}, headers)
        self._note(movie, Step(movie.now.version + 1, old.title), reply)

    def _look(self, movie: Movie, _: random.Random, __: str) -> None:
        self._settle(movie)

    def _settle(self, movie: Movie) -> None:
        """Look whether a movie is what it must be, or what it may have become."""
        while (reply := self._ask("GET", f"/api/movies/{movie.id}")) is None:
            if self._over.wait(_REST):
                return
        if reply.status == 404:
            found = Step(movie.now.version + (not movie.now.removed), movie.now.title, removed=True)
        elif reply.status == 200:
            found = Step(_number(reply, "version"), str(reply.json["title"]))
        else:
            self._object(f"looking at {movie.id}", reply)
            return
        if found in movie.doubts:
            self.counts["writes without an answer that were done"] += 1
            movie.go_on(found)
        elif found != movie.now:
            self.wrong.append(f"movie {movie.id} is {found}, after {movie.steps} and perhaps {movie.doubts}")
            movie.go_on(found)

    def _note(self, movie: Movie, step: Step, reply: Reply | None) -> None:
        """What has become of a movie that was to become this."""
        if reply is None:
            movie.doubts.add(step)
            self._settle(movie)
        elif reply.status == 204 if step.removed else reply.status == 200:
            if not step.removed and (reply.json["version"], reply.json["title"]) != step[:2]:
                self._object(f"making {movie.id} {step}", reply)
            movie.go_on(step)
            self.acknowledged += 1
        elif reply.status in {404, 412} and movie.doubts:
            # What was in doubt was done after all, and late.
            self.counts["writes that were done late"] += 1
            self._settle(movie)
        else:
            self._object(f"making {movie.id} {step}", reply)

    def _surely(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> Reply | None:
        """Ask; where there is a key, until there is an answer or the run is over."""
        while (reply := self._ask(method, path, body, headers)) is None and "Idempotency-Key" in headers:
            if self._over.wait(_REST):
                return None
        if reply is not None and reply.headers.get("idempotency-replayed"):
            self.counts["replies that were repeated"] += 1
        return reply

    def _ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply | None:
        """The answer; None if nobody knows what was done."""
        try:
            reply = self._line.ask(method, path, body, headers)
        except Broken:
            self.counts[f"{method}: no reply"] += 1
            return None
        self.counts[f"{method}: {reply.status}"] += 1
        return None if reply.status in {409, 503, 504} else reply

    def _object(self, what: str, reply: Reply) -> None:
        self.wrong.append(f"{what}: {reply.status} {reply.body.decode(errors='replace')}")


def _number(reply: Reply, member: str) -> int:
    return int(str(reply.json[member]))


def _as_it_is(movie: Movie) -> dict[str, str]:
    return {"If-Match": f'"v{movie.now.version}"'}


def lost_or_made_up(tables: Tables, writers: Sequence[Owner]) -> list[str]:
    """What was answered and is not in the log, and what is there and was not asked for."""
    log = {
        (event.movie, Step(event.version, event.title, event.kind == "movie_removed"))
        for event in tables.events
    }
    told = {(movie.id, step) for writer in writers for movie in writer.movies for step in movie.steps}
    doubts = {(movie.id, step) for writer in writers for movie in writer.movies for step in movie.doubts}
    added = Counter(step.title for _, step in log - told - doubts if step.version == 1)
    maybe = set[str]().union(*(writer.doubts for writer in writers))
    rest = [(movie, step) for movie, step in log - told - doubts if step.version > 1]
    return [
        *(f"movie {movie}: {step} was answered and is not there" for movie, step in told - log),
        *(f"movie {movie}: {step} was not asked for" for movie, step in rest),
        *(f"{title} was added {times} times" for title, times in added.items() if times > (title in maybe)),
    ]
