"""What users do: the file that locust runs.

Every request is one step, after which a user thinks. A visitor looks through lists, searches, filters, reads
movies, with the entity tags of those that they have read before, looks at thumbnails and histories. An
editor does so too, signs in before that, and adds and changes movies and their images. A follower keeps the
stream of changes open, and looks whether one of them is missing.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import accumulate
from pathlib import Path
from typing import Final
from urllib.parse import quote

import gevent
import msgspec
from benchmarks.load.plan import VARIABLE, Plan
from benchmarks.load.recorder import Recorder
from locust import FastHttpUser, LoadTestShape, User, task
from locust.contrib.fasthttp import LocustBadStatusCode, ResponseContextManager
from locust.env import Environment

PLAN: Final = msgspec.json.decode(Path(os.environ[VARIABLE]).read_bytes(), type=Plan)
POSTER: Final = Path(PLAN.poster).read_bytes()

_PAGE: Final = 20
#: How many of 100 searches are for a popular word, a rare one, one that is misspelt.
_WORDS: Final = (60, 25, 15)
#: How often somebody who can goes on to the next page.
_GOES_ON: Final = 0.7
#: Movies that a user has in their own cache.
_KEPT: Final = 100
#: Users who come in a second, while more of them come.
_ARRIVALS: Final = 100
_PATIENCE: Final = 30.0
_OK: Final = 200
_NOT_MODIFIED: Final = 304
_CONFLICTS: Final = (409, 412)


def zipf(number: int) -> list[float]:
    """Cumulated weights of so many: the second one is asked for half as often as the first one."""
    return list(accumulate(1 / rank for rank in range(1, number + 1)))


_MOVIES: Final = zipf(len(PLAN.movies))
_POPULAR: Final = zipf(len(PLAN.popular))
_THUMBNAILS: Final = zipf(len(PLAN.thumbnails))


def some_movie() -> int:
    return random.choices(PLAN.movies, cum_weights=_MOVIES)[0]


def some_word() -> str:
    """Mostly one that many search for, sometimes a rare one, sometimes one that is misspelt."""
    (kind,) = random.choices((PLAN.popular, PLAN.rare, PLAN.misspelt), _WORDS)
    return random.choices(kind, cum_weights=_POPULAR)[0] if kind is PLAN.popular else random.choice(kind)


RECORDER: Final = Recorder(Path(PLAN.folder))
RECORDER.listen()


class Stages(LoadTestShape):
    """So many users as the plan says."""

    def tick(self) -> tuple[int, float] | None:
        """How many there are to be now, and how many of them come in a second."""
        stage = PLAN.stage(self.get_run_time())
        return None if stage is None else (stage.users, _ARRIVALS)


def think() -> float:
    """Seconds between two steps: from half to one and a half of those of the stage."""
    stage = PLAN.stage(time.time() - RECORDER.began) or PLAN.stages[-1]
    return random.uniform(0.5, 1.5) * stage.think


class Page(msgspec.Struct):
    """What counts of a page here."""

    next_cursor: str | None


_read_page: Final = msgspec.json.Decoder(Page).decode


class Visitor(FastHttpUser):
    """Somebody who looks around."""

    weight = 96
    host = f"http://{PLAN.host}"
    network_timeout = connection_timeout = _PATIENCE

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._next = ""
        self._tags: dict[int, str] = {}
        self.headers: dict[str, str] = {}

    def wait_time(self) -> float:
        """Think."""
        return think()

    @contextmanager
    def asked(
        self,
        kind: str,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        *,
        fine: tuple[int, ...] = (),
        **headers: str,
    ) -> Iterator[ResponseContextManager]:
        """The reply; one that is neither a success nor fine is an error, and so is half of one."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.client.request(
            method, path, name=kind, data=body, headers=self.headers | named, catch_response=True
        ) as reply:
            fault = reply.request_meta["exception"]
            if reply.status_code in fine:
                reply.success()
            elif isinstance(fault, LocustBadStatusCode):
                reply.failure(f"{reply.status_code}")
            elif fault is not None:
                reply.failure(f"broken connection, {type(fault).__name__}")
            yield reply

    def look_at(self, kind: str, path: str) -> None:
        """Read a page of a list, and remember where the next one is."""
        self._next = ""
        with self.asked(kind, path) as reply:
            if reply.status_code == _OK and reply.content:
                cursor = _read_page(reply.content).next_cursor
                self._next = f"{path.partition('&cursor=')[0]}&cursor={quote(cursor)}" if cursor else ""

    @task(25)
    def browse(self) -> None:
        """All movies, page by page."""
        if self._next and random.random() < _GOES_ON:
            self.look_at("next page", self._next)
        else:
            self.look_at("first page", f"/api/movies?limit={_PAGE}")

    @task(10)
    def search(self) -> None:
        """Movies with a word."""
        self.look_at("search", f"/api/movies?limit={_PAGE}&q={quote(some_word())}")

    @task(8)
    def choose(self) -> None:
        """Movies of a genre, some years or both, in some order."""
        genre, year = quote(random.choice(PLAN.genres)), random.randint(1930, 2000)
        filters = random.choice(
            (
                f"genre={genre}&sort=-release_year",
                f"genre={genre}&min_release_year={year}&max_release_year={year + 10}",
                f"release_year={year}&sort=title",
            )
        )
        self.look_at("filter", f"/api/movies?limit={_PAGE}&{filters}")

    @task(3)
    def list_genres(self) -> None:
        """The genres, for a menu."""
        with self.asked("genres", "/api/genres"):
            pass

    @task(35)
    def read(self) -> None:
        """One movie."""
        movie = some_movie()
        if tag := self._tags.get(movie):
            with self.asked(
                "movie, again", f"/api/movies/{movie}", fine=(_NOT_MODIFIED,), If_None_Match=tag
            ) as reply:
                self._keep(movie, reply)
        else:
            with self.asked("movie", f"/api/movies/{movie}") as reply:
                self._keep(movie, reply)

    def _keep(self, movie: int, reply: ResponseContextManager) -> None:
        if reply.status_code == _OK and reply.headers:
            if len(self._tags) >= _KEPT:
                del self._tags[next(iter(self._tags))]
            self._tags[movie] = reply.headers["etag"]

    @task(15)
    def see(self) -> None:
        """One thumbnail; who sees it again has it already."""
        path = random.choices(PLAN.thumbnails, cum_weights=_THUMBNAILS)[0]
        with self.asked("thumbnail", path):
            pass

    @task(4)
    def look_back(self) -> None:
        """What a movie was like."""
        with self.asked("history", f"/api/movies/{some_movie()}/history"):
            pass


