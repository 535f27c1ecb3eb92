"""What people write who have the documentation alone: services and scripts, adapters of their own, tests.

Where a line says `ignore`, the checkers have to find a fault: both refuse one that is not needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import IO, Final

import psycopg
import pytest
from litestar import Litestar
from litestar.testing import TestClient
from psycopg.rows import DictRow

from watchly_adapters.container import Container
from watchly_adapters.databases import Database, Kept
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryDatabase, MemoryImages
from watchly_adapters.partial import (
    ListedQueries,
    PartialDatabase,
    PartialTransaction,
    SerialTransactions,
    Turn,
)
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.settings import Settings, read_settings
from watchly_adapters.testing.clocks import HandClock
from watchly_adapters.testing.image_stores import ImageStoreContract
from watchly_adapters.testing.movie_stores import MovieStoreContract
from watchly_adapters.testing.scripts import Script
from watchly_core import Catalogue, Gallery, Image, Movie, MovieDraft, MovieQuery, blocking
from watchly_core.errors import ImageTooLarge, Misconfigured, MovieNotFound, PublishRejected, VersionConflict
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.images import StoredImage, Ticket
from watchly_core.imports import read_csv
from watchly_core.messages import Message
from watchly_core.ports import (
    Cache,
    EventLog,
    ImageStore,
    MovieQueries,
    MovieRepository,
    Publisher,
    Transaction,
    Transactions,
)
from watchly_http import create_app


class DictCache:
    """A cache for tests, which forgets nothing."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self._kept.get(key)

    async def put(self, key: str, value: bytes, keep: timedelta) -> None:
        if keep:
            self._kept[key] = value

    async def close(self) -> None:
        self._kept.clear()


class PrintingPublisher:
    """Tells whoever looks at the terminal."""

    async def publish(self, message: Message) -> None:
        if not message.body:
            raise PublishRejected("nothing to print")

    async def close(self) -> None:
        pass


class TextCache(DictCache):
    """Gives texts, which no port asks for."""

    async def get(self, key: str) -> str | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        return key


class BlockingPublisher:
    """Has the right names, and cannot be awaited."""

    def publish(self, message: Message) -> None: ...

    def close(self) -> None: ...


class HastyCache:
    """Takes no time to keep its values for."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes) -> None: ...

    async def close(self) -> None: ...


class MutePublisher:
    """Cannot be told that it is over."""

    async def publish(self, message: Message) -> None: ...


class ShelfImages:
    """Images on a shelf, with room for small ones; another service serves them."""

    max_bytes: int | None = 1_000_000

    def __init__(self, address: str) -> None:
        self._address = address
        self._shelf: dict[str, tuple[bytes, Image]] = {}

    async def put(self, key: str, source: IO[bytes], image: Image) -> None:
        if image.bytes > 1_000_000:
            raise ImageTooLarge("the shelf has no room for it")
        self._shelf[key] = source.read(), image

    async def delete(self, key: str) -> None:
        self._shelf.pop(key, None)

    async def stat(self, key: str) -> StoredImage | None:
        if (found := self._shelf.get(key)) is None:
            return None
        content, image = found
        return StoredImage(len(content), image.width, image.height, image.format)

    def url(self, key: str, variant: str | None = None) -> str:
        return f"{self._address}/{key}/{variant or 'whole'}"

    def ticket(self, key: str, image: Image, expires_at: datetime) -> Ticket:
        headers = {"Content-Length": str(image.bytes)}
        return Ticket(key, "PUT", self.url(key), headers, fields={}, expires_at=expires_at)


def make_images(settings: Settings) -> ImageStore:
    """What an entry point of the group ``watchly.image_stores`` names."""
    if settings.image_store_url is None:
        raise Misconfigured("IMAGE_STORE_URL: there is none; for example shelf://images.example")
    return ShelfImages(settings.image_store_url.replace("shelf:", "https:"))


class ReadQueries(ListedQueries):
    """The read side of somebody's table."""

    def __init__(self, rows: Mapping[int, Movie]) -> None:
        self._rows = rows

    async def movies(self, query: MovieQuery) -> Collection[Movie]:
        return [movie for movie in self._rows.values() if query.admits(movie)]

    async def get(self, movie_id: int) -> Movie:
        try:
            return self._rows[movie_id]
        except KeyError:
            raise MovieNotFound(movie_id) from None

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        del movie_id, before, limit
        return ()

    async def changes(self, query: ChangeQuery) -> Changes:
        return Changes((), query.after)

    async def last_change(self) -> int:
        return 0


class ReadDatabase(PartialDatabase):
    """Somebody's table, with their stores of movies and events."""

    keeps: frozenset[Kept] = frozenset({"receipts"})

    def __init__(self, rows: Mapping[int, Movie], movies: MovieRepository, events: EventLog) -> None:
        super().__init__()

        async def commit(tx: Transaction) -> None: ...

        def make(turn: Turn) -> PartialTransaction:
            assert turn.claim("all")
            return PartialTransaction(movies, events)

        self.queries = ReadQueries(rows)
        self.transactions = SerialTransactions(make, commit=commit, on_commit=self.signal.tell)


class ShelfSuite(ImageStoreContract[ShelfImages]):
    """The suite of image stores on that one."""

    @pytest.fixture
    def store(self) -> ShelfImages:
        return ShelfImages("https://images.example")

    async def content(self, store: ShelfImages, key: str) -> bytes | None:
        return b"" if await store.stat(key) else None


class TableSuite(MovieStoreContract):
    """The suite of rows on a store that has to be opened."""

    in_turn = True

    @pytest.fixture
    async def store(self) -> AsyncIterator[Database]:
        async with MemoryDatabase() as database:
            yield database


