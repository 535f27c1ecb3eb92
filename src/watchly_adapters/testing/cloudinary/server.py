"""The HTTP side of the emulator: connections, bodies, and the faults that are made on the wire."""

from __future__ import annotations

import io
import select
import shutil
import socket
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import unquote, urlsplit

from watchly_adapters.testing.cloudinary.account import action_of
from watchly_adapters.testing.cloudinary.faults import Fault, Faults, instead, lie
from watchly_adapters.testing.cloudinary.messages import BLOCK, IN_MEMORY, Answer, Reply, Request, refusal

#: What the real one takes in one request.
_LARGEST_REQUEST: Final = 100_000_000
#: Seconds for a client whose request is too large to see the answer and to stop sending.
_LINGER: Final = 5.0
#: Bytes of a line between chunks, at most.
_LONGEST_LINE: Final = 1_000


class Service(Protocol):
    """What a server serves."""

    answer: Answer
    faults: Faults

    def asked(self, request: str) -> None:
        """Take note of a request, such as "POST /v1_1/…"."""
        ...


class Server(ThreadingHTTPServer):
    """Serves from its own threads from the moment it is made until it is closed.

    Args:
        service: what it serves.
        port: where it listens on the loopback interface; 0 for any free port.
        directory: where bodies wait that are too large for the memory.
    """

    # Joined at the end, once their connections are shut.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, service: Service, port: int, directory: Path) -> None:
        self.service: Service = service
        self.directory: Path = directory
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; who still waits for an answer sees the connection close."""
        self.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, object]:
        """A new connection, remembered from the start, so that `close` misses none."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """The end of a connection."""
        if isinstance(request, socket.socket):
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's
        """Clients may leave at any time; anything else is a fault of this package."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()


def _size(line: bytes) -> int | None:
    """How many bytes the chunk has that this line begins; None if it begins none."""
    text = line.partition(b";")[0].strip()
    return int(text, 16) if text and not text.strip(b"0123456789abcdefABCDEF") else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together, or the body would wait for the client to acknowledge the head.
    wbufsize = 65536
    server_version = "cloudinary"
    server: Server

    def _answer(self) -> None:
        service = self.server.service
        path = unquote(urlsplit(self.path).path)
        service.asked(f"{self.command} {path}")
        fault = service.faults.take(action_of(self.command, path))
        if fault in {Fault.REFUSED, Fault.DOWN}:
            self.close_connection = True
            return
        with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self.server.directory)) as content:
            if not self._receive(content):
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, path, headers, content)
            if fault is None:
                self._send(service.answer(request))
            elif fault is Fault.TIMEOUT:
                self._wait()
            else:
                self._spoil(fault, instead(fault) or service.answer(request))

    do_GET = do_HEAD = do_POST = do_OPTIONS = do_PUT = do_DELETE = _answer  # noqa: N815 - the base's names

    def _receive(self, content: IO[bytes]) -> bool:
        """Read the body; whether all of it came, and the request can be answered."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._receive_chunks(content)
        text = self.headers.get("Content-Length", "0")
        left = int(text) if text.isascii() and text.isdigit() else -1
        if left < 0 or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._send(refusal(411, "A Content-Length is needed"))
            return False
        if left > _LARGEST_REQUEST:
            self._turn_away()
            return False
        while left and (block := self.rfile.read(min(left, BLOCK))):
            content.write(block)
            left -= len(block)
        if left:
            self.close_connection = True
        return not left

    def _receive_chunks(self, content: IO[bytes]) -> bool:
        """Read a body that comes in chunks, as Cloudinary's library for Node sends it."""
        received = 0
        while size := _size(self.rfile.readline(_LONGEST_LINE)):
            received += size
            if received > _LARGEST_REQUEST:
                self._turn_away()
                return False
            content.write(self.rfile.read(size))
            self.rfile.readline(_LONGEST_LINE)
        if size is None or self.rfile.readline(_LONGEST_LINE).strip():
            self.close_connection = True
            self._send(refusal(400, "The body is not in chunks"))
            return False
        return True

    def _turn_away(self) -> None:
        """Answer before the body is sent, and let the client see it: closing at once would hide it."""
        self.close_connection = True
        self._send(Reply(413, b"<html><h1>413 Request Entity Too Large</h1></html>", "text/html"))
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER)
        with suppress(TimeoutError):
            while self.connection.recv(BLOCK):
                pass

    def _spoil(self, fault: Fault, reply: Reply) -> None:
        match fault:
            case Fault.LOST:
                self.close_connection = True
                reply.opened().close()
            case Fault.TRUNCATED:
                self.close_connection = True
                self._send(reply, half=True)
            case Fault.TRICKLE:
                self._trickle(reply)
            case Fault.LYING:
                self._send(lie(reply))
            case _:
                self._send(reply)

    def _wait(self) -> None:
        """Wait until the client leaves, or this server is closed."""
        self.close_connection = True
        while self.connection.recv(BLOCK):
            pass

    def _trickle(self, reply: Reply) -> None:
        """Answer a byte at a time, until the client leaves or this server is closed."""
        self.close_connection = True
        wire, whole = self.wfile, io.BytesIO()
        self.wfile = whole
        self._send(reply)
        self.wfile = wire
        for byte in whole.getvalue():
            if select.select([self.connection], [], [], self.server.service.faults.pause)[0]:
                return
            self.connection.sendall(bytes([byte]))

    def _send(self, reply: Reply, *, half: bool = False) -> None:
        with reply.opened() as content:
            size = content.seek(0, io.SEEK_END)
            content.seek(0)
            self.send_response(reply.status)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Access-Control-Expose-Headers", "X-Cld-Error")
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.media_type:
                self.send_header("Content-Type", reply.media_type)
                self.send_header("Content-Length", str(size))
            self.end_headers()
            if half:
                self.wfile.write(content.read(size // 2))
            elif self.command != "HEAD":
                shutil.copyfileobj(content, self.wfile, BLOCK)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing: tests are loud enough."""
