"""A store of movies in a SQLite file, for one process: rows and pages, search, events, and receipts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from watchly_adapters.databases import Kept
from watchly_adapters.partial import (
    ListedQueries,
    PartialDatabase,
    PartialTransaction,
    SerialTransactions,
    Turn,
)
from watchly_adapters.settings import Settings
from watchly_core import errors
from watchly_core.events import Change, ChangeQuery, Changes, Event
from watchly_core.movies import MAX_ID, Movie, MovieDraft, created
from watchly_core.queries import MovieQuery
from watchly_core.receipts import Claim, KeptReply
from watchly_core.threads import Threads

T = TypeVar("T")

SCHEMA: Final = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS movies (id INTEGER PRIMARY KEY, genre TEXT, movie TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, movie_id INTEGER NOT NULL, version INTEGER NOT NULL,
    at REAL NOT NULL, event TEXT NOT NULL, UNIQUE (movie_id, version)
);
CREATE TABLE IF NOT EXISTS receipts (actor TEXT, key TEXT, until REAL, receipt TEXT, UNIQUE (actor, key));
CREATE TABLE IF NOT EXISTS pruned (seq INTEGER NOT NULL);
"""
PRUNE: Final = """
DELETE FROM events WHERE seq IN (
    SELECT seq FROM events AS old WHERE at < ? AND EXISTS (
        SELECT 1 FROM events WHERE movie_id = old.movie_id AND version > old.version) ORDER BY seq LIMIT ?
) RETURNING seq
"""
CHANGE: Final = "SELECT json_object('seq', seq, 'event', json(event)) FROM events"


def make_database(settings: Settings) -> SqliteDatabase:
    """The store that ``DATABASE_URL=sqlite:///path/to/movies.db`` names."""
    return SqliteDatabase(Path(unquote(urlsplit(settings.database_url or "").path)))


