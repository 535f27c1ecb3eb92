"""Bytes that no client library sends, against a real server: none of them gives a 5xx or ends it.

The corpus is in `tests/corpus`.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import pytest
from tests.corpus.all import CASES
from tests.corpus.cases import HEAT, PNG, TYPE, framed, get, post, request
from tests.corpus.town import PATIENCE, Line, Town, address_of, check, exchange, running
from tests.services import Service

from watchly_core import Page
from watchly_http.problems import KINDS, Problem


@pytest.fixture(scope="module")
def town(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One service for all of them; at the end it has leaked nothing, and stops cleanly."""
    with running(server_url, tmp_path_factory.mktemp("bytes")) as town:
        yield town


# ---- the corpus ----


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("name", CASES)
def test_bytes(town: Town, name: str) -> None:
    check(town, CASES[name])


@pytest.mark.parametrize("body", [b"[" * 1_000 + b"]" * 1_000, b'{"a":' * 1_000 + b"1" + b"}" * 1_000])
def test_deep_json_is_refused(town: Town, body: bytes) -> None:
    """Where the interpreter stops depends on its version."""
    assert exchange(town, post(body)).status in {400, 422}
    assert town.alive()


# ---- more than one request ----


CUT: Final[dict[str, bytes]] = {
    "in the request line": b"GET /api/mov",
    "in the headers": b"GET /api/movies HTTP/1.1\r\nHost: x\r\nX-A",
    "before the body": framed(b"Content-Length: 17", body=b""),
    "in the body": framed(b"Content-Length: 170"),
    "in a chunk": framed(b"Transfer-Encoding: chunked", body=b"ff\r\n" + HEAT),
    "between chunks": framed(b"Transfer-Encoding: chunked", body=b"11\r\n" + HEAT + b"\r\n"),
    "in a large body": framed(b"Content-Length: 900000", body=b" " * 500_000),
    "in an image": request(
        "PUT",
        b"/api/movies/1/image",
        b"Content-Type: image/png",
        b"Content-Length: 90000",
        body=PNG,
        length=False,
    ),
    "before the answer": get(b"/openapi.json"),
    "in an import": request(
        "POST",
        b"/api/movies/import",
        b"Content-Type: application/x-ndjson",
        b"Content-Length: 900000",
        body=HEAT,
        length=False,
    ),
    "in a multipart body": request(
        "POST",
        b"/api/movies",
        b"Content-Type: multipart/form-data; boundary=b",
        b"Content-Length: 99",
        length=False,
    ),
}


@pytest.mark.parametrize("where", CUT)
def test_a_client_that_leaves_disturbs_nobody(town: Town, where: str) -> None:
    for _ in range(5):
        Line(town, CUT[where]).close()
        assert town.alive()


@pytest.mark.parametrize("where", ["in the body", "in a chunk", "in a large body"])
def test_a_body_that_ends_early_is_no_movie(town: Town, where: str) -> None:
    with Line(town, CUT[where]) as line:
        line.socket.shutdown(socket.SHUT_WR)
        answer = line.rest()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert town.alive()


def test_head_has_the_headers_of_get_and_no_body(town: Town) -> None:
    created = exchange(town, post(HEAT))
    for target in (created.headers["location"].encode(), b"/nowhere", b"/openapi.json", b"/docs", b"/health"):
        got = exchange(town, get(target, b"X-Request-ID: same"))
        with Line(town, request("HEAD", target, b"X-Request-ID: same", b"Connection: close")) as line:
            head, _, body = line.rest().partition(b"\r\n\r\n")
        assert body == b"", target
        lines = dict(line.decode().lower().split(": ", 1) for line in head.split(b"\r\n")[1:])
        assert head.startswith(b"HTTP/1.1 %d" % got.status)
        volatile = {"date", "connection"}
        assert {name: value for name, value in lines.items() if name not in volatile} == {
            name: value.lower() for name, value in got.headers.items() if name not in volatile
        }
        assert lines["content-length"] == str(len(got.body))


@pytest.mark.parametrize("name", ["q", "genre"])
def test_a_query_may_hold_utf8_that_is_not_encoded(town: Town, name: str) -> None:
    created = exchange(town, post('{"title": "Ünïcödé", "genre": "Ünïcödé"}'.encode()))

    for value in ("Ünïcödé".encode(), quote("Ünïcödé").encode()):
        found = exchange(town, get(b"/api/movies?%s=%s" % (name.encode(), value)))
        page = msgspec.json.decode(found.body, type=Page)
        assert created.headers["location"] in {f"/api/movies/{movie.id}" for movie in page.data}, value


