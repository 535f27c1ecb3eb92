"""That finding movies and people goes by the indexes made for it: the plans of what is really sent."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, Self

import psycopg
import pytest
from psycopg import AsyncCursor, sql
from psycopg.abc import Params, Query
from psycopg.rows import TupleRow, tuple_row
from tests.conftest import new_database

from watchly_adapters.postgres import PostgresDatabase, migrate, pool, vocabulary
from watchly_adapters.postgres.backlogs import PostgresBacklogs
from watchly_adapters.testing.stores import Failure
from watchly_core.backlogs import MOST_COUNTED, Backlog, RelayBacklog
from watchly_core.movies import MovieDraft
from watchly_core.ports import PeopleQueries, Transaction
from watchly_core.queries import Cursor, MovieQuery, read_sort

pytestmark = pytest.mark.anyio

ROWS: Final = 30_000
GENRES: Final = (*["Drama"] * 500, *["Comedy"] * 400, *["Crime"] * 99, "Western")
SORTS: Final = {
    "id": "movies_pkey",
    "-id": "movies_pkey",
    "title": "watchly_movies_title",
    "-title": "watchly_movies_title",
    "release_year": "watchly_movies_release_year",
    "-release_year": "watchly_movies_release_year_down",
    "created_at": "watchly_movies_created_at",
    "-created_at": "watchly_movies_created_at_down",
    "updated_at": "watchly_movies_updated_at",
    "-updated_at": "watchly_movies_updated_at_down",
}
START: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
#: People of a catalogue where anybody may register; each moment has passed for one in thirty of them.
PEOPLE: Final = """
    INSERT INTO watchly_users (email, role, password_hash, created_at, version)
    SELECT n || '@films.example', CASE WHEN n % 1000 = 0 THEN 'admin' ELSE 'viewer' END, 'hash', now(), 1
    FROM generate_series(1, 10000) n;
    INSERT INTO watchly_sessions (id, user_id, handle, secret, created_at, rotated_at, expires_at)
    SELECT 'session ' || n, n, sha256(n::text::bytea), 'secret', now(), now(),
           timestamptz '2026-01-01 00:00Z' + interval '1 minute' * (n - 300)
    FROM generate_series(1, 10000) n;
    INSERT INTO watchly_api_keys (name, role, prefix, digest, user_id, created_at)
    SELECT 'key', 'viewer', 'prefix ' || n, 'digest', CASE WHEN n % 1000 <> 0 THEN n END, now()
    FROM generate_series(1, 10000) n;
    INSERT INTO watchly_throttles (bucket, count, until)
    SELECT 'bucket ' || n, 1, timestamptz '2026-01-01 00:00Z' + interval '1 minute' * (n - 300)
    FROM generate_series(1, 10000) n;
"""
#: Of a long log, and many images, little is still to be done; but one webhook has many letters.
BACKLOG: Final = """
    INSERT INTO events (kind, movie_id, version, at, actor, movie, seq)
    SELECT 'movie_added', n, 1, now(), 'system', '{}', CASE WHEN n <= 29990 THEN n END
    FROM generate_series(1, 30000) n;
    UPDATE change_log SET last_seq = 29990;
    INSERT INTO relay_targets (name, url, position, version, failures, reason)
    VALUES ('nats', NULL, 29000, 1, 0, ''), ('webhook-1', 'https://films.example', 5, 1, 0, ''),
           ('webhook-2', 'https://films.example', 29990, 1, 0, '');
    INSERT INTO relay_letters (target, seq, message_id, movie_id, kind, body, due_at, attempts, reason)
    SELECT CASE WHEN n <= 25000 THEN 'webhook-1' WHEN n <= 25100 THEN 'webhook-2' ELSE 'nats' END,
           n, '1-1', n, 'movie_added', '{}', CASE WHEN n % 1000 <> 0 THEN now() END, 1, ''
    FROM generate_series(1, 25110) n;
    INSERT INTO images (key, state, movie_id, width, height, format, bytes, due_at)
    SELECT 'key ' || n,
           CASE WHEN n % 1000 = 0 THEN 'deleting' WHEN n % 10 = 0 THEN 'discarded' ELSE 'attached' END,
           n, 1, 1, 'png', 1,
           CASE WHEN n % 1000 <> 0 AND n % 10 = 0
                THEN timestamptz '2026-01-01 00:00Z' + interval '1 minute' * (n - 300) END
    FROM generate_series(1, 30000) n;
