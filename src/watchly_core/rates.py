"""Rates: how often somebody may do something, and how much of that is left."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

__all__ = ["Allowance", "Rate"]


class Rate(NamedTuple):
    """So many times in so long a window, both more than 0."""

    most: int
    window: timedelta

    def allowance(self, made: int, ends_in: float) -> Allowance:
        """What it comes to for the time which is number `made` of its window."""
        ends_in = min(ends_in, self.window.total_seconds())  # what was added up may be a little more
        return Allowance(made <= self.most, max(0, self.most - made), ends_in)


class Allowance(NamedTuple):
    """Whether something may be done, how often it may be after that, and seconds until the window ends.

    `left` is 0 or more; `ends_in` is at most the window.
    """

    granted: bool
    left: int
    ends_in: float
