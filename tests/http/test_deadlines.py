"""What ends requests that take too long, and turns away those that are too many, on a real server."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from unittest.mock import patch

import msgspec
import pytest
from dependency_injector import providers
from tests.services import Program, on_fakes, wait_until

from watchly_adapters.container import Container
from watchly_adapters.memory import MemoryDatabase, MemoryImages, MemoryMovieQueries, MemoryTransaction
from watchly_adapters.settings import read_settings
from watchly_adapters.testing import samples
from watchly_core import GenreCount, Movie, MovieQuery
from watchly_core.images import Ticket
from watchly_core.movies import MovieDraft
from watchly_http import deadlines, logs, requests
from watchly_http.app import create_app
from watchly_http.problems import KINDS, Problem
from watchly_http.server import serve

#: Seconds for anything that is to happen; far more than it takes.
PATIENCE: Final = 60.0
ORIGIN: Final = "https://app.example"
PNG: Final = samples.UPRIGHT["png"]


# ---- the service ----


class Freezer:
    """What hangs in the service, and until when."""

    def __init__(self) -> None:
        self.store = self.commits = False
        self.thaw = asyncio.Event()


class FrozenQueries(MemoryMovieQueries):
    """Those of a fake that hang in the ways that are asked for as genres."""

    freezer: Freezer

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        match query.genre:
            case "frozen":
                await asyncio.Event().wait()
            case "stubborn":
                try:
                    await asyncio.Event().wait()
                finally:
                    await self.freezer.thaw.wait()
            case "deaf":
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            case "thaw":
                self.freezer.thaw.set()
            case "frozen commits":
                self.freezer.commits = True
            case "frozen store":
                self.freezer.store = True
        return []

    async def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        yield [MovieDraft(title="Heat")] * 10_000
        if query.genre == "frozen":
            await asyncio.Event().wait()


class FrozenImages(MemoryImages):
    """A store that freezes when it is told to."""

    freezer: Freezer

    async def receive(self, key: str, content: AsyncIterable[bytes], start: int, total: int) -> int:
        received = await super().receive(key, content, start, total)
        if self.freezer.store:
            self.freezer.store = False
            await asyncio.Event().wait()
        return received


class FrozenDatabase(MemoryDatabase):
    """A fake with these queries, whose answers to commits may be lost."""

    def __init__(self, freezer: Freezer) -> None:
        super().__init__()
        self._freezer, self._begin = freezer, self.transactions
        self.queries = queries = FrozenQueries(self._tables)
        queries.freezer = freezer
        self.transactions = self._transactions  # type: ignore[assignment]  # of the same shape

    @asynccontextmanager
    async def _transactions(self) -> AsyncIterator[MemoryTransaction]:
        async with self._begin() as tx:
            yield tx
        if self._freezer.commits:
            self._freezer.commits = False
            await asyncio.Event().wait()


def main() -> int:
    settings = read_settings(os.environ)
    logs.configure(settings)

    def load() -> object:
        container, freezer, images = Container(settings=settings), Freezer(), FrozenImages()
        images.freezer = freezer
        container.database.override(providers.Object(FrozenDatabase(freezer)))
        container.images.override(providers.Object(images))
        return create_app(container)

    with patch.object(requests, "BODY_WAIT", 2.0), patch.object(deadlines, "STALLED", 4.0):
        return serve(
            load,  # type: ignore[arg-type]  # as the real one gives it
            host="127.0.0.1",
            port=0,
            workers=1,
            drain_timeout=settings.drain_timeout.total_seconds(),
            on_listening=lambda url: print(url, flush=True),  # noqa: T201 - for the test
        )


if __name__ == "__main__":
    sys.exit(main())


# ---- the tests ----


class Line(msgspec.Struct, frozen=True):
    """A line of the log, as far as it is looked at."""

    event: str
    request_id: str = ""
    status: int = 0
    ending: str = ""


class Server:
    """A running service of this file."""

    def __init__(self, program: Program, log: Path) -> None:
        url = program.heard()
        assert url, log.read_text()
        self.process, self._log = program.process, log
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE)

    def ask(
        self, target: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(self.connect()) as connection:
            connection.request(method, target, body or None, given)
            response = connection.getresponse()
            return response, response.read()

    def lines(self, request_id: str) -> list[Line]:
        """What the log has of a request."""
        lines = [msgspec.json.decode(line, type=Line) for line in self._log.read_bytes().splitlines()]
        return [line for line in lines if line.request_id == request_id]

    def told(self, request_id: str) -> Line:
        """The line of a request that is over."""
        wait_until(lambda: any(line.event == "request" for line in self.lines(request_id)), "it is told")
        (line,) = (line for line in self.lines(request_id) if line.event == "request")
        return line


@contextmanager
def running(home: Path, **variables: str) -> Iterator[Server]:
    given = {"AUTH": "off", "LOG_FORMAT": "json", "CORS_ORIGINS": ORIGIN, **variables}
    with on_fakes("tests.http.test_deadlines", home, given) as (program, log):
        yield Server(program, log)
        program.process.terminate()
        assert program.process.wait(PATIENCE) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One where requests have little time."""
    home = tmp_path_factory.mktemp("deadlines")
    with running(home, REQUEST_TIMEOUT="300 ms", DRAIN_TIMEOUT="60") as server:
        yield server
        with closing(server.connect()) as connection:
            connection.request("GET", "/api/genres?genre=frozen", headers={"X-Request-ID": "last"})
            wait_until(lambda: server.ask("/health/live")[0].status == 200, "it has come")
            server.process.terminate()
            # A stop leaves it its time, and no more.
            assert connection.getresponse().status == 504