"""
#: How people are read, and the indexes for it.
READS: Final[dict[str, tuple[Callable[[PeopleQueries], Awaitable[object]], set[str]]]] = {
    "account": (lambda people: people.account("77@films.example"), {"watchly_users_email_key"}),
    "user": (lambda people: people.user(77), {"watchly_users_pkey"}),
    "users": (lambda people: people.users(5_000, 20), {"watchly_users_pkey"}),
    "session-user": (
        lambda people: people.session_user("session 77"),
        {"watchly_sessions_pkey", "watchly_users_pkey"},
    ),
    "api-key": (
        lambda people: people.api_key("prefix 77"),
        {"watchly_api_keys_prefix_key", "watchly_users_pkey"},
    ),
    "keys-of-a-user": (lambda people: people.api_keys(77), {"watchly_api_keys_user_id"}),
    "keys-of-nobody": (lambda people: people.api_keys(None), {"watchly_api_keys_user_id"}),
}
#: How they are found inside of transactions.
STEPS: Final[dict[str, tuple[Callable[[Transaction], Awaitable[object]], set[str]]]] = {
    "session": (
        lambda tx: tx.sessions.get(hashlib.sha256(b"77").digest()),
        {"watchly_sessions_handle_key", "watchly_users_pkey"},
    ),
    "sessions-of-a-user": (lambda tx: tx.sessions.remove_all(77), {"watchly_sessions_user_id"}),
    "old-sessions": (
        lambda tx: tx.sessions.expire(START, 9),
        {"watchly_sessions_expires_at", "watchly_sessions_pkey"},
    ),
    "administrators": (lambda tx: tx.users.admins(), {"watchly_users_admins"}),
    "number-of-keys-of-a-user": (lambda tx: tx.api_keys.count(77), {"watchly_api_keys_user_id"}),
    "number-of-keys-of-nobody": (lambda tx: tx.api_keys.count(None), {"watchly_api_keys_user_id"}),
    "bucket": (lambda tx: tx.throttles.find("bucket 77", START), {"watchly_throttles_pkey"}),
    "old-buckets": (
        lambda tx: tx.throttles.expire(START, 9),
        {"watchly_throttles_until", "watchly_throttles_pkey"},
    ),
}


class Node:
    """A node of a plan, from the members that EXPLAIN gives."""

    def __init__(self, members: dict[str, object]) -> None:
        self.type = str(members["Node Type"])
        self.relation = members.get("Relation Name")
        self.index = members.get("Index Name")
        removed = members.get("Rows Removed by Filter", 0)
        self.filters_all = bool(self.index and removed) and "Index Cond" not in members
        children = members.get("Plans", [])
        assert isinstance(children, list)
        # What was not reached cost nothing.
        self.children = [Node(child) for child in children if child.get("Actual Loops", 1)]
        self.is_input = members.get("Parent Relationship") != "InitPlan"

    def reads_table(self) -> bool:
        """Whether its rows come from a table, and not from what was found before."""
        return bool(self.relation) or any(child.reads_table() for child in self.children if child.is_input)

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.walk()


class Plans:
    """The plans of the statements that were sent."""

    def __init__(self) -> None:
        self.roots: list[Node] = []

    @property
    def nodes(self) -> list[Node]:
        return [node for root in self.roots for node in root.walk()]

    @property
    def indexes(self) -> set[object]:
        return {node.index for node in self.nodes if node.index}

    def reads_whole_tables(self) -> bool:
        return any(node.type.endswith("Seq Scan") for node in self.nodes)

    def reads_whole_indexes(self) -> bool:
        """Whether rows of all an index are looked at, to leave some out."""
        return any(node.filters_all for node in self.nodes)

    def sorts_rows(self) -> bool:
        """Whether rows of the table are sorted, and not only those of the steps' results."""
        return any(node.type == "Sort" and node.reads_table() for node in self.nodes)


def draft(chance: random.Random, words: list[str]) -> MovieDraft:
    def some(count: int) -> str:
        return " ".join(words[int(len(words) * chance.random() ** 3)] for _ in range(count))

    return MovieDraft(
        title=some(chance.randint(1, 4)).title(),
        description=some(8),
        release_year=chance.randint(1900, 2025),
        genre=chance.choice(GENRES),
    )


