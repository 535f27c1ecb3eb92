"""That no secret stands in a log: neither one of a request, nor one of the settings."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import pytest
import structlog
from dependency_injector import providers
from tests.canaries import CANARIES, Guard, guarded, secrets_in
from tests.http.cast import Cast, bearing
from tests.http.conftest import Configure, client_of
from tests.services import Service, run

from watchly_adapters.settings import read_settings
from watchly_core.errors import Misconfigured
from watchly_core.people import Role

REFRESH: Final = f"wrt_{secrets.token_urlsafe(48)}"
API_KEY: Final = f"watchly_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
TOKEN: Final = f"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.{secrets.token_urlsafe(64)}"

TOLD: Final = {**CANARIES, "a refresh token": REFRESH, "an API key": API_KEY, "a token": TOKEN}


def test_there_are_twenty_of_them_and_each_is_known() -> None:
    assert len(set(CANARIES.values())) == 20
    for secret in TOLD.values():
        assert secrets_in(f"somewhere {secret}, in a line")
    assert not secrets_in("request method=GET path=/api/movies/7 request_id=0f9d3f645f0e4c0e9f0b2f9f5b8f1c55")


@pytest.mark.parametrize("secret", TOLD.values(), ids=TOLD.keys())
def test_a_test_that_logs_a_secret_fails(guard: Guard, secret: str) -> None:
    def fail() -> None:
        raise RuntimeError(secret)

    structured = structlog.stdlib.get_logger("watchly.tests")
    plain = logging.getLogger("psycopg.tests")
    for log in (
        lambda: structured.info("request", path=f"/api/{secret}"),
        lambda: structured.info(secret),
        lambda: plain.warning("the reply was %s", secret),
        lambda: plain.warning("said", extra={"reply": [secret]}),
    ):
        with pytest.raises(AssertionError, match="tells secrets"), guarded(guard):
            log()
    for logger in (structured, plain):
        with pytest.raises(AssertionError, match="tells secrets"), guarded(guard):
            _log_error_of(fail, logger.exception)


def _log_error_of(call: Callable[[], None], log: Callable[[str], None]) -> None:
    try:
        call()
    except RuntimeError:
        log("unhandled error")


class BrokenHasher:
    """Breaks while it holds a password."""

    async def hash(self, password: str) -> str:
        raise RuntimeError(f"cannot hash {len(password)} characters")

    async def verify(self, kept: str | None, password: str) -> bool:
        return await self.hash(password) == kept

    def outdated(self, kept: str) -> bool:
        return not kept


@pytest.mark.anyio
@pytest.mark.parametrize("broken", [False, True])
async def test_no_secret_of_a_request_is_logged(
    configure_fakes: Configure, caplog: pytest.LogCaptureFixture, *, broken: bool
) -> None:
    container = configure_fakes(AUTH="on", REGISTRATION="open", SECRET_KEY=CANARIES["secret-key"] * 2)
    member = await Cast(container).member(Role.ADMIN)
    if broken:
        container.hasher.override(providers.Object(BrokenHasher()))
        container.accounts.reset()
        container.sessions.reset()
    signed_in = bearing(member.token)
    statuses: dict[int, int] = {}

    async with client_of(container) as client:

        async def send(method: str, path: str, **content: object) -> None:
            request = client.build_request(method, path, **content)  # type: ignore[arg-type] # as given below
            response = await client.send(request)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

        for secret in TOLD.values():
            await send("POST", "/api/auth/login", json={"email": "ada@films.example", "password": secret})
            await send("POST", "/api/auth/login", json={"email": secret, "password": secret})
            await send("POST", "/api/auth/login", json={secret: secret})
            await send("POST", "/api/auth/login", json=[secret])
            await send("POST", "/api/auth/login", content=f'{{"password": "{secret}"'.encode())
            await send("POST", "/api/auth/login", data={"password": secret})
            await send("POST", "/api/auth/refresh", json={"refresh_token": secret})
            await send("POST", "/api/auth/logout", json={"refresh_token": secret})
            for path in ("/api/auth/refresh", "/api/auth/logout"):
                await send("POST", path, headers={"Cookie": f"watchly_refresh={secret}"})
            await send("POST", "/api/users", json={"email": secret, "password": secret, "role": secret})
            await send(
                "POST", "/api/users", json={"email": f"{secret}@films.example", "password": secret[:7]}
            )
            await send(
                "POST", "/api/users", json={"email": f"{len(statuses)}@films.example", "password": secret}
            )
            await send("PATCH", f"/api/users/{member.user.id}", json={"role": secret}, headers=signed_in)
            await send("PUT", "/api/me/password", json={"current": secret, "new": secret}, headers=signed_in)
            await send("POST", "/api/api-keys", json={"name": secret, "role": secret}, headers=signed_in)
            await send("POST", "/api/movies", json={"title": "Heat", secret: secret}, headers=signed_in)
            await send("POST", "/api/movies", content=secret.encode(), headers=signed_in)
            basic = base64.b64encode(f"ada:{secret}".encode()).decode()
            for value in (f"Bearer {secret}", secret, f"Basic {basic}", f"Bearer {secret}, Bearer {secret}"):
                await send("GET", "/api/movies", headers={"Authorization": value})
            for name in _HEADERS:
                await send("PUT", "/api/movies/7", json={"title": ""}, headers={**signed_in, name: secret})
            for path in _PATHS:
                await send("GET", path.replace("{}", secret), headers=signed_in)
                await send("PUT", path.replace("{}", secret), headers=signed_in)
                await send("DELETE", path.replace("{}", secret), headers=signed_in)

    assert len(caplog.records) >= sum(statuses.values()) > 1_000
    assert {204, 400, 401, 404, 405, 415, 422, 429} <= set(statuses)
    assert (500 in statuses) is broken
    assert not secrets_in(caplog.text)


# An X-Request-ID is there to be logged.
_HEADERS: Final = (
    "Accept",
    "Content-Type",
    "Cookie",
    "Idempotency-Key",
    "If-Match",
    "Last-Event-ID",
    "Origin",
    "Prefer",
    "Proxy-Authorization",
    "Range",
    "Referer",
    "User-Agent",
    "Watchly-Position",
    "X-Api-Key",
    "X-Forwarded-For",
)
_PATHS: Final = (
    "/{}",
    "/api/movies/{}",
    "/api/movies?access_token={}",
    "/api/movies?{}",
    "/api/movies/7/history?cursor={}",
    "/api/users/{}",
    "/api/api-keys/{}",
    "/api/auth/login/{}",
    "/images/{}?signature={}",
    "/problems/{}",
    "/docs/assets/{}",
)


SETTINGS: Final = {
    "DATABASE_URL": "postgresql://watchly:{}@[/watchly",
    "READ_DATABASE_URL": "postgres//watchly:{}@replica",
    "IMAGE_STORE_URL": "cloudinary://{}@cloud",
    "CLOUDINARY_URL": "cloudinary//key:{}@cloud",
    "NATS_URL": "http://watchly:{}@127.0.0.1:4222",
    "PUBLIC_URL": "ftp://watchly:{}@films.example",
    "CORS_ORIGINS": "https://watchly:{}@films.example",
    "PORT": "{}",
}


@pytest.mark.parametrize(("name", "value"), SETTINGS.items())
def test_a_setting_that_is_wrong_is_not_quoted(name: str, value: str) -> None:
    for secret in CANARIES.values():
        with pytest.raises(Misconfigured) as raised:
            read_settings({"DATABASE_URL": "postgresql:///watchly", name: value.format(secret)})
        assert name in str(raised.value)
        assert not secrets_in(str(raised.value))
    short = CANARIES["secret-key"][:31]
    with pytest.raises(Misconfigured) as raised:
        read_settings({"SECRET_KEY": short})
    assert short not in str(raised.value)


def test_a_service_tells_no_secret_of_its_settings(tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": "memory:",
        "SECRET_KEY": CANARIES["secret-key"],
        "IMAGE_STORE_URL": (
            f"cloudinary://{CANARIES['cloudinary-key']}:{CANARIES['cloudinary-secret']}@cloud"
            "?upload_prefix=http://127.0.0.1:1"
        ),
        "NATS_URL": f"nats://watchly:{CANARIES['nats-password']}@127.0.0.1:1",
        "RELAY": "on",
        "AUTH": "on",
        "WATCHLY_HOME": str(tmp_path / "home"),
        "LOG_LEVEL": "debug",
        "WORKERS": "1",
    }
    with Service(tmp_path / "log", **variables) as service:
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        assert httpx.get(f"{service.url}/api/movies", headers=bearing(API_KEY)).status_code == 401
        assert service.stop() == 0
        assert "path=/api/movies" in service.log


def test_a_database_that_cannot_be_reached_is_told_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://watchly:{CANARIES['database-password']}@127.0.0.1:1/watchly"
    for odd in ("sslmode=odd", "nothing=1", "application_name=%00"):
        done = run("migrate", DATABASE_URL=f"{url}?{odd}", WATCHLY_HOME=str(tmp_path))
        assert done.returncode != 0
        assert done.stderr
        assert not secrets_in(done.stdout + done.stderr)
