"""Who may do what at which route: the table that is promised, and a walk along all routes that proves it.

    python -m tests.http.policies

prints what every route answers to everybody.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import httpx
import msgspec
from dependency_injector import providers
from litestar import Litestar
from litestar.routes import HTTPRoute
from tests.http.cast import PASSWORD, Cast, Member, bearing, running

from watchly_adapters.container import Container
from watchly_adapters.security import Argon2Hasher
from watchly_adapters.settings import MEMORY, read_settings
from watchly_adapters.testing import samples
from watchly_core.people import Role
from watchly_http import logs
from watchly_http.openapi import NEEDS

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
PNG: Final = samples.UPRIGHT["png"]


class Least(enum.Enum):
    """What somebody has to be at least."""

    #: Anybody, and what they bear is not looked at.
    UNASKED = "unasked"
    #: Anybody where PUBLIC_READ is on, else a viewer.
    READER = "reader"
    #: Anybody where REGISTRATION is open, else an administrator.
    NEWCOMER = "newcomer"
    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"
    #: A viewer who has signed in, and not a key of theirs, or the operator.
    SIGNED_IN = "signed_in"


#: What each route takes; one that is not here is not thought about.
POLICIES: Final[Mapping[str, Least]] = {
    "GET /api/movies": Least.READER,
    "POST /api/movies": Least.EDITOR,
    "GET /api/movies/{movie_id}": Least.READER,
    "PUT /api/movies/{movie_id}": Least.EDITOR,
    "PATCH /api/movies/{movie_id}": Least.EDITOR,
    "DELETE /api/movies/{movie_id}": Least.EDITOR,
    "GET /api/movies/export": Least.READER,
    "POST /api/movies/import": Least.EDITOR,
    "GET /api/movies/{movie_id}/history": Least.READER,
    "POST /api/movies/{movie_id}/revert": Least.EDITOR,
    "PUT /api/movies/{movie_id}/image": Least.EDITOR,
    "DELETE /api/movies/{movie_id}/image": Least.EDITOR,
    "POST /api/movies/{movie_id}/image/tickets": Least.EDITOR,
    "POST /api/movies/{movie_id}/image/tickets/{key}/complete": Least.EDITOR,
    "GET /api/genres": Least.READER,
    "GET /api/changes": Least.READER,
    "GET /api/changes/stream": Least.READER,
    "POST /api/auth/login": Least.UNASKED,
    "POST /api/auth/refresh": Least.UNASKED,
    "POST /api/auth/logout": Least.UNASKED,
    "GET /api/me": Least.VIEWER,
    "PUT /api/me/password": Least.VIEWER,
    "GET /api/users": Least.ADMIN,
    "POST /api/users": Least.NEWCOMER,
    "GET /api/users/{user_id}": Least.ADMIN,
    "PATCH /api/users/{user_id}": Least.ADMIN,
    "DELETE /api/users/{user_id}": Least.ADMIN,
    "GET /api/api-keys": Least.VIEWER,
    "POST /api/api-keys": Least.SIGNED_IN,
    "DELETE /api/api-keys/{key_id}": Least.VIEWER,
    "GET /.well-known/jwks.json": Least.UNASKED,
    "GET /images/{key}": Least.READER,
    # What is sent to these is signed.
    "PUT /images/{key}": Least.UNASKED,
    "POST /webhooks/cloudinary": Least.UNASKED,
    "GET /health": Least.UNASKED,
    "GET /health/live": Least.UNASKED,
    "GET /health/ready": Least.UNASKED,
    "GET /metrics": Least.UNASKED,
    "GET /problems": Least.UNASKED,
    "GET /problems/{code}": Least.UNASKED,
    "GET /docs": Least.UNASKED,
    "GET /docs/assets/{name}": Least.UNASKED,
    "GET /openapi.json": Least.UNASKED,
}

#: Routes to what somebody owns: they are tried with one's own, and with that of another.
OWNED: Final = frozenset({"/api/users/{user_id}", "/api/api-keys/{key_id}"})

#: Routes that let in whoever may come, and then have nothing for this walk: no such image, no signature, and
#: a stream that would not end.
EMPTY_HANDED: Final = frozenset(
    {
        "DELETE /api/movies/{movie_id}/image",
        "POST /api/movies/{movie_id}/image/tickets/{key}/complete",
        "GET /images/{key}",
        "PUT /images/{key}",
        "POST /webhooks/cloudinary",
        "GET /api/changes/stream",
    }
)


class Caller(NamedTuple):
    """Somebody who sends requests; `role` is None for whoever does not say who they are."""

    name: str
    role: Role | None = None
    by_key: bool = False
    owns: bool = True


CALLERS: Final = (
    Caller("nobody", owns=False),
    *(Caller(role.value, role) for role in Role),
    *(Caller(f"{role.value}'s key", role, by_key=True) for role in Role),
    Caller("operator's key", Role.ADMIN, by_key=True, owns=False),
    Caller("operator's token", Role.ADMIN, owns=False),
)

Verdict: TypeAlias = str  # "401", "403" or "in"


class Answer(NamedTuple):
    """What a caller was answered; `code` is that of the problem, if there is one to be seen."""

    status: int
    code: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether they were let in."""
        return str(self.status) if self.status in {401, 403} and not self.unsigned else "in"

    @property
    def unsigned(self) -> bool:
        """Whether it is the request that was refused, which is not signed as it should be."""
        return self.code == "signature_rejected"

    def __str__(self) -> str:
        return f"{self.status}*" if self.unsigned else str(self.status)


