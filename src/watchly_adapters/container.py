"""The composition root: which adapter plays which role, by the settings.

The only module that knows dependency-injector. `override` a provider to put something else in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote, urlsplit

from dependency_injector import containers, providers

from watchly_adapters.settings import MEMORY, Settings
from watchly_core import Catalogue, Gallery
from watchly_core.access import Access
from watchly_core.accounts import Accounts
from watchly_core.api_keys import ApiKeys
from watchly_core.dispatch import Dispatch
from watchly_core.errors import Misconfigured
from watchly_core.messages import Target
from watchly_core.ports import (
    Cache,
    ChangeSignal,
    ImageInspector,
    ImageStore,
    MovieQueries,
    PasswordHasher,
    PeopleQueries,
    Publisher,
    Tokens,
    Transactions,
)
from watchly_core.relays import Relay
from watchly_core.sessions import Sessions
from watchly_core.signing_keys import SigningKeys
from watchly_core.throttle import Throttle
from watchly_core.webhooks import Webhooks

if TYPE_CHECKING:
    from watchly_adapters.cached import CachedQueries
    from watchly_adapters.metrics import Metrics
    from watchly_adapters.nats import NatsPublisher

#: Where this service hears from an image store elsewhere that an upload has arrived.
NOTIFICATIONS: Final = "/webhooks/cloudinary"

_NO_PEOPLE: Final = "accounts need libraries: pip install 'watchly[people]'"


class Database(AbstractAsyncContextManager["Database"], Protocol):
    """What a database adapter offers; it is entered while the application runs."""

    @property
    def queries(self) -> MovieQueries:
        """The read side, as whoever is about to write has to see it."""
        ...

    @property
    def reads(self) -> MovieQueries:
        """The read side for others: that of a replica, where there is one."""
        ...

    @property
    def position(self) -> str | None:
        """Where all that was done here can be seen, for `MovieQueries.at`; None before anything was."""
        ...

    @property
    def replica_answers(self) -> bool | None:
        """Whether the replica answers at present; None where there is none."""
        ...

    @property
    def transactions(self) -> Transactions:
        """The write side."""
        ...

    @property
    def people(self) -> PeopleQueries:
        """The read side of people."""
        ...

    @property
    def signal(self) -> ChangeSignal:
        """Tells of new changes, those of other processes as well, while the database is entered."""
        ...

    async def identity(self) -> str:
        """The name of the catalogue: no other one has it, nor this one when it is put back to what it was.

        Raises:
            Unavailable: the database does not answer.
        """
        ...

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            Unavailable: there is none.
        """
        ...

    def alone(self, task: str) -> AbstractAsyncContextManager[bool]:
        """Whether no other process is at `task` until the block ends.

        The block is cancelled when that is not certain any more.

        Raises:
            Unavailable: the database does not answer, or that was so.
        """
        ...


