"""A plugin of pytest: a catalogue and its API in memory, for the tests of those who build on them.

It is asked for by ``pytest -p watchly_adapters.testing.plugin``, or by a line in ``conftest.py``::

    pytest_plugins = ["watchly_adapters.testing.plugin"]

    def test_films_are_found(client):
        client.post("/api/movies", json={"title": "Heat"})
        assert client.get("/api/movies").json()["data"][0]["title"] == "Heat"

    @pytest.mark.anyio
    async def test_a_lost_answer(catalogue, script):
        script.fail_next("movies.add", after_commit=True)
        with pytest.raises(Unavailable):
            await catalogue.add({"title": "Heat"})

    def test_a_view_of_flask(blocking_catalogue):
        heat = blocking_catalogue.add({"title": "Heat"})
        assert make_app(blocking_catalogue).test_client().get(f"/films/{heat.id}").status_code == 200

All fixtures of a test share one database, one image store, one `clock` that is moved by hand, and one
`script`, which has calls fail and remembers them. To have something else, define a fixture of that name.
`client` needs ``watchly[server]``; tests that await need anyio's plugin, which ``watchly[testing]`` brings,
and asyncio: have a fixture ``anyio_backend`` that returns "asyncio".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Final

import pytest

from watchly_adapters.databases import Database
from watchly_adapters.headers import HeaderInspector
from watchly_adapters.memory import MemoryDatabase, MemoryImages
from watchly_adapters.testing.clocks import HandClock
from watchly_adapters.testing.scripts import Script
from watchly_core import Catalogue, Gallery
from watchly_core.blocking import Catalogue as BlockingCatalogue
from watchly_core.blocking import Gallery as BlockingGallery
from watchly_core.loops import Loop
from watchly_core.ports import ImageInspector, ImageStore

if TYPE_CHECKING:
    import httpx
    from litestar import Litestar
    from litestar.testing import TestClient

    from watchly_adapters.container import Container

__all__ = [
    "async_client",
    "blocking_catalogue",
    "blocking_gallery",
    "blocking_loop",
    "catalogue",
    "client",
    "clock",
    "gallery",
    "image_keys",
    "image_store",
    "inspector",
    "movie_ids",
    "script",
    "watchly_app",
    "watchly_container",
    "watchly_database",
    "watchly_settings",
]

_SECRET: Final = "a secret that is known to everybody: it is for tests alone"  # noqa: S105 - as it says
_ADDRESS: Final = "http://testserver.local"


@pytest.fixture
def clock() -> HandClock:
    """The present time of all use cases: it stands still until the test moves it."""
    return HandClock()


@pytest.fixture
def script() -> Script:
    """Has calls of the database and of the image store fail, holds them, and remembers them."""
    return Script()


@pytest.fixture
def movie_ids() -> Iterable[int]:
    """The ids of the movies that are added, in turn."""
    return count(1)


@pytest.fixture
def image_keys() -> Callable[[], str]:
    """What makes the key of each image: 32 hexadecimal digits, here a number that counts up from 1."""
    numbers = count(1)
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def watchly_database(script: Script, movie_ids: Iterable[int]) -> Database:
    """The database, which is empty at the start of each test."""
    return script.on_database(MemoryDatabase(movie_ids))


@pytest.fixture
def image_store(script: Script) -> ImageStore:
    """The image store, which is empty at the start of each test."""
    return script.on(MemoryImages(secret=_SECRET.encode()), "image_store")


@pytest.fixture
def inspector() -> ImageInspector:
    """What looks into images: at their headers alone, which takes no library and no time."""
    return HeaderInspector()


@pytest.fixture
def catalogue(watchly_database: Database, image_store: ImageStore, clock: HandClock) -> Catalogue:
    """The use cases on movies."""
    return Catalogue(watchly_database.queries, watchly_database.transactions, images=image_store, clock=clock)


@pytest.fixture
def gallery(
    watchly_database: Database,
    image_store: ImageStore,
    inspector: ImageInspector,
    clock: HandClock,
    image_keys: Callable[[], str],
) -> Gallery:
    """The use cases on images."""
    return Gallery(
        watchly_database.queries,
        watchly_database.transactions,
        image_store,
        inspector,
        clock=clock,
        keys=image_keys,
    )


@pytest.fixture
def blocking_loop() -> Iterator[Loop]:
    """Where what is called without awaiting is run: an event loop in a thread, which ends with the test."""
    with Loop() as loop:
        yield loop


@pytest.fixture
def blocking_catalogue(blocking_loop: Loop, catalogue: Catalogue) -> BlockingCatalogue:
    """The use cases on movies, for what waits: Flask, Django, scripts, and tests that do not await."""
    return BlockingCatalogue(blocking_loop, catalogue)


@pytest.fixture
def blocking_gallery(blocking_loop: Loop, gallery: Gallery) -> BlockingGallery:
    """The use cases on images, likewise."""
    return BlockingGallery(blocking_loop, gallery)


@pytest.fixture
def watchly_settings() -> Mapping[str, str]:
    """Settings of the API, as in the environment of ``watchly serve``, which is not looked at.

    By themselves nobody is asked who they are.
    """
    return {"AUTH": "off"}


@pytest.fixture
def watchly_container(  # noqa: PLR0913, PLR0917 - each part is a fixture of its own
    watchly_database: Database,
    image_store: ImageStore,
    inspector: ImageInspector,
    clock: HandClock,
    image_keys: Callable[[], str],
    watchly_settings: Mapping[str, str],
) -> Container:
    """The parts of the API."""
    with _needing("server"):
        from dependency_injector import providers

        from watchly_adapters.container import Container
        from watchly_adapters.settings import read_settings
    defaults = {"DATABASE_URL": "memory:", "SECRET_KEY": _SECRET, "SWEEP_INTERVAL": "0"}
    container = Container(settings=read_settings({**defaults, **watchly_settings}))
    container.database.override(providers.Object(watchly_database))
    container.images.override(providers.Object(image_store))
    container.inspector.override(providers.Object(inspector))
    container.clock.override(providers.Object(clock))
    container.ticks.override(providers.Object(clock.ticks))
    container.image_keys.override(providers.Object(image_keys))
    return container


@pytest.fixture
def watchly_app(watchly_container: Container) -> Litestar:
    """The API as an ASGI application."""
    with _needing("server"):
        from watchly_http.app import create_app
    return create_app(watchly_container)


@pytest.fixture
def client(watchly_app: Litestar) -> Iterator[TestClient[Litestar]]:
    """A client of the API, for tests that do not await; it is httpx's, with the application behind it.

    The application runs in a thread of its own: ``client.blocking_portal.call(function)`` awaits there.
    """
    with _needing("server", "testing"):
        from litestar.testing import TestClient
    with TestClient(watchly_app, base_url=_ADDRESS) as client:
        yield client


@pytest.fixture
async def async_client(watchly_app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API in the event loop of a test that awaits, where several requests can be under way.

    What goes on beside requests, such as the feed of changes, does not run.
    """
    with _needing("server", "testing"):
        import httpx
    transport = httpx.ASGITransport(watchly_app)  # type: ignore[arg-type]  # Litestar's are narrower
    async with httpx.AsyncClient(transport=transport, base_url=_ADDRESS) as client:
        yield client


@contextmanager
def _needing(*extras: str) -> Iterator[None]:
    """Say which extras a fixture needs, where what they bring is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        wanted = ",".join(extras)
        pytest.fail(f"this fixture needs {missing.name}: pip install 'watchly[{wanted}]'", pytrace=False)
