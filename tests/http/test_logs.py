"""What stands in the log: a line for each request, faults with what is known of them, and nothing forged."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import structlog
from dependency_injector import providers
from litestar import Litestar
from litestar.testing import RequestFactory
from litestar.types import HTTPRequestEvent, Message, Receive, Scope, Send
from tests.services import Program, on_fakes, wait_until

from watchly_adapters.container import Container
from watchly_adapters.metrics import Metrics
from watchly_adapters.settings import read_settings
from watchly_core.errors import Unavailable
from watchly_core.people import Role
from watchly_http import logs
from watchly_http.app import create_app
from watchly_http.front import Front
from watchly_http.server import serve

if TYPE_CHECKING:
    from tests.http.conftest import Configure

PATIENCE: Final = 60.0
"""Seconds for anything that is to happen; far more than it takes."""


# ---- a server, of which this file is the program ----


class OddHasher:
    """Does with passwords what they say, and logs that."""

    async def hash(self, password: str) -> str:
        raise NotImplementedError

    async def verify(self, kept: str | None, password: str) -> bool:  # noqa: ARG002 - as the port has it
        structlog.stdlib.get_logger("watchly.tests").warning("asked", length=len(password))
        match password:
            case "is broken":
                raise RuntimeError("the hasher broke\n2026-11-22T10:00:00Z [info] forged")
            case "is away now":
                raise Unavailable("hasher", "it is away")
            case "takes for ever":
                await asyncio.Event().wait()
        # So that those who ask at the same time take turns.
        await asyncio.sleep(0)
        logging.getLogger("library").warning("asked of %s", "something")
        return False

    def outdated(self, kept: str) -> bool:
        return not kept


def load_app() -> Litestar:
    container = Container(settings=read_settings(os.environ))
    container.hasher.override(providers.Singleton(OddHasher))
    return create_app(container)


def main() -> int:
    settings = read_settings(os.environ)
    logs.configure(settings)
    return serve(
        load_app,
        host="127.0.0.1",
        port=0,
        workers=1,
        drain_timeout=settings.drain_timeout.total_seconds(),
        on_listening=lambda url: print(url, flush=True),  # noqa: T201 - it is what a test waits for
    )


if __name__ == "__main__":
    sys.exit(main())


# ---- requests ----


class Server:
    """The program above while it runs."""

    def __init__(self, program: Program, log: Path) -> None:
        self.process, self.log = program.process, log
        host, _, port = program.heard().removeprefix("http://").rpartition(":")
        self._address = (host, int(port))

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=PATIENCE)

    def ask(
        self, request_id: str, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, bytes]:
        """The status and the body of the reply to a request with this id."""
        connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE)
        try:
            content = None if body is None else json.dumps(body)
            given = {"X-Request-ID": request_id, "Content-Type": "application/json", **headers}
            connection.request(method, path, content, given)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def sign_in(self, request_id: str, password: str) -> tuple[int, bytes]:
        login = {"email": "ada@films.example", "password": password}
        return self.ask(request_id, "POST", "/api/auth/login", login)

    def end(self) -> dict[str, list[Mapping[str, object]]]:
        """Have it end; what it logged, by the ids of requests."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        found: dict[str, list[Mapping[str, object]]] = {}
        for line in self.log.read_text().splitlines():
            told = json.loads(line)
            found.setdefault(told.get("request_id", ""), []).append(told)
        return found


@contextmanager
def running(home: Path, stderr: int | None = None, **variables: str) -> Iterator[Server]:
    given = {"DRAIN_TIMEOUT": "0", "LOG_FORMAT": "json", **variables}
    with on_fakes("tests.http.test_logs", home, given, stderr) as (program, log):
        yield Server(program, log)


def of(lines: Sequence[Mapping[str, object]], *names: str) -> list[tuple[object, ...]]:
    return [tuple(line.get(name) for name in names) for line in lines]


