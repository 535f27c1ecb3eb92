"""Problems: what every 4xx and 5xx reply looks like, over REST."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import msgspec
import pytest
from dependency_injector import providers
from tests.http.conftest import Client, Configure, client_of, problem_in

from watchly_adapters.databases import EVERYTHING, Database
from watchly_adapters.memory import MemoryDatabase
from watchly_core.errors import (
    IllegalTransition,
    ImageRejected,
    Misconfigured,
    MovieNotFound,
    Unavailable,
)
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.movies import Movie, MovieDraft, client_fields
from watchly_core.ports import MovieQueries, PeopleQueries, Transaction
from watchly_core.queries import GenreCount, MovieQuery, Page
from watchly_core.signals import Signal
from watchly_http import requests
from watchly_http.problems import KINDS, Kind, Problem

pytestmark = pytest.mark.anyio

LEAK = "secret /srv/watchly.py SELECT password FROM users"


class Broken:
    """A database that answers everything with one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.keeps = EVERYTHING
        self.for_one_process = True
        self.queries: MovieQueries = BrokenQueries(error)
        self.reads = self.queries
        self.people: PeopleQueries = MemoryDatabase().people
        self.position = None
        self.replica_answers = None
        self.signal = Signal()
        self.backlogs = MemoryDatabase().backlogs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def ping(self) -> None:
        raise self._error

    async def identity(self) -> str:
        raise self._error

    @asynccontextmanager
    async def alone(self, task: str) -> AsyncIterator[bool]:  # noqa: ARG002 - the port's
        await self.ping()
        yield True

    @asynccontextmanager
    async def transactions(self) -> AsyncIterator[Transaction]:
        await self.ping()
        async with MemoryDatabase().transactions() as tx:
            yield tx


class BrokenQueries:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def at(self, position: str) -> Self:  # noqa: ARG002 - the port's
        return self

    async def get(self, movie_id: int) -> Movie:  # noqa: ARG002 - the port's
        raise self._error

    async def find(self, query: MovieQuery) -> Page:  # noqa: ARG002 - the port's
        raise self._error

    async def count(self, query: MovieQuery) -> int:  # noqa: ARG002 - the port's
        raise self._error

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:  # noqa: ARG002 - the port's
        raise self._error

    async def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        yield [client_fields(await self.get(query.limit))]

    async def history(
        self,
        movie_id: int,  # noqa: ARG002 - the port's
        *,
        before: int | None = None,  # noqa: ARG002 - the port's
        limit: int | None = None,  # noqa: ARG002 - the port's
    ) -> Sequence[Change]:
        raise self._error

    async def changes(self, query: ChangeQuery) -> Changes:  # noqa: ARG002 - the port's
        raise self._error

    async def last_change(self) -> int:
        raise self._error


@asynccontextmanager
async def broken(configure: Configure, error: Exception) -> AsyncIterator[Client]:
    container = configure()
    database: Database = Broken(error)
    container.database.override(providers.Object(database))
    async with Client(container) as client:
        yield client


REQUESTS = [
    ("GET", "/api/movies", None),
    ("POST", "/api/movies", {"title": "Heat"}),
    ("GET", "/api/movies/1", None),
    ("PUT", "/api/movies/1", {"title": "Heat"}),
    ("PATCH", "/api/movies/1", {"title": "Heat"}),
    ("DELETE", "/api/movies/1", None),
    ("DELETE", "/api/movies/1/image", None),
    ("GET", "/api/genres", None),
    ("GET", "/api/movies/export", None),
]


async def test_every_reply_that_is_no_success_is_a_problem(client: Client) -> None:
    await client.added()
    as_json = {"Content-Type": "application/json"}

    for method, path, content, headers, code in (
        ("GET", "/", b"", {}, "not_found"),
        ("GET", "/nowhere", b"", {}, "not_found"),
        ("POST", "/nowhere", b"{}", as_json, "not_found"),
        ("GET", "/api", b"", {}, "not_found"),
        ("GET", "/api/movies/2", b"", {}, "not_found"),
        ("GET", "/api/movies/1/nothing", b"", {}, "not_found"),
        ("GET", "/problems/nothing", b"", {}, "not_found"),
        ("GET", "/docs/assets/nothing.js", b"", {}, "not_found"),
        ("GET", "/docs/assets/%2e%2e/__init__.py", b"", {}, "not_found"),
        ("GET", "/api/movies?x=1", b"", {}, "invalid_parameter"),
        ("POST", "/api/movies", b"{", as_json, "malformed_json"),
        ("POST", "/api/movies", b"", as_json, "malformed_json"),
        ("POST", "/api/movies", b"{}", as_json, "validation"),
        ("POST", "/api/movies", b"{}", {}, "unsupported_media_type"),
        ("POST", "/api/movies", b" " * 1_000_001, as_json, "too_large"),
        ("DELETE", "/api/movies/1", b"", {"If-Match": "1"}, "malformed_request"),
        ("DELETE", "/api/movies/1", b"", {"If-Match": '"v9"'}, "version_conflict"),
        (
            "PUT",
            "/api/movies/1/image",
            b"\x89PNG\r\n\x1a\n",
            {"Content-Type": "image/png"},
            "image_unreadable",
        ),
        ("POST", "/health/live", b"", {}, "method_not_allowed"),
        ("DELETE", "/docs", b"", {}, "method_not_allowed"),
        ("PUT", "/openapi.json", b"", {}, "method_not_allowed"),
        ("DELETE", "/docs/assets/swagger-ui.css", b"", {}, "method_not_allowed"),
    ):
        problem = problem_in(await client.request(method, path, content=content, headers=headers), code)
        assert bool(problem.errors) == (code in {"validation", "invalid_parameter"}), path


