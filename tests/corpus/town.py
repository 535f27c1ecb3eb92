"""A real service for bytes of all kinds, and connections on which they are sent."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
import msgspec
from tests.conftest import new_database
from tests.corpus.cases import MAX_IMAGE_BYTES, MAX_JSON_BYTES, PNG, Case
from tests.services import Service, as_url, run, wait_until

from watchly_adapters.postgres import migrate
from watchly_http.problems import KINDS, Problem

#: Seconds for anything that is to happen; far more than it takes.
PATIENCE: Final = 60.0

#: What a log has in it where the service itself is at fault.
FAULT: Final = re.compile("Traceback|unhandled error|never (retrieved|awaited)|ResourceWarning")
_LAST_WORD: Final = re.compile(rb"(HTTP/1\.1 400 Bad Request\r\n([^\r\n]+\r\n)*\r\n)?")
_PROBE: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Town:
    """A running service, what its replies gave out, and where its uploads wait.

    Attributes:
        address: where it listens.
        service: what runs.
        variables: what configures it.
        words: what the words of the cases stand for.
    """

    def __init__(self, service: Service, variables: Mapping[str, str], token: str) -> None:
        self.service, self.variables = service, variables
        self.address = address_of(service)
        bearer = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=service.url, headers=bearer, timeout=PATIENCE) as client:
            movies = [client.post("/api/movies", json={"title": "Heat"}).json()["id"] for _ in range(2)]
            shown = client.put(
                f"/api/movies/{movies[1]}/image", content=PNG, headers={"Content-Type": "image/png"}
            )
            cursor = client.get("/api/movies", params={"limit": 1}).json()["next_cursor"]
        self.words = {
            "EDITOR": token,
            "MOVIE": str(movies[0]),
            "IMAGE": shown.json()["image"]["key"],
            "CURSOR": cursor,
        }

    def spelled(self, data: bytes) -> bytes:
        """The bytes of a case with what its words stand for."""
        for name, value in self.words.items():
            data = data.replace(f"@{name}@".encode(), value.encode())
        return data

    def faults(self) -> list[str]:
        """The lines of the log that tell a fault of the service itself."""
        return [line for line in self.service.log.splitlines() if FAULT.search(line)]

    def alive(self) -> bool:
        """Whether it answers on another connection."""
        with Line(self, _PROBE) as line:
            return line.is_good()


@contextmanager
def running(server_url: str, folder: Path, workers: int = 1, **settings: str) -> Iterator[Town]:
    """A service whose files are below an empty folder; at the end it stops, and has leaked nothing."""
    spools = folder / "spools"
    spools.mkdir()
    with new_database(server_url) as database:
        asyncio.run(migrate(database))
        variables = {
            "DATABASE_URL": as_url(database),
            "SECRET_KEY": "0123456789abcdef" * 4,
            "WATCHLY_HOME": str(folder / "home"),
            "TMPDIR": str(spools),
            "AUTH": "on",
            "LOG_LEVEL": "warning",
            "MAX_JSON_BYTES": str(MAX_JSON_BYTES),
            "MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES),
            "DRAIN_TIMEOUT": "5",
            **settings,
        }
        with Service(folder / "log", "--workers", str(workers), **variables) as service:
            town = Town(service, variables, run("token", "--role", "editor", **variables).stdout.strip())
            yield town
            assert town.alive()
            wait_until(lambda: _in_flight(service) == 1, "no request is under way but that which asks")
            assert service.stop() == 0
            assert not town.faults()
            assert [path for path in spools.rglob("*") if path.is_file()] == []


def _in_flight(service: Service) -> float:
    found = re.search(r"^watchly_http_requests_in_flight ([0-9.]+)$", _metrics(service), re.MULTILINE)
    assert found is not None
    return float(found[1])


def _metrics(service: Service) -> str:
    return httpx.get(f"{service.url}/metrics", timeout=PATIENCE).text


class Answer(msgspec.Struct, frozen=True):
    """A reply; its status is 0 where there is none."""

    status: int = 0
    headers: Mapping[str, str] = {}
    body: bytes = b""


class _Pipe(io.BufferedReader):
    """What arrives on a connection: readers of one reply leave what comes after it."""

    def close(self) -> None:
        """Stay."""

    def makefile(self, _mode: str) -> Self:
        """What `http.client` reads a reply from."""
        return self


class Line:
    """A connection on which bytes are sent."""

    def __init__(self, town: Town, data: bytes) -> None:
        self.socket = socket.create_connection(town.address, timeout=PATIENCE)
        self._pipe = _Pipe(socket.SocketIO(self.socket, "r"))
        self.send(town.spelled(data))

    def send(self, data: bytes) -> None:
        """Send bytes; the other side may have answered and hung up already."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def answer(self, method: str) -> Answer:
        """The next reply."""
        response = http.client.HTTPResponse(self._pipe, method=method)  # type: ignore[arg-type] # no socket
        try:
            response.begin()
            body = response.read()
        except (http.client.BadStatusLine, ConnectionResetError):
            return Answer()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def is_over(self) -> bool:
        """Whether the other side hangs up, with no more than a word that what follows is not HTTP."""
        with suppress(ConnectionResetError):
            return _LAST_WORD.fullmatch(self._pipe.read()) is not None
        return True

    def rest(self) -> bytes:
        """All that comes until the other side hangs up."""
        return self._pipe.read()

    def is_good(self) -> bool:
        """Whether the next request is answered, and it alone."""
        self.send(_PROBE)
        answer = self.answer("GET")
        return (answer.status, answer.body) == (200, b'{"status":"up"}')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def check(town: Town, case: Case) -> None:
    """Send the bytes of a case; fail where what comes back is not what has to."""
    with Line(town, case.data) as line:
        answer = line.answer(_method(case.data))
        assert answer.status == case.status, answer
        _check_reply(case, answer)
        if case.unended:
            assert answer.headers["connection"] == "close"
        if case.closed:
            assert line.is_over()
        else:
            assert line.is_good()
    if case.closed:
        assert town.alive()
    assert not town.faults(), town.faults()


def _check_reply(case: Case, answer: Answer) -> None:
    if case.bare or not answer.status:
        assert (answer.body, "x-request-id" in answer.headers) == (b"", False)
        return
    assert answer.headers["x-request-id"]
    if answer.status >= HTTPStatus.BAD_REQUEST and answer.body:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = msgspec.json.decode(answer.body, type=Problem)
        assert problem.status == answer.status == KINDS[problem.code].status
        assert problem.request_id == answer.headers["x-request-id"]


def _method(data: bytes) -> str:
    return data.partition(b" ")[0].decode("latin-1")


def exchange(town: Town, data: bytes) -> Answer:
    """The reply to the first request of these bytes."""
    with Line(town, data) as line:
        return line.answer(_method(data))


def address_of(service: Service) -> tuple[str, int]:
    """Where a service listens."""
    url = urlsplit(service.url)
    return url.hostname or "", url.port or 0