class Row(NamedTuple):
    """One route, with one's own or another's where it has an owner, and what each caller was answered."""

    method: str
    path: str
    owner: str
    answers: Mapping[str, Answer]

    @property
    def route(self) -> str:
        """By which it stands in the table."""
        return f"{self.method} {self.path}"


def expected(least: Least, caller: Caller, *, public_read: bool, registration: bool) -> Verdict:
    """What the table promises to a caller."""
    everybody = (
        least is Least.UNASKED
        or (least is Least.READER and public_read)
        or (least is Least.NEWCOMER and registration)
    )
    if everybody:
        return "in"
    if caller.role is None:
        return "401"
    if least is Least.SIGNED_IN:
        return "403" if caller.by_key and caller.owns else "in"
    needed = {Least.READER: Role.VIEWER, Least.NEWCOMER: Role.ADMIN}.get(least) or Role(least.value)
    order = list(Role)
    return "in" if order.index(caller.role) >= order.index(needed) else "403"


def promised(method: str, path: str) -> Least:
    """What the table says of a route; a HEAD is a GET, and OPTIONS is for whoever may do the first."""
    if method == "OPTIONS":
        return next(POLICIES[f"{each} {path}"] for each in METHODS if f"{each} {path}" in POLICIES)
    return POLICIES[f"{'GET' if method == 'HEAD' else method} {path}"]


def routes(app: Litestar) -> Iterator[tuple[str, str, bool]]:
    """The method and the path of every route, and whether it says what it takes."""
    for route in app.routes:
        assert isinstance(route, HTTPRoute), f"{route.path} is of a kind that nobody walks along"
        for handler in route.route_handlers:
            for method in sorted(handler.http_methods):
                if method != "OPTIONS":  # which Litestar adds
                    yield method, route.path_format, NEEDS in handler.opt


class Walk:
    """Sends every caller to every route, with a request in which all is well."""

    def __init__(self, container: Container, app: Litestar, client: httpx.AsyncClient) -> None:
        self._container, self._app, self._client = container, app, client
        self._cast = Cast(container)

    async def rows(self) -> list[Row]:
        """What came of it, in the order of the paths."""
        await self._cast.member(Role.ADMIN)  # so that no other is the last one
        ways = [(method, path) for method, path, _ in routes(self._app)]
        ways += [("HEAD", path) for method, path in ways if method == "GET"]
        ways += [("OPTIONS", path) for path in {path for _, path in ways}]
        order = (*METHODS, "HEAD", "OPTIONS")
        return [
            Row(method, path, owner, await self._answers(method, path, owner))
            for method, path in sorted(ways, key=lambda way: (way[1], order.index(way[0])))
            for owner in (("own", "other") if path in OWNED else ("",))
        ]

    async def _answers(self, method: str, path: str, owner: str) -> dict[str, Answer]:
        return {
            caller.name: await self._answer(method, path, owner, caller)
            for caller in CALLERS
            if caller.owns or owner != "own"
        }

    async def _answer(self, method: str, path: str, owner: str, caller: Caller) -> Answer:
        # Each comes with an account, a session and a key that nobody has used up.
        member = await self._cast.member(caller.role or Role.VIEWER)
        asked = await self._cast.member(Role.VIEWER) if owner == "other" else member
        headers = bearing(await self._bearer(caller, member))
        query, content = "", b""
        route = f"{method} {path}"
        if body := _BODIES.get(route):
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body(member))
        elif route in _FILES:
            headers["Content-Type"], content = _FILES[route]
        elif path.endswith("/stream") and method != "OPTIONS":
            query = "?nothing"  # which it refuses, as it does not end otherwise
        address = path.format_map(await self._places(asked)) + query
        response = await self._client.request(method, address, headers=headers, content=content)
        is_problem = bool(response.content) and response.headers["content-type"].endswith("problem+json")
        return Answer(response.status_code, response.json()["code"] if is_problem else "")

    async def _bearer(self, caller: Caller, member: Member) -> str | None:
        if caller.role is None:
            return None
        if not caller.by_key:
            return member.token if caller.owns else await self._cast.system_token(caller.role)
        return member.key.secret if caller.owns else (await self._cast.key(caller.role)).secret

    async def _places(self, member: Member) -> dict[str, object]:
        """What the parts of paths name."""
        movie = await self._container.catalogue().add({"title": "Heat"})
        return {
            "movie_id": movie.id,
            "key": "0" * 32,
            "code": "validation",
            "name": "swagger-ui.css",
            "user_id": member.user.id,
            "key_id": member.key.key.id,
        }


