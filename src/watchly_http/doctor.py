"""`watchly doctor`: what is configured, and whether each part answers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from watchly_adapters.container import (
    make_broker,
    make_brought_broker,
    make_cache,
    make_images,
    make_limiter,
    make_published_keys,
    unwatched,
)
from watchly_adapters.databases import Kept
from watchly_adapters.postgres.migrate import pending
from watchly_adapters.postgres.pool import address, connect, translated
from watchly_adapters.postgres.reindex import waiting
from watchly_adapters.postgres.replicas import bytes_behind
from watchly_adapters.settings import Settings
from watchly_core.errors import Misconfigured, Unavailable, WatchlyError
from watchly_core.images import Image, new_key
from watchly_core.ports import Cache, RateLimiter
from watchly_core.rates import Rate
from watchly_http.running import started, traits, with_secret
from watchly_http.services import offered

#: Seconds for an answer, where no request waits for it.
_PATIENCE: Final = 5.0


def examine(settings: Settings) -> bool:
    """Print a table of the parts to stdout; whether every one of them answers."""
    table = Table(title=f"Watchly {version('watchly')}", title_justify="left")
    for heading in ("part", "configured as", "answer"):
        table.add_column(heading, overflow="fold")
    known = _keeps(settings)
    keeps = known or frozenset()
    unneeded: tuple[str, str, Callable[[Settings], str]] = ("secret", "not needed", lambda _: "")
    parts: tuple[tuple[str, str, Callable[[Settings], str]], ...] = (
        ("database", _database(settings), _ask_database),
        *((("replica", _replica(settings), _ask_replica),) if settings.read_database_url else ()),
        *((("images", _images(settings), _ask_images),) if "images" in keeps else ()),
        ("cache", _cache(settings), _ask_cache),
        *((("rate limit", _limit(settings), _ask_limiter),) if settings.rate_limit else ()),
        ("broker", _broker(settings), _ask_broker),
        *((("broker", _brought(settings.broker_url), _ask_brought_broker),) if settings.broker_url else ()),
        ("secret", _secret(settings), _ask_secret) if settings.needs_secret(keeps) else unneeded,
        *((("keys", settings.jwks_url.partition("?")[0], _ask_keys),) if settings.jwks_url else ()),
    )
    healthy = True
    for part, configured, ask in parts:
        try:
            answer = ask(settings)
        except (WatchlyError, OSError) as error:
            healthy = False
            answer = f"FAILS: {error}"
        table.add_row(part, escape(configured), escape(answer))
    services, fault = settings.service, ""
    if known is not None:
        try:
            services = offered(settings, known)
        except Misconfigured as error:
            healthy, fault = False, f"FAILS: {error}"
    table.add_row("service", ", ".join(sorted(services)), escape(fault))
    table.add_row("sign-in", *_sign_in(settings))
    table.add_row("address", f"http://{settings.host}:{settings.port}", f"{settings.workers} workers")
    table.add_row("origins", ", ".join(settings.cors_origins) or "none", "")
    table.add_row("proxies", ", ".join(settings.trusted_proxies) or "none", "")
    Console().print(table)
    return healthy


def _keeps(settings: Settings) -> frozenset[Kept] | None:
    """What the database keeps; None where it does not say, which is told of it anyway."""
    try:
        return traits(settings).keeps
    except WatchlyError:
        return None


def _database(settings: Settings) -> str:
    if settings.in_memory:
        return "in memory"
    if settings.database_url is None:
        return f"embedded PostgreSQL in {settings.home}"
    return _server(settings.database_url) if settings.in_postgres else _brought(settings.database_url)


def _brought(url: str) -> str:
    """What another package knows: where, and not as whom."""
    scheme, _, rest = url.partition(":")
    return f"{scheme}:{rest.rpartition('@')[2]}"


def _replica(settings: Settings) -> str:
    return _server(str(settings.read_database_url))


def _server(url: str) -> str:
    try:
        return f"PostgreSQL at {address(url)}"
    except psycopg.ProgrammingError:  # what is wrong with it is said by connecting to it
        return "PostgreSQL"


def _images(settings: Settings) -> str:
    if settings.image_store_url is None:
        return "in memory" if settings.in_memory else f"files in {settings.home / 'images'}"
    scheme, _, rest = settings.image_store_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _ask_database(settings: Settings) -> str:
    if settings.in_memory:
        return "answers"
    if not settings.in_postgres:
        asyncio.run(_ping(settings))
        return "answers"
    with started(settings) as running:
        url = str(running.database_url)
        found = asyncio.run(_server_version(url))
        missing = asyncio.run(pending(url))
        rows = 0 if missing else asyncio.run(waiting(url))
    answer = f"answers: PostgreSQL {found}"
    if missing:
        answer += f", not migrated: {', '.join(missing)}"
    if rows:
        answer += f", rows that wait for `watchly reindex`: {rows}"
    return answer


def _ask_replica(settings: Settings) -> str:
    behind = asyncio.run(bytes_behind(str(settings.read_database_url), str(settings.database_url)))
    return f"answers, {behind:,} bytes behind"


async def _ping(settings: Settings) -> None:
    async with unwatched(settings).database() as database:
        await database.ping()


async def _server_version(url: str) -> str:
    with translated():
        async with await connect(url) as connection:
            cursor = await connection.execute("SHOW server_version")
            row = await cursor.fetchone()
    return str(row[0]) if row else "of an unknown version"


def _cache(settings: Settings) -> str:
    if settings.cache == "off":
        return "none"
    local = f"{settings.cache_bytes:,} bytes in each worker"
    if settings.valkey_url is None or settings.cache != "shared":
        return local
    return f"{local}, shared by {_valkey(settings.valkey_url)}"


def _valkey(url: str) -> str:
    return f"Valkey at {urlsplit(url).netloc.rpartition('@')[2]}"


def _limit(settings: Settings) -> str:
    if settings.rate_limit is None:
        return "none"
    most, window = settings.rate_limit
    where = "each worker for itself" if settings.valkey_url is None else _valkey(settings.valkey_url)
    return f"{most:,} in {window.total_seconds():g} s, counted by {where}"


def _ask_limiter(settings: Settings) -> str:
    limiter = make_limiter(settings, patience=_PATIENCE)
    if limiter is None or settings.valkey_url is None:
        return ""
    asyncio.run(_count_for_a_moment(limiter))
    return "counts"


async def _count_for_a_moment(limiter: RateLimiter) -> None:
    rate, key = Rate(1, timedelta(minutes=1)), f"doctor:{uuid4().hex}"
    try:
        if [(await limiter.take(key, rate)).granted for _ in range(2)] != [True, False]:
            raise Unavailable("rate_limit", "it does not count")
    finally:
        await limiter.close()


def _ask_cache(settings: Settings) -> str:
    cache = make_cache(settings)
    if cache is None:
        return ""
    asyncio.run(_keep_for_a_moment(cache))
    return "keeps what is put"


async def _keep_for_a_moment(cache: Cache) -> None:
    key = f"watchly:doctor:{uuid4().hex}"
    try:
        await cache.put(key, b"", timedelta(seconds=5))
        if await cache.get(key) is None:
            raise Unavailable("cache", "it does not keep what is put")
    finally:
        await cache.close()


def _broker(settings: Settings) -> str:
    servers = (
        server.rpartition("@")[2].rpartition("/")[2] for server in (settings.nats_url or "").split(",")
    )
    return f"NATS at {', '.join(servers)}" if settings.nats_url else "none"


def _ask_brought_broker(settings: Settings) -> str:
    make_brought_broker(settings, str(settings.broker_url))
    return "is known"


def _ask_broker(settings: Settings) -> str:
    if settings.nats_url is None:
        return ""
    asyncio.run(make_broker(settings.nats_url).ping())
    return "answers"


def _secret(settings: Settings) -> str:
    if settings.secret_key or _is_elsewhere(settings):
        return "SECRET_KEY"
    return "made at each start" if settings.in_memory else f"{settings.home / 'secret_key'}, made once"


def _ask_secret(settings: Settings) -> str:
    if _is_elsewhere(settings) and not settings.secret_key:
        raise Misconfigured("it is missing, and DATABASE_URL is set")
    if settings.in_memory or settings.jwks_url or not settings.in_postgres:
        return ""
    with started(with_secret(settings)) as running:
        if asyncio.run(pending(str(running.database_url))):
            return ""
        opened, found = asyncio.run(_opened(running))
    if found and not opened:
        raise Misconfigured(f"it opens none of {found} signing keys, and what they signed is refused")
    return f"opens {opened} of {found} signing keys" if found else "no signing keys yet"


async def _opened(settings: Settings) -> tuple[int, int]:
    container = unwatched(settings)
    async with container.database():
        return await container.signing_keys().opened()


def _ask_keys(settings: Settings) -> str:
    keys = make_published_keys(settings)
    if keys is None:
        return ""
    asyncio.run(keys.fetch())
    return f"answers with {keys.known}"


def _is_elsewhere(settings: Settings) -> bool:
    return settings.database_url is not None and not settings.in_memory


def _sign_in(settings: Settings) -> tuple[str, str]:
    if not settings.auth:
        return "off", "everybody may do everything"
    reading = "public" if settings.public_read else "for who is known"
    return "on", f"reading is {reading}, registration {settings.registration}"


def _ask_images(settings: Settings) -> str:
    asyncio.run(_store_and_delete(settings))
    return "stores and deletes"


async def _store_and_delete(settings: Settings) -> None:
    store = make_images(msgspec.structs.replace(settings, public_url=""))
    image = Image(new_key(), 1, 1, "gif", len(_DOT))
    try:
        await store.put(image.key, io.BytesIO(_DOT), image)
    finally:
        await store.delete(image.key)


#: The smallest GIF that decoders take: one transparent dot.
_DOT = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00"
    b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
