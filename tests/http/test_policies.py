"""Who may do what: every route against everybody who could come."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest
from litestar import Litestar, get
from tests.http.cast import Cast, bearing, running
from tests.http.conftest import Configure, client_of, problem_in
from tests.http.policies import (
    CALLERS,
    EMPTY_HANDED,
    POLICIES,
    Caller,
    Least,
    expected,
    promised,
    routes,
    table,
    walk,
)

from watchly_core.people import Role
from watchly_http.app import create_app

pytestmark = pytest.mark.anyio

CLOUDINARY: Final = "cloudinary://key:secret@cloud"


class Described(msgspec.Struct):
    """What the document says of an operation."""

    security: list[dict[str, list[str]]]
    responses: dict[str, object]


class Document(msgspec.Struct):
    """The OpenAPI document, as far as it is looked at."""

    paths: dict[str, dict[str, Described]]


def unstated(app: Litestar) -> list[str]:
    """The routes that say nothing of what they take."""
    return [f"{method} {path}" for method, path, stated in routes(app) if not stated]


def test_every_route_says_what_it_takes_and_stands_in_the_table(configure_fakes: Configure) -> None:
    apps = [
        create_app(configure_fakes(AUTH="on")),
        create_app(configure_fakes(AUTH="on", IMAGE_STORE_URL=CLOUDINARY)),
    ]

    found = {f"{method} {path}" for app in apps for method, path, _ in routes(app)}

    assert [unstated(app) for app in apps] == [[], []]
    assert found == set(POLICIES)


@pytest.mark.parametrize("registration", ["open", "closed"])
@pytest.mark.parametrize("public_read", ["true", "false"])
def test_the_document_says_who_is_let_in(
    configure_fakes: Configure, public_read: str, registration: str
) -> None:
    """As the table does: who needs no token may bear one, and is told where it is not good."""
    app = create_app(configure_fakes(AUTH="on", PUBLIC_READ=public_read, REGISTRATION=registration))
    described = msgspec.json.decode(app.state.openapi(), type=Document)
    nobody, *_ = CALLERS

    assert len(described.paths) > 20
    for path, operations in described.paths.items():
        for method, operation in operations.items():
            least = promised(method.upper(), path)
            open_ = expected(
                least, nobody, public_read=public_read == "true", registration=registration == "open"
            )
            if least is Least.UNASKED:
                assert operation.security == []
                continue
            assert ({} in operation.security) == (open_ == "in"), (method, path)
            assert [list(each) for each in operation.security if each] == [["bearer"]]
            assert "401" in operation.responses
            assert open_ == "in" or "403" in operation.responses


async def test_a_route_that_says_nothing_is_found_and_let_be_by_all_but_administrators(
    configure_fakes: Configure,
) -> None:
    @get("/forgotten")
    async def forgotten() -> None:
        pass

    container = configure_fakes(AUTH="on")
    async with running(container) as (app, client):
        app.register(forgotten)
        cast = Cast(container)

        assert unstated(app) == ["GET /forgotten"]
        for role, status in ((None, 401), (Role.VIEWER, 403), (Role.EDITOR, 403), (Role.ADMIN, 200)):
            bearer = None if role is None else (await cast.member(role)).token
            for method in ("GET", "HEAD"):
                response = await client.request(method, "/forgotten", headers=bearing(bearer))
                assert response.status_code == status, (role, method)


@pytest.mark.parametrize("registration", ["open", "closed"])
@pytest.mark.parametrize("public_read", ["true", "false"])
async def test_everybody_is_let_in_where_the_table_says_so_and_nowhere_else(
    configure_fakes: Configure, public_read: str, registration: str
) -> None:
    container = configure_fakes(AUTH="on", PUBLIC_READ=public_read, REGISTRATION=registration)

    rows = await walk(container)

    print(f"\nPUBLIC_READ={public_read} REGISTRATION={registration}\n\n{table(rows)}")  # noqa: T201 - `-s` shows it
    assert len({row.route for row in rows}) > len(POLICIES)  # HEAD and OPTIONS as well
    for row in rows:
        least = promised(row.method, row.path)
        for caller in CALLERS:
            if (answer := row.answers.get(caller.name)) is None:
                continue
            verdict = expected(
                least, caller, public_read=public_read == "true", registration=registration == "open"
            )
            assert answer.verdict == verdict, (row.route, row.owner, caller.name, answer)
            if verdict != "in" or row.method in {"HEAD", "OPTIONS"} or row.route in EMPTY_HANDED:
                continue
            # To be let in means to be served, and not to fail of something else that was wrong.
            if _is_nobodys(row.route, row.owner, caller):
                assert answer.status == 404, (row.route, row.owner, caller.name, answer)
            else:
                assert answer.status < 300, (row.route, row.owner, caller.name, answer)


def _is_nobodys(route: str, owner: str, caller: Caller) -> bool:
    """Whether what a caller asks for is not there for them: the operator's account, the key of another."""
    if route in {"GET /api/me", "PUT /api/me/password"}:
        return not caller.owns
    return (route, owner) == ("DELETE /api/api-keys/{key_id}", "other") and caller.role is not Role.ADMIN


