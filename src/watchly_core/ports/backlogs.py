"""The port of what is still to be done."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from watchly_core.backlogs import Backlog


class Backlogs(Protocol):
    """Tells what is still to be done, of what was committed before a call began.

    It costs little however much that is, so that it may be asked every few seconds.
    """

    async def backlog(self, now: datetime) -> Backlog:
        """What is still to be done at that time."""
        ...
