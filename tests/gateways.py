"""The gateway of deploy/ by Debian's HAProxy, and a nameserver that tells it where its servers are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Final, Self

import msgspec
import pytest
from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSServer

from tests.daemons import Daemon

DEPLOY: Final = Path(__file__).parent.parent / "deploy"
HAPROXY: Final = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="no HAProxy here: apt-get install haproxy")


class Names(BaseResolver):  # type: ignore[misc] # the library has no types
    """A nameserver on this machine, which can be told other addresses while it runs."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        self.addresses = dict(addresses)
        self._server = DNSServer(self, address="127.0.0.1", port=0, logger=_Silent())
        self.address = f"127.0.0.1:{self._server.server.server_address[1]}"

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:  # noqa: ARG002 - the library's
        """Answer: with nothing at all where another kind of address is asked for."""
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for address in self.addresses.get(str(request.q.qname).rstrip("."), ()):
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
        return reply

    def __enter__(self) -> Self:
        self._server.start_thread()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        self._server.server.server_close()


class _Silent:
    """A log of a nameserver that nobody reads."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


class Gateway(Daemon):
    """HAProxy with the configuration that is shipped.

    Attributes:
        url: where it listens.
        master: the socket by which it is told to load itself anew.
        variables: its settings.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        super().__init__(folder)
        self._port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port}"
        self.master = folder / "master"
        self.variables = {"GATEWAY_BIND": f"127.0.0.1:{self._port}", **variables}

    def command(self) -> Sequence[str | Path]:
        """See `Daemon`."""
        assert HAPROXY is not None
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        configuration = DEPLOY / "haproxy" / "haproxy.cfg"
        return ["env", *variables, HAPROXY, "-W", "-db", "-S", self.master, "-f", configuration]

    def answers(self, pid: int) -> bool:  # noqa: ARG002 - its port is known
        """See `Daemon`."""
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """See `Daemon`; killed, it would leave its worker behind."""
        super().stop(number)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self._folder / "log").read_text()

    def ask(self, command: str) -> str:
        """What its master answers to a command."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(self.master))
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile().read()

    def up(self, backend: str = "watchly") -> set[str]:
        """The addresses of the servers that get requests; none while it loads itself."""
        try:
            told = self.ask(f"@1 show servers state {backend}")
        except OSError:
            return set()
        rows = (line.split() for line in told.splitlines())
        # be_id be_name srv_id srv_name srv_addr srv_op_state …
        return {row[4] for row in rows if len(row) > 5 and row[1] == backend and row[5] == "2"}


class Echo(ThreadingHTTPServer):
    """A service that tells who it is, and what it was sent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int) -> None:
        super().__init__((address, port), _Echoing)
        self.keys: Sequence[Mapping[str, str]] = ()
        self._thread = Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        """Stop it."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Those who leave early are no fault."""


class Echoed(msgspec.Struct):
    """What a service was sent; headers have names in lower case."""

    service: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    bytes: int

    def lines(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for each, value in self.headers if each == name]


class _Echoing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Echo

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        service = str(self.server.server_address[0])
        content = msgspec.json.encode(Echoed(service, self.command, self.path, headers, len(body)))
        if self.path == "/.well-known/jwks.json":
            content = msgspec.json.encode({"keys": self.server.keys})
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


def free_port(*addresses: str) -> int:
    """A port that is free on each of these addresses of this machine."""
    while True:
        with ExitStack() as stack:
            port = 0
            try:
                for address in addresses:
                    taken = stack.enter_context(socket.create_server((address, port)))
                    port = int(taken.getsockname()[1])
            except OSError:
                continue
            return port