AS_JSON: Final = {"Content-Type": "application/json"}
#: Requests with everything wrong that can be, to something that is not there.
WRONG: Final = {
    "bad JSON": ("PUT", "/api/movies/999", {**AS_JSON, "If-Match": '"v7"'}, b"{"),
    "no movie": ("PUT", "/api/movies/999", AS_JSON, b'{"title": ""}'),
    "no such id": ("DELETE", "/api/movies/x", {}, b""),
    "odd If-Match": ("PATCH", "/api/movies/999", {**AS_JSON, "If-Match": "v"}, b"[]"),
    "odd type": ("POST", "/api/movies", {"Content-Type": "text/plain"}, b"Heat"),
    "no type": ("POST", "/api/movies", {}, b""),
    "odd coding": ("POST", "/api/movies", {**AS_JSON, "Content-Encoding": "gzip"}, b"{}"),
    "too large": ("POST", "/api/movies", {**AS_JSON, "Content-Length": "99999999"}, b"{}"),
    "unknown parameter": ("POST", "/api/movies/import?x=1", {"Content-Type": "text/csv"}, b"x"),
    "odd key": ("POST", "/api/movies", {**AS_JSON, "Idempotency-Key": "\t"}, b'{"title": "Heat"}'),
    "no image": ("PUT", "/api/movies/999/image", {"Content-Type": "image/png"}, b"GIF89a"),
    "no ticket": ("POST", "/api/movies/999/image/tickets/x/complete", {}, b""),
    "no user": ("PATCH", "/api/users/999", {**AS_JSON, "If-Match": "v"}, b"{"),
    "no id of a user": ("DELETE", "/api/users/x", {}, b""),
    "odd page of users": ("GET", "/api/users?limit=x", {}, b""),
    "odd user": ("POST", "/api/users", {"Content-Type": "text/plain"}, b"ada"),
    "no version": ("POST", "/api/movies/999/revert", AS_JSON, b'{"version": "1"}'),
}


@pytest.mark.parametrize(("method", "path", "headers", "content"), WRONG.values(), ids=WRONG.keys())
async def test_who_may_not_learns_of_nothing_else_that_is_wrong(
    configure_fakes: Configure, method: str, path: str, headers: dict[str, str], content: bytes
) -> None:
    container = configure_fakes(AUTH="on")
    cast = Cast(container)
    viewer, admin = await cast.member(Role.VIEWER), await cast.member(Role.ADMIN)

    async with client_of(container) as client:

        async def answer(bearer: str | None) -> tuple[int, str]:
            borne = {**headers, **bearing(bearer)}
            response = await client.request(method, path, headers=borne, content=content)
            return response.status_code, response.json()["code"]

        assert await answer(None) == (401, "not_signed_in")
        assert await answer("x") == (401, "not_signed_in")
        assert await answer(viewer.token) == (403, "not_allowed")
        assert await answer(viewer.key.secret) == (403, "not_allowed")
        assert (await answer(admin.token))[0] in {400, 404, 412, 413, 415, 422}


async def test_readers_who_may_not_learn_nothing_of_what_is_there(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on", PUBLIC_READ="false")
    movie = await container.catalogue().add({"title": "Heat"})

    async with client_of(container) as client:
        for path in (
            f"/api/movies/{movie.id}",
            "/api/movies/999",
            "/api/movies?x=1",
            "/api/movies/x/history",
        ):
            for method in ("GET", "HEAD", "OPTIONS"):
                response = await client.request(method, path, headers={"If-None-Match": '"v1"'})
                assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_key_may_do_no_more_than_its_role_nor_than_its_owner(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on")
    cast = Cast(container)
    admin, editor = await cast.member(Role.ADMIN), await cast.member(Role.EDITOR)
    lesser = await cast.key(Role.VIEWER, admin.user.actor)

    async with client_of(container) as client:
        refused = await client.post("/api/movies", json={"title": "Heat"}, headers=bearing(lesser.secret))
        problem_in(refused, "not_allowed")

        async with container.database().transactions() as tx:
            account = await tx.users.get(editor.user.id)
            demoted = msgspec.structs.replace(
                account.user, role=Role.VIEWER, version=account.user.version + 1
            )
            await tx.users.replace(msgspec.structs.replace(account, user=demoted))
        refused = await client.post("/api/movies", json={"title": "Heat"}, headers=bearing(editor.key.secret))
        problem_in(refused, "not_allowed")


async def test_keys_of_nobody_are_seen_by_administrators_only(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on")
    cast = Cast(container)
    admin = await cast.member(Role.ADMIN)
    nobodys = await cast.key(Role.ADMIN)

    async with client_of(container) as client:
        for role in (Role.VIEWER, Role.EDITOR):
            for bearer in ((await cast.key(role)).secret, await cast.system_token(role)):
                problem_in(await client.get("/api/api-keys", headers=bearing(bearer)), "not_allowed")
            member = await cast.member(role)
            shown = await client.get("/api/api-keys", headers=bearing(member.token))
            assert [key["id"] for key in shown.json()["data"]] == [member.key.key.id]
        shown = await client.get("/api/api-keys", headers=bearing(admin.token))
        assert {admin.key.key.id, nobodys.key.id} <= {key["id"] for key in shown.json()["data"]}
        assert nobodys.secret not in shown.text


async def test_where_nobody_is_asked_everybody_may_do_everything(configure_fakes: Configure) -> None:
    for row in await walk(configure_fakes(AUTH="off")):
        assert {answer.verdict for answer in row.answers.values()} == {"in"}, row
