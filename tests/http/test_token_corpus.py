"""What claims to say who sends a request and is not believed: each case, its answer, and how long it took."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest
from tests.corpus.cases import request
from tests.corpus.town import Line, exchange
from tests.corpus.town import running as running_town
from tests.http import forging
from tests.http.cast import Cast, Member, bearing, running
from tests.http.conftest import Configure, client_of, problem_in

from watchly_adapters.container import Container
from watchly_adapters.settings import read_settings
from watchly_core.people import Role

pytestmark = pytest.mark.anyio

#: How often each is tried for its median.
TRIES: Final = 5


class Scene(NamedTuple):
    """A service that is not open to everybody, and people at it."""

    container: Container
    client: httpx.AsyncClient
    member: Member
    path: str
    corpus: dict[str, list[bytes]]


@pytest.fixture
async def scene(configure_fakes: Configure) -> AsyncIterator[Scene]:
    container = configure_fakes(AUTH="on", PUBLIC_READ="false")
    cast = Cast(container)
    member, other = await cast.member(Role.EDITOR), await cast.member(Role.EDITOR)
    movie = await container.catalogue().add({"title": "Heat"})
    forger = await forging.forger_of(container, member)
    forged = forging.tokens(forger, other) | await forging.ended(container, cast)
    corpus = {name: [b"Bearer " + token.encode()] for name, token in forged.items()}
    corpus |= forging.headers(member.token)
    async with running(container) as (_, client):
        yield Scene(container, client, member, f"/api/movies/{movie.id}", corpus)


def lines(values: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", value) for value in values]


def pieces(values: list[bytes]) -> set[str]:
    """The parts of what was borne that would be of use to somebody."""
    words = b" ".join(values).replace(b".", b" ").decode("latin-1").split()
    return {word for word in words if len(word) > 16}


async def test_nothing_in_the_corpus_is_believed(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    report = []
    for name, values in scene.corpus.items():
        took = []
        for _ in range(TRIES):
            began = time.perf_counter()
            response = await scene.client.get(scene.path, headers=lines(values))
            took.append(time.perf_counter() - began)
        median = statistics.median(took)
        code = response.json()["code"]
        report.append(f"{name[:44]:44}  {response.status_code} {code}  {median * 1e6:6,.0f} µs")
        problem_in(response, "not_signed_in")
        assert response.headers["www-authenticate"] == "Bearer", name
        assert scene.path in caplog.text
        told = response.text + repr(response.headers.raw) + caplog.text
        caplog.clear()
        assert not [piece for piece in pieces(values) if piece in told], name
        for method in ("HEAD", "OPTIONS", "PUT", "DELETE"):
            response = await scene.client.request(method, scene.path, headers=lines(values))
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), name
    assert len(report) > 150
    print(f"\n{len(report)} headers\n" + "\n".join(report))  # noqa: T201 - `-s` shows it


async def test_the_corpus_is_made_of_what_is_good(scene: Scene) -> None:
    forger = await forging.forger_of(scene.container, scene.member)

    for token in (
        scene.member.token,
        scene.member.key.secret,
        forger.payload(),
        forger.payload(exp=forger.now + 60, more="members"),
        await Cast(scene.container).system_token(Role.VIEWER),
    ):
        for scheme in ("Bearer", "bearer", "BEARER", "Bearer ", "bEaReR  "):
            headers = {"Authorization": f"{scheme} {token}"}
            assert (await scene.client.get(scene.path, headers=headers)).status_code == 200, (scheme, token)
            assert (await scene.client.head(scene.path, headers=headers)).status_code == 200
            assert (await scene.client.options(scene.path, headers=headers)).status_code == 204


async def test_a_token_is_borne_by_that_header_alone(scene: Scene) -> None:
    token = scene.member.token

    for response in (
        await scene.client.get(scene.path),
        await scene.client.get(scene.path, params={"access_token": token}),
        await scene.client.get(scene.path, headers={"Cookie": f"access_token={token}"}),
        await scene.client.get(scene.path, headers={"X-Authorization": f"Bearer {token}"}),
        await scene.client.get(scene.path, headers={"Proxy-Authorization": f"Bearer {token}"}),
        await scene.client.post("/api/movies", data={"access_token": token}),
    ):
        problem_in(response, "not_signed_in")


async def test_a_token_that_is_not_good_is_told_where_none_is_needed_too(configure_fakes: Configure) -> None:
    container = configure_fakes(AUTH="on", CORS_ORIGINS="https://app.example")
    member = await Cast(container).member(Role.VIEWER)
    async with client_of(container) as client:
        assert (await client.get("/api/movies")).status_code == 200
        for values in ([b"Bearer x"], [b"Basic eDp5"], [b"Bearer"], [member.token.encode()], [b""]):
            problem_in(await client.get("/api/movies", headers=lines(values)), "not_signed_in")
            # Where nobody is asked, it is not looked at.
            for path in ("/health", "/health/live", "/problems", "/openapi.json", "/.well-known/jwks.json"):
                assert (await client.get(path, headers=lines(values))).status_code == 200
            credentials = {"email": member.user.email, "password": "a curious incident"}
            signed_in = await client.post("/api/auth/login", json=credentials, headers=lines(values))
            assert signed_in.status_code == 200


@pytest.mark.parametrize("bearer", [None, "x"])
async def test_browsers_may_ask_beforehand_whoever_they_ask_for(
    configure_fakes: Configure, bearer: str | None
) -> None:
    container = configure_fakes(AUTH="on", PUBLIC_READ="false", CORS_ORIGINS="https://app.example")
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization",
        **bearing(bearer),
    }
    async with client_of(container) as client:
        for path in ("/api/movies", "/api/movies/1", "/api/users", "/api/api-keys/1", "/api/auth/login"):
            response = await client.options(path, headers=asked)
            assert response.status_code in {200, 204}
            assert "authorization" in response.headers["access-control-allow-headers"].lower()
            refused = await client.options(path, headers={"Origin": "https://app.example"})
            assert refused.status_code == (204 if path == "/api/auth/login" else 401)
        # Pages can read why they are refused.
        refused = await client.get(
            "/api/movies", headers={"Origin": "https://app.example", **bearing(bearer)}
        )
        problem_in(refused, "not_signed_in")
        assert refused.headers["access-control-allow-origin"] == "https://app.example"


# ---- over a socket ----


def test_a_server_refuses_them_and_goes_on(server_url: str, tmp_path: Path) -> None:
    with running_town(server_url, tmp_path, PUBLIC_READ="false") as town:
        forged, good = asyncio.run(_forged(Container(settings=read_settings(town.variables))))
        assert exchange(town, _bearing(good)).status == 200
        assert exchange(town, _bearing(good, b"bearer  ")).status == 200
        assert len(forged) > 150
        for name, token in forged.items():
            with Line(town, _bearing(token)) as line:
                answer = line.answer("GET")
                assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), name
                assert line.is_good()


def _bearing(token: str, scheme: bytes = b"Bearer ") -> bytes:
    return request("GET", b"/api/genres", bearer=b"Authorization: " + scheme + token.encode())


async def _forged(container: Container) -> tuple[dict[str, str], str]:
    """Tokens that nobody may take, made with the key of the service on this database; and a good one."""
    async with container.database():
        cast = Cast(container)
        member, other = await cast.member(Role.EDITOR), await cast.member(Role.EDITOR)
        forger = await forging.forger_of(container, member)
        return forging.tokens(forger, other) | await forging.ended(container, cast), member.token
