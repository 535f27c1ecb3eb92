"""Clocks: what tells the present time, and how much of it has passed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

__all__ = ["Clock", "Ticks", "utc_now"]

#: The present time, which is aware of its zone.
Clock: TypeAlias = Callable[[], datetime]
#: Seconds since some moment; nobody sets them back, as clocks are.
Ticks: TypeAlias = Callable[[], float]


def utc_now() -> datetime:
    """The present time, in UTC."""
    return datetime.now(UTC)
