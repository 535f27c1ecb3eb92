"""Reading access tokens by the public keys that another service publishes (RFC 7517)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from time import monotonic
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError, ReadTimeoutError

from watchly_adapters.connections import Deadlines, Pool, SecurePool
from watchly_adapters.security.tokens import ALGORITHM, claims_of, kid_of
from watchly_core.clocks import utc_now
from watchly_core.errors import NotSignedIn, Unavailable
from watchly_core.ports import Clock, Ticks
from watchly_core.threads import Threads
from watchly_core.tokens import Claims

#: Seconds for a request for the keys in all; whoever bears a token waits that long at most.
TIMEOUT: Final = 3.0
#: Seconds between requests that are made because a token names a key which is not known.
_PAUSE: Final = 1.0
#: Bytes of an answer, at most: a key has some 250 of them.
_MOST_BYTES: Final = 65_536


class _KeySet(msgspec.Struct):
    keys: list[dict[str, object]]


_KEY_SETS: Final = msgspec.json.Decoder(_KeySet)


class PublishedKeys:
    """Satisfies `ports.TokenReader` by keys that are fetched from a URL and kept (RFC 7517).

    They are fetched when a token names one that is not known, and when `fetch` is called, which whoever runs
    this does now and then: keys that are not published any more count until then. While nobody answers there,
    those that are known go on counting.

    Args:
        url: where the keys are published: an http or https URL.
        timeout: seconds for a request for them in all.
        clock: the present time.
        ticks: how much of it has passed.
    """

    def __init__(
        self, url: str, *, timeout: float = TIMEOUT, clock: Clock = utc_now, ticks: Ticks = monotonic
    ) -> None:
        self._url, self._timeout = url, timeout
        # What comes after that may be a secret between this service and that one.
        self._shown = url.partition("?")[0]
        self._clock, self._ticks = clock, ticks
        self._headers = {"User-Agent": f"watchly/{version('watchly')}", "Cache-Control": "no-cache"}
        self._threads = Threads(1, "watchly-keys")
        self._deadlines = Deadlines()
        self._pools = PoolManager(cert_reqs="CERT_REQUIRED")
        self._pools.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
        self._keys: Mapping[str, EllipticCurvePublicKey] = {}
        self._began = float("-inf")
        self._fault: str | None = "they were not asked for yet"
        self._fetching: asyncio.Task[None] | None = None

    async def read(self, token: str) -> Claims:
        """See the port.

        Raises:
            NotSignedIn: see the port.
            Unavailable: the key of the token is not known, and nobody answers who may know it.
        """
        kid = kid_of(token)
        if kid not in self._keys:
            await self._look(_PAUSE)
        key = self._keys.get(kid)
        if key is None:
            self.check()
            raise NotSignedIn("the token is signed by a key that is not known here, or not any more")
        return claims_of(token, key, self._clock())

    async def fetch(self) -> None:
        """Ask for the keys.

        Raises:
            Unavailable: nobody answers, or not as they should.
        """
        await self._look(0)
        self.check()

    def check(self) -> None:
        """See whether the keys came when they were last asked for.

        Raises:
            Unavailable: they did not.
        """
        if self._fault is not None:
            raise Unavailable("keys", self._fault)

    @property
    def known(self) -> int:
        """How many keys are known."""
        return len(self._keys)

    def close(self) -> None:
        """Cut what is under way, and ask no more."""
        self._deadlines.close()
        self._pools.clear()

    async def _look(self, pause: float) -> None:
        """Ask for the keys, unless that was begun less than `pause` seconds ago."""
        # Those who want them at once have one request, and so have those who come while one goes on for ever.
        if self._fetching is None and self._ticks() - self._began >= pause:
            self._began = self._ticks()
            self._fetching = asyncio.create_task(self._fetch())
        if self._fetching is not None:
            # From outside: looking up a name does not end when its time is over.
            done, _ = await asyncio.wait({self._fetching}, timeout=self._timeout + 0.5)
            for fetched in done:
                fetched.result()
            if not done:
                self._fault = self._late()

    async def _fetch(self) -> None:
        try:
            self._keys = await self._threads.run(self._get)
        except Unavailable as error:
            self._fault = str(error).removeprefix("keys: ")
        else:
            self._fault = None
        finally:
            self._fetching = None

    def _get(self) -> Mapping[str, EllipticCurvePublicKey]:
        try:
            with self._deadlines.begun(self._timeout) as deadline:
                reply = self._pools.request(
                    "GET",
                    self._url,
                    headers=self._headers,
                    timeout=self._timeout,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                )
                try:
                    content = reply.read(_MOST_BYTES + 1)
                finally:
                    reply.close()
                # Of headers that were cut, the library takes what there is for all of them.
                late = deadline.passed
        except (HTTPError, OSError) as error:
            # Not chained: urllib3's errors hold the connection, and that the request.
            late = isinstance(error, ReadTimeoutError) or (not self._deadlines.closed and deadline.passed)
            if not late:
                raise Unavailable("keys", " ".join(str(error).split())) from None
        if late:
            raise Unavailable("keys", self._late())
        if reply.status != HTTPStatus.OK:
            raise Unavailable("keys", f"{self._shown} answered {reply.status}")
        return self._keys_in(content)

    def _keys_in(self, content: bytes) -> Mapping[str, EllipticCurvePublicKey]:
        """The keys of an answer that sign as tokens are signed; others are passed over."""
        try:
            listed = _KEY_SETS.decode(content).keys
        except (ValueError, RecursionError):
            listed = []
        found = {}
        for each in listed:
            kid, key = each.get("kid"), _public(each)
            if isinstance(kid, str) and key is not None:
                found[kid] = key
        if not found:
            raise Unavailable("keys", f"{self._shown} does not answer with keys for {ALGORITHM}")
        return found

    def _late(self) -> str:
        return f"{self._shown} does not answer within {self._timeout:g} s"


def _public(members: dict[str, object]) -> EllipticCurvePublicKey | None:
    if (members.get("kty"), members.get("crv"), members.get("use", "sig")) != ("EC", "P-256", "sig"):
        return None
    try:
        key = PyJWK(members, ALGORITHM).key
    except (PyJWTError, ValueError, TypeError):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None
