"""Exports and imports on the wire, against a real server: what is cut, left, slow or unfinished."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import litestar
import msgspec
import pytest
from dependency_injector import providers
from litestar import Litestar
from litestar.testing import RequestFactory
from litestar.types import HTTPReceiveMessage, Message
from tests.services import Program, on_fakes, wait_until

from watchly_adapters.container import Container
from watchly_adapters.databases import EVERYTHING
from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.settings import read_settings
from watchly_core import GenreCount, Movie, MovieQuery, Page
from watchly_core.errors import Unavailable
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.movies import MovieDraft
from watchly_core.ports import MovieQueries
from watchly_http import logs
from watchly_http.app import create_app
from watchly_http.downloads import Download
from watchly_http.problems import Problem
from watchly_http.requests import BodyTimeout, Request, stream
from watchly_http.server import serve

PATIENCE: Final = 60.0
"""Seconds for anything that is to happen; far more than it takes."""

MANY: Final = 5_000
"""Movies that fill several pieces of a reply."""


# ---- the server ----


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Queries:
    """Those of a fake, whose exports are endless, or fail before or after the first piece.

    Which of it is said by the genre; when an export is closed, it says so.
    """

    def __init__(self, queries: MovieQueries) -> None:
        self._queries = queries

    def at(self, position: str) -> Self:  # noqa: ARG002 - the port's
        return self

    async def get(self, movie_id: int) -> Movie:
        return await self._queries.get(movie_id)

    async def find(self, query: MovieQuery) -> Page:
        return await self._queries.find(query)

    async def count(self, query: MovieQuery) -> int:
        return await self._queries.count(query)

    async def genres(self, query: MovieQuery) -> list[GenreCount]:
        return list(await self._queries.genres(query))

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        return await self._queries.history(movie_id, before=before, limit=limit)

    async def changes(self, query: ChangeQuery) -> Changes:
        return await self._queries.changes(query)

    async def last_change(self) -> int:
        return await self._queries.last_change()

    async def export(self, query: MovieQuery) -> AsyncGenerator[list[MovieDraft], None]:
        number = 0
        try:
            while query.genre != "down":
                number += 1
                title, description = f"Movie {number}", "x" * 100
                yield [MovieDraft(title=title, description=description, release_year=1995, genre=query.genre)]
                if query.genre == "failing" and number == MANY:
                    break
                if query.genre == "faulty" and number == MANY:
                    raise RuntimeError("a fault of our own")
            raise Unavailable("database", "the connection was lost")
        finally:
            say("closed")


def load_app() -> Litestar:
    container = Container(settings=read_settings(os.environ))
    container.database.override(providers.Singleton(OddDatabase))
    return create_app(container)


class OddDatabase:
    """A fake with the queries above."""

    def __init__(self) -> None:
        self._database = MemoryDatabase()
        self.queries: MovieQueries = Queries(self._database.queries)
        self.reads = self.queries
        self.people = self._database.people
        self.keeps = EVERYTHING
        self.position = None
        self.replica_answers = None
        self.transactions = self._database.transactions
        self.signal = self._database.signal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ping(self) -> None:
        pass


def main() -> int:
    settings = read_settings(os.environ)
    logs.configure(settings)
    return serve(
        load_app,
        host="127.0.0.1",
        port=0,
        workers=1,
        drain_timeout=settings.drain_timeout.total_seconds(),
        on_listening=say,
    )


if __name__ == "__main__":
    sys.exit(main())


# ---- the tests ----


class Server:
    """A running service of this file.

    Attributes:
        address: where it listens.
        log: the file that it logs to.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self._program, self.log = program, log
        self.address = ("127.0.0.1", int(self.heard().rpartition(":")[2]))

    def heard(self) -> str:
        """The next line that it says."""
        line = self._program.heard()
        assert line, self.log.read_text()
        return line

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """The status and the body of a reply."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def total(self) -> int:
        """How many movies there are."""
        status, body = self.ask("/api/movies?limit=1", Prefer="count=exact")
        assert status == 200
        return msgspec.json.decode(body, type=Page).total or 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A service that ends cleanly."""
    with running(tmp_path, MAX_IMPORT_BYTES="10 MB") as server:
        yield server


@contextmanager
def running(home: Path, **variables: str) -> Iterator[Server]:
    given = {"AUTH": "off", "DRAIN_TIMEOUT": "0", **variables}
    with on_fakes("tests.http.test_streams", home, given) as (program, log):
        yield Server(program, log)
        program.process.terminate()
        assert program.process.wait(PATIENCE) == 0, log.read_text()


