"""The routes for those who run it and those who integrate it: health, problems, documentation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import litestar_offline_docs
import msgspec
from litestar import Controller, MediaType, Response, get
from litestar.datastructures import State
from litestar.params import FromPath
from litestar.router import Router
from litestar.static_files import create_static_files_router

from watchly_core.errors import NotFound, WatchlyError
from watchly_core.ports import ImageFiles
from watchly_http.drain import draining
from watchly_http.openapi import Operation, Parameter, Reply
from watchly_http.parts import Database, ImageStore
from watchly_http.problems import KINDS, Kind

#: Seconds after which a part that has not answered counts as down.
_CHECK_TIMEOUT: Final = 2.0
#: A key that no image has, to ask a store for.
_NO_KEY: Final = "0" * 32

_encode = msgspec.json.Encoder().encode

Condition: TypeAlias = Literal["up", "degraded", "down", "draining"]


class Health(msgspec.Struct, omit_defaults=True):
    """How the service does: `down` and `draining` mean that it should get no requests."""

    status: Condition
    checks: dict[str, Condition] = {}


class Kinds(msgspec.Struct):
    """The problems that replies can name."""

    data: list[Kind]


class HealthController(Controller):
    """Health."""

    path = "/health"

    @get(
        "/live",
        opt=Operation("getLiveness", "Is it alive?", {200: Reply("It is.", Health)}, tag="Operations").opt(),
    )
    async def live(self) -> Response[bytes]:
        """Answer without touching anything else."""
        return _health(Health("up"))

    @get(
        ["/", "/ready"],
        opt=Operation(
            "getReadiness",
            "Should it get requests?",
            {
                200: Reply("It should; `degraded` means that a lesser part is down.", Health),
                503: Reply("It should not: it is draining, or its database is down.", Health),
            },
            tag="Operations",
        ).opt(),
    )
    async def ready(self, database: Database, images: ImageStore) -> Response[bytes]:
        """Ask each part for a sign of life, all at once and not for long."""
        checks = {"database": _check(database.ping(), "down")}
        if isinstance(images, ImageFiles):
            checks["image_store"] = _check(images.stat(_NO_KEY), "degraded")
        found = dict(zip(checks, await asyncio.gather(*checks.values()), strict=True))
        if draining():
            return _health(Health("draining", found))
        worst: tuple[Condition, ...] = ("down", "degraded")
        return _health(Health(next((state for state in worst if state in found.values()), "up"), found))


async def _check(sign_of_life: Awaitable[object], otherwise: Condition) -> Condition:
    try:
        await asyncio.wait_for(sign_of_life, _CHECK_TIMEOUT)
    except (WatchlyError, TimeoutError):
        return otherwise
    return "up"


def _health(health: Health) -> Response[bytes]:
    refuse = health.status in {"down", "draining"}
    return Response(
        _encode(health),
        status_code=503 if refuse else 200,
        media_type=MediaType.JSON,
        headers={"Cache-Control": "no-store", **({"Retry-After": "1"} if refuse else {})},
    )


class ProblemController(Controller):
    """What the codes of problems mean."""

    path = "/problems"

    @get(
        "/",
        opt=Operation(
            "listProblems", "List the problems", {200: Reply("All of them.", Kinds)}, tag="Operations"
        ).opt(),
    )
    async def all(self) -> Response[bytes]:
        """List every problem that a reply can be."""
        return Response(_encode(Kinds(list(KINDS.values()))), media_type=MediaType.JSON)

    @get(
        "/{code:str}",
        opt=Operation(
            "getProblem",
            "Explain a problem",
            {200: Reply("What it means.", Kind)},
            tag="Operations",
            parameters=(Parameter("code", "The problem's code.", str, "validation", place="path"),),
            problems=("not_found",),
        ).opt(),
    )
    async def one(self, code: FromPath[str]) -> Response[bytes]:
        """Explain one problem: the address is the `type` of a problem reply."""
        if code not in KINDS:
            raise NotFound("no problem has this code")
        return Response(_encode(KINDS[code]), media_type=MediaType.JSON)


class DocumentationController(Controller):
    """The API described, for people and for programs."""

    @get("/openapi.json")
    async def openapi(self, state: State) -> Response[bytes]:
        """The OpenAPI document."""
        return Response(state.openapi, media_type=MediaType.JSON)

    @get("/docs")
    async def docs(self) -> Response[str]:
        """A page to read and try the API with; it loads nothing from elsewhere."""
        return Response(_PAGE, media_type=MediaType.HTML)


_ASSETS: Final = "/docs/assets"
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Watchly API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_ASSETS}/swagger-ui.css">
<div id="api"></div>
<script src="{_ASSETS}/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null}})
</script>
</html>
"""


def documentation_assets() -> Router:
    """The scripts and styles of the documentation page, from a wheel."""
    directory = Path(litestar_offline_docs.__file__).parent / "static"
    return create_static_files_router(_ASSETS, [directory], include_in_schema=False)
