"""Requests that may break off on their way, as those of clients do that lose their connection."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Final, NamedTuple
from urllib.parse import urlsplit

#: Seconds for a reply; longer than all that a service waits for itself.
PATIENCE: Final = 150.0

#: Seconds in which a service has to listen again.
_NOBODY: Final = 20.0

_BOUNDARY: Final = "between-the-parts"


class Reply(NamedTuple):
    """What was answered; `headers` have names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


class Broken(Exception):
    """There was no reply, or half of one.

    Attributes:
        sent: whether all of the request was, so that it may have been done as asked.
    """

    def __init__(self, *, sent: bool) -> None:
        self.sent = sent
        super().__init__()


def send(  # noqa: PLR0913 - a request's parts, each with its name
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    leave_at: float | None = None,
    rudely: bool = False,
) -> Reply:
    """The reply to a request on a connection of its own.

    Args:
        method: of the request.
        url: where it goes.
        body: what it says.
        headers: those beside Host and Content-Length.
        leave_at: the part of the body after which the client is gone; 1 is before the reply.
        rudely: whether it resets its connection then.

    Raises:
        Broken: there was none.
    """
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)) as connection:
        sent = False
        try:
            _connect(connection)
            connection.putrequest(method, parts._replace(scheme="", netloc="").geturl())
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            # A request without a body is all there once its head is.
            sent = not body
            connection.send(body if leave_at is None else body[: int(len(body) * leave_at)])
            sent = leave_at is None or leave_at == 1 or sent
            if leave_at is None:
                return _read(connection.getresponse())
            if rudely and connection.sock is not None:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, http.client.HTTPException):
            raise Broken(sent=sent) from None
        raise Broken(sent=sent)


class Line:
    """A connection that stays, as those of most clients do; a new one is made after one that broke.

    Attributes:
        port: the client's end of it, while there is one.
    """

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        self.port = 0

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The reply to a request, whose `body` goes as JSON.

        Raises:
            Broken: there was none.
        """
        sent = False
        try:
            if self._connection.sock is None:
                _connect(self._connection)
            self.port = int(self._connection.sock.getsockname()[1])
            sent = True
            said = None if body is None else json.dumps(body).encode()
            kind = {} if body is None else {"Content-Type": "application/json"}
            self._connection.request(method, path, said, {**kind, **(headers or {})})
            return _read(self._connection.getresponse())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise Broken(sent=sent) from None

    def close(self) -> None:
        """End it; who asks again gets a new one."""
        self._connection.close()


def form(fields: Mapping[str, str], name: str, file: bytes, media_type: str) -> tuple[bytes, dict[str, str]]:
    """A form with a file as its last part: its body, and its Content-Type among headers."""
    parts = [f'form-data; name="{field}"\r\n\r\n{value}'.encode() for field, value in fields.items()] + [
        f'form-data; name="{name}"; filename="a"\r\nContent-Type: {media_type}\r\n\r\n'.encode() + file
    ]
    body = b"".join(f"--{_BOUNDARY}\r\nContent-Disposition: ".encode() + part + b"\r\n" for part in parts)
    return body + f"--{_BOUNDARY}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"
    }


def _connect(connection: http.client.HTTPConnection) -> None:
    """Connect, also while all workers are being replaced: whoever finds nobody asks again."""
    deadline = time.monotonic() + _NOBODY
    while True:
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # between attempts, not in place of one
        else:
            return


def _read(response: http.client.HTTPResponse) -> Reply:
    body = response.read()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
