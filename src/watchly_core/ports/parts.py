"""What any part may offer beside its role."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Closable(Protocol):
    """A part that holds what has to be given back: connections, processes."""

    def close(self) -> None:
        """Give it back, and end whatever waits for it; later calls may fail as `Unavailable`."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A part that is not asked for a while after it failed again and again."""

    @property
    def interrupted(self) -> bool:
        """Whether calls fail at once at present."""
        ...
