"""A cache in Valkey."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from valkey.exceptions import InvalidResponse, ResponseError

from watchly_adapters.valkey.connection import PAUSE, TIMEOUT, Server, milliseconds

#: What the server says where a key holds something else than bytes.
_ANOTHER_TYPE: Final = "WRONGTYPE"


class ValkeyCache:
    """Satisfies `ports.Cache` and `ports.Interruptible`; it connects when it is first used.

    Args:
        url: a valkey:// URL, or a valkeys:// one for TLS; redis:// and rediss:// are the same.
        timeout: seconds for an answer.
        pause: seconds for which a server that has failed is left alone.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        self._server = Server(url, "cache", timeout=timeout, pause=pause)

    @property
    def interrupted(self) -> bool:
        """See the port."""
        return self._server.interrupted

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        async with self._server.asked() as client:
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
        async with self._server.asked() as client:
            await client.set(key, value, px=milliseconds(keep))

    async def close(self) -> None:
        """Close the connections; whoever asks again opens others."""
        await self._server.close()
