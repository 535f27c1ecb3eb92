"""Limits: how many requests there may be from each account, or else from each address.

An account is counted where what a request bears is good; whoever bears nothing, or nothing that is good, is
counted by address. So nobody has more by guessing tokens, or by making many API keys.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from math import ceil
from typing import Final

import litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from watchly_adapters.meters import LimitMetrics
from watchly_core.access import Access
from watchly_core.errors import NotSignedIn, Unavailable, WatchlyError
from watchly_core.ports import RateLimiter
from watchly_core.rates import Allowance, Rate
from watchly_http.addresses import client_address
from watchly_http.authorization import bearer_of, look_up
from watchly_http.origins import Sharing
from watchly_http.problems import reply_to_error
from watchly_http.requests import RATE_LIMIT, Request, TooManyRequests, is_watching

#: How many that were refused are remembered, until they may come again.
_MOST_REFUSED: Final = 10_000


class Limits:
    """An ASGI application before `app`, which it reaches only within the limits.

    Args:
        app: what answers.
        rate: how many requests there may be.
        limiter: counts them.
        spare: counts them while that does not answer.
        refuses: whether all are refused then, where there is no spare one.
        access: tells accounts; None where nobody is asked who they are.
        trusted_proxies: those that are believed in where a request comes from.
        sharing: what shows a reply to the page that asked for it.
        metrics: counts what was not counted.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        app: ASGIApp,
        rate: Rate,
        limiter: RateLimiter,
        *,
        spare: RateLimiter | None,
        refuses: bool,
        access: Access | None,
        trusted_proxies: tuple[str, ...],
        sharing: Sharing,
        metrics: LimitMetrics,
    ) -> None:
        self._app, self._rate, self._limiter = app, rate, limiter
        self._spare, self._refuses, self._access, self._metrics = spare, refuses, access, metrics
        self._trusted_proxies, self._sharing = trusted_proxies, sharing
        window = round(rate.window.total_seconds())
        self._policy = (b"ratelimit-policy", f'"default";q={rate.most};w={window}'.encode())
        #: Until when whoever was refused is refused, without another look: nobody gets more before that.
        self._refused: OrderedDict[str, float] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before anything of it is looked at."""
        if scope["type"] == ScopeType.HTTP and is_counted(scope["path"]) and not _is_preflight(scope):
            try:
                await self._count(scope)
            except WatchlyError as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _count(self, scope: HTTPScope) -> None:
        address = client_address(scope, self._trusted_proxies)
        key = await self._account(scope, address) or address
        self._require(key, scope)
        try:
            allowance = await self._limiter.take(key, self._rate)
        except Unavailable:
            self._metrics.failed()
            if self._spare is None and self._refuses:
                raise
            if self._spare is None:
                self._tell(scope)
                return
            allowance = await self._spare.take(key, self._rate)
        if not allowance.granted:
            self._refused[key] = time.monotonic() + allowance.ends_in
            self._refused.move_to_end(key)
            if len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)
            raise self._refusal(allowance.ends_in, scope)
        self._tell(scope, allowance)

    async def _account(self, scope: HTTPScope, address: str) -> str | None:
        """The account that a request is from, if it bears what is good."""
        if self._access is None:
            return None
        try:
            bearer = bearer_of(scope)
            if bearer is None:
                return None
            actor = self._access.recent(bearer)
            if actor is None:
                # Who guesses has the looks that the address has requests, and no more.
                self._require(address, scope)
                actor = await look_up(scope, self._access, bearer)
        except (NotSignedIn, Unavailable):
            return None
        return actor.name if actor.user_id is None else f"user:{actor.user_id}"

    def _require(self, key: str, scope: HTTPScope) -> None:
        """Refuse whoever was refused before, and does not have more yet."""
        until = self._refused.get(key)
        if until is not None and (left := until - time.monotonic()) > 0:
            raise self._refusal(left, scope)

    def _refusal(self, seconds: float, scope: HTTPScope) -> TooManyRequests:
        self._tell(scope, Allowance(granted=False, left=0, ends_in=seconds))
        return TooManyRequests(max(1, ceil(seconds)))

    def _tell(self, scope: HTTPScope, allowance: Allowance | None = None) -> None:
        """Have the reply say how many are left (draft-ietf-httpapi-ratelimit-headers), if that is known."""
        headers = [self._policy]
        if allowance is not None:
            left = b'"default";r=%d;t=%d' % (allowance.left, ceil(allowance.ends_in))
            headers.append((b"ratelimit", left))
        scope[RATE_LIMIT] = headers  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys

    async def _refuse(self, error: WatchlyError, scope: HTTPScope, receive: Receive, send: Send) -> None:
        request: Request = litestar.Request(scope, receive)
        problem = reply_to_error(request, error)
        # Litestar, which would do that, does not see it.
        problem.headers.update({name.decode(): value.decode() for name, value in self._sharing(scope)})
        await problem.to_asgi_response(app=None, request=request)(scope, receive, send)


def is_counted(path: str) -> bool:
    """Whether requests to an address are counted."""
    return not is_watching(path)


def _is_preflight(scope: HTTPScope) -> bool:
    """Whether a browser asks what it may send (Fetch, section 3.3.2), which is no request of its page.

    It never says who its user is: whoever does has that looked at, and is counted.
    """
    if scope["method"] != "OPTIONS":
        return False
    names = {name for name, _ in scope["headers"]}
    return {b"origin", b"access-control-request-method"} <= names and b"authorization" not in names
