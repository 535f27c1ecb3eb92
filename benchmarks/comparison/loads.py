"""The requests that are sent, and what wrk tells of them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

from benchmarks.comparison.servers import OWN, Missing, Running, processor_seconds
from benchmarks.films import GENRES, Film
from PIL import Image

ONE: Final = "one movie"
PAGE: Final = "a page of 20"
SEARCH: Final = "search by a word"
REVALIDATE: Final = "one movie, 304"
CREATE: Final = "create"
PATCH: Final = "patch"
IMAGE: Final = "an image"
MIXED: Final = "mixed 90/10"
CEILING: Final = "no database"
#: Reads come first, so that they find the movies as they were imported.
LOADS: Final = (ONE, PAGE, SEARCH, REVALIDATE, CEILING, IMAGE, CREATE, PATCH, MIXED)

_POSTER: Final = (300, 450)

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_REQUESTS: Final = 20_000
_TAGGED: Final = 1_000
_LONG_WORD: Final = 5
_READS_A_WRITE: Final = 9
_PAGE: Final = 20
_FIELDS: Final = frozenset(
    (
        *("id", "title", "description", "release_year", "genre"),
        *("image_url", "image", "version", "created_at", "updated_at"),
    )
)
_WAIT: Final = 30
#: The share of a processor that counts as quiet, and the seconds over which it is looked at.
_QUIET: Final = 0.1
_LOOK: Final = 0.3
#: wrk's own seconds on top of those of a load.
_GRACE: Final = 60

Request: TypeAlias = tuple[str, str, str, str]


class Figure(NamedTuple):
    """What one load on one server gave; milliseconds, microseconds of the processors, bytes.

    The server's processes are counted apart from those of the database.
    """

    rate: float
    p50: float
    p99: float
    processor: float
    database: float
    memory: int
    failed: int


class Work:
    """Requests for each load, the same ones for every server as far as they can be.

    Args:
        ids: of the movies.
        films: what words are taken from, and new movies.
        marks: pairs of an id and of the cursor that goes on after it in Watchly.
    """

    def __init__(self, ids: Sequence[int], films: Sequence[Film], marks: Sequence[tuple[int, str]]) -> None:
        chance = random.Random(1895)
        one = [_get(f"/api/movies/{number}") for number in chance.choices(ids, k=_REQUESTS)]
        words = [word for film in films for word in film.title.split() if word.isalpha() and word.isascii()]
        asked = chance.choices([word for word in words if len(word) >= _LONG_WORD], k=_REQUESTS)
        create, patch = [], []
        for film, (_, path, _, _) in zip(chance.choices(films, k=_REQUESTS), one, strict=True):
            create.append(("POST", "/api/movies", json.dumps(film._asdict()), ""))
            changes = {"genre": chance.choice(GENRES), "release_year": chance.randint(1890, 2026)}
            patch.append(("PATCH", path, json.dumps(changes), ""))
        writes = _REQUESTS // _READS_A_WRITE
        mixed = [*one, *create[: writes // 2], *patch[: writes // 2]]
        chance.shuffle(mixed)
        search = [_get(f"/api/movies?limit={_PAGE}&q={quote(word)}") for word in asked]
        self._requests = {ONE: one, SEARCH: search, CREATE: create, PATCH: patch, MIXED: mixed}
        self._marks = chance.choices(marks, k=_REQUESTS)

    def requests(self, load: str, server: Running) -> list[Request]:
        """What a server is sent; nothing where it has no answer to that."""
        own = server.name in OWN
        if load == IMAGE:
            return [_get(server.image)]
        if load == PAGE:
            places = (f"cursor={quote(cursor)}" if own else f"after={after}" for after, cursor in self._marks)
            return [_get(f"/api/movies?limit={_PAGE}&{place}") for place in places]
        if load == REVALIDATE:
            return _tagged(server, self._requests[ONE][:_TAGGED])
        if load == CEILING:
            return [_get("/health/live")] if own else []
        return self._requests[load]


def _get(path: str) -> Request:
    return ("GET", path, "", "")


def _tagged(server: Running, requests: Sequence[Request]) -> list[Request]:
    """The requests with the tags of their answers, if the server gives tags and knows them again."""
    tagged = []
    for method, path, body, _ in requests:
        _, tag, _ = server.get(path)
        if not tag:
            return []
        tagged.append((method, path, body, tag))
    _, path, _, tag = tagged[0]
    status, _, _ = server.get(path, {"If-None-Match": tag})
    if status != 304:  # noqa: PLR2004 - NOT MODIFIED
        raise SystemExit(f"{server.name} answered {status} to an entity tag of its own")
    return tagged


def noise() -> bytes:
    """A JPEG of 65 KB, as posters have it."""
    made = Image.frombytes("L", _POSTER, random.Random(1895).randbytes(_POSTER[0] * _POSTER[1]))
    file = BytesIO()
    made.save(file, "JPEG", quality=60)
    return file.getvalue()


def attach(server: Running, content: bytes, movie: int, token: str) -> None:
    """Give Watchly the image."""
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {token}"}
    _, _, body = server.put(f"/api/movies/{movie}/image", content, headers)
    server.image = json.loads(body)["image_url"]


def marks(server: Running) -> list[tuple[int, str]]:
    """Walk through all movies of Watchly, and note where each page ended."""
    found: list[tuple[int, str]] = []
    cursor = ""
    while True:
        _, _, body = server.get(f"/api/movies?sort=id&limit=200{cursor and f'&cursor={quote(cursor)}'}")
        page = json.loads(body)
        cursor = page["next_cursor"]
        if not cursor:
            return found
        found.append((page["data"][-1]["id"], cursor))


def check_wrk() -> None:
    """Look whether wrk is there.

    Raises:
        Missing: it is not.
    """
    if shutil.which("wrk") is None:
        raise Missing("wrk is not on the PATH; Debian has it: apt-get install wrk")


def check_answers(server: Running, work: Work) -> None:
    """Look whether a server answers what the others do: else there is nothing to compare."""
    _, _, body = server.get(work.requests(ONE, server)[0][1])
    _, _, page = server.get(work.requests(PAGE, server)[0][1])
    movie, movies = json.loads(body), json.loads(page)["data"]
    if set(movie) != _FIELDS or any(set(one) != _FIELDS for one in movies) or not 0 < len(movies) <= _PAGE:
        raise SystemExit(
            f"{server.name} answers otherwise than the others: {body!r}, {len(movies)} on a page"
        )


class Sender:
    """Sends requests by wrk.

    Args:
        folder: where it may put a file.
        postmaster: the process of the database.
        seconds: how long each load is.
    """

    def __init__(self, folder: Path, postmaster: int, seconds: int) -> None:
        self._path = folder / "requests.tsv"
        self._postmaster = postmaster
        self._seconds = seconds

    def send(self, server: Running, requests: Sequence[Request], connections: int, token: str) -> Figure:
        """Send the requests over and over, by so many connections."""
        self._rest(server)
        self._path.write_text("".join("\t".join(request) + "\n" for request in requests), encoding="utf-8")
        how = ("-t1", f"-c{connections}", f"-d{self._seconds}s", f"--timeout={_WAIT}s", "-s", str(_SCRIPT))
        used, queried = server.processor_seconds(), processor_seconds(self._postmaster)
        done = subprocess.run(
            ["wrk", *how, f"http://{server.host}", "--", str(self._path), token],
            capture_output=True,
            text=True,
            timeout=self._seconds + _WAIT + _GRACE,
            check=False,
        )
        used, queried = server.processor_seconds() - used, processor_seconds(self._postmaster) - queried
        if done.returncode:
            raise SystemExit(f"wrk failed: {done.stderr or done.stdout}")
        told = json.loads(done.stdout.splitlines()[-1])
        answered = max(1, told["requests"])
        return Figure(
            rate=told["requests"] * 1e6 / told["microseconds"],
            p50=told["p50"] / 1e3,
            p99=told["p99"] / 1e3,
            processor=used * 1e6 / answered,
            database=queried * 1e6 / answered,
            memory=server.memory(),
            failed=told["failed"],
        )

    def _rest(self, server: Running) -> None:
        """Wait until nothing is left of what clients of an earlier load had asked before they left."""
        deadline = time.monotonic() + _WAIT
        used = None
        while time.monotonic() < deadline:
            before, used = used, server.processor_seconds() + processor_seconds(self._postmaster)
            if before is not None and used - before < _QUIET * _LOOK:
                return
            time.sleep(_LOOK)
