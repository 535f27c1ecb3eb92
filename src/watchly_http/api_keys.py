"""The routes of API keys: everybody's own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from litestar import MediaType, Response, delete, get, post
from litestar.params import FromPath

from watchly_core.api_keys import ApiKey, ApiKeyDraft, expiry_of, name_of
from watchly_core.errors import InvalidApiKey
from watchly_core.json_members import JsonMembers
from watchly_core.movies import MAX_ID, Moment
from watchly_core.people import Permission, Role, role_of
from watchly_http.authorization import actor_of
from watchly_http.openapi import Operation, Parameter, Reply
from watchly_http.parts import ApiKeys
from watchly_http.requests import SMALL_BODY, Request, clock_of, read_id, read_json
from watchly_http.routes import Routes

_TAG: Final = "People"
_KEY_ID: Final = Parameter(
    "key_id", f"The key's id: a plain decimal from 1 to {MAX_ID}.", int, 7, place="path"
)

_encode = msgspec.json.Encoder().encode


class ShownKey(msgspec.Struct, kw_only=True):
    """An API key; `prefix` is how it begins, after `watchly_`."""

    id: int
    name: str
    role: Role
    prefix: str
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None


class NewKey(ShownKey, kw_only=True):
    """A new API key; `secret` is what is sent as Bearer, and nobody can show it again."""

    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"NewKey({self.name!r})"


class ShownKeys(msgspec.Struct):
    """API keys in the order of their ids."""

    data: Sequence[ShownKey]


class ApiKeyController(Routes):
    """API keys."""

    path = "/api/api-keys"

    @get(
        "/",
        opt=Operation(
            "listApiKeys",
            "List API keys",
            needs=Permission.OWN_ACCOUNT,
            tag=_TAG,
            replies={200: Reply("Those that are not revoked.", ShownKeys)},
        ).opt(),
    )
    async def find(self, request: Request, api_keys: ApiKeys) -> Response[bytes]:
        """List one's own API keys; administrators see those of nobody as well."""
        found = await api_keys.find(actor=actor_of(request))
        return Response(_encode(ShownKeys([_shown(key) for key in found])), media_type=MediaType.JSON)

    @post(
        "/",
        opt=Operation(
            "addApiKey",
            "Add an API key",
            needs=Permission.OWN_ACCOUNT,
            tag=_TAG,
            body={"application/json": ApiKeyDraft},
            replies={201: Reply("The key, with its secret.", NewKey, headers=("Cache-Control",))},
            problems=(
                "malformed_json",
                "not_allowed",
                "not_found",
                "too_large",
                "unsupported_media_type",
                "validation",
            ),
        ).opt(),
    )
    async def add(self, request: Request, api_keys: ApiKeys) -> Response[bytes]:
        """Add a key that may do what its role may, and no more than whoever makes it."""
        draft = _draft(await read_json(request, SMALL_BODY), clock_of(request)())
        issued = await api_keys.add(draft, actor=actor_of(request))
        shown = NewKey(**msgspec.structs.asdict(_shown(issued.key)), secret=issued.secret)
        return Response(
            _encode(shown),
            status_code=201,
            media_type=MediaType.JSON,
            headers={"Cache-Control": "no-store"},
        )

    @delete(
        "/{key_id:str}",
        opt=Operation(
            "revokeApiKey",
            "Revoke an API key",
            needs=Permission.OWN_ACCOUNT,
            tag=_TAG,
            parameters=(_KEY_ID,),
            replies={204: Reply("It is good for nothing any more.")},
            problems=("not_found",),
        ).opt(),
    )
    async def revoke(self, request: Request, key_id: FromPath[str], api_keys: ApiKeys) -> None:
        """Revoke one's own key; administrators may revoke anybody's, and a key of a user itself."""
        await api_keys.revoke(read_id(key_id, "API key"), actor=actor_of(request))


def _shown(key: ApiKey) -> ShownKey:
    return ShownKey(
        id=key.id,
        name=key.name,
        role=key.role,
        prefix=key.prefix,
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
    )


def _draft(value: object, now: datetime) -> ApiKeyDraft:
    given = JsonMembers(value, InvalidApiKey, ("name", "role", "expires_at"))
    endless = given.is_null("expires_at")
    draft = ApiKeyDraft(
        name=given.text("name", name_of, "", required=True),
        role=given.text("role", role_of, Role.VIEWER, required=True),
        expires_at=None if endless else given.text("expires_at", lambda text: _expiry(text, now), None),
    )
    given.check()
    return draft


def _expiry(text: str, now: datetime) -> datetime:
    try:
        moment = msgspec.convert(text, Moment).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError("must be a time such as 2027-01-31T12:00:00Z") from None
    return expiry_of(moment, now)
