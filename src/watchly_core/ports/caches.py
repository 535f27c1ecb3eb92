"""The port of what processes share for a while."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class Cache(Protocol):
    """Bytes under keys, which many processes share; whatever is there may be gone at any time.

    It answers at once or raises `Unavailable`: whoever asks can do without. What it gives may have been put
    there by anybody, so it has to be looked at before it is believed.
    """

    async def get(self, key: str) -> bytes | None:
        """What was put last under this key, to the letter, unless its time is over; None for nothing."""
        ...

    async def put(self, key: str, value: bytes, keep: timedelta) -> None:
        """Put `value` there in place of what was, and keep it for at most so long, which is more than 0."""
        ...

    async def close(self) -> None:
        """Give back what it holds; what was put stays."""
        ...
