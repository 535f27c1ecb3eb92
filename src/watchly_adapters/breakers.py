"""A circuit breaker: who fails again and again is left alone for a while."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType

from watchly_core.errors import Unavailable, WatchlyError

__all__ = ["Breaker"]


class Breaker:
    """Stops asking a dependency that fails, until a pause is over; then one call tries it out.

    Each call is made inside ``with breaker:``, in any thread and any number at a time. `Unavailable` is a
    failure. A call that ends well, and any other `WatchlyError`, is an answer: who refuses an image or a
    password is there. What ends otherwise, as a cancelled call does, says nothing.

    Args:
        dependency: what is asked, as `Unavailable` names it.
        failures: so many in a row open the breaker.
        pause: seconds for which it then stays open. The call that tries it out opens it as long again, so
            that the others go on failing at once until that one is answered, or for another pause.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        dependency: str,
        failures: int = 5,
        pause: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dependency, self._most, self._pause, self._clock = dependency, failures, pause, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = -math.inf

    def __enter__(self) -> None:
        """Begin a call.

        Raises:
            Unavailable: the breaker is open.
        """
        with self._lock:
            self.require()
            if self._failures >= self._most:
                self._open_until = self._clock() + self._pause

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Learn from its end."""
        with self._lock:
            if isinstance(error, Unavailable):
                self._failures += 1
                if self._failures >= self._most:
                    self._open_until = self._clock() + self._pause
            elif error is None or isinstance(error, WatchlyError):
                self._failures = 0
                self._open_until = -math.inf

    @property
    def interrupted(self) -> bool:
        """Whether calls fail at once at present."""
        return self._left() > 0

    def require(self) -> None:
        """Fail now if a call would; for who has to wait before making one.

        Raises:
            Unavailable: the breaker is open.
        """
        if (left := self._left()) > 0:
            words = "it failed again and again, and is left alone for a while"
            raise Unavailable(self._dependency, words, retry_after=math.ceil(left))

    def _left(self) -> float:
        """Seconds until the next call may pass."""
        return self._open_until - self._clock()
