"""API keys, over REST."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from httpx import Response
from tests.http.conftest import Client, Configure, faults_in, problem_in
from tests.visitors import bearer, escaped, signed_in

from watchly_core.api_keys import MAX_KEYS
from watchly_core.people import Role

pytestmark = pytest.mark.anyio

PATH = "/api/api-keys"
MEMBERS = {"id", "name", "role", "prefix", "created_at", "expires_at", "last_used_at"}


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


async def add(client: Client, headers: dict[str, str], **members: object) -> Response:
    draft = {"name": "nightly import", "role": "viewer", **members}
    return await client.post(PATH, json=draft, headers=headers)


async def listed(client: Client, headers: dict[str, str]) -> list[dict[str, object]]:
    response = await client.get(PATH, headers=headers)
    assert response.status_code == 200, response.text
    data: list[dict[str, object]] = response.json()["data"]
    return data


async def test_a_new_key_is_shown_once_and_works(closed: Client) -> None:
    _, ada = await signed_in(closed, role=Role.EDITOR)

    response = await add(closed, ada, role="editor", name=" nightly import ")

    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    key = response.json()
    assert set(key) == {*MEMBERS, "secret"}
    assert (key["name"], key["role"], key["expires_at"]) == ("nightly import", "editor", None)
    assert re.fullmatch(rf"watchly_{key['prefix']}_[\w-]{{43}}", key["secret"])
    (shown,) = await listed(closed, ada)
    assert shown == {name: key[name] for name in MEMBERS}
    added = await closed.post("/api/movies", json={"title": "Heat"}, headers=bearer(key["secret"]))
    assert added.status_code == 201
    (history,) = (await closed.get(f"{added.headers['location']}/history")).json()["data"]
    assert history["actor"] == f"api-key:{key['id']}"
    (used,) = await listed(closed, ada)
    assert used["last_used_at"] is not None


async def test_a_revoked_key_is_good_for_nothing(closed: Client) -> None:
    _, ada = await signed_in(closed)
    key = (await add(closed, ada)).json()

    response = await closed.delete(f"{PATH}/{key['id']}", headers=ada)

    assert (response.status_code, response.content) == (204, b"")
    problem_in(await closed.get("/api/me", headers=bearer(key["secret"])), "not_signed_in")
    problem_in(await closed.delete(f"{PATH}/{key['id']}", headers=ada), "not_found")
    assert await listed(closed, ada) == []


async def test_everybody_has_their_own_keys(closed: Client) -> None:
    _, ada = await signed_in(closed)
    _, eve = await signed_in(closed, "eve", Role.EDITOR)
    _, root = await signed_in(closed, "root", Role.ADMIN)
    key = (await add(closed, ada)).json()

    assert await listed(closed, eve) == []
    assert await listed(closed, root) == []
    problem_in(await closed.delete(f"{PATH}/{key['id']}", headers=eve), "not_found")
    assert (await closed.delete(f"{PATH}/{key['id']}", headers=root)).status_code == 204
    assert await listed(closed, ada) == []


async def test_administrators_see_the_keys_of_nobody(closed: Client) -> None:
    first = closed.call(closed.container.api_keys().add_first)
    assert first is not None
    _, root = await signed_in(closed, "root", Role.ADMIN)
    _, ada = await signed_in(closed)

    assert [key["name"] for key in await listed(closed, root)] == [first.key.name]
    assert await listed(closed, ada) == []
    assert first.secret not in (await closed.get(PATH, headers=root)).text


async def test_a_key_may_do_no_more_than_whoever_makes_it(closed: Client) -> None:
    _, ada = await signed_in(closed, role=Role.EDITOR)

    problem_in(await add(closed, ada, role="admin"), "not_allowed")
    assert (await add(closed, ada, role="editor")).status_code == 201
    problem_in(await add(closed, {}), "not_signed_in")


async def test_a_key_of_a_user_makes_no_other_and_one_of_the_operator_does(closed: Client) -> None:
    first = closed.call(closed.container.api_keys().add_first)
    assert first is not None
    _, root = await signed_in(closed, "root", Role.ADMIN)
    roots = bearer((await add(closed, root, role="admin")).json()["secret"])

    problem_in(await add(closed, roots), "not_allowed")
    assert [key["name"] for key in await listed(closed, roots)] == [
        key["name"] for key in await listed(closed, root)
    ]
    assert (await add(closed, bearer(first.secret), role="admin")).status_code == 201


async def test_where_nobody_is_asked_keys_are_the_operators(fake_client: Client) -> None:
    key = (await add(fake_client, {}, role="admin")).json()

    assert await listed(fake_client, {}) == [{name: key[name] for name in MEMBERS}]
    assert (await fake_client.delete(f"{PATH}/{key['id']}")).status_code == 204


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2100-01-31T12:00:00Z", "2100-01-31T12:00:00Z"),
        ("2100-01-31T12:00:00.5+02:00", "2100-01-31T10:00:00.500000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        (None, None),
    ],
)
async def test_the_end_of_a_key_is_kept(closed: Client, text: str | None, kept: str | None) -> None:
    _, ada = await signed_in(closed)

    key = (await add(closed, ada, expires_at=text)).json()

    assert key["expires_at"] == kept
    assert [one["expires_at"] for one in await listed(closed, ada)] == [kept]
    assert (await closed.get("/api/me", headers=bearer(key["secret"]))).status_code == 200


@pytest.mark.parametrize(
    ("draft", "faults"),
    [
        ([], {("#", "wrong_type")}),
        ({}, {("#/name", "required"), ("#/role", "required")}),
        (
            {"name": 1, "role": None, "expires_at": 5, "secret": "x"},
            {
                ("#/name", "wrong_type"),
                ("#/role", "wrong_type"),
                ("#/expires_at", "wrong_type"),
                ("#/secret", "unknown_member"),
            },
        ),
        (
            {"name": " \n", "role": "boss", "expires_at": "2001-01-01T00:00:00Z"},
            {("#/name", "invalid_value"), ("#/role", "invalid_value"), ("#/expires_at", "too_early")},
        ),
        ({"name": "a" * 101, "role": "viewer"}, {("#/name", "invalid_value")}),
        ({"name": "\ud800", "role": "viewer"}, {("#/name", "invalid_value")}),
        *(
            ({"name": "x", "role": "viewer", "expires_at": text}, {("#/expires_at", "invalid_value")})
            for text in (
                "",
                "soon",
                "2100-01-01",
                "2100-01-01T00:00:00",
                "2100-02-30T00:00:00Z",
                "9999-12-31T23:59:59-23:59",
                "0001-01-01T00:00:00+23:59",
                "4102444800",
            )
        ),
    ],
)
async def test_every_fault_of_a_key_is_told(
    closed_fake: Client, draft: object, faults: set[tuple[str, str]]
) -> None:
    _, ada = await signed_in(closed_fake)

    response = await closed_fake.post(
        PATH, content=escaped(draft), headers={**ada, "Content-Type": "application/json"}
    )

    assert faults_in(response) == faults
    assert await listed(closed_fake, ada) == []


async def test_a_key_that_ends_is_good_until_then(closed: Client) -> None:
    _, ada = await signed_in(closed)
    soon = datetime.now(UTC) + timedelta(seconds=1)
    key = (await add(closed, ada, expires_at=soon.isoformat())).json()

    while datetime.now(UTC) < soon:
        response = await closed.get("/api/me", headers=bearer(key["secret"]))
        assert response.status_code == 200 or datetime.now(UTC) >= soon

    problem_in(await closed.get("/api/me", headers=bearer(key["secret"])), "not_signed_in")


async def test_nobody_has_too_many_keys(closed_fake: Client) -> None:
    _, ada = await signed_in(closed_fake)
    for _ in range(MAX_KEYS):
        assert (await add(closed_fake, ada)).status_code == 201

    assert faults_in(await add(closed_fake, ada)) == {("#", "too_many")}


@pytest.mark.parametrize("key_id", ["0", "01", "x", "2147483648", "9", "-1"])
async def test_what_is_no_id_of_a_key_is_not_there(closed_fake: Client, key_id: str) -> None:
    _, ada = await signed_in(closed_fake)

    problem_in(await closed_fake.delete(f"{PATH}/{key_id}", headers=ada), "not_found")


@pytest.mark.parametrize(
    ("content", "media_type", "code"),
    [
        (b"{}", "text/plain", "unsupported_media_type"),
        (b"{", "application/json", "malformed_json"),
        (b'{"name": "' + b"x" * 40_000 + b'"}', "application/json", "too_large"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    closed_fake: Client, content: bytes, media_type: str, code: str
) -> None:
    _, ada = await signed_in(closed_fake)

    response = await closed_fake.post(PATH, content=content, headers={**ada, "Content-Type": media_type})

    problem_in(response, code)
