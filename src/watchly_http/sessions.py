"""The routes of signing in, staying so, and signing out; and the keys by which others know who did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from litestar import MediaType, Response, get, post
from litestar.datastructures import Cookie
from msgspec import UNSET, Meta, UnsetType

from watchly_core.errors import InvalidSignIn, NotSignedIn
from watchly_core.imports import decode_json
from watchly_core.json_members import JsonMembers
from watchly_core.sessions import REFRESH_FOR, SignedIn
from watchly_core.signing_keys import PUBLISHED_FOR
from watchly_http.addresses import client_address
from watchly_http.openapi import Operation, Parameter, Reply
from watchly_http.origins import require_own_page
from watchly_http.parts import Sessions, Settings, SigningKeys
from watchly_http.problems import reply_to_error
from watchly_http.requests import SMALL_BODY, Request, read_body, read_json, require_type
from watchly_http.routes import Routes

_TAG: Final = "People"
_PATH: Final = "/api/auth"
_COOKIE: Final = "watchly_refresh"
_FRESH: Final = {"Cache-Control": "no-store"}

_BY_COOKIE: Final = Parameter(
    _COOKIE, "The refresh token, where it travels as a cookie.", str, place="cookie"
)

_encode = msgspec.json.Encoder().encode


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs in; with `cookie` the refresh token becomes a cookie, which no script can read."""

    email: str
    password: str
    cookie: bool = False


class RefreshToken(msgspec.Struct, frozen=True, kw_only=True):
    """A refresh token; without it the cookie is meant."""

    refresh_token: str | UnsetType = UNSET