CACHES: Final[Sequence[type[Cache]]] = (DictCache,)
PUBLISHERS: Final[Sequence[type[Publisher]]] = (PrintingPublisher,)
IMAGE_STORES: Final[Sequence[type[ImageStore]]] = (ShelfImages,)
QUERIES: Final[Sequence[type[MovieQueries]]] = (ReadQueries,)
DATABASES: Final[Sequence[type[Database]]] = (MemoryDatabase, PostgresDatabase, ReadDatabase)

NO_TEXTS: type[Cache] = TextCache  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_TIME: type[Cache] = HastyCache  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_COROUTINES: type[Publisher] = BlockingPublisher  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_IMAGES: type[ImageStore] = DictCache  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
NO_END: type[Publisher] = MutePublisher  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


async def embed(database: MemoryDatabase) -> Sequence[str]:
    """Right use: what is given and returned has the types that it says."""
    catalogue = Catalogue(database.queries, database.transactions)
    heat: Movie = await catalogue.add(MovieDraft(title="Heat", release_year=1995))
    heat = await catalogue.revise(heat.id, {"genre": "Crime"}, version=heat.version)
    return [movie.title for movie in (await catalogue.find(MovieQuery(q="heat"))).data]


def run_script(lines: Sequence[str]) -> Sequence[str]:
    """The same, where nothing is awaited."""
    with blocking.Loop(timeout=5) as loop:
        database = loop.enter(MemoryDatabase())
        store = MemoryImages(secret=b"of nobody")
        catalogue = blocking.Catalogue(loop, Catalogue(database.queries, database.transactions, images=store))
        gallery = blocking.Gallery(
            loop, Gallery(database.queries, database.transactions, store, HeaderInspector())
        )
        rejected: list[int] = []
        report = catalogue.add_many(
            read_csv(lines), skip_invalid=True, on_rejected=lambda rejection: rejected.append(rejection.line)
        )
        assert len(rejected) == report.rejected_total
        movie: Movie = catalogue.revise(report.added, {"genre": "Crime"}, version=1)
        with pytest.raises(VersionConflict) as conflict:
            catalogue.remove(movie.id, version=1)
        assert conflict.value.current == movie.version
        assert gallery.max_bytes
        return [draft.title for batch in catalogue.export() for draft in batch]


async def buy(shop: psycopg.AsyncConnection[DictRow], database: PostgresDatabase, title: str) -> Movie:
    """A write in a transaction of the host's own, whatever its rows are."""
    joined = database.joined(shop)
    catalogue = Catalogue(joined.queries, joined.transactions)
    async with shop.transaction():
        movie = await catalogue.add({"title": title})
        await shop.execute("INSERT INTO licences VALUES (%s)", (movie.id,))
    return await catalogue.at(await database.committed()).get(movie.id)


def buy_waiting(loop: blocking.Loop, shop: psycopg.Connection, database: PostgresDatabase) -> Movie:
    """The same with a connection that waits."""
    joined = database.joined(shop)
    catalogue = blocking.Catalogue(loop, Catalogue(joined.queries, joined.transactions))
    with shop.transaction():
        return catalogue.add(MovieDraft(title="Heat"))


def make_app() -> Litestar:
    """The API, to be mounted or served."""
    settings = read_settings({"DATABASE_URL": "memory:", "SECRET_KEY": "k" * 32, "AUTH": "off"})
    return create_app(Container(settings=settings))


@pytest.fixture
def watchly_settings() -> Mapping[str, str]:
    """In the place of the plugin's own."""
    return {"AUTH": "off", "MAX_PAGE_LIMIT": "10"}


@pytest.fixture
def clients_of(client: TestClient[Litestar], clock: HandClock) -> TestClient[Litestar]:
    """A fixture on those of the plugin."""
    assert client.post("/api/movies", json={"title": "Heat"}).status_code == 201
    assert clock.move(timedelta(days=1)) > clock() - timedelta(days=1)
    return client


async def lose_an_answer(catalogue: Catalogue, script: Script, image_store: ImageStore) -> int:
    """What a test does that has the plugin's fixtures."""
    script.on(image_store, "images").url("key")
    script.fail_next("movies.add", TimeoutError(), after_commit=True)
    with pytest.raises(TimeoutError):
        await catalogue.add({"title": "Heat"})
    hold = script.hold_next("queries.find")
    hold.release()
    batches: AsyncGenerator[Sequence[MovieDraft], None] = catalogue.export()
    await batches.aclose()
    return len(script.called("movies.add"))


def misuse_waiting(catalogue: blocking.Catalogue, database: PostgresDatabase, clock: HandClock) -> None:
    """Wrong use of what waits; nobody runs it."""
    blocking.Catalogue(blocking.Loop(), catalogue)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    catalogue.revise(1, {"genre": "Crime"}, 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    catalogue.get(movie="7")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    database.joined("postgresql://")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    clock.move(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def misuse(catalogue: Catalogue, transactions: Transactions, heat: Movie) -> None:
    """Wrong use; nobody runs it."""
    from watchly_core import Director  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  # noqa: PLC0415 - as nobody runs it

    Catalogue(transactions, transactions)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await catalogue.get("7")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await catalogue.revise(heat.id, {}, heat.version)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await catalogue.add(MovieDraft("Heat"))  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    heat.title = "Ronin"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    movie: Movie = catalogue.get(7)  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    del movie, Director
    async with transactions() as tx:
        await tx.films.add(MovieDraft(title="Heat"))  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
