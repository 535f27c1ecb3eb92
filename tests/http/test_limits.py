"""RATE_LIMIT: who is counted, by what, and what becomes of whoever comes too often."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from dependency_injector import providers
from litestar import Litestar
from litestar.types import Message
from tests.http.cast import Cast, bearing, running
from tests.http.conftest import Client, Configure, problem_in
from tests.services import NO_CERTIFICATES, Service, run, wait_until
from tests.valkeys import ValkeyServer

from watchly_adapters.container import Container
from watchly_adapters.valkey import ValkeyRateLimiter
from watchly_core.people import Role

pytestmark = pytest.mark.anyio

ORIGIN: Final = "https://app.example"
PREFLIGHT: Final = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
#: Seconds for what is not tried here to be quick.
PATIENT: Final = 30.0


def client_at(app: Litestar, address: str) -> httpx.AsyncClient:
    """A client that connects from there."""
    transport = httpx.ASGITransport(app, client=(address, 40_000))  # type: ignore[arg-type]  # Litestar's are narrower
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@asynccontextmanager
async def limited(container: Container) -> AsyncIterator[Litestar]:
    """The application over these parts while it runs."""
    async with running(container) as (app, _):
        yield app


async def statuses(client: httpx.AsyncClient, times: int, path: str = "/api/movies") -> list[int]:
    return [(await client.get(path)).status_code for _ in range(times)]


def refused(response: httpx.Response, most: int, window: int) -> None:
    """What a refusal says."""
    problem_in(response, "too_many_requests")
    assert response.headers["ratelimit-policy"] == f'"default";q={most};w={window}'
    found = re.fullmatch(r'"default";r=0;t=([0-9]+)', response.headers["ratelimit"])
    assert found is not None
    assert 1 <= int(response.headers["retry-after"]) == max(1, int(found[1])) <= window


async def test_every_reply_tells_what_is_left_until_there_is_nothing(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(RATE_LIMIT="6/1 h")) as client:
        replies = [
            await client.post("/api/movies", json={"title": "Heat"}),
            await client.get("/api/movies/1"),
            await client.get("/api/movies/2"),
            await client.get("/nowhere"),
            await client.delete("/api/movies"),
            await client.options("/api/movies"),
        ]
        assert [reply.status_code for reply in replies] == [201, 200, 404, 404, 405, 204]
        for left, reply in zip(range(5, -1, -1), replies, strict=True):
            assert reply.headers["ratelimit-policy"] == '"default";q=6;w=3600'
            assert re.fullmatch(f'"default";r={left};t=3(600|5[0-9][0-9])', reply.headers["ratelimit"])
        for method, path in (("GET", "/api/movies/1"), ("HEAD", "/api/genres"), ("POST", "/nowhere")):
            reply = await client.request(method, path)
            if method == "HEAD":
                assert (reply.status_code, reply.content) == (429, b"")
            else:
                refused(reply, 6, 3_600)


async def test_the_next_window_begins_anew(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(RATE_LIMIT="2/1s")) as client:
        for _ in range(2):
            while (reply := await client.get("/api/movies")).status_code == 200:
                pass
            refused(reply, 2, 1)
            async with asyncio.timeout(PATIENT):
                while True:
                    if (await client.get("/api/movies")).status_code == 200:
                        break
                    await asyncio.sleep(0.01)  # between looks, not in place of one


async def test_without_a_limit_nothing_is_counted_or_told(fake_client: Client) -> None:
    reply = await fake_client.get("/api/movies")
    assert not [name for name in reply.headers if name.startswith("ratelimit")]
    document = (await fake_client.get("/openapi.json")).text
    assert "too_many_requests" not in document
    assert "RateLimit" not in document


async def test_health_metrics_and_preflights_are_not_counted(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(RATE_LIMIT="1/1 h", CORS_ORIGINS=ORIGIN)) as client:
        for _ in range(3):
            for path in ("/health", "/health/live", "/health/ready", "/metrics"):
                reply = await client.get(path)
                assert (reply.status_code, "ratelimit" in reply.headers) == (200, False)
            assert (await client.options("/api/movies", headers=PREFLIGHT)).status_code == 204
        assert await statuses(client, 2) == [200, 429]
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.options("/api/movies", headers=PREFLIGHT)).status_code == 204
        page = (await client.get("/metrics")).text
        assert 'watchly_http_requests_total{method="GET",route="none",status="429"} 1.0' in page


async def test_pages_of_other_origins_may_read_all_of_it(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(RATE_LIMIT="1/1 h", CORS_ORIGINS=ORIGIN)) as client:
        replies = [await client.get("/api/movies", headers={"Origin": ORIGIN}) for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 429]
        for reply in replies:
            exposed = reply.headers["access-control-expose-headers"].split(", ")
            assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= set(exposed)
            assert reply.headers["access-control-allow-origin"] == ORIGIN
            assert reply.headers["access-control-allow-credentials"] == "true"
            assert reply.headers["vary"].startswith("Origin")
        stranger = await client.get("/api/movies", headers={"Origin": "https://evil.example"})
        assert stranger.status_code == 429
        assert "access-control-allow-origin" not in stranger.headers


async def test_nothing_is_read_of_what_is_refused(configure_fakes: Configure) -> None:
    async with limited(configure_fakes(RATE_LIMIT="1/1 h")) as app:
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("the body was asked for")

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/movies",
            "raw_path": b"/api/movies",
            "query_string": b"",
            "http_version": "1.1",
            "headers": [(b"host", b"x"), (b"content-length", b"1000"), (b"expect", b"100-continue")],
            "client": ("192.0.2.1", 1),
        }
        async with client_at(app, "192.0.2.1") as client:
            assert await statuses(client, 1) == [200]
        await app(scope, receive, send)  # type: ignore[arg-type]  # as much of a scope as servers give
        assert next(message["status"] for message in sent if message["type"] == "http.response.start") == 429


# ---- who ----


async def test_nobody_uses_up_what_others_have(configure_fakes: Configure) -> None:
    async with limited(configure_fakes(RATE_LIMIT="2/1 h")) as app, AsyncExitStack() as stack:
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8:1:1::1", "2001:db8:1:2::1"):
            client = await stack.enter_async_context(client_at(app, address))
            assert await statuses(client, 3) == [200, 200, 429]
        # Whoever has a network has all addresses of it.
        same = await stack.enter_async_context(client_at(app, "2001:db8:1:2:ffff::2"))
        assert await statuses(same, 1) == [429]


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8"])
async def test_only_a_trusted_proxy_is_believed(trusted: str, configure_fakes: Configure) -> None:
    container = configure_fakes(RATE_LIMIT="2/1 h", TRUSTED_PROXIES=trusted)
    async with limited(container) as app, client_at(app, "10.0.0.1") as client:

        async def asked(forwarded: str) -> int:
            reply = await client.get("/api/movies", headers={"X-Forwarded-For": forwarded})
            return reply.status_code

        found = [await asked(f"192.0.2.{number}") for number in range(5)]
        assert found == ([200] * 5 if trusted else [200, 200, 429, 429, 429])
        # What stands before the last address was written by whoever likes to.
        spoofed = [await asked(f"198.51.100.{number}, 192.0.2.99") for number in range(4)]
        assert spoofed == ([200, 200, 429, 429] if trusted else [429] * 4)
    async with limited(container) as app, client_at(app, "203.0.113.1") as stranger:
        headers = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(100, 104)]
        found = [(await stranger.get("/api/movies", headers=each)).status_code for each in headers]
        assert found == [200, 200, 429, 429]


async def test_accounts_are_counted_wherever_they_are(configure: Configure) -> None:
    container = configure(AUTH="on", RATE_LIMIT="3/1 h")
    async with limited(container) as app, AsyncExitStack() as stack:
        cast = Cast(container)
        ada, ben = await cast.member(Role.EDITOR), await cast.member(Role.VIEWER)
        office = await stack.enter_async_context(client_at(app, "192.0.2.1"))
        home = await stack.enter_async_context(client_at(app, "192.0.2.2"))

        async def asked(client: httpx.AsyncClient, bearer: str | None, path: str = "/api/movies") -> int:
            return (await client.get(path, headers=bearing(bearer))).status_code

        # Sessions and keys of one account are one, at whatever address; also where it may not do that.
        other = await cast.signed_in(ada.user)
        taken = [
            await asked(office, ada.token),
            await asked(home, other.access_token, "/api/users"),
            await asked(home, ada.key.secret),
        ]
        assert taken == [200, 403, 200]
        for bearer in (ada.token, ada.key.secret, other.access_token):
            assert await asked(home, bearer) == 429
        # Others behind the same address, and those without an account, are none of that.
        assert [await asked(office, ben.token) for _ in range(4)] == [200, 200, 200, 429]
        assert [await asked(office, None) for _ in range(4)] == [200, 200, 200, 429]
        # And a new session at an address that was refused is looked at, once its window is over.
        assert await asked(home, None) == 200


async def test_who_guesses_tokens_is_counted_by_address(configure: Configure) -> None:
    container = configure(AUTH="on", RATE_LIMIT="3/1 h")
    async with limited(container) as app, client_at(app, "192.0.2.1") as client:
        looked = 0
        access = container.access()
        look = access.actor

        async def counting(bearer: str) -> object:
            nonlocal looked
            looked += 1
            return await look(bearer)

        access.actor = counting  # type: ignore[method-assign, assignment]  # counts, and does what it did
        guesses = [
            {"Authorization": "Bearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA"},
            {"Authorization": f"Bearer watchly_{'0' * 12}_{'A' * 43}"},
            {"Authorization": "Basic YTpi"},
        ]
        replies = [await client.get("/api/movies", headers=guess) for guess in guesses]
        assert [reply.status_code for reply in replies] == [401, 401, 401]
        assert [reply.headers["ratelimit"][:13] for reply in replies] == [
            '"default";r=2',
            '"default";r=1',
            '"default";r=0',
        ]
        assert looked == 2, "each was looked up once"
        for number in range(5):
            refused(await client.get("/api/movies", headers=bearing(f"eyJ{number}.e30.AAAA")), 3, 3_600)
        assert looked == 3, "the first tells that the address has no more, and the others are not looked up"


async def test_what_looks_like_a_preflight_guesses_no_tokens(configure: Configure) -> None:
    """Where no page of another origin may read anything, its OPTIONS is asked who it is."""
    container = configure(AUTH="on", RATE_LIMIT="2/1 h")
    async with limited(container) as app, client_at(app, "192.0.2.1") as client:

        async def asked(number: int) -> int:
            guess = {**PREFLIGHT, **bearing(f"watchly_{number:012}_{'A' * 43}")}
            return (await client.options("/api/movies", headers=guess)).status_code

        assert [await asked(number) for number in range(4)] == [401, 401, 429, 429]


# ---- several processes ----


def sharing(container: Container, url: str) -> Container:
    """The same, and what counts has all the time that it wants."""
    container.limiter.override(providers.Object(ValkeyRateLimiter(url, timeout=PATIENT, pause=0.0)))
    return container


async def test_instances_let_just_as_many_through_together(
    configure_fakes: Configure, valkey_server: ValkeyServer
) -> None:
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(4):
            container = sharing(
                configure_fakes(RATE_LIMIT="25/1 h", VALKEY_URL=valkey_server.url), valkey_server.url
            )
            app = await stack.enter_async_context(limited(container))
            clients.append(await stack.enter_async_context(client_at(app, "192.0.2.1")))
        replies = await asyncio.gather(*(client.get("/api/movies") for client in clients * 25))
        through = [reply.headers["ratelimit"].split(";")[1] for reply in replies if reply.status_code == 200]
        assert sorted(through) == sorted(f"r={left}" for left in range(25))
        assert {reply.status_code for reply in replies} == {200, 429}
        shown = (await clients[0].get("/health/ready")).json()
        assert shown["checks"]["rate_limit"] == "up"


@pytest.fixture
def workers(tmp_path: Path, valkey_server: ValkeyServer) -> Iterator[Service]:
    """A service of two workers that count together, and would rather refuse than count apart."""
    variables = {
        "DATABASE_URL": "memory:",
        "WATCHLY_HOME": str(tmp_path / "home"),
        "WORKERS": "2",
        "RATE_LIMIT": "20/1 h",
        "RATE_LIMIT_FALLBACK": "refuse",
        "VALKEY_URL": valkey_server.url,
    }
    with Service(tmp_path / "log", **variables) as service:
        yield service


def test_workers_let_just_as_many_through_together(workers: Service) -> None:
    found = []
    for _ in range(60):  # each by a connection of its own, for any worker
        with httpx.Client(base_url=workers.url, verify=NO_CERTIFICATES) as client:
            found.append(client.get("/api/movies").status_code)
    assert set(found) <= {200, 429, 503}
    # A machine that is busy may be late to hear what was counted.
    assert 20 - found.count(503) <= found.count(200) <= 20
    assert "each worker counts for itself" not in workers.log


def test_who_counts_for_itself_says_so(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "memory:", "WATCHLY_HOME": str(tmp_path / "home"), "WORKERS": "2"}
    with Service(tmp_path / "log", RATE_LIMIT="1/1 h", **variables) as service:
        # A thread writes it, which may be later than the line that says where the service answers.
        wait_until(lambda: "each worker counts for itself" in service.log, "it is said")
        with httpx.Client(base_url=service.url, verify=NO_CERTIFICATES) as client:
            assert [client.get("/api/movies").status_code for _ in range(2)] == [200, 429]
            assert client.get("/health/live").status_code == 200
        assert service.log.count("each worker counts for itself") == 1


# ---- while Valkey is away ----


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
@pytest.mark.parametrize(
    ("fallback", "expected"),
    [
        ("", [200, 200, 429, 429]),
        ("local", [200, 200, 429, 429]),
        ("allow", [200, 200, 200, 200]),
        ("refuse", [503, 503, 503, 503]),
    ],
)
async def test_while_nobody_counts_the_setting_says_what_is_done(
    fallback: str, expected: list[int], trouble: str, configure_fakes: Configure, tmp_path: Path
) -> None:
    with ValkeyServer(tmp_path / "valkey") as server:
        container = configure_fakes(RATE_LIMIT="2/1 h", RATE_LIMIT_FALLBACK=fallback, VALKEY_URL=server.url)
        container.limiter.override(providers.Object(ValkeyRateLimiter(server.url, pause=0.0)))
        async with limited(container) as app, client_at(app, "192.0.2.1") as client:
            (server.freeze if trouble == "frozen" else server.stop)()
            replies = [await client.get("/api/movies") for _ in range(4)]
            assert [reply.status_code for reply in replies] == expected
            for reply in replies:
                assert ("ratelimit" in reply.headers) == (fallback in {"", "local"})
            if fallback == "refuse":
                problem_in(replies[0], "unavailable")
                assert replies[0].headers["retry-after"] == "1"
            assert (await client.get("/health/ready")).json()["checks"]["rate_limit"] == "degraded"
            failures = re.findall(
                r"^watchly_rate_limit_failures_total (.*)$", (await client.get("/metrics")).text, re.MULTILINE
            )
            # Whom this process has refused once it does not ask for again.
            assert failures == ["3.0" if 429 in expected else "4.0"]

            (server.thaw if trouble == "frozen" else server.start)()
            async with asyncio.timeout(PATIENT):
                while True:
                    if (await client.get("/health/ready")).json()["checks"]["rate_limit"] == "up":
                        break
                    await asyncio.sleep(0.01)  # between looks, not in place of one
            # What was let through meanwhile is not in its counts.
            async with client_at(app, "192.0.2.2") as other, asyncio.timeout(PATIENT):
                while True:
                    if "ratelimit" in (await other.get("/api/movies")).headers:
                        break
                    await asyncio.sleep(0.01)  # between looks, not in place of one


@pytest.mark.parametrize("fallback", ["local", "allow", "refuse"])
async def test_a_valkey_that_was_flushed_counts_anew(
    fallback: str, configure_fakes: Configure, valkey_server: ValkeyServer
) -> None:
    container = sharing(
        configure_fakes(RATE_LIMIT="3/1 h", RATE_LIMIT_FALLBACK=fallback, VALKEY_URL=valkey_server.url),
        valkey_server.url,
    )
    async with limited(container) as app, client_at(app, "192.0.2.1") as client:
        assert await statuses(client, 2) == [200, 200]
        with valkey_server.client() as direct:
            direct.flushall()
        assert await statuses(client, 4) == [200, 200, 200, 429]
        with valkey_server.client() as direct:
            direct.flushall()
        # Whoever was told to wait waits.
        assert await statuses(client, 2) == [429, 429]


# ---- what is said of it ----


async def test_the_document_tells_of_it(configure_fakes: Configure) -> None:
    async with Client(configure_fakes(RATE_LIMIT="99/1 h")) as client:
        document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        counted = not path.startswith(("/health", "/metrics"))
        for operation in operations.values():
            assert ("429" in operation["responses"]) == counted, path
            for reply in operation["responses"].values():
                assert ({"RateLimit", "RateLimit-Policy"} <= set(reply["headers"])) == counted, path
            if counted:
                assert "too_many_requests" in operation["responses"]["429"]["description"]
                assert "Retry-After" in operation["responses"]["429"]["headers"]


def test_doctor_says_what_is_counted_and_where(tmp_path: Path) -> None:
    common = {"WATCHLY_HOME": str(tmp_path), "DATABASE_URL": "memory:", "COLUMNS": "200"}
    assert "each worker" in run("doctor", RATE_LIMIT="600/1 min", **common).stdout
    with ValkeyServer(tmp_path / "valkey", "--user", "films", "on", ">s3cret", "~*", "+@all") as server:
        variables = {
            **common,
            "RATE_LIMIT": "600/1 min",
            "VALKEY_URL": server.url.replace("://", "://films:s3cret@"),
        }
        well = run("doctor", **variables)
        assert well.returncode == 0, well.stdout + well.stderr
        assert f"600 in 60 s, counted by Valkey at {server.url.removeprefix('valkey://')}" in well.stdout
    gone = run("doctor", **variables)
    assert gone.returncode == 1
    assert "FAILS: rate_limit: " in gone.stdout
    for shown in (well, gone):
        assert "s3cret" not in shown.stdout + shown.stderr
