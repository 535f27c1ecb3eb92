"""What the gateway lets through, to whom and as what, by services that tell what they were sent."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Final

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.forgeries import Forger, compact, jwk_of, spelled, without
from tests.gateways import DEPLOY, HAPROXY, Echo, Echoed, Gateway, Names, free_port, needs_haproxy
from tests.services import wait_until

from watchly_http.problems import KINDS

pytestmark = needs_haproxy

#: Addresses of the services behind it.
EVERYTHING: Final = ("127.0.0.2", "127.0.0.3")
APART: Final = {"images": "127.0.0.4", "people": "127.0.0.5", "changes": "127.0.0.6"}
LIMIT: Final = 40
API_KEY: Final = f"watchly_{'0' * 12}_{'A' * 43}"
KEYS_SCRIPT: Final = DEPLOY / "haproxy" / "keys.py"


class Stage:
    """A gateway before services, each at an address of its own, and a key that its tokens are signed by."""

    def __init__(self, folder: Path, stack: ExitStack, **variables: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        port = free_port(*EVERYTHING, *APART.values())
        self.services = [stack.enter_context(Echo(each, port)) for each in (*EVERYTHING, *APART.values())]
        self.publish(self.key)
        addresses = {"watchly.test": EVERYTHING, **{f"{name}.test": [at] for name, at in APART.items()}}
        self.names = stack.enter_context(Names(addresses))
        self.jwks = f"http://{EVERYTHING[0]}:{port}/.well-known/jwks.json"
        self.folder = folder / "keys"
        fetch(self.jwks, self.folder)
        apart = {f"{name.upper()}_SERVERS": f"{name}.test:{port}" for name in APART}
        self.gateway = stack.enter_context(
            Gateway(
                folder / "gateway",
                DNS=self.names.address,
                KEYS=str(self.folder),
                WATCHLY_SERVERS=f"watchly.test:{port}",
                **apart,
                **variables,
            )
        )
        wait_until(lambda: self.gateway.up() == set(EVERYTHING), "the services were found")
        for name, address in APART.items():
            wait_until(lambda name=name, at=address: self.gateway.up(name) == {at}, "the others were found")  # type: ignore[misc] # lambdas with defaults are untyped
        self.client = stack.enter_context(httpx.Client(base_url=self.gateway.url))

    def publish(self, *keys: ec.EllipticCurvePrivateKey) -> None:
        """Let all services publish these keys."""
        for service in self.services:
            service.keys = [{**jwk_of(key), "use": "sig", "alg": "ES256", "kid": "k"} for key in keys]

    def token(self, key: ec.EllipticCurvePrivateKey | None = None, **claims: object) -> Forger:
        """A token that is good for a minute, unless `claims` say otherwise."""
        now = int(time.time())
        payload = {"iss": "watchly", "aud": "watchly", "sub": "7", "role": "editor", "jti": "j", "iat": now}
        text = f"{spelled(compact({'alg': 'ES256', 'kid': 'k', 'typ': 'at+jwt'}))}."
        text += f"{spelled(compact({**payload, 'exp': now + 60, **claims}))}.AAAA"
        return Forger(text, key or self.key)

    def send(self, method: str, path: str, **headers: str) -> httpx.Response:
        return self.client.request(method, path, headers=headers)

    def sent(self, method: str = "GET", path: str = "/api/movies", **headers: str) -> Echoed:
        response = self.send(method, path, **headers)
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content, type=Echoed)

    def write(self, bearer: str) -> int:
        """The status of a write by whoever bears this."""
        return self.send("POST", "/api/movies", Authorization=f"Bearer {bearer}").status_code


def fetch(jwks: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script that fetches keys, as who has but a Python does."""
    command = [sys.executable, "-I", str(KEYS_SCRIPT), jwks, str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path_factory.mktemp("stage"), stack, CLIENT_REQUESTS="100000", MAX_BODY_BYTES="5000")


