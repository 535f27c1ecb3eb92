"""Requests to Cloudinary's API over HTTP.

The SDK could send them itself, but its connections are one pool for the whole process, which silently asks
up to four times, copies what it sends, keeps an answer of any size, and waits for as long as a byte comes
before each timeout. Here each store has a pool of its own, a request is sent once and from its file, and
it ends when its time is over.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import IO, Final, NamedTuple

import cloudinary
from urllib3 import PoolManager, ProxyManager, encode_multipart_formdata
from urllib3.exceptions import HTTPError

from watchly_adapters.connections import Deadlines, Pool, SecurePool
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
        self._pools.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
        self._agent = str(cloudinary.get_user_agent())
        self._deadlines = Deadlines()

    def close(self) -> None:
        """Cut the requests under way, and send no more."""
        self._deadlines.close()
        self._pools.clear()

    def ask(self, request: Request, *, wait: float, whole: float) -> Answer:
        """The answer to a request, which takes at most `whole` seconds, and `wait` of them without a byte.

        Raises:
            Unavailable: there is none; whether the request was received is not known.
        """
        form, headers = _form(request) if request.fields else (None, {})
        try:
            with self._deadlines.begun(whole) as deadline:
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
            if self._deadlines.closed:
                words = "its store is closed"
            else:
                words = f"no answer within {whole:.3g} s" if deadline.passed else str(error)
            # Not chained: urllib3's errors hold the connection, and that the request.
            raise Unavailable("image_store", f"Cloudinary was not reached: {words}") from None
        if deadline.passed or len(body) > _LONGEST_ANSWER:
            raise Unavailable("image_store", "Cloudinary's answer does not end")
        return Answer(reply.status, reply.headers, body)


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