class SqliteDatabase(PartialDatabase):
    """A file that keeps movies, what happened to them, and receipts."""

    keeps: frozenset[Kept] = frozenset({"receipts"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._files = reading, writing = File(path), File(path)
        self.queries = SqliteQueries(reading)
        self.transactions = SerialTransactions(
            lambda turn: PartialTransaction(
                SqliteMovies(writing.within(turn)),
                SqliteEvents(writing.within(turn)),
                receipts=SqliteReceipts(writing, turn),
            ),
            begin=lambda: writing.do("BEGIN IMMEDIATE"),
            commit=lambda _: writing.do("COMMIT"),
            roll_back=lambda: writing.do("ROLLBACK"),
            on_commit=self.signal.tell,
        )

    def close(self) -> None:
        for file in self._files:
            file.close()


class File:
    """A connection that a thread of its own uses, for SQLite blocks. What is selected is JSON."""

    def __init__(self, path: Path) -> None:
        self.ids = [0]  # the last one that was given to a movie, also if its transaction failed
        self.turn: Turn | None = None
        self._threads = Threads(1, "watchly-sqlite")
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.executescript(SCHEMA)
        self.close = self._connection.close

    def within(self, turn: Turn) -> File:
        """This one, whose use waits for the turn of a transaction."""
        file = copy(self)
        file.turn = turn
        return file

    async def select(self, kind: type[T], sql: str, *values: object) -> list[T]:
        rows = await self._use(lambda: self._connection.execute(sql, values).fetchall())
        return [msgspec.json.decode(str(document), type=kind) for (document,) in rows]

    async def do(self, sql: str, *values: object) -> int:
        """How many rows that changed."""
        return await self._use(lambda: self._connection.execute(sql, values).rowcount)

    async def _use(self, call: Callable[[], T]) -> T:
        if self.turn is not None:
            await self.turn()
        try:
            return await self._threads.finish(call)
        except sqlite3.OperationalError as error:
            raise errors.Unavailable("database", str(error)) from error


class SqliteQueries(ListedQueries):
    """Satisfies `ports.MovieQueries`."""

    def __init__(self, file: File) -> None:
        self._file = file

    async def movies(self, query: MovieQuery) -> Sequence[Movie]:
        # Whether words have to be guessed depends on all movies.
        genre = query.genre if query.search is None else None
        return await self._file.select(
            Movie, "SELECT movie FROM movies WHERE ?1 IS NULL OR genre = ?1", genre
        )

    async def get(self, movie_id: int) -> Movie:
        if 0 < movie_id <= MAX_ID:
            for movie in await self._file.select(Movie, "SELECT movie FROM movies WHERE id = ?", movie_id):
                return movie
        raise errors.MovieNotFound(movie_id)

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        movie_id = movie_id if 0 < movie_id <= MAX_ID else 0
        sql = f"{CHANGE} WHERE movie_id = ?1 AND (?2 IS NULL OR version < ?2) ORDER BY version DESC LIMIT ?3"
        return await self._file.select(Change, sql, movie_id, before, -1 if limit is None else limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        (horizon,) = await self._file.select(int, "SELECT coalesce(max(seq), 0) FROM pruned")
        if query.after < horizon:
            raise errors.ChangesGone(horizon)
        last, kinds = await self.last_change(), msgspec.json.encode(sorted(query.kinds)).decode()
        sql = f"""{CHANGE} WHERE seq > ?1 AND seq <= ?2 AND (?3 IS NULL OR movie_id = ?3) AND (?4 = '[]' OR
            event ->> 'kind' IN (SELECT value FROM json_each(?4))) ORDER BY seq LIMIT ?5"""
        data = await self._file.select(Change, sql, query.after, last, query.movie_id, kinds, query.limit)
        return Changes(tuple(data), data[-1].seq if len(data) == query.limit else max(query.after, last))

    async def last_change(self) -> int:
        sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
        return (await self._file.select(int, sql))[0]


class SqliteMovies(SqliteQueries):
    """Satisfies `ports.MovieRepository`."""

    async def add(self, draft: MovieDraft, at: datetime) -> Movie:
        (used,) = await self._file.select(int, "SELECT coalesce(max(movie_id), 0) FROM events")
        self._file.ids[0] = max(self._file.ids[0], used) + 1
        await self.restore(movie := created(self._file.ids[0], draft, at))
        return movie

    async def add_many(self, drafts: Sequence[MovieDraft], at: datetime) -> Sequence[Movie]:
        return [await self.add(draft, at) for draft in drafts]

    async def get_free(self, movie_ids: Collection[int]) -> Sequence[Movie]:
        wanted = msgspec.json.encode([each for each in movie_ids if 0 < each <= MAX_ID]).decode()
        sql = "SELECT movie FROM movies WHERE id IN (SELECT value FROM json_each(?))"
        return await self._file.select(Movie, sql, wanted)

    async def replace(self, movie: Movie) -> None:
        sql = "UPDATE movies SET genre = ?, movie = ? WHERE id = ?"
        if not await self._file.do(sql, movie.genre, json(movie), movie.id):
            raise errors.MovieNotFound(movie.id)

    async def replace_many(self, movies: Sequence[Movie]) -> None:
        for movie in movies:
            await self.replace(movie)

    async def remove(self, movie_id: int) -> None:
        await self.get(movie_id)
        await self._file.do("DELETE FROM movies WHERE id = ?", movie_id)

    async def restore(self, movie: Movie) -> None:
        for there in await self.get_free([movie.id]):
            raise errors.VersionConflict(movie.id, movie.version - 1, there.version)
        sql = "INSERT INTO movies (id, genre, movie) VALUES (?, ?, ?)"
        await self._file.do(sql, movie.id, movie.genre, json(movie))


class SqliteEvents:
    """Satisfies `ports.EventLog`."""

    def __init__(self, file: File) -> None:
        self._file, self._queries = file, SqliteQueries(file)

    async def append(self, *events: Event) -> None:
        sql = "INSERT OR IGNORE INTO events (movie_id, version, at, event) VALUES (?, ?, ?, ?)"
        for event in events:
            values = event.movie_id, event.version, event.at.timestamp(), json(event)
            if not await self._file.do(sql, *values):
                raise errors.VersionConflict(event.movie_id, event.version - 1, event.version)

    async def get(self, movie_id: int, version: int) -> Event | None:
        history = await self._queries.history(movie_id)
        return next((change.event for change in history if change.event.version == version), None)

    async def newest(self, movie_id: int) -> Event | None:
        return next((change.event for change in await self._queries.history(movie_id, limit=1)), None)

    async def prune(self, before: datetime, limit: int) -> int:
        pruned = await self._file.select(int, PRUNE, before.timestamp(), limit)
        if pruned:
            await self._file.do("INSERT INTO pruned (seq) VALUES (?)", max(pruned))
        return len(pruned)


class SqliteReceipts:
    """Satisfies `ports.Receipts`; a claim waits for no transaction."""

    def __init__(self, file: File, turn: Turn) -> None:
        self._file, self._written, self._turn = file, file.within(turn), turn

    async def claim(self, claim: Claim, now: datetime) -> KeptReply | None:
        name = claim.actor, claim.key
        if not self._turn.claim(name):
            raise errors.RequestInProgress
        sql = "SELECT receipt FROM receipts WHERE actor = ? AND key = ? AND until > ?"
        for digest, reply in await self._file.select(tuple[bytes, KeptReply], sql, *name, now.timestamp()):
            if digest != claim.digest:
                raise errors.KeyReused
            return reply
        return None

    async def keep(self, claim: Claim, reply: KeptReply, until: datetime) -> None:
        values = claim.actor, claim.key, until.timestamp(), json((claim.digest, reply))
        await self._written.do("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?)", *values)

    async def expire(self, now: datetime, limit: int) -> int:
        old = "SELECT rowid FROM receipts WHERE until <= ? LIMIT ?"
        return await self._written.do(f"DELETE FROM receipts WHERE rowid IN ({old})", now.timestamp(), limit)


def json(value: Movie | Event | tuple[bytes, KeptReply]) -> str:
    return msgspec.json.encode(value).decode()
