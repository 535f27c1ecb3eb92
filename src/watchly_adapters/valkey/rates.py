"""Counts of requests in Valkey, which all processes share."""

from __future__ import annotations

from typing import Final

from valkey.exceptions import InvalidResponse

from watchly_adapters.valkey.connection import PAUSE, TIMEOUT, Server, milliseconds
from watchly_core.rates import Allowance, Rate

#: Counts one more, and tells how many milliseconds are left of the window; all of it at once, by the clock
#: of the server alone. What is no number of ours begins anew, and so does a window that is longer than any,
#: as one is whose end a clock that was set back has moved away.
_COUNT: Final = """
local made = redis.pcall('INCR', KEYS[1])
if type(made) == 'table' then redis.call('SET', KEYS[1], 1) made = 1 end
local left = redis.call('PTTL', KEYS[1])
local window = tonumber(ARGV[1])
if left < 0 or left > window then redis.call('PEXPIRE', KEYS[1], window) left = window end
return {made, left}
"""


class ValkeyRateLimiter:
    """Satisfies `ports.RateLimiter` and `ports.Interruptible`; it connects when it is first used.

    It has connections of its own: values of a cache, which may be large, would hold up its numbers.

    Args:
        url: a valkey:// URL, or a valkeys:// one for TLS; redis:// and rediss:// are the same.
        timeout: seconds for an answer.
        pause: seconds for which a server that has failed is left alone.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        self._server = Server(url, "rate_limit", timeout=timeout, pause=pause)

    @property
    def interrupted(self) -> bool:
        """See the port."""
        return self._server.interrupted

    async def take(self, key: str, rate: Rate) -> Allowance:
        """See the port."""
        window = milliseconds(rate.window)
        async with self._server.asked() as client:
            # Whole, and not by its digest: a server that has started again would have to be asked twice.
            answer: object = await client.execute_command(  # type: ignore[no-untyped-call]  # as the library is
                "EVAL", _COUNT, 1, f"watchly:rate:{rate.most}/{window}:{key}", window
            )
            match answer:
                case [int(made), int(left)]:
                    return rate.allowance(made, left / 1_000)
                case _:
                    raise InvalidResponse("the answer is none")

    async def close(self) -> None:
        """Close the connections; whoever asks again opens others."""
        await self._server.close()