async def test_only_faults_are_listed_and_each_is_whole(fake_client: Client) -> None:
    response = await fake_client.post("/api/movies", json={"title": "x" * 256})

    assert response.json()["errors"] == [
        {"pointer": "#/title", "code": "too_long", "detail": "must have at most 255 characters"}
    ]
    refused = await fake_client.get("/api/movies?limit=0")
    assert refused.json()["errors"] == [
        {"parameter": "limit", "code": "invalid_value", "detail": "must be an integer from 1 to 200"}
    ]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/movies", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/api/movies/1", {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}),
        ("/api/movies/01", {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}),
        ("/api/movies/export", {"GET", "HEAD", "OPTIONS"}),
        ("/api/movies/import", {"POST", "OPTIONS"}),
        ("/api/movies/1/image", {"PUT", "DELETE", "OPTIONS"}),
        ("/images/x", {"GET", "HEAD", "PUT", "OPTIONS"}),
        ("/health", {"GET", "HEAD", "OPTIONS"}),
        ("/problems/validation", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_allow_lists_the_methods_of_an_address(
    fake_client: Client, path: str, allowed: set[str]
) -> None:
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - allowed:
        response = await fake_client.request(method, path)
        assert set(response.headers["allow"].split(", ")) == allowed, method
        if method != "HEAD":
            problem_in(response, "method_not_allowed")
    options = await fake_client.options(path)
    assert options.status_code == 204
    assert set(options.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("method", "path", "media_type"),
    [
        ("POST", "/api/movies", "application/json"),
        ("PUT", "/api/movies/1", "application/json"),
        ("PATCH", "/api/movies/1", "application/merge-patch+json"),
        ("PUT", "/api/movies/1/image", "image/png"),
        ("POST", "/api/movies/import", "text/csv"),
    ],
)
async def test_a_body_that_stops_arriving_is_not_waited_for(
    configure_fakes: Configure, monkeypatch: pytest.MonkeyPatch, method: str, path: str, media_type: str
) -> None:
    monkeypatch.setattr(requests, "BODY_WAIT", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"title'
        await asyncio.Event().wait()

    container = configure_fakes()
    await container.catalogue().add({"title": "Heat"})
    headers = {"Content-Type": media_type}
    async with client_of(container) as client, asyncio.timeout(30):
        response = await client.request(method, path, content=body(), headers=headers)

        problem_in(response, "request_timeout")
        described = (await client.get("/openapi.json")).json()["paths"]
        (operation,) = (
            methods[method.lower()]
            for route, methods in described.items()
            if route.replace("{movie_id}", "1") == path
        )
        assert "request_timeout" in operation["responses"]["408"]["description"]


@pytest.mark.parametrize(
    ("length", "encoding", "status"),
    [("17", None, 201), ("17", "chunked", 408), ("16", None, 408), ("99", None, 408), ("+17", None, 408)],
)
async def test_a_body_ends_with_the_last_byte_that_was_announced(
    configure_fakes: Configure,
    monkeypatch: pytest.MonkeyPatch,
    length: str,
    encoding: str | None,
    status: int,
) -> None:
    monkeypatch.setattr(requests, "BODY_WAIT", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"title"'
        yield b': "Heat"}'
        await asyncio.Event().wait()

    headers = {"Content-Type": "application/json", "Content-Length": length}
    if encoding is not None:
        headers["Transfer-Encoding"] = encoding
    async with client_of(configure_fakes()) as client, asyncio.timeout(30):
        response = await client.post("/api/movies", content=body(), headers=headers)

    assert response.status_code == status


# ---- the kinds ----


@pytest.mark.parametrize("code", KINDS)
async def test_every_code_is_explained_at_the_address_of_its_type(fake_client: Client, code: str) -> None:
    response = await fake_client.get(f"/problems/{code}")

    assert response.status_code == 200
    assert msgspec.json.decode(response.content, type=Kind) == KINDS[code]
    assert response.json()["explanation"]


async def test_every_code_is_listed(fake_client: Client) -> None:
    response = await fake_client.get("/problems")

    assert {kind["code"] for kind in response.json()["data"]} == set(KINDS)


# ---- the id of a request ----


async def test_every_request_has_an_id_of_its_own(fake_client: Client) -> None:
    paths = ["/api/movies", "/api/movies/1", "/nowhere", "/health/live", "/docs", "/openapi.json"] * 2

    ids = [(await fake_client.get(path)).headers["x-request-id"] for path in paths]

    assert len(set(ids)) == len(paths)
    assert all(re.fullmatch(r"[0-9a-f]{32}", text) for text in ids)


@pytest.mark.parametrize(
    "text", ["a", "6f1c0a9e-5b7d", "Root=1-67891233-abcdef012345678912345678", "a" * 128]
)
async def test_a_client_may_choose_the_id(fake_client: Client, text: str) -> None:
    response = await fake_client.get("/nowhere", headers={"X-Request-ID": text})

    assert problem_in(response, "not_found").request_id == text


@pytest.mark.parametrize(
    "text", ["", "a b", "a\tb", 'a"b', "<script>", "a" * 129, "a,b", "{}", "a;b", "\x7f", "%0A"]
)
async def test_an_unsafe_id_is_replaced(fake_client: Client, text: str) -> None:
    response = await fake_client.get("/nowhere", headers={"X-Request-ID": text})

    assert re.fullmatch(r"[0-9a-f]{32}", problem_in(response, "not_found").request_id)


# ---- what goes wrong here ----


@pytest.mark.parametrize("error", [RuntimeError(LEAK), OSError(13, LEAK), RecursionError(LEAK)])
async def test_a_fault_of_our_own_tells_nothing(configure_fakes: Configure, error: Exception) -> None:
    async with broken(configure_fakes, error) as client:
        for method, path, body in REQUESTS[:4]:
            response = await client.request(method, path, json=body)
            problem_in(response, "internal")
            for word in ("secret", "/srv", "SELECT", "password", "Error", "Traceback", ".py"):
                assert word not in response.text
                assert word not in str(response.headers)


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_a_part_that_is_down_is_a_503(
    configure_fakes: Configure, method: str, path: str, body: object
) -> None:
    async with broken(configure_fakes, Unavailable("database", LEAK, retry_after=7)) as client:
        response = await client.request(method, path, json=body)

        problem_in(response, "unavailable")
        assert response.headers["retry-after"] == "7"
        assert "secret" not in response.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IllegalTransition("image 1 is deleting"), "image_conflict"),
        (MovieNotFound(1), "not_found"),
        (ImageRejected("the store will never take these bytes"), "image_unreadable"),
    ],
)
async def test_other_errors_of_the_core(configure_fakes: Configure, error: Exception, code: str) -> None:
    async with broken(configure_fakes, error) as client:
        problem_in(await client.get("/api/movies/1"), code)


