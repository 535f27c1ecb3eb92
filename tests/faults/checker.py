"""Comparing what is in the store, in the tables and behind the API, with what clients were told as well."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from typing import Final, NamedTuple

import psycopg
from tests.faults.told import WITH_IMAGE, Deeds, Shown, Told
from tests.faults.wire import send

from watchly_adapters.container import Container
from watchly_adapters.settings import Settings
from watchly_core import Gallery
from watchly_core.catalogue import IMAGE_GRACE
from watchly_core.clocks import utc_now
from watchly_core.journey import PENDING_FOR
from watchly_core.sweeper import SweepReport
from watchly_core.uploads import TICKET_FOR

#: By then all is due: what was discarded, what is pending, and what a sweep has failed at.
_LATER: Final = IMAGE_GRACE + PENDING_FOR + TICKET_FOR + timedelta(hours=2)

_DONE_BY: Final = {"image_attached": "attach", "image_detached": "detach", "movie_removed": "remove"}


async def sweep_later(settings: Settings) -> SweepReport:
    """Sweep once, as it will be done when all grace is over."""
    container = Container(settings=settings)
    async with container.database() as database:
        gallery = Gallery(
            database.queries,
            database.transactions,
            container.images(),
            container.inspector(),
            clock=lambda: utc_now() + _LATER,
        )
        return await gallery.sweep(1_000_000)


class Event(NamedTuple):
    """A line of the log: what was done to a movie, and the movie as it became, or last was."""

    kind: str
    movie: int
    version: int
    title: str
    key: str | None


class Row(NamedTuple):
    """A line of the ledger of images."""

    key: str
    state: str
    movie: int


class Tables(NamedTuple):
    """What the database holds."""

    images: Mapping[str, Row]
    movies: Mapping[int, Shown]
    events: Collection[Event]


def read_tables(database_url: str) -> Tables:
    with psycopg.connect(database_url) as connection:
        images = connection.execute("SELECT key, state, movie_id FROM images").fetchall()
        movies = connection.execute("SELECT id, version, image ->> 'key' FROM movies").fetchall()
        events = connection.execute(
            "SELECT kind, movie_id, version, movie ->> 'title', movie -> 'image' ->> 'key'"
            " FROM events ORDER BY id"
        ).fetchall()
    return Tables(
        {row.key: row for row in map(Row._make, images)},
        {shown.movie: shown for shown in map(Shown._make, movies)},
        [Event._make(event) for event in events],
    )


def disagreements(tables: Tables, assets: Collection[str]) -> Iterator[str]:
    """Where store, ledger and movies do not fit each other; after a sweep no image is on its way."""
    rows = tables.images
    yield from (f"asset {key} has no row" for key in set(assets) - rows.keys())
    yield from (f"row {rows[key]} has no asset" for key in rows.keys() - set(assets))
    yield from (f"row {row} is left" for row in rows.values() if row.state != "attached")
    shown = collections.Counter(movie.key for movie in tables.movies.values() if movie.key)
    for row in rows.values():
        movie = tables.movies.get(row.movie)
        if movie is None or movie.key != row.key or shown[row.key] != 1:
            yield f"row {row} is attached, and {movie} is the movie"
    yield from (f"{movie} shows no row" for movie in tables.movies.values() if movie.key not in {None, *rows})


def stray_uploads(tables: Tables, uploads: Collection[str]) -> Iterator[str]:
    """What was uploaded and is no image's.

    Beside an image that is shown it may lie: the reply to the commit was lost, or the process killed, before
    it was dropped. The store clears such after two days, and no sweep is needed for it.
    """
    for key in uploads:
        row = tables.images.get(key)
        if row is None or row.state != "attached":
            yield f"what was uploaded for {key} is left, and its row is {row}"


def broken_promises(tables: Tables, told: Told) -> Iterator[str]:
    """What clients were told that is not so, and what was done though they were told that it was not."""
    history = {(event.movie, event.version): event for event in tables.events}
    for movie, version, key in told.shown:
        event = history.get((movie, version))
        if event is None or event.key != key:
            yield f"movie {movie} was told to be at version {version} with {key}: {event}"
    done: collections.Counter[tuple[str, int | str]] = collections.Counter()
    attached: collections.Counter[str | None] = collections.Counter()
    for event in tables.events:
        if event.kind == "movie_added":
            done["add", event.title] += 1
        if event.kind == "image_attached":
            attached[event.key] += 1
        # Anybody, and the store itself, may complete a ticket, so that is counted by its key; and an image
        # that came with its movie is looked for by `halves`.
        if event.kind == "image_attached" and (event.key in told.tickets or _with_image(event)):
            continue
        if event.kind in _DONE_BY:
            done[_DONE_BY[event.kind], event.movie] += 1
    for deed in done.keys() | told.deeds.keys():
        sure, unsure = told.deeds.get(deed, Deeds())
        if not sure <= done[deed] <= sure + unsure:
            yield f"{deed}: {done[deed]} times, and {sure} to {sure + unsure} were told"
    yield from (f"{key} was attached {times} times" for key, times in attached.items() if times > 1)
    yield from (f"{key} was told to be shown" for key in told.attached if not attached[key])


def _with_image(event: Event) -> bool:
    """Whether this is how an image came with its movie."""
    return event.kind == "image_attached" and event.version == 2 and event.title.startswith(WITH_IMAGE)


def halves(tables: Tables) -> Iterator[str]:
    """Movies whose log and whose row differ, or that came without the image that they were sent with."""
    logs: dict[int, list[Event]] = collections.defaultdict(list)
    for event in tables.events:
        logs[event.movie].append(event)
    for movie, log in logs.items():
        removed = log[-1].kind == "movie_removed"
        if [event.version for event in log] != list(range(1, len(log) + 1)):
            yield f"the versions of movie {movie} are {log}"
        if removed == (movie in tables.movies):
            yield f"movie {movie} is in the table, or not, against its log: {log[-1]}"
        elif not removed and tables.movies[movie] != (movie, log[-1].version, log[-1].key):
            yield f"{tables.movies[movie]} is not what its log says: {log[-1]}"
        if log[0].title.startswith(WITH_IMAGE) and not (log[1:] and _with_image(log[1])):
            yield f"movie {movie} came without its image: {log[:2]}"


def broken_links(
    url: str, tables: Tables, deliver: Callable[[str], str], contents: Mapping[str, str]
) -> Iterator[str]:
    """Images of movies that cannot be loaded, or are not what was uploaded."""
    for movie in tables.movies:
        reply = send("GET", f"{url}/api/movies/{movie}")
        if reply.status != 200:
            yield f"movie {movie}: {reply.status}"
            continue
        image = reply.json["image"]
        if not isinstance(image, dict):
            continue
        for link in (str(reply.json["image_url"]), *map(str, image["variants"].values())):
            loaded = send("GET", deliver(link))
            if loaded.status != 200 or not loaded.headers["content-type"].startswith("image/"):
                yield f"movie {movie}: {link} answers {loaded.status}"
            wanted = contents.get(image["key"]) if link == reply.json["image_url"] else None
            if wanted not in {None, hashlib.sha256(loaded.body).hexdigest()}:
                yield f"movie {movie}: {link} is another image"
