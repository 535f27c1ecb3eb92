"""Health: whether it is alive, and how each of its parts does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
import structlog
from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import Meta
from prometheus_client.metrics_core import Metric

from watchly_adapters.cached import CachedQueries
from watchly_adapters.databases import Database
from watchly_adapters.gauges import of_health
from watchly_core.errors import Unavailable
from watchly_core.ports import Cache, ImageStore, Interruptible, RateLimiter, Ticks
from watchly_core.rates import Rate
from watchly_http.drain import draining
from watchly_http.openapi import Operation, Reply
from watchly_http.problems import KINDS, Problem, problem_for, problem_reply
from watchly_http.requests import Request
from watchly_http.routes import Routes

if TYPE_CHECKING:
    from watchly_adapters.security import PublishedKeys

#: Without this part nothing works; without any other one some things do not, or take longer.
_VITAL: Final = "database"
#: Seconds after which a part that has not answered counts as down.
_PATIENCE: Final = 2.0
#: Seconds for which the answers of all parts are kept.
_KEPT: Final = 1.0
#: Seconds for which the image store's answer is kept: a good one, and another.
_STORE_KEPT: Final = 300.0
_FAULT_KEPT: Final = 10.0
#: A key that no image has, to ask a store for.
_NO_KEY: Final = "0" * 32
#: How often the question is counted that a rate limiter is asked, whose answer does not matter.
_ONCE: Final = Rate(1, timedelta(seconds=1))
#: Health is of the moment.
_FRESH: Final = {"Cache-Control": "no-store"}

_log = structlog.stdlib.get_logger("watchly.health")
_encode = msgspec.json.Encoder().encode

Condition: TypeAlias = Annotated[Literal["up", "degraded", "down"], Meta(title="Condition")]

#: Asks a part for a sign of life; raises, whatever it is, if there is none.
Check: TypeAlias = Callable[[], Coroutine[object, object, object]]


class Health(msgspec.Struct, omit_defaults=True):
    """How the service does, and each of its parts."""

    status: Condition
    checks: Mapping[str, Condition] = {}


class Refusal(Problem):
    """Why it should get no requests: a problem that tells the state of each part, and of the service."""

    checks: Mapping[str, Condition] = {}
    draining: bool = False


def checks_of(  # noqa: PLR0913, PLR0917 - each is a part of its own
    database: Database,
    images: ImageStore | None = None,
    cached: CachedQueries | None = None,
    cache: Cache | None = None,
    keys: PublishedKeys | None = None,
    limiter: RateLimiter | None = None,
) -> dict[str, Check]:
    """What to ask the parts of a service that it has, by their names."""
    checks: dict[str, Check] = {_VITAL: database.ping}
    if images is not None:
        checks["image_store"] = _of_store(images)
    if database.replica_answers is not None:
        checks["replica"] = _of_replica(database)
    if cached is not None:
        checks["cache"] = _of_cache(cached, cache)
    if keys is not None:
        checks["keys"] = _of_keys(keys)
    if limiter is not None:
        checks["rate_limit"] = _of_limiter(limiter)
    return checks


def _of_store(images: ImageStore) -> Check:
    until, fault = float("-inf"), ""

    async def ask() -> None:
        nonlocal until, fault
        if isinstance(images, Interruptible) and images.interrupted:
            raise Unavailable("image_store", "it has failed again and again, and is not asked for a while")
        # Its answer is kept for a while: a store elsewhere counts the questions.
        if (now := time.monotonic()) >= until:
            until, fault = now + _FAULT_KEPT, "it has not answered in time"
            try:
                await images.stat(_NO_KEY)
            except Exception as error:  # noqa: BLE001 - whatever it dies of, it is not up
                fault = _reason(error)
            else:
                until, fault = now + _STORE_KEPT, ""
        if fault:
            raise Unavailable("image_store", fault)

    return ask


def _of_replica(database: Database) -> Check:
    async def ask() -> None:
        if not database.replica_answers:
            raise Unavailable("replica", "it does not answer")

    return ask


def _of_cache(cached: CachedQueries, cache: Cache | None) -> Check:
    async def ask() -> None:
        if not cached.in_use:
            raise Unavailable("cache", "it is not in use, for the changes of others are not heard of")
        if cache is not None:
            await cache.get(_NO_KEY)

    return ask


def _of_keys(keys: PublishedKeys) -> Check:
    async def ask() -> None:
        keys.check()

    return ask


def _of_limiter(limiter: RateLimiter) -> Check:
    async def ask() -> None:
        await limiter.take(_NO_KEY, _ONCE)

    return ask


class Readiness:
    """Asks the parts for signs of life, all at once, not for long, and not too often.

    Whoever asks at once, or soon after, has the same answers. A part that does not answer is not asked again
    before it has given up the question that it has: nothing piles up.

    Args:
        checks: what to ask, by the names of the parts, the database among them.
        patience: seconds after which a part that has not answered counts as down.
        ticks: how much time has passed.
    """

    def __init__(
        self, checks: Mapping[str, Check], *, patience: float = _PATIENCE, ticks: Ticks = time.monotonic
    ) -> None:
        self._checks, self._patience, self._ticks = checks, patience, ticks
        self._began = float("-inf")
        self._round: asyncio.Task[Mapping[str, Condition]] | None = None
        self._asked: dict[str, asyncio.Task[object]] = {}
        self._last: Mapping[str, Condition] = dict.fromkeys(checks, "up")

    async def checks(self) -> Mapping[str, Condition]:
        """The condition of each part by its name."""
        now = self._ticks()
        if self._round is None or (self._round.done() and now - self._began >= _KEPT):
            self._began, self._round = now, asyncio.create_task(self._ask())
        return await asyncio.shield(self._round)

    async def gauges(self) -> Iterable[Metric]:
        """The same, for a page of metrics."""
        checks = await self.checks()
        alive = {name: condition == "up" for name, condition in checks.items()}
        return of_health(alive, ready=_is_ready(checks))

    async def _ask(self) -> Mapping[str, Condition]:
        for name, check in self._checks.items():
            if name not in self._asked or self._asked[name].done():
                self._asked[name] = asyncio.create_task(check())
        await asyncio.wait(self._asked.values(), timeout=self._patience)
        self._last = {name: self._condition(name, task) for name, task in self._asked.items()}
        return self._last

    def _condition(self, name: str, task: asyncio.Task[object]) -> Condition:
        """How a part does, by its answer; what has changed is logged."""
        condition: Condition = "up"
        reason = ""
        if not task.done() or task.cancelled():
            # Not waited for: what waits for a frozen server does not end by being cancelled. And once: it may
            # take a while to end in good order, and would be cut off there.
            if not task.cancelling():
                task.cancel()
            reason = f"no answer within {self._patience:g} s"
        elif (error := task.exception()) is not None:
            reason = _reason(error)
        if reason:
            condition = "down" if name == _VITAL else "degraded"
        if condition != self._last[name]:
            tell = _log.warning if reason else _log.info
            tell("a part changed its condition", part=name, condition=condition, reason=reason or None)
        return condition


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


_READY: Final[Mapping[int, Reply]] = {
    200: Reply("It should; `degraded` means that a lesser part is down.", Health),
    503: Reply(
        "It should not: it is draining, or its database is down.",
        Refusal,
        media_types=("application/problem+json",),
        headers=("Retry-After",),
    ),
}


class HealthController(Routes):
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
        """Ask each part for a sign of life, once in a second at most."""
        return _readiness(request, await readiness.checks())

    @get(
        "/", opt=Operation("getHealth", "Is it alive and ready?", _READY, needs=None, tag="Operations").opt()
    )
    async def health(
        self, request: Request, readiness: NamedDependency[SkipValidation[Readiness]]
    ) -> Response[bytes]:
        """Say both: an answer is a sign of life."""
        return _readiness(request, await readiness.checks())


def _is_ready(checks: Mapping[str, Condition]) -> bool:
    return not draining() and checks[_VITAL] == "up"


def _readiness(request: Request, checks: Mapping[str, Condition]) -> Response[bytes]:
    if _is_ready(checks):
        status: Condition = "degraded" if "degraded" in checks.values() else "up"
        return Response(_encode(Health(status, checks)), media_type=MediaType.JSON, headers=_FRESH)
    stopping = draining()
    detail = "The service is stopping." if stopping else "The database does not answer."
    body = msgspec.structs.asdict(problem_for(request, KINDS["unavailable"], detail))
    refusal = Refusal(**body, checks=checks, draining=stopping)
    return problem_reply(refusal, {**_FRESH, "Retry-After": "1"})
