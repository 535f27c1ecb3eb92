"""Requests to Cloudinary's API over HTTP.

The SDK could send them itself, but its connections are one pool for the whole process, which silently asks
up to four times, copies what it sends, keeps an answer of any size, and waits for as long as a byte comes
before each timeout. Here each store has a pool of its own, a request is sent once and from its file, and
it ends when its time is over.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Final, NamedTuple, Self

import cloudinary
from urllib3 import (
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    encode_multipart_formdata,
)
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from watchly_core.errors import Unavailable

#: An answer is a page of JSON; what is longer is none.
_LONGEST_ANSWER: Final = 1_000_000

#: How much of a file is read and sent at once.
_PIECE: Final = 256 * 1024


class File(NamedTuple):
    """A part of a file: `size` bytes of `source` from `start` on, sent under `name`."""

    name: str
    source: IO[bytes]
    start: int
    size: int


class Request(NamedTuple):
    """What to ask; with `fields` it is a POST of a form, in which `file` comes last."""

    url: str
    headers: Mapping[str, str]
    fields: Mapping[str, str] = {}
    file: File | None = None


class Answer(NamedTuple):
    """What came back, whatever its status; names of headers may be written in either case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """Sends requests, in any number of threads.

    Args:
        connections: how many are kept open between requests.

    The one thing taken from the SDK's global configuration is the proxy, ``CLOUDINARY_API_PROXY``.
    """

    def __init__(self, connections: int) -> None:
        proxy: str | None = cloudinary.config().api_proxy
        certificates: str = cloudinary.CERT_KWARGS["ca_certs"]
        self._pools = (
            ProxyManager(proxy, maxsize=connections, cert_reqs="CERT_REQUIRED", ca_certs=certificates)
            if proxy
            else PoolManager(maxsize=connections, cert_reqs="CERT_REQUIRED", ca_certs=certificates)
        )
        self._pools.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        self._agent = str(cloudinary.get_user_agent())
        self._lock = threading.Lock()
        self._under_way: set[_Deadline] = set()
        self._closed = False

    def close(self) -> None:
        """Cut the requests under way, and send no more."""
        with self._lock:
            self._closed = True
            under_way = tuple(self._under_way)
        for deadline in under_way:
            deadline.cut()
        self._pools.clear()

    def ask(self, request: Request, *, wait: float, whole: float) -> Answer:
        """The answer to a request, which takes at most `whole` seconds, and `wait` of them without a byte.

        Raises:
            Unavailable: there is none; whether the request was received is not known.
        """
        form, headers = _form(request) if request.fields else (None, {})
        try:
            with _Deadline(whole) as deadline, self._noted(deadline):
                reply = self._pools.request(
                    "GET" if form is None else "POST",
                    request.url,
                    body=form,
                    headers={"User-Agent": self._agent, **headers, **request.headers},
                    timeout=wait,
                    retries=False,
                    preload_content=False,
                )
                try:
                    body = reply.read(_LONGEST_ANSWER + 1)
                finally:
                    # Only what was not read to its end is still connected.
                    reply.close()
        except (HTTPError, OSError) as error:
            if self._closed:
                words = "its store is closed"
            else:
                words = f"no answer within {whole:.3g} s" if deadline.passed else str(error)
            # Not chained: urllib3's errors hold the connection, and that the request.
            raise Unavailable("image_store", f"Cloudinary was not reached: {words}") from None
        if deadline.passed or len(body) > _LONGEST_ANSWER:
            raise Unavailable("image_store", "Cloudinary's answer does not end")
        return Answer(reply.status, reply.headers, body)

    @contextmanager
    def _noted(self, deadline: _Deadline) -> Iterator[None]:
        """Let `close` cut a request while it is under way."""
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError
            self._under_way.add(deadline)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.discard(deadline)


def _form(request: Request) -> tuple[Iterator[bytes], dict[str, str]]:
    """The form of a request, piece by piece, and the headers that say what it is."""
    boundary = secrets.token_hex(16)
    fields: dict[str, str | tuple[str, bytes]] = {**request.fields}
    end, size = b"", 0
    if request.file is not None:
        # Made with an empty file, the form is what comes before its content and what comes behind.
        fields["file"] = (request.file.name, b"")
        end, size = f"\r\n--{boundary}--\r\n".encode(), request.file.size
    form, media_type = encode_multipart_formdata(fields, boundary)
    headers = {"Content-Type": media_type, "Content-Length": str(len(form) + size)}
    return _pieces(form.removesuffix(end), request.file, end), headers


def _pieces(head: bytes, file: File | None, end: bytes) -> Iterator[bytes]:
    yield head
    if file is None:
        return
    file.source.seek(file.start)
    left = file.size
    while left:
        piece = file.source.read(min(left, _PIECE))
        if not piece:
            raise OSError("the file is shorter than it was")
        yield piece
        left -= len(piece)
    yield end


class _Deadline:
    """Cuts the connection of a request at a moment, however much is being sent or received.

    The timeouts of sockets begin anew with each byte, so that a server that answers slowly enough would
    hold a thread for ever.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._token = _DEADLINE.set(self)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self.holds_for(None)
        _DEADLINE.reset(self._token)

    def holds_for(self, connected: socket.socket | None) -> None:
        """Watch over this socket from now on, be it connecting still; over none if it is None.

        Raises:
            TimeoutError: the moment has passed.
        """
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if connected is None:
                return
            if self.passed:
                raise TimeoutError("the time of the request is over")
            # A handle of its own: TLS takes the first one over, and is not to be disturbed by another thread.
            self._socket = socket.socket(fileno=socket.dup(connected.fileno()))

    def cut(self) -> None:
        """End the request now."""
        with self._lock:
            self.passed = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


#: The deadline of the request that this thread is sending; urllib3 has no way to pass one along.
_DEADLINE: Final[ContextVar[_Deadline]] = ContextVar("deadline")


class _Connection(HTTPConnection):
    """One that tells the deadline of each request that it carries."""

    def _new_conn(self) -> socket.socket:
        """Connect as the base class does, but let the deadline know a socket before it is connected."""
        try:
            found = socket.getaddrinfo(self.host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, str(error)) from None
        failure = "the host has no address"
        for family, kind, protocol, _, address in found:
            connected = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    connected.setsockopt(*option)
                connected.settimeout(self.timeout)
                _DEADLINE.get().holds_for(connected)
                connected.connect(address)
            except OSError as error:
                connected.close()
                failure = str(error)
            else:
                return connected
        raise NewConnectionError(self, failure)

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        if self.sock is not None:
            _DEADLINE.get().holds_for(self.sock)
        super().putrequest(method, url, skip_host, skip_accept_encoding)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection
