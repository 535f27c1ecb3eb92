"""Authorization: who a request is from, and that they may do what its route does (RFC 6750).

What a route needs is said beside it, by its `Operation`; the use cases check it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final

from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.types import HTTPScope, Scope

from watchly_core.access import Access
from watchly_core.errors import NotSignedIn, Unavailable, WatchlyError, alike
from watchly_core.people import Actor, Permission, stranger
from watchly_http.openapi import NEEDS
from watchly_http.requests import METHODS, Request, lines_of

#: Where the actor stands in the scope of a request, and why nobody bears what it bears.
_ACTOR: Final = "watchly.actor"
_NOBODY: Final = "watchly.nobody"
_SCHEME: Final = "bearer"
_STRANGER: Final = stranger().name


def admission(access: Access, *, asked: bool) -> Callable[[Request], Awaitable[None]]:
    """A check that whoever sends a request may do what it asks for; `actor_of` tells them from then on.

    What a request bears is looked at if it is `asked` at all, also where strangers may: a token that is not
    good any more is told, and not passed over.
    """

    async def admit(request: Request) -> None:
        needs = _needs(request.scope)
        if needs is None:
            return
        bearer = bearer_of(request.scope) if asked else None
        if bearer is None:
            actor = access.stranger
        else:
            actor = access.recent(bearer) or await look_up(request.scope, access, bearer)
        request.scope[_ACTOR] = actor  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        actor.require(needs)

    return admit


def actor_of(request: Request) -> Actor:
    """Who has sent a request, to a route that needs a permission."""
    actor = request.scope.get(_ACTOR)
    if not isinstance(actor, Actor):
        raise TypeError("the route asks for nobody")
    return actor


def sender_of(scope: Scope) -> str:
    """The name of whoever has sent a request, as events have it; of a stranger where nobody was asked."""
    actor = scope.get(_ACTOR)
    return actor.name if isinstance(actor, Actor) else _STRANGER


async def look_up(scope: HTTPScope, access: Access, bearer: str) -> Actor:
    """Who bears this, looked up once for a request: what came of that is known to whoever asks again.

    Raises:
        NotSignedIn, Unavailable: see `Access.actor`.
    """
    if isinstance(error := scope.get(_NOBODY), WatchlyError):
        raise alike(error)
    try:
        return await access.actor(bearer)
    except WatchlyError as error:
        # Not the one that is raised: it holds the frames that hold the scope.
        scope[_NOBODY] = alike(error)  # type: ignore[typeddict-unknown-key] # ASGI lets applications add keys
        raise


def bearer_of(scope: Scope) -> str | None:
    """The token or API key that a request bears; None if it names none.

    Raises:
        NotSignedIn: it says something else of who sends it.
    """
    lines = lines_of(scope, "authorization")
    if not lines:
        return None
    scheme, _, bearer = lines[0].partition(" ")
    bearer = bearer.strip(" ")
    if len(lines) > 1 or scheme.lower() != _SCHEME or not bearer:
        raise NotSignedIn("the Authorization must be one, of the scheme Bearer")
    return bearer


def still_may(request: Request, access: Access, needs: Permission) -> Callable[[], Awaitable[bool]] | None:
    """Asks whether whoever has sent a request may do it still, for replies that take long.

    None where everybody may.
    """
    bearer = None if access.stranger.may(needs) else bearer_of(request.scope)
    if bearer is None:
        return None

    async def ask() -> bool:
        try:
            actor = access.recent(bearer) or await access.actor(bearer)
        except NotSignedIn:
            return False
        except Unavailable:
            return True  # nobody knows; it is asked again
        return actor.may(needs)

    return ask


def _needs(scope: HTTPScope) -> Permission | None:
    """What the route of a request needs; a route that says nothing is for administrators."""
    if NEEDS in scope["route_handler"].opt:
        return _stated(scope["route_handler"].opt[NEEDS])
    if scope["method"] == HttpMethod.OPTIONS:
        # What may be done at an address may be known by whoever may do the first of it, which is to read.
        return next(_of_address(scope), Permission.MANAGE_PEOPLE)
    return Permission.MANAGE_PEOPLE


def _of_address(scope: HTTPScope) -> Iterator[Permission | None]:
    for method in METHODS:
        with suppress(HTTPException):
            handler = scope["litestar_app"].asgi_router.handle_routing(path=scope["path"], method=method)[1]
            if NEEDS in handler.opt:
                yield _stated(handler.opt[NEEDS])


def _stated(needs: object) -> Permission | None:
    # Litestar keeps values of any type; another one than these is a mistake, which opens nothing.
    return needs if needs is None or isinstance(needs, Permission) else Permission.MANAGE_PEOPLE
