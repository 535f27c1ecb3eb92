"""The composition root: which adapter plays which role, by the settings.

The only module that knows dependency-injector. `override` a provider to put something else in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, ParamSpec, TypeGuard, TypeVar
from urllib.parse import unquote, urlsplit

from dependency_injector import containers, providers

from watchly_adapters import plugins
from watchly_adapters.databases import Database, is_database
from watchly_adapters.settings import MEMORY, Settings
from watchly_adapters.watching import Watch, calls_of, watched
from watchly_core import Catalogue, Gallery
from watchly_core.access import Access
from watchly_core.accounts import Accounts
from watchly_core.api_keys import ApiKeys
from watchly_core.clocks import Clock, Ticks, utc_now
from watchly_core.dispatch import Dispatch
from watchly_core.errors import Misconfigured
from watchly_core.images import new_key
from watchly_core.messages import Target
from watchly_core.ports import (
    Cache,
    ImageInspector,
    ImageStore,
    MovieQueries,
    PasswordHasher,
    Publisher,
    RateLimiter,
    Tokens,
    Transactions,
)
from watchly_core.relays import Relay
from watchly_core.sessions import Sessions
from watchly_core.signing_keys import SigningKeys
from watchly_core.throttle import Throttle
from watchly_core.webhooks import Webhooks

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from watchly_adapters.cached import CachedQueries
    from watchly_adapters.metrics import Metrics
    from watchly_adapters.nats import NatsPublisher
    from watchly_adapters.security import PublishedKeys
    from watchly_adapters.tracing import Tracing

__all__ = ["Container"]

P = ParamSpec("P")
T = TypeVar("T")

#: Where this service hears from an image store elsewhere that an upload has arrived.
NOTIFICATIONS: Final = "/webhooks/cloudinary"

_NO_VALKEY: Final = "VALKEY_URL needs a library: pip install 'watchly[valkey]'"
_NO_PEOPLE: Final = "accounts need libraries: pip install 'watchly[people]'"


def make_database(settings: Settings, watch: Watch | None, metrics: Callable[[], Metrics]) -> Database:
    """The database that DATABASE_URL names; a program that runs the embedded one puts its URL there."""
    if settings.in_memory:
        from watchly_adapters.memory import MemoryDatabase

        return MemoryDatabase()
    if settings.database_url is None:
        raise Misconfigured("DATABASE_URL is not set, and nobody started the embedded database")
    if not settings.in_postgres:
        return plugins.make(plugins.MOVIE_STORES, settings.database_url, settings, is_database)
    from watchly_adapters.postgres import Limits, PostgresDatabase

    # All workers together stay below the 97 connections that a stock server has for users; each listens on
    # one beside its pool. Two may be held for long, by the turns of the sweeper and of the relay.
    database = PostgresDatabase(
        settings.database_url,
        max_size=max(3, min(10, 97 // settings.workers - 1)),
        replica_url=settings.read_database_url,
        limits=Limits.of_requests(settings.request_timeout.total_seconds()),
        watch=watch,
        on_acquired=None if watch is None else metrics().pools.acquired,
    )
    if watch is not None:
        metrics().show_pools(lambda: database.pools)
    return database


def show_backlog(metrics: Metrics, database: Database) -> None:
    """Show on the page of `metrics` what is still to be done in the background."""
    from watchly_adapters.gauges import of_backlog

    async def ask() -> Iterable[Metric]:
        return of_backlog(await database.backlogs.backlog(utc_now()))

    metrics.also(ask)


def make_watched_images(settings: Settings, watch: Watch | None) -> ImageStore:
    """The image store, whose calls are steps."""
    images = make_images(settings)
    return watched(images, watch, "image_store", calls_of(images, "image_store"))


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
    if url is not None and not url.startswith("file:"):
        return plugins.make(plugins.IMAGE_STORES, url, settings, _is_image_store)
    from watchly_adapters.filesystem import FilesystemImages

    directory = settings.home / "images" if url is None else Path(unquote(urlsplit(url).path))
    return FilesystemImages(directory, base_url=settings.public_url, secret=secret)


def _is_image_store(made: object) -> TypeGuard[ImageStore]:
    return isinstance(made, ImageStore)


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


def make_published_keys(settings: Settings) -> PublishedKeys | None:
    """The keys that are published elsewhere, if JWKS_URL says where."""
    if settings.jwks_url is None:
        return None
    try:
        from watchly_adapters.security import PublishedKeys
    except ImportError:
        raise Misconfigured(_NO_PEOPLE) from None
    return PublishedKeys(settings.jwks_url)


def make_access(  # noqa: PLR0913, PLR0917 - as it has them
    settings: Settings,
    database: Database,
    published: PublishedKeys | None,
    signing_keys: Callable[[], SigningKeys],
    api_keys: ApiKeys,
    clock: Clock,
    ticks: Ticks,
) -> Access:
    """What tells who a request is from: by keys and people of the database, or by published keys alone."""
    people = database.people if published is None else None
    # A store without people has no keys that sign, and needs no secret to seal them.
    tokens = published or (signing_keys() if "people" in database.keeps else None)
    return Access(people, tokens, api_keys, everybody=settings.everybody, clock=clock, ticks=ticks)


def make_broker(nats_url: str) -> NatsPublisher:
    """The broker that NATS_URL names."""
    try:
        from watchly_adapters.nats import NatsPublisher
    except ImportError:
        raise Misconfigured("NATS_URL needs a library: pip install 'watchly[nats]'") from None
    return NatsPublisher(nats_url)


def make_brought_broker(settings: Settings, url: str) -> Publisher:
    """The broker that BROKER_URL names, which another package brings."""
    return plugins.make(plugins.PUBLISHERS, url, settings, _is_publisher)


def _is_publisher(made: object) -> TypeGuard[Publisher]:
    return isinstance(made, Publisher)


def make_metrics() -> Metrics:
    """What counts while the service runs."""
    from watchly_adapters.metrics import Metrics

    return Metrics()


def make_tracing(settings: Settings) -> Tracing | None:
    """What makes spans, if OTEL_ variables want traces."""
    if settings.traces is None:
        return None
    try:
        from watchly_adapters import tracing
    except ImportError:
        raise Misconfigured("OTEL_ variables need a library: pip install 'watchly[otel]'") from None
    return tracing.make_tracing(settings.traces)


def make_watch(settings: Settings, metrics: Metrics, tracing: Tracing | None) -> Watch:
    """What is told of all steps."""
    from watchly_adapters.steps import Steps

    slow = settings.slow_statement.total_seconds()
    return Steps(metrics.steps, tracing, slow=slow or None, timed=settings.server_timing, tell=_tell_slow)


def _tell_slow(statement: str, seconds: float) -> None:
    fields = {"statement": statement, "ms": round(seconds * 1_000)}
    logging.getLogger("watchly.statements").warning("slow statement", extra=fields)


def use_cases(watch: Watch | None, noun: str, make: Callable[P, T], *parts: P.args, **more: P.kwargs) -> T:
    """What `make` makes of these parts, whose use cases are steps, named after `noun`."""
    made = make(*parts, **more)
    return watched(made, watch, "use_case", calls_of(made, noun))


def make_gallery(  # noqa: PLR0913, PLR0917 - as the gallery has them
    watch: Watch | None,
    queries: MovieQueries,
    transactions: Transactions,
    images: ImageStore,
    inspector: ImageInspector,
    clock: Clock,
    keys: Callable[[], str],
    max_bytes: int,
    grace: timedelta,
) -> Gallery:
    """The use cases on images, and on uploads straight to their store, which are steps."""
    gallery = use_cases(
        watch,
        "gallery",
        Gallery,
        queries,
        transactions,
        images,
        inspector,
        clock=clock,
        keys=keys,
        max_bytes=max_bytes,
        grace=grace,
    )
    watched(gallery.uploads, watch, "use_case", calls_of(gallery.uploads, "uploads"))
    return gallery


def make_cache(settings: Settings) -> Cache | None:
    """What processes share of what they have read, if CACHE says so."""
    if settings.cache != "shared" or settings.valkey_url is None:
        return None
    try:
        from watchly_adapters.valkey import ValkeyCache
    except ImportError:
        raise Misconfigured(_NO_VALKEY) from None
    return ValkeyCache(settings.valkey_url)


def make_limiter(settings: Settings, *, patience: float | None = None) -> RateLimiter | None:
    """What counts requests, if RATE_LIMIT says how many there may be: a Valkey, or else each process.

    `patience` is how many seconds a Valkey has for an answer, where that is not for a request.
    """
    if settings.rate_limit is None:
        return None
    if settings.valkey_url is None:
        from watchly_adapters.memory import MemoryRateLimiter

        return MemoryRateLimiter()
    try:
        from watchly_adapters.valkey import TIMEOUT, ValkeyRateLimiter
    except ImportError:
        raise Misconfigured(_NO_VALKEY) from None
    return ValkeyRateLimiter(settings.valkey_url, timeout=patience or TIMEOUT)


def make_spare_limiter(settings: Settings) -> RateLimiter | None:
    """What counts requests in this process while a Valkey does not, if that is how they should go on."""
    if settings.rate_limit is None or settings.rate_limit_fallback != "local":
        return None
    from watchly_adapters.memory import MemoryRateLimiter

    return MemoryRateLimiter()


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


def make_dispatch(settings: Settings, database: Database, relay: Relay, watch: Watch | None) -> Dispatch:
    """What tells the brokers of NATS_URL and BROKER_URL, and all webhooks, of the changes."""
    brokers: dict[str, Callable[[], Publisher]] = {}
    if settings.nats_url is not None:
        make_broker(settings.nats_url)  # what is missing is said at the start
        nats_url = settings.nats_url
        brokers["nats"] = lambda: _telling(make_broker(nats_url), watch, "broker")
    if settings.broker_url is not None:
        broker_url = settings.broker_url
        make_brought_broker(settings, broker_url)  # as above
        scheme = broker_url.partition(":")[0]
        brokers[scheme] = lambda: _telling(make_brought_broker(settings, broker_url), watch, "broker")

    def webhook(target: Target) -> Publisher:
        from watchly_adapters.webhooks import WebhookPublisher

        publisher = WebhookPublisher(target, allow_private=settings.webhook_private)
        return _telling(publisher, watch, "webhook")

    return Dispatch(relay, database.transactions, database.signal, brokers=brokers, webhook=webhook)


def _telling(publisher: Publisher, watch: Watch | None, target: str) -> Publisher:
    return watched(publisher, watch, "publish", {"publish": target})


class Container(containers.DeclarativeContainer):
    """Every part of a running Watchly, made once, when it is first asked for.

    ``Container(settings=settings)`` takes the settings; a part is asked for by calling its name, such as
    ``container.catalogue()``, and another one put in its place, before anybody has asked, by
    ``container.database.override(…)``. Making one raises `Misconfigured` where the settings do not do; it
    connects to nothing.
    """

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)
    #: The present time, and how much of it has passed, as all use cases have it; and the keys of images.
    clock: providers.Object[Clock] = providers.Object(utc_now)
    ticks: providers.Object[Ticks] = providers.Object(monotonic)
    image_keys: providers.Object[Callable[[], str]] = providers.Object(new_key)
    metrics: providers.Singleton[Metrics] = providers.Singleton(make_metrics)
    # Resources tell whether they were made: nobody should make one at the end, only to close it.
    tracing: providers.Resource[Tracing | None] = providers.Resource(make_tracing, settings)
    watch: providers.Singleton[Watch] = providers.Singleton(make_watch, settings, metrics, tracing)
    database: providers.Singleton[Database] = providers.Singleton(
        make_database, settings, watch, metrics.provider
    )
    images: providers.Resource[ImageStore] = providers.Resource(make_watched_images, settings, watch)
    inspector: providers.Resource[ImageInspector] = providers.Resource(make_inspector)
    catalogue: providers.Singleton[Catalogue] = providers.Singleton(
        use_cases,
        watch,
        "catalogue",
        Catalogue,
        database.provided.queries,
        database.provided.transactions,
        images=images,
        clock=clock,
        image_grace=settings.provided.image_grace,
    )
    cache: providers.Singleton[Cache | None] = providers.Singleton(make_cache, settings)
    cached: providers.Singleton[CachedQueries | None] = providers.Singleton(
        make_cached, settings, database, cache, metrics.provider
    )
    limiter: providers.Singleton[RateLimiter | None] = providers.Singleton(make_limiter, settings)
    spare_limiter: providers.Singleton[RateLimiter | None] = providers.Singleton(make_spare_limiter, settings)
    #: Over a replica or a cache, which may be a little late: for readers who do not write.
    reading: providers.Singleton[Catalogue] = providers.Singleton(make_reading, catalogue, database, cached)
    gallery: providers.Singleton[Gallery] = providers.Singleton(
        make_gallery,
        watch,
        database.provided.queries,
        database.provided.transactions,
        images,
        inspector,
        clock,
        image_keys,
        max_bytes=settings.provided.max_image_bytes,
        grace=settings.provided.image_grace,
    )
    hasher: providers.Singleton[PasswordHasher] = providers.Singleton(make_hasher)
    tokens: providers.Singleton[Tokens] = providers.Singleton(make_tokens, settings)
    throttle: providers.Singleton[Throttle] = providers.Singleton(
        Throttle, database.provided.transactions, clock=clock
    )
    signing_keys: providers.Singleton[SigningKeys] = providers.Singleton(
        SigningKeys,
        database.provided.people,
        database.provided.transactions,
        tokens,
        clock=clock,
        ticks=ticks,
    )
    accounts: providers.Singleton[Accounts] = providers.Singleton(
        use_cases,
        watch,
        "accounts",
        Accounts,
        database.provided.people,
        database.provided.transactions,
        hasher,
        throttle,
        clock=clock,
    )
    sessions: providers.Singleton[Sessions] = providers.Singleton(
        use_cases,
        watch,
        "sessions",
        Sessions,
        database.provided.people,
        database.provided.transactions,
        hasher,
        signing_keys,
        throttle,
        clock=clock,
    )
    api_keys: providers.Singleton[ApiKeys] = providers.Singleton(
        use_cases,
        watch,
        "api_keys",
        ApiKeys,
        database.provided.people,
        database.provided.transactions,
        clock=clock,
    )
    published_keys: providers.Singleton[PublishedKeys | None] = providers.Singleton(
        make_published_keys, settings
    )
    access: providers.Singleton[Access] = providers.Singleton(
        make_access, settings, database, published_keys, signing_keys.provider, api_keys, clock, ticks
    )
    webhooks: providers.Singleton[Webhooks] = providers.Singleton(
        Webhooks, catalogue, database.provided.transactions
    )
    relay: providers.Singleton[Relay] = providers.Singleton(
        Relay,
        catalogue,
        database.provided.transactions,
        source=settings.provided.public_url,
        clock=clock,
    )
    dispatch: providers.Singleton[Dispatch] = providers.Singleton(
        make_dispatch, settings, database, relay, watch
    )


def unwatched(settings: Settings) -> Container:
    """The parts for a command, which is over before anybody looks at its metrics, and loads what it uses."""
    container = Container(settings=settings)
    container.watch.override(providers.Object(None))
    return container