def problem_of(response: http.client.HTTPResponse, body: bytes, code: str) -> Problem:
    problem = msgspec.json.decode(body, type=Problem)
    assert response.status == problem.status == KINDS[code].status, body
    assert problem.code == code
    assert problem.request_id == response.headers["x-request-id"]
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-content-type-options"] == "nosniff"
    return problem


@pytest.mark.parametrize("way", ["frozen", "stubborn", "deaf"])
def test_a_request_that_hangs_is_answered_in_time_and_once(server: Server, way: str) -> None:
    """However it takes it to be cancelled, the connection goes on, and gets nothing that is not its due."""
    with closing(server.connect()) as connection:
        connection.request("GET", f"/api/genres?genre={way}", headers={"X-Request-ID": way, "Origin": ORIGIN})
        response = connection.getresponse()
        problem_of(response, response.read(), "timeout")
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["access-control-allow-credentials"] == "true"
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        assert server.told(way).status == 504
        socket_then = connection.sock

        for _ in range(2):
            connection.request("GET", "/health/live")
            assert connection.getresponse().read() == b'{"status":"up"}'
            assert server.ask("/api/genres?genre=thaw")[0].status == 200
        assert connection.sock is socket_then
    assert [line.event for line in server.lines(way)] == ["a request took too long", "request"]
    metrics = server.ask("/metrics")[1].decode()
    assert 'method="GET",route="/api/genres",status="504"' in metrics


def test_a_write_whose_time_is_over_resolves_by_its_key(server: Server) -> None:
    assert server.ask("/api/genres?genre=frozen%20commits")[0].status == 200
    sent = {"Content_Type": "application/json", "Idempotency_Key": "once"}

    response, body = server.ask("/api/movies", "POST", b'{"title": "Once"}', **sent)
    problem_of(response, body, "timeout")
    again, body = server.ask("/api/movies", "POST", b'{"title": "Once"}', **sent)

    assert (again.status, again.headers["idempotency-replayed"]) == (201, "true")
    assert msgspec.json.decode(body, type=Movie).title == "Once"
    found = msgspec.json.decode(server.ask("/api/movies?q=once")[1])
    assert len(found["data"]) == 1


def test_the_body_of_an_upload_may_take_longer_and_what_follows_it_may_not(server: Server) -> None:
    movie = msgspec.json.decode(
        server.ask("/api/movies", "POST", b'{"title": "H"}', Content_Type="application/json")[1], type=Movie
    )
    for store, status in (("frozen%20store", 504), ("well", 204)):
        wanted = b'{"content_type": "image/png", "bytes": %d}' % len(PNG)
        tickets = f"/api/movies/{movie.id}/image/tickets"
        ticket = msgspec.json.decode(
            server.ask(tickets, "POST", wanted, Content_Type="application/json")[1], type=Ticket
        )
        server.ask(f"/api/genres?genre={store}")
        with closing(server.connect()) as connection:
            connection.putrequest(ticket.method, ticket.url)
            for name, value in {**ticket.headers, "Content-Length": str(len(PNG))}.items():
                connection.putheader(name, value)
            connection.endheaders(PNG[:50])
            # Another one, meanwhile, has all of its time.
            assert server.ask("/api/genres?genre=frozen")[0].status == 504
            connection.send(PNG[50:])
            assert connection.getresponse().status == status