_BODIES: Final[Mapping[str, Callable[[Member], object]]] = {
    "POST /api/movies": lambda _: {"title": "Heat"},
    "PUT /api/movies/{movie_id}": lambda _: {"title": "Ronin"},
    "PATCH /api/movies/{movie_id}": lambda _: {"title": "Ronin"},
    "POST /api/movies/{movie_id}/revert": lambda _: {"version": 1},
    "POST /api/movies/{movie_id}/image/tickets": lambda _: {"content_type": "image/png", "bytes": len(PNG)},
    "POST /api/auth/login": lambda member: {"email": member.user.email, "password": PASSWORD},
    "POST /api/auth/refresh": lambda member: {"refresh_token": member.signed_in.refresh_token},
    "POST /api/auth/logout": lambda member: {"refresh_token": member.signed_in.refresh_token},
    "PUT /api/me/password": lambda _: {"current": PASSWORD, "new": "another incident"},
    "POST /api/users": lambda _: {"email": f"{secrets.token_hex(8)}@films.example", "password": PASSWORD},
    "PATCH /api/users/{user_id}": lambda _: {"role": "editor"},
    "POST /api/api-keys": lambda _: {"name": "import", "role": "viewer"},
}
_FILES: Final[Mapping[str, tuple[str, bytes]]] = {
    "POST /api/movies/import": ("application/x-ndjson", b'{"title": "Heat"}\n'),
    "PUT /api/movies/{movie_id}/image": ("image/png", PNG),
    "PUT /images/{key}": ("image/png", PNG),
    "POST /webhooks/cloudinary": ("application/json", b"{}"),
}


async def walk(container: Container) -> list[Row]:
    """What every route of the application over `container` answers to everybody."""
    async with running(container) as (app, client):
        return await Walk(container, app, client).rows()


def table(rows: Sequence[Row]) -> str:
    """The rows for people: 401 and 403 are for those who are not let in, but for 403* (not signed)."""
    names = [caller.name for caller in CALLERS]
    width = max(len(_label(row)) for row in rows)
    lines = ["  ".join((" " * width, *names))]
    for row in rows:
        answers = (str(row.answers.get(name, "-")) for name in names)
        cells = (answer.ljust(len(name)) for answer, name in zip(answers, names, strict=True))
        lines.append("  ".join((_label(row).ljust(width), *cells)).rstrip())
    return "\n".join(lines)


def _label(row: Row) -> str:
    return f"{row.method:7} {row.path}" + (f" ({row.owner})" if row.owner else "")


def main() -> int:
    """Print the table for a service that is open to readers, and for one that is not."""
    for public_read, registration in (("true", "open"), ("false", "closed")):
        variables = {"PUBLIC_READ": public_read, "REGISTRATION": registration}
        settings = read_settings(
            {
                "DATABASE_URL": MEMORY,
                "WATCHLY_HOME": "/nowhere",
                "SECRET_KEY": secrets.token_hex(32),
                "LOG_LEVEL": "error",
                **variables,
            }
        )
        logs.configure(settings)
        container = Container(settings=settings)
        container.hasher.override(providers.Object(Argon2Hasher(memory_kib=8, time_cost=1)))
        told = " ".join(f"{name}={value}" for name, value in variables.items())
        sys.stdout.write(f"{told}\n\n{table(asyncio.run(walk(container)))}\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
