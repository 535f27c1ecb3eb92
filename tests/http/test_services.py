"""Parts of the API that are mounted apart, in one process; `test_separate_services` has them in several."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from itertools import combinations
from typing import Final, NoReturn

import msgspec
import pytest
from dependency_injector import providers
from tests.http.cast import Cast, bearing, running
from tests.http.conftest import Client, Configure, movie_in, problem_in
from tests.http.policies import POLICIES
from tests.http.test_images import PNG

from watchly_adapters.cloudinary import CloudinaryImages
from watchly_adapters.container import Container
from watchly_adapters.settings import SERVICES, read_settings
from watchly_core.people import Role
from watchly_http.services import offered

pytestmark = pytest.mark.anyio

#: Which part has an address; the first that fits.
ROUTES: Final = (
    (r"/api/movies/[^/]+/(history|revert)|/api/changes.*", "changes"),
    (r"/api/movies/[^/]+/image.*|/images/.*|/webhooks/.*", "images"),
    (r"/api/movies.*|/api/genres", "movies"),
    (r"/api/(auth|me|users|api-keys).*|/.well-known/jwks.json", "people"),
    (r"/(health|metrics|problems|docs|openapi).*", "operations"),
)
CHOICES: Final = [
    ",".join(chosen) for count in range(1, 5) for chosen in combinations(sorted(SERVICES), count)
]


def part_of(path: str) -> str:
    return next(part for pattern, part in ROUTES if re.fullmatch(pattern, path))


@pytest.fixture
def configure_with_both(configure_fakes: Configure) -> Callable[[str, str], Container]:
    """Makes containers whose images are files, or elsewhere."""

    def container(service: str, store: str) -> Container:
        made = configure_fakes(SERVICE=service)
        if store == "elsewhere":
            images = CloudinaryImages.from_url("cloudinary://key:secret@nowhere")
            made.images.override(providers.Object(images))
        return made

    return container


@pytest.mark.parametrize("store", ["files", "elsewhere"])
@pytest.mark.parametrize("service", CHOICES)
async def test_what_is_not_mounted_is_an_address_like_any_unknown_one(
    service: str, store: str, configure_with_both: Callable[[str, str], Container]
) -> None:
    mounted = {*service.split(","), "operations"}
    absent = "/webhooks/" if store == "files" else "/images/"
    seen = set()
    async with running(configure_with_both(service, store)) as (_, client):
        for route in POLICIES:
            method, template = route.split()
            path = re.sub(r"{\w+}", "1", template)
            if template == "/api/changes/stream" and "changes" in mounted:
                path += "?after=x"  # a stream would not end
            response = await client.request(method, path)
            unknown = (
                response.status_code == 404 and response.json().get("detail") == "Nothing is at this address."
            )
            assert unknown is (part_of(template) not in mounted or template.startswith(absent)), route
            if unknown:
                assert response.json()["code"] == "not_found"
                assert (await client.options(path)).status_code in {204, 404}
            elif method == "GET" and template.startswith("/api/movies"):
                seen.add(template)
        document = msgspec.json.decode((await client.get("/openapi.json")).content, type=dict[str, object])
    paths = msgspec.convert(document["paths"], dict[str, object])
    assert {part_of(path) for path in paths} == mounted
    wanted = {route.split()[1] for route in POLICIES if not re.search("/docs|/openapi", route)}
    assert set(paths) == {path for path in wanted if part_of(path) in mounted and not path.startswith(absent)}


def refuse() -> NoReturn:
    raise AssertionError("nothing here needs it")


_BESIDE: Final = {"_sweep", "Feed._run", "Feed._ask"}
_OF_PEOPLE: Final = ("accounts", "sessions", "hasher", "throttle")


@pytest.mark.parametrize(
    ("service", "names"),
    [
        ("people", ("gallery", "catalogue", "reading", "cached", "cache")),
        ("changes", ("gallery", *_OF_PEOPLE)),
        ("movies", _OF_PEOPLE),
        ("images", _OF_PEOPLE),
    ],
)
async def test_what_nothing_uses_is_not_made(
    service: str, names: tuple[str, ...], configure_fakes: Configure
) -> None:
    container = configure_fakes(SERVICE=service, CACHE="local")
    container.inspector.reset_override()
    for name in names:
        container.providers[name].override(providers.Callable(refuse))
    async with running(container) as (_, client):
        ready = await client.get("/health/ready")
    assert (container.images.initialized, container.inspector.initialized) == (
        service != "people",
        service in {"movies", "images"},
    )
    assert ready.status_code == 200
    assert ("image_store" in ready.json()["checks"]) is (service != "people")


@pytest.mark.parametrize(
    ("service", "going_on"),
    [
        ("images", {"_sweep"}),
        ("changes", {"Feed._run", "Feed._ask"}),
        ("movies", set()),
        ("people", set()),
        ("images,changes", {"_sweep", "Feed._run", "Feed._ask"}),
    ],
)
async def test_what_goes_on_beside_the_requests_is_that_of_what_is_mounted(
    service: str, going_on: set[str], configure_fakes: Configure
) -> None:
    before = asyncio.all_tasks()
    async with running(configure_fakes(SERVICE=service)):
        coroutines = [task.get_coro() for task in asyncio.all_tasks() - before]
        # Litestar has tasks of its own.
        assert {getattr(each, "__qualname__", "") for each in coroutines} & _BESIDE == going_on


async def test_movies_apart_take_forms_with_images_and_the_images_are_served_elsewhere(
    configure: Configure,
) -> None:
    writer, reader = configure(SERVICE="movies"), configure(SERVICE="images")
    reader.database.override(writer.database)
    reader.images.override(writer.images)
    async with Client(writer) as movies:
        added = await movies.post("/api/movies", data={"title": "Heat"}, files={"image": ("a.png", PNG)})
        movie = movie_in(added)
        assert added.status_code == 201
        assert movie.image is not None
        assert (await movies.get(f"/api/movies/{movie.id}")).json() == added.json()
        path = f"/images/{movie.image.key}"
        problem_in(await movies.get(path), "not_found")
        problem_in(await movies.delete(f"/api/movies/{movie.id}/image"), "not_found")

        async def load() -> None:
            # Within the one that runs, for both are one process here.
            from tests.http.conftest import client_of  # noqa: PLC0415 - a client in the loop of the parts

            async with client_of(reader) as images:
                assert (await images.get(path)).status_code == 200
                problem_in(await images.get(f"/api/movies/{movie.id}"), "not_found")

        movies.call(load)


async def test_who_somebody_is_is_asked_by_every_part(configure_fakes: Configure) -> None:
    people = configure_fakes(AUTH="on", PUBLIC_READ="false")
    member = await Cast(people).member(Role.VIEWER)
    for service, path in (
        ("movies", "/api/movies"),
        ("images", f"/images/{'0' * 32}"),
        ("changes", "/api/changes"),
        ("people", "/api/me"),
    ):
        container = configure_fakes(SERVICE=service, AUTH="on", PUBLIC_READ="false")
        container.database.override(people.database)
        async with running(container) as (_, client):
            problem_in(await client.get(path), "not_signed_in")
            for bearer in (member.token, member.key.secret):
                known = await client.get(path, headers=bearing(bearer))
                assert known.status_code == (404 if service == "images" else 200)


def test_a_store_without_people_can_have_them_known_elsewhere() -> None:
    elsewhere = {
        "WATCHLY_HOME": "/nowhere",
        "SERVICE": "movies,changes",
        "JWKS_URL": "https://people.example/jwks.json",
    }
    assert offered(read_settings(elsewhere), {"receipts"}) == {"movies", "changes"}