def make_database(settings: Settings) -> Database:
    """The database that DATABASE_URL names; a program that runs the embedded one puts its URL there."""
    if settings.in_memory:
        from watchly_adapters.memory import MemoryDatabase

        return MemoryDatabase()
    if settings.database_url is None:
        raise Misconfigured("DATABASE_URL is not set, and nobody started the embedded database")
    from watchly_adapters.postgres import PostgresDatabase

    # All workers together stay below the 97 connections that a stock server has for users; each listens on
    # one beside its pool. Two may be held for long, by the turns of the sweeper and of the relay.
    return PostgresDatabase(
        settings.database_url,
        max_size=max(3, min(10, 97 // settings.workers - 1)),
        replica_url=settings.read_database_url,
    )


def make_images(settings: Settings) -> ImageStore:
    """The image store that IMAGE_STORE_URL or the CLOUDINARY_ variables name, else files below the home."""
    url = settings.image_store_url or (MEMORY if settings.in_memory else None)
    secret = settings.secret_key.encode() if settings.secret_key else None
    if url == MEMORY:
        from watchly_adapters.memory import MemoryImages

        return MemoryImages(base_url=settings.public_url, secret=secret)
    if url is not None and url.startswith("cloudinary:"):
        from watchly_adapters.cloudinary import CloudinaryImages

        told = f"{settings.public_url}{NOTIFICATIONS}" if settings.public_url else None
        return CloudinaryImages.from_url(url, notification_url=told)
    from watchly_adapters.filesystem import FilesystemImages

    directory = settings.home / "images" if url is None else Path(unquote(urlsplit(url).path))
    return FilesystemImages(directory, base_url=settings.public_url, secret=secret)


def make_inspector() -> ImageInspector:
    """What looks into images."""
    from watchly_adapters.pillow import PillowInspector

    return PillowInspector()


def make_hasher() -> PasswordHasher:
    """What hashes passwords."""
    try:
        from watchly_adapters.security import Argon2Hasher
    except ImportError:
        raise Misconfigured(_NO_PEOPLE) from None
    return Argon2Hasher()


def make_tokens(settings: Settings) -> Tokens:
    """What signs tokens, with keys that SECRET_KEY seals."""
    try:
        from watchly_adapters.security import SealedTokens
    except ImportError:
        raise Misconfigured(_NO_PEOPLE) from None
    if settings.secret_key is None:
        raise Misconfigured("SECRET_KEY is missing; an example: the output of `openssl rand -hex 32`")
    return SealedTokens(settings.secret_key)


def make_broker(nats_url: str) -> NatsPublisher:
    """The broker that NATS_URL names."""
    try:
        from watchly_adapters.nats import NatsPublisher
    except ImportError:
        raise Misconfigured("NATS_URL needs a library: pip install 'watchly[nats]'") from None
    return NatsPublisher(nats_url)


def make_metrics() -> Metrics:
    """What counts while the service runs."""
    from watchly_adapters.metrics import Metrics

    return Metrics()


def make_cache(settings: Settings) -> Cache | None:
    """What processes share of what they have read, if CACHE says so."""
    if settings.cache != "shared" or settings.valkey_url is None:
        return None
    try:
        from watchly_adapters.valkey import ValkeyCache
    except ImportError:
        raise Misconfigured("VALKEY_URL needs a library: pip install 'watchly[valkey]'") from None
    return ValkeyCache(settings.valkey_url)


def make_cached(
    settings: Settings, database: Database, cache: Cache | None, metrics: Callable[[], Metrics]
) -> CachedQueries | None:
    """The read side for others through a cache, if CACHE says so."""
    if settings.cache == "off":
        return None
    from watchly_adapters.cached import CachedQueries

    return CachedQueries(
        database.queries,
        database.signal,
        database.identity,
        rest=database.reads,
        shared=cache,
        room=settings.cache_bytes,
        watch=metrics().cache,
    )


def make_reading(catalogue: Catalogue, database: Database, cached: CachedQueries | None) -> Catalogue:
    """The catalogue for readers who do not write."""
    return catalogue.over(database.reads if cached is None else cached)


def make_dispatch(settings: Settings, database: Database, relay: Relay) -> Dispatch:
    """What tells the broker of NATS_URL, and all webhooks, of the changes."""
    brokers: dict[str, Callable[[], Publisher]] = {}
    if settings.nats_url is not None:
        make_broker(settings.nats_url)  # what is missing is said at the start
        brokers["nats"] = partial(make_broker, settings.nats_url)

    def webhook(target: Target) -> Publisher:
        from watchly_adapters.webhooks import WebhookPublisher

        return WebhookPublisher(target, allow_private=settings.webhook_private)

    return Dispatch(relay, database.transactions, database.signal, brokers=brokers, webhook=webhook)


class Container(containers.DeclarativeContainer):
    """Every part of a running Watchly, made once, when it is first asked for."""

    settings = providers.Dependency(instance_of=Settings)
    database = providers.Singleton(make_database, settings)
    # Resources tell whether they were made: nobody should make one at the end, only to close it.
    images = providers.Resource(make_images, settings)
    inspector = providers.Resource(make_inspector)
    catalogue = providers.Singleton(
        Catalogue,
        database.provided.queries,
        database.provided.transactions,
        images=images,
        image_grace=settings.provided.image_grace,
    )
    cache = providers.Singleton(make_cache, settings)
    metrics = providers.Singleton(make_metrics)
    cached = providers.Singleton(make_cached, settings, database, cache, metrics.provider)
    #: Over a replica or a cache, which may be a little late: for readers who do not write.
    reading = providers.Singleton(make_reading, catalogue, database, cached)
    gallery = providers.Singleton(
        Gallery,
        database.provided.queries,
        database.provided.transactions,
        images,
        inspector,
        max_bytes=settings.provided.max_image_bytes,
        grace=settings.provided.image_grace,
    )
    hasher = providers.Singleton(make_hasher)
    tokens = providers.Singleton(make_tokens, settings)
    throttle = providers.Singleton(Throttle, database.provided.transactions)
    signing_keys = providers.Singleton(
        SigningKeys, database.provided.people, database.provided.transactions, tokens
    )
    accounts = providers.Singleton(
        Accounts, database.provided.people, database.provided.transactions, hasher, throttle
    )
    sessions = providers.Singleton(
        Sessions, database.provided.people, database.provided.transactions, hasher, signing_keys, throttle
    )
    api_keys = providers.Singleton(ApiKeys, database.provided.people, database.provided.transactions)
    access = providers.Singleton(
        Access, database.provided.people, signing_keys, api_keys, everybody=settings.provided.everybody
    )
    webhooks = providers.Singleton(Webhooks, catalogue, database.provided.transactions)
    relay = providers.Singleton(
        Relay, catalogue, database.provided.transactions, source=settings.provided.public_url
    )
    dispatch = providers.Singleton(make_dispatch, settings, database, relay)
