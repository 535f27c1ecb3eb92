"""Signing in, staying so and signing out, over REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import jwt
import pytest
from httpx import Response
from tests.http.conftest import Client, Configure, client_of, faults_in, problem_in
from tests.visitors import (
    COOKIE,
    PASSWORD,
    account,
    bearer,
    cookie_in,
    email,
    login,
    pair_in,
    with_cookie,
)

from watchly_core.people import Role, UserDraft
from watchly_core.throttle import PER_ACCOUNT_AND_ADDRESS

pytestmark = pytest.mark.anyio

LISTED = "https://app.example"
PUBLIC = "https://movies.example"


@pytest.fixture
async def closed(configure: Configure) -> AsyncIterator[Client]:
    """A service that asks who one is; ada has an account."""
    async with Client(configure(AUTH="on")) as client:
        account(client)
        yield client


@pytest.fixture
async def closed_fake(configure_fakes: Configure) -> AsyncIterator[Client]:
    """The same where it makes no difference what is behind it, and with origins of other pages."""
    settings = {"CORS_ORIGINS": f"{LISTED},https://*.preview.example", "PUBLIC_URL": f"{PUBLIC}/api-of"}
    async with Client(configure_fakes(AUTH="on", **settings)) as client:
        account(client)
        yield client


# ---- signing in ----


async def test_who_knows_the_password_gets_tokens(closed: Client) -> None:
    response = await login(closed)

    pair = pair_in(response)
    assert set(response.json()) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (pair.token_type, pair.expires_in) == ("Bearer", 900)
    assert "set-cookie" not in response.headers
    me = await closed.get("/api/me", headers=bearer(pair.access_token))
    assert me.json()["email"] == email("ada")


async def test_a_wrong_password_and_an_unknown_account_are_refused_by_the_same_bytes(closed: Client) -> None:
    wrong, unknown, odd = [
        await closed.post(
            "/api/auth/login",
            json={"email": address, "password": "hunter2 hunter2"},
            headers={"X-Request-ID": "the-same"},
        )
        for address in (email("ada"), email("eve"), "\x00no address")
    ]

    problem_in(wrong, "not_signed_in")
    assert wrong.content == unknown.content == odd.content
    assert [*wrong.headers.items()] == [*unknown.headers.items()] == [*odd.headers.items()]
    assert wrong.headers["www-authenticate"] == "Bearer"
    assert wrong.headers["cache-control"] == "no-store"
    for secret in ("hunter2", "ada", "films"):
        assert secret not in wrong.text


@pytest.mark.parametrize("body", [None, {}], ids=["nothing", "no member"])
async def test_who_brings_no_refresh_token_is_told_so(closed_fake: Client, body: object) -> None:
    response = await closed_fake.post("/api/auth/refresh", json=body)
    assert "neither the cookie" in problem_in(response, "not_signed_in").detail


async def test_nobody_is_asked_who_they_are_before_they_sign_in(closed: Client) -> None:
    for path in ("login", "refresh"):
        response = await closed.post(
            f"/api/auth/{path}",
            json={"email": email("ada"), "password": PASSWORD}
            if path == "login"
            else {"refresh_token": pair_in(await login(closed)).refresh_token},
            headers={"Authorization": "Basic bad"},
        )
        pair_in(response)
    assert (await closed.post("/api/auth/logout", headers=bearer("bad"))).status_code == 204


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, {("#/email", "required"), ("#/password", "required")}),
        (
            {"email": 7, "password": ["hunter2"], "cookie": "yes", "remember": True},
            {
                ("#/email", "wrong_type"),
                ("#/password", "wrong_type"),
                ("#/cookie", "wrong_type"),
                ("#/remember", "unknown_member"),
            },
        ),
        (["hunter2"], {("#", "wrong_type")}),
        (
            {"email": "ada@films.example", "password": "hunter2", "cookie": None},
            {("#/cookie", "wrong_type")},
        ),
    ],
)
async def test_every_fault_of_a_sign_in_is_told_and_no_password(
    closed_fake: Client, body: object, faults: set[tuple[str, str]]
) -> None:
    response = await closed_fake.post("/api/auth/login", json=body)

    assert faults_in(response) == faults
    assert response.headers["cache-control"] == "no-store"
    assert "hunter2" not in response.text


@pytest.mark.parametrize("path", ["login", "refresh", "logout"])
@pytest.mark.parametrize(
    ("content", "media_type", "code"),
    [
        (b'{"a": 1}', "text/plain", "unsupported_media_type"),
        (b"email=a", "application/x-www-form-urlencoded", "unsupported_media_type"),
        (b'{"password": "hunter2"', "application/json", "malformed_json"),
        (b'{"password": "' + b"hunter2" * 10_000 + b'"}', "application/json", "too_large"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    closed_fake: Client, path: str, content: bytes, media_type: str, code: str
) -> None:
    response = await closed_fake.post(
        f"/api/auth/{path}", content=content, headers={"Content-Type": media_type}
    )

    problem_in(response, code)
    assert response.headers["cache-control"] == "no-store"
    assert "hunter2" not in response.text


async def test_who_guesses_is_made_to_wait(closed: Client) -> None:
    for _ in range(PER_ACCOUNT_AND_ADDRESS):
        problem_in(await login(closed, password="wrong"), "not_signed_in")

    response = await login(closed)

    problem_in(response, "too_many_attempts")
    assert 0 < int(response.headers["retry-after"]) <= 900
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("proxies", "counted_apart"), [("127.0.0.1", True), ("10.0.0.0/8", False), ("", False)]
)
async def test_attempts_are_counted_by_the_address_that_a_trusted_proxy_tells(
    configure_fakes: Configure, proxies: str, *, counted_apart: bool
) -> None:
    container = configure_fakes(AUTH="on", TRUSTED_PROXIES=proxies)
    async with container.database(), client_of(container) as client:

        async def refused(forwarded_for: str) -> bool:
            response = await client.post(
                "/api/auth/login",
                json={"email": email("ada"), "password": "wrong"},
                headers={"X-Forwarded-For": forwarded_for},
            )
            return response.status_code == 429

        for _ in range(PER_ACCOUNT_AND_ADDRESS):
            assert not await refused("192.0.2.1")
        assert await refused("198.51.100.7, 192.0.2.1")
        assert await refused("192.0.2.2") != counted_apart


# ---- staying signed in ----


async def test_a_refresh_token_is_good_once_and_an_old_one_ends_the_session(closed: Client) -> None:
    async def refresh(token: str | None) -> Response:
        return await closed.post("/api/auth/refresh", json={"refresh_token": token})

    first = pair_in(await login(closed))
    second = pair_in(await refresh(first.refresh_token))

    assert second.refresh_token not in {None, first.refresh_token}
    assert (await closed.get("/api/me", headers=bearer(second.access_token))).status_code == 200
    problem_in(await refresh(first.refresh_token), "not_signed_in")
    problem_in(await refresh(second.refresh_token), "not_signed_in")


async def test_of_many_uses_of_a_refresh_token_at_once_one_is_answered(configure: Configure) -> None:
    container = configure(AUTH="on")
    async with container.database(), client_of(container) as client:
        await container.accounts().add(UserDraft(email=email("ada"), password=PASSWORD))
        body = {"email": email("ada"), "password": PASSWORD}
        first = pair_in(await client.post("/api/auth/login", json=body))

        replies = await asyncio.gather(
            *(
                client.post("/api/auth/refresh", json={"refresh_token": first.refresh_token})
                for _ in range(50)
            )
        )

        (answered,) = [reply for reply in replies if reply.status_code == 200]
        assert pair_in(answered).refresh_token != first.refresh_token
        assert {reply.status_code for reply in replies if reply is not answered} == {401}


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"refresh_token": 7}, {("#/refresh_token", "wrong_type")}),
        ({"refresh_token": None}, {("#/refresh_token", "wrong_type")}),
        ({"token": "x"}, {("#/token", "unknown_member")}),
        ("wrt_x", {("#", "wrong_type")}),
    ],
)
@pytest.mark.parametrize("path", ["refresh", "logout"])
async def test_every_fault_of_a_refresh_is_told(
    closed_fake: Client, path: str, body: object, faults: set[tuple[str, str]]
) -> None:
    assert faults_in(await closed_fake.post(f"/api/auth/{path}", json=body)) == faults


@pytest.mark.parametrize("token", ["", "x", "wrt_", "wrt_" + "A" * 64, "é", "wrt_" + "A" * 9_000, "\x00"])
async def test_what_is_no_refresh_token_is_refused(closed: Client, token: str) -> None:
    response = await closed.post("/api/auth/refresh", json={"refresh_token": token})

    problem_in(response, "not_signed_in")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_an_access_token_is_no_refresh_token_and_the_other_way_round(closed: Client) -> None:
    pair = pair_in(await login(closed))

    response = await closed.post("/api/auth/refresh", json={"refresh_token": pair.access_token})

    problem_in(response, "not_signed_in")
    problem_in(await closed.get("/api/me", headers=bearer(str(pair.refresh_token))), "not_signed_in")


# ---- the cookie ----


async def test_a_browser_gets_the_refresh_token_as_a_cookie_that_no_script_reads(closed: Client) -> None:
    response = await login(closed, cookie=True)

    assert pair_in(response).refresh_token is None
    assert "refresh_token" not in response.json()
    cookie = cookie_in(response)
    assert cookie.key == COOKIE
    assert cookie.value.startswith("wrt_")
    assert cookie["httponly"] is True
    assert cookie["secure"] is True
    assert cookie["samesite"].lower() == "strict"
    assert cookie["path"] == "/api/auth"
    assert cookie["max-age"] == str(30 * 24 * 3600)
    assert not cookie["domain"]


@pytest.mark.parametrize("sent", [{}, {"json": {}}, {"headers": {"Content-Type": "application/json"}}])
async def test_who_comes_by_cookie_is_answered_by_cookie(
    closed_fake: Client, sent: dict[str, dict[str, str]]
) -> None:
    first = cookie_in(await login(closed_fake, cookie=True)).value
    headers = {**with_cookie(first), **sent.get("headers", {})}

    response = await closed_fake.post("/api/auth/refresh", **{**sent, "headers": headers})  # type: ignore[arg-type]

    assert pair_in(response).refresh_token is None
    second = cookie_in(response).value
    assert second not in {"", first}
    again = await closed_fake.post("/api/auth/refresh", headers=with_cookie(second))
    assert cookie_in(again).value


async def test_a_token_in_the_body_wins_over_the_cookie(closed_fake: Client) -> None:
    cookie = cookie_in(await login(closed_fake, cookie=True)).value
    token = pair_in(await login(closed_fake)).refresh_token

    response = await closed_fake.post(
        "/api/auth/refresh", json={"refresh_token": token}, headers=with_cookie(cookie)
    )

    assert pair_in(response).refresh_token
    assert "set-cookie" not in response.headers
    untouched = await closed_fake.post("/api/auth/refresh", headers=with_cookie(cookie))
    assert cookie_in(untouched).value


async def test_a_refused_cookie_is_not_taken_away(closed: Client) -> None:
    """Another tab of the browser may have got the next one while this request was under way."""
    response = await closed.post("/api/auth/refresh", headers=with_cookie("wrt_x"))

    problem_in(response, "not_signed_in")
    assert "set-cookie" not in response.headers
    problem_in(await closed.post("/api/auth/refresh"), "not_signed_in")


#: What a browser says of the page that asks, and whether that may use the cookie.
PAGES: Mapping[str, tuple[dict[str, str], bool]] = {
    "no browser": ({}, True),
    "its own": ({"Origin": "http://testserver.local"}, True),
    "its own, with the port": ({"Origin": "http://testserver.local:80"}, True),
    "its own behind a proxy with TLS": ({"Origin": "https://testserver.local"}, True),
    "its public one": ({"Origin": PUBLIC}, True),
    "a listed one": ({"Origin": LISTED}, True),
    "a listed one, said to be elsewhere": ({"Origin": LISTED, "Sec-Fetch-Site": "cross-site"}, True),
    "the same, without an origin": ({"Sec-Fetch-Site": "same-origin"}, True),
    "the same site": ({"Sec-Fetch-Site": "same-site"}, True),
    "typed by hand": ({"Sec-Fetch-Site": "none"}, True),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, False),
    "odd": ({"Sec-Fetch-Site": "sideways"}, False),
    "another origin": ({"Origin": "https://evil.example"}, False),
    "another origin that says it is the same": (
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
        False,
    ),
    "another port": ({"Origin": "http://testserver.local:8080"}, False),
    "another port of the public one": ({"Origin": f"{PUBLIC}:8443"}, False),
    "the public one without TLS": ({"Origin": "http://movies.example"}, False),
    "one that a pattern matches": ({"Origin": "https://x.preview.example"}, False),
    "the pattern itself": ({"Origin": "https://*.preview.example"}, False),
    "nobody's": ({"Origin": "null"}, False),
    "none": ({"Origin": ""}, False),
    "no origin at all": ({"Origin": "https://testserver.local@evil.example"}, False),
    "a broken one": ({"Origin": "http://testserver.local:x"}, False),
    "two": ({"Origin": f"{LISTED}, {PUBLIC}"}, False),
}


@pytest.mark.parametrize("page", PAGES)
async def test_only_pages_of_known_origins_may_use_the_cookie(closed_fake: Client, page: str) -> None:
    headers, allowed = PAGES[page]
    cookie = with_cookie(cookie_in(await login(closed_fake, cookie=True)).value)

    signing_in = await login(closed_fake, cookie=True, headers=headers)
    refreshing = await closed_fake.post("/api/auth/refresh", headers={**cookie, **headers})
    if refreshing.status_code == 200:
        cookie = with_cookie(cookie_in(refreshing).value)
    leaving = await closed_fake.post("/api/auth/logout", headers={**cookie, **headers})

    statuses = (signing_in.status_code, refreshing.status_code, leaving.status_code)
    assert statuses == ((200, 200, 204) if allowed else (403, 403, 403))
    if not allowed:
        for refusal in (signing_in, refreshing, leaving):
            problem_in(refusal, "not_allowed")
            assert "set-cookie" not in refusal.headers
        # Nothing was done.
        assert (await closed_fake.post("/api/auth/refresh", headers=cookie)).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"), [("https://movies.example", 200), ("http://movies.example", 403)]
)
async def test_a_page_without_tls_is_none_of_a_service_that_has_it(
    closed_fake: Client, origin: str, status: int
) -> None:
    headers = {"Host": "movies.example", "Origin": origin}

    assert (await login(closed_fake, cookie=True, headers=headers)).status_code == status


async def test_any_page_may_sign_in_without_the_cookie(closed_fake: Client) -> None:
    """Whoever sends a token has it, and who has made the page makes no difference."""
    headers = {"Origin": "https://evil.example"}

    token = pair_in(await login(closed_fake, headers=headers)).refresh_token

    response = await closed_fake.post("/api/auth/refresh", json={"refresh_token": token}, headers=headers)
    assert pair_in(response).refresh_token


async def test_a_star_lets_no_page_use_the_cookie(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(AUTH="on", CORS_ORIGINS=f"*,{LISTED}")) as client:
        account(client)

        problem_in(
            await login(client, cookie=True, headers={"Origin": "https://other.example"}), "not_allowed"
        )
        problem_in(await login(client, cookie=True, headers={"Origin": LISTED}), "not_allowed")


# ---- signing out ----


async def test_who_signs_out_is_out(closed: Client) -> None:
    pair = pair_in(await login(closed))

    response = await closed.post("/api/auth/logout", json={"refresh_token": pair.refresh_token})

    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["cache-control"] == "no-store"
    assert "set-cookie" not in response.headers
    refreshing = await closed.post("/api/auth/refresh", json={"refresh_token": pair.refresh_token})
    problem_in(refreshing, "not_signed_in")
    problem_in(await closed.get("/api/me", headers=bearer(pair.access_token)), "not_signed_in")


async def test_signing_out_takes_the_cookie_away(closed: Client) -> None:
    token = cookie_in(await login(closed, cookie=True)).value

    response = await closed.post("/api/auth/logout", headers=with_cookie(token))

    assert response.status_code == 204
    cookie = cookie_in(response)
    assert (cookie.key, cookie.value, cookie["max-age"], cookie["path"]) == (COOKIE, "", "0", "/api/auth")
    problem_in(await closed.post("/api/auth/refresh", headers=with_cookie(token)), "not_signed_in")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"refresh_token": "x"}', b'{"refresh_token": "wrt_AAAA"}'])
@pytest.mark.parametrize("cookie", [b"", b"watchly_refresh=x", b'watchly_refresh="; ;;=\xe9'])
async def test_signing_out_of_nothing_is_no_error(closed_fake: Client, body: bytes, cookie: bytes) -> None:
    headers = {b"Content-Type": b"application/json"} if body else {}
    if cookie:
        headers[b"Cookie"] = cookie

    response = await closed_fake.post("/api/auth/logout", content=body, headers=headers)

    assert response.status_code == 204


# ---- the keys ----


async def test_another_service_verifies_a_token_by_the_published_keys_alone(closed: Client) -> None:
    pair = pair_in(await login(closed))

    response = await closed.get("/.well-known/jwks.json", headers={"Authorization": "Basic bad"})

    assert response.headers["cache-control"] == "public, max-age=300"
    assert all("d" not in key for key in response.json()["keys"])
    keys = jwt.PyJWKSet.from_dict(response.json())
    key = keys[jwt.get_unverified_header(pair.access_token)["kid"]]
    claims = jwt.decode(pair.access_token, key, algorithms=["ES256"], audience="watchly", issuer="watchly")
    assert (claims["role"], claims["exp"] - claims["iat"]) == (Role.VIEWER, 900)


async def test_the_keys_are_there_before_anybody_signs_in(configure: Configure) -> None:
    async with Client(configure(AUTH="on")) as client:
        keys = (await client.get("/.well-known/jwks.json")).json()["keys"]

        assert [key["alg"] for key in keys] == ["ES256"]
