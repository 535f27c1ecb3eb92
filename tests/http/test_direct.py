"""What is answered without its route: byte for byte as its route would have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import IO, Final, NamedTuple, TypeAlias

import httpx
import pytest
from litestar import Litestar
from tests.http.cast import Cast, running
from tests.http.conftest import Configure

from watchly_adapters.container import Container
from watchly_adapters.memory import MemoryImages
from watchly_adapters.testing import samples
from watchly_adapters.testing.image_stores import put
from watchly_core.images import RENDERED, VARIANTS, Rendition
from watchly_core.people import Role
from watchly_http.image_files import SMALL_BYTES

pytestmark = pytest.mark.anyio

Headers: TypeAlias = list[tuple[str, str]]

SETTINGS: Final[dict[str, dict[str, str]]] = {
    "open": {"AUTH": "off"},
    "one host": {"AUTH": "off", "ALLOWED_HOSTS": "localhost"},
    "public": {"AUTH": "on"},
    "closed": {"AUTH": "on", "PUBLIC_READ": "false"},
}

#: Keys of images, and their addresses; the large one is sent in pieces.
SMALL: Final = "5a" * 16
LARGE: Final = "1a" * 16
IMAGES: Final = (f"/images/{SMALL}", f"/images/{LARGE}")

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
    *IMAGES,
    *(f"/images/{'0' * 32}", f"/images/{SMALL}?", f"/images/{SMALL}x", f"/images/{SMALL}?variant=x"),
    *(f"{image}?variant=card" for image in IMAGES),
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
    [("If-None-Match", f'"{SMALL}"')],
    [("If-None-Match", f'"{SMALL}.card.webp"'), ("Range", "bytes=0-3")],
    [("Range", "bytes=10-99")],
    [("Range", "bytes=-5"), ("If-Range", f'"{LARGE}"')],
    [("Range", "bytes=999999-")],
    [("Accept", "image/avif")],
    [("Accept", "image/png")],
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


async def sent(
    client: httpx.AsyncClient, method: str, path: str, headers: Headers, body: bytes | None = None
) -> httpx.Response:
    request = client.build_request(method, path, content=body)
    replaced = {name.lower() for name, _ in headers}
    kept = [pair for pair in request.headers.multi_items() if pair[0] not in replaced]
    encoded = [(name.encode(), value.encode()) for name, value in [*kept, *headers]]
    request.headers = httpx.Headers([*encoded, (b"X-Request-ID", b"the-same")])
    return await client.send(request)


def seen(response: httpx.Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return response.status_code, sorted(response.headers.raw), response.content


async def fill(container: Container) -> str:
    """Three movies, the second revised, the third removed, and two images; what an editor bears."""
    catalogue = container.catalogue()
    for title in ("Heat", "Alien", "Ran"):
        await catalogue.add({"title": title, "genre": "Crime", "release_year": 1990})
    await catalogue.revise(2, {"title": "Aliens"})
    await catalogue.remove(3)
    images = container.images()
    assert isinstance(images, MemoryImages)
    for key, size in ((SMALL, SMALL_BYTES), (LARGE, SMALL_BYTES + 1)):
        await put(images, key, samples.png(size))
        for form in RENDERED:
            await images.render(key, Rendition(VARIANTS["card"], form), _rendered)
    return await Cast(container).system_token(Role.EDITOR)


async def _rendered(original: IO[bytes]) -> bytes:
    return original.read()[::-1]


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

    assert statuses >= {200, 206, 304, 400, 404, 406, 416, *([401] if container.settings().auth else [])}


async def test_plain_reads_do_not_go_by_the_router(configure_fakes: Configure) -> None:
    container = configure_fakes()
    async with running(container) as (app, client):
        await fill(container)
        before = routed(app)
        for path in ("/api/movies/1", "/api/movies/99", "/api/movies?limit=2", *IMAGES):
            await sent(client, "GET", path, [])
            await sent(client, "HEAD", path, [])

        assert routed(app) == before


class Write(NamedTuple):
    """A write, to the movie with this number where its path names none."""

    method: str
    body: bytes
    headers: Headers
    path: str | None = None


JSON: Final = ("Content-Type", "application/json")
MERGE: Final = ("Content-Type", "application/merge-patch+json")
HEAT: Final = b'{"title": "Heat", "release_year": 1995, "genre": "Crime"}'

BODIES: Final = [
    *(b"", b"{}", b"[]", b"null", b'"title"', b"1", b'{"title": ', b"{} {}", b"\xff", b"[" * 10_000),
    *(b'{"title": null}', b'{"title": ""}', b'{"title": "\\ud800"}', b'{"title": 1, "genre": [], "x": {}}'),
    *(b'{"release_year": 1e400, "title": "x"}', b'{"release_year": 1800}', b'{"id": 7, "title": "x"}'),
    *(b'{"title": "x", "image_url": "http://elsewhere.example/"}', b'{"title": "a", "title": "b"}'),
    *('{"title": "Amélie"}'.encode(), b'{"genre": null}', b'{"title": "' + b"x" * 2_000 + b'"}'),
]

FORM_TYPE: Final = ("Content-Type", "multipart/form-data; boundary=b")
FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nHeat\r\n'
    b'--b\r\nContent-Disposition: form-data; name="genre"\r\n\r\n\r\n--b--\r\n'
)

WRITE_HEADERS: Final[list[Headers]] = [
    *([], [JSON], [MERGE], [("Content-Type", "text/plain")], [("Content-Type", "")], [JSON, MERGE]),
    [("Content-Type", "Application/JSON ; charset=latin-1")],
    [JSON, ("Content-Encoding", "gzip")],
    [JSON, ("Content-Encoding", "Identity")],
    [JSON, ("Content-Length", "99999999")],
    [JSON, ("Content-Length", "9" * 30)],
    [JSON, ("Content-Length", "3")],
    [JSON, ("Expect", "100-continue")],
    *([JSON, (name, "*")] for name in ("If-Match", "If-None-Match")),
    *([JSON, (name, "nonsense")] for name in ("If-Match", "If-None-Match", "Watchly-Position", "Prefer")),
    *([JSON, (name, tag)] for name in ("If-Match", "If-None-Match") for tag in ('"v1"', '"v2"', 'W/"v1"')),
    [JSON, ("If-Match", '"v1", "v2"'), ("If-Match", '"v3"')],
    [JSON, ("If-Match", '"v1"'), ("If-None-Match", '"v1"')],
    [JSON, ("Idempotency-Key", "")],
    [JSON, ("Idempotency-Key", "a"), ("Idempotency-Key", "a")],
    *([JSON, ("Idempotency-Key", key)] for key in ("first", "first", "second")),
    *([JSON, *headers] for headers in HEADERS if headers and headers[0][0] in {"Authorization", "Host"}),
]

PLACES: Final = [
    *("/api/movies/0", "/api/movies/01", "/api/movies/3", "/api/movies/9999", "/api/movies/2147483648"),
    *("/api/movies/٣", "/api/movies?x=1", "/api/movies/4?purge=true", "/api/movies/5?purge=maybe&x=1"),
]

METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")


def writes() -> Iterator[Write]:
    """Every body, header and place, with every method; each four are about a movie of their own."""
    for body, method in product(BODIES, METHODS):
        yield Write(method, body, [MERGE if method == "PATCH" else JSON])
    for headers, method in product(WRITE_HEADERS, METHODS):
        yield Write(method, HEAT, headers)
    for path, body, method in product(PLACES, (HEAT, b"[]"), METHODS):
        yield Write(method, body, [JSON], path)
    for body, key in product((FORM, FORM[:-9], HEAT), ("form", "another", "form")):
        yield Write("POST", body, [FORM_TYPE, ("Idempotency-Key", key)])


class World(NamedTuple):
    """An application over a store of its own, whose time passes with each look at the clock."""

    app: Litestar
    client: httpx.AsyncClient
    bearers: dict[str, Headers]


def clock() -> Callable[[], datetime]:
    moments = count()
    return lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(moments))


@asynccontextmanager
async def world(container: Container, root_path: str = "") -> AsyncIterator[World]:
    container.catalogue.add_kwargs(clock=clock())
    async with running(container) as (app, _):
        editor = await fill(container)
        for number in range(200):
            await container.catalogue().add({"title": f"Film {number}"})
        cast = Cast(container)
        bearers: dict[str, Headers] = {
            "nobody": [],
            "viewer": [("Authorization", f"Bearer {await cast.system_token(Role.VIEWER)}")],
            "editor": [("Authorization", f"Bearer {editor}")],
        }
        transport = httpx.ASGITransport(app, root_path=root_path)  # type: ignore[arg-type]  # as in `running`
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield World(app, client, bearers)


@pytest.mark.parametrize("settings", SETTINGS)
async def test_every_write_is_the_one_of_its_route(configure_fakes: Configure, settings: str) -> None:
    here, there = (configure_fakes(**SETTINGS[settings]) for _ in range(2))
    # An application that is told of a root path takes requests by its routes, whatever the path is.
    async with world(here) as direct, world(there, root_path="/below") as by_route:
        statuses = set()
        for who in direct.bearers if here.settings().auth else ("nobody",):
            for number, write in enumerate(writes(), start=4 * 4):
                path = write.path or (
                    "/api/movies" if write.method == "POST" else f"/api/movies/{number // 4}"
                )
                answers = [
                    await sent(
                        one.client, write.method, path, [*one.bearers[who], *write.headers], write.body
                    )
                    for one in (direct, by_route)
                ]
                assert seen(answers[0]) == seen(answers[1]), (who, path, write)
                statuses.add(answers[0].status_code)
        for path in ("/api/movies?limit=100&sort=-id", "/api/changes?limit=200"):
            told = [await sent(one.client, "GET", path, one.bearers["editor"]) for one in (direct, by_route)]
            assert told[0].content == told[1].content, path

    assert statuses >= {200, 201, 204, 400, 404, 412, 413, 415, 422}
    assert not here.settings().auth or statuses >= {401, 403}
    assert 2 * routed(direct.app) < routed(by_route.app)


async def test_plain_writes_do_not_go_by_the_router(configure_fakes: Configure) -> None:
    async with world(configure_fakes()) as one:
        before = routed(one.app)
        for method, path in (("POST", ""), ("PUT", "/1"), ("PATCH", "/2"), ("DELETE", "/2"), ("PUT", "/2")):
            await sent(one.client, method, f"/api/movies{path}", [JSON], HEAT)

        assert routed(one.app) == before


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/movies/1/", []),
        ("GET", "//api/movies/1", []),
        ("GET", "/api/movies/heat", []),
        ("GET", "/api/movies/export", []),
        ("GET", "/api/movies/1", [("Origin", "http://localhost")]),
        ("GET", "/images/heat", []),
        ("GET", f"/images/{SMALL}/", []),
        ("DELETE", f"/images/{SMALL}", []),
        ("OPTIONS", "/api/movies/1", []),
        ("OPTIONS", "/api/movies", []),
        ("POST", "/api/movies", [("Origin", "http://localhost")]),
        ("POST", "/api/movies/", []),
        ("POST", "/api/movies/1", []),
        ("POST", "/api/movies/import", []),
        ("PUT", "/api/movies", []),
        ("PUT", "/api/movies/1/image", []),
        ("DELETE", "/api/movies", []),
        ("DELETE", "/api/movies/1/image", []),
        ("PURGE", "/api/movies/1", []),
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