async def fill(url: str) -> None:
    chance = random.Random(7)  # noqa: S311 - the same movies each time
    words = ["".join(chance.choices("abcdefghiklmnoprstuvw", k=chance.randint(3, 9))) for _ in range(3_000)]
    async with PostgresDatabase(url) as database:
        for batch in range(ROWS // 1_000):
            drafts = [
                draft(chance, ["the", *words[:1_000], "godfather", *words[1_000:]]) for _ in range(1_000)
            ]
            async with database.transactions() as tx:
                await tx.movies.add_many(drafts, START + dt.timedelta(seconds=batch))


@pytest.fixture(scope="module")
def films(server_url: str) -> Iterator[str]:
    """The URL of a database of many movies and people, whose statistics are fresh."""
    with new_database(server_url) as url:
        asyncio.run(migrate(url))
        asyncio.run(fill(url))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(PEOPLE)
            connection.execute(
                "VACUUM ANALYZE movies, trigrams, watchly_users, watchly_sessions,"
                " watchly_api_keys, watchly_throttles"
            )
        yield url


@pytest.fixture
async def database(films: str) -> AsyncIterator[PostgresDatabase]:
    async with PostgresDatabase(films) as opened:
        yield opened


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Plans:
    """The plans of what is sent from now on, as the server makes them for the very same parameters."""
    found = Plans()

    class Explained(AsyncCursor[TupleRow]):
        async def execute(
            self,
            query: Query,
            params: Params | None = None,
            *,
            prepare: bool | None = None,
            binary: bool | None = None,
        ) -> Self:
            assert isinstance(query, str | sql.Composed)
            text = query.encode() if isinstance(query, str) else query.as_bytes()
            if b"*/ LOCK " in text:  # that has no plan
                return await super().execute(query, params, prepare=prepare, binary=binary)
            async with AsyncCursor(self.connection, row_factory=tuple_row) as asked:
                await asked.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + text, params, prepare=False)
                row = await asked.fetchone()
            assert row is not None
            found.roots.append(Node(row[0][0]["Plan"]))
            return await super().execute(query, params, prepare=prepare, binary=binary)

    monkeypatch.setattr(pool, "AsyncCursor", Explained)
    return found


async def position_after(database: PostgresDatabase, query: MovieQuery, rows: int) -> Cursor:
    """The cursor of the page that starts after so many rows."""
    page = await database.queries.find(MovieQuery(q=query.q, genre=query.genre, sort=query.sort, limit=rows))
    assert page.next_cursor is not None
    return Cursor.decode(page.next_cursor)


@pytest.mark.parametrize("deep", [False, True], ids=["first-page", "deep-page"])
@pytest.mark.parametrize(("key", "index"), SORTS.items())
async def test_a_sorted_page_is_read_off_its_index(
    database: PostgresDatabase, plans: Plans, key: str, index: str, *, deep: bool
) -> None:
    query = MovieQuery(sort=read_sort(key), limit=20)
    if deep:
        cursor = await position_after(database, query, 27_000)
        query = MovieQuery(sort=query.sort, limit=20, cursor=cursor)
        plans.roots.clear()
    assert len((await database.queries.find(query)).data) == 20
    assert index in plans.indexes
    assert not plans.reads_whole_tables()
    assert not plans.sorts_rows()


@pytest.mark.parametrize("q", ["godfather", "gODf", "the godfather", "godfather zz"])
async def test_words_are_found_by_the_index_of_words(
    database: PostgresDatabase, plans: Plans, q: str
) -> None:
    await database.queries.find(MovieQuery(q=q, limit=20))
    assert "watchly_movies_search" in plans.indexes
    assert not plans.reads_whole_tables()


async def test_a_mistyped_word_is_found_by_its_trigrams(database: PostgresDatabase, plans: Plans) -> None:
    page = await database.queries.find(MovieQuery(q="godfahter", limit=20))
    assert any("Godfather" in movie.title for movie in page.data)
    assert {"trigrams_trigram", "watchly_movies_search"} <= plans.indexes
    assert not plans.reads_whole_tables()


async def test_a_rare_word_is_counted_and_its_genres_are_by_its_index(
    database: PostgresDatabase, plans: Plans
) -> None:
    await database.queries.count(MovieQuery(q="godfather the"))
    await database.queries.genres(MovieQuery(q="godfather the"))
    assert "watchly_movies_search" in plans.indexes
    assert not plans.reads_whole_tables()


