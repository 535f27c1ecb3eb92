"""A Valkey, or a Redis: whatever does not answer at once is done without."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

from valkey.asyncio import BlockingConnectionPool, SSLConnection, Valkey
from valkey.exceptions import ResponseError, ValkeyError

from watchly_adapters.breakers import Breaker
from watchly_core.errors import Misconfigured, Unavailable

#: Seconds for an answer, a connection included: a database does not take longer.
TIMEOUT: Final = 0.02
#: Failures in a row after which it is left alone, and for how many seconds.
_FAILURES: Final = 3
PAUSE: Final = 5.0
#: Connections at most; who finds none free waits, and not for long.
_CONNECTIONS: Final = 8

_OVER_TLS: Final = ("valkeys://", "rediss://")
_MILLISECOND: Final = timedelta(milliseconds=1)


class Server:
    """A server, and the connections to it.

    Args:
        url: a valkey:// URL, or a valkeys:// one for TLS; redis:// and rediss:// are the same.
        dependency: what it is asked for, as `Unavailable` names it.
        timeout: seconds for an answer.
        pause: seconds for which it is left alone after it has failed.
    """

    def __init__(self, url: str, dependency: str, *, timeout: float, pause: float) -> None:
        self._url, self._dependency, self._timeout = url, dependency, timeout
        self._breaker = Breaker(dependency, failures=_FAILURES, pause=pause)
        # Made once: to read all certificates of authorities takes longer than an answer may.
        self._tls = ssl.create_default_context() if url.startswith(_OVER_TLS) else None
        self._client = self._connected()

    @property
    def interrupted(self) -> bool:
        """Whether it is left alone at present."""
        return self._breaker.interrupted

    async def close(self) -> None:
        """Close the connections; whoever asks again opens others."""
        client, self._client = self._client, self._connected()
        await _close(client)

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Valkey]:
        """A client of it; what is asked in the block is asked within the time that it has for an answer.

        Raises:
            Unavailable: it did not answer, or not as it should, or is left alone.
        """
        with self._breaker:
            client = self._client
            try:
                async with asyncio.timeout(self._timeout):
                    yield client
            except TimeoutError as error:
                await self._renew(client)
                raise Unavailable(self._dependency, f"no answer within {self._timeout:g} s") from error
            except ResponseError as error:
                raise Unavailable(self._dependency, str(error)) from error
            except Exception as error:
                # Of what is no answer at all the client makes errors of many kinds.
                await self._renew(client)
                raise Unavailable(self._dependency, str(error) or type(error).__name__) from error

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


def milliseconds(time: timedelta) -> int:
    """A time as the server counts it, which is more than 0."""
    return max(1, time // _MILLISECOND)


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
