"""The port of what counts how often somebody comes."""

from __future__ import annotations

from typing import Protocol

from watchly_core.rates import Allowance, Rate


class RateLimiter(Protocol):
    """Counts by key, in windows: the first who takes opens one, which ends when the time of the rate is over.

    Within a window exactly as many are granted as the rate says, however many take at once, in whatever
    process that shares the counts; who is refused makes no window longer. A key is counted for each rate by
    itself. Time is that of the place where the counts are, and not of whoever asks. Counts may be lost at any
    time, and then begin anew.

    It answers at once or raises `Unavailable`; it is not known then whether that was counted.
    """

    async def take(self, key: str, rate: Rate) -> Allowance:
        """Count one more, and say whether it is granted.

        What is left after it goes down to 0, and the seconds until the end of the window are at least 0, and
        at most those of the rate.
        """
        ...

    async def close(self) -> None:
        """Give back connections, where there are any; the counts stay, and it can be asked again."""
        ...
