"""A second process verifies tokens by the published keys alone."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import jwt
import psycopg
import pytest
from tests.http.cast import PASSWORD
from tests.http.forging import encoded
from tests.services import Service, as_url, run, wait_until

VERIFIER: Final = Path(__file__).with_name("verifier.py")


class Elsewhere:
    """A service elsewhere, and a record of what it was asked and said."""

    def __init__(self, address: str) -> None:
        self.transcript = [f"$ python -I verifier.py {address}"]
        # With an environment of its own: it has no secret, no database, and no way to Watchly's modules.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(VERIFIER), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={},
            cwd="/",
        )

    def judge(self, what: str, token: str) -> str:
        """What it says of a token."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{token}\n")
        self._process.stdin.flush()
        verdict = self._process.stdout.readline().strip()
        self.transcript.append(f"  {what:46} {verdict}")
        return verdict.partition(":")[0]

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


class Catalogue:
    """A running service, and its operator."""

    def __init__(self, service: Service, variables: dict[str, str]) -> None:
        self.service, self._variables = service, variables
        self.keys = f"{service.url}/.well-known/jwks.json"

    def command(self, *words: str, stdin: str = "") -> str:
        """What a command prints."""
        done = run(*words, stdin=stdin, **self._variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def published(self) -> set[str]:
        """The ids of the published keys."""
        reply = httpx.get(self.keys)
        assert reply.headers["cache-control"] == "public, max-age=300"
        for key in reply.json()["keys"]:
            # No private half, whatever it is called.
            assert set(key) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
        return {key["kid"] for key in reply.json()["keys"]}

    def signed_in(self, email: str, role: str) -> str:
        """The token of a new user."""
        self.command("user", "add", email, "--role", role, stdin=f"{PASSWORD}\n")
        credentials = {"email": email, "password": PASSWORD}
        return str(httpx.post(f"{self.service.url}/api/auth/login", json=credentials).json()["access_token"])

    def status(self, token: str) -> int:
        """What the service itself answers to a token."""
        return httpx.get(
            f"{self.service.url}/api/movies", headers={"Authorization": f"Bearer {token}"}
        ).status_code


@pytest.fixture
def catalogue(database_url: str, tmp_path: Path) -> Iterator[Catalogue]:
    variables = {
        "DATABASE_URL": as_url(database_url),
        "SECRET_KEY": secrets.token_hex(32),
        "WATCHLY_HOME": str(tmp_path / "home"),
        "AUTH": "on",
        "PUBLIC_READ": "false",
    }
    with Service(tmp_path / "log", WORKERS="1", **variables) as service:
        yield Catalogue(service, variables)


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def changed(token: str, role: bytes) -> str:
    """The token with another role in it, and its signature."""
    head, payload, signature = token.split(".")
    claims = jwt.utils.base64url_decode(payload).replace(b'"viewer"', role)
    return f"{head}.{encoded(claims)}.{signature}"


@pytest.fixture
def elsewhere(catalogue: Catalogue) -> Iterator[Elsewhere]:
    elsewhere = Elsewhere(catalogue.keys)
    yield elsewhere
    elsewhere.close()


def test_a_second_process_tells_who_is_who_and_goes_on_over_a_rotation(
    catalogue: Catalogue, elsewhere: Elsewhere, database_url: str
) -> None:
    first = catalogue.command("token", "--role", "viewer")

    assert catalogue.published() == {kid_of(first)}
    assert elsewhere.judge("a token", first) == "accepted"
    users = catalogue.signed_in("ada@films.example", "editor")
    assert elsewhere.judge("the token of a user", users) == "accepted"
    assert "sub=1 role=editor" in elsewhere.transcript[-1]
    assert (
        elsewhere.judge("the token of the service, with another role", changed(first, b'"admin"'))
        == "refused"
    )
    assert elsewhere.judge("the same, without its signature", first.rpartition(".")[0] + ".") == "refused"
    ours = jwt.encode({"sub": "system"}, "x" * 32, "HS256", {"kid": kid_of(first)})
    assert elsewhere.judge("one that somebody made up", ours) == "refused"

    catalogue.command("keys", "rotate")
    elsewhere.transcript.append("$ watchly keys rotate")
    wait_until(lambda: len(catalogue.published()) == 2, "the new key was published")
    second = catalogue.command("token")
    assert kid_of(second) == kid_of(first)  # for the new one is not known everywhere yet
    assert elsewhere.judge("a token, while the new key is only announced", second) == "accepted"

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE watchly_signing_keys SET signs_from = now() WHERE signs_from > now()")
    elsewhere.transcript.append("  … ten minutes later")
    third = catalogue.command("token")
    assert kid_of(third) in catalogue.published() - {kid_of(first)}
    assert elsewhere.judge("a token signed by the new key", third) == "accepted"
    assert elsewhere.judge("the token of before", first) == "accepted"
    assert [catalogue.status(token) for token in (first, second, third)] == [200, 200, 200]

    catalogue.command("keys", "rotate", "--at-once")
    elsewhere.transcript.append("$ watchly keys rotate --at-once")
    fourth = catalogue.command("token")
    wait_until(lambda: catalogue.published() == {kid_of(fourth)}, "only the newest key was published")
    assert elsewhere.judge("a token signed by the newest key", fourth) == "accepted"
    assert catalogue.status(fourth) == 200
    wait_until(lambda: catalogue.status(third) == 401, "the old tokens were refused here")
    assert catalogue.status(first) == 401
    assert elsewhere.judge("the token of before", third) == "refused"
    print("\n" + "\n".join(elsewhere.transcript))  # noqa: T201 - `-s` shows it
