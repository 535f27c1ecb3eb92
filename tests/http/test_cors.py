"""What browsers on other origins may do, over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.http.conftest import Client, Configure, problem_in

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.example"
OTHER = "http://localhost:3000"
EXPOSED = {
    "etag",
    "location",
    "x-request-id",
    "retry-after",
    "preference-applied",
    "idempotency-replayed",
    "watchly-image",
    "watchly-position",
    "upload-offset",
    "content-range",
    "ratelimit",
    "ratelimit-policy",
}


def words(header: str) -> set[str]:
    return {word.strip().lower() for word in header.split(",")}


@pytest.fixture
async def open_client(configure_fakes: Configure) -> AsyncIterator[Client]:
    async with Client(configure_fakes(CORS_ORIGINS=f"{ORIGIN}, {OTHER}")) as client:
        yield client


@pytest.mark.parametrize("origin", [ORIGIN, OTHER])
async def test_replies_are_shown_to_the_origins_that_are_named(open_client: Client, origin: str) -> None:
    await open_client.added()

    for path in ("/api/movies", "/api/movies/1", "/health/live", "/problems", "/openapi.json"):
        response = await open_client.get(path, headers={"Origin": origin})
        assert response.headers["access-control-allow-origin"] == origin
        assert words(response.headers["access-control-expose-headers"]) == EXPOSED
        assert "origin" in words(response.headers["vary"])
        assert response.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/movies/9", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/api/movies/1", 405),
        ("POST", "/api/movies", 415),
        ("GET", "/api/movies?x=1", 400),
        ("HEAD", "/api/movies/9", 404),
    ],
)
async def test_problems_are_shown_too(open_client: Client, method: str, path: str, status: int) -> None:
    response = await open_client.request(method, path, headers={"Origin": ORIGIN})

    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert words(response.headers["access-control-expose-headers"]) == EXPOSED


async def test_an_unchanged_movie_is_shown_too(open_client: Client) -> None:
    movie = await open_client.added()
    headers = {"Origin": ORIGIN, "If-None-Match": '"v1"'}

    response = await open_client.get(f"/api/movies/{movie.id}", headers=headers)

    assert response.status_code == 304
    assert response.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://app.example",
        "https://app.example:444",
        "https://app.example.evil.example",
        "https://xapp.example",
        "https://APP.example/",
        "*",
    ],
)
async def test_other_origins_see_nothing(open_client: Client, origin: str) -> None:
    response = await open_client.get("/api/movies", headers={"Origin": origin})

    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.example"}])
async def test_a_cache_is_told_that_the_origin_matters(open_client: Client, headers: dict[str, str]) -> None:
    """A shared cache would otherwise give an allowed origin the reply that lacks its permission."""
    response = await open_client.get("/api/movies", headers=headers)

    assert "origin" in words(response.headers.get("vary", ""))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_preflight_allows_what_the_api_needs(open_client: Client, method: str) -> None:
    wanted = ["authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "prefer"]

    response = await open_client.options(
        "/api/movies/1",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ",".join(wanted),
        },
    )

    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-allow-credentials"] == "true"
    assert method.lower() in words(response.headers["access-control-allow-methods"])
    assert set(wanted) <= words(response.headers["access-control-allow-headers"])
    assert "origin" in words(response.headers["vary"])
    assert response.headers["x-request-id"]


async def test_a_browser_may_send_the_id_of_its_request(open_client: Client) -> None:
    response = await open_client.options(
        "/api/movies",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "x-request-id",
        },
    )

    assert response.status_code == 204
    assert "x-request-id" in words(response.headers["access-control-allow-headers"])


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        ("https://evil.example", "PUT", "content-type"),
        (ORIGIN, "TRACE", "content-type"),
        (ORIGIN, "PUT", "x-unknown"),
    ],
)
async def test_a_preflight_that_is_refused_allows_nothing(
    open_client: Client, origin: str, method: str, headers: str
) -> None:
    response = await open_client.options(
        "/api/movies/1",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )

    allowed = (
        response.headers.get("access-control-allow-origin") == origin
        and method.lower() in words(response.headers.get("access-control-allow-methods", ""))
        and headers in words(response.headers.get("access-control-allow-headers", ""))
    )
    assert not allowed
    if response.status_code >= 400:
        problem_in(response, "malformed_request")


async def test_options_that_are_no_preflight_are_answered_like_any_request(open_client: Client) -> None:
    there = await open_client.options("/api/movies", headers={"Origin": ORIGIN})
    nowhere = await open_client.options("/nowhere", headers={"Origin": ORIGIN})

    assert there.status_code == 204
    assert words(there.headers["allow"]) == {"get", "head", "post", "options"}
    problem_in(nowhere, "not_found")


async def test_any_origin_can_be_allowed(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(CORS_ORIGINS="*")) as client:
        response = await client.get("/api/movies", headers={"Origin": ORIGIN})

        assert response.headers["access-control-allow-origin"] in {"*", ORIGIN}
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origins", ["*", f"*,{ORIGIN}", f"{ORIGIN},*"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_star_never_goes_with_credentials(
    configure_fakes: Configure, origins: str, method: str
) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Cookie": "a=b"}
    async with Client(configure_fakes(CORS_ORIGINS=origins)) as client:
        response = await client.request(method, "/api/movies", headers=headers)

        assert "access-control-allow-origin" in response.headers
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_pattern_shows_replies_but_never_to_requests_with_cookies(
    configure_fakes: Configure, method: str
) -> None:
    """Anybody may make the pages of a host that only a pattern names."""
    async with Client(configure_fakes(CORS_ORIGINS=f"{ORIGIN},https://*.preview.example")) as client:
        for origin, trusted in (
            (ORIGIN, "true"),
            ("https://x.preview.example", None),
            ("https://*.preview.example", None),
        ):
            headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            response = await client.request(method, "/api/movies", headers=headers)
            assert response.headers["access-control-allow-origin"] == origin
            assert response.headers.get("access-control-allow-credentials") == trusted
            assert "origin" in words(response.headers["vary"])
        other = await client.get("/api/movies", headers={"Origin": "https://preview.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_without_origins_there_is_no_cors(fake_client: Client) -> None:
    for method in ("GET", "OPTIONS"):
        response = await fake_client.request(
            method, "/api/movies", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        )
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_without_origins_a_preflight_is_answered_like_any_request(fake_client: Client) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}

    assert (await fake_client.options("/api/movies", headers=headers)).status_code == 204
    problem_in(await fake_client.options("/nowhere", headers=headers), "not_found")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.local.evil.example"])
async def test_where_nobody_is_asked_other_pages_write_nothing(
    configure_fakes: Configure, origin: str
) -> None:
    async with Client(configure_fakes(CORS_ORIGINS=ORIGIN)) as client:
        for page in (ORIGIN, "http://testserver.local"):
            sent = await client.post("/api/movies", files={"title": (None, "Heat")}, headers={"Origin": page})
            assert sent.status_code == 201
        for method, path in (("POST", "/api/movies"), ("DELETE", "/api/movies/1")):
            form = {"title": (None, "Heat")} if method == "POST" else None
            sent = await client.request(method, path, files=form, headers={"Origin": origin})
            assert "may not write here" in problem_in(sent, "not_allowed").detail
        shown = await client.get("/api/movies", headers={"Origin": origin})
        assert [movie["id"] for movie in shown.json()["data"]] == [1, 2]


async def test_where_nobody_is_asked_every_page_may_write_if_all_are_named(
    configure_fakes: Configure,
) -> None:
    async with Client(configure_fakes(CORS_ORIGINS="*")) as client:
        sent = await client.post(
            "/api/movies", json={"title": "Heat"}, headers={"Origin": "https://x.example"}
        )
        assert sent.status_code == 201
