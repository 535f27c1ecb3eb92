"""A client of the REST API, on the fakes and on the real parts."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx
import msgspec
import psycopg
import pytest
from dependency_injector import providers
from httpx import Response
from litestar import Litestar
from litestar.testing import AsyncTestClient
from tests.http.signatures import remembered
from tests.legacy import leave
from tests.services import EMPTY

from watchly_adapters.container import Container
from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.postgres import migrate
from watchly_adapters.security import Argon2Hasher
from watchly_adapters.settings import MEMORY, read_settings
from watchly_core import Movie, MovieDraft
from watchly_core.images import ImageRecord
from watchly_core.ports import PasswordHasher
from watchly_http.app import create_app
from watchly_http.problems import KINDS, Problem

T = TypeVar("T")

#: What is not said otherwise.
_DEFAULTS: Final = {"DATABASE_URL": MEMORY, "AUTH": "off", "SECRET_KEY": secrets.token_hex(32)}


class Configure(Protocol):
    def __call__(self, **environment: str) -> Container: ...


class Client(AsyncTestClient[Litestar]):
    """The API over the parts of `container`; redirects are answers like any other."""

    def __init__(self, container: Container) -> None:
        super().__init__(create_app(container))
        self.follow_redirects = False
        self.container = container

    async def added(self, **members: object) -> Movie:
        """Add a movie through the API."""
        response = await self.post("/api/movies", json={"title": "Heat", **members})
        assert response.status_code == 201, response.text
        return movie_in(response)

    async def current(self, movie_id: int) -> Movie:
        """Get a movie through the API."""
        response = await self.get(f"/api/movies/{movie_id}")
        assert response.status_code == 200, response.text
        return movie_in(response)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run `function` where the application runs."""
        return self.blocking_portal.call(function)

    def adopt(self, title: str, image_url: str | None = None) -> int:
        """Store a movie as an older system might have left it; return its id."""

        async def store() -> int:
            async with self.container.database().transactions() as tx:
                movie = await tx.movies.add(MovieDraft(title="x"), datetime.now(UTC))
                old = msgspec.structs.replace(
                    movie, title=title, image_url=image_url, created_at=None, updated_at=None
                )
                await leave(tx, old)
            return movie.id

        return self.call(store)

    def ledger(self, movie_id: int) -> dict[str, ImageRecord]:
        """What is known of a movie's images."""

        async def read() -> dict[str, ImageRecord]:
            async with self.container.database().transactions() as tx:
                return {record.image.key: record for record in await tx.images.of_movie(movie_id)}

        return self.call(read)


def client_of(container: Container) -> httpx.AsyncClient:
    """A client in the loop of its test: several requests may be under way at once."""
    transport = httpx.ASGITransport(create_app(container))  # type: ignore[arg-type]  # Litestar's are narrower
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def movie_in(response: Response) -> Movie:
    return msgspec.json.decode(response.content, type=Movie)


def problem_in(response: Response, code: str) -> Problem:
    """The problem of a reply, after a check of all that problems have in common."""
    kind = KINDS[code]
    assert response.status_code == kind.status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = msgspec.json.decode(response.content, type=Problem)
    assert (found.code, found.status) == (code, kind.status)
    assert found.title == kind.title or (code == "validation" and found.title.startswith("Invalid "))
    assert found.type == f"/problems/{code}"
    assert found.detail
    assert found.instance == response.request.url.raw_path.partition(b"?")[0].decode()
    assert found.request_id == response.headers["x-request-id"]
    return found


def faults_in(response: Response, code: str = "validation") -> set[tuple[str | None, str]]:
    """Where the faults of a problem are, and which."""
    return {(fault.pointer or fault.parameter, fault.code) for fault in problem_in(response, code).errors}


@pytest.fixture(scope="session", autouse=True)
def signatures() -> Iterator[None]:
    with remembered():
        yield


class SharedInspector(PillowInspector):
    """Outlives the applications that it is lent to: its process takes longer to start than most tests."""

    def close(self) -> None:
        """Stay."""


@pytest.fixture(scope="session")
def inspector() -> Iterator[PillowInspector]:
    inspector = SharedInspector()
    yield inspector
    super(SharedInspector, inspector).close()


@pytest.fixture(scope="session")
def hasher() -> PasswordHasher:
    """Hashes passwords at next to no price; what that is for is measured elsewhere."""
    return Argon2Hasher(memory_kib=8, time_cost=1)


@pytest.fixture(params=["fakes", "real"])
def configure(
    request: pytest.FixtureRequest, tmp_path: Path, inspector: PillowInspector, hasher: PasswordHasher
) -> Configure:
    """Makes containers: of the fakes, or of PostgreSQL and a directory; nobody is asked who they are."""
    real = request.param == "real"
    database_url: str = request.getfixturevalue("database_url") if real else MEMORY
    images = (tmp_path / "images").as_uri() if real else MEMORY

    def container(**environment: str) -> Container:
        settings = read_settings(
            {
                **_DEFAULTS,
                "IMAGE_STORE_URL": images,
                "WATCHLY_HOME": str(tmp_path / "home"),
                **environment,
            }
        )
        made = Container(settings=msgspec.structs.replace(settings, database_url=database_url))
        made.inspector.override(providers.Object(inspector))
        made.hasher.override(providers.Object(hasher))
        return made

    return container


@pytest.fixture
def configure_fakes(tmp_path: Path, inspector: PillowInspector, hasher: PasswordHasher) -> Configure:
    """Makes containers of the fakes; nobody is asked who they are."""

    def container(**environment: str) -> Container:
        home = str(tmp_path / "home")
        made = Container(settings=read_settings({**_DEFAULTS, "WATCHLY_HOME": home, **environment}))
        made.inspector.override(providers.Object(inspector))
        made.hasher.override(providers.Object(hasher))
        return made

    return container


@pytest.fixture
async def client(configure: Configure) -> AsyncIterator[Client]:
    async with Client(configure()) as client:
        yield client


@pytest.fixture
async def fake_client(configure_fakes: Configure) -> AsyncIterator[Client]:
    """A client where it makes no difference what is behind the API."""
    async with Client(configure_fakes()) as client:
        yield client


@pytest.fixture(scope="session")
def running_home(reachable_directory: Path) -> Iterator[Path]:
    """An embedded home whose database runs for the whole session, so that commands join it."""
    home = reachable_directory / "cli-home"
    with EmbeddedPostgres(home):
        yield home


@pytest.fixture
def home(running_home: Path) -> Path:
    """An embedded home with nothing in it."""
    with EmbeddedPostgres(running_home) as url, psycopg.connect(url, autocommit=True) as connection:
        asyncio.run(migrate(url))  # not by the command: each process takes a second to start
        connection.execute(EMPTY)
    return running_home


@pytest.fixture
def fresh_home(reachable_directory: Path) -> Iterator[Path]:
    """A home that is not there yet."""
    home = reachable_directory / f"fresh-{uuid.uuid4().hex}"
    yield home
    shutil.rmtree(home, ignore_errors=True)
