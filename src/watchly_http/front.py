"""What every request has: an id, HEAD wherever there is GET, a fitting Host, and a line in the log.

`exchanges` has what belongs to one request and the reply to it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from watchly_adapters.meters import RequestMetrics
from watchly_adapters.steps import spent
from watchly_http.addresses import address_of
from watchly_http.drain import cutting
from watchly_http.exchanges import CUT, LEFT, Exchange
from watchly_http.logs import about
from watchly_http.problems import failing_reply, log_error, stopping_reply
from watchly_http.requests import HEAD_ONLY, PROBLEM, MalformedRequest, Request, lines_of, path_of

if TYPE_CHECKING:
    from watchly_adapters.tracing import Tracing

#: What no address of this service has in it, and may be a token that somebody took for a part of one.
_UNKNOWN: Final = re.compile(r"[^/]{33,}")


class Front:
    """An ASGI application around `app` that gives every request what the module's docstring says.

    Args:
        app: what answers.
        by_origin: whether replies differ by Origin, so that caches must keep them apart.
        trusted: the origins whose pages may send cookies, and read the replies.
        trusted_proxies: those that are believed in where a request comes from.
        position: where all that was written can be seen, for the replies that tell it.
        metrics: counts the requests.
        tracing: makes spans of them, if there is any.
        timed: whether replies tell what took how long.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        app: ASGIApp,
        *,
        by_origin: bool,
        trusted: Collection[str] = (),
        trusted_proxies: tuple[str, ...] = (),
        position: Callable[[], str | None] = lambda: None,
        metrics: RequestMetrics,
        tracing: Tracing | None = None,
        timed: bool = False,
    ) -> None:
        self._app, self._metrics, self._tracing, self._timed = app, metrics, tracing, timed
        self._position = position
        self._trusted = frozenset((b"access-control-allow-origin", origin.encode()) for origin in trusted)
        self._trusted_proxies = trusted_proxies
        self._by_origin = by_origin
        # Bound, for what structlog gives to a module looks for its logger again at each line.
        self._log = structlog.stdlib.get_logger("watchly.requests").bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(
            scope, receive, send, self._position, by_origin=self._by_origin, trusted=self._trusted
        )
        about.set(exchange.about)
        if self._timed:
            exchange.spent = {}
            spent.set(exchange.spent)
        if exchange.method == "HEAD":
            scope["method"] = "GET"
            scope[HEAD_ONLY] = True  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        if self._tracing is None:
            await self._answer(exchange, scope)
            return
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracing.request(exchange.method, carried) as span:
            exchange.trace = span.trace
            try:
                await self._answer(exchange, scope)
            finally:
                span.end(exchange.route, exchange.status)

    async def _answer(self, exchange: Exchange, scope: HTTPScope) -> None:
        self._metrics.begin()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if exchange.status or not cutting():
                exchange.break_off(CUT if cutting() else LEFT)
                raise
            await exchange.reply(stopping_reply(scope))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged here, and nowhere else
            log_error(error)
            if not exchange.status:
                await exchange.reply(failing_reply(scope))
        finally:
            exchange.end()
            seconds = time.perf_counter() - exchange.began
            self._metrics.end(exchange, seconds)
            self._tell(exchange, scope, seconds)

    def _tell(self, exchange: Exchange, scope: Scope, seconds: float) -> None:
        """Tell of a request that is over, whatever came of it."""
        if not self._is_logged():
            return
        line = exchange.known()
        line["path"] = _UNKNOWN.sub("…", path_of(scope))
        line["status"] = exchange.status
        line["ms"] = round(seconds * 1000, 2)
        line["bytes"] = exchange.sent
        if exchange.received:
            line["received"] = exchange.received
        line["client"] = address_of(scope, self._trusted_proxies)
        if (problem := scope.get(PROBLEM)) is not None:
            line["problem"] = problem
        if exchange.ending:
            line["ending"] = exchange.ending
        self._log.info("request", **line)

    def _is_logged(self) -> bool:
        """Whether anybody wants the lines of requests, which take a while to make."""
        # Whoever embeds this may have configured loggers of another kind: of the standard library, or others
        # still, which see for themselves.
        enabled = getattr(self._log, "is_enabled_for", None) or getattr(self._log, "isEnabledFor", None)
        return enabled is None or bool(enabled(logging.INFO))


def host_check(allowed: Collection[str]) -> Callable[[Request], Awaitable[None]]:
    """A check that a request names one host (RFC 9112, section 3.2), one of `allowed` if there are any.

    Health and metrics may be asked for under any name: who watches uses addresses.
    """

    # Asynchronous without need: Litestar would run it in a thread, for every request.
    async def check(request: Request) -> None:
        # granian gives an empty one where there is none.
        hosts = [host for host in lines_of(request, "host") if host]
        if len(hosts) != 1 and request.scope["http_version"] == "1.1":
            raise MalformedRequest("a request must name one Host")
        if allowed and not request.scope["path"].startswith(("/health", "/metrics")):
            host = hosts[0].lower() if hosts else ""
            if host not in allowed and host.rpartition(":")[0] not in allowed:
                raise MalformedRequest("this service does not answer for the Host that the request names")

    return check
