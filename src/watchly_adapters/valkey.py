"""A cache in Valkey, or in Redis: whatever does not answer at once is done without."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

from valkey.asyncio import BlockingConnectionPool, SSLConnection, Valkey
from valkey.exceptions import InvalidResponse, ResponseError, ValkeyError

from watchly_adapters.breakers import Breaker
from watchly_core.errors import Misconfigured, Unavailable

#: Seconds for an answer, a connection included: a database does not take longer.
TIMEOUT: Final = 0.02
#: Failures in a row after which it is left alone, and for how many seconds.
_FAILURES: Final = 3
_PAUSE: Final = 5.0
#: Connections at most; who finds none free waits, and not for long.
_CONNECTIONS: Final = 8

#: What the server says where a key holds something else than bytes.
_ANOTHER_TYPE: Final = "WRONGTYPE"
_OVER_TLS: Final = ("valkeys://", "rediss://")
_MILLISECOND: Final = timedelta(milliseconds=1)


class ValkeyCache:
    """Satisfies `ports.Cache` and `ports.Interruptible`; it connects when it is first used.

    Args:
        url: a valkey:// URL, or a valkeys:// one for TLS; redis:// and rediss:// are the same.
        timeout: seconds for an answer.
        pause: seconds for which a server that has failed is left alone.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = _PAUSE) -> None:
        self._url, self._timeout = url, timeout
        self._breaker = Breaker("cache", failures=_FAILURES, pause=pause)
        # Made once: to read all certificates of authorities takes longer than an answer may.
        self._tls = ssl.create_default_context() if url.startswith(_OVER_TLS) else None
        self._client = self._connected()

    @property
    def interrupted(self) -> bool:
        """See the port."""
        return self._breaker.interrupted

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        async with self._asked() as client:
            try:
                value: bytes | None = await client.get(key)
            except ResponseError as error:
                if not str(error).startswith(_ANOTHER_TYPE):
                    raise
                return None  # a list or the like, which is none of ours
            if value is not None and not isinstance(value, bytes):
                raise InvalidResponse("the answer is none")
            return value

    async def put(self, key: str, value: bytes, keep: timedelta) -> None:
        """See the port."""
        async with self._asked() as client:
            await client.set(key, value, px=max(1, keep // _MILLISECOND))

    async def close(self) -> None:
        """Close the connections; whoever asks again opens others."""
        client, self._client = self._client, self._connected()
        await _close(client)

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[Valkey]:
        with self._breaker:
            client = self._client
            try:
                async with asyncio.timeout(self._timeout):
                    yield client
            except TimeoutError as error:
                await self._renew(client)
                raise Unavailable("cache", f"no answer within {self._timeout:g} s") from error
            except ResponseError as error:
                raise Unavailable("cache", str(error)) from error
            except Exception as error:
                # Of what is no answer at all the client makes errors of many kinds.
                await self._renew(client)
                raise Unavailable("cache", str(error) or type(error).__name__) from error

    async def _renew(self, client: Valkey) -> None:
        """Do without connections of which one has failed: the others will not do better."""
        if client is self._client:
            await self.close()

    def _connected(self) -> Valkey:
        try:
            pool = BlockingConnectionPool.from_url(
                self._url,
                max_connections=_CONNECTIONS,
                timeout=None,  # there is one around it
                lib_name=None,  # a question less for each connection
                lib_version=None,
            )
        except ValueError as error:
            raise Misconfigured(f"VALKEY_URL: {error}") from None
        if self._tls is not None:
            pool.connection_class = _over_tls(self._tls)
        return Valkey.from_pool(pool)


def _over_tls(context: ssl.SSLContext) -> type[SSLConnection]:
    """Connections to a server that has a certificate for its name; `context` checks it."""

    class Secure(SSLConnection):
        async def connect(self) -> None:
            self.ssl_context.context = context
            await super().connect()  # type: ignore[no-untyped-call]  # the library leaves it untyped

    return Secure


async def _close(client: Valkey) -> None:
    # A server that hangs answers no farewell; the socket is closed all the same.
    with suppress(ValkeyError, OSError, TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            await client.aclose()
