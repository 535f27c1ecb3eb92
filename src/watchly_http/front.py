"""What every request has: an id, a deadline, HEAD where there is GET, a fitting Host, and a line in the log.

`exchanges` has what belongs to one request and the reply to it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from watchly_adapters.meters import RequestMetrics
from watchly_adapters.steps import spent
from watchly_http.addresses import address_of
from watchly_http.answers import Answer
from watchly_http.deadlines import Deadlines
from watchly_http.drain import cutting
from watchly_http.exchanges import CUT, LEFT, OTHER, Exchange
from watchly_http.logs import about
from watchly_http.origins import Sharing
from watchly_http.problems import (
    busy_reply,
    failing_reply,
    late_reply,
    log_error,
    malformed_reply,
    nothing_reply,
    other_method_reply,
    stopping_reply,
)
from watchly_http.protections import Protections
from watchly_http.requests import HEAD_ONLY, PROBLEM, is_watching, lines_of, path_of

if TYPE_CHECKING:
    from watchly_adapters.tracing import Tracing

#: What no address of this service has in it, and may be a token that somebody took for a part of one.
_UNKNOWN: Final = re.compile(r"[^/]{33,}")

#: What a Host can be (RFC 9110, section 7.2), no longer than names are (RFC 1035, section 2.3.4).
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]{1,255})(:[0-9]{0,5})?", re.ASCII)

_log = structlog.stdlib.get_logger("watchly.front")


#: Tells what is wrong with the Host of a request, if anything is.
HostCheck: TypeAlias = Callable[[Scope], str | None]


class Bounds(NamedTuple):
    """What a process bears: seconds for a request, requests at once, and those of them that do not count."""

    seconds: float = 15.0
    requests: int = 1_000
    apart: Callable[[], int] = lambda: 0


_BOUNDS: Final = Bounds()
_UNPROTECTED: Final[Protections] = {None: ()}


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
        bounds: what the process bears.
        host: looks at the Host of each request.
        protections: what goes with each reply.
        sharing: what shows a reply to the page that asked for it, where it is not made by `app`.
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
        bounds: Bounds = _BOUNDS,
        host: HostCheck = lambda _: None,
        protections: Protections = _UNPROTECTED,
        sharing: Sharing = lambda _: (),
    ) -> None:
        self._app, self._metrics, self._tracing, self._timed = app, metrics, tracing, timed
        self._position = position
        self._trusted = frozenset((b"access-control-allow-origin", origin.encode()) for origin in trusted)
        self._trusted_proxies = trusted_proxies
        self._by_origin, self._protections, self._sharing = by_origin, protections, sharing
        self._bounds, self._under_way, self._host = bounds, 0, host
        self._deadlines = Deadlines(bounds.seconds, self._end)
        # Bound, for what structlog gives to a module looks for its logger again at each line.
        self._log = structlog.stdlib.get_logger("watchly.requests").bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(
            scope,
            receive,
            send,
            self._position,
            by_origin=self._by_origin,
            trusted=self._trusted,
            protections=self._protections,
        )
        about.set(exchange.about)
        if self._timed:
            exchange.spent = {}
            spent.set(exchange.spent)
        if exchange.method == "HEAD":
            scope["method"] = "GET"
            scope[HEAD_ONLY] = True  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        if self._tracing is None:
            await self._answer(exchange)
            return
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracing.request(exchange.method, carried) as span:
            exchange.trace = span.trace
            try:
                await self._answer(exchange)
            finally:
                span.end(exchange.route, exchange.status)

    async def _answer(self, exchange: Exchange) -> None:
        self._metrics.begin()
        refusal = self._refusal(exchange)
        self._under_way += refusal is None
        self._deadlines.watch(exchange)
        try:
            if refusal is None:
                await self._app(exchange.scope, exchange.receive, exchange.send)
            else:
                await self._reply(exchange, refusal)
        except asyncio.CancelledError:
            if not exchange.forgive():
                if exchange.status or exchange.late is not None or not cutting():
                    exchange.break_off(CUT if cutting() else LEFT)
                    raise
                await self._reply(exchange, stopping_reply(exchange.scope))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged here, and nowhere else
            log_error(error)
            if not exchange.status and exchange.late is None:
                await self._reply(exchange, failing_reply(exchange.scope))
        finally:
            self._deadlines.leave(exchange)
            self._under_way -= refusal is None
            if exchange.late is not None:
                exchange.forgive()
                await asyncio.wait([exchange.late])
            self._close(exchange)
            exchange.release()

    def _refusal(self, exchange: Exchange) -> Answer | None:
        """The reply to a request that goes no further."""
        if exchange.method == OTHER:
            return other_method_reply(exchange.scope)
        if "//" in exchange.scope["path"]:
            # The router passes over empty segments, and not everybody before it who hides an address does.
            return nothing_reply(exchange.scope)
        if (fault := self._host(exchange.scope)) is not None:
            return malformed_reply(exchange.scope, fault)
        room, apart = self._bounds.requests, self._bounds.apart
        # Those that arrive slowly cost no more than their connections, of which there are so many at most.
        full = self._under_way >= room and self._under_way - apart() - self._deadlines.sending >= room
        if full and not is_watching(exchange.scope["path"]):
            return busy_reply(exchange.scope)
        return None

    def _end(self, exchange: Exchange) -> None:
        """End a request that is late: by a reply, if it has none, whenever it lets go of what it is at."""
        if not exchange.begun and exchange.late is None:
            exchange.late = asyncio.create_task(self._reply_late(exchange))
        elif exchange.late is None:
            exchange.break_off(CUT)
        exchange.cancel()

    async def _reply_late(self, exchange: Exchange) -> None:
        about.set(exchange.about)
        _log.warning("a request took too long", seconds=self._bounds.seconds)
        try:
            await self._reply(exchange, late_reply(exchange.scope))
        except Exception as error:  # noqa: BLE001 - as above
            log_error(error)
        self._close(exchange)

    async def _reply(self, exchange: Exchange, answer: Answer) -> None:
        """Send a reply that the framework has no part in."""
        await exchange.reply(answer._replace(headers=(*answer.headers, *self._sharing(exchange.scope))))

    def _close(self, exchange: Exchange) -> None:
        """Count a request that has its reply, and tell of it, once."""
        if exchange.over:
            return
        exchange.end()
        seconds = time.perf_counter() - exchange.began
        self._metrics.end(exchange, seconds)
        self._tell(exchange, seconds)

    def _tell(self, exchange: Exchange, seconds: float) -> None:
        """Tell of a request that is over, whatever came of it."""
        if not self._is_logged():
            return
        line = exchange.known()
        line["path"] = _UNKNOWN.sub("…", path_of(exchange.scope))
        line["status"] = exchange.status
        line["ms"] = round(seconds * 1000, 2)
        line["bytes"] = exchange.sent
        if exchange.received:
            line["received"] = exchange.received
        line["client"] = address_of(exchange.scope, self._trusted_proxies)
        if (problem := exchange.scope.get(PROBLEM)) is not None:
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


def host_check(allowed: Collection[str]) -> HostCheck:
    """A check that a request names one host (RFC 9112, section 3.2), one of `allowed` if there are any.

    Health and metrics may be asked for under any name: who watches uses addresses.
    """

    def check(scope: Scope) -> str | None:
        # granian gives an empty one where there is none.
        hosts = [host for host in lines_of(scope, "host") if host]
        if len(hosts) != 1 and scope["http_version"] == "1.1":
            return "a request must name one Host"
        if hosts and _HOST.fullmatch(hosts[0]) is None:
            return "the Host is no name or address with a port"
        if allowed and not is_watching(scope["path"]):
            host = hosts[0].lower() if hosts else ""
            if host not in allowed and host.rpartition(":")[0] not in allowed:
                return "this service does not answer for the Host that the request names"
        return None

    return check
