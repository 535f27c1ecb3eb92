"""The application: Litestar, the routes, and what every request and reply has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Final

import msgspec
from litestar import Controller, Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.routes import HTTPRoute

from watchly_adapters.container import Container, show_backlog
from watchly_adapters.databases import WORDS
from watchly_adapters.settings import Settings
from watchly_http.authorization import admission
from watchly_http.direct import Direct
from watchly_http.examples import EXAMPLES
from watchly_http.feed import Feed
from watchly_http.fetching import fetching
from watchly_http.front import Bounds, Front, host_check
from watchly_http.health import HealthController, Readiness, checks_of
from watchly_http.limits import Limits, is_counted
from watchly_http.metrics import MetricsController
from watchly_http.openapi import document
from watchly_http.ops import PAGE_POLICY, DocumentationController, ProblemController
from watchly_http.origins import Sharing, page_check, sharing, trusted_origins
from watchly_http.problems import KINDS, Problem, reply_to_error
from watchly_http.protections import protections
from watchly_http.relaying import relaying
from watchly_http.requests import Check, Request
from watchly_http.routes import PROVIDES
from watchly_http.running import caching, closing_parts, limiting
from watchly_http.services import NEEDS, SERVICES, offered

_EXPOSED: Final = [
    "ETag",
    "Location",
    "X-Request-ID",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Preference-Applied",
    "Idempotency-Replayed",
    "Watchly-Image",
    "Watchly-Position",
    "Upload-Offset",
    "Content-Range",
]
_ALLOWED: Final = [
    "Authorization",
    "Content-Range",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "Watchly-Position",
    "X-Request-ID",
]


def create_app(container: Container) -> Litestar:
    """The REST API over the parts of `container`, which live as long as the application runs.

    Only what SERVICE names is mounted, and what nothing of that uses is not made.
    """
    settings: Settings = container.settings()
    access, keys = container.access(), container.published_keys()
    keeps = container.database().keeps
    names = offered(settings, keeps)
    mounted = [mount(container) for name, mount in SERVICES.items() if name in names]
    parts = {name: part for each in mounted for name, part in each.parts.items()}
    cached = container.cached() if "reading" in parts else None
    limiter = container.limiter()
    if settings.relay:
        container.dispatch()  # what it lacks is said before anything starts

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            closing_parts(container),
            container.database(),
            caching(cached),
            limiting(limiter),
            fetching(keys if settings.auth else None),
            relaying(container, on=settings.relay),
            AsyncExitStack() as stack,
        ):
            for each in mounted:
                if each.beside is not None:
                    await stack.enter_async_context(each.beside())
            yield

    checks = checks_of(
        container.database(),
        container.images() if "catalogue" in parts and "images" in keeps else None,
        cached,
        None if cached is None else container.cache(),
        keys if settings.auth else None,
        limiter if settings.valkey_url is not None else None,
    )
    readiness = Readiness(checks)
    metrics = container.metrics()
    metrics.requests.join()
    metrics.also(readiness.gauges)
    show_backlog(metrics, container.database())
    dependencies = {
        name: _fixed(part)
        for name, part in {
            **parts,
            "settings": settings,
            "access": access,
            "metrics": metrics,
            "readiness": readiness,
        }.items()
    }
    routes: list[type[Controller]] = [
        *(controller for each in mounted for controller in each.controllers),
        HealthController,
        MetricsController,
        ProblemController,
        DocumentationController,
    ]

    cors = _cors(settings)
    check = _checks(
        *(() if settings.auth else (page_check(settings, cors.is_origin_allowed),)),
        admission(access, asked=settings.auth),
    )
    app = Litestar(
        routes,
        before_request=check,
        dependencies=dependencies,
        lifespan=[lifespan],
        exception_handlers={Exception: reply_to_error},
        cors_config=cors if settings.cors_origins else None,
        openapi_config=None,
        logging_config=None,
    )
    _provide_in_turn(app)
    by_origin = bool(settings.cors_origins) and "*" not in settings.cors_origins
    database = container.database()
    if "gallery" in parts:
        app.asgi_handler = Direct(
            app,
            check,
            reading=container.reading(),
            catalogue=container.catalogue(),
            gallery=container.gallery() if "images" in keeps else None,
            settings=settings,
        )
    shared: Sharing = sharing(cors) if settings.cors_origins else lambda _: ()
    if limiter is not None and settings.rate_limit is not None:
        app.asgi_handler = Limits(
            app.asgi_handler,
            settings.rate_limit,
            limiter,
            spare=container.spare_limiter(),
            refuses=settings.rate_limit_fallback == "refuse",
            access=access if settings.auth else None,
            trusted_proxies=settings.trusted_proxies,
            sharing=shared,
            metrics=metrics.limits,
        )
    app.asgi_handler = Front(
        app.asgi_handler,
        by_origin=by_origin,
        trusted=trusted_origins(settings),
        trusted_proxies=settings.trusted_proxies,
        position=lambda: database.position,
        metrics=metrics.requests,
        tracing=container.tracing(),
        timed=settings.server_timing,
        bounds=Bounds(
            settings.request_timeout.total_seconds(),
            settings.max_requests,
            feed.count if isinstance(feed := parts.get("feed"), Feed) else int,
        ),
        host=host_check(settings.allowed_hosts),
        protections=protections(settings.public_url, PAGE_POLICY),
        sharing=shared,
    )
    statuses = {kind.code: kind.status for kind in KINDS.values()}

    def is_limited(path: str) -> bool:
        return limiter is not None and is_counted(path)

    @cache
    def openapi() -> bytes:
        """The document, made when it is first asked for: most processes never are."""
        return msgspec.json.encode(
            document(
                app.routes, Problem, statuses, EXAMPLES, version("watchly"), settings.everybody, is_limited
            )
        )

    app.state.openapi = openapi
    app.state.clock = container.clock()
    app.state.lacking = " and ".join(f"no {WORDS[kept]}" for kept in NEEDS.values() if kept not in keeps)
    return app


def _checks(*checks: Check) -> Check:
    async def check_all(request: Request) -> None:
        for check in checks:
            await check(request)

    return check_all


def _fixed(part: object) -> Provide:
    def provide() -> object:
        return part

    provided = Provide(provide, sync_to_thread=False)
    provided.parsed_fn_signature = PROVIDES
    return provided


def _provide_in_turn(app: Litestar) -> None:
    """Have a handler's parts looked up one after another: they are there, and tasks cost more than that.

    Litestar starts a group of tasks for them, which takes longer than all the rest of its way to a handler.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, model in route.route_handler_map.values():
                model.dependency_batches = [{part} for batch in model.dependency_batches for part in batch]


def _cors(settings: Settings) -> CORSConfig:
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=_ALLOWED,
        expose_headers=_EXPOSED,
    )
