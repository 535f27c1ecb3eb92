"""Steps that work takes: each is counted, and traced and timed where that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final

from watchly_adapters.watching import Kind

if TYPE_CHECKING:
    from watchly_adapters.meters import StepMetrics
    from watchly_adapters.tracing import Tracing

#: Seconds that the work of a request has spent on each kind of step, where somebody wants to know.
spent: Final[ContextVar[dict[Kind, float] | None]] = ContextVar("spent", default=None)


class Steps:
    """Satisfies `watching.Watch`.

    Args:
        metrics: count the steps.
        tracing: makes them spans, if there is any.
        slow: seconds from which on a statement is slow; None for never.
        timed: whether what steps take is added up in `spent`.
        tell: is told the name of a slow statement, and its seconds.
    """

    def __init__(
        self,
        metrics: StepMetrics,
        tracing: Tracing | None = None,
        *,
        slow: float | None = None,
        timed: bool = False,
        tell: Callable[[str, float], None] = lambda _name, _seconds: None,
    ) -> None:
        self._add, self._tracing, self._timed = metrics.add, tracing, timed
        self._slow, self._tell = slow, tell

    def step(self, kind: Kind, name: str) -> AbstractContextManager[object]:
        """See the protocol."""
        return _Step(self, kind, name, None if self._tracing is None else self._tracing.step(kind, name))

    def end(self, kind: Kind, name: str, seconds: float, error: type[BaseException] | None) -> None:
        """Note a step that is over."""
        self._add[kind](seconds, name, "ok" if error is None else error.__name__)
        if self._timed and (so_far := spent.get()) is not None:
            so_far[kind] = so_far.get(kind, 0.0) + seconds
        if self._slow is not None and kind == "statement" and seconds >= self._slow:
            self._tell(name, seconds)


class _Step:
    __slots__ = ("_began", "_kind", "_name", "_span", "_steps")

    def __init__(
        self, steps: Steps, kind: Kind, name: str, span: AbstractContextManager[object] | None
    ) -> None:
        self._steps, self._kind, self._name, self._span = steps, kind, name, span
        self._began = 0.0

    def __enter__(self) -> None:
        if self._span is not None:
            self._span.__enter__()
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.end(self._kind, self._name, perf_counter() - self._began, kind)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