def test_each_request_has_one_line_and_faults_tell_what_is_known(tmp_path: Path) -> None:
    with running(tmp_path, TRUSTED_PROXIES="127.0.0.1") as server:
        server.ask("one", "GET", "/api/movies/1", **{"X-Forwarded-For": "192.0.2.7"})
        server.ask("framework", "GET", "/api/movies/1/history")
        server.ask("head", "HEAD", "/problems")
        server.ask("nowhere", "GET", "/nowhere?secret=1")
        server.ask("long", "GET", f"/api/{'x' * 40}/x")
        server.ask("odd", "BREW", "/api/movies")
        server.ask("denied", "POST", "/api/movies", {"title": "Heat"})
        status, body = server.sign_in("broken", "is broken")
        assert status == 500
        assert json.loads(body) == {
            "type": "/problems/internal",
            "title": "Internal error",
            "status": 500,
            "detail": "Something went wrong here; it has been logged.",
            "instance": "/api/auth/login",
            "code": "internal",
            "request_id": "broken",
        }
        assert server.sign_in("away", "is away now")[0] == 503
        with server.connect() as leaving:
            leaving.sendall(
                b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nX-Request-ID: left\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
        with server.connect() as following:
            following.sendall(b"GET /api/changes/stream HTTP/1.1\r\nHost: x\r\nX-Request-ID: stream\r\n\r\n")
            assert following.recv(12) == b"HTTP/1.1 200"
        for left in ("left", "stream"):
            wait_until(lambda: f'"{left}","actor"' in server.log.read_text(), "it is over")  # noqa: B023 - now
        assert server.ask("last", "GET", "/health/live")[0] == 200
        told = server.end()

    requests = {
        name: [line for line in lines if line["event"] == "request"] for name, lines in told.items() if name
    }
    assert {name: len(lines) for name, lines in requests.items()} == dict.fromkeys(requests, 1)
    lines = {name: line for name, (line,) in requests.items()}
    wanted = ("method", "route", "path", "status", "problem", "ending")
    movie, sign_in = "/api/movies/{movie_id}", "/api/auth/login"
    assert {name: of([line], *wanted)[0] for name, line in lines.items()} == {
        "one": ("GET", movie, "/api/movies/1", 404, "not_found", None),
        "framework": ("GET", f"{movie}/history", "/api/movies/1/history", 404, "not_found", None),
        "head": ("HEAD", "/problems", "/problems", 200, None, None),
        "nowhere": ("GET", None, "/nowhere", 404, "not_found", None),
        "long": ("GET", None, "/api/…/x", 404, "not_found", None),
        "odd": ("other", None, "/api/movies", 405, "method_not_allowed", None),
        "denied": ("POST", "/api/movies", "/api/movies", 401, "not_signed_in", None),
        "broken": ("POST", sign_in, sign_in, 500, "internal", None),
        "away": ("POST", sign_in, sign_in, 503, "unavailable", None),
        "left": ("POST", sign_in, sign_in, 499, "malformed_request", "left"),
        "stream": ("GET", "/api/changes/stream", "/api/changes/stream", 200, None, "left"),
        "last": ("GET", "/health/live", "/health/live", 200, None, None),
    }
    assert {line["actor"] for line in lines.values()} == {"anonymous"}
    assert (lines["one"]["client"], lines["last"]["client"]) == ("192.0.2.7", "127.0.0.1")
    assert (lines["head"]["bytes"], lines["last"]["bytes"]) == (0, len('{"status":"up"}'))
    assert lines["broken"]["received"] == len('{"email": "ada@films.example", "password": "is broken"}')
    assert "received" not in lines["one"]
    assert all(isinstance(line["ms"], float) for line in lines.values())

    known = ("level", "logger", "event", "actor", "method", "route", "reason")
    who = ("anonymous", "POST", sign_in)
    asked, fault, _ = told["broken"]
    assert of([asked, fault], *known) == [
        ("warning", "watchly.tests", "asked", *who, None),
        ("error", "watchly.problems", "unhandled error", *who, None),
    ]
    assert str(fault["exception"]).startswith("Traceback")
    _, away, _ = told["away"]
    assert of([away], *known[:-1]) == [("warning", "watchly.problems", "unavailable", *who)]
    assert "it is away" in str(away["reason"])
    assert "exception" not in away


def test_what_others_log_in_the_course_of_a_request_names_it(tmp_path: Path) -> None:
    numbers = range(8, 16)
    with running(tmp_path) as server:
        logins = []
        for number in numbers:
            body = json.dumps({"email": f"{number}@films.example", "password": "x" * number}).encode()
            connection = server.connect()
            connection.sendall(
                b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nX-Request-ID: %d\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)
            )
            logins.append(connection)
        for connection in logins:
            assert connection.recv(12) == b"HTTP/1.1 401"
            connection.close()
        told = server.end()

    for number in numbers:
        asked, library, request = told[str(number)]
        assert (asked["event"], asked["length"]) == ("asked", number)
        assert (library["logger"], library["event"]) == ("library", "asked of something")
        assert request["status"] == 401


