"""The reads that are answered without their routes: byte for byte as their routes would have."""

from __future__ import annotations

from itertools import product
from typing import Final, TypeAlias

import httpx
import pytest
from litestar import Litestar
from tests.http.cast import Cast, running
from tests.http.conftest import Configure

from watchly_adapters.container import Container
from watchly_core.people import Role

pytestmark = pytest.mark.anyio

Headers: TypeAlias = list[tuple[str, str]]

SETTINGS: Final[dict[str, dict[str, str]]] = {
    "open": {"AUTH": "off"},
    "one host": {"AUTH": "off", "ALLOWED_HOSTS": "localhost"},
    "public": {"AUTH": "on"},
    "closed": {"AUTH": "on", "PUBLIC_READ": "false"},
}

PATHS: Final = [
    *("/api/movies/1", "/api/movies/2", "/api/movies/3", "/api/movies/99", "/api/movies/0", "/api/movies/01"),
    *("/api/movies/2147483648", "/api/movies/99999999999999999999", "/api/movies/٣", "/api/movies/²"),
    *("/api/movies/1?x=1", "/api/movies", "/api/movies?", "/api/movies?limit=2", "/api/movies?limit=0"),
    *(
        "/api/movies?limit=x",
        "/api/movies?q=heat",
        "/api/movies?q=haet",
        "/api/movies?q=",
        "/api/movies?q=%ff",
    ),
    *("/api/movies?genre=Crime&sort=-title", "/api/movies?sort=colour", "/api/movies?cursor=nonsense"),
    *("/api/movies?colour=red&limit=1&limit=2", "/api/movies?min_release_year=1990&max_release_year=1980"),
    "/api/movies?" + "&".join(f"a{number}=1" for number in range(101)),
]

HEADERS: Final[list[Headers]] = [
    [],
    [("If-None-Match", '"v1"')],
    [("If-None-Match", 'W/"v1", "v2"')],
    [("If-None-Match", '"v9"'), ("If-None-Match", '"v2"')],
    [("If-None-Match", "*")],
    [("If-None-Match", "nonsense")],
    [("Watchly-Position", "nonsense")],
    [("Prefer", "count=exact")],
    [("Prefer", 'return=minimal, count="exact"')],
    [("Accept", "text/html"), ("Range", "bytes=0-3"), ("Cookie", "a=b"), ("Content-Type", "x")],
    [("Content-Length", "3")],
    [("Authorization", "Bearer nonsense")],
    [("Authorization", "Basic YTpi")],
    [("Authorization", "Bearer"), ("Authorization", "Bearer")],
    [("Host", "localhost"), ("Host", "localhost")],
    [("Host", "")],
    [("Host", "other.example")],
    [("Host", "localhost:8080")],
    [("Host", "[::1]:5000")],
    [("Host", "a b")],
    [("Host", "localhost:99999999")],
    [("Host", "bücher.example")],
]


def routed(app: Litestar) -> int:
    """How often the router was asked so far."""
    info = app.asgi_router.handle_routing.cache_info()
    return info.hits + info.misses


async def sent(client: httpx.AsyncClient, method: str, path: str, headers: Headers) -> httpx.Response:
    request = client.build_request(method, path)
    replaced = {name.lower() for name, _ in headers}
    kept = [pair for pair in request.headers.multi_items() if pair[0] not in replaced]
    encoded = [(name.encode(), value.encode()) for name, value in [*kept, *headers]]
    request.headers = httpx.Headers([*encoded, (b"X-Request-ID", b"the-same")])
    return await client.send(request)


def seen(response: httpx.Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return response.status_code, sorted(response.headers.raw), response.content


async def fill(container: Container) -> str:
    """Three movies, the second revised, the third removed; what an editor bears."""
    catalogue = container.catalogue()
    for title in ("Heat", "Alien", "Ran"):
        await catalogue.add({"title": title, "genre": "Crime", "release_year": 1990})
    await catalogue.revise(2, {"title": "Aliens"})
    await catalogue.remove(3)
    return await Cast(container).system_token(Role.EDITOR)


@pytest.mark.parametrize("settings", SETTINGS)
async def test_every_answer_is_the_one_of_the_route(configure_fakes: Configure, settings: str) -> None:
    container = configure_fakes(**SETTINGS[settings])
    async with running(container) as (_, client):
        good: Headers = [("Authorization", f"Bearer {await fill(container)}")]
        bearers = [[], good] if container.settings().auth else [[]]
        statuses = set()
        for path, headers, bearer in product(PATHS, HEADERS, bearers):
            # Nobody is told of CORS here, so that an Origin changes nothing; it leads to the route.
            plain, by_route = [*bearer, *headers], [*bearer, *headers, ("Origin", "http://elsewhere.example")]
            for method in ("GET", "HEAD"):
                answer = await sent(client, method, path, plain)
                expected = await sent(client, method, path, by_route)
                assert seen(answer) == seen(expected), (method, path, plain)
                statuses.add(answer.status_code)

    assert statuses >= ({200, 304, 400, 401, 404} if container.settings().auth else {200, 304, 400, 404})


async def test_plain_reads_do_not_go_by_the_router(configure_fakes: Configure) -> None:
    container = configure_fakes()
    async with running(container) as (app, client):
        await fill(container)
        before = routed(app)
        for path in ("/api/movies/1", "/api/movies/99", "/api/movies?limit=2"):
            await sent(client, "GET", path, [])
            await sent(client, "HEAD", path, [])

        assert routed(app) == before


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/movies/1/", []),
        ("GET", "//api/movies/1", []),
        ("GET", "/api/movies/heat", []),
        ("GET", "/api/movies/export", []),
        ("GET", "/api/movies/1", [("Origin", "http://localhost")]),
        ("OPTIONS", "/api/movies/1", []),
        ("DELETE", "/api/movies/1", []),
    ],
)
async def test_what_is_not_plain_is_left_to_the_routes(
    configure_fakes: Configure, method: str, path: str, headers: Headers
) -> None:
    container = configure_fakes()
    async with running(container) as (app, client):
        await fill(container)
        before = routed(app)

        await sent(client, method, path, headers)

        assert routed(app) > before