def test_conditions_may_stand_on_several_lines(town: Town) -> None:
    """RFC 9110, section 5.3: lines of one name are one list."""
    created = exchange(town, post(HEAT))
    location = created.headers["location"].encode()

    for first, second in ((b'"v9"', b'"v1"'), (b'"v1"', b'"v9"')):
        got = exchange(town, get(location, b"If-None-Match: " + first, b"If-None-Match: " + second))
        put = exchange(
            town,
            request("PUT", location, TYPE, b"If-Match: " + first, b"If-Match: " + second, body=HEAT),
        )
        assert (got.status, put.status) == (304, 200), (first, second)


def test_a_connection_goes_on_after_a_problem(town: Town) -> None:
    body = b'{"title": 5}'
    with Line(town, post(body) + post(body) + get(b"/health/live", b"Connection: close")) as line:
        text = line.rest()
    assert text.count(b"HTTP/1.1 422 ") == 2
    assert text.count(b"HTTP/1.1 200 ") == 1


#: Requests that are answered before their body is read: what, its Content-Type, the status.
EARLY: Final = [
    ("POST /api/movies", "text/plain", 415),
    ("PUT /api/movies/999999/image", "image/png", 404),
    ("POST /nowhere", "text/plain", 404),
    ("GET /health/live", "text/plain", 200),
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("line", "media_type", "status"), EARLY)
def test_a_connection_goes_on_after_a_body_that_nobody_wanted(
    town: Town, line: str, media_type: str, status: int, *, chunked: bool
) -> None:
    method, target = line.split()
    with closing(http.client.HTTPConnection(*town.address, timeout=PATIENCE)) as connection:
        connection.connect()
        first = connection.sock
        for _ in range(2):
            body = iter([bytes(6_000)] * 10) if chunked else bytes(60_000)
            headers = {"Content-Type": media_type, "Authorization": f"Bearer {town.words['EDITOR']}"}
            connection.request(method, target, body, headers, encode_chunked=chunked)
            response = connection.getresponse()
            response.read()
            assert response.status == status
            assert response.headers["connection"] is None
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"up"}'
        assert connection.sock is first


@pytest.mark.parametrize(
    "sent",
    [b"Content-Length: 100\r\n\r\n", b"Content-Length: 100\r\n\r\n ", b"Transfer-Encoding: chunked\r\n\r\n"],
)
def test_a_reply_before_the_end_of_a_body_that_does_not_come_says_close(town: Town, sent: bytes) -> None:
    head = request("POST", b"/api/movies", b"Content-Type: text/plain").removesuffix(b"\r\n")
    answer = exchange(town, head + sent)

    assert answer.status == 415
    assert answer.headers["connection"] == "close"


def test_connections_end_where_a_body_does_not_come(town: Town) -> None:
    head = request("POST", b"/api/movies", b"Content-Type: text/plain", b"Content-Length: 100")
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(town, head)) for _ in range(10)]  # at once: one alone always ended
        for line in lines:
            assert line.answer("POST").status == 415
        for line in lines:
            assert line.is_over()


def test_a_client_that_asks_before_it_sends_is_refused_without_its_body(town: Town) -> None:
    expect = (b"Content-Type: text/plain", b"Content-Length: 9", b"Expect: 100-continue")
    with Line(town, request("POST", b"/api/movies", *expect)) as line:
        text = line.rest()
    assert text.startswith(b"HTTP/1.1 415 ")
    assert b"\r\nconnection: close\r\n" in text.lower()


def test_a_request_that_the_stop_cuts_is_answered_and_logged_like_any_other(tmp_path: Path) -> None:
    head = (
        b"POST /api/movies?x=1 HTTP/1.1\r\nHost: x\r\nX-Request-ID: cut\r\nContent-Type: application/json\r\n"
    )
    variables = {
        "DATABASE_URL": "memory:",
        "IMAGE_STORE_URL": "memory:",
        "WATCHLY_HOME": str(tmp_path / "home"),
    }
    with (
        Service(tmp_path / "log", **variables, DRAIN_TIMEOUT="1", LOG_FORMAT="json") as service,
        socket.create_connection(address_of(service), timeout=PATIENCE) as connection,
        closing(http.client.HTTPResponse(connection)) as response,
    ):
        connection.sendall(head + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        asked = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(asked), socket.MSG_WAITALL) == asked  # so its body is being read
        service.process.terminate()
        response.begin()
        assert response.status == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"] == "cut"
        assert response.headers["retry-after"] == "1"
        problem = msgspec.json.decode(response.read(), type=Problem)
    assert problem == Problem(
        type="/problems/unavailable",
        title=KINDS["unavailable"].title,
        status=503,
        detail="The service is stopping.",
        instance="/api/movies",
        code="unavailable",
        request_id="cut",
    )
    lines = [msgspec.json.decode(line) for line in service.log.splitlines() if line.startswith("{")]
    assert [(line["event"], line["status"]) for line in lines if line.get("request_id") == "cut"] == [
        ("request", 503)
    ]
