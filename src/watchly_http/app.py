"""The application: Litestar, the routes, and what every request and reply has."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Final
from uuid import uuid4

import msgspec
import structlog
from litestar import Controller, Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.enums import HttpMethod, ScopeType
from litestar.router import Router
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from watchly_adapters.container import Container
from watchly_adapters.settings import Settings
from watchly_core.ports import ImageFiles
from watchly_http.images import ImageFileController, MovieImageController
from watchly_http.movies import MovieController
from watchly_http.openapi import document
from watchly_http.ops import (
    DocumentationController,
    HealthController,
    ProblemController,
    documentation_assets,
)
from watchly_http.problems import KINDS, Problem, reply_to_error
from watchly_http.requests import REQUEST_ID, MalformedRequest, Request, allowed_methods, path_of

_log = structlog.stdlib.get_logger("watchly.requests")

#: What a client may choose as the id of its request: anything that is safe in a log.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

_EXPOSED: Final = [
    "ETag",
    "Location",
    "X-Request-ID",
    "Retry-After",
    "Preference-Applied",
    "Idempotency-Replayed",
    "Watchly-Position",
]
_ALLOWED: Final = ["Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "Prefer"]


def create_app(container: Container) -> Litestar:
    """The REST API over the parts of `container`, which live as long as the application runs."""
    settings: Settings = container.settings()
    images = container.images()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with container.database():
            yield

    dependencies = {
        "settings": _fixed(settings),
        "catalogue": _fixed(container.catalogue()),
        "gallery": _fixed(container.gallery()),
        "database": _fixed(container.database()),
        "images": _fixed(images),
    }
    routes: list[type[Controller] | Router] = [
        MovieController,
        MovieImageController,
        HealthController,
        ProblemController,
        DocumentationController,
        documentation_assets(),
    ]
    if isinstance(images, ImageFiles):
        dependencies["files"] = _fixed(images)
        routes.append(ImageFileController)

    def check_host(request: Request) -> None:
        host = request.headers.get("host", "").lower()
        if host.rpartition(":")[0] not in settings.allowed_hosts and host not in settings.allowed_hosts:
            raise MalformedRequest("this service does not answer for the host that the request names")

    app = Litestar(
        routes,
        before_request=check_host if settings.allowed_hosts else None,
        dependencies=dependencies,
        lifespan=[lifespan],
        exception_handlers={Exception: reply_to_error},
        cors_config=_cors(settings) if settings.cors_origins else None,
        openapi_config=None,
        logging_config=None,
    )
    app.asgi_handler = _Front(app.asgi_handler)
    statuses = {kind.code: kind.status for kind in KINDS.values()}
    app.state.openapi = msgspec.json.encode(document(app.routes, Problem, statuses, version("watchly")))
    return app


def _fixed(part: object) -> Provide:
    def provide() -> object:
        return part

    return Provide(provide, sync_to_thread=False)


def _cors(settings: Settings) -> CORSConfig:
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=_ALLOWED,
        expose_headers=_EXPOSED,
    )


class _Front:
    """What every request has: an id, HEAD wherever there is GET, and a line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope[REQUEST_ID] = request_id  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        method = scope["method"]
        bodyless = method == HttpMethod.HEAD
        if bodyless:
            scope["method"] = HttpMethod.GET
        status = 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                if method == HttpMethod.OPTIONS and status == HTTPStatus.NO_CONTENT:
                    headers = _with_all_methods(headers, scope)
                message["headers"] = headers
            elif bodyless and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await self._app(scope, receive, finish)
        finally:
            _log.info(
                "request",
                method=str(method),
                path=path_of(scope),
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 2),
                request_id=request_id,
            )


def _with_all_methods(headers: list[tuple[bytes, bytes]], scope: Scope) -> list[tuple[bytes, bytes]]:
    # Litestar's own answer to OPTIONS names the methods of one handler only.
    if not any(name == b"allow" for name, _ in headers):
        return headers
    allow = ", ".join(allowed_methods(scope)).encode()
    return [(name, allow if name == b"allow" else value) for name, value in headers]


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return uuid4().hex
