"""What every reply tells browsers, whatever it is; and which requests are none of this service."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

import pytest
from litestar import Litestar, get
from tests.http.conftest import Client, Configure, client_of, problem_in
from tests.http.policies import routes

from watchly_adapters.testing import samples
from watchly_http.app import create_app

pytestmark = pytest.mark.anyio

ORIGIN: Final = "https://app.example"
CLOSED: Final = "default-src 'none'; frame-ancestors 'none'"
PNG: Final = samples.UPRIGHT["png"]

#: Requests, and the status of the reply.
REPLIES: Final[list[tuple[str, str, dict[str, str], int]]] = [
    ("GET", "/api/movies/1", {}, 200),
    ("HEAD", "/api/movies/1", {}, 200),
    ("GET", "/api/movies/1", {"If-None-Match": '"v2"'}, 304),
    ("GET", "/api/movies", {"Origin": ORIGIN}, 200),
    ("OPTIONS", "/api/movies", {}, 204),
    ("OPTIONS", "/api/movies", {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}, 204),
    ("OPTIONS", "/nowhere", {}, 404),
    ("GET", "/nowhere", {}, 404),
    ("GET", "/api/movies/2", {}, 404),
    ("GET", "/api/movies?x=1", {}, 400),
    ("POST", "/api/movies/1", {}, 405),
    ("POST", "/api/movies", {"Content-Type": "text/plain"}, 415),
    ("TRACE", "/api/movies", {}, 405),
    ("GET", "/broken", {}, 500),
    ("GET", "/api/movies/export", {}, 200),
    ("GET", "/openapi.json", {}, 200),
    ("GET", "/docs/assets/swagger-ui.css", {}, 200),
    ("GET", "/problems", {}, 200),
    ("GET", "/health/live", {}, 200),
    ("GET", "/health/ready", {}, 200),
    ("GET", "/metrics", {}, 200),
    ("GET", "/.well-known/jwks.json", {}, 200),
]


@get("/broken", opt={"needs": None})
async def broken() -> None:
    raise ZeroDivisionError


@pytest.fixture
async def client(configure_fakes: Configure) -> AsyncIterator[Client]:
    async with Client(configure_fakes(CORS_ORIGINS=ORIGIN, MAX_REQUESTS="1")) as client:
        client.app.register(broken)
        movie = await client.added()
        await client.put(f"/api/movies/{movie.id}/image", content=PNG, headers={"Content-Type": "image/png"})
        yield client


def check(headers: Mapping[str, str], policy: str = CLOSED, resource: str = "same-origin") -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"] == policy
    assert headers["cross-origin-resource-policy"] == resource
    assert "strict-transport-security" not in headers
    assert not re.search(r"\d", headers.get("server", "")), "a version"


async def test_every_reply_is_protected(client: Client) -> None:
    for method, target, given, status in REPLIES:
        response = await client.request(method, target, headers=given)
        assert response.status_code == status, (method, target, response.text)
        check(response.headers)


async def test_images_may_be_shown_by_other_origins_and_do_nothing_themselves(client: Client) -> None:
    image = (await client.current(1)).image_url
    assert image is not None
    for target, given, status in (
        (image, {}, 200),
        (image, {"Range": "bytes=0-3"}, 206),
        (image, {"If-None-Match": "*"}, 304),
        (f"{image}?variant=thumbnail", {}, 200),
        (f"/images/{'0' * 32}", {}, 404),
    ):
        response = await client.get(target, headers=given)
        assert response.status_code == status, (target, given)
        check(response.headers, f"{CLOSED}; sandbox", "cross-origin")


async def test_the_documentation_may_run_its_own_scripts_only(client: Client) -> None:
    response = await client.get("/docs")
    policy = response.headers["content-security-policy"]

    check(response.headers, policy)
    directives = {name: values for name, *values in map(str.split, policy.split(";"))}
    assert directives["default-src"] == directives["frame-ancestors"] == ["'none'"]
    assert "'unsafe-inline'" not in directives["script-src"]
    assert response.text.count("<script") == 2
    assert "//" not in re.sub(r"data:,", "", response.text), "something from elsewhere"


@pytest.mark.parametrize(
    ("url", "told"), [("https://movies.example", True), ("http://movies.example", False)]
)
async def test_browsers_are_kept_to_tls_where_the_service_is_known_by_it(
    configure_fakes: Configure, url: str, *, told: bool
) -> None:
    async with client_of(configure_fakes(PUBLIC_URL=url)) as client:
        for target in ("/api/movies", "/nowhere", "/docs"):
            headers = (await client.get(target)).headers
            assert ("strict-transport-security" in headers) == told
            assert headers.get("strict-transport-security", "max-age=31536000") == "max-age=31536000"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "FROB"])
async def test_methods_of_no_address_are_refused_everywhere(client: Client, method: str) -> None:
    for target, allowed in (
        ("/api/movies", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/docs", {"GET", "HEAD", "OPTIONS"}),
        ("/nowhere", {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}),
    ):
        response = await client.request(method, target, headers={"Origin": ORIGIN, "Cookie": "a=b"})

        problem_in(response, "method_not_allowed")
        assert set(response.headers["allow"].split(", ")) == allowed
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "a=b" not in response.text


def plain(app: Litestar) -> set[tuple[str, str]]:
    """The routes, with something in the place of their parameters."""
    return {(method, re.sub(r"\{[^}]*\}", "1", path)) for method, path, _ in routes(app)}


async def test_every_route_answers_for_its_hosts_alone(configure_fakes: Configure) -> None:
    container = configure_fakes(ALLOWED_HOSTS="movies.example", CORS_ORIGINS=ORIGIN)
    found = plain(create_app(container))
    assert len(found) > 40
    async with client_of(container) as client:
        for method, path in found:
            for host in ("evil.example", "movies.example.evil.example", "", "127.0.0.1"):
                response = await client.request(method, path, headers={"Host": host})
                if path.startswith(("/health", "/metrics")) and host:
                    assert response.status_code == 200, (method, path)
                else:
                    problem_in(response, "malformed_request")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/nowhere", {}),
        ("DELETE", "/api/movies", {}),
        ("OPTIONS", "/api/movies", {}),
        ("OPTIONS", "/api/movies", {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}),
    ],
)
async def test_what_no_route_answers_is_for_these_hosts_as_well(
    configure_fakes: Configure, method: str, path: str, headers: dict[str, str]
) -> None:
    async with client_of(configure_fakes(ALLOWED_HOSTS="movies.example", CORS_ORIGINS=ORIGIN)) as client:
        for host in ("evil.example", ""):
            response = await client.request(method, path, headers={**headers, "Host": host})
            problem_in(response, "malformed_request")
        response = await client.request(method, path, headers={**headers, "Host": "movies.example"})
        assert response.status_code in {404, 405, 204}


@pytest.mark.parametrize(
    "path", ["//metrics", "/metrics//", "/%2Fmetrics", "/api//movies", "/api/movies//", "//api/movies", "//"]
)
async def test_an_address_has_no_other_spelling_by_empty_segments(fake_client: Client, path: str) -> None:
    """A gateway that hides /metrics would not know it by them."""
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        response = await fake_client.request(method, f"http://localhost{path}")
        assert response.status_code == 404, method
        if method != "HEAD":
            problem_in(response, "not_found")
