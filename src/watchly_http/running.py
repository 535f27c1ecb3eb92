"""What commands run on: a database that is there and migrated, and the parts over it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from watchly_adapters.databases import EVERYTHING, Kept
from watchly_adapters.postgres import migrate
from watchly_adapters.settings import Settings
from watchly_core.errors import Misconfigured
from watchly_core.ports import Closable, RateLimiter

if TYPE_CHECKING:
    from watchly_adapters.cached import CachedQueries
    from watchly_adapters.container import Container


@contextmanager
def started(settings: Settings) -> Iterator[Settings]:
    """Settings that name a database which runs: the embedded one is started, or joined, for the block."""
    with ExitStack() as stack:
        if settings.database_url is None:
            from watchly_adapters.embedded import EmbeddedPostgres

            url = stack.enter_context(EmbeddedPostgres(settings.home))
            settings = msgspec.structs.replace(settings, database_url=url)
        yield settings


@contextmanager
def running_database(settings: Settings) -> Iterator[tuple[Settings, list[str]]]:
    """Settings that name a database which runs and is migrated, and the migrations that took.

    What another package brings migrates itself.
    """
    with started(settings) as running:
        yield running, asyncio.run(migrate(str(running.database_url))) if settings.in_postgres else []


class Traits(NamedTuple):
    """What a database tells of itself."""

    keeps: frozenset[Kept]
    for_one_process: bool


def traits(settings: Settings) -> Traits:
    """What the database that settings name tells of itself; one of another package is opened for that.

    Raises:
        Misconfigured, Unavailable: it cannot be opened.
    """
    if not settings.is_brought:
        return Traits(EVERYTHING, for_one_process=settings.in_memory)
    return asyncio.run(_traits(settings))


async def _traits(settings: Settings) -> Traits:
    from watchly_adapters.container import unwatched

    async with unwatched(settings).database() as database:
        return Traits(database.keeps, for_one_process=database.for_one_process)


def with_secret(settings: Settings) -> Settings:
    """Settings with a secret if they need one: their own, or the one that the embedded home keeps.

    Raises:
        Misconfigured: there is none, and only whoever runs the database can say which.
    """
    if settings.secret_key is not None or not settings.needs_secret(traits(settings).keeps):
        return settings
    if settings.in_memory:
        secret = secrets.token_urlsafe(32)
    elif settings.database_url is None:
        from watchly_adapters.embedded import secret_key

        secret = secret_key(settings.home)
    else:
        raise Misconfigured(
            "SECRET_KEY is missing, and DATABASE_URL is set; an example: the output of `openssl rand -hex 32`"
        )
    return msgspec.structs.replace(settings, secret_key=secret)


def serving(settings: Settings, stack: ExitStack) -> tuple[Settings, Callable[[], None] | None]:
    """The settings of a service whose database runs while `stack` is open, with a secret.

    With them comes what to call now and then, if anything, so that this database goes on running.
    """
    keep: Callable[[], None] | None = None
    settings = with_secret(settings)
    if settings.database_url is None:
        from watchly_adapters.embedded import EmbeddedPostgres

        server = EmbeddedPostgres(settings.home)
        keep = server.revive
        settings = msgspec.structs.replace(settings, database_url=stack.enter_context(server))
    if settings.in_postgres:
        settings, _ = stack.enter_context(running_database(settings))
    return settings, keep


@asynccontextmanager
async def entered(settings: Settings, *, is_watched: bool = False) -> AsyncIterator[Container]:
    """The parts that `settings` call for, with the database open while the block runs."""
    from watchly_adapters.container import Container, unwatched

    container = Container(settings=settings) if is_watched else unwatched(settings)
    async with closing_parts(container), container.database():
        yield container


def showing_metrics(container: Container) -> AbstractContextManager[None]:
    """Serve the page of metrics during the block where METRICS_PORT says so, for what serves nothing else.

    Raises:
        Misconfigured: nothing can listen there.
    """
    settings: Settings = container.settings()
    if settings.metrics_port is None:
        return nullcontext()
    return container.metrics().served(settings.host, settings.metrics_port)


def caching(cached: CachedQueries | None) -> AbstractAsyncContextManager[None]:
    """Read through the cache during the block, if there is one."""
    return nullcontext() if cached is None else cached.running()


@asynccontextmanager
async def limiting(limiter: RateLimiter | None) -> AsyncIterator[None]:
    """Give back, after the block, what counts requests, if anything does."""
    try:
        yield
    finally:
        if limiter is not None:
            await limiter.close()


@asynccontextmanager
async def closing_parts(container: Container) -> AsyncIterator[None]:
    """Close, after the block, the parts that hold connections or processes of their own."""
    try:
        yield
    finally:
        for provider in (container.images, container.inspector, container.tracing):
            if provider.initialized or provider.last_overriding is not None:
                part: object = provider()
                if isinstance(part, Closable):
                    # In a thread, for a process may have to be waited for.
                    await asyncio.to_thread(part.close)