class Editor(Visitor):
    """Somebody who may write, and does so every third time."""

    weight = 4

    def on_start(self) -> None:
        """Sign in, once."""
        who = msgspec.json.encode({"email": random.choice(PLAN.editors), "password": PLAN.password})
        with self.asked("sign in", "/api/auth/login", "POST", who, Content_Type="application/json") as reply:
            if reply.status_code == _OK and reply.content:
                self.headers = {
                    "Authorization": f"Bearer {msgspec.json.decode(reply.content)['access_token']}"
                }

    @task(30)
    def revise(self) -> None:
        """Read a movie, think, and change it as it was read."""
        movie = some_movie()
        with self.asked("movie", f"/api/movies/{movie}") as reply:
            if reply.status_code != _OK or not reply.headers:
                return
            tag = reply.headers["etag"]
        gevent.sleep(think())
        changes = msgspec.json.encode({"release_year": random.randint(1890, 2026)})
        with self.asked(
            "change",
            f"/api/movies/{movie}",
            "PATCH",
            changes,
            fine=_CONFLICTS,
            If_Match=tag,
            Content_Type="application/merge-patch+json",
        ):
            pass

    @task(15)
    def add(self) -> None:
        """A new movie."""
        title = " ".join(random.choices(PLAN.popular, k=3))
        new = msgspec.json.encode({"title": title, "release_year": 2026, "genre": random.choice(PLAN.genres)})
        with self.asked(
            "add",
            "/api/movies",
            "POST",
            new,
            Content_Type="application/json",
            Idempotency_Key=str(uuid.uuid4()),
        ):
            pass

    @task(5)
    def illustrate(self) -> None:
        """Another image for a movie."""
        with self.asked(
            "image",
            f"/api/movies/{some_movie()}/image",
            "PUT",
            POSTER,
            fine=_CONFLICTS,
            Content_Type="image/jpeg",
        ):
            pass


class Follower(User):
    """Somebody who is told of every change."""

    fixed_count = 5

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._last = 0

    def wait_time(self) -> float:
        """Think."""
        return think()

    @task
    def follow(self) -> None:
        """Read all changes, from where an earlier stream ended."""
        connection = HTTPConnection(PLAN.host, timeout=_PATIENCE)
        resumed = {"Last-Event-ID": str(self._last)} if self._last else {}
        began, at = time.perf_counter(), time.time()
        try:
            connection.connect()
            RECORDER.streams.add(connection.sock)
            connection.request("GET", "/api/changes/stream", headers=resumed)
            reply = connection.getresponse()
            if reply.status == _OK:
                self._note(at, 1_000 * (time.perf_counter() - began))
                fault = self._read(reply)
            else:
                fault = f"{reply.status}"
        except (OSError, HTTPException) as error:
            fault = f"broken connection, {type(error).__name__}"
        finally:
            connection.close()
        if not RECORDER.leaving:
            self._note(time.time(), 0.0, RuntimeError(fault))

    def _read(self, reply: HTTPResponse) -> str:
        """Read to the end; why that is none."""
        number = 0
        for line in reply:
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"event: "):  # without one it says only where the stream is
                if self._last and number != self._last + 1:
                    return f"{number} came after {self._last}"
                self._last = number
                RECORDER.changes += 1
        return "ended"

    def _note(self, at: float, milliseconds: float, fault: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="GET",
            name="stream",
            response_time=milliseconds,
            response_length=0,
            exception=fault,
            start_time=at,
            context={},
        )
