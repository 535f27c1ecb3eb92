"""Accounts, over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

import pytest
from httpx import Response
from tests.http.conftest import Client, Configure, client_of, faults_in, problem_in
from tests.visitors import PASSWORD, account, bearer, email, escaped, login, pair_in, signed_in, user_in

from watchly_core.api_keys import ApiKeyDraft
from watchly_core.people import Role, User
from watchly_core.throttle import PER_ACCOUNT_AND_ADDRESS, SIGN_UPS

pytestmark = pytest.mark.anyio

NEW: Final = "quite another horse"


@pytest.fixture
async def closed(configure: Configure) -> AsyncIterator[Client]:
    """A service that asks who one is."""
    async with Client(configure(AUTH="on")) as client:
        yield client


@pytest.fixture
async def closed_fake(configure_fakes: Configure) -> AsyncIterator[Client]:
    """The same where it makes no difference what is behind it."""
    async with Client(configure_fakes(AUTH="on")) as client:
        yield client


def as_admin(client: Client) -> dict[str, str]:
    """The header of an administrator who has no account."""
    draft = ApiKeyDraft(name="tests", role=Role.ADMIN)
    return bearer(client.call(lambda: client.container.api_keys().add(draft)).secret)


# ---- one's own account ----


async def test_everybody_sees_their_own_account(closed: Client) -> None:
    user, ada = await signed_in(closed)

    response = await closed.get("/api/me", headers=ada)

    assert user_in(response) == user
    assert set(response.json()) == {"id", "email", "role", "created_at", "version"}
    assert response.json()["created_at"].endswith("Z")
    tag = response.headers["etag"]
    unchanged = await closed.get("/api/me", headers={**ada, "If-None-Match": tag})
    assert (unchanged.status_code, unchanged.headers["etag"]) == (304, tag)
    assert (await closed.head("/api/me", headers=ada)).status_code == 200


async def test_what_a_cache_keeps_of_one_account_is_not_taken_for_another(closed_fake: Client) -> None:
    _, ada = await signed_in(closed_fake)
    eve, hers = await signed_in(closed_fake, "eve")
    kept = await closed_fake.get("/api/me", headers=ada)

    # As a browser asks in which ada has used the service before.
    response = await closed_fake.get("/api/me", headers={**hers, "If-None-Match": kept.headers["etag"]})

    assert user_in(response) == eve
    assert kept.headers["vary"] == response.headers["vary"] == "Authorization"


async def test_a_key_acts_for_the_account_that_it_belongs_to(closed: Client) -> None:
    user, ada = await signed_in(closed)
    key = (await closed.post("/api/api-keys", json={"name": "x", "role": "viewer"}, headers=ada)).json()

    assert user_in(await closed.get("/api/me", headers=bearer(key["secret"]))) == user


async def test_some_who_act_have_no_account(closed_fake: Client, fake_client: Client) -> None:
    problem_in(await closed_fake.get("/api/me", headers=as_admin(closed_fake)), "not_found")
    problem_in(await fake_client.get("/api/me"), "not_found")
    problem_in(await closed_fake.get("/api/me"), "not_signed_in")


async def test_who_changes_their_password_signs_in_anew(closed: Client) -> None:
    account(closed)
    pair = pair_in(await login(closed))

    response = await closed.put(
        "/api/me/password",
        json={"current": PASSWORD, "new": NEW},
        headers=bearer(pair.access_token),
    )

    assert (response.status_code, response.content) == (204, b"")
    refreshing = await closed.post("/api/auth/refresh", json={"refresh_token": pair.refresh_token})
    problem_in(refreshing, "not_signed_in")
    problem_in(await login(closed), "not_signed_in")
    token = pair_in(await login(closed, password=NEW)).access_token
    assert user_in(await closed.get("/api/me", headers=bearer(token))).version == 2


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, {("#/current", "required"), ("#/new", "required")}),
        (
            {"current": 5, "new": "hunter2", "old": "x"},
            {("#/current", "wrong_type"), ("#/new", "too_short"), ("#/old", "unknown_member")},
        ),
        ({"current": PASSWORD, "new": "password"}, {("#/new", "too_common")}),
        ({"current": PASSWORD, "new": "Ada@films.example"}, {("#/new", "too_common")}),
        ({"current": PASSWORD, "new": "\U0001f600" * 1_025}, {("#/new", "too_long")}),
        ({"current": "a wrong horse", "new": NEW}, {("#/current", "wrong_value")}),
    ],
)
async def test_a_password_that_cannot_be_is_refused(
    closed_fake: Client, body: dict[str, object], faults: set[tuple[str, str]]
) -> None:
    _, ada = await signed_in(closed_fake)

    response = await closed_fake.put("/api/me/password", json=body, headers=ada)

    assert faults_in(response) == faults
    for secret in ("horse", "hunter2", "\U0001f600"):
        assert secret not in response.text
    pair_in(await login(closed_fake))


async def test_the_longest_passwords_fit(closed_fake: Client) -> None:
    _, ada = await signed_in(closed_fake)
    longest = "\U0001f600\U0001f4a9" * 512
    for current, new in ((PASSWORD, longest), (longest, longest[::-1])):
        response = await closed_fake.put(
            "/api/me/password",
            content=escaped({"current": current, "new": new}),
            headers={**ada, "Content-Type": "application/json"},
        )
        assert response.status_code == 204, response.text
        ada = bearer(pair_in(await login(closed_fake, password=new)).access_token)


async def test_who_guesses_the_present_password_is_made_to_wait(closed_fake: Client) -> None:
    _, ada = await signed_in(closed_fake)
    for _ in range(PER_ACCOUNT_AND_ADDRESS):
        await closed_fake.put("/api/me/password", json={"current": "x", "new": NEW}, headers=ada)

    response = await closed_fake.put("/api/me/password", json={"current": PASSWORD, "new": NEW}, headers=ada)

    problem_in(response, "too_many_attempts")
    assert int(response.headers["retry-after"]) > 0


# ---- adding users ----


async def test_an_administrator_adds_users(closed: Client) -> None:
    admin = as_admin(closed)

    response = await closed.post(
        "/api/users",
        json={"email": " Eve@Films.Example", "password": PASSWORD, "role": "editor"},
        headers=admin,
    )

    assert response.status_code == 201
    user = user_in(response)
    assert (user.email, user.role, user.version) == (email("eve"), Role.EDITOR, 1)
    assert response.headers["location"] == f"/api/users/{user.id}"
    assert user_in(await closed.get(response.headers["location"], headers=admin)) == user
    assert "password" not in response.text
    pair_in(await login(closed, "eve"))


async def test_nobody_else_does(closed: Client) -> None:
    draft = {"email": email("eve"), "password": PASSWORD}
    _, editor = await signed_in(closed, "editor", Role.EDITOR)

    problem_in(await closed.post("/api/users", json=draft), "not_signed_in")
    problem_in(await closed.post("/api/users", json=draft, headers=editor), "not_allowed")


async def test_where_registration_is_open_everybody_becomes_a_viewer(configure: Configure) -> None:
    async with Client(configure(AUTH="on", REGISTRATION="open")) as client:
        draft = {"email": email("eve"), "password": PASSWORD}

        response = await client.post("/api/users", json=draft)

        assert response.status_code == 201
        assert user_in(response).role is Role.VIEWER
        eve = bearer(pair_in(await login(client, "eve")).access_token)
        ambitious = {"email": email("mallory"), "password": PASSWORD, "role": "admin"}
        problem_in(await client.post("/api/users", json=ambitious), "not_signed_in")
        problem_in(await client.post("/api/users", json=ambitious, headers=eve), "not_allowed")
        problem_in(await client.get("/api/users", headers=eve), "not_allowed")


async def test_registrations_are_counted(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on", REGISTRATION="open", TRUSTED_PROXIES="127.0.0.1")
    async with container.database(), client_of(container) as client:

        async def register(number: int, address: str) -> Response:
            draft = {"email": email(f"visitor{number}"), "password": PASSWORD}
            return await client.post("/api/users", json=draft, headers={"X-Forwarded-For": address})

        for number in range(SIGN_UPS):
            # Of one network, whose owner chooses the rest of the address.
            assert (await register(number, f"2001:db8::{number:x}")).status_code == 201

        response = await register(SIGN_UPS, "2001:db8::ffff:1")
        problem_in(response, "too_many_attempts")
        assert int(response.headers["retry-after"]) > 0
        assert (await register(SIGN_UPS, "2001:db8:0:1::1")).status_code == 201


async def test_an_address_has_one_account(closed: Client) -> None:
    admin = as_admin(closed)
    ada, eve = account(closed), account(closed, "eve")

    again = await closed.post(
        "/api/users", json={"email": "ADA@films.example", "password": PASSWORD}, headers=admin
    )
    moved = await closed.patch(f"/api/users/{eve.id}", json={"email": ada.email}, headers=admin)

    problem_in(again, "email_taken")
    problem_in(moved, "email_taken")


DRAFTS: Mapping[str, tuple[object, set[tuple[str, str]]]] = {
    "no object": ([], {("#", "wrong_type")}),
    "every fault": (
        {"email": "nobody", "password": "hunter2", "role": "boss", "admin": True},
        {
            ("#/email", "invalid_value"),
            ("#/password", "too_short"),
            ("#/role", "invalid_value"),
            ("#/admin", "unknown_member"),
        },
    ),
    "wrong types": (
        {"email": 1, "password": {"x": "hunter2"}, "role": None},
        {("#/email", "wrong_type"), ("#/password", "wrong_type"), ("#/role", "wrong_type")},
    ),
    "long": (
        {"email": "a" * 300 + "@films.example", "password": "hunter2" * 200},
        {("#/email", "too_long"), ("#/password", "too_long")},
    ),
    "odd text": (
        {"email": "a\x00b@films.example", "password": "hunter2 \ud800"},
        {("#/email", "invalid_value"), ("#/password", "forbidden_character")},
    ),
}


@pytest.mark.parametrize("name", DRAFTS)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_every_fault_of_a_user_is_told_and_no_password(
    closed_fake: Client, name: str, method: str
) -> None:
    draft, faults = DRAFTS[name]
    admin, user = as_admin(closed_fake), account(closed_fake)
    path = "/api/users" if method == "POST" else f"/api/users/{user.id}"

    response = await closed_fake.request(
        method, path, content=escaped(draft), headers={**admin, "Content-Type": "application/json"}
    )

    assert faults_in(response) == faults
    assert "hunter2" not in response.text


async def test_what_a_new_user_must_have(closed_fake: Client) -> None:
    response = await closed_fake.post("/api/users", json={}, headers=as_admin(closed_fake))

    assert faults_in(response) == {("#/email", "required"), ("#/password", "required")}


# ---- listing users ----


async def test_users_are_listed_in_pages_by_their_ids(closed: Client) -> None:
    admin = as_admin(closed)
    users = [account(closed, f"user{number}") for number in range(5)]
    seen: list[object] = []
    cursor = ""
    for _ in range(3):
        page = (await closed.get(f"/api/users?limit=2{cursor}", headers=admin)).json()
        seen += [user["id"] for user in page["data"]]
        cursor = f"&cursor={page['next_cursor']}"
        if page["next_cursor"] is None:
            break

    assert seen == [user.id for user in users]
    assert page["next_cursor"] is None
    everybody = (await closed.get("/api/users", headers=admin)).json()
    assert [user["id"] for user in everybody["data"]] == seen
    assert set(everybody["data"][0]) == {"id", "email", "role", "created_at", "version"}


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("limit=0", {("limit", "invalid_value")}),
        ("limit=201", {("limit", "invalid_value")}),
        ("cursor=x&limit=x", {("cursor", "invalid_cursor"), ("limit", "invalid_value")}),
        ("cursor=", {("cursor", "invalid_cursor")}),
        ("role=admin", {("role", "unknown_parameter")}),
        ("limit=1&limit=1", {("limit", "repeated_parameter")}),
    ],
)
async def test_parameters_that_mean_nothing(
    closed_fake: Client, query: str, faults: set[tuple[str, str]]
) -> None:
    response = await closed_fake.get(f"/api/users?{query}", headers=as_admin(closed_fake))

    assert faults_in(response, "invalid_parameter") == faults


async def test_a_cursor_of_another_list_is_refused(closed_fake: Client) -> None:
    admin = as_admin(closed_fake)
    for _ in range(2):
        created = await closed_fake.post("/api/movies", json={"title": "Heat"}, headers=admin)
        path = created.headers["location"]
        await closed_fake.patch(path, json={"genre": "Crime"}, headers=admin)
    history = (await closed_fake.get(f"{path}/history?limit=1")).json()["next_cursor"]
    movies = (await closed_fake.get("/api/movies?limit=1")).json()["next_cursor"]
    assert history
    assert movies

    for cursor in (history, movies):
        response = await closed_fake.get(f"/api/users?cursor={cursor}", headers=admin)
        assert faults_in(response, "invalid_parameter") == {("cursor", "invalid_cursor")}


# ---- one user ----


async def test_an_administrator_changes_what_is_given(closed: Client) -> None:
    admin, user = as_admin(closed), account(closed)
    path = f"/api/users/{user.id}"

    async def patch(**members: str) -> User:
        response = await closed.patch(
            path, json=members, headers={**admin, "Content-Type": "application/merge-patch+json"}
        )
        assert response.status_code == 200, response.text
        return user_in(response)

    promoted = await patch(role="editor")
    moved = await patch(email="Eve@films.example")
    same = await patch(role="editor", email=email("eve"))
    secured = await patch(password=NEW)

    assert [promoted.role, moved.role] == [Role.EDITOR] * 2
    assert [promoted.email, moved.email] == [email("ada"), email("eve")]
    assert [one.version for one in (promoted, moved, same, secured)] == [2, 3, 3, 4]
    assert user_in(await closed.get(path, headers=admin)) == secured
    problem_in(await login(closed, "eve"), "not_signed_in")
    pair_in(await login(closed, "eve", NEW))


async def test_who_is_changed_or_removed_is_signed_out(closed: Client) -> None:
    admin = as_admin(closed)
    for name, method, body in (("ada", "PATCH", b'{"role": "editor"}'), ("eve", "DELETE", b"")):
        user = account(closed, name)
        pair = pair_in(await login(closed, name))

        response = await closed.request(
            method,
            f"/api/users/{user.id}",
            content=body,
            headers={**admin, "Content-Type": "application/json"},
        )

        assert response.status_code in {200, 204}
        problem_in(await closed.get("/api/me", headers=bearer(pair.access_token)), "not_signed_in")


async def test_a_removed_user_is_gone(closed: Client) -> None:
    admin, user = as_admin(closed), account(closed)
    path = f"/api/users/{user.id}"
    token = pair_in(await login(closed)).refresh_token

    response = await closed.delete(path, headers=admin)

    assert (response.status_code, response.content) == (204, b"")
    for method in ("GET", "DELETE"):
        problem_in(await closed.request(method, path, headers=admin), "not_found")
    problem_in(await closed.patch(path, json={"role": "editor"}, headers=admin), "not_found")
    problem_in(await login(closed), "not_signed_in")
    problem_in(await closed.post("/api/auth/refresh", json={"refresh_token": token}), "not_signed_in")


async def test_there_is_always_an_administrator(closed: Client) -> None:
    user, admin = await signed_in(closed, "root", Role.ADMIN)
    path = f"/api/users/{user.id}"

    problem_in(await closed.delete(path, headers=admin), "last_admin")
    problem_in(await closed.patch(path, json={"role": "viewer"}, headers=admin), "last_admin")

    account(closed, "other", Role.ADMIN)
    assert (await closed.delete(path, headers=admin)).status_code == 204


async def test_a_stale_write_changes_nothing(closed: Client) -> None:
    admin, user = as_admin(closed), account(closed)
    path = f"/api/users/{user.id}"

    for header in (
        {"If-Match": '"v2"'},
        {"If-Match": 'W/"v1"'},
        {"If-Match": '"v2", "v3"'},
        {"If-None-Match": "*"},
    ):
        for method, body in (("PATCH", b'{"role": "editor"}'), ("DELETE", b"")):
            response = await closed.request(
                method, path, content=body, headers={**admin, **header, "Content-Type": "application/json"}
            )
            problem_in(response, "version_conflict")

    assert user_in(await closed.get(path, headers=admin)) == user
    fitting = {**admin, "If-Match": '"v1", "v9"'}
    assert user_in(await closed.patch(path, json={"role": "editor"}, headers=fitting)).version == 2
    assert (await closed.delete(path, headers={**admin, "If-Match": "*"})).status_code == 204


async def test_an_unchanged_user_is_not_sent_again(closed_fake: Client) -> None:
    admin, user = as_admin(closed_fake), account(closed_fake)

    response = await closed_fake.get(f"/api/users/{user.id}", headers={**admin, "If-None-Match": '"v1"'})

    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize(
    "user_id", ["0", "01", "+1", "-1", "1.0", "x", "%31%00", "\u0661", "2147483648", "9" * 30, "9"]
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_what_is_no_id_of_a_user_is_not_there(closed_fake: Client, method: str, user_id: str) -> None:
    body = {"role": "boss"} if method == "PATCH" else None

    response = await closed_fake.request(
        method,
        f"/api/users/{user_id}",
        headers=as_admin(closed_fake),
        json=body,
    )

    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


async def test_the_order_of_checks(closed_fake: Client) -> None:
    """api.md: 401, 403, 415, 400, 404, 422, 412."""
    admin, user = as_admin(closed_fake), account(closed_fake)
    _, viewer = await signed_in(closed_fake, "eve")
    there, nowhere = f"/api/users/{user.id}", "/api/users/999"
    json, stale = {"Content-Type": "application/json"}, {"If-Match": '"v9"'}

    async def patch(path: str, body: bytes, headers: dict[str, str]) -> Response:
        return await closed_fake.patch(path, content=body, headers=headers)

    problem_in(await patch(nowhere, b"{", {"Content-Type": "text/plain"}), "not_signed_in")
    problem_in(await patch(nowhere, b"{", {**viewer, "Content-Type": "text/plain"}), "not_allowed")
    problem_in(await patch(nowhere, b"{", {**admin, "Content-Type": "text/plain"}), "unsupported_media_type")
    problem_in(await patch(nowhere, b"{", {**admin, **json}), "malformed_json")
    problem_in(await patch(nowhere, b"{}", {**admin, **json, "If-Match": "v9"}), "malformed_request")
    problem_in(await patch(nowhere, b'{"role": 1}', {**admin, **json, **stale}), "not_found")
    problem_in(await patch(there, b'{"role": 1}', {**admin, **json, **stale}), "validation")
    problem_in(await patch(there, b'{"email": "x"}', {**admin, **json, **stale}), "validation")
    problem_in(await patch(there, b"{}", {**admin, **json, **stale}), "version_conflict")
    problem_in(await patch(there, b"[" * 40_000, {**admin, **json}), "too_large")