def begin(connection: socket.socket, method: str, path: str, *headers: str) -> None:
    """Send the head of a request."""
    connection.sendall("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())


def read_until_cut(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of a reply and what came of its body, chunk lengths included, before the connection ended."""
    received = b""
    while part := connection.recv(1 << 20):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


def test_an_export_that_fails_on_the_way_is_cut_and_the_client_can_tell(server: Server) -> None:
    for genre, logged in (("failing", "unavailable"), ("faulty", "unhandled error")):
        with pytest.raises(http.client.IncompleteRead) as raised:
            server.ask(f"/api/movies/export?genre={genre}")
        # What was made up to then is of use.
        lines = raised.value.partial.splitlines()
        assert 0 < len(lines) <= MANY
        assert msgspec.json.decode(lines[-1])["title"] == f"Movie {len(lines)}"
        assert server.heard() == "closed"
        wait_until(lambda: logged in server.log.read_text(), f"it is logged as {logged}")  # noqa: B023 - now
    assert server.ask("/health/live")[0] == 200
    wait_until(lambda: "/health/live" in server.log.read_text(), "all that was before it is in the log")
    text = server.log.read_text()
    assert (text.count("unavailable "), text.count("unhandled error")) == (1, 1)
    assert text.count("Traceback") == 1
    assert "Exception caught after response started" not in text


def test_an_export_that_fails_at_once_is_a_problem(server: Server) -> None:
    for accept in ("text/csv", "application/x-ndjson"):
        status, body = server.ask("/api/movies/export?genre=down", Accept=accept)

        assert (status, msgspec.json.decode(body, type=Problem).code) == (503, "unavailable")
        assert server.heard() == "closed"


def test_an_export_is_sent_while_it_is_made_and_ends_when_the_client_leaves(server: Server) -> None:
    with server.connect() as connection:
        begin(connection, "GET", "/api/movies/export")
        received = b""
        while len(received) < 1_000_000:  # of what has no end
            received += connection.recv(1 << 16)
        assert server.ask("/health/live")[0] == 200
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ntransfer-encoding: chunked\r\n" in received[:1_000].lower()
    assert server.heard() == "closed"


def test_a_client_that_reads_nothing_and_leaves_frees_an_export(server: Server) -> None:
    with server.connect() as connection:
        begin(connection, "GET", "/api/movies/export")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert server.heard() == "closed"


@pytest.mark.anyio
async def test_a_client_that_stops_reading_is_given_up() -> None:
    sent: list[Message] = []
    closed = False

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            while True:
                yield b"piece"
        finally:
            closed = True

    async def send(message: Message) -> None:
        if len(sent) == 3:
            await asyncio.Event().wait()
        sent.append(message)

    async def receive() -> HTTPReceiveMessage:
        await asyncio.Event().wait()
        raise AssertionError("nobody sends anything")

    await Download(b"first", pieces(), {}, patience=0.01).send_body(send, receive)

    assert [message.get("more_body") for message in sent] == [True] * 3
    assert closed


class Line:
    """A client that takes every piece of a reply, each in its time.

    Attributes:
        sent: pieces that were sent.
        ended: whether the reply was, as it should be.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.sent, self.ended = 0, False

    async def send(self, message: Message) -> None:
        await asyncio.sleep(self._seconds)
        self.sent += 1
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def receive(self) -> HTTPReceiveMessage:
        await asyncio.Event().wait()
        raise AssertionError("nobody sends anything")


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "whole"), [(5, False), (50_000, True)])
async def test_a_client_that_reads_too_slowly_is_given_up(size: int, *, whole: bool) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        for _ in range(100):
            yield b"x" * size

    line = Line(0.01)
    async with asyncio.timeout(PATIENCE):
        await Download(b"first", pieces(), {}, patience=0.5).send_body(line.send, line.receive)

    assert line.ended == whole
    assert whole == (line.sent == 102)