class TokenPair(msgspec.Struct, frozen=True, kw_only=True):
    """Who bears `access_token` has signed in; `refresh_token` is good for another pair, once."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a scheme
    expires_in: int
    refresh_token: str | UnsetType = UNSET

    def __repr__(self) -> str:
        """Without the tokens."""
        return "TokenPair(…)"


class KeySet(msgspec.Struct):
    """JSON Web Keys (RFC 7517)."""

    keys: Sequence[Annotated[Mapping[str, str], Meta(title="PublicKey")]]


_Handlers: TypeAlias = MutableMapping[int | type[Exception], Callable[[Request, Exception], Response[bytes]]]


def _reply_to_error(request: Request, error: Exception) -> Response[bytes]:
    reply = reply_to_error(request, error)
    reply.headers.update(_FRESH)
    return reply


_SIGNED_IN: Final = Reply("The tokens.", TokenPair, headers=("Cache-Control", "Set-Cookie"))
_PROBLEMS: Final = (
    "malformed_request",
    "malformed_json",
    "not_allowed",
    "too_large",
    "unsupported_media_type",
    "validation",
)


class SessionController(Routes):
    """Sessions."""

    path = _PATH
    exception_handlers: _Handlers = {Exception: _reply_to_error}  # noqa: RUF012 - Litestar's, and copied by it

    @post(
        "/login",
        status_code=200,
        opt=Operation(
            "signIn",
            "Sign in",
            needs=None,
            tag=_TAG,
            body={"application/json": Credentials},
            replies={200: _SIGNED_IN},
            problems=(*_PROBLEMS, "not_signed_in", "too_many_attempts"),
        ).opt(),
    )
    async def login(self, request: Request, sessions: Sessions, settings: Settings) -> Response[bytes]:
        """Begin a session.

        Browsers do well to ask for the cookie. What is wrong of the email and the password is not said.
        """
        value = await read_json(request, SMALL_BODY)
        given = JsonMembers(value, InvalidSignIn, ("email", "password", "cookie"))
        email = given.text("email", str, "", required=True)
        password = given.text("password", str, "", required=True)
        by_cookie = given.flag("cookie")
        given.check()
        if by_cookie:
            require_own_page(request, settings)
        address = client_address(request.scope, settings.trusted_proxies)
        return _reply(await sessions.sign_in(email, password, address=address), by_cookie=by_cookie)

    @post(
        "/refresh",
        status_code=200,
        opt=Operation(
            "refresh",
            "Stay signed in",
            needs=None,
            tag=_TAG,
            parameters=(_BY_COOKIE,),
            body={"application/json": RefreshToken},
            body_required=False,
            replies={200: _SIGNED_IN},
            problems=(*_PROBLEMS, "not_signed_in"),
        ).opt(),
    )
    async def refresh(self, request: Request, sessions: Sessions, settings: Settings) -> Response[bytes]:
        """Get another pair of tokens for a refresh token, the same way as that came: as a member or a cookie.

        It is good for one use; another use of it ends the session.
        """
        token, by_cookie = await _token_of(request, settings)
        if by_cookie and not token:
            # As where a browser would not keep it, because the service has no TLS.
            raise NotSignedIn("the request has neither the cookie nor a member refresh_token")
        # A cookie that is refused stays: another tab may have got the next one a moment ago.
        return _reply(await sessions.refresh(token), by_cookie=by_cookie)

    @post(
        "/logout",
        opt=Operation(
            "signOut",
            "Sign out",
            needs=None,
            tag=_TAG,
            parameters=(_BY_COOKIE,),
            body={"application/json": RefreshToken},
            body_required=False,
            replies={204: Reply("The session has ended.", headers=("Cache-Control", "Set-Cookie"))},
            problems=_PROBLEMS,
        ).opt(),
    )
    async def logout(self, request: Request, sessions: Sessions, settings: Settings) -> Response[bytes]:
        """End the session of a refresh token, be it good or not."""
        token, by_cookie = await _token_of(request, settings)
        await sessions.sign_out(token)
        cookies = [_cookie("", 0)] if by_cookie else []
        return Response(b"", status_code=204, headers=_FRESH, cookies=cookies)


class KeySetController(Routes):
    """The keys by which other services verify tokens."""

    path = "/.well-known/jwks.json"

    @get(
        "/",
        opt=Operation(
            "getKeySet",
            "Get the keys that verify access tokens",
            needs=None,
            tag=_TAG,
            replies={200: Reply("The public keys (ES256).", KeySet, headers=("Cache-Control",))},
        ).opt(),
    )
    async def keys(self, signing_keys: SigningKeys) -> Response[bytes]:
        """Get the public keys; a new one is here before it signs, long enough for those who keep them."""
        return Response(
            _encode(KeySet(await signing_keys.published())),
            media_type=MediaType.JSON,
            headers={"Cache-Control": f"public, max-age={PUBLISHED_FOR.seconds}"},
        )


async def _token_of(request: Request, settings: Settings) -> tuple[str, bool]:
    """The refresh token of a request, empty if there is none, and whether the cookie is meant."""
    if "content-type" in request.headers:
        require_type(request)
    body = await read_body(request, SMALL_BODY)
    if body:
        require_type(request)
        given = JsonMembers(decode_json(body), InvalidSignIn, ("refresh_token",))
        token = given.text("refresh_token", str, None)
        given.check()
        if token is not None:
            return token, False
    require_own_page(request, settings)
    return request.cookies.get(_COOKIE, ""), True


def _reply(signed_in: SignedIn, *, by_cookie: bool) -> Response[bytes]:
    pair = TokenPair(
        access_token=signed_in.access_token,
        expires_in=int(signed_in.expires_in.total_seconds()),
        refresh_token=UNSET if by_cookie else signed_in.refresh_token,
    )
    cookies = [_cookie(signed_in.refresh_token, int(REFRESH_FOR.total_seconds()))] if by_cookie else []
    return Response(_encode(pair), media_type=MediaType.JSON, headers=_FRESH, cookies=cookies)


def _cookie(token: str, max_age: int) -> Cookie:
    """The cookie that holds a refresh token: no script reads it, and it goes nowhere else."""
    return Cookie(_COOKIE, _PATH, token, max_age=max_age, secure=True, httponly=True, samesite="strict")
