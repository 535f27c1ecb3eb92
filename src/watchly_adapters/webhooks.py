"""Telling webhooks of changes: signed requests, to public addresses only unless others are allowed."""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, PoolManager
from urllib3.exceptions import HTTPError, ReadTimeoutError

from watchly_adapters.connections import Connection, Deadlines, Pool, SecureConnection, SecurePool
from watchly_core.clocks import utc_now
from watchly_core.errors import Fault, InvalidTarget, Overloaded, PublishRejected, Unavailable
from watchly_core.messages import MEDIA_TYPE, Message, Target
from watchly_core.ports import Clock
from watchly_core.threads import Threads
from watchly_core.traces import current_trace
from watchly_core.webhooks import sign

__all__ = ["WebhookPublisher"]

#: Seconds for a request in all, from looking up the name to the answer.
TIMEOUT: Final = 15.0

#: Requests to one target at a time. Each target has threads of its own: one that hangs holds no other's.
_AT_ONCE: Final = 8

#: How much of an answer is read, so that its connection can be used again; nobody looks at it.
_ANSWER: Final = 16_384

#: Seconds after which a target is asked again that says it is gone for good.
_GONE: Final = 3_600

#: What global addresses of IPv6 are taken from, and what leads to those of IPv4 that are their last 32 bits.
_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")

_PRIVATE: Final = "is not on the public internet; WEBHOOK_PRIVATE=on allows it"


class WebhookPublisher:
    """Satisfies `ports.Publisher` by POST requests to a URL.

    An answer from 200 to 299 is a success. Redirects are not followed: they are failures as other answers
    are, for whoever has moved should tell us.

    Args:
        target: has the URL and the secret.
        allow_private: whether addresses will do that are not on the public internet.
        clock: the present time.
        timeout: seconds for a request in all.
    """

    def __init__(
        self,
        target: Target,
        *,
        allow_private: bool = False,
        clock: Clock = utc_now,
        timeout: float = TIMEOUT,
    ) -> None:
        self._url, self._secret = target.url or "", target.secret or ""
        self._clock, self._timeout = clock, timeout
        self._agent = f"watchly/{version('watchly')}"
        self._threads = Threads(_AT_ONCE, target.name)
        self._deadlines = Deadlines()
        self._pools = PoolManager(maxsize=_AT_ONCE, cert_reqs="CERT_REQUIRED")
        self._pools.pool_classes_by_scheme = (
            {"http": Pool, "https": SecurePool}
            if allow_private
            else {"http": _PublicPool, "https": _SecurePublicPool}
        )

    async def publish(self, message: Message) -> None:
        """See the port."""
        # Here, for the threads are nobody's.
        trace = current_trace() or message.trace
        await self._threads.run(lambda: self._post(message, trace))

    async def close(self) -> None:
        """Cut what is under way."""
        self._deadlines.close()
        self._pools.clear()

    def _post(self, message: Message, trace: str | None) -> None:
        headers = {
            "Content-Type": MEDIA_TYPE,
            "User-Agent": self._agent,
            **({"traceparent": trace} if trace else {}),
            **sign(self._secret, message.id, self._clock(), message.body),
        }
        try:
            with self._deadlines.begun(self._timeout) as deadline:
                reply = self._pools.request(
                    "POST",
                    self._url,
                    body=message.body,
                    headers=headers,
                    timeout=self._timeout,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                )
                # Of headers that were cut, the library takes what there is for all of them.
                late = deadline.passed
                _finish(reply)
        except (HTTPError, OSError) as error:
            # The library may look at its clock a little earlier than whoever keeps the deadline.
            late = isinstance(error, ReadTimeoutError) or (not self._deadlines.closed and deadline.passed)
            if not late:
                # Not chained: urllib3's errors hold the connection, and that the request.
                raise Unavailable("webhook", " ".join(str(error).split())) from None
        if late:
            raise Unavailable("webhook", f"no answer within {self._timeout:g} s")
        _judge(reply.status, reply.headers)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in _TRANSLATED:
            found = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        elif found not in _GLOBAL or found.sixtofour is not None or found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast


def refuse_private(url: str) -> None:
    """Refuse a URL whose host has addresses, but none that is public.

    That tells early whoever makes a mistake. What counts is the address at the time of each connection.

    Raises:
        InvalidTarget: it has none.
    """
    try:
        host = urlsplit(url).hostname or ""
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, ValueError):  # no name that is known now, or no URL at all
        return
    if not any(map(is_public, found)):
        raise InvalidTarget([Fault("private_address", f"{host} {_PRIVATE}", pointer="#/url")])


class _PublicConnection(Connection):
    """One to public addresses only; the name is looked up once, and what is found is what is connected to."""

    def admit(self, address: str) -> None:
        """Refuse other addresses."""
        if not is_public(address):
            raise OSError(f"{address} {_PRIVATE}")


class _SecurePublicConnection(_PublicConnection, SecureConnection):
    """The same over TLS."""


class _PublicPool(Pool):
    ConnectionCls = _PublicConnection


class _SecurePublicPool(SecurePool):
    ConnectionCls = _SecurePublicConnection


def _finish(reply: BaseHTTPResponse) -> None:
    """Read a short answer to its end, so that its connection can be used again; else close that one."""
    # Behind one for the time being (1xx) comes another, which would pass for that to the next message.
    if reply.status >= HTTPStatus.OK:
        # The status is known: what comes behind it, and whether it ends, does not matter.
        with suppress(HTTPError, OSError):
            reply.read(_ANSWER)
    reply.close()


def _judge(status: int, headers: Mapping[str, str]) -> None:
    """Raise what an answer means, unless it is a success."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        raise PublishRejected("it answered 413: the message is too large for it")
    wait = _GONE if status == HTTPStatus.GONE else _retry_after(headers)
    busy = status == HTTPStatus.TOO_MANY_REQUESTS
    busy = busy or (status == HTTPStatus.SERVICE_UNAVAILABLE and "Retry-After" in headers)
    raise (Overloaded if busy else Unavailable)("webhook", f"it answered {status}", retry_after=wait)


def _retry_after(headers: Mapping[str, str]) -> int:
    """Seconds that an answer asks to wait for (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return max(1, min(int(value[:9]), _GONE))
    try:
        left = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 1
    return max(1, min(math.ceil(left), _GONE))
