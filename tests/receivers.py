"""A receiver of requests on this machine, which behaves as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, TypeAlias


class Received(NamedTuple):
    """A request; `headers` have names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        received = Received(self.path, headers, body)
        behave = self.server.receiver.heard(received)
        behave(self)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


Behaviour: TypeAlias = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    """Waits for nobody when it stops."""

    daemon_threads = True
    block_on_close = False
    receiver: Receiver

    def handle_error(self, request: object, client_address: object) -> None:
        """Those who leave early are no fault."""


class Receiver:
    """What was received, and what is answered to it.

    Attributes:
        received: all requests, in the order in which they came.
        taken: those that were answered with a success.
        choose: how a request is answered.
        url: where it listens.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.taken: list[Received] = []
        self.choose: Callable[[Received], Behaviour] = lambda _: answer(204)
        self.connections = 0
        self.url = ""
        self.gone = threading.Event()

    def heard(self, received: Received) -> Behaviour:
        self.received.append(received)
        behave = self.choose(received)
        if getattr(behave, "success", False):
            self.taken.append(received)
        return behave


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer with a status."""

    def behave(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    behave.success = 200 <= status < 300  # type: ignore[attr-defined] # read by `Receiver.heard`
    return behave


def hang(handler: Handler) -> None:
    """Answer nothing until the receiver is gone."""
    handler.server.receiver.gone.wait(60)


def trickle(handler: Handler) -> None:
    """Answer with headers without end, one byte now and then."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _for_ever(handler, b"x")


def flood(handler: Handler) -> None:
    """Answer with headers without end, as fast as they are taken."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-Many: x\r\n" * 100)


def linger(handler: Handler) -> None:
    """Answer again and again that an answer will come."""
    _for_ever(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def promise(handler: Handler) -> None:
    """Answer that an answer will come, which is a success, and comes when the next request does."""
    handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    if handler.rfile.peek(1):  # type: ignore[attr-defined] # it is a BufferedReader
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def stream(handler: Handler) -> None:
    """Answer with a success whose body never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _for_ever(handler, b"1\r\nx\r\n")


def _for_ever(handler: Handler, piece: bytes) -> None:
    gone = handler.server.receiver.gone
    while not gone.wait(0.01):
        handler.wfile.write(piece)


def leave(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


@contextmanager
def receiving(port: int = 0, receiver: Receiver | None = None) -> Iterator[Receiver]:
    """A receiver that listens while the block runs."""
    receiver = receiver or Receiver()
    receiver.gone.clear()
    with Server(("127.0.0.1", port), Handler) as server:
        server.receiver = receiver
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.gone.set()
            server.shutdown()
            thread.join()
