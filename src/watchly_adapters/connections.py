"""Connections of urllib3 whose requests end when their time is over, and which look whom they connect to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError


class Deadline:
    """Cuts the connection of a request at a moment, however much is being sent or received.

    The timeouts of sockets begin anew with each byte, so that a server that answers slowly enough would
    hold a thread for ever.
    """

    def __init__(self, seconds: float) -> None:
        #: Whether the moment has come.
        self.passed: bool = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self.holds_for(None)
        _CURRENT.reset(self._token)

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


class Deadlines:
    """The deadlines of requests that are under way, in any number of threads.

    Attributes:
        closed: whether there are to be no more requests.
    """

    def __init__(self) -> None:
        self.closed: bool = False
        self._lock = threading.Lock()
        self._under_way: set[Deadline] = set()

    @contextmanager
    def begun(self, seconds: float) -> Iterator[Deadline]:
        """A deadline of so many seconds for the request that this thread sends in the block.

        Raises:
            ConnectionAbortedError: there are to be no more requests.
        """
        with Deadline(seconds) as deadline:
            with self._lock:
                if self.closed:
                    raise ConnectionAbortedError("closed")
                self._under_way.add(deadline)
            try:
                yield deadline
            finally:
                with self._lock:
                    self._under_way.discard(deadline)

    def close(self) -> None:
        """Cut the requests under way, and have no more."""
        with self._lock:
            self.closed = True
            under_way = tuple(self._under_way)
        for deadline in under_way:
            deadline.cut()


#: The deadline of the request that this thread is sending; urllib3 has no way to pass one along.
_CURRENT: Final[ContextVar[Deadline]] = ContextVar("deadline")


class Connection(HTTPConnection):
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
                self.admit(str(address[0]))
                for option in self.socket_options or ():
                    connected.setsockopt(*option)
                connected.settimeout(self.timeout)
                _CURRENT.get().holds_for(connected)
                connected.connect(address)
            except OSError as error:
                connected.close()
                failure = str(error)
            else:
                return connected
        raise NewConnectionError(self, failure)

    def admit(self, address: str) -> None:
        """Refuse, by an OSError, to connect to an IP address; this one refuses none."""

    def putrequest(
        self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False
    ) -> None:
        """Begin a request; the connection may be one that carried others before."""
        if self.sock is not None:
            _CURRENT.get().holds_for(self.sock)
        super().putrequest(method, url, skip_host, skip_accept_encoding)


class SecureConnection(Connection, HTTPSConnection):
    """The same over TLS."""


class Pool(HTTPConnectionPool):
    """A pool of them."""

    ConnectionCls = Connection


class SecurePool(HTTPSConnectionPool):
    """A pool of them."""

    ConnectionCls = SecureConnection
