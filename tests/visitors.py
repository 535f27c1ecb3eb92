"""People who use the REST API: their accounts, and what they send."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.cookies import Morsel, SimpleCookie
from typing import Final

import msgspec
from httpx import Response

from tests.http.conftest import Client
from watchly_core.people import Role, User, UserDraft

PASSWORD: Final = "correct horse battery"  # noqa: S105 - of nobody
COOKIE: Final = "watchly_refresh"


class Pair(msgspec.Struct, forbid_unknown_fields=True):
    """The tokens of a reply, which has no other members."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None


def email(name: str) -> str:
    return f"{name}@films.example"


def account(client: Client, name: str = "ada", role: Role = Role.VIEWER) -> User:
    """Make the account of somebody whose password is `PASSWORD`."""
    draft = UserDraft(email=email(name), password=PASSWORD, role=role)
    return client.call(lambda: client.container.accounts().add(draft))


async def login(
    client: Client,
    name: str = "ada",
    password: str = PASSWORD,
    *,
    cookie: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return await client.post(
        "/api/auth/login",
        json={"email": email(name), "password": password, **({"cookie": True} if cookie else {})},
        headers=headers,
    )


async def signed_in(
    client: Client, name: str = "ada", role: Role = Role.VIEWER
) -> tuple[User, dict[str, str]]:
    """Somebody with an account, and the header of their requests."""
    user = account(client, name, role)
    return user, bearer(pair_in(await login(client, name)).access_token)


def escaped(value: object) -> bytes:
    """The JSON of a value in ASCII alone, which can hold what UTF-8 cannot."""
    return json.dumps(value).encode()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def pair_in(response: Response) -> Pair:
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return msgspec.json.decode(response.content, type=Pair)


def user_in(response: Response) -> User:
    user = msgspec.json.decode(response.content, type=User)
    own = f"{user.id}." if response.request.url.path == "/api/me" else ""
    assert response.headers["etag"] == f'"{own}v{user.version}"'
    return user


def cookie_in(response: Response) -> Morsel[str]:
    """The one cookie that a reply sets."""
    (line,) = response.headers.get_list("set-cookie")
    (morsel,) = SimpleCookie(line).values()
    return morsel


def with_cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}
