"""Comparing what is in the store, in the tables and behind the API, with what clients were told as well.

`violations` is the one entry: every run that makes trouble ends with it.
"""

from __future__ import annotations

import collections
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

import psycopg
from psycopg.rows import TupleRow
from tests.faults.told import WITH_IMAGE, Deeds, Heard, Shown, Told
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

#: Seconds in which a connection has to leave its transaction, once nobody asks for anything.
_IDLE: Final = 5.0

_IMAGES: Final = "SELECT key, state, movie_id FROM images"
_MOVIES: Final = "SELECT id, version, image ->> 'key' FROM movies"
_EVENTS: Final = """
    SELECT kind, movie_id, version, movie ->> 'title', movie -> 'image' ->> 'key', seq, at
    FROM events ORDER BY id
"""
#: A row and the last line of its log are written by two statements.
_UNLIKE: Final = """
    SELECT m.id FROM movies m JOIN events e ON e.movie_id = m.id AND e.version = m.version
    WHERE (m.title, m.description, m.release_year::text, m.genre) IS DISTINCT FROM
        (e.movie ->> 'title', e.movie ->> 'description', e.movie ->> 'release_year', e.movie ->> 'genre')
"""
_RECEIPTS: Final = "SELECT key, status, body FROM receipts"
_LOG: Final = "SELECT horizon, last_seq FROM change_log"
_IN_TRANSACTION: Final = """
    SELECT pid || ': ' || query FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()
"""

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
    seq: int | None
    at: datetime


class Receipt(NamedTuple):
    """The kept reply to a key: the movie that it shows, at which version; None if it shows none."""

    key: str
    status: int
    movie: int | None
    version: int | None


class Row(NamedTuple):
    """A line of the ledger of images."""

    key: str
    state: str
    movie: int


class Tables(NamedTuple):
    """What the database holds.

    Attributes:
        images: the ledger, by key.
        movies: those that are there, by id.
        unlike: those whose words are others than those of their log.
        events: the log, in the order in which it was written.
        receipts: the replies that were kept.
        horizon: up to which number the log was pruned.
        last_seq: the last number that was given.
        stuck: connections that stayed in a transaction and did nothing there.
    """

    images: Mapping[str, Row]
    movies: Mapping[int, Shown]
    unlike: Collection[int]
    events: Collection[Event]
    receipts: Collection[Receipt]
    horizon: int
    last_seq: int
    stuck: Collection[str]


def read_tables(database_url: str) -> Tables:
    """All of it at one moment, once nobody is in a transaction any more."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        deadline = time.monotonic() + _IDLE
        while (stuck := connection.execute(_IN_TRANSACTION).fetchall()) and time.monotonic() < deadline:
            time.sleep(0.02)  # between looks, not in place of one
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            images = connection.execute(_IMAGES).fetchall()
            movies = connection.execute(_MOVIES).fetchall()
            unlike = connection.execute(_UNLIKE).fetchall()
            events = connection.execute(_EVENTS).fetchall()
            receipts = connection.execute(_RECEIPTS).fetchall()
            ((horizon, last_seq),) = connection.execute(_LOG).fetchall()
    return Tables(
        {row.key: row for row in map(Row._make, images)},
        {shown.movie: shown for shown in map(Shown._make, movies)},
        [movie for (movie,) in unlike],
        [Event._make(event) for event in events],
        [_receipt(row) for row in receipts],
        horizon,
        last_seq,
        [words for (words,) in stuck],
    )


def _receipt(row: TupleRow) -> Receipt:
    key, status, body = row
    reply = json.loads(body)
    return Receipt(key, status, reply.get("id"), reply.get("version"))


def violations(
    tables: Tables,
    *,
    told: Told | None = None,
    assets: Collection[str] | None = None,
    uploads: Collection[str] | None = None,
    consumed: Sequence[Heard] | None = None,
) -> Iterator[str]:
    """Everything that must not be, once the trouble is over: one line for each thing.

    Args:
        tables: what the database holds.
        told: what clients were told.
        assets: the keys under which the store keeps anything, after a sweep of all that is due.
        uploads: the keys under which something lies that was uploaded, apart from the images.
        consumed: all that one who followed the feed from its beginning has got, in that order.
    """
    yield from halves(tables)
    yield from misnumbered(tables)
    yield from orphans(tables)
    yield from (f"a connection stays in its transaction: {words}" for words in tables.stuck)
    if told is not None:
        yield from told.wrong
        yield from broken_promises(tables, told)
    if assets is not None:
        yield from disagreements(tables, assets)
    if uploads is not None:
        yield from stray_uploads(tables, uploads)
    if consumed is not None:
        yield from misheard(tables, consumed)


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
    yield from _lost_receipts(tables, told)


def _lost_receipts(tables: Tables, told: Told) -> Iterator[str]:
    """Keys whose receipt is not what clients were told."""
    kept = {receipt.key: (receipt.movie, receipt.version) for receipt in tables.receipts}
    for key, shown in told.keyed.items():
        if kept.get(key) != (shown.movie, shown.version):
            yield f"the key {key} was answered with {shown}, and its receipt is {kept.get(key)}"


def _with_image(event: Event) -> bool:
    """Whether this is how an image came with its movie."""
    return event.kind == "image_attached" and event.version == 2 and event.title.startswith(WITH_IMAGE)


def halves(tables: Tables) -> Iterator[str]:
    """Movies whose log and whose row differ, or that came without the image that they were sent with."""
    yield from (f"the words of movie {movie} are others than those of its log" for movie in tables.unlike)
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


def misnumbered(tables: Tables) -> Iterator[str]:
    """Numbers of the log that are missing, given twice, or not in the order of a movie's versions."""
    numbers = sorted(event.seq for event in tables.events if event.seq is not None)
    if [seq for seq in numbers if seq > tables.horizon] != [*range(tables.horizon + 1, tables.last_seq + 1)]:
        yield f"the numbers above {tables.horizon} up to {tables.last_seq} are {numbers}"
    last: dict[int, Event] = {}
    for event in sorted(tables.events, key=lambda event: event.version):
        before = last.get(event.movie)
        # One without a number is given one after all that have theirs.
        if before and (event.seq is not None and (before.seq is None or before.seq > event.seq)):
            yield f"{event} is numbered before {before}"
        if before and event.at < before.at:
            yield f"{event} was before {before}"
        last[event.movie] = event


def orphans(tables: Tables) -> Iterator[str]:
    """Receipts of what was not done, or is not kept for a success."""
    history = {(event.movie, event.version) for event in tables.events}
    for receipt in tables.receipts:
        if not 200 <= receipt.status < 300:
            yield f"{receipt} is kept"
        if receipt.movie is not None and (receipt.movie, receipt.version) not in history:
            yield f"{receipt} is of what the log does not have"


def misheard(tables: Tables, consumed: Sequence[Heard]) -> Iterator[str]:
    """Where one who followed the feed got something else than the log: each change once, in its order."""
    log = {
        event.seq: Heard(event.seq, event.kind, event.movie, event.version)
        for event in tables.events
        if event.seq is not None
    }
    yield from (f"{event} has no number" for event in tables.events if event.seq is None)
    yield from (f"{change} was made up" for change in consumed if log.get(change.seq) != change)
    heard = [change.seq for change in consumed]
    yield from (f"{log[seq]} was never heard of" for seq in sorted(log.keys() - set(heard)))
    yield from (f"{log.get(seq)} came after {before}" for before, seq in pairwise(heard) if seq <= before)


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