async def test_a_rare_genre_is_listed_by_its_index(database: PostgresDatabase, plans: Plans) -> None:
    await database.queries.find(MovieQuery(genre="Western", sort=read_sort("title"), limit=20))
    assert "watchly_movies_genre" in plans.indexes
    assert not plans.reads_whole_tables()


async def test_a_year_is_listed_by_its_index(database: PostgresDatabase, plans: Plans) -> None:
    await database.queries.find(MovieQuery(release_year=1999, limit=20))
    assert plans.indexes <= {"watchly_movies_release_year", "watchly_movies_release_year_down"}
    assert plans.indexes
    assert not plans.reads_whole_tables()


async def test_genres_are_counted_in_their_index_alone(database: PostgresDatabase, plans: Plans) -> None:
    await database.queries.genres(MovieQuery())
    assert "Index Only Scan" in {node.type for node in plans.nodes}
    assert plans.indexes == {"watchly_movies_genre"}


async def test_a_new_word_is_looked_up_by_the_index_of_trigrams(films: str) -> None:
    async with await psycopg.AsyncConnection.connect(films) as connection:
        row = await (
            await connection.execute(
                "EXPLAIN (FORMAT JSON) " + vocabulary.SELECT_UNKNOWN, (["godfather", "xyzzy"],)
            )
        ).fetchone()
    assert row is not None
    nodes = list(Node(row[0][0]["Plan"]).walk())
    assert {node.index for node in nodes if node.index} == {"trigrams_trigram"}


async def test_rows_of_other_programs_are_found_by_the_index_of_those(films: str) -> None:
    async with await psycopg.AsyncConnection.connect(films) as connection:
        row = await (
            await connection.execute(
                "EXPLAIN (FORMAT JSON) SELECT id FROM movies WHERE search_version IS NULL ORDER BY id LIMIT 9"
            )
        ).fetchone()
    assert row is not None
    assert [node.index for node in Node(row[0][0]["Plan"]).walk() if node.index] == [
        "watchly_movies_unsearched"
    ]


@pytest.mark.parametrize(("read", "indexes"), READS.values(), ids=list(READS))
async def test_people_are_read_by_their_indexes(
    database: PostgresDatabase,
    plans: Plans,
    read: Callable[[PeopleQueries], Awaitable[object]],
    indexes: set[str],
) -> None:
    assert await read(database.people)
    assert plans.indexes == indexes
    assert not plans.reads_whole_tables()


@pytest.mark.parametrize(("step", "indexes"), STEPS.values(), ids=list(STEPS))
async def test_people_are_found_in_transactions_by_their_indexes(
    database: PostgresDatabase,
    plans: Plans,
    step: Callable[[Transaction], Awaitable[object]],
    indexes: set[str],
) -> None:
    with pytest.raises(Failure):  # noqa: PT012 - a transaction is its block
        async with database.transactions() as tx:
            await step(tx)
            raise Failure  # the others find the same rows
    assert plans.indexes == indexes
    assert not plans.reads_whole_tables()
    assert not plans.reads_whole_indexes()


async def test_what_is_still_to_be_done_is_counted_in_indexes_that_hold_nothing_else(
    database_url: str, plans: Plans
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(BACKLOG)
        connection.execute("VACUUM ANALYZE events, images, relay_targets, relay_letters")
    # Not those of a `PostgresDatabase`, which would number what has no number.
    connections = pool.Pool(database_url)
    await connections.open()
    try:
        found = await PostgresBacklogs(connections).backlog(START)
    finally:
        await connections.close()
    assert found == Backlog(
        numbered_up_to=29_990,
        unnumbered=10,
        broker=RelayBacklog(behind=990, waiting=10),
        webhook=RelayBacklog(behind=29_985, waiting=MOST_COUNTED, dead=25),
        images_due=30,
        images_dead=30,
        overdue=290 * 60.0,
    )
    assert plans.indexes == {
        "events_unnumbered",
        "images_due_at",
        "images_dead",
        "relay_letters_waiting",
        "relay_letters_dead",
    }
    read = {node.relation for node in plans.nodes if node.type == "Seq Scan"}
    assert read <= {"relay_targets", "change_log"}
