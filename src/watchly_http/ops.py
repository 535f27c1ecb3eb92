"""The routes for those who run it and those who integrate it: health, problems, documentation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

import litestar_offline_docs
import msgspec
import structlog
from litestar import Controller, MediaType, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, SkipValidation

from watchly_adapters.cached import CachedQueries
from watchly_adapters.container import Database
from watchly_core.errors import NotFound
from watchly_core.ports import Cache, ImageStore, Interruptible
from watchly_http.drain import draining
from watchly_http.openapi import OPEN, Operation, Parameter, Reply
from watchly_http.problems import KINDS, Kind, Problem, problem_for, problem_reply
from watchly_http.requests import Request

#: Seconds after which a part that has not answered counts as down.
_CHECK_TIMEOUT: Final = 2.0
#: A key that no image has, to ask a store for.
_NO_KEY: Final = "0" * 32

#: Seconds for which the image store's answer is kept.
_STORE_KEPT: Final = 300.0
#: Health is of the moment.
_FRESH: Final = {"Cache-Control": "no-store"}

_log = structlog.stdlib.get_logger("watchly.health")
_encode = msgspec.json.Encoder().encode

Condition: TypeAlias = Literal["up", "degraded", "down"]


class Health(msgspec.Struct, omit_defaults=True):
    """How the service does, and each of its parts."""

    status: Condition
    checks: Mapping[str, Condition] = {}


class Kinds(msgspec.Struct):
    """The problems that replies can name."""

    data: list[Kind]


class Refusal(Problem):
    """Why it should get no requests: a problem that tells the state of each part."""

    checks: Mapping[str, Condition] = {}


class Readiness:
    """Asks the parts for signs of life, all at once and not for long.

    Without the database nothing works; without the image store some things do not; without the replica or
    the cache the database has more to do.
    """

    def __init__(
        self,
        database: Database,
        images: ImageStore,
        cached: CachedQueries | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._database = database
        self._images, self._cached, self._cache = images, cached, cache
        self._stored: tuple[float, Condition] = (0.0, "up")

    async def checks(self) -> dict[str, Condition]:
        """The condition of each part by its name."""
        database, store = await asyncio.gather(_ask(self._database.ping(), "down"), self._image_store())
        checks: dict[str, Condition] = {"database": database, "image_store": store}
        if (answers := self._database.replica_answers) is not None:
            checks["replica"] = "up" if answers else "degraded"
        if self._cached is not None:
            checks["cache"] = await self._condition_of(self._cached)
        return checks

    async def _condition_of(self, cached: CachedQueries) -> Condition:
        if not cached.in_use:
            return "degraded"
        return "up" if self._cache is None else await _ask(self._cache.get(_NO_KEY), "degraded")

    async def _image_store(self) -> Condition:
        if isinstance(self._images, Interruptible) and self._images.interrupted:
            return "degraded"
        # Its answer is kept for a while: a store elsewhere counts the questions.
        if (now := time.monotonic()) >= self._stored[0]:
            self._stored = (now + _STORE_KEPT, await _ask(self._images.stat(_NO_KEY), "degraded"))
        return self._stored[1]


async def _ask(sign_of_life: Awaitable[object], otherwise: Condition) -> Condition:
    try:
        await asyncio.wait_for(sign_of_life, _CHECK_TIMEOUT)
    except Exception as error:  # noqa: BLE001 - whatever a part dies of, it is not up
        _log.warning("no sign of life", condition=otherwise, reason=str(error) or type(error).__name__)
        return otherwise
    return "up"


_READY: Final[Mapping[int, Reply]] = {
    200: Reply("It should; `degraded` means that a lesser part is down.", Health),
    503: Reply(
        "It should not: it is draining, or its database is down.",
        Refusal,
        media_types=("application/problem+json",),
        headers=("Retry-After",),
    ),
}


class HealthController(Controller):
    """Health."""

    path = "/health"

    @get(
        "/live",
        opt=Operation(
            "getLiveness", "Is it alive?", {200: Reply("It is.", Health)}, needs=None, tag="Operations"
        ).opt(),
    )
    async def live(self) -> Response[bytes]:
        """Answer without touching anything else."""
        return Response(_encode(Health("up")), media_type=MediaType.JSON, headers=_FRESH)

    @get(
        "/ready",
        opt=Operation("getReadiness", "Should it get requests?", _READY, needs=None, tag="Operations").opt(),
    )
    async def ready(
        self, request: Request, readiness: NamedDependency[SkipValidation[Readiness]]
    ) -> Response[bytes]:
        """Ask each part for a sign of life."""
        return _readiness(request, await readiness.checks())

    @get(
        "/", opt=Operation("getHealth", "Is it alive and ready?", _READY, needs=None, tag="Operations").opt()
    )
    async def health(
        self, request: Request, readiness: NamedDependency[SkipValidation[Readiness]]
    ) -> Response[bytes]:
        """Say both: an answer is a sign of life."""
        return _readiness(request, await readiness.checks())


def _readiness(request: Request, checks: dict[str, Condition]) -> Response[bytes]:
    if not draining() and checks["database"] == "up":
        status: Condition = "degraded" if "degraded" in checks.values() else "up"
        return Response(_encode(Health(status, checks)), media_type=MediaType.JSON, headers=_FRESH)
    detail = "The service is stopping." if draining() else "The database does not answer."
    body = msgspec.structs.asdict(problem_for(request, KINDS["unavailable"], detail))
    return problem_reply(Refusal(**body, checks=checks), {**_FRESH, "Retry-After": "1"})


class ProblemController(Controller):
    """What the codes of problems mean."""

    path = "/problems"

    @get(
        "/",
        opt=Operation(
            "listProblems",
            "List the problems",
            {200: Reply("All of them.", Kinds)},
            needs=None,
            tag="Operations",
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
            needs=None,
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

    @get("/openapi.json", opt=OPEN, sync_to_thread=True)
    def openapi(self, state: State) -> Response[bytes]:
        """The OpenAPI document."""
        return Response(state.openapi(), media_type=MediaType.JSON)

    @get("/docs", opt=OPEN)
    async def docs(self) -> Response[str]:
        """A page to read and try the API with; it loads nothing from elsewhere."""
        return Response(_PAGE, media_type=MediaType.HTML)

    @get("/docs/assets/{name:str}", opt=OPEN, sync_to_thread=True)
    def asset(self, name: FromPath[str]) -> Response[bytes]:
        """The script and the style of that page, from a wheel."""
        if name not in _ASSETS:
            raise NotFound("the documentation has no such file")
        content = Path(litestar_offline_docs.__file__).with_name("static").joinpath(name).read_bytes()
        return Response(content, media_type=_ASSETS[name], headers={"Cache-Control": "max-age=86400"})


_ASSETS: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Watchly API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<div id="api"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null})
</script>
</html>
"""
