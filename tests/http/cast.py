"""People for tests of who may do what: each with an account, a session and an API key of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from typing import Final, NamedTuple

import httpx
from litestar import Litestar

from watchly_adapters.container import Container
from watchly_core.api_keys import ApiKeyDraft, IssuedKey
from watchly_core.clocks import utc_now
from watchly_core.people import SYSTEM, Actor, Role, User, UserDraft
from watchly_core.sessions import SignedIn
from watchly_core.tokens import Claims
from watchly_http.app import create_app

PASSWORD: Final = "a curious incident"  # noqa: S105 - of nobody


class Member(NamedTuple):
    """Somebody with an account, who has signed in and has an API key of their own role."""

    user: User
    signed_in: SignedIn
    key: IssuedKey

    @property
    def token(self) -> str:
        """What they bear."""
        return self.signed_in.access_token


class Cast:
    """Makes people at the parts of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._numbers = count(1)

    async def member(self, role: Role) -> Member:
        """Somebody new of this role."""
        number = next(self._numbers)
        email = f"{role.value}-{number}@films.example"
        user = await self._container.accounts().add(UserDraft(email=email, password=PASSWORD, role=role))
        return Member(user, await self.signed_in(user), await self.key(role, user.actor))

    async def signed_in(self, user: User) -> SignedIn:
        """Another session of somebody, begun from an address of its own."""
        address = f"2001:db8::{next(self._numbers):x}"
        return await self._container.sessions().sign_in(user.email, PASSWORD, address=address)

    async def key(self, role: Role, actor: Actor = SYSTEM) -> IssuedKey:
        """A new API key, of the operator if no actor is named."""
        return await self._container.api_keys().add(ApiKeyDraft(name="a key", role=role), actor=actor)

    async def system_token(self, role: Role = Role.ADMIN, good_for: timedelta = timedelta(hours=1)) -> str:
        """A token of the service itself, as `watchly token` prints it."""
        now = utc_now()
        sign = await self._container.signing_keys().signer()
        return sign(Claims(SYSTEM.name, role, now, now + good_for))


def bearing(bearer: str | None) -> dict[str, str]:
    """The header of a request that bears this."""
    return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}


@asynccontextmanager
async def running(container: Container) -> AsyncIterator[tuple[Litestar, httpx.AsyncClient]]:
    """The application over these parts while it runs, and a client in the loop of its test."""
    app = create_app(container)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # Litestar's are narrower
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield app, client
