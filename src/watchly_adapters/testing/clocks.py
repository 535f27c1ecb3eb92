"""A clock that a test moves by hand, for the use cases and the fakes alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["BEGINNING", "HandClock"]

#: What a clock shows until it is moved.
BEGINNING: Final = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


class HandClock:
    """Stands still until it is moved; satisfies `ports.Clock`, and its `ticks` satisfy `ports.Ticks`.

    Args:
        now: what it shows at first, an aware time.

    Raises:
        ValueError: that has no time zone.
    """

    def __init__(self, now: datetime = BEGINNING) -> None:
        self._now = _aware(now)
        self._passed = 0.0

    def __call__(self) -> datetime:
        """The present time, in UTC."""
        return self._now

    def ticks(self) -> float:
        """How many seconds it was moved on in all; what was `set` is none of them."""
        return self._passed

    def move(self, time: timedelta = timedelta(seconds=1)) -> datetime:
        """Let time pass; the time that is shown then.

        Raises:
            ValueError: `time` is negative; a clock is put back by `set`.
        """
        if time < timedelta(0):
            raise ValueError("time does not pass backwards; put the clock back by `set`")
        self._now += time
        self._passed += time.total_seconds()
        return self._now

    def set(self, now: datetime) -> None:
        """Show another time, be it an earlier one, as when a clock is put right; none has passed.

        Raises:
            ValueError: `now` has no time zone.
        """
        self._now = _aware(now)


def _aware(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError(f"{now} has no time zone")
    return now.astimezone(UTC)
