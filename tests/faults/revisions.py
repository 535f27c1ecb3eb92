"""Many writers at once on the same movies, each with `If-Match`: no update is lost, and none is done twice.

    python -m tests.faults.revisions --rows 200 --writers 50 --seed 7

Each of a movie's writers reads it, adds its own mark to the description, and sends that with the version it
has read; where somebody else was faster (412), or no reply came because a worker was killed, it reads again.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from tests.faults.checker import read_tables, violations
from tests.faults.havoc import Victims
from tests.faults.runs import SECRET, Outcome, end, options, perform, with_database
from tests.faults.wire import Broken, Line, Reply
from tests.services import Service

PROMISE: Final = "of writers that name the version they have read none undoes what another has written"

_WORKERS: Final = 2
#: A worker is killed while the writers are at every so manieth movie.
_KILL_EVERY: Final = 10
#: Seconds in which a writer has to be done.
_PATIENCE: Final = 120.0
_PAUSE: Final = 0.02

_STEPS: Final = """
    SELECT m.title, array_agg(e.movie ->> 'description' ORDER BY e.version), m.version
    FROM movies m JOIN events e ON e.movie_id = m.id GROUP BY m.id
"""


class Plan(NamedTuple):
    """A run: how many movies, how many writers each has at once, and the seed of all chance."""

    rows: int
    writers: int
    seed: int


class Writer:
    """Adds its mark to one movie after another.

    Attributes:
        counts: how often what happened.
        wrong: what must not be.
    """

    def __init__(self, number: int, plan: Plan, url: str) -> None:
        self._mark, self._seed = f"w{number}", plan.seed
        self._line = Line(url)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def mark(self, movie: int) -> None:
        """Add the mark to a movie, whatever it takes."""
        chance = random.Random(f"revisions/{self._seed}/{movie}/{self._mark}")  # noqa: S311 - to be repeated
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            found = self._ask("GET", movie, None, {})
            if found is None:
                time.sleep(_PAUSE)  # as a client that comes back
                continue
            marks = str(found.json["description"] or "").split()
            if self._mark in marks:
                # Nobody told this writer, which had no reply, that it was done.
                self.counts["done without a reply"] += 1
                return
            title, description = found.json["title"], " ".join([*marks, self._mark])
            tag = {"If-Match": found.headers["etag"]}
            # Some send the whole movie, some what they change.
            reply = (
                self._ask("PUT", movie, {"title": title, "description": description}, tag)
                if chance.random() < 0.5
                else self._ask("PATCH", movie, {"description": description}, tag)
            )
            if reply is not None and reply.status == 200:
                if (reply.json["description"], reply.headers["etag"]) != (description, _next(found)):
                    self.wrong.append(f"{self._mark} was answered with {reply.body.decode()}")
                return
        self.wrong.append(f"{self._mark} was not done with movie {movie} in time")

    def close(self) -> None:
        self._line.close()

    def _ask(self, method: str, movie: int, body: object, headers: dict[str, str]) -> Reply | None:
        """The reply; None if there was none that says what was done."""
        try:
            reply = self._line.ask(method, f"/api/movies/{movie}", body, headers)
        except Broken:
            self.counts[f"{method}: no reply"] += 1
            return None
        self.counts[f"{method}: {reply.status}"] += 1
        if reply.status not in {200, 412, 503, 504}:
            self.wrong.append(f"{method} of movie {movie}: {reply.status} {reply.body.decode()}")
        return None if reply.status in {503, 504} else reply


def _next(found: Reply) -> str:
    return f'"v{int(str(found.json["version"])) + 1}"'


def run(plan: Plan, folder: Path, database_url: str) -> Outcome:
    """Let all writers mark all movies, then look whether every mark is there once.

    Args:
        plan: what to do.
        folder: an empty one, for logs.
        database_url: an empty database that runs.
    """
    began = time.monotonic()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    words = ("--workers", str(_WORKERS))
    variables = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET, "WATCHLY_HOME": str(folder / "home")}
    with Service(folder / "log", *words, **variables, LOG_LEVEL="error") as service:
        with closing(Line(service.url)) as line:
            added = [line.ask("POST", "/api/movies", {"title": f"Film {row}"}) for row in range(plan.rows)]
        movies = [int(str(reply.json["id"])) for reply in added]
        writers = [Writer(number, plan, service.url) for number in range(plan.writers)]
        victims = Victims(service)
        with ThreadPoolExecutor(plan.writers, "writer") as threads:
            for number, movie in enumerate(movies):
                together = threading.Barrier(plan.writers)

                def mark(writer: Writer, movie: int = movie, together: threading.Barrier = together) -> None:
                    together.wait(_PATIENCE)
                    writer.mark(movie)

                working = [threads.submit(mark, writer) for writer in writers]
                if number % _KILL_EVERY == 1:
                    chance = random.Random(f"revisions/{plan.seed}/{number}")  # noqa: S311 - to be repeated
                    counts["workers killed"] += victims.kill(chance)
                for work in working:
                    work.result()
        for writer in writers:
            writer.close()
            counts += writer.counts
            wrong += writer.wrong
        wrong += end(service)
    wrong += violations(read_tables(database_url))
    lost = list(lost_updates(database_url, plan))
    wrong += lost
    counts["seconds"] = round(time.monotonic() - began)
    held = (
        f"{plan.rows:,} movies, each with {plan.writers} writers at once, "
        f"{counts['workers killed']} workers killed: {plan.rows * plan.writers:,} updates, {len(lost)} lost, "
        f"{counts['PUT: 412'] + counts['PATCH: 412']:,} refused by 412 and tried again"
    )
    return Outcome(plan, counts, wrong, PROMISE, held)


def lost_updates(database_url: str, plan: Plan) -> Iterator[str]:
    """Movies whose marks are not those of all writers, each added once to what was there before."""
    left = dict.fromkeys(range(plan.rows), 0)
    with psycopg.connect(database_url) as connection:
        for title, steps, version in connection.execute(_STEPS):
            marks: list[str] = []
            for step in steps:
                now = (step or "").split()
                if now[:-1] != marks:
                    yield f"{title}: {now} came after {marks}"
                marks = now
            if len(set(marks)) != plan.writers or version != plan.writers + 1:
                yield f"{title} is at version {version} with the marks {marks}"
            left.pop(int(title.removeprefix("Film ")), None)
    yield from (f"Film {row} is gone" for row in left)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--writers", type=int, default=50)
    given = parser.parse_args()
    plan = Plan(given.rows, given.writers, given.seed)
    return perform("revisions", PROMISE, given, with_database(run, plan))


if __name__ == "__main__":
    sys.exit(main())
