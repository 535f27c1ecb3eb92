"""The application: Litestar, the routes, and what every request and reply has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Final

import msgspec
from litestar import Controller, Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.routes import HTTPRoute

from watchly_adapters.container import Container
from watchly_adapters.settings import Settings
from watchly_core.ports import ImageFiles, ImageNotifications
from watchly_core.threads import Threads
from watchly_http.api_keys import ApiKeyController
from watchly_http.authorization import admission
from watchly_http.changes import ChangeController, HistoryController
from watchly_http.direct import Direct
from watchly_http.feed import Feed
from watchly_http.front import Front, host_check
from watchly_http.image_files import ImageFileController
from watchly_http.images import MovieImageController
from watchly_http.metrics import MetricsController
from watchly_http.movies import GenreController, MovieController
from watchly_http.openapi import document
from watchly_http.ops import DocumentationController, HealthController, ProblemController, Readiness
from watchly_http.origins import page_check, trusted_origins
from watchly_http.people import MeController, UserController
from watchly_http.problems import KINDS, Problem, reply_to_error
from watchly_http.relaying import relaying
from watchly_http.requests import Check, Request
from watchly_http.running import caching, closing_parts
from watchly_http.sessions import KeySetController, SessionController
from watchly_http.sweeping import sweeping
from watchly_http.transfers import TransferController
from watchly_http.webhooks import NotificationController

#: Imports whose rows are read at a time; those of others wait.
_ROW_THREADS: Final = 2

_EXPOSED: Final = [
    "ETag",
    "Location",
    "X-Request-ID",
    "Retry-After",
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
    """The REST API over the parts of `container`, which live as long as the application runs."""
    settings: Settings = container.settings()
    images, gallery = container.images(), container.gallery()
    access = container.access()
    feed = Feed(container.catalogue(), container.database().signal)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            closing_parts(container),
            container.database() as database,
            caching(container.cached()),
            sweeping(database, gallery, container.catalogue(), settings),
            relaying(container, on=settings.relay),
            feed.running(),
        ):
            yield

    dependencies = {
        "settings": _fixed(settings),
        "catalogue": _fixed(container.catalogue()),
        "reading": _fixed(container.reading()),
        "gallery": _fixed(gallery),
        "feed": _fixed(feed),
        "access": _fixed(access),
        "accounts": _fixed(container.accounts()),
        "sessions": _fixed(container.sessions()),
        "api_keys": _fixed(container.api_keys()),
        "signing_keys": _fixed(container.signing_keys()),
        "row_threads": _fixed(Threads(_ROW_THREADS, "watchly-rows")),
        "import_turns": _fixed(asyncio.Semaphore(_ROW_THREADS)),
        "metrics": _fixed(container.metrics()),
        "readiness": _fixed(Readiness(container.database(), images, container.cached(), container.cache())),
    }
    routes: list[type[Controller]] = [
        MovieController,
        GenreController,
        TransferController,
        MovieImageController,
        HistoryController,
        ChangeController,
        SessionController,
        KeySetController,
        MeController,
        UserController,
        ApiKeyController,
        HealthController,
        MetricsController,
        ProblemController,
        DocumentationController,
    ]
    if isinstance(images, ImageFiles):
        routes.append(ImageFileController)
    if isinstance(images, ImageNotifications):
        routes.append(NotificationController)

    cors = _cors(settings)
    check = _checks(
        host_check(settings.allowed_hosts),
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
    app.asgi_handler = Front(
        Direct(
            app,
            check,
            reading=container.reading(),
            catalogue=container.catalogue(),
            gallery=gallery,
            settings=settings,
            serves_images=isinstance(images, ImageFiles),
        ),
        by_origin=by_origin,
        trusted=trusted_origins(settings),
        position=lambda: database.position,
    )
    statuses = {kind.code: kind.status for kind in KINDS.values()}

    @cache
    def openapi() -> bytes:
        """The document, made when it is first asked for: most processes never are."""
        return msgspec.json.encode(
            document(app.routes, Problem, statuses, version("watchly"), settings.everybody)
        )

    app.state.openapi = openapi
    return app


def _checks(*checks: Check) -> Check:
    async def check_all(request: Request) -> None:
        for check in checks:
            await check(request)

    return check_all


def _fixed(part: object) -> Provide:
    def provide() -> object:
        return part

    return Provide(provide, sync_to_thread=False)


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