class SlowSender:
    """A client each of whose pieces, of `size` bytes, comes so many seconds after the last one was taken.

    The seconds pass on the clock of the loop alone.
    """

    def __init__(self, pieces: int, size: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left, self._size, self._seconds = pieces, size, seconds
        self.sent, self.now = 0, 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def receive(self) -> HTTPReceiveMessage:
        self.now += self._seconds
        self._left -= 1
        self.sent += self._size
        return {"type": "http.request", "body": b"x" * self._size, "more_body": self._left > 0}

    async def taken(self, seconds: float = 0.0) -> int:
        """How many bytes are taken, by an application that spends so many seconds on each piece."""
        request: Request = litestar.Request(RequestFactory().post("/").scope, receive=self.receive)
        taken = 0
        async for piece in stream(request):
            taken += len(piece)
            self.now += seconds
        return taken


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("size", "seconds", "largest"),
    [
        (0, 29.0, 0),
        (1, 29.0, 3),
        (1, 0.1, 601),
        (100_000, 11.0, 7_000_000),  # one second more than a piece of that size may take, and 60
    ],
)
async def test_a_body_that_trickles_is_given_up(
    monkeypatch: pytest.MonkeyPatch, size: int, seconds: float, largest: int
) -> None:
    sender = SlowSender(100_000, size, seconds, monkeypatch)

    with pytest.raises(BodyTimeout):
        await sender.taken()

    assert sender.sent <= largest
    assert sender.now < 60 + sender.sent / 10_000 + 30


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pieces", "size", "seconds"),
    [(3, 1, 19.0), (1, 1, 29.0), (1_000, 100_000, 10.0), (1_000, 10_000, 1.05)],
)
async def test_a_body_that_comes_slowly_is_taken(
    monkeypatch: pytest.MonkeyPatch, pieces: int, size: int, seconds: float
) -> None:
    sender = SlowSender(pieces, size, seconds, monkeypatch)

    assert await sender.taken() == pieces * size


@pytest.mark.anyio
async def test_the_time_that_is_spent_on_a_body_is_not_its_sender_s(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = SlowSender(100, 1, 0.1, monkeypatch)

    assert await sender.taken(seconds=100.0) == 100


@pytest.mark.anyio
async def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watchly_http.requests.BODY_WAIT", 0.01)

    async def receive() -> HTTPReceiveMessage:
        await asyncio.Event().wait()
        raise AssertionError("nobody sends anything")

    request: Request = litestar.Request(RequestFactory().post("/").scope, receive=receive)
    with pytest.raises(BodyTimeout):
        await anext(aiter(stream(request)))


def test_the_head_of_an_endless_export_is_soon_there(server: Server) -> None:
    status, body = server.ask("/api/movies/export", "HEAD")

    assert (status, body) == (200, b"")
    assert server.heard() == "closed"


def test_a_stop_cuts_an_export_and_the_client_can_tell(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        connection = server.connect()
        begin(connection, "GET", "/api/movies/export")
        assert connection.recv(12) == b"HTTP/1.1 200"
    with connection:
        _, body = read_until_cut(connection)
    assert not body.endswith(b"\r\n0\r\n\r\n")


IMPORT: Final = ("POST", "/api/movies/import", "Content-Type: application/x-ndjson")


@pytest.mark.parametrize("kind", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_sender_that_is_slow_holds_up_nobody_and_one_that_leaves_adds_nothing(
    server: Server, kind: str
) -> None:
    with server.connect() as connection:
        begin(connection, *IMPORT, kind)
        line = b'{"title": "Heat"}\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(line), line) if "chunked" in kind else line)
        # On the fakes writers wait for each other: a transaction that was open would be in the way.
        assert (
            server.ask("/api/movies", "POST", b'{"title": "Alien"}', **{"Content-Type": "application/json"})[
                0
            ]
            == 201
        )
    assert server.total() == 1


def test_an_import_in_many_pieces(server: Server) -> None:
    film = b'{"title": "Heat"}\n'
    with server.connect() as connection:
        begin(connection, *IMPORT, "Transfer-Encoding: chunked", "Connection: close")
        for _ in range(300):
            piece = film * 100
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        head, body = read_until_cut(connection)
    assert head.startswith(b"HTTP/1.1 200")
    assert b'"added":30000' in body
    assert server.total() == 30_000


def test_an_import_without_an_end_is_refused_at_its_limit(server: Server) -> None:
    film = b'{"title": "Heat"}\n' * 10_000
    with server.connect() as connection:
        begin(connection, *IMPORT, "Transfer-Encoding: chunked")
        try:
            for _ in range(10_000):
                connection.sendall(b"%x\r\n%s\r\n" % (len(film), film))
        except OSError:
            pass  # it has answered and hung up
        else:
            raise AssertionError("it took everything")
    assert server.total() == 0


def test_an_import_that_announces_too_much_is_refused_without_its_body(server: Server) -> None:
    with server.connect() as connection:
        begin(connection, *IMPORT, "Content-Length: 10000001", "Expect: 100-continue")
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_others_are_answered_while_rows_are_imported(server: Server) -> None:
    film = b'{"title": "Heat", "description": "' + b"x" * 100 + b'"}\n'
    content = film * (10_000_000 // len(film))
    answers = 0
    with server.connect() as connection:
        begin(connection, *IMPORT, f"Content-Length: {len(content)}", "Connection: close")
        connection.sendall(content)
        connection.settimeout(0)
        while True:
            try:
                done = connection.recv(12)
                break
            except BlockingIOError:
                answers += server.ask("/health/live")[0] == 200
    assert done == b"HTTP/1.1 200"
    assert answers > 10