def self_signed(path: Path) -> Path:
    """A certificate with its key, as HAProxy wants both in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "watchly.test")]), datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(signed.public_bytes(Encoding.PEM) + private)
    return path


def problem_in(response: httpx.Response, code: str) -> Mapping[str, object]:
    """The body of a refusal, which is as those of Watchly are."""
    problem: Mapping[str, object] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert problem["type"] == f"/problems/{code}"
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


@pytest.mark.parametrize("apart", [{}, {f"{name.upper()}_SERVERS": f"{name}:5000" for name in APART}])
def test_the_configuration_is_valid_and_warns_of_nothing(
    tmp_path: Path, stage: Stage, apart: dict[str, str]
) -> None:
    assert HAPROXY is not None
    certificate = self_signed(tmp_path / "certificate.pem")
    for variables in (apart, {**apart, "CERTIFICATE": str(certificate)}):
        command = (HAPROXY, "-c", "-f", str(DEPLOY / "haproxy" / "haproxy.cfg"))
        environment = {"KEYS": str(stage.folder), **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "Configuration file is valid"), done.stderr


def test_with_a_certificate_it_speaks_tls_and_nothing_else(tmp_path: Path, stage: Stage) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    servers = stage.gateway.variables["WATCHLY_SERVERS"]
    settings = {"DNS": stage.names.address, "KEYS": str(stage.folder), "WATCHLY_SERVERS": servers}
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    with Gateway(tmp_path / "tls", **settings, CERTIFICATE=str(certificate)) as gateway:
        wait_until(lambda: gateway.up() == set(EVERYTHING), "the services were found")
        response = httpx.get(gateway.url.replace("http:", "https:") + "/api/movies", verify=trusting)
        assert response.status_code == 200
        assert response.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(gateway.url)


def test_all_servers_that_the_dns_names_take_turns(stage: Stage) -> None:
    assert {stage.sent().service for _ in range(10)} == set(EVERYTHING)


@pytest.mark.parametrize(
    ("path", "service"),
    [
        *((path, "images") for path in ("/api/movies/7/image", "/api/movies/7/image/tickets", "/images/k")),
        ("/webhooks/cloudinary", "images"),
        *((f"/api/{path}", "people") for path in ("auth/login", "me", "users/7", "api-keys", "%6De")),
        *((f"/api/{path}", "changes") for path in ("changes", "changes/stream", "movies/7/history")),
        ("/api/movies/7/revert", "changes"),
        *((path, None) for path in ("/api/movies/7", "/api/movies/7/images", "/api/genres", "/health/ready")),
        *((path, None) for path in ("/docs", "/openapi.json", "/problems/not_found", "/api/meadow")),
    ],
)
def test_services_that_are_deployed_apart_get_what_is_theirs(
    stage: Stage, path: str, service: str | None
) -> None:
    echoed = stage.sent(path=path)
    assert echoed.path == path
    assert echoed.service in ([APART[service]] if service else EVERYTHING)


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/metrics/", "//metrics", "/%6Detrics", "/api/../metrics", "/api/%2e%2e/metrics"),
        *("/api//movies", "/", "/schema", "/.well-known/other", "/metrics?x=1"),
    ],
)
def test_what_is_not_for_everybody_is_not_there(stage: Stage, path: str) -> None:
    with httpx.Client() as client:
        response = client.get(httpx.URL(stage.gateway.url).copy_with(raw_path=path.encode()))
    assert response.status_code == 404
    problem_in(response, "not_found")


def test_what_the_gateway_says_by_itself_is_a_problem_of_watchly() -> None:
    """But for 502, which only a gateway says."""
    said = re.findall(
        r'http-error status (\d+) .*"type":"/problems/(\w+)","title":"([^"]+)".*"code":"(\w+)"',
        (DEPLOY / "haproxy" / "haproxy.cfg").read_text(),
    )
    assert len(said) > 5
    for status, kind, title, code in said:
        assert (kind, title) == (code, KINDS[code].title)
        assert int(status) in {KINDS[code].status, 502}


def test_nobody_says_for_others_where_a_request_comes_from(stage: Stage) -> None:
    lies = {
        "X-Forwarded-For": "198.51.100.7",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Real-IP": "198.51.100.7",
        "Forwarded": "for=198.51.100.7",
    }
    echoed = stage.sent(**lies)
    assert echoed.lines("x-forwarded-for") == ["127.0.0.1"]
    names = {name for name, _ in echoed.headers}
    assert not names & {"x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded"}
    assert "198.51.100.7" not in str(echoed.headers)


def test_a_trace_and_a_name_of_a_request_go_through_and_come_back(stage: Stage) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = stage.send("GET", "/api/movies", traceparent=parent, **{"X-Request-ID": "mine:1"})
    echoed = msgspec.json.decode(response.content, type=Echoed)
    assert echoed.lines("traceparent") == [parent]
    assert echoed.lines("x-request-id") == ["mine:1"]
    assert response.headers["x-request-id"] == "mine:1"
    assert "server" not in response.headers
    wait_until(lambda: " mine:1 GET /api/movies\n" in stage.gateway.log, "it was logged by its name")


def test_no_log_keeps_what_may_be_a_secret(stage: Stage) -> None:
    stage.send("GET", f"/api/movies/{API_KEY}/history?q={API_KEY}", **{"X-Request-ID": "mine:2"})
    wait_until(lambda: " mine:2 GET /api/movies/…/history\n" in stage.gateway.log, "it was logged")
    assert API_KEY not in stage.gateway.log


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, 'a"b', "é"])
def test_a_name_that_is_none_is_replaced(stage: Stage, name: str) -> None:
    headers = {"X-Request-ID": name.encode()}
    response = stage.client.get("/api/movies", headers=headers)  # type: ignore[arg-type] # httpx takes bytes as well
    (made,) = msgspec.json.decode(response.content, type=Echoed).lines("x-request-id")
    assert made == response.headers["x-request-id"]
    assert len(made) == len("00000000-0000-0000-0000-000000000000")


def test_a_token_that_is_good_passes_and_so_does_an_api_key(stage: Stage) -> None:
    for bearer in (stage.token().signed(), API_KEY):
        for method, path in (("POST", "/api/movies"), ("DELETE", "/api/movies/7"), ("GET", "/api/me")):
            echoed = stage.sent(method, path, Authorization=f"bearer {bearer}")
            assert echoed.lines("authorization") == [f"bearer {bearer}"]


def test_who_bears_nothing_reads_and_signs_in_and_does_not_write(stage: Stage) -> None:
    for method, path in (("GET", "/api/movies"), ("POST", "/api/auth/login"), ("PUT", "/images/k")):
        assert stage.sent(method, path).method == method
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = stage.send(method, "/api/movies/7")
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert problem_in(response, "not_signed_in")["instance"] == "/api/movies/7"


def test_a_token_that_is_not_good_is_refused_before_any_service_sees_it(stage: Stage) -> None:
    now, token = int(time.time()), stage.token()
    none = compact({"alg": "none", "kid": "k", "typ": "at+jwt"})
    other = ec.generate_private_key(ec.SECP256R1())
    by_hmac = spelled(compact({"alg": "HS256", "kid": "k", "typ": "at+jwt"}))
    endless = Forger(token.unsigned(payload=compact(without(token.payload, "exp"))) + ".AAAA", stage.key)
    bad = {
        "ended": stage.token(exp=now - 5).signed(),
        "never ends": endless.signed(),
        "for others": stage.token(aud="others").signed(),
        "of others": stage.token(iss="others").signed(),
        "another key": stage.token(other).signed(),
        "alg none": f"{token.unsigned(none)}.",
        "alg none with a signature": token.signed(none),
        "alg HS256": f"{by_hmac}.{token.signed().partition('.')[2]}",
        "changed": token.signed().replace(
            token.signed().split(".")[1], stage.token(sub="8").token.split(".")[1]
        ),
        "no signature": f"{token.unsigned()}.",
        "two parts": token.unsigned(),
        "no token": "abc",
        "almost an API key": "watchly_abc",
    }
    assert {name: stage.write(bearer) for name, bearer in bad.items()} == dict.fromkeys(bad, 401)
    # Reads as well: a token that is not good any more is told, and not passed over.
    assert stage.send("GET", "/api/movies", Authorization=f"Bearer {bad['ended']}").status_code == 401
    assert stage.send("GET", "/api/me", Authorization="Basic YTpi").status_code == 401
    twice = [("Authorization", f"Bearer {API_KEY}"), ("Authorization", f"Bearer {token.signed()}")]
    assert stage.client.get("/api/movies", headers=twice).status_code == 401


def test_new_keys_are_heard_of_while_it_runs(stage: Stage) -> None:
    later = ec.generate_private_key(ec.SECP256R1())
    # Nothing has changed, and nothing is loaded anew.
    command = ("--master", str(stage.gateway.master))
    assert fetch(stage.jwks, stage.folder, *command).returncode == 0
    assert stage.write(stage.token(later).signed()) == 401
    with httpx.Client(base_url=stage.gateway.url) as kept_open:
        kept_open.get("/api/movies")
        stage.publish(stage.key, later)
        try:
            done = fetch(stage.jwks, stage.folder, *command)
            assert (done.returncode, done.stderr) == (0, "")
            wait_until(lambda: stage.write(stage.token(later).signed()) == 200, "the new key was known")
            assert stage.write(stage.token().signed()) == 200
            assert kept_open.get("/api/movies").status_code == 200
        finally:
            stage.publish(stage.key)


@pytest.mark.parametrize(
    "answer",
    [
        {"keys": []},
        {"keys": [{"alg": "ES256", "crv": "P-256", "kty": "EC", "x": "AAAA", "y": "AAAA"}]},
        {"keys": [{"alg": "ES256", "crv": "P-384", "kty": "EC", "x": "AAAA", "y": "AAAA"}]},
        {"keys": [{"alg": "ES256"}]},
        [],
        "x",
    ],
)
def test_keys_that_are_none_leave_those_that_are_there(tmp_path: Path, answer: object) -> None:
    served = tmp_path / "jwks.json"
    served.write_text(json.dumps(answer))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "1.pem").write_text("kept")
    done = fetch(served.as_uri(), tmp_path / "keys")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert [(path.name, path.read_text()) for path in (tmp_path / "keys").iterdir()] == [("1.pem", "kept")]


@pytest.mark.parametrize("answer", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_an_answer_that_is_none_is_one_line(tmp_path: Path, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)

        Thread(target=once, daemon=True).start()
        done = fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/", tmp_path / "keys")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def test_a_body_that_is_larger_than_any_is_refused_at_its_length(stage: Stage) -> None:
    bearer = {"Authorization": f"Bearer {API_KEY}"}
    response = stage.client.post("/api/movies", content=b"x" * 6000, headers=bearer)
    assert response.status_code == 413
    problem_in(response, "too_large")
    response = stage.client.post("/api/movies", content=b"x" * 5000, headers=bearer)
    assert msgspec.json.decode(response.content, type=Echoed).bytes == 5000


@pytest.mark.parametrize("length", [2**31, 2**32 + 1, 10**14])
def test_no_length_is_too_large_to_be_read(stage: Stage, length: int) -> None:
    url = httpx.URL(stage.gateway.url)
    head = f"POST /api/movies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_who_asks_too_often_is_told_to_wait(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stage = Stage(tmp_path, stack, CLIENT_REQUESTS=str(LIMIT))
        statuses = [200]
        while statuses[-1] == 200 and len(statuses) < 20 * LIMIT:
            statuses.append(stage.send("GET", "/api/movies").status_code)
        assert statuses[-1] == 429
        assert len(statuses) > LIMIT
        response = stage.send("GET", "/api/movies")
        assert response.headers["retry-after"] == "10"
        problem_in(response, "too_many_requests")
        # Others are none of that.
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.9")) as other:
            assert other.get(f"{stage.gateway.url}/api/movies").status_code == 200


def test_an_instance_that_the_dns_names_later_gets_requests_and_one_that_is_gone_none(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stage = Stage(tmp_path, stack)
        stage.names.addresses["watchly.test"] = (EVERYTHING[0],)
        wait_until(lambda: stage.gateway.up() == {EVERYTHING[0]}, "one was gone")
        assert {stage.sent().service for _ in range(5)} == {EVERYTHING[0]}
        stage.names.addresses["watchly.test"] = EVERYTHING
        wait_until(lambda: stage.gateway.up() == set(EVERYTHING), "it was back")
        assert {stage.sent().service for _ in range(10)} == set(EVERYTHING)


def test_without_any_instance_it_says_so_as_watchly_would(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stage = Stage(tmp_path, stack)
        for service in stage.services:
            service.shutdown()
            service.server_close()
        wait_until(lambda: not stage.gateway.up(), "none was left")
        response = stage.send("GET", '/api/movies/"7"')
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert problem_in(response, "unavailable")["instance"] == '/api/movies/"7"'
