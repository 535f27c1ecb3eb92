"""Makes the clock of a process wrong by WRONG_BY seconds: Python loads this by its name, where it is found.

All of Watchly asks one function for the time, and a few places the standard library. libfaketime will not do:
what it makes of `clock_nanosleep` keeps Python 3.11 from sleeping.
"""

from __future__ import annotations

import datetime as dt
import os
import time

from watchly_core import clocks

_WRONG_BY = int(os.environ["WRONG_BY"])
_right = time.time


class _Wrong(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]  # a plain one
        return dt.datetime.now(tz) + dt.timedelta(seconds=_WRONG_BY)


def _wrong() -> float:
    return _right() + _WRONG_BY


clocks.datetime = _Wrong  # type: ignore[attr-defined]  # the name by which it asks
time.time = _wrong