def test_a_request_that_the_stop_cuts_is_logged_before_the_end(tmp_path: Path) -> None:
    with running(tmp_path) as server, server.connect() as cut:
        body = b'{"email": "ada@films.example", "password": "takes for ever"}'
        cut.sendall(
            b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nX-Request-ID: cut\r\n"
            b"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        assert cut.recv(12) == b"HTTP/1.1 100"  # so it is being answered
        cut.sendall(body)
        told = server.end()

    assert of(told["cut"][-1:], "event", "status", "problem", "ending") == [
        ("request", 503, "unavailable", None)
    ]


def test_a_reader_of_the_log_that_stalls_holds_up_nobody(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with running(tmp_path, stderr=writing) as server:
        os.close(writing)
        for number in range(400):  # whose lines are more than a pipe takes
            assert server.ask(f"{number}", "GET", "/health/live")[0] == 200
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()

    assert lines
    assert [json.loads(line)["request_id"] for line in lines] == [f"{number}" for number in range(len(lines))]


async def receive() -> HTTPRequestEvent:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.anyio
@pytest.mark.parametrize("begun", [False, True])
async def test_an_error_that_nothing_else_has_handled_is_logged_once_and_not_told(
    caplog: pytest.LogCaptureFixture, *, begun: bool
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a secret")

    # Litestar would have logs of its own.
    scope = RequestFactory(Litestar(logging_config=None)).get("/").scope
    await Front(app, by_origin=False, metrics=Metrics().requests)(scope, receive, send)

    fault, line = (record.msg for record in caplog.records)
    assert isinstance(fault, dict)
    assert isinstance(line, dict)
    assert (fault["event"], line["event"]) == ("unhandled error", "request")
    assert fault["request_id"] == line["request_id"]
    assert isinstance(fault["exc_info"], RuntimeError)
    assert (line["status"], line.get("ending")) == ((200, "broken") if begun else (500, None))
    types = [message["type"] for message in sent]
    assert types == ["http.response.start"] if begun else ["http.response.start", "http.response.body"]
    assert "a secret" not in str(sent)


@pytest.mark.anyio
async def test_a_line_names_who_acts_even_where_they_may_not(
    configure_fakes: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.http.cast import Cast, bearing  # noqa: PLC0415 - the service is this file, run by itself
    from tests.http.conftest import client_of  # noqa: PLC0415 - as above

    container = configure_fakes(AUTH="on")
    cast = Cast(container)
    viewer, system = await cast.member(Role.VIEWER), await cast.system_token()
    async with client_of(container) as client:
        for bearer in (viewer.token, viewer.key.secret, system):
            await client.post("/api/movies", json={"title": "Heat"}, headers=bearing(bearer))

    told = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    assert of([line for line in told if line["event"] == "request"], "actor", "status") == [
        (viewer.user.actor.name, 403),
        (f"api-key:{viewer.key.key.id}", 403),
        ("system", 201),
    ]


# ---- how lines look ----

#: Logs what might forge lines, or is no text, or too much of it.
ODD: Final = r"""
import logging, os, msgspec, structlog
from watchly_adapters.settings import read_settings
from watchly_http import logs

class Struct(msgspec.Struct):
    password: str
    def __repr__(self): return "Struct(...)"

logs.configure(read_settings({**os.environ, "DATABASE_URL": "memory:"}))
log = structlog.stdlib.get_logger("watchly.tests")
log.debug("a detail")
log.info("one\nforged", path="/a\r\nforged \x1b[2J\x85\u2028\u202e\x9b2J")
log.info("odd", text="\udcff", large=2**70, none=None, many={"a": [1, {2}]}, it=Struct("hidden"))
log.warning("long", text="x" * 100_000 + "\n", other=7)
try:
    raise ValueError("broken\nforged\x1b[2J")
except ValueError as error:
    log.error("failed", exc_info=error)
    logging.getLogger("library").error("failed too", exc_info=True)
logging.getLogger("library").info("nobody wants it")
logging.getLogger("library").warning("it is %s\nforged", "odd", extra={"reply": "hidden"})
logging.getLogger("watchly.statements").warning("slow", extra={"statement": "GET_MOVIE"})
log.info("last")
"""


def logged(**variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ODD],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        check=True,
        timeout=PATIENCE,
    )
    return done.stderr.decode()


def test_lines_for_machines_are_whole_and_cannot_be_forged() -> None:
    text = logged(LOG_FORMAT="json", LOG_LEVEL="debug")

    assert "hidden" not in text
    assert len(text.splitlines()) == text.count("\n")
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    told = [json.loads(line) for line in text.splitlines()]
    assert of(told, "level", "logger", "event") == [
        ("debug", "watchly.tests", "a detail"),
        ("info", "watchly.tests", "one\nforged"),
        ("info", "watchly.tests", "odd"),
        ("warning", "watchly.tests", "long"),
        ("error", "watchly.tests", "failed"),
        ("error", "library", "failed too"),
        ("warning", "library", "it is odd\nforged"),
        ("warning", "watchly.statements", "slow"),
        ("info", "watchly.tests", "last"),
    ]
    assert told[1]["path"] == "/a\r\nforged \x1b[2J\x85\u2028\u202e\x9b2J"
    assert told[2]["it"] == "Struct(...)"
    assert told[3]["text"].startswith("xxx")
    assert len(told[3]["text"]) < 10_000
    assert told[4]["exception"].endswith("ValueError: broken\nforged\x1b[2J")
    assert told[5]["exception"].startswith("Traceback")
    assert told[7]["statement"] == "GET_MOVIE"
    for line in told:
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is UTC


def test_lines_for_people_cannot_be_forged_either() -> None:
    text = logged(LOG_FORMAT="console", LOG_LEVEL="info")

    assert "hidden" not in text
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    # What belongs to the line above it is indented.
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert [line.split("[")[1].split("]")[0].strip() for line in lines] == [
        *("info", "info", "warning", "error", "error", "warning", "warning", "info")
    ]
    assert all(line.startswith("20") for line in lines)


@pytest.mark.parametrize(("level", "count"), [("warning", 5), ("error", 2)])
def test_less_is_logged_where_less_is_wanted(level: str, count: int) -> None:
    assert len(logged(LOG_FORMAT="json", LOG_LEVEL=level).splitlines()) == count