def test_a_body_that_stops_arriving_is_its_clients_fault(server: Server) -> None:
    with closing(server.connect()) as connection:
        connection.putrequest("POST", "/api/movies")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"title": ')
        response = connection.getresponse()
        body = response.read()
        assert response.status == 408, (response.status, body)
        assert msgspec.json.decode(body)["code"] == "request_timeout"


def test_an_export_whose_rows_stop_coming_is_cut(server: Server) -> None:
    with pytest.raises(http.client.IncompleteRead) as raised:
        server.ask("/api/movies/export?genre=frozen", X_Request_ID="half")

    assert raised.value.partial.count(b"\n") == 10_000
    line = server.told("half")
    assert (line.status, line.ending) == (200, "cut")
    assert server.ask("/api/movies/export")[1].count(b"\n") == 10_000


def test_a_stream_has_no_end_for_who_reads_it_and_one_for_who_does_not(server: Server) -> None:
    row = b'{"title": "Long", "description": "%s"}\n' % (b"x" * 9_999)
    taken, _ = server.ask("/api/movies/import", "POST", row * 2_000, Content_Type="application/x-ndjson")
    assert taken.status == 200
    head = "GET /api/changes/stream{} HTTP/1.1\r\nHost: x\r\nX-Request-ID: {}\r\n\r\n"
    with socket.socket() as idle, socket.create_connection(server.address, timeout=PATIENCE) as reader:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        idle.connect(server.address)
        idle.sendall(head.format("?after=0", "idle").encode())
        reader.sendall(head.format("", "reader").encode())

        line = server.told("idle")
        assert (line.status, line.ending) == (200, "cut")
        server.ask("/api/movies", "POST", b'{"title": "News"}', Content_Type="application/json")
        received = b""
        while b"News" not in received:
            piece = reader.recv(65_536)
            assert piece, received
            received += piece


def test_too_many_requests_are_turned_away_early_and_a_stop_cuts_the_others(tmp_path: Path) -> None:
    variables = {"MAX_REQUESTS": "2", "REQUEST_TIMEOUT": "1 h", "DRAIN_TIMEOUT": "1", "ALLOWED_HOSTS": "x"}
    with running(tmp_path, **variables) as server, ExitStack() as stack:
        hanging = []
        stream = stack.enter_context(socket.create_connection(server.address, timeout=PATIENCE))
        stream.sendall(b"GET /api/changes/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.recv(12) == b"HTTP/1.1 200"
        for _ in range(3):
            slow = stack.enter_context(socket.create_connection(server.address, timeout=PATIENCE))
            slow.sendall(b"POST /api/movies HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 20\r\n\r\n{")
        # With the stream, and the one that asks.
        begun = b"watchly_http_requests_in_flight 5.0"
        wait_until(lambda: begun in server.ask("/metrics")[1], "all have begun")
        assert server.ask("/api/genres", Host="x")[0].status == 200
        for number in range(2):
            connection = stack.enter_context(closing(server.connect()))
            connection.request(
                "GET",
                "/api/genres?genre=frozen",
                headers={"Host": "x", "Origin": ORIGIN, "X-Request-ID": f"hanging-{number}"},
            )
            hanging.append(connection)
        wait_until(lambda: server.ask("/api/genres", Host="x")[0].status == 503, "they hang")

        for method, target in (("GET", "/api/movies"), ("POST", "/api/movies"), ("GET", "/docs")):
            refused, body = server.ask(target, method, Host="x", Origin=ORIGIN, X_Request_ID="more")
            assert problem_of(refused, body, "unavailable").detail == "Too many requests are being answered."
            assert refused.headers["access-control-allow-origin"] == ORIGIN
        assert {line.status for line in server.lines("more")} <= {503}
        for target in ("/health", "/health/live", "/health/ready", "/metrics"):
            assert server.ask(target)[0].status == 200

        server.process.terminate()
        for number, connection in enumerate(hanging):
            response = connection.getresponse()
            assert response.status == 503
            assert msgspec.json.decode(response.read())["detail"] == "The service is stopping."
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert response.headers["x-content-type-options"] == "nosniff"
            assert server.told(f"hanging-{number}").status == 503