async def test_every_503_says_when_to_try_again(configure_fakes: Configure) -> None:
    async with broken(configure_fakes, Misconfigured(LEAK)) as client:
        response = await client.get("/api/movies/1")

        assert "secret" not in response.text
        if response.status_code == 503:
            assert response.headers["retry-after"].isdigit()
        else:
            problem_in(response, "internal")


async def test_readiness_that_is_refused_is_a_problem_as_well(configure_fakes: Configure) -> None:
    """api.md: application/problem+json for every 4xx and 5xx, whoever raised it."""
    async with broken(configure_fakes, Unavailable("database", LEAK)) as client:
        response = await client.get("/health/ready")

        assert response.status_code == 503
        assert "secret" not in response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert msgspec.json.decode(response.content, type=Problem).code == "unavailable"


@pytest.mark.parametrize("host", ["evil.example", "movies.example.evil.example", "127.0.0.1", ""])
async def test_other_hosts_than_the_allowed_are_refused(configure_fakes: Configure, host: str) -> None:
    async with Client(configure_fakes(ALLOWED_HOSTS="movies.example")) as client:
        assert (await client.get("/api/movies", headers={"Host": "movies.example"})).status_code == 200
        problem_in(await client.get("/api/movies", headers={"Host": host}), "malformed_request")
